//! Counts waiting work at each stage. A queue's table holds only unfinished rows, and SQLite counts a whole table page by page.
//! All other counts have partial indexes that hold exactly the counted rows. So counting a million rows takes some milliseconds.
//! Counts always use a reading connection.

use std::{fs, path::Path, time::Duration};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _};

use super::{Sqlite, claims};
use crate::{
    clock,
    domain::time::Timestamp,
    metrics::StageReading,
    store::{Error, Health, LEASE, Load},
};

#[async_trait]
impl Health for Sqlite {
    async fn load(&self) -> Result<Load, Error> {
        let stages = self.read(|db| stages(db, clock::wall(), clock::steady())).await?;
        let (disk_bytes, disk_free_bytes) = disk(&self.file)?;
        Ok(Load {
            stages,
            queues: self.local.handoff.queues(),
            queued_bytes: self.writer.gauge().queued() as u64,
            file_bytes: file_bytes(&self.file),
            disk_bytes,
            disk_free_bytes,
        })
    }

    async fn probe(&self) -> Result<(), Error> {
        if let Some(error) = self.writer.gauge().failure() {
            return Err(error);
        }
        self.write(|db, _| {
            // Writes whole pages, so that a full disk is noticed.
            db.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('probe', zeroblob(16384))")?.execute([])?;
            Ok(())
        })
        .await
    }
}

/// These statements have no condition, so that SQLite counts page by page instead of row by row.
const EVENTS: &str = "SELECT count(*) FROM event_queue";
const RUNS: &str = "SELECT count(*) FROM run_queue";
const DELIVERIES: &str = "SELECT count(*) FROM live";
/// This statement uses only the index `run_queue_parked`.
const PARKED: &str = "SELECT count(*) FROM run_queue WHERE state = 'parked'";
/// This statement uses only the index `scheduled_due`.
const SCHEDULED: &str = "SELECT count(*) FROM scheduled WHERE cancelled_at IS NULL";
const NEXT_SCHEDULED: &str = "SELECT due_at FROM scheduled WHERE cancelled_at IS NULL ORDER BY due_at LIMIT 1";
/// The second condition makes this statement use only the index `delivery_unhappy`.
const DEAD: &str = "SELECT count(*) FROM delivery WHERE state = 'dead' AND state <> 'delivered'";

/// Events are run in the order of their ids, so the event with the smallest id has waited longest.
const OLDEST_EVENT: &str =
    "SELECT e.accepted_at, q.round, q.next_at, q.lease IS NOT NULL FROM event_queue q JOIN event e ON e.id = q.id
     WHERE q.id = (SELECT min(id) FROM event_queue)";
/// This statement steps from one plugin with a waiting run to the next, so its cost does not depend on the number of rows.
const OLDEST_RUN: &str = "WITH RECURSIVE waiting (plugin) AS (
        SELECT min(plugin) FROM run_queue WHERE state = 'waiting' AND lease IS NULL
        UNION ALL
        SELECT (SELECT min(plugin) FROM run_queue WHERE state = 'waiting' AND lease IS NULL AND plugin > waiting.plugin)
        FROM waiting WHERE waiting.plugin IS NOT NULL
    )
    SELECT min((SELECT min(next_at) FROM run_queue r WHERE r.state = 'waiting' AND r.lease IS NULL AND r.plugin = waiting.plugin))
    FROM waiting WHERE waiting.plugin IS NOT NULL";
const OLDEST_DEAD: &str = "SELECT at FROM delivery WHERE state = 'dead' AND state <> 'delivered' ORDER BY id LIMIT 1";

/// Returns the waiting work at each stage. Runs and deliveries that are not due yet are counted as waiting work, but not as late.
fn stages(db: &Connection, wall: Timestamp, steady: Timestamp) -> Result<Vec<StageReading>, Error> {
    let count = |sql: &str| -> Result<u64, Error> {
        let count: i64 = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    };
    let instant = |sql: &str| -> Result<Option<Timestamp>, Error> {
        let millis: Option<Option<i64>> = db.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
        Ok(millis.flatten().map(Timestamp::from_millis))
    };
    let parked = count(PARKED)?;
    let late = |due: Option<Timestamp>, now: Timestamp| due.map_or(Duration::ZERO, |due| now.since(due));
    let due_delivery =
        claims::waiting_endpoints(db)?.into_iter().flat_map(|waiting| [waiting.first, waiting.retry]).flatten().min();
    let stage = |name, depth, oldest| StageReading { name, depth, oldest };
    Ok(vec![
        stage("events", count(EVENTS)?, oldest_event(db, wall, steady)?),
        stage("runs", count(RUNS)?.saturating_sub(parked), late(instant(OLDEST_RUN)?, steady)),
        stage("runs-parked", parked, Duration::ZERO),
        stage("deliveries", count(DELIVERIES)?, late(due_delivery, steady)),
        stage("scheduled", count(SCHEDULED)?, late(instant(NEXT_SCHEDULED)?, wall)),
        stage("dead", count(DEAD)?, late(instant(OLDEST_DEAD)?, wall)),
    ])
}

