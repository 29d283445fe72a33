//! Parked runs: requeued once their plugin loads or their endpoint exists.

use async_trait::async_trait;

use super::Error;
use crate::domain::{name::Slug, time::Timestamp};

/// Requeues parked runs.
#[async_trait]
pub trait Parked {
    /// Requeues all runs that were parked because this plugin did not load. Returns their number.
    ///
    /// # Errors
    /// If the commit failed.
    async fn requeue_not_loadable(&self, plugin: &Slug, now: Timestamp) -> Result<usize, Error>;

    /// Requeues one batch of runs that were parked for a missing endpoint that now exists. Returns their number.
    ///
    /// # Errors
    /// If the commit failed.
    async fn requeue_wanting(&self, now: Timestamp) -> Result<usize, Error>;
}
