//! The workers, step by step: accept → run → settle → send → record, on a SQLite store in a temporary folder and with scripted
//! receivers. The tests start no process, open no socket and never wait for a clock.

use std::{
    collections::VecDeque,
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use support::guests;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::{
    acceptor::Acceptor,
    batches::{Batches, Step, Writer},
    claimer::{self, Wait},
    maintenance::{self, Maintenance},
    recorder::{Recorder, Recording},
    reports::Reports,
    runner::Runner,
    sender::{Done, Exchange, Sender},
    settler::{Held, Settler, Settling},
    throttle::Throttles,
};
use crate::{
    catalog::{Catalog, CatalogOptions, FileCache, Folder, Keys},
    clock,
    domain::{
        breaker::BreakerRule,
        delivery::{Attempt, AttemptOutcome, DeadReason, Next},
        endpoint::{DisabledReason, EndpointState, NewEndpoint, OnGone, Policy, Subscription},
        event::{EventState, NewEvent},
        id::{EndpointId, EventId},
        pattern::Pattern,
        plugin::Way,
        retention::Retention,
        retry::Schedule,
        run::{Effects, RunOutcome, RunState},
    },
    news::Feed,
    outbound::Request,
    sandbox::{Limits, Sandbox},
    store::{
        Accept as _, Accepted, ClaimId, Deletion, EarlyRun, EventFilter, Settlement, SqliteBacking, StoredRun, VersionLimits,
        conformance::bench::{
            Bench, direct, emitted, endpoint, event, identity, one, ran_with, run_settlement, settlement, slug, state_effects,
        },
    },
    traces::Traces,
};

mod instructions;

/// Receivers that first give the answers of a script, and then always answer `204`.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<AttemptOutcome>>,
    sent: Mutex<Vec<Request>>,
}

impl Exchange for Script {
    async fn send(&self, request: Request) -> Attempt {
        self.sent.lock().unwrap().push(request);
        let outcome = self.answers.lock().unwrap().pop_front().unwrap_or(AttemptOutcome::Answered { status: 204 });
        Attempt {
            at: clock::wall(),
            outcome,
            latency: Duration::from_millis(1),
            detail: None,
            excerpt: Bytes::new(),
            retry_after: None,
        }
    }
}

/// The workers on an empty store; each test calls their steps.
struct Workers {
    bench: Bench,
    catalog: Arc<Catalog>,
    folder: tempfile::TempDir,
    acceptor: Acceptor,
    runner: Arc<Runner>,
    settler: Settler,
    to_settle: UnboundedReceiver<Settling>,
    sender: Sender<Script>,
    script: Arc<Script>,
    recorder: Recorder,
    to_record: UnboundedReceiver<Recording>,
    maintenance: Maintenance,
    stop: CancellationToken,
}

impl Workers {
    async fn new() -> Self {
        let bench = Bench::on(SqliteBacking::empty()).await;
        let (store, handoff) = (Arc::clone(&bench.store), bench.handoff.clone());
        let folder = tempfile::tempdir().unwrap();
        let cache = FileCache::open(folder.path().join("cache")).unwrap();
        let plugins = folder.path().join("plugins");
        fs::create_dir(&plugins).unwrap();
        let options = CatalogOptions { folder: plugins, way: Way::File, versions: VersionLimits::default() };
        let catalog =
            Catalog::new(Arc::clone(&store), Sandbox::in_process(), cache, Feed::default(), options, Arc::clone(&handoff.runs))
                .await
                .unwrap();
        let (settlements, to_settle) = unbounded_channel();
        let (attempts, to_record) = unbounded_channel();
        let stop = CancellationToken::new();
        let runner = Arc::new(Runner {
            store: Arc::clone(&store),
            handoff: handoff.clone(),
            catalog: Arc::clone(&catalog),
            limits: Limits::default(),
            quarantine: 10,
            runtime: tokio::runtime::Handle::current(),
            traces: Traces::default(),
            settlements,
            stop: stop.clone(),
        });
        let reports = Arc::new(Reports::new(Arc::clone(&store), Arc::clone(&catalog), Feed::default()));
        let acceptor = Acceptor {
            store: Arc::clone(&store),
            handoff: handoff.clone(),
            catalog: Arc::clone(&catalog),
            feed: Feed::default(),
            reports: Arc::clone(&reports),
            works: true,
        };
        let settler = Settler { store: Arc::clone(&store), catalog: Arc::clone(&catalog), reports };
        let script = Arc::<Script>::default();
        let disable_after = Duration::from_secs(3600);
        let sender = Sender {
            store: Arc::clone(&store),
            handoff: handoff.clone(),
            catalog: Arc::clone(&catalog),
            exchange: Arc::clone(&script),
            traces: Traces::default(),
            attempts,
            throttles: Arc::new(Throttles::new(Arc::clone(&handoff.deliveries), catalog.endpoints(), disable_after)),
        };
        let recorder = Recorder::new(Arc::clone(&store), Arc::clone(&catalog), Feed::default(), Traces::default());
        let keys = Arc::new(Keys::new(Arc::clone(&store)).await.unwrap());
        let maintenance = Maintenance::new(store, keys, Retention::default(), None, stop.clone());
        Self {
            bench,
            catalog,
            folder,
            acceptor,
            runner,
            settler,
            to_settle,
            sender,
            script,
            recorder,
            to_record,
            maintenance,
            stop,
        }
    }

