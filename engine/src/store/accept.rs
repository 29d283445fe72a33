//! Commit 1: storing an event.
//!
//! This file also computes what both stores need before they write an event: its weight, its minute, and a copy of its data.
//! Without the copy, a small event would hold a large request in memory.

use async_trait::async_trait;

use super::Error;
use crate::domain::{event::NewEvent, id::EventId, time::Timestamp};

/// Accepts events.
#[async_trait]
pub trait Accept {
    /// Stores all events or none, and hands to the workers those for which there is room. The events are on disk when this
    /// returns `Ok`.
    ///
    /// An event is a repeat if an earlier event has the same (`source`, `id`, `type`). All events of sources share one name
    /// space, all other events share another ([`NewEvent::repeat_key`]). If the earlier event was deleted, only `source` and `id`
    /// are compared.
    ///
    /// # Errors
    /// [`Error::IdTaken`] if an earlier event, also of the same batch, has the same (`source`, `id`) but another `type`;
    /// [`Error::Overloaded`] beyond the limits of admission. In both cases nothing is stored.
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, Error>;
}

/// Result of accepting one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    New(EventId),
    /// An event with the same (`source`, `id`, `type`) was accepted before, under this id; nothing changed.
    Duplicate(EventId),
}

impl Accepted {
    pub const fn id(self) -> EventId {
        match self {
            Self::New(id) | Self::Duplicate(id) => id,
        }
    }
}

/// Estimated bytes that an event costs in addition to its data and texts: rows, indexes, memory.
pub const EVENT_WEIGHT: usize = 512;

/// Copies the data out of its request. Otherwise a small part of a large request would keep the whole request in memory while the
/// event waits.
pub fn own_data(mut event: NewEvent) -> NewEvent {
    event.content = event.content.detached();
    event
}

/// Returns the number of the minute that contains an instant.
pub fn minute(at: Timestamp) -> i64 {
    at.millis() / 60_000
}
