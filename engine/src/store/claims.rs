//! Claims: the right of one worker to finish an event, a run or a delivery until its lease ends.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{DeliverySlot, Error, EventSlot, RunSlot};
use crate::domain::{
    delivery::Payload,
    event::Event,
    id::{DeliveryId, EndpointId, EventId, RunId},
    name::Slug,
    time::Timestamp,
};

/// Claims due rows that no worker holds.
#[async_trait]
pub trait Claims {
    /// Claims events, runs and deliveries that are due and unclaimed, oldest first, as long as the hand-off has room, and hands
    /// them over. Returns the number of claims. Unless it is zero, more rows may be due.
    ///
    /// If first attempts and retries of an endpoint both wait, each kind gets half of the room. An ordered delivery is claimed
    /// only after all earlier events have been run and all deliveries with the same order and a smaller id are finished or in the
    /// same claim.
    ///
    /// # Errors
    /// If the commit failed: nothing was claimed.
    async fn claim_due(&self, now: Timestamp) -> Result<usize, Error>;

    /// Releases claims without settling them: their rows are due at once. Ignores a lease that was lost.
    ///
    /// # Errors
    /// If the commit failed: the claims become due when their leases end.
    async fn release(&self, claims: Vec<(ClaimId, Lease)>) -> Result<(), Error>;

    /// Returns when the next unclaimed row is due, for a caller that claimed everything due at `claimed_at`. Rows that became due
    /// since then count. Rows that were already due at that time do not count: they wait for another row to finish.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn next_due(&self, claimed_at: Timestamp) -> Result<Option<Timestamp>, Error>;
}

/// How long a claim is valid. This is longer than any run or attempt may take, including the wait for a permit.
pub const LEASE: Duration = Duration::from_secs(300);

/// The right of one worker to settle a row, until an instant on the steady clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub token: i64,
    pub until: Timestamp,
}

/// The row that a claim holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimId {
    Event(EventId),
    Run(RunId),
    Delivery(DeliveryId),
}

/// An event that this worker may run.
pub struct EventClaim {
    pub event: Arc<Event>,
    /// 0 the first time; each replay adds one.
    pub round: u32,
    pub lease: Lease,
    /// Minimum config version: a worker must know this version before it runs the event.
    pub settings: i64,
    /// Place in the hand-off. It is freed when the claim is dropped.
    pub slot: EventSlot,
}

/// A deferred or retried run that this worker may run.
pub struct RunClaim {
    pub id: RunId,
    pub event: Arc<Event>,
    pub round: u32,
    pub plugin: Slug,
    /// The endpoint of the run, if the plugin runs for one endpoint.
    pub endpoint: Option<EndpointId>,
    /// Tries so far.
    pub tries: u32,
    pub lease: Lease,
    /// Minimum config version: a worker must know this version before it executes the run.
    pub settings: i64,
    pub slot: RunSlot,
}

/// A delivery that this worker may attempt.
pub struct DeliveryClaim {
    pub id: DeliveryId,
    pub endpoint: EndpointId,
    pub event: Arc<Event>,
    /// The webhook's content if a plugin made it. If `None`, the event's data is sent in the endpoint's envelope.
    pub payload: Option<Arc<Payload>>,
    /// Attempts so far.
    pub attempts: u32,
    pub lease: Lease,
    pub slot: DeliverySlot,
}
