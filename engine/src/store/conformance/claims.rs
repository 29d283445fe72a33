//! Cases about claims: as long as there is room, each due row is claimed once, under a lease, and becomes due again when its worker
//! dies.

use std::{sync::Arc, time::Duration};

use super::bench::*;
use crate::{
    clock,
    domain::{
        delivery::{DeadReason, InitialState, NewDelivery, Next},
        endpoint::{EndpointState, Ordering},
        event::EventState,
        run::{Effects, RunOutcome},
        time::Timestamp,
    },
    store::{ClaimId, EventClaim, Recorded, Settled, Settlement, Width},
};

pub async fn an_expired_lease_is_claimable_again(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let delivery = bench.delivery_to(crm).await;
    bench.settled_with(waiting("p", clock::steady())).await;
    bench.claim().await;
    let run = bench.run().await;
    let event = bench.accept(event("a")).await;

    let later = after_leases();
    assert_eq!(bench.claim_at(later).await, 3);
    let (event_again, run_again, delivery_again) = (bench.event().await, bench.run().await, bench.delivery().await);
    assert_eq!((event_again.event.id, run_again.id, delivery_again.id), (event.event.id, run.id, delivery.id));
    assert!(event_again.lease.until > later, "the new lease is counted from the given moment");
    let tokens = [event.lease.token, event_again.lease.token, run.lease.token, run_again.lease.token];
    assert!(tokens[0] != tokens[1] && tokens[2] != tokens[3], "{tokens:?}");

    let direct = vec![direct(crm)];
    let stale = vec![
        Settlement { direct: direct.clone(), ..settlement(&event) },
        run_settlement(&run, ran_with("p", Effects { deliveries: direct.clone(), ..Effects::default() })),
    ];
    assert_eq!(bench.settle_all(stale).await, [Settled::LeaseLost, Settled::LeaseLost]);
    assert!(!bench.record(attempt(&delivery, Next::Delivered)).await);
    bench.nothing("the first workers' results are refused").await;
    let fresh = vec![Settlement { direct, ..settlement(&event_again) }, run_settlement(&run_again, ran("p"))];
    assert_eq!(bench.settle_all(fresh).await, [Settled::Done, Settled::Done]);
    assert!(bench.record(attempt(&delivery_again, Next::Delivered)).await);
}

pub async fn a_row_with_a_valid_lease_is_not_claimed(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let _delivery = bench.delivery_to(crm).await;
    let event = bench.accept(event("a")).await;
    let almost = event.lease.until;
    assert_eq!(bench.claim_at(Timestamp::from_millis(almost.millis() - 1_000)).await, 0);
    bench.nothing("both rows are leased").await;
    assert_eq!(bench.store.next_due(clock::steady()).await.unwrap(), None, "leased rows do not count");
}

pub async fn a_restart_makes_everything_leased_due_again(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let delivery = bench.delivery_to(crm).await;
    let later = bench.finished(crm, retry_in(3600)).await;
    bench.settled_with(waiting("p", clock::steady())).await;
    bench.claim().await;
    let run = bench.run().await;
    let event = bench.accept(event("a")).await;

    let after = bench.after_a_crash().await;
    assert!(after.store.next_due(clock::steady()).await.unwrap().expect("something is due") <= clock::steady());
    assert_eq!(after.claim().await, 3, "at once, without waiting for a lease to end");
    assert_eq!(
        (after.event().await.event.id, after.run().await.id, after.delivery().await.id),
        (event.event.id, run.id, delivery.id)
    );
    assert_eq!(after.claim_at(soon(3601)).await, 4, "a retry keeps its due time, and the other leases have ended");
    assert!(after.deliveries().await.iter().any(|one| one.id == later));
}

