//! Cases about commit 2, the settlement of an event or a run: it takes effect as a whole or not at all, at most once, and only for
//! the holder of the claim.

use std::{sync::Arc, time::Duration};

use super::bench::*;
use crate::{
    clock,
    domain::{
        delivery::{CancelReason, DeliveryState, InitialState, NewDelivery},
        event::EventState,
        id::CHILDREN_MAX,
        plugin::Digest,
        run::{Effects, Execution, LogLevel, LogLine, RunIdentity, RunLog, RunOutcome, RunState, StateUse, StateWrite},
        time::Timestamp,
    },
    store::{Deletion, DeliveryFilter, Error, EventFilter, Settled, Settlement, Settles, StateFull, StateLimits, StateSize},
};

pub async fn a_settlement_takes_effect_as_a_whole(bench: &Bench) {
    let (crm, slack) = (bench.endpoint("crm").await, bench.endpoint("slack").await);
    let claim = bench.accept(event("order.created")).await;
    let log = RunLog {
        lines: vec![LogLine {
            level: LogLevel::Warn,
            message: "low \"stock\"".into(),
            fields: vec![("of".to_owned(), "shoes".to_owned()), ("left".to_owned(), "2".to_owned())],
        }],
        dropped: 3,
    };
    let backtrace: Arc<[String]> =
        Arc::from(["orders::total (src/lib.rs:7)".to_owned(), "orders::handle (src/lib.rs:3)".to_owned()]);
    let execution = Execution {
        log: log.clone(),
        backtrace: Arc::clone(&backtrace),
        memory_peak: 70_000,
        took: Duration::from_micros(321),
        ..execution("p")
    };
    let effects = Effects {
        deliveries: vec![webhook(slack, "one"), webhook(slack, "two")],
        emitted: vec![emitted(&claim.event, "order.big")],
        state_use: state_use(&[("count", 0)], &[("count", Some(b"1"))]),
        ..Effects::default()
    };
    let run = identity("p").ok(execution, effects);
    let settlement =
        Settlement { runs: vec![run, parked("q", RunOutcome::Trapped)], direct: vec![direct(crm)], ..settlement(&claim) };
    assert_eq!(bench.settle(settlement).await, Settled::Done);

    let deliveries = bench.deliveries().await;
    let mut bodies: Vec<_> = deliveries.iter().map(|one| one.payload.as_ref().map(|payload| payload.body.clone())).collect();
    bodies.sort();
    assert_eq!(bodies, [None, Some("one".into()), Some("two".into())]);
    assert!(deliveries.iter().all(|one| one.event.id == claim.event.id && one.attempts == 0 && one.id.event() == claim.event.id));
    let follower = bench.event().await;
    assert_eq!((follower.event.new.depth, follower.event.new.cause), (1, Some(claim.event.id)));

    for bench in [bench, &bench.after_a_crash().await] {
        let story = bench.story(claim.event.id).await;
        assert_eq!(story.parts.state(), EventState::Failed, "one of its runs is parked");
        assert_eq!(story.emitted, [follower.event.id]);
        assert_eq!(story.deliveries.len(), 3);
        let [p, q] = &story.runs[..] else { panic!("two runs: {:?}", story.runs) };
        assert_eq!(
            (&*p.plugin, p.version, p.state, p.outcome),
            ("p", Some(Digest::of(b"p")), RunState::Done, Some(RunOutcome::Ok))
        );
        assert_eq!((p.webhooks, p.emitted, p.tries, p.round, p.endpoint.as_deref()), (2, 1, 1, 0, None));
        assert_eq!((p.took, p.memory_peak, &p.log), (Duration::from_micros(321), 70_000, &log));
        assert_eq!(p.backtrace[..], backtrace[..]);
        assert_eq!((&*q.plugin, q.state, q.outcome), ("q", RunState::Parked, Some(RunOutcome::Trapped)));
        assert_eq!((q.code.as_deref(), q.message.as_deref()), (Some("broken"), Some("it broke")));
        let (value, version) = bench.store.read_state(&slug("p"), "count").await.unwrap().expect("it was written");
        assert_eq!((&value[..], version), (&b"1"[..], claim.lease.token));
    }
    let after = bench.after_a_crash().await;
    assert_eq!(after.claim().await, 4, "the emitted event and three deliveries are due; the event itself is settled");
    let mut again: Vec<_> = after.deliveries().await.into_iter().map(|one| (one.id, one.payload)).collect();
    let mut before: Vec<_> = deliveries.into_iter().map(|one| (one.id, one.payload)).collect();
    again.sort_by_key(|one| one.0);
    before.sort_by_key(|one| one.0);
    assert_eq!(again, before, "ids and bytes are the same");
}

