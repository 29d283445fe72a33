//! Commands of operators on deliveries, runs and events: retry, cancel, replay.

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Local, Postgres,
    db::{execute, get, get_u32, row, rows, the_row},
    scheduled,
};
use crate::{
    clock,
    domain::{
        command::{
            self, KnownRun, QueuedRun, RunRetry, cancels_no_finished_delivery, may_attempt_again, may_send,
            replays_no_waiting_event,
        },
        delivery::{CancelReason, Ending},
        id::{DeliveryId, EndpointId, EventId, RunId},
        time::Timestamp,
    },
    store::{Cancelled, Commands, Error, columns::ending_to_columns, commands::CANCEL_MAX, commit::After},
};

#[async_trait]
impl Commands for Postgres {
    async fn retry_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<(), Error> {
        self.step(move |tx, local| Box::pin(retry(tx, local, id, now))).await?;
        self.local.due(now);
        Ok(())
    }

    async fn cancel_delivery(&self, id: DeliveryId, at: Timestamp) -> Result<(), Error> {
        let endpoint = self.step(move |tx, _| Box::pin(cancel(tx, id, at))).await?;
        self.local.act(After::cancelling(vec![(endpoint, id)]));
        Ok(())
    }

    async fn retry_run(&self, id: RunId, now: Timestamp) -> Result<(), Error> {
        self.step(move |tx, local| Box::pin(retry_run(tx, local, id, now))).await?;
        self.local.due(now);
        Ok(())
    }

    async fn cancel_run(&self, id: RunId) -> Result<(), Error> {
        self.step(move |tx, _| Box::pin(cancel_run(tx, id))).await?;
        // Later deliveries with the same ordering key may have waited for this run.
        self.local.due(clock::steady());
        Ok(())
    }

    async fn cancel_events(&self, ids: Vec<EventId>, at: Timestamp) -> Result<(Cancelled, Vec<EventId>), Error> {
        let (sum, deliveries, caused) = self.step(move |tx, _| Box::pin(cancel_events(tx, ids, at))).await?;
        self.local.act(After::cancelling(deliveries));
        // Later deliveries with the same ordering key may have waited for these runs.
        self.local.due(clock::steady());
        Ok((sum, caused))
    }

    async fn replay_event(&self, id: EventId, now: Timestamp) -> Result<u32, Error> {
        let round = self.step(move |tx, local| Box::pin(replay(tx, local, id, now))).await?;
        self.local.due(now);
        Ok(round)
    }
}

async fn finish(
    tx: &Transaction<'_>,
    id: DeliveryId,
    (endpoint, round, attempts): (i64, i64, i64),
    ending: Ending,
    at: Timestamp,
) -> Result<(), Error> {
    let (state, reason, cancel_reason) = ending_to_columns(ending);
    let sql = "INSERT INTO delivery (id, endpoint, round, state, reason, cancel_reason, attempts, at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    execute(tx, sql, &[&id.as_i64(), &endpoint, &round, &state, &reason, &cancel_reason, &attempts, &at.millis()]).await?;
    Ok(())
}

/// Makes a delivery due. The caller wakes the claimer after the commit.
pub async fn retry(tx: &Transaction<'_>, local: &Local, id: DeliveryId, now: Timestamp) -> Result<(), Error> {
    // Retention deletes no event that is locked here. If retention is already deleting this event, the event is not found.
    row(tx, "SELECT 1 FROM event WHERE id = $1 FOR KEY SHARE", &[&id.event().as_i64()]).await?;
    // Tried twice, because the delivery may be moving from one table to the other.
    for _ in 0..2 {
        let waiting = row(tx, "SELECT endpoint, lease FROM live WHERE id = $1 FOR UPDATE", &[&id.as_i64()]).await?;
        if let Some(row) = waiting {
            // The delivery is being sent.
            if get::<Option<i64>>(&row, 1)?.is_some() {
                return Ok(());
            }
            may_send_to(tx, get(&row, 0)?).await?;
            execute(tx, "UPDATE live SET next_at = $1 WHERE id = $2", &[&local.db_at(now), &id.as_i64()]).await?;
            return Ok(());
        }
        let sql = "SELECT endpoint, round, attempts FROM delivery WHERE id = $1 FOR UPDATE";
        if let Some(row) = row(tx, sql, &[&id.as_i64()]).await? {
            let (endpoint, round, attempts): (i64, i64, i64) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
            may_send_to(tx, endpoint).await?;
            may_attempt_again(attempts).map_err(Error::Conflict)?;
            execute(tx, "DELETE FROM delivery WHERE id = $1", &[&id.as_i64()]).await?;
            let sql = "INSERT INTO live (id, endpoint, round, attempts, next_at) VALUES ($1, $2, $3, $4, $5)";
            execute(tx, sql, &[&id.as_i64(), &endpoint, &round, &attempts, &local.db_at(now)]).await?;
            return Ok(());
        }
    }
    Err(Error::NotFound { what: "delivery" })
}

