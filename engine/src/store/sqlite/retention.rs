//! Retention: deletes finished events after their time, each with its runs, deliveries and attempts, in batches between other
//! commits. A batch ends after a few milliseconds, regardless of the number of rows, so a caller of the writer waits at most that
//! long.
//!
//! Three walks go over the events in order of age. The first deletes delivered events that are older than [`Retention::delivered`].
//! The second deletes unrouted events that are older than [`Retention::unrouted`]. The third deletes the finished events that the
//! other two left. It deletes an event with dead or parked parts once the event is older than [`Retention::dead`]. It deletes an
//! event that was unfinished when the other walks passed it once the event is older than all three limits. The first walk always
//! continues from its position. The second and the third start again once both have reached their end.
//!
//! A fourth walk ([`evict`]) runs when the store is full. It deletes the oldest finished events of any age.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Local, Sqlite, audit, comparisons, jobs, registry, state, steady};
use crate::{
    domain::{
        id::EventId,
        retention::{Retention, endpoints_forgotten_before},
        time::Timestamp,
    },
    store::{
        Error, Evicted, Retire,
        retention::{Walk, Walks},
    },
};

/// Maximum number of rows of each kind that one step checks.
const BATCH: u32 = 500;
/// Time after which a step stops deleting, since every caller of the writer waits for it.
const STEP_MAX: Duration = Duration::from_millis(5);
/// Number of events between two checks of the time.
const UNTIMED: usize = 8;

#[async_trait]
impl Retire for Sqlite {
    async fn retire(&self, retention: Retention, now: Timestamp) -> Result<usize, Error> {
        let walks = *self.local.walks();
        let (looked_at, walks) = self.write(move |db, local| retire(db, local, walks, retention, now)).await?;
        *self.local.walks() = walks;
        Ok(looked_at)
    }

    async fn evict(&self, bytes_max: u64) -> Result<Evicted, Error> {
        let walks = *self.local.walks();
        let (evicted, walks) = self.write(move |db, local| evict(db, local, walks, bytes_max)).await?;
        *self.local.walks() = walks;
        Ok(evicted)
    }

    async fn size(&self) -> Result<u64, Error> {
        self.read(size).await
    }
}

/// Takes one step of all walks. Returns the number of checked rows, and the positions of the walks after the commit.
fn retire(
    db: &Connection,
    local: &Local,
    mut walks: Walks,
    retention: Retention,
    now: Timestamp,
) -> Result<(usize, Walks), Error> {
    let mut step = Step::begin(db, local)?;
    steady::keep(db)?;
    let before = |age| now.minus(age);
    let (delivered, unrouted, dead) = (before(retention.delivered), before(retention.unrouted), before(retention.dead));

    step.walk(
        &mut walks.delivered,
        |cursor| old_events(db, cursor, delivered),
        |id| Ok(is_finished(db, id)? && !is_unhappy(db, id)? && !is_unrouted(db, id)?),
    )?;
    step.walk(
        &mut walks.unrouted,
        |cursor| old_unrouted(db, cursor, unrouted),
        |id| Ok(is_finished(db, id)? && !is_unhappy(db, id)?),
    )?;
    // Events that were still unfinished when the other walks passed them are deleted once they are older than all three limits.
    let all = delivered.min(unrouted).min(dead);
    step.walk(
        &mut walks.rest,
        |cursor| old_events(db, cursor, dead),
        |id| Ok(is_finished(db, id)? && (is_unhappy(db, id)? || is_older(db, id, all)?)),
    )?;
    // The first walk ends whenever no further event is old enough. The next step continues the walk from its position.
    walks.delivered.ended = false;
    if walks.unrouted.ended && walks.rest.ended {
        (walks.unrouted, walks.rest) = (Walk::default(), Walk::default());
    }
    let looked_at = step.looked_at
        + forget(db, before(retention.dedupe))?
        + audit::forget(db, before(retention.audit), BATCH)?
        + jobs::forget(db, before(retention.audit), BATCH)?
        + comparisons::forget(db, before(retention.audit), BATCH)?
        + forget_minutes(db, before(retention.longest()))?
        + forget_endpoints(db, now)?;
    Ok((looked_at, walks))
}