pub async fn a_released_row_is_due_at_once(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let delivery = bench.delivery_to(crm).await;
    bench.settled_with(waiting("p", clock::steady())).await;
    bench.claim().await;
    let run = bench.run().await;
    let event = bench.accept(event("a")).await;
    let store = &bench.store;
    store
        .release(vec![
            (ClaimId::Event(event.event.id), event.lease),
            (ClaimId::Run(run.id), run.lease),
            (ClaimId::Delivery(delivery.id), delivery.lease),
        ])
        .await
        .unwrap();
    assert_eq!(bench.settle(settlement(&event)).await, Settled::LeaseLost, "a released claim is lost");
    assert_eq!(bench.claim().await, 3);
    assert_eq!(
        (bench.event().await.event.id, bench.run().await.id, bench.delivery().await.id),
        (event.event.id, run.id, delivery.id)
    );
}

pub async fn releasing_a_lost_claim_changes_nothing(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let lost = bench.delivery_to(crm).await;
    let event = bench.accept(event("a")).await;
    bench.claim_at(after_leases()).await;
    let (event_again, again) = (bench.event().await, bench.delivery().await);
    bench
        .store
        .release(vec![(ClaimId::Event(event.event.id), event.lease), (ClaimId::Delivery(lost.id), lost.lease)])
        .await
        .unwrap();
    assert_eq!(bench.claim().await, 0, "the new claims still hold");
    assert!(bench.record(attempt(&again, Next::Delivered)).await);
    assert_eq!(bench.settle(settlement(&event_again)).await, Settled::Done);
    bench
        .store
        .release(vec![(ClaimId::Event(event.event.id), event_again.lease), (ClaimId::Delivery(again.id), again.lease)])
        .await
        .unwrap();
    assert_eq!(bench.claim_at(after_leases()).await, 0, "finished rows are not claimed");
}

pub async fn retries_are_claimed_in_order_of_their_due_times(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let mut ids = Vec::new();
    for seconds in [300, 100, 200] {
        ids.push(bench.finished(crm, retry_in(seconds)).await);
    }
    assert_eq!(bench.claim_at(soon(90)).await, 0);
    assert_eq!(bench.claim_at(soon(210)).await, 2);
    assert_eq!(bench.deliveries().await.iter().map(|one| one.id).collect::<Vec<_>>(), [ids[1], ids[2]]);
    let after = bench.after_a_crash().await;
    assert_eq!(after.claim_at(soon(310)).await, 3);
    let order: Vec<_> = after.deliveries().await.iter().map(|one| one.id).collect();
    assert_eq!(order[2], ids[0], "oldest first");
}

pub async fn due_runs_are_claimed_and_parked_ones_are_not(bench: &Bench) {
    let second = bench.settled_with(waiting("p", soon(20))).await;
    let first = bench.settled_with(waiting("p", soon(10))).await;
    bench.settled_with(parked("p", RunOutcome::Failed)).await;
    assert_eq!(bench.claim().await, 0);
    assert_eq!(bench.claim_at(soon(11)).await, 1);
    let run = bench.run().await;
    assert_eq!((run.event.id, run.tries), (first, 1));
    let again = waiting("p", soon(30));
    assert_eq!(bench.settle(run_settlement(&run, again)).await, Settled::Done);
    assert_eq!(bench.claim_at(soon(31)).await, 2);
    let runs = bench.runs().await;
    assert_eq!(runs.iter().map(|run| (run.event.id, run.tries)).collect::<Vec<_>>(), [(second, 1), (first, 2)]);
    let park = run_settlement(&runs[1], parked("p", RunOutcome::Failed));
    assert_eq!(bench.settle(park).await, Settled::Done);
    assert_eq!(bench.state_of(first).await, EventState::Failed);
    assert_eq!(bench.settle(run_settlement(&runs[0], ran("p"))).await, Settled::Done);
    assert_eq!(bench.claim_at(soon(1_000_000)).await, 0, "parked runs wait to be requeued");
}

