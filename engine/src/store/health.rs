//! Health of the store: whether it takes writes, and how much waits where.

use async_trait::async_trait;

use super::Error;
use crate::metrics::{Lane, Stage};

/// Reports the store's health.
#[async_trait]
pub trait Health {
    /// Returns how much waits where, and how large everything is. It may count a million rows: call it every few seconds at most.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn load(&self) -> Result<Load, Error>;

    /// Writes something small. `Ok` means that it worked, and that no other write has failed a moment ago.
    ///
    /// # Errors
    /// The error of the last failed commit, or of this write.
    async fn probe(&self) -> Result<(), Error>;
}

/// How much waits where.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// In the order in which an event passes them.
    pub stages: Vec<Stage>,
    pub lanes: Vec<Lane>,
    /// Bytes that wait to be written.
    pub queued_bytes: u64,
    pub file_bytes: Vec<(&'static str, u64)>,
    /// The disk that holds the store; 0 if it is another machine's.
    pub disk_bytes: u64,
    pub disk_free_bytes: u64,
}
