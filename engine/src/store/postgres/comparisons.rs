//! Comparisons of plugin versions.

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Postgres,
    db::{clean, execute, get, limit, row, rows, the_row},
};
use crate::{
    domain::{
        comparison::{Comparison, Report, Request},
        id::ComparisonId,
        job::JobState,
        plugin::Digest,
        time::Timestamp,
    },
    store::{
        Comparisons, Error, Page, PageRequest,
        comparisons::{COLUMNS, DISCARDED, has_ended, may_start, read, report_to_column, request_to_column},
    },
};

#[async_trait]
impl Comparisons for Postgres {
    async fn create_comparison(&self, request: Request, at: Timestamp) -> Result<Comparison, Error> {
        let created = self.step(move |tx, _| Box::pin(async move { create(tx, &request, at).await })).await?;
        self.local.handoff.jobs.notify_one();
        Ok(created)
    }

    async fn advance_comparison(&self, before: &Comparison, now: Comparison) -> Result<bool, Error> {
        let before = before.cursor;
        self.step(move |tx, _| Box::pin(async move { advance(tx, before, &now).await })).await
    }

    async fn cancel_comparison(&self, id: ComparisonId, at: Timestamp) -> Result<Comparison, Error> {
        self.step(move |tx, _| Box::pin(cancel(tx, id, at))).await
    }

    async fn comparison(&self, id: ComparisonId) -> Result<Comparison, Error> {
        self.read_for_people(move |tx, _| Box::pin(load(tx, id, ""))).await
    }

    async fn comparisons(&self, state: Option<JobState>, page: PageRequest) -> Result<Page<Comparison>, Error> {
        self.read_for_people(move |tx, _| Box::pin(list(tx, state, page))).await
    }
}

async fn load(tx: &Transaction<'_>, id: ComparisonId, lock: &'static str) -> Result<Comparison, Error> {
    let found = row(tx, &format!("SELECT {COLUMNS} FROM comparison WHERE id = $1 {lock}"), &[&id.as_i64()]).await?;
    read(&found.ok_or(Error::NotFound { what: "comparison" })?)
}

async fn list(tx: &Transaction<'_>, state: Option<JobState>, request: PageRequest) -> Result<Page<Comparison>, Error> {
    let sql =
        format!("SELECT {COLUMNS} FROM comparison WHERE id < $1 AND ($2::text IS NULL OR state = $2) ORDER BY id DESC LIMIT $3");
    let (cursor, most) = (request.cursor.unwrap_or(i64::MAX), limit(request.limit + 1));
    let found = rows(tx, &sql, &[&cursor, &state.map(JobState::as_str), &most]).await?;
    let found = found.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Page::of(found, request, |one: &Comparison| one.id.as_i64()))
}

async fn create(tx: &Transaction<'_>, request: &Request, at: Timestamp) -> Result<Comparison, Error> {
    // The lock lets only one comparison be created at a time, so that the limit holds.
    tx.batch_execute("LOCK TABLE comparison IN SHARE ROW EXCLUSIVE MODE").await?;
    let running: i64 = get(&the_row(tx, "SELECT count(*) FROM comparison WHERE state = 'running'", &[]).await?, 0)?;
    may_start(running.unsigned_abs())?;
    let sql = "INSERT INTO comparison (plugin, serving, candidate, request, state, report, created_at)
               VALUES ($1, $2, $3, $4, 'running', $5, $6) RETURNING id";
    let created = the_row(
        tx,
        sql,
        &[
            &&*request.plugin,
            &request.serving.as_bytes().as_slice(),
            &request.candidate.as_bytes().as_slice(),
            &request_to_column(request),
            &report_to_column(&Report::default()),
            &at.millis(),
        ],
    )
    .await?;
    load(tx, ComparisonId::from_i64(get(&created, 0)?), "").await
}

async fn advance(tx: &Transaction<'_>, before: Option<i64>, now: &Comparison) -> Result<bool, Error> {
    let sql = "UPDATE comparison SET cursor = $1, report = $2, state = $3, problem = $4, finished_at = $5
               WHERE id = $6 AND state = 'running' AND cursor IS NOT DISTINCT FROM $7";
    let report = report_to_column(&now.report);
    let problem = now.problem.as_deref().map(clean);
    let changed = execute(
        tx,
        sql,
        &[
            &now.cursor,
            &clean(&report),
            &now.state.as_str(),
            &problem,
            &now.finished_at.map(Timestamp::millis),
            &now.id.as_i64(),
            &before,
        ],
    )
    .await?;
    Ok(changed == 1)
}

async fn cancel(tx: &Transaction<'_>, id: ComparisonId, at: Timestamp) -> Result<Comparison, Error> {
    let found = load(tx, id, "FOR UPDATE").await?;
    if found.state != JobState::Running {
        return Err(has_ended(found.state));
    }
    execute(tx, "UPDATE comparison SET state = 'cancelled', finished_at = $1 WHERE id = $2", &[&at.millis(), &id.as_i64()])
        .await?;
    load(tx, id, "").await
}

/// Deletes up to `most` of the oldest comparisons that ended before `before`.
pub async fn forget(tx: &Transaction<'_>, before: Timestamp, most: i64) -> Result<usize, Error> {
    let sql = "DELETE FROM comparison WHERE id IN
                   (SELECT id FROM (SELECT id, finished_at FROM comparison ORDER BY id LIMIT $1) old WHERE finished_at < $2)";
    Ok(execute(tx, sql, &[&most, &before.millis()]).await? as usize)
}

/// Cancels the running comparisons in which a version takes part.
pub async fn cancel_of(tx: &Transaction<'_>, version: Digest, at: Timestamp) -> Result<(), Error> {
    let sql = "UPDATE comparison SET state = 'cancelled', finished_at = $1, problem = $2
               WHERE state = 'running' AND $3 IN (serving, candidate)";
    execute(tx, sql, &[&at.millis(), &DISCARDED, &version.as_bytes().as_slice()]).await?;
    Ok(())
}
