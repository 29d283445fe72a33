//! Shared parts of several test programs: the process under test, receivers on loopback, plugins built from source, and a
//! Postgres server.
//!
//! This crate does not use the engine's code. A test program that needs the engine's API has its own wrapper around
//! [`process::Server`].

pub mod browser;
pub mod crates;
pub mod guests;
pub mod postgres;
pub mod process;
pub mod receivers;

use std::path::{Path, PathBuf};

/// Returns the root of the workspace.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Returns a folder for test builds that is kept between runs. Integration tests get the path of this folder from cargo as
/// `CARGO_TARGET_TMPDIR`, but other code does not.
fn kept_folder() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    program.ancestors().nth(3).expect("cargo puts a test program into PROFILE/deps").join("tmp")
}