pub async fn a_failed_settlement_changes_nothing(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    bench.backing.refuse_poison().await;
    let claim = bench.accept(event("order.created")).await;
    let first = ran_with(
        "p",
        Effects { deliveries: vec![webhook(crm, "x")], state_use: state_use(&[], &[("k", Some(b"1"))]), ..Effects::default() },
    );
    let second = ran_with(
        "q",
        Effects { emitted: vec![emitted(&claim.event, "a"), emitted(&claim.event, "poison")], ..Effects::default() },
    );
    let broken = Settlement { runs: vec![first.clone(), second], direct: vec![direct(crm)], ..settlement(&claim) };
    bench.store.settle(Arc::new(vec![broken])).await.expect_err("one of its events cannot be stored");

    bench.nothing("the refused settlement has no effect").await;
    assert!(bench.handoff.deliveries.is_empty(), "the slots of the refused settlement are free again");
    let story = bench.story(claim.event.id).await;
    assert_eq!((story.parts.state(), story.runs.len(), story.deliveries.len()), (EventState::Waiting, 0, 0));
    assert_eq!(bench.event_ids(EventFilter::default()).await, [claim.event.id]);
    assert_eq!(bench.store.read_state(&slug("p"), "k").await.unwrap(), None);

    let mended = Settlement { runs: vec![first], ..settlement(&claim) };
    assert_eq!(bench.settle(mended).await, Settled::Done, "the claim is still held");
    assert_eq!(bench.deliveries().await.len(), 1);
}

pub async fn a_failed_settlement_affects_no_other(bench: &Bench) {
    bench.backing.refuse_poison().await;
    for _ in 0..20 {
        let (bad, good) = (bench.accept(event("a")).await, bench.accept(event("b")).await);
        let run = ran_with("p", Effects { emitted: vec![emitted(&bad.event, "poison")], ..Effects::default() });
        let broken = Arc::new(vec![Settlement { runs: vec![run], ..settlement(&bad) }]);
        let whole = Arc::new(vec![Settlement { runs: vec![ran("q")], ..settlement(&good) }]);
        // The callers run concurrently, so they usually share a transaction.
        let (refused, settled, accepted) =
            tokio::join!(bench.store.settle(broken), bench.store.settle(whole), bench.store.accept(vec![event("c")]));
        assert!(!refused.expect_err("the emitted event cannot be stored").passes());
        assert_eq!((settled.unwrap(), accepted.unwrap().len()), (vec![Settled::Done], 1));
        assert_eq!(&*bench.event().await.event.new.event_type, "c");
    }
}

pub async fn a_settlement_of_many_megabytes_takes_effect(bench: &Bench) {
    const EACH: usize = 1 << 20;
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("order.created")).await;
    let body = "x".repeat(EACH);
    let value = vec![7; 64 << 10];
    let names: Vec<_> = (0..64).map(|number| format!("key-{number}")).collect();
    let writes: Vec<_> = names.iter().map(|name| (name.as_str(), Some(value.as_slice()))).collect();
    let run = ran_with(
        "p",
        Effects {
            deliveries: (0..24).map(|_| webhook(crm, &body)).collect(),
            state_use: state_use(&[], &writes),
            ..Effects::default()
        },
    );
    assert_eq!(bench.settle(Settlement { runs: vec![run], ..settlement(&claim) }).await, Settled::Done);
    assert_eq!(bench.story(claim.event.id).await.deliveries.len(), 24);
    let (stored, _) = bench.store.read_state(&slug("p"), "key-63").await.unwrap().expect("it was written");
    assert_eq!(stored, value);
}

