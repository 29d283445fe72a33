//! Cases about what people read: states, lists, pages, histories.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::bench::*;
use crate::{
    clock,
    domain::{
        delivery::{DeadReason, InitialState, NewDelivery, Next},
        endpoint::Ordering,
        event::{EventState, NewEvent},
        id::{DeliveryId, EventId},
        name::EventType,
        pattern::Pattern,
        run::{Effects, RunIdentity, RunOutcome, RunRecord, RunState},
        time::Timestamp,
        why::Behind,
    },
    store::{
        Backlog, DeliveryFilter, Error, EventFilter, PageRequest, STORY_ATTEMPTS, STORY_DELIVERIES, STORY_EMITTED, STORY_RUNS,
        Settled, Settlement, StoredAttempt, StoryPlace,
    },
};

/// Accepts one event of each state.
async fn one_of_each(bench: &Bench) -> Vec<(EventState, EventId)> {
    let crm = bench.endpoint("crm").await;
    let delivered = bench.finished(crm, Next::Delivered).await.event();
    let retrying = bench.finished(crm, retry_in(3600)).await.event();
    let nothing_sent = bench.settled_with(ran("p")).await;
    let failed = bench.settled_with(parked("p", RunOutcome::Trapped)).await;
    let unrouted = bench.accept(event("a")).await;
    bench.settle(settlement(&unrouted)).await;
    let waiting = bench.accept(event("a")).await.event.id;
    std::iter::zip(EventState::ALL, [waiting, retrying, failed, delivered, nothing_sent, unrouted.event.id]).collect()
}

pub async fn the_state_of_an_event_follows_its_runs_and_deliveries(bench: &Bench) {
    for (state, id) in one_of_each(bench).await {
        assert_eq!(bench.state_of(id).await, state);
        let listed = bench.list_events(EventFilter::default()).await.into_iter().find(|one| one.event.id == id).unwrap();
        assert_eq!(listed.parts.state(), state);
    }
    let failed = bench.settled_with(parked("q", RunOutcome::NotLoadable)).await;
    bench.store.requeue_not_loadable(&slug("q"), clock::steady()).await.unwrap();
    bench.claim().await;
    assert_eq!(bench.state_of(failed).await, EventState::Waiting, "its run is due again");
    let run = bench.run().await;
    bench.settle(run_settlement(&run, parked("q", RunOutcome::Trapped))).await;
    assert_eq!(bench.state_of(failed).await, EventState::Failed);
}

pub async fn events_are_listed_by_state(bench: &Bench) {
    let each = one_of_each(bench).await;
    let more = one_more_of_each(bench).await;
    for ((state, first), second) in each.into_iter().zip(more) {
        let filter = EventFilter { state: Some(state), ..EventFilter::default() };
        assert_eq!(bench.event_ids(filter.clone()).await, [second, first], "{state:?}, newest first");
        let page = bench.store.events(filter.clone(), PageRequest { cursor: None, limit: 1 }).await.unwrap();
        assert_eq!((page.items.len(), page.items[0].parts.state(), page.next), (1, state, Some(second.as_i64())));
        let page = bench.store.events(filter, PageRequest { cursor: page.next, limit: 1 }).await.unwrap();
        assert_eq!((page.items[0].event.id, page.next), (first, None));
    }
}

/// Accepts one more event for each state. The event is in this state for another reason than the event of [`one_of_each`].
async fn one_more_of_each(bench: &Bench) -> [EventId; 6] {
    let (crm, slack) = (bench.find_named("crm").await, bench.endpoint("slack").await);
    let with_two = async |first: Next, second: Next| {
        let claim = bench.accept(event("a")).await;
        bench.settle(Settlement { direct: vec![direct(crm), direct(slack)], ..settlement(&claim) }).await;
        for (delivery, next) in bench.deliveries().await.iter().zip([first, second]) {
            assert!(bench.record(attempt(delivery, next)).await);
        }
        claim.event.id
    };
    let delivered = with_two(Next::Delivered, Next::Delivered).await;
    let retrying = with_two(Next::Delivered, retry_in(3600)).await;
    let dead = with_two(Next::Dead(DeadReason::Exhausted), retry_in(3600)).await;
    let cancelled = bench.finished(crm, retry_in(3600)).await;
    bench.store.cancel_delivery(cancelled, clock::wall()).await.unwrap();
    // An event whose run waits for its next try is not finished.
    let run_waits = bench.settled_with(waiting("p", soon(3600))).await;
    let unrouted = bench.accept(event("a")).await;
    bench.settle(settlement(&unrouted)).await;
    [run_waits, retrying, dead, delivered, cancelled.event(), unrouted.event.id]
}

