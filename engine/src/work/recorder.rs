//! The recorder: commits attempts, as many at a time as queued up during the last commit, and does what follows from them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    batches::{Batch, Batches, Blame, Verdict},
    bulletin,
};
use crate::{
    catalog::Catalog,
    clock,
    domain::{
        delivery::{DeadReason, Next},
        endpoint::{DisabledReason, EndpointState, OnGone},
        event::Event,
        id::EndpointId,
        time::Timestamp,
    },
    metrics::{EndpointMeters, meters},
    news::{Feed, News},
    store::{self, AttemptRecord, DeliverySlot, Store, weight},
    traces::{Attempted, Traces},
};

/// How long to wait when the store fails, before trying again.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// An attempt on its way into the store, with the place that its delivery holds until then.
pub struct Recording {
    pub record: AttemptRecord,
    pub endpoint_name: String,
    pub attempts_max: usize,
    pub event: Arc<Event>,
    pub slot: DeliverySlot,
}

fn push(batches: &mut Batches<Recording>, recording: Recording) {
    let bytes = weight::attempt(&recording.record);
    batches.push(recording, bytes);
}

pub struct Recorder {
    pub store: Arc<dyn Store>,
    pub catalog: Arc<Catalog>,
    pub feed: Feed,
    pub traces: Traces,
}

impl Recorder {
    /// Runs until every sender is gone and everything is recorded.
    pub async fn run(self, mut queue: UnboundedReceiver<Recording>) {
        let mut batches = Batches::default();
        let mut figures = Figures::default();
        loop {
            if batches.is_empty() {
                let Some(first) = queue.recv().await else { return };
                push(&mut batches, first);
            }
            while let Ok(recording) = queue.try_recv() {
                push(&mut batches, recording);
            }
            self.step(&mut batches, &mut figures).await;
        }
    }

    /// Records a batch, and does what follows from it.
    async fn step(&self, batches: &mut Batches<Recording>, figures: &mut Figures) {
        let batch = batches.next();
        let records = Arc::new(batch.things().map(|one| one.record.clone()).collect());
        let recorded = match self.store.record_attempts(records).await {
            Ok(recorded) => recorded,
            Err(error) => return self.take_back(batches, batch, &error).await,
        };
        batches.note_passed();
        for (Recording { record, endpoint_name: name, attempts_max, event, slot }, recorded) in batch.into_things().zip(recorded)
        {
            if recorded {
                figures.count(&record, &name, event.accepted_at);
                let AttemptRecord { delivery, n, attempt, .. } = &record;
                let attempted = Attempted { event: &event, delivery: *delivery, endpoint: &name, n: *n, attempt };
                self.traces.attempted(self.store.tag(), &attempted);
                self.follow(&record, name, attempts_max).await;
            } else {
                tracing::debug!(delivery = record.delivery.as_i64(), "an attempt of a lost claim was not recorded");
            }
            drop(slot);
        }
    }

    /// What the store did not take is tried again: an attempt that was made and is not recorded would be made again. Only one that fails alone
    /// while all others are taken is left to that.
    async fn take_back(&self, batches: &mut Batches<Recording>, batch: Batch<Recording>, error: &store::Error) {
        // The store has said once that it fails; this is said as often as it is tried.
        tracing::debug!(%error, count = batch.things().count(), "attempts could not be recorded; trying again");
        match batches.take_back(batch, Blame::of(error)) {
            Verdict::GoOn => {}
            Verdict::Pause => tokio::time::sleep(AFTER_FAILURE).await,
            Verdict::GiveUp(refused) => {
                let (delivery, endpoint) = (refused.record.delivery.text(self.store.tag()), refused.endpoint_name);
                tracing::error!(delivery, endpoint, %error, "the store refuses an attempt; it is made again once its lease has ended");
            }
        }
    }

    async fn follow(&self, record: &AttemptRecord, endpoint: String, attempts_max: usize) {
        if record.next == Next::Dead(DeadReason::Gone)
            && let Err(error) = self.let_go(record).await
        {
            tracing::error!(endpoint, %error, "endpoint answered 410 and could be neither disabled nor removed");
        }
        let delivery = || record.delivery.text(self.store.tag());
        let outcome = record.attempt.outcome;
        match record.next {
            Next::Delivered => {}
            Next::Retry { .. } => {
                tracing::debug!(endpoint, delivery = delivery(), %outcome, attempt = record.n, "attempt failed and is repeated");
            }
            Next::Dead(reason) => {
                let reason = reason.as_str();
                tracing::warn!(endpoint, delivery = delivery(), %outcome, attempt = record.n, reason, "delivery is dead");
            }
        }
        self.feed.tell(|| News::Attempted {
            delivery: record.delivery,
            endpoint,
            outcome: record.attempt.outcome,
            detail: record.attempt.detail.clone(),
            latency: record.attempt.latency,
            attempt: record.n,
            attempts_max,
            next: record.next,
            now: clock::steady(),
        });
    }

    /// The receiver wants no more.
    async fn let_go(&self, record: &AttemptRecord) -> Result<(), store::Error> {
        let endpoints = self.catalog.endpoints();
        let Some(endpoint) = endpoints.get(record.endpoint) else { return Ok(()) };
        let (id, name) = (endpoint.id, &endpoint.new.name);
        match endpoint.new.policy.on_gone {
            OnGone::Disable => {
                let reason = DisabledReason::Gone;
                let from = [EndpointState::Active, EndpointState::Paused];
                let news = bulletin::endpoint_disabled(endpoint, reason, None);
                if self.store.set_endpoint_state(id, &from, EndpointState::Disabled(reason), Some(news)).await? {
                    tracing::warn!(endpoint = %name, "endpoint answered 410 and is disabled; resume it to send again");
                }
            }
            OnGone::Remove => match self.store.delete_endpoint(id, Some(bulletin::endpoint_removed(endpoint))).await {
                Ok(()) => tracing::info!(endpoint = %name, "subscription answered 410 and is removed"),
                // Unsubscribed meanwhile, or two webhooks were answered so.
                Err(store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            },
        }
        self.catalog.refresh_endpoints().await
    }
}

/// Endpoints whose figures are at hand. More than there can be at once; those of deleted ones go with the rest.
const AT_HAND_MAX: usize = 16_384;

/// The figures of the endpoints that were sent to, by a number that nobody else looks up.
#[derive(Default)]
struct Figures(HashMap<EndpointId, Arc<EndpointMeters>>);

impl Figures {
    fn count(&mut self, record: &AttemptRecord, endpoint: &str, accepted_at: Timestamp) {
        let (meters, attempt) = (meters(), &record.attempt);
        if self.0.len() >= AT_HAND_MAX {
            self.0.clear();
        }
        self.0.entry(record.endpoint).or_insert_with(|| meters.endpoint(endpoint)).attempted(attempt.outcome);
        meters.attempt_seconds.observe(attempt.latency.as_secs_f64());
        match record.next {
            Next::Delivered => {
                meters.delivered.inc();
                let answered_at = attempt.at.plus(attempt.latency);
                meters.end_to_end_seconds.observe(answered_at.since(accepted_at).as_secs_f64());
            }
            Next::Retry { .. } => {}
            Next::Dead(reason) => meters.dead(reason.as_str(), 1),
        }
    }
}
