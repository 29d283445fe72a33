//! Commands of operators on deliveries, runs and events: retry, cancel, replay.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Sqlite,
    attempts::finish,
    scheduled,
    writer::{Breaks, Keeps},
};
use crate::{
    domain::{
        command::{
            self, KnownRun, QueuedRun, RunRetry, cancels_no_finished_delivery, may_attempt_again, may_send,
            replays_no_waiting_event,
        },
        delivery::{CancelReason, Ending},
        id::{DeliveryId, EndpointId, EventId, RunId},
        time::Timestamp,
    },
    store::{Cancelled, Commands, Error, commands::CANCEL_MAX, commit::After},
};

#[async_trait]
impl Commands for Sqlite {
    async fn retry_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<(), Error> {
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, _, after| retry(db, id, now, after)).await
    }

    async fn cancel_delivery(&self, id: DeliveryId, at: Timestamp) -> Result<(), Error> {
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, _, after| {
            after.cancelled.push((cancel(db, id, at)?, id));
            Ok(())
        })
        .await
    }

    async fn retry_run(&self, id: RunId, now: Timestamp) -> Result<(), Error> {
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, _, after| retry_run(db, id, now, after)).await
    }

    async fn cancel_run(&self, id: RunId) -> Result<(), Error> {
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, _, after| cancel_run(db, id, after)).await
    }

    async fn cancel_events(&self, ids: Vec<EventId>, at: Timestamp) -> Result<(Cancelled, Vec<EventId>), Error> {
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, _, after| cancel_events(db, &ids, at, after)).await
    }

    async fn replay_event(&self, id: EventId, now: Timestamp) -> Result<u32, Error> {
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, _, after| replay(db, id, now, after)).await
    }
}

