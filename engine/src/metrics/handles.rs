//! Handles of metrics with a label: created once per name, held by their users, and bounded in number.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, RwLock},
    time::Duration,
};

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::OTHER;
use crate::domain::{delivery::AttemptOutcome, run::RunOutcome};

/// Maximum length of a plain name. A longer source does not become a label.
const SOURCE_LEN_MAX: usize = 64;

/// The metrics of one plugin.
pub struct PluginMeters {
    pub(super) runs: [IntCounter; RunOutcome::ALL.len()],
    pub(super) seconds: Histogram,
    pub(super) memory: Histogram,
}

impl PluginMeters {
    /// Counts a run. The duration of a run that did not start, because its plugin does not load, is not counted.
    pub fn ran(&self, outcome: RunOutcome, took: Duration, memory_peak: u64) {
        self.runs[outcome as usize].inc();
        if outcome != RunOutcome::NotLoadable {
            self.seconds.observe(took.as_secs_f64());
            self.memory.observe(memory_peak as f64);
        }
    }
}

/// Outcomes of an attempt, as metrics distinguish them.
const ATTEMPT_OUTCOMES: [&str; 12] = [
    "1xx",
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "timed-out",
    "refused",
    "reset",
    "unreachable",
    "name-not-found",
    "blocked",
    "tls-failed",
];

/// The metrics of one endpoint.
pub struct EndpointMeters {
    pub(super) name: String,
    pub(super) attempts: IntCounterVec,
    /// Counters by outcome. Each is created when it is first needed, because most endpoints only answer 2xx.
    pub(super) by_outcome: [OnceLock<IntCounter>; ATTEMPT_OUTCOMES.len()],
    /// 1 while its breaker is open.
    pub breaker_open: IntGauge,
}

impl EndpointMeters {
    /// Counts an attempt.
    pub fn attempted(&self, outcome: AttemptOutcome) {
        let place = outcome_place(outcome);
        let counter =
            self.by_outcome[place].get_or_init(|| self.attempts.with_label_values(&[&*self.name, ATTEMPT_OUTCOMES[place]]));
        counter.inc();
    }
}

fn outcome_place(outcome: AttemptOutcome) -> usize {
    match outcome {
        AttemptOutcome::Answered { status } | AttemptOutcome::BodyTooLarge { status } => {
            usize::from((status / 100).clamp(1, 5)) - 1
        }
        AttemptOutcome::TimedOut => 5,
        AttemptOutcome::Refused => 6,
        AttemptOutcome::Reset => 7,
        AttemptOutcome::Unreachable => 8,
        AttemptOutcome::NameNotFound => 9,
        AttemptOutcome::Blocked => 10,
        AttemptOutcome::TlsFailed => 11,
    }
}

/// Handles by name, up to a limit. All further names share one handle.
pub(super) struct Family<T> {
    most: usize,
    make: Box<dyn Fn(&str) -> T + Send + Sync>,
    made: RwLock<HashMap<Box<str>, Arc<T>>>,
}

impl<T> Family<T> {
    pub(super) fn new(most: usize, make: impl Fn(&str) -> T + Send + Sync + 'static) -> Self {
        Self { most, make: Box::new(make), made: RwLock::default() }
    }

    pub(super) fn get(&self, name: &str) -> Arc<T> {
        {
            let made = self.made.read().expect("no code panics while it makes a handle");
            let full = made.len() >= self.most;
            if let Some(handle) = made.get(name).or_else(|| if full { made.get(OTHER) } else { None }) {
                return Arc::clone(handle);
            }
        }
        let mut made = self.made.write().expect("no code panics while it makes a handle");
        let name = if made.len() < self.most { name } else { OTHER };
        Arc::clone(made.entry(name.into()).or_insert_with(|| Arc::new((self.make)(name))))
    }
}

/// Returns whether a source is a plain name that may be shown: CloudEvents allows any URI, which can contain anything.
pub(super) fn is_plain(source: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_./".contains(&c);
    source.len() <= SOURCE_LEN_MAX && source.bytes().all(plain) && !source.contains("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_become_labels() {
        for (source, plain) in [
            ("shop", true),
            ("plugin/ledger", true),
            ("eu.shop_1-a", true),
            ("https://shop.example/?token=1", false),
            ("//shop", false),
            ("a b", false),
            ("a?b=c", false),
            ("user@shop", false),
            ("ünïcode", false),
            (&"x".repeat(SOURCE_LEN_MAX + 1), false),
        ] {
            assert_eq!(is_plain(source), plain, "{source}");
        }
    }

    #[test]
    fn names_beyond_the_limit_share_one_handle() {
        let family = Family::new(2, str::to_owned);
        assert_eq!([&**family.get("a"), &**family.get("b"), &**family.get("c"), &**family.get("d")], ["a", "b", OTHER, OTHER]);
        assert_eq!((&**family.get("a"), &**family.get("b")), ("a", "b"), "the first names keep their handles");
        assert!(Arc::ptr_eq(&family.get("c"), &family.get("e")));
    }

    #[test]
    fn every_outcome_has_a_counter() {
        let places = [
            (AttemptOutcome::Answered { status: 204 }, "2xx"),
            (AttemptOutcome::Answered { status: 101 }, "1xx"),
            (AttemptOutcome::Answered { status: 999 }, "5xx"),
            (AttemptOutcome::BodyTooLarge { status: 200 }, "2xx"),
            (AttemptOutcome::TimedOut, "timed-out"),
            (AttemptOutcome::Refused, "refused"),
            (AttemptOutcome::Reset, "reset"),
            (AttemptOutcome::Unreachable, "unreachable"),
            (AttemptOutcome::NameNotFound, "name-not-found"),
            (AttemptOutcome::Blocked, "blocked"),
            (AttemptOutcome::TlsFailed, "tls-failed"),
        ];
        for (outcome, word) in places {
            assert_eq!(ATTEMPT_OUTCOMES[outcome_place(outcome)], word);
            assert!(outcome.status().is_some() || outcome.as_str() == word, "the metric uses the word of the outcome");
        }
        for (place, outcome) in RunOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place, "the counters are in the order of the outcomes");
        }
    }
}
