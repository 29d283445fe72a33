//! The seam to the engine: its imports inside WebAssembly, a stand-in for them everywhere else.
//!
//! Both sides have the same five functions, so nothing above this module knows where it runs.

#[cfg(target_arch = "wasm32")]
mod imports;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod stand_in;

#[cfg(target_arch = "wasm32")]
pub(crate) use imports::{config_get, log_write, state_delete, state_get, state_set};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use stand_in::{config_get, log_write, state_delete, state_get, state_set};
