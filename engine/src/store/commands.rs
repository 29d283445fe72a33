//! Commands of operators on deliveries, runs and events: retry, cancel, replay.

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
    /// [`Error::Conflict`], changing nothing, if its endpoint is disabled or deleted, or if it has reached the maximum number of
    /// attempts; [`Error::NotFound`].
    async fn retry_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<(), Error>;

    /// Cancels a waiting delivery, in the store and in memory. A delivery that is being sent may still reach its receiver. It
    /// stays cancelled.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is already finished; [`Error::NotFound`].
    async fn cancel_delivery(&self, id: DeliveryId, at: Timestamp) -> Result<(), Error>;

    /// Makes a run due now. It may be parked, waiting or cancelled. A run that a worker holds is not changed. Neither are the
    /// event's other runs and deliveries.
    ///
    /// # Errors
    /// [`Error::Conflict`], changing nothing, if it ended `ok`, if a replay took its place, or if the endpoint that it belongs to was
    /// deleted; [`Error::NotFound`].
    async fn retry_run(&self, id: RunId, now: Timestamp) -> Result<(), Error>;

    /// Cancels a run that waits or is parked. A run that a worker is executing has no effects any more.
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
}
