//! Quarantine: decides when a plugin is held because one of its versions has broken limits too often.

use std::{collections::VecDeque, time::Duration};

use super::{
    run::{RunOutcome, RunRecord},
    time::Timestamp,
};

/// How long a breach counts.
const SPAN: Duration = Duration::from_secs(60);

/// The breaches of one version within the last [`SPAN`].
#[derive(Debug, Default)]
pub struct Breaches(VecDeque<Timestamp>);

impl Breaches {
    /// Adds a breach, and returns whether there are more than `limit`. If so, counting starts anew. A `limit` of 0 is never
    /// exceeded.
    pub fn exceed(&mut self, now: Timestamp, limit: usize) -> bool {
        if limit == 0 {
            return false;
        }
        self.0.retain(|at| at.plus(SPAN) > now);
        self.0.push_back(now);
        let exceeds = self.0.len() > limit;
        if exceeds {
            self.0.clear();
        }
        exceeds
    }
}

/// Returns whether a run broke a limit or a rule. A failure that the plugin reports and a missing endpoint are no breaches.
pub fn is_breach(run: &RunRecord) -> bool {
    match run.outcome() {
        Some(RunOutcome::Trapped | RunOutcome::Deadline | RunOutcome::OutOfMemory) => true,
        Some(RunOutcome::BadOutput) => run.wants().is_none(),
        Some(RunOutcome::Ok | RunOutcome::Failed | RunOutcome::NotLoadable) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        name::Slug,
        run::{RunFailure, RunIdentity},
    };

    #[test]
    fn more_breaches_than_the_limit_within_a_minute_hold_a_plugin() {
        let at = |seconds: u64| Timestamp::from_millis(0).plus(Duration::from_secs(seconds));
        let mut breaches = Breaches::default();
        let mut exceed = |seconds, limit| breaches.exceed(at(seconds), limit);
        assert!(!(0..100).any(|second| exceed(second, 0)), "0 is off");
        let steady: Vec<bool> = (0..6).map(|number| exceed(100 + number * 25, 3)).collect();
        assert_eq!(steady, [false; 6], "three a minute do not exceed the limit");
        assert!([400, 401, 402].iter().all(|second| !exceed(*second, 3)));
        assert!(exceed(459, 3), "the fourth within a minute exceeds the limit");
        assert!(!exceed(460, 3), "counting starts anew");
    }

    #[test]
    fn only_broken_limits_count() {
        let identity = || RunIdentity { id: None, plugin: Slug::parse("p").unwrap(), endpoint: None, tries_before: 0 };
        let failed = |outcome| {
            let failure = RunFailure { outcome, code: "x".into(), message: String::new(), retryable: false };
            identity().parked(None, failure, None)
        };
        use RunOutcome::{BadOutput, Deadline, Failed, OutOfMemory, Trapped};
        for (outcome, counts) in [(Trapped, true), (Deadline, true), (OutOfMemory, true), (BadOutput, true), (Failed, false)] {
            assert_eq!(is_breach(&failed(outcome)), counts, "{outcome}");
        }
        let failure = RunFailure { outcome: BadOutput, code: "x".into(), message: String::new(), retryable: false };
        assert!(!is_breach(&identity().parked(None, failure, Some("crm".into()))), "its endpoint is missing");
        assert!(
            !is_breach(&identity().not_loadable("no file".into())) && !is_breach(&identity().deferred(Timestamp::from_millis(0)))
        );
    }
}
