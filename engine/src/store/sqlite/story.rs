//! The history of events and deliveries: lists and details, read on connections beside the writer.

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params, params_from_iter};

use super::{
    Sqlite,
    claims::first_to_run,
    rows::{self, ATTEMPT_COLUMNS, EVENT_COLUMNS, Place, WHOLE_EVENT_COLUMNS},
    scheduled,
};
use crate::{
    domain::{
        delivery::DeliveryState,
        event::Parts,
        id::{DeliveryId, EndpointId, EventId, RunId},
        pattern::Pattern,
        time::Timestamp,
        why::Behind,
    },
    store::{
        DeliveryFilter, DeliveryStory, DeliverySummary, Error, EventFilter, EventStory, EventSummary, Page, PageRequest, Passage,
        PassageDelivery, RecordedFilter, RecordedRun, RunFilter, STORY_ATTEMPTS, STORY_DELIVERIES, STORY_EMITTED, STORY_RUNS,
        STORY_SCHEDULED, SettledFrom, SettledRuns, StoredAttempt, StoredRun, Story, StoryPlace, WholeDelivery,
        columns::ended,
        story::{
            CHAIN_EVENTS, EVENT_ID_END, PASSAGE_PARTS, RECORDED_BYTES, RECORDED_COLUMNS, RECORDED_LOOK, RUN_COLUMNS, RUN_JOINS,
            candidates, look_from, parts, read_parts,
        },
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

    async fn runs(&self, filter: RunFilter, page: PageRequest) -> Result<Page<StoredRun>, Error> {
        self.read_for_people(move |db| runs(db, &filter, page)).await
    }

    async fn run(&self, id: RunId) -> Result<StoredRun, Error> {
        self.read_for_people(move |db| run(db, id)).await
    }

    async fn recorded_run(&self, id: RunId) -> Result<RecordedRun, Error> {
        self.read_for_people(move |db| {
            let mut select = db.prepare_cached(&format!("{} WHERE r.id = ?1", recorded()))?;
            let mut rows = select.query([id.as_i64()])?;
            rows.next()?.map_or(Err(Error::NotFound { what: "run" }), read_recorded)
        })
        .await
    }

    async fn recorded_runs(&self, filter: RecordedFilter, page: PageRequest) -> Result<Page<RecordedRun>, Error> {
        self.read_for_people(move |db| recorded_runs(db, &filter, page)).await
    }

    async fn settled_runs(&self, filter: RecordedFilter, from: SettledFrom, limit: usize) -> Result<SettledRuns, Error> {
        self.read_for_people(move |db| settled_runs(db, &filter, from, limit)).await
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

    async fn chain(&self, id: EventId) -> Result<(Vec<EventSummary>, bool), Error> {
        self.read_for_people(move |db| chain(db, id)).await
    }

    async fn passage(&self, event: EventId, endpoint: Option<EndpointId>) -> Result<Passage, Error> {
        self.read_for_people(move |db| passage(db, event, endpoint)).await
    }
}

fn chain(db: &Connection, id: EventId) -> Result<(Vec<EventSummary>, bool), Error> {
    let sql = format!("SELECT {EVENT_COLUMNS}, length(e.data) FROM event e WHERE e.id = ?1");
    let mut select = db.prepare_cached(&sql)?;
    let mut load = |id: EventId| -> Result<Option<EventSummary>, Error> {
        let mut rows = select.query([id.as_i64()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(EventSummary {
            event: rows::event(row, Bytes::new())?,
            bytes: row.get::<_, i64>(12)?.unsigned_abs(),
            parts: event_parts(db, id)?,
        }))
    };
    let mut first = load(id)?.ok_or(Error::NotFound { what: "event" })?;
    while let Some(cause) = first.event.new.cause {
        match load(cause)? {
            Some(event) => first = event,
            None => break,
        }
    }
    let mut found = vec![first];
    let mut emitted = db.prepare_cached("SELECT id FROM event WHERE cause = ?1 ORDER BY id LIMIT ?2")?;
    let mut place = 0;
    while let Some(parent) = found.get(place) {
        let room = limit(CHAIN_EVENTS + 1 - found.len());
        let children = emitted.query_map([parent.event.id.as_i64(), room], |row| Ok(EventId::from_i64(row.get(0)?)))?;
        for child in children.collect::<Result<Vec<_>, _>>()? {
            found.extend(load(child)?);
        }
        if found.len() > CHAIN_EVENTS {
            break;
        }
        place += 1;
    }
    let more = found.len() > CHAIN_EVENTS;
    found.truncate(CHAIN_EVENTS);
    Ok((found, more))
}

fn passage(db: &Connection, id: EventId, endpoint: Option<EndpointId>) -> Result<Passage, Error> {
    let event = rows::load_event(db, id)?.ok_or(Error::NotFound { what: "event" })?;
    let (first, until) = id.children();
    let sql = format!(
        "SELECT {RUN_COLUMNS}, NULL FROM {RUNS} {RUN_JOINS}
         WHERE r.id >= ?1 AND r.id < ?2 AND (r.endpoint IS NULL OR r.endpoint = ?3) ORDER BY r.id DESC LIMIT ?4"
    );
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query(params![first, until, endpoint.map(EndpointId::as_i64), limit(PASSAGE_PARTS)])?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        runs.push(read_run(row)?);
    }
    let (mut found, mut senders) = (Vec::new(), Vec::new());
    if let Some(endpoint) = endpoint {
        let filter = DeliveryFilter { event: Some(id), endpoint: Some(endpoint), ..DeliveryFilter::default() };
        let page = PageRequest { cursor: None, limit: PASSAGE_PARTS };
        for summary in deliveries(db, &filter, page)?.items {
            found.push(waiting(db, summary)?);
        }
        senders = super::endpoints::senders(db, endpoint)?.into_iter().map(|(plugin, _)| plugin).collect();
    }
    Ok(Passage { parts: event_parts(db, id)?, event, runs, deliveries: found, senders })
}

/// Returns a delivery together with what it waits for.
fn waiting(db: &Connection, summary: DeliverySummary) -> Result<PassageDelivery, Error> {
    let row = db
        .prepare_cached("SELECT lease IS NOT NULL, ordering FROM live WHERE id = ?1")?
        .query_row([summary.id.as_i64()], |row| Ok((row.get::<_, bool>(0)?, row.get::<_, Option<i64>>(1)?)))
        .optional()?;
    let Some((is_claimed, ordering)) = row else { return Ok(PassageDelivery { summary, is_claimed: false, behind: None }) };
    let mut behind = None;
    if let Some(ordering) = ordering.filter(|_| !is_claimed) {
        let before = db
            .prepare_cached(
                "SELECT id, attempts FROM live WHERE ordering IS NOT NULL AND endpoint = ?1 AND ordering = ?2 AND id < ?3
                 ORDER BY id LIMIT 1",
            )?
            .query_row(params![summary.endpoint.as_i64(), ordering, summary.id.as_i64()], |row| {
                Ok(Behind::Delivery { id: DeliveryId::from_i64(row.get(0)?), attempts: row.get(1)? })
            })
            .optional()?;
        let first = first_to_run(db)?.filter(|first| *first <= summary.id.event()).map(Behind::Event);
        behind = before.or(first);
    }
    Ok(PassageDelivery { summary, is_claimed, behind })
}

fn events(db: &Connection, filter: &EventFilter, request: PageRequest) -> Result<Page<EventSummary>, Error> {
    let ends = |sql: &str| -> Result<i64, Error> { Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?) };
    let oldest = look_from(filter.state, request.cursor, ends("SELECT coalesce(max(id), 0) FROM event")?);
    let mut candidates = filter.state.and_then(|state| candidates(state, "?1", oldest, "max"));
    let mut conditions = vec!["e.id < ?1".to_owned()];
    if filter.without_own {
        conditions.push("substr(e.type, 1, 8) <> 'innesco.'".to_owned());
    }
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(request.cursor.unwrap_or(EVENT_ID_END))];
    let types = match &filter.event_type {
        Some(Pattern::Below(prefix)) if candidates.is_none() => types_below(db, prefix)?,
        _ => None,
    };
    if let Some(types) = types {
        candidates = Some(newest_of_types(types.len()));
        values.extend(types.into_iter().map(|event_type| Box::new(event_type) as Box<dyn ToSql>));
    }
    let mut also = |condition: &str, value: Box<dyn ToSql>| {
        conditions.push(condition.to_owned());
        values.push(value);
    };
    match &filter.event_type {
        None | Some(Pattern::All) => {}
        Some(Pattern::Exactly(event_type)) => also("e.type = ?", Box::new(event_type.clone())),
        // This condition uses no range of the index by type, because the rows of such a range would have to be sorted by id. Unless
        // there are too many types, the candidates are already the events of these types.
        Some(Pattern::Below(prefix)) => {
            let condition = format!("substr(e.type, 1, {}) = ?", prefix.chars().count());
            also(&condition, Box::new(prefix.clone()));
        }
    }
    if let Some(source) = &filter.source {
        // An event type, an id or a subject selects fewer events than a source. The plus sign prevents SQLite from using the index
        // by source.
        let is_alone = filter.event_type.is_none() && filter.id.is_none() && filter.subject.is_none();
        also(if is_alone { "e.source = ?" } else { "+e.source = ?" }, Box::new(source.clone()));
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
    // The candidates come newest first, and the join preserves their order. If the result had to be sorted, all candidates would be
    // read. SQLite ignores the order of a joined query that has no limit, so this one has a limit.
    let (from, order) = match candidates {
        Some(candidates) => (format!("({candidates} LIMIT -1) s CROSS JOIN event e ON e.id = s.id"), ""),
        None => ("event e".to_owned(), "ORDER BY e.id DESC"),
    };
    let sql = format!("SELECT {EVENT_COLUMNS}, length(e.data) FROM {from} WHERE {} {order}", conditions.join(" AND "));
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut found = Vec::new();
    // The domain, not the statement, decides whether an event is in a state. So events are read until the page is full.
    while found.len() <= request.limit
        && let Some(row) = rows.next()?
    {
        let event = rows::event(row, Bytes::new())?;
        let bytes = row.get::<_, i64>(12)?.unsigned_abs();
        let parts = event_parts(db, event.id)?;
        if filter.state.is_none_or(|state| state == parts.state()) {
            found.push(EventSummary { event, bytes, parts });
        }
    }
    let page = Page::of(found, request, |summary| summary.event.id.as_i64());
    let is_searched = page.next.is_some() || oldest <= ends("SELECT coalesce(min(id), 0) FROM event")?;
    Ok(if is_searched { page } else { Page { next: Some(oldest), ..page } })
}

/// Maximum number of types below a prefix whose events are found by the index.
const TYPES_MAX: usize = 50;

/// Returns the types of stored events that begin with `prefix`, or `None` if there are too many. This statement steps from one type
/// to the next, so its cost does not depend on the number of events.
fn types_below(db: &Connection, prefix: &str) -> Result<Option<Vec<String>>, Error> {
    let mut select = db.prepare_cached(
        "WITH RECURSIVE below (type) AS (
             SELECT min(type) FROM event WHERE type >= ?1 AND type < ?2
             UNION ALL
             SELECT (SELECT min(e.type) FROM event e WHERE e.type > below.type AND e.type < ?2) FROM below WHERE below.type IS NOT NULL
         )
         SELECT type FROM below WHERE type IS NOT NULL LIMIT ?3",
    )?;
    let end = format!("{prefix}{}", char::MAX);
    let types = select.query_map(params![prefix, end, limit(TYPES_MAX + 1)], |row| row.get(0))?;
    let types = types.collect::<Result<Vec<String>, _>>()?;
    Ok((types.len() <= TYPES_MAX).then_some(types))
}