pub async fn an_event_with_several_failures_is_listed_once(bench: &Bench) {
    let twice = vec![parked("p", RunOutcome::Trapped), parked("q", RunOutcome::Failed)];
    let failed = bench.accept(event("a")).await;
    bench.settle(Settlement { runs: twice, ..settlement(&failed) }).await;
    let filter = EventFilter { state: Some(EventState::Failed), ..EventFilter::default() };
    assert_eq!(bench.event_ids(filter).await, [failed.event.id]);
    let parts = bench.story(failed.event.id).await.parts;
    assert_eq!((parts.runs_parked, parts.runs_waiting, parts.to_run), (2, 0, false));
}

pub async fn a_replay_replaces_the_finished_parts_of_an_event(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let dead = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await;
    let id = dead.event();
    assert_eq!(bench.state_of(id).await, EventState::Failed);
    bench.store.replay_event(id, clock::steady()).await.unwrap();
    assert_eq!(bench.state_of(id).await, EventState::Waiting);
    bench.claim().await;
    let replay = bench.event().await;
    bench.settle(Settlement { direct: vec![direct(crm)], ..settlement(&replay) }).await;
    let new = bench.delivery().await;
    assert!(bench.record(attempt(&new, Next::Delivered)).await);
    let parts = bench.story(id).await.parts;
    assert_eq!((parts.state(), parts.delivered, parts.dead), (EventState::Delivered, 1, 0));
    let failed = EventFilter { state: Some(EventState::Failed), ..EventFilter::default() };
    assert_eq!(bench.event_ids(failed).await, []);
    bench.store.retry_delivery(dead, clock::steady()).await.unwrap();
    assert_eq!(bench.state_of(id).await, EventState::Retrying, "unfinished parts of any round count");
}

pub async fn an_event_is_listed_by_the_state_of_its_last_replay(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let id = bench.finished(crm, Next::Delivered).await.event();
    let listed = async |state| bench.event_ids(EventFilter { state: Some(state), ..EventFilter::default() }).await;
    assert_eq!((listed(EventState::Delivered).await, listed(EventState::NothingSent).await), (vec![id], vec![]));
    bench.store.replay_event(id, clock::steady()).await.unwrap();
    bench.claim().await;
    let replay = bench.event().await;
    assert_eq!(bench.settle(Settlement { runs: vec![ran("p")], ..settlement(&replay) }).await, Settled::Done);
    assert_eq!((listed(EventState::Delivered).await, listed(EventState::NothingSent).await), (vec![], vec![id]));
}