pub async fn a_lost_lease_is_refused_and_changes_nothing(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let slow = bench.accept(event("order.created")).await;
    assert_eq!(bench.claim_at(after_leases()).await, 1, "the lease of the event has expired");
    let taken_over = bench.event().await;

    let runs = vec![ran_with(
        "p",
        Effects {
            deliveries: vec![webhook(crm, "late")],
            emitted: vec![emitted(&slow.event, "a")],
            state_use: state_use(&[], &[("k", Some(b"late"))]),
            ..Effects::default()
        },
    )];
    let late = Settlement { runs, direct: vec![direct(crm)], ..settlement(&slow) };
    assert_eq!(bench.settle(late).await, Settled::LeaseLost);
    bench.nothing("the refused settlement has no effect").await;
    let story = bench.story(slow.event.id).await;
    assert_eq!((story.parts.state(), story.runs.len(), story.deliveries.len()), (EventState::Waiting, 0, 0));
    assert_eq!(bench.event_ids(EventFilter::default()).await.len(), 1);
    assert_eq!(bench.store.read_state(&slug("p"), "k").await.unwrap(), None);

    assert_eq!(bench.settle(Settlement { direct: vec![direct(crm)], ..settlement(&taken_over) }).await, Settled::Done);
    let invented =
        Settlement { settles: Settles::Event { id: slow.event.id, round: 0, lease: made_up(slow.lease) }, ..settlement(&slow) };
    assert_eq!(bench.settle(invented).await, Settled::LeaseLost);
    assert_eq!(bench.delivery_ids(DeliveryFilter::default()).await.len(), 1);
}

pub async fn a_settlement_takes_effect_once(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("order.created")).await;
    let settlement = Settlement { runs: vec![ran("p")], direct: vec![direct(crm)], ..settlement(&claim) };
    let answers = bench.settle_all(vec![settlement.clone(), settlement.clone()]).await;
    assert_eq!(answers, [Settled::Done, Settled::LeaseLost]);
    assert_eq!(bench.settle(settlement.clone()).await, Settled::LeaseLost);
    let delivery = bench.delivery().await;

    let after = bench.after_a_crash().await;
    assert_eq!(after.settle(settlement).await, Settled::LeaseLost);
    let story = after.story(claim.event.id).await;
    assert_eq!((story.runs.len(), story.deliveries.len()), (1, 1));
    assert_eq!(story.deliveries[0].summary.id, delivery.id);
}

pub async fn a_settlement_from_before_a_crash_is_refused(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let before = bench.accept(event("order.created")).await;
    let stale = Settlement { direct: vec![direct(crm)], ..settlement(&before) };

    let after = bench.after_a_crash().await;
    assert_eq!(after.settle(stale.clone()).await, Settled::LeaseLost, "leases of the dead process have ended");
    after.claim().await;
    let claim = after.event().await;
    assert_eq!(after.settle(stale).await, Settled::LeaseLost, "tokens of two processes differ");
    assert_eq!(after.settle(Settlement { direct: vec![direct(crm)], ..settlement(&claim) }).await, Settled::Done);
    assert_eq!(after.delivery_ids(DeliveryFilter::default()).await.len(), 1);
}

pub async fn an_event_without_subscribers_is_unrouted(bench: &Bench) {
    let claim = bench.accept(event("a")).await;
    assert_eq!(bench.settle(settlement(&claim)).await, Settled::Done);
    assert_eq!(bench.state_of(claim.event.id).await, EventState::Unrouted);
    let ran = bench.settled_with(ran("p")).await;
    assert_eq!(bench.state_of(ran).await, EventState::NothingSent, "a plugin ran on it without sending anything");
}

pub async fn new_deliveries_are_due_held_or_dead_as_requested(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("a")).await;
    let born = |initial_state| NewDelivery { initial_state, ..webhook(crm, "x") };
    let direct = vec![born(InitialState::Due), born(InitialState::Held), born(InitialState::Dead)];
    assert_eq!(bench.settle(Settlement { direct, ..settlement(&claim) }).await, Settled::Done);
    let due = bench.delivery().await;
    let states: Vec<_> = bench
        .story(claim.event.id)
        .await
        .deliveries
        .iter()
        .map(|one| (one.summary.id.k(), one.summary.state.as_str(), one.summary.attempts))
        .collect();
    assert_eq!(states, [(0, "pending", 0), (1, "pending", 0), (2, "dead", 0)]);
    assert_eq!(due.id.k(), 0, "only due deliveries are handed over");
    bench.claim().await;
    assert_eq!(bench.delivery().await.id.k(), 1, "the held delivery is claimed: its endpoint is active");
    bench.store.retry_delivery(claim.event.id.delivery(2), clock::steady()).await.unwrap();
    bench.claim().await;
    let retried = bench.delivery().await;
    assert_eq!(
        (retried.id.k(), retried.payload.as_deref()),
        (2, Some(&payload("x"))),
        "a delivery stored as dead can be retried"
    );
}