    /// Creates an endpoint that subscribes to `order.*`.
    async fn endpoint(&self, name: &str, policy: Policy) -> EndpointId {
        self.create(NewEndpoint { policy, ..subscriber(name) }).await
    }

    async fn create(&self, new: NewEndpoint) -> EndpointId {
        let id = self.bench.store.create_endpoint(new).await.unwrap().id;
        self.catalog.refresh_endpoints().await.unwrap();
        id
    }

    /// Loads a guest as a plugin that runs on these event types. Loading needs a runtime with several threads.
    async fn plugin(&self, guest: &str, on: &str) {
        let file = self.folder.path().join("plugins").join(format!("{guest}.wasm"));
        fs::write(file, guests::build(guest, guest, &[on])).unwrap();
        self.catalog.scan(&mut Folder::default()).await.unwrap();
        self.catalog.follow().await.unwrap();
        assert!(self.catalog.plugins().get(guest).is_some(), "{guest} loads");
    }

    async fn accept(&self, new: NewEvent) -> EventId {
        one(self.bench.store.accept(vec![new]).await.unwrap(), "event").id()
    }

    /// Accepts events as the API does, while `runs` threads take the events that are handed over.
    async fn submit(&self, events: Vec<NewEvent>, runs: usize) -> Vec<EventId> {
        let taking = async {
            for _ in 0..runs {
                let (claim, _permit) = self.bench.handoff.events.next().await;
                let runner = Arc::clone(&self.runner);
                tokio::task::spawn_blocking(move || runner.process(claim)).await.unwrap();
            }
        };
        let (accepted, ()) = tokio::join!(self.acceptor.accept(events), taking);
        accepted.unwrap().into_iter().map(Accepted::id).collect()
    }

    /// Makes a plugin fast. The engine measures the pace of a plugin, which depends on how busy the machine is.
    fn make_fast(&self, plugin: &str) {
        let entry = Arc::clone(self.catalog.plugins().get(plugin).unwrap());
        (0..100).for_each(|_| entry.pace.note(Duration::ZERO));
    }

    /// Runs all events that are handed over and settles them.
    async fn run_events(&mut self) -> Vec<Step> {
        for claim in self.bench.events().await {
            let runner = Arc::clone(&self.runner);
            tokio::task::spawn_blocking(move || runner.process(claim)).await.unwrap();
        }
        self.settle().await
    }

    /// Claims all due runs, runs them one by one and settles each.
    async fn run_deferred(&mut self) -> usize {
        self.bench.claim().await;
        let mut count = 0;
        while !self.bench.handoff.runs.is_empty() {
            let (claim, permit) = self.bench.handoff.runs.next().await;
            let runner = Arc::clone(&self.runner);
            let run = move || {
                let (settlement, held) = runner.run_claim(claim, &Arc::new(permit), &Arc::default());
                runner.settle(settlement, held);
            };
            tokio::task::spawn_blocking(run).await.unwrap();
            self.settle().await;
            count += 1;
        }
        count
    }

    async fn settle(&mut self) -> Vec<Step> {
        steps(&mut self.settler, &mut self.to_settle).await
    }

