//! Accepts events. This is the first commit of an event (commit 1): it stores the event. If the event was already run, the same
//! commit also settles it (commit 2).
//!
//! This file also computes what both stores need before they write an event: the event's weight, the minute of its acceptance, and
//! a copy of its data. Without the copy, a small event would hold a large request in memory.

use std::sync::Arc;

use async_trait::async_trait;

use super::{EarlyRun, Error, Lease, RunAnswer, Settled, Settlement};
use crate::domain::{
    event::{Event, NewEvent},
    id::EventId,
    time::Timestamp,
};

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

/// Accepts events that were run before they are stored. Then one commit stores an event and its results. A store with one process
/// can do this, because it gives an event its id without a transaction.
#[async_trait]
pub trait Arrivals: Accept {
    /// Gives an event its id, so that it can be run before it is stored. Nothing is stored. Returns `None` if the store cannot give
    /// ids in advance, or if it would refuse the event now.
    fn issue(&self, event: &NewEvent) -> Option<Issued> {
        let _ = event;
        None
    }

    /// Stores all events or none, like [`Accept::accept`], and settles those that have a settlement. If a settlement is refused, its
    /// event is stored like a new event, and is run again. If an event is a repeat, its settlement is dropped.
    ///
    /// # Errors
    /// Like [`Accept::accept`].
    async fn accept_arrivals(&self, arrivals: Vec<Arrival>) -> Result<Vec<Arrived>, Error> {
        let events = arrivals.into_iter().map(Arrival::into_event).collect();
        let accepted = self.accept(events).await?;
        Ok(accepted.into_iter().map(|accepted| Arrived { accepted, settled: None }).collect())
    }

    /// Like [`Self::accept_arrivals`] with one event that was run, but returns at once. `answer` gets the result; it is dropped without
    /// a result if the event will not be stored.
    fn accept_run(&self, run: EarlyRun, answer: RunAnswer) {
        drop((run, answer));
    }
}

/// An event with its id, not yet stored. No other event gets this id, whether this one is stored or not.
pub struct Issued {
    pub event: Arc<Event>,
    /// Its token is the version of the state that the event's runs write.
    pub lease: Lease,
}

/// An event to be stored.
pub enum Arrival {
    New(NewEvent),
    /// An event that was issued and run.
    Settled(Settlement),
}

impl Arrival {
    /// Returns the event to be stored.
    pub fn event(&self) -> &NewEvent {
        match self {
            Self::New(event) => event,
            Self::Settled(settlement) => &settlement.event.new,
        }
    }

    fn into_event(self) -> NewEvent {
        match self {
            Self::New(event) => event,
            Self::Settled(settlement) => Arc::unwrap_or_clone(settlement.event).new,
        }
    }
}

/// Result of storing one arrival.
pub struct Arrived {
    pub accepted: Accepted,
    /// The settlement, if the arrival had one and is no repeat, and whether it took effect.
    pub settled: Option<(Settlement, Settled)>,
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