pub async fn runs_of_a_closed_queue_wait_in_the_store(bench: &Bench) {
    let (held, other) = (slug("b"), slug("c"));
    bench.handoff.runs.set_width(&held, Some(Width::CLOSED));
    for _ in 0..3 {
        bench.settled_with(waiting("b", soon(10))).await;
    }
    assert_eq!(bench.claim_at(soon(11)).await, 0);
    assert_eq!(bench.store.next_due(soon(11)).await.unwrap(), None, "the claimer waits until the queue opens");
    for plugin in ["a", "c"] {
        bench.settled_with(waiting(plugin, soon(10))).await;
    }
    assert_eq!(bench.claim_at(soon(11)).await, 2, "the plugins before and after the held one, by name, are claimed");
    assert!(bench.runs().await.iter().any(|run| run.plugin == other));
    assert_eq!(bench.store.waiting_runs(&held, 100).await.unwrap(), 3);
    assert_eq!(bench.store.waiting_runs(&held, 2).await.unwrap(), 2, "runs are counted up to the limit");
    bench.handoff.runs.set_width(&held, None);
    assert!(bench.store.next_due(soon(11)).await.unwrap().is_some());
    assert_eq!(bench.claim_at(soon(11)).await, 3);
}

pub async fn the_next_due_time_is_the_earliest(bench: &Bench) {
    let next = async || bench.store.next_due(clock::steady()).await.unwrap();
    let crm = bench.endpoint("crm").await;
    let paused = bench.endpoint("paused").await;
    assert_eq!(next().await, None);
    let due = soon(50);
    bench.finished(crm, Next::Retry { due }).await;
    bench.finished(crm, retry_in(60)).await;
    assert_eq!(next().await, Some(due));
    let run_due = soon(40);
    bench.settled_with(waiting("p", run_due)).await;
    bench.settled_with(parked("p", RunOutcome::Failed)).await;
    assert_eq!(next().await, Some(run_due));
    bench.finished(paused, retry_in(1)).await;
    bench.set(paused, EndpointState::Paused).await;
    assert_eq!(next().await, Some(run_due), "no alarm is set for a paused endpoint");

    let full = bench.handoff.events.reserve(&(), 64 << 20).expect("everything");
    let now = clock::steady();
    bench.store.accept(vec![event("a")]).await.unwrap();
    let event_due = next().await.expect("the event is due");
    assert!((now..=clock::steady()).contains(&event_due));
    drop(full);
}

pub async fn every_row_that_becomes_due_wakes_the_claimer(bench: &Bench) {
    let rung = async |what: &str| {
        let ring = bench.handoff.alarm.wait(Duration::from_secs(3600));
        tokio::time::timeout(Duration::from_secs(10), ring).await.unwrap_or_else(|_| panic!("{what} rings"));
        bench.handoff.alarm.clear();
    };
    let quiet = async |what: &str| {
        let ring = bench.handoff.alarm.wait(Duration::from_secs(3600));
        assert!(tokio::time::timeout(Duration::from_millis(20), ring).await.is_err(), "{what} wakes no claimer");
    };
    let crm = bench.endpoint("crm").await;
    let dead = bench.finished(crm, Next::Dead(crate::domain::delivery::DeadReason::Exhausted)).await;
    quiet("a row that was handed over").await;

    let retrying = bench.finished(crm, Next::Retry { due: clock::steady().plus(Duration::from_millis(30)) }).await;
    rung("a retry").await;
    bench.settled_with(waiting("p", clock::steady().plus(Duration::from_millis(30)))).await;
    rung("a run that waits").await;
    bench.store.retry_delivery(dead, clock::steady()).await.unwrap();
    rung("a manual retry").await;
    bench.store.replay_event(retrying.event(), clock::steady()).await.unwrap();
    rung("a replay").await;
    bench.settled_with(parked("q", RunOutcome::NotLoadable)).await;
    bench.store.requeue_not_loadable(&slug("q"), clock::steady()).await.unwrap();
    rung("a requeued run").await;
    let claim = bench.accept(event("a")).await;
    bench.store.release(vec![(ClaimId::Event(claim.event.id), claim.lease)]).await.unwrap();
    rung("a released row").await;
    bench.set(crm, EndpointState::Paused).await;
    bench.handoff.alarm.clear();
    let _ = tokio::time::timeout(Duration::from_millis(20), bench.handoff.alarm.wait(Duration::from_secs(60))).await;
    bench.store.set_endpoint_state(crm, &[EndpointState::Paused], EndpointState::Active, None).await.unwrap();
    rung("a resumed endpoint").await;

    drop(claim);
    let full = bench.handoff.events.reserve(&(), 64 << 20).expect("everything");
    bench.store.accept(vec![event("a")]).await.unwrap();
    rung("a row without room").await;
    drop(full);
    rung("room for such a row").await;
}

