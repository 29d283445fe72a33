//! The sandbox: compiles and runs plugins that are not trusted.
//!
//! [`Sandbox::load`] turns a file into a [`Plugin`]: a child process with limits validates the file, turns a core module into a
//! component and compiles it, unless the cache has the code. Then the engine links the component, starts it once and reads its
//! manifest. [`Plugin::run`] passes one event to a fresh instance and always returns a [`Report`]: a guest that exceeds a limit
//! ends with a named outcome and a message.
//!
//! What must stay true: a guest gets an event, its settings, its state and a log, and nothing else: no clock, no randomness, no
//! files, no network. No result of a guest is used before `output.rs` has checked it. A run leaves nothing in memory for the
//! next.
//!
//! The catalog decides which versions exist and which one serves; this module knows no files and no database. Its functions
//! block: callers use dedicated threads with at least 2 MiB of stack (a guest may use 512 KiB of it).

pub mod advice;
mod backtrace;
mod bindings;
mod child;
mod diagnose;
mod engine;
mod error;
mod host;
mod limiter;
mod limits;
mod lines;
mod load;
mod log;
mod memory;
mod nesting;
mod output;
mod run;
mod state;
mod wasi;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

pub use backtrace::ReadLines;
pub use child::{COMMAND as CHILD_COMMAND, main as run_child};
pub use engine::{Sandbox, SetupError};
pub use error::LoadError;
pub use limits::{Limits, Settings, Timed};
pub use load::{CodeCache, NoCache, Plugin, check_built};
pub use run::{Report, RunInput, StateUnavailable};
pub use state::{NoState, StateSource};
