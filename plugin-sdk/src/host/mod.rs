//! The boundary to the engine: the engine's functions as imports in WebAssembly, and a replacement for native builds.
//!
//! Imports and replacement have the same functions, so no other module depends on where it runs.

#[cfg(target_arch = "wasm32")]
mod imports;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod stand_in;

#[cfg(target_arch = "wasm32")]
pub(crate) use imports::{config_get, log_write, log_write_with, state_delete, state_get, state_set, state_set_for};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use stand_in::{config_get, log_write, log_write_with, state_delete, state_get, state_set, state_set_for};
