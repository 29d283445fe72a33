//! Cases about commit 3, which stores an attempt and the delivery's next state, and about the changes that operators and
//! maintenance make to deliveries.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::bench::*;
use crate::{
    clock,
    domain::{
        delivery::{Attempt, AttemptOutcome, CancelReason, DeadReason, DeliveryState, Next},
        endpoint::{DisabledReason, EndpointState},
        envelope::{Envelope, Format},
        id::{ATTEMPTS_MAX, DeliveryId},
        sent::{MASKED, SentAs},
        signature::Scheme,
    },
    store::{AttemptRecord, ClaimId, Deletion, Error, Recorded},
};

pub async fn an_attempt_and_the_next_state_are_one_change(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let mut all = Vec::new();
    let ends = [Next::Delivered, Next::Dead(DeadReason::Exhausted), Next::Dead(DeadReason::Gone), retry_in(5)];
    for next in ends {
        let claim = bench.delivery_to(crm).await;
        let made = Attempt {
            at: clock::wall(),
            outcome: AttemptOutcome::BodyTooLarge { status: 503 },
            latency: Duration::from_micros(12_345),
            detail: Some("more than 64 KiB".into()),
            excerpt: Bytes::from_static(b"\x00\xff"),
            retry_after: Some(Duration::from_secs(7)),
        };
        assert!(bench.record(AttemptRecord { attempt: made.clone(), ..attempt(&claim, next) }).await);
        let expected = match next {
            Next::Delivered => DeliveryState::Delivered { at: made.at },
            Next::Dead(reason) => DeliveryState::Dead { at: made.at, reason },
            Next::Retry { due } => DeliveryState::Retrying { due },
        };
        all.push((claim.id, expected, made));
    }
    for bench in [bench, &bench.after_a_crash().await] {
        for (id, expected, made) in &all {
            let story = bench.store.delivery(*id).await.unwrap();
            assert_eq!((story.summary.state, story.summary.attempts), (*expected, 1));
            assert_eq!(story.summary.last.as_ref().map(|last| &last.attempt), Some(made));
            let stored = one(story.attempts, "attempt");
            assert_eq!((stored.id, &stored.attempt), (id.attempt(1), made));
        }
    }
}

pub async fn an_attempt_of_a_lost_lease_is_refused(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let slow = bench.delivery_to(crm).await;
    assert_eq!(bench.claim_at(after_leases()).await, 1);
    let taken_over = bench.delivery().await;
    assert_eq!(taken_over.id, slow.id);
    for next in [Next::Delivered, Next::Dead(DeadReason::Exhausted), retry_in(1)] {
        assert!(!bench.record(attempt(&slow, next)).await);
        assert_eq!(bench.state_and_attempts(slow.id).await, ("pending", 0), "nothing changed");
    }
    assert!(bench.record(attempt(&taken_over, Next::Delivered)).await);
    assert!(!bench.record(attempt(&taken_over, Next::Delivered)).await, "an attempt is recorded once");
    assert!(!bench.record(attempt(&slow, Next::Dead(DeadReason::Exhausted))).await);
    assert_eq!(bench.state_and_attempts(slow.id).await, ("delivered", 1));
    assert_eq!(bench.store.delivery(slow.id).await.unwrap().attempts.len(), 1);

    let before = bench.delivery_to(crm).await;
    let after = bench.after_a_crash().await;
    after.claim().await;
    let claim = after.delivery().await;
    assert!(!after.record(attempt(&before, Next::Delivered)).await, "the process that held the claim has ended");
    assert!(after.record(attempt(&claim, retry_in(60))).await);
}

pub async fn attempts_of_one_call_are_judged_separately(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let (one, two, three) = (bench.delivery_to(crm).await, bench.delivery_to(crm).await, bench.delivery_to(crm).await);
    let stale = AttemptRecord { lease: made_up(two.lease), ..attempt(&two, Next::Delivered) };
    let records = vec![attempt(&one, Next::Delivered), stale, attempt(&three, Next::Dead(DeadReason::Gone))];
    assert_eq!(
        bench.store.record_attempts(Arc::new(records)).await.unwrap(),
        [Recorded::Done, Recorded::LeaseLost, Recorded::Done]
    );
    assert_eq!(bench.state_and_attempts(one.id).await, ("delivered", 1));
    assert_eq!(bench.state_and_attempts(two.id).await, ("pending", 0));
    assert_eq!(bench.state_and_attempts(three.id).await, ("dead", 1));
}

