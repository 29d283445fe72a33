//! Commit 3: an attempt and the delivery's next state, as one change. And what people do with deliveries.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Local, accept};
use crate::{
    domain::{
        delivery::Next,
        endpoint::EndpointState,
        id::{ATTEMPTS_MAX, DeliveryId, EndpointId},
        time::Timestamp,
    },
    store::{AttemptRecord, Error, EventClaim},
};

/// Says `false`, changing nothing, if the lease was lost.
pub fn record(db: &Connection, local: &Local, record: &AttemptRecord, claims: &mut Vec<EventClaim>) -> Result<bool, Error> {
    let AttemptRecord { delivery, endpoint, lease, n, attempt, next, news } = record;
    match next {
        Next::Retry { due } => {
            let changed = db
                .prepare_cached("UPDATE live SET attempts = ?1, next_at = ?2, lease = NULL WHERE id = ?3 AND lease = ?4")?
                .execute(params![n, due.millis(), delivery.as_i64(), lease.token])?;
            if changed == 0 {
                return Ok(false);
            }
            local.handoff.alarm.set(*due);
        }
        Next::Delivered | Next::Dead(_) => {
            let round: Option<i64> = db
                .prepare_cached("DELETE FROM live WHERE id = ?1 AND lease = ?2 RETURNING round")?
                .query_row(params![delivery.as_i64(), lease.token], |row| row.get(0))
                .optional()?;
            let Some(round) = round else { return Ok(false) };
            let (state, reason) = match next {
                Next::Dead(reason) => ("dead", Some(reason.as_str())),
                _ => ("delivered", None),
            };
            finish(db, *delivery, endpoint.as_i64(), round, state, reason, i64::from(*n), attempt.at)?;
        }
    }
    db.prepare_cached(
        "INSERT INTO attempt (id, at, outcome, status, latency_us, detail, excerpt, retry_after_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        delivery.attempt(*n).as_i64(),
        attempt.at.millis(),
        attempt.outcome.as_str(),
        attempt.outcome.status(),
        i64::try_from(attempt.latency.as_micros()).unwrap_or(i64::MAX),
        attempt.detail,
        &*attempt.excerpt,
        attempt.retry_after.map(|wait| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
    ])?;
    accept::insert_all(db, local, news.iter().cloned(), claims)?;
    Ok(true)
}

