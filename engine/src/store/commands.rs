//! Commands of operators on deliveries, runs and events: retry, cancel, replay.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::Error;
use crate::domain::{
    id::{DeliveryId, EventId, RunId},
    time::Timestamp,
};

/// Commands on one delivery, run or event.
#[async_trait]
pub trait Commands {
    /// Makes a delivery due now, under the same id. The delivery may be waiting, dead, cancelled or delivered. A delivery that is
    /// being sent is not changed.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the delivery's endpoint is disabled or deleted, or if the delivery has reached the maximum number of
    /// attempts; [`Error::NotFound`]. In all cases nothing is changed.
    async fn retry_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<(), Error>;

    /// Cancels a waiting delivery, in the store and in memory. A delivery that is being sent may still reach its receiver, but
    /// stays cancelled.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is already finished; [`Error::NotFound`].
    async fn cancel_delivery(&self, id: DeliveryId, at: Timestamp) -> Result<(), Error>;

    /// Makes a run due now. The run may be parked, waiting or cancelled. A run that a worker holds is not changed. The other runs
    /// and the deliveries of the event are never changed.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the run ended `ok`, if a replay took its place, or if the endpoint that the run belongs to was
    /// deleted; [`Error::NotFound`]. In all cases nothing is changed.
    async fn retry_run(&self, id: RunId, now: Timestamp) -> Result<(), Error>;

    /// Cancels a run that waits or is parked. If a worker is executing the run, its results are discarded.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it ended `ok` or is already cancelled; [`Error::NotFound`].
    async fn cancel_run(&self, id: RunId) -> Result<(), Error>;

    /// Runs an event again with the current plugins and subscriptions. Returns the new round. Runs of earlier rounds that wait or are
    /// parked are cancelled.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the event still waits to be run; [`Error::NotFound`].
    async fn replay_event(&self, id: EventId, now: Timestamp) -> Result<u32, Error>;

    /// Cancels everything that these events would still cause: their runs that wait or are parked, their waiting deliveries, the
    /// events that they scheduled, and the events themselves if they wait to be run. The results of a run that a worker is
    /// executing are discarded. Missing events are skipped. Returns what was cancelled, and the events that these events have
    /// emitted. The emitted events are not changed.
    ///
    /// # Errors
    /// If the commit failed: nothing changed.
    async fn cancel_events(&self, ids: Vec<EventId>, at: Timestamp) -> Result<(Cancelled, Vec<EventId>), Error>;

    /// Cancels everything that an event, and the events that follow from it, would still cause: see [`Self::cancel_events`]. An
    /// event is cancelled before the events that it emitted, so it emits no further events meanwhile. Stops after [`CANCEL_MAX`]
    /// events.
    ///
    /// # Errors
    /// [`Error::NotFound`]. After any other error, a part may already be cancelled; a repeated call cancels the rest.
    async fn cancel_event(&self, id: EventId, at: Timestamp) -> Result<Cancelled, Error> {
        let mut sum = Cancelled::default();
        let mut waiting = VecDeque::from([id]);
        while !waiting.is_empty() {
            if sum.events >= CANCEL_MAX {
                sum.more = true;
                break;
            }
            let few = waiting.drain(..waiting.len().min(CANCEL_BATCH)).collect();
            let (cancelled, caused) = self.cancel_events(few, at).await?;
            sum.add(cancelled);
            waiting.extend(caused);
        }
        match sum.events {
            0 => Err(Error::NotFound { what: "event" }),
            _ => Ok(sum),
        }
    }
}

/// Number of events of a chain after which a cancellation stops.
pub const CANCEL_MAX: u64 = 10_000;
/// Number of events that one transaction cancels.
const CANCEL_BATCH: usize = 100;

/// What a cancellation changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cancelled {
    /// Number of events of the chain that were checked.
    pub events: u64,
    /// Number of events that waited to be run.
    pub waiting: u64,
    pub runs: u64,
    pub deliveries: u64,
    /// Number of scheduled events.
    pub scheduled: u64,
    /// Whether the chain has more events, which were not changed.
    pub more: bool,
}

impl Cancelled {
    const fn add(&mut self, other: Self) {
        self.events += other.events;
        self.waiting += other.waiting;
        self.runs += other.runs;
        self.deliveries += other.deliveries;
        self.scheduled += other.scheduled;
    }
}
