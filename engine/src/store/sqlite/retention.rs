//! Retention: finished events leave after their time, each with its whole story, a batch at a time between other commits.
//!
//! Two walks over the events in order of age. The first takes what ended well and is older than [`Retention::delivered`]; what it
//! leaves, because something of it is dead or parked or not finished, the second takes once it is older than [`Retention::dead`]
//! and finished; it begins anew each time it comes to its end.

use rusqlite::{Connection, params};

use super::{Local, steady};
use crate::{
    domain::{id::EventId, time::Timestamp},
    store::{Error, Retention},
};

/// Events looked at in one step.
const BATCH: u32 = 500;

/// Behind which event each walk stands; they start anew with the process.
#[derive(Clone, Copy, Default)]
pub struct Walks {
    first: i64,
    second: i64,
}

/// One step of both walks. Says how many rows were looked at, and where the walks stand once that is committed.
pub fn retire(
    db: &Connection,
    local: &Local,
    walks: Walks,
    retention: Retention,
    now: Timestamp,
) -> Result<(usize, Walks), Error> {
    // An id that was issued must not be issued again once its event is gone.
    db.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('last_event', ?1)")?
        .execute([local.last_event().as_i64()])?;
    steady::keep(db)?;

    let first = old_events(db, walks.first, now.minus(retention.delivered))?;
    for id in &first {
        if is_finished(db, *id)? && !is_unhappy(db, *id)? {
            delete(db, *id)?;
        }
    }
    let second = old_events(db, walks.second, now.minus(retention.dead))?;
    for id in &second {
        if is_finished(db, *id)? {
            delete(db, *id)?;
        }
    }
    let looked_at = first.len() + second.len() + forget(db, now.minus(retention.dedupe))?;
    let walks =
        Walks { first: first.last().map_or(walks.first, |id| id.as_i64()), second: second.last().map_or(0, |id| id.as_i64()) };
    Ok((looked_at, walks))
}

/// Events after `cursor` that were accepted before `before`, oldest first.
fn old_events(db: &Connection, cursor: i64, before: Timestamp) -> Result<Vec<EventId>, Error> {
    let mut select =
        db.prepare_cached("SELECT id FROM event WHERE id > ?1 AND id < ?2 AND accepted_at < ?3 ORDER BY id LIMIT ?4")?;
    let rows = select
        .query_map(params![cursor, bound(db, before)?, before.millis(), BATCH], |row| Ok(EventId::from_i64(row.get(0)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// An id below which every event was accepted before `before`, give or take a minute.
fn bound(db: &Connection, before: Timestamp) -> Result<i64, Error> {
    let first: Option<i64> = db
        .prepare_cached("SELECT min(first_id) FROM minute WHERE minute > ?1")?
        .query_row([before.millis() / 60_000], |row| row.get(0))?;
    Ok(first.unwrap_or(i64::MAX))
}

fn is_finished(db: &Connection, id: EventId) -> Result<bool, Error> {
    let (from, until) = id.children();
    let unfinished: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM event_queue WHERE id = ?1)
                 OR EXISTS (SELECT 1 FROM live WHERE id >= ?2 AND id < ?3)
                 OR EXISTS (SELECT 1 FROM run_queue WHERE id >= ?2 AND id < ?3 AND state = 'waiting')",
        )?
        .query_row(params![id.as_i64(), from, until], |row| row.get(0))?;
    Ok(!unfinished)
}

fn is_unhappy(db: &Connection, id: EventId) -> Result<bool, Error> {
    let (from, until) = id.children();
    Ok(db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM delivery WHERE id >= ?1 AND id < ?2 AND state = 'dead')
                 OR EXISTS (SELECT 1 FROM run_queue WHERE id >= ?1 AND id < ?2)",
        )?
        .query_row([from, until], |row| row.get(0))?)
}

/// Removes an event with its runs, deliveries and attempts.
fn delete(db: &Connection, id: EventId) -> Result<(), Error> {
    let (from, until) = id.children();
    for table in ["run", "run_queue", "delivery", "payload"] {
        db.prepare_cached(&format!("DELETE FROM {table} WHERE id >= ?1 AND id < ?2"))?.execute([from, until])?;
    }
    let (from, until) = id.attempts();
    db.prepare_cached("DELETE FROM attempt WHERE id >= ?1 AND id < ?2")?.execute([from, until])?;
    for table in ["unrouted", "replay", "event"] {
        db.prepare_cached(&format!("DELETE FROM {table} WHERE id = ?1"))?.execute([id.as_i64()])?;
    }
    Ok(())
}

/// Forgets callers' ids that are older than the dedupe window.
fn forget(db: &Connection, before: Timestamp) -> Result<usize, Error> {
    // Where nothing was accepted since, every id is that old.
    let bound = bound(db, before)?;
    Ok(db
        .prepare_cached(
            "DELETE FROM dedup WHERE (source, caller_id) IN
                 (SELECT source, caller_id FROM dedup WHERE event_id < ?1 ORDER BY event_id LIMIT ?2)",
        )?
        .execute(params![bound, BATCH])?)
}