pub async fn operational_events_are_stored_with_their_attempt_or_not_at_all(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.delivery_to(crm).await;
    let with_notice = |lease| AttemptRecord { lease, notices: vec![event("innesco.x")], ..attempt(&claim, Next::Delivered) };
    assert!(!bench.record(with_notice(made_up(claim.lease))).await);
    assert_eq!(bench.handoff.events.len(), 0, "without a record no operational event is stored");
    assert!(bench.record(with_notice(claim.lease)).await);
    assert_eq!(&*bench.event().await.event.new.event_type, "innesco.x");
}

pub async fn a_webhook_keeps_its_id_over_attempts_and_restarts(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let first = bench.delivery_to(crm).await;
    let text = first.id.text(bench.store.tag());
    assert!(bench.record(attempt(&first, Next::Retry { due: clock::steady() })).await);
    let mut bench = bench.after_a_crash().await;
    for attempts in 1..4 {
        assert_eq!(bench.claim().await, 1);
        let claim = bench.delivery().await;
        assert_eq!((claim.attempts, claim.id.text(bench.store.tag())), (attempts, text.clone()));
        assert_eq!(claim.event.new.content, first.event.new.content);
        assert!(bench.record(attempt(&claim, Next::Retry { due: clock::steady() })).await);
        bench = bench.after_a_crash().await;
    }
    let numbers: Vec<_> = bench.store.delivery(first.id).await.unwrap().attempts.iter().map(|one| one.id.n()).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

/// Claims the only due delivery, checks that it is `id` and has had `attempts` attempts, and delivers it.
async fn deliver(bench: &Bench, id: DeliveryId, attempts: u32) {
    assert_eq!(bench.claim().await, 1);
    let claim = bench.delivery().await;
    assert_eq!((claim.id, claim.attempts), (id, attempts), "the same webhook with its next attempt");
    assert!(bench.record(attempt(&claim, Next::Delivered)).await);
    assert_eq!(bench.state_and_attempts(id).await, ("delivered", attempts + 1));
    assert_eq!(bench.store.delivery(id).await.unwrap().attempts.len(), attempts as usize + 1);
}

pub async fn a_waiting_delivery_can_be_retried_at_once(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let id = bench.finished(crm, retry_in(3600)).await;
    assert_eq!(bench.claim().await, 0);
    bench.store.retry_delivery(id, clock::steady()).await.unwrap();
    deliver(bench, id, 1).await;
}

pub async fn a_finished_delivery_can_be_sent_again(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let mut bench = bench.after_a_crash().await;
    for end in [Next::Delivered, Next::Dead(DeadReason::Exhausted)] {
        let id = bench.finished(crm, end).await;
        bench.store.retry_delivery(id, clock::steady()).await.unwrap();
        assert_eq!(bench.state_and_attempts(id).await, ("retrying", 1));
        bench = bench.after_a_crash().await;
        deliver(&bench, id, 1).await;
    }
    let id = bench.finished(crm, retry_in(60)).await;
    bench.store.cancel_delivery(id, clock::wall()).await.unwrap();
    bench.store.retry_delivery(id, clock::steady()).await.unwrap();
    deliver(&bench, id, 1).await;
}

pub async fn a_retry_does_not_change_a_delivery_that_is_being_sent(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.delivery_to(crm).await;
    bench.store.retry_delivery(claim.id, clock::steady()).await.unwrap();
    assert_eq!(bench.claim().await, 0, "it is not sent twice at the same time");
    assert!(bench.record(attempt(&claim, Next::Delivered)).await);
    assert_eq!(bench.state_and_attempts(claim.id).await, ("delivered", 1));
}

pub async fn a_refused_retry_names_the_reason(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let id = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await;
    let unknown = id.event().delivery(9);
    assert_eq!(bench.store.retry_delivery(unknown, clock::steady()).await, Err(Error::NotFound { what: "delivery" }));
    bench.store.delete_endpoint(crm, Deletion::Forced, None).await.unwrap();
    let refused = bench.store.retry_delivery(id, clock::steady()).await;
    assert!(matches!(&refused, Err(Error::Conflict(text)) if text.contains("deleted")), "{refused:?}");
    assert_eq!(bench.state_and_attempts(id).await, ("dead", 1), "nothing changed");
}

pub async fn retries_nothing_for_a_disabled_endpoint(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let dead = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await;
    let waiting = bench.finished(crm, retry_in(3600)).await;
    for reason in DisabledReason::ALL {
        bench.set(crm, EndpointState::Disabled(reason)).await;
        for id in [dead, waiting] {
            let stood = bench.state_and_attempts(id).await;
            let refused = bench.store.retry_delivery(id, clock::steady()).await;
            assert!(matches!(&refused, Err(Error::Conflict(text)) if text.contains("endpoint resume crm")), "{refused:?}");
            assert_eq!(bench.state_and_attempts(id).await, stood, "nothing changed");
        }
    }
    bench.set(crm, EndpointState::Paused).await;
    bench.store.retry_delivery(dead, clock::steady()).await.unwrap();
    assert_eq!(bench.claim().await, 0, "a delivery of a paused endpoint waits until it is resumed");
    bench.set(crm, EndpointState::Active).await;
    deliver(bench, dead, 1).await;
}

pub async fn the_attempts_of_a_delivery_are_limited(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let id = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await;
    for made in 1..ATTEMPTS_MAX {
        bench.store.retry_delivery(id, clock::steady()).await.unwrap();
        bench.claim().await;
        let claim = bench.delivery().await;
        assert_eq!(claim.attempts, made);
        assert!(bench.record(attempt(&claim, Next::Dead(DeadReason::Exhausted))).await);
    }
    let refused = bench.store.retry_delivery(id, clock::steady()).await;
    assert!(matches!(&refused, Err(Error::Conflict(text)) if text.contains("255")), "{refused:?}");
    assert_eq!(bench.state_and_attempts(id).await, ("dead", ATTEMPTS_MAX));
    assert_eq!(bench.store.delivery(id).await.unwrap().attempts.len(), ATTEMPTS_MAX as usize);
}

pub async fn an_attempt_is_stored_with_the_endpoint_settings_that_it_used(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.delivery_to(crm).await;
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let odd = SentAs {
        url: "https://crm.example/\"a\"?b=é".into(),
        scheme: Scheme::Token,
        token_header: Some("x-api-key".into()),
        envelope: Envelope::Data,
        format: Format::Xml,
        headers: vec![header("authorization", MASKED), header("accept", "*/*")],
    };
    let plain = SentAs::of(&bench.find_endpoint(crm).await);
    assert!(bench.record(AttemptRecord { sent: plain.clone(), ..attempt(&claim, retry_in(0)) }).await);
    bench.claim_at(soon(1)).await;
    let again = bench.delivery().await;
    assert!(bench.record(AttemptRecord { sent: odd.clone(), ..attempt(&again, Next::Delivered) }).await);
    let after = bench.after_a_crash().await;
    let whole = after.store.whole_delivery(claim.id).await.unwrap();
    assert_eq!(whole.story.attempts.iter().map(|one| one.sent.clone()).collect::<Vec<_>>(), [Some(plain), Some(odd.clone())]);
    assert_eq!(whole.story.summary.last.unwrap().sent, Some(odd));
    assert_eq!((whole.event.id, whole.payload), (claim.event.id, None));
    assert_eq!(whole.event.new.content.bytes(), claim.event.new.content.bytes());
    let missing = after.store.whole_delivery(claim.event.id.delivery(9)).await.map(drop);
    assert_eq!(missing, Err(Error::NotFound { what: "delivery" }));
}

pub async fn a_waiting_delivery_can_be_cancelled(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let id = bench.finished(crm, Next::Retry { due: clock::steady() }).await;
    let at = clock::wall();
    bench.store.cancel_delivery(id, at).await.unwrap();
    assert_eq!(
        bench.store.delivery(id).await.unwrap().summary.state,
        DeliveryState::Cancelled { at, reason: Some(CancelReason::ByHand) }
    );
    assert_eq!(bench.claim().await, 0);
    for finished in [id, bench.finished(crm, Next::Delivered).await, bench.finished(crm, Next::Dead(DeadReason::Gone)).await] {
        let stood = bench.state_and_attempts(finished).await;
        let refused = bench.store.cancel_delivery(finished, clock::wall()).await;
        assert!(matches!(&refused, Err(Error::Conflict(text)) if text.contains(stood.0)), "{refused:?}");
        assert_eq!(bench.state_and_attempts(finished).await, stood);
    }
    let unknown = bench.store.cancel_delivery(id.event().delivery(9), clock::wall()).await;
    assert_eq!(unknown, Err(Error::NotFound { what: "delivery" }));
}

pub async fn a_delivery_cancelled_during_an_attempt_stays_cancelled(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.delivery_to(crm).await;
    bench.store.cancel_delivery(claim.id, clock::wall()).await.unwrap();
    for next in [Next::Delivered, retry_in(0), Next::Dead(DeadReason::Exhausted)] {
        assert!(!bench.record(attempt(&claim, next)).await);
    }
    bench.store.release(vec![(ClaimId::Delivery(claim.id), claim.lease)]).await.unwrap();
    assert_eq!(bench.claim_at(after_leases()).await, 0);
    assert_eq!(bench.state_and_attempts(claim.id).await, ("cancelled", 0));
}

pub async fn a_delivery_cancelled_before_its_turn_is_not_sent(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("a")).await;
    let direct = vec![direct(crm), direct(crm), direct(crm)];
    bench.settle(crate::store::Settlement { direct, ..settlement(&claim) }).await;
    bench.store.cancel_delivery(claim.event.id.delivery(1), clock::wall()).await.unwrap();
    assert_eq!(bench.deliveries().await.iter().map(|one| one.id.k()).collect::<Vec<_>>(), [0, 2]);
    bench.store.cancel_delivery(claim.event.id.delivery(0), clock::wall()).await.unwrap();
    bench.store.cancel_delivery(claim.event.id.delivery(2), clock::wall()).await.unwrap();
    assert!(bench.handoff.deliveries.is_empty(), "no slot is lost");
}

