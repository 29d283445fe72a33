//! The history of events, runs and deliveries: the lists and details that the API shows.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Error, Page, PageRequest, ScheduledEvent,
    columns::{log_from_columns, recording_from_columns},
    row::{Columns, Row},
};
use crate::domain::{
    comparison::Share,
    delivery::{Attempt, DeliveryState, Payload},
    event::{Event, EventState, Parts},
    id::{AttemptId, DeliveryId, EndpointId, EventId, RunId},
    name::Slug,
    pattern::Pattern,
    plugin::Digest,
    recording::Recording,
    run::{RunLog, RunOutcome, RunState},
    sent::SentAs,
    time::Timestamp,
    why::Behind,
};

/// Reads events, runs and deliveries for the API. Each read sees one snapshot.
///
/// # Errors
/// Every read ends with [`Error::TooSlow`] after [`READ_TIME_MAX`], and with [`Error::Corrupt`] if a row cannot be read.
#[async_trait]
pub trait Story {
    /// Returns one page of the events, newest first.
    ///
    /// # Errors
    /// See the trait.
    async fn events(&self, filter: EventFilter, page: PageRequest) -> Result<Page<EventSummary>, Error>;

    /// Returns an event and one part of its history, beginning at `from`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; see the trait.
    async fn event(&self, id: EventId, from: StoryPlace) -> Result<EventStory, Error>;

    /// Returns one page of the runs, newest first, without their logs.
    ///
    /// # Errors
    /// See the trait.
    async fn runs(&self, filter: RunFilter, page: PageRequest) -> Result<Page<StoredRun>, Error>;

    /// Returns a run.
    ///
    /// # Errors
    /// [`Error::NotFound`]; see the trait.
    async fn run(&self, id: RunId) -> Result<StoredRun, Error>;

    /// Returns a run with everything that it depended on.
    ///
    /// # Errors
    /// [`Error::NotFound`]; see the trait.
    async fn recorded_run(&self, id: RunId) -> Result<RecordedRun, Error>;

    /// Returns the chain of causes that contains this event: its first event and all events that follow from it, parents before
    /// children, without data. Returns at most [`CHAIN_EVENTS`] events, and whether the chain has more. The search for earlier
    /// events ends at a cause that retention has deleted.
    ///
    /// # Errors
    /// [`Error::NotFound`]; see the trait.
    async fn chain(&self, id: EventId) -> Result<(Vec<EventSummary>, bool), Error>;

    /// Returns executed runs of a plugin with everything that they depended on, newest first. Begins before the cursor. Checks at
    /// most [`RECORDED_LOOK`] rows, so a page may be empty although more runs follow. A page holds at most [`RECORDED_BYTES`] of
    /// events, or a single larger event.
    ///
    /// # Errors
    /// See the trait.
    async fn recorded_runs(&self, filter: RecordedFilter, page: PageRequest) -> Result<Page<RecordedRun>, Error>;

    /// Returns executed runs of a plugin, for a reader that follows new runs. This is like [`Self::recorded_runs`], but oldest
    /// first. Begins after the run in `from`, and ends before the first run that may still change.
    ///
    /// # Errors
    /// See the trait.
    async fn settled_runs(&self, filter: RecordedFilter, from: SettledFrom, limit: usize) -> Result<SettledRuns, Error>;

    /// Returns one page of the deliveries, newest first.
    ///
    /// # Errors
    /// See the trait.
    async fn deliveries(&self, filter: DeliveryFilter, page: PageRequest) -> Result<Page<DeliverySummary>, Error>;

    /// Returns a delivery with all its attempts.
    ///
    /// # Errors
    /// [`Error::NotFound`]; see the trait.
    async fn delivery(&self, id: DeliveryId) -> Result<DeliveryStory, Error>;

    /// Returns a delivery with its event and the plugin's webhook, if any.
    ///
    /// # Errors
    /// [`Error::NotFound`]; see the trait.
    async fn whole_delivery(&self, id: DeliveryId) -> Result<WholeDelivery, Error>;

    /// Returns the runs and deliveries of an event that concern one endpoint; `None` stands for an endpoint that does not exist.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the event does not exist; see the trait.
    async fn passage(&self, event: EventId, endpoint: Option<EndpointId>) -> Result<Passage, Error>;
}

