//! Cases about scheduled events, and about the cancellation of everything that an event would still cause.

use std::time::Duration;

use super::bench::*;
use crate::{
    clock,
    domain::{
        delivery::Next,
        event::{Event, EventState},
        id::EventId,
        retention::Retention,
        run::{Effects, RunState, Scheduled},
        time::Timestamp,
    },
    store::{Cancelled, Error, Settled, Settlement, StateFull, StateLimits, StoryPlace},
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Returns an event of this type that `cause` schedules.
fn later(cause: &Event, event_type: &str, after: Duration) -> Scheduled {
    Scheduled { after, event: emitted(cause, event_type) }
}

fn schedules(scheduled: Vec<Scheduled>) -> Effects {
    Effects { scheduled, ..Effects::default() }
}

/// Accepts an event whose run schedules events of these types after these delays.
async fn scheduling(bench: &Bench, all: &[(&str, Duration)]) -> EventId {
    let claim = bench.accept(event("order.created")).await;
    let all = all.iter().map(|(event_type, after)| later(&claim.event, event_type, *after)).collect();
    let settled = Settlement { runs: vec![ran_with("p", schedules(all))], ..settlement(&claim) };
    assert_eq!(bench.settle(settled).await, Settled::Done);
    claim.event.id
}

/// Returns the types of the scheduled events of an event, and whether they are cancelled.
async fn scheduled_of(bench: &Bench, id: EventId) -> Vec<(String, bool)> {
    let story = bench.story(id).await;
    story.scheduled.iter().map(|one| (one.event.event_type.to_string(), one.cancelled_at.is_some())).collect()
}

fn at(after: Duration) -> Timestamp {
    clock::wall().plus(after)
}

pub async fn a_scheduled_event_is_accepted_when_it_is_due(bench: &Bench) {
    assert_eq!(bench.store.next_scheduled().await.unwrap(), None);
    let before = clock::wall();
    let cause = scheduling(bench, &[("late", 2 * HOUR), ("early", HOUR), ("later", 3 * DAY)]).await;
    bench.nothing("no scheduled event runs with its cause").await;
    assert_eq!(bench.store.accept_scheduled(clock::wall()).await.unwrap(), 0, "nothing is due");
    let next = bench.store.next_scheduled().await.unwrap().unwrap();
    assert!(next >= before.plus(HOUR) && next <= at(HOUR), "{next:?}");
    let story = bench.story(cause).await;
    assert_eq!((story.parts.state(), story.emitted.len(), story.runs[0].emitted), (EventState::NothingSent, 0, 3));
    let waiting = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), false)).collect::<Vec<_>>();
    assert_eq!(scheduled_of(bench, cause).await, waiting(&["late", "early", "later"]));

    let bench = bench.after_a_crash().await;
    assert_eq!(bench.store.accept_scheduled(at(3 * HOUR)).await.unwrap(), 2);
    assert_eq!(bench.store.accept_scheduled(at(3 * HOUR)).await.unwrap(), 0, "each is accepted once");
    let claims = bench.events().await;
    assert_eq!(claims.iter().map(|claim| &*claim.event.new.event_type).collect::<Vec<_>>(), ["early", "late"]);
    for claim in &claims {
        let (event, new) = (&claim.event, &claim.event.new);
        assert_eq!((new.cause, new.depth, &*new.source, new.time.is_none()), (Some(cause), 1, "plugin/p", true));
        assert!(event.id > cause && event.accepted_at >= before, "it is a new event");
        assert_eq!(new.content.bytes(), event_data().bytes());
    }
    let story = bench.story(cause).await;
    assert_eq!(story.emitted, claims.iter().map(|claim| claim.event.id).collect::<Vec<_>>());
    assert_eq!(scheduled_of(&bench, cause).await, waiting(&["later"]));

    // The event was lost with the process before it was run, so it is due again.
    let bench = bench.after_a_crash().await;
    assert_eq!(bench.claim().await, 2);
}

fn event_data() -> crate::domain::content::Content {
    event("a").content
}

pub async fn a_run_that_fails_schedules_nothing(bench: &Bench) {
    let slow = bench.accept(event("a")).await;
    let bench = bench.after_a_crash().await;
    let runs = vec![ran_with("p", schedules(vec![later(&slow.event, "b", HOUR)]))];
    assert_eq!(bench.settle(Settlement { runs, ..settlement(&slow) }).await, Settled::LeaseLost);
    assert_eq!(bench.store.next_scheduled().await.unwrap(), None);
}

pub async fn an_event_stays_while_its_scheduled_events_wait(bench: &Bench) {
    let waits = scheduling(bench, &[("b", 30 * DAY)]).await;
    let cancelled = scheduling(bench, &[("b", 30 * DAY)]).await;
    bench.store.cancel_event(cancelled, clock::wall()).await.unwrap();
    let retire = async |bench: &Bench, after: Duration| {
        for _ in 0..100 {
            if bench.store.retire(Retention::default(), at(after)).await.unwrap() == 0 {
                return;
            }
        }
        panic!("retention does not end");
    };
    let exists = async |bench: &Bench, id: EventId| bench.store.event(id, StoryPlace::default()).await.is_ok();
    retire(bench, 29 * DAY).await;
    assert!(exists(bench, waits).await && !exists(bench, cancelled).await);
    bench.store.evict(0).await.unwrap();
    assert!(exists(bench, waits).await, "a full store does not evict it");
    assert_eq!(bench.store.accept_scheduled(at(31 * DAY)).await.unwrap(), 1);
    retire(bench, 400 * DAY).await;
    assert!(!exists(bench, waits).await);
}

