//! Cases about commit 1, which stores an accepted event.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::bench::*;
use crate::{
    domain::{
        content::Content,
        event::{EventState, NewEvent},
        id::EventId,
        name::{Attributes, EventType},
        request::Request,
        run::{Effects, RunOutcome},
    },
    store::{Accepted, Arrival, Error, EventFilter, Issued, Settled, Settlement, Settles},
};

pub async fn an_accepted_event_is_handed_over_and_survives_a_restart(bench: &Bench) {
    let answers = bench.store.accept(vec![event("order.created")]).await.unwrap();
    let claim = bench.event().await;
    assert_eq!(answers, [Accepted::New(claim.event.id)]);
    assert_eq!(claim.round, 0);
    assert_eq!(bench.state_of(claim.event.id).await, EventState::Waiting);

    let after = bench.after_a_crash().await;
    after.nothing("no row is handed over before it is claimed").await;
    assert_eq!(after.claim().await, 1);
    let again = after.event().await;
    assert_eq!(again.event.id, claim.event.id);
    assert_eq!(again.event.new.content, claim.event.new.content);
    assert_eq!(after.store.tag(), bench.store.tag(), "ids keep their tag");
}

pub async fn an_event_reads_back_as_it_was_sent(bench: &Bench) {
    let attributes = vec![("channel".to_owned(), "newsletter".to_owned()), ("a".to_owned(), "\"ü\"".to_owned())];
    let sent = NewEvent {
        id: Some("order 7".into()),
        source: "https://shop.example/é".into(),
        event_type: EventType::parse("order.created").unwrap(),
        subject: Some("7".into()),
        time: Some("2026-02-25T16:02:10.5+01:00".into()),
        content: Content::octets(Bytes::from((0..=255).collect::<Vec<u8>>())),
        attributes: Arc::new(Attributes(attributes)),
        depth: 3,
        cause: None,
        request: None,
    };
    let plain = NewEvent { content: Content::none(), ..event("a") };
    let ids: Vec<_> = bench.store.accept(vec![sent.clone(), plain.clone()]).await.unwrap().iter().map(|one| one.id()).collect();
    let after = bench.after_a_crash().await;
    after.claim().await;
    let claims = after.events().await;
    for (claim, (id, sent)) in claims.iter().zip(ids.into_iter().zip([sent, plain])) {
        assert_eq!(claim.event.id, id);
        let story = after.story(id).await;
        for event in [&*claim.event, &story.event] {
            assert_eq!(format!("{:?}", event.new), format!("{sent:?}"));
            assert_eq!(event.accepted_at, claim.event.accepted_at);
        }
        let listed = after.list_events(EventFilter::default()).await.into_iter().find(|one| one.event.id == id).unwrap();
        assert_eq!(listed.bytes, sent.content.bytes().len() as u64);
        assert_eq!(
            format!("{:?}", listed.event.new),
            format!("{:?}", NewEvent { content: Content::stored(&**sent.content.content_type(), Bytes::new()), ..sent })
        );
    }
}

pub async fn events_of_one_request_are_handed_over_in_order(bench: &Bench) {
    let events = (0..100).map(|number| NewEvent { subject: Some(number.to_string().into()), ..event("a") }).collect();
    let answers = bench.store.accept(events).await.unwrap();
    let claims = bench.events().await;
    let subjects: Vec<_> =
        claims.iter().map(|claim| claim.event.new.subject.as_deref().unwrap().parse::<i32>().unwrap()).collect();
    assert_eq!(subjects, (0..100).collect::<Vec<_>>());
    assert_eq!(answers, claims.iter().map(|claim| Accepted::New(claim.event.id)).collect::<Vec<_>>());
    assert!(answers.is_sorted_by_key(|answer| answer.id()));
    assert_eq!(bench.store.accept(vec![]).await.unwrap(), []);
}

pub async fn a_repeated_id_is_answered_with_the_first_event(bench: &Bench) {
    let together = vec![
        event_with_id("shop", "1"),
        event_with_id("shop", "1"),
        event_with_id("till", "1"),
        event_with_id("shop", "2"),
        event_with_id("shop", "1"),
    ];
    let answers = bench.store.accept(together).await.unwrap();
    let first = answers[0].id();
    assert_eq!(answers[1], Accepted::Duplicate(first), "a repeat in the same batch");
    assert!(matches!(answers[2], Accepted::New(_)), "the same id from another source is no repeat");
    assert!(matches!(answers[3], Accepted::New(_)));
    assert_eq!(answers[4], Accepted::Duplicate(first));
    let claims = bench.events().await;
    assert_eq!(claims.iter().map(|claim| claim.event.id).collect::<Vec<_>>(), [first, answers[2].id(), answers[3].id()]);

    let changed = NewEvent { content: Content::octets(Bytes::from_static(b"other")), ..event_with_id("shop", "1") };
    assert_eq!(bench.store.accept(vec![changed]).await.unwrap(), [Accepted::Duplicate(first)]);
    bench.nothing("a repeat is not run").await;
    assert_eq!(bench.story(first).await.event.new.content, event("a").content, "a repeat changes nothing");
    assert_eq!(bench.event_ids(EventFilter::default()).await.len(), 3);
}