/// Maximum time of a read for the API. If a filter matches few of millions of rows, the read has to check all of them, and
/// occupies one of few connections for that time.
pub const READ_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// A type, or all types below a prefix. `Pattern::All` selects every event.
    pub event_type: Option<Pattern>,
    pub source: Option<String>,
    /// The id that the sender gave to the event.
    pub id: Option<String>,
    pub subject: Option<String>,
    pub state: Option<EventState>,
    /// Whether the list leaves out the engine's own events (`innesco.*`).
    pub without_own: bool,
    /// Accepted at this instant or later.
    pub since: Option<Timestamp>,
    /// Accepted before this instant.
    pub until: Option<Timestamp>,
}

/// One event in a list.
#[derive(Clone, Debug)]
pub struct EventSummary {
    /// The event without its data.
    pub event: Event,
    /// Length of its data.
    pub bytes: u64,
    pub parts: Parts,
}

/// Maximum number of events of a chain that one read returns.
pub const CHAIN_EVENTS: usize = 200;

/// Number of rows that one query reads as candidates for a list.
pub(super) const CANDIDATES: usize = 500;
/// Number of events that one page looks at for a state that no table records. The next page continues there, so a page that finds
/// little is still fast.
pub(super) const LOOK: i64 = 100_000;
/// Larger than every event number. An event number has at most 41 bits, because the ids of the event's attempts contain it and must
/// fit into 64 bits.
pub(super) const EVENT_ID_END: i64 = 1 << 41;

/// Returns a statement for the [`PARTS_COLUMNS`] of one event, whose id is the expression `id`.
pub(super) fn parts(id: &str) -> String {
    let children = format!("id >= {id} << 14 AND id < ({id} + 1) << 14");
    format!(
        "SELECT (SELECT count(*) FROM event_queue WHERE id = {id}) AS to_run,
             (SELECT count(*) FROM unrouted WHERE id = {id}) AS unrouted, r.waiting, r.parked, l.pending, l.retrying,
             d.delivered, d.dead, d.cancelled
         FROM (SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting, count(*) FILTER (WHERE state = 'parked') AS parked
               FROM run_queue WHERE {children}) r
         CROSS JOIN (SELECT count(*) FILTER (WHERE attempts = 0) AS pending, count(*) FILTER (WHERE attempts > 0) AS retrying
                     FROM live WHERE {children}) l
         CROSS JOIN (SELECT count(*) FILTER (WHERE state = 'delivered') AS delivered, count(*) FILTER (WHERE state = 'dead') AS dead,
                         count(*) FILTER (WHERE state = 'cancelled') AS cancelled
                     FROM delivery WHERE {children} AND round = coalesce((SELECT rounds FROM replay WHERE id = {id}), 0)) d"
    )
}

/// The columns of [`parts`], in the order in which [`read_parts`] reads them.
pub(super) const PARTS_COLUMNS: [&str; 9] =
    ["to_run", "unrouted", "waiting", "parked", "pending", "retrying", "delivered", "dead", "cancelled"];

/// Reads the columns of [`parts`] from the column `first` on.
pub(super) fn read_parts(row: &impl Row, first: usize) -> Result<Parts, Error> {
    let columns = Columns::named("event", row);
    let mut numbers = [0; PARTS_COLUMNS.len()];
    for (place, name) in PARTS_COLUMNS.into_iter().enumerate() {
        numbers[place] = columns.number(first + place, name)?.unsigned_abs();
    }
    let [to_run, unrouted, runs_waiting, runs_parked, pending, retrying, delivered, dead, cancelled] = numbers;
    let (to_run, unrouted) = (to_run > 0, unrouted > 0);
    Ok(Parts { to_run, unrouted, runs_waiting, runs_parked, pending, retrying, delivered, dead, cancelled })
}

