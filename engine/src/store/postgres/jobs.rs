//! Jobs. A job walks over the deliveries, runs or events that its filter may select, one batch per transaction. The cursor moves in
//! the same transaction that makes the items of the batch due. So no item is processed twice, even if a node ends at any moment. A
//! job's row is locked during a batch, so nodes that work on the same job take turns.

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::{
    Local, Postgres, commands,
    db::{Value, execute, get, limit, row, rows, the_row},
};
use crate::{
    domain::{
        command::may_start_job,
        event::EventState,
        id::{DeliveryId, EndpointId, EventId, JobId, RunId},
        job::{
            AcceptedEvent, Decision, Ended, Finished, Job, JobState, ParkedRun, ReplayFilter, RetryFilter, RunRetryFilter, Task,
        },
        run::RunOutcome,
        time::Timestamp,
    },
    store::{
        Error, Jobs, Page, PageRequest,
        commit::After,
        jobs::{CHECKED_MAX, StoredJob, count, counted_max, filter_column},
        story::{parts, read_parts},
    },
};

#[async_trait]
impl Jobs for Postgres {
    async fn create_job(&self, task: Task, at: Timestamp) -> Result<Job, Error> {
        let job = self
            .step(move |tx, _| {
                Box::pin(async move {
                    let total = count_matches(tx, &task).await?;
                    create(tx, &task, total, at).await
                })
            })
            .await?;
        self.local.handoff.jobs.notify_one();
        Ok(job)
    }