pub async fn the_scheduled_events_of_a_plugin_are_limited(bench: &Bench) {
    let most = StateLimits::default().scheduled_max;
    let claim = bench.accept(event("a")).await;
    // An event has at most 16,384 children, so many events share the limit.
    let few = |claim: &crate::store::EventClaim, count: u64| {
        let all = (0..count).map(|_| later(&claim.event, "b", HOUR)).collect();
        ran_with("p", schedules(all))
    };
    let mut left = most;
    let mut cause = claim.event.id;
    let mut claim = Some(claim);
    while left > 0 {
        let one = match claim.take() {
            Some(claim) => claim,
            None => bench.accept(event("a")).await,
        };
        let count = left.min(10_000);
        assert_eq!(bench.settle(Settlement { runs: vec![few(&one, count)], ..settlement(&one) }).await, Settled::Done);
        cause = one.event.id;
        left -= count;
    }
    let one = bench.accept(event("a")).await;
    let refused = bench.settle(Settlement { runs: vec![ran("q"), few(&one, 1)], ..settlement(&one) }).await;
    assert_eq!(refused, Settled::StateFull(vec![(1, StateFull::Scheduled { limit: most })]));
    assert_eq!(bench.store.cancel_event(cause, clock::wall()).await.unwrap().scheduled, 10_000);
    let again = bench.settle(Settlement { runs: vec![few(&one, 1)], ..settlement(&one) }).await;
    assert_eq!(again, Settled::Done, "cancelled events make room");
}

pub async fn a_cancelled_event_causes_nothing_more_across_its_chain(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let first = bench.accept(event("a")).await;
    let effects = Effects {
        deliveries: vec![webhook(crm, "one"), webhook(crm, "two")],
        emitted: vec![emitted(&first.event, "b")],
        scheduled: vec![later(&first.event, "c", HOUR)],
        ..Effects::default()
    };
    let runs = vec![ran_with("p", effects), waiting("q", soon(60))];
    assert_eq!(bench.settle(Settlement { runs, ..settlement(&first) }).await, Settled::Done);
    let second = bench.event().await;
    let two = schedules(vec![later(&second.event, "d", HOUR), later(&second.event, "e", DAY)]);
    let runs = vec![ran_with("p", Effects { emitted: vec![emitted(&second.event, "f")], ..two })];
    assert_eq!(bench.settle(Settlement { runs, ..settlement(&second) }).await, Settled::Done);
    let third = bench.event().await;
    let other = scheduling(bench, &[("g", HOUR)]).await;
    let deliveries = bench.deliveries().await;
    assert!(bench.record(attempt(&deliveries[0], Next::Delivered)).await);

    let cancelled = bench.store.cancel_event(first.event.id, clock::wall()).await.unwrap();
    let expected = Cancelled { events: 3, waiting: 1, runs: 1, deliveries: 1, scheduled: 3, more: false };
    assert_eq!(cancelled, expected);
    let again = bench.store.cancel_event(first.event.id, clock::wall()).await.unwrap();
    assert_eq!(again, Cancelled { events: 3, ..Cancelled::default() }, "a repeated call changes nothing");

    let late = Settlement { runs: vec![ran_with("p", schedules(vec![]))], direct: vec![direct(crm)], ..settlement(&third) };
    assert_eq!(bench.settle(late).await, Settled::LeaseLost, "an event that was being run has no effects any more");
    assert!(!bench.record(attempt(&deliveries[1], Next::Delivered)).await, "it was being sent, and stays cancelled");
    let states = |id| async move { bench.state_and_attempts(id).await.0 };
    assert_eq!((states(deliveries[0].id).await, states(deliveries[1].id).await), ("delivered", "cancelled"));
    let story = bench.story(first.event.id).await;
    assert!(story.runs.iter().any(|run| run.state == RunState::Cancelled));
    let gone = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), true)).collect::<Vec<_>>();
    assert_eq!(scheduled_of(bench, first.event.id).await, gone(&["c"]));
    assert_eq!(scheduled_of(bench, second.event.id).await, gone(&["d", "e"]));

    let bench = bench.after_a_crash().await;
    assert_eq!(bench.store.accept_scheduled(at(30 * DAY)).await.unwrap(), 1, "only that of the other event");
    let last = bench.event().await;
    assert_eq!(last.event.new.cause, Some(other));
    assert_eq!(bench.settle(settlement(&last)).await, Settled::Done);
    assert_eq!(bench.claim_at(soon(3600)).await, 0, "nothing else waits");
    let missing = bench.store.cancel_event(EventId::from_i64(77_777), clock::wall()).await;
    assert_eq!(missing, Err(Error::NotFound { what: "event" }));
}

pub async fn a_withdrawn_delivery_leaves_the_memory(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("a")).await;
    let settled = Settlement { direct: vec![direct(crm), direct(crm)], ..settlement(&claim) };
    assert_eq!(bench.settle(settled).await, Settled::Done);
    assert_eq!(bench.store.cancel_event(claim.event.id, clock::wall()).await.unwrap().deliveries, 2);
    bench.nothing("the cancelled deliveries waited in memory").await;
}
