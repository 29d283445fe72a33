//! Retention: deletes finished events after their time, each with its runs, deliveries and attempts, in batches. The walks are the
//! same as in the embedded store. Only one node at a time takes a step. Events that an operator is retrying at the moment are
//! skipped.
//!
//! The size of the store is the sum of the stored bodies and an estimate for the rows around them. The database's own figures
//! cannot be used: deleting rows frees no disk space, and the statistics are outdated.

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Postgres,
    accept::EVENT_BYTES,
    attempts::ATTEMPT_BYTES,
    audit,
    commit::count_bytes,
    comparisons,
    db::{execute, get, row, rows, the_row},
    jobs,
    settle::{PAYLOAD_BYTES, lock_key},
};
use crate::{
    domain::{
        retention::{Retention, endpoints_forgotten_before},
        time::Timestamp,
    },
    store::{
        Error, Evicted, Retire,
        retention::{Walk, Walks},
    },
};

/// Maximum number of rows of each kind that one step checks.
const BATCH: i64 = 500;
/// Maximum number of events that one step of [`evict`] checks. It is small, so that no more events are deleted than necessary.
const EVICTION_BATCH: i64 = 64;

#[async_trait]
impl Retire for Postgres {
    async fn retire(&self, retention: Retention, now: Timestamp) -> Result<usize, Error> {
        let walks = *self.local.walks();
        let step = self.step(move |tx, local| Box::pin(retire(tx, local.me(), walks, retention, now)));
        let (looked_at, walks) = step.await?;
        *self.local.walks() = walks;
        Ok(looked_at)
    }

    async fn evict(&self, bytes_max: u64) -> Result<Evicted, Error> {
        let walks = *self.local.walks();
        let step = self.step(move |tx, local| Box::pin(evict(tx, local.me(), walks, bytes_max)));
        let (evicted, walks) = step.await?;
        *self.local.walks() = walks;
        Ok(evicted)
    }

    async fn size(&self) -> Result<u64, Error> {
        self.read(|tx, _| Box::pin(size(tx))).await
    }
}

/// An event on a walk, and its state.
struct Checked {
    id: i64,
    finished: bool,
    unhappy: bool,
    unrouted: bool,
    accepted_at: Timestamp,
}

/// Returns whether this node may take the step. It may not if another node is taking a step.
async fn is_alone(tx: &Transaction<'_>) -> Result<bool, Error> {
    get(&the_row(tx, "SELECT pg_try_advisory_xact_lock($1)", &[&lock_key("retention", &[])]).await?, 0)
}

/// Takes one step of all walks. Returns the number of checked rows, and the positions of the walks after the commit.
async fn retire(
    tx: &Transaction<'_>,
    node: i64,
    mut walks: Walks,
    retention: Retention,
    now: Timestamp,
) -> Result<(usize, Walks), Error> {
    if !is_alone(tx).await? {
        return Ok((0, walks));
    }
    let before = |age| now.minus(age);
    let (delivered, unrouted, dead) = (before(retention.delivered), before(retention.unrouted), before(retention.dead));
    let all = delivered.min(unrouted).min(dead);
    let mut looked_at = 0;

    let found = old_events(tx, &mut walks.delivered, delivered).await?;
    looked_at += found.len();
    leave(tx, node, found.iter().filter(|one| one.finished && !one.unhappy && !one.unrouted)).await?;
    let found = old_unrouted(tx, &mut walks.unrouted, unrouted).await?;
    looked_at += found.len();
    leave(tx, node, found.iter().filter(|one| one.finished && !one.unhappy)).await?;
    // Events that were still unfinished when the other walks passed them are deleted once they are older than all three limits.
    let found = old_events(tx, &mut walks.rest, dead).await?;
    looked_at += found.len();
    leave(tx, node, found.iter().filter(|one| one.finished && (one.unhappy || one.accepted_at < all))).await?;

    // The first walk ends whenever no further event is old enough. The next step continues the walk from its position.
    walks.delivered.ended = false;
    if walks.unrouted.ended && walks.rest.ended {
        (walks.unrouted, walks.rest) = (Walk::default(), Walk::default());
    }
    looked_at += forget(tx, before(retention.dedupe)).await?
        + audit::forget(tx, before(retention.audit), BATCH).await?
        + jobs::forget(tx, before(retention.audit), BATCH).await?
        + comparisons::forget(tx, before(retention.audit), BATCH).await?
        + forget_minutes(tx, before(retention.longest())).await?
        + forget_endpoints(tx, now).await?;
    Ok((looked_at, walks))
}