/// Makes a delivery due.
pub fn retry(db: &Connection, id: DeliveryId, now: Timestamp, after: &mut After) -> Result<(), Error> {
    let waiting: Option<Option<i64>> =
        db.prepare_cached("SELECT lease FROM live WHERE id = ?1")?.query_row([id.as_i64()], |row| row.get(0)).optional()?;
    match waiting {
        // The delivery is being sent.
        Some(Some(_)) => return Ok(()),
        Some(None) => {
            let endpoint: i64 =
                db.prepare_cached("SELECT endpoint FROM live WHERE id = ?1")?.query_row([id.as_i64()], |row| row.get(0))?;
            may_send_to(db, endpoint)?;
            db.prepare_cached("UPDATE live SET next_at = ?1 WHERE id = ?2")?.execute(params![now.millis(), id.as_i64()])?;
        }
        None => {
            let finished: Option<(i64, i64, i64)> = db
                .prepare_cached("SELECT endpoint, round, attempts FROM delivery WHERE id = ?1")?
                .query_row([id.as_i64()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            let (endpoint, round, attempts) = finished.ok_or(Error::NotFound { what: "delivery" })?;
            may_send_to(db, endpoint)?;
            may_attempt_again(attempts).map_err(Error::Conflict)?;
            db.prepare_cached("DELETE FROM delivery WHERE id = ?1")?.execute([id.as_i64()])?;
            db.prepare_cached(
                "INSERT INTO live (id, endpoint, round, attempts, next_at, lease) VALUES (?1, ?2, ?3, ?4, ?5, NULL)",
            )?
            .execute(params![id.as_i64(), endpoint, round, attempts, now.millis()])?;
        }
    }
    after.due_at(now);
    Ok(())
}

/// Returns the error of [`may_send`] if no webhook may be sent to the endpoint.
pub fn may_send_to(db: &Connection, endpoint: i64) -> Result<(), Error> {
    let row: Option<(String, String, bool)> = db
        .prepare_cached("SELECT name, state, deleted_at IS NOT NULL FROM endpoint WHERE id = ?1")?
        .query_row([endpoint], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    may_send(row.as_ref().map(|(name, state, deleted)| (name.as_str(), state.as_str(), *deleted))).map_err(Error::Conflict)
}

/// Cancels a delivery. Returns its endpoint, since the delivery may also wait in memory.
fn cancel(db: &Connection, id: DeliveryId, at: Timestamp) -> Result<EndpointId, Error> {
    let row: Option<(i64, i64, i64, Option<i64>)> = db
        .prepare_cached("SELECT endpoint, round, attempts, lease FROM live WHERE id = ?1")?
        .query_row([id.as_i64()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    match row {
        // If an attempt is under way, its record will find no lease any more. The receiver may already have the webhook.
        Some((endpoint, round, attempts, _)) => {
            db.prepare_cached("DELETE FROM live WHERE id = ?1")?.execute([id.as_i64()])?;
            finish(db, id, (endpoint, round, attempts), Ending::Cancelled(CancelReason::ByHand), at)?;
            Ok(EndpointId::from_i64(endpoint))
        }
        None => {
            let finished = db
                .prepare_cached("SELECT state FROM delivery WHERE id = ?1")?
                .query_row([id.as_i64()], |row| row.get::<_, String>(0))
                .optional()?;
            match finished {
                Some(state) => Err(Error::Conflict(cancels_no_finished_delivery(&state))),
                None => Err(Error::NotFound { what: "delivery" }),
            }
        }
    }
}

fn known_run(db: &Connection, id: RunId) -> Result<KnownRun, Error> {
    let mut select = db.prepare_cached(
        "SELECT r.round, coalesce(r.outcome = 'ok', false), q.state, q.lease IS NOT NULL,
             coalesce((SELECT rounds FROM replay WHERE id = r.id >> 14), 0),
             r.endpoint IS NOT NULL AND NOT EXISTS (SELECT 1 FROM endpoint e WHERE e.id = r.endpoint AND e.deleted_at IS NULL)
         FROM run r LEFT JOIN run_queue q ON q.id = r.id WHERE r.id = ?1",
    )?;
    let known = select.query_row([id.as_i64()], |row| {
        let queued = row.get_ref(2)?.as_str_or_null()?.map(|state| match state {
            "parked" => QueuedRun::Parked,
            _ => QueuedRun::Waiting,
        });
        let is_claimed: bool = row.get(3)?;
        Ok(KnownRun {
            queued: if is_claimed { Some(QueuedRun::Claimed) } else { queued },
            ended_ok: row.get(1)?,
            round: row.get(0)?,
            newest_round: row.get(4)?,
            is_orphan: row.get(5)?,
        })
    });
    known.optional()?.ok_or(Error::NotFound { what: "run" })
}

/// Makes a run due.
pub fn retry_run(db: &Connection, id: RunId, now: Timestamp, after: &mut After) -> Result<(), Error> {
    let sql = match command::retry_run(known_run(db, id)?).map_err(Error::Conflict)? {
        RunRetry::Nothing => return Ok(()),
        RunRetry::MakeDue => "UPDATE run_queue SET state = 'waiting', next_at = ?1, wants = NULL WHERE id = ?2",
        RunRetry::Queue => {
            "INSERT INTO run_queue (id, plugin, endpoint, round, tries, state, outcome, next_at)
             SELECT id, plugin, endpoint, round, tries, 'waiting', outcome, ?1 FROM run WHERE id = ?2"
        }
    };
    db.prepare_cached(sql)?.execute(params![now.millis(), id.as_i64()])?;
    after.due_at(now);
    Ok(())
}

fn cancel_run(db: &Connection, id: RunId, after: &mut After) -> Result<(), Error> {
    command::cancel_run(known_run(db, id)?).map_err(Error::Conflict)?;
    db.prepare_cached("DELETE FROM run_queue WHERE id = ?1")?.execute([id.as_i64()])?;
    // Later deliveries with the same ordering key may have waited for this run.
    after.due_now();
    Ok(())
}

/// Cancels everything that these events would still cause. Returns what was cancelled, and the events that these events have
/// emitted.
fn cancel_events(db: &Connection, ids: &[EventId], at: Timestamp, after: &mut After) -> Result<(Cancelled, Vec<EventId>), Error> {
    let mut sum = Cancelled::default();
    let mut caused = Vec::new();
    for id in ids {
        let exists = "SELECT EXISTS (SELECT 1 FROM event WHERE id = ?1)";
        if !db.prepare_cached(exists)?.query_row([id.as_i64()], |row| row.get::<_, bool>(0))? {
            continue;
        }
        let (from, until) = id.children();
        sum.events += 1;
        sum.waiting += db.prepare_cached("DELETE FROM event_queue WHERE id = ?1")?.execute([id.as_i64()])? as u64;
        sum.runs += db.prepare_cached("DELETE FROM run_queue WHERE id >= ?1 AND id < ?2")?.execute([from, until])? as u64;
        let mut select = db.prepare_cached("SELECT id FROM live WHERE id >= ?1 AND id < ?2")?;
        let live = select.query_map([from, until], |row| Ok(DeliveryId::from_i64(row.get(0)?)))?;
        for delivery in live.collect::<Result<Vec<_>, _>>()? {
            after.cancelled.push((cancel(db, delivery, at)?, delivery));
            sum.deliveries += 1;
        }
        sum.scheduled += scheduled::cancel(db, *id, at)?;
        let mut select = db.prepare_cached("SELECT id FROM event WHERE cause = ?1 ORDER BY id LIMIT ?2")?;
        let limit = i64::try_from(CANCEL_MAX).unwrap_or(i64::MAX);
        let children = select.query_map([id.as_i64(), limit], |row| Ok(EventId::from_i64(row.get(0)?)))?;
        caused.extend(children.collect::<Result<Vec<_>, _>>()?);
    }
    // Later deliveries with the same ordering key may have waited for these runs.
    after.due_now();
    Ok((sum, caused))
}

/// Runs an event again. Returns the new round.
pub fn replay(db: &Connection, id: EventId, now: Timestamp, after: &mut After) -> Result<u32, Error> {
    let exists: bool =
        db.prepare_cached("SELECT EXISTS (SELECT 1 FROM event WHERE id = ?1)")?.query_row([id.as_i64()], |row| row.get(0))?;
    if !exists {
        return Err(Error::NotFound { what: "event" });
    }
    let waiting: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM event_queue WHERE id = ?1)")?
        .query_row([id.as_i64()], |row| row.get(0))?;
    if waiting {
        return Err(Error::Conflict(replays_no_waiting_event()));
    }
    let (from, until) = id.children();
    db.prepare_cached("DELETE FROM run_queue WHERE id >= ?1 AND id < ?2")?.execute([from, until])?;
    let round: u32 = db
        .prepare_cached(
            "INSERT INTO replay (id, rounds) VALUES (?1, 1) ON CONFLICT (id) DO UPDATE SET rounds = rounds + 1 RETURNING rounds",
        )?
        .query_row([id.as_i64()], |row| row.get(0))?;
    db.prepare_cached("INSERT INTO event_queue (id, round, next_at, lease) VALUES (?1, ?2, ?3, NULL)")?.execute(params![
        id.as_i64(),
        round,
        now.millis()
    ])?;
    after.due_at(now);
    Ok(round)
}
