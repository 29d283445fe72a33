//! Reports what a commit has settled: counts it, logs the runs that an operator should look at, and tells the live feed.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::{
    catalog::Catalog,
    domain::{
        delivery::{DeadReason, InitialState},
        id::RunId,
        run::{Remedy, RunOutcome, RunRecord, RunState, remedy},
    },
    metrics::meters,
    news::{Feed, News, ShownLog},
    store::{PageRequest, RunFilter, Settlement, Settles, Store},
};

/// Maximum number of events per second whose type is compared with all patterns. Each comparison takes at most about 1 ms.
const HINTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("it is not zero");

/// Reports settlements after their commit.
pub struct Reports {
    store: Arc<dyn Store>,
    catalog: Arc<Catalog>,
    feed: Feed,
    /// Limits how many events per second are compared with all patterns for the live feed.
    hints: DefaultDirectRateLimiter,
}

impl Reports {
    pub fn new(store: Arc<dyn Store>, catalog: Arc<Catalog>, feed: Feed) -> Self {
        Self { store, catalog, feed, hints: RateLimiter::direct(Quota::per_second(HINTS_PER_SECOND)) }
    }

    /// Reports a settlement that took effect.
    pub async fn settled(&self, settlement: &Settlement) {
        count(settlement);
        self.report_routing(settlement);
        self.report(settlement).await;
    }

    /// Reports an event's routing to the live feed. Callers' events are reported when they are accepted.
    fn report_routing(&self, settlement: &Settlement) {
        let Settles::Event { id, round, .. } = settlement.settles else { return };
        let new = &settlement.event.new;
        let is_unrouted = is_unrouted(settlement);
        // An operational event is of interest only to its subscribers.
        if is_unrouted && new.event_type.is_ours() {
            return;
        }
        if round == 0 && new.cause.is_some() {
            let source = new.source.to_string();
            self.feed.send(|| News::Accepted { event: id, event_type: new.event_type.to_string(), source });
        }
        if is_unrouted {
            self.feed.send(|| {
                let nearest = self.hints.check().ok().and_then(|()| self.catalog.nearest_pattern(&new.event_type));
                News::Unrouted { event: id, event_type: new.event_type.to_string(), nearest }
            });
        }
    }

    /// Reports the ended runs to the log and the live feed.
    async fn report(&self, settlement: &Settlement) {
        if settlement.runs.iter().all(|run| run.outcome().is_none()) {
            return;
        }
        let event = settlement.event.id;
        // The ids of a replay's runs are computed from the number of its first run. If that number cannot be read, the replay is
        // not reported.
        let Some(first) = self.first_run(settlement).await else { return };
        let mut next = first;
        for run in &settlement.runs {
            let id = run.identity.id.unwrap_or_else(|| {
                next += 1;
                event.run(next - 1)
            });
            let Some(outcome) = run.outcome() else { continue };
            self.log(id, run, outcome);
            self.feed.send(|| News::Ran {
                run: id,
                event_type: settlement.event.new.event_type.to_string(),
                plugin: run.identity.plugin.to_string(),
                version: run.execution().map(|execution| execution.version),
                outcome,
                state: run.state(),
                message: run.failure().map(|failure| failure.message.clone()),
                backtrace: run.execution().map(|execution| Arc::clone(&execution.backtrace)).unwrap_or_default(),
                wants: run.wants().map(str::to_owned),
                took: run.execution().map_or(Duration::ZERO, |execution| execution.took),
                webhooks: run.deliveries().len(),
                emitted: run.events(),
                log: run.execution().map(|execution| ShownLog::of(&execution.log)).unwrap_or_default(),
            });
        }
    }

    /// Returns the number that the first new run of a settlement has among all runs of its event. Only the event of a replay has
    /// earlier runs. No other task adds runs to the event while the replay is settled, so the replay's runs are the last ones.
    async fn first_run(&self, settlement: &Settlement) -> Option<u32> {
        let Settles::Event { id, round: 1.., .. } = settlement.settles else { return Some(0) };
        let filter = RunFilter { event: Some(id), ..RunFilter::default() };
        let last = self.store.runs(filter, PageRequest { cursor: None, limit: 1 }).await;
        let last =
            last.inspect_err(|error| tracing::warn!(%error, "runs of a replay not reported: their ids cannot be read")).ok()?;
        let count = u32::try_from(settlement.runs.len()).ok()?;
        (last.items.first()?.id.k() + 1).checked_sub(count)
    }

    /// Logs a line for each run that an operator should look at. The reason is only in the run itself, because it may quote the
    /// event's data.
    fn log(&self, id: RunId, run: &RunRecord, outcome: RunOutcome) {
        let tag = self.store.tag();
        let (event, plugin) = (|| id.event().text(tag), &run.identity.plugin);
        let id = || id.text(tag);
        match run.state() {
            RunState::Done | RunState::Cancelled => {}
            RunState::Waiting { .. } => {
                tracing::debug!(run = id(), event = event(), %plugin, %outcome, tries = run.tries(), "run failed and is tried again");
            }
            RunState::Parked => match remedy(outcome, run.wants()) {
                Remedy::Retry => {
                    tracing::warn!(run = id(), event = event(), %plugin, %outcome, "run is parked; see innesco run show RUN, and after a fix innesco run retry RUN");
                }
                Remedy::ItsEndpoint | Remedy::ItsPlugin => {
                    tracing::warn!(run = id(), event = event(), %plugin, %outcome, "run is parked until the missing endpoint or plugin exists; see innesco run show RUN");
                }
            },
        }
    }
}

/// Returns whether no plugin and no endpoint subscribes to an event.
fn is_unrouted(settlement: &Settlement) -> bool {
    settlement.runs.is_empty() && settlement.direct.is_empty()
}

/// Counts the deliveries and events that a settlement has created.
fn count(settlement: &Settlement) {
    let meters = meters();
    let deliveries = || settlement.direct.iter().chain(settlement.runs.iter().flat_map(|run| run.deliveries()));
    meters.created.inc_by(deliveries().count() as u64);
    meters.emitted.inc_by(settlement.runs.iter().map(|run| run.events() as u64).sum());
    // An operational event usually has no subscriber, so it does not count as unrouted.
    if is_unrouted(settlement) && !settlement.event.new.event_type.is_ours() {
        meters.unrouted.inc();
    }
    let born_dead = deliveries().filter(|delivery| delivery.initial_state == InitialState::Dead).count();
    if born_dead > 0 {
        meters.dead(DeadReason::EndpointDisabled.as_str(), born_dead);
    }
}
