//! Measures a commit queue: the amount and the age of waiting jobs, and whether commits fail.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{metrics::meters, store::Error};

/// How long the store counts as failing after a failed commit. One success does not end this time: a small write may succeed
/// although a larger write has just failed.
const FAILING_FOR: Duration = Duration::from_secs(5);

/// Measures a commit queue. Only the writer sets its values.
pub struct Gauge {
    queued: AtomicUsize,
    origin: Instant,
    /// When the first job of the current commit was queued: microseconds after the origin, or [`IDLE`](Self::IDLE).
    first: AtomicU64,
    failed: Mutex<Option<(Instant, Error)>>,
}

impl Gauge {
    const IDLE: u64 = u64::MAX;

    pub fn new() -> Self {
        Self { queued: AtomicUsize::new(0), origin: Instant::now(), first: AtomicU64::new(Self::IDLE), failed: Mutex::default() }
    }

    /// Records that a job of this weight waits.
    pub fn add(&self, weight: usize) {
        self.queued.fetch_add(weight, Ordering::Relaxed);
    }

    /// Records that a job of this weight is being committed.
    pub fn take(&self, weight: usize) {
        self.queued.fetch_sub(weight, Ordering::Relaxed);
    }

    /// Records when the first job of the current commit was queued; `None` if no job waits.
    pub fn begin(&self, queued_at: Option<Instant>) {
        let first = queued_at.map_or(Self::IDLE, |at| at.duration_since(self.origin).as_micros() as u64);
        self.first.store(first, Ordering::Relaxed);
    }

    /// Returns the bytes that wait to be written.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Returns how long the first job of the current commit has waited; zero without a job.
    pub fn waited(&self) -> Duration {
        match self.first.load(Ordering::Relaxed) {
            Self::IDLE => Duration::ZERO,
            since => self.origin.elapsed().saturating_sub(Duration::from_micros(since)),
        }
    }

    /// Records a failed commit. Logs the first failure of a series.
    pub fn failed(&self, error: &Error) {
        meters().commit_failures.inc();
        if self.last().replace((Instant::now(), error.clone())).is_none() {
            tracing::error!(%error, "store writes are failing: new events are refused, work in flight waits");
        }
    }

    /// Records a successful commit. The store counts as failing until no commit has failed for [`FAILING_FOR`].
    pub fn succeeded(&self) {
        let mut last = self.last();
        if last.as_ref().is_some_and(|(at, _)| at.elapsed() >= FAILING_FOR) {
            *last = None;
            tracing::info!("store writes succeed again");
        }
    }

    /// Returns the error of a recent failed commit.
    pub fn failure(&self) -> Option<Error> {
        self.last().as_ref().filter(|(at, _)| at.elapsed() < FAILING_FOR).map(|(_, error)| error.clone())
    }

    fn last(&self) -> MutexGuard<'_, Option<(Instant, Error)>> {
        self.failed.lock().expect("no code panics while it records a failure")
    }
}

/// Logs and counts a step that the database refused. Only that step is undone.
pub fn warn_of_refused_step(error: &Error) {
    meters().commit_failures.inc();
    tracing::warn!(%error, "database refused one step: that step is undone, the others of its transaction continue");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_commit_that_succeeds_does_not_hide_a_recent_failure() {
        let gauge = Gauge::new();
        assert!(gauge.failure().is_none());
        gauge.failed(&Error::Full);
        gauge.succeeded();
        assert!(matches!(gauge.failure(), Some(Error::Full)));
    }

    #[test]
    fn only_a_commit_under_way_waits() {
        let gauge = Gauge::new();
        gauge.add(7);
        assert_eq!((gauge.queued(), gauge.waited()), (7, Duration::ZERO));
        gauge.begin(Some(gauge.origin));
        gauge.take(7);
        assert_eq!(gauge.queued(), 0);
        assert!(gauge.waited() <= gauge.origin.elapsed());
        gauge.begin(None);
        assert_eq!(gauge.waited(), Duration::ZERO);
    }
}
