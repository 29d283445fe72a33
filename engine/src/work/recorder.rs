//! The recorder commits attempts (commit 3). Each commit takes all attempts that queued up during the previous one. Afterwards the
//! recorder reports them, and disables or removes endpoints that answered `410`.

use std::{collections::HashMap, sync::Arc};

use super::{
    batches::{Batch, Batches, Blame, Step, Verdict, Writer},
    notices,
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
    store::{self, AttemptRecord, Deletion, DeliverySlot, Recorded, Store, weight},
    traces::{Attempted, Traces},
};

/// An attempt that waits to be recorded. Until then, it holds the slot of its delivery.
pub struct Recording {
    pub record: AttemptRecord,
    pub endpoint_name: String,
    pub attempts_max: usize,
    pub event: Arc<Event>,
    pub slot: DeliverySlot,
}

pub struct Recorder {
    store: Arc<dyn Store>,
    catalog: Arc<Catalog>,
    feed: Feed,
    traces: Traces,
    figures: Figures,
}

impl Writer for Recorder {
    type Item = Recording;

    fn bytes(recording: &Recording) -> usize {
        weight::attempt(&recording.record)
    }

    /// Records a batch of attempts and acts on each.
    async fn step(&mut self, batches: &mut Batches<Recording>) -> Step {
        let batch = batches.next();
        let records = Arc::new(batch.items().map(|one| one.record.clone()).collect());
        let recorded = match self.store.record_attempts(records).await {
            Ok(recorded) => recorded,
            Err(error) => return self.take_back(batches, batch, &error),
        };
        batches.note_passed();
        let (mut done, mut dropped) = (0, 0);
        for (recording, recorded) in batch.into_items().zip(recorded) {
            match recorded {
                Recorded::Done => {
                    done += 1;
                    self.act_on(recording).await;
                }
                Recorded::LeaseLost => {
                    dropped += 1;
                    tracing::debug!(delivery = recording.record.delivery.as_i64(), "attempt of a lost claim dropped");
                }
            }
        }
        Step::Committed { done, dropped, amended: 0 }
    }
}

impl Recorder {
    pub fn new(store: Arc<dyn Store>, catalog: Arc<Catalog>, feed: Feed, traces: Traces) -> Self {
        Self { store, catalog, feed, traces, figures: Figures::default() }
    }

    /// Puts a failed batch back, because an attempt that is not recorded would be made again. Gives up an attempt that fails when
    /// it is alone, while all others pass.
    fn take_back(&self, batches: &mut Batches<Recording>, batch: Batch<Recording>, error: &store::Error) -> Step {
        // Logged with every retry. The store logs its own failure only once.
        tracing::debug!(%error, count = batch.items().count(), "batch of attempts failed; retrying");
        match batches.take_back(batch, Blame::of(error)) {
            Verdict::GoOn => Step::Again,
            Verdict::Pause => Step::Pause,
            Verdict::GiveUp(refused) => {
                let (delivery, endpoint) = (refused.record.delivery.text(self.store.tag()), refused.endpoint_name);
                tracing::error!(delivery, endpoint, %error, "attempt refused by the store; it is made again once its lease ends");
                Step::GaveUp
            }
        }
    }

    /// Counts, traces and reports a recorded attempt. An endpoint that answered `410` is disabled or removed.
    async fn act_on(&mut self, recording: Recording) {
        let Recording { record, endpoint_name: name, attempts_max, event, slot } = recording;
        self.figures.count(&record, &name, event.accepted_at);
        let AttemptRecord { delivery, n, attempt, .. } = &record;
        let attempted = Attempted { event: &event, delivery: *delivery, endpoint: &name, n: *n, attempt };
        self.traces.attempted(self.store.tag(), &attempted);
        if record.next == Next::Dead(DeadReason::Gone)
            && let Err(error) = self.end_endpoint(&record).await
        {
            tracing::error!(endpoint = name, %error, "endpoint answered 410 and could be neither disabled nor removed");
        }
        self.log(&record, &name);
        self.feed.send(|| News::Attempted {
            delivery: record.delivery,
            event_type: event.new.event_type.to_string(),
            endpoint: name,
            outcome: record.attempt.outcome,
            detail: record.attempt.detail.clone(),
            latency: record.attempt.latency,
            attempt: record.n,
            attempts_max,
            next: record.next,
            now: clock::steady(),
        });
        drop(slot);
    }

    fn log(&self, record: &AttemptRecord, endpoint: &str) {
        let delivery = || record.delivery.text(self.store.tag());
        let outcome = record.attempt.outcome;
        match record.next {
            Next::Delivered => {}
            Next::Retry { .. } => {
                tracing::debug!(endpoint, delivery = delivery(), %outcome, attempt = record.n, "attempt failed; retrying later");
            }
            Next::Dead(reason) => {
                let reason = reason.as_str();
                tracing::warn!(endpoint, delivery = delivery(), %outcome, attempt = record.n, reason, "delivery is dead");
            }
        }
    }

    /// Disables or removes an endpoint whose receiver answered `410`.
    async fn end_endpoint(&self, record: &AttemptRecord) -> Result<(), store::Error> {
        let endpoints = self.catalog.endpoints();
        let Some(endpoint) = endpoints.get(record.endpoint) else { return Ok(()) };
        let (id, name) = (endpoint.id, &endpoint.new.name);
        match endpoint.new.policy.on_gone {
            OnGone::Disable => {
                let reason = DisabledReason::Gone;
                let from = [EndpointState::Active, EndpointState::Paused];
                let notice = notices::endpoint_disabled(endpoint, reason, None);
                if self.store.set_endpoint_state(id, &from, EndpointState::Disabled(reason), Some(notice)).await? {
                    tracing::warn!(endpoint = %name, "endpoint answered 410 and is disabled; resume it to send again");
                }
            }
            OnGone::Remove => {
                match self.store.delete_endpoint(id, Deletion::Forced, Some(notices::endpoint_removed(endpoint))).await {
                    Ok(()) => tracing::info!(endpoint = %name, "subscription answered 410 and is removed"),
                    // The endpoint no longer exists. Either the program has unsubscribed in the meantime, or another webhook was
                    // answered with 410, too.
                    Err(store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.catalog.refresh_endpoints().await
    }
}

/// Maximum number of endpoints whose metrics are cached. An engine usually has fewer. The cache is emptied when it is full, so that deleted
/// endpoints leave it.
const AT_HAND_MAX: usize = 16_384;

/// The metrics of endpoints, cached so that an attempt needs no look-up by name.
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
                let latency = attempt.at.plus(attempt.latency).since(accepted_at);
                meters.end_to_end_seconds.observe(latency.as_secs_f64());
                meters.tally.attempted(record.endpoint, record.n, Some(latency));
                return;
            }
            Next::Retry { .. } => {}
            Next::Dead(reason) => meters.dead(reason.as_str(), 1),
        }
        meters.tally.attempted(record.endpoint, record.n, None);
    }
}