pub async fn a_webhook_to_a_deleted_endpoint_is_cancelled_and_names_its_run(bench: &Bench) {
    let (crm, gone) = (bench.endpoint("crm").await, bench.endpoint("gone").await);
    bench.store.delete_endpoint(gone, Deletion::Forced, None).await.unwrap();
    let claim = bench.accept(event("a")).await;
    let cancelled = NewDelivery::to_deleted(gone, Arc::new(payload("x")));
    let run = ran_with("p", Effects { deliveries: vec![cancelled, webhook(crm, "y")], ..Effects::default() });
    assert_eq!(
        bench.settle(Settlement { runs: vec![run], direct: vec![direct(crm)], ..settlement(&claim) }).await,
        Settled::Done
    );
    assert_eq!(bench.deliveries().await.len(), 2);
    let story = bench.story(claim.event.id).await;
    let of_run = Some(story.runs[0].id);
    let seen: Vec<_> =
        story.deliveries.iter().map(|one| (&*one.summary.endpoint_name, one.summary.state.as_str(), one.summary.run)).collect();
    assert_eq!(seen, [("gone", "cancelled", of_run), ("crm", "pending", of_run), ("crm", "pending", None)]);
    let id = story.deliveries[0].summary.id;
    let state = bench.store.delivery(id).await.unwrap().summary.state;
    assert!(matches!(state, DeliveryState::Cancelled { reason: Some(CancelReason::EndpointDeleted), .. }), "{state:?}");
    assert_eq!(
        bench.store.whole_delivery(id).await.unwrap().payload,
        Some(payload("x")),
        "the webhook that it would have sent is stored"
    );
    let refused = bench.store.retry_delivery(id, clock::steady()).await;
    assert!(matches!(&refused, Err(Error::Conflict(text)) if text.contains("\"gone\" was deleted")), "{refused:?}");
}

pub async fn deliveries_without_room_wait_in_the_store(bench: &Bench) {
    let (crm, slack) = (bench.endpoint("crm").await, bench.endpoint("slack").await);
    let full = bench.handoff.deliveries.reserve(&crm, 16 << 20).expect("all of its queue");
    let claim = bench.accept(event("a")).await;
    let direct = vec![direct(crm), direct(slack), webhook(crm, "x")];
    assert_eq!(bench.settle(Settlement { direct, ..settlement(&claim) }).await, Settled::Done);
    assert_eq!(bench.delivery().await.endpoint, slack, "another endpoint still has room");
    assert_eq!(bench.claim().await, 0);
    drop(full);
    assert_eq!(bench.claim().await, 2);
    assert_eq!(bench.deliveries().await.iter().map(|one| one.id.k()).collect::<Vec<_>>(), [0, 2]);
}

pub async fn a_deferred_run_settles_separately(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("a")).await;
    let of_crm = || RunIdentity { endpoint: Some(crm), ..identity("p") };
    let runs = vec![of_crm().deferred(clock::steady())];
    assert_eq!(bench.settle(Settlement { runs, direct: vec![direct(crm)], ..settlement(&claim) }).await, Settled::Done);
    bench.claim().await;
    let run = bench.run().await;
    assert_eq!((&*run.plugin, run.endpoint, run.tries, run.round), ("p", Some(crm), 0, 0));
    assert_eq!(run.event.id, claim.event.id);

    let done = of_crm().ok(execution("p"), Effects { deliveries: vec![webhook(crm, "x")], ..Effects::default() });
    let settled = run_settlement(&run, done);
    assert_eq!(bench.settle(settled.clone()).await, Settled::Done);
    let deliveries = bench.deliveries().await;
    assert_eq!(
        deliveries.iter().map(|one| one.id.k()).collect::<Vec<_>>(),
        [0, 1],
        "the delivery of the deferred run is numbered after the others"
    );
    assert_eq!(bench.settle(settled).await, Settled::LeaseLost, "once");
    let story = bench.story(claim.event.id).await;
    let run = one(story.runs, "run");
    assert_eq!((run.state, run.outcome, run.tries), (RunState::Done, Some(RunOutcome::Ok), 1));
    assert_eq!(run.endpoint.as_deref(), Some("crm"));
    assert_eq!(story.deliveries.len(), 2);
}

