//! The test bench of a case: a store that can crash, short helpers that receive handed-over work, and builders with default values
//! that a case overrides.

use std::{pin::pin, sync::Arc, task::Context, task::Poll, task::Waker, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    clock,
    domain::{
        content::Content,
        delivery::{Attempt, AttemptOutcome, DeadReason, InitialState, NewDelivery, Next, Payload},
        endpoint::{Endpoint, EndpointState, HeldSecret, NewEndpoint, Policy, Subscription},
        envelope::{Envelope, Format},
        event::{Event, EventState, NewEvent},
        id::{DeliveryId, EndpointId, EventId},
        name::{Attributes, EventType, Slug},
        plugin::{Digest, Way},
        recording::Recording,
        run::{
            AfterFailure, Effects, Execution, RunEnd, RunFailure, RunIdentity, RunLog, RunOutcome, RunRecord, StateRead,
            StateUse, StateWrite,
        },
        sent::SentAs,
        signature::{Scheme, Secret},
        time::Timestamp,
    },
    store::{
        AttemptRecord, DeliveryClaim, DeliveryFilter, DeliverySummary, EventClaim, EventFilter, EventStory, EventSummary,
        Handoff, LEASE, Lease, NewVersion, PageRequest, PluginRow, Queues, Recorded, RunClaim, Settled, Settlement, Settles,
        Store, StoryPlace,
    },
};

/// The place where an implementation stores its rows. It outlives the processes that open it.
#[async_trait]
pub trait Backing: Send + Sync {
    /// Opens the rows as they are now, as the next process does after a `kill -9`.
    async fn open(&self, handoff: Handoff) -> Arc<dyn Store>;

    /// Makes storing an event of type `poison` fail from now on, in the middle of its step.
    async fn refuse_poison(&self);

    /// Returns the number of endpoint rows, including deleted endpoints that are not yet forgotten.
    async fn endpoint_rows(&self) -> u64;

    /// Makes the row of an event unreadable.
    async fn spoil(&self, event: EventId);

    /// Returns an empty backing of the same kind.
    fn another(&self) -> Arc<dyn Backing>;
}

/// A store under test and the hand-off that it fills.
pub struct Bench {
    pub store: Arc<dyn Store>,
    pub handoff: Handoff,
    pub backing: Arc<dyn Backing>,
}

impl Bench {
    pub async fn on(backing: impl Backing + 'static) -> Self {
        Self::open(Arc::new(backing)).await
    }

    pub async fn open(backing: Arc<dyn Backing>) -> Self {
        let handoff = Handoff::default();
        Self { store: backing.open(handoff.clone()).await, handoff, backing }
    }

    /// Returns a bench on a new process, as if the present process were killed now. The claims and the memory of the killed process
    /// are lost.
    pub async fn after_a_crash(&self) -> Self {
        Self::open(Arc::clone(&self.backing)).await
    }

    // The following methods receive rows that were handed over.

    pub async fn events(&self) -> Vec<EventClaim> {
        self.handed_over().await;
        take_all(&self.handoff.events)
    }

    pub async fn runs(&self) -> Vec<RunClaim> {
        self.handed_over().await;
        take_all(&self.handoff.runs)
    }

    pub async fn deliveries(&self) -> Vec<DeliveryClaim> {
        self.handed_over().await;
        take_all(&self.handoff.deliveries)
    }

    /// Waits until the rows are handed over. This may happen after the answer to the caller, but always happens before the next
    /// commit.
    async fn handed_over(&self) {
        let _ = self.store.note_key_uses(Vec::new()).await;
    }

    /// Returns the one event that was handed over.
    pub async fn event(&self) -> EventClaim {
        one(self.events().await, "event")
    }

    pub async fn run(&self) -> RunClaim {
        one(self.runs().await, "run")
    }

    pub async fn delivery(&self) -> DeliveryClaim {
        one(self.deliveries().await, "delivery")
    }

    /// Asserts that nothing was handed over.
    pub async fn nothing(&self, why: &str) {
        let (events, runs, deliveries) = (self.events().await.len(), self.runs().await.len(), self.deliveries().await.len());
        assert_eq!((events, runs, deliveries), (0, 0, 0), "{why}");
    }

    /// Claims everything that is due now.
    pub async fn claim(&self) -> usize {
        self.claim_at(clock::steady()).await
    }

