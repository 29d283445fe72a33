//! The store: where everything is that must not be lost.
//!
//! One trait whose methods are whole steps, each one transaction: callers never see half a step, and no transaction stays open
//! while a plugin or a socket runs. Claims are leases: rows carry a token and the moment until which it holds; the result of a
//! claim that was lost in the meantime is refused and changes nothing. What a commit wrote goes to the workers through the
//! [`Handoff`], already leased; what finds no room there waits in the store and is claimed when it is due and there is room.
//!
//! Every instant that a store waits for is on the steady clock ([`crate::clock::steady`]); what people read is on the wall clock.

mod admission;
mod arrival;
mod audit;
mod budget;
mod columns;
#[cfg(test)]
mod conformance;
mod error;
mod handoff;
mod job;
mod lanes;
mod migration;
mod nodes;
mod page;
mod postgres;
mod seal;
mod source_columns;
mod sqlite;
mod state;
mod walks;
pub mod weight;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::{
    admission::{Admission, AdmissionLimits, Overload},
    audit::{AuditEntry, AuditFilter, NewAudit},
    budget::{Budget, Room},
    error::{Error, IdTaken},
    handoff::{Alarm, DeliverySlot, EventSlot, Handoff, RunSlot, Tenure},
    job::{Ended, JOBS_RUNNING_MAX, Job, JobState, RetryFilter},
    lanes::{Lanes, Turn, Width},
    migration::{Migration, Moved, migrate},
    nodes::{Depot, Node, NodePlugin, Published, Shown},
    page::{Page, PageRequest},
    postgres::{About, Postgres, PostgresSettings},
    seal::{KeyFile, Seal, SealError},
    sqlite::{Backup, CheckReport, Finding, Sqlite},
    state::{StateFull, StateLimits, StateSize},
};
use crate::{
    domain::{
        delivery::{Attempt, DeliveryState, Next, Payload},
        endpoint::{Endpoint, EndpointState, NewEndpoint},
        event::{Event, NewEvent},
        id::{AttemptId, AuditId, DeliveryId, EndpointId, EventId, JobId, KeyId, RunId, SourceId, Tag},
        name::Slug,
        plugin::Digest,
        run::{RunFailure, RunLog, RunOutcome, RunState, StateUse},
        source::{NewSource, Source},
        time::Timestamp,
    },
    metrics::{Lane, Stage},
};

/// How long a read that people ask for may take. A filter that matches little among millions of rows has to look at all of them; meanwhile
/// it holds one of few connections.
pub const READ_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a claim holds. Longer than any run or exchange may take, with time to wait for a turn.
pub const LEASE: Duration = Duration::from_secs(300);

/// The right of one worker to settle something, until a moment in time (steady clock).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub token: i64,
    pub until: Timestamp,
}

/// An event that is this worker's to run.
pub struct EventClaim {
    pub event: Arc<Event>,
    /// 0 the first time, then one more per replay.
    pub round: u32,
    pub lease: Lease,
    /// The version of the settings by which it is to be judged, or a later one.
    pub settings: i64,
    /// Its place in the hand-off, given back when the claim is done with.
    pub slot: EventSlot,
}

/// A run of its own (tried again, or set apart from its event) that is this worker's to run.
pub struct RunClaim {
    pub id: RunId,
    pub event: Arc<Event>,
    pub round: u32,
    pub plugin: Slug,
    /// The endpoint that the run belongs to, if its plugin is that endpoint's own.
    pub endpoint: Option<EndpointId>,
    /// Tries so far.
    pub tries: u32,
    pub lease: Lease,
    /// The version of the settings by which it is to be judged, or a later one.
    pub settings: i64,
    pub slot: RunSlot,
}

/// A delivery that is this worker's to attempt.
pub struct DeliveryClaim {
    pub id: DeliveryId,
    pub endpoint: EndpointId,
    pub event: Arc<Event>,
    /// What a plugin made; `None` sends the event's own data in the endpoint's envelope.
    pub payload: Option<Arc<Payload>>,
    /// Attempts so far.
    pub attempts: u32,
    pub lease: Lease,
    pub slot: DeliverySlot,
}

