//! Runs random steps in random order on a store and on a model, which consists of maps in memory, and compares the two. The steps
//! include results of claims that were lost long ago, repeated results, crashes and repeated ids. After every crash and at the end,
//! all reads of the store must equal the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

use super::bench::*;
use crate::{
    clock,
    domain::{
        delivery::{DeadReason, Next},
        endpoint::EndpointState,
        event::{NewEvent, Parts},
        id::{DeliveryId, EndpointId, EventId, RunId},
        retention::Retention,
        run::{Effects, RunOutcome},
        time::Timestamp,
    },
    store::{
        Accepted, ClaimId, DeliveryClaim, DeliveryFilter, Error, EventClaim, EventFilter, LEASE, Lease, RunClaim, Settled,
        Settlement,
    },
};

/// One step. Its numbers select an event, a run or a delivery from those that exist at that moment.
#[derive(Clone, Debug)]
enum Step {
    /// Accepts the events of one request. Some events have one of four ids.
    Accept(Vec<Option<u8>>),
    /// Settles an event that was claimed at any earlier time, with some deliveries and perhaps a deferred run.
    Settle {
        which: usize,
        deliveries: usize,
        apart: bool,
    },
    /// Settles a run that was claimed at any earlier time.
    SettleRun {
        which: usize,
        delivers: bool,
        parks: bool,
    },
    /// Records an attempt of a delivery that was claimed at any earlier time.
    Record {
        which: usize,
        ends: End,
    },
    /// Claims due rows.
    Claim,
    /// Claims after every lease has expired.
    ClaimLate,
    Release {
        which: usize,
    },
    Retry {
        which: usize,
    },
    Cancel {
        which: usize,
    },
    Replay {
        which: usize,
    },
    Pause,
    Resume,
    /// Takes all the room for events, or frees it.
    Fill,
    Drain,
    Retire,
    Crash,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Delivered,
    Dead,
    RetryNow,
    RetryLater,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = any::<prop::sample::Index>().prop_map(|index| index.index(usize::MAX));
    let end = prop_oneof![3 => Just(End::Delivered), 1 => Just(End::Dead), 2 => Just(End::RetryNow), 1 => Just(End::RetryLater)];
    let step = prop_oneof![
        4 => prop::collection::vec(prop::option::of(0u8..4), 1..4).prop_map(Step::Accept),
        6 => (which.clone(), 0usize..4, any::<bool>())
            .prop_map(|(which, deliveries, apart)| Step::Settle { which, deliveries, apart }),
        2 => (which.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(which, delivers, parks)| Step::SettleRun { which, delivers, parks }),
        6 => (which.clone(), end).prop_map(|(which, ends)| Step::Record { which, ends }),
        4 => Just(Step::Claim),
        1 => Just(Step::ClaimLate),
        1 => which.clone().prop_map(|which| Step::Release { which }),
        2 => which.clone().prop_map(|which| Step::Retry { which }),
        1 => which.clone().prop_map(|which| Step::Cancel { which }),
        2 => which.prop_map(|which| Step::Replay { which }),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
        1 => Just(Step::Fill),
        1 => Just(Step::Drain),
        1 => Just(Step::Retire),
        2 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

pub async fn random_steps_lose_and_duplicate_nothing(bench: &Bench) {
    let backing = Arc::clone(&bench.backing);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut runner = TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
        let held = runner.run(&steps(), |steps| {
            let backing = backing.another();
            runtime
                .block_on(runtime.spawn(async move {
                    let mut world = World::new(Bench::open(backing).await).await;
                    for step in steps {
                        world.step(step).await;
                    }
                    world.finish().await;
                }))
                .map_err(|panicked| TestCaseError::fail(panicked.to_string()))
        });
        if let Err(error) = held {
            panic!("{error}");
        }
    })
    .await
    .unwrap();
}

/// A row in a queue: its holder, and whether the row is due if it has no holder.
#[derive(Clone, Copy, Debug)]
struct Queued {
    holder: Option<i64>,
    due: bool,
}

const FREE: Queued = Queued { holder: None, due: true };

#[derive(Debug, Default)]
struct Known {
    round: u32,
    unrouted: bool,
    /// Number of the event's runs so far, and of its deliveries.
    runs: u32,
    deliveries: u32,
}