/// Returns the number of events that wait to be run.
pub fn events_to_run(db: &Connection) -> Result<usize, Error> {
    let count: i64 = db.prepare_cached(EVENTS)?.query_row([], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Returns how long the oldest event has waited to be run, since it was accepted or its replay was requested.
fn oldest_event(db: &Connection, wall: Timestamp, steady: Timestamp) -> Result<Duration, Error> {
    let row: Option<(i64, u32, i64, bool)> = db
        .prepare_cached(OLDEST_EVENT)?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    Ok(match row {
        None => Duration::ZERO,
        Some((accepted_at, 0, ..)) => wall.since(Timestamp::from_millis(accepted_at)),
        Some((_, _, lease_ends, true)) => steady.plus(LEASE).since(Timestamp::from_millis(lease_ends)),
        Some((_, _, due, false)) => steady.since(Timestamp::from_millis(due)),
    })
}

/// Returns the sizes of the files. A missing file has size 0.
fn file_bytes(file: &Path) -> Vec<(&'static str, u64)> {
    let size = |suffix: &str| {
        let mut path = file.as_os_str().to_owned();
        path.push(suffix);
        fs::metadata(path).map_or(0, |metadata| metadata.len())
    };
    vec![("db", size("")), ("wal", size("-wal"))]
}

/// Returns the size of the file's disk, and the free space for this process.
fn disk(file: &Path) -> Result<(u64, u64), Error> {
    let disk = rustix::fs::statvfs(file).map_err(|error| Error::Unavailable(error.to_string()))?;
    Ok((disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(db: &Connection, sql: &str, column: &str) -> Vec<String> {
        let mut select = db.prepare(sql).unwrap();
        let rows = select.query_map([], |row| row.get(column)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn counts_read_pages_or_indexes_instead_of_rows() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(include_str!("schema.sql")).unwrap();
        for sql in [EVENTS, RUNS, DELIVERIES] {
            let steps = texts(&db, &format!("EXPLAIN {sql}"), "opcode");
            assert!(steps.iter().any(|step| step == "Count") && !steps.iter().any(|step| step == "Next"), "{sql}: {steps:?}");
        }
        for (sql, index) in [(PARKED, "run_queue_parked"), (DEAD, "delivery_unhappy"), (OLDEST_DEAD, "delivery_unhappy")] {
            let plan = texts(&db, &format!("EXPLAIN QUERY PLAN {sql}"), "detail").join("; ");
            assert!(plan.contains(&format!("INDEX {index}")), "{sql}: {plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        }
        for sql in [OLDEST_EVENT, OLDEST_RUN] {
            let plan = texts(&db, &format!("EXPLAIN QUERY PLAN {sql}"), "detail").join("; ");
            assert!(!plan.contains("SCAN run_queue") && !plan.contains("SCAN q") && !plan.contains("SCAN e"), "{sql}: {plan}");
        }
    }

    #[test]
    fn waiting_work_is_counted_at_its_stage() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(include_str!("schema.sql")).unwrap();
        let now = Timestamp::from_millis(1_000_000);
        let (wall, steady) = (now, now.plus(Duration::from_secs(500)));
        let empty = stages(&db, wall, steady).unwrap();
        assert!(empty.iter().all(|stage| stage.depth == 0 && stage.oldest.is_zero()), "{empty:?}");
        db.execute_batch(
            "INSERT INTO event (id, accepted_at, source, type, content_type, depth, codec, data)
                 VALUES (1, 970000, 's', 't', 'c', 0, 0, x''), (2, 990000, 's', 't', 'c', 0, 0, x'');
             INSERT INTO event_queue (id, round, next_at, lease) VALUES (1, 0, 1600000, 5), (2, 0, 1480000, NULL);
             INSERT INTO run_queue (id, plugin, round, tries, state, next_at) VALUES (1, 'a', 0, 1, 'waiting', 1600000),
                 (2, 'b', 0, 1, 'waiting', 1493000), (3, 'b', 0, 1, 'waiting', 1499000), (4, 'b', 0, 1, 'parked', 0);
             INSERT INTO endpoint (id, name, url, events, conditions, scheme, state, created_at)
                 VALUES (1, 'on', '', '', '', '', 'active', 0), (2, 'off', '', '', '', '', 'paused', 0);
             INSERT INTO live (id, endpoint, round, attempts, next_at, lease) VALUES (1, 1, 0, 0, 1800000, 5),
                 (2, 1, 0, 0, 1498000, NULL), (3, 2, 0, 0, 1000, NULL);
             INSERT INTO delivery (id, endpoint, round, state, reason, attempts, at) VALUES (9, 1, 0, 'dead', 'gone', 1, 400000),
                 (10, 1, 0, 'dead', 'gone', 1, 900000), (11, 1, 0, 'delivered', NULL, 1, 100), (12, 1, 0, 'cancelled', NULL, 1, 100);",
        )
        .unwrap();
        let found: Vec<_> = stages(&db, wall, steady)
            .unwrap()
            .into_iter()
            .map(|stage| (stage.name, stage.depth, stage.oldest.as_secs()))
            .collect();
        assert_eq!(
            found,
            [
                ("events", 2, 30),
                ("runs", 3, 7),
                ("runs-parked", 1, 0),
                ("deliveries", 3, 2),
                ("scheduled", 0, 0),
                ("dead", 2, 600)
            ]
        );
        // The wait of a replayed event starts with the request for the replay.
        db.execute_batch("UPDATE event_queue SET round = 1, next_at = 1600000, lease = 5 WHERE id = 1").unwrap();
        assert_eq!(stages(&db, wall, steady).unwrap()[0].oldest, LEASE - Duration::from_secs(100));
    }
}
