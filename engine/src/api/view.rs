//! The JSON shapes of everything the API answers with. A secret has no field here, except in the one reply that reveals it.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;

use super::inbound::RequestView;
use crate::{
    catalog::{PluginEntry, PluginState},
    clock,
    domain::{
        delivery::{Attempt, AttemptOutcome, DeadReason, DeliveryState},
        event::{Event, EventState},
        id::{AttemptId, AuditId, DeliveryId, EndpointId, EventId, JobId, KeyId, RunId, Tag},
        job::{Ended, Job, JobState},
        key::Role,
        name::EventType,
        pattern::Pattern,
        run::{LogLevel, LogLine, RunOutcome, RunState},
        time::Timestamp,
    },
    store::{AuditEntry, DeliveryStory, DeliverySummary, EventStory, EventSummary, KeyRow, StoredAttempt, StoredRun, StoryPlace},
};

/// One page of a list.
#[derive(Serialize, ToSchema)]
#[schema(as = Page)]
pub struct PageView<T> {
    pub items: Vec<T>,
    /// What to send as `cursor` for the next page.
    pub next: Option<String>,
}

/// The answer for one accepted event.
#[derive(Serialize, ToSchema)]
#[schema(as = Accepted)]
pub struct AcceptedView {
    /// The caller's id, else the engine's.
    pub id: String,
    pub source: String,
    /// The engine's id of the event.
    #[schema(value_type = EventId)]
    pub event: String,
    /// Whether an event of this source and id was here before; then nothing was changed.
    pub duplicate: bool,
}

/// One accepted event.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventView {
    /// The engine's id.
    #[schema(value_type = EventId)]
    pub event: String,
    /// The caller's id, else the engine's.
    pub id: String,
    pub source: String,
    #[schema(value_type = EventType)]
    pub r#type: String,
    pub subject: Option<String>,
    /// When it happened, as its sender wrote it.
    pub time: String,
    #[schema(value_type = Timestamp)]
    pub accepted_at: String,
    #[schema(value_type = EventState)]
    pub state: &'static str,
    /// How many events stand before it in its chain.
    pub depth: u8,
    /// The event whose run emitted it.
    #[schema(value_type = Option<EventId>)]
    pub cause: Option<String>,
    /// Extension attributes.
    pub attributes: BTreeMap<String, String>,
    pub content_type: String,
    /// Length of its data.
    pub bytes: u64,
}

impl EventView {
    fn new(event: &Event, bytes: u64, state: EventState, tag: Tag) -> Self {
        let new = &event.new;
        Self {
            event: event.id.text(tag),
            id: event.public_id(tag),
            source: new.source.to_string(),
            r#type: new.event_type.to_string(),
            subject: new.subject.as_deref().map(str::to_owned),
            time: event.time(),
            accepted_at: event.accepted_at.to_string(),
            state: state.as_str(),
            depth: new.depth,
            cause: new.cause.map(|cause| cause.text(tag)),
            attributes: new.attributes.0.iter().cloned().collect(),
            content_type: new.content.content_type().to_string(),
            bytes,
        }
    }

    pub fn summary(summary: &EventSummary, tag: Tag) -> Self {
        Self::new(&summary.event, summary.bytes, summary.state, tag)
    }
}

/// One event with everything that happened to it.
#[derive(Serialize, ToSchema)]
#[schema(as = EventStory)]
pub struct EventStoryView {
    #[serde(flatten)]
    pub event: EventView,
    #[serde(flatten)]
    pub data: DataView,
    /// The request that a source took it from.
    pub request: Option<RequestView>,
    pub runs: Vec<RunView>,
    pub deliveries: Vec<DeliveryStoryView>,
    /// The events that its runs emitted.
    #[schema(value_type = Vec<EventId>)]
    pub emitted: Vec<String>,
    /// What to send as `cursor` for the next part of the story.
    pub next: Option<String>,
}

/// An event's data: JSON as it is, text as a string, anything else in base64.
#[derive(Serialize, ToSchema)]
#[schema(as = Data)]
#[serde(rename_all = "snake_case")]
pub enum DataView {
    #[serde(rename = "data")]
    #[schema(value_type = serde_json::Value)]
    Json(Box<RawValue>),
    #[serde(rename = "data_base64")]
    Base64(String),
}

impl DataView {
    fn new(event: &Event) -> Self {
        let content = &event.new.content;
        if let Some(json) = content.json() {
            return Self::Json(json.value().to_owned());
        }
        match std::str::from_utf8(content.bytes()) {
            Ok("") => Self::Json(RawValue::NULL.to_owned()),
            Ok(text) => Self::Json(to_raw_value(text).expect("text is always JSON")),
            Err(_) => Self::Base64(BASE64_STANDARD.encode(content.bytes())),
        }
    }
}

