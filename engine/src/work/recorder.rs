//! The recorder: commits attempts, as many at a time as queued up during the last commit, and does what follows from them.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc::UnboundedReceiver;

use super::bulletin;
use crate::{
    catalog::Catalog,
    clock,
    domain::{
        delivery::{DeadReason, Next},
        endpoint::{DisabledReason, EndpointState},
    },
    news::{Feed, News},
    store::{self, AttemptRecord, DeliverySlot, Store},
};

/// Attempts in one call.
const BATCH_MAX: usize = 512;
/// How long to wait when the store fails, before trying the same again.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// An attempt on its way into the store, with the place that its delivery holds until then.
pub struct Recording {
    pub record: AttemptRecord,
    pub endpoint_name: String,
    pub attempts_max: usize,
    pub slot: DeliverySlot,
}

pub struct Recorder {
    pub store: Arc<dyn Store>,
    pub catalog: Arc<Catalog>,
    pub feed: Feed,
}

impl Recorder {
    /// Runs until every sender is gone and everything is recorded.
    pub async fn run(self, mut queue: UnboundedReceiver<Recording>) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let mut records = Vec::with_capacity(batch.len());
            let mut rest = Vec::with_capacity(batch.len());
            for Recording { record, endpoint_name, attempts_max, slot } in batch.drain(..) {
                records.push(record);
                rest.push((endpoint_name, attempts_max, slot));
            }
            let records = Arc::new(records);
            let recorded = self.insist(&records).await;
            for ((record, (name, attempts_max, _slot)), recorded) in records.iter().zip(rest).zip(recorded) {
                if recorded {
                    self.follow(record, name, attempts_max).await;
                } else {
                    tracing::debug!(delivery = record.delivery.as_i64(), "an attempt of a lost claim was not recorded");
                }
            }
        }
    }

    /// Tries until the store takes it: an attempt that was made and is not recorded would be made again.
    async fn insist(&self, records: &Arc<Vec<AttemptRecord>>) -> Vec<bool> {
        loop {
            match self.store.record_attempts(Arc::clone(records)).await {
                Ok(answers) => return answers,
                Err(error) => {
                    tracing::error!(%error, count = records.len(), "attempts could not be recorded; trying again");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn follow(&self, record: &AttemptRecord, endpoint: String, attempts_max: usize) {
        if record.next == Next::Dead(DeadReason::Gone)
            && let Err(error) = self.disable(record).await
        {
            tracing::error!(endpoint, %error, "endpoint answered 410 and could not be disabled");
        }
        if let Next::Dead(reason) = record.next {
            tracing::warn!(endpoint, reason = reason.as_str(), outcome = %record.attempt.outcome, "delivery is dead");
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
    async fn disable(&self, record: &AttemptRecord) -> Result<(), store::Error> {
        let endpoints = self.catalog.endpoints();
        let Some(endpoint) = endpoints.get(record.endpoint) else { return Ok(()) };
        let reason = DisabledReason::Gone;
        let from = [EndpointState::Active, EndpointState::Paused];
        let news = bulletin::endpoint_disabled(endpoint, reason, None);
        if self.store.set_endpoint_state(endpoint.id, &from, EndpointState::Disabled(reason), Some(news)).await? {
            tracing::warn!(endpoint = %endpoint.new.name, "endpoint answered 410 and is disabled; resume it to send again");
        }
        self.catalog.refresh_endpoints().await
    }
}
