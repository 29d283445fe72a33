//! The history of events and deliveries: lists and details, each read in a transaction that sees one snapshot.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::{
    Local, Postgres,
    claims::first_to_run,
    db::{Value, get, get_u32, limit, row, rows, the_row},
    rows::{
        self as values, ATTEMPT_COLUMNS, EVENT_COLUMNS, EVENT_COLUMNS_COUNT, PAYLOAD_COLUMNS, WHOLE_EVENT_COLUMNS_COUNT,
        WHOLE_EVENT_REST,
    },
    scheduled,
};
use crate::{
    domain::{
        delivery::DeliveryState,
        id::{DeliveryId, EndpointId, EventId, RunId},
        pattern::Pattern,
        run::RunOutcome,
        time::Timestamp,
        why::Behind,
    },
    store::{
        DeliveryFilter, DeliveryStory, DeliverySummary, Error, EventFilter, EventStory, EventSummary, Page, PageRequest, Passage,
        PassageDelivery, RecordedFilter, RecordedRun, RunFilter, STORY_ATTEMPTS, STORY_DELIVERIES, STORY_EMITTED, STORY_RUNS,
        STORY_SCHEDULED, SettledFrom, SettledRuns, StoredAttempt, StoredRun, Story, StoryPlace, WholeDelivery,
        columns::{Place, ended},
        story::{
            CANDIDATES, CHAIN_EVENTS, EVENT_ID_END, PASSAGE_PARTS, RECORDED_BYTES, RECORDED_COLUMNS, RECORDED_LOOK, RUN_COLUMNS,
            RUN_JOINS, candidates, look_from, parts, read_parts,
        },
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

    async fn runs(&self, filter: RunFilter, page: PageRequest) -> Result<Page<StoredRun>, Error> {
        self.read_for_people(move |tx, local| Box::pin(async move { runs(tx, local, &filter, page).await })).await
    }

    async fn run(&self, id: RunId) -> Result<StoredRun, Error> {
        self.read_for_people(move |tx, local| Box::pin(run(tx, local, id))).await
    }

    async fn recorded_run(&self, id: RunId) -> Result<RecordedRun, Error> {
        self.read_for_people(move |tx, _| {
            Box::pin(async move {
                let found = row(tx, &format!("{} WHERE r.id = $1", recorded()), &[&id.as_i64()]).await?;
                read_recorded(&found.ok_or(Error::NotFound { what: "run" })?)
            })
        })
        .await
    }

    async fn recorded_runs(&self, filter: RecordedFilter, page: PageRequest) -> Result<Page<RecordedRun>, Error> {
        self.read_for_people(move |tx, _| Box::pin(async move { recorded_runs(tx, &filter, page).await })).await
    }

    async fn settled_runs(&self, filter: RecordedFilter, from: SettledFrom, limit: usize) -> Result<SettledRuns, Error> {
        self.read_for_people(move |tx, _| Box::pin(async move { settled_runs(tx, &filter, from, limit).await })).await
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

    async fn chain(&self, id: EventId) -> Result<(Vec<EventSummary>, bool), Error> {
        self.read_for_people(move |tx, _| Box::pin(chain(tx, id))).await
    }

    async fn passage(&self, event: EventId, endpoint: Option<EndpointId>) -> Result<Passage, Error> {
        self.read_for_people(move |tx, local| Box::pin(passage(tx, local, event, endpoint))).await
    }
}

async fn chain(tx: &Transaction<'_>, id: EventId) -> Result<(Vec<EventSummary>, bool), Error> {
    let mut first = summaries(tx, "e.id = ANY($1)", &[id.as_i64()], 1).await?.pop().ok_or(Error::NotFound { what: "event" })?;
    while let Some(cause) = first.event.new.cause {
        match summaries(tx, "e.id = ANY($1)", &[cause.as_i64()], 1).await?.pop() {
            Some(event) => first = event,
            None => break,
        }
    }
    let mut parents = vec![first.event.id.as_i64()];
    let mut found = vec![first];
    while !parents.is_empty() && found.len() <= CHAIN_EVENTS {
        let children = summaries(tx, "e.cause = ANY($1)", &parents, CHAIN_EVENTS + 1 - found.len()).await?;
        parents = children.iter().map(|child| child.event.id.as_i64()).collect();
        found.extend(children);
    }
    let more = found.len() > CHAIN_EVENTS;
    found.truncate(CHAIN_EVENTS);
    Ok((found, more))
}

/// Returns the first events that fulfil a condition on `ids`.
async fn summaries(tx: &Transaction<'_>, condition: &str, ids: &[i64], most: usize) -> Result<Vec<EventSummary>, Error> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS}, octet_length(e.data)::bigint, p.* FROM event e CROSS JOIN LATERAL ({}) p
         WHERE {condition} ORDER BY e.id LIMIT $2",
        parts("e.id")
    );
    let summary = |row: &Row| {
        let bytes = get::<i64>(row, EVENT_COLUMNS_COUNT)?.unsigned_abs();
        let parts = read_parts(row, EVENT_COLUMNS_COUNT + 1)?;
        Ok(EventSummary { event: values::event(row, 0, Bytes::new())?, bytes, parts })
    };
    rows(tx, &sql, &[&ids, &limit(most)]).await?.iter().map(summary).collect()
}

async fn events(tx: &Transaction<'_>, filter: &EventFilter, request: PageRequest) -> Result<Page<EventSummary>, Error> {
    let (since, until) = (filter.since.map(Timestamp::millis), filter.until.map(Timestamp::millis));
    let minutes = [since, until].map(|at| at.map(|at| at / 60_000));
    let ends = async |sql| -> Result<i64, Error> { row(tx, sql, &[]).await?.map_or(Ok(0), |row| get(&row, 0)) };
    let oldest = look_from(filter.state, request.cursor, ends("SELECT coalesce(max(id), 0) FROM event").await?);
    let candidates = filter.state.and_then(|state| candidates(state, "$1::bigint", oldest, "greatest"));
    let mut before = request.cursor.unwrap_or(EVENT_ID_END);
    let mut found = Vec::new();
    // The domain, not the statement, decides whether an event is in a state. So events are read until the page is full.
    while found.len() <= request.limit {
        let most = limit(if filter.state.is_none() { request.limit + 1 } else { CANDIDATES });
        let ids: Vec<i64> = match &candidates {
            Some(candidates) => {
                let ids = rows(tx, &format!("{candidates} LIMIT $2"), &[&before, &most]).await?;
                ids.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?
            }
            None => Vec::new(),
        };
        let mut given: Vec<Value<'_>> = Vec::new();
        let mut conditions = Vec::new();
        if filter.without_own {
            conditions.push("NOT starts_with(e.type, 'innesco.')".to_owned());
        }
        let mut also = |before: &str, value, after: &str| {
            given.push(value);
            conditions.push(format!("{before} ${}{after}", given.len()));
        };
        match &candidates {
            Some(_) => also("e.id = ANY(", &ids, ")"),
            None => also("e.id <", &before, ""),
        }
        match &filter.event_type {
            None | Some(Pattern::All) => {}
            Some(Pattern::Exactly(event_type)) => also("e.type =", event_type, ""),
            Some(Pattern::Below(prefix)) => also("starts_with(e.type,", prefix, ")"),
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
            // Uses the minute after the next one, because a node whose clock is slightly ahead may already have numbered events in
            // the next minute.
            let after = "::bigint + 1 ORDER BY minute LIMIT 1), 9223372036854775807)";
            also("e.id < coalesce((SELECT first_id FROM minute WHERE minute >", minute, after);
        }
        given.push(&most);
        let sql = format!(
            "SELECT {EVENT_COLUMNS}, octet_length(e.data)::bigint, p.* FROM event e CROSS JOIN LATERAL ({}) p
             WHERE {} ORDER BY e.id DESC LIMIT ${}",
            parts("e.id"),
            conditions.join(" AND "),
            given.len()
        );
        let read = rows(tx, &sql, &given).await?;
        let last = match &candidates {
            Some(_) if limit(ids.len()) < most => None,
            Some(_) => ids.last().copied(),
            None if limit(read.len()) < most => None,
            None => read.last().map(|row| get(row, 0)).transpose()?,
        };
        for row in &read {
            let parts = read_parts(row, EVENT_COLUMNS_COUNT + 1)?;
            if filter.state.is_none_or(|state| state == parts.state()) {
                let bytes = get::<i64>(row, EVENT_COLUMNS_COUNT)?.unsigned_abs();
                found.push(EventSummary { event: values::event(row, 0, Bytes::new())?, bytes, parts });
            }
        }
        match last {
            Some(id) => before = id,
            None => break,
        }
    }
    let page = Page::of(found, request, |summary: &EventSummary| summary.event.id.as_i64());
    let is_searched = page.next.is_some() || oldest <= ends("SELECT coalesce(min(id), 0) FROM event").await?;
    Ok(if is_searched { page } else { Page { next: Some(oldest), ..page } })
}

async fn event(tx: &Transaction<'_>, local: &Local, id: EventId, from: StoryPlace) -> Result<EventStory, Error> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS}, {WHOLE_EVENT_REST}, p.* FROM event e CROSS JOIN LATERAL ({}) p WHERE e.id = $1",
        parts("e.id")
    );
    let found = row(tx, &sql, &[&id.as_i64()]).await?.ok_or(Error::NotFound { what: "event" })?;
    let (event, parts) = (values::whole_event(&found, 0)?, read_parts(&found, WHOLE_EVENT_COLUMNS_COUNT)?);
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
    let sql = format!("{} WHERE r.id >= $1 AND r.id < $2 ORDER BY r.id LIMIT $3", whole_runs());
    let runs = rows(tx, &sql, &[&(first + i64::from(from.run)), &until, &limit(STORY_RUNS + 1)]).await?;
    let runs = runs.iter().map(|row| read_run(row, local)).collect::<Result<_, _>>()?;
    let scheduled = scheduled::first(tx, first + i64::from(from.scheduled), until, STORY_SCHEDULED + 1).await?;
    Ok(EventStory { parts, event, runs, deliveries, emitted, scheduled, next: None }.part(from))
}

