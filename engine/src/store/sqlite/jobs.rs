//! Jobs. A job walks over the deliveries, runs or events that its filter may select, one batch per transaction. The cursor moves in
//! the same transaction that makes the items of the batch due. So no item is processed twice, even if the process ends at any
//! moment.

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::{
    Local, Sqlite, commands, story,
    writer::{Breaks, Keeps},
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
    },
};

#[async_trait]
impl Jobs for Sqlite {
    async fn create_job(&self, task: Task, at: Timestamp) -> Result<Job, Error> {
        let counted = task.clone();
        // The items are counted on a reading connection, because the writer must serve other callers.
        let total = self.read(move |db| count_matches(db, &counted)).await?;
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, local, after| {
            after.new_job = true;
            create(db, local, &task, total, at)
        })
        .await
    }

    async fn count_items(&self, task: Task) -> Result<Option<u64>, Error> {
        self.read_for_people(move |db| count_matches(db, &task)).await
    }

    async fn advance_job(&self, id: JobId, now: Timestamp, at: Timestamp) -> Result<Job, Error> {
        // This commit need not be synced. If the machine fails, the batch may be lost as a whole, and is then repeated.
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

fn create(db: &Connection, local: &Local, task: &Task, total: Option<u64>, at: Timestamp) -> Result<Job, Error> {
    let running: i64 = db.prepare_cached("SELECT count(*) FROM job WHERE state = 'running'")?.query_row([], |row| row.get(0))?;
    may_start_job(running.unsigned_abs() as usize).map_err(Error::Conflict)?;
    if let Task::RetryDeliveries(RetryFilter { endpoint: Some(endpoint), .. }) = task {
        commands::may_send_to(db, endpoint.as_i64())?;
    }
    insert(db, local, task, total, at)
}

fn insert(db: &Connection, local: &Local, task: &Task, total: Option<u64>, at: Timestamp) -> Result<Job, Error> {
    db.prepare_cached(
        "INSERT INTO job (kind, filter, cursor, done, failed, total, state, created_at) VALUES (?1, ?2, 0, 0, 0, ?3, 'running', ?4)",
    )?
    .execute(params![
        task.kind(),
        filter_column(task, local.last_event()),
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
    let found = read_items(db, &stored.job.task, stored.cursor, stored.end, CHECKED_MAX)?;
    for id in stored.take(found, at) {
        let done = match stored.job.task {
            Task::RetryDeliveries(_) => commands::retry(db, DeliveryId::from_i64(id), now, after),
            Task::RetryRuns(_) => commands::retry_run(db, RunId::from_i64(id), now, after),
            Task::ReplayEvents(_) => commands::replay(db, EventId::from_i64(id), now, after).map(drop),
        };
        match done {
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

/// If an endpoint has retrying deliveries, starts a job that makes them due now. The job is never refused, regardless of the number
/// of running jobs, because the command that starts it has already taken effect.
pub fn hurry(db: &Connection, local: &Local, endpoint: EndpointId, at: Timestamp, after: &mut After) -> Result<(), Error> {
    // Each kind of delivery has a separate index.
    let waits: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM live WHERE endpoint = ?1 AND attempts > 0 AND lease IS NULL AND ordering IS NULL)
                 OR EXISTS (SELECT 1 FROM live WHERE endpoint = ?1 AND attempts > 0 AND lease IS NULL AND ordering IS NOT NULL)",
        )?
        .query_row([endpoint.as_i64()], |row| row.get(0))?;
    if waits {
        let filter = RetryFilter { endpoint: Some(endpoint), ended: Ended::Retrying, ..RetryFilter::default() };
        insert(db, local, &Task::RetryDeliveries(filter), None, at)?;
        after.new_job = true;
    }
    Ok(())
}

/// Counts the items that match now; `None` if more items than [`counted_max`] had to be checked.
fn count_matches(db: &Connection, task: &Task) -> Result<Option<u64>, Error> {
    let most = counted_max(task);
    let Task::RetryDeliveries(filter) = task else { return Ok(count(task, &read_items(db, task, 0, i64::MAX, most)?)) };
    if !filter.is_by_index() {
        return Ok(count(task, &read_items(db, task, 0, i64::MAX, most)?));
    }
    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {} LIMIT ?2)", table_of(filter));
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let found: i64 =
        db.prepare_cached(&sql)?.query_row(params![filter.endpoint.map(EndpointId::as_i64), most], |row| row.get(0))?;
    Ok((found < most).then_some(found.unsigned_abs()))
}

/// Returns the table and the condition of a filter's deliveries, for `FROM`. The parameter `?1` is the endpoint.
fn table_of(filter: &RetryFilter) -> String {
    // An index begins with the endpoint, so each case needs its own statement.
    let endpoint = if filter.endpoint.is_some() { "endpoint = ?1" } else { "?1 IS NULL" };
    match filter.ended {
        Ended::Retrying => format!("live WHERE attempts > 0 AND lease IS NULL AND {endpoint}"),
        // The word for the state is part of the statement, so that SQLite uses the partial index of deliveries that were not
        // delivered.
        ended => format!("delivery WHERE state = '{}' AND state <> 'delivered' AND {endpoint}", ended.as_str()),
    }
}

/// Reads up to `most` items with numbers from `from` (inclusive) to `end` (exclusive), in order.
fn read_items(db: &Connection, task: &Task, from: i64, end: i64, most: usize) -> Result<Vec<(i64, Decision)>, Error> {
    let range = [from, end, i64::try_from(most).unwrap_or(i64::MAX)];
    match task {
        Task::RetryDeliveries(filter) => finished(db, filter, range),
        Task::RetryRuns(filter) => parked(db, filter, range),
        Task::ReplayEvents(filter) => accepted(db, filter, range),
    }
}

/// Reads the deliveries in the state of the filter.
fn finished(db: &Connection, filter: &RetryFilter, [from, end, most]: [i64; 3]) -> Result<Vec<(i64, Decision)>, Error> {
    let columns = if filter.ended == Ended::Retrying { "next_at, NULL" } else { "at, reason" };
    let mut select = db.prepare_cached(&format!(
        "SELECT id, endpoint, {columns} FROM {} AND id >= ?2 AND id < ?3 ORDER BY id LIMIT ?4",
        table_of(filter)
    ))?;
    let mut rows = select.query(params![filter.endpoint.map(EndpointId::as_i64), from, end, most])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let reason = row.get_ref(3)?.as_str().ok();
        let state = filter.ended.state(Timestamp::from_millis(row.get(2)?), reason);
        let (id, endpoint) = (DeliveryId::from_i64(row.get(0)?), EndpointId::from_i64(row.get(1)?));
        let event_type = match filter.event_type {
            Some(_) => story::delivery_type(db, id)?,
            None => None,
        };
        found.push((id.as_i64(), filter.decide(&Finished { id, endpoint, state, event_type })));
    }
    Ok(found)
}

/// Reads the parked runs.
fn parked(db: &Connection, filter: &RunRetryFilter, range: [i64; 3]) -> Result<Vec<(i64, Decision)>, Error> {
    let mut select = db.prepare_cached(
        "SELECT q.id, q.plugin, q.outcome, e.type, e.accepted_at FROM run_queue q LEFT JOIN event e ON e.id = q.id >> 14
         WHERE q.state = 'parked' AND q.id >= ?1 AND q.id < ?2 ORDER BY q.id LIMIT ?3",
    )?;
    let mut rows = select.query(range)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let event_type: Option<String> = row.get(3)?;
        let accepted_at: Option<i64> = row.get(4)?;
        let run = ParkedRun {
            plugin: row.get(1)?,
            outcome: row.get_ref(2)?.as_str().ok().and_then(RunOutcome::parse),
            event: event_type.zip(accepted_at.map(Timestamp::from_millis)),
        };
        found.push((row.get(0)?, filter.decide(&run)));
    }
    Ok(found)
}

/// Reads the events. Events that matched no plugin and no endpoint come from a separate small table.
fn accepted(db: &Connection, filter: &ReplayFilter, range: [i64; 3]) -> Result<Vec<(i64, Decision)>, Error> {
    let mut select = db.prepare_cached(match filter.state {
        Some(EventState::Unrouted) => {
            "SELECT e.id, e.type, e.source, e.accepted_at FROM unrouted u CROSS JOIN event e ON e.id = u.id
             WHERE u.id >= ?1 AND u.id < ?2 ORDER BY u.id LIMIT ?3"
        }
        _ => "SELECT id, type, source, accepted_at FROM event WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
    })?;
    let mut rows = select.query(range)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id = EventId::from_i64(row.get(0)?);
        let event = AcceptedEvent {
            state: story::event_parts(db, id)?.state(),
            event_type: row.get(1)?,
            source: row.get(2)?,
            accepted_at: Timestamp::from_millis(row.get(3)?),
        };
        found.push((id.as_i64(), filter.decide(&event)));
    }
    Ok(found)
}
