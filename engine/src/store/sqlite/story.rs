//! The history of events and deliveries: lists and details, read on connections beside the writer.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params, params_from_iter};

use super::{
    Sqlite,
    rows::{self, ATTEMPT_COLUMNS, EVENT_COLUMNS, Place},
};
use crate::{
    domain::{
        delivery::DeliveryState,
        event::EventState,
        id::{DeliveryId, EndpointId, EventId, RunId},
        name::Slug,
        plugin::Digest,
        run::{RunOutcome, RunState},
        time::Timestamp,
    },
    store::{
        DeliveryFilter, DeliveryStory, DeliverySummary, Error, EventFilter, EventStory, EventSummary, Page, PageRequest,
        STORY_ATTEMPTS, STORY_DELIVERIES, STORY_EMITTED, STORY_RUNS, StoredAttempt, StoredRun, Story, StoryPlace, WholeDelivery,
        columns::ended,
    },
};

#[async_trait]
impl Story for Sqlite {
    async fn events(&self, filter: EventFilter, page: PageRequest) -> Result<Page<EventSummary>, Error> {
        self.read_for_people(move |db| events(db, &filter, page)).await
    }

    async fn event(&self, id: EventId, from: StoryPlace) -> Result<EventStory, Error> {
        self.read_for_people(move |db| event(db, id, from)).await
    }

    async fn deliveries(&self, filter: DeliveryFilter, page: PageRequest) -> Result<Page<DeliverySummary>, Error> {
        self.read_for_people(move |db| deliveries(db, &filter, page)).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<DeliveryStory, Error> {
        self.read_for_people(move |db| delivery(db, id)).await
    }

    async fn whole_delivery(&self, id: DeliveryId) -> Result<WholeDelivery, Error> {
        self.read_for_people(move |db| {
            let story = delivery(db, id)?;
            let event = rows::load_event(db, id.event())?.ok_or(Error::NotFound { what: "event" })?;
            Ok(WholeDelivery { story, event, payload: rows::load_payload(db, id.as_i64())? })
        })
        .await
    }
}

fn events(db: &Connection, filter: &EventFilter, request: PageRequest) -> Result<Page<EventSummary>, Error> {
    // Rare states have small tables. Their events are listed from there, newest first.
    let from = match filter.state {
        None => "event e",
        Some(EventState::Waiting) => "event_queue s CROSS JOIN event e ON e.id = s.id",
        Some(EventState::Unrouted) => "unrouted s CROSS JOIN event e ON e.id = s.id",
        Some(EventState::Failed) => {
            "(SELECT DISTINCT id >> 14 AS id FROM run_queue WHERE state = 'parked') s CROSS JOIN event e ON e.id = s.id"
        }
        Some(EventState::Done) => "event e",
    };
    let id = if matches!(filter.state, None | Some(EventState::Done)) { "e.id" } else { "s.id" };
    let mut conditions = vec![format!("{id} < ?")];
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(request.cursor.unwrap_or(i64::MAX))];
    let mut also = |condition: &str, value: Box<dyn ToSql>| {
        conditions.push(condition.to_owned());
        values.push(value);
    };
    if let Some(event_type) = &filter.event_type {
        also("e.type = ?", Box::new(event_type.clone()));
    }
    if let Some(source) = &filter.source {
        also("e.source = ?", Box::new(source.clone()));
    }
    if let Some(id) = &filter.id {
        also("e.caller_id = ?", Box::new(id.clone()));
    }
    if let Some(subject) = &filter.subject {
        also("e.subject = ?", Box::new(subject.clone()));
    }
    if let Some(since) = filter.since {
        also("e.accepted_at >= ?", Box::new(since.millis()));
        also(
            "e.id >= coalesce((SELECT first_id FROM minute WHERE minute < ? ORDER BY minute DESC LIMIT 1), 0)",
            Box::new(since.millis() / 60_000),
        );
    }
    if let Some(until) = filter.until {
        also("e.accepted_at < ?", Box::new(until.millis()));
        also(
            "e.id < coalesce((SELECT first_id FROM minute WHERE minute > ? ORDER BY minute LIMIT 1), 9223372036854775807)",
            Box::new(until.millis() / 60_000),
        );
    }
    if filter.state == Some(EventState::Done) {
        conditions.push(
            "NOT EXISTS (SELECT 1 FROM event_queue q WHERE q.id = e.id) AND NOT EXISTS (SELECT 1 FROM unrouted u WHERE u.id = e.id)
             AND NOT EXISTS (SELECT 1 FROM run_queue r WHERE r.id >= e.id << 14 AND r.id < (e.id + 1) << 14 AND r.state = 'parked')"
                .to_owned(),
        );
    }
    values.push(Box::new(i64::try_from(request.limit + 1).unwrap_or(i64::MAX)));
    let sql = format!(
        "SELECT {EVENT_COLUMNS}, length(e.data) FROM {from} WHERE {} ORDER BY {id} DESC LIMIT ?",
        conditions.join(" AND ")
    );
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let event = rows::event(row, Bytes::new())?;
        let bytes = row.get::<_, i64>(12)?.unsigned_abs();
        let state = event_state(db, event.id)?;
        found.push(EventSummary { event, bytes, state });
    }
    Ok(Page::of(found, request, |summary| summary.event.id.as_i64()))
}

