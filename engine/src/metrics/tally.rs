//! Counts for the statistics over time: what this process did since the counts were taken last. Unlike the metrics, they have no
//! limit of names, because only sources, plugins and endpoints with activity have counts.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use crate::domain::{
    id::{EndpointId, SourceId},
    name::Slug,
    stats::{About, Counts},
};

/// The counts that were not taken yet, by subject.
#[derive(Default)]
pub struct Tally(Mutex<HashMap<About, Counts>>);

impl Tally {
    fn counts(&self) -> MutexGuard<'_, HashMap<About, Counts>> {
        self.0.lock().expect("no code panics while it counts")
    }

    fn count(&self, about: About, count: impl Fn(&mut Counts)) {
        let mut all = self.counts();
        count(all.entry(About::Engine).or_default());
        count(all.entry(about).or_default());
    }

    /// Counts new events.
    pub fn accepted(&self, events: u64) {
        if events > 0 {
            self.counts().entry(About::Engine).or_default().accepted += events;
        }
    }

    /// Counts a request that a source accepted. Its event counts as new unless it is a duplicate.
    pub fn source_accepted(&self, source: SourceId, duplicate: bool) {
        self.counts().entry(About::Source(source)).or_default().accepted += u64::from(!duplicate);
    }

    /// Counts a request that a source refused.
    pub fn source_refused(&self, source: SourceId) {
        self.count(About::Source(source), |counts| counts.refused += 1);
    }

    /// Counts a run that has ended.
    pub fn ran(&self, plugin: &Slug, ok: bool) {
        self.count(About::Plugin(plugin.clone()), |counts| {
            counts.runs += 1;
            counts.runs_failed += u64::from(!ok);
        });
    }

    /// Counts attempt number `n` of a delivery. `latency` is the time from the event's acceptance to its delivery; `None` if the
    /// attempt did not deliver.
    pub fn attempted(&self, endpoint: EndpointId, n: u32, latency: Option<Duration>) {
        let mut all = self.counts();
        if let Some(latency) = latency {
            all.entry(About::Engine).or_default().latencies.note(latency);
        }
        for about in [About::Engine, About::Endpoint(endpoint)] {
            let counts = all.entry(about).or_default();
            match latency {
                Some(_) => {
                    counts.delivered += 1;
                    counts.first_try += u64::from(n == 1);
                }
                None => counts.attempts_failed += 1,
            }
        }
    }

    /// Takes all counts. The engine has an entry even if nothing happened: it shows that the engine ran.
    pub fn take(&self) -> Vec<(About, Counts)> {
        let mut all = mem::take(&mut *self.counts());
        all.entry(About::Engine).or_default();
        all.into_iter().collect()
    }

    /// Takes back counts that could not be stored.
    pub fn give_back(&self, counts: Vec<(About, Counts)>) {
        let mut all = self.counts();
        for (about, counts) in counts {
            all.entry(about).or_default().add(&counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_engine_and_each_subject() {
        let (tally, crm, router) = (Tally::default(), EndpointId::from_i64(1), Slug::parse("router").unwrap());
        tally.accepted(2);
        tally.ran(&router, true);
        tally.ran(&router, false);
        tally.attempted(crm, 1, None);
        tally.attempted(crm, 2, Some(Duration::from_millis(3)));
        tally.attempted(crm, 1, Some(Duration::from_millis(3)));
        tally.source_accepted(SourceId::from_i64(1), true);
        tally.source_refused(SourceId::from_i64(1));
        let taken = tally.take();
        tally.give_back(taken);
        let taken: HashMap<_, _> = tally.take().into_iter().collect();
        let engine = &taken[&About::Engine];
        let counts = [
            engine.accepted,
            engine.refused,
            engine.runs,
            engine.runs_failed,
            engine.delivered,
            engine.first_try,
            engine.attempts_failed,
        ];
        assert_eq!(counts, [2, 1, 2, 1, 2, 1, 1]);
        assert_eq!(engine.latencies.percentile(99).map(|latency| latency.as_millis()), Some(4));
        let of_crm = &taken[&About::Endpoint(crm)];
        assert_eq!((of_crm.delivered, of_crm.first_try, of_crm.attempts_failed), (2, 1, 1));
        assert_eq!((taken[&About::Plugin(router)].runs, taken[&About::Source(SourceId::from_i64(1))].refused), (2, 1));
        assert_eq!(tally.take(), [(About::Engine, Counts::default())], "nothing is taken twice");
    }
}
