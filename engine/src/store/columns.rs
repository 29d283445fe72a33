//! Columns and values: writes and reads the columns that both stores keep as text or bytes (lists, policies, secrets). A value
//! that cannot be read is an error that names its table, column and id.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Error, Seal};
use crate::domain::{
    breaker::BreakerRule,
    certificate::ClientCertificate,
    delivery::{CancelReason, DeadReason, DeliveryState, Ending},
    endpoint::{Endpoint, EndpointState, HeldSecret, NewEndpoint, OnGone, Ordering, Policy, Reach, Subscription},
    envelope::{Envelope, Format},
    event::EventState,
    id::{EndpointId, KeyId},
    job::{Ended, ReplayFilter, RetryFilter, RunRetryFilter, Task},
    name::{Attributes, Slug},
    pattern::Pattern,
    rate::Rate,
    recording::{RecordedState, Recording},
    request::Request,
    retry::Schedule,
    run::{Execution, LogLevel, LogLine, RunLog, RunOutcome},
    sent::SentAs,
    signature::{Scheme, Secret},
    time::Timestamp,
};

/// The codec of a payload that is stored unchanged.
pub const PLAIN: i64 = 0;

/// Table and id of a value, for errors.
pub struct Place {
    pub table: &'static str,
    pub id: i64,
}

impl Place {
    pub fn corrupt(&self, column: &'static str) -> Error {
        Error::Corrupt { table: self.table, column, id: self.id }
    }

    pub fn json<T: serde::de::DeserializeOwned>(&self, column: &'static str, text: &str) -> Result<T, Error> {
        serde_json::from_str(text).map_err(|_| self.corrupt(column))
    }
}

/// Returns `None`, stored as NULL, for an empty list: most lists are empty.
fn json_unless_empty<T: serde::Serialize>(items: &[T]) -> Option<String> {
    (!items.is_empty()).then(|| json(&items))
}

pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("lists and maps of text and numbers are always JSON")
}

pub fn attributes_to_column(attributes: &Attributes) -> Option<String> {
    json_unless_empty(&attributes.0)
}

pub fn headers_to_column(headers: &[(String, String)]) -> Option<String> {
    json_unless_empty(headers)
}

/// The column `request`: method, query, headers.
type RequestColumn<'a> = (Cow<'a, str>, Cow<'a, str>, Cow<'a, [(String, String)]>);

pub fn request_to_column(request: &Request) -> String {
    json::<RequestColumn<'_>>(&((&*request.method).into(), (&*request.query).into(), (&*request.headers).into()))
}

pub fn request_from_columns(place: &Place, text: &str, body: Option<Vec<u8>>) -> Result<Request, Error> {
    let (method, query, headers): RequestColumn<'_> = place.json("request", text)?;
    Ok(Request { method: method.into(), query: query.into(), headers: headers.into(), body: body.map(Bytes::from) })
}

/// The column `sent` of an attempt. A member that is missing has its default.
#[derive(Serialize, Deserialize)]
struct SentColumn<'a> {
    url: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scheme: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_header: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    envelope: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    headers: Cow<'a, [(String, String)]>,
}

pub fn sent_to_column(sent: &SentAs) -> String {
    let SentAs { url, scheme, token_header, envelope, format, headers } = sent;
    json(&SentColumn {
        url: url.as_str().into(),
        scheme: (*scheme != Scheme::default()).then(|| scheme.as_str().into()),
        token_header: token_header.as_deref().map(Cow::from),
        envelope: (*envelope != Envelope::default()).then(|| envelope.as_str().into()),
        format: (*format != Format::default()).then(|| format.as_str().into()),
        headers: headers.as_slice().into(),
    })
}

