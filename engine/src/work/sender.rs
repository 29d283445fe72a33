//! The sender: takes deliveries from the endpoints' queues one after another, signs and sends them. The attempts go to the
//! recorder.
//!
//! Each attempt is made only after two checks: the lease must last longer than the exchange, and the other nodes must still
//! consider this node alive. The runner needs only the first check, because a run has no effect before its commit.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::mpsc::UnboundedSender, time::MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    notices,
    recorder::Recording,
    throttle::{Failing, Pass, RateLimiter, Throttles},
};
use crate::{
    catalog::Catalog,
    clock,
    domain::{
        breaker::Change,
        delivery::{Attempt, AttemptOutcome, Next, after_attempt},
        endpoint::{DisabledReason, Endpoint, EndpointState, Ordering, Policy},
        event::NewEvent,
        retry::Schedule,
        sent::SentAs,
        time::Timestamp,
    },
    outbound::{Outbound, Request, Webhook},
    random,
    store::{self, AttemptRecord, ClaimId, DeliveryClaim, Handoff, Store},
    traces::Traces,
};

/// A lease must last this much longer than the exchange, so that the lease is still valid when the attempt is recorded.
const LEASE_MARGIN: Duration = Duration::from_secs(10);
/// Interval at which throttles whose wait is over are opened.
const TICK: Duration = Duration::from_millis(100);

/// The schedule of endpoints whose policy has none.
static DEFAULT_SCHEDULE: LazyLock<Schedule> = LazyLock::new(Schedule::default);

/// Makes one attempt. [`Outbound`] makes real attempts, tests script the answers.
pub trait Exchange: Send + Sync + 'static {
    fn send(&self, request: Request) -> impl Future<Output = Attempt> + Send;
}

impl Exchange for Outbound {
    fn send(&self, request: Request) -> impl Future<Output = Attempt> + Send {
        Self::send(self, request)
    }
}

/// The result of one step with a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The step made an attempt, and passed it to the recorder.
    Attempted(Next),
    /// The step released the claim, together with the other claims of the endpoint.
    Released,
    /// The engine stops: the delivery is claimed again after the next start.
    Stopped,
}

/// The right to send to an endpoint now.
pub struct Permit {
    endpoint: Arc<Endpoint>,
    rate: Option<Arc<RateLimiter>>,
}

pub struct Sender<E> {
    pub store: Arc<dyn Store>,
    pub handoff: Handoff,
    pub catalog: Arc<Catalog>,
    pub exchange: Arc<E>,
    pub traces: Traces,
    pub attempts: UnboundedSender<Recording>,
    pub throttles: Arc<Throttles>,
}