/// Returns the error of [`may_send`] if no webhook may be sent to the endpoint.
pub async fn may_send_to(tx: &Transaction<'_>, endpoint: i64) -> Result<(), Error> {
    let row = row(tx, "SELECT name, state, deleted_at IS NOT NULL FROM endpoint WHERE id = $1", &[&endpoint]).await?;
    let endpoint = match &row {
        Some(row) => Some((get(row, 0)?, get(row, 1)?, get(row, 2)?)),
        None => None,
    };
    may_send(endpoint).map_err(Error::Conflict)
}

/// Cancels a delivery. Returns its endpoint, since the delivery may also wait in memory.
async fn cancel(tx: &Transaction<'_>, id: DeliveryId, at: Timestamp) -> Result<EndpointId, Error> {
    // If an attempt is under way, its record will find no lease any more. The receiver may already have the webhook.
    let sql = "DELETE FROM live WHERE id = $1 RETURNING endpoint, round, attempts";
    if let Some(row) = row(tx, sql, &[&id.as_i64()]).await? {
        let of = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
        finish(tx, id, of, Ending::Cancelled(CancelReason::ByHand), at).await?;
        return Ok(EndpointId::from_i64(of.0));
    }
    match row(tx, "SELECT state FROM delivery WHERE id = $1", &[&id.as_i64()]).await? {
        Some(row) => Err(Error::Conflict(cancels_no_finished_delivery(get(&row, 0)?))),
        None => Err(Error::NotFound { what: "delivery" }),
    }
}

/// Reads a run, and locks its event and its queue row until the commit.
async fn known_run(tx: &Transaction<'_>, id: RunId) -> Result<KnownRun, Error> {
    // Retention deletes no event that is locked here. A replay of the event waits for this transaction, so that the replay finds
    // this run in the queue.
    row(tx, "SELECT 1 FROM event WHERE id = $1 FOR UPDATE", &[&id.event().as_i64()]).await?;
    row(tx, "SELECT 1 FROM run_queue WHERE id = $1 FOR UPDATE", &[&id.as_i64()]).await?;
    let sql = "SELECT r.round, coalesce(r.outcome = 'ok', false), q.state, q.lease IS NOT NULL,
             coalesce((SELECT rounds FROM replay WHERE id = r.id >> 14), 0),
             r.endpoint IS NOT NULL AND NOT EXISTS (SELECT 1 FROM endpoint e WHERE e.id = r.endpoint AND e.deleted_at IS NULL)
         FROM run r LEFT JOIN run_queue q ON q.id = r.id WHERE r.id = $1";
    let row = row(tx, sql, &[&id.as_i64()]).await?.ok_or(Error::NotFound { what: "run" })?;
    let queued = get::<Option<&str>>(&row, 2)?.map(|state| match state {
        "parked" => QueuedRun::Parked,
        _ => QueuedRun::Waiting,
    });
    Ok(KnownRun {
        queued: if get(&row, 3)? { Some(QueuedRun::Claimed) } else { queued },
        ended_ok: get(&row, 1)?,
        round: get_u32(&row, 0)?,
        newest_round: get_u32(&row, 4)?,
        is_orphan: get(&row, 5)?,
    })
}

/// Makes a run due. The caller wakes the claimer after the commit.
pub async fn retry_run(tx: &Transaction<'_>, local: &Local, id: RunId, now: Timestamp) -> Result<(), Error> {
    let sql = match command::retry_run(known_run(tx, id).await?).map_err(Error::Conflict)? {
        RunRetry::Nothing => return Ok(()),
        RunRetry::MakeDue => "UPDATE run_queue SET state = 'waiting', next_at = $1, wants = NULL WHERE id = $2",
        RunRetry::Queue => {
            "INSERT INTO run_queue (id, plugin, endpoint, round, tries, state, outcome, next_at)
             SELECT id, plugin, endpoint, round, tries, 'waiting', outcome, $1 FROM run WHERE id = $2"
        }
    };
    execute(tx, sql, &[&local.db_at(now), &id.as_i64()]).await?;
    Ok(())
}

async fn cancel_run(tx: &Transaction<'_>, id: RunId) -> Result<(), Error> {
    command::cancel_run(known_run(tx, id).await?).map_err(Error::Conflict)?;
    execute(tx, "DELETE FROM run_queue WHERE id = $1", &[&id.as_i64()]).await?;
    Ok(())
}

