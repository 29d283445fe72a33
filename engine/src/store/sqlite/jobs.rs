//! Jobs: rows whose filter is applied to the finished deliveries, one batch per transaction. The transaction that retries a batch
//! also moves the cursor, so a delivery is never retried twice, even if the process ends during the job.

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::{
    Local, Sqlite, commands, story,
    writer::{Breaks, Keeps},
};
use crate::{
    domain::{
        command::may_start_job,
        id::{DeliveryId, EndpointId, JobId},
        job::{Ended, Finished, Job, JobState, RetryFilter},
        time::Timestamp,
    },
    store::{
        Error, Jobs, Page, PageRequest,
        commit::After,
        jobs::{COUNTED_MAX, LOOKED_AT_MAX, StoredJob, filter_column},
    },
};

#[async_trait]
impl Jobs for Sqlite {
    async fn create_job(&self, filter: RetryFilter, at: Timestamp) -> Result<Job, Error> {
        let counted = filter.clone();
        // Counted on a reading connection, so that the writer serves others meanwhile.
        let total = self.read(move |db| count(db, &counted)).await?;
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, local, after| {
            after.new_job = true;
            create(db, local, &filter, total, at)
        })
        .await
    }

    async fn advance_job(&self, id: JobId, now: Timestamp, at: Timestamp) -> Result<Job, Error> {
        // If the machine fails, a batch is lost as a whole and done again.
        self.write_then(Keeps::Progress, Breaks::All, 0, move |db, _, after| advance(db, id, now, at, after)).await
    }

    async fn cancel_job(&self, id: JobId, at: Timestamp) -> Result<Job, Error> {
        self.write(move |db, _| cancel(db, id, at)).await
    }

    async fn job(&self, id: JobId) -> Result<Job, Error> {
        self.read_for_people(move |db| Ok(load(db, id)?.job)).await
    }

    async fn jobs(&self, state: Option<JobState>, page: PageRequest) -> Result<Page<Job>, Error> {
        self.read_for_people(move |db| list(db, state, page)).await
    }
}

fn load(db: &Connection, id: JobId) -> Result<StoredJob, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {} FROM job WHERE id = ?1", StoredJob::COLUMNS))?;
    let mut rows = select.query([id.as_i64()])?;
    rows.next()?.map_or(Err(Error::NotFound { what: "job" }), StoredJob::read)
}

