//! A case in which many tasks use one store at once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use super::bench::*;
use crate::{
    clock,
    domain::{
        delivery::Next,
        event::EventState,
        id::{DeliveryId, EndpointId},
        run::Effects,
    },
    store::{Accepted, DeliveryFilter, EventFilter, Handoff, PageRequest, Recorded, Settled, Settlement, Store},
};

const SENDERS: usize = 3;
const EVENTS_PER_SENDER: usize = 100;
/// Number of ids that several senders use. Each of these ids must be accepted once.
const SHARED_IDS: usize = 60;

/// Two tasks run events, two attempt deliveries, one claims, and three accept events. No task waits for another.
pub async fn concurrent_workers_lose_and_duplicate_nothing(bench: &Bench) {
    let endpoints = [bench.endpoint("a").await, bench.endpoint("b").await];
    let expected = SENDERS * EVENTS_PER_SENDER + SHARED_IDS;
    let settled = Arc::new(AtomicUsize::new(0));
    let delivered = Arc::new(AtomicUsize::new(0));

    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        senders.spawn(send(Arc::clone(&bench.store)));
    }
    let mut workers = JoinSet::new();
    for _ in 0..2 {
        workers.spawn(run_events(Arc::clone(&bench.store), bench.handoff.clone(), endpoints, Arc::clone(&settled)));
        workers.spawn(attempt_deliveries(Arc::clone(&bench.store), bench.handoff.clone(), Arc::clone(&delivered)));
    }
    let (store, alarm) = (Arc::clone(&bench.store), Arc::clone(&bench.handoff.alarm));
    workers.spawn(async move {
        loop {
            alarm.clear();
            store.claim_due(clock::steady()).await.unwrap();
            alarm.wait(Duration::from_millis(20)).await;
        }
    });

    let mut new = 0;
    while let Some(answers) = senders.join_next().await {
        new += answers.unwrap();
    }
    assert_eq!(new, expected, "each shared id was accepted once");
    let counts = || (settled.load(Ordering::SeqCst), delivered.load(Ordering::SeqCst));
    let all = (expected, 2 * expected);
    let deadline = clock::steady().plus(Duration::from_secs(60));
    while counts() != all {
        assert!(clock::steady() < deadline, "settled and delivered {:?} of {all:?}", counts());
        if let Some(ended) = workers.try_join_next() {
            ended.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    workers.shutdown().await;
    bench.nothing("everything is done").await;
    assert_eq!(bench.store.next_due(clock::steady()).await.unwrap(), None);

    let bench = bench.after_a_crash().await;
    assert_eq!(bench.claim().await, 0, "no work is left");
    let mut attempts = HashMap::new();
    let mut cursor = None;
    loop {
        let page = bench.store.events(EventFilter::default(), PageRequest { cursor, limit: 100 }).await.unwrap();
        for summary in page.items {
            assert_eq!(summary.parts.state(), EventState::Delivered);
            let story = bench.story(summary.event.id).await;
            assert_eq!((story.runs.len(), story.deliveries.len()), (1, 2));
            for delivery in story.deliveries {
                assert_eq!(delivery.summary.state.as_str(), "delivered");
                assert_eq!(delivery.attempts.len(), delivery.summary.attempts as usize);
                assert_eq!(attempts.insert(delivery.summary.id, delivery.summary.attempts), None);
            }
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(attempts.len(), 2 * expected);
    assert!(attempts.iter().all(|(id, made)| *made == attempts_of(*id)), "each was attempted exactly as often as it was due");
    assert_eq!(
        bench.store.deliveries(DeliveryFilter::default(), PageRequest { cursor: None, limit: 1 }).await.unwrap().items.len(),
        1
    );
    // Every event was counted exactly once.
    let (value, _) = bench.store.read_state(&slug("counter"), "n").await.unwrap().unwrap();
    assert_eq!(String::from_utf8(value).unwrap(), expected.to_string());
}

/// Accepts events without ids, and some events with ids that other senders use too. Returns how many events were new.
async fn send(store: Arc<dyn Store>) -> usize {
    let mut new = 0;
    for number in 0..EVENTS_PER_SENDER {
        let mut together = vec![event("a")];
        if number < SHARED_IDS {
            together.push(event_with_id("shared", &number.to_string()));
        }
        let answers = store.accept(together).await.unwrap();
        new += answers.iter().filter(|answer| matches!(answer, Accepted::New(_))).count();
    }
    new
}

/// Counts each event in a plugin's state and sends it to both endpoints. After a conflict of state, the event runs again.
async fn run_events(store: Arc<dyn Store>, handoff: Handoff, endpoints: [EndpointId; 2], settled: Arc<AtomicUsize>) {
    loop {
        let (claim, _turn) = handoff.events.next().await;
        loop {
            let known = store.read_state(&slug("counter"), "n").await.unwrap();
            let (count, version) =
                known.map_or((0, 0), |(value, version)| (String::from_utf8(value).unwrap().parse::<usize>().unwrap(), version));
            let next = (count + 1).to_string();
            let run = ran_with(
                "counter",
                Effects {
                    state_use: state_use(&[("n", version)], &[("n", Some(next.as_bytes()))]),
                    deliveries: vec![webhook(endpoints[0], "x")],
                    ..Effects::default()
                },
            );
            let asked = Settlement { runs: vec![run], direct: vec![direct(endpoints[1])], ..settlement(&claim) };
            match store.settle(Arc::new(vec![asked])).await.unwrap().remove(0) {
                Settled::Done => break,
                Settled::StateConflict(lost) => assert_eq!(lost, [0]),
                other => panic!("{other:?}"),
            }
        }
        settled.fetch_add(1, Ordering::SeqCst);
    }
}

/// Returns the number of attempts of a delivery. Every third delivery succeeds at its second attempt, the others at their first.
fn attempts_of(id: DeliveryId) -> u32 {
    if (id.event().as_i64() + i64::from(id.k())) % 3 == 0 { 2 } else { 1 }
}

async fn attempt_deliveries(store: Arc<dyn Store>, handoff: Handoff, delivered: Arc<AtomicUsize>) {
    loop {
        let (claim, _turn) = handoff.deliveries.next().await;
        let last = claim.attempts + 1 == attempts_of(claim.id);
        let next = if last { Next::Delivered } else { Next::Retry { due: clock::steady() } };
        let recorded = store.record_attempts(Arc::new(vec![attempt(&claim, next)])).await.unwrap();
        assert_eq!(recorded, [Recorded::Done], "no other task held the claim");
        delivered.fetch_add(usize::from(last), Ordering::SeqCst);
    }
}