/// Returns a statement that finds the events which may be in a rare state, newest first. Most states have small tables that hold
/// only such events. There it seeks from one event to the next, so the cost of a page does not depend on the number of waiting
/// events. `before` is the parameter with the exclusive upper limit of the ids. `greatest` is the database's function for the
/// larger of two values. Returns `None` if the state is not rare, so that every event is a candidate.
///
/// If no table records the state, the statement looks only at events from `from` on (inclusive): see [`look_from`].
pub(super) fn candidates(state: EventState, before: &str, from: i64, greatest: &str) -> Option<String> {
    let sources: &[(&str, &str)] = match state {
        EventState::Waiting => &[("event_queue", "true"), ("run_queue", "state = 'waiting'"), ("live", "true")],
        EventState::Retrying => &[("live", "attempts > 0")],
        EventState::Failed => &[("run_queue", "state = 'parked'"), ("delivery", "state = 'dead' AND state <> 'delivered'")],
        EventState::Unrouted => &[("unrouted", "true")],
        // No table holds only these events. One look-up for each event excludes those with a webhook, which is much less work than
        // counting their parts. Deliveries of earlier rounds exclude no event.
        EventState::NothingSent => {
            let children = "id >= c.id << 14 AND id < (c.id + 1) << 14";
            return Some(format!(
                "SELECT c.id FROM event c WHERE c.id < {before} AND c.id >= {from}
                     AND (NOT EXISTS (SELECT 1 FROM delivery WHERE {children} AND state <> 'cancelled')
                         OR EXISTS (SELECT 1 FROM replay WHERE id = c.id))
                     AND NOT EXISTS (SELECT 1 FROM unrouted WHERE id = c.id)
                     AND NOT EXISTS (SELECT 1 FROM live WHERE {children}) ORDER BY c.id DESC"
            ));
        }
        EventState::Delivered => return None,
    };
    let newest = |bound: &str| {
        let seek = |(table, condition): &(&str, &str)| match *table {
            "event_queue" | "unrouted" => format!("coalesce((SELECT max(id) FROM {table} WHERE id < {bound}), -1)"),
            _ => format!("coalesce((SELECT max(id) >> 14 FROM {table} WHERE {condition} AND id < {bound} << 14), -1)"),
        };
        let all = sources.iter().map(seek).collect::<Vec<_>>().join(", ");
        if sources.len() > 1 { format!("{greatest}({all})") } else { all }
    };
    Some(format!(
        "WITH RECURSIVE newest (id) AS (SELECT {} UNION ALL SELECT {} FROM newest WHERE newest.id >= 0)
         SELECT id FROM newest WHERE id >= 0",
        newest(before),
        newest("newest.id")
    ))
}

/// Returns the id from which on one page looks for events in a state (inclusive). `newest` is the id of the newest event.
pub(super) fn look_from(state: Option<EventState>, cursor: Option<i64>, newest: i64) -> i64 {
    match state {
        Some(EventState::NothingSent) => cursor.unwrap_or(i64::MAX).min(newest + 1) - LOOK,
        _ => 0,
    }
}

/// Maximum number of runs in one part of an event's history. Each has a log of up to 64 KiB.
pub const STORY_RUNS: usize = 100;
/// Maximum number of deliveries in one part of an event's history. An event can have 16,384 deliveries.
pub const STORY_DELIVERIES: usize = 100;
/// Maximum number of attempts of each of these deliveries. An event's history shows only the last attempts, because each attempt
/// has an excerpt of up to 4 KiB. The history of one delivery shows all attempts.
pub const STORY_ATTEMPTS: usize = 10;
/// Maximum number of emitted events in one part of an event's history. Only their ids are read.
pub const STORY_EMITTED: usize = 1_000;

/// Maximum number of scheduled events in one part of an event's history.
pub const STORY_SCHEDULED: usize = 100;

/// Place where a part of an event's history begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoryPlace {
    /// Number of the first run within the event.
    pub run: u32,
    /// Number of the first delivery within the event.
    pub delivery: u32,
    /// Id of the last emitted event of the previous part.
    pub emitted: i64,
    /// Number of the first scheduled event within the event.
    pub scheduled: u32,
}

/// An event with its runs, deliveries and emitted events, or one part of them.
#[derive(Clone, Debug)]
pub struct EventStory {
    pub event: Event,
    pub parts: Parts,
    pub runs: Vec<StoredRun>,
    pub deliveries: Vec<DeliveryStory>,
    pub emitted: Vec<EventId>,
    /// The events that the event's runs have scheduled. Scheduled events that were already accepted are not included.
    pub scheduled: Vec<ScheduledEvent>,
    /// Where the next part begins, if one exists.
    pub next: Option<StoryPlace>,
}