/// What became of one event of [`Store::accept`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    New(EventId),
    /// The same (`source`, `id`, `type`) was accepted before, as this event; nothing changed.
    Duplicate(EventId),
}

impl Accepted {
    pub const fn id(self) -> EventId {
        match self {
            Self::New(id) | Self::Duplicate(id) => id,
        }
    }
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

/// Commit 3: one attempt and the delivery's next state.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    pub delivery: DeliveryId,
    pub endpoint: EndpointId,
    pub lease: Lease,
    /// Counted from 1.
    pub n: u32,
    pub attempt: Attempt,
    pub next: Next,
    /// Events that tell of it, stored with it.
    pub news: Vec<NewEvent>,
}

/// A value of a plugin's state and the version by which a commit tells whether it changed.
pub type StateValue = (Vec<u8>, i64);

/// What an event as a whole has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// To be run.
    Waiting,
    /// Run; its deliveries have their own states.
    Done,
    /// A run of it is parked.
    Failed,
    /// Nobody wanted it.
    Unrouted,
}

impl EventState {
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Done, Self::Failed, Self::Unrouted];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unrouted => "unrouted",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub event_type: Option<String>,
    pub source: Option<String>,
    pub state: Option<EventState>,
    /// Accepted at or after.
    pub since: Option<Timestamp>,
    /// Accepted before.
    pub until: Option<Timestamp>,
}

/// An event in a list.
#[derive(Clone, Debug)]
pub struct EventSummary {
    /// Without its data.
    pub event: Event,
    /// How long its data is.
    pub bytes: u64,
    pub state: EventState,
}

/// Runs in one part of an event's story. Each has a log of up to 64 KiB.
pub const STORY_RUNS: usize = 100;
/// Deliveries in one part of an event's story. An event can have 16,384.
pub const STORY_DELIVERIES: usize = 100;
/// Attempts of each of them, the last ones. Each has an excerpt of up to 4 KiB; all of them are in the delivery's own story.
pub const STORY_ATTEMPTS: usize = 10;
/// Emitted events in one part of an event's story: ids alone.
pub const STORY_EMITTED: usize = 1_000;

/// Where a part of an event's story begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoryPlace {
    /// The first run, by its number in the event.
    pub run: u32,
    /// The first delivery, by its number in the event.
    pub delivery: u32,
    /// The last emitted event of the part before, by its id.
    pub emitted: i64,
}

/// What happened to one event, or a part of it.
#[derive(Clone, Debug)]
pub struct EventStory {
    pub event: Event,
    pub state: EventState,
    pub runs: Vec<StoredRun>,
    pub deliveries: Vec<DeliveryStory>,
    pub emitted: Vec<EventId>,
    /// Where the next part begins, if this is not all.
    pub next: Option<StoryPlace>,
}

impl EventStory {
    /// Cuts what was read to one part: of each kind one more than it holds was read, where there are more.
    fn part(mut self, from: StoryPlace) -> Self {
        let more = self.runs.len() > STORY_RUNS || self.deliveries.len() > STORY_DELIVERIES || self.emitted.len() > STORY_EMITTED;
        self.runs.truncate(STORY_RUNS);
        self.deliveries.truncate(STORY_DELIVERIES);
        self.emitted.truncate(STORY_EMITTED);
        self.next = more.then(|| StoryPlace {
            run: self.runs.last().map_or(from.run, |run| run.id.k() + 1),
            delivery: self.deliveries.last().map_or(from.delivery, |one| one.summary.id.k() + 1),
            emitted: self.emitted.last().map_or(from.emitted, |id| id.as_i64()),
        });
        self
    }
}