impl EventStoryView {
    pub fn new(story: &EventStory, tag: Tag) -> Self {
        let event = &story.event;
        Self {
            event: EventView::new(event, event.new.content.bytes().len() as u64, story.state, tag),
            data: DataView::new(event),
            request: event.new.request.as_deref().map(RequestView::new),
            runs: story.runs.iter().map(|run| RunView::new(run, tag)).collect(),
            deliveries: story.deliveries.iter().map(|delivery| DeliveryStoryView::new(delivery, tag)).collect(),
            emitted: story.emitted.iter().map(|id| id.text(tag)).collect(),
            next: story.next.map(|StoryPlace { run, delivery, emitted }| format!("{run}.{delivery}.{emitted}")),
        }
    }

    /// A further part: whoever reads it has the data already.
    pub fn without_data(self) -> Self {
        Self { data: DataView::Json(RawValue::NULL.to_owned()), request: None, ..self }
    }
}

/// A plugin on an event.
#[derive(Serialize, ToSchema)]
#[schema(as = Run)]
pub struct RunView {
    #[schema(value_type = RunId)]
    pub id: String,
    pub plugin: String,
    /// SHA-256 of the plugin that ran.
    pub version: Option<String>,
    /// The name of the endpoint that the plugin belongs to.
    pub endpoint: Option<String>,
    /// 0 for the first time, then one more for each replay.
    pub round: u32,
    #[schema(value_type = RunState)]
    pub state: &'static str,
    #[schema(value_type = Option<RunOutcome>)]
    pub outcome: Option<&'static str>,
    /// Why it did not end `ok`: a word for programs.
    pub code: Option<String>,
    /// Why it did not end `ok`: a sentence for people.
    pub message: Option<String>,
    pub tries: u32,
    /// When it is tried again.
    #[schema(value_type = Option<Timestamp>)]
    pub due: Option<String>,
    pub duration_ms: f64,
    /// The most that it held.
    pub memory_bytes: u64,
    /// How many webhooks it asked for.
    pub webhooks: u32,
    /// How many events it emitted.
    pub events: u32,
    pub log: Vec<LogView>,
    /// Lines over the limit, which are not kept.
    pub log_dropped: u64,
}

/// A line that a plugin logged.
#[derive(Serialize, ToSchema)]
#[schema(as = LogLine)]
pub struct LogView {
    #[schema(value_type = LogLevel)]
    pub level: &'static str,
    pub message: String,
}