/// Selects the ids of all events with one of `count` types, newest first. SQLite merges the types while it reads, so a page reads
/// only its own events.
fn newest_of_types(count: usize) -> String {
    match count {
        0 => "SELECT id FROM event WHERE false".to_owned(),
        _ => {
            let one = vec!["SELECT id FROM event WHERE id < ?1 AND type = ?"; count];
            format!("{} ORDER BY id DESC", one.join(" UNION ALL "))
        }
    }
}

/// Counts the parts of an event.
pub fn event_parts(db: &Connection, id: EventId) -> Result<Parts, Error> {
    let mut select = db.prepare_cached(&parts("?1"))?;
    let mut rows = select.query([id.as_i64()])?;
    rows.next()?.map_or(Err(Error::NotFound { what: "event" }), |row| read_parts(row, 0))
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
    let mut select = db.prepare_cached(&format!("{} WHERE r.id >= ?1 AND r.id < ?2 ORDER BY r.id LIMIT ?3", whole_runs()))?;
    let mut rows = select.query([first + i64::from(from.run), until, limit(STORY_RUNS + 1)])?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        runs.push(read_run(row)?);
    }
    let scheduled = scheduled::first(db, first + i64::from(from.scheduled), until, limit(STORY_SCHEDULED + 1))?;
    Ok(EventStory { parts: event_parts(db, id)?, event, runs, deliveries, emitted, scheduled, next: None }.part(from))
}