/// Takes one step of the walk that evicts events. The step ends early once the store holds less than `bytes_max`. When the walk has
/// reached its end, the next step starts it again.
fn evict(db: &Connection, local: &Local, mut walks: Walks, bytes_max: u64) -> Result<(Evicted, Walks), Error> {
    let mut step = Step { bytes_max: Some(bytes_max), ..Step::begin(db, local)? };
    step.walk(&mut walks.eviction, |cursor| oldest_events(db, cursor), |id| is_finished(db, id))?;
    if walks.eviction.ended {
        walks.eviction = Walk::default();
    }
    Ok((Evicted { looked_at: step.looked_at, events: step.left }, walks))
}

/// Returns the number of bytes that the store holds. Free pages do not count. The state and the versions of plugins do not count
/// either: they have separate limits, and deleting events would not make them smaller.
fn size(db: &Connection) -> Result<u64, Error> {
    let pragma = |name: &str| -> Result<u64, Error> {
        let number: i64 = db.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))?;
        Ok(number.unsigned_abs())
    };
    let used = pragma("page_count")?.saturating_sub(pragma("freelist_count")?) * pragma("page_size")?;
    Ok(used.saturating_sub(state::bytes_of_all(db)? + registry::bytes_of_all(db)?))
}

/// One step with a time limit.
struct Step<'a> {
    db: &'a Connection,
    began: Instant,
    /// Deleting stops once the store holds less than this.
    bytes_max: Option<u64>,
    looked_at: usize,
    left: usize,
}

impl<'a> Step<'a> {
    fn begin(db: &'a Connection, local: &Local) -> Result<Self, Error> {
        // After an event is deleted, its id must never be issued again.
        db.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('last_event', ?1)")?
            .execute([local.last_event().as_i64()])?;
        Ok(Self { db, began: Instant::now(), bytes_max: None, looked_at: 0, left: 0 })
    }

    /// Deletes the next events for which `may_leave` returns true, until the time of the step is over. Checks a few events even
    /// after that time, so that every walk advances.
    fn walk(
        &mut self,
        walk: &mut Walk,
        next: impl FnOnce(i64) -> Result<Vec<EventId>, Error>,
        may_leave: impl Fn(EventId) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        if walk.ended {
            return Ok(());
        }
        let events = next(walk.cursor)?;
        walk.ended = events.is_empty();
        for few in events.chunks(UNTIMED) {
            for id in few {
                if self.is_enough()? {
                    return Ok(());
                }
                if may_leave(*id)? {
                    delete(self.db, *id)?;
                    self.left += 1;
                }
                self.looked_at += 1;
                walk.cursor = id.as_i64();
            }
            if self.began.elapsed() > STEP_MAX {
                break;
            }
        }
        Ok(())
    }

    fn is_enough(&self) -> Result<bool, Error> {
        Ok(match self.bytes_max {
            Some(bytes_max) => size(self.db)? < bytes_max,
            None => false,
        })
    }
}

