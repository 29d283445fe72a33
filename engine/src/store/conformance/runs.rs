//! Cases about runs: they are retried, cancelled and listed one by one, and retried or replayed in bulk. Only the chosen runs or
//! events are repeated.

use std::{collections::BTreeMap, time::Duration};

use super::bench::*;
use crate::{
    clock,
    domain::{
        comparison::Share,
        delivery::Next,
        event::EventState,
        id::{EventId, RunId},
        job::{Job, JobState, ReplayFilter, RunRetryFilter, Task},
        pattern::Pattern,
        recording::{RecordedState, Recording},
        run::{Effects, Execution, RunIdentity, RunOutcome, RunRecord, RunState},
        time::Timestamp,
    },
    store::{Deletion, Error, EventClaim, PageRequest, RecordedFilter, RunFilter, Settled, SettledFrom, Settlement},
};

/// More items than one step of a job processes.
const MANY: usize = 450;

async fn retry(bench: &Bench, id: RunId) -> Result<(), Error> {
    bench.store.retry_run(id, clock::steady()).await
}

async fn state_of_run(bench: &Bench, id: RunId) -> RunState {
    bench.store.run(id).await.unwrap().state
}

pub async fn a_retried_run_runs_again_and_nothing_else_of_its_event_does(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("order.created")).await;
    let fine = ran_with("fine", Effects { deliveries: vec![webhook(crm, "fine")], ..Effects::default() });
    let runs = vec![fine, parked("bad", RunOutcome::Trapped), parked("other", RunOutcome::Failed)];
    bench.settle(Settlement { runs, direct: vec![direct(crm)], ..settlement(&claim) }).await;
    for delivery in bench.deliveries().await {
        assert!(bench.record(attempt(&delivery, Next::Delivered)).await);
    }
    let (bad, other) = (claim.event.id.run(1), claim.event.id.run(2));
    retry(bench, bad).await.unwrap();
    let bench = bench.after_a_crash().await;
    assert!(matches!(state_of_run(&bench, bad).await, RunState::Waiting { .. }));
    assert_eq!(bench.claim().await, 1, "only the run is due");
    let again = bench.run().await;
    assert_eq!((again.id, again.plugin.to_string(), again.tries, again.round), (bad, "bad".to_owned(), 1, 0));
    let repaired = ran_with("bad", Effects { deliveries: vec![webhook(crm, "bad")], ..Effects::default() });
    assert_eq!(bench.settle(run_settlement(&again, repaired)).await, Settled::Done);
    let new = bench.delivery().await;
    assert_eq!(new.payload.as_ref().map(|payload| payload.body.clone()), Some("bad".into()));
    assert!(bench.record(attempt(&new, Next::Delivered)).await);
    let story = bench.story(claim.event.id).await;
    let states: Vec<_> = story.runs.iter().map(|run| (run.state, run.tries)).collect();
    assert_eq!(states, [(RunState::Done, 1), (RunState::Done, 2), (RunState::Parked, 1)]);
    assert_eq!(story.deliveries.len(), 3, "the retried run adds one delivery");
    assert_eq!(state_of_run(&bench, other).await, RunState::Parked);
}

/// Returns a run of `plugin` that ended `ok`, with these recorded inputs.
fn recorded(plugin: &str, recording: Recording) -> RunRecord {
    identity(plugin).ok(Execution { recording, ..execution(plugin) }, Effects::default())
}

pub async fn a_run_is_stored_with_everything_that_it_read(bench: &Bench) {
    let read =
        RecordedState::Read(vec![("gone \"é\"".into(), None), ("k".into(), Some(vec![0, 255])), ("empty".into(), Some(vec![]))]);
    let recordings = [
        Recording { settings: 7, at: Some(Timestamp::from_millis(5)), state: read },
        Recording { settings: 0, at: None, state: RecordedState::Read(Vec::new()) },
        Recording { settings: 1, at: None, state: RecordedState::TooLarge },
    ];
    let claim = bench.accept(event("order.created")).await;
    let mut runs: Vec<_> = recordings.iter().map(|recording| recorded("p", recording.clone())).collect();
    runs.push(identity("p").not_loadable("no file".into()));
    bench.settle(Settlement { runs, ..settlement(&claim) }).await;
    let bench = bench.after_a_crash().await;
    for (number, recording) in recordings.iter().enumerate() {
        let found = bench.store.recorded_run(claim.event.id.run(number as u32)).await.unwrap();
        assert_eq!(found.recording.as_ref(), Some(recording));
        assert_eq!((&*found.plugin, found.outcome, found.endpoint), ("p", Some(RunOutcome::Ok), None));
        assert_eq!(found.version, Some(crate::domain::plugin::Digest::of(b"p")));
        assert_eq!(found.event.new.content.bytes(), claim.event.new.content.bytes());
        assert_eq!(bench.store.run(found.id).await.unwrap().settings, Some(recording.settings));
    }
    let unexecuted = bench.store.recorded_run(claim.event.id.run(3)).await.unwrap();
    assert_eq!((unexecuted.version, unexecuted.recording), (None, None));
    let missing = bench.store.recorded_run(claim.event.id.run(4)).await.map(|run| run.id);
    assert!(matches!(missing, Err(Error::NotFound { what: "run" })), "{missing:?}");
}