fn event_state(db: &Connection, id: EventId) -> Result<EventState, Error> {
    let (from, until) = id.children();
    let state: i64 = db
        .prepare_cached(
            "SELECT CASE WHEN EXISTS (SELECT 1 FROM event_queue WHERE id = ?1) THEN 0
                 WHEN EXISTS (SELECT 1 FROM run_queue WHERE id >= ?2 AND id < ?3 AND state = 'parked') THEN 1
                 WHEN EXISTS (SELECT 1 FROM unrouted WHERE id = ?1) THEN 2 ELSE 3 END",
        )?
        .query_row(params![id.as_i64(), from, until], |row| row.get(0))?;
    Ok(match state {
        0 => EventState::Waiting,
        1 => EventState::Failed,
        2 => EventState::Unrouted,
        _ => EventState::Done,
    })
}

fn event(db: &Connection, id: EventId, from: StoryPlace) -> Result<EventStory, Error> {
    let event = rows::load_event(db, id)?.ok_or(Error::NotFound { what: "event" })?;
    let (first, until) = id.children();
    let mut deliveries = Vec::new();
    for found in first_deliveries(db, first + i64::from(from.delivery), until, STORY_DELIVERIES + 1)? {
        let summary = summary(db, found)?;
        let attempts = last_attempts(db, summary.id, STORY_ATTEMPTS)?;
        deliveries.push(DeliveryStory { summary, attempts });
    }
    let mut emitted = db.prepare_cached("SELECT id FROM event WHERE cause = ?1 AND id > ?2 ORDER BY id LIMIT ?3")?;
    let emitted = emitted
        .query_map(params![id.as_i64(), from.emitted, limit(STORY_EMITTED + 1)], |row| Ok(EventId::from_i64(row.get(0)?)))?
        .collect::<Result<_, _>>()?;
    let mut select = db.prepare_cached(&format!(
        "SELECT {RUN_COLUMNS} FROM {RUN_TABLES} WHERE r.id >= ?1 AND r.id < ?2 ORDER BY r.id LIMIT ?3"
    ))?;
    let mut rows = select.query([first + i64::from(from.run), until, limit(STORY_RUNS + 1)])?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        runs.push(run(row)?);
    }
    Ok(EventStory { state: event_state(db, id)?, event, runs, deliveries, emitted, next: None }.part(from))
}

fn limit(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns deliveries from an id on, by id.
fn first_deliveries(db: &Connection, from: i64, until: i64, most: usize) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    let values = params![from, until, limit(most)];
    let live = "SELECT id, endpoint, round, attempts, next_at, NULL, NULL, NULL FROM live WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3";
    collect(db, live, values, &mut found)?;
    let finished = "SELECT id, endpoint, round, attempts, at, state, reason, cancel_reason FROM delivery WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3";
    collect(db, finished, values, &mut found)?;
    found.sort_unstable_by_key(|one| one.id);
    found.truncate(most);
    Ok(found)
}

/// The columns of [`run`], in its order, and their tables.
pub const RUN_COLUMNS: &str = "r.id, r.round, r.plugin, r.version, e.name, r.outcome, r.code, r.message, r.tries, r.took_us, \
     r.memory_peak, r.webhooks, r.emitted, r.log, r.log_dropped, q.state, q.next_at";
pub const RUN_TABLES: &str = "run r LEFT JOIN run_queue q ON q.id = r.id LEFT JOIN endpoint e ON e.id = r.endpoint";