    /// Sends all deliveries that are handed over and records the attempts.
    async fn send(&mut self) -> (Vec<Done>, Vec<Step>) {
        let mut done = Vec::new();
        for claim in self.bench.deliveries().await {
            let permit = self.sender.permit(&claim);
            done.push(self.sender.step(claim, permit, &self.stop).await);
        }
        (done, steps(&mut self.recorder, &mut self.to_record).await)
    }

    fn answer(&self, statuses: &[u16]) {
        let outcomes = statuses.iter().map(|status| AttemptOutcome::Answered { status: *status });
        self.script.answers.lock().unwrap().extend(outcomes);
    }

    fn sent(&self) -> usize {
        self.script.sent.lock().unwrap().len()
    }

    async fn run_of(&self, event: EventId) -> StoredRun {
        one(self.bench.story(event).await.runs, "run")
    }

    /// Returns the types of the operational events that were handed over.
    async fn notices(&self) -> Vec<String> {
        let types = self.bench.events().await.into_iter().map(|claim| claim.event.new.event_type.to_string());
        types.filter(|one| one.starts_with("innesco.")).collect()
    }
}

/// Writes everything that is queued. Takes at most 20 steps: if a batch never passes, the test fails.
async fn steps<W: Writer>(writer: &mut W, queue: &mut UnboundedReceiver<W::Item>) -> Vec<Step> {
    let mut batches = Batches::default();
    while let Ok(item) = queue.try_recv() {
        let bytes = W::bytes(&item);
        batches.push(item, bytes);
    }
    let mut steps = Vec::new();
    while !batches.is_empty() {
        assert!(steps.len() < 20, "it did not end after 20 steps: {steps:?}");
        steps.push(writer.step(&mut batches).await);
    }
    steps
}

const fn committed(done: usize, dropped: usize, amended: usize) -> Step {
    Step::Committed { done, dropped, amended }
}

fn subscriber(name: &str) -> NewEndpoint {
    let events = vec![Pattern::parse("order.*").unwrap()];
    NewEndpoint { subscription: Subscription { events, conditions: Vec::new() }, ..endpoint(name) }
}

#[tokio::test]
async fn an_event_goes_from_acceptance_to_a_recorded_attempt() {
    let mut workers = Workers::new().await;
    workers.endpoint("crm", Policy::default()).await;
    let id = workers.accept(event("order.created")).await;
    assert_eq!(workers.run_events().await, [committed(1, 0, 0)]);
    assert_eq!(workers.send().await, (vec![Done::Attempted(Next::Delivered)], vec![committed(1, 0, 0)]));
    let delivery = one(workers.bench.story(id).await.deliveries, "delivery");
    assert_eq!((delivery.summary.state.as_str(), delivery.summary.attempts), ("delivered", 1));
    assert_eq!(workers.script.sent.lock().unwrap()[0].url.as_str(), "https://crm.example/hook");
}

#[tokio::test]
async fn an_event_without_subscribers_is_unrouted() {
    let mut workers = Workers::new().await;
    workers.endpoint("crm", Policy::default()).await;
    let id = workers.accept(event("ticket.opened")).await;
    assert_eq!(workers.run_events().await, [committed(1, 0, 0)]);
    assert_eq!(workers.bench.state_of(id).await, EventState::Unrouted);
}

#[tokio::test]
async fn an_event_without_plugins_is_settled_in_the_commit_that_stores_it() {
    let mut workers = Workers::new().await;
    workers.endpoint("crm", Policy::default()).await;
    let ids = workers.submit(vec![event("order.created"), event("ticket.opened")], 0).await;
    assert!(workers.bench.events().await.is_empty(), "no event waits for a thread");
    assert_eq!(workers.send().await, (vec![Done::Attempted(Next::Delivered)], vec![committed(1, 0, 0)]));
    let states = [workers.bench.state_of(ids[0]).await, workers.bench.state_of(ids[1]).await];
    assert_eq!(states, [EventState::Delivered, EventState::Unrouted]);
}

