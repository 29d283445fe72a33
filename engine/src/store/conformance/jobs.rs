//! Cases about jobs: a bulk retry processes each delivery of its filter once, even if the process ends during the job.

use std::{collections::BTreeMap, time::Duration};

use super::bench::*;
use crate::{
    clock,
    domain::{
        delivery::{DeadReason, InitialState, NewDelivery, Next},
        endpoint::{DisabledReason, EndpointState},
        id::{DeliveryId, EndpointId, JobId},
        job::{Ended, JOBS_RUNNING_MAX, Job, JobState, RetryFilter, Task},
        pattern::Pattern,
        retention::Retention,
    },
    store::{Deletion, Error, PageRequest, Settled, Settlement},
};

/// More deliveries than one step of a job processes.
const MANY: usize = 450;

/// Creates one event with `count` deliveries that are stored as dead.
async fn dead(bench: &Bench, endpoint: EndpointId, count: usize) -> Vec<DeliveryId> {
    let claim = bench.accept(event("order.created")).await;
    let direct = vec![NewDelivery { initial_state: InitialState::Dead, ..direct(endpoint) }; count];
    assert_eq!(bench.settle(Settlement { direct, ..settlement(&claim) }).await, Settled::Done);
    (0..count).map(|k| claim.event.id.delivery(u32::try_from(k).unwrap())).collect()
}

async fn create(bench: &Bench, filter: RetryFilter) -> Job {
    bench.store.create_job(Task::RetryDeliveries(filter), clock::wall()).await.unwrap()
}

async fn advance(bench: &Bench, id: JobId) -> Job {
    bench.store.advance_job(id, clock::steady(), clock::wall()).await.unwrap()
}

async fn finish(bench: &Bench, id: JobId) -> Job {
    for _ in 0..100 {
        let job = advance(bench, id).await;
        if job.state != JobState::Running {
            return job;
        }
    }
    panic!("the job does not end");
}

/// Creates a job for `filter`, runs it to its end, and returns the deliveries that it retried.
async fn taken(bench: &Bench, filter: RetryFilter, all: &[DeliveryId]) -> Vec<DeliveryId> {
    let mut before = BTreeMap::new();
    for id in all {
        before.insert(*id, bench.state_and_attempts(*id).await.0);
    }
    let counted = bench.store.count_items(Task::RetryDeliveries(filter.clone())).await.unwrap();
    let job = create(bench, filter).await;
    assert_eq!((job.state, job.total), (JobState::Running, counted));
    let job = finish(bench, job.id).await;
    assert_eq!((job.state, job.failed), (JobState::Done, 0));
    assert!(job.finished_at.is_some());
    let mut taken = Vec::new();
    for id in all {
        if bench.state_and_attempts(*id).await.0 != before[id] {
            taken.push(*id);
        }
    }
    // Restores the states for the next filter.
    bench.claim().await;
    for claim in bench.deliveries().await {
        let next = if before[&claim.id] == "dead" { Next::Dead(DeadReason::Exhausted) } else { retry_in(3600) };
        assert!(bench.record(attempt(&claim, next)).await);
        if before[&claim.id] == "cancelled" {
            bench.store.cancel_delivery(claim.id, clock::wall()).await.unwrap();
        }
    }
    assert_eq!((job.done, job.total), (taken.len() as u64, Some(taken.len() as u64)));
    taken
}

pub async fn a_job_retries_the_deliveries_of_its_filter(bench: &Bench) {
    let (crm, slack) = (bench.endpoint("crm").await, bench.endpoint("slack").await);
    let to_crm = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await;
    let gone = bench.finished(crm, Next::Dead(DeadReason::Gone)).await;
    let to_slack = bench.finished(slack, Next::Dead(DeadReason::Exhausted)).await;
    let delivered = bench.finished(crm, Next::Delivered).await;
    let waits = bench.finished(crm, retry_in(3600)).await;
    let cancelled = bench.finished(crm, retry_in(3600)).await;
    bench.store.cancel_delivery(cancelled, clock::wall()).await.unwrap();
    let all = [to_crm, gone, to_slack, delivered, waits, cancelled];

    let of_gone = RetryFilter { reason: Some(DeadReason::Gone), ..RetryFilter::default() };
    assert_eq!(taken(bench, of_gone, &all).await, [gone], "the filter takes only this reason");
    assert_eq!(taken(bench, RetryFilter::default(), &all).await, [to_crm, gone, to_slack]);
    let crms = RetryFilter { endpoint: Some(crm), ..RetryFilter::default() };
    assert_eq!(taken(bench, crms, &all).await, [to_crm, gone]);
    let called_off = RetryFilter { ended: Ended::Cancelled, ..RetryFilter::default() };
    assert_eq!(taken(bench, called_off, &all).await, [cancelled]);
    let typed = |pattern: &str| RetryFilter { event_type: Some(Pattern::parse(pattern).unwrap()), ..RetryFilter::default() };
    assert_eq!(taken(bench, typed("order.*"), &all).await, [to_crm, gone, to_slack]);
    assert_eq!(taken(bench, typed("invoice.*"), &all).await, []);
    let later = clock::wall().plus(Duration::from_secs(60));
    assert_eq!(taken(bench, RetryFilter { since: Some(later), ..RetryFilter::default() }, &all).await, []);
    assert_eq!(taken(bench, RetryFilter { until: Some(later), ..RetryFilter::default() }, &all).await, [to_crm, gone, to_slack]);
    assert_eq!(bench.state_and_attempts(delivered).await, ("delivered", 1));
    assert_eq!(bench.state_and_attempts(waits).await, ("retrying", 1));
}

