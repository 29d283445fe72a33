//! Jobs as they are stored: a row with a filter, a cursor and an end, walked in batches.

use async_trait::async_trait;

use super::{Error, Page, PageRequest};
use crate::domain::{
    id::JobId,
    job::{Job, JobState, RetryFilter},
    time::Timestamp,
};

/// Stores jobs and works on them.
#[async_trait]
pub trait Jobs {
    /// Creates a job that sends again the deliveries that match a filter and exist now, and wakes the job worker.
    ///
    /// # Errors
    /// [`Error::Conflict`] if too many jobs are running ([`JOBS_RUNNING_MAX`](crate::domain::job::JOBS_RUNNING_MAX)), or if the filter
    /// names an endpoint that is disabled or deleted.
    async fn create_job(&self, filter: RetryFilter, at: Timestamp) -> Result<Job, Error>;

    /// Works on one batch of a running job. Each delivery of the batch is taken up exactly once, whenever the process ends. A job that is
    /// not running is left as it is. `now` is the steady clock, `at` the wall clock.
    ///
    /// # Errors
    /// [`Error::NotFound`]; if the commit failed, the batch is done again.
    async fn advance_job(&self, id: JobId, now: Timestamp, at: Timestamp) -> Result<Job, Error>;

    /// Cancels a running job. Deliveries that it made due stay due.
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
