//! The sender: takes deliveries, each endpoint's in turn, signs and sends them. What the other side did goes to the recorder.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::mpsc::UnboundedSender, time::MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    bulletin,
    gates::{Failing, Gates, Limiter, Pass},
    recorder::Recording,
};
use crate::{
    catalog::Catalog,
    clock,
    domain::{
        breaker::Change,
        delivery::{Attempt, AttemptOutcome, Next, after_attempt},
        endpoint::{DisabledReason, Endpoint, EndpointState, Ordering},
        retry::Schedule,
        time::Timestamp,
    },
    outbound::{Outbound, Webhook},
    random,
    store::{AttemptRecord, DeliveryClaim, Handoff, Store},
    traces::Traces,
};

/// A lease must outlast the exchange by this much, so that the record finds it still held.
const LEASE_MARGIN: Duration = Duration::from_secs(10);
/// How often what has been closed long enough is opened.
const TICK: Duration = Duration::from_millis(100);

pub struct Sender {
    pub store: Arc<dyn Store>,
    pub handoff: Handoff,
    pub catalog: Arc<Catalog>,
    pub outbound: Arc<Outbound>,
    pub traces: Traces,
    pub attempts: UnboundedSender<Recording>,
    pub gates: Gates,
}

impl Sender {
    /// Runs until `stop`, then waits for the attempts that are under way.
    pub async fn run(self, stop: CancellationToken) {
        let sender = Arc::new(self);
        let under_way = TaskTracker::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (claim, turn) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => {
                    sender.gates.tick(&sender.catalog.endpoints(), clock::steady());
                    continue;
                }
                next = sender.handoff.deliveries.next() => next,
            };
            // Here, and not in the attempt's own task: the gate sets the lane's width before anything more is taken from it.
            let pass = sender.pass(&claim);
            let (sender, stop) = (Arc::clone(&sender), stop.clone());
            under_way.spawn(async move {
                match pass {
                    Some((endpoint, limiter)) => sender.send(claim, &endpoint, limiter, &stop).await,
                    None => sender.give_back_all(claim).await,
                }
                drop(turn);
            });
        }
        under_way.close();
        under_way.wait().await;
    }

    /// The endpoint that a delivery goes to, and its rate, if it takes webhooks and its gate is open.
    fn pass(&self, claim: &DeliveryClaim) -> Option<(Arc<Endpoint>, Option<Arc<Limiter>>)> {
        let endpoints = self.catalog.endpoints();
        let Some(endpoint) = endpoints.get(claim.endpoint) else {
            self.gates.shut_unknown(claim.endpoint, clock::steady());
            return None;
        };
        if endpoint.new.state != EndpointState::Active {
            return None;
        }
        match self.gates.pass(endpoint) {
            Pass::Go(limiter) => Some((Arc::clone(endpoint), limiter)),
            Pass::Shut => None,
        }
    }

    /// One attempt, once the endpoint's rate allows it.
    async fn send(
        &self,
        claim: DeliveryClaim,
        endpoint: &Arc<Endpoint>,
        limiter: Option<Arc<Limiter>>,
        stop: &CancellationToken,
    ) {
        if let Some(limiter) = limiter {
            let waited = tokio::select! {
                biased;
                // Whatever is still waiting for its turn is found again after the next start.
                () = stop.cancelled() => return,
                waited = limiter.wait() => waited,
            };
            if let Err(wait) = waited {
                self.gates.shut(claim.endpoint, clock::steady().plus(wait));
                return self.give_back_all(claim).await;
            }
        }
        // A claim that waited so long for its turn that it would not outlast the exchange, or that others have taken over meanwhile.
        let now = clock::steady();
        if claim.lease.until < now.plus(endpoint.new.policy.timeout + LEASE_MARGIN)
            || !self.handoff.tenure.covers(claim.lease, now)
        {
            return self.give_back_all(claim).await;
        }
        let n = claim.attempts + 1;
        let id = claim.id.text(self.store.tag());
        let webhook =
            Webhook { endpoint, event: &claim.event, payload: claim.payload.as_deref(), id: &id, tag: self.store.tag() };
        let attempt = match webhook.request(clock::wall(), clock::steady()) {
            Ok(mut request) => {
                self.traces.go_on(self.store.tag(), &claim.event, claim.id, n, &mut request.headers);
                self.outbound.send(request).await
            }
            Err(reason) => unsendable(reason.to_string()),
        };
        self.follow(claim, endpoint, n, attempt).await;
    }

    /// What follows from an attempt: for its delivery, for those behind it, and for the endpoint.
    async fn follow(&self, claim: DeliveryClaim, endpoint: &Arc<Endpoint>, n: u32, attempt: Attempt) {
        let default;
        let schedule = match &endpoint.new.policy.schedule {
            Some(schedule) => &**schedule,
            None => {
                default = Schedule::default();
                &default
            }
        };
        let (now, outcome) = (clock::steady(), attempt.outcome);
        let next = after_attempt(&attempt, n, schedule, now, jitter());
        let noted = self.gates.note(claim.endpoint, outcome, now, jitter());

        let mut news = Vec::new();
        if let Next::Dead(reason) = next {
            news.extend(bulletin::delivery_dead(endpoint, claim.id, &claim.event, reason, outcome, n, self.store.tag()));
        }
        match noted.breaker {
            Some(Change::Opened { .. }) => {
                tracing::warn!(endpoint = %endpoint.new.name, %outcome, "endpoint keeps failing; it is left alone for a while, then probed");
                news.push(bulletin::endpoint_failing(endpoint, outcome));
            }
            Some(Change::Closed) => {
                tracing::info!(endpoint = %endpoint.new.name, "endpoint answers again");
                news.push(bulletin::endpoint_recovered(endpoint));
            }
            Some(Change::StillOpen { .. }) | None => {}
        }
        let holds_others = matches!(next, Next::Retry { .. }) && endpoint.new.policy.ordering == Some(Ordering::Endpoint);
        if holds_others || matches!(noted.breaker, Some(Change::Opened { .. } | Change::StillOpen { .. })) {
            self.give_back(self.handoff.deliveries.withdraw(&claim.endpoint, |_| true)).await;
        }

        let record = AttemptRecord { delivery: claim.id, endpoint: claim.endpoint, lease: claim.lease, n, attempt, next, news };
        let recording = Recording {
            record,
            endpoint_name: endpoint.new.name.to_string(),
            attempts_max: schedule.waits().len(),
            event: claim.event,
            slot: claim.slot,
        };
        // The recorder outlives every attempt.
        let _ = self.attempts.send(recording);
        if let Some(failing) = noted.failing {
            self.note_failing(endpoint, failing).await;
        }
    }

    async fn note_failing(&self, endpoint: &Endpoint, failing: Failing) {
        let done = match failing {
            Failing::Since(since) => self.store.note_failing(endpoint.id, Some(since)).await,
            Failing::Over => self.store.note_failing(endpoint.id, None).await,
            Failing::TooLong(since) => self.disable(endpoint, since).await,
        };
        let refreshed = match done {
            Ok(()) => self.catalog.refresh_endpoints().await,
            Err(error) => Err(error),
        };
        if let Err(error) = refreshed {
            tracing::error!(endpoint = %endpoint.new.name, %error, "how the endpoint fares could not be noted; the next attempt tries again");
        }
    }

    async fn disable(&self, endpoint: &Endpoint, since: Timestamp) -> Result<(), crate::store::Error> {
        let reason = DisabledReason::Failing;
        let news = bulletin::endpoint_disabled(endpoint, reason, Some(since));
        let to = EndpointState::Disabled(reason);
        if self.store.set_endpoint_state(endpoint.id, &[EndpointState::Active], to, Some(news)).await? {
            tracing::warn!(endpoint = %endpoint.new.name, %since, "endpoint has failed for so long that it is disabled; resume it to send again");
        }
        Ok(())
    }

    /// Gives back a delivery that must wait, and with it those of its endpoint that wait in memory: they would come to the same,
    /// or overtake it.
    async fn give_back_all(&self, claim: DeliveryClaim) {
        let mut claims = self.handoff.deliveries.withdraw(&claim.endpoint, |_| true);
        claims.push(claim);
        self.give_back(claims).await;
    }

    /// What cannot go now waits in the store; if its endpoint takes nothing any more, the keeper ends it.
    async fn give_back(&self, claims: Vec<DeliveryClaim>) {
        if claims.is_empty() {
            return;
        }
        let deliveries = claims.iter().map(|claim| (claim.id, claim.lease)).collect();
        if let Err(error) = self.store.release(vec![], vec![], deliveries).await {
            tracing::warn!(%error, count = claims.len(), "deliveries could not be given back; they wait for their leases to end");
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
    // Without randomness all retries are in the middle of their span, which does no harm.
    random::bytes().map_or(0.5, |bytes| f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}
