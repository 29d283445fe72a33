//! Tenure: the time during which this process may use its leases, because the other nodes consider it alive.

use std::sync::atomic::{AtomicI64, Ordering};

use super::Lease;
use crate::domain::time::Timestamp;

/// The time during which this process may act on its leases. A process that was suspended for a while checks its tenure before it
/// acts, so it does not repeat work that other nodes have taken over. In a store that belongs to one process, the tenure never
/// ends.
#[derive(Debug)]
pub struct Tenure {
    /// The first valid lease token.
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
    /// Begins a new tenure. Leases with a token below `token` are lost.
    pub fn begin(&self, token: i64) {
        self.from.store(token, Ordering::SeqCst);
    }

    /// Extends the tenure. The other nodes consider this process alive at least until `until` (steady clock).
    pub fn extend(&self, until: Timestamp) {
        self.until.store(until.millis(), Ordering::SeqCst);
    }

    /// Returns whether the holder of `lease` may still act on it.
    pub fn covers(&self, lease: Lease, now: Timestamp) -> bool {
        lease.token >= self.from.load(Ordering::SeqCst) && now.millis() < self.until.load(Ordering::SeqCst)
    }
}
