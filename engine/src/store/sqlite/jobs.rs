//! Jobs: rows whose filter is walked over the finished deliveries, a batch per transaction. The cursor moves in the transaction
//! that sends the deliveries behind it again, so none is taken up twice, whenever the process ends.

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};

use super::{
    Local, Sqlite, commands,
    rows::Place,
    story,
    writer::{Breaks, Keeps},
};
use crate::{
    domain::{
        delivery::{DeadReason, DeliveryState},
        id::{DeliveryId, EndpointId, JobId},
        job::{Ended, JOBS_RUNNING_MAX, Job, JobState, RetryFilter},
        time::Timestamp,
    },
    store::{Error, Jobs, Page, PageRequest, columns::FilterColumn, commit::After},
};

const KIND: &str = Job::KIND;
/// Deliveries that one step sends again at most: bounds how long others wait for the writer.
const RETRIES_MAX: usize = 200;
/// Deliveries that one step looks at; those that are not meant cost little.
const LOOKED_AT_MAX: u32 = 1_000;
/// Deliveries that are looked at to say how many a new job means.
const COUNTED_MAX: u32 = 100_000;

#[async_trait]
impl Jobs for Sqlite {
    async fn create_job(&self, filter: RetryFilter, at: Timestamp) -> Result<Job, Error> {
        let counted = filter.clone();
        // Counted beside the writer, which has others to serve.
        let total = self.read(move |db| count(db, &counted)).await?;
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, local, after| {
            after.new_job = true;
            create(db, local, &filter, total, at)
        })
        .await
    }

    async fn advance_job(&self, id: JobId, now: Timestamp, at: Timestamp) -> Result<Job, Error> {
        // A batch that is lost with the machine is lost whole, and done again.
        self.write_then(Keeps::Progress, Breaks::All, 0, move |db, _, after| advance(db, id, now, at, after)).await
    }

    async fn cancel_job(&self, id: JobId, at: Timestamp) -> Result<Job, Error> {
        self.write(move |db, _| cancel(db, id, at)).await
    }

    async fn job(&self, id: JobId) -> Result<Job, Error> {
        self.read_for_people(move |db| show(db, id)).await
    }

    async fn jobs(&self, state: Option<JobState>, page: PageRequest) -> Result<Page<Job>, Error> {
        self.read_for_people(move |db| list(db, state, page)).await
    }
}

/// A job and how far it has come.
struct Stored {
    job: Job,
    cursor: i64,
    end: i64,
}

pub const JOB_COLUMNS: &str = "id, kind, filter, cursor, done, failed, total, state, created_at, finished_at";

/// Reads [`JOB_COLUMNS`].
pub fn job(row: &Row<'_>) -> Result<Job, Error> {
    Ok(stored(row)?.job)
}

fn stored(row: &Row<'_>) -> Result<Stored, Error> {
    let place = Place { table: "job", id: row.get(0)? };
    if row.get_ref(1)?.as_str().map_err(|_| place.corrupt("kind"))? != KIND {
        return Err(place.corrupt("kind"));
    }
    let filter: FilterColumn = super::rows::json_column(&place, "filter", &row.get::<_, String>(2)?)?;
    let count = |column: usize| -> Result<u64, Error> { Ok(row.get::<_, i64>(column)?.unsigned_abs()) };
    Ok(Stored {
        job: Job {
            id: JobId::from_i64(place.id),
            filter: filter.read().ok_or_else(|| place.corrupt("filter"))?,
            state: JobState::parse(&row.get::<_, String>(7)?).ok_or_else(|| place.corrupt("state"))?,
            done: count(4)?,
            failed: count(5)?,
            total: row.get::<_, Option<i64>>(6)?.map(i64::unsigned_abs),
            created_at: Timestamp::from_millis(row.get(8)?),
            finished_at: row.get::<_, Option<i64>>(9)?.map(Timestamp::from_millis),
        },
        cursor: row.get(3)?,
        end: filter.end,
    })
}

fn load(db: &Connection, id: JobId) -> Result<Stored, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {JOB_COLUMNS} FROM job WHERE id = ?1"))?;
    let mut rows = select.query([id.as_i64()])?;
    rows.next()?.map(stored).unwrap_or(Err(Error::NotFound { what: "job" }))
}

fn show(db: &Connection, id: JobId) -> Result<Job, Error> {
    Ok(load(db, id)?.job)
}