pub async fn an_id_with_another_type_is_refused(bench: &Bench) {
    let paid = |id: &str| NewEvent { event_type: EventType::parse("order.paid").unwrap(), ..event_with_id("shop", id) };
    let first = bench.accept(event_with_id("shop", "1")).await.event.id;
    let refused = |answer: Result<Vec<Accepted>, Error>| match answer {
        Err(Error::IdTaken(taken)) => (taken.place, taken.earlier, taken.earlier_type),
        other => panic!("{other:?}"),
    };
    let taken = bench.store.accept(vec![paid("1")]).await;
    assert_eq!(refused(taken), (0, Some(first), "order.created".to_owned()));

    let within = vec![event("a"), event_with_id("shop", "2"), event_with_id("shop", "2"), paid("2")];
    assert_eq!(refused(bench.store.accept(within).await), (3, None, "order.created".to_owned()), "an id of the same batch");
    let behind = vec![event_with_id("shop", "3"), paid("1")];
    assert_eq!(refused(bench.store.accept(behind).await), (1, Some(first), "order.created".to_owned()));
    bench.nothing("no event of a refused batch is run").await;
    assert_eq!(bench.event_ids(EventFilter::default()).await.len(), 1);
    let answers = bench.store.accept(vec![paid("2"), event_with_id("shop", "3")]).await.unwrap();
    assert!(answers.iter().all(|one| matches!(one, Accepted::New(_))), "ids of a refused batch are free: {answers:?}");
}

pub async fn a_refused_request_does_not_refuse_concurrent_requests(bench: &Bench) {
    bench.accept(event_with_id("shop", "1")).await;
    let other = NewEvent { event_type: EventType::parse("order.paid").unwrap(), ..event_with_id("shop", "1") };
    let mut calls = JoinSet::new();
    for number in 0..16 {
        let event = if number % 4 == 0 { other.clone() } else { event_with_id("till", &number.to_string()) };
        let store = Arc::clone(&bench.store);
        calls.spawn(async move { (number, store.accept(vec![event]).await) });
    }
    for (number, answer) in calls.join_all().await {
        assert_eq!(answer.is_ok(), number % 4 != 0, "{number}: {answer:?}");
    }
}

pub async fn a_published_event_cannot_use_the_ids_of_a_source(bench: &Bench) {
    let request = Request { method: "POST".into(), query: String::new(), headers: vec![], body: None };
    let of_source = NewEvent { request: Some(Arc::new(request)), ..event_with_id("github", "1") };
    let published = event_with_id("github", "1");
    let first = bench.store.accept(vec![published.clone(), of_source.clone()]).await.unwrap();
    assert!(
        matches!(first[..], [Accepted::New(_), Accepted::New(_)]),
        "published events and a source's events have separate name spaces: {first:?}"
    );
    let again = bench.store.accept(vec![of_source, published]).await.unwrap();
    assert_eq!(again, [Accepted::Duplicate(first[1].id()), Accepted::Duplicate(first[0].id())]);
}

pub async fn a_repeated_id_is_noticed_after_a_restart(bench: &Bench) {
    let first = bench.accept(event_with_id("shop", "1")).await;
    assert_eq!(bench.settle(settlement(&first)).await, Settled::Done);
    let after = bench.after_a_crash().await;
    let answers = after.store.accept(vec![event_with_id("shop", "1")]).await.unwrap();
    assert_eq!(answers, [Accepted::Duplicate(first.event.id)]);
    assert_eq!(after.claim().await, 0);
}

pub async fn an_event_without_an_id_is_never_a_repeat(bench: &Bench) {
    let answers = bench.store.accept(vec![event("a"), event("a"), event("a")]).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Accepted::New(_))), "{answers:?}");
    assert_eq!(bench.events().await.len(), 3);
}

pub async fn events_of_one_request_are_stored_all_or_none(bench: &Bench) {
    bench.backing.refuse_poison().await;
    let together = vec![event_with_id("shop", "1"), event("poison"), event("a")];
    bench.store.accept(together).await.expect_err("the second one cannot be stored");
    bench.nothing("events that were not stored are not run").await;
    assert!(bench.handoff.events.is_empty(), "the slot of the refused event is free again");
    assert_eq!(bench.event_ids(EventFilter::default()).await, []);
    let answers = bench.store.accept(vec![event_with_id("shop", "1")]).await.unwrap();
    assert!(matches!(answers[..], [Accepted::New(_)]), "an id that was not stored is not remembered: {answers:?}");
}