impl<E: Exchange> Sender<E> {
    /// Runs until `stop`, then waits for the attempts in flight.
    pub async fn run(self, stop: CancellationToken) {
        let sender = Arc::new(self);
        let under_way = TaskTracker::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (claim, slot) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => {
                    sender.throttles.tick(&sender.catalog.endpoints(), clock::steady());
                    continue;
                }
                next = sender.handoff.deliveries.next() => next,
            };
            // This is called here and not in the attempt's task, because it must set the width of the endpoint's queue before
            // another claim is taken from that queue.
            let permit = sender.permit(&claim);
            let (sender, stop) = (Arc::clone(&sender), stop.clone());
            // The future has several kilobytes, which a task would copy several times.
            under_way.spawn(Box::pin(async move {
                sender.step(claim, permit, &stop).await;
                drop(slot);
            }));
        }
        under_way.close();
        under_way.wait().await;
    }

    /// Returns a permit if webhooks may be sent to the delivery's endpoint now.
    pub fn permit(&self, claim: &DeliveryClaim) -> Option<Permit> {
        let endpoints = self.catalog.endpoints();
        let Some(endpoint) = endpoints.get(claim.endpoint) else {
            self.throttles.shut_unknown(claim.endpoint, clock::steady());
            return None;
        };
        if endpoint.new.state != EndpointState::Active {
            return None;
        }
        match self.throttles.pass(endpoint) {
            Pass::Go(rate) => Some(Permit { endpoint: Arc::clone(endpoint), rate }),
            Pass::Shut => None,
        }
    }

    /// Makes one attempt once the endpoint's rate allows it, or releases the claim.
    pub async fn step(&self, claim: DeliveryClaim, permit: Option<Permit>, stop: &CancellationToken) -> Done {
        let Some(Permit { endpoint, rate }) = permit else { return self.release_all(claim).await };
        if let Some(rate) = rate {
            let waited = tokio::select! {
                biased;
                () = stop.cancelled() => return Done::Stopped,
                waited = rate.wait() => waited,
            };
            if let Err(wait) = waited {
                self.throttles.shut(claim.endpoint, clock::steady().plus(wait));
                return self.release_all(claim).await;
            }
        }
        // The claim may have waited so long that its lease would end before the exchange, or other nodes may have taken over the
        // delivery.
        let now = clock::steady();
        if claim.lease.until < now.plus(endpoint.new.policy.timeout + LEASE_MARGIN)
            || !self.handoff.tenure.covers(claim.lease, now)
        {
            return self.release_all(claim).await;
        }
        let attempt = self.attempt(&claim, &endpoint).await;
        self.follow(claim, &endpoint, attempt).await
    }

    /// Signs and sends the webhook.
    async fn attempt(&self, claim: &DeliveryClaim, endpoint: &Endpoint) -> Attempt {
        let tag = self.store.tag();
        let (id, event_id) = (claim.id.text(tag), claim.event.id.text(tag));
        let webhook =
            Webhook { endpoint, event: &claim.event, payload: claim.payload.as_deref(), id: &id, event_id: &event_id, tag };
        match webhook.request(clock::wall(), clock::steady()) {
            Ok(mut request) => {
                self.traces.continue_trace(tag, &claim.event, claim.id, claim.attempts + 1, &mut request.headers);
                self.exchange.send(request).await
            }
            Err(reason) => unsendable(reason.to_string()),
        }
    }

    /// Decides the delivery's next state and passes the attempt to the recorder. Releases the endpoint's other claims if they must
    /// wait.
    async fn follow(&self, claim: DeliveryClaim, endpoint: &Arc<Endpoint>, attempt: Attempt) -> Done {
        let (now, outcome, n) = (clock::steady(), attempt.outcome, claim.attempts + 1);
        let schedule = schedule(&endpoint.new.policy);
        // A success plans nothing, so it needs no random number, each of which is a system call.
        let jitter = || if outcome.is_success() { 0.5 } else { jitter() };
        let next = after_attempt(&attempt, n, schedule, now, jitter());
        let noted = self.throttles.note(claim.endpoint, outcome, now, jitter());
        log_breaker(endpoint, noted.breaker, outcome);
        let dead = match next {
            Next::Dead(reason) => notices::delivery_dead(endpoint, claim.id, &claim.event, reason, outcome, n, self.store.tag()),
            Next::Delivered | Next::Retry { .. } => None,
        };
        let notices = dead.into_iter().chain(breaker_notice(endpoint, noted.breaker, outcome)).collect();
        if holds_back(&endpoint.new.policy, next, noted.breaker) {
            self.release(self.handoff.deliveries.withdraw(&claim.endpoint, |_| true)).await;
        }
        let record = AttemptRecord {
            delivery: claim.id,
            endpoint: claim.endpoint,
            lease: claim.lease,
            n,
            attempt,
            sent: SentAs::of(endpoint),
            next,
            notices,
        };
        let recording = Recording {
            record,
            endpoint_name: endpoint.new.name.to_string(),
            attempts_max: schedule.waits().len(),
            event: claim.event,
            slot: claim.slot,
        };
        // The recorder outlives every attempt, so the channel is open.
        let _ = self.attempts.send(recording);
        if let Some(failing) = noted.failing {
            self.note_failing(endpoint, failing).await;
        }
        Done::Attempted(next)
    }

    /// Stores since when an endpoint has been failing, or disables it.
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
            tracing::error!(endpoint = %endpoint.new.name, %error, "could not record endpoint health; retrying after the next attempt");
        }
    }

    async fn disable(&self, endpoint: &Endpoint, since: Timestamp) -> Result<(), store::Error> {
        let reason = DisabledReason::Failing;
        let notice = notices::endpoint_disabled(endpoint, reason, Some(since));
        let to = EndpointState::Disabled(reason);
        if self.store.set_endpoint_state(endpoint.id, &[EndpointState::Active], to, Some(notice)).await? {
            tracing::warn!(endpoint = %endpoint.new.name, %since, "endpoint has failed for so long that it is disabled; resume it to send again");
        }
        Ok(())
    }

    /// Releases a claim that must wait, together with the endpoint's claims that wait in memory. Otherwise these other claims would
    /// be released one by one, or would overtake this claim.
    async fn release_all(&self, claim: DeliveryClaim) -> Done {
        let mut claims = self.handoff.deliveries.withdraw(&claim.endpoint, |_| true);
        claims.push(claim);
        self.release(claims).await;
        Done::Released
    }

    /// Gives claims back to the store. If their endpoint is disabled or deleted, maintenance ends the deliveries.
    async fn release(&self, claims: Vec<DeliveryClaim>) {
        if claims.is_empty() {
            return;
        }
        let released = claims.iter().map(|claim| (ClaimId::Delivery(claim.id), claim.lease)).collect();
        if let Err(error) = self.store.release(released).await {
            tracing::warn!(%error, count = claims.len(), "deliveries could not be released; they wait until their leases end");
        }
    }
}

fn schedule(policy: &Policy) -> &Schedule {
    policy.schedule.as_deref().unwrap_or(&DEFAULT_SCHEDULE)
}

/// Returns whether the endpoint's next deliveries must wait, because its breaker is open, or because sending them now would break
/// their order.
fn holds_back(policy: &Policy, next: Next, breaker: Option<Change>) -> bool {
    let order_holds = matches!(next, Next::Retry { .. }) && policy.ordering == Some(Ordering::Endpoint);
    order_holds || matches!(breaker, Some(Change::Opened { .. } | Change::StillOpen { .. }))
}

/// Returns the operational event for a breaker that opened or closed.
fn breaker_notice(endpoint: &Endpoint, change: Option<Change>, outcome: AttemptOutcome) -> Option<NewEvent> {
    match change {
        Some(Change::Opened { .. }) => Some(notices::endpoint_failing(endpoint, outcome)),
        Some(Change::Closed) => Some(notices::endpoint_recovered(endpoint)),
        Some(Change::StillOpen { .. }) | None => None,
    }
}

fn log_breaker(endpoint: &Endpoint, change: Option<Change>, outcome: AttemptOutcome) {
    let endpoint = &endpoint.new.name;
    match change {
        Some(Change::Opened { .. }) => {
            tracing::warn!(%endpoint, %outcome, "endpoint keeps failing; it gets no webhooks for a while, then a probe");
        }
        Some(Change::Closed) => tracing::info!(%endpoint, "endpoint answers again"),
        Some(Change::StillOpen { .. }) | None => {}
    }
}

/// Returns the attempt of a webhook for which no request can be built. The attempt counts, so that operators see it and the
/// delivery ends.
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

/// Returns a random number in 0..1.
fn jitter() -> f64 {
    // If the system provides no random bytes, retries are not spread, which does no harm.
    random::bytes().map_or(0.5, |bytes| f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}
