//! The JSON shapes of everything the API answers with. A secret has no field here, except in the one reply that reveals it.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use serde_json::Value;

use crate::{
    catalog::{PluginEntry, PluginState},
    clock,
    domain::{
        delivery::DeliveryState,
        duration,
        endpoint::{Endpoint, EndpointState, Ordering},
        envelope::is_json,
        event::Event,
        id::Tag,
        run::{LogLine, RunOutcome, RunState},
        signature::Scheme,
        time::Timestamp,
    },
    outbound::fingerprint,
    store::{DeliveryStory, DeliverySummary, EventState, EventStory, EventSummary, KeyRow, StoredAttempt, StoredRun},
};

/// One page of a list.
#[derive(Serialize)]
pub struct PageView<T> {
    pub items: Vec<T>,
    /// What to send as `cursor` for the next page.
    pub next: Option<String>,
}

/// The answer for one accepted event.
#[derive(Serialize)]
pub struct AcceptedView {
    pub id: String,
    pub source: String,
    pub event: String,
    pub duplicate: bool,
}

#[derive(Serialize)]
pub struct EventView {
    pub event: String,
    pub id: String,
    pub source: String,
    pub r#type: String,
    pub subject: Option<String>,
    pub time: String,
    pub accepted_at: String,
    pub state: &'static str,
    pub depth: u8,
    pub cause: Option<String>,
    pub attributes: BTreeMap<String, String>,
    pub content_type: String,
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
            content_type: new.content_type.to_string(),
            bytes,
        }
    }

    pub fn summary(summary: &EventSummary, tag: Tag) -> Self {
        Self::new(&summary.event, summary.bytes, summary.state, tag)
    }
}

#[derive(Serialize)]
pub struct EventStoryView {
    #[serde(flatten)]
    pub event: EventView,
    #[serde(flatten)]
    pub data: DataView,
    pub runs: Vec<RunView>,
    pub deliveries: Vec<DeliveryStoryView>,
    pub emitted: Vec<String>,
}

/// An event's data: JSON as it is, text as a string, anything else in base64.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DataView {
    #[serde(rename = "data")]
    Json(Value),
    #[serde(rename = "data_base64")]
    Base64(String),
}

impl DataView {
    fn new(event: &Event) -> Self {
        let data = &event.new.data;
        if is_json(&event.new.content_type)
            && let Ok(value) = serde_json::from_slice(data)
        {
            return Self::Json(value);
        }
        match std::str::from_utf8(data) {
            Ok("") => Self::Json(Value::Null),
            Ok(text) => Self::Json(Value::String(text.to_owned())),
            Err(_) => Self::Base64(BASE64_STANDARD.encode(data)),
        }
    }
}

impl EventStoryView {
    pub fn new(story: &EventStory, tag: Tag) -> Self {
        let event = &story.event;
        Self {
            event: EventView::new(event, event.new.data.len() as u64, story.state, tag),
            data: DataView::new(event),
            runs: story.runs.iter().map(|run| RunView::new(run, tag)).collect(),
            deliveries: story.deliveries.iter().map(|delivery| DeliveryStoryView::new(delivery, tag)).collect(),
            emitted: story.emitted.iter().map(|id| id.text(tag)).collect(),
        }
    }
}

#[derive(Serialize)]
pub struct RunView {
    pub id: String,
    pub plugin: String,
    pub version: Option<String>,
    pub endpoint: Option<String>,
    pub round: u32,
    pub state: &'static str,
    pub outcome: Option<&'static str>,
    pub code: Option<String>,
    pub message: Option<String>,
    pub tries: u32,
    pub due: Option<String>,
    pub duration_ms: f64,
    pub memory_bytes: u64,
    pub webhooks: u32,
    pub events: u32,
    pub log: Vec<LogView>,
    pub log_dropped: u64,
}

#[derive(Serialize)]
pub struct LogView {
    pub level: &'static str,
    pub message: String,
}