impl RunView {
    fn new(run: &StoredRun, tag: Tag) -> Self {
        let due = match run.state {
            RunState::Waiting { due } => Some(due),
            RunState::Done | RunState::Parked => None,
        };
        let line = |line: &LogLine| LogView { level: line.level.as_str(), message: line.message.clone() };
        Self {
            id: run.id.text(tag),
            plugin: run.plugin.to_string(),
            version: run.version.map(|version| version.to_string()),
            endpoint: run.endpoint.clone(),
            round: run.round,
            state: run.state.as_str(),
            outcome: run.outcome.map(RunOutcome::as_str),
            code: run.code.clone(),
            message: run.message.clone(),
            tries: run.tries,
            due: due.map(|due| clock::as_wall(due).to_string()),
            duration_ms: millis(run.took),
            memory_bytes: run.memory_peak,
            webhooks: run.webhooks,
            events: run.emitted,
            log: run.log.lines.iter().map(line).collect(),
            log_dropped: run.log.dropped,
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// A webhook on its way to one endpoint.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
pub struct DeliveryView {
    #[schema(value_type = DeliveryId)]
    pub id: String,
    #[schema(value_type = EventId)]
    pub event: String,
    #[schema(value_type = EndpointId)]
    pub endpoint: String,
    pub endpoint_name: String,
    /// The type that the webhook carries.
    pub r#type: String,
    /// 0 for the first time, then one more for each replay of the event.
    pub round: u32,
    #[schema(value_type = DeliveryState)]
    pub state: &'static str,
    /// Why it is dead.
    #[schema(value_type = Option<DeadReason>)]
    pub reason: Option<&'static str>,
    pub attempt_count: u32,
    /// When it is tried (again).
    #[schema(value_type = Option<Timestamp>)]
    pub due: Option<String>,
    /// When it was delivered, given up or called off.
    #[schema(value_type = Option<Timestamp>)]
    pub at: Option<String>,
    pub last: Option<LastView>,
}

/// The last attempt in one line.
#[derive(Serialize, ToSchema)]
#[schema(as = LastAttempt)]
pub struct LastView {
    #[schema(value_type = AttemptOutcome)]
    pub outcome: &'static str,
    /// The status of the answer.
    pub status: Option<u16>,
}

impl DeliveryView {
    pub fn new(summary: &DeliverySummary, tag: Tag) -> Self {
        let (due, at, reason) = match summary.state {
            DeliveryState::Pending { due } | DeliveryState::Retrying { due } => (Some(due), None, None),
            DeliveryState::Delivered { at } | DeliveryState::Cancelled { at } => (None, Some(at), None),
            DeliveryState::Dead { at, reason } => (None, Some(at), Some(reason.as_str())),
        };
        let text = |at: Timestamp| at.to_string();
        Self {
            id: summary.id.text(tag),
            event: summary.id.event().text(tag),
            endpoint: summary.endpoint.text(tag),
            endpoint_name: summary.endpoint_name.clone(),
            r#type: summary.event_type.clone(),
            round: summary.round,
            state: summary.state.as_str(),
            reason,
            attempt_count: summary.attempts,
            due: due.map(clock::as_wall).map(text),
            at: at.map(text),
            last: summary
                .last
                .as_ref()
                .map(|last| LastView { outcome: last.attempt.outcome.as_str(), status: last.attempt.outcome.status() }),
        }
    }
}

/// A delivery with its attempts: all of them, or the last 10 where it is part of an event's story.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryStory)]
pub struct DeliveryStoryView {
    #[serde(flatten)]
    pub delivery: DeliveryView,
    pub attempts: Vec<AttemptView>,
}

impl DeliveryStoryView {
    pub fn new(story: &DeliveryStory, tag: Tag) -> Self {
        Self {
            delivery: DeliveryView::new(&story.summary, tag),
            attempts: story.attempts.iter().map(|attempt| AttemptView::new(attempt, tag)).collect(),
        }
    }
}

/// One try of a delivery.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempt)]
pub struct AttemptView {
    #[schema(value_type = AttemptId)]
    pub id: String,
    /// Counted from 1.
    pub n: u32,
    #[serde(flatten)]
    pub result: AttemptResultView,
}

impl AttemptView {
    fn new(stored: &StoredAttempt, tag: Tag) -> Self {
        Self { id: stored.id.text(tag), n: stored.id.n(), result: AttemptResultView::new(&stored.attempt) }
    }
}

/// What came of sending a webhook once.
#[derive(Serialize, ToSchema)]
#[schema(as = AttemptResult)]
pub struct AttemptResultView {
    #[schema(value_type = Timestamp)]
    pub at: String,
    #[schema(value_type = AttemptOutcome)]
    pub outcome: &'static str,
    /// The status of the answer.
    pub status: Option<u16>,
    pub latency_ms: f64,
    /// A sentence about the outcome.
    pub detail: Option<String>,
    /// The first bytes of the answer, as text.
    pub excerpt: String,
}

impl AttemptResultView {
    pub fn new(attempt: &Attempt) -> Self {
        Self {
            at: attempt.at.to_string(),
            outcome: attempt.outcome.as_str(),
            status: attempt.outcome.status(),
            latency_ms: millis(attempt.latency),
            detail: attempt.detail.clone(),
            excerpt: String::from_utf8_lossy(&attempt.excerpt).into_owned(),
        }
    }
}

/// The state of an endpoint that is disabled, whatever for.
const SERVING: &str = "serving";
const NOT_LOADABLE: &str = "not-loadable";
/// The states that a plugin is shown in.
pub const PLUGIN_STATES: [&str; 2] = [SERVING, NOT_LOADABLE];

/// What decides about events.
#[derive(Serialize, ToSchema)]
#[schema(as = Plugin)]
pub struct PluginView {
    pub name: String,
    /// SHA-256 of its bytes; `null` for a file that never became a plugin.
    pub version: Option<String>,
    #[schema(value_type = PluginState)]
    pub state: &'static str,
    /// Why it does not load, or why a newer file was refused.
    pub error: Option<String>,
    pub description: String,
    /// What its author calls this version.
    pub author_version: String,
    /// The events that it runs on.
    pub on: Vec<String>,
    pub file: String,
    pub bytes: u64,
}

impl PluginView {
    pub fn new(entry: &PluginEntry) -> Self {
        let row = &entry.row;
        let (state, error) = match &entry.state {
            PluginState::Serving(_) => (SERVING, None),
            PluginState::NotLoadable(reason) => (NOT_LOADABLE, Some(reason.clone())),
        };
        Self {
            name: row.name.to_string(),
            version: Some(row.version.to_string()),
            state,
            error: entry.refused.clone().or(error),
            description: row.description.clone(),
            author_version: row.author_version.clone(),
            on: row.on.clone(),
            file: row.file.clone(),
            bytes: row.bytes,
        }
    }

    /// A file that never became a plugin, under its own name.
    pub fn broken(file: &str, reason: &str) -> Self {
        Self {
            name: file.trim_end_matches(".wasm").to_owned(),
            version: None,
            state: NOT_LOADABLE,
            error: Some(reason.to_owned()),
            description: String::new(),
            author_version: String::new(),
            on: Vec::new(),
            file: file.to_owned(),
            bytes: 0,
        }
    }
}

/// How much state a plugin keeps, and how much it may.
#[derive(Serialize, ToSchema)]
#[schema(as = PluginStateSize)]
pub struct StateSizeView {
    pub plugin: String,
    pub keys: u64,
    /// Keys and values together.
    pub bytes: u64,
    /// `plugin.state_keys_max`.
    pub keys_max: u64,
    /// `plugin.state_max`.
    pub bytes_max: u64,
}

/// What was cleared.
#[derive(Serialize, ToSchema)]
#[schema(as = ClearedState)]
pub struct ClearedStateView {
    pub plugin: String,
    /// How many keys were deleted.
    pub keys: u64,
}

/// An API key.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub struct KeyView {
    #[schema(value_type = KeyId)]
    pub id: String,
    pub name: String,
    #[schema(value_type = Role)]
    pub role: &'static str,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    /// From then on it opens nothing; null for one that is good until it is revoked.
    #[schema(value_type = Option<Timestamp>)]
    pub expires_at: Option<String>,
    pub expired: bool,
    #[schema(value_type = Option<Timestamp>)]
    pub last_used_at: Option<String>,
    /// Only in the reply that creates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub key: Option<String>,
}

impl KeyView {
    /// `last_used_at` is what is known beyond the row, `now` the wall clock.
    pub fn new(key: &KeyRow, last_used_at: Option<Timestamp>, now: Timestamp, tag: Tag) -> Self {
        let text = |at: Timestamp| at.to_string();
        Self {
            id: key.id.text(tag),
            name: key.new.name.clone(),
            role: key.new.role.as_str(),
            created_at: text(key.created_at),
            expires_at: key.new.expires_at.map(text),
            expired: key.has_expired(now),
            last_used_at: key.last_used_at.max(last_used_at).map(text),
            key: None,
        }
    }
}

/// A change.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditView {
    #[schema(value_type = AuditId)]
    pub id: String,
    #[schema(value_type = Timestamp)]
    pub at: String,
    /// The name of the key.
    pub key: String,
    /// What was done to what, such as `endpoint.update`.
    pub action: String,
    /// The id or the name of the thing.
    pub target: Option<String>,
    /// What the caller was answered; null while it is being made, or when the engine ended meanwhile.
    pub status: Option<u16>,
}

impl AuditView {
    pub fn new(entry: &AuditEntry, tag: Tag) -> Self {
        Self {
            id: entry.id.text(tag),
            at: entry.new.at.to_string(),
            key: entry.new.key.clone(),
            action: entry.new.action.clone(),
            target: entry.new.target.clone(),
            status: entry.status,
        }
    }
}

/// Work on many deliveries.
#[derive(Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    #[schema(value_type = JobId)]
    pub id: String,
    /// What it does; `delivery.retry` so far.
    pub kind: &'static str,
    #[schema(value_type = JobState)]
    pub state: &'static str,
    /// Deliveries that are due again.
    pub done: u64,
    /// Deliveries that could not be: their endpoint is gone or disabled, or they have had all their attempts.
    pub failed: u64,
    /// How many there were at the beginning; null when they were too many to count.
    pub total: Option<u64>,
    pub filter: RetryFilterView,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    #[schema(value_type = Option<Timestamp>)]
    pub finished_at: Option<String>,
}

