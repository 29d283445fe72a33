//! The store: everything that must not be lost.
//!
//! [`Store`] is the sum of small traits, one for each noun. Each method is one whole transaction: callers never see half a step, and no
//! transaction stays open while a plugin or a socket runs. Claims are leases: rows carry a token and the instant until which it holds. The
//! result of a claim that was lost in the meantime is refused and changes nothing. A commit hands its rows to the workers through the
//! [`Handoff`], already leased. A row that finds no room there waits in the store and is claimed when it is due and there is room.
//!
//! Every instant that a store waits for is on the steady clock ([`crate::clock::steady`]); instants that people read are on the wall clock.
//!
//! # To add a stored thing
//!
//! 1. Put its type and its rules (words, limits, refusals) into `domain/`.
//! 2. Make `store/NOUN.rs`: a small trait whose methods are whole steps, with what they promise and their `# Errors`, and the records that only
//!    the store needs. Name the trait among the supertraits of [`Store`].
//! 3. Add its table to `sqlite/schema.sql`, `postgres/schema.sql`, both `upgrade.rs`, and `migration.rs`.
//! 4. Implement the trait in `sqlite/NOUN.rs` and `postgres/NOUN.rs`, the SQL beside it. Code that both need stands in `store/NOUN.rs`; texts and
//!    bytes of columns in `columns.rs`. `sqlite/check.rs` reads each row of the table.
//! 5. Add a case per promise to `conformance/NOUN.rs`, and name it in the list of `conformance/mod.rs`: both stores run it.

mod accept;
mod admission;
mod attempts;
mod audit;
mod budget;
mod claims;
mod columns;
mod commands;
#[cfg(test)]
mod conformance;
mod endpoints;
mod error;
mod handoff;
mod health;
mod jobs;
mod keys;
mod lanes;
mod migration;
mod nodes;
mod page;
mod parked;
mod plugins;
mod postgres;
mod registry;
mod retention;
mod seal;
mod secrets;
mod settle;
mod source_columns;
mod sources;
mod sqlite;
mod state;
mod story;
pub mod weight;

use std::{sync::Arc, time::Duration};

pub use self::{
    accept::{Accept, Accepted},
    admission::{Admission, AdmissionLimits, Overload},
    attempts::{AttemptRecord, Attempts},
    audit::{Audit, AuditEntry, AuditFilter, NewAudit},
    budget::{Budget, Room},
    claims::{Claims, DeliveryClaim, EventClaim, LEASE, Lease, RunClaim},
    commands::Commands,
    endpoints::Endpoints,
    error::{Error, IdTaken},
    handoff::{Alarm, DeliverySlot, EventSlot, Handoff, RunSlot, Tenure},
    health::{Health, Load},
    jobs::Jobs,
    keys::{KeyRow, Keys, NewKey},
    lanes::{Lanes, Turn, Width},
    migration::{Migration, Moved, migrate},
    nodes::{Node, NodePlugin, Nodes},
    page::{Page, PageRequest},
    parked::Parked,
    plugins::{PluginRow, Plugins},
    postgres::{About, Postgres, PostgresSettings},
    registry::{FileSeen, PluginRegistry, Published},
    retention::{Evicted, Retire},
    seal::{KeyFile, Seal, SealError},
    secrets::Secrets,
    settle::Settle,
    sources::Sources,
    sqlite::{Backup, CheckReport, Finding, Sqlite},
    state::{PluginState, StateFull, StateLimits, StateSize, StateValue},
    story::{
        DeliveryFilter, DeliveryStory, DeliverySummary, EventFilter, EventStory, EventSummary, READ_TIME_MAX, STORY_ATTEMPTS,
        STORY_DELIVERIES, STORY_EMITTED, STORY_RUNS, StoredAttempt, StoredRun, Story, StoryPlace,
    },
};
use crate::domain::{
    delivery::Payload,
    event::{Event, NewEvent},
    id::{EndpointId, EventId, RunId, Tag},
    name::Slug,
    plugin::Digest,
    run::{RunFailure, RunLog, RunOutcome, RunState, StateUse},
};

/// The store. Two implementations keep the same promises (`conformance/`).
pub trait Store:
    Accept
    + Claims
    + Settle
    + Attempts
    + PluginState
    + Commands
    + Parked
    + Endpoints
    + Sources
    + Plugins
    + Keys
    + Secrets
    + Audit
    + Jobs
    + Story
    + Retire
    + Health
    + Nodes
    + Send
    + Sync
{
    /// Returns the tag that all ids of this store carry.
    fn tag(&self) -> Tag;
}

/// How a delivery comes into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Birth {
    /// To be sent at once: handed over if there is room.
    Due,
    /// Its endpoint is paused: stored, and claimed when that is over.
    Held,
    /// Its endpoint is disabled: stored as dead, and can be retried.
    Dead,
}

/// A delivery that a settlement asks for.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    pub endpoint: EndpointId,
    pub payload: Option<Arc<Payload>>,
    pub birth: Birth,
    /// What it has in common with those that it goes in order with, if its endpoint is ordered.
    pub ordering: Option<i64>,
}

/// What a settlement says of one run.
#[derive(Clone, Debug)]
pub struct RunRecord {
    /// The row it belongs to; `None` for a run that gets its row with this settlement.
    pub id: Option<RunId>,
    pub plugin: Slug,
    pub version: Option<Digest>,
    pub endpoint: Option<EndpointId>,
    pub state: RunState,
    /// `None` for a run that is set apart before its first try.
    pub outcome: Option<RunOutcome>,
    pub failure: Option<RunFailure>,
    pub tries: u32,
    pub took: Duration,
    pub memory_peak: u64,
    pub log: RunLog,
    /// The endpoint name whose absence made it fail: creating it drives the run again.
    pub wants: Option<String>,
    // What takes effect with the settlement:
    pub deliveries: Vec<NewDelivery>,
    pub emitted: Vec<NewEvent>,
    pub state_use: StateUse,
    /// Events of ours that tell of it, stored with it whatever its outcome.
    pub news: Vec<NewEvent>,
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
