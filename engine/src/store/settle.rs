//! Commit 2: settling an event or a deferred run.

mod judge;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::judge::{Children, Known, Placement, Plan, QueueRow, Routing, Versions, judge};
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

impl Settlement {
    /// Reports whether anything outside the event's own rows changes with it.
    pub fn has_effect(&self) -> bool {
        !self.direct.is_empty() || self.runs.iter().any(RunRecord::has_effect)
    }
}

/// Result of a settlement.
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
