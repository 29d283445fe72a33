//! The gates: one per endpoint, between its deliveries and the wire. How many may be on their way at once, how fast, and whether any:
//! by the endpoint's policy, and by what its receiver has shown to bear.
//!
//! A gate starts narrow, widens with each answer and is almost closed by silence. Failures in a row close it for a while
//! ([`Breaker`]); then it lets one webhook at a time through to find out. While it is closed, what waits stays in the store, however
//! much that is: a receiver that is down costs one attempt now and then.

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
    domain::{
        breaker::{Breaker, Change},
        delivery::AttemptOutcome,
        endpoint::{Endpoint, Ordering},
        id::EndpointId,
        rate::Rate,
        routing::EndpointTable,
        time::Timestamp,
    },
    metrics::{EndpointMeters, meters},
    store::{DeliveryClaim, Lanes, Width},
};

/// Webhooks at once to a receiver of which nothing is known yet.
const AT_ONCE_AT_FIRST: usize = 8;
/// Webhooks at once to a receiver whose last attempt got no answer: enough to notice that it is back, too few to tie up connections.
const AT_ONCE_UNANSWERED: usize = 4;
/// Deliveries held in memory for each that may be on its way, and at least. Enough to keep the receiver busy until the store is asked again.
const PLACES_PER_SEND: usize = 16;
const PLACES_LEAST: usize = 64;
/// How long a delivery waits for its rate in memory: far less than its lease. Whoever must wait longer waits in the store.
pub const RATE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How much of a rate may come at once after a pause: too little to notice, enough to make up for a late timer.
const RATE_BURST: Duration = Duration::from_millis(100);
/// How long what is for an endpoint that is not known here is left to others.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
/// Failing is noted in the store once it has gone on for so long: receivers that fail now and then cost no writes.
const FAILING_NOTED_AFTER: Duration = Duration::from_secs(60);

/// All gates.
pub struct Gates {
    lanes: Arc<Lanes<EndpointId, DeliveryClaim>>,
    /// An endpoint is disabled after so long without a success.
    disable_after: Duration,
    inner: Mutex<Inner>,
}

struct Inner {
    /// The endpoints that the gates were last compared with.
    table: Arc<EndpointTable>,
    gates: HashMap<EndpointId, Gate>,
    /// Endpoints that are not in the table, and until when nothing is taken for them.
    unknown: HashMap<EndpointId, Timestamp>,
}

struct Gate {
    endpoint: Arc<Endpoint>,
    meters: Arc<EndpointMeters>,
    breaker: Breaker,
    at_once: usize,
    limiter: Option<Arc<Limiter>>,
    /// Its rate lets nothing through before.
    shut_until: Option<Timestamp>,
    failing_since: Option<Timestamp>,
    failing_noted: bool,
}

/// Whether a delivery may go.
pub enum Pass {
    /// Once the rate allows it, if there is one.
    Go(Option<Arc<Limiter>>),
    /// Not now.
    Shut,
}

/// What an attempt has changed about its endpoint.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Noted {
    pub breaker: Option<Change>,
    pub failing: Option<Failing>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Failing {
    /// Worth remembering over a restart.
    Since(Timestamp),
    Over,
    /// It has gone on for so long that the endpoint is to be disabled.
    TooLong(Timestamp),
}