pub async fn events_are_listed_by_type_and_source(bench: &Bench) {
    let of = |event_type: &str, source: &str| NewEvent { source: source.into(), ..event(event_type) };
    let events = vec![of("a", "shop"), of("b", "shop"), of("a", "till"), of("a", "shop")];
    let ids: Vec<_> = bench.store.accept(events).await.unwrap().iter().map(|one| one.id()).collect();
    let by = |event_type: Option<&str>, source: Option<&str>| EventFilter {
        event_type: event_type.map(|text| Pattern::parse(text).unwrap_or_else(|_| Pattern::Exactly(text.to_owned()))),
        source: source.map(Into::into),
        ..EventFilter::default()
    };
    assert_eq!(bench.event_ids(by(Some("a"), None)).await, [ids[3], ids[2], ids[0]]);
    assert_eq!(bench.event_ids(by(None, Some("shop"))).await, [ids[3], ids[1], ids[0]]);
    assert_eq!(bench.event_ids(by(Some("a"), Some("shop"))).await, [ids[3], ids[0]]);
    assert_eq!(bench.event_ids(by(Some("A"), None)).await, []);
    assert_eq!(bench.event_ids(by(Some("' OR 1 --"), None)).await, []);
    let waiting = EventFilter { state: Some(EventState::Waiting), ..by(Some("b"), Some("shop")) };
    assert_eq!(bench.event_ids(waiting).await, [ids[1]]);
    let of_seven = NewEvent { subject: Some("order/7".into()), ..event_with_id("shop", "o-1001") };
    let known = bench.store.accept(vec![of_seven]).await.unwrap()[0].id();
    let by_id = |id: &str| EventFilter { id: Some(id.into()), ..EventFilter::default() };
    let by_subject = |subject: &str| EventFilter { subject: Some(subject.into()), ..EventFilter::default() };
    assert_eq!(bench.event_ids(by_id("o-1001")).await, [known]);
    assert_eq!(bench.event_ids(by_subject("order/7")).await, [known]);
    assert_eq!(bench.event_ids(EventFilter { source: Some("till".into()), ..by_id("o-1001") }).await, []);
    assert_eq!(bench.event_ids(by_subject("order/8")).await, []);
    let events = vec![of("innesco.endpoint.failing", "innesco"), of("innescope", "shop")];
    let last: Vec<_> = bench.store.accept(events).await.unwrap().iter().map(|one| one.id()).collect();
    let without_own = |filter: EventFilter| EventFilter { without_own: true, ..filter };
    assert_eq!(bench.event_ids(EventFilter::default()).await[..2], [last[1], last[0]]);
    assert_eq!(bench.event_ids(without_own(EventFilter::default())).await[..2], [last[1], known]);
    let waiting = EventFilter { state: Some(EventState::Waiting), ..EventFilter::default() };
    assert_eq!(bench.event_ids(without_own(waiting)).await[..2], [last[1], known]);
    let events = ["parcel.created", "parcel.item.added", "parcels.created", "parcel", "parcel_.x", "parcelé.x"];
    let events = events.into_iter().filter(|name| EventType::parse(name).is_ok()).map(|name| of(name, "shop")).collect();
    let ids: Vec<_> = bench.store.accept(events).await.unwrap().iter().map(|one| one.id()).collect();
    assert_eq!(bench.event_ids(by(Some("parcel.*"), None)).await, [ids[1], ids[0]]);
    assert_eq!(bench.event_ids(by(Some("parcel.item.*"), Some("shop"))).await, [ids[1]]);
    let waiting = EventFilter { state: Some(EventState::Waiting), ..by(Some("parcel.*"), None) };
    assert_eq!(bench.event_ids(waiting).await, [ids[1], ids[0]]);
    assert_eq!(bench.event_ids(by(Some("*"), None)).await, bench.event_ids(EventFilter::default()).await);
    assert_eq!(bench.event_ids(by(Some("parcel_.y.*"), None)).await, []);
    // A store may look up a few types one by one, but not many.
    let mut all = Vec::new();
    for first in [0, 40] {
        let events = (first..first + 40).map(|nth| of(&format!("kind.n{nth}"), "shop")).collect();
        let accepted = bench.store.accept(events).await.unwrap();
        all.splice(0..0, accepted.iter().rev().map(|one| one.id()));
        assert_eq!(bench.event_ids(by(Some("kind.*"), None)).await, all);
    }
}