pub async fn state_reads_see_the_last_commit(bench: &Bench) {
    let (p, q) = (slug("p"), slug("q"));
    let write = |value: Option<&'static [u8]>| ran_with("p", state_effects(&[], &[("k", value), ("o", Some(b""))]));
    bench.settled_with(write(Some(b"1"))).await;
    let first = bench.store.read_state(&p, "k").await.unwrap().unwrap();
    assert_eq!(first.0, b"1");
    assert_eq!(bench.store.read_state(&q, "k").await.unwrap(), None, "state belongs to one plugin");
    assert_eq!(bench.store.read_state(&p, "K").await.unwrap(), None);
    assert_eq!(bench.store.read_state(&p, "o").await.unwrap().unwrap().0, b"", "an empty value is not a missing one");
    bench.settled_with(write(Some(b"2"))).await;
    let second = bench.after_a_crash().await.store.read_state(&p, "k").await.unwrap().unwrap();
    assert_eq!(second.0, b"2");
    assert_ne!(first.1, second.1, "every write has a different version");
    bench.settled_with(write(None)).await;
    assert_eq!(bench.store.read_state(&p, "k").await.unwrap(), None);
}

pub async fn state_expires_at_its_time_and_a_deletion_changes_no_read(bench: &Bench) {
    let p = slug("p");
    let at = |millis| Some(Timestamp::from_millis(millis));
    let write = |key: &str, value: &[u8], expires_at| StateWrite { key: key.to_owned(), value: Some(value.to_vec()), expires_at };
    let effects = |writes| Effects { state_use: StateUse { reads: vec![], writes }, ..Effects::default() };
    let writes = vec![write("short", b"1", at(1_000)), write("long", b"2", at(i64::MAX)), write("ever", b"3", None)];
    bench.settled_with(ran_with("p", effects(writes))).await;
    let stored = bench.after_a_crash().await.store.stored_state(&p, "short").await.unwrap().unwrap();
    assert_eq!((stored.expires_at, &stored.value[..]), (at(1_000), &b"1"[..]), "it is stored until it is deleted");
    assert!(stored.exists_at(Timestamp::from_millis(999)) && !stored.exists_at(Timestamp::from_millis(1_000)));
    assert_eq!(bench.store.read_state(&p, "short").await.unwrap(), None, "now it is later");
    assert!(bench.store.read_state(&p, "long").await.unwrap().is_some());
    let keys = bench.store.state_keys(&p, "", None, 9).await.unwrap();
    assert_eq!(keys.iter().map(|key| key.expires_at).collect::<Vec<_>>(), [None, at(i64::MAX), at(1_000)]);

    // A run that has read an expired value commits as long as the value is not deleted. After the deletion, such a run is
    // refused.
    let version = stored.version;
    bench.settled_with(ran_with("p", state_effects(&[("short", version)], &[("seen", Some(b"x"))]))).await;
    assert_eq!(bench.store.expire_state(Timestamp::from_millis(999)).await.unwrap(), 0);
    assert_eq!(bench.store.expire_state(Timestamp::from_millis(1_000)).await.unwrap(), 1);
    assert_eq!(bench.store.expire_state(Timestamp::from_millis(1_000)).await.unwrap(), 0);
    assert_eq!(bench.store.stored_state(&p, "short").await.unwrap(), None);
    let size = bench.store.state_size(&p).await.unwrap();
    assert_eq!((size.keys, size.bytes), (3, 4 + 1 + 4 + 1 + 4 + 1));
    let claim = bench.accept(event("a")).await;
    let late = ran_with("p", state_effects(&[("short", version)], &[]));
    let settled = bench.settle(Settlement { runs: vec![late], ..settlement(&claim) }).await;
    assert_eq!(settled, Settled::StateConflict(vec![0]));

    // Writing the key again replaces its time to live.
    bench.settled_with(ran_with("p", effects(vec![write("long", b"4", at(1_000))]))).await;
    bench.settled_with(ran_with("p", effects(vec![write("long", b"5", None)]))).await;
    assert_eq!(bench.store.expire_state(Timestamp::from_millis(2_000)).await.unwrap(), 0);
    assert_eq!(bench.store.read_state(&p, "long").await.unwrap().unwrap().0, b"5");
}