/// A run as it is kept.
#[derive(Clone, Debug)]
pub struct StoredRun {
    pub id: RunId,
    pub round: u32,
    pub plugin: Slug,
    pub version: Option<Digest>,
    /// The name of the endpoint it belongs to.
    pub endpoint: Option<String>,
    pub state: RunState,
    pub outcome: Option<RunOutcome>,
    pub code: Option<String>,
    pub message: Option<String>,
    pub tries: u32,
    pub took: Duration,
    pub memory_peak: u64,
    pub webhooks: u32,
    pub emitted: u32,
    pub log: RunLog,
}

#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    pub endpoint: Option<EndpointId>,
    pub event: Option<EventId>,
    /// One of the words of [`DeliveryState::as_str`].
    pub state: Option<&'static str>,
}

/// A delivery in a list.
#[derive(Clone, Debug)]
pub struct DeliverySummary {
    pub id: DeliveryId,
    pub endpoint: EndpointId,
    pub endpoint_name: String,
    pub event_type: String,
    pub round: u32,
    pub state: DeliveryState,
    pub attempts: u32,
    pub last: Option<StoredAttempt>,
}

/// A delivery with its attempts: all of them, or the last ones where it is part of an event's story.
#[derive(Clone, Debug)]
pub struct DeliveryStory {
    pub summary: DeliverySummary,
    pub attempts: Vec<StoredAttempt>,
}

#[derive(Clone, Debug)]
pub struct StoredAttempt {
    pub id: AttemptId,
    pub attempt: Attempt,
}

/// A plugin as the store remembers it.
#[derive(Clone, Debug)]
pub struct PluginRow {
    pub name: Slug,
    /// The version that served last.
    pub version: Digest,
    /// What that version said of itself.
    pub author_version: String,
    pub description: String,
    pub on: Vec<String>,
    /// The file's name in the plugin folder.
    pub file: String,
    pub bytes: u64,
    pub config: BTreeMap<String, String>,
}

/// What an API key may do. Which role opens what is a table of the API (`api/access.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sends events.
    Publish,
    /// Reads what there is, without what is a secret by itself.
    Read,
    /// Subscribes, and sees and ends its own subscriptions: what an automation tool needs.
    Subscribe,
    /// Reads `/metrics` alone.
    Metrics,
    /// Runs the engine from day to day: deliveries, endpoints, sources.
    Operate,
    Admin,
}

impl Role {
    pub const ALL: [Self; 6] = [Self::Publish, Self::Read, Self::Subscribe, Self::Metrics, Self::Operate, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Subscribe => "subscribe",
            Self::Metrics => "metrics",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// An API key that is to be made. Only a hash of it is kept.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub name: String,
    pub role: Role,
    pub hash: [u8; 32],
    /// From then on it opens nothing; `None` for a key that is good until it is revoked.
    pub expires_at: Option<Timestamp>,
}

/// An API key as it is kept.
#[derive(Clone, Debug)]
pub struct KeyRow {
    pub id: KeyId,
    pub new: NewKey,
    pub created_at: Timestamp,
    /// To the minute.
    pub last_used_at: Option<Timestamp>,
}

impl KeyRow {
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.new.expires_at.is_some_and(|expires_at| now >= expires_at)
    }
}

/// How much waits where, for those who watch the engine.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// In the order of an event's way.
    pub stages: Vec<Stage>,
    pub lanes: Vec<Lane>,
    /// Bytes that wait to be written.
    pub queued_bytes: u64,
    pub file_bytes: Vec<(&'static str, u64)>,
    /// The disk that holds the store, if it is one of ours.
    pub disk_bytes: u64,
    pub disk_free_bytes: u64,
}

/// How long finished things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// An event all of whose runs are ok and whose deliveries were delivered or cancelled.
    pub delivered: Duration,
    /// An event with a dead delivery or a parked run.
    pub dead: Duration,
    /// An event that nobody wanted.
    pub unrouted: Duration,
    /// An entry of the audit trail, and a job that has ended.
    pub audit: Duration,
    /// How long (`source`, `id`) is remembered.
    pub dedupe: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            delivered: Duration::from_secs(7 * DAY),
            dead: Duration::from_secs(30 * DAY),
            unrouted: Duration::from_secs(7 * DAY),
            audit: Duration::from_secs(365 * DAY),
            dedupe: Duration::from_secs(7 * DAY),
        }
    }
}

