//! Claiming what is due and handed to nobody: after a restart, for retries, and what found no room in memory when it was stored.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::{
    Local, accept,
    rows::{self, Place},
    settle::{Claims, delivery_weight},
};
use crate::{
    clock,
    domain::{
        event::Event,
        id::{DeliveryId, EndpointId, EventId, RunId},
        name::Slug,
        time::Timestamp,
    },
    store::{DeliveryClaim, Error, EventClaim, LEASE, Lease, RunClaim},
};

/// Rows that one claim takes at most, of each kind and per endpoint or plugin: bounds how long the writer is busy with it.
const EVENTS_MAX: u32 = 256;
const RUNS_MAX: u32 = 32;
const DELIVERIES_MAX: u32 = 128;

/// Claims as far as there is room; the caller hands over after the commit.
pub fn claim_due(
    db: &Connection,
    local: &Local,
    now: Timestamp,
    claims: &mut Claims,
    runs: &mut Vec<RunClaim>,
) -> Result<(), Error> {
    expire(db, now)?;
    claim_events(db, local, now, claims)?;
    claim_runs(db, local, now, runs)?;
    claim_deliveries(db, local, now, claims)
}

/// Ends leases whose time is over: what they held is due.
fn expire(db: &Connection, now: Timestamp) -> Result<(), Error> {
    for table in ["event_queue", "run_queue", "live"] {
        db.prepare_cached(&format!("UPDATE {table} SET lease = NULL WHERE lease IS NOT NULL AND next_at <= ?1"))?
            .execute([now.millis()])?;
    }
    Ok(())
}

/// At the start of the only process that owns the file, no lease of an earlier one is alive.
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

fn take(db: &Connection, table: &str, id: i64, lease: Lease) -> Result<(), Error> {
    let sql = format!("UPDATE {table} SET lease = ?1, next_at = ?2 WHERE id = ?3");
    db.prepare_cached(&sql)?.execute(params![lease.token, lease.until.millis(), id])?;
    Ok(())
}