#[expect(clippy::too_many_arguments, reason = "one per column of the table that it writes")]
pub fn finish(
    db: &Connection,
    id: DeliveryId,
    endpoint: i64,
    round: i64,
    state: &str,
    reason: Option<&str>,
    attempts: i64,
    at: Timestamp,
) -> Result<(), Error> {
    db.prepare_cached(
        "INSERT INTO delivery (id, endpoint, round, state, reason, attempts, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![id.as_i64(), endpoint, round, state, reason, attempts, at.millis()])?;
    Ok(())
}

pub fn retry(db: &Connection, local: &Local, id: DeliveryId, now: Timestamp) -> Result<(), Error> {
    let waiting: Option<Option<i64>> =
        db.prepare_cached("SELECT lease FROM live WHERE id = ?1")?.query_row([id.as_i64()], |row| row.get(0)).optional()?;
    match waiting {
        // It is on its way at this moment.
        Some(Some(_)) => return Ok(()),
        Some(None) => {
            let endpoint: i64 =
                db.prepare_cached("SELECT endpoint FROM live WHERE id = ?1")?.query_row([id.as_i64()], |row| row.get(0))?;
            if let Some(refusal) = takes_nothing(db, endpoint)? {
                return Err(Error::Conflict(refusal));
            }
            db.prepare_cached("UPDATE live SET next_at = ?1 WHERE id = ?2")?.execute(params![now.millis(), id.as_i64()])?;
        }
        None => {
            let finished: Option<(i64, i64, i64)> = db
                .prepare_cached("SELECT endpoint, round, attempts FROM delivery WHERE id = ?1")?
                .query_row([id.as_i64()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            let (endpoint, round, attempts) = finished.ok_or(Error::NotFound { what: "delivery" })?;
            if let Some(refusal) = takes_nothing(db, endpoint)? {
                return Err(Error::Conflict(refusal));
            }
            if attempts >= i64::from(ATTEMPTS_MAX) {
                let text = format!("it has had {ATTEMPTS_MAX} attempts, more than that are not kept; replay the event instead");
                return Err(Error::Conflict(text));
            }
            db.prepare_cached("DELETE FROM delivery WHERE id = ?1")?.execute([id.as_i64()])?;
            db.prepare_cached(
                "INSERT INTO live (id, endpoint, round, attempts, next_at, lease) VALUES (?1, ?2, ?3, ?4, ?5, NULL)",
            )?
            .execute(params![id.as_i64(), endpoint, round, attempts, now.millis()])?;
        }
    }
    local.handoff.alarm.set(now);
    Ok(())
}

/// Why nothing can be sent to an endpoint, and what to do about it; `None` if it can, now or once it is resumed.
pub fn takes_nothing(db: &Connection, endpoint: i64) -> Result<Option<String>, Error> {
    let row: Option<(String, String, bool)> = db
        .prepare_cached("SELECT name, state, deleted_at IS NOT NULL FROM endpoint WHERE id = ?1")?
        .query_row([endpoint], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    Ok(match row {
        None => Some("its endpoint was deleted; replay the event instead".to_owned()),
        Some((name, _, true)) => Some(format!("the endpoint {name:?} was deleted; replay the event instead")),
        Some((name, state, false)) => match EndpointState::parse(&state) {
            Some(EndpointState::Disabled(_)) => Some(format!(
                "the endpoint {name:?} is disabled and takes nothing; enable it first: innesco endpoint resume {name}"
            )),
            _ => None,
        },
    })
}

/// Says whose it was: there it may wait in memory as well.
pub fn cancel(db: &Connection, id: DeliveryId, at: Timestamp) -> Result<EndpointId, Error> {
    let row: Option<(i64, i64, i64, Option<i64>)> = db
        .prepare_cached("SELECT endpoint, round, attempts, lease FROM live WHERE id = ?1")?
        .query_row([id.as_i64()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    match row {
        // Whatever the attempt under way comes to, its record will find the lease gone; the receiver may have it already.
        Some((endpoint, round, attempts, _)) => {
            db.prepare_cached("DELETE FROM live WHERE id = ?1")?.execute([id.as_i64()])?;
            finish(db, id, endpoint, round, "cancelled", None, attempts, at)?;
            Ok(EndpointId::from_i64(endpoint))
        }
        None => {
            let finished = db
                .prepare_cached("SELECT state FROM delivery WHERE id = ?1")?
                .query_row([id.as_i64()], |row| row.get::<_, String>(0))
                .optional()?;
            match finished {
                Some(state) => Err(Error::Conflict(format!("it is {state} already; only what waits can be cancelled"))),
                None => Err(Error::NotFound { what: "delivery" }),
            }
        }
    }
}

/// Finishes up to `limit` deliveries that wait for endpoints which take nothing any more. Says how many, and how many of them are dead.
pub fn bury(db: &Connection, at: Timestamp, limit: u32) -> Result<(usize, usize), Error> {
    let mut select = db.prepare_cached(
        "SELECT l.id, l.endpoint, l.round, l.attempts, e.deleted_at IS NOT NULL
         FROM endpoint e CROSS JOIN live l ON l.endpoint = e.id
         WHERE (e.deleted_at IS NOT NULL OR e.state LIKE 'disabled%') AND l.lease IS NULL LIMIT ?1",
    )?;
    let rows = select.query_map([limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
    let rows: Vec<(i64, i64, i64, i64, bool)> = rows.collect::<Result<_, _>>()?;
    for (id, endpoint, round, attempts, deleted) in &rows {
        db.prepare_cached("DELETE FROM live WHERE id = ?1")?.execute([id])?;
        let (state, reason) = if *deleted { ("cancelled", None) } else { ("dead", Some("endpoint-disabled")) };
        finish(db, DeliveryId::from_i64(*id), *endpoint, *round, state, reason, *attempts, at)?;
    }
    Ok((rows.len(), rows.iter().filter(|(.., deleted)| !deleted).count()))
}