pub async fn a_failed_run_is_recorded_too_and_its_last_try_counts(bench: &Bench) {
    let claim = bench.accept(event("order.created")).await;
    let try_of = |settings| Execution { recording: Recording { settings, ..Recording::default() }, ..execution("p") };
    let failed = identity("p").parked(Some(try_of(1)), failure(RunOutcome::Trapped), None);
    bench.settle(Settlement { runs: vec![failed], ..settlement(&claim) }).await;
    let id = claim.event.id.run(0);
    let settings = async || bench.store.recorded_run(id).await.unwrap().recording.unwrap().settings;
    assert_eq!(settings().await, 1);
    retry(bench, id).await.unwrap();
    assert_eq!(bench.claim().await, 1);
    let again = bench.run().await;
    bench.settle(run_settlement(&again, identity("p").ok(try_of(2), Effects::default()))).await;
    assert_eq!(settings().await, 2);
}

pub async fn recorded_runs_of_a_plugin_come_in_pages_newest_first(bench: &Bench) {
    let mut expected = Vec::new();
    for number in 0..7 {
        let claim = bench.accept(event(if number == 3 { "contact.created" } else { "order.created" })).await;
        let runs = vec![ran("other"), ran("p"), identity("p").not_loadable("no file".into())];
        bench.settle(Settlement { runs, ..settlement(&claim) }).await;
        if number != 3 {
            expected.insert(0, claim.event.id.run(1));
        }
    }
    let filter =
        RecordedFilter { plugin: slug("p"), events: Some(Pattern::parse("order.*").unwrap()), since: None, share: Share::ALL };
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = bench.store.recorded_runs(filter.clone(), PageRequest { cursor, limit: 2 }).await.unwrap();
        assert!(page.items.len() <= 2);
        found.extend(page.items.iter().map(|run| run.id));
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(found, expected);
    let later = RecordedFilter { since: Some(clock::wall().plus(Duration::from_secs(60))), ..filter };
    assert_eq!(bench.store.recorded_runs(later, PageRequest { cursor: None, limit: 2 }).await.unwrap().items.len(), 0);
}

/// Reads all new runs of `p` that come after the run in `from`, in pages of two, as a follower does. Returns these runs, and the
/// last run that the reader has passed.
async fn follow(bench: &Bench, since: Timestamp, from: SettledFrom, share: Share) -> (Vec<RunId>, Option<i64>) {
    let filter = RecordedFilter { plugin: slug("p"), events: None, since: Some(since), share };
    let (mut found, mut from) = (Vec::new(), from);
    loop {
        let page = bench.store.settled_runs(filter.clone(), from, 2).await.unwrap();
        assert!(page.items.len() <= 2 && page.passed == 0);
        found.extend(page.items.iter().map(|run| run.id));
        from.after = page.after;
        if !page.more {
            return (found, from.after);
        }
    }
}

