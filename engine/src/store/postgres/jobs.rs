//! Jobs: rows whose filter is walked over the finished deliveries, a batch per transaction. The cursor moves in the transaction
//! that sends the deliveries behind it again, so none is taken up twice, whenever a node ends. A job's row is locked while a batch of it
//! is under way: nodes that work on the same job take turns.

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::{
    Local, Postgres, commands,
    db::{execute, get, limit, row, rows, the_row},
};
use crate::{
    domain::{
        delivery::{DeadReason, DeliveryState},
        id::{DeliveryId, EndpointId, EventId, JobId},
        job::{Ended, JOBS_RUNNING_MAX, Job, JobState, RetryFilter},
        time::Timestamp,
    },
    store::{
        Error, Jobs, Page, PageRequest,
        columns::{FilterColumn, Place, json_column},
    },
};

const KIND: &str = Job::KIND;
/// Deliveries that one step sends again at most.
const RETRIES_MAX: usize = 200;
/// Deliveries that one step looks at; those that are not meant cost little.
const LOOKED_AT_MAX: usize = 1_000;
/// Deliveries that are looked at to say how many a new job means.
const COUNTED_MAX: usize = 100_000;

#[async_trait]
impl Jobs for Postgres {
    async fn create_job(&self, filter: RetryFilter, at: Timestamp) -> Result<Job, Error> {
        let job = self
            .step(move |tx, _| {
                Box::pin(async move {
                    let total = count(tx, &filter).await?;
                    create(tx, &filter, total, at).await
                })
            })
            .await?;
        self.local.handoff.jobs.notify_one();
        Ok(job)
    }

    async fn advance_job(&self, id: JobId, now: Timestamp, at: Timestamp) -> Result<Job, Error> {
        let job = self.step(move |tx, local| Box::pin(advance(tx, local, id, now, at))).await?;
        self.local.due(now);
        Ok(job)
    }

    async fn cancel_job(&self, id: JobId, at: Timestamp) -> Result<Job, Error> {
        self.step(move |tx, _| Box::pin(cancel(tx, id, at))).await
    }

    async fn job(&self, id: JobId) -> Result<Job, Error> {
        self.read_for_people(move |tx, _| Box::pin(show(tx, id))).await
    }

    async fn jobs(&self, state: Option<JobState>, page: PageRequest) -> Result<Page<Job>, Error> {
        self.read_for_people(move |tx, _| Box::pin(list(tx, state, page))).await
    }
}

/// A job and how far it has come.
struct Stored {
    job: Job,
    cursor: i64,
    end: i64,
}

const JOB_COLUMNS: &str = "id, kind, filter, cursor, done, failed, total, state, created_at, finished_at";

/// Reads [`JOB_COLUMNS`].
fn stored(row: &Row) -> Result<Stored, Error> {
    let place = Place { table: "job", id: get(row, 0)? };
    if get::<&str>(row, 1)? != KIND {
        return Err(place.corrupt("kind"));
    }
    let filter: FilterColumn = json_column(&place, "filter", get(row, 2)?)?;
    let count = |column: usize| -> Result<u64, Error> { Ok(get::<i64>(row, column)?.unsigned_abs()) };
    Ok(Stored {
        job: Job {
            id: JobId::from_i64(place.id),
            filter: filter.read().ok_or_else(|| place.corrupt("filter"))?,
            state: JobState::parse(get(row, 7)?).ok_or_else(|| place.corrupt("state"))?,
            done: count(4)?,
            failed: count(5)?,
            total: get::<Option<i64>>(row, 6)?.map(i64::unsigned_abs),
            created_at: Timestamp::from_millis(get(row, 8)?),
            finished_at: get::<Option<i64>>(row, 9)?.map(Timestamp::from_millis),
        },
        cursor: get(row, 3)?,
        end: filter.end,
    })
}

async fn load(tx: &Transaction<'_>, id: JobId, lock: &str) -> Result<Stored, Error> {
    let found = row(tx, &format!("SELECT {JOB_COLUMNS} FROM job WHERE id = $1 {lock}"), &[&id.as_i64()]).await?;
    stored(&found.ok_or(Error::NotFound { what: "job" })?)
}

