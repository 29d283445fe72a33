//! Commit 2: settling an event or a deferred run.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Error, Settled, Settlement};

/// Settles events and deferred runs.
#[async_trait]
pub trait Settle {
    /// Settles in this order, many at once. Each settlement takes effect as a whole or not at all, and has its own answer.
    ///
    /// # Errors
    /// If the commit failed: no settlement took effect.
    async fn settle(&self, settlements: Arc<Vec<Settlement>>) -> Result<Vec<Settled>, Error>;
}