/// Returns events after `cursor`, oldest first.
fn oldest_events(db: &Connection, cursor: i64) -> Result<Vec<EventId>, Error> {
    let mut select = db.prepare_cached("SELECT id FROM event WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let rows = select.query_map(params![cursor, BATCH], |row| Ok(EventId::from_i64(row.get(0)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Returns events after `cursor` that were accepted before `before`, oldest first.
fn old_events(db: &Connection, cursor: i64, before: Timestamp) -> Result<Vec<EventId>, Error> {
    let mut select =
        db.prepare_cached("SELECT id FROM event WHERE id > ?1 AND id < ?2 AND accepted_at < ?3 ORDER BY id LIMIT ?4")?;
    let rows = select
        .query_map(params![cursor, about(db, before)?, before.millis(), BATCH], |row| Ok(EventId::from_i64(row.get(0)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Returns unrouted events after `cursor` that were accepted before `before`, oldest first.
fn old_unrouted(db: &Connection, cursor: i64, before: Timestamp) -> Result<Vec<EventId>, Error> {
    let mut select = db.prepare_cached(
        "SELECT u.id FROM unrouted u CROSS JOIN event e ON e.id = u.id
         WHERE u.id > ?1 AND u.id < ?2 AND e.accepted_at < ?3 ORDER BY u.id LIMIT ?4",
    )?;
    let rows = select
        .query_map(params![cursor, about(db, before)?, before.millis(), BATCH], |row| Ok(EventId::from_i64(row.get(0)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Returns an upper bound for the ids of events that were accepted before `before`. It is exact only to a minute, and less exact if
/// the clock was set back, so callers compare the instants as well.
fn about(db: &Connection, before: Timestamp) -> Result<i64, Error> {
    let first: Option<i64> = db
        .prepare_cached("SELECT first_id FROM minute WHERE minute > ?1 ORDER BY minute LIMIT 1")?
        .query_row([before.millis() / 60_000], |row| row.get(0))
        .optional()?;
    Ok(first.unwrap_or(i64::MAX))
}

/// Returns a limit for ids: every event with a smaller id was accepted before `before`, or at most a minute later.
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
                 OR EXISTS (SELECT 1 FROM run_queue WHERE id >= ?2 AND id < ?3 AND state = 'waiting')
                 OR EXISTS (SELECT 1 FROM scheduled WHERE id >= ?2 AND id < ?3 AND cancelled_at IS NULL)",
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

fn is_unrouted(db: &Connection, id: EventId) -> Result<bool, Error> {
    let exists = "SELECT EXISTS (SELECT 1 FROM unrouted WHERE id = ?1)";
    Ok(db.prepare_cached(exists)?.query_row([id.as_i64()], |row| row.get(0))?)
}

fn is_older(db: &Connection, id: EventId, before: Timestamp) -> Result<bool, Error> {
    let exists = "SELECT EXISTS (SELECT 1 FROM event WHERE id = ?1 AND accepted_at < ?2)";
    Ok(db.prepare_cached(exists)?.query_row(params![id.as_i64(), before.millis()], |row| row.get(0))?)
}

/// Deletes an event with its runs, deliveries and attempts.
fn delete(db: &Connection, id: EventId) -> Result<(), Error> {
    let (from, until) = id.children();
    for table in ["run", "run_queue", "delivery", "payload", "scheduled"] {
        db.prepare_cached(&format!("DELETE FROM {table} WHERE id >= ?1 AND id < ?2"))?.execute([from, until])?;
    }
    let (from, until) = id.attempts();
    db.prepare_cached("DELETE FROM attempt WHERE id >= ?1 AND id < ?2")?.execute([from, until])?;
    for table in ["unrouted", "replay", "event"] {
        db.prepare_cached(&format!("DELETE FROM {table} WHERE id = ?1"))?.execute([id.as_i64()])?;
    }
    Ok(())
}

/// Deletes callers' ids that are older than the window for repeats.
fn forget(db: &Connection, before: Timestamp) -> Result<usize, Error> {
    // If no event was accepted after `before`, every id is older than the window.
    let bound = bound(db, before)?;
    Ok(db
        .prepare_cached(
            "DELETE FROM dedup WHERE (source, caller_id) IN
                 (SELECT source, caller_id FROM dedup WHERE event_id < ?1 ORDER BY event_id LIMIT ?2)",
        )?
        .execute(params![bound, BATCH])?)
}

/// Deletes the rows of deleted endpoints. An endpoint's row stays until the last event is deleted that was accepted before the
/// deletion of the endpoint, because the history of such an event shows the endpoint's name.
fn forget_endpoints(db: &Connection, now: Timestamp) -> Result<usize, Error> {
    let oldest: Option<i64> =
        db.prepare_cached("SELECT accepted_at FROM event ORDER BY id LIMIT 1")?.query_row([], |row| row.get(0)).optional()?;
    let before = endpoints_forgotten_before(now, oldest.map(Timestamp::from_millis));
    Ok(db
        .prepare_cached(
            "DELETE FROM endpoint WHERE id IN (SELECT e.id FROM endpoint e WHERE e.deleted_at IS NOT NULL AND e.deleted_at < ?1
                 AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.endpoint = e.id) LIMIT ?2)",
        )?
        .execute(params![before.millis(), BATCH])?)
}

/// Deletes the first ids of minutes that no query needs any more. Without them, a search by time only becomes less exact.
fn forget_minutes(db: &Connection, before: Timestamp) -> Result<usize, Error> {
    Ok(db
        .prepare_cached(
            "DELETE FROM minute WHERE minute IN (SELECT minute FROM minute WHERE minute < ?1 ORDER BY minute LIMIT ?2)",
        )?
        .execute(params![before.millis() / 60_000, BATCH])?)
}