impl Gates {
    pub fn new(lanes: Arc<Lanes<EndpointId, DeliveryClaim>>, table: Arc<EndpointTable>, disable_after: Duration) -> Self {
        Self { lanes, disable_after, inner: Mutex::new(Inner { table, gates: HashMap::new(), unknown: HashMap::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the gates")
    }

    /// Whether a delivery to the endpoint may go now.
    pub fn pass(&self, endpoint: &Arc<Endpoint>) -> Pass {
        let mut inner = self.lock();
        let gate = inner.gates.entry(endpoint.id).or_insert_with(|| Gate::new(endpoint));
        if !Arc::ptr_eq(&gate.endpoint, endpoint) {
            gate.change(endpoint);
        }
        self.lanes.set_width(&endpoint.id, Some(gate.width()));
        let shut = matches!(gate.breaker, Breaker::Open { .. }) || gate.shut_until.is_some();
        if shut { Pass::Shut } else { Pass::Go(gate.limiter.clone()) }
    }

    /// Its rate lets nothing through before `until`.
    pub fn shut(&self, endpoint: EndpointId, until: Timestamp) {
        if let Some(gate) = self.lock().gates.get_mut(&endpoint) {
            gate.shut_until = Some(until);
            self.lanes.set_width(&endpoint, Some(gate.width()));
        }
    }

    /// There is something for an endpoint that is not known here: another node has made it a moment ago, or it was deleted. Nothing more is
    /// taken for it before it is known, or for a while.
    pub fn shut_unknown(&self, endpoint: EndpointId, now: Timestamp) {
        self.lock().unknown.insert(endpoint, now.plus(UNKNOWN_FOR));
        self.lanes.set_width(&endpoint, Some(Width::CLOSED));
    }

    /// Takes note of how an attempt ended. `jitter` in 0..1.
    pub fn note(&self, endpoint: EndpointId, outcome: AttemptOutcome, now: Timestamp, jitter: f64) -> Noted {
        let mut inner = self.lock();
        let Some(gate) = inner.gates.get_mut(&endpoint) else { return Noted::default() };
        let policy = &gate.endpoint.new.policy;
        gate.at_once = match outcome.status() {
            Some(_) => (gate.at_once * 2).min(policy.concurrency),
            None => gate.at_once.min(AT_ONCE_UNANSWERED),
        };
        let breaker = gate.breaker.note(outcome.is_success(), &policy.breaker, now, jitter);
        self.lanes.set_width(&endpoint, Some(gate.width()));
        Noted { breaker, failing: gate.note_failing(outcome.is_success(), now, self.disable_after) }
    }

    /// Opens what has been closed long enough, and follows changes of the endpoints: one that was changed or resumed is tried at once.
    pub fn tick(&self, table: &Arc<EndpointTable>, now: Timestamp) {
        let mut inner = self.lock();
        let changed = !Arc::ptr_eq(&inner.table, table);
        if changed {
            inner.table = Arc::clone(table);
            inner.gates.retain(|id, gate| match table.get(*id) {
                Some(endpoint) => {
                    if !Arc::ptr_eq(&gate.endpoint, endpoint) {
                        gate.change(endpoint);
                    }
                    true
                }
                None => {
                    gate.meters.breaker_open.set(0);
                    self.lanes.set_width(id, None);
                    false
                }
            });
        }
        inner.unknown.retain(|id, until| {
            let shut = table.get(*id).is_none() && *until > now;
            if !shut {
                self.lanes.set_width(id, None);
            }
            shut
        });
        for (id, gate) in &mut inner.gates {
            let probes = gate.breaker.probe(now);
            let open = gate.shut_until.is_some_and(|until| until <= now);
            if open {
                gate.shut_until = None;
            }
            if probes || open || changed {
                self.lanes.set_width(id, Some(gate.width()));
            }
        }
    }
}

impl Gate {
    fn new(endpoint: &Arc<Endpoint>) -> Self {
        Self {
            endpoint: Arc::clone(endpoint),
            meters: meters().endpoint(&endpoint.new.name),
            breaker: Breaker::default(),
            at_once: AT_ONCE_AT_FIRST.min(endpoint.new.policy.concurrency),
            limiter: endpoint.new.policy.rate.map(Limiter::new),
            shut_until: None,
            failing_since: endpoint.failing_since,
            failing_noted: endpoint.failing_since.is_some(),
        }
    }

    fn change(&mut self, endpoint: &Arc<Endpoint>) {
        let before = std::mem::replace(&mut self.endpoint, Arc::clone(endpoint));
        let (before, new) = (&before.new, &self.endpoint.new);
        if before.policy.rate != new.policy.rate {
            self.limiter = new.policy.rate.map(Limiter::new);
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
            Breaker::Probing { .. } => Width { concurrency: 1, places: 1 },
            Breaker::Closed { .. } => {
                let at_once = self.at_once.min(policy.concurrency).max(1);
                let concurrency = if policy.ordering == Some(Ordering::Endpoint) { 1 } else { at_once };
                let places = (concurrency * PLACES_PER_SEND).max(PLACES_LEAST);
                let in_time = policy.rate.map_or(usize::MAX, |rate| rate.within(RATE_WAIT_MAX).max(1));
                Width { concurrency, places: places.min(in_time) }
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

/// Spreads the webhooks to one endpoint by its rate.
pub struct Limiter {
    governor: DefaultDirectRateLimiter,
    /// First come, first served, and one timer at a time.
    queue: tokio::sync::Mutex<()>,
}

impl Limiter {
    fn new(rate: Rate) -> Arc<Self> {
        let burst = u32::try_from(rate.within(RATE_BURST)).ok().and_then(std::num::NonZeroU32::new);
        let quota = Quota::with_period(rate.interval()).expect("a rate has an interval");
        let governor = DefaultDirectRateLimiter::direct(quota.allow_burst(burst.unwrap_or(std::num::NonZeroU32::MIN)));
        Arc::new(Self { governor, queue: tokio::sync::Mutex::default() })
    }

    /// Waits for its turn.
    ///
    /// # Errors
    /// It would have to wait for so long, which is more than [`RATE_WAIT_MAX`].
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
    fn nothing_is_taken_for_a_while_for_an_endpoint_that_is_not_known() {
        let lanes = Handoff::default().deliveries;
        let table = Arc::new(EndpointTable::new(Vec::new()));
        let gates = Gates::new(Arc::clone(&lanes), Arc::clone(&table), Duration::MAX);
        let (crm, now) = (EndpointId::from_i64(7), Timestamp::from_millis(0));
        assert!(lanes.room_for_stored(&crm) > 0);
        gates.shut_unknown(crm, now);
        gates.tick(&table, now.plus(UNKNOWN_FOR / 2));
        assert_eq!(lanes.room_for_stored(&crm), 0);
        gates.tick(&table, now.plus(UNKNOWN_FOR));
        assert!(lanes.room_for_stored(&crm) > 0, "it may be known by now");
    }
}