pub async fn a_conflict_names_exactly_the_conflicting_runs(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("a")).await;
    bench.settled_with(ran_with("p", state_effects(&[("k", 0)], &[("k", Some(b"1"))]))).await;
    let (_, version) = bench.store.read_state(&slug("p"), "k").await.unwrap().unwrap();

    let lost = ran_with(
        "p",
        Effects {
            state_use: state_use(&[("k", 0)], &[("k", Some(b"lost"))]),
            deliveries: vec![webhook(crm, "x")],
            ..Effects::default()
        },
    );
    let runs = vec![
        ran_with("q", state_effects(&[("k", 0)], &[("k", Some(b"q"))])),
        lost.clone(),
        ran_with("p", state_effects(&[("other", 0)], &[("other", Some(b"p"))])),
        ran_with("p", state_effects(&[("gone", version)], &[])),
    ];
    let settled = Settlement { runs, direct: vec![direct(crm)], ..settlement(&claim) };
    assert_eq!(bench.settle(settled).await, Settled::StateConflict(vec![1, 3]));
    bench.nothing("no run takes effect, including runs without a conflict").await;
    assert_eq!(bench.store.read_state(&slug("q"), "k").await.unwrap(), None);
    assert_eq!(bench.store.read_state(&slug("p"), "k").await.unwrap().unwrap().0, b"1");
    assert_eq!(bench.story(claim.event.id).await.runs.len(), 0);

    let again = ran_with(
        "p",
        Effects {
            state_use: state_use(&[("k", version)], &[("k", Some(b"2"))]),
            deliveries: vec![webhook(crm, "x")],
            ..Effects::default()
        },
    );
    assert_eq!(
        bench.settle(Settlement { runs: vec![again], ..settlement(&claim) }).await,
        Settled::Done,
        "the claim still holds"
    );
    assert_eq!(bench.store.read_state(&slug("p"), "k").await.unwrap().unwrap().0, b"2");
    let blind = ran_with("p", state_effects(&[], &[("k", Some(b"3"))]));
    bench.settled_with(blind).await;
    assert_eq!(
        bench.store.read_state(&slug("p"), "k").await.unwrap().unwrap().0,
        b"3",
        "a key that was not read cannot conflict"
    );
}

pub async fn a_value_deleted_and_written_again_has_a_new_version(bench: &Bench) {
    let p = slug("p");
    let claim = bench.accept(event("a")).await;
    bench.settled_with(ran_with("p", state_effects(&[], &[("k", Some(b"same"))]))).await;
    let (value, read) = bench.store.read_state(&p, "k").await.unwrap().unwrap();
    bench.settled_with(ran_with("p", state_effects(&[("k", read)], &[("k", None)]))).await;
    bench.settled_with(ran_with("p", state_effects(&[("k", 0)], &[("k", Some(&value))]))).await;

    let stale = ran_with("p", state_effects(&[("k", read)], &[("k", Some(b"lost"))]));
    let answer = bench.settle(Settlement { runs: vec![stale], ..settlement(&claim) }).await;
    assert_eq!(answer, Settled::StateConflict(vec![0]));
    assert_eq!(bench.store.read_state(&p, "k").await.unwrap().unwrap().0, b"same");
}

pub async fn runs_of_one_plugin_in_one_settlement_conflict_over_a_key(bench: &Bench) {
    let claim = bench.accept(event("a")).await;
    let increment = |key, value: &'static [u8]| ran_with("p", state_effects(&[(key, 0)], &[(key, Some(value))]));
    let runs = vec![increment("k", b"1"), increment("k", b"2"), increment("other", b"3")];
    let answer = bench.settle(Settlement { runs: runs.clone(), ..settlement(&claim) }).await;
    assert_eq!(answer, Settled::StateConflict(vec![1]), "the second run read a key that the first one writes");
    let apart = vec![runs[0].clone(), waiting("p", soon(9)), runs[2].clone()];
    assert_eq!(bench.settle(Settlement { runs: apart, ..settlement(&claim) }).await, Settled::Done);
    assert_eq!(bench.store.read_state(&slug("p"), "k").await.unwrap().unwrap().0, b"1");
}

pub async fn settlements_of_one_call_take_effect_in_order(bench: &Bench) {
    bench.store.accept((0..3).map(|_| event("a")).collect()).await.unwrap();
    let claims = bench.events().await;
    let version = claims[0].lease.token;
    let first = ran_with("p", state_effects(&[("k", 0)], &[("k", Some(b"1"))]));
    let stale = ran_with("p", state_effects(&[("k", 0)], &[("k", Some(b"lost"))]));
    let fresh = ran_with("p", state_effects(&[("k", version)], &[("k", Some(b"2"))]));
    let settlements =
        claims.iter().zip([first, stale, fresh]).map(|(claim, run)| Settlement { runs: vec![run], ..settlement(claim) });
    let answers = bench.settle_all(settlements.collect()).await;
    assert_eq!(answers, [Settled::Done, Settled::StateConflict(vec![0]), Settled::Done]);
    assert_eq!(bench.store.read_state(&slug("p"), "k").await.unwrap().unwrap().0, b"2");
    assert_eq!(bench.state_of(claims[1].event.id).await, EventState::Waiting, "the refused event can be settled again");
}