pub async fn an_event_that_was_run_is_stored_with_its_results_or_without(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let effects = || state_effects(&[("k", 0)], &[("k", Some(b"1"))]);
    let arrival = |new: NewEvent| match bench.store.issue(&new) {
        Some(Issued { event, lease }) => {
            let settles = Settles::Event { id: event.id, round: 0, lease };
            let effects = Effects { deliveries: vec![webhook(crm, "x")], ..effects() };
            Arrival::Settled(Settlement { settles, event, runs: vec![ran_with("p", effects)], direct: vec![] })
        }
        None => Arrival::New(new),
    };
    let can_settle = matches!(arrival(event("a")), Arrival::Settled(_));
    // The second run has read the state from before the first one. The third event repeats the first.
    let arrivals = vec![arrival(event_with_id("shop", "1")), arrival(event("b")), arrival(event_with_id("shop", "1"))];
    let arrived = bench.store.accept_arrivals(arrivals).await.unwrap();
    let ids: Vec<_> = arrived.iter().map(|one| one.accepted.id()).collect();
    assert_eq!(arrived[2].accepted, Accepted::Duplicate(ids[0]));
    let settled: Vec<_> = arrived.into_iter().map(|one| one.settled.map(|(_, settled)| settled)).collect();
    let states = [bench.state_of(ids[0]).await, bench.state_of(ids[1]).await];
    if !can_settle {
        assert_eq!((settled, states), (vec![None, None, None], [EventState::Waiting; 2]), "this store gives no ids in advance");
        assert_eq!(bench.events().await.len(), 2);
        return;
    }
    assert_eq!(settled, [Some(Settled::Done), Some(Settled::StateConflict(vec![0])), None]);
    assert_eq!(states, [EventState::Waiting; 2], "a delivery waits, and an event");
    assert_eq!(bench.event().await.event.id, ids[1], "only the event whose results were refused is run again");
    assert_eq!(one(bench.story(ids[0]).await.runs, "run").outcome, Some(RunOutcome::Ok));
    assert_eq!(bench.delivery().await.event.id, ids[0]);

    let after = bench.after_a_crash().await;
    after.claim().await;
    assert_eq!((after.event().await.event.id, after.delivery().await.event.id), (ids[1], ids[0]));
    assert_eq!(after.store.read_state(&slug("p"), "k").await.unwrap().map(|(value, _)| value), Some(b"1".to_vec()));
}

pub async fn events_without_room_are_claimed_when_there_is_room(bench: &Bench) {
    let full = bench.handoff.events.reserve(&(), 64 << 20).expect("everything");
    let answers = bench.store.accept((0..300).map(|_| event("a")).collect()).await.unwrap();
    assert_eq!(answers.len(), 300, "all events are accepted");
    assert_eq!(bench.handoff.events.len(), 1, "the other events take no memory");
    assert_eq!(bench.claim().await, 0);
    bench.nothing("there is no room").await;

    drop(full);
    assert_eq!(bench.claim().await, 300);
    let claims = bench.events().await;
    let ids: Vec<EventId> = claims.iter().map(|claim| claim.event.id).collect();
    assert_eq!(ids, answers.iter().map(|answer| answer.id()).collect::<Vec<_>>(), "in the order of their acceptance");
    for claim in claims {
        assert_eq!(bench.settle(settlement(&claim)).await, Settled::Done);
    }
}

pub async fn new_events_do_not_starve_events_in_the_store(bench: &Bench) {
    let large = bench.handoff.events.reserve(&(), 40 << 20).expect("most of the room");
    let other = bench.handoff.events.reserve(&(), (24 << 20) - 512).expect("the rest");
    let waiting = bench.store.accept(vec![event("a")]).await.unwrap()[0].id();
    bench.nothing("there is no room for it").await;
    drop(other);
    bench.store.accept(vec![event("a"), event("a")]).await.unwrap();
    drop(large);
    bench.claim().await;
    let order: Vec<_> = bench.events().await.iter().map(|claim| claim.event.id).collect();
    assert_eq!(order.len(), 3);
    assert_eq!(order[0], waiting, "later events wait behind it");
}

pub async fn ids_grow_and_are_never_issued_twice(bench: &Bench) {
    let mut issued = Vec::new();
    let mut bench = bench.after_a_crash().await;
    for round in 0..3 {
        issued.push(bench.accept(event("a")).await.event.id);
        let repeat = event_with_id("shop", "1");
        let answers = bench.store.accept(vec![repeat.clone(), repeat, event("a")]).await.unwrap();
        issued.extend(answers.iter().filter_map(|one| if let Accepted::New(id) = one { Some(*id) } else { None }));
        assert_eq!(issued.len(), 3 + 2 * round);
        bench = bench.after_a_crash().await;
    }
    assert!(issued.is_sorted_by(|one, two| one < two), "{issued:?}");
}
