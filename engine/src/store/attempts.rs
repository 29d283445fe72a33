//! Records attempts to send deliveries. This is the third commit of an event (commit 3).

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
    /// Stores many attempts and the next states of their deliveries in one commit. Returns one answer for each record.
    ///
    /// # Errors
    /// If the commit failed: no record took effect.
    async fn record_attempts(&self, records: Arc<Vec<AttemptRecord>>) -> Result<Vec<Recorded>, Error>;
}

/// Result of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    Done,
    /// The claim is lost: its lease has ended, another worker holds it, or the delivery was cancelled. Nothing changed.
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
