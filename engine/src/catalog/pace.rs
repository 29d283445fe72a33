//! The pace of each plugin version, which decides where its runs execute.
//!
//! An event's commit waits for the plugins that run inline, so a plugin runs inline only once it has proved to be fast. Runs of a
//! new version, of a slow version, and of a version whose runs compete for the same state are deferred: each gets a row and they
//! execute one after another on threads of low priority. No other run waits for them.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::domain::{quarantine::Breaches, time::Timestamp};

/// Average processor time above which runs count as slow, because they delay others. This is ten times what a typical JavaScript
/// run takes, and a hundred times what a Rust run takes. A run that writes a flood of log lines takes longer.
const SLOW: Duration = Duration::from_millis(2);
/// After a state conflict, the plugin's runs execute one after another for this long.
const CONTENDED_FOR: Duration = Duration::from_secs(1);

/// Minimum time between two reports of a failing plugin.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// The recent pace of one plugin version.
#[derive(Debug)]
pub struct Pace {
    /// Moving average of the processor time in microseconds; recent runs count most.
    average: AtomicU64,
    /// Until this time (steady clock) the plugin's runs execute one after another.
    contended_until: AtomicI64,
    /// Until this time (steady clock) no further failure is reported.
    quiet_until: AtomicI64,
    breaches: Mutex<Breaches>,
}

impl Default for Pace {
    /// The runs of a new version are deferred until its first run was fast.
    fn default() -> Self {
        Self {
            average: AtomicU64::new(SLOW.as_micros() as u64 + 1),
            contended_until: AtomicI64::new(i64::MIN),
            quiet_until: AtomicI64::new(i64::MIN),
            breaches: Mutex::default(),
        }
    }
}

impl Pace {
    /// Records the processor time of a run.
    pub fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let average = self.average.load(Ordering::Relaxed);
        // A race between threads loses at most a sample.
        self.average.store((average / 8).saturating_mul(7).saturating_add(took / 8), Ordering::Relaxed);
    }

    /// Records a state conflict of a run.
    pub fn note_conflict(&self, now: Timestamp) {
        self.contended_until.store(now.plus(CONTENDED_FOR).millis(), Ordering::Relaxed);
    }

    /// Returns whether a failed run may be reported now. Only one failure per [`REPORT_EVERY`] is reported, because a broken
    /// plugin fails on every event.
    pub fn may_report_failure(&self, now: Timestamp) -> bool {
        let quiet_until = self.quiet_until.load(Ordering::Relaxed);
        let next = now.plus(REPORT_EVERY).millis();
        quiet_until <= now.millis()
            && self.quiet_until.compare_exchange(quiet_until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Records that a run broke a limit. Returns whether this happened more than `limit` times within a minute.
    pub fn note_breach(&self, now: Timestamp, limit: usize) -> bool {
        self.breaches.lock().expect("no code panics while it holds the breaches").exceed(now, limit)
    }

    /// Returns whether a run may execute inline with its event.
    pub fn is_fast(&self, now: Timestamp) -> bool {
        u128::from(self.average.load(Ordering::Relaxed)) <= SLOW.as_micros()
            && self.contended_until.load(Ordering::Relaxed) <= now.millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_becomes_fast_then_slow_then_fast_again() {
        let now = Timestamp::from_millis(0);
        let pace = Pace::default();
        assert!(!pace.is_fast(now), "a new version is deferred");
        pace.note(Duration::from_micros(50));
        assert!(pace.is_fast(now));
        pace.note(Duration::from_secs(1));
        assert!(!pace.is_fast(now), "one very slow run is enough");
        (0..40).for_each(|_| pace.note(Duration::from_micros(50)));
        assert!(pace.is_fast(now));
        pace.note_conflict(now);
        assert!(!pace.is_fast(now));
        assert!(pace.is_fast(now.plus(CONTENDED_FOR)));
    }
}