/// The expected content of the store.
#[derive(Debug, Default)]
struct Model {
    events: BTreeMap<EventId, Known>,
    /// The event that each id of a caller belongs to.
    ids: BTreeMap<u8, EventId>,
    to_run: BTreeMap<EventId, Queued>,
    runs: BTreeMap<RunId, Queued>,
    parked: BTreeSet<RunId>,
    live: BTreeMap<DeliveryId, Queued>,
    finished: BTreeMap<DeliveryId, &'static str>,
    attempts: BTreeMap<DeliveryId, u32>,
    /// The round that made each delivery.
    rounds: BTreeMap<DeliveryId, u32>,
}

impl Model {
    fn queued(&mut self) -> impl Iterator<Item = &mut Queued> {
        self.to_run.values_mut().chain(self.runs.values_mut()).chain(self.live.values_mut())
    }
}

struct World {
    bench: Bench,
    crm: EndpointId,
    paused: bool,
    model: Model,
    /// Every claim that was ever handed over, without its slot in memory.
    event_claims: Vec<EventClaim>,
    run_claims: Vec<RunClaim>,
    delivery_claims: Vec<DeliveryClaim>,
    filled: Option<crate::store::EventSlot>,
    /// How often the clock was moved past the end of all leases.
    late: u32,
}

fn pick<T>(among: &[T], which: usize) -> Option<&T> {
    if among.is_empty() { None } else { among.get(which % among.len()) }
}

fn holds<K: Ord>(queue: &BTreeMap<K, Queued>, key: &K, lease: Lease) -> bool {
    queue.get(key).is_some_and(|queued| queued.holder == Some(lease.token))
}