async fn show(tx: &Transaction<'_>, id: JobId) -> Result<Job, Error> {
    Ok(load(tx, id, "").await?.job)
}

async fn list(tx: &Transaction<'_>, state: Option<JobState>, request: PageRequest) -> Result<Page<Job>, Error> {
    let sql =
        format!("SELECT {JOB_COLUMNS} FROM job WHERE id < $1 AND ($2::text IS NULL OR state = $2) ORDER BY id DESC LIMIT $3");
    let (cursor, most) = (request.cursor.unwrap_or(i64::MAX), limit(request.limit + 1));
    let found = rows(tx, &sql, &[&cursor, &state.map(JobState::as_str), &most]).await?;
    let jobs = found.iter().map(|row| Ok(stored(row)?.job)).collect::<Result<_, Error>>()?;
    Ok(Page::of(jobs, request, |job: &Job| job.id.as_i64()))
}

/// How many deliveries a filter means at this moment; `None` if that takes too long to find out.
async fn count(tx: &Transaction<'_>, filter: &RetryFilter) -> Result<Option<u64>, Error> {
    let found = finished(tx, filter, 0, i64::MAX, COUNTED_MAX).await?;
    if found.len() >= COUNTED_MAX {
        return Ok(None);
    }
    Ok(Some(found.iter().filter(|one| one.is_meant(filter)).count() as u64))
}

async fn create(tx: &Transaction<'_>, filter: &RetryFilter, total: Option<u64>, at: Timestamp) -> Result<Job, Error> {
    // One at a time, so that the limit holds.
    tx.batch_execute("LOCK TABLE job IN SHARE ROW EXCLUSIVE MODE").await?;
    let running: i64 = get(&the_row(tx, "SELECT count(*) FROM job WHERE state = 'running'", &[]).await?, 0)?;
    if running.unsigned_abs() >= JOBS_RUNNING_MAX as u64 {
        let text = format!("{running} jobs are running, as many as can at once; wait until one is done, or cancel one");
        return Err(Error::Conflict(text));
    }
    if let Some(endpoint) = filter.endpoint
        && let Some(refusal) = commands::takes_nothing(tx, endpoint.as_i64()).await?
    {
        return Err(Error::Conflict(refusal));
    }
    let (_, end) = EventId::from_i64(last_event(tx).await?).children();
    let column = serde_json::to_string(&FilterColumn::of(filter, end)).expect("numbers and texts are always JSON");
    let sql = "INSERT INTO job (kind, filter, cursor, done, failed, total, state, created_at)
               VALUES ($1, $2, 0, 0, 0, $3, 'running', $4) RETURNING id";
    let total = total.map(|total| i64::try_from(total).unwrap_or(i64::MAX));
    let created = the_row(tx, sql, &[&KIND, &column, &total, &at.millis()]).await?;
    show(tx, JobId::from_i64(get(&created, 0)?)).await
}

/// One batch of a job. `now` is the steady clock, `at` the wall clock.
async fn advance(tx: &Transaction<'_>, local: &Local, id: JobId, now: Timestamp, at: Timestamp) -> Result<Job, Error> {
    let Stored { mut job, mut cursor, end } = load(tx, id, "FOR UPDATE").await?;
    if job.state != JobState::Running {
        return Ok(job);
    }
    let found = finished(tx, &job.filter, cursor, end, LOOKED_AT_MAX).await?;
    let last = found.len() < LOOKED_AT_MAX;
    let mut retried = 0;
    let mut all = true;
    for one in found {
        if retried == RETRIES_MAX {
            all = false;
            break;
        }
        cursor = one.id.as_i64() + 1;
        if !one.is_meant(&job.filter) {
            continue;
        }
        retried += 1;
        if one.state.is_none() {
            // It must not hold up those behind it.
            job.failed += 1;
            continue;
        }
        match commands::retry(tx, local, one.id, now).await {
            Ok(()) => job.done += 1,
            Err(error) if error.is_refusal() => job.failed += 1,
            Err(error) => return Err(error),
        }
    }
    if last && all {
        job.state = JobState::Done;
        job.finished_at = Some(at);
    }
    store(tx, &job, cursor).await?;
    Ok(job)
}