pub async fn events_are_listed_by_time(bench: &Bench) {
    let mut accepted = Vec::new();
    for _ in 0..4 {
        let claim = bench.accept(event("a")).await;
        accepted.push((claim.event.id, claim.event.accepted_at));
        // The next event gets a later millisecond.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let bench = bench.after_a_crash().await;
    let between = async |since: Option<Timestamp>, until: Option<Timestamp>| {
        let mut ids = bench.event_ids(EventFilter { since, until, ..EventFilter::default() }).await;
        ids.reverse();
        ids
    };
    let id = |range: std::ops::Range<usize>| accepted[range].iter().map(|one| one.0).collect::<Vec<_>>();
    let at = |place: usize| Some(accepted[place].1);
    assert_eq!(between(at(1), None).await, id(1..4), "the start of the range is included");
    assert_eq!(between(None, at(2)).await, id(0..2), "the end of the range is excluded");
    assert_eq!(between(at(1), at(3)).await, id(1..3));
    assert_eq!(between(at(2), at(2)).await, []);
    let away = |minutes: i64| Some(Timestamp::from_millis(accepted[0].1.millis() + minutes * 60_000));
    assert_eq!(between(away(-10), away(10)).await, id(0..4));
    assert_eq!(between(away(10), None).await, []);
    assert_eq!(between(None, away(-10)).await, []);
}

pub async fn events_come_in_pages_newest_first(bench: &Bench) {
    let answers = bench.store.accept((0..7).map(|_| event("a")).collect()).await.unwrap();
    let mut expected: Vec<_> = answers.iter().map(|one| one.id()).collect();
    expected.reverse();
    for limit in [1, 2, 3, 6, 7, 8] {
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let page = bench.store.events(EventFilter::default(), PageRequest { cursor, limit }).await.unwrap();
            assert!(page.items.len() == limit || page.next.is_none(), "a page is full unless it is the last");
            seen.extend(page.items.iter().map(|one| one.event.id));
            // Events that arrive in the meantime do not shift the pages.
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, expected, "{limit} on a page");
    }
    let full = bench.store.events(EventFilter::default(), PageRequest { cursor: None, limit: 7 }).await.unwrap();
    assert_eq!(full.next, None, "a full last page has no next page");
    let first = bench.store.events(EventFilter::default(), PageRequest { cursor: None, limit: 3 }).await.unwrap();
    bench.store.accept(vec![event("a")]).await.unwrap();
    let second = bench.store.events(EventFilter::default(), PageRequest { cursor: first.next, limit: 3 }).await.unwrap();
    assert_eq!(second.items.iter().map(|one| one.event.id).collect::<Vec<_>>(), expected[3..6]);
}

pub async fn lists_merge_waiting_and_finished_deliveries(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let ends = [Next::Delivered, retry_in(60), Next::Dead(DeadReason::Exhausted), Next::Delivered, retry_in(60), Next::Delivered];
    let mut expected = Vec::new();
    for end in ends {
        expected.insert(0, bench.finished(crm, end).await);
    }
    expected.insert(0, bench.delivery_to(crm).await.id);
    for limit in 1..=8 {
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let page = bench.store.deliveries(DeliveryFilter::default(), PageRequest { cursor, limit }).await.unwrap();
            assert!(page.items.len() == limit || page.next.is_none());
            seen.extend(page.items.iter().map(|one| one.id));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, expected, "{limit} on a page");
    }
}

