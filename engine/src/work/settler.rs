//! The settler: commits what came of events and runs, as many at a time as queued up during the last commit and as one batch holds
//! (`batches.rs`). One settlement that the store refuses holds up no other.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc::UnboundedReceiver;

use super::batches::{Batch, Batches, Blame, Verdict};
use crate::{
    catalog::Catalog,
    clock,
    domain::{
        delivery::DeadReason,
        name::Slug,
        run::{RunFailure, RunLog, RunOutcome, RunState, StateUse},
        time::Timestamp,
    },
    metrics::meters,
    news::{Feed, News},
    store::{
        self, Birth, EventSlot, Room, RunClaim, RunRecord, RunSlot, Settled, Settlement, Settles, StateFull, Store, Turn, weight,
    },
};

/// How long to wait when the store fails, before trying again.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// A settlement on its way, with the places that it holds until it is committed.
pub struct Settling {
    pub settlement: Settlement,
    pub held: Held,
    /// Its bytes in the budget of outcomes.
    pub room: Room,
}

/// Given back when the settlement is done with.
#[expect(dead_code, reason = "held for their drop")]
pub enum Held {
    Event(EventSlot),
    /// The turn ends with the last of its runs: the plugin's next run then reads what these have written.
    Run(RunSlot, Arc<Turn<Slug, RunClaim>>),
}

pub struct Settler {
    pub store: Arc<dyn Store>,
    pub catalog: Arc<Catalog>,
    pub feed: Feed,
}

/// A settlement that waits for its batch.
struct Waiting {
    settlement: Settlement,
    places: Places,
    /// It was refused as it was, and this is what could be kept of it.
    is_remainder: bool,
}

type Places = (Held, Room);

impl Settler {
    /// Runs until every sender is gone and everything is settled.
    pub async fn run(self, mut queue: UnboundedReceiver<Settling>) {
        let mut batches = Batches::default();
        loop {
            if batches.is_empty() {
                let Some(first) = queue.recv().await else { return };
                push(&mut batches, first);
            }
            while let Ok(settling) = queue.try_recv() {
                push(&mut batches, settling);
            }
            self.step(&mut batches).await;
        }
    }

    /// Settles a batch. What was refused for a reason that can be mended is mended and goes first in the next.
    async fn step(&self, batches: &mut Batches<Waiting>) {
        let batch = batches.next();
        meters().settlement_batch_bytes.observe(batch.bytes() as f64);
        let mut settlements = Vec::new();
        let batch = batch.map(|Waiting { settlement, places, is_remainder }| {
            settlements.push(settlement);
            (places, is_remainder)
        });
        let shared = Arc::new(settlements);
        let settled = self.store.settle(Arc::clone(&shared)).await;
        // The store lets go of them before it answers; if one did not, a copy would do.
        let mut settlements = Arc::try_unwrap(shared).unwrap_or_else(|shared| shared.to_vec()).into_iter();
        let batch = batch.map(|(places, is_remainder)| {
            let settlement = settlements.next().expect("as many as before");
            Waiting { settlement, places, is_remainder }
        });
        let answers = match settled {
            Ok(answers) => answers,
            Err(error) => return self.take_back(batches, batch, &error).await,
        };
        batches.note_passed();
        let mut again = Vec::new();
        for (Waiting { settlement, places, is_remainder }, settled) in batch.into_things().zip(answers) {
            let mended = match settled {
                Settled::Done => {
                    count(&settlement);
                    self.tell(&settlement);
                    None
                }
                Settled::LeaseLost => {
                    tracing::debug!(event = settlement.event.id.as_i64(), "a lost claim was not settled");
                    None
                }
                Settled::StateConflict(runs) => self.mend_conflict(settlement, &runs).await,
                Settled::TooMany => Some(mend_too_many(settlement)),
                Settled::StateFull(runs) => Some(mend_state_full(settlement, &runs)),
            };
            if let Some(settlement) = mended {
                let bytes = weight::settlement(&settlement);
                again.push((Waiting { settlement, places, is_remainder }, bytes));
            }
        }
        batches.push_first(again);
    }

