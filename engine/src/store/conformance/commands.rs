//! Cases about operators: their commands on events and runs, and the configuration that they set.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::bench::*;
use crate::{
    clock,
    domain::{
        breaker::BreakerRule,
        certificate::ClientCertificate,
        delivery::{DeadReason, Next},
        endpoint::{DisabledReason, EndpointState, HeldSecret, NewEndpoint, OnGone, Ordering, Policy, Reach, Subscription},
        envelope::{Envelope, Format},
        event::EventState,
        id::{EndpointId, EventId, KeyId},
        key::Role,
        pattern::Pattern,
        rate::Rate,
        retry::Schedule,
        run::{Effects, RunIdentity, RunOutcome, RunRecord, RunState},
        signature::{Scheme, Secret},
        time::Timestamp,
    },
    store::{Deletion, Error, NewKey, Settled, Settlement},
};

pub async fn a_replay_is_a_new_round_with_new_ids(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let first = bench.accept(event("a")).await;
    let id = first.event.id;
    let settled = Settlement { runs: vec![ran("p")], direct: vec![direct(crm)], ..settlement(&first) };
    assert_eq!(bench.settle(settled).await, Settled::Done);
    let old = bench.delivery().await;
    assert!(bench.record(attempt(&old, Next::Delivered)).await);

    assert_eq!(bench.store.replay_event(id, clock::steady()).await.unwrap(), 1);
    assert_eq!(bench.state_of(id).await, EventState::Waiting);
    let mut bench = bench.after_a_crash().await;
    for round in 1..4 {
        assert_eq!(bench.claim().await, 1);
        let replay = bench.event().await;
        assert_eq!((replay.event.id, replay.round), (id, round));
        assert_eq!(replay.event.new.content, first.event.new.content);
        let settled = Settlement { runs: vec![ran("p")], direct: vec![direct(crm)], ..settlement(&replay) };
        assert_eq!(bench.settle(settled).await, Settled::Done);
        let new = bench.delivery().await;
        assert!(new.id > old.id, "a replay is a new webhook");
        assert!(bench.record(attempt(&new, if round == 2 { retry_in(3600) } else { Next::Delivered })).await);
        let story = bench.story(id).await;
        // A delivery of an earlier round counts for the event's state as long as the delivery is still retried, but not once it is
        // finished.
        assert_eq!(story.parts.state(), if round < 2 { EventState::Delivered } else { EventState::Retrying });
        assert_eq!(story.runs.iter().map(|run| run.round).collect::<Vec<_>>(), (0..=round).collect::<Vec<_>>());
        let rounds: Vec<_> = story.deliveries.iter().map(|one| (one.summary.round, one.summary.id.k())).collect();
        assert_eq!(rounds, (0..=round).map(|n| (n, n)).collect::<Vec<_>>());
        assert_eq!(bench.store.replay_event(id, clock::steady()).await.unwrap(), round + 1);
        bench = bench.after_a_crash().await;
    }

    let unrouted = bench.accept(event("a")).await;
    bench.settle(settlement(&unrouted)).await;
    assert_eq!(bench.state_of(unrouted.event.id).await, EventState::Unrouted);
    bench.store.replay_event(unrouted.event.id, clock::steady()).await.unwrap();
    bench.claim().await;
    let replay = bench.events().await.into_iter().find(|claim| claim.event.id == unrouted.event.id).unwrap();
    bench.settle(Settlement { direct: vec![direct(crm)], ..settlement(&replay) }).await;
    assert_eq!(bench.state_of(unrouted.event.id).await, EventState::Waiting, "an endpoint now subscribes to it");
}

