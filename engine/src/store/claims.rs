//! Claims. A claim is the right of one worker to finish an event, a run or a delivery, until the lease of the claim ends.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{DeliverySlot, EarlyCaller, Error, EventSlot, RunSlot};
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
    /// Claims events, runs and deliveries that are due and unclaimed, oldest first, and hands them over. Stops when the hand-off
    /// has no room. Returns the number of claims. Unless this number is zero, more rows may be due.
    ///
    /// If first attempts and retries of an endpoint both wait, each kind gets half of the room. An ordered delivery is claimed only
    /// if two conditions hold. All earlier events have been run. Each delivery that has the same ordering key and a smaller id is
    /// either finished or taken by the same claim.
    ///
    /// # Errors
    /// If the commit failed: nothing was claimed.
    async fn claim_due(&self, now: Timestamp) -> Result<usize, Error>;

    /// Releases claims without settling them, so that their rows are due at once. Ignores claims whose lease was lost.
    ///
    /// # Errors
    /// If the commit failed: the rows become due when their leases end.
    async fn release(&self, claims: Vec<(ClaimId, Lease)>) -> Result<(), Error>;

    /// Returns when the next unclaimed row is due. The caller has claimed everything that was due at `claimed_at` and could be
    /// claimed. A row that became due after that instant counts. An ordered row that was already due does not count, because it
    /// waits for another row to finish.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimId {
    Event(EventId),
    Run(RunId),
    Delivery(DeliveryId),
}

/// An event that this worker may run.
pub struct EventClaim {
    pub event: Arc<Event>,
    /// 0 when the event is run for the first time; each replay adds one.
    pub round: u32,
    pub lease: Lease,
    /// Minimum config version. A worker runs the event only when this process has read this version or a later one.
    pub settings: i64,
    /// Place in the hand-off. It is freed when the claim is dropped.
    pub slot: EventSlot,
    /// If the event is not stored yet: the request that it came with. Its results are stored together with it.
    pub caller: Option<EarlyCaller>,
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
    /// Minimum config version. A worker executes the run only when this process has read this version or a later one.
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
