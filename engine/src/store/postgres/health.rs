//! Counts waiting work at each stage, and the size of the store.

use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Local, Postgres, claims,
    db::{execute, get, limit, row, the_row},
};
use crate::{
    clock,
    domain::time::Timestamp,
    metrics::StageReading,
    store::{Error, Health, LEASE, Load},
};

#[async_trait]
impl Health for Postgres {
    async fn load(&self) -> Result<Load, Error> {
        let (stages, bytes) =
            self.read(|tx, local| Box::pin(async move { Ok((stages(tx, local).await?, database_bytes(tx).await?)) })).await?;
        Ok(Load {
            stages,
            queues: self.local.handoff.queues(),
            queued_bytes: self.committer.gauge().queued() as u64,
            file_bytes: vec![("database", bytes)],
            // The disk is that of the database server, so its size is not known here.
            disk_bytes: 0,
            disk_free_bytes: 0,
        })
    }

    async fn probe(&self) -> Result<(), Error> {
        if let Some(error) = self.committer.gauge().failure() {
            return Err(error);
        }
        self.step(|tx, local| {
            Box::pin(async move {
                let sql =
                    "INSERT INTO meta (key, value) VALUES ('probe', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
                execute(tx, sql, &[&local.me().to_le_bytes().as_slice()]).await?;
                Ok(())
            })
        })
        .await
    }
}

/// Returns the waiting work at each stage in the whole store. Runs and deliveries that are not due yet are counted as waiting work,
/// but not as late.
async fn stages(tx: &Transaction<'_>, local: &Local) -> Result<Vec<StageReading>, Error> {
    let counts = the_row(
        tx,
        "SELECT (SELECT count(*) FROM event_queue), (SELECT count(*) FROM run_queue WHERE state = 'waiting'),
             (SELECT count(*) FROM run_queue WHERE state = 'parked'), (SELECT count(*) FROM live),
             (SELECT count(*) FROM delivery WHERE state = 'dead' AND state <> 'delivered'),
             (SELECT min(next_at) FROM run_queue WHERE state = 'waiting' AND lease IS NULL),
             (SELECT at FROM delivery WHERE state = 'dead' AND state <> 'delivered' ORDER BY id LIMIT 1),
             (SELECT count(*) FROM scheduled WHERE cancelled_at IS NULL),
             (SELECT min(due_at) FROM scheduled WHERE cancelled_at IS NULL)",
        &[],
    )
    .await?;
    let count = |column: usize| -> Result<u64, Error> { Ok(get::<i64>(&counts, column)?.unsigned_abs()) };
    let (wall, steady) = (clock::wall(), clock::steady());
    let late = |due: Option<Timestamp>, now: Timestamp| due.map_or(Duration::ZERO, |due| now.since(due));
    let run = get::<Option<i64>>(&counts, 5)?.map(|at| local.steady_at(at));
    let dead = get::<Option<i64>>(&counts, 6)?.map(Timestamp::from_millis);
    let scheduled = get::<Option<i64>>(&counts, 8)?.map(Timestamp::from_millis);
    let waiting = claims::waiting_anywhere(tx, local).await?;
    let delivery = waiting.into_iter().flat_map(|waiting| [waiting.first, waiting.retry]).flatten().min();
    let stage = |name, depth, oldest| StageReading { name, depth, oldest };
    Ok(vec![
        stage("events", count(0)?, oldest_event(tx, local).await?),
        stage("runs", count(1)?, late(run, steady)),
        stage("runs-parked", count(2)?, Duration::ZERO),
        stage("deliveries", count(3)?, late(delivery, steady)),
        stage("scheduled", count(7)?, late(scheduled, wall)),
        stage("dead", count(4)?, late(dead, wall)),
    ])
}

/// Returns the number of events that wait to be run. Stops counting at `most`.
pub async fn events_to_run(tx: &Transaction<'_>, most: usize) -> Result<usize, Error> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM event_queue LIMIT $1) few";
    let count: i64 = get(&the_row(tx, sql, &[&limit(most)]).await?, 0)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Returns how long the oldest event has waited to be run, since it was accepted or its replay was requested.
async fn oldest_event(tx: &Transaction<'_>, local: &Local) -> Result<Duration, Error> {
    let sql = "SELECT e.accepted_at, q.round, q.next_at, q.lease IS NOT NULL FROM event_queue q JOIN event e ON e.id = q.id
               WHERE q.id = (SELECT min(id) FROM event_queue)";
    let Some(row) = row(tx, sql, &[]).await? else { return Ok(Duration::ZERO) };
    let (next_at, leased) = (local.steady_at(get(&row, 2)?), get::<bool>(&row, 3)?);
    Ok(match get::<i64>(&row, 1)? {
        0 => clock::wall().since(Timestamp::from_millis(get(&row, 0)?)),
        _ if leased => clock::steady().plus(LEASE).since(next_at),
        _ => clock::steady().since(next_at),
    })
}

/// Returns the size of the database on its disk.
async fn database_bytes(tx: &Transaction<'_>) -> Result<u64, Error> {
    let bytes: i64 = get(&the_row(tx, "SELECT pg_database_size(current_database())", &[]).await?, 0)?;
    Ok(bytes.unsigned_abs())
}