pub async fn the_deliveries_of_an_event_are_limited(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("a")).await;
    let dead = NewDelivery { initial_state: InitialState::Dead, ..direct(crm) };
    let all = vec![dead.clone(); CHILDREN_MAX as usize];
    let more = Settlement {
        runs: vec![ran_with("p", Effects { deliveries: vec![dead.clone()], ..Effects::default() })],
        direct: all.clone(),
        ..settlement(&claim)
    };
    assert_eq!(bench.settle(more).await, Settled::TooMany);
    assert_eq!(bench.story(claim.event.id).await.runs.len(), 0, "nothing changed");
    assert_eq!(bench.settle(Settlement { direct: all, ..settlement(&claim) }).await, Settled::Done);

    let round = bench.store.replay_event(claim.event.id, clock::steady()).await.unwrap();
    bench.claim().await;
    let replay = bench.event().await;
    assert_eq!(replay.round, round);
    let answer = bench.settle(Settlement { direct: vec![dead], ..settlement(&replay) }).await;
    assert_eq!(answer, Settled::TooMany, "the limit covers all rounds");
    assert_eq!(bench.settle(Settlement { runs: vec![ran("p")], ..settlement(&replay) }).await, Settled::Done);
}

/// Returns the size of a plugin's state, computed from the values of these keys.
async fn keeps(bench: &Bench, plugin: &str, keys: &[&str]) -> StateSize {
    let mut size = StateSize::default();
    for key in keys {
        if let Some((value, _)) = bench.store.read_state(&slug(plugin), key).await.unwrap() {
            size = StateSize { keys: size.keys + 1, bytes: size.bytes + (key.len() + value.len()) as u64 };
        }
    }
    size
}

pub async fn state_is_measured_exactly(bench: &Bench) {
    const KEYS: [&str; 4] = ["a", "é", "long-key", "z"];
    type Writes<'a> = &'a [(&'a str, Option<&'a [u8]>)];
    let steps: [Writes<'_>; 7] = [
        &[("a", Some(b"1")), ("\u{e9}", Some(b"22")), ("long-key", Some(b""))],
        &[("a", Some(b"4444")), ("z", Some(b"1"))],
        &[("a", None), ("z", None)],
        &[("z", None)],
        &[("a", Some(b"5"))],
        &[("a", Some(b"")), ("long-key", Some(b"7777777"))],
        &[("a", None), ("\u{e9}", None), ("long-key", None)],
    ];
    for writes in steps {
        bench.settled_with(ran_with("p", state_effects(&[], writes))).await;
        bench.settled_with(ran_with("q", state_effects(&[], &[("a", Some(b"other"))]))).await;
        assert_eq!(bench.store.state_size(&slug("p")).await.unwrap(), keeps(bench, "p", &KEYS).await);
    }
    assert_eq!(bench.store.state_size(&slug("p")).await.unwrap(), StateSize::default());
    let after = bench.after_a_crash().await;
    assert_eq!(after.store.state_size(&slug("q")).await.unwrap(), StateSize { keys: 1, bytes: 6 });
}

pub async fn a_run_over_the_state_limit_is_named(bench: &Bench) {
    let limits = StateLimits::default();
    let value = vec![7; 64 << 10];
    let full = limits.bytes_max / value.len() as u64;
    let mut number = 0;
    // Stores as much as fits, one run at a time.
    loop {
        let names: Vec<String> = (number..number + 64).map(|number| format!("{number:08}")).collect();
        let writes: Vec<_> = names.iter().map(|name| (name.as_str(), Some(value.as_slice()))).collect();
        let claim = bench.accept(event("a")).await;
        let record = ran_with("p", state_effects(&[], &writes));
        let settled = bench.settle(Settlement { runs: vec![ran("q"), record], ..settlement(&claim) }).await;
        match settled {
            Settled::Done => number += 64,
            refused => {
                let too_much = StateFull::Bytes { limit: limits.bytes_max };
                assert_eq!(refused, Settled::StateFull(vec![(1, too_much)]));
                assert_eq!(bench.state_of(claim.event.id).await, EventState::Waiting, "the refused settlement has no effect");
                break;
            }
        }
        assert!(number <= full, "{number} values are stored");
    }
    let size = bench.store.state_size(&slug("p")).await.unwrap();
    assert_eq!(size.keys, number);
    assert!(size.bytes <= limits.bytes_max && size.bytes + 64 * value.len() as u64 * 2 > limits.bytes_max, "{size:?}");
    let shrinks = ran_with("p", state_effects(&[], &[("00000000", None)]));
    bench.settled_with(shrinks).await;
    assert_eq!(bench.store.state_size(&slug("p")).await.unwrap().keys, number - 1);
}

