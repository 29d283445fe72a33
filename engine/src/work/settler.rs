//! The settler commits the results of events and runs (commit 2). Each commit takes all results that queued up during the previous
//! one and fit into one batch (`batches.rs`). A settlement that the store refuses does not delay the others: it is amended
//! (`amend.rs`) or given up.

use std::sync::Arc;

use super::{
    amend,
    batches::{Batch, Batches, Blame, Step, Verdict, Writer},
    reports::Reports,
};
use crate::{
    catalog::Catalog,
    clock,
    domain::{name::Slug, time::Timestamp},
    metrics::meters,
    store::{self, ClaimId, EventSlot, Permit, Room, RunClaim, RunSlot, Settled, Settlement, Settles, Store, weight},
};

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
    pub reports: Arc<Reports>,
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
                    self.reports.settled(&settlement).await;
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
        let now = clock::steady();
        note_conflict(&self.catalog, &settlement, places, now);
        if let Settles::Run { id, lease, .. } = settlement.settles {
            if let Err(error) = self.store.release(vec![(ClaimId::Run(id), lease)]).await {
                tracing::warn!(%error, "run with a state conflict could not be released; it waits until its lease ends");
            }
            return None;
        }
        Some(amend::state_conflict(settlement, places, now))
    }
}

/// Makes the plugins whose runs lost a state conflict run one after another for a while.
pub fn note_conflict(catalog: &Catalog, settlement: &Settlement, places: &[usize], now: Timestamp) {
    let plugins = catalog.plugins();
    for place in places {
        if let Some(entry) = plugins.get(&settlement.runs[*place].identity.plugin) {
            entry.pace.note_conflict(now);
        }
    }
}

fn with_bytes(settling: Settling) -> (Settling, usize) {
    let bytes = Settler::bytes(&settling);
    (settling, bytes)
}
