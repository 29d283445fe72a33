//! The plugin host: compiles WebAssembly that nobody trusts, and runs it so that it can hurt only itself.
//!
//! [`Sandbox::load`] turns a file's bytes into a [`Plugin`]: validated whole, made a component, compiled (or taken from a cache),
//! tried once, its manifest read. [`Plugin::run`] gives one event to a fresh instance and reports exactly one outcome, whatever the
//! guest does: an epoch deadline, one limit over all its memories, and caps on everything that comes back. Runs are synchronous
//! calls; which threads make them is the caller's choice. No files and no database: compiled code is kept by a [`CodeCache`],
//! state is read through a [`StateSource`].

mod bindings;
mod diagnose;
mod engine;
mod host;
mod limiter;
mod limits;
mod load;
mod output;
mod run;
mod wasi;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::{
    diagnose::LoadError,
    limits::Limits,
    load::Plugin,
    run::{Report, RunInput, StateSource, StateUnavailable},
};

/// What the host needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For every run, also the one that reads a manifest.
    pub limits: Limits,
    /// Size of a plugin file in bytes.
    pub plugin_bytes_max: usize,
    /// Runs that can be under way at once.
    pub threads: usize,
}

/// Keeps compiled code between starts.
///
/// Whoever implements it promises that [`Self::get`] returns only what [`Self::put`] was given under the same key: compiled code is
/// run as it is.
pub trait CodeCache: Send + Sync {
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    fn put(&self, key: &str, code: &[u8]);
}

/// The engines that compile and run plugins. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox(Arc<engine::Engines>);

impl Sandbox {
    pub fn new(settings: Settings) -> Result<Self, wasmtime::Error> {
        Ok(Self(Arc::new(engine::Engines::new(settings)?)))
    }

    /// Makes a plugin of a file's bytes. Blocks for as long as compiling takes.
    pub fn load(&self, bytes: &[u8], cache: &dyn CodeCache) -> Result<Plugin, LoadError> {
        load::load(&self.0, bytes, cache)
    }

    pub fn plugin_bytes_max(&self) -> usize {
        self.0.settings.plugin_bytes_max
    }
}