impl Retention {
    /// For how long anything asks which events were accepted when.
    pub fn longest(&self) -> Duration {
        self.delivered.max(self.dead).max(self.unrouted).max(self.dedupe)
    }
}

/// How long a deleted endpoint is kept at least, and longer while an event from before its deletion is. What was settled towards it in the
/// meantime has to find it, to be cancelled.
pub const DELETED_ENDPOINT_KEPT: Duration = Duration::from_secs(3600);
/// By how much the clocks of nodes may differ where one deletes an endpoint and another accepts an event.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// Endpoints deleted before then are part of nothing any more, where the oldest event was accepted at `oldest_event`.
fn endpoints_forgotten_before(now: Timestamp, oldest_event: Option<Timestamp>) -> Timestamp {
    let aged = now.minus(DELETED_ENDPOINT_KEPT);
    oldest_event.map_or(aged, |oldest| aged.min(oldest.minus(CLOCKS_DIFFER)))
}

/// What one step of [`Store::relieve`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relief {
    pub looked_at: usize,
    /// Events that left.
    pub left: usize,
}

/// The store. Two implementations keep the same promises (`conformance.rs`).
#[async_trait]
pub trait Store: Send + Sync {
    /// What makes this store's ids its own.
    fn tag(&self) -> Tag;

    // The way of the data.

    /// Commit 1: stores the events, all or none, and hands them to the workers as far as there is room.
    /// Returning `Ok` means that they are on disk.
    ///
    /// An event is a repeat if its (`source`, `id`, `type`) came before through the same door: a source's events are one name space,
    /// all others another ([`NewEvent::repeat_key`]). The same (`source`, `id`) with another `type` refuses all of them
    /// ([`Error::IdTaken`]), also inside one batch. Once an event has left the store its type is not compared any more.
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, Error>;

    /// Commit 2, many at once, in this order. Each is all or nothing, and says what became of it; `Err` means that none took effect.
    async fn settle(&self, settlements: Arc<Vec<Settlement>>) -> Result<Vec<Settled>, Error>;

    /// Commit 3, many at once. A record whose lease was lost is refused (`false`) and changes nothing.
    async fn record_attempts(&self, records: Arc<Vec<AttemptRecord>>) -> Result<Vec<bool>, Error>;

    /// Claims events, runs and deliveries that are due and unclaimed, oldest first, as far as the hand-off has room, and hands
    /// them over. Returns how many; there may be more when it is not zero.
    ///
    /// Of an endpoint's deliveries, first attempts and retries each get half of the room, if both wait. One that has an order is
    /// claimed only when nothing with the same order and a smaller id is unfinished, except as part of the same claim, and no
    /// earlier event has still to be run.
    async fn claim_due(&self, now: Timestamp) -> Result<usize, Error>;

    /// Gives claims back unsettled: they are due at once.
    async fn release(
        &self,
        events: Vec<(EventId, Lease)>,
        runs: Vec<(RunId, Lease)>,
        deliveries: Vec<(DeliveryId, Lease)>,
    ) -> Result<(), Error>;

    /// When the next unclaimed thing is due, as seen by who has claimed what was due at `claimed_at` and found nothing. What has become
    /// due since then counts; what was due before and waits for something else to be done with does not.
    async fn next_due(&self, claimed_at: Timestamp) -> Result<Option<Timestamp>, Error>;

    /// The last committed value of a plugin's state.
    async fn read_state(&self, plugin: &Slug, key: &str) -> Result<Option<StateValue>, Error>;

    /// What each plugin may keep as state.
    fn state_limits(&self) -> StateLimits;