/// What was loaded for a row that is due. One that cannot be read is left alone for the time of a lease: it must not hold up the
/// others, and its failure would break the transaction that everyone shares.
fn readable<T>(
    db: &Connection,
    local: &Local,
    now: Timestamp,
    table: &'static str,
    id: i64,
    loaded: Result<T, Error>,
) -> Result<Option<T>, Error> {
    match loaded {
        Ok(value) => Ok(Some(value)),
        Err(error @ Error::Corrupt { .. }) => {
            tracing::error!(queue = table, id, %error, "what is due cannot be read and is left out; it is tried again later");
            take(db, table, id, new_lease(local, now))?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn owner(db: &Connection, id: EventId, table: &'static str, row: i64) -> Result<Arc<Event>, Error> {
    let event = rows::load_event(db, id)?.ok_or_else(|| Place { table, id: row }.corrupt("id"))?;
    Ok(Arc::new(event))
}

fn claim_events(db: &Connection, local: &Local, now: Timestamp, claims: &mut Claims) -> Result<(), Error> {
    let mut select =
        db.prepare_cached("SELECT id, round FROM event_queue WHERE lease IS NULL AND next_at <= ?1 ORDER BY id LIMIT ?2")?;
    let due = select.query_map(params![now.millis(), EVENTS_MAX], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))?;
    for row in due.collect::<Result<Vec<(i64, u32)>, _>>()? {
        let (id, round) = row;
        let loaded = owner(db, EventId::from_i64(id), "event_queue", id);
        let Some(event) = readable(db, local, now, "event_queue", id, loaded)? else { continue };
        let Some(slot) = local.handoff.events.reserve_for_stored(&(), accept::weight(&event.new)) else { break };
        let lease = new_lease(local, now);
        take(db, "event_queue", id, lease)?;
        claims.events.push(EventClaim { event, round, lease, slot });
    }
    Ok(())
}

fn claim_runs(db: &Connection, local: &Local, now: Timestamp, claims: &mut Vec<RunClaim>) -> Result<(), Error> {
    let mut plugins =
        db.prepare_cached("SELECT DISTINCT plugin FROM run_queue WHERE state = 'waiting' AND lease IS NULL AND next_at <= ?1")?;
    let plugins: Vec<String> = plugins.query_map([now.millis()], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for name in plugins {
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
            let Some((plugin, event)) = readable(db, local, now, "run_queue", id, loaded)? else { continue };
            let Some(slot) = local.handoff.runs.reserve_for_stored(&plugin, accept::weight(&event.new)) else { break };
            let lease = new_lease(local, now);
            take(db, "run_queue", id, lease)?;
            let endpoint = endpoint.map(EndpointId::from_i64);
            claims.push(RunClaim { id: run, event, round, plugin, endpoint, tries, lease, slot });
        }
    }
    Ok(())
}

/// Steps from one endpoint with something waiting to the next, whatever the number of rows each has.
const WAITING_ENDPOINTS: &str = "WITH RECURSIVE waiting (endpoint) AS (
        SELECT min(endpoint) FROM live WHERE lease IS NULL AND ordering IS NULL
        UNION ALL
        SELECT (SELECT min(endpoint) FROM live WHERE lease IS NULL AND ordering IS NULL AND endpoint > waiting.endpoint)
        FROM waiting WHERE waiting.endpoint IS NOT NULL
    )
    SELECT e.id, (SELECT min(next_at) FROM live WHERE lease IS NULL AND endpoint = e.id) AS due
    FROM waiting JOIN endpoint e ON e.id = waiting.endpoint
    WHERE e.state = 'active' AND e.deleted_at IS NULL";

fn waiting_endpoints(db: &Connection) -> Result<Vec<(EndpointId, Timestamp)>, Error> {
    let mut select = db.prepare_cached(WAITING_ENDPOINTS)?;
    let rows = select.query_map([], |row| Ok((EndpointId::from_i64(row.get(0)?), Timestamp::from_millis(row.get(1)?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn claim_deliveries(db: &Connection, local: &Local, now: Timestamp, claims: &mut Claims) -> Result<(), Error> {
    for (endpoint, due) in waiting_endpoints(db)? {
        if due > now {
            continue;
        }
        let mut select = db.prepare_cached(
            "SELECT id, attempts FROM live WHERE endpoint = ?1 AND lease IS NULL AND next_at <= ?2 ORDER BY next_at LIMIT ?3",
        )?;
        let rows =
            select.query_map(params![endpoint.as_i64(), now.millis(), DELIVERIES_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for row in rows.collect::<Result<Vec<(i64, u32)>, _>>()? {
            let (id, attempts) = row;
            let delivery = DeliveryId::from_i64(id);
            let loaded =
                owner(db, delivery.event(), "live", id).and_then(|event| Ok((event, rows::load_payload(db, id)?.map(Arc::new))));
            let Some((event, payload)) = readable(db, local, now, "live", id, loaded)? else { continue };
            let weight = delivery_weight(&event, payload.as_deref());
            let Some(slot) = local.handoff.deliveries.reserve_for_stored(&endpoint, weight) else { break };
            let lease = new_lease(local, now);
            take(db, "live", id, lease)?;
            claims.deliveries.push(DeliveryClaim { id: delivery, endpoint, event, payload, attempts, lease, slot });
        }
    }
    Ok(())
}

/// When the next unclaimed thing is due.
pub fn next_due(db: &Connection) -> Result<Option<Timestamp>, Error> {
    let least = |sql: &str| -> Result<Option<Timestamp>, Error> {
        let millis: Option<i64> = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(millis.map(Timestamp::from_millis))
    };
    let event = least("SELECT min(next_at) FROM (SELECT next_at FROM event_queue WHERE lease IS NULL ORDER BY id LIMIT 1)")?;
    let run = least("SELECT min(next_at) FROM run_queue WHERE state = 'waiting' AND lease IS NULL")?;
    let delivery = waiting_endpoints(db)?.into_iter().map(|(_, due)| due).min();
    Ok([event, run, delivery].into_iter().flatten().min())
}

/// Gives something claimed back: due at once.
pub fn release(db: &Connection, local: &Local, table: &str, id: i64, token: i64) -> Result<(), Error> {
    let now = clock::steady();
    db.prepare_cached(&format!("UPDATE {table} SET next_at = ?1, lease = NULL WHERE id = ?2 AND lease = ?3"))?
        .execute(params![now.millis(), id, token])?;
    local.handoff.alarm.set(now);
    Ok(())
}