pub fn sent_from_column(place: &Place, text: &str) -> Result<SentAs, Error> {
    let column: SentColumn<'_> = place.json("sent", text)?;
    let corrupt = || place.corrupt("sent");
    Ok(SentAs {
        url: column.url.into_owned(),
        scheme: column.scheme.map_or(Some(Scheme::default()), |word| Scheme::parse(&word)).ok_or_else(corrupt)?,
        token_header: column.token_header.map(Cow::into_owned),
        envelope: column.envelope.map_or(Some(Envelope::default()), |word| Envelope::parse(&word)).ok_or_else(corrupt)?,
        format: column.format.map_or(Some(Format::default()), |word| Format::parse(&word)).ok_or_else(corrupt)?,
        headers: column.headers.into_owned(),
    })
}

/// The columns `state`, `reason` and `cancel_reason` of a finished delivery.
pub const fn ending_to_columns(ending: Ending) -> (&'static str, Option<&'static str>, Option<&'static str>) {
    match ending {
        Ending::Delivered => (DeliveryState::WORDS[2], None, None),
        Ending::Dead(reason) => (DeliveryState::WORDS[3], Some(reason.as_str()), None),
        Ending::Cancelled(reason) => (DeliveryState::WORDS[4], None, Some(reason.as_str())),
    }
}

/// Reads the columns of a finished delivery.
pub fn ended(
    place: &Place,
    at: Timestamp,
    state: &str,
    reason: Option<&str>,
    cancelled: Option<&str>,
) -> Result<DeliveryState, Error> {
    Ok(match state {
        "delivered" => DeliveryState::Delivered { at },
        "cancelled" => {
            let read = |text| CancelReason::parse(text).ok_or_else(|| place.corrupt("cancel_reason"));
            DeliveryState::Cancelled { at, reason: cancelled.map(read).transpose()? }
        }
        _ => DeliveryState::Dead { at, reason: reason.and_then(DeadReason::parse).ok_or_else(|| place.corrupt("reason"))? },
    })
}

/// Marks a line of a backtrace in the column `log`. This word takes the place of the level of a log line.
const AT: &str = "at";

/// Marks the fields of the preceding log line. This word takes the place of the level of a log line, so an older engine shows the
/// fields as a separate line.
const WITH: &str = "with";

/// Writes the log of a run, and its backtrace after it.
pub fn log_to_column(Execution { log, backtrace, .. }: &Execution) -> Option<String> {
    let mut lines = Vec::with_capacity(log.lines.len() + backtrace.len());
    for LogLine { level, message, fields } in &log.lines {
        lines.push((level.as_str(), Cow::Borrowed(message.as_str())));
        lines.extend((!fields.is_empty()).then(|| (WITH, Cow::Owned(json(fields)))));
    }
    lines.extend(backtrace.iter().map(|line| (AT, Cow::Borrowed(line.as_str()))));
    json_unless_empty(&lines)
}

/// Reads the log of a run, and its backtrace.
pub fn log_from_columns(place: &Place, lines: Option<String>, dropped: i64) -> Result<(RunLog, Vec<String>), Error> {
    let mut lines: Vec<(String, String)> = match lines {
        Some(lines) => place.json("log", &lines)?,
        None => Vec::new(),
    };
    let backtrace = lines.extract_if(.., |(level, _)| level == AT).map(|(_, line)| line).collect();
    let mut read: Vec<LogLine> = Vec::with_capacity(lines.len());
    for (level, message) in lines {
        match (level.as_str(), read.last_mut()) {
            (WITH, Some(line)) => line.fields = place.json("log", &message)?,
            _ => read.push(LogLine { level: LogLevel::parse(&level), message, fields: Vec::new() }),
        }
    }
    Ok((RunLog { lines: read, dropped: dropped.unsigned_abs() }, backtrace))
}

/// The column `state_read`. Its member `v` is the version of the format, so that a later engine can extend the format.
#[derive(Serialize, Deserialize)]
struct StateReadColumn<'a> {
    v: u8,
    /// When the run began (wall clock, ms). Missing in runs of earlier engines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    /// Keys with their values in base64. Missing if the values were too large.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Vec<(Cow<'a, str>, Option<String>)>>,
}

const STATE_READ_VERSION: u8 = 1;

