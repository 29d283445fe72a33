//! What both stores make of an event as it comes in: what it weighs, which minute it belongs to, and that it holds on to nothing but
//! itself.

use crate::domain::{event::NewEvent, time::Timestamp};

/// Rough cost of an event beside its data and its texts, in bytes: rows, indexes, memory.
pub const EVENT_WEIGHT: usize = 512;

/// What an event takes in memory, in bytes.
pub use super::weight::event as weight;

/// Data that is a small part of a large request must not keep all of that request in memory while it waits.
pub fn own_data(mut event: NewEvent) -> NewEvent {
    event.content = event.content.detached();
    event
}

/// Which minute an instant lies in.
pub fn minute(at: Timestamp) -> i64 {
    at.millis() / 60_000
}