/// Reads [`RUN_COLUMNS`].
pub fn run(row: &Row<'_>) -> Result<StoredRun, Error> {
    let place = Place { table: "run", id: row.get(0)? };
    let version: Option<[u8; 32]> = row.get(3).map_err(|_| place.corrupt("version"))?;
    let outcome: Option<String> = row.get(5)?;
    let outcome = outcome.map(|text| RunOutcome::parse(&text).ok_or_else(|| place.corrupt("outcome"))).transpose()?;
    let state = match row.get::<_, Option<String>>(15)?.as_deref() {
        None => RunState::Done,
        Some("waiting") => RunState::Waiting { due: Timestamp::from_millis(row.get(16)?) },
        Some(_) => RunState::Parked,
    };
    Ok(StoredRun {
        id: RunId::from_i64(place.id),
        round: row.get(1)?,
        plugin: Slug::parse(&row.get::<_, String>(2)?).map_err(|_| place.corrupt("plugin"))?,
        version: version.map(Digest::from_bytes),
        endpoint: row.get(4)?,
        state,
        outcome,
        code: row.get(6)?,
        message: row.get(7)?,
        tries: row.get(8)?,
        took: Duration::from_micros(row.get::<_, i64>(9)?.unsigned_abs()),
        memory_peak: row.get::<_, i64>(10)?.unsigned_abs(),
        webhooks: row.get(11)?,
        emitted: row.get(12)?,
        log: rows::log_from_columns(&place, row.get(13)?, row.get(14)?)?,
    })
}

/// Returns one page of deliveries: merges the newest unfinished ones with the newest finished ones.
fn deliveries(db: &Connection, filter: &DeliveryFilter, request: PageRequest) -> Result<Page<DeliverySummary>, Error> {
    let (from, until) = filter.event.map_or((0, i64::MAX), EventId::children);
    let until = until.min(request.cursor.unwrap_or(i64::MAX));
    let limit = i64::try_from(request.limit + 1).unwrap_or(i64::MAX);
    let endpoint = filter.endpoint.map(EndpointId::as_i64);

    let (since, minute) = (filter.since.map(Timestamp::millis), filter.since.map(|since| since.millis() / 60_000));
    let since_of = |table: &str| match since {
        None => " AND ?5 IS NULL AND ?6 IS NULL".to_owned(),
        // Minutes bound the ids, and the event decides.
        Some(_) => format!(
            " AND id >= coalesce((SELECT first_id FROM minute WHERE minute < ?6 ORDER BY minute DESC LIMIT 1), 0) << 14
              AND (SELECT e.accepted_at FROM event e WHERE e.id = {table}.id >> 14) >= ?5"
        ),
    };
    let mut found: Vec<Found> = Vec::new();
    if matches!(filter.state, None | Some("pending" | "retrying")) {
        let mut conditions = String::from("id >= ?1 AND id < ?2");
        match filter.state {
            Some("pending") => conditions.push_str(" AND attempts = 0"),
            Some(_) => conditions.push_str(" AND attempts > 0"),
            None => {}
        }
        if endpoint.is_some() {
            conditions.push_str(" AND endpoint = ?4");
        } else {
            conditions.push_str(" AND ?4 IS NULL");
        }
        conditions.push_str(&since_of("live"));
        let sql = format!(
            "SELECT id, endpoint, round, attempts, next_at, NULL, NULL, NULL FROM live WHERE {conditions} ORDER BY id DESC LIMIT ?3"
        );
        collect(db, &sql, params![from, until, limit, endpoint, since, minute], &mut found)?;
    }
    if matches!(filter.state, None | Some("delivered" | "dead" | "cancelled")) {
        let mut conditions = String::from("id >= ?1 AND id < ?2");
        if let Some(state) = filter.state {
            // The state is one of three fixed words, so it may be part of the statement. The partial index needs that.
            conditions.push_str(&format!(" AND state = '{state}'"));
            if state != "delivered" {
                conditions.push_str(" AND state <> 'delivered'");
            }
        }
        if endpoint.is_some() {
            conditions.push_str(" AND endpoint = ?4");
        } else {
            conditions.push_str(" AND ?4 IS NULL");
        }
        conditions.push_str(&since_of("delivery"));
        let sql = format!(
            "SELECT id, endpoint, round, attempts, at, state, reason, cancel_reason FROM delivery WHERE {conditions} ORDER BY id DESC LIMIT ?3"
        );
        collect(db, &sql, params![from, until, limit, endpoint, since, minute], &mut found)?;
    }
    found.sort_unstable_by_key(|one| std::cmp::Reverse(one.id));
    found.truncate(request.limit + 1);
    let found = found.into_iter().map(|one| summary(db, one)).collect::<Result<Vec<_>, _>>()?;
    Ok(Page::of(found, request, |summary| summary.id.as_i64()))
}

