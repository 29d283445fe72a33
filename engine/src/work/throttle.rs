//! Throttles: one per endpoint, between its deliveries and the network. A throttle combines a circuit breaker, a concurrency
//! limit and a rate limit. It follows the endpoint's policy and its receiver's answers.
//!
//! The concurrency starts low, doubles with each answer of the receiver, and falls to a few webhooks when the receiver does not
//! answer. Failures in a row open the circuit breaker for a while ([`Breaker`]); then one webhook at a time probes the receiver.
//! While the breaker is open, all other deliveries stay in the store: a receiver that is down costs only an occasional attempt.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock as _, DefaultClock},
};

use crate::{
    catalog::Standings,
    clock,
    domain::{
        breaker::{Breaker, Change},
        delivery::AttemptOutcome,
        endpoint::{Endpoint, Ordering},
        id::EndpointId,
        rate::Rate,
        routing::EndpointTable,
        time::Timestamp,
        why::Standing,
    },
    metrics::{EndpointMeters, meters},
    store::{DeliveryClaim, Queues, Width},
};

/// Maximum number of concurrent webhooks to a receiver that has not answered yet.
const AT_ONCE_AT_FIRST: usize = 8;
/// Maximum number of concurrent webhooks to a receiver that did not answer the last attempt. This is enough to notice that the
/// receiver is back, and too few to occupy many connections.
const AT_ONCE_UNANSWERED: usize = 4;
/// For each concurrent webhook, an endpoint may hold [`SLOTS_PER_SEND`] deliveries in memory, but at least [`SLOTS_MIN`] in all.
/// This is enough to keep the receiver busy until the next claim.
const SLOTS_PER_SEND: usize = 16;
const SLOTS_MIN: usize = 64;
/// Maximum time that a delivery waits in memory for its endpoint's rate. This is far less than the duration of a lease. A delivery
/// that must wait longer returns to the store.
pub const RATE_WAIT_MAX: Duration = Duration::from_secs(10);
/// After a pause, as many webhooks may be sent at once as the rate allows in this time. The time is so short that this burst does
/// not matter, and long enough to make up for a late timer.
const RATE_BURST: Duration = Duration::from_millis(100);
/// Pause before the next claim for an endpoint that this node does not know.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
/// How long an endpoint must fail before the store records its failure, so that an occasional failure costs no write.
const FAILING_NOTED_AFTER: Duration = Duration::from_secs(60);

/// The throttles of all endpoints.
pub struct Throttles {
    queues: Arc<Queues<EndpointId, DeliveryClaim>>,
    /// An endpoint is disabled after this long without a success.
    disable_after: Duration,
    inner: Mutex<Inner>,
}

struct Inner {
    /// The snapshot of endpoints that the throttles follow.
    table: Arc<EndpointTable>,
    throttles: HashMap<EndpointId, Throttle>,
    /// Endpoints that are not in the snapshot. For each of them, the time until which no delivery is claimed for it.
    unknown: HashMap<EndpointId, Timestamp>,
}

struct Throttle {
    endpoint: Arc<Endpoint>,
    meters: Arc<EndpointMeters>,
    breaker: Breaker,
    at_once: usize,
    limiter: Option<Arc<RateLimiter>>,
    /// Time until which the rate limit allows no webhook.
    shut_until: Option<Timestamp>,
    failing_since: Option<Timestamp>,
    failing_noted: bool,
}

/// Whether a delivery may be sent.
pub enum Pass {
    /// It may be sent as soon as the rate limit, if any, allows it.
    Go(Option<Arc<RateLimiter>>),
    /// It may not be sent now.
    Shut,
}

/// How an attempt changed its endpoint.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Noted {
    pub breaker: Option<Change>,
    pub failing: Option<Failing>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Failing {
    /// Time of the first failure. It must be stored, so that a restart does not forget it.
    Since(Timestamp),
    Over,
    /// The endpoint has failed for so long that it is disabled.
    TooLong(Timestamp),
}

