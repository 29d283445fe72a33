//! Cases about retention: finished events are deleted after their time, together with their runs, deliveries and attempts.
//! Unfinished events are never deleted.

use std::time::Duration;

use super::bench::*;
use crate::{
    clock,
    domain::{
        content::Content,
        delivery::{DeadReason, InitialState, NewDelivery, Next},
        event::NewEvent,
        id::EventId,
        retention::Retention,
        run::RunOutcome,
        time::Timestamp,
    },
    store::{Accepted, Deletion, DeliveryFilter, Error, EventFilter, Settlement, StoryPlace},
};

const DAY: u64 = 24 * 3600;

fn in_days(days: u64) -> Timestamp {
    clock::wall().plus(Duration::from_secs(days * DAY + 3600))
}

/// Deletes everything that is old enough at `now`.
async fn retire(bench: &Bench, now: Timestamp) {
    for _ in 0..1_000 {
        if bench.store.retire(Retention::default(), now).await.unwrap() == 0 {
            return;
        }
    }
    panic!("retention does not end");
}

async fn is_there(bench: &Bench, id: EventId) -> bool {
    match bench.store.event(id, StoryPlace::default()).await {
        Ok(_) => true,
        Err(Error::NotFound { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

pub async fn a_finished_event_is_deleted_after_its_time(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let delivered = bench.finished(crm, Next::Delivered).await;
    let cancelled = bench.finished(crm, retry_in(60)).await;
    bench.store.cancel_delivery(cancelled, clock::wall()).await.unwrap();
    let quiet = bench.settled_with(ran("p")).await;
    let unrouted = bench.accept(event("a")).await;
    bench.settle(settlement(&unrouted)).await;
    let all = [delivered.event(), cancelled.event(), quiet, unrouted.event.id];

    retire(bench, in_days(6)).await;
    for id in all {
        assert!(is_there(bench, id).await, "{id:?} is not old enough");
    }
    let bench = bench.after_a_crash().await;
    retire(&bench, in_days(7)).await;
    for id in all {
        assert!(!is_there(&bench, id).await, "{id:?}");
    }
    assert_eq!(bench.event_ids(EventFilter::default()).await, []);
    assert_eq!(bench.delivery_ids(DeliveryFilter::default()).await, []);
    let gone = bench.store.retry_delivery(delivered, clock::steady()).await;
    assert_eq!(gone, Err(Error::NotFound { what: "delivery" }));
    assert_eq!(bench.store.endpoints().await.unwrap().len(), 1, "configuration stays");
}

pub async fn unfinished_events_are_never_deleted(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let retrying = bench.finished(crm, retry_in(60)).await.event();
    let under_way = bench.delivery_to(crm).await;
    let run = bench.settled_with(waiting("p", soon(60))).await;
    let replayed = bench.settled_with(ran("p")).await;
    let replay = bench.store.replay_event(replayed, clock::steady());
    replay.await.unwrap();
    let accepted = bench.accept(event("a")).await;
    let all = [retrying, under_way.id.event(), run, replayed, accepted.event.id];
    for days in [8, 31, 400] {
        retire(bench, in_days(days)).await;
        for id in all {
            assert!(is_there(bench, id).await, "{id:?} after {days} days");
        }
    }
    assert!(bench.record(attempt(&under_way, Next::Delivered)).await);
    retire(bench, in_days(400)).await;
    assert!(!is_there(bench, under_way.id.event()).await, "the event is deleted once its delivery is finished");
}

pub async fn dead_and_parked_events_are_deleted_later(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let dead = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await.event();
    let parked = bench.settled_with(parked("p", RunOutcome::Trapped)).await;
    let mixed = bench.accept(event("a")).await;
    let direct = vec![NewDelivery { initial_state: InitialState::Dead, ..direct(crm) }, direct(crm)];
    bench.settle(Settlement { direct, ..settlement(&mixed) }).await;
    let claim = bench.delivery().await;
    bench.record(attempt(&claim, Next::Delivered)).await;
    let all = [dead, parked, mixed.event.id];
    for days in [8, 29] {
        retire(bench, in_days(days)).await;
        for id in all {
            assert!(is_there(bench, id).await, "{id:?} after {days} days");
        }
    }
    retire(bench, in_days(30)).await;
    for id in all {
        assert!(!is_there(bench, id).await, "{id:?}");
    }
}

pub async fn unfinished_events_do_not_delay_retention(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    // These are more unfinished events than one step checks. All of them are older than the event that must be deleted.
    for _ in 0..3 {
        bench.store.accept((0..500).map(|_| event("a")).collect()).await.unwrap();
    }
    let unfinished = bench.events().await.len();
    let dead = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await.event();
    let delivered = bench.finished(crm, Next::Delivered).await.event();
    retire(bench, in_days(8)).await;
    assert!(!is_there(bench, delivered).await);
    retire(bench, in_days(31)).await;
    assert!(!is_there(bench, dead).await);
    let later = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await.event();
    retire(bench, in_days(32)).await;
    assert!(!is_there(bench, later).await, "a later walk deletes it too");
    let mut count = 0;
    let mut cursor = None;
    loop {
        let page = bench.store.events(EventFilter::default(), crate::store::PageRequest { cursor, limit: 1_000 }).await.unwrap();
        count += page.items.len();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(count, unfinished);
}

pub async fn an_id_is_remembered_for_the_window_of_repeats(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event_with_id("shop", "1")).await;
    bench.settle(Settlement { direct: vec![direct(crm)], ..settlement(&claim) }).await;
    let delivery = bench.delivery().await;
    bench.record(attempt(&delivery, Next::Delivered)).await;
    let again = async |bench: &Bench| bench.store.accept(vec![event_with_id("shop", "1")]).await.unwrap()[0];

    let short = Retention { delivered: Duration::from_secs(DAY), ..Retention::default() };
    let later = clock::wall().plus(Duration::from_secs(3 * DAY));
    while bench.store.retire(short, later).await.unwrap() > 0 {}
    assert!(!is_there(bench, claim.event.id).await);
    assert_eq!(again(bench).await, Accepted::Duplicate(claim.event.id), "even after its event is deleted");
    retire(bench, in_days(6)).await;
    let bench = bench.after_a_crash().await;
    assert_eq!(again(&bench).await, Accepted::Duplicate(claim.event.id));
    retire(&bench, in_days(8)).await;
    assert!(matches!(again(&bench).await, Accepted::New(id) if id > claim.event.id), "after the window it is a new event");
}

pub async fn ids_are_not_issued_again_after_every_event_is_deleted(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let mut last = EventId::from_i64(0);
    let mut bench = bench.after_a_crash().await;
    for _ in 0..3 {
        let delivery = bench.finished(crm, Next::Delivered).await;
        assert!(delivery.event() > last, "a receiver would drop it as a duplicate");
        last = delivery.event();
        retire(&bench, in_days(8)).await;
        assert_eq!(bench.event_ids(EventFilter::default()).await, []);
        bench = bench.after_a_crash().await;
    }
}

/// Deletes everything that is old enough at `now` under `retention`.
async fn retire_by(bench: &Bench, retention: Retention, now: Timestamp) {
    for _ in 0..1_000 {
        if bench.store.retire(retention, now).await.unwrap() == 0 {
            return;
        }
    }
    panic!("retention does not end");
}

pub async fn unrouted_events_are_deleted_after_a_separate_time(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let delivered = bench.finished(crm, Next::Delivered).await.event();
    let unwanted = bench.accept(event("a")).await;
    bench.settle(settlement(&unwanted)).await;
    let replayed = bench.accept(event("a")).await;
    bench.settle(settlement(&replayed)).await;
    bench.store.replay_event(replayed.event.id, clock::steady()).await.unwrap();
    let (unwanted, replayed) = (unwanted.event.id, replayed.event.id);
    let shown = async |bench: &Bench| {
        let mut there = Vec::new();
        for id in [delivered, unwanted, replayed] {
            there.push(is_there(bench, id).await);
        }
        there
    };
    // Unrouted events may be deleted before delivered events, or after them.
    let soon = Retention { unrouted: Duration::from_secs(DAY), ..Retention::default() };
    retire_by(bench, soon, in_days(1)).await;
    assert_eq!(shown(bench).await, [true, false, true], "a replayed event stays");

    bench.claim().await;
    bench.settle(settlement(&bench.event().await)).await;
    let late = Retention { unrouted: Duration::from_secs(60 * DAY), ..Retention::default() };
    retire_by(bench, late, in_days(31)).await;
    assert_eq!(shown(bench).await, [false, false, true]);
    retire_by(bench, late, in_days(60)).await;
    assert_eq!(shown(bench).await, [false, false, false], "even after a replay without a subscriber");
}

pub async fn each_kind_of_event_has_a_separate_time(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let delivered = bench.finished(crm, Next::Delivered).await.event();
    let dead = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await.event();
    // This delivery is unfinished when retention looks at its event for the first time.
    let slow = bench.delivery_to(crm).await;
    let retention = Retention { dead: Duration::from_secs(2 * DAY), ..Retention::default() };
    retire_by(bench, retention, in_days(2)).await;
    assert_eq!(
        (is_there(bench, delivered).await, is_there(bench, dead).await),
        (true, false),
        "dead events may be deleted before delivered ones"
    );
    retire_by(bench, retention, in_days(7)).await;
    assert!(!is_there(bench, delivered).await);
    assert!(bench.record(attempt(&slow, Next::Delivered)).await);
    retire_by(bench, retention, in_days(7)).await;
    assert!(!is_there(bench, slow.id.event()).await, "a slow event is deleted once it is finished");
}

pub async fn a_full_store_evicts_the_oldest_finished_events(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let waits = bench.finished(crm, retry_in(3600)).await.event();
    let dead = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await.event();
    let large = NewEvent { content: Content::octets(vec![b'x'; 2 << 20].into()), ..event_with_id("shop", "1") };
    let delivered = bench.accept(large).await;
    bench.settle(settlement(&delivered)).await;
    let delivered = delivered.event.id;
    let youngest = bench.settled_with(ran("p")).await;
    let before = bench.store.size().await.unwrap();
    assert!(before > 2 << 20, "{before}");
    let evict = async |bytes_max| {
        let mut left = 0;
        loop {
            let evicted = bench.store.evict(bytes_max).await.unwrap();
            left += evicted.events;
            if evicted.looked_at == 0 {
                return left;
            }
        }
    };
    assert_eq!(evict(before + 1).await, 0, "a store with room evicts nothing");
    assert_eq!(evict(before - (1 << 20)).await, 2, "finished events of any age, and no more than necessary");
    assert!(is_there(bench, youngest).await);
    let there = [is_there(bench, waits).await, is_there(bench, dead).await, is_there(bench, delivered).await];
    assert_eq!(there, [true, false, false], "unfinished events stay");
    let after = bench.store.size().await.unwrap();
    assert!(after < before - (1 << 20), "free pages do not count: {after} of {before}");
    let again = bench.store.accept(vec![event_with_id("shop", "1")]).await.unwrap()[0];
    assert_eq!(again, Accepted::Duplicate(delivered), "the sender's id is remembered for its window");
    assert!(bench.accept(event("a")).await.event.id > delivered, "an evicted id is never issued again");
    assert_eq!(evict(0).await, 1, "all finished events");
    assert!(is_there(bench, waits).await);
}

pub async fn the_state_of_plugins_evicts_no_event(bench: &Bench) {
    let small = bench.settled_with(ran("p")).await;
    let before = bench.store.size().await.unwrap();
    let names: Vec<String> = (0..64).map(|number| format!("key-{number}")).collect();
    let value = vec![7; 64 << 10];
    let writes: Vec<_> = names.iter().map(|name| (name.as_str(), Some(value.as_slice()))).collect();
    bench.settled_with(ran_with("p", state_effects(&[], &writes))).await;
    let after = bench.store.size().await.unwrap();
    assert!(after < before + (1 << 20), "4 MiB of state do not count: {after} after {before}");
    assert_eq!(bench.store.evict(before + (1 << 20)).await.unwrap().events, 0);
    assert!(is_there(bench, small).await);
}

pub async fn a_deleted_endpoint_is_forgotten_with_its_last_event(bench: &Bench) {
    let (crm, idle, stays) = (bench.endpoint("crm").await, bench.endpoint("idle").await, bench.endpoint("stays").await);
    let event = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await.event();
    bench.store.delete_endpoint(crm, Deletion::Forced, None).await.unwrap();
    bench.store.delete_endpoint(idle, Deletion::Forced, None).await.unwrap();
    retire(bench, in_days(8)).await;
    assert_eq!(bench.backing.endpoint_rows().await, 3, "an event from before their deletion still exists");
    assert_eq!(bench.story(event).await.deliveries[0].summary.endpoint_name, "crm");
    retire(bench, in_days(31)).await;
    assert!(!is_there(bench, event).await);
    retire(bench, in_days(31)).await;
    assert_eq!(bench.backing.endpoint_rows().await, 1);
    assert_eq!(bench.store.endpoints().await.unwrap()[0].id, stays);
    assert!(bench.endpoint("crm").await > stays, "an id is never issued again");
}
