//! The settler: commits what came of events and runs, as many at a time as queued up during the last commit.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    catalog::Catalog,
    clock,
    domain::{
        delivery::DeadReason,
        name::Slug,
        run::{RunFailure, RunOutcome, RunState, StateUse},
    },
    metrics::meters,
    news::{Feed, News},
    store::{Birth, EventSlot, RunClaim, RunRecord, RunSlot, Settled, Settlement, Settles, Store, Turn},
};

/// Settlements in one call.
const BATCH_MAX: usize = 512;
/// How long to wait when the store fails, before trying the same again.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// A settlement on its way, with the places that it holds until it is committed.
pub struct Settling {
    pub settlement: Settlement,
    pub held: Held,
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

impl Settler {
    /// Runs until every sender is gone and everything is settled.
    pub async fn run(self, mut queue: UnboundedReceiver<Settling>) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let (settlements, held): (Vec<_>, Vec<_>) = batch.drain(..).map(|one| (one.settlement, one.held)).unzip();
            self.settle(settlements, held).await;
        }
    }

    /// Settles a batch; what was refused for a reason that can be mended is mended and settled again.
    async fn settle(&self, mut settlements: Vec<Settlement>, mut held: Vec<Held>) {
        while !settlements.is_empty() {
            let shared = Arc::new(settlements);
            let answers = self.insist(&shared).await;
            let mut again = Vec::new();
            let mut held_again = Vec::new();
            for ((settlement, held), settled) in shared.iter().zip(held).zip(answers) {
                match settled {
                    Settled::Done => {
                        count(settlement);
                        self.tell(settlement);
                    }
                    Settled::LeaseLost => tracing::debug!(event = settlement.event.id.as_i64(), "a lost claim was not settled"),
                    Settled::StateConflict(places) => {
                        if let Some(mended) = self.mend_conflict(settlement, &places).await {
                            again.push(mended);
                            held_again.push(held);
                        }
                    }
                    Settled::TooMany => {
                        again.push(mend_too_many(settlement));
                        held_again.push(held);
                    }
                }
            }
            (settlements, held) = (again, held_again);
        }
    }

    /// Tries until the store takes it: what is in hand is not given up because the disk is full for a while.
    async fn insist(&self, settlements: &Arc<Vec<Settlement>>) -> Vec<Settled> {
        loop {
            match self.store.settle(Arc::clone(settlements)).await {
                Ok(answers) => return answers,
                Err(error) => {
                    // The store has said once that it fails; this is said as often as it is tried.
                    tracing::debug!(%error, count = settlements.len(), "runs could not be settled; trying again");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    /// The runs of an event that lost a race for their plugin's state are set apart, to run again from fresh reads, one after
    /// another; the rest of the event takes effect now. A run that was apart already goes back to its queue.
    async fn mend_conflict(&self, settlement: &Settlement, places: &[usize]) -> Option<Settlement> {
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
        let mut mended = settlement.clone();
        for place in places {
            let run = &mut mended.runs[*place];
            *run = RunRecord {
                state: RunState::Waiting { due: now },
                outcome: None,
                tries: run.tries - 1,
                log: Default::default(),
                deliveries: Vec::new(),
                emitted: Vec::new(),
                state_use: StateUse::default(),
                news: Vec::new(),
                ..run.clone()
            };
        }
        Some(mended)
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
fn mend_too_many(settlement: &Settlement) -> Settlement {
    let mut mended = settlement.clone();
    if settlement.runs.iter().all(|run| run.deliveries.is_empty()) {
        let event = settlement.event.id.as_i64();
        tracing::error!(event, "an event has had as many webhooks as an event can have; this replay sends none");
        mended.direct.clear();
        mended.runs.clear();
        return mended;
    }
    for run in mended.runs.iter_mut().filter(|run| !run.deliveries.is_empty()) {
        run.deliveries.clear();
        run.emitted.clear();
        run.state_use = StateUse::default();
        run.state = RunState::Parked;
        run.outcome = Some(RunOutcome::BadOutput);
        run.failure = Some(RunFailure {
            outcome: RunOutcome::BadOutput,
            code: "too_many_webhooks".into(),
            message: format!("the event would have more than {} webhooks over all its runs", crate::domain::id::CHILDREN_MAX),
            retryable: false,
        });
    }
    mended
}
