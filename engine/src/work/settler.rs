//! The settler commits the results of events and runs (commit 2). Each commit takes all results that queued up during the previous
//! one and fit into one batch (`batches.rs`). A settlement that the store refuses does not delay the others: it is amended
//! (`amend.rs`) or given up.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::{
    amend,
    batches::{Batch, Batches, Blame, Step, Verdict, Writer},
};
use crate::{
    catalog::Catalog,
    clock,
    domain::{
        delivery::{DeadReason, InitialState},
        id::RunId,
        name::Slug,
        run::{Remedy, RunOutcome, RunRecord, RunState, remedy},
    },
    metrics::meters,
    news::{Feed, News, ShownLog},
    store::{
        self, ClaimId, EventSlot, PageRequest, Permit, Room, RunClaim, RunFilter, RunSlot, Settled, Settlement, Settles, Store,
        weight,
    },
};

/// Maximum number of events per second whose type is compared with all patterns. Each comparison takes at most about 1 ms.
const HINTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("it is not zero");

/// A settlement that waits for its commit. Until then, it holds its slots.
pub struct Settling {
    settlement: Settlement,
    slots: Slots,
}

/// Dropped once the settlement is committed or given up.
struct Slots {
    _held: Held,
    /// Its bytes in the budget of outcomes.
    _room: Room,
    /// Whether the store has refused this settlement, so that only the rest of it, without the results of plugins, is left.
    is_remainder: bool,
}

/// The slots that a settlement holds in the hand-off.
#[expect(dead_code, reason = "held for their drop")]
pub enum Held {
    Event(EventSlot),
    /// The batch slot becomes free when the last run of its batch is settled. So the plugin's next run reads the state that the
    /// runs of this batch have written.
    Run(RunSlot, Arc<Permit<Slug, RunClaim>>),
}

impl Settling {
    pub fn new(settlement: Settlement, held: Held, room: Room) -> Self {
        Self { settlement, slots: Slots { _held: held, _room: room, is_remainder: false } }
    }
}

pub struct Settler {
    pub store: Arc<dyn Store>,
    pub catalog: Arc<Catalog>,
    pub feed: Feed,
    /// Limits how many events per second are compared with all patterns for the live feed.
    hints: DefaultDirectRateLimiter,
}

impl Writer for Settler {
    type Item = Settling;

    fn bytes(settling: &Settling) -> usize {
        weight::settlement(&settling.settlement)
    }

    /// Settles a batch. Settlements that can be amended after a refusal are first in the next batch.
    async fn step(&mut self, batches: &mut Batches<Settling>) -> Step {
        let batch = batches.next();
        meters().settlement_batch_bytes.observe(batch.bytes() as f64);
        let mut settlements = Vec::new();
        let batch = batch.map(|Settling { settlement, slots }| {
            settlements.push(settlement);
            slots
        });
        let shared = Arc::new(settlements);
        let settled = self.store.settle(Arc::clone(&shared)).await;
        // The store drops its references before it answers. If one remained, the settlements would be copied.
        let mut settlements = Arc::try_unwrap(shared).unwrap_or_else(|shared| shared.to_vec()).into_iter();
        let batch = batch.map(|slots| {
            let settlement = settlements.next().expect("as many as before");
            Settling { settlement, slots }
        });
        let answers = match settled {
            Ok(answers) => answers,
            Err(error) => return self.take_back(batches, batch, &error),
        };
        batches.note_passed();
        let (mut done, mut dropped, mut again) = (0, 0, Vec::new());
        for (Settling { settlement, slots }, settled) in batch.into_items().zip(answers) {
            let amended = match settled {
                Settled::Done => {
                    count(&settlement);
                    self.report_routing(&settlement);
                    self.report(&settlement).await;
                    done += 1;
                    continue;
                }
                Settled::LeaseLost => {
                    tracing::debug!(event = settlement.event.id.as_i64(), "settlement of a lost claim dropped");
                    None
                }
                Settled::StateConflict(runs) => self.conflict(settlement, &runs).await,
                Settled::TooMany => Some(amend::too_many(settlement)),
                Settled::StateFull(runs) => Some(amend::state_full(settlement, &runs)),
            };
            match amended {
                Some(settlement) => again.push(with_bytes(Settling { settlement, slots })),
                None => dropped += 1,
            }
        }
        let amended = again.len();
        batches.push_first(again);
        Step::Committed { done, dropped, amended }
    }
}

impl Settler {
    pub fn new(store: Arc<dyn Store>, catalog: Arc<Catalog>, feed: Feed) -> Self {
        Self { store, catalog, feed, hints: RateLimiter::direct(Quota::per_second(HINTS_PER_SECOND)) }
    }

    /// Puts a failed batch back. If a settlement fails when it is alone, while all others pass, the results of its plugins are
    /// removed, so that the rest of the settlement takes effect.
    fn take_back(&self, batches: &mut Batches<Settling>, batch: Batch<Settling>, error: &store::Error) -> Step {
        // Logged with every retry. The store itself logs only once that it fails.
        tracing::debug!(%error, count = batch.items().count(), "batch of settlements failed; retrying");
        let Settling { settlement, slots } = match batches.take_back(batch, Blame::of(error)) {
            Verdict::GoOn => return Step::Again,
            Verdict::Pause => return Step::Pause,
            Verdict::GiveUp(refused) => refused,
        };
        let event = settlement.event.id.text(self.store.tag());
        match amend::refused(settlement, error, clock::steady()) {
            Some(settlement) if !slots.is_remainder => {
                tracing::warn!(event, %error, "results of an event's runs refused by the store; the rest of the event takes effect");
                let slots = Slots { is_remainder: true, ..slots };
                batches.push_first(vec![with_bytes(Settling { settlement, slots })]);
            }
            _ => {
                tracing::error!(event, %error, "settlement of an event refused by the store; the event is run again once its lease ends")
            }
        }
        Step::GaveUp
    }

    /// Amends a settlement whose runs lost a state conflict. A run that settles alone returns to its queue instead.
    async fn conflict(&self, settlement: Settlement, places: &[usize]) -> Option<Settlement> {
        let plugins = self.catalog.plugins();
        let now = clock::steady();
        for place in places {
            if let Some(entry) = plugins.get(&settlement.runs[*place].identity.plugin) {
                entry.pace.note_conflict(now);
            }
        }
        if let Settles::Run { id, lease, .. } = settlement.settles {
            if let Err(error) = self.store.release(vec![(ClaimId::Run(id), lease)]).await {
                tracing::warn!(%error, "run with a state conflict could not be released; it waits until its lease ends");
            }
            return None;
        }
        Some(amend::state_conflict(settlement, places, now))
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

fn with_bytes(settling: Settling) -> (Settling, usize) {
    let bytes = Settler::bytes(&settling);
    (settling, bytes)
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