impl EventStory {
    /// Cuts the rows to one part. Of each kind of row, the store has read at most one row more than a part holds.
    pub(super) fn part(mut self, from: StoryPlace) -> Self {
        let more = self.runs.len() > STORY_RUNS
            || self.deliveries.len() > STORY_DELIVERIES
            || self.emitted.len() > STORY_EMITTED
            || self.scheduled.len() > STORY_SCHEDULED;
        self.runs.truncate(STORY_RUNS);
        self.deliveries.truncate(STORY_DELIVERIES);
        self.emitted.truncate(STORY_EMITTED);
        self.scheduled.truncate(STORY_SCHEDULED);
        self.next = more.then(|| StoryPlace {
            run: self.runs.last().map_or(from.run, |run| run.id.k() + 1),
            delivery: self.deliveries.last().map_or(from.delivery, |one| one.summary.id.k() + 1),
            emitted: self.emitted.last().map_or(from.emitted, |id| id.as_i64()),
            scheduled: self.scheduled.last().map_or(from.scheduled, |one| one.id.k() + 1),
        });
        self
    }
}

/// A run as it is stored.
#[derive(Clone, Debug)]
pub struct StoredRun {
    pub id: RunId,
    pub round: u32,
    pub plugin: Slug,
    pub version: Option<Digest>,
    /// Name of the endpoint that the run belongs to.
    pub endpoint: Option<String>,
    /// The type of its event; empty if the event is missing.
    pub event_type: String,
    pub state: RunState,
    pub outcome: Option<RunOutcome>,
    pub code: Option<String>,
    pub message: Option<String>,
    /// Name of the missing endpoint that a parked run waits for.
    pub wants: Option<String>,
    pub tries: u32,
    pub took: Duration,
    pub memory_peak: u64,
    pub webhooks: u32,
    pub emitted: u32,
    /// Revision of the plugin's settings; `None` if the run was not executed, or if the engine that executed it did not record
    /// the revision.
    pub settings: Option<i64>,
    /// Empty in a list.
    pub log: RunLog,
    /// Backtrace of a run that was stopped: lines of the plugin's source, innermost first. Empty in a list.
    pub backtrace: Vec<String>,
}

/// A run with all its inputs.
#[derive(Clone, Debug)]
pub struct RecordedRun {
    pub id: RunId,
    pub plugin: Slug,
    /// `None` if the run was not executed.
    pub version: Option<Digest>,
    pub outcome: Option<RunOutcome>,
    /// The endpoint that the run belongs to.
    pub endpoint: Option<EndpointId>,
    pub event: Event,
    /// `None` if the run was not executed, or if the engine that executed it did not record its inputs.
    pub recording: Option<Recording>,
}

/// Selects the runs of a plugin with their recordings.
#[derive(Clone, Debug)]
pub struct RecordedFilter {
    pub plugin: Slug,
    /// A pattern of event types, such as `order.*`.
    pub events: Option<Pattern>,
    /// Only runs of events accepted at or after this time.
    pub since: Option<Timestamp>,
    /// Percentage of the runs, chosen by their ids.
    pub share: Share,
}

/// Where a reader that follows new runs continues.
#[derive(Clone, Copy, Debug)]
pub struct SettledFrom {
    /// The last run that the reader has passed. `None`: the reader begins at the minute of `filter.since`.
    pub after: Option<i64>,
    /// An event accepted before this time does not hold up the runs of later events, even if its own runs may still change.
    pub waits_since: Timestamp,
    /// Only runs of events accepted before this time are returned. This leaves the nodes time to commit all earlier events, because
    /// nodes do not commit events in the order of the ids.
    pub until: Timestamp,
}

/// One page of runs that have ended, oldest first.
#[derive(Debug)]
pub struct SettledRuns {
    pub items: Vec<RecordedRun>,
    /// The last run that was passed: the reader continues after it.
    pub after: Option<i64>,
    /// Number of selected runs that were only counted, because the limit was 0. Their events are not read.
    pub passed: u64,
    /// Whether more runs may have ended.
    pub more: bool,
}

