//! What people do with deliveries and events: send again, call off, replay. And what is run again once what it lacked is there.

use deadpool_postgres::Transaction;

use super::{
    Local,
    db::{execute, get, get_u32, row, the_row},
};
use crate::{
    domain::{
        endpoint::EndpointState,
        id::{ATTEMPTS_MAX, DeliveryId, EndpointId, EventId},
        name::Slug,
        time::Timestamp,
    },
    store::Error,
};

/// Runs that one step of [`drive_wanting`] makes due.
const WANTING_MAX: i64 = 500;

async fn finish(
    tx: &Transaction<'_>,
    id: DeliveryId,
    (endpoint, round, attempts): (i64, i64, i64),
    state: &str,
    at: Timestamp,
) -> Result<(), Error> {
    let sql = "INSERT INTO delivery (id, endpoint, round, state, attempts, at) VALUES ($1, $2, $3, $4, $5, $6)";
    execute(tx, sql, &[&id.as_i64(), &endpoint, &round, &state, &attempts, &at.millis()]).await?;
    Ok(())
}

/// Makes a delivery due. Rings are the caller's.
pub async fn retry(tx: &Transaction<'_>, local: &Local, id: DeliveryId, now: Timestamp) -> Result<(), Error> {
    // What is being retried does not leave meanwhile, and what is leaving is not there any more.
    row(tx, "SELECT 1 FROM event WHERE id = $1 FOR KEY SHARE", &[&id.event().as_i64()]).await?;
    // Twice: it may just be moving from one table to the other.
    for _ in 0..2 {
        let waiting = row(tx, "SELECT endpoint, lease FROM live WHERE id = $1 FOR UPDATE", &[&id.as_i64()]).await?;
        if let Some(row) = waiting {
            // It is on its way at this moment.
            if get::<Option<i64>>(&row, 1)?.is_some() {
                return Ok(());
            }
            may_take(tx, get(&row, 0)?).await?;
            execute(tx, "UPDATE live SET next_at = $1 WHERE id = $2", &[&local.db_at(now), &id.as_i64()]).await?;
            return Ok(());
        }
        let sql = "SELECT endpoint, round, attempts FROM delivery WHERE id = $1 FOR UPDATE";
        if let Some(row) = row(tx, sql, &[&id.as_i64()]).await? {
            let (endpoint, round, attempts): (i64, i64, i64) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
            may_take(tx, endpoint).await?;
            if attempts >= i64::from(ATTEMPTS_MAX) {
                let text = format!("it has had {ATTEMPTS_MAX} attempts, more than that are not kept; replay the event instead");
                return Err(Error::Conflict(text));
            }
            execute(tx, "DELETE FROM delivery WHERE id = $1", &[&id.as_i64()]).await?;
            let sql = "INSERT INTO live (id, endpoint, round, attempts, next_at) VALUES ($1, $2, $3, $4, $5)";
            execute(tx, sql, &[&id.as_i64(), &endpoint, &round, &attempts, &local.db_at(now)]).await?;
            return Ok(());
        }
    }
    Err(Error::NotFound { what: "delivery" })
}

async fn may_take(tx: &Transaction<'_>, endpoint: i64) -> Result<(), Error> {
    match takes_nothing(tx, endpoint).await? {
        Some(refusal) => Err(Error::Conflict(refusal)),
        None => Ok(()),
    }
}

/// Why nothing can be sent to an endpoint, and what to do about it; `None` if it can, now or once it is resumed.
pub async fn takes_nothing(tx: &Transaction<'_>, endpoint: i64) -> Result<Option<String>, Error> {
    let row = row(tx, "SELECT name, state, deleted_at IS NOT NULL FROM endpoint WHERE id = $1", &[&endpoint]).await?;
    let Some(row) = row else {
        return Ok(Some("its endpoint was deleted; replay the event instead".to_owned()));
    };
    let (name, state, deleted): (String, String, bool) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
    if deleted {
        return Ok(Some(format!("the endpoint {name:?} was deleted; replay the event instead")));
    }
    Ok(match EndpointState::parse(&state) {
        Some(EndpointState::Disabled(_)) => {
            Some(format!("the endpoint {name:?} is disabled and takes nothing; enable it first: innesco endpoint resume {name}"))
        }
        _ => None,
    })
}