/// A run `r`, and its row `q` in the queue if it has one.
const RUNS: &str = "run r LEFT JOIN run_queue q ON q.id = r.id";

fn whole_runs() -> String {
    format!("SELECT {RUN_COLUMNS}, r.log FROM {RUNS} {RUN_JOINS}")
}

/// Reads a row of [`whole_runs`].
fn read_run(row: &Row, local: &Local) -> Result<StoredRun, Error> {
    StoredRun::read(row, |at| local.steady_at(at))
}

async fn run(tx: &Transaction<'_>, local: &Local, id: RunId) -> Result<StoredRun, Error> {
    let found = row(tx, &format!("{} WHERE r.id = $1", whole_runs()), &[&id.as_i64()]).await?;
    read_run(&found.ok_or(Error::NotFound { what: "run" })?, local)
}

/// Selects the whole event of a run `r`, and what the run depended on.
fn recorded() -> String {
    format!(
        "SELECT {EVENT_COLUMNS}, {WHOLE_EVENT_REST}, {RECORDED_COLUMNS} FROM run r CROSS JOIN LATERAL
             (SELECT * FROM event WHERE id = r.id >> 14 OFFSET 0) e"
    )
}

fn read_recorded(row: &Row) -> Result<RecordedRun, Error> {
    RecordedRun::read(row, WHOLE_EVENT_COLUMNS_COUNT, values::whole_event(row, 0)?)
}