pub async fn deliveries_are_listed_by_endpoint_event_and_state(bench: &Bench) {
    let (crm, slack) = (bench.endpoint("crm").await, bench.endpoint("slack").await);
    let claim = bench.accept(event("order.created")).await;
    let direct = vec![
        direct(crm),
        NewDelivery { initial_state: InitialState::Held, ..webhook(slack, "x") },
        NewDelivery { initial_state: InitialState::Dead, ..direct(crm) },
    ];
    bench.settle(Settlement { direct, ..settlement(&claim) }).await;
    let pending = bench.delivery().await;
    let [held, dead] = [1, 2].map(|k| claim.event.id.delivery(k));
    let delivered = bench.finished(crm, Next::Delivered).await;
    let retrying = bench.finished(slack, retry_in(60)).await;
    let cancelled = bench.finished(slack, retry_in(60)).await;
    bench.store.cancel_delivery(cancelled, clock::wall()).await.unwrap();

    let all = DeliveryFilter::default();
    let by_state = |state| DeliveryFilter { state: Some(state), ..DeliveryFilter::default() };
    let ids = async |filter| bench.delivery_ids(filter).await;
    assert_eq!(ids(by_state("pending")).await, [held, pending.id]);
    assert_eq!(ids(by_state("retrying")).await, [retrying]);
    assert_eq!(ids(by_state("delivered")).await, [delivered]);
    assert_eq!(ids(by_state("dead")).await, [dead]);
    assert_eq!(ids(by_state("cancelled")).await, [cancelled]);
    assert_eq!(ids(DeliveryFilter { endpoint: Some(crm), ..all.clone() }).await, [delivered, dead, pending.id]);
    assert_eq!(ids(DeliveryFilter { endpoint: Some(crm), ..by_state("dead") }).await, [dead]);
    assert_eq!(ids(DeliveryFilter { endpoint: Some(slack), ..by_state("pending") }).await, [held]);
    assert_eq!(ids(DeliveryFilter { endpoint: Some(slack), ..by_state("dead") }).await, []);
    assert_eq!(ids(DeliveryFilter { event: Some(claim.event.id), ..all.clone() }).await, [dead, held, pending.id]);
    assert_eq!(ids(DeliveryFilter { event: Some(claim.event.id), ..by_state("dead") }).await, [dead]);
    assert_eq!(ids(DeliveryFilter { event: Some(EventId::from_i64(99)), ..all.clone() }).await, []);

    let first = claim.event.accepted_at;
    let since = |millis: i64| DeliveryFilter {
        since: Some(Timestamp::from_millis(first.millis() + millis)),
        ..DeliveryFilter::default()
    };
    assert_eq!(ids(since(0)).await.len(), 6, "deliveries of this event and of later events");
    assert_eq!(ids(DeliveryFilter { endpoint: Some(crm), state: Some("dead"), ..since(0) }).await, [dead]);
    assert_eq!(ids(since(600_000)).await, [], "no delivery belongs to an event that late");

    let listed = bench.list_deliveries(DeliveryFilter { event: Some(claim.event.id), ..all }).await;
    let shown: Vec<_> =
        listed.iter().map(|one| (one.endpoint_name.as_str(), one.event_type.as_str(), one.last.is_some())).collect();
    assert_eq!(shown, [("crm", "order.created", false), ("slack", "order.webhook", false), ("crm", "order.created", false)]);
}

pub async fn a_history_shows_runs_deliveries_and_attempts(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("order.created")).await;
    let run = ran_with(
        "p",
        Effects {
            deliveries: vec![webhook(crm, "x")],
            emitted: vec![emitted(&claim.event, "b"), emitted(&claim.event, "c")],
            ..Effects::default()
        },
    );
    let waits = waiting("q", soon(60));
    bench.settle(Settlement { runs: vec![run, waits.clone()], direct: vec![direct(crm)], ..settlement(&claim) }).await;
    for claim in bench.deliveries().await {
        bench.record(attempt(&claim, Next::Retry { due: clock::steady() })).await;
    }
    bench.claim().await;
    let claims = bench.deliveries().await;
    bench.record(attempt(&claims[0], Next::Dead(DeadReason::Exhausted))).await;

    let story = bench.after_a_crash().await.story(claim.event.id).await;
    assert_eq!(story.event.new.content, claim.event.new.content);
    assert_eq!(story.emitted.len(), 2);
    assert_eq!(story.runs.iter().map(|run| run.state).collect::<Vec<_>>(), [RunState::Done, waits.state()]);
    let listed: Vec<_> = story
        .deliveries
        .iter()
        .map(|one| {
            (one.summary.id.k(), one.summary.state.as_str(), one.attempts.iter().map(|one| one.id.n()).collect::<Vec<_>>())
        })
        .collect();
    let first = claims[0].id.k();
    let expected = |k: u32| if k == first { (k, "dead", vec![1, 2]) } else { (k, "retrying", vec![1]) };
    assert_eq!(listed, [expected(0), expected(1)]);
    assert_eq!(bench.story(story.emitted[0]).await.event.new.cause, Some(claim.event.id));
    for id in [claim.event.id, story.emitted[0]] {
        let (chain, more) = bench.store.chain(id).await.unwrap();
        let ids: Vec<_> = chain.iter().map(|link| link.event.id).collect();
        assert_eq!((&ids[..1], &ids[1..], more), (&[claim.event.id][..], &story.emitted[..], false), "the chain of {id:?}");
    }
    assert!(matches!(bench.store.chain(EventId::from_i64(1 << 40)).await, Err(Error::NotFound { .. })));
}

