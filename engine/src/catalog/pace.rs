//! How fast a plugin version runs, and so where its runs belong.
//!
//! An event's commit waits for the plugins that run with it, so only plugins that have proved fast do. A new version starts set
//! apart, a slow one is put there, and one whose runs compete for the same state as well: their runs get rows of their own, and
//! go one after another on threads of low priority. Nobody else ever waits for them.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use crate::domain::time::Timestamp;

/// A run that uses more processor time on average than this holds others up. Ten times what a run of JavaScript takes, a hundred times what one
/// of Rust does; a flood of log lines takes more.
const SLOW: Duration = Duration::from_millis(2);
/// How long after the last lost race for its state a plugin's runs go one after another.
const CONTENDED_FOR: Duration = Duration::from_secs(1);

/// How often a plugin that fails is told of.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The recent pace of one plugin version.
#[derive(Debug)]
pub struct Pace {
    /// A moving average in microseconds; recent runs count most.
    average: AtomicU64,
    /// Until when (steady clock) runs of this plugin go one after another.
    contended_until: AtomicI64,
    /// Before which (steady clock) no further failure is told of.
    quiet_until: AtomicI64,
}

impl Default for Pace {
    /// Set apart until a first run has been fast.
    fn default() -> Self {
        Self {
            average: AtomicU64::new(SLOW.as_micros() as u64 + 1),
            contended_until: AtomicI64::new(i64::MIN),
            quiet_until: AtomicI64::new(i64::MIN),
        }
    }
}

impl Pace {
    /// A run used this much processor time.
    pub fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let average = self.average.load(Ordering::Relaxed);
        // Races between threads lose a sample at most.
        self.average.store((average / 8).saturating_mul(7).saturating_add(took / 8), Ordering::Relaxed);
    }

    /// A run lost a race for the plugin's state.
    pub fn note_conflict(&self, now: Timestamp) {
        self.contended_until.store(now.plus(CONTENDED_FOR).millis(), Ordering::Relaxed);
    }

    /// Whether a failed run is to be told of: one in a while, since a broken plugin fails on every event.
    pub fn tells_failure(&self, now: Timestamp) -> bool {
        let quiet_until = self.quiet_until.load(Ordering::Relaxed);
        let next = now.plus(TOLD_EVERY).millis();
        quiet_until <= now.millis()
            && self.quiet_until.compare_exchange(quiet_until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether a run may hold up its event.
    pub fn is_fast(&self, now: Timestamp) -> bool {
        u128::from(self.average.load(Ordering::Relaxed)) <= SLOW.as_micros()
            && self.contended_until.load(Ordering::Relaxed) <= now.millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_proves_itself_falls_back_and_recovers() {
        let now = Timestamp::from_millis(0);
        let pace = Pace::default();
        assert!(!pace.is_fast(now), "a new version is set apart");
        pace.note(Duration::from_micros(50));
        assert!(pace.is_fast(now));
        pace.note(Duration::from_secs(1));
        assert!(!pace.is_fast(now), "one runaway is enough");
        (0..40).for_each(|_| pace.note(Duration::from_micros(50)));
        assert!(pace.is_fast(now));
        pace.note_conflict(now);
        assert!(!pace.is_fast(now));
        assert!(pace.is_fast(now.plus(CONTENDED_FOR)));
    }
}