/// The columns that decide whether a run is selected: the run's id and plugin, and the type, the time of acceptance and the number
/// of data bytes of its event.
const LOOK_COLUMNS: &str = "r.id, r.plugin, e.type, e.accepted_at, octet_length(e.data)::bigint";

async fn recorded_runs(tx: &Transaction<'_>, filter: &RecordedFilter, request: PageRequest) -> Result<Page<RecordedRun>, Error> {
    // First reads the rows without their data. Then reads the data of those selected rows that fit into the page.
    let sql = format!(
        "SELECT {LOOK_COLUMNS} FROM (SELECT * FROM run WHERE id < $1 ORDER BY id DESC LIMIT $2) r
         CROSS JOIN LATERAL (SELECT * FROM event WHERE id = r.id >> 14 OFFSET 0) e ORDER BY r.id DESC"
    );
    let (mut ids, mut last, mut bytes) = (Vec::new(), request.cursor, 0);
    let (mut seen, mut more) = (0, true);
    let is_full = |ids: &Vec<i64>, bytes: i64| ids.len() == request.limit || bytes >= RECORDED_BYTES as i64;
    // A page is read in parts, because a few rows are enough if most rows are selected.
    while more && seen < RECORDED_LOOK && !is_full(&ids, bytes) {
        let part = request.limit.min(RECORDED_LOOK - seen);
        let found = rows(tx, &sql, &[&last.unwrap_or(i64::MAX), &limit(part)]).await?;
        more = found.len() == part;
        for row in &found {
            if is_full(&ids, bytes) {
                more = true;
                break;
            }
            let id: i64 = get(row, 0)?;
            if filter.selects(id, get(row, 1)?, get(row, 2)?, get(row, 3)?) {
                bytes += get::<i64>(row, 4)?;
                ids.push(id);
            }
            (seen, last) = (seen + 1, Some(id));
        }
    }
    let sql = format!("{} WHERE r.id = ANY($1) ORDER BY r.id DESC", recorded());
    let items = rows(tx, &sql, &[&ids]).await?.iter().map(read_recorded).collect::<Result<Vec<_>, _>>()?;
    let items = items.into_iter().filter(RecordedRun::is_recorded).collect();
    Ok(Page { items, next: last.filter(|_| more) })
}

