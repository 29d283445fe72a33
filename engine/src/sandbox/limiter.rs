//! Counts memory over all linear memories and tables of a run. Beyond the limit the guest is stopped with a named outcome.

use wasmtime::ResourceLimiter;

use super::limits::size;

/// The guest requested more memory than its limit.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum OutOfMemory {
    #[error("requested {} of memory; its limit is {}", size(*asked), size(*limit))]
    Limit { asked: usize, limit: usize },
    #[error("requested memory that the machine does not have")]
    Machine,
}

/// Adds up all memories. wasmtime asks for each memory separately.
pub struct Limiter {
    limit: usize,
    used: usize,
    peak: usize,
    /// The size of the last growth that was allowed. It is subtracted again if the growth then fails.
    last: Option<usize>,
    /// Limits of core instances, memories and tables of one component, when no pool limits them.
    counts: Counts,
}

/// Limits of the parts of one component. Without them one component could occupy the whole pool.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub instances: u32,
    pub memories: u32,
    pub tables: u32,
}

impl Limiter {
    pub fn new(limit: usize, counts: Counts) -> Self {
        Self { limit, used: 0, peak: 0, last: None, counts }
    }

    /// Returns the peak usage, in bytes.
    pub fn peak(&self) -> u64 {
        self.peak as u64
    }

    fn grow(&mut self, added: usize, within_maximum: bool) -> wasmtime::Result<bool> {
        let asked = self.used.saturating_add(added);
        if asked > self.limit {
            return Err(wasmtime::Error::new(OutOfMemory::Limit { asked, limit: self.limit }));
        }
        if !within_maximum {
            // The growth would exceed the limit that the guest declares, so it fails, as WebAssembly specifies, and the guest may
            // continue.
            return Ok(false);
        }
        self.used = asked;
        self.peak = self.peak.max(asked);
        self.last = Some(added);
        Ok(true)
    }

    fn undo(&mut self) -> wasmtime::Result<()> {
        match self.last.take() {
            Some(added) => {
                self.used -= added;
                Err(wasmtime::Error::new(OutOfMemory::Machine))
            }
            None => Ok(()),
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current), maximum.is_none_or(|maximum| desired <= maximum))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo()
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // An element of a table is a pointer.
        let added = desired.saturating_sub(current).saturating_mul(size_of::<usize>());
        self.grow(added, maximum.is_none_or(|maximum| desired <= maximum))
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo()
    }

    fn instances(&self) -> usize {
        self.counts.instances as usize
    }

    fn tables(&self) -> usize {
        self.counts.tables as usize
    }

    fn memories(&self) -> usize {
        self.counts.memories as usize
    }
}
