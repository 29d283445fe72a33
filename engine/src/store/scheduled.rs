//! Scheduled events, which take place later. A settlement (commit 2) stores them together with the run that requested them. When a
//! scheduled event is due, a step turns it into an event that waits to be run, so the plugins and endpoints of that time receive
//! it. This event gets a new id, so lists, retention and readers that follow runs treat it as newer than all earlier events.
//!
//! Due times are on the wall clock, because users plan with it, and because it does not stop with the engine.

use async_trait::async_trait;

use super::Error;
use crate::domain::{event::NewEvent, id::ScheduledId, time::Timestamp};

/// Accepts scheduled events when they are due.
#[async_trait]
pub trait Schedule {
    /// Returns when the next scheduled event is due (wall clock); `None` if none waits.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn next_scheduled(&self) -> Result<Option<Timestamp>, Error>;

    /// Accepts one batch of the scheduled events that are due at `at` (wall clock), in the order of their due times. All of them
    /// become events, and are no longer scheduled, in one transaction. Returns the number of events; 0 means that none was due.
    ///
    /// # Errors
    /// If the commit failed: nothing changed.
    async fn accept_scheduled(&self, at: Timestamp) -> Result<usize, Error>;
}

/// A scheduled event as an event's history shows it.
#[derive(Clone, Debug)]
pub struct ScheduledEvent {
    pub id: ScheduledId,
    /// When the event takes place (wall clock).
    pub due_at: Timestamp,
    /// When the event was cancelled; `None` if it waits.
    pub cancelled_at: Option<Timestamp>,
    /// The event, without its data.
    pub event: NewEvent,
}
