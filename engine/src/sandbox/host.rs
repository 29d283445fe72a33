//! The functions that a guest can call: log, settings, state. Only a read of state can wait.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    bindings::innesco::plugin::{config, log, state, types},
    limiter::Limiter,
    log::SharedLog,
    state::State,
    wasi::Wasi,
};
use crate::domain::run::LogLevel;

/// The data of one run in its wasmtime store.
pub struct Host {
    pub limiter: Limiter,
    pub log: SharedLog,
    pub config: Arc<BTreeMap<String, String>>,
    pub state: State,
    /// Only for components that import WASI.
    pub wasi: Option<Box<Wasi>>,
}

impl types::Host for Host {}

impl log::Host for Host {
    fn write(&mut self, level: String, message: String) -> wasmtime::Result<()> {
        self.log.write(LogLevel::parse(&level), &message);
        Ok(())
    }

    fn write_with(&mut self, level: String, message: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        self.log.write_with(LogLevel::parse(&level), &message, fields);
        Ok(())
    }
}

impl config::Host for Host {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        Ok(self.config.get(&key).cloned())
    }
}

impl state::Host for Host {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        self.state.get(&key).map_err(wasmtime::Error::new)
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<()> {
        self.state.set(key, Some(value)).map_err(wasmtime::Error::new)
    }

    fn set_for(&mut self, key: String, value: Vec<u8>, milliseconds: u64) -> wasmtime::Result<()> {
        self.state.set_for(key, value, Duration::from_millis(milliseconds)).map_err(wasmtime::Error::new)
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<()> {
        self.state.set(key, None).map_err(wasmtime::Error::new)
    }
}