pub async fn a_replay_drops_waiting_runs_of_earlier_rounds(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let first = bench.accept(event("a")).await;
    let runs = vec![parked("p", RunOutcome::NotLoadable), waiting("q", clock::steady()), waiting("r", soon(5))];
    assert_eq!(bench.settle(Settlement { runs, ..settlement(&first) }).await, Settled::Done);
    bench.claim().await;
    let on_its_way = bench.run().await;
    bench.store.replay_event(first.event.id, clock::steady()).await.unwrap();

    let late = run_settlement(&on_its_way, ran_with("q", Effects { deliveries: vec![direct(crm)], ..Effects::default() }));
    assert_eq!(bench.settle(late).await, Settled::LeaseLost, "the replay starts all runs again");
    assert_eq!(bench.store.requeue_not_loadable(&slug("p"), clock::steady()).await.unwrap(), 0);
    assert_eq!(bench.claim_at(soon(60)).await, 1);
    let replay = bench.event().await;
    assert_eq!(bench.settle(Settlement { runs: vec![ran("p")], ..settlement(&replay) }).await, Settled::Done);
    let story = bench.story(first.event.id).await;
    assert_eq!(story.parts.state(), EventState::NothingSent);
    assert_eq!(story.runs.len(), 4, "earlier runs stay in the history");
    let ids: Vec<_> = story.runs.iter().map(|run| run.id.k()).collect();
    assert_eq!(ids, [0, 1, 2, 3], "no run number is issued twice");
}

pub async fn a_refused_replay_names_the_reason(bench: &Bench) {
    let unknown = bench.store.replay_event(EventId::from_i64(77), clock::steady()).await;
    assert_eq!(unknown, Err(Error::NotFound { what: "event" }));
    let claim = bench.accept(event("a")).await;
    let refused = bench.store.replay_event(claim.event.id, clock::steady()).await;
    assert!(matches!(&refused, Err(Error::Conflict(text)) if text.contains("waiting")), "{refused:?}");
    assert_eq!(bench.settle(settlement(&claim)).await, Settled::Done, "nothing changed");
    assert_eq!(bench.store.replay_event(claim.event.id, clock::steady()).await.unwrap(), 1);
}

pub async fn a_plugin_that_loads_requeues_its_parked_runs(bench: &Bench) {
    let missed = [
        bench.settled_with(parked("p", RunOutcome::NotLoadable)).await,
        bench.settled_with(parked("p", RunOutcome::NotLoadable)).await,
    ];
    bench.settled_with(parked("p", RunOutcome::Trapped)).await;
    bench.settled_with(parked("q", RunOutcome::NotLoadable)).await;
    let requeue = async |bench: &Bench| bench.store.requeue_not_loadable(&slug("p"), clock::steady()).await.unwrap();
    assert_eq!(requeue(bench).await, 2);
    assert_eq!(requeue(bench).await, 0, "the runs are already requeued");
    let after = bench.after_a_crash().await;
    assert_eq!(after.claim().await, 2);
    let runs = after.runs().await;
    let mut events: Vec<_> = runs.iter().map(|run| run.event.id).collect();
    events.sort();
    assert_eq!(events, missed);
    assert!(matches!(one(after.story(missed[0]).await.runs, "run").state, RunState::Waiting { .. }));
    for run in &runs {
        assert_eq!(after.settle(run_settlement(run, ran("p"))).await, Settled::Done);
    }
    assert_eq!(after.state_of(missed[0]).await, EventState::NothingSent);
}

