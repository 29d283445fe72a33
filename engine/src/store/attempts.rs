//! Commit 3: recording an attempt.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Error, Lease};
use crate::domain::{
    delivery::{Attempt, Next},
    event::NewEvent,
    id::{DeliveryId, EndpointId},
    sent::SentAs,
};

/// Records attempts.
#[async_trait]
pub trait Attempts {
    /// Stores attempts and the next states of their deliveries, many at once. Each record gets its own answer.
    ///
    /// # Errors
    /// If the commit failed: no record took effect.
    async fn record_attempts(&self, records: Arc<Vec<AttemptRecord>>) -> Result<Vec<Recorded>, Error>;
}

/// Result of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    Done,
    /// Another worker holds the claim now; nothing changed.
    LeaseLost,
}

/// One attempt and the delivery's next state.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    pub delivery: DeliveryId,
    pub endpoint: EndpointId,
    pub lease: Lease,
    /// Number of the attempt, from 1.
    pub n: u32,
    pub attempt: Attempt,
    /// The parts of the request that came from the endpoint's settings, as they were sent.
    pub sent: SentAs,
    pub next: Next,
    /// Operational events about this attempt, stored with it.
    pub notices: Vec<NewEvent>,
}
