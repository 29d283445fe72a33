//! The sender: takes deliveries, each endpoint's in turn, signs and sends them. What the other side did goes to the recorder.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::recorder::Recording;
use crate::{
    catalog::Catalog,
    clock,
    domain::{
        delivery::{Attempt, AttemptOutcome, after_attempt},
        endpoint::EndpointState,
        retry::Schedule,
    },
    outbound::{Outbound, Webhook},
    store::{AttemptRecord, DeliveryClaim, Handoff, SENDS_AT_ONCE, Store},
};

/// Webhooks on their way at once to an endpoint whose last attempt got no answer: enough to notice that it is back, too few to
/// tie up connections.
const SENDS_AT_ONCE_UNANSWERED: usize = 4;
/// A lease must outlast the exchange by this much, so that the record finds it still held.
const LEASE_MARGIN: Duration = Duration::from_secs(10);

pub struct Sender {
    pub store: Arc<dyn Store>,
    pub handoff: Handoff,
    pub catalog: Arc<Catalog>,
    pub outbound: Arc<Outbound>,
    pub attempts: UnboundedSender<Recording>,
}

impl Sender {
    /// Runs until `stop`, then waits for the attempts that are under way.
    pub async fn run(self, stop: CancellationToken) {
        let sender = Arc::new(self);
        let under_way = TaskTracker::new();
        loop {
            let (claim, turn) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = sender.handoff.deliveries.next() => next,
            };
            let sender = Arc::clone(&sender);
            under_way.spawn(async move {
                sender.send(claim).await;
                drop(turn);
            });
        }
        under_way.close();
        under_way.wait().await;
    }

    /// One attempt.
    async fn send(&self, claim: DeliveryClaim) {
        let endpoints = self.catalog.endpoints();
        let takes = endpoints.get(claim.endpoint).filter(|endpoint| endpoint.new.state == EndpointState::Active);
        let Some(endpoint) = takes else { return self.give_back(claim).await };
        // A claim that waited so long for its turn that it would not outlast the exchange: it is due again when it ends.
        if claim.lease.until < clock::steady().plus(endpoint.new.policy.timeout + LEASE_MARGIN) {
            return;
        }
        let n = claim.attempts + 1;
        let id = claim.id.text(self.store.tag());
        let webhook =
            Webhook { endpoint, event: &claim.event, payload: claim.payload.as_deref(), id: &id, tag: self.store.tag() };
        let attempt = match webhook.request(clock::wall()) {
            Ok(request) => self.outbound.send(request).await,
            Err(reason) => unsendable(reason.to_string()),
        };
        let answered = attempt.outcome.status().is_some();
        let at_once = if answered { SENDS_AT_ONCE } else { SENDS_AT_ONCE_UNANSWERED };
        self.handoff.deliveries.set_concurrency(&claim.endpoint, at_once);

        let default;
        let schedule = match &endpoint.new.policy.schedule {
            Some(schedule) => &**schedule,
            None => {
                default = Schedule::default();
                &default
            }
        };
        let next = after_attempt(&attempt, n, schedule, clock::steady(), jitter());
        let record = AttemptRecord { delivery: claim.id, endpoint: claim.endpoint, lease: claim.lease, n, attempt, next };
        let recording = Recording {
            record,
            endpoint_name: endpoint.new.name.to_string(),
            attempts_max: schedule.waits().len(),
            slot: claim.slot,
        };
        // The recorder outlives every attempt.
        let _ = self.attempts.send(recording);
    }

    /// An endpoint that takes nothing (any more) leaves its deliveries in the store: they wait, or the keeper ends them.
    async fn give_back(&self, claim: DeliveryClaim) {
        if let Err(error) = self.store.release(vec![], vec![], vec![(claim.id, claim.lease)]).await {
            tracing::warn!(%error, "a delivery could not be given back; it waits for its lease to end");
        }
    }
}

/// An attempt that could not even begin: it counts, so that it is seen and ends.
fn unsendable(detail: String) -> Attempt {
    Attempt {
        at: clock::wall(),
        outcome: AttemptOutcome::Unreachable,
        latency: Duration::ZERO,
        detail: Some(detail),
        excerpt: Bytes::new(),
        retry_after: None,
    }
}

/// A number in 0..1 that differs from attempt to attempt.
fn jitter() -> f64 {
    let mut random = [0; 4];
    // Without randomness all retries lie in the middle: no harm.
    if getrandom::fill(&mut random).is_err() {
        return 0.5;
    }
    f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX)
}