/// Returns `None`, stored as NULL, for a run that read no state: most runs read none.
pub fn state_read_to_column(Recording { settings: _, at, state }: &Recording) -> Option<String> {
    let state = match state {
        RecordedState::Read(read) if read.is_empty() => return None,
        RecordedState::Read(read) => Some(read),
        RecordedState::TooLarge => None,
    };
    let one = |(key, value): &'_ (String, Option<Vec<u8>>)| {
        (Cow::Owned(key.clone()), value.as_ref().map(|value| BASE64_STANDARD.encode(value)))
    };
    let state = state.map(|read| read.iter().map(one).collect());
    Some(json(&StateReadColumn { v: STATE_READ_VERSION, at: at.map(Timestamp::millis), state }))
}

/// Reads the inputs of a run. Returns `None` if the run was not executed, or if the engine did not record its inputs.
pub fn recording_from_columns(place: &Place, settings: Option<i64>, state: Option<&str>) -> Result<Option<Recording>, Error> {
    let corrupt = || place.corrupt("state_read");
    let Some(settings) = settings else { return Ok(None) };
    let Some(text) = state else { return Ok(Some(Recording { settings, ..Recording::default() })) };
    let column: StateReadColumn<'_> = place.json("state_read", text)?;
    if column.v != STATE_READ_VERSION {
        return Err(corrupt());
    }
    let one = |(key, value): (Cow<'_, str>, Option<String>)| {
        let value = value.map(|value| BASE64_STANDARD.decode(value)).transpose().map_err(|_| corrupt())?;
        Ok::<_, Error>((key.into_owned(), value))
    };
    let state = match column.state {
        Some(read) => RecordedState::Read(read.into_iter().map(one).collect::<Result<_, _>>()?),
        None => RecordedState::TooLarge,
    };
    Ok(Some(Recording { settings, at: column.at.map(Timestamp::from_millis), state }))
}

/// The columns of an endpoint, in the order in which they are written. [`endpoint`] reads them in the same order, after the id.
pub struct EndpointColumns {
    pub name: String,
    pub title: Option<String>,
    pub url: String,
    pub events: String,
    pub conditions: String,
    pub plugin: Option<String>,
    pub scheme: &'static str,
    pub state: &'static str,
    pub policy: String,
    pub sealed: Vec<u8>,
}

/// The column `policy`: how webhooks to an endpoint are sent, without secrets. A missing member has its default.
#[derive(Serialize, Deserialize)]
#[serde(default)]
struct PolicyColumn {
    timeout_ms: u64,
    schedule_ms: Option<Vec<u64>>,
    concurrency: usize,
    rate: Option<String>,
    ordering: Option<String>,
    /// Number of consecutive failures that open the circuit breaker, then the first and the longest wait of the breaker in ms.
    breaker: (u32, u64, u64),
    envelope: String,
    format: String,
    token_header: Option<String>,
    on_gone: String,
    /// Missing in rows that an older engine wrote: see [`Reach::unsaid`].
    #[serde(default)]
    reach: Option<String>,
    made_by: Option<i64>,
}

impl Default for PolicyColumn {
    fn default() -> Self {
        Self::of(&Policy::default())
    }
}

impl PolicyColumn {
    fn of(policy: &Policy) -> Self {
        let breaker = &policy.breaker;
        Self {
            timeout_ms: millis(policy.timeout),
            schedule_ms: policy.schedule.as_ref().map(|schedule| schedule.waits().iter().copied().map(millis).collect()),
            concurrency: policy.concurrency,
            rate: policy.rate.map(|rate| rate.to_string()),
            ordering: policy.ordering.map(|ordering| ordering.as_str().to_owned()),
            breaker: (breaker.failures, millis(breaker.wait), millis(breaker.wait_max)),
            envelope: policy.envelope.as_str().to_owned(),
            format: policy.format.as_str().to_owned(),
            token_header: policy.token_header.clone(),
            on_gone: policy.on_gone.as_str().to_owned(),
            reach: Some(policy.reach.as_str().to_owned()),
            made_by: policy.maker.map(KeyId::as_i64),
        }
    }

