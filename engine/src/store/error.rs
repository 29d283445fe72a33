//! What can go wrong with a store, in the terms in which callers act.

use std::time::Duration;

use super::{Overload, SealError};
use crate::{
    domain::{event::NewEvent, id::EventId},
    random::NoRandomness,
};

/// A refusal or failure of a store. Nothing of the refused step has taken effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The disk is full. Goes away by itself once there is space.
    #[error("the disk that holds the data folder is full; nothing was stored. Free space, the engine goes on by itself")]
    Full,
    /// The disk or the database does not answer as it should. Worth trying again.
    #[error("the store cannot be used at the moment: {0}")]
    Unavailable(String),
    /// What was asked for would take too long to find.
    #[error("the store had not found it after {} s; ask for less: a narrower filter (since, until, type, endpoint) or a smaller limit", .0.as_secs())]
    TooSlow(Duration),
    /// More waits than a limit allows. Worth trying again soon.
    #[error("{0}; nothing was stored. Try again in a second")]
    Overloaded(Overload),
    /// A row cannot become a value: the data was changed by something else, or by a newer engine.
    #[error("table {table}, column {column}, row {id}: the stored value cannot be read; restore a backup, or report this")]
    Corrupt { table: &'static str, column: &'static str, id: i64 },
    /// Secrets that cannot be sealed or opened.
    #[error("{0}")]
    Sealed(String),
    #[error("there is no such {what}")]
    NotFound { what: &'static str },
    /// A name that must be unique is taken.
    #[error("{what} {name:?} exists already")]
    Taken { what: &'static str, name: String },
    /// An event has the sender's id of an earlier one, and another type: one of the two ids is wrong.
    #[error("{0}")]
    IdTaken(Box<IdTaken>),
    /// The thing is in a state in which this cannot be done.
    #[error("{0}")]
    Conflict(String),
    /// A mistake of ours in a statement or a type.
    #[error("internal error of the store: {0}")]
    Internal(String),
}

/// An event that has the sender's id of an earlier one and another type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the id {id:?} of source {source_name:?} belongs to an event of type {earlier_type}, so one of type {event_type} cannot have it"
)]
pub struct IdTaken {
    /// Which event of its batch it is.
    pub place: usize,
    pub source_name: String,
    pub id: String,
    pub event_type: String,
    /// The event that has the id; `None` if that is one of the same batch.
    pub earlier: Option<EventId>,
    pub earlier_type: String,
}

impl IdTaken {
    pub fn new(place: usize, event: &NewEvent, earlier: Option<EventId>, earlier_type: &str) -> Self {
        Self {
            place,
            source_name: event.source.to_string(),
            id: event.id.as_deref().unwrap_or_default().to_owned(),
            event_type: event.event_type.to_string(),
            earlier,
            earlier_type: earlier_type.to_owned(),
        }
    }
}

impl From<IdTaken> for Error {
    fn from(taken: IdTaken) -> Self {
        Self::IdTaken(Box::new(taken))
    }
}

impl From<NoRandomness> for Error {
    fn from(error: NoRandomness) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<SealError> for Error {
    fn from(error: SealError) -> Self {
        Self::Sealed(error.to_string())
    }
}

impl Error {
    /// Whether the step was refused by a rule before it changed anything, rather than broken off in its middle.
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Taken { .. } | Self::IdTaken(_) | Self::Conflict(_) | Self::Overloaded(_))
    }

    /// Whether the same step can succeed later without anyone changing it.
    pub const fn passes(&self) -> bool {
        matches!(self, Self::Full | Self::Unavailable(_) | Self::Overloaded(_))
    }
}