async fn settled_runs(
    tx: &Transaction<'_>,
    filter: &RecordedFilter,
    from: SettledFrom,
    most: usize,
) -> Result<SettledRuns, Error> {
    let first_since = async |since: Timestamp| -> Result<Option<i64>, Error> {
        get(&the_row(tx, "SELECT min(first_id) FROM minute WHERE minute >= $1", &[&(since.millis() / 60_000)]).await?, 0)
    };
    let since = match filter.since {
        Some(since) => first_since(since).await?.map(|event| EventId::from_i64(event).children().0 - 1),
        None => None,
    };
    // No event was accepted since then, so no run is new.
    let Some(after) = from.after.or(since) else {
        return Ok(SettledRuns { items: Vec::new(), after: None, passed: 0, more: false });
    };
    let end = first_unsettled(tx, filter, after, first_since(from.waits_since).await?).await?;
    let sql = format!(
        "SELECT {LOOK_COLUMNS} FROM (SELECT * FROM run WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3) r
         CROSS JOIN LATERAL (SELECT * FROM event WHERE id = r.id >> 14 OFFSET 0) e ORDER BY r.id"
    );
    let looked_at = rows(tx, &sql, &[&after, &end, &limit(RECORDED_LOOK)]).await?;
    let mut found = SettledRuns { items: Vec::new(), after: Some(after), passed: 0, more: looked_at.len() >= RECORDED_LOOK };
    let (mut ids, mut bytes) = (Vec::new(), 0);
    for row in &looked_at {
        let (id, accepted_at): (i64, i64) = (get(row, 0)?, get(row, 3)?);
        if accepted_at >= from.until.millis() {
            found.more = false;
            break;
        }
        if most > 0 && (ids.len() == most || bytes >= RECORDED_BYTES as i64) {
            found.more = true;
            break;
        }
        found.after = Some(id);
        if !filter.selects(id, get(row, 1)?, get(row, 2)?, accepted_at) {
            continue;
        }
        if most == 0 {
            found.passed += 1;
        } else {
            bytes += get::<i64>(row, 4)?;
            ids.push(id);
        }
    }
    let sql = format!("{} WHERE r.id = ANY($1) ORDER BY r.id", recorded());
    let items = rows(tx, &sql, &[&ids]).await?.iter().map(read_recorded).collect::<Result<Vec<_>, _>>()?;
    found.items = items.into_iter().filter(RecordedRun::is_recorded).collect();
    Ok(found)
}