/// A row of either delivery table.
struct Found {
    id: i64,
    endpoint: i64,
    round: u32,
    attempts: u32,
    /// When the delivery is due, or when it ended.
    at: i64,
    /// State, reason and reason of a cancellation.
    ended: Option<(String, Option<String>, Option<String>)>,
}

fn collect(db: &Connection, sql: &str, values: &[&dyn ToSql], found: &mut Vec<Found>) -> Result<(), Error> {
    let mut select = db.prepare_cached(sql)?;
    let mut rows = select.query(values)?;
    while let Some(row) = rows.next()? {
        let state: Option<String> = row.get(5)?;
        let (reason, cancelled): (Option<String>, Option<String>) = (row.get(6)?, row.get(7)?);
        found.push(Found {
            id: row.get(0)?,
            endpoint: row.get(1)?,
            round: row.get(2)?,
            attempts: row.get(3)?,
            at: row.get(4)?,
            ended: state.map(|state| (state, reason, cancelled)),
        });
    }
    Ok(())
}

fn summary(db: &Connection, found: Found) -> Result<DeliverySummary, Error> {
    let id = DeliveryId::from_i64(found.id);
    let place = Place { table: "delivery", id: found.id };
    let at = Timestamp::from_millis(found.at);
    let state = match found.ended {
        None if found.attempts == 0 => DeliveryState::Pending { due: at },
        None => DeliveryState::Retrying { due: at },
        Some((state, reason, cancelled)) => ended(&place, at, &state, reason.as_deref(), cancelled.as_deref())?,
    };
    let endpoint_name = db
        .prepare_cached("SELECT name FROM endpoint WHERE id = ?1")?
        .query_row([found.endpoint], |row| row.get(0))
        .optional()?
        .unwrap_or_default();
    let event_type = delivery_type(db, id)?.unwrap_or_default();
    let run = db.prepare_cached("SELECT run FROM payload WHERE id = ?1")?.query_row([found.id], |row| row.get(0)).optional()?;
    let run: Option<i64> = run.flatten();
    let last = if found.attempts == 0 { None } else { last_attempts(db, id, 1)?.pop() };
    Ok(DeliverySummary {
        id,
        endpoint: EndpointId::from_i64(found.endpoint),
        endpoint_name,
        event_type,
        run: run.map(RunId::from_i64),
        round: found.round,
        state,
        attempts: found.attempts,
        last,
    })
}

/// Returns the type that the receiver gets; `None` once the event is deleted.
pub fn delivery_type(db: &Connection, id: DeliveryId) -> Result<Option<String>, Error> {
    Ok(db
        .prepare_cached("SELECT coalesce((SELECT type FROM payload WHERE id = ?1), (SELECT type FROM event WHERE id = ?2))")?
        .query_row([id.as_i64(), id.event().as_i64()], |row| row.get(0))?)
}

fn delivery(db: &Connection, id: DeliveryId) -> Result<DeliveryStory, Error> {
    let mut found = Vec::new();
    let live = "SELECT id, endpoint, round, attempts, next_at, NULL, NULL, NULL FROM live WHERE id = ?1";
    collect(db, live, params![id.as_i64()], &mut found)?;
    let finished = "SELECT id, endpoint, round, attempts, at, state, reason, cancel_reason FROM delivery WHERE id = ?1";
    collect(db, finished, params![id.as_i64()], &mut found)?;
    let found = found.pop().ok_or(Error::NotFound { what: "delivery" })?;
    Ok(DeliveryStory { summary: summary(db, found)?, attempts: attempts(db, id)? })
}

fn attempts(db: &Connection, id: DeliveryId) -> Result<Vec<StoredAttempt>, Error> {
    last_attempts(db, id, usize::from(u8::MAX))
}

/// Returns the last attempts of a delivery, in their order.
fn last_attempts(db: &Connection, id: DeliveryId, most: usize) -> Result<Vec<StoredAttempt>, Error> {
    let (from, until) = id.attempts();
    let sql = format!("SELECT {ATTEMPT_COLUMNS} FROM attempt WHERE id >= ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3");
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query([from, until, limit(most)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(rows::attempt(row, 0)?);
    }
    found.reverse();
    Ok(found)
}