pub async fn a_step_that_is_rolled_back_wakes_no_claimer(bench: &Bench) {
    let claim = bench.accept(event("a")).await;
    bench.backing.refuse_poison().await;
    let broken = ran_with("q", Effects { emitted: vec![emitted(&claim.event, "poison")], ..Effects::default() });
    let runs = vec![waiting("p", clock::steady()), broken];
    let undone = bench.store.settle(Arc::new(vec![Settlement { runs, ..settlement(&claim) }])).await;
    assert!(undone.is_err(), "{undone:?}");
    let woken = tokio::time::timeout(Duration::from_millis(20), bench.handoff.alarm.wait(Duration::from_secs(3600))).await;
    assert!(woken.is_err(), "the run that would have waited was never stored");
}

pub async fn a_paused_endpoint_is_not_claimed_until_it_is_resumed(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let retrying = bench.finished(crm, Next::Retry { due: clock::steady() }).await;
    bench.set(crm, EndpointState::Paused).await;
    let claim = bench.accept(event("a")).await;
    let held = NewDelivery { initial_state: InitialState::Held, ..direct(crm) };
    assert_eq!(bench.settle(Settlement { direct: vec![held], ..settlement(&claim) }).await, Settled::Done);
    assert_eq!(bench.claim_at(soon(1_000_000)).await, 0);
    bench.nothing("the endpoint is paused").await;
    assert_eq!(bench.store.close_deliveries(clock::wall()).await.unwrap(), 0, "deliveries of a paused endpoint are not closed");

    let after = bench.after_a_crash().await;
    assert_eq!(after.claim().await, 0, "also after a restart");
    assert!(after.store.set_endpoint_state(crm, &[EndpointState::Paused], EndpointState::Active, None).await.unwrap());
    assert_eq!(after.claim().await, 2);
    let mut ids: Vec<_> = after.deliveries().await.iter().map(|one| one.id).collect();
    ids.sort();
    assert_eq!(ids, [retrying, claim.event.id.delivery(0)]);
}

pub async fn an_endpoint_with_a_backlog_does_not_delay_another(bench: &Bench) {
    let (busy, quiet) = (bench.endpoint("busy").await, bench.endpoint("quiet").await);
    let claim = bench.accept(event("a")).await;
    let backlog = NewDelivery { initial_state: InitialState::Held, ..direct(busy) };
    let direct = [vec![backlog; 5_000], vec![NewDelivery { initial_state: InitialState::Held, ..direct(quiet) }]].concat();
    assert_eq!(bench.settle(Settlement { direct, ..settlement(&claim) }).await, Settled::Done);
    let claimed = bench.store.claim_due(clock::steady()).await.unwrap();
    assert!(claimed < 2_000, "one claim is bounded: {claimed}");
    let endpoints: Vec<_> = bench.deliveries().await.iter().map(|one| one.endpoint).collect();
    assert!(endpoints.contains(&busy) && endpoints.contains(&quiet), "one claim takes deliveries of both endpoints");
}

