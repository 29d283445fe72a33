//! Rows and values: how each table's columns become the types of the domain, and back. A row that cannot is an error that
//! names its table, column and id.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    domain::{
        breaker::BreakerRule,
        certificate::ClientCertificate,
        delivery::{Attempt, AttemptOutcome, Payload},
        endpoint::{Endpoint, EndpointState, HeldSecret, NewEndpoint, Ordering, Policy, Subscription},
        envelope::{Envelope, Format},
        event::{Event, NewEvent},
        id::{EndpointId, EventId},
        name::{Attributes, EventType, Slug},
        pattern::Pattern,
        rate::Rate,
        request::Request,
        retry::Schedule,
        run::{LogLevel, LogLine, RunLog},
        signature::{Scheme, Secret},
        time::Timestamp,
    },
    store::{Error, Seal},
};

/// The codec of a payload that is stored as it is.
pub const PLAIN: i64 = 0;

/// Names the place of a value that cannot be read.
pub struct Place {
    pub table: &'static str,
    pub id: i64,
}

impl Place {
    pub fn corrupt(&self, column: &'static str) -> Error {
        Error::Corrupt { table: self.table, column, id: self.id }
    }

    fn json<T: serde::de::DeserializeOwned>(&self, column: &'static str, text: &str) -> Result<T, Error> {
        serde_json::from_str(text).map_err(|_| self.corrupt(column))
    }
}

/// Lists that are usually empty are stored as NULL then.
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

pub fn log_to_column(log: &RunLog) -> Option<String> {
    let lines: Vec<_> = log.lines.iter().map(|line| (line.level.as_str(), line.message.as_str())).collect();
    json_unless_empty(&lines)
}

pub fn log_from_columns(place: &Place, lines: Option<String>, dropped: i64) -> Result<RunLog, Error> {
    let lines: Vec<(String, String)> = match lines {
        Some(lines) => place.json("log", &lines)?,
        None => Vec::new(),
    };
    let lines = lines.into_iter().map(|(level, message)| LogLine { level: LogLevel::parse(&level), message }).collect();
    Ok(RunLog { lines, dropped: dropped.unsigned_abs() })
}

/// The columns of [`event`], in its order, for a table named `event` or aliased `e`.
pub const EVENT_COLUMNS: &str = "e.id, e.accepted_at, e.source, e.caller_id, e.type, e.subject, e.time, e.content_type, e.attributes, \
     e.depth, e.cause, e.codec";

/// The column `request`: method, query, headers.
type RequestColumn<'a> = (std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>, std::borrow::Cow<'a, [(String, String)]>);

pub fn request_to_column(request: &Request) -> String {
    json::<RequestColumn<'_>>(&((&*request.method).into(), (&*request.query).into(), (&*request.headers).into()))
}

/// Reads [`EVENT_COLUMNS`]; the data and the request come separately, since lists do without.
pub fn event(row: &Row<'_>, data: Bytes) -> Result<Event, Error> {
    let place = Place { table: "event", id: row.get(0)? };
    if row.get::<_, i64>(11)? != PLAIN {
        return Err(place.corrupt("codec"));
    }
    let text = |column: usize, name: &'static str| -> Result<Option<Arc<str>>, Error> {
        Ok(row.get_ref(column)?.as_str_or_null().map_err(|_| place.corrupt(name))?.map(Arc::from))
    };
    let attributes = match row.get_ref(8)?.as_str_or_null().map_err(|_| place.corrupt("attributes"))? {
        Some(json) => Attributes(place.json("attributes", json)?),
        None => Attributes::default(),
    };
    Ok(Event {
        id: EventId::from_i64(place.id),
        accepted_at: Timestamp::from_millis(row.get(1)?),
        new: NewEvent {
            id: text(3, "caller_id")?,
            source: text(2, "source")?.ok_or_else(|| place.corrupt("source"))?,
            event_type: text(4, "type")?.and_then(|text| EventType::parse(&text).ok()).ok_or_else(|| place.corrupt("type"))?,
            subject: text(5, "subject")?,
            time: text(6, "time")?,
            content_type: text(7, "content_type")?.ok_or_else(|| place.corrupt("content_type"))?,
            data,
            attributes: Arc::new(attributes),
            depth: u8::try_from(row.get::<_, i64>(9)?).map_err(|_| place.corrupt("depth"))?,
            cause: row.get::<_, Option<i64>>(10)?.map(EventId::from_i64),
            request: None,
        },
    })
}

/// The columns of [`whole_event`], in its order.
pub const WHOLE_EVENT_COLUMNS: &str = "e.id, e.accepted_at, e.source, e.caller_id, e.type, e.subject, e.time, e.content_type, \
     e.attributes, e.depth, e.cause, e.codec, e.data, e.request, e.body";

/// Reads [`WHOLE_EVENT_COLUMNS`].
pub fn whole_event(row: &Row<'_>) -> Result<Event, Error> {
    let mut event = event(row, Bytes::from(row.get::<_, Vec<u8>>(12)?))?;
    let place = Place { table: "event", id: event.id.as_i64() };
    if let Some(text) = row.get_ref(13)?.as_str_or_null().map_err(|_| place.corrupt("request"))? {
        let (method, query, headers): RequestColumn<'_> = place.json("request", text)?;
        let body = row.get::<_, Option<Vec<u8>>>(14).map_err(|_| place.corrupt("body"))?.map(Bytes::from);
        let request = Request { method: method.into(), query: query.into(), headers: headers.into(), body };
        event.new.request = Some(Arc::new(request));
    }
    Ok(event)
}

/// One event with its data.
pub fn load_event(db: &Connection, id: EventId) -> Result<Option<Event>, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {WHOLE_EVENT_COLUMNS} FROM event e WHERE e.id = ?1"))?;
    let mut rows = select.query([id.as_i64()])?;
    match rows.next()? {
        Some(row) => whole_event(row).map(Some),
        None => Ok(None),
    }
}