#[tokio::test]
async fn a_request_with_very_many_deliveries_is_settled_by_the_settler() {
    let mut workers = Workers::new().await;
    for name in ["crm", "slack"] {
        workers.endpoint(name, Policy::default()).await;
    }
    workers.submit((0..70).map(|_| event("order.created")).collect(), 0).await;
    assert_eq!(workers.bench.handoff.deliveries.len(), 128, "64 events are settled with their commit");
    assert_eq!(workers.run_events().await, [committed(6, 0, 0)]);
    assert_eq!(workers.bench.handoff.deliveries.len(), 140);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_runs_before_its_event_is_stored_and_both_are_stored_together() {
    let mut workers = Workers::new().await;
    workers.create(endpoint("receiver")).await;
    workers.plugin("echo", "order.*").await;
    workers.make_fast("echo");
    let id = one(workers.submit(vec![event("order.created")], 1).await, "event");
    assert_eq!(workers.run_of(id).await.state, RunState::Done);
    assert_eq!(workers.settle().await, [], "the settler has nothing to do");
    assert!(workers.bench.handoff.events.is_empty(), "the event has left its place");
    assert_eq!(workers.send().await.0, [Done::Attempted(Next::Delivered)]);
    assert_eq!(workers.bench.state_of(id).await, EventState::Delivered);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_runs_take_long_is_stored_first() {
    let mut workers = Workers::new().await;
    workers.create(endpoint("receiver")).await;
    workers.plugin("echo", "order.*").await;
    workers.make_fast("echo");
    let id = one(workers.submit(vec![event("order.created")], 0).await, "event");
    let events = workers.bench.handoff.events.len();
    assert_eq!((events, workers.bench.state_of(id).await), (2, EventState::Waiting), "no thread was free");
    workers.run_events().await;
    assert_eq!(workers.send().await.0, [Done::Attempted(Next::Delivered)], "the event is run once");
    assert_eq!(workers.bench.event_ids(EventFilter::default()).await, [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_run_that_fails_is_stored_with_its_event_and_reported_once() {
    let workers = Workers::new().await;
    workers.plugin("echo", "order.*").await;
    workers.make_fast("echo");
    let id = one(workers.submit(vec![event("order.created")], 1).await, "event");
    assert_eq!(workers.bench.state_of(id).await, EventState::Failed, "the request waits for no other run");
    let parked = workers.run_of(id).await;
    assert_eq!((parked.state, parked.tries, parked.code.as_deref()), (RunState::Parked, 1, Some("unknown_endpoint")));
    assert_eq!(workers.notices().await, ["innesco.plugin.failed"]);
}

#[tokio::test]
async fn results_that_the_database_refuses_do_not_prevent_the_acceptance() {
    let workers = Workers::new().await;
    workers.create(NewEndpoint { plugin: Some(slug("nowhere")), ..subscriber("crm") }).await;
    workers.bench.backing.refuse_poison().await;
    let running = async {
        let (mut claim, _permit) = workers.bench.handoff.events.next().await;
        let run = ran_with("p", Effects { emitted: vec![emitted(&claim.event, "poison")], ..Effects::default() });
        let settlement = Settlement { runs: vec![run], ..settlement(&claim) };
        let room = workers.bench.handoff.outcomes.reserve(1).await.unwrap();
        let answer = claim.caller.take().unwrap().keep().unwrap();
        workers.bench.store.accept_run(EarlyRun { settlement, slot: claim.slot, room }, answer);
    };
    let (accepted, ()) = tokio::join!(workers.acceptor.accept(vec![event("order.created")]), running);
    let id = one(accepted.unwrap(), "event").id();
    assert_eq!(workers.bench.state_of(id).await, EventState::Waiting);
    assert_eq!(workers.bench.event().await.event.id, id, "it is run after its acceptance");
    assert_eq!(workers.bench.event_ids(EventFilter::default()).await, [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_run_of_a_plugin_is_deferred_and_the_next_runs_with_its_event() {
    let mut workers = Workers::new().await;
    workers.create(endpoint("receiver")).await;
    workers.plugin("echo", "order.*").await;
    let first = workers.accept(event("order.created")).await;
    workers.run_events().await;
    let deferred = workers.run_of(first).await;
    assert!(matches!(deferred.state, RunState::Waiting { .. }), "{deferred:?}");
    assert_eq!((deferred.outcome, deferred.tries, deferred.version), (None, 0, None));
    assert_eq!(workers.run_deferred().await, 1);
    let ended = workers.run_of(first).await;
    assert_eq!((ended.state, ended.outcome, ended.tries), (RunState::Done, Some(RunOutcome::Ok), 1));
    assert_eq!(workers.send().await.0, [Done::Attempted(Next::Delivered)]);

    workers.make_fast("echo");
    let second = workers.accept(event("order.created")).await;
    workers.run_events().await;
    assert_eq!(workers.run_of(second).await.state, RunState::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_endpoint_parks_the_run_until_it_is_created() {
    let mut workers = Workers::new().await;
    workers.plugin("echo", "order.*").await;
    let id = workers.accept(event("order.created")).await;
    workers.run_events().await;
    workers.run_deferred().await;
    let parked = workers.run_of(id).await;
    assert_eq!((parked.state, parked.code.as_deref()), (RunState::Parked, Some("unknown_endpoint")));
    assert_eq!(workers.bench.state_of(id).await, EventState::Failed);
    assert_eq!(workers.notices().await, ["innesco.plugin.failed"]);

    workers.create(endpoint("receiver")).await;
    let done = workers.maintenance.step(clock::steady(), clock::wall()).await.unwrap();
    assert_eq!(done, maintenance::Done { requeued: 1, ..maintenance::Done::default() });
    assert_eq!(workers.run_deferred().await, 1);
    let ended = workers.run_of(id).await;
    assert_eq!((ended.state, ended.tries), (RunState::Done, 2));
    assert_eq!(workers.send().await.0, [Done::Attempted(Next::Delivered)]);
}

#[tokio::test]
async fn an_unknown_plugin_parks_the_run_and_the_other_deliveries_leave() {
    let mut workers = Workers::new().await;
    workers.create(NewEndpoint { plugin: Some(slug("nowhere")), ..subscriber("crm") }).await;
    workers.endpoint("slack", Policy::default()).await;
    let id = workers.accept(event("order.created")).await;
    assert_eq!(workers.run_events().await, [committed(1, 0, 0)]);
    let run = workers.run_of(id).await;
    assert_eq!((run.state, run.outcome, run.endpoint.as_deref()), (RunState::Parked, Some(RunOutcome::NotLoadable), Some("crm")));
    assert_eq!(workers.send().await.0, [Done::Attempted(Next::Delivered)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_endpoint_was_deleted_is_parked_and_never_runs_without_it() {
    let mut workers = Workers::new().await;
    let crm = workers.create(NewEndpoint { plugin: Some(slug("echo")), ..subscriber("crm") }).await;
    workers.plugin("echo", "ticket.*").await;
    let id = workers.accept(event("order.created")).await;
    workers.run_events().await;
    workers.bench.store.delete_endpoint(crm, Deletion::Forced, None).await.unwrap();
    workers.catalog.refresh_endpoints().await.unwrap();
    for tries in 1..=2 {
        assert_eq!(workers.run_deferred().await, 1);
        let run = workers.run_of(id).await;
        assert_eq!((run.state, run.outcome, run.tries), (RunState::Parked, Some(RunOutcome::NotLoadable), tries));
        let requeued = workers.bench.store.requeue_not_loadable(&slug("echo"), clock::steady()).await.unwrap();
        assert_eq!(requeued, 1);
    }
}

#[tokio::test]
async fn a_failing_delivery_is_retried_and_then_dead() {
    let mut workers = Workers::new().await;
    let schedule = Schedule::new(vec![Duration::ZERO, Duration::ZERO]).unwrap();
    workers.endpoint("crm", Policy { schedule: Some(Arc::new(schedule)), ..Policy::default() }).await;
    workers.answer(&[500, 503]);
    let id = workers.accept(event("order.created")).await;
    workers.run_events().await;
    let (first, _) = workers.send().await;
    assert!(matches!(first[..], [Done::Attempted(Next::Retry { .. })]), "{first:?}");
    workers.bench.claim().await;
    assert_eq!(workers.send().await.0, [Done::Attempted(Next::Dead(DeadReason::Exhausted))]);
    assert_eq!(workers.notices().await, ["innesco.delivery.dead"]);
    let delivery = one(workers.bench.story(id).await.deliveries, "delivery");
    assert_eq!((delivery.summary.state.as_str(), delivery.attempts.len()), ("dead", 2));
}

#[tokio::test]
async fn an_endpoint_that_answers_410_is_disabled_or_removed() {
    for (on_gone, notice) in [(OnGone::Disable, "innesco.endpoint.disabled"), (OnGone::Remove, "innesco.endpoint.removed")] {
        let mut workers = Workers::new().await;
        let crm = workers.endpoint("crm", Policy { on_gone, ..Policy::default() }).await;
        workers.answer(&[410]);
        workers.accept(event("order.created")).await;
        workers.run_events().await;
        assert_eq!(workers.send().await.0, [Done::Attempted(Next::Dead(DeadReason::Gone))]);
        let state = workers.catalog.endpoints().get(crm).map(|endpoint| endpoint.new.state);
        let expected = (on_gone == OnGone::Disable).then_some(EndpointState::Disabled(DisabledReason::Gone));
        assert_eq!(state, expected);
        assert!(workers.notices().await.iter().any(|one| one == notice), "{notice}");
    }
}

#[tokio::test]
async fn an_open_breaker_releases_the_waiting_deliveries() {
    let mut workers = Workers::new().await;
    let breaker = BreakerRule { failures: 1, wait: Duration::from_secs(60), wait_max: Duration::from_secs(60) };
    workers.endpoint("crm", Policy { breaker, ..Policy::default() }).await;
    workers.answer(&[500]);
    for _ in 0..3 {
        workers.accept(event("order.created")).await;
    }
    workers.run_events().await;
    let (done, _) = workers.send().await;
    assert!(matches!(done[..], [Done::Attempted(Next::Retry { .. }), Done::Released, Done::Released]), "{done:?}");
    assert_eq!(workers.sent(), 1, "a receiver that is down gets one attempt");
    assert_eq!(workers.notices().await, ["innesco.endpoint.failing"]);
    assert_eq!(workers.bench.claim().await, 0, "the queue of the endpoint is closed");
}

#[tokio::test]
async fn a_disabled_endpoint_gets_nothing_and_maintenance_ends_its_deliveries() {
    let mut workers = Workers::new().await;
    let crm = workers.endpoint("crm", Policy::default()).await;
    let id = workers.accept(event("order.created")).await;
    workers.run_events().await;
    workers.bench.set(crm, EndpointState::Disabled(DisabledReason::Gone)).await;
    workers.catalog.refresh_endpoints().await.unwrap();
    assert_eq!(workers.send().await, (vec![Done::Released], vec![]));
    assert_eq!(workers.sent(), 0);
    let done = workers.maintenance.step(clock::steady(), clock::wall()).await.unwrap();
    assert_eq!(done.closed, 1);
    assert_eq!(one(workers.bench.story(id).await.deliveries, "delivery").summary.state.as_str(), "dead");
}

#[tokio::test]
async fn a_paused_endpoint_waits_and_a_deleted_one_cancels() {
    let mut workers = Workers::new().await;
    let (crm, slack) = (workers.endpoint("crm", Policy::default()).await, workers.endpoint("slack", Policy::default()).await);
    for endpoint in [crm, slack] {
        workers.bench.set(endpoint, EndpointState::Paused).await;
    }
    workers.catalog.refresh_endpoints().await.unwrap();
    let id = workers.accept(event("order.created")).await;
    workers.run_events().await;
    workers.bench.claim().await;
    assert_eq!(workers.send().await, (vec![], vec![]), "both wait in the store");

    workers.bench.store.delete_endpoint(slack, Deletion::Forced, None).await.unwrap();
    workers.bench.set(crm, EndpointState::Active).await;
    workers.catalog.refresh_endpoints().await.unwrap();
    assert_eq!(workers.maintenance.step(clock::steady(), clock::wall()).await.unwrap().closed, 1);
    workers.bench.claim().await;
    assert_eq!(workers.send().await.0, [Done::Attempted(Next::Delivered)]);
    let deliveries = workers.bench.story(id).await.deliveries;
    let mut ends: Vec<_> =
        deliveries.iter().map(|one| (one.summary.endpoint_name.as_str(), one.summary.state.as_str())).collect();
    ends.sort_unstable();
    assert_eq!(ends, [("crm", "delivered"), ("slack", "cancelled")]);
}

#[tokio::test]
async fn an_attempt_whose_claim_was_lost_is_dropped() {
    let mut workers = Workers::new().await;
    workers.endpoint("crm", Policy::default()).await;
    let id = workers.accept(event("order.created")).await;
    workers.run_events().await;
    let claim = workers.bench.delivery().await;
    workers.bench.store.cancel_delivery(claim.id, clock::wall()).await.unwrap();
    let permit = workers.sender.permit(&claim);
    workers.sender.step(claim, permit, &workers.stop).await;
    assert_eq!(steps(&mut workers.recorder, &mut workers.to_record).await, [committed(0, 1, 0)]);
    assert_eq!(one(workers.bench.story(id).await.deliveries, "delivery").summary.state.as_str(), "cancelled");
}

#[tokio::test]
async fn a_result_that_the_store_refuses_is_deferred_and_the_rest_of_its_event_takes_effect() {
    let mut workers = Workers::new().await;
    workers.bench.backing.refuse_poison().await;
    let crm = workers.endpoint("crm", Policy::default()).await;
    let (bad, good) = (workers.accept(event("ticket.a")).await, workers.accept(event("order.created")).await);
    let mut settlements = Vec::new();
    for claim in workers.bench.events().await {
        let mut asked = settlement(&claim);
        asked.direct = vec![direct(crm)];
        if claim.event.id == bad {
            let effects = Effects { emitted: vec![emitted(&claim.event, "poison")], ..Effects::default() };
            asked.runs = vec![ran_with("p", effects)];
        }
        settlements.push((asked, Held::Event(claim.slot)));
    }
    let runner = Arc::clone(&workers.runner);
    let pass_on = move || settlements.into_iter().for_each(|(settlement, held)| runner.settle(settlement, held));
    tokio::task::spawn_blocking(pass_on).await.unwrap();
    let steps = workers.settle().await;
    assert!(steps.contains(&Step::GaveUp) && steps.last() == Some(&committed(1, 0, 0)), "{steps:?}");
    let run = workers.run_of(bad).await;
    assert!(matches!(run.state, RunState::Waiting { .. }) && run.tries == 0, "{run:?}");
    assert_eq!(workers.bench.state_of(good).await, EventState::Waiting);
    assert_eq!(workers.bench.deliveries().await.len(), 2);
}

#[tokio::test]
async fn a_run_that_lost_a_race_for_its_state_goes_back_to_its_queue() {
    let mut workers = Workers::new().await;
    let claim = workers.bench.accept(event("order.created")).await;
    let deferred = identity("p").deferred(clock::steady());
    let mut asked = settlement(&claim);
    asked.runs = vec![deferred];
    workers.bench.settle(asked).await;
    workers.bench.claim().await;
    let (claim, permit) = workers.bench.handoff.runs.next().await;
    let stale = state_effects(&[("k", 7)], &[("k", Some(b"late"))]);
    let late = run_settlement(&claim, ran_with("p", stale));
    let (runner, held) = (Arc::clone(&workers.runner), Held::Run(claim.slot, Arc::new(permit)));
    tokio::task::spawn_blocking(move || runner.settle(late, held)).await.unwrap();
    assert_eq!(workers.settle().await, [committed(0, 1, 0)]);
    assert_eq!(workers.bench.claim().await, 1, "the run is due at once");
    let again = workers.bench.run().await;
    assert_eq!((again.id, again.tries), (claim.id, 0));
}

#[tokio::test]
async fn the_claimer_waits_for_room_or_the_alarm() {
    let mut workers = Workers::new().await;
    let step =
        async |workers: &Workers| claimer::step(&*workers.bench.store, &workers.bench.handoff, clock::steady()).await.unwrap();
    assert_eq!(step(&workers).await, Wait::ForAlarm, "nothing is due");
    workers.endpoint("crm", Policy::default()).await;
    workers.answer(&[500]);
    workers.accept(event("order.created")).await;
    workers.run_events().await;
    workers.send().await;
    assert_eq!(step(&workers).await, Wait::ForAlarm, "the retry is due later");
    let id = workers.accept(event("order.created")).await;
    let claim = workers.bench.event().await;
    workers.bench.store.release(vec![(ClaimId::Event(id), claim.lease)]).await.unwrap();
    assert_eq!(step(&workers).await, Wait::No, "more rows may be due");
}