impl RunView {
    fn new(run: &StoredRun, tag: Tag) -> Self {
        let (state, due) = match run.state {
            RunState::Done => ("done", None),
            RunState::Waiting { due } => ("waiting", Some(due)),
            RunState::Parked => ("parked", None),
        };
        let line = |line: &LogLine| LogView { level: line.level.as_str(), message: line.message.clone() };
        Self {
            id: run.id.text(tag),
            plugin: run.plugin.to_string(),
            version: run.version.map(|version| version.to_string()),
            endpoint: run.endpoint.clone(),
            round: run.round,
            state,
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

#[derive(Serialize)]
pub struct DeliveryView {
    pub id: String,
    pub event: String,
    pub endpoint: String,
    pub endpoint_name: String,
    pub r#type: String,
    pub round: u32,
    pub state: &'static str,
    pub reason: Option<&'static str>,
    pub attempt_count: u32,
    pub due: Option<String>,
    pub at: Option<String>,
    pub last: Option<LastView>,
}

/// The last attempt in one line.
#[derive(Serialize)]
pub struct LastView {
    pub outcome: &'static str,
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

#[derive(Serialize)]
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

#[derive(Serialize)]
pub struct AttemptView {
    pub id: String,
    pub n: u32,
    pub at: String,
    pub outcome: &'static str,
    pub status: Option<u16>,
    pub latency_ms: f64,
    pub detail: Option<String>,
    /// The first bytes of the answer, as text.
    pub excerpt: String,
}

impl AttemptView {
    fn new(stored: &StoredAttempt, tag: Tag) -> Self {
        let attempt = &stored.attempt;
        Self {
            id: stored.id.text(tag),
            n: stored.id.n(),
            at: attempt.at.to_string(),
            outcome: attempt.outcome.as_str(),
            status: attempt.outcome.status(),
            latency_ms: millis(attempt.latency),
            detail: attempt.detail.clone(),
            excerpt: String::from_utf8_lossy(&attempt.excerpt).into_owned(),
        }
    }
}

#[derive(Serialize)]
pub struct EndpointView {
    pub id: String,
    pub name: String,
    pub title: Option<String>,
    pub url: String,
    pub events: Vec<String>,
    pub r#where: BTreeMap<String, Vec<String>>,
    pub plugin: Option<String>,
    pub signature: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub timeout: String,
    pub schedule: Option<Vec<String>>,
    pub concurrency: usize,
    pub rate: Option<String>,
    pub ordered: Option<&'static str>,
    pub breaker: BreakerView,
    pub envelope: &'static str,
    pub format: &'static str,
    /// Where the signature is a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_header: Option<String>,
    pub client_certificate: Option<CertificateView>,
    pub state: &'static str,
    pub disabled_reason: Option<&'static str>,
    /// Set once nothing has succeeded for a while.
    pub failing_since: Option<String>,
    pub created_at: String,
    /// Only in the reply that creates or rotates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Which certificate the endpoint presents. Neither it nor its key is shown.
#[derive(Serialize)]
pub struct CertificateView {
    pub sha256: Option<String>,
    pub key: &'static str,
}

/// When the endpoint is left alone for a while.
#[derive(Serialize)]
pub struct BreakerView {
    pub failures: u32,
    pub wait: String,
    pub wait_max: String,
}

impl EndpointView {
    pub fn new(endpoint: &Endpoint, tag: Tag) -> Self {
        let new = &endpoint.new;
        let (state, disabled_reason) = match new.state {
            EndpointState::Active => ("active", None),
            EndpointState::Paused => ("paused", None),
            EndpointState::Disabled(reason) => ("disabled", Some(reason.as_str())),
        };
        let secret = new.secrets.first().map(|held| &held.secret);
        Self {
            id: endpoint.id.text(tag),
            name: new.name.to_string(),
            title: new.title.clone(),
            url: new.url.clone(),
            events: new.subscription.events.iter().map(ToString::to_string).collect(),
            r#where: new.subscription.conditions.iter().cloned().collect(),
            plugin: new.plugin.as_ref().map(ToString::to_string),
            signature: new.scheme.as_str(),
            public_key: secret.and_then(|secret| secret.public()),
            headers: new.policy.headers.iter().map(|(name, value)| (name.clone(), shown(name, value))).collect(),
            timeout: duration::write(new.policy.timeout),
            schedule: new
                .policy
                .schedule
                .as_ref()
                .map(|schedule| schedule.waits().iter().map(|wait| duration::write(*wait)).collect()),
            concurrency: new.policy.concurrency,
            rate: new.policy.rate.map(|rate| rate.to_string()),
            ordered: new.policy.ordering.map(Ordering::as_str),
            breaker: BreakerView {
                failures: new.policy.breaker.failures,
                wait: duration::write(new.policy.breaker.wait),
                wait_max: duration::write(new.policy.breaker.wait_max),
            },
            envelope: new.policy.envelope.as_str(),
            format: new.policy.format.as_str(),
            token_header: (new.scheme == Scheme::Token).then(|| endpoint.proof().token_header.to_owned()),
            client_certificate: new.policy.client_certificate.as_ref().map(|certificate| CertificateView {
                sha256: fingerprint(certificate).map(|digest| digest.to_string()),
                key: HIDDEN,
            }),
            state,
            disabled_reason,
            failing_since: endpoint.failing_since.map(|since| since.to_string()),
            created_at: endpoint.created_at.to_string(),
            secret: None,
        }
    }

    /// With the secret: for the one reply that may carry it.
    pub fn revealing(endpoint: &Endpoint, tag: Tag) -> Self {
        let secret = endpoint.new.secrets.first().map(|held| held.secret.reveal());
        Self { secret, ..Self::new(endpoint, tag) }
    }
}

/// What stands for a header value that may be a credential. Sending it back leaves the value as it is.
pub const HIDDEN: &str = "(not shown)";

fn shown(name: &str, value: &str) -> String {
    let plain = ["accept", "accept-language", "x-source", "x-environment"].contains(&name);
    if plain { value.to_owned() } else { HIDDEN.to_owned() }
}

#[derive(Serialize)]
pub struct PluginView {
    pub name: String,
    pub version: Option<String>,
    pub state: &'static str,
    pub error: Option<String>,
    pub description: String,
    pub author_version: String,
    pub on: Vec<String>,
    pub file: String,
    pub bytes: u64,
}

impl PluginView {
    pub fn new(entry: &PluginEntry) -> Self {
        let row = &entry.row;
        let (state, error) = match &entry.state {
            PluginState::Serving(_) => ("serving", None),
            PluginState::NotLoadable(reason) => ("not-loadable", Some(reason.clone())),
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
            state: "not-loadable",
            error: Some(reason.to_owned()),
            description: String::new(),
            author_version: String::new(),
            on: Vec::new(),
            file: file.to_owned(),
            bytes: 0,
        }
    }
}

#[derive(Serialize)]
pub struct KeyView {
    pub id: String,
    pub name: String,
    pub role: &'static str,
    pub created_at: String,
    /// Only in the reply that creates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl KeyView {
    pub fn new(key: &KeyRow, tag: Tag) -> Self {
        Self {
            id: key.id.text(tag),
            name: key.name.clone(),
            role: key.role.as_str(),
            created_at: key.created_at.to_string(),
            key: None,
        }
    }
}