/// What a plugin made for a delivery, if one did.
pub fn load_payload(db: &Connection, delivery: i64) -> Result<Option<Payload>, Error> {
    let mut select = db.prepare_cached("SELECT type, content_type, headers, codec, body FROM payload WHERE id = ?1")?;
    let place = Place { table: "payload", id: delivery };
    let row = select.query_row([delivery], |row| {
        Ok((
            row.get::<_, Option<String>>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, Option<String>>(2)?,
            row.get::<_, i64>(3)?,
            row.get::<_, Vec<u8>>(4)?,
        ))
    });
    let Some((event_type, content_type, headers, codec, body)) = row.optional()? else { return Ok(None) };
    if codec != PLAIN {
        return Err(place.corrupt("codec"));
    }
    Ok(Some(Payload {
        event_type: event_type.map(|text| EventType::parse(&text)).transpose().map_err(|_| place.corrupt("type"))?,
        content_type,
        headers: headers.map(|text| place.json("headers", &text)).transpose()?.unwrap_or_default(),
        body: Bytes::from(body),
    }))
}

/// The columns of [`attempt`], in its order.
pub const ATTEMPT_COLUMNS: &str = "id, at, outcome, status, latency_us, detail, excerpt, retry_after_ms";

pub fn attempt(row: &Row<'_>, first: usize) -> Result<Attempt, Error> {
    let place = Place { table: "attempt", id: row.get(first)? };
    let status: Option<u16> = row.get(first + 3)?;
    Ok(Attempt {
        at: Timestamp::from_millis(row.get(first + 1)?),
        outcome: AttemptOutcome::parse(&row.get::<_, String>(first + 2)?, status).ok_or_else(|| place.corrupt("outcome"))?,
        latency: Duration::from_micros(row.get::<_, i64>(first + 4)?.unsigned_abs()),
        detail: row.get(first + 5)?,
        excerpt: Bytes::from(row.get::<_, Vec<u8>>(first + 6)?),
        retry_after: row.get::<_, Option<i64>>(first + 7)?.map(|millis| Duration::from_millis(millis.unsigned_abs())),
    })
}

/// An endpoint's columns as they are written; [`endpoint`] reads them back in the same order after the id.
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

/// The column `policy`: what is no secret of how an endpoint is sent to. A member that is missing has its default.
#[derive(Serialize, Deserialize)]
#[serde(default)]
struct PolicyColumn {
    timeout_ms: u64,
    schedule_ms: Option<Vec<u64>>,
    concurrency: usize,
    rate: Option<String>,
    ordering: Option<String>,
    /// Failures in a row, first wait and longest wait in ms.
    breaker: (u32, u64, u64),
    envelope: String,
    format: String,
    token_header: Option<String>,
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
        }
    }

    /// `None` if a member is not what it can be.
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
        })
    }
}

/// What the column `sealed` holds, encrypted. A member that is missing has its default.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct SealedColumn {
    /// Each with the end of its grace, ms.
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

/// What an endpoint's secrets are bound to.
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

pub const ENDPOINT_COLUMNS: &str =
    "id, name, title, url, events, conditions, plugin, scheme, state, created_at, policy, sealed, failing_since";

/// Reads [`ENDPOINT_COLUMNS`]. The secrets open with one of `seals`.
pub fn endpoint(row: &Row<'_>, seals: &[Arc<Seal>]) -> Result<Endpoint, Error> {
    let place = Place { table: "endpoint", id: row.get(0)? };
    let text = |column: usize| -> Result<String, Error> { Ok(row.get(column)?) };
    let patterns: Vec<String> = place.json("events", &text(4)?)?;
    let slug = |column, name: &str| Slug::parse(name).map_err(|_| place.corrupt(column));
    let name = slug("name", &text(1)?)?;
    let context = seal_context(&name);
    let sealed: Vec<u8> = row.get(11).map_err(|_| place.corrupt("sealed"))?;
    let opened = seals.iter().find_map(|seal| seal.open(&context, &sealed)).ok_or_else(|| place.corrupt("sealed"))?;
    let SealedColumn { secrets, headers, client_certificate } =
        serde_json::from_slice(&opened).map_err(|_| place.corrupt("sealed"))?;
    let policy: PolicyColumn = place.json("policy", &text(10)?)?;
    let scheme = Scheme::parse(&text(7)?).ok_or_else(|| place.corrupt("scheme"))?;
    Ok(Endpoint {
        id: EndpointId::from_i64(place.id),
        created_at: Timestamp::from_millis(row.get(9)?),
        failing_since: row.get::<_, Option<i64>>(12)?.map(Timestamp::from_millis),
        new: NewEndpoint {
            name,
            title: row.get(2)?,
            url: text(3)?,
            subscription: Subscription {
                events: patterns
                    .iter()
                    .map(|pattern| Pattern::parse(pattern))
                    .collect::<Result<_, _>>()
                    .map_err(|_| place.corrupt("events"))?,
                conditions: place.json("conditions", &text(5)?)?,
            },
            plugin: row.get::<_, Option<String>>(6)?.map(|name| slug("plugin", &name)).transpose()?,
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
            state: EndpointState::parse(&text(8)?).ok_or_else(|| place.corrupt("state"))?,
        },
    })
}

/// The columns `policy` and `sealed` of an endpoint that was stored in layout 1.
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

pub fn patterns_to_column(patterns: &[String]) -> String {
    json(patterns)
}

pub fn json_column<T: serde::de::DeserializeOwned>(place: &Place, column: &'static str, text: &str) -> Result<T, Error> {
    place.json(column, text)
}