fn limit(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns the first deliveries with ids from `from` (inclusive) to `until` (exclusive), ordered by id.
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

/// A run `r`, and its row `q` in the queue if it has one.
const RUNS: &str = "run r LEFT JOIN run_queue q ON q.id = r.id";

/// Reads every column of a run, for a check of all rows.
pub fn whole_runs() -> String {
    format!("SELECT {RUN_COLUMNS}, r.log FROM {RUNS} {RUN_JOINS}")
}

/// Reads a row of [`whole_runs`].
pub fn read_run(row: &Row<'_>) -> Result<StoredRun, Error> {
    StoredRun::read(row, Timestamp::from_millis)
}

fn run(db: &Connection, id: RunId) -> Result<StoredRun, Error> {
    let mut select = db.prepare_cached(&format!("{} WHERE r.id = ?1", whole_runs()))?;
    let mut rows = select.query([id.as_i64()])?;
    rows.next()?.map_or(Err(Error::NotFound { what: "run" }), read_run)
}

/// Selects the whole event of a run `r`, and what the run depended on.
fn recorded() -> String {
    format!("SELECT {WHOLE_EVENT_COLUMNS}, {RECORDED_COLUMNS} FROM run r CROSS JOIN event e ON e.id = r.id >> 14")
}

/// Number of the columns of an event in [`recorded`].
const EVENT_WIDTH: usize = 15;

fn read_recorded(row: &Row<'_>) -> Result<RecordedRun, Error> {
    RecordedRun::read(row, EVENT_WIDTH, rows::whole_event(row)?)
}

fn recorded_runs(db: &Connection, filter: &RecordedFilter, request: PageRequest) -> Result<Page<RecordedRun>, Error> {
    let mut select = db.prepare_cached(&format!("{} WHERE r.id < ?1 ORDER BY r.id DESC LIMIT ?2", recorded()))?;
    let mut rows = select.query(params![request.cursor.unwrap_or(i64::MAX), limit(RECORDED_LOOK)])?;
    let (mut items, mut last, mut seen, mut bytes) = (Vec::new(), None, 0, 0);
    while let Some(row) = rows.next()? {
        if items.len() == request.limit || bytes >= RECORDED_BYTES {
            return Ok(Page { items, next: last });
        }
        (seen, last) = (seen + 1, Some(row.get(EVENT_WIDTH)?));
        let text = |column: usize| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
        // The data of other rows is not read.
        if filter.selects(row.get(EVENT_WIDTH)?, text(EVENT_WIDTH + 1)?, text(4)?, row.get(1)?) {
            let run = read_recorded(row)?;
            bytes += run.event.new.content.bytes().len();
            items.extend(Some(run).filter(RecordedRun::is_recorded));
        }
    }
    Ok(Page { items, next: last.filter(|_| seen >= RECORDED_LOOK) })
}

fn settled_runs(db: &Connection, filter: &RecordedFilter, from: SettledFrom, most: usize) -> Result<SettledRuns, Error> {
    let first_since = |since: Timestamp| {
        db.prepare_cached("SELECT min(first_id) FROM minute WHERE minute >= ?1")?
            .query_row([since.millis() / 60_000], |row| row.get::<_, Option<i64>>(0))
    };
    let since = filter.since.map_or(Ok(None), first_since)?.map(|event| EventId::from_i64(event).children().0 - 1);
    // No event was accepted since then, so no run is new.
    let Some(after) = from.after.or(since) else {
        return Ok(SettledRuns { items: Vec::new(), after: None, passed: 0, more: false });
    };
    let end = first_unsettled(db, filter, after, first_since(from.waits_since)?)?;
    let mut select = db.prepare_cached(&format!("{} WHERE r.id > ?1 AND r.id < ?2 ORDER BY r.id LIMIT ?3", recorded()))?;
    let mut rows = select.query(params![after, end, limit(RECORDED_LOOK)])?;
    let mut found = SettledRuns { items: Vec::new(), after: Some(after), passed: 0, more: false };
    let (mut seen, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        let accepted_at: i64 = row.get(1)?;
        if accepted_at >= from.until.millis() {
            return Ok(found);
        }
        if most > 0 && (found.items.len() == most || bytes >= RECORDED_BYTES) {
            return Ok(SettledRuns { more: true, ..found });
        }
        let id = row.get(EVENT_WIDTH)?;
        (seen, found.after) = (seen + 1, Some(id));
        let text = |column: usize| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
        if !filter.selects(id, text(EVENT_WIDTH + 1)?, text(4)?, accepted_at) {
            continue;
        }
        if most == 0 {
            found.passed += 1;
            continue;
        }
        let run = read_recorded(row)?;
        bytes += run.event.new.content.bytes().len();
        found.items.extend(Some(run).filter(RecordedRun::is_recorded));
    }
    found.more = seen >= RECORDED_LOOK;
    Ok(found)
}

/// Returns the first run after `after` that may still change: a run of an event that waits to be run, or a waiting run of the
/// plugin. Ignores events before `first`. If `first` is `None`, ignores all events.
fn first_unsettled(db: &Connection, filter: &RecordedFilter, after: i64, first: Option<i64>) -> Result<i64, Error> {
    let Some(first) = first.map(EventId::from_i64) else { return Ok(i64::MAX) };
    let event = RunId::from_i64(after).event().max(first);
    let event: Option<i64> =
        db.prepare_cached("SELECT min(id) FROM event_queue WHERE id >= ?1")?.query_row([event.as_i64()], |row| row.get(0))?;
    let run: Option<i64> = db
        .prepare_cached("SELECT id FROM run_queue WHERE state = 'waiting' AND plugin = ?1 AND id > ?2 ORDER BY id LIMIT 1")?
        .query_row(params![&*filter.plugin, after.max(first.children().0 - 1)], |row| row.get(0))
        .optional()?;
    let event = event.map(|event| EventId::from_i64(event).children().0);
    Ok([event, run].into_iter().flatten().min().unwrap_or(i64::MAX))
}

fn runs(db: &Connection, filter: &RunFilter, request: PageRequest) -> Result<Page<StoredRun>, Error> {
    // Runs that are not finished are few, so they are listed from their queue, newest first.
    let queue = "run_queue q CROSS JOIN run r ON r.id = q.id";
    let (from, id, which) = match filter.state {
        Some("waiting") => (queue, "q.id", "q.state = 'waiting'"),
        Some("parked") => (queue, "q.id", "q.state = 'parked'"),
        Some("done") => (RUNS, "r.id", "q.id IS NULL AND r.outcome = 'ok'"),
        Some(_) => (RUNS, "r.id", "q.id IS NULL AND r.outcome IS DISTINCT FROM 'ok'"),
        None => (RUNS, "r.id", "true"),
    };
    let (first, end) = filter.event.map_or((0, i64::MAX), EventId::children);
    let mut conditions = vec![which.to_owned(), format!("{id} >= ?"), format!("{id} < ?")];
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(first), Box::new(end.min(request.cursor.unwrap_or(i64::MAX)))];
    let mut also = |condition: String, value: Box<dyn ToSql>| {
        conditions.push(condition);
        values.push(value);
    };
    if let Some(outcome) = filter.outcome {
        also("r.outcome = ?".into(), Box::new(outcome.as_str()));
    }
    if let Some(plugin) = &filter.plugin {
        also("r.plugin = ?".into(), Box::new(plugin.to_string()));
    }
    if let Some(event_type) = &filter.event_type {
        also("v.type = ?".into(), Box::new(event_type.clone()));
    }
    if let Some(since) = filter.since {
        also("v.accepted_at >= ?".into(), Box::new(since.millis()));
        also(
            format!("{id} >= coalesce((SELECT first_id << 14 FROM minute WHERE minute < ? ORDER BY minute DESC LIMIT 1), 0)"),
            Box::new(since.millis() / 60_000),
        );
    }
    if let Some(until) = filter.until {
        also("v.accepted_at < ?".into(), Box::new(until.millis()));
        also(
            format!(
                "{id} < coalesce((SELECT first_id << 14 FROM minute WHERE minute > ? ORDER BY minute LIMIT 1), 9223372036854775807)"
            ),
            Box::new(until.millis() / 60_000),
        );
    }
    values.push(Box::new(limit(request.limit + 1)));
    let sql = format!(
        "SELECT {RUN_COLUMNS}, NULL FROM {from} {RUN_JOINS} WHERE {} ORDER BY {id} DESC LIMIT ?",
        conditions.join(" AND ")
    );
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read_run(row)?);
    }
    Ok(Page::of(found, request, |run| run.id.as_i64()))
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
        // The table of minutes only narrows the range of ids. The time of the event itself decides.
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
            // The state is one of three fixed words, so it may be part of the statement. SQLite uses the partial index only if the
            // state is part of the statement.
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
    /// The time at which the delivery is due, or at which it ended.
    at: i64,
    /// State, reason, and reason for the cancellation.
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

/// Returns the type that the receiver of a delivery gets; `None` once the event is deleted.
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

/// Returns the last attempts of a delivery, in the order in which they were made.
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
