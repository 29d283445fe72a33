//! Health of the store: whether writes succeed, and how much work waits at each stage.

use async_trait::async_trait;

use super::Error;
use crate::metrics::{QueueReading, StageReading};

/// Reports the store's health.
#[async_trait]
pub trait Health {
    /// Returns the amount of waiting work at each stage, and the size of each file. This may count a million rows, so it should
    /// be called at most every few seconds.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn load(&self) -> Result<Load, Error>;

    /// Writes a small row. Returns `Ok` if that succeeded and no other write has failed recently.
    ///
    /// # Errors
    /// The error of the last failed commit, or of this write.
    async fn probe(&self) -> Result<(), Error>;
}

/// Amounts of waiting work and sizes.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Stages in the order in which an event passes them.
    pub stages: Vec<StageReading>,
    pub queues: Vec<QueueReading>,
    /// Bytes that wait to be written.
    pub queued_bytes: u64,
    pub file_bytes: Vec<(&'static str, u64)>,
    /// Size of the disk that holds the store; 0 if the store is on another machine.
    pub disk_bytes: u64,
    pub disk_free_bytes: u64,
}
