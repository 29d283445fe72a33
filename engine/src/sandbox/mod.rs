//! The sandbox: compiles and runs plugins that nobody here has read.
//!
//! A file becomes a [`Plugin`] by [`Sandbox::load`]: validated whole, turned into a component if it is what cargo writes, compiled
//! (all that in a child process with limits, or taken from the cache), linked, started once and asked for its manifest. A [`Plugin::run`] gives one event to a fresh
//! instance and comes back with a [`Report`], whatever the guest does: each limit ends in a named outcome that a person can read.
//!
//! What must stay true: a guest gets an event, its settings, its own state and a log, and nothing else: no clock, no randomness,
//! no files, no network. Nothing that a guest returns is believed before `output.rs` has looked at it. Nothing that one run left
//! in memory is there for the next.
//!
//! Which versions exist and which one serves is the catalog's business; this module knows no files and no database. It blocks:
//! callers run it on threads of their own, with at least 2 MiB of stack (a guest may use 512 KiB of it).

pub mod advice;
mod bindings;
mod child;
mod diagnose;
mod engine;
mod error;
mod host;
mod limiter;
mod limits;
mod load;
mod log;
mod nesting;
mod output;
mod run;
mod state;
mod wasi;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

pub use child::{COMMAND as CHILD_COMMAND, main as run_child};
pub use engine::{Sandbox, SetupError};
pub use error::LoadError;
pub use limits::{Limits, Settings};
pub use load::{CodeCache, NoCache, Plugin};
pub use run::{Report, RunInput, StateUnavailable};
pub use state::{NoState, StateSource};
