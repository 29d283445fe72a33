//! Scheduled events, which take place later. A settlement (commit 2) stores them together with the run that requested them. When a
//! scheduled event is due, a step turns it into an event that waits to be run, so the plugins and endpoints of that time receive
//! it. This event gets a new id, so lists, retention and readers that follow runs treat it as newer than all earlier events.
//!
//! Due times are on the wall clock, because users plan with it, and because it does not stop with the engine.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::Error;
use crate::{
    clock,
    domain::{event::NewEvent, id::ScheduledId, run::RunRecord, time::Timestamp},
};

/// Accepts scheduled events when they are due.
#[async_trait]
pub trait Schedule {
    /// Returns when the next scheduled event is due (wall clock); `None` if none waits.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn next_scheduled(&self) -> Result<Option<Timestamp>, Error>;

    /// Accepts one batch of the scheduled events that are due at `at` (wall clock), in the order of their due times. All of them
    /// become events, and are no longer scheduled, in one transaction. Returns the number of events; 0 means that none was due.
    ///
    /// # Errors
    /// If the commit failed: nothing changed.
    async fn accept_scheduled(&self, at: Timestamp) -> Result<usize, Error>;
}

/// A scheduled event as an event's history shows it.
#[derive(Clone, Debug)]
pub struct ScheduledEvent {
    pub id: ScheduledId,
    /// When the event takes place (wall clock).
    pub due_at: Timestamp,
    /// When the event was cancelled; `None` if it waits.
    pub cancelled_at: Option<Timestamp>,
    /// The event, without its data.
    pub event: NewEvent,
}

/// Upper bounds of how many events of each plugin are due later. Counting 100,000 rows takes about 10 ms, too long for each commit
/// that schedules an event. So the store counts only if a bound leaves no room for the new events, or is too old.
///
/// Events that took place, were cancelled, or whose commit failed only make a bound higher than the number. Only another node can
/// make it lower, so a bound of nodes is too old after [`SHARED_FOR`].
#[derive(Default)]
pub struct ScheduledBounds(Mutex<HashMap<String, Bound>>);

/// After this time, a node counts again what all nodes have scheduled.
pub const SHARED_FOR: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Bound {
    count: u64,
    /// When the rows were counted (steady clock).
    counted_at: Timestamp,
}

impl ScheduledBounds {
    /// Divides the plugins that schedule events in these runs: those with a bound that leaves room within `limit`, with their
    /// bounds, and those whose events are to be counted. `valid_for` is how long a bound stays valid; `None` is forever.
    pub fn known<'a>(
        &self,
        runs: impl IntoIterator<Item = &'a RunRecord>,
        limit: u64,
        valid_for: Option<Duration>,
    ) -> (HashMap<String, u64>, Vec<&'a str>) {
        let mut adds = BTreeMap::<&str, u64>::new();
        for run in runs.into_iter().filter(|run| !run.scheduled().is_empty()) {
            *adds.entry(&*run.identity.plugin).or_default() += run.scheduled().len() as u64;
        }
        if adds.is_empty() {
            return (HashMap::new(), Vec::new());
        }
        let (bounds, now) = (self.0.lock().unwrap_or_else(PoisonError::into_inner), clock::steady());
        let (mut known, mut unknown) = (HashMap::new(), Vec::new());
        for (plugin, adds) in adds {
            let is_valid = |bound: &&Bound| {
                bound.count + adds <= limit && valid_for.is_none_or(|valid_for| now.since(bound.counted_at) < valid_for)
            };
            match bounds.get(plugin).filter(is_valid) {
                Some(bound) => drop(known.insert(plugin.to_owned(), bound.count)),
                None => unknown.push(plugin),
            }
        }
        (known, unknown)
    }

    /// Stores the numbers that were counted.
    pub fn counted<'a>(&self, counts: impl IntoIterator<Item = (&'a str, u64)>) {
        let (mut bounds, now) = (self.0.lock().unwrap_or_else(PoisonError::into_inner), clock::steady());
        bounds.extend(counts.into_iter().map(|(plugin, count)| (plugin.to_owned(), Bound { count, counted_at: now })));
    }

    /// Raises the bounds to the numbers after a commit. Called before the commit, so a bound is never below the number.
    pub fn raise(&self, counts: &HashMap<String, u64>) {
        if counts.is_empty() {
            return;
        }
        let mut bounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (plugin, count) in counts {
            if let Some(bound) = bounds.get_mut(plugin) {
                bound.count = bound.count.max(*count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::run::{Effects, Scheduled},
        store::conformance::bench::{event, ran, ran_with},
    };

    const LIMIT: u64 = 10;

    fn schedules(plugin: &str, count: usize) -> RunRecord {
        let scheduled = (0..count).map(|_| Scheduled { after: Duration::from_secs(60), event: event("later") }).collect();
        ran_with(plugin, Effects { scheduled, ..Effects::default() })
    }

    #[test]
    fn counts_only_without_a_bound_that_leaves_room() {
        let bounds = ScheduledBounds::default();
        let known = |runs: &[RunRecord]| {
            let (known, unknown) = bounds.known(runs, LIMIT, None);
            (known.get("p").copied(), unknown.contains(&"p"))
        };
        assert_eq!(known(&[ran("p")]), (None, false), "a run that schedules nothing needs no number");
        assert_eq!(known(&[schedules("p", 1)]), (None, true), "not counted yet");
        bounds.counted([("p", 4)]);
        assert_eq!(known(&[schedules("p", 2), schedules("p", 4)]), (Some(4), false), "exactly at the limit");
        assert_eq!(known(&[schedules("p", 3), schedules("p", 4)]), (None, true), "all runs of a commit count");
        bounds.raise(&HashMap::from([("p".to_owned(), 9)]));
        bounds.raise(&HashMap::from([("p".to_owned(), 7), ("q".to_owned(), 7)]));
        assert_eq!(known(&[schedules("p", 1), schedules("q", 1)]), (Some(9), false), "a bound is only lowered by a count");
        assert_eq!(known(&[schedules("p", 2)]), (None, true));
        bounds.counted([("p", 1)]);
        assert_eq!(known(&[schedules("p", 2)]), (Some(1), false));
        let runs = [schedules("p", 2)];
        let (_, unknown) = bounds.known(&runs, LIMIT, Some(Duration::ZERO));
        assert_eq!(unknown, ["p"], "a bound of several nodes becomes too old");
    }
}