pub async fn deliveries_waiting_for_a_disabled_endpoint_become_dead(bench: &Bench) {
    let (crm, slack) = (bench.endpoint("crm").await, bench.endpoint("slack").await);
    let waiting = bench.finished(crm, retry_in(3600)).await;
    let other = bench.finished(slack, retry_in(3600)).await;
    let on_its_way = bench.delivery_to(crm).await;
    assert_eq!(bench.store.close_deliveries(clock::wall()).await.unwrap(), 0);
    bench.set(crm, EndpointState::Disabled(DisabledReason::Gone)).await;
    let at = clock::wall();
    assert_eq!(bench.store.close_deliveries(at).await.unwrap(), 1, "the delivery that is being sent is not closed");
    let dead = DeliveryState::Dead { at, reason: DeadReason::EndpointDisabled };
    assert_eq!(bench.store.delivery(waiting).await.unwrap().summary.state, dead);
    assert_eq!(bench.state_and_attempts(other).await, ("retrying", 1));
    bench.store.release(vec![(ClaimId::Delivery(on_its_way.id), on_its_way.lease)]).await.unwrap();
    assert_eq!(bench.claim().await, 0, "no claim succeeds");
    assert_eq!(bench.store.close_deliveries(at).await.unwrap(), 1);
    assert_eq!(bench.store.close_deliveries(at).await.unwrap(), 0);
    assert_eq!(bench.state_and_attempts(on_its_way.id).await, ("dead", 0));

    bench.set(crm, EndpointState::Active).await;
    bench.store.retry_delivery(waiting, clock::steady()).await.unwrap();
    deliver(bench, waiting, 1).await;
}

pub async fn deliveries_waiting_for_a_deleted_endpoint_are_cancelled(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(bench.finished(crm, Next::Retry { due: clock::steady() }).await);
    }
    bench.store.delete_endpoint(crm, Deletion::Forced, None).await.unwrap();
    assert_eq!(bench.claim().await, 0);
    assert_eq!(bench.store.next_due(clock::steady()).await.unwrap(), None, "no row is due any more");
    let at = clock::wall();
    assert_eq!(bench.store.close_deliveries(at).await.unwrap(), 3);
    for id in waiting {
        let summary = bench.store.delivery(id).await.unwrap().summary;
        assert_eq!(summary.state, DeliveryState::Cancelled { at, reason: Some(CancelReason::EndpointDeleted) });
        assert_eq!(summary.endpoint_name, "crm", "the name of the deleted endpoint is still shown");
    }
}
