//! The history of events and deliveries: lists and details, each read in a transaction that sees one snapshot.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::{
    Local, Postgres,
    db::{Value, get, get_u32, limit, row, rows},
    rows::{
        self as values, ATTEMPT_COLUMNS, EVENT_COLUMNS, EVENT_COLUMNS_COUNT, PAYLOAD_COLUMNS, WHOLE_EVENT_COLUMNS_COUNT,
        WHOLE_EVENT_REST,
    },
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
        columns::{Place, ended, log_from_columns},
    },
};

#[async_trait]
impl Story for Postgres {
    async fn events(&self, filter: EventFilter, page: PageRequest) -> Result<Page<EventSummary>, Error> {
        self.read_for_people(move |tx, _| Box::pin(async move { events(tx, &filter, page).await })).await
    }

    async fn event(&self, id: EventId, from: StoryPlace) -> Result<EventStory, Error> {
        self.read_for_people(move |tx, local| Box::pin(event(tx, local, id, from))).await
    }

    async fn deliveries(&self, filter: DeliveryFilter, page: PageRequest) -> Result<Page<DeliverySummary>, Error> {
        self.read_for_people(move |tx, local| Box::pin(async move { deliveries(tx, local, &filter, page).await })).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<DeliveryStory, Error> {
        self.read_for_people(move |tx, local| Box::pin(delivery(tx, local, id))).await
    }

    async fn whole_delivery(&self, id: DeliveryId) -> Result<WholeDelivery, Error> {
        self.read_for_people(move |tx, local| Box::pin(whole_delivery(tx, local, id))).await
    }
}

/// The state of the event `e`, as [`event_state`] reads it.
const STATE: &str = "CASE WHEN EXISTS (SELECT 1 FROM event_queue q WHERE q.id = e.id) THEN 'waiting'
     WHEN EXISTS (SELECT 1 FROM run_queue r WHERE r.id >= e.id << 14 AND r.id < (e.id + 1) << 14 AND r.state = 'parked') THEN 'failed'
     WHEN EXISTS (SELECT 1 FROM unrouted u WHERE u.id = e.id) THEN 'unrouted' ELSE 'done' END";

fn event_state(row: &Row, column: usize) -> Result<EventState, Error> {
    EventState::parse(get(row, column)?).ok_or_else(|| Error::Internal("an event's state is none of its words".into()))
}

async fn events(tx: &Transaction<'_>, filter: &EventFilter, request: PageRequest) -> Result<Page<EventSummary>, Error> {
    // Rare states have small tables. Their events are listed from there, newest first.
    let (from, id) = match filter.state {
        None | Some(EventState::Done) => ("event e", "e.id"),
        Some(EventState::Waiting) => ("event_queue s JOIN event e ON e.id = s.id", "s.id"),
        Some(EventState::Unrouted) => ("unrouted s JOIN event e ON e.id = s.id", "s.id"),
        Some(EventState::Failed) => {
            ("(SELECT DISTINCT id >> 14 AS id FROM run_queue WHERE state = 'parked') s JOIN event e ON e.id = s.id", "s.id")
        }
    };
    let (cursor, most) = (request.cursor.unwrap_or(i64::MAX), limit(request.limit + 1));
    let (since, until) = (filter.since.map(Timestamp::millis), filter.until.map(Timestamp::millis));
    let minutes = [since, until].map(|at| at.map(|at| at / 60_000));
    let mut conditions = vec![format!("{id} < $1")];
    let mut values: Vec<Value<'_>> = vec![&cursor];
    let mut also = |before: &str, value, after: &str| {
        values.push(value);
        conditions.push(format!("{before} ${}{after}", values.len()));
    };
    if let Some(event_type) = &filter.event_type {
        also("e.type =", event_type, "");
    }
    if let Some(source) = &filter.source {
        also("e.source =", source, "");
    }
    if let Some(id) = &filter.id {
        also("e.caller_id =", id, "");
    }
    if let Some(subject) = &filter.subject {
        also("e.subject =", subject, "");
    }
    if let (Some(since), Some(minute)) = (&since, &minutes[0]) {
        also("e.accepted_at >=", since, "");
        also("e.id >= coalesce((SELECT first_id FROM minute WHERE minute <", minute, " ORDER BY minute DESC LIMIT 1), 0)");
    }
    if let (Some(until), Some(minute)) = (&until, &minutes[1]) {
        also("e.accepted_at <", until, "");
        // The minute after the next: a node whose clock is slightly ahead may have numbered events in the next one.
        let after = "::bigint + 1 ORDER BY minute LIMIT 1), 9223372036854775807)";
        also("e.id < coalesce((SELECT first_id FROM minute WHERE minute >", minute, after);
    }
    if filter.state == Some(EventState::Done) {
        conditions.push(format!("{STATE} = 'done'"));
    }
    values.push(&most);
    let sql = format!(
        "SELECT {EVENT_COLUMNS}, octet_length(e.data)::bigint, {STATE} FROM {from} WHERE {} ORDER BY {id} DESC LIMIT ${}",
        conditions.join(" AND "),
        values.len()
    );
    let summary = |row: &Row| -> Result<EventSummary, Error> {
        Ok(EventSummary {
            event: values::event(row, 0, Bytes::new())?,
            bytes: get::<i64>(row, EVENT_COLUMNS_COUNT)?.unsigned_abs(),
            state: event_state(row, EVENT_COLUMNS_COUNT + 1)?,
        })
    };
    let found = rows(tx, &sql, &values).await?.iter().map(summary).collect::<Result<_, _>>()?;
    Ok(Page::of(found, request, |summary: &EventSummary| summary.event.id.as_i64()))
}

async fn event(tx: &Transaction<'_>, local: &Local, id: EventId, from: StoryPlace) -> Result<EventStory, Error> {
    let sql = format!("SELECT {EVENT_COLUMNS}, {WHOLE_EVENT_REST}, {STATE} FROM event e WHERE e.id = $1");
    let found = row(tx, &sql, &[&id.as_i64()]).await?.ok_or(Error::NotFound { what: "event" })?;
    let (event, state) = (values::whole_event(&found, 0)?, event_state(&found, WHOLE_EVENT_COLUMNS_COUNT)?);
    let (first, until) = id.children();
    let part = |table: &str| format!("({table} WHERE id >= $1 AND id < $2 ORDER BY id LIMIT $3)");
    let sql = with_shown_columns(&format!("{} UNION ALL {} ORDER BY id LIMIT $3", part(LIVE), part(FINISHED)));
    let values: [Value<'_>; 3] = [&(first + i64::from(from.delivery)), &until, &limit(STORY_DELIVERIES + 1)];
    let found = rows(tx, &sql, &values).await?;
    let mut summaries = found.iter().map(|row| summary(row, local)).collect::<Result<Vec<_>, _>>()?;
    summaries.reverse();
    let ids: Vec<i64> = summaries.iter().map(|summary| summary.id.as_i64()).collect();
    let mut attempts = last_attempts(tx, &ids, STORY_ATTEMPTS).await?;
    let with_attempts = |summary: DeliverySummary| {
        let attempts = attempts.remove(&summary.id).unwrap_or_default();
        DeliveryStory { summary, attempts }
    };
    let deliveries = summaries.into_iter().map(with_attempts).collect();
    let sql = "SELECT id FROM event WHERE cause = $1 AND id > $2 ORDER BY id LIMIT $3";
    let emitted = rows(tx, sql, &[&id.as_i64(), &from.emitted, &limit(STORY_EMITTED + 1)]).await?;
    let emitted = emitted.iter().map(|row| Ok(EventId::from_i64(get(row, 0)?))).collect::<Result<_, Error>>()?;
    let sql =
        "SELECT r.id, r.round, r.plugin, r.version, e.name, r.outcome, r.code, r.message, r.tries, r.took_us, r.memory_peak,
                   r.webhooks, r.emitted, r.log, r.log_dropped, q.state, q.next_at
               FROM run r LEFT JOIN run_queue q ON q.id = r.id LEFT JOIN endpoint e ON e.id = r.endpoint
               WHERE r.id >= $1 AND r.id < $2 ORDER BY r.id LIMIT $3";
    let runs = rows(tx, sql, &[&(first + i64::from(from.run)), &until, &limit(STORY_RUNS + 1)]).await?;
    let runs = runs.iter().map(|row| run(row, local)).collect::<Result<_, _>>()?;
    Ok(EventStory { state, event, runs, deliveries, emitted, next: None }.part(from))
}

fn run(row: &Row, local: &Local) -> Result<StoredRun, Error> {
    let place = Place { table: "run", id: get(row, 0)? };
    let version: Option<[u8; 32]> =
        get::<Option<&[u8]>>(row, 3)?.map(TryInto::try_into).transpose().map_err(|_| place.corrupt("version"))?;
    let outcome = get::<Option<&str>>(row, 5)?;
    let outcome = outcome.map(|text| RunOutcome::parse(text).ok_or_else(|| place.corrupt("outcome"))).transpose()?;
    let state = match get::<Option<&str>>(row, 15)? {
        None => RunState::Done,
        Some("waiting") => RunState::Waiting { due: local.steady_at(get(row, 16)?) },
        Some(_) => RunState::Parked,
    };
    Ok(StoredRun {
        id: RunId::from_i64(place.id),
        round: get_u32(row, 1)?,
        plugin: Slug::parse(get(row, 2)?).map_err(|_| place.corrupt("plugin"))?,
        version: version.map(Digest::from_bytes),
        endpoint: get(row, 4)?,
        state,
        outcome,
        code: get(row, 6)?,
        message: get(row, 7)?,
        tries: get_u32(row, 8)?,
        took: Duration::from_micros(get::<i64>(row, 9)?.unsigned_abs()),
        memory_peak: get::<i64>(row, 10)?.unsigned_abs(),
        webhooks: get_u32(row, 11)?,
        emitted: get_u32(row, 12)?,
        log: log_from_columns(&place, get(row, 13)?, get(row, 14)?)?,
    })
}

/// Adds to a delivery `d` the shown columns of its endpoint, its type and its last attempt.
fn with_shown_columns(deliveries: &str) -> String {
    format!(
        "SELECT d.id, d.endpoint, d.round, d.attempts, d.at, d.state, d.reason, n.name, coalesce(p.type, e.type), d.cancel_reason, p.run,
             {ATTEMPT_COLUMNS}
         FROM ({deliveries}) d LEFT JOIN endpoint n ON n.id = d.endpoint LEFT JOIN payload p ON p.id = d.id
         LEFT JOIN event e ON e.id = d.id >> 14
         LEFT JOIN LATERAL (SELECT * FROM attempt a WHERE a.id >= d.id << 8 AND a.id < (d.id + 1) << 8 ORDER BY a.id DESC LIMIT 1) a ON true
         ORDER BY d.id DESC"
    )
}

const LIVE: &str = "SELECT id, endpoint, round, attempts, next_at AS at, NULL::text AS state, NULL::text AS reason,
     NULL::text AS cancel_reason FROM live";
const FINISHED: &str = "SELECT id, endpoint, round, attempts, at, state, reason, cancel_reason FROM delivery";

/// Returns one page of deliveries: merges the newest unfinished ones with the newest finished ones.
async fn deliveries(
    tx: &Transaction<'_>,
    local: &Local,
    filter: &DeliveryFilter,
    request: PageRequest,
) -> Result<Page<DeliverySummary>, Error> {
    let (from, until) = filter.event.map_or((0, i64::MAX), EventId::children);
    let until = until.min(request.cursor.unwrap_or(i64::MAX));
    let most = limit(request.limit + 1);
    let endpoint = filter.endpoint.map(EndpointId::as_i64);
    let mut values: Vec<Value<'_>> = vec![&from, &until, &most];
    let mut of = "id >= $1 AND id < $2".to_owned();
    if let Some(endpoint) = &endpoint {
        values.push(endpoint);
        of.push_str(" AND endpoint = $4");
    }
    let since = filter.since.map(|since| (since.millis(), since.millis() / 60_000));
    let mut since_of = String::new();
    if let Some((since, minute)) = &since {
        values.extend([since as Value<'_>, minute]);
        // Minutes bound the ids, and the event decides.
        since_of = format!(
            " AND id >= coalesce((SELECT first_id FROM minute WHERE minute < ${} ORDER BY minute DESC LIMIT 1), 0) << 14
              AND (SELECT e.accepted_at FROM event e WHERE e.id = TABLE.id >> 14) >= ${}",
            values.len(),
            values.len() - 1
        );
    }
    let of = |table: &str| of.clone() + &since_of.replace("TABLE", table);
    let mut parts = Vec::new();
    let which = match filter.state {
        None => Some(""),
        Some("pending") => Some(" AND attempts = 0"),
        Some("retrying") => Some(" AND attempts > 0"),
        Some(_) => None,
    };
    parts.extend(which.map(|which| format!("({LIVE} WHERE {}{which} ORDER BY id DESC LIMIT $3)", of("live"))));
    let which = match filter.state {
        None => Some(String::new()),
        Some("delivered") => Some(" AND state = 'delivered'".to_owned()),
        // The state is one of two fixed words, so it may be part of the statement. The partial index needs that.
        Some(state @ ("dead" | "cancelled")) => Some(format!(" AND state = '{state}' AND state <> 'delivered'")),
        Some(_) => None,
    };
    parts.extend(which.map(|which| format!("({FINISHED} WHERE {}{which} ORDER BY id DESC LIMIT $3)", of("delivery"))));
    if parts.is_empty() {
        return Ok(Page { items: Vec::new(), next: None });
    }
    let sql = format!("{} LIMIT $3", with_shown_columns(&parts.join(" UNION ALL ")));
    let found = rows(tx, &sql, &values).await?.iter().map(|row| summary(row, local)).collect::<Result<_, _>>()?;
    Ok(Page::of(found, request, |summary: &DeliverySummary| summary.id.as_i64()))
}

fn summary(row: &Row, local: &Local) -> Result<DeliverySummary, Error> {
    let id = DeliveryId::from_i64(get(row, 0)?);
    let place = Place { table: "delivery", id: id.as_i64() };
    let attempts = get_u32(row, 3)?;
    let number: i64 = get(row, 4)?;
    let (at, due) = (Timestamp::from_millis(number), local.steady_at(number));
    let state = match get::<Option<&str>>(row, 5)? {
        None if attempts == 0 => DeliveryState::Pending { due },
        None => DeliveryState::Retrying { due },
        Some(state) => ended(&place, at, state, get(row, 6)?, get(row, 9)?)?,
    };
    let last = get::<Option<i64>>(row, 11)?.map(|_| values::attempt(row, 11)).transpose()?;
    Ok(DeliverySummary {
        id,
        endpoint: EndpointId::from_i64(get(row, 1)?),
        endpoint_name: get::<Option<String>>(row, 7)?.unwrap_or_default(),
        event_type: get::<Option<String>>(row, 8)?.unwrap_or_default(),
        run: get::<Option<i64>>(row, 10)?.map(RunId::from_i64),
        round: get_u32(row, 2)?,
        state,
        attempts,
        last,
    })
}

async fn delivery(tx: &Transaction<'_>, local: &Local, id: DeliveryId) -> Result<DeliveryStory, Error> {
    let sql = with_shown_columns(&format!("{LIVE} WHERE id = $1 UNION ALL {FINISHED} WHERE id = $1"));
    let found = row(tx, &sql, &[&id.as_i64()]).await?.ok_or(Error::NotFound { what: "delivery" })?;
    let attempts = last_attempts(tx, &[id.as_i64()], usize::from(u8::MAX)).await?.remove(&id).unwrap_or_default();
    Ok(DeliveryStory { summary: summary(&found, local)?, attempts })
}

async fn whole_delivery(tx: &Transaction<'_>, local: &Local, id: DeliveryId) -> Result<WholeDelivery, Error> {
    let story = delivery(tx, local, id).await?;
    let sql = format!(
        "SELECT {EVENT_COLUMNS}, {WHOLE_EVENT_REST}, {PAYLOAD_COLUMNS} FROM event e LEFT JOIN payload p ON p.id = $2 WHERE e.id = $1"
    );
    let found = row(tx, &sql, &[&id.event().as_i64(), &id.as_i64()]).await?.ok_or(Error::NotFound { what: "event" })?;
    let payload = values::payload(&found, WHOLE_EVENT_COLUMNS_COUNT, id.as_i64())?;
    Ok(WholeDelivery { story, event: values::whole_event(&found, 0)?, payload })
}

/// Returns the last attempts of some deliveries, in their order.
async fn last_attempts(
    tx: &Transaction<'_>,
    deliveries: &[i64],
    most: usize,
) -> Result<BTreeMap<DeliveryId, Vec<StoredAttempt>>, Error> {
    let sql = format!(
        "SELECT {ATTEMPT_COLUMNS} FROM unnest($1::bigint[]) d (id)
         JOIN LATERAL (SELECT * FROM attempt a WHERE a.id >= d.id << 8 AND a.id < (d.id + 1) << 8 ORDER BY a.id DESC LIMIT $2) a ON true
         ORDER BY a.id"
    );
    let mut found: BTreeMap<DeliveryId, Vec<StoredAttempt>> = BTreeMap::new();
    for row in rows(tx, &sql, &[&deliveries, &limit(most)]).await? {
        let one = values::attempt(&row, 0)?;
        found.entry(one.id.delivery()).or_default().push(one);
    }
    Ok(found)
}