    /// What a plugin keeps as state.
    async fn state_size(&self, plugin: &Slug) -> Result<StateSize, Error>;

    /// Deletes a plugin's state, a batch at a time. Returns how many keys; 0 means that none was left. A run that has read one of them
    /// meanwhile runs again.
    async fn clear_state(&self, plugin: &Slug) -> Result<usize, Error>;

    // What people do.

    /// Makes a delivery due now, under the same id: a waiting one at once, a dead or cancelled one again, a delivered one once more.
    /// Refuses, changing nothing, if its endpoint is disabled or deleted.
    async fn retry_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<(), Error>;

    /// Calls off a delivery that waits, in the store or in memory. One whose attempt is under way may reach its receiver all the
    /// same; it stays cancelled.
    async fn cancel_delivery(&self, id: DeliveryId, at: Timestamp) -> Result<(), Error>;

    /// Runs an event again through today's plugins and subscriptions. Returns the new round. What its earlier rounds left
    /// waiting or parked is dropped in favour of this one.
    async fn replay_event(&self, id: EventId, now: Timestamp) -> Result<u32, Error>;

    /// Makes due what was parked because this plugin did not load. Returns how many runs.
    async fn drive_not_loadable(&self, plugin: &Slug, now: Timestamp) -> Result<usize, Error>;
    /// Makes due, a batch at a time, what is parked for want of an endpoint that there is. Returns how many runs.
    async fn drive_wanting(&self, now: Timestamp) -> Result<usize, Error>;

    // Endpoints, plugins, keys.

    /// Refuses a name that is taken.
    async fn create_endpoint(&self, endpoint: NewEndpoint) -> Result<Endpoint, Error>;
    /// Replaces everything but the id, the name and the state: a change of the address must not undo a `410` that came meanwhile.
    async fn update_endpoint(&self, endpoint: Endpoint) -> Result<(), Error>;
    /// Changes only the state, and only from one of `from`; says whether it did. If so `news`, which tells of it, is stored with it.
    async fn set_endpoint_state(
        &self,
        id: EndpointId,
        from: &[EndpointState],
        to: EndpointState,
        news: Option<NewEvent>,
    ) -> Result<bool, Error>;
    /// What waits for it is cancelled (by [`Self::bury`]). `news`, which tells of it, is stored with it.
    async fn delete_endpoint(&self, id: EndpointId, news: Option<NewEvent>) -> Result<(), Error>;
    async fn endpoints(&self) -> Result<Vec<Endpoint>, Error>;
    /// Refuses a name that is taken.
    async fn create_source(&self, source: NewSource) -> Result<Source, Error>;
    /// Replaces everything but the id and the name.
    async fn update_source(&self, source: Source) -> Result<(), Error>;
    /// Its events stay; its name and its address are free.
    async fn delete_source(&self, id: SourceId) -> Result<(), Error>;
    /// By name.
    async fn sources(&self) -> Result<Vec<Source>, Error>;

    /// Notes since when an endpoint has been failing (wall clock), or that it no longer does.
    async fn note_failing(&self, id: EndpointId, since: Option<Timestamp>) -> Result<(), Error>;
    /// Seals every secret anew under a fresh master key, and puts that key in the place of the old one.
    async fn reseal(&self) -> Result<(), Error>;

    /// Remembers which version of a plugin serves; its configuration is kept.
    async fn remember_plugin(&self, plugin: PluginRow) -> Result<(), Error>;
    async fn set_plugin_config(&self, name: &Slug, config: BTreeMap<String, String>) -> Result<(), Error>;
    async fn plugins(&self) -> Result<Vec<PluginRow>, Error>;

