//! The settler: commits what came of events and runs, as many at a time as queued up during the last commit and as one batch holds
//! (`batches.rs`). One settlement that the store refuses holds up no other.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    amend,
    batches::{Batch, Batches, Blame, Verdict},
};
use crate::{
    catalog::Catalog,
    clock,
    domain::{
        delivery::{Birth, DeadReason},
        name::Slug,
        run::{RunOutcome, RunRecord, RunState},
    },
    metrics::meters,
    news::{Feed, News},
    store::{self, EventSlot, Room, RunClaim, RunSlot, Settled, Settlement, Settles, Store, Turn, weight},
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
                Settled::TooMany => Some(amend::too_many(settlement)),
                Settled::StateFull(runs) => Some(amend::state_full(settlement, &runs)),
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
        let Waiting { settlement, places, is_remainder } = refused;
        let event = settlement.event.id.text(self.store.tag());
        match amend::refused(settlement, error, clock::steady()) {
            Some(settlement) if !is_remainder => {
                tracing::warn!(event, %error, "the store refuses what an event's runs returned; the rest of it takes effect");
                let bytes = weight::settlement(&settlement);
                batches.push_first(vec![(Waiting { settlement, places, is_remainder: true }, bytes)]);
            }
            _ => {
                tracing::error!(event, %error, "the store refuses an event's settlement; it is run again once its lease has ended")
            }
        }
    }

    /// The runs of an event that lost a race for their plugin's state are set apart, to run again from fresh reads, one after
    /// another; the rest of the event takes effect now. A run that was apart already goes back to its queue.
    async fn mend_conflict(&self, settlement: Settlement, places: &[usize]) -> Option<Settlement> {
        let plugins = self.catalog.plugins();
        let now = clock::steady();
        for place in places {
            if let Some(entry) = plugins.get(&settlement.runs[*place].identity.plugin) {
                entry.pace.note_conflict(now);
            }
        }
        if let Settles::Run { id, lease, .. } = settlement.settles {
            if let Err(error) = self.store.release(vec![], vec![(id, lease)], vec![]).await {
                tracing::warn!(%error, "a run that lost a race could not be given back; it waits for its lease to end");
            }
            return None;
        }
        Some(amend::state_conflict(settlement, places, now))
    }

    fn tell(&self, settlement: &Settlement) {
        for run in &settlement.runs {
            let Some(outcome) = run.outcome() else { continue };
            self.log(settlement, run, outcome);
            self.feed.tell(|| News::Ran {
                event: settlement.event.id,
                plugin: run.identity.plugin.to_string(),
                version: run.execution().map(|execution| execution.version),
                outcome,
                state: run.state(),
                message: run.failure().map(|failure| failure.message.clone()),
                took: run.execution().map_or(Duration::ZERO, |execution| execution.took),
                webhooks: run.deliveries().len(),
                emitted: run.emitted().len(),
            });
        }
    }
}

impl Settler {
    /// One line for each run that somebody should look at: what it said and why is in the event's story, since it may hold what the
    /// event held. A run that is tried again by itself needs nobody.
    fn log(&self, settlement: &Settlement, run: &RunRecord, outcome: RunOutcome) {
        let event = || settlement.event.id.text(self.store.tag());
        match run.state() {
            RunState::Done => {}
            RunState::Waiting { .. } => {
                tracing::debug!(event = event(), plugin = %run.identity.plugin, %outcome, tries = run.tries(), "run failed and is tried again");
            }
            RunState::Parked => {
                tracing::warn!(event = event(), plugin = %run.identity.plugin, %outcome, "run is parked; innesco event show EVENT says why");
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
    let deliveries = || settlement.direct.iter().chain(settlement.runs.iter().flat_map(|run| run.deliveries()));
    meters.created.inc_by(deliveries().count() as u64);
    meters.emitted.inc_by(settlement.runs.iter().map(|run| run.emitted().len() as u64).sum());
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