pub async fn runs_parked_for_a_missing_endpoint_are_requeued_once_it_exists(bench: &Bench) {
    let wants = |name: &str| parked_for("p", name);
    let requeue = async |bench: &Bench| bench.store.requeue_wanting(clock::steady()).await.unwrap();
    let wanting = bench.settled_with(wants("crm")).await;
    bench.settled_with(wants("Not a Slug")).await;
    bench.settled_with(parked("p", RunOutcome::BadOutput)).await;
    bench.endpoint("shop").await;
    assert_eq!((requeue(bench).await, bench.claim().await), (0, 0), "no run waits for that endpoint");
    let crm = bench.endpoint("crm").await;
    let late = bench.settled_with(wants("crm")).await;
    assert_eq!(requeue(bench).await, 2, "including a run parked although the endpoint existed");
    assert_eq!(requeue(bench).await, 0);
    let after = bench.after_a_crash().await;
    assert_eq!(after.claim().await, 2);
    let runs = after.runs().await;
    assert_eq!(runs.iter().map(|run| run.event.id).collect::<BTreeSet<_>>(), [wanting, late].into());
    for run in &runs {
        assert_eq!(after.settle(run_settlement(run, wants("slack"))).await, Settled::Done);
    }
    assert_eq!(requeue(&after).await, 0, "the runs now wait for another endpoint");
    after.endpoint("slack").await;
    assert_eq!(requeue(&after).await, 2);
    after.store.delete_endpoint(crm, Deletion::Forced, None).await.unwrap();
    after.settled_with(wants("crm")).await;
    assert_eq!(requeue(&after).await, 0, "the endpoint that the runs wait for is deleted");
}

pub async fn an_endpoint_reads_back_and_is_changed_as_a_whole(bench: &Bench) {
    let full = NewEndpoint {
        title: Some("Our \"CRM\"".into()),
        subscription: Subscription {
            events: ["order.*", "*", "a.b"].map(|text| Pattern::parse(text).unwrap()).to_vec(),
            conditions: vec![("channel".into(), vec!["newsletter".into(), "é".into()])],
        },
        plugin: Some(slug("p")),
        scheme: Scheme::V1a,
        secrets: vec![
            HeldSecret { secret: Secret::from_seed(Scheme::V1a, [3; 32]), until: None },
            HeldSecret { secret: Secret::from_seed(Scheme::V1, [4; 32]), until: Some(Timestamp::from_millis(5)) },
        ],
        policy: Policy {
            timeout: Duration::from_millis(1234),
            headers: vec![("authorization".into(), "Bearer x".into())],
            schedule: Some(Arc::new(Schedule::new(vec![Duration::ZERO, Duration::from_millis(7)]).unwrap())),
            concurrency: 7,
            rate: Some(Rate::parse("30/m").unwrap()),
            ordering: Some(Ordering::Subject),
            breaker: BreakerRule { failures: 3, wait: Duration::from_millis(250), wait_max: Duration::from_secs(9) },
            envelope: Envelope::CloudEvents,
            format: Format::Xml,
            token_header: Some("x-api-key".into()),
            client_certificate: Some(Arc::new(ClientCertificate { chain: "a chain".into(), key: "a key".into() })),
            on_gone: OnGone::Remove,
            reach: Reach::Public,
            maker: Some(KeyId::from_i64(7)),
        },
        state: EndpointState::Disabled(DisabledReason::Gone),
        ..endpoint("crm")
    };
    let text = |new: &NewEndpoint| format!("{new:?}");
    let created = bench.store.create_endpoint(full.clone()).await.unwrap();
    assert_eq!(text(&created.new), text(&full));
    let after = bench.after_a_crash().await;
    let read = after.find_endpoint(created.id).await;
    assert_eq!((text(&read.new), read.created_at), (text(&full), created.created_at));
    assert_eq!((&read.new.secrets, &read.new.policy), (&full.secrets, &full.policy), "secrets too, which Debug hides");

    let mut changed = read.clone();
    // The text of a Stripe secret may look like a secret of Standard Webhooks.
    let secrets = vec![HeldSecret { secret: Secret::Text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()), until: None }];
    changed.new = NewEndpoint { url: "https://new.example/".into(), scheme: Scheme::Stripe, secrets, ..endpoint("crm") };
    after.store.update_endpoint(changed.clone()).await.unwrap();
    changed.new.state = full.state;
    assert_eq!(after.find_endpoint(created.id).await.new.secrets, changed.new.secrets);
    assert_eq!(text(&after.find_endpoint(created.id).await.new), text(&changed.new), "everything but the state is updated");
    changed.new.name = slug("renamed");
    after.store.update_endpoint(changed.clone()).await.unwrap();
    assert_eq!(&*after.find_endpoint(created.id).await.new.name, "crm", "its name is fixed");

    after.store.delete_endpoint(created.id, Deletion::Forced, None).await.unwrap();
    let not_found = Err(Error::NotFound { what: "endpoint" });
    assert_eq!(after.store.update_endpoint(changed).await, not_found);
    assert_eq!(after.store.delete_endpoint(created.id, Deletion::Forced, None).await, not_found);
    assert_eq!(after.store.endpoints().await.unwrap().len(), 0);
}