pub async fn a_follower_sees_each_new_run_once_in_order_and_waits_for_unfinished_ones(bench: &Bench) {
    let (begin, later) = (clock::wall(), clock::wall().plus(Duration::from_secs(3_600)));
    let from = SettledFrom { after: None, waits_since: begin, until: later };
    assert_eq!(follow(bench, begin, from, Share::ALL).await, (vec![], None), "nothing was accepted yet");
    let settle = async |claim: &EventClaim, run: RunRecord| {
        bench.settle(Settlement { runs: vec![ran("other"), run], ..settlement(claim) }).await;
        claim.event.id.run(1)
    };
    let mut claims = Vec::new();
    for _ in 0..5 {
        claims.push(bench.accept(event("order.created")).await);
    }
    // The first event and the last three are settled. The second event waits to be run.
    let first = settle(&claims[0], ran("p")).await;
    let third = settle(&claims[2], parked("p", RunOutcome::Failed)).await;
    let fourth = settle(&claims[3], waiting("p", soon(3_600))).await;
    let fifth = settle(&claims[4], ran("p")).await;
    let (found, after) = follow(bench, begin, from, Share::ALL).await;
    assert_eq!(found, [first], "the second event may have runs before the third's");
    let second = settle(&claims[1], ran("p")).await;
    let (found, after) = follow(bench, begin, SettledFrom { after, ..from }, Share::ALL).await;
    assert_eq!(found, [second, third], "the fourth is tried again");
    let impatient = SettledFrom { after, waits_since: later, ..from };
    assert_eq!(follow(bench, begin, impatient, Share::ALL).await.0, [fourth, fifth], "runs of old events are not waited for");
    assert_eq!(
        follow(bench, begin, SettledFrom { until: begin, ..impatient }, Share::ALL).await,
        (vec![], after),
        "no event is old enough"
    );

    retry(bench, fourth).await.unwrap();
    assert_eq!(bench.claim().await, 1);
    let again = bench.run().await;
    assert_eq!(bench.settle(run_settlement(&again, ran("p"))).await, Settled::Done);
    let (found, end) = follow(bench, begin, SettledFrom { after, ..from }, Share::ALL).await;
    assert_eq!((found, end), (vec![fourth, fifth], Some(fifth.as_i64())));
    assert_eq!(follow(bench, begin, SettledFrom { after: end, ..from }, Share::ALL).await, (vec![], end));

    // This filter selects a share of the runs. A page of size 0 returns no runs: it only counts the selected runs that the reader
    // passes.
    let share = Share::new(50).unwrap();
    let expected: Vec<_> = [first, second, third, fourth, fifth].into_iter().filter(|run| share.takes(run.as_i64())).collect();
    assert_eq!(follow(bench, begin, from, share).await.0, expected);
    let filter = RecordedFilter { plugin: slug("p"), events: None, since: Some(begin), share };
    let passed = bench.store.settled_runs(filter, from, 0).await.unwrap();
    assert_eq!((passed.items.len(), passed.passed, passed.after), (0, expected.len() as u64, end));
}

pub async fn a_waiting_run_can_be_retried_at_once(bench: &Bench) {
    let id = bench.settled_with(waiting("p", soon(3600))).await.run(0);
    assert_eq!(bench.claim().await, 0);
    retry(bench, id).await.unwrap();
    assert_eq!(bench.claim().await, 1);
    retry(bench, id).await.unwrap();
    let run = bench.run().await;
    assert_eq!(bench.claim().await, 0, "a run that a worker holds is not changed");
    assert_eq!(bench.settle(run_settlement(&run, ran("p"))).await, Settled::Done);
}

pub async fn a_run_parked_for_an_endpoint_can_be_retried_before_it_exists(bench: &Bench) {
    let id = bench.settled_with(parked_for("p", "crm")).await.run(0);
    assert_eq!(bench.store.run(id).await.unwrap().wants.as_deref(), Some("crm"));
    retry(bench, id).await.unwrap();
    bench.endpoint("crm").await;
    assert_eq!(bench.store.requeue_wanting(clock::steady()).await.unwrap(), 0, "the retried run is already due");
    assert_eq!(bench.claim().await, 1);
}

pub async fn a_refused_retry_of_a_run_names_the_reason(bench: &Bench) {
    let refusal = async |id: RunId| match retry(bench, id).await {
        Err(Error::Conflict(text)) => text,
        other => panic!("{other:?}"),
    };
    let done = bench.settled_with(ran("p")).await.run(0);
    assert!(refusal(done).await.contains("ended ok"));
    let replayed = bench.settled_with(parked("p", RunOutcome::Failed)).await;
    bench.store.replay_event(replayed, clock::steady()).await.unwrap();
    assert!(refusal(replayed.run(0)).await.contains("replayed since"));
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event("a")).await;
    let RunRecord { identity, end } = parked("p", RunOutcome::Trapped);
    let bound = RunRecord { identity: RunIdentity { endpoint: Some(crm), ..identity }, end };
    bench.settle(Settlement { runs: vec![bound], ..settlement(&claim) }).await;
    bench.store.delete_endpoint(crm, Deletion::Forced, None).await.unwrap();
    assert!(refusal(claim.event.id.run(0)).await.contains("endpoint that it belonged to was deleted"));
    let unknown = EventId::from_i64(77).run(0);
    for answer in [retry(bench, unknown).await, bench.store.cancel_run(unknown).await, bench.store.run(unknown).await.map(drop)] {
        assert_eq!(answer, Err(Error::NotFound { what: "run" }));
    }
}

