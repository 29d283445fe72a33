//! How long, and since which lease, the other nodes on the same store take this process for alive.

use std::sync::atomic::{AtomicI64, Ordering};

use super::Lease;
use crate::domain::time::Timestamp;

/// The span in which this process may act on its leases. A process that was stopped for a while finds here that other nodes took over
/// its work, before it repeats any of it. A store that belongs to one process never ends it.
#[derive(Debug)]
pub struct Tenure {
    /// The first lease token that counts.
    from: AtomicI64,
    /// Steady clock, ms.
    until: AtomicI64,
}

impl Default for Tenure {
    fn default() -> Self {
        Self { from: AtomicI64::new(i64::MIN), until: AtomicI64::new(i64::MAX) }
    }
}

impl Tenure {
    /// Begins again: leases with a token below `token` are lost.
    pub fn begin(&self, token: i64) {
        self.from.store(token, Ordering::SeqCst);
    }

    /// Extends the span: the other nodes take this process for alive until then (steady clock), at least.
    pub fn extend(&self, until: Timestamp) {
        self.until.store(until.millis(), Ordering::SeqCst);
    }

    /// Returns whether the holder of `lease` may still act on it.
    pub fn covers(&self, lease: Lease, now: Timestamp) -> bool {
        lease.token >= self.from.load(Ordering::SeqCst) && now.millis() < self.until.load(Ordering::SeqCst)
    }
}