pub async fn a_job_or_a_resume_makes_waiting_retries_due(bench: &Bench) {
    let (crm, slack) = (bench.endpoint("crm").await, bench.endpoint("slack").await);
    let waits = bench.finished(crm, retry_in(3600)).await;
    let other = bench.finished(slack, retry_in(3600)).await;
    let dead = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await;
    assert_eq!(bench.claim().await, 0, "nothing is due");

    let filter = RetryFilter { endpoint: Some(crm), ended: Ended::Retrying, ..RetryFilter::default() };
    let job = create(bench, filter).await;
    let job = finish(bench, job.id).await;
    assert_eq!((job.state, job.done, job.failed, job.total), (JobState::Done, 1, 0, Some(1)));
    bench.claim().await;
    let claims = bench.deliveries().await;
    assert_eq!(claims.iter().map(|claim| (claim.id, claim.attempts)).collect::<Vec<_>>(), [(waits, 1)], "it keeps its id");
    assert!(bench.record(attempt(&claims[0], Next::Delivered)).await);

    let resume = async |endpoint, from| {
        assert!(bench.store.set_endpoint_state(endpoint, &[from], EndpointState::Active, None).await.unwrap());
        let page = PageRequest { cursor: None, limit: 10 };
        bench.store.jobs(Some(JobState::Running), page).await.unwrap().items
    };
    assert!(resume(crm, EndpointState::Active).await.is_empty(), "no delivery waits for the endpoint, so no job is created");
    bench.store.set_endpoint_state(slack, &[EndpointState::Active], EndpointState::Paused, None).await.unwrap();
    let jobs = resume(slack, EndpointState::Paused).await;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert_eq!(finish(bench, jobs[0].id).await.done, 1);
    bench.claim().await;
    let claims = bench.deliveries().await;
    assert_eq!(claims.iter().map(|claim| claim.id).collect::<Vec<_>>(), [other]);
    assert!(bench.record(attempt(&claims[0], Next::Delivered)).await);
    assert_eq!(bench.state_and_attempts(dead).await.0, "dead");
}

pub async fn a_job_retries_each_delivery_once_despite_crashes(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let all = dead(bench, crm, MANY).await;
    let job = create(bench, RetryFilter::default()).await;
    assert_eq!((job.done, job.total), (0, Some(MANY as u64)));

    let mut sent: BTreeMap<DeliveryId, u32> = BTreeMap::new();
    let mut bench = bench.after_a_crash().await;
    let mut steps = 0;
    loop {
        let now = advance(&bench, job.id).await;
        steps += 1;
        // The retried deliveries become dead again at once: the job must not send them once more.
        while bench.claim().await > 0 {
            for claim in bench.deliveries().await {
                *sent.entry(claim.id).or_default() += 1;
                assert!(bench.record(attempt(&claim, Next::Dead(DeadReason::Exhausted))).await);
            }
        }
        bench = bench.after_a_crash().await;
        let kept = bench.store.job(job.id).await.unwrap();
        assert_eq!((kept.state, kept.done, kept.failed), (now.state, now.done, now.failed), "progress survives a crash");
        if now.state == JobState::Done {
            assert_eq!((now.done, now.failed), (MANY as u64, 0));
            break;
        }
        assert!(steps < 100, "the job does not end");
    }
    assert!(steps > 1, "{MANY} are more than one batch");
    assert_eq!(sent.keys().copied().collect::<Vec<_>>(), all);
    assert!(sent.values().all(|times| *times == 1), "each was sent once");
    assert_eq!(advance(&bench, job.id).await.done, MANY as u64, "a finished job does nothing");
    assert_eq!(bench.claim().await, 0);
}

pub async fn a_retried_delivery_is_due_and_wakes_the_claimer(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let id = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await;
    let rung = bench.handoff.jobs.notified();
    let job = create(bench, RetryFilter::default()).await;
    tokio::time::timeout(Duration::from_secs(10), rung).await.expect("the job worker is woken");
    assert_eq!(finish(bench, job.id).await.done, 1);
    assert_eq!(bench.claim().await, 1);
    let claim = bench.delivery().await;
    assert_eq!((claim.id, claim.attempts), (id, 1), "the same webhook with its next attempt");
}

