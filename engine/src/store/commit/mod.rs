//! Group commit: the parts that both stores share. One writer takes the jobs that queued up during the last commit, runs them in
//! one transaction, and answers their callers after the commit. [`Gauge`] measures the queue. [`After`] holds the actions that
//! follow a commit.
//!
//! Invariant: no action of [`After`] happens before the commit. If an action came earlier, a woken worker would find nothing, and a
//! worker with a claim could act on a row that is then rolled back.

mod after;
mod gauge;
mod queued;

pub use self::{
    after::After,
    gauge::{Gauge, warn_of_refused_step},
    queued::Queued,
};

/// Maximum number of jobs in one transaction. This bounds how long the first job waits for its answer.
pub const JOBS_MAX: usize = 1_000;
/// Maximum weight of one transaction. The weight is about the size of the transaction in bytes.
pub const WEIGHT_MAX: usize = 8 << 20;
