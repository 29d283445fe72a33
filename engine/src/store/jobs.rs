//! Stored jobs: a row with a filter, a cursor and an end, processed in batches.

use async_trait::async_trait;

use super::{
    Error, Page, PageRequest,
    columns::{FilterColumn, json},
    row::{Columns, Row},
};
use crate::domain::{
    id::JobId,
    job::{Finished, Job, JobState, RetryFilter},
    time::Timestamp,
};

/// Stores and advances jobs.
#[async_trait]
pub trait Jobs {
    /// Creates a job that retries the deliveries that match a filter and exist now, and wakes the job worker.
    ///
    /// # Errors
    /// [`Error::Conflict`] if too many jobs are running ([`JOBS_RUNNING_MAX`](crate::domain::job::JOBS_RUNNING_MAX)), or if the filter
    /// names an endpoint that is disabled or deleted.
    async fn create_job(&self, filter: RetryFilter, at: Timestamp) -> Result<Job, Error>;

    /// Processes one batch of a running job. Each delivery is retried exactly once, even if the process ends during the job. A
    /// job that is not running is not changed. `now` is the steady clock, `at` the wall clock.
    ///
    /// # Errors
    /// [`Error::NotFound`]; if the commit failed, the next call repeats the batch.
    async fn advance_job(&self, id: JobId, now: Timestamp, at: Timestamp) -> Result<Job, Error>;

    /// Cancels a running job. Deliveries that it has already made due stay due.
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

/// Deliveries that one step retries at most. Bounds how long other writes wait.
pub const RETRIES_MAX: usize = 200;
/// Deliveries that one step reads at most. Those that do not match cost little.
pub const LOOKED_AT_MAX: usize = 1_000;
/// Deliveries that are read at most to count how many a new job matches.
pub const COUNTED_MAX: usize = 100_000;

/// A job and its progress.
pub struct StoredJob {
    pub job: Job,
    /// Id below which every delivery has been processed.
    pub cursor: i64,
    /// Ids from here on belong to deliveries that were created after the job.
    pub end: i64,
}

impl StoredJob {
    /// The columns of [`Self::read`], in its order.
    pub const COLUMNS: &str = "id, kind, filter, cursor, done, failed, total, state, created_at, finished_at";

    pub fn read(row: &impl Row) -> Result<Self, Error> {
        let columns = Columns::numbered("job", row)?;
        if columns.text(1, "kind")? != Job::KIND {
            return Err(columns.place.corrupt("kind"));
        }
        let filter: FilterColumn = columns.place.json("filter", columns.text(2, "filter")?)?;
        let job = Job {
            id: JobId::from_i64(columns.id()),
            filter: filter.read().ok_or_else(|| columns.place.corrupt("filter"))?,
            state: columns.word(7, "state", JobState::parse)?,
            done: columns.number(4, "done")?.unsigned_abs(),
            failed: columns.number(5, "failed")?.unsigned_abs(),
            total: columns.optional_number(6, "total")?.map(i64::unsigned_abs),
            created_at: columns.time(8, "created_at")?,
            finished_at: columns.optional_time(9, "finished_at")?,
        };
        Ok(Self { job, cursor: columns.number(3, "cursor")?, end: filter.end })
    }

    /// Advances over the next batch, of which at most [`LOOKED_AT_MAX`] deliveries were read. Returns those to retry.
    pub fn take(&mut self, found: Vec<Finished>, at: Timestamp) -> Vec<Finished> {
        let is_last = found.len() < LOOKED_AT_MAX;
        let batch = self.job.filter.batch(found, RETRIES_MAX);
        self.cursor = batch.cursor.map_or(self.cursor, |id| id.as_i64() + 1);
        self.job.failed += batch.unreadable;
        if is_last && batch.is_whole {
            self.job.end(JobState::Done, at);
        }
        batch.retries
    }
}

/// Returns the column `filter` of a new job.
pub fn filter_column(filter: &RetryFilter, end: i64) -> String {
    json(&FilterColumn::of(filter, end))
}
