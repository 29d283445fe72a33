//! Claims due rows that no worker holds. Such rows exist after a restart, for retries, and if memory had no room for them when
//! they were stored.
//!
//! Leases are stored although only one process owns the file. Creating a row with a lease costs nothing extra, and the same trait
//! also fits a store with many nodes. At start, every lease of an earlier process ends.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::{
    Local, Sqlite,
    rows::{self, Place},
    writer::{Breaks, Keeps},
};
use crate::{
    clock,
    domain::{
        endpoint::Ordering,
        event::Event,
        id::{DeliveryId, EndpointId, EventId, RunId},
        name::Slug,
        time::Timestamp,
    },
    store::{ClaimId, Claims, DeliveryClaim, Error, EventClaim, LEASE, Lease, RunClaim, commit::After, weight},
};

/// Maximum number of rows of each kind that one claim takes, per endpoint or plugin. Bounds how long a claim occupies the writer.
const EVENTS_MAX: u32 = 256;
const RUNS_MAX: u32 = 32;
const DELIVERIES_MAX: usize = 128;
/// Maximum number of ordering keys of one endpoint that one claim checks.
const ORDERS_MAX: usize = 256;

#[async_trait]
impl Claims for Sqlite {
    async fn claim_due(&self, now: Timestamp) -> Result<usize, Error> {
        // This commit need not be synced. If it is lost, no harm is done, because all leases end with the process.
        self.write_then(Keeps::Progress, Breaks::All, 0, move |db, local, after| {
            claim_due(db, local, now, after)?;
            Ok(after.claims())
        })
        .await
    }

    async fn release(&self, claims: Vec<(ClaimId, Lease)>) -> Result<(), Error> {
        // This commit need not be synced. If it is lost, no harm is done, because the rows become due when their leases end.
        self.write_then(Keeps::Progress, Breaks::All, 0, move |db, _, after| {
            let now = clock::steady();
            for (row, lease) in claims {
                let (table, id) = place(row);
                let released = db
                    .prepare_cached(&format!("UPDATE {table} SET next_at = ?1, lease = NULL WHERE id = ?2 AND lease = ?3"))?
                    .execute(params![now.millis(), id, lease.token])?;
                if released > 0 {
                    after.ended.push(row);
                }
                after.due_now();
            }
            Ok(())
        })
        .await
    }

    async fn next_due(&self, claimed_at: Timestamp) -> Result<Option<Timestamp>, Error> {
        let local = Arc::clone(&self.local);
        self.read(move |db| next_due(db, &local, claimed_at)).await
    }
}

/// Claims as long as the hand-off has room. `after` hands the claims over after the commit.
fn claim_due(db: &Connection, local: &Local, now: Timestamp, after: &mut After) -> Result<(), Error> {
    expire(db, local, now, after)?;
    claim_events(db, local, now, after)?;
    claim_runs(db, local, now, after)?;
    claim_deliveries(db, local, now, after)?;
    claim_ordered(db, local, now, after)
}

/// Ends expired leases, so that their rows are due.
fn expire(db: &Connection, local: &Local, now: Timestamp, after: &mut After) -> Result<(), Error> {
    for row in local.own.leases.expired(now) {
        let (table, id) = place(row);
        db.prepare_cached(&format!("UPDATE {table} SET lease = NULL WHERE id = ?1 AND lease IS NOT NULL AND next_at <= ?2"))?
            .execute(params![id, now.millis()])?;
        after.ended.push(row);
    }
    Ok(())
}

/// Returns the table and the id of a row.
const fn place(row: ClaimId) -> (&'static str, i64) {
    match row {
        ClaimId::Event(id) => ("event_queue", id.as_i64()),
        ClaimId::Run(id) => ("run_queue", id.as_i64()),
        ClaimId::Delivery(id) => ("live", id.as_i64()),
    }
}

/// Ends every lease. Called when the process that owns the file starts: no other process can hold a lease then.
pub fn expire_all(db: &Connection, now: Timestamp) -> Result<(), Error> {
    for table in ["event_queue", "run_queue", "live"] {
        db.execute(
            &format!("UPDATE {table} SET lease = NULL, next_at = min(next_at, ?1) WHERE lease IS NOT NULL"),
            [now.millis()],
        )?;
    }
    Ok(())
}