    pub async fn claim_at(&self, now: Timestamp) -> usize {
        let mut total = 0;
        loop {
            match self.store.claim_due(now).await.unwrap() {
                0 => return total,
                claimed => total += claimed,
            }
        }
    }

    // The following methods are steps that most cases begin with.

    /// Accepts one event and returns its claim.
    pub async fn accept(&self, event: NewEvent) -> EventClaim {
        self.store.accept(vec![event]).await.unwrap();
        self.event().await
    }

    pub async fn settle(&self, settlement: Settlement) -> Settled {
        one(self.settle_all(vec![settlement]).await, "answer")
    }

    pub async fn settle_all(&self, settlements: Vec<Settlement>) -> Vec<Settled> {
        self.store.settle(Arc::new(settlements)).await.unwrap()
    }

    /// Records an attempt; returns `false` if its lease was lost.
    pub async fn record(&self, record: AttemptRecord) -> bool {
        one(self.store.record_attempts(Arc::new(vec![record])).await.unwrap(), "answer") == Recorded::Done
    }

    pub async fn endpoint(&self, name: &str) -> EndpointId {
        self.store.create_endpoint(endpoint(name)).await.unwrap().id
    }

    pub async fn set(&self, id: EndpointId, state: EndpointState) {
        let now = self.find_endpoint(id).await.new.state;
        assert!(self.store.set_endpoint_state(id, &[now], state, None).await.unwrap());
    }

    pub async fn find_named(&self, name: &str) -> EndpointId {
        let all = self.store.endpoints().await.unwrap();
        all.into_iter().find(|endpoint| *endpoint.new.name == *name).expect("the endpoint exists").id
    }

    pub async fn find_endpoint(&self, id: EndpointId) -> Endpoint {
        self.store.endpoints().await.unwrap().into_iter().find(|endpoint| endpoint.id == id).expect("the endpoint exists")
    }

    /// Accepts an event that goes only to `endpoint`, and returns its delivery.
    pub async fn delivery_to(&self, endpoint: EndpointId) -> DeliveryClaim {
        let claim = self.accept(event("order.created")).await;
        let settlement = Settlement { direct: vec![direct(endpoint)], ..settlement(&claim) };
        assert_eq!(self.settle(settlement).await, Settled::Done);
        self.delivery().await
    }

    /// Accepts an event and settles it with `run`.
    pub async fn settled_with(&self, run: RunRecord) -> EventId {
        let claim = self.accept(event("order.created")).await;
        assert_eq!(self.settle(Settlement { runs: vec![run], ..settlement(&claim) }).await, Settled::Done);
        claim.event.id
    }

    /// Accepts an event with one delivery, and records an attempt with `next`.
    pub async fn finished(&self, endpoint: EndpointId, next: Next) -> DeliveryId {
        let claim = self.delivery_to(endpoint).await;
        assert!(self.record(attempt(&claim, next)).await);
        claim.id
    }

    // The following methods read the store.

    pub async fn story(&self, id: EventId) -> EventStory {
        let mut story = self.store.event(id, StoryPlace::default()).await.unwrap();
        while let Some(place) = story.next {
            let part = self.store.event(id, place).await.unwrap();
            story.runs.extend(part.runs);
            story.deliveries.extend(part.deliveries);
            story.emitted.extend(part.emitted);
            story.next = part.next;
        }
        story
    }

    pub async fn state_of(&self, id: EventId) -> EventState {
        self.story(id).await.parts.state()
    }

    /// Returns the state of a delivery and the number of its attempts.
    pub async fn state_and_attempts(&self, id: DeliveryId) -> (&'static str, u32) {
        let summary = self.store.delivery(id).await.unwrap().summary;
        (summary.state.as_str(), summary.attempts)
    }

    pub async fn list_events(&self, filter: EventFilter) -> Vec<EventSummary> {
        self.store.events(filter, PageRequest { cursor: None, limit: 1000 }).await.unwrap().items
    }

    pub async fn list_deliveries(&self, filter: DeliveryFilter) -> Vec<DeliverySummary> {
        self.store.deliveries(filter, PageRequest { cursor: None, limit: 1000 }).await.unwrap().items
    }

    pub async fn event_ids(&self, filter: EventFilter) -> Vec<EventId> {
        self.list_events(filter).await.into_iter().map(|summary| summary.event.id).collect()
    }

