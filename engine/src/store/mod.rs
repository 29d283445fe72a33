//! The store holds everything that must not be lost.
//!
//! [`Store`] is the sum of small traits, one for each kind of stored thing. Each method is one whole transaction. So callers never
//! see half of a step, and no transaction stays open while a plugin runs or a socket is used. A claim is a lease: its row carries a
//! token and the instant until which the token is valid. The result of a claim that was lost in the meantime is refused and changes
//! nothing. A commit hands its rows to the workers through the [`Handoff`], already leased. A row for which the hand-off has no
//! room waits in the store, and is claimed when it is due and there is room.
//!
//! Due times and leases are on the steady clock ([`crate::clock::steady`]). Instants for people are on the wall clock.
//!
//! # To add a stored thing
//!
//! 1. Put its type and its rules (words, limits, refusals) into `domain/`.
//! 2. Create `store/NOUN.rs`. It has the records that only the store needs, and a small trait. Each method of the trait is a whole
//!    step, documented with its promises and `# Errors`. Name the trait among the supertraits of [`Store`].
//! 3. Add its table to `sqlite/schema.sql`, `postgres/schema.sql`, both `upgrade.rs`, and `migration.rs`.
//! 4. Implement the trait in `sqlite/NOUN.rs` and `postgres/NOUN.rs`, next to its SQL. Code that both need belongs in
//!    `store/NOUN.rs`, and the codecs of text and byte columns in `columns.rs`. Let `sqlite/check.rs` read each row of the table.
//! 5. Add a case per promise to `conformance/NOUN.rs`, and name it in the list of `conformance/mod.rs`: both stores run it.
//!
//! For a new column of an existing table, increase `LAYOUT` in both `upgrade.rs`, and do step 3. The column needs a default,
//! because older engines on the same database do not write the column. Then read and write it in the files of its table
//! (`NOUN.rs`, `rows.rs`, `columns.rs`). Unfinished deliveries are in the table `live`, finished ones in `delivery`; several files
//! read and write these two.

mod accept;
mod admission;
mod alarm;
mod attempts;
mod audit;
mod budget;
mod claims;
mod columns;
mod commands;
mod commit;
mod comparisons;
mod config_versions;
#[cfg(test)]
pub mod conformance;
mod early;
mod endpoints;
mod error;
mod handoff;
mod health;
mod jobs;
mod keys;
mod local;
mod migration;
mod nodes;
mod page;
mod parked;
mod plugins;
mod postgres;
mod queues;
mod registry;
mod retention;
mod row;
mod scheduled;
mod seal;
mod secrets;
mod settle;
mod source_columns;
mod sources;
mod sqlite;
mod state;
mod stats;
mod story;
mod tenure;
pub mod weight;

#[cfg(test)]
pub use self::sqlite::tests::SqliteBacking;
pub use self::{
    accept::{Accept, Accepted, Arrival, Arrivals, Arrived, Issued},
    admission::{Admission, AdmissionLimits, Overload},
    alarm::Alarm,
    attempts::{AttemptRecord, Attempts, Recorded},
    audit::{Audit, AuditEntry, AuditFilter, NewAudit},
    budget::{Budget, Room},
    claims::{ClaimId, Claims, DeliveryClaim, EventClaim, LEASE, Lease, RunClaim},
    commands::{Cancelled, Commands},
    comparisons::Comparisons,
    config_versions::ConfigVersions,
    early::{EarlyAnswer, EarlyCaller, EarlyRun, RunAnswer, RunStored},
    endpoints::{BACKLOG_COUNTED_MAX, Backlog, Deletion, Endpoints},
    error::{Error, IdTaken},
    handoff::{DeliverySlot, EventSlot, Handoff, RunSlot},
    health::{Health, Load},
    jobs::Jobs,
    keys::{KeyRow, Keys, NewKey},
    local::Local,
    migration::{Migration, Moved, migrate},
    nodes::{Node, NodePlugin, Nodes},
    page::{Page, PageRequest},
    parked::Parked,
    plugins::{ConfigRevision, PluginConfig, PluginRow, Plugins, REVISIONS_MAX},
    postgres::{About, Postgres, PostgresSettings},
    queues::{Permit, Queues, Width},
    registry::{NewVersion, PluginRegistry, PluginVersion, Proposal, Published, VersionLimits, version_before},
    retention::{Evicted, Retire},
    scheduled::{Schedule, ScheduledBounds, ScheduledEvent},
    seal::{KeyFile, Seal, SealError},
    secrets::Secrets,
    settle::{Settle, Settled, Settlement, Settles},
    sources::Sources,
    sqlite::{Backup, CheckReport, Finding, Sqlite},
    state::{PluginState, StateFull, StateKey, StateLimits, StateSize, StateValue},
    stats::Stats,
    story::{
        DeliveryFilter, DeliveryStory, DeliverySummary, EventFilter, EventStory, EventSummary, Passage, PassageDelivery,
        READ_TIME_MAX, RecordedFilter, RecordedRun, RunFilter, STORY_ATTEMPTS, STORY_DELIVERIES, STORY_EMITTED, STORY_RUNS,
        STORY_SCHEDULED, SettledFrom, SettledRuns, StoredAttempt, StoredRun, Story, StoryPlace, WholeDelivery,
    },
    tenure::Tenure,
};
use crate::domain::id::Tag;

/// The store. Its two implementations keep the same promises (`conformance/`).
pub trait Store:
    Accept
    + Arrivals
    + Claims
    + Settle
    + Schedule
    + Attempts
    + PluginState
    + Commands
    + Parked
    + Endpoints
    + Sources
    + Plugins
    + PluginRegistry
    + Keys
    + Secrets
    + Audit
    + Jobs
    + Comparisons
    + Stats
    + Story
    + Retire
    + Health
    + Nodes
    + Send
    + Sync
{
    /// Returns the tag that all ids of this store contain.
    fn tag(&self) -> Tag;
}