pub async fn the_start_of_failing_is_stored_and_cleared(bench: &Bench) {
    let (crm, erp, since) = (bench.endpoint("crm").await, bench.endpoint("erp").await, Timestamp::from_millis(1234));
    assert_eq!(bench.find_endpoint(crm).await.failing_since, None);
    assert_eq!(bench.store.failing_endpoints().await, Ok(vec![]));
    bench.store.note_failing(crm, Some(since)).await.unwrap();
    bench.store.note_failing(erp, Some(since)).await.unwrap();
    bench.store.delete_endpoint(erp, Deletion::Forced, None).await.unwrap();
    let after = bench.after_a_crash().await;
    let endpoint = after.find_endpoint(crm).await;
    assert_eq!(endpoint.failing_since, Some(since));
    assert_eq!(after.store.failing_endpoints().await, Ok(vec![(crm, since)]), "a deleted endpoint does not fail");
    after.store.update_endpoint(endpoint).await.unwrap();
    assert_eq!(
        after.find_endpoint(crm).await.failing_since,
        Some(since),
        "a change of the endpoint keeps the start of its failures"
    );
    after.store.note_failing(crm, None).await.unwrap();
    assert_eq!(after.find_endpoint(crm).await.failing_since, None);
    assert_eq!(after.store.failing_endpoints().await, Ok(vec![]));
}

pub async fn secrets_open_after_a_change_of_the_master_key(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let before = bench.find_endpoint(crm).await.new.secrets;
    for _ in 0..3 {
        bench.store.reseal().await.unwrap();
        assert_eq!(bench.find_endpoint(crm).await.new.secrets, before);
    }
    let shop = bench.endpoint("shop").await;
    let after = bench.after_a_crash().await;
    assert_eq!(after.find_endpoint(crm).await.new.secrets, before);
    after.find_endpoint(shop).await;
}

pub async fn an_endpoints_name_is_unique_until_it_is_deleted(bench: &Bench) {
    let first = bench.endpoint("crm").await;
    let taken = bench.store.create_endpoint(endpoint("crm")).await.map(|endpoint| endpoint.id);
    assert_eq!(taken, Err(Error::Taken { what: "endpoint", name: "crm".into() }));
    let dead = bench.finished(first, Next::Dead(DeadReason::Exhausted)).await;
    bench.store.delete_endpoint(first, Deletion::Forced, None).await.unwrap();
    let second = bench.endpoint("crm").await;
    assert_ne!(first, second, "its id is never issued again");
    assert_eq!(bench.store.delivery(dead).await.unwrap().summary.endpoint, first);
    let after = bench.after_a_crash().await;
    after.store.delete_endpoint(second, Deletion::Forced, None).await.unwrap();
    let third = after.endpoint("crm").await;
    assert!(third != first && third != second);
    for name in ["b", "a", "c"] {
        after.endpoint(name).await;
    }
    let names: Vec<_> = after.store.endpoints().await.unwrap().iter().map(|one| one.new.name.to_string()).collect();
    assert_eq!(names, ["a", "b", "c", "crm"]);
}

