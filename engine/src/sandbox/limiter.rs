//! The memory limit of one run: over all memories and tables of the guest together, with the peak that was reached.

use wasmtime::ResourceLimiter;

/// Counts what a guest has, and refuses more than its limit.
#[derive(Debug)]
pub struct MemoryLimit {
    limit: usize,
    used: usize,
    peak: usize,
    /// What was asked for when the limit was passed.
    refused: Option<usize>,
}

/// Bytes that one table element takes in the host.
const ELEMENT_BYTES: usize = 8;

impl MemoryLimit {
    pub const fn new(limit: usize) -> Self {
        Self { limit, used: 0, peak: 0, refused: None }
    }

    pub const fn peak(&self) -> usize {
        self.peak
    }

    /// What the guest would have had, had it been let.
    pub const fn refused(&self) -> Option<usize> {
        self.refused
    }

    fn grow(&mut self, more: usize) -> wasmtime::Result<bool> {
        let wanted = self.used.saturating_add(more);
        if wanted > self.limit {
            self.refused = Some(wanted);
            // A trap, not a polite `false`: the run ends here with its reason, instead of somewhere in the guest's allocator.
            return Err(wasmtime::Error::msg("memory limit"));
        }
        self.used = wanted;
        self.peak = self.peak.max(wanted);
        Ok(true)
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current).saturating_mul(ELEMENT_BYTES))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }
}