    async fn create_key(&self, key: NewKey) -> Result<KeyRow, Error>;
    async fn revoke_key(&self, id: KeyId) -> Result<(), Error>;
    /// By name, the expired ones as well.
    async fn keys(&self) -> Result<Vec<KeyRow>, Error>;
    /// Notes when keys were last used. An instant before the noted one, or a key that is gone, changes nothing.
    async fn note_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), Error>;

    // The audit trail.

    /// Notes that a change is about to be made. It is on the disk when this returns.
    async fn begin_audit(&self, entry: NewAudit) -> Result<AuditId, Error>;
    /// Notes what came of it, and the target if that became known only now.
    async fn finish_audit(&self, id: AuditId, status: u16, target: Option<String>) -> Result<(), Error>;
    /// Removes the entry of a change that was not made. One that is gone already is no error.
    async fn withdraw_audit(&self, id: AuditId) -> Result<(), Error>;
    async fn audit(&self, filter: AuditFilter, page: PageRequest) -> Result<Page<AuditEntry>, Error>;

    // Jobs.

    /// Makes a job that sends again what a filter means of the deliveries that there are now, and wakes whoever works on jobs.
    /// Refuses when [`JOBS_RUNNING_MAX`] are running, and when the filter names an endpoint that takes nothing.
    async fn create_job(&self, filter: RetryFilter, at: Timestamp) -> Result<Job, Error>;
    /// One batch of a running job: each delivery in it is taken up exactly once, whenever the process ends. A job that is not
    /// running is left as it is. `now` is the steady clock, `at` the wall clock.
    async fn advance_job(&self, id: JobId, now: Timestamp, at: Timestamp) -> Result<Job, Error>;
    /// Calls a running job off; what it did before stands.
    async fn cancel_job(&self, id: JobId, at: Timestamp) -> Result<Job, Error>;
    async fn job(&self, id: JobId) -> Result<Job, Error>;
    async fn jobs(&self, state: Option<JobState>, page: PageRequest) -> Result<Page<Job>, Error>;

    // Reads. Those of people end with [`Error::TooSlow`] after [`READ_TIME_MAX`].

    async fn events(&self, filter: EventFilter, page: PageRequest) -> Result<Page<EventSummary>, Error>;
    /// An event with what happened to it: the part of that which begins at a place.
    async fn event(&self, id: EventId, from: StoryPlace) -> Result<EventStory, Error>;
    async fn deliveries(&self, filter: DeliveryFilter, page: PageRequest) -> Result<Page<DeliverySummary>, Error>;
    async fn delivery(&self, id: DeliveryId) -> Result<DeliveryStory, Error>;

    /// How much waits where, and how large everything is. Counts what may be a million rows: to be asked every few seconds at most.
    async fn load(&self) -> Result<Load, Error>;

    // Upkeep.

    /// Ends, a batch at a time, what waits for endpoints that take nothing any more: dead if disabled, cancelled if deleted.
    /// Returns how many.
    async fn bury(&self, at: Timestamp) -> Result<usize, Error>;

    /// Deletes, a batch at a time, finished events that are older than their time, each with its whole story; and what else has
    /// had its time. Returns how many rows were looked at; 0 means that nothing is old enough.
    async fn retire(&self, retention: Retention, now: Timestamp) -> Result<usize, Error>;

    /// Deletes, a batch at a time, the oldest finished events, however young, until the store holds less than `bytes_max`. Nothing
    /// looked at while it holds more means that all were.
    async fn relieve(&self, bytes_max: u64) -> Result<Relief, Error>;

    /// What the store holds on its disk, in bytes, without what is free for what comes next.
    async fn size(&self) -> Result<u64, Error>;

    /// Writes something small: `Ok` means that it worked, and that no other write has failed a moment ago.
    async fn probe(&self) -> Result<(), Error>;

    // Many nodes.

    /// The processes that work on this store, by name; none where it belongs to one process.
    async fn nodes(&self) -> Result<Vec<Node>, Error> {
        Ok(Vec::new())
    }

    /// Where its nodes share plugin files; none where it belongs to one process, whose folder says what serves.
    fn depot(&self) -> Option<&dyn Depot> {
        None
    }

    /// Gives back at once what this process holds: it is about to end.
    async fn leave(&self) -> Result<(), Error> {
        Ok(())
    }
}