fn new_lease(local: &Local, now: Timestamp) -> Lease {
    Lease { token: local.next_token(), until: now.plus(LEASE) }
}

fn take(db: &Connection, row: ClaimId, lease: Lease) -> Result<(), Error> {
    let (table, id) = place(row);
    let sql = format!("UPDATE {table} SET lease = ?1, next_at = ?2 WHERE id = ?3");
    db.prepare_cached(&sql)?.execute(params![lease.token, lease.until.millis(), id])?;
    Ok(())
}

/// Returns the loaded values of a due row. A row that cannot be read is skipped for the duration of a lease. It must not delay the
/// other rows, and if its error were returned, the transaction that all jobs share would fail.
fn readable<T>(
    db: &Connection,
    local: &Local,
    now: Timestamp,
    row: ClaimId,
    loaded: Result<T, Error>,
    after: &mut After,
) -> Result<Option<T>, Error> {
    match loaded {
        Ok(value) => Ok(Some(value)),
        Err(error @ Error::Corrupt { .. }) => {
            let (queue, id) = place(row);
            tracing::error!(queue, id, %error, "skipping an unreadable row until its lease expires");
            let lease = new_lease(local, now);
            take(db, row, lease)?;
            after.skipped.push((row, lease));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn owner(db: &Connection, id: EventId, table: &'static str, row: i64) -> Result<Arc<Event>, Error> {
    let event = rows::load_event(db, id)?.ok_or_else(|| Place { table, id: row }.corrupt("id"))?;
    Ok(Arc::new(event))
}

fn claim_events(db: &Connection, local: &Local, now: Timestamp, after: &mut After) -> Result<(), Error> {
    let mut select =
        db.prepare_cached("SELECT id, round FROM event_queue WHERE lease IS NULL AND next_at <= ?1 ORDER BY id LIMIT ?2")?;
    let due = select.query_map(params![now.millis(), EVENTS_MAX], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))?;
    for row in due.collect::<Result<Vec<(i64, u32)>, _>>()? {
        let (id, round) = row;
        let row = ClaimId::Event(EventId::from_i64(id));
        let loaded = owner(db, EventId::from_i64(id), "event_queue", id);
        let Some(event) = readable(db, local, now, row, loaded, after)? else { continue };
        let Some(slot) = local.handoff.events.reserve_for_stored(&(), weight::event(&event.new)) else { break };
        let lease = new_lease(local, now);
        take(db, row, lease)?;
        after.events.push(EventClaim { event, round, lease, settings: 0, slot, caller: None });
    }
    Ok(())
}

/// This statement steps from one plugin with a waiting run to the next. So its cost does not depend on the number of rows, although
/// a plugin that is held may have many rows.
const WAITING_PLUGINS: &str = "WITH RECURSIVE waiting (plugin) AS (
        SELECT min(plugin) FROM run_queue WHERE state = 'waiting' AND lease IS NULL
        UNION ALL
        SELECT (SELECT min(q.plugin) FROM run_queue q WHERE q.state = 'waiting' AND q.lease IS NULL AND q.plugin > waiting.plugin)
        FROM waiting WHERE waiting.plugin IS NOT NULL
    )
    SELECT plugin, (SELECT min(q.next_at) FROM run_queue q WHERE q.state = 'waiting' AND q.lease IS NULL AND q.plugin = waiting.plugin)
    FROM waiting WHERE plugin IS NOT NULL";

/// Returns the plugins with waiting runs, and when the earliest run of each is due.
fn waiting_plugins(db: &Connection) -> Result<Vec<(String, Timestamp)>, Error> {
    let mut select = db.prepare_cached(WAITING_PLUGINS)?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, Timestamp::from_millis(row.get(1)?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn claim_runs(db: &Connection, local: &Local, now: Timestamp, after: &mut After) -> Result<(), Error> {
    for (name, due) in waiting_plugins(db)? {
        if due > now || local.room_for_runs(&name) == 0 {
            continue;
        }
        let mut select = db.prepare_cached(
            "SELECT id, endpoint, round, tries FROM run_queue
             WHERE plugin = ?1 AND state = 'waiting' AND lease IS NULL AND next_at <= ?2 ORDER BY next_at LIMIT ?3",
        )?;
        let due = select
            .query_map(params![name, now.millis(), RUNS_MAX], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        for row in due.collect::<Result<Vec<(i64, Option<i64>, u32, u32)>, _>>()? {
            let (id, endpoint, round, tries) = row;
            let run = RunId::from_i64(id);
            let loaded = Slug::parse(&name)
                .map_err(|_| Place { table: "run_queue", id }.corrupt("plugin"))
                .and_then(|plugin| Ok((plugin, owner(db, run.event(), "run_queue", id)?)));
            let Some((plugin, event)) = readable(db, local, now, ClaimId::Run(run), loaded, after)? else { continue };
            let Some(slot) = local.handoff.runs.reserve_for_stored(&plugin, weight::event(&event.new)) else { break };
            let lease = new_lease(local, now);
            take(db, ClaimId::Run(run), lease)?;
            let endpoint = endpoint.map(EndpointId::from_i64);
            after.runs.push(RunClaim { id: run, event, round, plugin, endpoint, tries, lease, settings: 0, slot });
        }
    }
    Ok(())
}

/// This statement steps from one endpoint with a waiting delivery to the next, so its cost does not depend on the number of rows.
const WAITING_ENDPOINTS: &str = "WITH RECURSIVE waiting (endpoint) AS (
        SELECT min(endpoint) FROM live WHERE lease IS NULL AND ordering IS NULL
        UNION ALL
        SELECT (SELECT min(endpoint) FROM live WHERE lease IS NULL AND ordering IS NULL AND endpoint > waiting.endpoint)
        FROM waiting WHERE waiting.endpoint IS NOT NULL
    )
    SELECT e.id,
        (SELECT min(next_at) FROM live WHERE lease IS NULL AND ordering IS NULL AND endpoint = e.id AND (attempts > 0) = 0),
        (SELECT min(next_at) FROM live WHERE lease IS NULL AND ordering IS NULL AND endpoint = e.id AND (attempts > 0) = 1)
    FROM waiting JOIN endpoint e ON e.id = waiting.endpoint
    WHERE e.state = 'active' AND e.deleted_at IS NULL";

/// An endpoint with waiting deliveries: when its earliest first attempt is due, and when its earliest retry is due.
pub struct Waiting {
    endpoint: EndpointId,
    pub first: Option<Timestamp>,
    pub retry: Option<Timestamp>,
}

pub fn waiting_endpoints(db: &Connection) -> Result<Vec<Waiting>, Error> {
    let mut select = db.prepare_cached(WAITING_ENDPOINTS)?;
    let rows = select.query_map([], |row| {
        let due = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis));
        Ok(Waiting { endpoint: EndpointId::from_i64(row.get(0)?), first: due(1)?, retry: due(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn claim_deliveries(db: &Connection, local: &Local, now: Timestamp, after: &mut After) -> Result<(), Error> {
    for Waiting { endpoint, first, retry } in waiting_endpoints(db)? {
        let is_due = |due: Option<Timestamp>| due.is_some_and(|due| due <= now);
        let (first, retry) = (is_due(first), is_due(retry));
        if !first && !retry {
            continue;
        }
        let room = local.handoff.deliveries.room_for_stored(&endpoint).min(DELIVERIES_MAX);
        // If first attempts and retries both wait, each kind gets half of the slots. An odd slot goes to the first attempts.
        let retries = match (first, retry) {
            (true, true) => room / 2,
            (_, true) => room,
            (_, false) => 0,
        };
        let mut due = due_rows(db, endpoint, now, true, retries)?;
        let mut firsts = due_rows(db, endpoint, now, false, if first { room - due.len() } else { 0 })?;
        if retry && due.len() == retries && firsts.len() + due.len() < room {
            due = due_rows(db, endpoint, now, true, room - firsts.len())?;
        }
        firsts.append(&mut due);
        for (id, attempts) in firsts {
            if !claim_delivery(db, local, now, endpoint, id, attempts, after)? {
                break;
            }
        }
    }
    Ok(())
}

/// Returns due first attempts or due retries of an endpoint, longest due first.
fn due_rows(db: &Connection, endpoint: EndpointId, now: Timestamp, retries: bool, most: usize) -> Result<Vec<(i64, u32)>, Error> {
    if most == 0 {
        return Ok(Vec::new());
    }
    let mut select = db.prepare_cached(
        "SELECT id, attempts FROM live
         WHERE endpoint = ?1 AND lease IS NULL AND ordering IS NULL AND (attempts > 0) = ?2 AND next_at <= ?3
         ORDER BY next_at LIMIT ?4",
    )?;
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let rows = select.query_map(params![endpoint.as_i64(), retries, now.millis(), most], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Claims a delivery. Returns `false` if there is no room for it.
fn claim_delivery(
    db: &Connection,
    local: &Local,
    now: Timestamp,
    endpoint: EndpointId,
    id: i64,
    attempts: u32,
    after: &mut After,
) -> Result<bool, Error> {
    let delivery = DeliveryId::from_i64(id);
    let loaded = owner(db, delivery.event(), "live", id).and_then(|event| Ok((event, rows::load_payload(db, id)?.map(Arc::new))));
    let row = ClaimId::Delivery(delivery);
    let Some((event, payload)) = readable(db, local, now, row, loaded, after)? else { return Ok(true) };
    let weight = weight::waiting(&event, payload.as_deref());
    let Some(slot) = local.handoff.deliveries.reserve_for_stored(&endpoint, weight) else { return Ok(false) };
    let lease = new_lease(local, now);
    take(db, row, lease)?;
    after.deliveries.push(DeliveryClaim { id: delivery, endpoint, event, payload, attempts, lease, slot });
    Ok(true)
}

/// The columns of an ordered delivery that a claim reads.
struct InOrder {
    id: i64,
    attempts: u32,
    next_at: Timestamp,
    leased: bool,
}

/// Returns active endpoints with ordered deliveries.
fn ordered_endpoints(db: &Connection) -> Result<Vec<EndpointId>, Error> {
    let mut select = db.prepare_cached(
        "WITH RECURSIVE waiting (endpoint) AS (
             SELECT min(endpoint) FROM live WHERE ordering IS NOT NULL
             UNION ALL
             SELECT (SELECT min(endpoint) FROM live WHERE ordering IS NOT NULL AND endpoint > waiting.endpoint)
             FROM waiting WHERE waiting.endpoint IS NOT NULL
         )
         SELECT e.id FROM waiting JOIN endpoint e ON e.id = waiting.endpoint WHERE e.state = 'active' AND e.deleted_at IS NULL",
    )?;
    let rows = select.query_map([], |row| Ok(EndpointId::from_i64(row.get(0)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Returns up to [`ORDERS_MAX`] ordering keys of an endpoint. Starts after the key `after`, and continues with the smallest key
/// after the largest.
fn orders(db: &Connection, endpoint: EndpointId, after: i64) -> Result<Vec<i64>, Error> {
    let mut select = db.prepare_cached(
        "SELECT min(ordering) FROM live WHERE ordering IS NOT NULL AND endpoint = ?1 AND ordering > ?2 AND ordering <= ?3",
    )?;
    let mut found = Vec::new();
    for (mut from, until) in [(after, i64::MAX), (i64::MIN, after)] {
        while found.len() < ORDERS_MAX {
            let next: Option<i64> = select.query_row(params![endpoint.as_i64(), from, until], |row| row.get(0))?;
            let Some(next) = next else { break };
            found.push(next);
            from = next;
        }
    }
    Ok(found)
}

fn in_order(db: &Connection, endpoint: EndpointId, ordering: i64, most: usize) -> Result<Vec<InOrder>, Error> {
    let mut select = db.prepare_cached(
        "SELECT id, attempts, next_at, lease IS NOT NULL FROM live
         WHERE ordering IS NOT NULL AND endpoint = ?1 AND ordering = ?2 ORDER BY id LIMIT ?3",
    )?;
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let rows = select.query_map(params![endpoint.as_i64(), ordering, most], |row| {
        Ok(InOrder { id: row.get(0)?, attempts: row.get(1)?, next_at: Timestamp::from_millis(row.get(2)?), leased: row.get(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Returns the first event that still waits to be run, in whole or in part. The deliveries of this event may have to precede those
/// of later events.
pub fn first_to_run(db: &Connection) -> Result<Option<EventId>, Error> {
    let first = |sql: &str| -> Result<Option<i64>, Error> { Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?) };
    let event = first("SELECT min(id) FROM event_queue")?.map(EventId::from_i64);
    let run = first("SELECT min(id) FROM run_queue WHERE state = 'waiting'")?.map(|id| RunId::from_i64(id).event());
    Ok([event, run].into_iter().flatten().min_by_key(|event| event.as_i64()))
}

/// Claims ordered deliveries. The deliveries of one endpoint with the same ordering key are sent one after the other. If an
/// endpoint has one ordering key, this claims several of its deliveries. If it has several ordering keys, which are sent side by
/// side, this claims only the first delivery of each key.
fn claim_ordered(db: &Connection, local: &Local, now: Timestamp, after: &mut After) -> Result<(), Error> {
    let barrier = first_to_run(db)?;
    let mut held_back = false;
    for endpoint in ordered_endpoints(db)? {
        let mut room = local.handoff.deliveries.room_for_stored(&endpoint).min(DELIVERIES_MAX);
        if room == 0 {
            continue;
        }
        let orders = orders(db, endpoint, local.last_order(endpoint))?;
        for ordering in orders {
            if room == 0 {
                break;
            }
            local.note_order(endpoint, ordering);
            let train = if ordering == Ordering::WHOLE { room } else { 1 };
            for InOrder { id, attempts, next_at, leased } in in_order(db, endpoint, ordering, train)? {
                let behind = barrier.is_some_and(|first| DeliveryId::from_i64(id).event().as_i64() >= first.as_i64());
                held_back |= leased || behind;
                if leased
                    || behind
                    || next_at > now
                    || room == 0
                    || !claim_delivery(db, local, now, endpoint, id, attempts, after)?
                {
                    break;
                }
                room -= 1;
            }
        }
        // If no room is left, deliveries with further ordering keys may wait. The next claim continues with these keys.
        held_back |= room == 0;
    }
    local.handoff.alarm.hold_back(held_back);
    Ok(())
}

/// Returns when the next unclaimed row is due. Considers only rows whose queue has room: if a queue is full, the claimer is
/// notified once the queue has room.
fn next_due(db: &Connection, local: &Local, claimed_at: Timestamp) -> Result<Option<Timestamp>, Error> {
    let least = |sql: &str| -> Result<Option<Timestamp>, Error> {
        let millis: Option<i64> = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(millis.map(Timestamp::from_millis))
    };
    let event = least("SELECT min(next_at) FROM (SELECT next_at FROM event_queue WHERE lease IS NULL ORDER BY id LIMIT 1)")?;
    let plugins = waiting_plugins(db)?.into_iter().filter(|(plugin, _)| local.room_for_runs(plugin) > 0);
    let run = plugins.map(|(_, due)| due).min();
    let has_room = |endpoint: &EndpointId| local.handoff.deliveries.room_for_stored(endpoint) > 0;
    let deliveries = waiting_endpoints(db)?.into_iter().filter(|waiting| has_room(&waiting.endpoint));
    let delivery = deliveries.filter_map(|waiting| [waiting.first, waiting.retry].into_iter().flatten().min()).min();
    let mut ordered = None;
    for endpoint in ordered_endpoints(db)?.into_iter().filter(has_room) {
        for ordering in orders(db, endpoint, local.last_order(endpoint))? {
            let head = in_order(db, endpoint, ordering, 1)?;
            // A row that was already due waits for the row before it. When that earlier row is finished, the claimer is woken.
            let due = head.first().filter(|head| !head.leased && head.next_at > claimed_at).map(|head| head.next_at);
            ordered = [ordered, due].into_iter().flatten().min();
        }
    }
    Ok([event, run, delivery, ordered].into_iter().flatten().min())
}