pub async fn a_cancelled_run_has_no_effects_and_can_be_retried(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let (failed, due) = (
        bench.settled_with(parked("p", RunOutcome::Trapped)).await.run(0),
        bench.settled_with(waiting("p", clock::steady())).await.run(0),
    );
    bench.claim().await;
    let held = bench.run().await;
    for id in [failed, due] {
        bench.store.cancel_run(id).await.unwrap();
        assert_eq!(state_of_run(bench, id).await, RunState::Cancelled);
        let again = bench.store.cancel_run(id).await;
        assert!(matches!(&again, Err(Error::Conflict(text)) if text.contains("already")), "{again:?}");
    }
    let late = run_settlement(&held, ran_with("p", Effects { deliveries: vec![direct(crm)], ..Effects::default() }));
    assert_eq!(bench.settle(late).await, Settled::LeaseLost, "the run was cancelled while it was executed");
    assert_ne!(bench.state_of(failed.event()).await, EventState::Failed, "it is no longer parked");
    let bench = bench.after_a_crash().await;
    assert_eq!(bench.claim_at(soon(3600)).await, 0);
    retry(&bench, failed).await.unwrap();
    assert_eq!(bench.claim().await, 1);
    let run = bench.run().await;
    assert_eq!((run.id, run.tries, &*run.plugin), (failed, 1, "p"));
    assert_eq!(bench.settle(run_settlement(&run, ran("p"))).await, Settled::Done);
    let refused = bench.store.cancel_run(failed).await;
    assert!(matches!(&refused, Err(Error::Conflict(text)) if text.contains("ended ok")), "{refused:?}");
}

pub async fn a_cancelled_run_no_longer_delays_ordered_deliveries(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let held_back = bench.settled_with(waiting("p", soon(3600))).await.run(0);
    let claim = bench.accept(event("a")).await;
    let ordered =
        crate::domain::delivery::NewDelivery { ordering: Some(crate::domain::endpoint::Ordering::WHOLE), ..direct(crm) };
    bench.settle(Settlement { direct: vec![ordered], ..settlement(&claim) }).await;
    assert_eq!(bench.claim().await, 0);
    bench.store.cancel_run(held_back).await.unwrap();
    assert_eq!(bench.claim().await, 1);
}