pub async fn an_endpoint_in_use_is_deleted_only_by_force(bench: &Bench) {
    let (crm, slack, idle) = (bench.endpoint("crm").await, bench.endpoint("slack").await, bench.endpoint("idle").await);
    let waits = bench.finished(crm, retry_in(3600)).await;
    bench.delivery_to(crm).await;
    let claim = bench.accept(event("a")).await;
    let router = ran_with("router", Effects { deliveries: vec![webhook(slack, "x")], ..Effects::default() });
    let bound = RunIdentity { endpoint: Some(idle), ..identity("bound") };
    let bound = RunRecord {
        identity: bound,
        ..ran_with("bound", Effects { deliveries: vec![webhook(idle, "x")], ..Effects::default() })
    };
    assert_eq!(bench.settle(Settlement { runs: vec![router, bound], ..settlement(&claim) }).await, Settled::Done);
    for claim in bench.deliveries().await {
        assert!(bench.record(attempt(&claim, Next::Delivered)).await);
    }
    let serving = |names: &[&str]| Deletion::Unused { serving: names.iter().map(|name| slug(name)).collect() };
    let refused = async |id, deletion| match bench.store.delete_endpoint(id, deletion, Some(event("innesco.x"))).await {
        Err(Error::Conflict(text)) => text,
        other => panic!("{other:?}"),
    };
    let text = refused(crm, serving(&[])).await;
    assert!(text.contains("\"crm\"") && text.contains("2 deliveries wait for it"), "one waits, one is being sent: {text}");
    let text = refused(slack, serving(&["router", "other"])).await;
    assert!(text.contains("the plugin router sent it 1 of its last webhooks"), "{text}");
    assert!(bench.events().await.is_empty(), "nothing was deleted or reported");
    assert_eq!(bench.state_and_attempts(waits).await.0, "retrying");
    assert!(bench.store.deleted_endpoints().await.unwrap().is_empty());

    bench.store.delete_endpoint(slack, serving(&["other"]), None).await.unwrap();
    bench.store.delete_endpoint(idle, serving(&["bound"]), None).await.unwrap();
    bench.store.delete_endpoint(crm, Deletion::Forced, None).await.unwrap();
    let not_found = Err(Error::NotFound { what: "endpoint" });
    assert_eq!(bench.store.delete_endpoint(slack, serving(&["router"]), None).await, not_found);
    let mut deleted = bench.store.deleted_endpoints().await.unwrap();
    deleted.sort_by_key(|(name, _)| name.to_string());
    assert_eq!(deleted, [(slug("crm"), crm), (slug("idle"), idle), (slug("slack"), slack)]);
}

pub async fn operational_events_are_stored_with_their_deletion_or_not_at_all(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    bench.store.delete_endpoint(crm, Deletion::Forced, Some(event("innesco.x"))).await.unwrap();
    assert_eq!(&*bench.event().await.event.new.event_type, "innesco.x");
    let again = bench.store.delete_endpoint(crm, Deletion::Forced, Some(event("innesco.x"))).await;
    assert_eq!(again, Err(Error::NotFound { what: "endpoint" }));
    assert_eq!(bench.handoff.events.len(), 0, "without the deletion no operational event is stored");
}

pub async fn an_endpoints_state_changes_only_from_the_expected_state(bench: &Bench) {
    use EndpointState::{Active, Disabled, Paused};
    let crm = bench.endpoint("crm").await;
    let slack = bench.endpoint("slack").await;
    let change = async |from: &[EndpointState], to| bench.store.set_endpoint_state(crm, from, to, None).await.unwrap();
    assert!(!change(&[Paused, Disabled(DisabledReason::Gone)], Active).await);
    assert!(change(&[Active, Paused], Paused).await);
    assert!(!change(&[Active], Disabled(DisabledReason::ByHand)).await);
    assert!(change(&[Active, Paused], Disabled(DisabledReason::Gone)).await);
    assert!(!change(&[], Active).await);
    assert_eq!(bench.find_endpoint(crm).await.new.state, Disabled(DisabledReason::Gone));
    assert_eq!(bench.find_endpoint(slack).await.new.state, Active);
    bench.store.delete_endpoint(crm, Deletion::Forced, None).await.unwrap();
    assert!(!change(&[Disabled(DisabledReason::Gone)], Active).await, "a deleted endpoint does not change");
    assert!(!bench.store.set_endpoint_state(EndpointId::from_i64(99), &[Active], Paused, None).await.unwrap());
}

