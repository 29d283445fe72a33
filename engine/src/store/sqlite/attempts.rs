//! Commit 3: writes an attempt, and the next state of its delivery, as one change.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Local, Sqlite, accept,
    writer::{Breaks, Keeps},
};
use crate::{
    domain::{
        delivery::{Ending, Next},
        id::DeliveryId,
        time::Timestamp,
    },
    store::{
        AttemptRecord, Attempts, ClaimId, Error, Recorded,
        columns::{ending_to_columns, sent_to_column},
        commit::After,
        weight,
    },
};

/// Maximum number of attempts that wait for the commit of another job.
const FEW: usize = 4;

#[async_trait]
impl Attempts for Sqlite {
    async fn record_attempts(&self, records: Arc<Vec<AttemptRecord>>) -> Result<Vec<Recorded>, Error> {
        let (count, weight) = (records.len(), records.iter().map(weight::attempt).sum());
        // If a crash loses an attempt's record, the attempt is repeated under the same id. "At least once" allows that.
        let work = move |db: &Connection, local: &Local, after: &mut After| {
            after.let_go = true;
            records.iter().map(|attempt| record(db, local, attempt, after)).collect()
        };
        // Many attempts are worth a commit. An ordered delivery may wait for this attempt.
        let urgent = count > FEW || self.local.handoff.alarm.holds_back();
        self.write_then(if urgent { Keeps::Progress } else { Keeps::Later }, Breaks::Itself, weight, work).await
    }
}

fn record(db: &Connection, local: &Local, record: &AttemptRecord, after: &mut After) -> Result<Recorded, Error> {
    let AttemptRecord { delivery, endpoint, lease, n, attempt, sent, next, notices } = record;
    match next {
        Next::Retry { due } => {
            let changed = db
                .prepare_cached("UPDATE live SET attempts = ?1, next_at = ?2, lease = NULL WHERE id = ?3 AND lease = ?4")?
                .execute(params![n, due.millis(), delivery.as_i64(), lease.token])?;
            if changed == 0 {
                return Ok(Recorded::LeaseLost);
            }
            after.due_at(*due);
        }
        Next::Delivered | Next::Dead(_) => {
            let ending = match next {
                Next::Dead(reason) => Ending::Dead(*reason),
                _ => Ending::Delivered,
            };
            // One statement could move the row. But for `RETURNING`, SQLite creates a temporary table, and for `INSERT … SELECT` it
            // copies every page that it changes. Three plain statements are faster.
            let round: Option<i64> = db
                .prepare_cached("SELECT round FROM live WHERE id = ?1 AND lease = ?2")?
                .query_row([delivery.as_i64(), lease.token], |row| row.get(0))
                .optional()?;
            let Some(round) = round else { return Ok(Recorded::LeaseLost) };
            db.prepare_cached("DELETE FROM live WHERE id = ?1")?.execute([delivery.as_i64()])?;
            finish(db, *delivery, (endpoint.as_i64(), round, i64::from(*n)), ending, attempt.at)?;
        }
    }
    after.ended.push(ClaimId::Delivery(*delivery));
    db.prepare_cached(
        "INSERT INTO attempt (id, at, outcome, status, latency_us, detail, excerpt, retry_after_ms, sent)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
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
        sent_to_column(sent),
    ])?;
    accept::insert_all(db, local, notices.iter().cloned(), after)?;
    Ok(Recorded::Done)
}

/// Writes a finished delivery.
pub fn finish(
    db: &Connection,
    id: DeliveryId,
    (endpoint, round, attempts): (i64, i64, i64),
    ending: Ending,
    at: Timestamp,
) -> Result<(), Error> {
    let (state, reason, cancel_reason) = ending_to_columns(ending);
    db.prepare_cached(
        "INSERT INTO delivery (id, endpoint, round, state, reason, attempts, at, cancel_reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![id.as_i64(), endpoint, round, state, reason, attempts, at.millis(), cancel_reason])?;
    Ok(())
}