pub async fn runs_are_listed_by_state_plugin_event_and_time(bench: &Bench) {
    let of = async |event_type: &str, run: RunRecord| {
        let claim = bench.accept(event(event_type)).await;
        bench.settle(Settlement { runs: vec![run], ..settlement(&claim) }).await;
        claim.event.id.run(0)
    };
    let done = of("order.paid", ran("p")).await;
    let trapped = of("order.paid", parked("p", RunOutcome::Trapped)).await;
    let failed = of("order.new", parked("q", RunOutcome::Failed)).await;
    let waits = of("order.new", waiting("q", soon(3600))).await;
    let cancelled = of("order.new", parked("p", RunOutcome::Failed)).await;
    bench.store.cancel_run(cancelled).await.unwrap();
    let bench = bench.after_a_crash().await;
    let ids = async |filter: RunFilter| {
        let page = bench.store.runs(filter, PageRequest { cursor: None, limit: 100 }).await.unwrap();
        page.items.iter().map(|run| run.id).collect::<Vec<_>>()
    };
    let all = || RunFilter::default();
    let state = |state| RunFilter { state: Some(state), ..all() };
    let minutes = |minutes: i64| {
        let now = clock::wall();
        Some(Timestamp::from_millis(now.millis() + minutes * 60_000))
    };
    for (what, filter, expected) in [
        ("all runs", all(), vec![cancelled, waits, failed, trapped, done]),
        ("done", state("done"), vec![done]),
        ("parked", state("parked"), vec![failed, trapped]),
        ("waiting", state("waiting"), vec![waits]),
        ("cancelled", state("cancelled"), vec![cancelled]),
        ("runs with an outcome", RunFilter { outcome: Some(RunOutcome::Failed), ..all() }, vec![cancelled, waits, failed]),
        ("runs of a plugin", RunFilter { plugin: Some(slug("q")), ..all() }, vec![waits, failed]),
        ("parked runs of a plugin", RunFilter { plugin: Some(slug("q")), ..state("parked") }, vec![failed]),
        ("runs of an event", RunFilter { event: Some(failed.event()), ..all() }, vec![failed]),
        ("runs on events of a type", RunFilter { event_type: Some("order.paid".into()), ..all() }, vec![trapped, done]),
        (
            "parked runs on events of a type",
            RunFilter { event_type: Some("order.paid".into()), ..state("parked") },
            vec![trapped],
        ),
        ("parked since ten minutes ago", RunFilter { since: minutes(-10), ..state("parked") }, vec![failed, trapped]),
        ("since a time in the future", RunFilter { since: minutes(10), ..all() }, vec![]),
        ("until ten minutes ago", RunFilter { until: minutes(-10), ..all() }, vec![]),
        ("done until a time in the future", RunFilter { until: minutes(10), ..state("done") }, vec![done]),
    ] {
        assert_eq!(ids(filter).await, expected, "{what}");
    }
    let page = bench.store.runs(state("parked"), PageRequest { cursor: None, limit: 1 }).await.unwrap();
    assert_eq!((page.items[0].id, page.next), (failed, Some(failed.as_i64())));
    assert_eq!(page.items[0].event_type, "order.new");
    let page = bench.store.runs(state("parked"), PageRequest { cursor: page.next, limit: 1 }).await.unwrap();
    assert_eq!((page.items[0].id, page.next), (trapped, None));
}

async fn create(bench: &Bench, task: Task) -> Job {
    bench.store.create_job(task, clock::wall()).await.unwrap()
}

async fn advance(bench: &Bench, job: &Job) -> Job {
    bench.store.advance_job(job.id, clock::steady(), clock::wall()).await.unwrap()
}

async fn finish(bench: &Bench, task: Task) -> Job {
    let job = create(bench, task).await;
    for _ in 0..100 {
        let now = advance(bench, &job).await;
        if now.state != JobState::Running {
            return now;
        }
    }
    panic!("the job does not end");
}

pub async fn a_job_retries_each_parked_run_once_whenever_the_process_ends(bench: &Bench) {
    let claim = bench.accept(event("order.created")).await;
    let runs = vec![parked("p", RunOutcome::Trapped); MANY];
    assert_eq!(bench.settle(Settlement { runs, ..settlement(&claim) }).await, Settled::Done);
    let job = create(bench, Task::RetryRuns(RunRetryFilter::default())).await;
    assert_eq!((job.done, job.total), (0, Some(MANY as u64)));
    let later = bench.settled_with(parked("p", RunOutcome::Trapped)).await.run(0);

    let mut ran: BTreeMap<RunId, u32> = BTreeMap::new();
    let mut bench = bench.after_a_crash().await;
    let mut steps = 0;
    loop {
        let now = advance(&bench, &job).await;
        steps += 1;
        // Each run fails again at once. The job must not retry it a second time.
        while bench.claim().await > 0 {
            for claim in bench.runs().await {
                *ran.entry(claim.id).or_default() += 1;
                assert_eq!(bench.settle(run_settlement(&claim, parked("p", RunOutcome::Trapped))).await, Settled::Done);
            }
        }
        bench = bench.after_a_crash().await;
        let stored = bench.store.job(job.id).await.unwrap();
        assert_eq!((stored.state, stored.done, stored.task.kind()), (now.state, now.done, "run.retry"));
        if now.state == JobState::Done {
            assert_eq!((now.done, now.failed), (MANY as u64, 0));
            break;
        }
        assert!(steps < 100, "the job does not end");
    }
    assert!(steps > 1, "{MANY} are more than one batch");
    assert_eq!(ran.len(), MANY);
    assert!(ran.values().all(|times| *times == 1), "each ran once");
    assert!(!ran.contains_key(&later), "it was parked after the job was created");
}

