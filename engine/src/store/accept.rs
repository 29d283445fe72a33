//! Accepts events. This is the first commit of an event (commit 1): it stores the event.
//!
//! This file also computes what both stores need before they write an event: the event's weight, the minute of its acceptance, and
//! a copy of its data. Without the copy, a small event would hold a large request in memory.

use async_trait::async_trait;

use super::Error;
use crate::domain::{event::NewEvent, id::EventId, time::Timestamp};

/// Accepts events.
#[async_trait]
pub trait Accept {
    /// Stores all events or none. Hands events to the workers as long as the hand-off has room for them. The events are on disk
    /// when this returns `Ok`.
    ///
    /// An event is a repeat if an earlier event has the same (`source`, `id`, `type`). The ids of events that come in through
    /// sources form one name space; the ids of all other events form another ([`NewEvent::repeat_key`]). If the earlier event was
    /// deleted, only `source` and `id` are compared.
    ///
    /// # Errors
    /// [`Error::IdTaken`] if an earlier event has the same (`source`, `id`) but another `type`, even if both events are in this
    /// batch; [`Error::Overloaded`] if a limit of admission is exceeded. In both cases nothing is stored.
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, Error>;
}

/// Result of accepting one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    New(EventId),
    /// An earlier event has the same (`source`, `id`, `type`). This variant holds the earlier event's [`EventId`]. Nothing changed.
    Duplicate(EventId),
}

impl Accepted {
    pub const fn id(self) -> EventId {
        match self {
            Self::New(id) | Self::Duplicate(id) => id,
        }
    }
}

/// Estimated number of bytes that the rows, the index entries and the memory of an event take in addition to its data and texts.
pub const EVENT_WEIGHT: usize = 512;

/// Copies the event's data out of the request that carried it. Otherwise a small part of a large request would keep the whole
/// request in memory while the event waits.
pub fn own_data(mut event: NewEvent) -> NewEvent {
    event.content = event.content.detached();
    event
}

/// Returns the number of the minute that contains an instant.
pub fn minute(at: Timestamp) -> i64 {
    at.millis() / 60_000
}