pub async fn runs_and_deliveries_of_an_event_at_one_endpoint_are_read_together(bench: &Bench) {
    let (crm, slack) = (bench.endpoint("crm").await, bench.endpoint("slack").await);
    // An earlier event still waits to be run, so the ordered webhooks of a later one are held back.
    let earlier = bench.accept(event("a")).await;
    let claim = bench.accept(event("b")).await;
    let bound = |endpoint| RunRecord {
        identity: RunIdentity { endpoint: Some(endpoint), ..identity("bound") },
        ..parked("bound", RunOutcome::Trapped)
    };
    let ordered = |endpoint| NewDelivery { ordering: Some(Ordering::WHOLE), ..direct(endpoint) };
    let router = ran_with("router", Effects { deliveries: vec![webhook(slack, "x")], ..Effects::default() });
    let runs = vec![router, bound(crm), bound(slack)];
    let direct = vec![ordered(crm), ordered(crm)];
    assert_eq!(bench.settle(Settlement { runs, direct, ..settlement(&claim) }).await, Settled::Done);
    let id = claim.event.id;
    let passage = bench.store.passage(id, Some(crm)).await.unwrap();
    assert_eq!((passage.event.id, passage.parts.runs_parked), (id, 2));
    let runs: Vec<_> = passage.runs.iter().map(|run| (&*run.plugin, run.endpoint.as_deref(), run.state)).collect();
    assert_eq!(
        runs,
        [("bound", Some("crm"), RunState::Parked), ("router", None, RunState::Done)],
        "runs that belong to slack are left out"
    );
    let behind: Vec<_> = passage.deliveries.iter().map(|one| (one.is_claimed, one.behind)).collect();
    let first = passage.deliveries[1].summary.id;
    let expected = [(false, Some(Behind::Delivery { id: first, attempts: 0 })), (false, Some(Behind::Event(earlier.event.id)))];
    assert_eq!((behind.as_slice(), passage.senders.is_empty()), (&expected[..], true));

    // The webhook of the plugin is claimed at once; once it is sent, the plugin is known as a sender.
    let passage = bench.store.passage(id, Some(slack)).await.unwrap();
    assert_eq!(passage.deliveries.iter().map(|one| (one.is_claimed, one.behind)).collect::<Vec<_>>(), [(true, None)]);
    assert_eq!(passage.deliveries[0].summary.run, passage.runs.iter().find(|run| &*run.plugin == "router").map(|run| run.id));
    assert!(bench.record(attempt(&bench.delivery().await, Next::Delivered)).await);
    assert_eq!(bench.store.passage(earlier.event.id, Some(slack)).await.unwrap().senders, ["router"]);

    let nowhere = bench.store.passage(id, None).await.unwrap();
    assert_eq!((nowhere.runs.len(), nowhere.deliveries.len()), (1, 0), "an endpoint that does not exist");
    let missing = bench.store.passage(EventId::from_i64(1 << 30), Some(crm)).await;
    assert_eq!(missing.err(), Some(Error::NotFound { what: "event" }));
}