pub async fn deliveries_created_after_a_job_are_left_out(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    let before = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await;
    let job = create(bench, RetryFilter::default()).await;
    let after = bench.finished(crm, Next::Dead(DeadReason::Exhausted)).await;
    assert_eq!(finish(bench, job.id).await.done, 1);
    assert_eq!((bench.state_and_attempts(before).await.0, bench.state_and_attempts(after).await.0), ("retrying", "dead"));
}

pub async fn a_job_counts_the_deliveries_that_it_could_not_retry(bench: &Bench) {
    let (crm, off, gone) = (bench.endpoint("crm").await, bench.endpoint("off").await, bench.endpoint("gone").await);
    for endpoint in [off, crm, gone] {
        bench.finished(endpoint, Next::Dead(DeadReason::Exhausted)).await;
    }
    bench.set(off, EndpointState::Disabled(DisabledReason::ByHand)).await;
    bench.store.delete_endpoint(gone, Deletion::Forced, None).await.unwrap();
    let job = create(bench, RetryFilter::default()).await;
    let job = finish(bench, job.id).await;
    assert_eq!((job.state, job.done, job.failed), (JobState::Done, 1, 2));

    for (endpoint, why) in [(off, "endpoint resume off"), (gone, "deleted")] {
        let filter = RetryFilter { endpoint: Some(endpoint), ..RetryFilter::default() };
        let refused = bench.store.create_job(Task::RetryDeliveries(filter), clock::wall()).await.map(drop);
        assert!(matches!(&refused, Err(Error::Conflict(text)) if text.contains(why)), "{refused:?}");
    }
}

pub async fn a_cancelled_job_stops(bench: &Bench) {
    let crm = bench.endpoint("crm").await;
    dead(bench, crm, MANY).await;
    let job = create(bench, RetryFilter::default()).await;
    let begun = advance(bench, job.id).await;
    assert!(begun.state == JobState::Running && begun.done > 0);
    let at = clock::wall();
    let cancelled = bench.store.cancel_job(job.id, at).await.unwrap();
    assert_eq!((cancelled.state, cancelled.done, cancelled.finished_at), (JobState::Cancelled, begun.done, Some(at)));
    let bench = bench.after_a_crash().await;
    assert_eq!(advance(&bench, job.id).await.done, begun.done);
    let again = bench.store.cancel_job(job.id, at).await.map(drop);
    assert!(matches!(&again, Err(Error::Conflict(text)) if text.contains("cancelled")), "{again:?}");
    let unknown = JobId::from_i64(99);
    assert_eq!(bench.store.cancel_job(unknown, at).await.map(drop), Err(Error::NotFound { what: "job" }));
    assert_eq!(bench.store.job(unknown).await.map(drop), Err(Error::NotFound { what: "job" }));
}

pub async fn the_number_of_running_jobs_is_limited(bench: &Bench) {
    let mut jobs = Vec::new();
    for _ in 0..JOBS_RUNNING_MAX {
        jobs.push(create(bench, RetryFilter::default()).await.id);
    }
    let refused = bench.store.create_job(Task::RetryDeliveries(RetryFilter::default()), clock::wall()).await.map(drop);
    assert!(matches!(&refused, Err(Error::Conflict(text)) if text.contains("10 jobs")), "{refused:?}");
    assert_eq!(finish(bench, jobs[3]).await.state, JobState::Done);
    let one_more = create(bench, RetryFilter::default()).await.id;

    let list = async |state, limit| {
        let page = bench.store.jobs(state, PageRequest { cursor: None, limit }).await.unwrap();
        page.items.iter().map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(list(Some(JobState::Done), 50).await, [jobs[3]]);
    assert_eq!(list(None, 2).await, [one_more, jobs[9]], "newest first");
    assert_eq!(list(Some(JobState::Running), 50).await.len(), JOBS_RUNNING_MAX);
}

pub async fn an_ended_job_is_deleted_after_its_time(bench: &Bench) {
    let ended = create(bench, RetryFilter::default()).await.id;
    finish(bench, ended).await;
    let running = create(bench, RetryFilter::default()).await.id;
    let in_days = |days: u64| clock::wall().plus(Duration::from_secs(days * 24 * 3600));
    let left = async |days| {
        while bench.store.retire(Retention::default(), in_days(days)).await.unwrap() > 0 {}
        let page = bench.store.jobs(None, PageRequest { cursor: None, limit: 9 }).await.unwrap();
        page.items.iter().map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(left(364).await, [running, ended]);
    assert_eq!(left(366).await, [running], "running jobs stay");
}