pub async fn cleared_state_conflicts_with_runs_that_read_it(bench: &Bench) {
    let writes: Vec<String> = (0..1_200).map(|number| format!("key-{number}")).collect();
    for names in writes.chunks(64) {
        let writes: Vec<_> = names.iter().map(|name| (name.as_str(), Some(&b"1"[..]))).collect();
        bench.settled_with(ran_with("p", state_effects(&[], &writes))).await;
    }
    bench.settled_with(ran_with("q", state_effects(&[], &[("key-7", Some(b"1"))]))).await;
    let (_, version) = bench.store.read_state(&slug("p"), "key-7").await.unwrap().expect("it was written");
    let claim = bench.accept(event("a")).await;
    let mut gone = 0;
    loop {
        match bench.store.clear_state(&slug("p")).await.unwrap() {
            0 => break,
            keys => gone += keys,
        }
    }
    assert_eq!((gone, bench.store.state_size(&slug("p")).await.unwrap()), (1_200, StateSize::default()));
    assert_eq!(bench.store.state_size(&slug("q")).await.unwrap().keys, 1, "the state of other plugins stays");
    let read = ran_with("p", state_effects(&[("key-7", version)], &[("key-7", Some(b"2"))]));
    let settled = bench.settle(Settlement { runs: vec![read], ..settlement(&claim) }).await;
    assert_eq!(settled, Settled::StateConflict(vec![0]));
}

pub async fn keys_of_state_are_listed_in_order_by_prefix(bench: &Bench) {
    // The keys are ordered by their bytes: capitals come first, then small letters, then letters of two bytes.
    let names = ["B:1", "a", "a:1", "a:10", "a:2", "é"];
    let writes: Vec<_> = names.iter().map(|name| (*name, Some(name.as_bytes()))).collect();
    bench.settled_with(ran_with("p", state_effects(&[], &writes))).await;
    bench.settled_with(ran_with("q", state_effects(&[], &[("a:3", Some(b"1"))]))).await;
    let keys = async |prefix: &str, after: Option<&str>, most| {
        let found = bench.store.state_keys(&slug("p"), prefix, after, most).await.unwrap();
        found.into_iter().map(|one| (one.key, one.bytes)).collect::<Vec<_>>()
    };
    let sized = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), name.len() as u64)).collect::<Vec<_>>();
    assert_eq!(keys("", None, 10).await, sized(&names));
    assert_eq!(keys("a:", None, 10).await, sized(&["a:1", "a:10", "a:2"]));
    assert_eq!(keys("a:", None, 2).await, sized(&["a:1", "a:10"]));
    assert_eq!(keys("a:", Some("a:10"), 2).await, sized(&["a:2"]));
    assert_eq!(keys("x", None, 10).await, []);
}

pub async fn a_deleted_value_conflicts_with_a_run_that_read_it(bench: &Bench) {
    bench.settled_with(ran_with("p", state_effects(&[], &[("a", Some(b"1")), ("b", Some(b"22"))]))).await;
    let (_, version) = bench.store.read_state(&slug("p"), "a").await.unwrap().expect("it was written");
    let claim = bench.accept(event("a")).await;
    assert!(bench.store.delete_state(&slug("p"), "a").await.unwrap());
    assert!(!bench.store.delete_state(&slug("p"), "a").await.unwrap(), "the value is already deleted");
    assert_eq!(bench.store.read_state(&slug("p"), "a").await.unwrap(), None);
    assert_eq!(bench.store.state_size(&slug("p")).await.unwrap(), StateSize { keys: 1, bytes: 3 });
    let read = ran_with("p", state_effects(&[("a", version)], &[("a", Some(b"2"))]));
    let settled = bench.settle(Settlement { runs: vec![read], ..settlement(&claim) }).await;
    assert_eq!(settled, Settled::StateConflict(vec![0]));
}
