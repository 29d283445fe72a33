//! Errors of a store, divided by what a caller can do about them.

use std::time::Duration;

use super::{Overload, SealError};
use crate::{
    domain::{event::NewEvent, id::EventId},
    random::NoRandomness,
};

/// A refusal or failure of a store. Nothing of the refused step has taken effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The disk is full. Writes succeed again once the disk has space.
    #[error("the disk that holds the data folder is full; nothing was stored. Free space; the engine then resumes automatically")]
    Full,
    /// The disk or the database fails. A later try may succeed.
    #[error("the store cannot be used at the moment: {0}")]
    Unavailable(String),
    /// A read would take too long.
    #[error("the query took longer than {} s; use a narrower filter (since, until, type, endpoint) or a smaller limit", .0.as_secs())]
    TooSlow(Duration),
    /// A limit of waiting work is exceeded. A later try may succeed.
    #[error("{0}; nothing was stored. Try again in a second")]
    Overloaded(Overload),
    /// A stored value cannot be read, because another program or a newer engine changed it.
    #[error("table {table}, column {column}, row {id}: the stored value cannot be read; restore a backup, or report this")]
    Corrupt { table: &'static str, column: &'static str, id: i64 },
    /// Secrets that cannot be sealed or opened.
    #[error("{0}")]
    Sealed(String),
    #[error("the {what} does not exist")]
    NotFound { what: &'static str },
    /// A name that must be unique is taken.
    #[error("{what} {name:?} already exists")]
    Taken { what: &'static str, name: String },
    /// The sender gave an event the id of an earlier event of another type, so one of the two ids is wrong.
    #[error("{0}")]
    IdTaken(Box<IdTaken>),
    /// The object's state does not allow this step.
    #[error("{0}")]
    Conflict(String),
    /// A bug in a statement or a type.
    #[error("internal error of the store: {0}")]
    Internal(String),
}

/// An event whose sender gave it the id of an earlier event that has another type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the id {id:?} of source {source_name:?} belongs to an event of type {earlier_type}, so one of type {event_type} cannot have it"
)]
pub struct IdTaken {
    /// Index of the event in its batch.
    pub place: usize,
    pub source_name: String,
    pub id: String,
    pub event_type: String,
    /// The earlier event with this id; `None` if it is in the same batch.
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
    /// Returns whether a rule refused the step before it changed anything. All other errors may occur in the middle of a step.
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Taken { .. } | Self::IdTaken(_) | Self::Conflict(_) | Self::Overloaded(_))
    }

    /// Returns whether the same step may succeed later.
    pub const fn passes(&self) -> bool {
        matches!(self, Self::Full | Self::Unavailable(_) | Self::Overloaded(_))
    }
}