/// What a bulk retry was asked for.
#[derive(Serialize, ToSchema)]
#[schema(as = RetryFilter)]
pub struct RetryFilterView {
    #[schema(value_type = Option<EndpointId>)]
    pub endpoint: Option<String>,
    #[schema(value_type = Ended)]
    pub state: &'static str,
    #[schema(value_type = Option<DeadReason>)]
    pub reason: Option<&'static str>,
    #[schema(value_type = Option<Pattern>)]
    pub event_type: Option<String>,
    #[schema(value_type = Option<Timestamp>)]
    pub since: Option<String>,
    #[schema(value_type = Option<Timestamp>)]
    pub until: Option<String>,
}

impl JobView {
    pub fn new(job: &Job, tag: Tag) -> Self {
        let text = |at: Timestamp| at.to_string();
        let filter = &job.filter;
        Self {
            id: job.id.text(tag),
            kind: "delivery.retry",
            state: job.state.as_str(),
            done: job.done,
            failed: job.failed,
            total: job.total,
            filter: RetryFilterView {
                endpoint: filter.endpoint.map(|endpoint| endpoint.text(tag)),
                state: filter.ended.as_str(),
                reason: filter.reason.map(DeadReason::as_str),
                event_type: filter.event_type.as_ref().map(ToString::to_string),
                since: filter.since.map(text),
                until: filter.until.map(text),
            },
            created_at: text(job.created_at),
            finished_at: job.finished_at.map(text),
        }
    }
}