fn list(db: &Connection, state: Option<JobState>, request: PageRequest) -> Result<Page<Job>, Error> {
    let mut select = db.prepare_cached(&format!(
        "SELECT {} FROM job WHERE id < ?1 AND (?2 IS NULL OR state = ?2) ORDER BY id DESC LIMIT ?3",
        StoredJob::COLUMNS
    ))?;
    let limit = i64::try_from(request.limit + 1).unwrap_or(i64::MAX);
    let mut rows = select.query(params![request.cursor.unwrap_or(i64::MAX), state.map(JobState::as_str), limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(StoredJob::read(row)?.job);
    }
    Ok(Page::of(found, request, |job| job.id.as_i64()))
}

/// Counts the deliveries that match a filter now. Returns `None` if that takes too long.
fn count(db: &Connection, filter: &RetryFilter) -> Result<Option<u64>, Error> {
    let found = finished(db, filter, 0, i64::MAX, COUNTED_MAX)?;
    Ok((found.len() < COUNTED_MAX).then(|| found.iter().filter(|one| filter.matches(one)).count() as u64))
}

fn create(db: &Connection, local: &Local, filter: &RetryFilter, total: Option<u64>, at: Timestamp) -> Result<Job, Error> {
    let running: i64 = db.prepare_cached("SELECT count(*) FROM job WHERE state = 'running'")?.query_row([], |row| row.get(0))?;
    may_start_job(running.unsigned_abs() as usize).map_err(Error::Conflict)?;
    if let Some(endpoint) = filter.endpoint {
        commands::may_send_to(db, endpoint.as_i64())?;
    }
    insert(db, local, filter, total, at)
}

fn insert(db: &Connection, local: &Local, filter: &RetryFilter, total: Option<u64>, at: Timestamp) -> Result<Job, Error> {
    let (_, end) = local.last_event().children();
    db.prepare_cached(
        "INSERT INTO job (kind, filter, cursor, done, failed, total, state, created_at) VALUES (?1, ?2, 0, 0, 0, ?3, 'running', ?4)",
    )?
    .execute(params![
        Job::KIND,
        filter_column(filter, end),
        total.map(|total| i64::try_from(total).unwrap_or(i64::MAX)),
        at.millis()
    ])?;
    Ok(load(db, JobId::from_i64(db.last_insert_rowid()))?.job)
}

/// Processes one batch of a job. `now` is the steady clock, `at` the wall clock.
fn advance(db: &Connection, id: JobId, now: Timestamp, at: Timestamp, after: &mut After) -> Result<Job, Error> {
    let mut stored = load(db, id)?;
    if stored.job.state != JobState::Running {
        return Ok(stored.job);
    }
    let found = finished(db, &stored.job.filter, stored.cursor, stored.end, LOOKED_AT_MAX)?;
    for one in stored.take(found, at) {
        match commands::retry(db, one.id, now, after) {
            Ok(()) => stored.job.done += 1,
            Err(error) if error.is_refusal() => stored.job.failed += 1,
            Err(error) => return Err(error),
        }
    }
    store(db, &stored)?;
    Ok(stored.job)
}

fn cancel(db: &Connection, id: JobId, at: Timestamp) -> Result<Job, Error> {
    let mut stored = load(db, id)?;
    stored.job.cancel(at).map_err(Error::Conflict)?;
    store(db, &stored)?;
    Ok(stored.job)
}

fn store(db: &Connection, StoredJob { job, cursor, .. }: &StoredJob) -> Result<(), Error> {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    db.prepare_cached("UPDATE job SET cursor = ?1, done = ?2, failed = ?3, state = ?4, finished_at = ?5 WHERE id = ?6")?
        .execute(params![
            cursor,
            count(job.done),
            count(job.failed),
            job.state.as_str(),
            job.finished_at.map(Timestamp::millis),
            job.id.as_i64()
        ])?;
    Ok(())
}

/// Deletes up to `limit` of the oldest jobs that ended before `before`.
pub fn forget(db: &Connection, before: Timestamp, limit: u32) -> Result<usize, Error> {
    let mut delete = db.prepare_cached(
        "DELETE FROM job WHERE id IN
             (SELECT id FROM (SELECT id, finished_at FROM job ORDER BY id LIMIT ?1) WHERE finished_at < ?2)",
    )?;
    Ok(delete.execute(params![limit, before.millis()])?)
}

/// Starts a job that makes due now what waits for its next try to an endpoint, unless nothing does. It is not refused, however many
/// jobs are running: it follows from a command that has taken effect.
pub fn hurry(db: &Connection, local: &Local, endpoint: EndpointId, at: Timestamp, after: &mut After) -> Result<(), Error> {
    // Each kind has its own index.
    let waits: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM live WHERE endpoint = ?1 AND attempts > 0 AND lease IS NULL AND ordering IS NULL)
                 OR EXISTS (SELECT 1 FROM live WHERE endpoint = ?1 AND attempts > 0 AND lease IS NULL AND ordering IS NOT NULL)",
        )?
        .query_row([endpoint.as_i64()], |row| row.get(0))?;
    if waits {
        let filter = RetryFilter { endpoint: Some(endpoint), ended: Ended::Retrying, ..RetryFilter::default() };
        insert(db, local, &filter, None, at)?;
        after.new_job = true;
    }
    Ok(())
}

/// Returns the deliveries with ids from `from` to before `end` in the state of the filter, by id.
fn finished(db: &Connection, filter: &RetryFilter, from: i64, end: i64, most: usize) -> Result<Vec<Finished>, Error> {
    let mut select = db.prepare_cached(&match filter.ended {
        Ended::Retrying => "SELECT id, endpoint, next_at, NULL FROM live
             WHERE attempts > 0 AND lease IS NULL AND id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3"
            .to_owned(),
        // The word is part of the statement, so that SQLite uses the partial index of deliveries that were not delivered.
        ended => format!(
            "SELECT id, endpoint, at, reason FROM delivery
             WHERE state = '{}' AND state <> 'delivered' AND id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
            ended.as_str()
        ),
    })?;
    let mut rows = select.query(params![from, end, i64::try_from(most).unwrap_or(i64::MAX)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let reason = row.get_ref(3)?.as_str().ok();
        let state = filter.ended.state(Timestamp::from_millis(row.get(2)?), reason);
        let (id, endpoint) = (DeliveryId::from_i64(row.get(0)?), EndpointId::from_i64(row.get(1)?));
        let event_type = match filter.event_type {
            Some(_) => story::delivery_type(db, id)?,
            None => None,
        };
        found.push(Finished { id, endpoint, state, event_type });
    }
    Ok(found)
}