/// Takes one step of the walk that evicts events. The step ends early once the store holds less than `bytes_max`. When the walk has
/// reached its end, the next step starts it again.
async fn evict(tx: &Transaction<'_>, node: i64, mut walks: Walks, bytes_max: u64) -> Result<(Evicted, Walks), Error> {
    let mut evicted = Evicted { looked_at: 0, events: 0 };
    if !is_alone(tx).await? {
        return Ok((evicted, walks));
    }
    let sql = "SELECT id FROM event WHERE id > $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED";
    let found = rows(tx, sql, &[&walks.eviction.cursor, &EVICTION_BATCH]).await?;
    walks.eviction.ended = found.is_empty();
    for one in check(tx, found).await? {
        if size(tx).await? < bytes_max {
            return Ok((evicted, walks));
        }
        if one.finished {
            leave(tx, node, [&one].into_iter()).await?;
            evicted.events += 1;
        }
        evicted.looked_at += 1;
        walks.eviction.cursor = one.id;
    }
    if walks.eviction.ended {
        walks.eviction = Walk::default();
    }
    Ok((evicted, walks))
}

/// Returns the bytes that the store holds.
async fn size(tx: &Transaction<'_>) -> Result<u64, Error> {
    let bytes: i64 = get(&the_row(tx, "SELECT sum(bytes)::bigint FROM usage", &[]).await?, 0)?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Returns events after the walk's cursor that were accepted before `before`, oldest first. Locks them until the end of the
/// transaction.
async fn old_events(tx: &Transaction<'_>, walk: &mut Walk, before: Timestamp) -> Result<Vec<Checked>, Error> {
    if walk.ended {
        return Ok(Vec::new());
    }
    let sql = "SELECT id FROM event WHERE id > $1 AND id < $2 AND accepted_at < $3 ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED";
    let found = rows(tx, sql, &[&walk.cursor, &about(tx, before).await?, &before.millis(), &BATCH]).await?;
    advance(tx, walk, found).await
}

/// Returns unrouted events that were accepted before `before`, and locks them, as [`old_events`] does.
async fn old_unrouted(tx: &Transaction<'_>, walk: &mut Walk, before: Timestamp) -> Result<Vec<Checked>, Error> {
    if walk.ended {
        return Ok(Vec::new());
    }
    let sql = "SELECT e.id FROM unrouted u JOIN event e ON e.id = u.id
               WHERE u.id > $1 AND u.id < $2 AND e.accepted_at < $3 ORDER BY u.id LIMIT $4 FOR UPDATE OF e SKIP LOCKED";
    let found = rows(tx, sql, &[&walk.cursor, &about(tx, before).await?, &before.millis(), &BATCH]).await?;
    advance(tx, walk, found).await
}

async fn advance(tx: &Transaction<'_>, walk: &mut Walk, found: Vec<tokio_postgres::Row>) -> Result<Vec<Checked>, Error> {
    walk.ended = found.is_empty();
    let checked = check(tx, found).await?;
    if let Some(last) = checked.last() {
        walk.cursor = last.id;
    }
    Ok(checked)
}

/// Reads the states of locked events. This is a separate statement, so that it sees rows that were committed before the events were
/// locked.
async fn check(tx: &Transaction<'_>, found: Vec<tokio_postgres::Row>) -> Result<Vec<Checked>, Error> {
    let ids = found.iter().map(|row| get(row, 0)).collect::<Result<Vec<i64>, Error>>()?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT e.id,
            NOT (EXISTS (SELECT 1 FROM event_queue q WHERE q.id = e.id)
                OR EXISTS (SELECT 1 FROM live l WHERE l.id >= e.id << 14 AND l.id < (e.id + 1) << 14)
                OR EXISTS (SELECT 1 FROM run_queue r WHERE r.id >= e.id << 14 AND r.id < (e.id + 1) << 14 AND r.state = 'waiting')
                OR EXISTS (SELECT 1 FROM scheduled s WHERE s.id >= e.id << 14 AND s.id < (e.id + 1) << 14 AND s.cancelled_at IS NULL)),
            EXISTS (SELECT 1 FROM delivery d WHERE d.id >= e.id << 14 AND d.id < (e.id + 1) << 14 AND d.state = 'dead')
                OR EXISTS (SELECT 1 FROM run_queue r WHERE r.id >= e.id << 14 AND r.id < (e.id + 1) << 14),
            EXISTS (SELECT 1 FROM unrouted u WHERE u.id = e.id), e.accepted_at
        FROM event e WHERE e.id = ANY($1) ORDER BY e.id";
    let checked = |row: &tokio_postgres::Row| -> Result<Checked, Error> {
        Ok(Checked {
            id: get(row, 0)?,
            finished: get(row, 1)?,
            unhappy: get(row, 2)?,
            unrouted: get(row, 3)?,
            accepted_at: Timestamp::from_millis(get(row, 4)?),
        })
    };
    rows(tx, sql, &[&ids]).await?.iter().map(checked).collect()
}

/// Deletes events with their runs, deliveries and attempts.
async fn leave<'a>(tx: &Transaction<'_>, node: i64, events: impl Iterator<Item = &'a Checked>) -> Result<(), Error> {
    let ids: Vec<i64> = events.map(|one| one.id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    for table in ["run", "run_queue", "delivery"] {
        let sql = format!(
            "DELETE FROM {table} r USING unnest($1::bigint[]) e (id) WHERE r.id >= e.id << 14 AND r.id < (e.id + 1) << 14"
        );
        execute(tx, &sql, &[&ids]).await?;
    }
    for table in ["unrouted", "replay"] {
        execute(tx, &format!("DELETE FROM {table} WHERE id = ANY($1)"), &[&ids]).await?;
    }
    let range =
        |bits: u32| format!("USING unnest($1::bigint[]) e (id) WHERE r.id >= e.id << {bits} AND r.id < (e.id + 1) << {bits}");
    let mut bytes = 0;
    for (table, bytes_of, which, each) in [
        ("payload", "octet_length(r.body)::bigint", range(14), PAYLOAD_BYTES),
        ("scheduled", "octet_length(r.data)::bigint", range(14), EVENT_BYTES),
        ("attempt", "octet_length(r.excerpt)::bigint", range(22), ATTEMPT_BYTES),
        (
            "event",
            "octet_length(r.data)::bigint + coalesce(octet_length(r.body), 0)",
            "WHERE r.id = ANY($1)".to_owned(),
            EVENT_BYTES,
        ),
    ] {
        let sql = format!(
            "WITH gone AS (DELETE FROM {table} r {which} RETURNING {bytes_of} + $2 AS bytes)
             SELECT coalesce(sum(bytes), 0)::bigint FROM gone"
        );
        bytes += get::<i64>(&the_row(tx, &sql, &[&ids, &each]).await?, 0)?;
    }
    count_bytes(tx, node, -bytes).await
}

/// Returns an upper bound for the ids of events that were accepted before `before`. It is exact only to a minute, and less exact
/// if the nodes' clocks differ, so callers compare the instants as well.
async fn about(tx: &Transaction<'_>, before: Timestamp) -> Result<i64, Error> {
    let sql = "SELECT first_id FROM minute WHERE minute > $1::bigint + 1 ORDER BY minute LIMIT 1";
    let found = row(tx, sql, &[&(before.millis() / 60_000)]).await?;
    found.map_or(Ok(i64::MAX), |row| get(&row, 0))
}

/// Deletes callers' ids that are older than the window for repeats.
async fn forget(tx: &Transaction<'_>, before: Timestamp) -> Result<usize, Error> {
    // If no event was accepted after `before`, every id is older than the window.
    let sql = "SELECT coalesce(min(first_id), 9223372036854775807) FROM minute WHERE minute > $1";
    let bound: i64 = get(&the_row(tx, sql, &[&(before.millis() / 60_000)]).await?, 0)?;
    let sql = "DELETE FROM dedup d USING (SELECT source, caller_id FROM dedup WHERE event_id < $1 ORDER BY event_id LIMIT $2) old
               WHERE d.source = old.source AND d.caller_id = old.caller_id";
    Ok(execute(tx, sql, &[&bound, &BATCH]).await? as usize)
}

/// Deletes the rows of deleted endpoints. An endpoint's row stays until the last event is deleted that was accepted before the
/// deletion of the endpoint, because the history of such an event shows the endpoint's name.
async fn forget_endpoints(tx: &Transaction<'_>, now: Timestamp) -> Result<usize, Error> {
    let oldest = row(tx, "SELECT accepted_at FROM event ORDER BY id LIMIT 1", &[]).await?;
    let oldest = oldest.map(|row| get(&row, 0)).transpose()?.map(Timestamp::from_millis);
    let before = endpoints_forgotten_before(now, oldest).millis();
    let sql = "DELETE FROM endpoint WHERE id IN (SELECT e.id FROM endpoint e WHERE e.deleted_at IS NOT NULL AND e.deleted_at < $1
                   AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.endpoint = e.id) LIMIT $2)";
    Ok(execute(tx, sql, &[&before, &BATCH]).await? as usize)
}

/// Deletes the first ids of minutes that no query needs any more. Without them, a search by time only becomes less exact.
async fn forget_minutes(tx: &Transaction<'_>, before: Timestamp) -> Result<usize, Error> {
    let sql = "DELETE FROM minute WHERE minute IN (SELECT minute FROM minute WHERE minute < $1 ORDER BY minute LIMIT $2)";
    Ok(execute(tx, sql, &[&(before.millis() / 60_000), &BATCH]).await? as usize)
}
