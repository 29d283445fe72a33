//! Commit 2: settling an event or a deferred run.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Error, Lease, StateFull};
use crate::domain::{
    delivery::NewDelivery,
    event::Event,
    id::{EventId, RunId},
    run::RunRecord,
};

/// Settles events and deferred runs.
#[async_trait]
pub trait Settle {
    /// Settles in this order, many at once. Each settlement takes effect as a whole or not at all, and has its own answer.
    ///
    /// # Errors
    /// If the commit failed: no settlement took effect.
    async fn settle(&self, settlements: Arc<Vec<Settlement>>) -> Result<Vec<Settled>, Error>;
}

/// What is being settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settles {
    Event { id: EventId, round: u32, lease: Lease },
    Run { id: RunId, round: u32, lease: Lease },
}

impl Settles {
    /// The version of state that is written with it: the claim's token, which no two claims share. A run's id would not do: a run that
    /// is claimed again, by whichever node, writes something else under it.
    pub const fn state_version(self) -> i64 {
        match self {
            Self::Event { lease, .. } | Self::Run { lease, .. } => lease.token,
        }
    }
}

/// Commit 2: everything that follows from an event's routing and runs, or from one later run. All of it, or nothing.
#[derive(Clone)]
pub struct Settlement {
    pub settles: Settles,
    /// Becomes the cause of emitted events and the content of direct deliveries.
    pub event: Arc<Event>,
    pub runs: Vec<RunRecord>,
    /// Direct subscriptions.
    pub direct: Vec<NewDelivery>,
}

/// What became of a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    Done,
    /// Another worker holds the claim now; nothing changed.
    LeaseLost,
    /// These runs (places in [`Settlement::runs`]) read state that has changed since; nothing changed.
    StateConflict(Vec<usize>),
    /// The event would have more runs or deliveries than an event can have; nothing changed.
    TooMany,
    /// These runs (places in [`Settlement::runs`]) would have their plugin keep more state than it may; nothing changed.
    StateFull(Vec<(usize, StateFull)>),
}