/// Says whose it was: there it may wait in memory as well.
pub async fn cancel(tx: &Transaction<'_>, id: DeliveryId, at: Timestamp) -> Result<EndpointId, Error> {
    // Whatever the attempt under way comes to, its record will find the lease gone; the receiver may have it already.
    let sql = "DELETE FROM live WHERE id = $1 RETURNING endpoint, round, attempts";
    if let Some(row) = row(tx, sql, &[&id.as_i64()]).await? {
        let of = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
        finish(tx, id, of, "cancelled", at).await?;
        return Ok(EndpointId::from_i64(of.0));
    }
    match row(tx, "SELECT state FROM delivery WHERE id = $1", &[&id.as_i64()]).await? {
        Some(row) => {
            let state: String = get(&row, 0)?;
            Err(Error::Conflict(format!("it is {state} already; only what waits can be cancelled")))
        }
        None => Err(Error::NotFound { what: "delivery" }),
    }
}

/// Runs an event again. Says which round that is.
pub async fn replay(tx: &Transaction<'_>, local: &Local, id: EventId, now: Timestamp) -> Result<u32, Error> {
    // Held until the end: what is replayed does not leave meanwhile.
    if row(tx, "SELECT 1 FROM event WHERE id = $1 FOR KEY SHARE", &[&id.as_i64()]).await?.is_none() {
        return Err(Error::NotFound { what: "event" });
    }
    let sql = "INSERT INTO event_queue (id, round, next_at) VALUES ($1, 0, $2) ON CONFLICT DO NOTHING";
    if execute(tx, sql, &[&id.as_i64(), &local.db_at(now)]).await? == 0 {
        return Err(Error::Conflict("it is still waiting to be run".into()));
    }
    let (from, until) = id.children();
    execute(tx, "DELETE FROM run_queue WHERE id >= $1 AND id < $2", &[&from, &until]).await?;
    let sql = "INSERT INTO replay (id, rounds) VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET rounds = replay.rounds + 1 RETURNING rounds";
    let round = get_u32(&the_row(tx, sql, &[&id.as_i64()]).await?, 0)?;
    execute(tx, "UPDATE event_queue SET round = $2 WHERE id = $1", &[&id.as_i64(), &i64::from(round)]).await?;
    Ok(round)
}

/// Makes due what was parked because a plugin did not load. Says how many runs.
pub async fn drive_not_loadable(tx: &Transaction<'_>, local: &Local, plugin: &Slug, now: Timestamp) -> Result<usize, Error> {
    let sql = "UPDATE run_queue SET state = 'waiting', next_at = $1
               WHERE plugin = $2 AND state = 'parked' AND outcome = 'not-loadable'";
    Ok(execute(tx, sql, &[&local.db_at(now), &&**plugin]).await? as usize)
}

/// Makes due what is parked for want of an endpoint that there is, a batch of it. Says how many runs.
pub async fn drive_wanting(tx: &Transaction<'_>, local: &Local, now: Timestamp) -> Result<usize, Error> {
    // From the endpoints to what wants them: names that plugins make up may be without number.
    let sql = "UPDATE run_queue SET state = 'waiting', next_at = $1, wants = NULL WHERE id IN (
                   SELECT r.id FROM endpoint e CROSS JOIN LATERAL (
                       SELECT r.id FROM run_queue r WHERE r.wants = e.name AND r.state = 'parked' AND r.wants IS NOT NULL
                       LIMIT $2 FOR UPDATE SKIP LOCKED) r
                   WHERE e.deleted_at IS NULL LIMIT $2)";
    Ok(execute(tx, sql, &[&local.db_at(now), &WANTING_MAX]).await? as usize)
}