pub async fn a_claim_takes_only_as_much_as_there_is_room_for(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("a")).await;
    let direct = vec![NewDelivery { initial_state: InitialState::Held, ..direct(crm) }; 5_000];
    assert_eq!(bench.settle(Settlement { direct, ..settlement(&claim) }).await, Settled::Done);
    drop(claim);
    let room = bench.claim().await;
    assert!((100..5_000).contains(&room), "{room}");
    assert_eq!(bench.handoff.deliveries.len(), room);
    assert_eq!(
        bench.store.next_due(clock::steady()).await.unwrap(),
        None,
        "the notification of room wakes the claimer for the rest"
    );

    let mut delivered = 0;
    while delivered < 5_000 {
        let claims = bench.deliveries().await;
        assert!(!claims.is_empty(), "no delivery follows after {delivered}");
        delivered += claims.len();
        let records = claims.iter().map(|claim| attempt(claim, Next::Delivered)).collect();
        assert!(
            bench.store.record_attempts(Arc::new(records)).await.unwrap().into_iter().all(|recorded| recorded == Recorded::Done)
        );
        drop(claims);
        bench.claim().await;
    }
    assert_eq!(delivered, 5_000);
    assert!(bench.handoff.deliveries.is_empty());
}

pub async fn first_attempts_and_retries_share_the_room(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("a")).await;
    let direct = vec![NewDelivery { initial_state: InitialState::Held, ..direct(crm) }; 600];
    assert_eq!(bench.settle(Settlement { direct, ..settlement(&claim) }).await, Settled::Done);
    let mut tried = 0;
    while tried < 300 {
        bench.store.claim_due(clock::steady()).await.unwrap();
        let claims = bench.deliveries().await;
        tried += claims.len();
        let records = claims.iter().map(|claim| attempt(claim, Next::Retry { due: clock::steady() })).collect();
        bench.store.record_attempts(Arc::new(records)).await.unwrap();
    }
    let claims = bench.deliveries().await;
    assert!(claims.is_empty());
    bench.store.claim_due(clock::steady()).await.unwrap();
    let (retries, firsts): (Vec<_>, Vec<_>) = bench.deliveries().await.into_iter().partition(|claim| claim.attempts > 0);
    assert!(firsts.len() >= 64 && retries.len() >= 64, "{} first attempts, {} retries", firsts.len(), retries.len());
}

pub async fn an_ordered_delivery_waits_for_the_one_before_it(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let [a, b, c] = [bench.accept(event("a")).await, bench.accept(event("b")).await, bench.accept(event("c")).await];
    let ordered = |claim: &EventClaim| Settlement {
        direct: vec![NewDelivery { ordering: Some(Ordering::WHOLE), ..direct(crm) }],
        ..settlement(claim)
    };
    assert_eq!(bench.settle_all(vec![ordered(&c), ordered(&b)]).await, [Settled::Done, Settled::Done]);
    assert_eq!(bench.claim().await, 0, "an earlier event still waits to be run");
    assert_eq!(bench.settle(ordered(&a)).await, Settled::Done);
    let ids = [&a, &b, &c].map(|claim| claim.event.id.delivery(0));
    assert_eq!(bench.claim().await, 3);
    let claims = bench.deliveries().await;
    assert_eq!(claims.iter().map(|claim| claim.id).collect::<Vec<_>>(), ids, "together, and in their order");

    // The first delivery fails: the others must not overtake it.
    assert!(bench.record(attempt(&claims[0], retry_in(60))).await);
    let rest = claims[1..].iter().map(|claim| (ClaimId::Delivery(claim.id), claim.lease)).collect();
    bench.store.release(rest).await.unwrap();
    drop(claims);
    assert_eq!(bench.claim().await, 0);
    let due = bench.store.next_due(clock::steady()).await.unwrap().expect("the failed delivery is due later");
    assert!(due > soon(50) && due <= soon(60));
    assert_eq!(bench.store.next_due(due).await.unwrap(), None, "rows that were already due and wait for others do not count");
    let bench = bench.after_a_crash().await;
    assert_eq!(bench.claim().await, 0, "also after a restart");
    assert_eq!(bench.claim_at(soon(61)).await, 3);
    let claims = bench.deliveries().await;
    assert_eq!(claims.iter().map(|claim| claim.id).collect::<Vec<_>>(), ids);
    assert!(bench.record(attempt(&claims[0], Next::Dead(DeadReason::Exhausted))).await, "a dead delivery delays no other");
    assert!(bench.record(attempt(&claims[1], Next::Delivered)).await);
    assert!(bench.record(attempt(&claims[2], Next::Delivered)).await);
}