impl World {
    async fn new(bench: Bench) -> Self {
        let crm = bench.endpoint("crm").await;
        let (model, filled) = (Model::default(), None);
        let (event_claims, run_claims, delivery_claims) = (Vec::new(), Vec::new(), Vec::new());
        Self { bench, crm, paused: false, model, event_claims, run_claims, delivery_claims, filled, late: 0 }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Accept(ids) => self.accept(ids).await,
            Step::Settle { which, deliveries, apart } => self.settle(which, deliveries, apart).await,
            Step::SettleRun { which, delivers, parks } => self.settle_run(which, delivers, parks).await,
            Step::Record { which, ends } => self.record(which, ends).await,
            Step::Claim => self.claim(clock::steady()).await,
            Step::ClaimLate => self.claim_late().await,
            Step::Release { which } => self.release(which).await,
            Step::Retry { which } => self.retry(which).await,
            Step::Cancel { which } => self.cancel(which).await,
            Step::Replay { which } => self.replay(which).await,
            Step::Pause => self.set(EndpointState::Paused).await,
            Step::Resume => self.set(EndpointState::Active).await,
            Step::Fill => self.filled = self.filled.take().or_else(|| self.bench.handoff.events.reserve(&(), 63 << 20)),
            Step::Drain => self.filled = None,
            Step::Retire => self.retire().await,
            Step::Crash => self.crash().await,
        }
        self.take_over().await;
    }

    /// Takes the handed-over rows. Checks that none of them has another holder.
    async fn take_over(&mut self) {
        for claim in self.bench.events().await {
            let queued = self.model.to_run.get_mut(&claim.event.id).expect("an event that is to be run");
            assert_eq!(queued.holder, None, "it has no other holder");
            assert_eq!(claim.round, self.model.events[&claim.event.id].round);
            queued.holder = Some(claim.lease.token);
            self.event_claims.push(claim);
        }
        for claim in self.bench.runs().await {
            let queued = self.model.runs.get_mut(&claim.id).expect("a run that waits");
            assert_eq!(queued.holder, None, "it has no other holder");
            queued.holder = Some(claim.lease.token);
            self.run_claims.push(claim);
        }
        for claim in self.bench.deliveries().await {
            let queued = self.model.live.get_mut(&claim.id).expect("a delivery that waits");
            assert_eq!(queued.holder, None, "it has no other holder");
            assert_eq!(claim.attempts, self.model.attempts[&claim.id]);
            queued.holder = Some(claim.lease.token);
            self.delivery_claims.push(claim);
        }
    }

    async fn accept(&mut self, ids: Vec<Option<u8>>) {
        let event = |id: &Option<u8>| match id {
            Some(id) => event_with_id("shop", &id.to_string()),
            None => NewEvent { id: None, ..event("a") },
        };
        let answers = self.bench.store.accept(ids.iter().map(event).collect()).await.unwrap();
        for (id, answer) in ids.into_iter().zip(answers) {
            match (id.and_then(|id| self.model.ids.get(&id)), answer) {
                (Some(first), Accepted::Duplicate(earlier)) => assert_eq!(earlier, *first),
                (None, Accepted::New(new)) => {
                    assert!(self.model.events.keys().all(|known| *known < new), "ids grow");
                    self.model.events.insert(new, Known::default());
                    self.model.to_run.insert(new, FREE);
                    self.model.ids.extend(id.map(|id| (id, new)));
                }
                (known, answer) => panic!("{id:?} is known as {known:?}, and was answered {answer:?}"),
            }
        }
    }

    fn new_delivery(&mut self, event: EventId) {
        let known = self.model.events.get_mut(&event).expect("a known event");
        let id = event.delivery(known.deliveries);
        known.deliveries += 1;
        self.model.live.insert(id, FREE);
        self.model.attempts.insert(id, 0);
        self.model.rounds.insert(id, known.round);
    }

    async fn settle(&mut self, which: usize, deliveries: usize, apart: bool) {
        let Some(claim) = pick(&self.event_claims, which) else { return };
        let id = claim.event.id;
        let held = holds(&self.model.to_run, &id, claim.lease);
        let runs = if apart { vec![waiting("p", clock::steady())] } else { Vec::new() };
        let settlement = Settlement { runs, direct: vec![direct(self.crm); deliveries], ..settlement(claim) };
        assert_eq!(self.bench.settle(settlement).await, if held { Settled::Done } else { Settled::LeaseLost });
        if !held {
            return;
        }
        self.model.to_run.remove(&id);
        (0..deliveries).for_each(|_| self.new_delivery(id));
        let known = self.model.events.get_mut(&id).expect("a known event");
        known.unrouted = deliveries == 0 && !apart;
        if apart {
            self.model.runs.insert(id.run(known.runs), FREE);
            known.runs += 1;
        }
    }

    async fn settle_run(&mut self, which: usize, delivers: bool, parks: bool) {
        let Some(claim) = pick(&self.run_claims, which) else { return };
        let id = claim.id;
        let held = holds(&self.model.runs, &id, claim.lease);
        let deliveries = if delivers { vec![webhook(self.crm, "x")] } else { Vec::new() };
        let record =
            if parks { parked("p", RunOutcome::Failed) } else { ran_with("p", Effects { deliveries, ..Effects::default() }) };
        let answer = self.bench.settle(run_settlement(claim, record)).await;
        assert_eq!(answer, if held { Settled::Done } else { Settled::LeaseLost });
        if !held {
            return;
        }
        self.model.runs.remove(&id);
        if parks {
            self.model.parked.insert(id);
        } else if delivers {
            self.new_delivery(id.event());
        }
    }

    async fn record(&mut self, which: usize, ends: End) {
        let Some(claim) = pick(&self.delivery_claims, which) else { return };
        let id = claim.id;
        let held = holds(&self.model.live, &id, claim.lease);
        let next = match ends {
            End::Delivered => Next::Delivered,
            End::Dead => Next::Dead(DeadReason::Exhausted),
            End::RetryNow => Next::Retry { due: clock::steady() },
            End::RetryLater => Next::Retry { due: soon(100 * 365 * 24 * 3600) },
        };
        assert_eq!(self.bench.record(attempt(claim, next)).await, held);
        if !held {
            return;
        }
        *self.model.attempts.get_mut(&id).expect("a known delivery") += 1;
        match ends {
            End::RetryNow => drop(self.model.live.insert(id, FREE)),
            End::RetryLater => drop(self.model.live.insert(id, Queued { due: false, ..FREE })),
            End::Delivered | End::Dead => {
                self.model.live.remove(&id);
                self.model.finished.insert(id, if matches!(ends, End::Dead) { "dead" } else { "delivered" });
            }
        }
    }

    /// Claims, and checks that no claimable row is left.
    async fn claim(&mut self, now: Timestamp) {
        self.bench.claim_at(now).await;
        self.take_over().await;
        fn left<K>(queue: &BTreeMap<K, Queued>) -> bool {
            queue.values().any(|queued| queued.holder.is_none() && queued.due)
        }
        assert!(self.filled.is_some() || !left(&self.model.to_run), "an event remains");
        assert!(!left(&self.model.runs), "a run remains");
        assert!(self.paused || !left(&self.model.live), "a delivery remains");
    }

    async fn claim_late(&mut self) {
        self.late += 1;
        self.free_all_holders();
        self.claim(clock::steady().plus(LEASE * 2 * self.late)).await;
        // A row that could not be claimed is due only from the end of its lease. The next step uses the present time again. That is
        // before the end of the lease, so the row is then not due.
        self.model.queued().filter(|queued| queued.holder.is_none()).for_each(|queued| queued.due = false);
    }

    fn free_all_holders(&mut self) {
        for queued in self.model.queued() {
            if queued.holder.take().is_some() {
                queued.due = true;
            }
        }
    }

    async fn release(&mut self, which: usize) {
        let (event, run, delivery) =
            (pick(&self.event_claims, which), pick(&self.run_claims, which), pick(&self.delivery_claims, which));
        let events: Vec<_> = event.map(|claim| (claim.event.id, claim.lease)).into_iter().collect();
        let runs: Vec<_> = run.map(|claim| (claim.id, claim.lease)).into_iter().collect();
        let deliveries: Vec<_> = delivery.map(|claim| (claim.id, claim.lease)).into_iter().collect();
        let claims = [
            event.map(|claim| (ClaimId::Event(claim.event.id), claim.lease)),
            run.map(|claim| (ClaimId::Run(claim.id), claim.lease)),
            delivery.map(|claim| (ClaimId::Delivery(claim.id), claim.lease)),
        ];
        self.bench.store.release(claims.into_iter().flatten().collect()).await.unwrap();
        fn free<K: Ord>(queue: &mut BTreeMap<K, Queued>, given_back: Vec<(K, Lease)>) {
            for (key, lease) in given_back {
                if holds(queue, &key, lease) {
                    queue.insert(key, FREE);
                }
            }
        }
        free(&mut self.model.to_run, events);
        free(&mut self.model.runs, runs);
        free(&mut self.model.live, deliveries);
    }

    async fn retry(&mut self, which: usize) {
        let all: Vec<_> = self.model.attempts.keys().copied().collect();
        let Some(id) = pick(&all, which) else { return };
        self.bench.store.retry_delivery(*id, clock::steady()).await.unwrap();
        self.model.finished.remove(id);
        let queued = self.model.live.entry(*id).or_insert(FREE);
        queued.due |= queued.holder.is_none();
    }

    async fn cancel(&mut self, which: usize) {
        let all: Vec<_> = self.model.attempts.keys().copied().collect();
        let Some(id) = pick(&all, which) else { return };
        let answer = self.bench.store.cancel_delivery(*id, clock::wall()).await;
        if self.model.live.remove(id).is_some() {
            answer.unwrap();
            self.model.finished.insert(*id, "cancelled");
        } else {
            assert!(matches!(answer, Err(Error::Conflict(_))), "{answer:?}");
        }
    }

    async fn replay(&mut self, which: usize) {
        let all: Vec<_> = self.model.events.keys().copied().collect();
        let Some(id) = pick(&all, which) else { return };
        let answer = self.bench.store.replay_event(*id, clock::steady()).await;
        if self.model.to_run.contains_key(id) {
            assert!(matches!(answer, Err(Error::Conflict(_))), "{answer:?}");
            return;
        }
        let known = self.model.events.get_mut(id).expect("a known event");
        known.round += 1;
        assert_eq!(answer.unwrap(), known.round);
        self.model.to_run.insert(*id, FREE);
        self.model.runs.retain(|run, _| run.event() != *id);
        self.model.parked.retain(|run| run.event() != *id);
    }

    async fn set(&mut self, state: EndpointState) {
        self.paused = state == EndpointState::Paused;
        self.bench.set(self.crm, state).await;
    }

    /// Runs retention long after everything is old enough.
    async fn retire(&mut self) {
        let now = clock::wall().plus(std::time::Duration::from_secs(40 * 24 * 3600));
        while self.bench.store.retire(Retention::default(), now).await.unwrap() > 0 {}
        let model = &mut self.model;
        model.ids.clear();
        let stays: BTreeSet<EventId> = model
            .to_run
            .keys()
            .copied()
            .chain(model.runs.keys().map(|run| run.event()))
            .chain(model.live.keys().map(|delivery| delivery.event()))
            .collect();
        model.events.retain(|id, _| stays.contains(id));
        model.parked.retain(|id| stays.contains(&id.event()));
        model.finished.retain(|id, _| stays.contains(&id.event()));
        model.attempts.retain(|id, _| stays.contains(&id.event()));
    }

    async fn crash(&mut self) {
        self.filled = None;
        self.bench = self.bench.after_a_crash().await;
        self.free_all_holders();
        self.compare().await;
    }

    /// Checks that all reads of the store equal the model.
    async fn compare(&self) {
        let model = &self.model;
        let mut events = self.bench.event_ids(EventFilter::default()).await;
        events.reverse();
        assert_eq!(events, model.events.keys().copied().collect::<Vec<_>>());
        let mut deliveries = self.bench.delivery_ids(DeliveryFilter::default()).await;
        deliveries.reverse();
        assert_eq!(deliveries, model.attempts.keys().copied().collect::<Vec<_>>());
        for (id, known) in &model.events {
            let story = self.bench.story(*id).await;
            let live = |tried: bool| {
                let of_event = model.live.keys().filter(|delivery| delivery.event() == *id);
                of_event.filter(|delivery| (model.attempts[delivery] > 0) == tried).count() as u64
            };
            let finished = |state: &str| {
                let of_round = model.finished.iter().filter(|(delivery, _)| model.rounds[delivery] == known.round);
                of_round.filter(|(delivery, ended)| delivery.event() == *id && **ended == state).count() as u64
            };
            let parts = Parts {
                to_run: model.to_run.contains_key(id),
                unrouted: known.unrouted,
                runs_waiting: model.runs.keys().filter(|run| run.event() == *id).count() as u64,
                runs_parked: model.parked.iter().filter(|run| run.event() == *id).count() as u64,
                pending: live(false),
                retrying: live(true),
                delivered: finished("delivered"),
                dead: finished("dead"),
                cancelled: finished("cancelled"),
            };
            assert_eq!((story.parts, story.runs.len()), (parts, known.runs as usize));
            assert_eq!(story.deliveries.len(), known.deliveries as usize);
            for delivery in story.deliveries {
                let (id, made) = (delivery.summary.id, model.attempts[&delivery.summary.id]);
                let waits = if made == 0 { "pending" } else { "retrying" };
                let state = *model.finished.get(&id).unwrap_or(&waits);
                assert_eq!(model.live.contains_key(&id), !model.finished.contains_key(&id));
                assert_eq!((delivery.summary.state.as_str(), delivery.summary.attempts), (state, made));
                assert_eq!(delivery.attempts.len(), made as usize, "every attempt is stored");
            }
        }
    }

    /// Finishes everything.
    async fn finish(mut self) {
        self.set(EndpointState::Active).await;
        self.crash().await;
        for _ in 0..3 {
            self.bench.claim_at(soon(200 * 365 * 24 * 3600)).await;
            self.take_over().await;
            for place in 0..self.event_claims.len() {
                self.settle(place, 1, false).await;
                self.take_over().await;
            }
            for place in 0..self.run_claims.len() {
                self.settle_run(place, true, false).await;
                self.take_over().await;
            }
            for place in 0..self.delivery_claims.len() {
                self.record(place, End::Delivered).await;
            }
        }
        assert!(self.model.to_run.is_empty() && self.model.runs.is_empty() && self.model.live.is_empty(), "{:?}", self.model);
        self.compare().await;
        assert_eq!(self.bench.store.next_due(clock::steady()).await.unwrap(), None);
    }
}