/// Deliveries that were cancelled. They may also wait in memory.
type Withdrawn = Vec<(EndpointId, DeliveryId)>;

/// Cancels everything that these events would still cause. Returns what was cancelled, the cancelled deliveries, and the events
/// that these events have emitted.
async fn cancel_events(
    tx: &Transaction<'_>,
    ids: Vec<EventId>,
    at: Timestamp,
) -> Result<(Cancelled, Withdrawn, Vec<EventId>), Error> {
    let ids: Vec<i64> = ids.into_iter().map(EventId::as_i64).collect();
    // Retention deletes no event that is locked here.
    let sql = "SELECT id FROM event WHERE id = ANY($1) ORDER BY id FOR KEY SHARE";
    let ids = rows(tx, sql, &[&ids]).await?.iter().map(|row| get(row, 0)).collect::<Result<Vec<i64>, Error>>()?;
    // The rows are locked in the order in which a settlement locks them. If a settlement is in progress, this waits until it has
    // ended, and then cancels its effects.
    rows(tx, "SELECT id FROM event_queue WHERE id = ANY($1) ORDER BY id FOR UPDATE", &[&ids]).await?;
    let waiting = execute(tx, "DELETE FROM event_queue WHERE id = ANY($1)", &[&ids]).await?;
    let of = "USING unnest($1::bigint[]) e (id) WHERE r.id >= e.id << 14 AND r.id < (e.id + 1) << 14";
    let sql = "SELECT r.id FROM run_queue r JOIN unnest($1::bigint[]) e (id) ON r.id >= e.id << 14 AND r.id < (e.id + 1) << 14
               ORDER BY r.id FOR UPDATE OF r";
    rows(tx, sql, &[&ids]).await?;
    let runs = execute(tx, &format!("DELETE FROM run_queue r {of}"), &[&ids]).await?;
    let (state, reason, cancel_reason) = ending_to_columns(Ending::Cancelled(CancelReason::ByHand));
    let sql = format!(
        "WITH gone AS (DELETE FROM live r {of} RETURNING r.id, r.endpoint, r.round, r.attempts)
         INSERT INTO delivery (id, endpoint, round, state, reason, cancel_reason, attempts, at)
         SELECT id, endpoint, round, $2::text, $3::text, $4::text, attempts, $5::bigint FROM gone RETURNING endpoint, id"
    );
    let withdrawn = rows(tx, &sql, &[&ids, &state, &reason, &cancel_reason, &at.millis()]).await?;
    let withdrawn = withdrawn
        .iter()
        .map(|row| Ok((EndpointId::from_i64(get(row, 0)?), DeliveryId::from_i64(get(row, 1)?))))
        .collect::<Result<Withdrawn, Error>>()?;
    let scheduled = scheduled::cancel(tx, &ids, at).await?;
    let sql = "SELECT id FROM event WHERE cause = ANY($1) ORDER BY id LIMIT $2";
    let most = i64::try_from(CANCEL_MAX).unwrap_or(i64::MAX);
    let caused = rows(tx, sql, &[&ids, &most]).await?;
    let caused = caused.iter().map(|row| Ok(EventId::from_i64(get(row, 0)?))).collect::<Result<_, Error>>()?;
    let deliveries = withdrawn.len() as u64;
    let sum = Cancelled { events: ids.len() as u64, waiting, runs, deliveries, scheduled, more: false };
    Ok((sum, withdrawn, caused))
}

/// Runs an event again. Returns the new round.
pub async fn replay(tx: &Transaction<'_>, local: &Local, id: EventId, now: Timestamp) -> Result<u32, Error> {
    // The event is locked until the commit, so that retention does not delete it in the meantime.
    if row(tx, "SELECT 1 FROM event WHERE id = $1 FOR KEY SHARE", &[&id.as_i64()]).await?.is_none() {
        return Err(Error::NotFound { what: "event" });
    }
    let sql = "INSERT INTO event_queue (id, round, next_at) VALUES ($1, 0, $2) ON CONFLICT DO NOTHING";
    if execute(tx, sql, &[&id.as_i64(), &local.db_at(now)]).await? == 0 {
        return Err(Error::Conflict(replays_no_waiting_event()));
    }
    let (from, until) = id.children();
    execute(tx, "DELETE FROM run_queue WHERE id >= $1 AND id < $2", &[&from, &until]).await?;
    let sql = "INSERT INTO replay (id, rounds) VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET rounds = replay.rounds + 1 RETURNING rounds";
    let round = get_u32(&the_row(tx, sql, &[&id.as_i64()]).await?, 0)?;
    execute(tx, "UPDATE event_queue SET round = $2 WHERE id = $1", &[&id.as_i64(), &i64::from(round)]).await?;
    Ok(round)
}
