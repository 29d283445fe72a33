//! Commit 3: writes attempts and the next states of their deliveries, many at once.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Local, Postgres, accept,
    db::{clean, execute, get, rows},
};
use crate::{
    domain::delivery::{Ending, Next},
    store::{
        AttemptRecord, Attempts, Error, Recorded,
        columns::{ending_to_columns, sent_to_column},
        commit::After,
        weight,
    },
};

/// Estimated number of bytes that an attempt takes in the store, in addition to its excerpt.
pub const ATTEMPT_BYTES: i64 = 256;

#[async_trait]
impl Attempts for Postgres {
    async fn record_attempts(&self, records: Arc<Vec<AttemptRecord>>) -> Result<Vec<Recorded>, Error> {
        let weight = records.iter().map(weight::attempt).sum();
        self.committer.record(weight, records).await
    }
}

/// Records the attempts whose leases are still valid.
pub async fn record(
    tx: &Transaction<'_>,
    local: &Local,
    node: i64,
    calls: &[&[AttemptRecord]],
    after: &mut After,
) -> Result<Vec<Vec<Recorded>>, Error> {
    let all: Vec<&AttemptRecord> = calls.iter().flat_map(|call| call.iter()).collect();
    let ids: Vec<i64> = all.iter().map(|record| record.delivery.as_i64()).collect();
    let sql = "SELECT id, lease, round FROM live WHERE id = ANY($1) ORDER BY id FOR UPDATE";
    let mut held = HashMap::new();
    for row in rows(tx, sql, &[&ids]).await? {
        held.insert(get::<i64>(&row, 0)?, (get::<Option<i64>>(&row, 1)?, get::<i64>(&row, 2)?));
    }
    let mut taken: Vec<(&AttemptRecord, i64)> = Vec::new();
    let mut answers = Vec::with_capacity(all.len());
    for record in all {
        let id = record.delivery.as_i64();
        let holds = held.get(&id).is_some_and(|(lease, _)| *lease == Some(record.lease.token));
        answers.push(if holds { Recorded::Done } else { Recorded::LeaseLost });
        if holds {
            // A second record for the same delivery in this batch then finds no lease any more.
            let (_, round) = held.remove(&id).expect("it is held");
            taken.push((record, round));
        }
    }
    write(tx, local, &taken, after).await?;
    let notices = taken.iter().flat_map(|(record, _)| record.notices.iter().cloned()).collect();
    accept::insert_all(tx, local, node, notices, after).await?;
    after.let_go = true;
    let mut answers = answers.into_iter();
    Ok(calls.iter().map(|call| answers.by_ref().take(call.len()).collect()).collect())
}

async fn write(tx: &Transaction<'_>, local: &Local, taken: &[(&AttemptRecord, i64)], after: &mut After) -> Result<(), Error> {
    if taken.is_empty() {
        return Ok(());
    }
    let (mut retries, mut made, mut dues) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ended, mut endpoints, mut rounds, mut states, mut reasons, mut counts, mut ats) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (record, round) in taken {
        let (id, n) = (record.delivery.as_i64(), i64::from(record.n));
        let ending = match record.next {
            Next::Retry { due } => {
                after.due_at(due);
                retries.push(id);
                made.push(n);
                dues.push(local.db_at(due));
                continue;
            }
            Next::Delivered => Ending::Delivered,
            Next::Dead(reason) => Ending::Dead(reason),
        };
        let (state, reason, _) = ending_to_columns(ending);
        ended.push(id);
        endpoints.push(record.endpoint.as_i64());
        rounds.push(*round);
        states.push(state);
        reasons.push(reason);
        counts.push(n);
        ats.push(record.attempt.at.millis());
    }
    if !retries.is_empty() {
        execute(
            tx,
            "UPDATE live SET attempts = u.n, next_at = u.due, lease = NULL
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) u (id, n, due) WHERE live.id = u.id",
            &[&retries, &made, &dues],
        )
        .await?;
    }
    if !ended.is_empty() {
        execute(tx, "DELETE FROM live WHERE id = ANY($1)", &[&ended]).await?;
        execute(
            tx,
            "INSERT INTO delivery (id, endpoint, round, state, reason, attempts, at)
             SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])",
            &[&ended, &endpoints, &rounds, &states, &reasons, &counts, &ats],
        )
        .await?;
    }
    let attempt = || taken.iter().map(|(record, _)| &record.attempt);
    let ids: Vec<i64> = taken.iter().map(|(record, _)| record.delivery.attempt(record.n).as_i64()).collect();
    let ats: Vec<i64> = attempt().map(|one| one.at.millis()).collect();
    let outcomes: Vec<&str> = attempt().map(|one| one.outcome.as_str()).collect();
    let statuses: Vec<Option<i64>> = attempt().map(|one| one.outcome.status().map(i64::from)).collect();
    let latencies: Vec<i64> = attempt().map(|one| i64::try_from(one.latency.as_micros()).unwrap_or(i64::MAX)).collect();
    let details: Vec<_> = attempt().map(|one| one.detail.as_deref().map(clean)).collect();
    let excerpts: Vec<&[u8]> = attempt().map(|one| &*one.excerpt).collect();
    let waits: Vec<Option<i64>> =
        attempt().map(|one| one.retry_after.map(|wait| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))).collect();
    let sent: Vec<String> = taken.iter().map(|(record, _)| clean(&sent_to_column(&record.sent)).into_owned()).collect();
    execute(
        tx,
        "INSERT INTO attempt (id, at, outcome, status, latency_us, detail, excerpt, retry_after_ms, sent)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bytea[], $8::bigint[],
             $9::text[])",
        &[&ids, &ats, &outcomes, &statuses, &latencies, &details, &excerpts, &waits, &sent],
    )
    .await?;
    after.bytes += attempt().map(|one| ATTEMPT_BYTES + one.excerpt.len() as i64).sum::<i64>();
    Ok(())
}