/// Returns the first run after `after` that may still change: a run of an event that waits to be run, or a waiting run of the
/// plugin. Ignores events before `first`. If `first` is `None`, ignores all events.
async fn first_unsettled(tx: &Transaction<'_>, filter: &RecordedFilter, after: i64, first: Option<i64>) -> Result<i64, Error> {
    let Some(first) = first.map(EventId::from_i64) else { return Ok(i64::MAX) };
    let event = RunId::from_i64(after).event().max(first);
    // One statement reads both queues, because a settlement may move an event from one queue to the other.
    let sql = "SELECT least((SELECT min(id) << 14 FROM event_queue WHERE id >= $1),
                            (SELECT min(id) FROM run_queue WHERE state = 'waiting' AND plugin = $2 AND id > $3))";
    let values: [Value<'_>; 3] = [&event.as_i64(), &&*filter.plugin, &after.max(first.children().0 - 1)];
    Ok(get::<Option<i64>>(&the_row(tx, sql, &values).await?, 0)?.unwrap_or(i64::MAX))
}

async fn runs(tx: &Transaction<'_>, local: &Local, filter: &RunFilter, request: PageRequest) -> Result<Page<StoredRun>, Error> {
    // Runs that are not finished are few, so they are listed from their queue, newest first. OFFSET prevents the planner from
    // starting with the other table.
    let queue = "run_queue q CROSS JOIN LATERAL (SELECT * FROM run WHERE id = q.id OFFSET 0) r";
    let (from, id, which) = match filter.state {
        Some("waiting") => (queue, "q.id", "q.state = 'waiting'"),
        Some("parked") => (queue, "q.id", "q.state = 'parked'"),
        Some("done") => (RUNS, "r.id", "q.id IS NULL AND r.outcome = 'ok'"),
        Some(_) => (RUNS, "r.id", "q.id IS NULL AND r.outcome IS DISTINCT FROM 'ok'"),
        None => (RUNS, "r.id", "true"),
    };
    let (first, end) = filter.event.map_or((0, i64::MAX), EventId::children);
    let (end, most) = (end.min(request.cursor.unwrap_or(i64::MAX)), limit(request.limit + 1));
    let (since, until) = (filter.since.map(Timestamp::millis), filter.until.map(Timestamp::millis));
    let minutes = [since, until].map(|at| at.map(|at| at / 60_000));
    let (outcome, plugin) = (filter.outcome.map(RunOutcome::as_str), filter.plugin.as_deref());
    let mut conditions = vec![which.to_owned(), format!("{id} >= $1"), format!("{id} < $2")];
    let mut values: Vec<Value<'_>> = vec![&first, &end];
    let mut also = |before: &str, value, after: &str| {
        values.push(value);
        conditions.push(format!("{before} ${}{after}", values.len()));
    };
    if let Some(outcome) = &outcome {
        also("r.outcome =", outcome, "");
    }
    if let Some(plugin) = &plugin {
        also("r.plugin =", plugin, "");
    }
    if let Some(event_type) = &filter.event_type {
        also("v.type =", event_type, "");
    }
    if let (Some(since), Some(minute)) = (&since, &minutes[0]) {
        also("v.accepted_at >=", since, "");
        let before = format!("{id} >= coalesce((SELECT first_id << 14 FROM minute WHERE minute <");
        also(&before, minute, " ORDER BY minute DESC LIMIT 1), 0)");
    }
    if let (Some(until), Some(minute)) = (&until, &minutes[1]) {
        also("v.accepted_at <", until, "");
        // Uses the minute after the next one, as the list of events does.
        let before = format!("{id} < coalesce((SELECT first_id << 14 FROM minute WHERE minute >");
        also(&before, minute, "::bigint + 1 ORDER BY minute LIMIT 1), 9223372036854775807)");
    }
    values.push(&most);
    let sql = format!(
        "SELECT {RUN_COLUMNS}, NULL::text FROM {from} {RUN_JOINS} WHERE {} ORDER BY {id} DESC LIMIT ${}",
        conditions.join(" AND "),
        values.len()
    );
    let found = rows(tx, &sql, &values).await?.iter().map(|row| read_run(row, local)).collect::<Result<_, _>>()?;
    Ok(Page::of(found, request, |run: &StoredRun| run.id.as_i64()))
}