    /// What the store did not take is tried again. Something that fails alone while the store takes everything else is not tried for ever:
    /// what could be at fault is taken out of it, and the rest takes effect.
    async fn take_back(&self, batches: &mut Batches<Waiting>, batch: Batch<Waiting>, error: &store::Error) {
        // The store has said once that it fails; this is said as often as it is tried.
        tracing::debug!(%error, count = batch.things().count(), "runs could not be settled; trying again");
        let refused = match batches.take_back(batch, Blame::of(error)) {
            Verdict::GoOn => return,
            Verdict::Pause => return tokio::time::sleep(AFTER_FAILURE).await,
            Verdict::GiveUp(refused) => refused,
        };
        let event = refused.settlement.event.id.text(self.store.tag());
        match mend_refused(&refused.settlement, error, clock::steady()) {
            Some(settlement) if !refused.is_remainder => {
                tracing::warn!(event, %error, "the store refuses what an event's runs returned; the rest of it takes effect");
                let bytes = weight::settlement(&settlement);
                batches.push_first(vec![(Waiting { settlement, is_remainder: true, ..refused }, bytes)]);
            }
            _ => {
                tracing::error!(event, %error, "the store refuses an event's settlement; it is run again once its lease has ended")
            }
        }
    }

    /// The runs of an event that lost a race for their plugin's state are set apart, to run again from fresh reads, one after
    /// another; the rest of the event takes effect now. A run that was apart already goes back to its queue.
    async fn mend_conflict(&self, mut settlement: Settlement, places: &[usize]) -> Option<Settlement> {
        let plugins = self.catalog.plugins();
        let now = clock::steady();
        for place in places {
            if let Some(entry) = plugins.get(&settlement.runs[*place].plugin) {
                entry.pace.note_conflict(now);
            }
        }
        if let Settles::Run { id, lease, .. } = settlement.settles {
            if let Err(error) = self.store.release(vec![], vec![(id, lease)], vec![]).await {
                tracing::warn!(%error, "a run that lost a race could not be given back; it waits for its lease to end");
            }
            return None;
        }
        for place in places {
            set_apart(&mut settlement.runs[*place], now);
        }
        Some(settlement)
    }

    fn tell(&self, settlement: &Settlement) {
        for run in &settlement.runs {
            let Some(outcome) = run.outcome else { continue };
            self.log(settlement, run, outcome);
            self.feed.tell(|| News::Ran {
                event: settlement.event.id,
                plugin: run.plugin.to_string(),
                version: run.version,
                outcome,
                state: run.state,
                message: run.failure.as_ref().map(|failure| failure.message.clone()),
                took: run.took,
                webhooks: run.deliveries.len(),
                emitted: run.emitted.len(),
            });
        }
    }
}

impl Settler {
    /// One line for each run that somebody should look at: what it said and why is in the event's story, since it may hold what the
    /// event held. A run that is tried again by itself needs nobody.
    fn log(&self, settlement: &Settlement, run: &RunRecord, outcome: RunOutcome) {
        let event = || settlement.event.id.text(self.store.tag());
        match run.state {
            RunState::Done => {}
            RunState::Waiting { .. } => {
                tracing::debug!(event = event(), plugin = %run.plugin, %outcome, tries = run.tries, "run failed and is tried again");
            }
            RunState::Parked => {
                tracing::warn!(event = event(), plugin = %run.plugin, %outcome, "run is parked; innesco event show EVENT says why");
            }
        }
    }
}

fn push(batches: &mut Batches<Waiting>, Settling { settlement, held, room }: Settling) {
    let bytes = weight::settlement(&settlement);
    batches.push(Waiting { settlement, places: (held, room), is_remainder: false }, bytes);
}

