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

/// Returns a folder for test builds that is kept between runs. Cargo gives its path only to integration tests, as `CARGO_TARGET_TMPDIR`.
fn kept_folder() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    program.ancestors().nth(3).expect("cargo puts a test program into PROFILE/deps").join("tmp")
}
