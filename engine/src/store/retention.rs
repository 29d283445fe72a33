//! Retention: deletes finished events after their time, and evicts the oldest events when the store is full. Both stores do this
//! in the same four walks over their events ([`Walks`]), oldest first.

use async_trait::async_trait;

use super::Error;
use crate::domain::{retention::Retention, time::Timestamp};

/// Deletes events whose retention time is over, and evicts events from a full store.
#[async_trait]
pub trait Retire {
    /// Deletes one batch of finished events that are older than their limit, each with its runs, deliveries and attempts. Also
    /// deletes old audit entries, jobs and deleted endpoints. Returns the number of checked rows; 0 means that no row is old
    /// enough.
    ///
    /// # Errors
    /// If the commit failed: nothing was deleted.
    async fn retire(&self, retention: Retention, now: Timestamp) -> Result<usize, Error>;

    /// Deletes the oldest finished events, regardless of their age. One call deletes at most one batch, and stops early once the
    /// store holds less than `bytes_max`. If a call has checked no event and the store still holds more than `bytes_max`, no
    /// further event can be deleted.
    ///
    /// # Errors
    /// If the commit failed: nothing was deleted.
    async fn evict(&self, bytes_max: u64) -> Result<Evicted, Error>;

    /// Returns the number of bytes that count against the size limit of the store. Free space inside the file does not count.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn size(&self) -> Result<u64, Error>;
}

/// Result of one step of [`Retire::evict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted {
    pub looked_at: usize,
    /// Number of deleted events.
    pub events: usize,
}

/// Positions of the four walks. A new process starts them again.
#[derive(Clone, Copy, Default)]
pub struct Walks {
    pub delivered: Walk,
    pub unrouted: Walk,
    pub rest: Walk,
    pub eviction: Walk,
}

/// Position of one walk.
#[derive(Clone, Copy, Default)]
pub struct Walk {
    /// The last event that was checked.
    pub cursor: i64,
    /// Whether the walk has reached its end.
    pub ended: bool,
}