    pub async fn delivery_ids(&self, filter: DeliveryFilter) -> Vec<DeliveryId> {
        self.list_deliveries(filter).await.into_iter().map(|summary| summary.id).collect()
    }
}

/// Takes all items from the queues, without waiting for more.
fn take_all<K, T>(queues: &Arc<Queues<K, T>>) -> Vec<T>
where
    K: Eq + std::hash::Hash + Clone + std::fmt::Debug,
{
    let mut found = Vec::new();
    while let Poll::Ready((thing, _permit)) = pin!(queues.next()).poll(&mut Context::from_waker(Waker::noop())) {
        found.push(thing);
    }
    found
}

pub fn one<T>(mut found: Vec<T>, what: &str) -> T {
    assert_eq!(found.len(), 1, "exactly one {what}");
    found.remove(0)
}

// The following functions build values.

pub fn slug(name: &str) -> Slug {
    Slug::parse(name).unwrap()
}

/// Returns a version of a plugin, proposed now.
pub fn new_version(name: &str, version: &str) -> NewVersion {
    let file = format!("{name}, version {version}").into_bytes();
    let plugin = PluginRow {
        name: slug(name),
        version: Digest::of(&file),
        author_version: version.into(),
        description: format!("version {version}"),
        on: vec!["order.*".into()],
        file: format!("{name}.wasm"),
        bytes: file.len() as u64,
        config: std::collections::BTreeMap::new(),
        revision: 0,
        halt: None,
    };
    NewVersion { plugin, file, way: Way::File, by: "plugins".into(), at: clock::wall() }
}