impl Throttles {
    pub fn new(queues: Arc<Queues<EndpointId, DeliveryClaim>>, table: Arc<EndpointTable>, disable_after: Duration) -> Self {
        Self { queues, disable_after, inner: Mutex::new(Inner { table, throttles: HashMap::new(), unknown: HashMap::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the throttles")
    }

    /// Decides whether a delivery to the endpoint may be sent now.
    pub fn pass(&self, endpoint: &Arc<Endpoint>) -> Pass {
        let mut inner = self.lock();
        let throttle = inner.throttles.entry(endpoint.id).or_insert_with(|| Throttle::new(endpoint));
        if !Arc::ptr_eq(&throttle.endpoint, endpoint) {
            throttle.change(endpoint);
        }
        self.queues.set_width(&endpoint.id, Some(throttle.width()));
        let shut = matches!(throttle.breaker, Breaker::Open { .. }) || throttle.shut_until.is_some();
        if shut { Pass::Shut } else { Pass::Go(throttle.limiter.clone()) }
    }

    /// Closes an endpoint until its rate limit allows a webhook again.
    pub fn shut(&self, endpoint: EndpointId, until: Timestamp) {
        if let Some(throttle) = self.lock().throttles.get_mut(&endpoint) {
            throttle.shut_until = Some(until);
            self.queues.set_width(&endpoint, Some(throttle.width()));
        }
    }

    /// Stops claims for an endpoint that this node does not know, for a while or until the endpoint is known. Either another node
    /// has just created it, or it was deleted.
    pub fn shut_unknown(&self, endpoint: EndpointId, now: Timestamp) {
        self.lock().unknown.insert(endpoint, now.plus(UNKNOWN_FOR));
        self.queues.set_width(&endpoint, Some(Width::CLOSED));
    }

    /// Records the outcome of an attempt. `jitter` is in 0..1.
    pub fn note(&self, endpoint: EndpointId, outcome: AttemptOutcome, now: Timestamp, jitter: f64) -> Noted {
        let mut inner = self.lock();
        let Some(throttle) = inner.throttles.get_mut(&endpoint) else { return Noted::default() };
        let policy = &throttle.endpoint.new.policy;
        throttle.at_once = match outcome.status() {
            Some(_) => (throttle.at_once * 2).min(policy.concurrency),
            None => throttle.at_once.min(AT_ONCE_UNANSWERED),
        };
        let breaker = throttle.breaker.note(outcome.is_success(), &policy.breaker, now, jitter);
        self.queues.set_width(&endpoint, Some(throttle.width()));
        Noted { breaker, failing: throttle.note_failing(outcome.is_success(), now, self.disable_after) }
    }

    /// Opens throttles whose wait is over, and follows changes of the endpoints: a changed or resumed endpoint is tried at once.
    pub fn tick(&self, table: &Arc<EndpointTable>, now: Timestamp) {
        let mut inner = self.lock();
        let changed = !Arc::ptr_eq(&inner.table, table);
        if changed {
            inner.table = Arc::clone(table);
            inner.throttles.retain(|id, throttle| match table.get(*id) {
                Some(endpoint) => {
                    if !Arc::ptr_eq(&throttle.endpoint, endpoint) {
                        throttle.change(endpoint);
                    }
                    true
                }
                None => {
                    throttle.meters.breaker_open.set(0);
                    self.queues.set_width(id, None);
                    false
                }
            });
        }
        inner.unknown.retain(|id, until| {
            let shut = table.get(*id).is_none() && *until > now;
            if !shut {
                self.queues.set_width(id, None);
            }
            shut
        });
        for (id, throttle) in &mut inner.throttles {
            let probes = throttle.breaker.probe(now);
            let open = throttle.shut_until.is_some_and(|until| until <= now);
            if open {
                throttle.shut_until = None;
            }
            if probes || open || changed {
                self.queues.set_width(id, Some(throttle.width()));
            }
        }
    }
}

impl Standings for Throttles {
    fn standing(&self, endpoint: EndpointId) -> Option<Standing> {
        let inner = self.lock();
        let throttle = inner.throttles.get(&endpoint)?;
        let breaker = match throttle.breaker {
            Breaker::Open { until, wait } => Breaker::Open { until: clock::as_wall(until), wait },
            other => other,
        };
        let (rate_until, at_once) = (throttle.shut_until.map(clock::as_wall), throttle.width().concurrency);
        let (under_way, waiting) = self.queues.load_of(&endpoint);
        Some(Standing { breaker, rate_until, at_once, under_way, waiting })
    }
}

impl Throttle {
    fn new(endpoint: &Arc<Endpoint>) -> Self {
        Self {
            endpoint: Arc::clone(endpoint),
            meters: meters().endpoint(&endpoint.new.name),
            breaker: Breaker::default(),
            at_once: AT_ONCE_AT_FIRST.min(endpoint.new.policy.concurrency),
            limiter: endpoint.new.policy.rate.map(RateLimiter::new),
            shut_until: None,
            failing_since: endpoint.failing_since,
            failing_noted: endpoint.failing_since.is_some(),
        }
    }

    fn change(&mut self, endpoint: &Arc<Endpoint>) {
        let before = std::mem::replace(&mut self.endpoint, Arc::clone(endpoint));
        let (before, new) = (&before.new, &self.endpoint.new);
        if before.policy.rate != new.policy.rate {
            self.limiter = new.policy.rate.map(RateLimiter::new);
            self.shut_until = None;
        }
        if before.url != new.url || before.policy != new.policy || before.secrets != new.secrets || before.state != new.state {
            self.breaker = Breaker::default();
            self.at_once = AT_ONCE_AT_FIRST.min(new.policy.concurrency);
        }
        if before.state != new.state {
            self.failing_since = None;
        }
    }

    fn width(&self) -> Width {
        self.meters.breaker_open.set(i64::from(!matches!(self.breaker, Breaker::Closed { .. })));
        let policy = &self.endpoint.new.policy;
        match self.breaker {
            Breaker::Open { .. } => Width::CLOSED,
            _ if self.shut_until.is_some() => Width::CLOSED,
            Breaker::Probing { .. } => Width { concurrency: 1, slots: 1 },
            Breaker::Closed { .. } => {
                let at_once = self.at_once.min(policy.concurrency).max(1);
                let concurrency = if policy.ordering == Some(Ordering::Endpoint) { 1 } else { at_once };
                let slots = (concurrency * SLOTS_PER_SEND).max(SLOTS_MIN);
                let in_time = policy.rate.map_or(usize::MAX, |rate| rate.within(RATE_WAIT_MAX).max(1));
                Width { concurrency, slots: slots.min(in_time) }
            }
        }
    }

    fn note_failing(&mut self, success: bool, now: Timestamp, disable_after: Duration) -> Option<Failing> {
        if success {
            self.failing_since = None;
            return std::mem::take(&mut self.failing_noted).then_some(Failing::Over);
        }
        let since = *self.failing_since.get_or_insert(now);
        if now.since(since) >= disable_after {
            return Some(Failing::TooLong(since));
        }
        if !self.failing_noted && now.since(since) >= FAILING_NOTED_AFTER {
            self.failing_noted = true;
            return Some(Failing::Since(since));
        }
        None
    }
}

/// Spreads the webhooks to one endpoint over time.
pub struct RateLimiter {
    governor: DefaultDirectRateLimiter,
    /// A waiter holds this lock while it waits for the rate. So waiters are served in order, and only one timer runs at a time.
    queue: tokio::sync::Mutex<()>,
}

impl RateLimiter {
    fn new(rate: Rate) -> Arc<Self> {
        let burst = u32::try_from(rate.within(RATE_BURST)).ok().and_then(std::num::NonZeroU32::new);
        let quota = Quota::with_period(rate.interval()).expect("a rate has an interval");
        let governor = DefaultDirectRateLimiter::direct(quota.allow_burst(burst.unwrap_or(std::num::NonZeroU32::MIN)));
        Arc::new(Self { governor, queue: tokio::sync::Mutex::default() })
    }

    /// Waits until the rate allows another webhook.
    ///
    /// # Errors
    /// Returns the wait if it is longer than [`RATE_WAIT_MAX`].
    pub async fn wait(&self) -> Result<(), Duration> {
        let _first = self.queue.lock().await;
        loop {
            let Err(not_before) = self.governor.check() else { return Ok(()) };
            let wait = not_before.wait_time_from(DefaultClock::default().now());
            if wait > RATE_WAIT_MAX {
                return Err(wait);
            }
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Handoff;

    #[test]
    fn claims_nothing_for_an_unknown_endpoint_for_a_while() {
        let queues = Handoff::default().deliveries;
        let table = Arc::new(EndpointTable::new(Vec::new()));
        let throttles = Throttles::new(Arc::clone(&queues), Arc::clone(&table), Duration::MAX);
        let (crm, now) = (EndpointId::from_i64(7), Timestamp::from_millis(0));
        assert!(queues.room_for_stored(&crm) > 0);
        throttles.shut_unknown(crm, now);
        throttles.tick(&table, now.plus(UNKNOWN_FOR / 2));
        assert_eq!(queues.room_for_stored(&crm), 0);
        throttles.tick(&table, now.plus(UNKNOWN_FOR));
        assert!(queues.room_for_stored(&crm) > 0, "the endpoint may be known by now");
    }
}