/// Maximum number of rows that one read of recorded runs checks.
pub(super) const RECORDED_LOOK: usize = 10_000;
/// Maximum number of bytes of events in one page of recorded runs.
pub(super) const RECORDED_BYTES: usize = 8 << 20;

impl RecordedFilter {
    /// Returns whether this run of `plugin` on an event of this type, accepted at this time, is selected.
    pub(super) fn selects(&self, run: i64, plugin: &str, event_type: &str, accepted_at: i64) -> bool {
        *self.plugin == *plugin
            && self.share.takes(run)
            && self.events.as_ref().is_none_or(|events| events.matches(event_type))
            && self.since.is_none_or(|since| accepted_at >= since.millis())
    }
}

/// The columns, in the order in which [`RecordedRun::read`] reads them.
pub(super) const RECORDED_COLUMNS: &str = "r.id, r.plugin, r.version, r.outcome, r.endpoint, r.settings_revision, r.state_read";

impl RecordedRun {
    /// Returns whether the run was executed by an engine that recorded it.
    pub fn is_recorded(&self) -> bool {
        self.version.is_some() && self.recording.is_some()
    }

    /// Reads [`RECORDED_COLUMNS`] from column `first` on.
    pub(super) fn read(row: &impl Row, first: usize, event: Event) -> Result<Self, Error> {
        let mut columns = Columns::named("run", row);
        columns.place.id = columns.number(first, "id")?;
        let version = columns.optional_bytes(first + 2, "version")?.map(TryInto::<[u8; 32]>::try_into);
        let outcome = columns.optional_text(first + 3, "outcome")?.map(RunOutcome::parse);
        Ok(Self {
            id: RunId::from_i64(columns.id()),
            plugin: columns.word(first + 1, "plugin", |text| Slug::parse(text).ok())?,
            version: version.transpose().map_err(|_| columns.place.corrupt("version"))?.map(Digest::from_bytes),
            outcome: outcome.map(|outcome| outcome.ok_or_else(|| columns.place.corrupt("outcome"))).transpose()?,
            endpoint: columns.optional_number(first + 4, "endpoint")?.map(EndpointId::from_i64),
            event,
            recording: recording_from_columns(
                &columns.place,
                columns.optional_number(first + 5, "settings_revision")?,
                columns.optional_text(first + 6, "state_read")?,
            )?,
        })
    }
}

/// Selects runs for a list.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// One of the words of [`RunState::as_str`].
    pub state: Option<&'static str>,
    pub outcome: Option<RunOutcome>,
    pub plugin: Option<Slug>,
    pub event: Option<EventId>,
    pub event_type: Option<String>,
    /// Only runs of events accepted at or after this time.
    pub since: Option<Timestamp>,
    /// Only runs of events accepted before this time.
    pub until: Option<Timestamp>,
}

/// The columns, in the order in which [`StoredRun::read`] reads them. The log is missing here: it must be added as the last column.
pub(super) const RUN_COLUMNS: &str = "r.id, r.round, r.plugin, r.version, e.name, v.type, r.outcome, r.code, r.message, r.tries, \
     r.took_us, r.memory_peak, r.webhooks, r.emitted, r.log_dropped, q.state, q.next_at, q.wants, r.settings_revision";
/// The joins that these columns need, in addition to the rows `r` of `run` and `q` of `run_queue`.
pub(super) const RUN_JOINS: &str = "LEFT JOIN endpoint e ON e.id = r.endpoint LEFT JOIN event v ON v.id = r.id >> 14";