pub fn event(event_type: &str) -> NewEvent {
    NewEvent {
        id: None,
        source: "shop".into(),
        event_type: EventType::parse(event_type).unwrap(),
        subject: None,
        time: None,
        content: Content::new("application/json", Bytes::from_static(br#"{"total": 7}"#)).unwrap(),
        attributes: Arc::new(Attributes::default()),
        depth: 0,
        cause: None,
        request: None,
    }
}

/// Returns an event with a sender's id.
pub fn event_with_id(source: &str, id: &str) -> NewEvent {
    NewEvent { id: Some(id.into()), source: source.into(), ..event("order.created") }
}

/// Returns an event that `cause` emits.
pub fn emitted(cause: &Event, event_type: &str) -> NewEvent {
    NewEvent { source: "plugin/p".into(), depth: cause.new.depth + 1, cause: Some(cause.id), ..event(event_type) }
}

pub fn endpoint(name: &str) -> NewEndpoint {
    NewEndpoint {
        name: slug(name),
        title: None,
        url: format!("https://{name}.example/hook"),
        subscription: Subscription::default(),
        plugin: None,
        scheme: Scheme::V1,
        secrets: vec![HeldSecret { secret: Secret::from_seed(Scheme::V1, [7; 32]), until: None }],
        policy: Policy::default(),
        state: EndpointState::Active,
    }
}

/// Returns a settlement without effects. A case adds runs and direct deliveries.
pub fn settlement(claim: &EventClaim) -> Settlement {
    let settles = Settles::Event { id: claim.event.id, round: claim.round, lease: claim.lease };
    Settlement { settles, event: Arc::clone(&claim.event), runs: Vec::new(), direct: Vec::new() }
}

/// Returns a settlement of a deferred run.
pub fn run_settlement(claim: &RunClaim, record: RunRecord) -> Settlement {
    let settles = Settles::Run { id: claim.id, round: claim.round, lease: claim.lease };
    let identity = RunIdentity { id: Some(claim.id), plugin: claim.plugin.clone(), tries_before: claim.tries, ..record.identity };
    let record = RunRecord { identity, ..record };
    Settlement { settles, event: Arc::clone(&claim.event), runs: vec![record], direct: Vec::new() }
}

pub fn identity(plugin: &str) -> RunIdentity {
    RunIdentity { id: None, plugin: slug(plugin), endpoint: None, tries_before: 0 }
}

pub fn execution(plugin: &str) -> Execution {
    Execution {
        version: Digest::of(plugin.as_bytes()),
        took: Duration::from_micros(20),
        memory_peak: 1 << 16,
        log: RunLog::default(),
        recording: Recording::default(),
        backtrace: Arc::default(),
    }
}

/// Returns a run that ended `ok` without effects.
pub fn ran(plugin: &str) -> RunRecord {
    ran_with(plugin, Effects::default())
}

/// Returns a run that ended `ok` with these effects.
pub fn ran_with(plugin: &str, effects: Effects) -> RunRecord {
    identity(plugin).ok(execution(plugin), effects)
}

/// Returns a run that ended with `outcome` and was parked.
pub fn parked(plugin: &str, outcome: RunOutcome) -> RunRecord {
    identity(plugin).parked(Some(execution(plugin)), failure(outcome), None)
}

/// Returns a run that was parked because the endpoint `name` does not exist.
pub fn parked_for(plugin: &str, name: &str) -> RunRecord {
    identity(plugin).parked(Some(execution(plugin)), failure(RunOutcome::BadOutput), Some(name.into()))
}

/// Returns a run that failed and is due again at `due`.
pub fn waiting(plugin: &str, due: Timestamp) -> RunRecord {
    let (execution, failure) = (Some(execution(plugin)), failure(RunOutcome::Failed));
    RunRecord { identity: identity(plugin), end: RunEnd::Failed { execution, failure, then: AfterFailure::Again { due } } }
}

pub fn failure(outcome: RunOutcome) -> RunFailure {
    RunFailure { outcome, code: "broken".into(), message: "it broke".into(), retryable: false }
}

/// Returns effects that only use state: keys and versions that were read, keys and values that were written.
pub fn state_effects(reads: &[(&str, i64)], writes: &[(&str, Option<&[u8]>)]) -> Effects {
    Effects { state_use: state_use(reads, writes), ..Effects::default() }
}

/// Returns a use of state: keys and versions that were read, keys and values that were written.
pub fn state_use(reads: &[(&str, i64)], writes: &[(&str, Option<&[u8]>)]) -> StateUse {
    StateUse {
        reads: reads.iter().map(|(key, version)| StateRead { key: (*key).to_owned(), version: *version }).collect(),
        writes: writes
            .iter()
            .map(|(key, value)| StateWrite { key: (*key).to_owned(), value: value.map(<[u8]>::to_vec), expires_at: None })
            .collect(),
    }
}

/// Returns a delivery of a direct subscription.
pub fn direct(endpoint: EndpointId) -> NewDelivery {
    NewDelivery { endpoint, payload: None, initial_state: InitialState::Due, ordering: None }
}

/// Returns a delivery of a webhook that a plugin made.
pub fn webhook(endpoint: EndpointId, body: &str) -> NewDelivery {
    NewDelivery { payload: Some(Arc::new(payload(body))), ..direct(endpoint) }
}

pub fn payload(body: &str) -> Payload {
    Payload {
        event_type: Some(EventType::parse("order.webhook").unwrap()),
        content_type: "text/plain".into(),
        headers: vec![("x-shop".into(), "seven".into())],
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

/// Returns the next attempt of a claimed delivery, with an answer that fits `next`.
pub fn attempt(claim: &DeliveryClaim, next: Next) -> AttemptRecord {
    let status = match next {
        Next::Delivered => 204,
        Next::Retry { .. } => 500,
        Next::Dead(DeadReason::Gone) => 410,
        Next::Dead(_) => 502,
    };
    let attempt = Attempt {
        at: clock::wall(),
        outcome: AttemptOutcome::Answered { status },
        latency: Duration::from_micros(1500),
        detail: None,
        excerpt: Bytes::from_static(b"hello"),
        retry_after: None,
    };
    AttemptRecord {
        delivery: claim.id,
        endpoint: claim.endpoint,
        lease: claim.lease,
        n: claim.attempts + 1,
        attempt,
        sent: SentAs {
            url: "https://crm.example/hook".into(),
            scheme: Scheme::default(),
            token_header: None,
            envelope: Envelope::default(),
            format: Format::default(),
            headers: vec![],
        },
        next,
        notices: vec![],
    }
}

/// Returns a retry that is due in `seconds`.
pub fn retry_in(seconds: u64) -> Next {
    Next::Retry { due: soon(seconds) }
}

/// Returns the reading of the steady clock `seconds` from now.
pub fn soon(seconds: u64) -> Timestamp {
    clock::steady().plus(Duration::from_secs(seconds))
}

/// Returns an instant after the end of every lease issued so far.
pub fn after_leases() -> Timestamp {
    clock::steady().plus(LEASE + Duration::from_secs(1))
}

/// Returns a lease that the store never issued.
pub fn made_up(lease: Lease) -> Lease {
    Lease { token: lease.token + 1_000_000, ..lease }
}
