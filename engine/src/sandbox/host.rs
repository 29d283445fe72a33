//! What a guest can call: log, config, state. And everything that one run keeps on the host's side.

use std::{collections::BTreeMap, sync::Arc};

use wasmtime_wasi::{WasiCtxView, WasiView};

use super::{
    bindings::innesco::plugin::{config, log, state, types},
    limiter::MemoryLimit,
    limits::Limits,
    run::StateSource,
    wasi::Wasi,
};
use crate::domain::run::{LogLevel, LogLine, RunLog, StateRead, StateUse, StateWrite};

/// Bytes of one log line that are kept.
const LOG_LINE_BYTES: usize = 4 << 10;

/// One run, as the host sees it.
pub struct Guest {
    pub memory: MemoryLimit,
    pub log: RunLog,
    log_bytes: usize,
    pub limits: Limits,
    config: Arc<BTreeMap<String, String>>,
    state: Box<dyn StateSource>,
    /// Key → what the guest sees there: what was read, overlaid by what it wrote.
    seen: BTreeMap<String, Option<Vec<u8>>>,
    pub state_use: StateUse,
    /// Why the guest was stopped, where the trap itself does not say.
    pub stopped: Option<Stopped>,
    pub wasi: Option<Wasi>,
}

/// A guest that went too far in a call to the host.
#[derive(Debug)]
pub enum Stopped {
    /// It broke a limit of the state: a sentence about it.
    State(String),
    /// The engine could not read state: not the guest's fault.
    Unavailable(anyhow::Error),
}

impl Guest {
    pub fn new(limits: Limits, config: Arc<BTreeMap<String, String>>, state: Box<dyn StateSource>, wasi: Option<Wasi>) -> Self {
        Self {
            memory: MemoryLimit::new(limits.memory_bytes),
            log: RunLog::default(),
            log_bytes: 0,
            limits,
            config,
            state,
            seen: BTreeMap::new(),
            state_use: StateUse::default(),
            stopped: None,
            wasi,
        }
    }

    /// Keeps a line as far as there is room. A flood is counted, not kept, and does not end the run.
    pub fn push_log(&mut self, level: LogLevel, message: &str) {
        let room = self.limits.log_bytes.saturating_sub(self.log_bytes).min(LOG_LINE_BYTES);
        if self.log.lines.len() >= self.limits.log_lines || room == 0 {
            self.log.dropped += 1;
            return;
        }
        let mut message =
            message.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c }).collect::<String>();
        if message.len() > room {
            let end = (0..=room).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        self.log_bytes += message.len();
        self.log.lines.push(LogLine { level, message });
    }

    fn stop<T>(&mut self, stopped: Stopped) -> wasmtime::Result<T> {
        self.stopped = Some(stopped);
        Err(wasmtime::Error::msg("stopped by the host"))
    }

    /// Admits a key: short enough, and not one too many.
    fn check_key(&mut self, key: &str) -> wasmtime::Result<()> {
        let limits = &self.limits;
        if key.len() > limits.state_key_bytes {
            let text = format!("a state key has {} bytes, more than the limit of {}", key.len(), limits.state_key_bytes);
            return self.stop(Stopped::State(text));
        }
        if !self.seen.contains_key(key) && self.seen.len() >= limits.state_keys {
            let text = format!("it touches more than {} state keys, which is the limit of one run", limits.state_keys);
            return self.stop(Stopped::State(text));
        }
        Ok(())
    }

    fn write(&mut self, key: String, value: Option<Vec<u8>>) {
        self.seen.insert(key.clone(), value.clone());
        let writes = &mut self.state_use.writes;
        match writes.iter_mut().find(|write| write.key == key) {
            Some(write) => write.value = value,
            None => writes.push(StateWrite { key, value }),
        }
    }
}

impl types::Host for Guest {}

impl log::Host for Guest {
    fn write(&mut self, level: String, message: String) -> wasmtime::Result<()> {
        self.push_log(LogLevel::parse(&level), &message);
        Ok(())
    }
}

impl config::Host for Guest {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        Ok(self.config.get(&key).cloned())
    }
}

impl state::Host for Guest {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        self.check_key(&key)?;
        if let Some(seen) = self.seen.get(&key) {
            return Ok(seen.clone());
        }
        let read = match self.state.get(&key) {
            Ok(read) => read,
            Err(error) => return self.stop(Stopped::Unavailable(error)),
        };
        let version = read.as_ref().map_or(0, |(_, version)| *version);
        let value = read.map(|(value, _)| value);
        self.state_use.reads.push(StateRead { key: key.clone(), version });
        self.seen.insert(key, value.clone());
        Ok(value)
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<()> {
        self.check_key(&key)?;
        if value.len() > self.limits.state_value_bytes {
            let text = format!(
                "the value of state key {key:?} has {} bytes, more than the limit of {}",
                value.len(),
                self.limits.state_value_bytes
            );
            return self.stop(Stopped::State(text));
        }
        self.write(key, Some(value));
        Ok(())
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<()> {
        self.check_key(&key)?;
        self.write(key, None);
        Ok(())
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.as_mut().expect("only plugins that import WASI are linked with it, and those have one").view()
    }
}