pub async fn a_list_is_one_snapshot(bench: &Bench) {
    const DELIVERIES: u32 = 24;
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("a")).await;
    let dead = NewDelivery { initial_state: InitialState::Dead, ..direct(crm) };
    bench.settle(Settlement { direct: vec![dead; DELIVERIES as usize], ..settlement(&claim) }).await;
    let id = claim.event.id;

    // Deliveries change between finished and waiting all the time.
    let store = Arc::clone(&bench.store);
    let moving = tokio::spawn(async move {
        for round in 0..60 {
            let step = |k| {
                let (store, id) = (Arc::clone(&store), id.delivery(k));
                async move {
                    match round % 2 {
                        0 => store.retry_delivery(id, soon(3600)).await.unwrap(),
                        _ => store.cancel_delivery(id, clock::wall()).await.unwrap(),
                    }
                }
            };
            let mut steps = (0..DELIVERIES).map(step).collect::<tokio::task::JoinSet<_>>();
            while let Some(joined) = steps.join_next().await {
                joined.unwrap();
            }
        }
    });
    while !moving.is_finished() {
        let listed = bench.delivery_ids(DeliveryFilter::default()).await;
        let once: HashSet<DeliveryId> = listed.iter().copied().collect();
        assert_eq!((listed.len(), once.len()), (DELIVERIES as usize, DELIVERIES as usize), "each is listed exactly once");
        assert_eq!(bench.story(id).await.deliveries.len(), DELIVERIES as usize);
        bench.store.delivery(id.delivery(3)).await.expect("the delivery is found in every state");
    }
    moving.await.unwrap();
}

pub async fn an_unreadable_row_is_named(bench: &Bench) {
    let spoiled = bench.accept(event("a")).await.event.id;
    let other = bench.accept(event("b")).await.event.id;
    bench.backing.spoil(spoiled).await;
    let error = bench.store.event(spoiled, StoryPlace::default()).await.map(drop).unwrap_err();
    let Error::Corrupt { table, column, id } = error else { panic!("{error}") };
    assert_eq!((table, column.is_empty(), id), ("event", false, spoiled.as_i64()));
    let page = PageRequest { cursor: None, limit: 10 };
    let listed = bench.store.events(EventFilter::default(), page).await.map(drop);
    assert!(matches!(listed, Err(Error::Corrupt { .. })), "{listed:?}");
    assert_eq!(bench.story(other).await.event.id, other);
    bench.store.accept(vec![event("a")]).await.unwrap();
}

pub async fn a_missing_row_is_not_found(bench: &Bench) {
    let id = EventId::from_i64(7);
    assert_eq!(bench.store.event(id, StoryPlace::default()).await.map(drop), Err(Error::NotFound { what: "event" }));
    assert_eq!(bench.store.delivery(id.delivery(0)).await.map(drop), Err(Error::NotFound { what: "delivery" }));
    let page = PageRequest { cursor: Some(3), limit: 10 };
    assert_eq!(bench.store.events(EventFilter::default(), page).await.unwrap().items.len(), 0);
    assert_eq!(bench.store.deliveries(DeliveryFilter::default(), page).await.unwrap().next, None);
}

pub async fn a_probe_succeeds_when_writes_do(bench: &Bench) {
    for _ in 0..3 {
        bench.store.probe().await.unwrap();
    }
    let after = bench.after_a_crash().await;
    after.store.probe().await.unwrap();
    assert_eq!(after.event_ids(EventFilter::default()).await, [], "a probe leaves no visible row");
}

pub async fn the_load_counts_waiting_work_by_stage(bench: &Bench) {
    one_of_each(bench).await;
    let load = bench.store.load().await.unwrap();
    let depth = |name| load.stages.iter().find(|stage| stage.name == name).map(|stage| stage.depth);
    let depths = ["events", "runs", "runs-parked", "deliveries", "scheduled", "dead"].map(depth);
    assert_eq!(depths, [1, 0, 1, 1, 0, 0].map(Some));
    assert!(load.file_bytes.iter().any(|(_, bytes)| *bytes > 0) && load.disk_free_bytes <= load.disk_bytes, "{load:?}");
    let crm = bench.endpoint("other").await;
    let dead = bench.finished(crm, Next::Dead(DeadReason::Gone)).await;
    let load = bench.store.load().await.unwrap();
    assert_eq!(load.stages.last().map(|stage| (stage.name, stage.depth)), Some(("dead", 1)), "{dead:?}");
}

