//! Retention: deleting finished events after their time, and evicting the oldest when the store is full. Both stores walk over their events in
//! the same four ways, oldest first.

use async_trait::async_trait;

use super::Error;
use crate::domain::{retention::Retention, time::Timestamp};

/// Deletes what need not be stored any more.
#[async_trait]
pub trait Retire {
    /// Deletes one batch of finished events that are older than their time, each with its whole story, and of old audit entries, jobs and
    /// deleted endpoints. Returns how many rows were looked at; 0 means that nothing is old enough.
    ///
    /// # Errors
    /// If the commit failed: nothing was deleted.
    async fn retire(&self, retention: Retention, now: Timestamp) -> Result<usize, Error>;

    /// Deletes one batch of the oldest finished events, of any age, until the store holds less than `bytes_max`. If it looked at
    /// no event and the store still holds more, it has looked at all of them.
    ///
    /// # Errors
    /// If the commit failed: nothing was deleted.
    async fn evict(&self, bytes_max: u64) -> Result<Evicted, Error>;

    /// Returns what the store holds on its disk, in bytes, without space that is free for later rows.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn size(&self) -> Result<u64, Error>;
}

/// Result of one step of [`Retire::evict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted {
    pub looked_at: usize,
    /// Events that were deleted.
    pub events: usize,
}

/// Positions of the four walks. They start again with the process.
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
    /// The last event that was looked at.
    pub cursor: i64,
    /// Whether it found nothing more to look at.
    pub ended: bool,
}