impl StoredRun {
    /// Reads [`RUN_COLUMNS`] and the log. `steady` turns an instant of the queue into an instant of the steady clock.
    pub(super) fn read(row: &impl Row, steady: impl FnOnce(i64) -> Timestamp) -> Result<Self, Error> {
        let columns = Columns::numbered("run", row)?;
        let number = |column, name| columns.number(column, name).map(i64::unsigned_abs);
        let small =
            |column, name| number(column, name).and_then(|number| u32::try_from(number).map_err(|_| columns.place.corrupt(name)));
        let text = |column, name| Ok::<_, Error>(columns.optional_text(column, name)?.map(str::to_owned));
        let version = columns.optional_bytes(3, "version")?.map(TryInto::<[u8; 32]>::try_into);
        let outcome = columns.optional_text(6, "outcome")?.map(RunOutcome::parse);
        let outcome = outcome.map(|outcome| outcome.ok_or_else(|| columns.place.corrupt("outcome"))).transpose()?;
        let state = match columns.optional_text(15, "state")? {
            None => RunState::ended(outcome),
            Some("waiting") => RunState::Waiting { due: steady(columns.number(16, "next_at")?) },
            Some(_) => RunState::Parked,
        };
        let (log, backtrace) = log_from_columns(&columns.place, text(19, "log")?, columns.number(14, "log_dropped")?)?;
        Ok(Self {
            id: RunId::from_i64(columns.id()),
            round: small(1, "round")?,
            plugin: columns.word(2, "plugin", |text| Slug::parse(text).ok())?,
            version: version.transpose().map_err(|_| columns.place.corrupt("version"))?.map(Digest::from_bytes),
            endpoint: text(4, "endpoint")?,
            event_type: text(5, "type")?.unwrap_or_default(),
            state,
            outcome,
            code: text(7, "code")?,
            message: text(8, "message")?,
            wants: text(17, "wants")?,
            tries: small(9, "tries")?,
            took: Duration::from_micros(number(10, "took_us")?),
            memory_peak: number(11, "memory_peak")?,
            webhooks: small(12, "webhooks")?,
            emitted: small(13, "emitted")?,
            settings: columns.optional_number(18, "settings_revision")?,
            log,
            backtrace,
        })
    }
}

#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    pub endpoint: Option<EndpointId>,
    pub event: Option<EventId>,
    /// One of the words of [`DeliveryState::as_str`].
    pub state: Option<&'static str>,
    /// Only deliveries of events accepted at or after this time.
    pub since: Option<Timestamp>,
}

/// One delivery in a list.
#[derive(Clone, Debug)]
pub struct DeliverySummary {
    pub id: DeliveryId,
    pub endpoint: EndpointId,
    pub endpoint_name: String,
    pub event_type: String,
    /// The run that made the webhook. `None` if the endpoint receives the event directly, or if an older engine did not record
    /// the run.
    pub run: Option<RunId>,
    pub round: u32,
    pub state: DeliveryState,
    pub attempts: u32,
    pub last: Option<StoredAttempt>,
}

/// A delivery with its attempts. Inside an event's history only the last attempts are present.
#[derive(Clone, Debug)]
pub struct DeliveryStory {
    pub summary: DeliverySummary,
    pub attempts: Vec<StoredAttempt>,
}

#[derive(Clone, Debug)]
pub struct StoredAttempt {
    pub id: AttemptId,
    pub attempt: Attempt,
    /// `None` if the engine that made the attempt did not record this.
    pub sent: Option<SentAs>,
}

/// A delivery with all parts of its requests.
#[derive(Clone, Debug)]
pub struct WholeDelivery {
    pub story: DeliveryStory,
    pub event: Event,
    /// The plugin's webhook. If `None`, the event's data is sent in the endpoint's envelope.
    pub payload: Option<Payload>,
}

/// Maximum number of runs, and of deliveries, in a [`Passage`]. It contains the newest ones.
pub(super) const PASSAGE_PARTS: usize = 1_000;

/// The runs and deliveries of an event that concern one endpoint.
#[derive(Clone, Debug)]
pub struct Passage {
    pub event: Event,
    pub parts: Parts,
    /// Runs that belong to no endpoint or to this endpoint, newest first, without their logs.
    pub runs: Vec<StoredRun>,
    /// The event's deliveries to the endpoint, newest first.
    pub deliveries: Vec<PassageDelivery>,
    /// Plugins that recently sent webhooks to this endpoint by its name, while they processed this event or any other.
    pub senders: Vec<String>,
}

/// A delivery, and what it waits for.
#[derive(Clone, Debug)]
pub struct PassageDelivery {
    pub summary: DeliverySummary,
    /// Whether a worker holds the delivery. Its due time is then the end of the lease.
    pub is_claimed: bool,
    pub behind: Option<Behind>,
}