pub async fn orders_of_one_endpoint_are_sent_side_by_side(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let mut ids = Vec::new();
    for ordering in [7, 7, 8] {
        let claim = bench.accept(event("a")).await;
        let direct = vec![NewDelivery { ordering: Some(ordering), ..direct(crm) }];
        assert_eq!(bench.settle(Settlement { direct, ..settlement(&claim) }).await, Settled::Done);
        ids.push(claim.event.id.delivery(0));
    }
    assert_eq!(bench.claim().await, 2);
    let mut heads = bench.deliveries().await;
    heads.sort_by_key(|claim| claim.id);
    assert_eq!([heads[0].id, heads[1].id], [ids[0], ids[2]], "the first delivery of each order");
    assert!(bench.record(attempt(&heads[1], retry_in(60))).await);
    assert_eq!(bench.claim().await, 0);
    assert!(bench.record(attempt(&heads[0], Next::Delivered)).await);
    assert_eq!(bench.claim().await, 1, "the next delivery of this order; the other order waits");
    assert_eq!(bench.delivery().await.id, ids[1]);
}

pub async fn a_waiting_run_delays_ordered_deliveries_and_a_parked_one_does_not(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    bench.settled_with(waiting("p", soon(60))).await;
    let claim = bench.accept(event("a")).await;
    let direct = vec![NewDelivery { ordering: Some(Ordering::WHOLE), ..direct(crm) }];
    assert_eq!(bench.settle(Settlement { direct, ..settlement(&claim) }).await, Settled::Done);
    assert_eq!(bench.claim().await, 0, "webhooks of the waiting run may have to go first");
    assert_eq!(bench.claim_at(soon(61)).await, 1);
    let run = bench.run().await;
    let settled = run_settlement(&run, parked("p", RunOutcome::Failed));
    assert_eq!(bench.settle(settled).await, Settled::Done);
    assert_eq!(bench.claim().await, 1);
    assert_eq!(bench.delivery().await.id, claim.event.id.delivery(0));
}

pub async fn an_unreadable_row_does_not_delay_others(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let mut deliveries = Vec::new();
    for _ in 0..2 {
        deliveries.push(bench.finished(crm, Next::Retry { due: clock::steady() }).await);
    }
    let mut runs = Vec::new();
    for _ in 0..2 {
        runs.push(bench.settled_with(waiting("p", clock::steady())).await);
    }
    let answers = bench.store.accept(vec![event("a"), event("a")]).await.unwrap();
    for spoiled in [deliveries[0].event(), runs[0], answers[0].id()] {
        bench.backing.spoil(spoiled).await;
    }

    let bench = bench.after_a_crash().await;
    assert_eq!(bench.claim().await, 3);
    assert_eq!(
        (bench.delivery().await.id, bench.run().await.event.id, bench.event().await.event.id),
        (deliveries[1], runs[1], answers[1].id())
    );
    assert_eq!(bench.store.next_due(clock::steady()).await.unwrap(), None, "the unreadable row causes no further claim");
    assert_eq!(bench.state_of(runs[1]).await, EventState::Waiting);
}
