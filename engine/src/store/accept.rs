//! Commit 1: storing an event.
//!
//! This file also has what both stores compute for an event before they write it: its weight, its minute, and a copy of its data,
//! so that a small event does not hold a large request in memory.

use async_trait::async_trait;

use super::Error;
use crate::domain::{event::NewEvent, id::EventId, time::Timestamp};

/// Accepts events.
#[async_trait]
pub trait Accept {
    /// Stores the events, all or none, and hands them to the workers as far as there is room. They are on disk when this returns
    /// `Ok`.
    ///
    /// An event is a repeat if its (`source`, `id`, `type`) came before. Events of sources share one name space, all other events
    /// share another ([`NewEvent::repeat_key`]). Once an event has been deleted, its type is no longer compared.
    ///
    /// # Errors
    /// [`Error::IdTaken`], storing none of them, if the same (`source`, `id`) was accepted with another `type`, also
    /// inside one batch; [`Error::Overloaded`] beyond the limits of admission.
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

/// Estimated cost of an event beside its data and its texts, in bytes: rows, indexes, memory.
pub const EVENT_WEIGHT: usize = 512;

/// Copies the data out of its request. Otherwise a small part of a large request would keep the whole request in memory while it
/// waits.
pub fn own_data(mut event: NewEvent) -> NewEvent {
    event.content = event.content.detached();
    event
}

/// Returns the number of the minute that contains an instant.
pub fn minute(at: Timestamp) -> i64 {
    at.millis() / 60_000
}