/// What a job did before stands.
async fn cancel(tx: &Transaction<'_>, id: JobId, at: Timestamp) -> Result<Job, Error> {
    let Stored { mut job, cursor, .. } = load(tx, id, "FOR UPDATE").await?;
    if job.state != JobState::Running {
        return Err(Error::Conflict(format!("it is {} already; only what runs can be cancelled", job.state.as_str())));
    }
    job.state = JobState::Cancelled;
    job.finished_at = Some(at);
    store(tx, &job, cursor).await?;
    Ok(job)
}

async fn store(tx: &Transaction<'_>, job: &Job, cursor: i64) -> Result<(), Error> {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let sql = "UPDATE job SET cursor = $1, done = $2, failed = $3, state = $4, finished_at = $5 WHERE id = $6";
    let (done, failed, finished_at) = (count(job.done), count(job.failed), job.finished_at.map(Timestamp::millis));
    execute(tx, sql, &[&cursor, &done, &failed, &job.state.as_str(), &finished_at, &job.id.as_i64()]).await?;
    Ok(())
}

/// Deletes up to `most` of the oldest jobs, as far as they ended before `before`.
pub async fn forget(tx: &Transaction<'_>, before: Timestamp, most: i64) -> Result<usize, Error> {
    let sql = "DELETE FROM job WHERE id IN
                   (SELECT id FROM (SELECT id, finished_at FROM job ORDER BY id LIMIT $1) old WHERE finished_at < $2)";
    Ok(execute(tx, sql, &[&most, &before.millis()]).await? as usize)
}

/// A finished delivery that a job may mean.
struct Finished {
    id: DeliveryId,
    endpoint: EndpointId,
    /// `None` if it cannot be read.
    state: Option<DeliveryState>,
    /// The type that the receiver is told, if the filter asks for it and the event is still there.
    event_type: Option<String>,
}

impl Finished {
    fn is_meant(&self, filter: &RetryFilter) -> bool {
        let of_state = self.state.as_ref().is_none_or(|state| filter.takes(self.endpoint, state));
        let of_type =
            |pattern: &crate::domain::pattern::Pattern| self.event_type.as_ref().is_some_and(|one| pattern.matches(one));
        of_state && filter.event_type.as_ref().is_none_or(of_type)
    }
}

/// The deliveries from `from` to before `end` that ended as the filter says, in the order of their ids.
async fn finished(tx: &Transaction<'_>, filter: &RetryFilter, from: i64, end: i64, most: usize) -> Result<Vec<Finished>, Error> {
    let event_type = match filter.event_type {
        Some(_) => {
            "coalesce((SELECT p.type FROM payload p WHERE p.id = d.id), (SELECT e.type FROM event e WHERE e.id = d.id >> 14))"
        }
        None => "NULL::text",
    };
    // The word stands in the statement, so that the index of what did not end well is used.
    let sql = format!(
        "SELECT d.id, d.endpoint, d.at, d.reason, {event_type} FROM delivery d
         WHERE d.state = '{}' AND d.state <> 'delivered' AND d.id >= $1 AND d.id < $2 ORDER BY d.id LIMIT $3",
        filter.ended.as_str()
    );
    let finished = |row: &Row| -> Result<Finished, Error> {
        let at = Timestamp::from_millis(get(row, 2)?);
        let state = match filter.ended {
            Ended::Cancelled => Some(DeliveryState::Cancelled { at }),
            Ended::Dead => {
                let reason = get::<Option<&str>>(row, 3)?.and_then(DeadReason::parse);
                reason.map(|reason| DeliveryState::Dead { at, reason })
            }
        };
        let (id, endpoint) = (DeliveryId::from_i64(get(row, 0)?), EndpointId::from_i64(get(row, 1)?));
        Ok(Finished { id, endpoint, state, event_type: get(row, 4)? })
    };
    rows(tx, &sql, &[&from, &end, &limit(most)]).await?.iter().map(finished).collect()
}

/// Returns the last number that was issued to an event.
async fn last_event(tx: &Transaction<'_>) -> Result<i64, Error> {
    get(&the_row(tx, "SELECT last_value FROM event_id", &[]).await?, 0)
}