    /// Returns `None` if a member has an invalid value.
    fn read(self, headers: Vec<(String, String)>, client_certificate: Option<(String, String)>) -> Option<Policy> {
        let schedule = match self.schedule_ms {
            Some(waits) => Some(Arc::new(Schedule::new(waits.into_iter().map(Duration::from_millis).collect()).ok()?)),
            None => None,
        };
        let rate = match self.rate {
            Some(rate) => Some(Rate::parse(&rate).ok()?),
            None => None,
        };
        let ordering = match self.ordering {
            Some(ordering) => Some(Ordering::parse(&ordering)?),
            None => None,
        };
        let on_gone = OnGone::parse(&self.on_gone)?;
        let reach = match self.reach {
            Some(reach) => Reach::parse(&reach)?,
            None => Reach::unsaid(on_gone),
        };
        let (failures, wait, wait_max) = self.breaker;
        Some(Policy {
            timeout: Duration::from_millis(self.timeout_ms),
            headers,
            schedule,
            concurrency: self.concurrency,
            rate,
            ordering,
            breaker: BreakerRule { failures, wait: Duration::from_millis(wait), wait_max: Duration::from_millis(wait_max) },
            envelope: Envelope::parse(&self.envelope)?,
            format: Format::parse(&self.format)?,
            token_header: self.token_header,
            client_certificate: client_certificate.map(|(chain, key)| Arc::new(ClientCertificate { chain, key })),
            on_gone,
            reach,
            maker: self.made_by.map(KeyId::from_i64),
        })
    }
}

/// Reads the column `policy`, which holds no secrets.
pub fn policy_from_column(place: &Place, text: &str) -> Result<Policy, Error> {
    let policy: PolicyColumn = place.json("policy", text)?;
    policy.read(Vec::new(), None).ok_or_else(|| place.corrupt("policy"))
}

/// The column `sealed`, decrypted. A missing member has its default.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct SealedColumn {
    /// Each secret with the end of its grace period in ms.
    secrets: Vec<(String, Option<i64>)>,
    headers: Vec<(String, String)>,
    /// Chain and key, both in PEM.
    client_certificate: Option<(String, String)>,
}

