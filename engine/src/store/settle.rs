//! Settles an event or a deferred run: stores the results of its runs. This is the second commit of an event (commit 2).

mod judge;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::judge::{Children, Known, Placement, Plan, QueueRow, Routing, Versions, judge};
use super::{ClaimId, Error, Lease, StateFull};
use crate::domain::{
    delivery::NewDelivery,
    event::Event,
    id::{EventId, RunId},
    run::RunRecord,
};

/// Settles events and deferred runs.
#[async_trait]
pub trait Settle {
    /// Settles many events and runs in one commit, in the given order. Each settlement takes effect as a whole or not at all.
    /// Returns one answer for each settlement.
    ///
    /// # Errors
    /// If the commit failed: no settlement took effect.
    async fn settle(&self, settlements: Arc<Vec<Settlement>>) -> Result<Vec<Settled>, Error>;
}

/// The event or run that is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settles {
    Event { id: EventId, round: u32, lease: Lease },
    Run { id: RunId, round: u32, lease: Lease },
}

impl Settles {
    /// Returns the row whose lease this settlement ends.
    pub const fn row(self) -> ClaimId {
        match self {
            Self::Event { id, .. } => ClaimId::Event(id),
            Self::Run { id, .. } => ClaimId::Run(id),
        }
    }

    /// Returns the version of state written by this settlement: the token of its claim, which no two claims share. The run's id
    /// cannot be the version: a run that is claimed again may write another value under the same id.
    pub const fn state_version(self) -> i64 {
        match self {
            Self::Event { lease, .. } | Self::Run { lease, .. } => lease.token,
        }
    }
}

/// The results of routing and running an event, or of one deferred run. The store commits all of them or none.
#[derive(Clone)]
pub struct Settlement {
    pub settles: Settles,
    /// The event that is settled, or whose run is settled. It is the cause of the emitted events, and its data is the content of
    /// direct deliveries.
    pub event: Arc<Event>,
    pub runs: Vec<RunRecord>,
    /// Deliveries of direct subscriptions.
    pub direct: Vec<NewDelivery>,
}

impl Settlement {
    /// Returns whether the settlement must be on disk before it takes effect. Any other settlement is only written. If a power cut
    /// loses it, it is made again from the same configuration, because a log keeps its order: every later change is lost, too.
    ///
    /// Then each webhook must get its id again. The number in the id depends on all runs of the event, and some of them may be
    /// deferred the next time. So only webhooks of direct subscriptions alone, or of a single run, are sure to keep their ids.
    pub fn must_be_synced(&self) -> bool {
        match (&self.runs[..], &self.direct[..], &self.settles) {
            ([], ..) => false,
            ([run], [], Settles::Event { .. }) => run.has_effect() && !run.is_repeatable(),
            (runs, direct, _) => !direct.is_empty() || runs.iter().any(RunRecord::has_effect),
        }
    }
}

/// Result of a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    Done,
    /// The claim is lost: its lease has ended, another worker holds it, or the row was cancelled or replayed. Nothing changed.
    LeaseLost,
    /// These runs (by index in [`Settlement::runs`]) read state that has been replaced since then. This settlement had no effect.
    StateConflict(Vec<usize>),
    /// The event would exceed its maximum number of runs, deliveries or scheduled events. This settlement had no effect.
    TooMany,
    /// These runs (by index in [`Settlement::runs`]) would exceed the limits of what their plugin may store. This settlement had no
    /// effect.
    StateFull(Vec<(usize, StateFull)>),
}