fn list(db: &Connection, state: Option<JobState>, request: PageRequest) -> Result<Page<Job>, Error> {
    let mut select = db.prepare_cached(&format!(
        "SELECT {JOB_COLUMNS} FROM job WHERE id < ?1 AND (?2 IS NULL OR state = ?2) ORDER BY id DESC LIMIT ?3"
    ))?;
    let limit = i64::try_from(request.limit + 1).unwrap_or(i64::MAX);
    let mut rows = select.query(params![request.cursor.unwrap_or(i64::MAX), state.map(JobState::as_str), limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(job(row)?);
    }
    Ok(Page::of(found, request, |job| job.id.as_i64()))
}

/// How many deliveries a filter means at this moment; `None` if that takes too long to find out.
fn count(db: &Connection, filter: &RetryFilter) -> Result<Option<u64>, Error> {
    let found = finished(db, filter, 0, i64::MAX, COUNTED_MAX)?;
    if found.len() as u32 >= COUNTED_MAX {
        return Ok(None);
    }
    let mut total = 0;
    for one in found {
        total += u64::from(takes(db, filter, &one)?);
    }
    Ok(Some(total))
}

fn create(db: &Connection, local: &Local, filter: &RetryFilter, total: Option<u64>, at: Timestamp) -> Result<Job, Error> {
    let running: i64 = db.prepare_cached("SELECT count(*) FROM job WHERE state = 'running'")?.query_row([], |row| row.get(0))?;
    if running.unsigned_abs() >= JOBS_RUNNING_MAX as u64 {
        let text = format!("{running} jobs are running, as many as can at once; wait until one is done, or cancel one");
        return Err(Error::Conflict(text));
    }
    if let Some(endpoint) = filter.endpoint
        && let Some(refusal) = commands::takes_nothing(db, endpoint.as_i64())?
    {
        return Err(Error::Conflict(refusal));
    }
    let (_, end) = local.last_event().children();
    let column = serde_json::to_string(&FilterColumn::of(filter, end)).expect("numbers and texts are always JSON");
    db.prepare_cached(
        "INSERT INTO job (kind, filter, cursor, done, failed, total, state, created_at) VALUES (?1, ?2, 0, 0, 0, ?3, 'running', ?4)",
    )?
    .execute(params![KIND, column, total.map(|total| i64::try_from(total).unwrap_or(i64::MAX)), at.millis()])?;
    show(db, JobId::from_i64(db.last_insert_rowid()))
}

/// One batch of a job. `now` is the steady clock, `at` the wall clock.
fn advance(db: &Connection, id: JobId, now: Timestamp, at: Timestamp, after: &mut After) -> Result<Job, Error> {
    let Stored { mut job, mut cursor, end } = load(db, id)?;
    if job.state != JobState::Running {
        return Ok(job);
    }
    let found = finished(db, &job.filter, cursor, end, LOOKED_AT_MAX)?;
    let last = (found.len() as u32) < LOOKED_AT_MAX;
    let mut retried = 0;
    let mut all = true;
    for one in found {
        if retried == RETRIES_MAX {
            all = false;
            break;
        }
        cursor = one.id.as_i64() + 1;
        if !takes(db, &job.filter, &one)? {
            continue;
        }
        retried += 1;
        if one.state.is_none() {
            // It must not hold up those behind it.
            job.failed += 1;
            continue;
        }
        match commands::retry(db, one.id, now, after) {
            Ok(()) => job.done += 1,
            Err(error) if error.is_refusal() => job.failed += 1,
            Err(error) => return Err(error),
        }
    }
    if last && all {
        job.state = JobState::Done;
        job.finished_at = Some(at);
    }
    store(db, &job, cursor)?;
    Ok(job)
}

/// What a job did before stands.
fn cancel(db: &Connection, id: JobId, at: Timestamp) -> Result<Job, Error> {
    let Stored { mut job, cursor, .. } = load(db, id)?;
    if job.state != JobState::Running {
        return Err(Error::Conflict(format!("it is {} already; only what runs can be cancelled", job.state.as_str())));
    }
    job.state = JobState::Cancelled;
    job.finished_at = Some(at);
    store(db, &job, cursor)?;
    Ok(job)
}

fn store(db: &Connection, job: &Job, cursor: i64) -> Result<(), Error> {
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

/// Deletes up to `limit` of the oldest jobs, as far as they ended before `before`.
pub fn forget(db: &Connection, before: Timestamp, limit: u32) -> Result<usize, Error> {
    let mut delete = db.prepare_cached(
        "DELETE FROM job WHERE id IN
             (SELECT id FROM (SELECT id, finished_at FROM job ORDER BY id LIMIT ?1) WHERE finished_at < ?2)",
    )?;
    Ok(delete.execute(params![limit, before.millis()])?)
}

/// A finished delivery that a job may mean.
struct Finished {
    id: DeliveryId,
    endpoint: EndpointId,
    /// `None` if it cannot be read.
    state: Option<DeliveryState>,
}

/// The deliveries from `from` to before `end` that ended as the filter says, in the order of their ids.
fn finished(db: &Connection, filter: &RetryFilter, from: i64, end: i64, limit: u32) -> Result<Vec<Finished>, Error> {
    // The word stands in the statement, so that the index of what did not end well is used.
    let mut select = db.prepare_cached(&format!(
        "SELECT id, endpoint, at, reason FROM delivery
         WHERE state = '{}' AND state <> 'delivered' AND id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
        filter.ended.as_str()
    ))?;
    let mut rows = select.query(params![from, end, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let at = Timestamp::from_millis(row.get(2)?);
        let state = match filter.ended {
            Ended::Cancelled => Some(DeliveryState::Cancelled { at }),
            Ended::Dead => {
                let reason = row.get_ref(3)?.as_str().ok().and_then(DeadReason::parse);
                reason.map(|reason| DeliveryState::Dead { at, reason })
            }
        };
        found.push(Finished { id: DeliveryId::from_i64(row.get(0)?), endpoint: EndpointId::from_i64(row.get(1)?), state });
    }
    Ok(found)
}

fn takes(db: &Connection, filter: &RetryFilter, one: &Finished) -> Result<bool, Error> {
    if one.state.as_ref().is_some_and(|state| !filter.takes(one.endpoint, state)) {
        return Ok(false);
    }
    let Some(pattern) = &filter.event_type else { return Ok(true) };
    Ok(story::delivery_type(db, one.id)?.is_some_and(|event_type| pattern.matches(&event_type)))
}
