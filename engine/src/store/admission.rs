//! Admission: decides when a store accepts no further events, so that accepted events keep moving.
//!
//! Only callers from outside are refused. Events that the engine itself produces are never refused, because they would be lost.
//! Three limits apply: the number of events that wait to be run, the bytes that wait to be written, and the time that a write
//! waits for its commit. Deliveries waiting for receivers do not count: a dead receiver must not block new events. The store
//! counts the backlog again when callers arrive, at most twice a second. Therefore no counter has to stay exact across rollbacks.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{Error, StateLimits};
use crate::domain::time::Timestamp;

/// Bytes that may wait to be written.
const QUEUED_MAX: usize = 64 << 20;
/// Age from which a count of the backlog is outdated.
const COUNTED_FOR: Duration = Duration::from_millis(500);

/// Limits beyond which a store refuses new events, and new state of a plugin.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionLimits {
    /// Events that may wait to be run. Default: a million.
    pub backlog_max: usize,
    /// Longest time that the oldest queued write may wait for its commit. Default: 2 s.
    pub store_wait_max: Duration,
    /// Limits of the state that each plugin may store.
    pub state: StateLimits,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self { backlog_max: 1_000_000, store_wait_max: Duration::from_secs(2), state: StateLimits::default() }
    }
}

/// Why new events are refused at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    Queued,
    StoreWait { limit: Duration },
    Backlog { limit: usize },
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queued => write!(f, "more than {} MiB wait to be written", QUEUED_MAX >> 20),
            Self::StoreWait { limit } => {
                write!(f, "the store has not committed for more than {} ms (limits.store_wait_max)", limit.as_millis())
            }
            Self::Backlog { limit } => write!(f, "more than {limit} events wait to be run (limits.backlog_max)"),
        }
    }
}

/// Decides from the last counts whether new events are accepted.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    backlog: AtomicUsize,
    /// Time of the last count of the backlog (steady clock, ms).
    counted_at: AtomicI64,
}

impl Admission {
    pub fn new(limits: AdmissionLimits) -> Self {
        Self { limits, backlog: AtomicUsize::new(0), counted_at: AtomicI64::new(i64::MIN) }
    }

    /// Counts the backlog with `count` in a separate task if the last count is outdated. If counting fails, the last count is used,
    /// because the caller's own write will report that the store fails.
    pub fn keep_counted(self: &Arc<Self>, now: Timestamp, count: impl Future<Output = Result<usize, Error>> + Send + 'static) {
        if self.is_old(now) {
            let admission = Arc::clone(self);
            tokio::spawn(async move {
                if let Ok(count) = count.await {
                    admission.note_backlog(count);
                }
            });
        }
    }

    /// Returns whether the caller must count the backlog now. Of many concurrent callers, one gets `true`.
    fn is_old(&self, now: Timestamp) -> bool {
        let last = self.counted_at.load(Ordering::Relaxed);
        let is_old = last == i64::MIN || now.since(Timestamp::from_millis(last)) >= COUNTED_FOR;
        is_old && self.counted_at.compare_exchange(last, now.millis(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Sets the number of events that wait to be run.
    fn note_backlog(&self, count: usize) {
        self.backlog.store(count, Ordering::Relaxed);
    }

    /// Refuses new events if a limit is exceeded. `queued` is the number of bytes that wait to be written, and `waited` is how long
    /// the oldest queued write has waited.
    pub fn check(&self, queued: usize, waited: Duration) -> Result<(), Overload> {
        let AdmissionLimits { backlog_max, store_wait_max, state: _ } = self.limits;
        if queued > QUEUED_MAX {
            return Err(Overload::Queued);
        }
        if waited > store_wait_max {
            return Err(Overload::StoreWait { limit: store_wait_max });
        }
        if self.backlog.load(Ordering::Relaxed) > backlog_max {
            return Err(Overload::Backlog { limit: backlog_max });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_refuses_only_what_exceeds_it_and_names_itself() {
        let limits =
            AdmissionLimits { backlog_max: 10, store_wait_max: Duration::from_millis(200), ..AdmissionLimits::default() };
        let admission = Admission::new(limits);
        assert_eq!(admission.check(QUEUED_MAX, limits.store_wait_max), Ok(()));
        assert_eq!(admission.check(QUEUED_MAX + 1, Duration::ZERO), Err(Overload::Queued));
        let slow = admission.check(0, Duration::from_millis(201)).unwrap_err();
        assert_eq!(slow.to_string(), "the store has not committed for more than 200 ms (limits.store_wait_max)");
        admission.note_backlog(10);
        assert_eq!(admission.check(0, Duration::ZERO), Ok(()));
        admission.note_backlog(11);
        let behind = admission.check(0, Duration::ZERO).unwrap_err();
        assert_eq!(behind.to_string(), "more than 10 events wait to be run (limits.backlog_max)");
        admission.note_backlog(0);
        assert_eq!(admission.check(0, Duration::ZERO), Ok(()), "it recovers");
    }

    #[test]
    fn one_of_many_callers_counts_at_most_twice_a_second() {
        let admission = Admission::new(AdmissionLimits::default());
        let now = Timestamp::from_millis(-5);
        assert!(admission.is_old(now));
        assert!(!admission.is_old(now));
        assert!(!admission.is_old(now.plus(COUNTED_FOR - Duration::from_millis(1))));
        assert!(admission.is_old(now.plus(COUNTED_FOR)));
    }
}