fn key(name: &str, role: Role, byte: u8) -> NewKey {
    NewKey { name: name.into(), role, hash: [byte; 32], ending: Some(format!("…{byte:03}")), expires_at: None }
}

pub async fn keys_are_created_listed_and_revoked(bench: &Bench) {
    let create = async |name: &str, role, byte: u8| bench.store.create_key(key(name, role, byte)).await;
    let ci = create("ci", Role::Publish, 1).await.unwrap();
    create("admin", Role::Admin, 2).await.unwrap();
    for (name, byte) in [("ci", 3), ("other", 1)] {
        let taken = create(name, Role::Read, byte).await.map(|key| key.id);
        assert!(matches!(taken, Err(Error::Taken { what: "key", .. })), "{name}: {taken:?}");
    }
    let keys = bench.after_a_crash().await.store.keys().await.unwrap();
    let shown: Vec<_> =
        keys.iter().map(|key| (key.new.name.as_str(), key.new.role, key.new.hash, key.new.ending.as_deref())).collect();
    assert_eq!(shown, [("admin", Role::Admin, [2; 32], Some("…002")), ("ci", Role::Publish, [1; 32], Some("…001"))]);
    assert_eq!(keys[1].id, ci.id);
    bench.store.revoke_key(ci.id).await.unwrap();
    assert_eq!(bench.store.revoke_key(ci.id).await, Err(Error::NotFound { what: "key" }));
    let again = create("ci", Role::Read, 1).await.unwrap();
    assert_ne!(again.id, ci.id, "an id is never issued again");
}

pub async fn a_keys_expiry_and_last_use_are_stored(bench: &Bench) {
    let at = |millis| Timestamp::from_millis(millis);
    let new = NewKey { expires_at: Some(at(5_000)), ..key("ci", Role::Publish, 1) };
    let ci = bench.store.create_key(new).await.unwrap();
    assert_eq!((ci.new.expires_at, ci.last_used_at), (Some(at(5_000)), None));
    assert!(!ci.has_expired(at(4_999)) && ci.has_expired(at(5_000)));
    let other = bench.store.create_key(key("other", Role::Read, 2)).await.unwrap();
    assert!(!other.has_expired(at(i64::MAX)));

    let gone = crate::domain::id::KeyId::from_i64(99);
    bench.store.note_key_uses(vec![(ci.id, at(7)), (gone, at(8))]).await.unwrap();
    bench.store.note_key_uses(vec![(ci.id, at(6))]).await.unwrap();
    let keys = bench.after_a_crash().await.store.keys().await.unwrap();
    let shown: Vec<_> = keys.iter().map(|key| (&*key.new.name, key.new.expires_at, key.last_used_at)).collect();
    assert_eq!(shown, [("ci", Some(at(5_000)), Some(at(7))), ("other", None, None)], "of two uses, the later one is stored");
}

pub async fn a_refusal_affects_no_other_caller(bench: &Bench) {
    bench.endpoint("crm").await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let store = Arc::clone(&bench.store);
        tasks.spawn(async move {
            let unknown = EventId::from_i64(1_000_000 + number);
            let refused = match number % 4 {
                0 => store.create_endpoint(endpoint("crm")).await.map(drop).unwrap_err(),
                1 => store.replay_event(unknown, clock::steady()).await.map(drop).unwrap_err(),
                2 => store.retry_delivery(unknown.delivery(0), clock::steady()).await.unwrap_err(),
                _ => {
                    store.accept(vec![event("a")]).await.unwrap();
                    return;
                }
            };
            assert!(refused.is_refusal(), "{refused}");
        });
    }
    while let Some(joined) = tasks.join_next().await {
        joined.unwrap();
    }
    assert_eq!(bench.events().await.len(), 10);
}