/// Adds to a delivery `d` the columns that lists show in addition: the name of its endpoint, its type and its last attempt.
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
        // The table of minutes only narrows the range of ids. The time of the event itself decides.
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
        // The state is one of two fixed words, so it may be part of the statement. Postgres uses the partial index only if the
        // state is part of the statement.
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

async fn passage(tx: &Transaction<'_>, local: &Local, id: EventId, endpoint: Option<EndpointId>) -> Result<Passage, Error> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS}, {WHOLE_EVENT_REST}, p.* FROM event e CROSS JOIN LATERAL ({}) p WHERE e.id = $1",
        parts("e.id")
    );
    let found = row(tx, &sql, &[&id.as_i64()]).await?.ok_or(Error::NotFound { what: "event" })?;
    let (event, parts) = (values::whole_event(&found, 0)?, read_parts(&found, WHOLE_EVENT_COLUMNS_COUNT)?);
    let (first, until) = id.children();
    let sql = format!(
        "SELECT {RUN_COLUMNS}, NULL::text FROM {RUNS} {RUN_JOINS}
         WHERE r.id >= $1 AND r.id < $2 AND (r.endpoint IS NULL OR r.endpoint = $3) ORDER BY r.id DESC LIMIT $4"
    );
    let runs = rows(tx, &sql, &[&first, &until, &endpoint.map(EndpointId::as_i64), &limit(PASSAGE_PARTS)]).await?;
    let runs = runs.iter().map(|row| read_run(row, local)).collect::<Result<_, _>>()?;
    let (mut found, mut senders) = (Vec::new(), Vec::new());
    if let Some(endpoint) = endpoint {
        let filter = DeliveryFilter { event: Some(id), endpoint: Some(endpoint), ..DeliveryFilter::default() };
        for summary in deliveries(tx, local, &filter, PageRequest { cursor: None, limit: PASSAGE_PARTS }).await?.items {
            found.push(waiting(tx, summary).await?);
        }
        senders = super::endpoints::senders(tx, endpoint.as_i64()).await?.into_iter().map(|(plugin, _)| plugin).collect();
    }
    Ok(Passage { event, parts, runs, deliveries: found, senders })
}

/// Returns a delivery together with what it waits for.
async fn waiting(tx: &Transaction<'_>, summary: DeliverySummary) -> Result<PassageDelivery, Error> {
    if !matches!(summary.state, DeliveryState::Pending { .. } | DeliveryState::Retrying { .. }) {
        return Ok(PassageDelivery { summary, is_claimed: false, behind: None });
    }
    let id = summary.id.as_i64();
    let sql = "SELECT l.lease IS NOT NULL, b.id, b.attempts, l.ordering IS NOT NULL FROM live l
               LEFT JOIN LATERAL (SELECT id, attempts FROM live b
                   WHERE b.ordering IS NOT NULL AND b.endpoint = l.endpoint AND b.ordering = l.ordering AND b.id < l.id
                   ORDER BY b.id LIMIT 1) b ON true
               WHERE l.id = $1";
    let Some(found) = row(tx, sql, &[&id]).await? else {
        return Ok(PassageDelivery { summary, is_claimed: false, behind: None });
    };
    let (is_claimed, is_ordered) = (get::<bool>(&found, 0)?, get::<bool>(&found, 3)?);
    let mut behind = None;
    if is_ordered && !is_claimed {
        behind = match get::<Option<i64>>(&found, 1)? {
            Some(before) => Some(Behind::Delivery { id: DeliveryId::from_i64(before), attempts: get_u32(&found, 2)? }),
            None => first_to_run(tx).await?.filter(|first| *first <= summary.id.event()).map(Behind::Event),
        };
    }
    Ok(PassageDelivery { summary, is_claimed, behind })
}

/// Returns the last attempts of some deliveries, each in the order of its attempts.
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
