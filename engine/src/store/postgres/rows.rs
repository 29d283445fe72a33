//! Rows and values: turns the columns of each table into the types of the domain. A row that cannot be read is an error that
//! names its table, column and id. [`columns`](crate::store::columns) decodes what text and byte columns contain.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_postgres::Row;

use super::db::get;
use crate::{
    domain::{
        content::Content,
        delivery::{Attempt, AttemptOutcome, Payload},
        endpoint::Endpoint,
        event::{Event, NewEvent},
        id::{AttemptId, EventId},
        name::{Attributes, EventType},
        time::Timestamp,
    },
    store::{
        Error, Seal, StoredAttempt,
        columns::{PLAIN, Place, StoredEndpoint, json_column, request_from_columns, sent_from_column},
    },
};

/// The columns that [`event`] reads, in the same order, of a table with the alias `e`.
pub const EVENT_COLUMNS: &str = "e.id, e.accepted_at, e.source, e.caller_id, e.type, e.subject, e.time, e.content_type, e.attributes, \
     e.depth, e.cause, e.codec";
pub const EVENT_COLUMNS_COUNT: usize = 12;

/// Reads [`EVENT_COLUMNS`] from column `first` on. The data is a separate parameter, because lists do not need it.
pub fn event(row: &Row, first: usize, data: Bytes) -> Result<Event, Error> {
    let place = Place { table: "event", id: get(row, first)? };
    if get::<i64>(row, first + 11)? != PLAIN {
        return Err(place.corrupt("codec"));
    }
    let text =
        |column: usize| -> Result<Option<Arc<str>>, Error> { Ok(get::<Option<&str>>(row, first + column)?.map(Arc::from)) };
    let some = |column: usize, name: &'static str| text(column)?.ok_or_else(|| place.corrupt(name));
    let attributes = match get::<Option<&str>>(row, first + 8)? {
        Some(json) => Attributes(json_column(&place, "attributes", json)?),
        None => Attributes::default(),
    };
    Ok(Event {
        id: EventId::from_i64(place.id),
        accepted_at: Timestamp::from_millis(get(row, first + 1)?),
        new: NewEvent {
            id: text(3)?,
            source: some(2, "source")?,
            event_type: EventType::parse(&some(4, "type")?).map_err(|_| place.corrupt("type"))?,
            subject: text(5)?,
            time: text(6)?,
            content: Content::stored(some(7, "content_type")?, data),
            attributes: Arc::new(attributes),
            depth: u8::try_from(get::<i64>(row, first + 9)?).map_err(|_| place.corrupt("depth"))?,
            cause: get::<Option<i64>>(row, first + 10)?.map(EventId::from_i64),
            request: None,
        },
    })
}

/// The columns that [`whole_event`] reads after [`EVENT_COLUMNS`].
pub const WHOLE_EVENT_REST: &str = "e.data, e.request, e.body";
pub const WHOLE_EVENT_COLUMNS_COUNT: usize = EVENT_COLUMNS_COUNT + 3;

/// Reads [`EVENT_COLUMNS`] and [`WHOLE_EVENT_REST`] from column `first` on.
pub fn whole_event(row: &Row, first: usize) -> Result<Event, Error> {
    let rest = first + EVENT_COLUMNS_COUNT;
    let mut event = event(row, first, Bytes::from(get::<Vec<u8>>(row, rest)?))?;
    if let Some(text) = get::<Option<&str>>(row, rest + 1)? {
        let place = Place { table: "event", id: event.id.as_i64() };
        event.new.request = Some(Arc::new(request_from_columns(&place, text, get(row, rest + 2)?)?));
    }
    Ok(event)
}

/// The columns that [`payload`] reads, in the same order, of a table with the alias `p`.
pub const PAYLOAD_COLUMNS: &str = "p.type, p.content_type, p.headers, p.codec, p.body";

/// Reads [`PAYLOAD_COLUMNS`] from column `first` on. Returns `None` for a delivery that sends its event's data.
pub fn payload(row: &Row, first: usize, delivery: i64) -> Result<Option<Payload>, Error> {
    let place = Place { table: "payload", id: delivery };
    let Some(content_type) = get::<Option<String>>(row, first + 1)? else { return Ok(None) };
    if get::<i64>(row, first + 3)? != PLAIN {
        return Err(place.corrupt("codec"));
    }
    let event_type = get::<Option<&str>>(row, first)?.map(EventType::parse).transpose();
    let headers = get::<Option<&str>>(row, first + 2)?.map(|text| json_column(&place, "headers", text));
    Ok(Some(Payload {
        event_type: event_type.map_err(|_| place.corrupt("type"))?,
        content_type,
        headers: headers.transpose()?.unwrap_or_default(),
        body: Bytes::from(get::<Vec<u8>>(row, first + 4)?),
    }))
}

/// The columns that [`attempt`] reads, in the same order, of a table with the alias `a`.
pub const ATTEMPT_COLUMNS: &str = "a.id, a.at, a.outcome, a.status, a.latency_us, a.detail, a.excerpt, a.retry_after_ms, a.sent";

pub fn attempt(row: &Row, first: usize) -> Result<StoredAttempt, Error> {
    let place = Place { table: "attempt", id: get(row, first)? };
    let status = get::<Option<i64>>(row, first + 3)?.map(u16::try_from).transpose().map_err(|_| place.corrupt("status"))?;
    let attempt = Attempt {
        at: Timestamp::from_millis(get(row, first + 1)?),
        outcome: AttemptOutcome::parse(get(row, first + 2)?, status).ok_or_else(|| place.corrupt("outcome"))?,
        latency: Duration::from_micros(get::<i64>(row, first + 4)?.unsigned_abs()),
        detail: get(row, first + 5)?,
        excerpt: Bytes::from(get::<Vec<u8>>(row, first + 6)?),
        retry_after: get::<Option<i64>>(row, first + 7)?.map(|millis| Duration::from_millis(millis.unsigned_abs())),
    };
    let sent = get::<Option<&str>>(row, first + 8)?.map(|text| sent_from_column(&place, text)).transpose()?;
    Ok(StoredAttempt { id: AttemptId::from_i64(place.id), attempt, sent })
}

pub const ENDPOINT_COLUMNS: &str =
    "id, name, title, url, events, conditions, plugin, scheme, state, created_at, policy, sealed, failing_since";

/// Reads [`ENDPOINT_COLUMNS`]. One of `seals` must open the secrets.
pub fn endpoint(row: &Row, seals: &[Arc<Seal>]) -> Result<Endpoint, Error> {
    let place = Place { table: "endpoint", id: get(row, 0)? };
    let stored = StoredEndpoint {
        id: place.id,
        name: get(row, 1)?,
        title: get(row, 2)?,
        url: get(row, 3)?,
        events: get(row, 4)?,
        conditions: get(row, 5)?,
        plugin: get(row, 6)?,
        scheme: get(row, 7)?,
        state: get(row, 8)?,
        created_at: get(row, 9)?,
        policy: get(row, 10)?,
        sealed: get::<Option<Vec<u8>>>(row, 11)?.ok_or_else(|| place.corrupt("sealed"))?,
        failing_since: get(row, 12)?,
    };
    stored.read(seals)
}