pub async fn a_history_comes_in_parts_of_bounded_size(bench: &Bench) {
    const MANY: usize = 250;
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("order.created")).await;
    let runs = (0..MANY)
        .map(|_| ran_with("p", Effects { emitted: vec![emitted(&claim.event, "b"); 5], ..Effects::default() }))
        .collect();
    let held = NewDelivery { initial_state: InitialState::Held, ..direct(crm) };
    bench.settle(Settlement { runs, direct: vec![held; MANY], ..settlement(&claim) }).await;
    bench.store.cancel_delivery(claim.event.id.delivery(120), clock::wall()).await.unwrap();

    let (mut place, mut parts) = (StoryPlace::default(), Vec::new());
    loop {
        let part = bench.store.event(claim.event.id, place).await.unwrap();
        assert!(
            part.runs.len() <= STORY_RUNS && part.deliveries.len() <= STORY_DELIVERIES && part.emitted.len() <= STORY_EMITTED
        );
        let next = part.next;
        parts.push(part);
        match next {
            Some(next) => place = next,
            None => break,
        }
    }
    assert_eq!(parts.len(), 3);
    let runs: Vec<u32> = parts.iter().flat_map(|part| &part.runs).map(|run| run.id.k()).collect();
    let deliveries: Vec<u32> = parts.iter().flat_map(|part| &part.deliveries).map(|one| one.summary.id.k()).collect();
    assert_eq!(runs, (0..MANY as u32).collect::<Vec<_>>());
    assert_eq!(deliveries, (0..MANY as u32).collect::<Vec<_>>(), "waiting and finished deliveries are in one order");
    let emitted: HashSet<EventId> = parts.iter().flat_map(|part| part.emitted.iter().copied()).collect();
    assert_eq!((emitted.len(), parts.iter().map(|part| part.emitted.len()).sum()), (5 * MANY, 5 * MANY), "each once");
}

pub async fn a_history_shows_the_last_attempts_and_a_delivery_shows_all(bench: &Bench) {
    const ATTEMPTS: u32 = STORY_ATTEMPTS as u32 + 3;
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("order.created")).await;
    bench.settle(Settlement { direct: vec![direct(crm)], ..settlement(&claim) }).await;
    for _ in 0..ATTEMPTS {
        let claim = bench.delivery().await;
        bench.record(attempt(&claim, Next::Retry { due: clock::steady() })).await;
        bench.claim().await;
    }
    let numbers = |attempts: &[StoredAttempt]| attempts.iter().map(|one| one.id.n()).collect::<Vec<_>>();
    let story = bench.story(claim.event.id).await;
    assert_eq!(numbers(&story.deliveries[0].attempts), (4..=ATTEMPTS).collect::<Vec<_>>());
    let delivery = bench.store.delivery(claim.event.id.delivery(0)).await.unwrap();
    assert_eq!(numbers(&delivery.attempts), (1..=ATTEMPTS).collect::<Vec<_>>());
    assert_eq!(delivery.summary.last.map(|last| last.id.n()), Some(ATTEMPTS), "a list shows the last one");
}

pub async fn the_backlog_of_an_endpoint_is_what_is_not_finished(bench: &Bench) {
    let (crm, idle) = (bench.endpoint("crm").await, bench.endpoint("idle").await);
    let backlogs = async || bench.store.backlogs(&[idle, crm]).await.unwrap();
    assert_eq!(backlogs().await, [Backlog { waiting: Some(0), oldest: None }; 2]);
    bench.finished(crm, Next::Delivered).await;
    assert_eq!(backlogs().await[1].waiting, Some(0), "delivered");
    let first = bench.finished(crm, retry_in(3600)).await.event();
    // This delivery is claimed, so it is being sent.
    let _sending = bench.delivery_to(crm).await;
    let found = backlogs().await;
    assert_eq!((found[0].waiting, found[1].waiting), (Some(0), Some(2)));
    let accepted = bench.story(first).await.event.accepted_at;
    assert_eq!(found[1].oldest, Some(accepted));
}