pub async fn a_job_retries_the_runs_that_its_filter_selects(bench: &Bench) {
    let of = async |event_type: &str, run: RunRecord| {
        let claim = bench.accept(event(event_type)).await;
        bench.settle(Settlement { runs: vec![run], ..settlement(&claim) }).await;
        claim.event.id.run(0)
    };
    let all = [
        of("order.paid", parked("p", RunOutcome::Trapped)).await,
        of("order.paid", parked("q", RunOutcome::Trapped)).await,
        of("ticket.new", parked("p", RunOutcome::Failed)).await,
    ];
    bench.settled_with(ran("p")).await;
    let any = RunRetryFilter::default;
    let later = Some(clock::wall().plus(Duration::from_secs(60)));
    for (what, filter, expected) in [
        ("runs of a plugin", RunRetryFilter { plugin: Some(slug("p")), ..any() }, vec![all[0], all[2]]),
        ("runs with an outcome", RunRetryFilter { outcome: Some(RunOutcome::Failed), ..any() }, vec![all[2]]),
        (
            "runs on events of types",
            RunRetryFilter { event_type: Some(Pattern::parse("order.*").unwrap()), ..any() },
            vec![all[0], all[1]],
        ),
        ("since a time after all events", RunRetryFilter { since: later, ..any() }, vec![]),
        ("until a time after all events", RunRetryFilter { until: later, ..any() }, all.to_vec()),
    ] {
        let job = finish(bench, Task::RetryRuns(filter)).await;
        assert_eq!((job.done, job.total, job.failed), (expected.len() as u64, Some(expected.len() as u64), 0), "{what}");
        bench.claim().await;
        let mut claimed = bench.runs().await;
        claimed.sort_by_key(|run| run.id);
        assert_eq!(claimed.iter().map(|run| run.id).collect::<Vec<_>>(), expected, "{what}");
        for run in claimed {
            let outcome = if run.id == all[2] { RunOutcome::Failed } else { RunOutcome::Trapped };
            bench.settle(run_settlement(&run, parked(&run.plugin, outcome))).await;
        }
    }
}

pub async fn a_job_replays_the_events_that_its_filter_selects(bench: &Bench) {
    let unrouted = async |event_type: &str| {
        let claim = bench.accept(event(event_type)).await;
        bench.settle(settlement(&claim)).await;
        claim.event.id
    };
    let (first, second) = (unrouted("order.paid").await, unrouted("ticket.new").await);
    let done = bench.settled_with(ran("p")).await;
    let failed = bench.settled_with(parked("p", RunOutcome::Trapped)).await;
    let waits = bench.accept(event("order.paid")).await;
    let any = ReplayFilter::default;
    for (what, filter, expected, refused) in [
        ("unrouted events", ReplayFilter { state: Some(EventState::Unrouted), ..any() }, vec![first, second], 0),
        ("failed events", ReplayFilter { state: Some(EventState::Failed), ..any() }, vec![failed], 0),
        ("events of a source", ReplayFilter { source: Some("shop".into()), ..any() }, vec![first, second, done, failed], 1),
        ("events of types", ReplayFilter { event_type: Some(Pattern::parse("ticket.*").unwrap()), ..any() }, vec![second], 0),
    ] {
        let job = finish(bench, Task::ReplayEvents(filter)).await;
        assert_eq!((job.done, job.failed), (expected.len() as u64, refused), "{what}");
        assert_eq!(job.total, Some(job.done + job.failed), "{what}");
        bench.claim().await;
        let mut claimed = bench.events().await;
        claimed.sort_by_key(|claim| claim.event.id);
        assert_eq!(claimed.iter().map(|claim| claim.event.id).collect::<Vec<_>>(), expected, "{what}");
        for claim in claimed {
            // Restores the states for the next filter.
            let runs = match claim.event.id {
                id if id == done => vec![ran("p")],
                id if id == failed => vec![parked("p", RunOutcome::Trapped)],
                _ => Vec::new(),
            };
            bench.settle(Settlement { runs, ..settlement(&claim) }).await;
        }
    }
    let job = create(bench, Task::ReplayEvents(ReplayFilter { source: Some("shop".into()), ..any() })).await;
    let later = unrouted("order.paid").await;
    bench.settle(settlement(&waits)).await;
    assert_eq!(advance(bench, &job).await.done, 5);
    assert_eq!(bench.state_of(later).await, EventState::Unrouted, "it was accepted after the job was created");
}