    async fn count_items(&self, task: Task) -> Result<Option<u64>, Error> {
        self.read_for_people(move |tx, _| Box::pin(async move { count_matches(tx, &task).await })).await
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

/// Whether a job's row is locked until the transaction ends.
#[derive(Clone, Copy)]
enum Lock {
    None,
    Row,
}

async fn load(tx: &Transaction<'_>, id: JobId, lock: Lock) -> Result<StoredJob, Error> {
    let lock = match lock {
        Lock::None => "",
        Lock::Row => "FOR UPDATE",
    };
    let found = row(tx, &format!("SELECT {} FROM job WHERE id = $1 {lock}", StoredJob::COLUMNS), &[&id.as_i64()]).await?;
    StoredJob::read(&found.ok_or(Error::NotFound { what: "job" })?)
}

async fn show(tx: &Transaction<'_>, id: JobId) -> Result<Job, Error> {
    Ok(load(tx, id, Lock::None).await?.job)
}

async fn list(tx: &Transaction<'_>, state: Option<JobState>, request: PageRequest) -> Result<Page<Job>, Error> {
    let sql = format!(
        "SELECT {} FROM job WHERE id < $1 AND ($2::text IS NULL OR state = $2) ORDER BY id DESC LIMIT $3",
        StoredJob::COLUMNS
    );
    let (cursor, most) = (request.cursor.unwrap_or(i64::MAX), limit(request.limit + 1));
    let found = rows(tx, &sql, &[&cursor, &state.map(JobState::as_str), &most]).await?;
    let jobs = found.iter().map(|row| Ok(StoredJob::read(row)?.job)).collect::<Result<_, Error>>()?;
    Ok(Page::of(jobs, request, |job: &Job| job.id.as_i64()))
}

async fn create(tx: &Transaction<'_>, task: &Task, total: Option<u64>, at: Timestamp) -> Result<Job, Error> {
    // Jobs are created one at a time, so that the limit is exact.
    tx.batch_execute("LOCK TABLE job IN SHARE ROW EXCLUSIVE MODE").await?;
    let running: i64 = get(&the_row(tx, "SELECT count(*) FROM job WHERE state = 'running'", &[]).await?, 0)?;
    may_start_job(running.unsigned_abs() as usize).map_err(Error::Conflict)?;
    if let Task::RetryDeliveries(RetryFilter { endpoint: Some(endpoint), .. }) = task {
        commands::may_send_to(tx, endpoint.as_i64()).await?;
    }
    insert(tx, task, total, at).await
}

/// If an endpoint has retrying deliveries, starts a job that makes them due now. The job is never refused, regardless of the number
/// of running jobs, because the command that starts it has already taken effect.
pub async fn hurry(tx: &Transaction<'_>, endpoint: EndpointId, at: Timestamp, after: &mut After) -> Result<(), Error> {
    // Each kind of delivery has a separate index.
    let sql = "SELECT EXISTS (SELECT 1 FROM live WHERE endpoint = $1 AND attempts > 0 AND lease IS NULL AND ordering IS NULL)
                   OR EXISTS (SELECT 1 FROM live WHERE endpoint = $1 AND attempts > 0 AND lease IS NULL AND ordering IS NOT NULL)";
    if get(&the_row(tx, sql, &[&endpoint.as_i64()]).await?, 0)? {
        let filter = RetryFilter { endpoint: Some(endpoint), ended: Ended::Retrying, ..RetryFilter::default() };
        insert(tx, &Task::RetryDeliveries(filter), None, at).await?;
        after.new_job = true;
    }
    Ok(())
}

async fn insert(tx: &Transaction<'_>, task: &Task, total: Option<u64>, at: Timestamp) -> Result<Job, Error> {
    let last = EventId::from_i64(last_event(tx).await?);
    let sql = "INSERT INTO job (kind, filter, cursor, done, failed, total, state, created_at)
               VALUES ($1, $2, 0, 0, 0, $3, 'running', $4) RETURNING id";
    let total = total.map(|total| i64::try_from(total).unwrap_or(i64::MAX));
    let created = the_row(tx, sql, &[&task.kind(), &filter_column(task, last), &total, &at.millis()]).await?;
    show(tx, JobId::from_i64(get(&created, 0)?)).await
}

/// Processes one batch of a job. `now` is the steady clock, `at` the wall clock.
async fn advance(tx: &Transaction<'_>, local: &Local, id: JobId, now: Timestamp, at: Timestamp) -> Result<Job, Error> {
    let mut stored = load(tx, id, Lock::Row).await?;
    if stored.job.state != JobState::Running {
        return Ok(stored.job);
    }
    let found = read_items(tx, &stored.job.task, stored.cursor, stored.end, CHECKED_MAX).await?;
    for id in stored.take(found, at) {
        let done = match stored.job.task {
            Task::RetryDeliveries(_) => commands::retry(tx, local, DeliveryId::from_i64(id), now).await,
            Task::RetryRuns(_) => commands::retry_run(tx, local, RunId::from_i64(id), now).await,
            Task::ReplayEvents(_) => commands::replay(tx, local, EventId::from_i64(id), now).await.map(drop),
        };
        match done {
            Ok(()) => stored.job.done += 1,
            Err(error) if error.is_refusal() => stored.job.failed += 1,
            Err(error) => return Err(error),
        }
    }
    store(tx, &stored).await?;
    Ok(stored.job)
}

async fn cancel(tx: &Transaction<'_>, id: JobId, at: Timestamp) -> Result<Job, Error> {
    let mut stored = load(tx, id, Lock::Row).await?;
    stored.job.cancel(at).map_err(Error::Conflict)?;
    store(tx, &stored).await?;
    Ok(stored.job)
}

async fn store(tx: &Transaction<'_>, StoredJob { job, cursor, .. }: &StoredJob) -> Result<(), Error> {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let sql = "UPDATE job SET cursor = $1, done = $2, failed = $3, state = $4, finished_at = $5 WHERE id = $6";
    let (done, failed, finished_at) = (count(job.done), count(job.failed), job.finished_at.map(Timestamp::millis));
    execute(tx, sql, &[cursor, &done, &failed, &job.state.as_str(), &finished_at, &job.id.as_i64()]).await?;
    Ok(())
}

/// Deletes up to `most` of the oldest jobs that ended before `before`.
pub async fn forget(tx: &Transaction<'_>, before: Timestamp, most: i64) -> Result<usize, Error> {
    let sql = "DELETE FROM job WHERE id IN
                   (SELECT id FROM (SELECT id, finished_at FROM job ORDER BY id LIMIT $1) old WHERE finished_at < $2)";
    Ok(execute(tx, sql, &[&most, &before.millis()]).await? as usize)
}

/// Counts the items that match now; `None` if more items than [`counted_max`] had to be checked.
async fn count_matches(tx: &Transaction<'_>, task: &Task) -> Result<Option<u64>, Error> {
    let most = counted_max(task);
    let Task::RetryDeliveries(filter) = task else {
        return Ok(count(task, &read_items(tx, task, 0, i64::MAX, most).await?));
    };
    if !filter.is_by_index() {
        return Ok(count(task, &read_items(tx, task, 0, i64::MAX, most).await?));
    }
    let (endpoint, most) = (filter.endpoint.map(EndpointId::as_i64), limit(most));
    let mut values: Vec<Value<'_>> = vec![&most];
    values.extend(endpoint.as_ref().map(|endpoint| endpoint as Value<'_>));
    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {} LIMIT $1) d", table_of(filter, values.len()));
    let found: i64 = get(&the_row(tx, &sql, &values).await?, 0)?;
    Ok((found < most).then_some(found.unsigned_abs()))
}

/// Returns the table and the condition of a filter's deliveries, for `FROM`. If the filter names an endpoint, it is the parameter
/// with the number `endpoint`.
fn table_of(filter: &RetryFilter, endpoint: usize) -> String {
    let endpoint = if filter.endpoint.is_some() { format!(" AND d.endpoint = ${endpoint}") } else { String::new() };
    match filter.ended {
        Ended::Retrying => format!("live d WHERE d.attempts > 0 AND d.lease IS NULL{endpoint}"),
        // The word for the state is part of the statement, so that Postgres uses the partial index of deliveries that were not
        // delivered.
        ended => format!("delivery d WHERE d.state = '{}' AND d.state <> 'delivered'{endpoint}", ended.as_str()),
    }
}

/// Reads up to `most` items with numbers from `from` (inclusive) to `end` (exclusive), in order.
async fn read_items(tx: &Transaction<'_>, task: &Task, from: i64, end: i64, most: usize) -> Result<Vec<(i64, Decision)>, Error> {
    let range = [from, end, limit(most)];
    match task {
        Task::RetryDeliveries(filter) => finished(tx, filter, range).await,
        Task::RetryRuns(filter) => parked(tx, filter, range).await,
        Task::ReplayEvents(filter) => accepted(tx, filter, range).await,
    }
}

/// Reads the deliveries in the state of the filter.
async fn finished(
    tx: &Transaction<'_>,
    filter: &RetryFilter,
    [from, end, most]: [i64; 3],
) -> Result<Vec<(i64, Decision)>, Error> {
    let event_type = match filter.event_type {
        Some(_) => {
            "coalesce((SELECT p.type FROM payload p WHERE p.id = d.id), (SELECT e.type FROM event e WHERE e.id = d.id >> 14))"
        }
        None => "NULL::text",
    };
    let columns = if filter.ended == Ended::Retrying { "d.next_at, NULL::text" } else { "d.at, d.reason" };
    let endpoint = filter.endpoint.map(EndpointId::as_i64);
    let mut values: Vec<Value<'_>> = vec![&from, &end, &most];
    values.extend(endpoint.as_ref().map(|endpoint| endpoint as Value<'_>));
    let sql = format!(
        "SELECT d.id, d.endpoint, {columns}, {event_type} FROM {} AND d.id >= $1 AND d.id < $2 ORDER BY d.id LIMIT $3",
        table_of(filter, values.len())
    );
    let finished = |row: &Row| -> Result<(i64, Decision), Error> {
        let state = filter.ended.state(Timestamp::from_millis(get(row, 2)?), get(row, 3)?);
        let (id, endpoint) = (DeliveryId::from_i64(get(row, 0)?), EndpointId::from_i64(get(row, 1)?));
        Ok((id.as_i64(), filter.decide(&Finished { id, endpoint, state, event_type: get(row, 4)? })))
    };
    rows(tx, &sql, &values).await?.iter().map(finished).collect()
}

/// Reads the parked runs.
async fn parked(
    tx: &Transaction<'_>,
    filter: &RunRetryFilter,
    [from, end, most]: [i64; 3],
) -> Result<Vec<(i64, Decision)>, Error> {
    let sql = "SELECT q.id, q.plugin, q.outcome, e.type, e.accepted_at FROM run_queue q LEFT JOIN event e ON e.id = q.id >> 14
               WHERE q.state = 'parked' AND q.id >= $1 AND q.id < $2 ORDER BY q.id LIMIT $3";
    let parked = |row: &Row| -> Result<(i64, Decision), Error> {
        let accepted_at = get::<Option<i64>>(row, 4)?.map(Timestamp::from_millis);
        let run = ParkedRun {
            plugin: get(row, 1)?,
            outcome: get::<Option<&str>>(row, 2)?.and_then(RunOutcome::parse),
            event: get::<Option<String>>(row, 3)?.zip(accepted_at),
        };
        Ok((get(row, 0)?, filter.decide(&run)))
    };
    rows(tx, sql, &[&from, &end, &most]).await?.iter().map(parked).collect()
}

/// Reads the events. Events that matched no plugin and no endpoint come from a separate small table.
async fn accepted(
    tx: &Transaction<'_>,
    filter: &ReplayFilter,
    [from, end, most]: [i64; 3],
) -> Result<Vec<(i64, Decision)>, Error> {
    let table = match filter.state {
        Some(EventState::Unrouted) => "unrouted",
        _ => "event",
    };
    let sql = format!(
        "SELECT e.id, e.type, e.source, e.accepted_at, p.*
         FROM (SELECT id FROM {table} WHERE id >= $1 AND id < $2 ORDER BY id LIMIT $3) s JOIN event e ON e.id = s.id
         CROSS JOIN LATERAL ({}) p ORDER BY e.id",
        parts("e.id")
    );
    let accepted = |row: &Row| -> Result<(i64, Decision), Error> {
        let event = AcceptedEvent {
            state: read_parts(row, 4)?.state(),
            event_type: get(row, 1)?,
            source: get(row, 2)?,
            accepted_at: Timestamp::from_millis(get(row, 3)?),
        };
        Ok((get(row, 0)?, filter.decide(&event)))
    };
    rows(tx, &sql, &[&from, &end, &most]).await?.iter().map(accepted).collect()
}

/// Returns the last number that was issued to an event.
async fn last_event(tx: &Transaction<'_>) -> Result<i64, Error> {
    get(&the_row(tx, "SELECT last_value FROM event_id", &[]).await?, 0)
}
