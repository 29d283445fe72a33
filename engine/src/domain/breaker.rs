//! A circuit breaker: after repeated failures the engine stops sending to an endpoint for a while, and then probes it with one
//! webhook at a time. Other deliveries wait in the meantime. A delivery that waits uses up no attempt.

use std::time::Duration;

use super::time::Timestamp;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerRule {
    /// Number of consecutive failures that open the breaker; 0 means never.
    pub failures: u32,
    /// First open time; each failed probe doubles it.
    pub wait: Duration,
    /// Maximum open time between two probes.
    pub wait_max: Duration,
}

impl BreakerRule {
    pub const FAILURES_MAX: u32 = 10_000;
    pub const WAIT_LEAST: Duration = Duration::from_millis(100);
    pub const WAIT_MOST: Duration = Duration::from_secs(24 * 3600);
}

/// Twenty failures in a row do not happen by chance. Ten seconds are enough for a receiver to restart. Five minutes are the
/// maximum delay before a recovered receiver is noticed.
impl Default for BreakerRule {
    fn default() -> Self {
        Self { failures: 20, wait: Duration::from_secs(10), wait_max: Duration::from_secs(300) }
    }
}

/// State of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaker {
    /// All webhooks pass. Counts the failures in a row.
    Closed { failures: u32 },
    /// No webhook passes before `until`.
    Open { until: Timestamp, wait: Duration },
    /// One webhook at a time passes, as a probe.
    Probing { wait: Duration },
}

impl Breaker {
    pub const WORDS: [&str; 3] = ["closed", "open", "probing"];
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

/// The effect of an attempt on the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing may be sent before this time.
    Opened {
        until: Timestamp,
    },
    /// A probe failed: nothing may be sent before this time.
    StillOpen {
        until: Timestamp,
    },
    Closed,
}

impl Breaker {
    /// Records the result of an attempt. `jitter` in 0..1 spreads the wait by ±10 %.
    pub fn note(&mut self, success: bool, rule: &BreakerRule, now: Timestamp, jitter: f64) -> Option<Change> {
        match (&*self, success) {
            (Self::Closed { failures: 0 }, true) => None,
            (Self::Closed { .. }, true) => {
                *self = Self::default();
                None
            }
            // The endpoint answers again, so the breaker closes, whether it was open or probing.
            (Self::Open { .. } | Self::Probing { .. }, true) => {
                *self = Self::default();
                Some(Change::Closed)
            }
            // This webhook was sent before the breaker opened, so its failure is not new.
            (Self::Open { .. }, false) => None,
            (Self::Probing { wait }, false) => {
                let wait = (*wait * 2).min(rule.wait_max);
                let until = self.open(wait, now, jitter);
                Some(Change::StillOpen { until })
            }
            (Self::Closed { failures }, false) => {
                let failures = failures.saturating_add(1);
                if rule.failures > 0 && failures >= rule.failures {
                    let until = self.open(rule.wait, now, jitter);
                    return Some(Change::Opened { until });
                }
                *self = Self::Closed { failures };
                None
            }
        }
    }

    fn open(&mut self, wait: Duration, now: Timestamp, jitter: f64) -> Timestamp {
        let until = now.plus(wait.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0)));
        *self = Self::Open { until, wait };
        until
    }

    /// Starts probing if the breaker was open long enough. Returns whether probing has just started.
    pub fn probe(&mut self, now: Timestamp) -> bool {
        match *self {
            Self::Open { until, wait } if until <= now => {
                *self = Self::Probing { wait };
                true
            }
            _ => false,
        }
    }

    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed",
            Self::Open { .. } => "open",
            Self::Probing { .. } => "probing",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: BreakerRule = BreakerRule { failures: 3, wait: Duration::from_secs(10), wait_max: Duration::from_secs(40) };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn a_breaker_opens_probes_backs_off_and_closes() {
        let mut breaker = Breaker::default();
        // Takes whether an attempt succeeded, and its time. Returns the effect on the breaker.
        let mut note = |success, now| breaker.note(success, &RULE, at(now), 0.5);
        assert_eq!(note(false, 0), None);
        assert_eq!(note(true, 0), None, "a success resets the count");
        assert_eq!([note(false, 1), note(false, 1)], [None; 2]);
        assert_eq!(note(false, 2), Some(Change::Opened { until: at(12) }));
        assert_eq!(note(false, 3), None, "an attempt in flight changes nothing");
        assert!(!breaker.probe(at(11)));
        assert!(breaker.probe(at(12)));
        assert_eq!(breaker.note(false, &RULE, at(13), 0.5), Some(Change::StillOpen { until: at(33) }), "the wait doubles");
        assert!(breaker.probe(at(33)));
        assert_eq!(breaker.note(false, &RULE, at(33), 0.5), Some(Change::StillOpen { until: at(73) }));
        assert!(breaker.probe(at(73)));
        assert_eq!(
            breaker.note(false, &RULE, at(73), 0.5),
            Some(Change::StillOpen { until: at(113) }),
            "a wait never exceeds the maximum"
        );
        assert!(breaker.probe(at(113)));
        assert_eq!(breaker.note(true, &RULE, at(114), 0.5), Some(Change::Closed));
        assert_eq!(breaker, Breaker::Closed { failures: 0 });
    }

    #[test]
    fn a_rule_without_failures_never_opens() {
        let rule = BreakerRule { failures: 0, ..RULE };
        let mut breaker = Breaker::default();
        assert!((0..10_000).all(|now| breaker.note(false, &rule, at(now), 0.5).is_none()));
    }

    proptest! {
        /// For any sequence of attempts, the breaker is never open longer than the maximum, and a success always closes it.
        #[test]
        fn a_breaker_opens_only_for_a_limited_time(steps in prop::collection::vec((any::<bool>(), 0i64..100, 0.0f64..1.0), 1..200)) {
            let (mut breaker, mut now) = (Breaker::default(), at(0));
            for (success, seconds, jitter) in steps {
                now = now.plus(Duration::from_secs(seconds.unsigned_abs()));
                breaker.probe(now);
                let change = breaker.note(success, &RULE, now, jitter);
                if success {
                    prop_assert_eq!(breaker, Breaker::Closed { failures: 0 });
                }
                if let Some(Change::Opened { until } | Change::StillOpen { until }) = change {
                    prop_assert!(until > now && until <= now.plus(RULE.wait_max.mul_f64(1.1)));
                }
            }
        }
    }
}