/// Counts what has come into being.
fn count(settlement: &Settlement) {
    let meters = meters();
    let deliveries = || settlement.direct.iter().chain(settlement.runs.iter().flat_map(|run| &run.deliveries));
    meters.created.inc_by(deliveries().count() as u64);
    meters.emitted.inc_by(settlement.runs.iter().map(|run| run.emitted.len() as u64).sum());
    // Hardly anybody subscribes to the engine's own news, and that is as it should be.
    let ours = settlement.event.new.event_type.is_ours();
    if settlement.runs.is_empty() && settlement.direct.is_empty() && !ours {
        meters.unrouted.inc();
    }
    let born_dead = deliveries().filter(|delivery| delivery.birth == Birth::Dead).count();
    if born_dead > 0 {
        meters.dead(DeadReason::EndpointDisabled.as_str(), born_dead);
    }
}

/// An event that would have more children than an event can have: its runs that ask for webhooks are parked. If it is too many even
/// so (a replay too much, with thousands of subscribers), this round sends nothing.
fn mend_too_many(mut settlement: Settlement) -> Settlement {
    if settlement.runs.iter().all(|run| run.deliveries.is_empty()) {
        let event = settlement.event.id.as_i64();
        tracing::error!(event, "an event has had as many webhooks as an event can have; this replay sends none");
        settlement.direct.clear();
        settlement.runs.clear();
        return settlement;
    }
    let message = format!("the event would have more than {} webhooks over all its runs", crate::domain::id::CHILDREN_MAX);
    for run in settlement.runs.iter_mut().filter(|run| !run.deliveries.is_empty()) {
        park(run, "too_many_webhooks", message.clone());
    }
    settlement
}

/// Parks the runs that would have their plugin keep too much state, with what cures it; the rest of the event takes effect.
fn mend_state_full(mut settlement: Settlement, full: &[(usize, StateFull)]) -> Settlement {
    for (place, full) in full {
        let run = &mut settlement.runs[*place];
        let plugin = &run.plugin;
        let message = format!(
            "plugin {plugin} would keep {full}; have it delete what it no longer needs, raise the limit, or clear its state with \
             `innesco plugin state clear {plugin}`, then `innesco event replay EVENT`"
        );
        park(run, "state_limit", message);
    }
    settlement
}

/// What is left of a settlement that the store refuses by itself: an event's runs that returned something run again, each by itself, so
/// that only the one at fault fails; a run that was by itself is parked with the reason. `None` where nothing of it came from a plugin.
fn mend_refused(settlement: &Settlement, error: &store::Error, now: Timestamp) -> Option<Settlement> {
    let returned = |run: &RunRecord| run.outcome.is_some();
    if !settlement.runs.iter().any(returned) {
        return None;
    }
    let mut mended = settlement.clone();
    for run in mended.runs.iter_mut().filter(|run| returned(run)) {
        match settlement.settles {
            Settles::Event { .. } => set_apart(run, now),
            Settles::Run { .. } => {
                park(run, "not_stored", format!("the store does not take what the run returned: {error}"));
                run.log = RunLog::default();
                run.news.clear();
            }
        }
    }
    Some(mended)
}

/// The run gets a row of its own and runs again, as if it had not.
fn set_apart(run: &mut RunRecord, now: Timestamp) {
    *run = RunRecord {
        state: RunState::Waiting { due: now },
        outcome: None,
        failure: None,
        tries: run.tries - 1,
        log: RunLog::default(),
        wants: None,
        deliveries: Vec::new(),
        emitted: Vec::new(),
        state_use: StateUse::default(),
        news: Vec::new(),
        ..run.clone()
    };
}

/// The run ends as `bad-output`, and nothing that it returned takes effect.
fn park(run: &mut RunRecord, code: &str, message: String) {
    run.deliveries.clear();
    run.emitted.clear();
    run.state_use = StateUse::default();
    run.state = RunState::Parked;
    run.outcome = Some(RunOutcome::BadOutput);
    run.failure = Some(RunFailure { outcome: RunOutcome::BadOutput, code: code.into(), message, retryable: false });
}
