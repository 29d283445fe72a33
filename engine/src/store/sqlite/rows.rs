//! Rows and values: turns the columns of each table into the types of the domain. A row that cannot be read is an error that
//! names its table, column and id. [`columns`](crate::store::columns) decodes what text and byte columns contain.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row};

pub use crate::store::columns::{
    EndpointColumns, PLAIN, Place, attributes_to_column, config_to_column, endpoint_of_layout_1, headers_to_column,
    log_to_column, patterns_to_column, request_to_column, state_read_to_column,
};
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
        columns::{StoredEndpoint, request_from_columns, sent_from_column},
        row::{self, WrongType},
    },
};

/// The columns that [`event`] reads, in the same order, of a table with the alias `e`.
pub const EVENT_COLUMNS: &str = "e.id, e.accepted_at, e.source, e.caller_id, e.type, e.subject, e.time, e.content_type, e.attributes, \
     e.depth, e.cause, e.codec";

/// Reads [`EVENT_COLUMNS`]. The data is a separate parameter, and the request is read elsewhere, because lists do not need them.
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
            content: Content::stored(text(7, "content_type")?.ok_or_else(|| place.corrupt("content_type"))?, data),
            attributes: Arc::new(attributes),
            depth: u8::try_from(row.get::<_, i64>(9)?).map_err(|_| place.corrupt("depth"))?,
            cause: row.get::<_, Option<i64>>(10)?.map(EventId::from_i64),
            request: None,
        },
    })
}

/// The columns that [`whole_event`] reads, in the same order.
pub const WHOLE_EVENT_COLUMNS: &str = "e.id, e.accepted_at, e.source, e.caller_id, e.type, e.subject, e.time, e.content_type, \
     e.attributes, e.depth, e.cause, e.codec, e.data, e.request, e.body";

/// Reads [`WHOLE_EVENT_COLUMNS`].
pub fn whole_event(row: &Row<'_>) -> Result<Event, Error> {
    let mut event = event(row, Bytes::from(row.get::<_, Vec<u8>>(12)?))?;
    let place = Place { table: "event", id: event.id.as_i64() };
    if let Some(text) = row.get_ref(13)?.as_str_or_null().map_err(|_| place.corrupt("request"))? {
        let body = row.get::<_, Option<Vec<u8>>>(14).map_err(|_| place.corrupt("body"))?;
        event.new.request = Some(Arc::new(request_from_columns(&place, text, body)?));
    }
    Ok(event)
}

/// Returns one event with its data.
pub fn load_event(db: &Connection, id: EventId) -> Result<Option<Event>, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {WHOLE_EVENT_COLUMNS} FROM event e WHERE e.id = ?1"))?;
    let mut rows = select.query([id.as_i64()])?;
    match rows.next()? {
        Some(row) => whole_event(row).map(Some),
        None => Ok(None),
    }
}

/// Returns the payload of a delivery, if a plugin made one.
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

/// The columns that [`attempt`] reads, in the same order.
pub const ATTEMPT_COLUMNS: &str = "id, at, outcome, status, latency_us, detail, excerpt, retry_after_ms, sent";

pub fn attempt(row: &Row<'_>, first: usize) -> Result<StoredAttempt, Error> {
    let place = Place { table: "attempt", id: row.get(first)? };
    let status: Option<u16> = row.get(first + 3)?;
    let attempt = Attempt {
        at: Timestamp::from_millis(row.get(first + 1)?),
        outcome: AttemptOutcome::parse(&row.get::<_, String>(first + 2)?, status).ok_or_else(|| place.corrupt("outcome"))?,
        latency: Duration::from_micros(row.get::<_, i64>(first + 4)?.unsigned_abs()),
        detail: row.get(first + 5)?,
        excerpt: Bytes::from(row.get::<_, Vec<u8>>(first + 6)?),
        retry_after: row.get::<_, Option<i64>>(first + 7)?.map(|millis| Duration::from_millis(millis.unsigned_abs())),
    };
    let sent = row.get_ref(first + 8)?.as_str_or_null().map_err(|_| place.corrupt("sent"))?;
    let sent = sent.map(|text| sent_from_column(&place, text)).transpose()?;
    Ok(StoredAttempt { id: AttemptId::from_i64(place.id), attempt, sent })
}

pub const ENDPOINT_COLUMNS: &str =
    "id, name, title, url, events, conditions, plugin, scheme, state, created_at, policy, sealed, failing_since";

/// Reads [`ENDPOINT_COLUMNS`]. One of `seals` must open the secrets.
pub fn endpoint(row: &Row<'_>, seals: &[Arc<Seal>]) -> Result<Endpoint, Error> {
    let place = Place { table: "endpoint", id: row.get(0)? };
    let stored = StoredEndpoint {
        id: place.id,
        name: row.get(1)?,
        title: row.get(2)?,
        url: row.get(3)?,
        events: row.get(4)?,
        conditions: row.get(5)?,
        plugin: row.get(6)?,
        scheme: row.get(7)?,
        state: row.get(8)?,
        created_at: row.get(9)?,
        policy: row.get(10)?,
        sealed: row.get(11).map_err(|_| place.corrupt("sealed"))?,
        failing_since: row.get(12)?,
    };
    stored.read(seals)
}

/// Returns [`Error::NotFound`] if a statement changed no row.
pub fn found(changed: usize, what: &'static str) -> Result<(), Error> {
    if changed == 0 { Err(Error::NotFound { what }) } else { Ok(()) }
}

impl row::Row for Row<'_> {
    fn number(&self, column: usize) -> Result<Option<i64>, WrongType> {
        self.get_ref(column).ok().and_then(|value| value.as_i64_or_null().ok()).ok_or(WrongType)
    }

    fn text(&self, column: usize) -> Result<Option<&str>, WrongType> {
        self.get_ref(column).ok().and_then(|value| value.as_str_or_null().ok()).ok_or(WrongType)
    }

    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, WrongType> {
        self.get_ref(column).ok().and_then(|value| value.as_blob_or_null().ok()).ok_or(WrongType)
    }
}
