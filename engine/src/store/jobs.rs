//! Stored jobs. A job is a row with a filter, a cursor and an end, and is processed in batches.

use async_trait::async_trait;

use super::{
    Error, Page, PageRequest,
    columns::TaskColumn,
    row::{Columns, Row},
};
use crate::domain::{
    id::{EventId, JobId},
    job::{Batch, Decision, Job, JobState, RetryFilter, Task},
    time::Timestamp,
};

/// Stores and advances jobs.
#[async_trait]
pub trait Jobs {
    /// Creates a job for the matching items that exist now, and wakes the job worker.
    ///
    /// # Errors
    /// [`Error::Conflict`] if too many jobs are running ([`JOBS_RUNNING_MAX`](crate::domain::job::JOBS_RUNNING_MAX)), or
    /// if the filter names an endpoint that is disabled or deleted.
    async fn create_job(&self, task: Task, at: Timestamp) -> Result<Job, Error>;

    /// Counts the matching items that exist now; `None` if more items than [`counted_max`] had to be checked.
    ///
    /// # Errors
    /// [`Error::TooSlow`] after [`READ_TIME_MAX`](super::READ_TIME_MAX).
    async fn count_items(&self, task: Task) -> Result<Option<u64>, Error>;

    /// Works on one batch of a running job. Each item of the batch is processed exactly once, even if the process ends at any
    /// moment. A job that is not running is not changed. `now` is the steady clock, `at` the wall clock.
    ///
    /// # Errors
    /// [`Error::NotFound`]; if the commit failed, the next call repeats the batch.
    async fn advance_job(&self, id: JobId, now: Timestamp, at: Timestamp) -> Result<Job, Error>;

    /// Cancels a running job. Items that it made due stay due.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is not running; [`Error::NotFound`].
    async fn cancel_job(&self, id: JobId, at: Timestamp) -> Result<Job, Error>;

    /// # Errors
    /// [`Error::NotFound`].
    async fn job(&self, id: JobId) -> Result<Job, Error>;

    /// Returns one page of the jobs, newest first.
    ///
    /// # Errors
    /// [`Error::TooSlow`] after [`READ_TIME_MAX`](super::READ_TIME_MAX).
    async fn jobs(&self, state: Option<JobState>, page: PageRequest) -> Result<Page<Job>, Error>;
}

/// Maximum number of items that one step retries or replays. It bounds how long other callers wait for the writer.
const TAKEN_MAX: usize = 200;
/// Maximum number of items that one step checks. Items that do not match cost little.
pub const CHECKED_MAX: usize = 1_000;
/// Maximum number of deliveries or runs that are checked to count the matches of a new job.
const COUNTED_MAX: usize = 100_000;
/// Like [`COUNTED_MAX`], for items that take look-ups in other tables: the state of an event, the event type of a delivery.
const LOOKED_UP_MAX: usize = 10_000;

/// Returns the maximum number of items that are checked to count the matching ones.
pub const fn counted_max(task: &Task) -> usize {
    match task {
        Task::RetryDeliveries(RetryFilter { event_type: Some(_), .. }) | Task::ReplayEvents(_) => LOOKED_UP_MAX,
        Task::RetryDeliveries(_) | Task::RetryRuns(_) => COUNTED_MAX,
    }
}

/// Counts the matching items among those that were checked. Returns `None` if more items exist than were checked.
pub fn count(task: &Task, found: &[(i64, Decision)]) -> Option<u64> {
    let matching = found.iter().filter(|(_, decision)| *decision != Decision::Skip).count() as u64;
    (found.len() < counted_max(task)).then_some(matching)
}

/// A job and its progress.
pub struct StoredJob {
    pub job: Job,
    /// Every item below this number was checked.
    pub cursor: i64,
    /// Items from this number on were created after the job.
    pub end: i64,
}

impl StoredJob {
    /// The columns, in the order in which [`Self::read`] reads them.
    pub const COLUMNS: &str = "id, kind, filter, cursor, done, failed, total, state, created_at, finished_at";

    pub fn read(row: &impl Row) -> Result<Self, Error> {
        let columns = Columns::numbered("job", row)?;
        let (task, end) = TaskColumn::read(&columns.place, columns.text(1, "kind")?, columns.text(2, "filter")?)?;
        let job = Job {
            id: JobId::from_i64(columns.id()),
            task,
            state: columns.word(7, "state", JobState::parse)?,
            done: columns.number(4, "done")?.unsigned_abs(),
            failed: columns.number(5, "failed")?.unsigned_abs(),
            total: columns.optional_number(6, "total")?.map(i64::unsigned_abs),
            created_at: columns.time(8, "created_at")?,
            finished_at: columns.optional_time(9, "finished_at")?,
        };
        Ok(Self { job, cursor: columns.number(3, "cursor")?, end })
    }

    /// Takes the next batch from `found`, which holds the items that were read (at most [`CHECKED_MAX`]). Returns the numbers of
    /// the matching items.
    pub fn take(&mut self, found: Vec<(i64, Decision)>, at: Timestamp) -> Vec<i64> {
        let is_last = found.len() < CHECKED_MAX;
        let batch = Batch::of(found, TAKEN_MAX);
        self.cursor = batch.cursor.map_or(self.cursor, |id| id + 1);
        self.job.failed += batch.unreadable;
        if is_last && batch.is_whole {
            self.job.end(JobState::Done, at);
        }
        batch.taken
    }
}

/// Returns the column `filter` of a new job.
pub fn filter_column(task: &Task, last: EventId) -> String {
    TaskColumn::of(task, task.end(last))
}