impl SealedColumn {
    fn of(endpoint: &NewEndpoint) -> Self {
        let secret = |held: &HeldSecret| (held.secret.reveal(), held.until.map(Timestamp::millis));
        let certificate = endpoint.policy.client_certificate.as_ref();
        Self {
            secrets: endpoint.secrets.iter().map(secret).collect(),
            headers: endpoint.policy.headers.clone(),
            client_certificate: certificate.map(|certificate| (certificate.chain.clone(), certificate.key.clone())),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the context that an endpoint's secrets are bound to.
pub fn seal_context(name: &str) -> String {
    format!("endpoint {name}")
}

impl EndpointColumns {
    pub fn of(endpoint: &NewEndpoint, seal: &Seal) -> Result<Self, Error> {
        let subscription = &endpoint.subscription;
        let secrets = Zeroizing::new(json(&SealedColumn::of(endpoint)));
        Ok(Self {
            name: endpoint.name.to_string(),
            title: endpoint.title.clone(),
            url: endpoint.url.clone(),
            events: json(&subscription.events.iter().map(ToString::to_string).collect::<Vec<_>>()),
            conditions: json(&subscription.conditions),
            plugin: endpoint.plugin.as_ref().map(ToString::to_string),
            scheme: endpoint.scheme.as_str(),
            state: endpoint.state.as_str(),
            policy: json(&PolicyColumn::of(&endpoint.policy)),
            sealed: seal.seal(&seal_context(&endpoint.name), secrets.as_bytes())?,
        })
    }
}

/// An endpoint's row, with its secrets still sealed.
pub struct StoredEndpoint {
    pub id: i64,
    pub name: String,
    pub title: Option<String>,
    pub url: String,
    pub events: String,
    pub conditions: String,
    pub plugin: Option<String>,
    pub scheme: String,
    pub state: String,
    pub created_at: i64,
    pub policy: String,
    pub sealed: Vec<u8>,
    pub failing_since: Option<i64>,
}

impl StoredEndpoint {
    /// Returns the endpoint. One of `seals` must open its secrets.
    pub fn read(self, seals: &[Arc<Seal>]) -> Result<Endpoint, Error> {
        let place = Place { table: "endpoint", id: self.id };
        let patterns: Vec<String> = place.json("events", &self.events)?;
        let slug = |column, name: &str| Slug::parse(name).map_err(|_| place.corrupt(column));
        let name = slug("name", &self.name)?;
        let context = seal_context(&name);
        let opened = seals.iter().find_map(|seal| seal.open(&context, &self.sealed)).ok_or_else(|| place.corrupt("sealed"))?;
        let SealedColumn { secrets, headers, client_certificate } =
            serde_json::from_slice(&opened).map_err(|_| place.corrupt("sealed"))?;
        let policy: PolicyColumn = place.json("policy", &self.policy)?;
        let scheme = Scheme::parse(&self.scheme).ok_or_else(|| place.corrupt("scheme"))?;
        Ok(Endpoint {
            id: EndpointId::from_i64(place.id),
            created_at: Timestamp::from_millis(self.created_at),
            failing_since: self.failing_since.map(Timestamp::from_millis),
            new: NewEndpoint {
                name,
                title: self.title,
                url: self.url,
                subscription: Subscription {
                    events: patterns
                        .iter()
                        .map(|pattern| Pattern::parse(pattern))
                        .collect::<Result<_, _>>()
                        .map_err(|_| place.corrupt("events"))?,
                    conditions: place.json("conditions", &self.conditions)?,
                },
                plugin: self.plugin.map(|name| slug("plugin", &name)).transpose()?,
                scheme,
                secrets: secrets
                    .into_iter()
                    .map(|(secret, until)| {
                        Ok(HeldSecret {
                            secret: Secret::read(scheme, &secret).map_err(|_| place.corrupt("sealed"))?,
                            until: until.map(Timestamp::from_millis),
                        })
                    })
                    .collect::<Result<_, Error>>()?,
                policy: policy.read(headers, client_certificate).ok_or_else(|| place.corrupt("policy"))?,
                state: EndpointState::parse(&self.state).ok_or_else(|| place.corrupt("state"))?,
            },
        })
    }
}

/// Returns the columns `policy` and `sealed` of an endpoint that was stored in layout 1.
pub fn endpoint_of_layout_1(
    id: i64,
    name: &str,
    secrets: &str,
    headers: &str,
    timeout: Duration,
    schedule: Option<&str>,
    seal: &Seal,
) -> Result<(String, Vec<u8>), Error> {
    let place = Place { table: "endpoint", id };
    let schedule_ms = schedule.map(|text| place.json("schedule", text)).transpose()?;
    let policy = PolicyColumn { timeout_ms: millis(timeout), schedule_ms, ..PolicyColumn::default() };
    let sealed = SealedColumn {
        secrets: place.json("secrets", secrets)?,
        headers: place.json("headers", headers)?,
        client_certificate: None,
    };
    let sealed = Zeroizing::new(json(&sealed));
    Ok((json(&policy), seal.seal(&seal_context(name), sealed.as_bytes())?))
}

pub fn config_to_column(config: &BTreeMap<String, String>) -> String {
    json(config)
}

pub fn members_to_column(members: &[String]) -> String {
    json(members)
}

pub fn patterns_to_column(patterns: &[String]) -> String {
    json(patterns)
}

pub fn json_column<T: serde::de::DeserializeOwned>(place: &Place, column: &'static str, text: &str) -> Result<T, Error> {
    place.json(column, text)
}

/// A job's column `filter`. Ids and instants are numbers. All other members are text as users write it. A member that this kind
/// of job does not use is missing or null.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub struct TaskColumn {
    endpoint: Option<i64>,
    state: Option<String>,
    reason: Option<String>,
    plugin: Option<String>,
    outcome: Option<String>,
    source: Option<String>,
    event_type: Option<String>,
    since: Option<i64>,
    until: Option<i64>,
    /// The job does not process items from this number on, because they were created after the job.
    end: i64,
}

impl TaskColumn {
    pub fn of(task: &Task, end: i64) -> String {
        let pattern = |event_type: &Option<Pattern>| event_type.as_ref().map(ToString::to_string);
        let instant = |at: Option<Timestamp>| at.map(Timestamp::millis);
        json(&match task {
            Task::RetryDeliveries(RetryFilter { endpoint, ended, reason, event_type, since, until }) => Self {
                endpoint: endpoint.map(EndpointId::as_i64),
                state: Some(ended.as_str().to_owned()),
                reason: reason.map(|reason| reason.as_str().to_owned()),
                event_type: pattern(event_type),
                since: instant(*since),
                until: instant(*until),
                end,
                ..Self::default()
            },
            Task::RetryRuns(RunRetryFilter { plugin, outcome, event_type, since, until }) => Self {
                plugin: plugin.as_ref().map(ToString::to_string),
                outcome: outcome.map(|outcome| outcome.as_str().to_owned()),
                event_type: pattern(event_type),
                since: instant(*since),
                until: instant(*until),
                end,
                ..Self::default()
            },
            Task::ReplayEvents(ReplayFilter { state, event_type, source, since, until }) => Self {
                state: state.map(|state| state.as_str().to_owned()),
                source: source.clone(),
                event_type: pattern(event_type),
                since: instant(*since),
                until: instant(*until),
                end,
                ..Self::default()
            },
        })
    }

    /// Reads the columns `kind` and `filter`.
    pub fn read(place: &Place, kind: &str, filter: &str) -> Result<(Task, i64), Error> {
        let column: Self = place.json("filter", filter)?;
        let end = column.end;
        if !Task::KINDS.contains(&kind) {
            return Err(place.corrupt("kind"));
        }
        let task = column.task(kind).ok_or_else(|| place.corrupt("filter"))?;
        Ok((task, end))
    }

    /// Returns `None` if a member has an invalid value.
    fn task(self, kind: &str) -> Option<Task> {
        let event_type = optional(self.event_type, |text| Pattern::parse(text).ok())?;
        let (since, until) = (self.since.map(Timestamp::from_millis), self.until.map(Timestamp::from_millis));
        Some(match Task::KINDS.iter().position(|known| *known == kind)? {
            0 => Task::RetryDeliveries(RetryFilter {
                endpoint: self.endpoint.map(EndpointId::from_i64),
                ended: Ended::parse(self.state.as_deref()?)?,
                reason: optional(self.reason, DeadReason::parse)?,
                event_type,
                since,
                until,
            }),
            1 => Task::RetryRuns(RunRetryFilter {
                plugin: optional(self.plugin, |text| Slug::parse(text).ok())?,
                outcome: optional(self.outcome, RunOutcome::parse)?,
                event_type,
                since,
                until,
            }),
            _ => Task::ReplayEvents(ReplayFilter {
                state: optional(self.state, EventState::parse)?,
                event_type,
                source: self.source,
                since,
                until,
            }),
        })
    }
}

/// Reads a text that may be missing. Returns `None` if the text exists but cannot be read, and `Some(None)` if the text is missing.
fn optional<T>(text: Option<String>, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    text.map_or(Some(None), |text| read(&text).map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_stored_reach_gets_a_safe_one() {
        let place = Place { table: "endpoint", id: 1 };
        let read = |text: &str| policy_from_column(&place, text).map(|policy| (policy.reach, policy.maker));
        assert_eq!(read("{}").unwrap(), (Reach::Opened, None), "an operator created this endpoint");
        assert_eq!(read("{\"on_gone\":\"disable\"}").unwrap(), (Reach::Opened, None));
        assert_eq!(read("{\"on_gone\":\"remove\"}").unwrap(), (Reach::Public, None), "a program may have created this endpoint");
        let made = (Reach::Opened, Some(KeyId::from_i64(7)));
        assert_eq!(read("{\"on_gone\":\"remove\",\"reach\":\"opened\",\"made_by\":7}").unwrap(), made);
        assert!(read("{\"reach\":\"everywhere\"}").is_err());
    }
}
