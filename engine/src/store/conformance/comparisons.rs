//! Cases about comparisons: they are stored with their request, advanced once per batch, cancelled, and limited.

use super::bench::*;
use crate::{
    clock,
    domain::{
        comparison::{Comparison, RUNNING_MAX, Request, Share},
        job::JobState,
        pattern::Pattern,
        plugin::Digest,
        time::Timestamp,
    },
    store::{Error, PageRequest},
};

fn request() -> Request {
    Request {
        plugin: slug("p"),
        serving: Digest::of(b"serving"),
        candidate: Digest::of(b"candidate"),
        last: 10_000,
        follow: Share::new(10),
        events: Some(Pattern::parse("order.*").unwrap()),
        since: Some(Timestamp::from_millis(5)),
        hides_values: true,
    }
}

async fn create(bench: &Bench) -> Result<Comparison, Error> {
    bench.store.create_comparison(request(), clock::wall()).await
}

pub async fn a_comparison_survives_a_restart_and_is_advanced_once(bench: &Bench) {
    let created = create(bench).await.unwrap();
    let bench = bench.after_a_crash().await;
    let found = bench.store.comparison(created.id).await.unwrap();
    assert_eq!((&found.request, found.state, found.cursor), (&request(), JobState::Running, None));
    let mut next = found.clone();
    next.cursor = Some(77);
    next.report.compared = 3;
    assert!(bench.store.advance_comparison(&found, next.clone()).await.unwrap());
    assert!(
        !bench.store.advance_comparison(&found, next.clone()).await.unwrap(),
        "another node has already advanced the comparison"
    );
    let mut last = next.clone();
    (last.state, last.finished_at, last.problem) = (JobState::Done, Some(Timestamp::from_millis(9)), Some("\"é\"".into()));
    assert!(bench.store.advance_comparison(&next, last.clone()).await.unwrap());
    assert!(!bench.store.advance_comparison(&last, next).await.unwrap(), "the comparison has ended");
    let found = bench.after_a_crash().await.store.comparison(created.id).await.unwrap();
    assert_eq!((found.state, found.cursor, found.report.compared), (JobState::Done, Some(77), 3));
    assert_eq!((found.problem, found.finished_at), (last.problem, last.finished_at));
}

pub async fn a_cancelled_comparison_is_not_advanced(bench: &Bench) {
    let created = create(bench).await.unwrap();
    let cancelled = bench.store.cancel_comparison(created.id, Timestamp::from_millis(9)).await.unwrap();
    assert_eq!((cancelled.state, cancelled.finished_at), (JobState::Cancelled, Some(Timestamp::from_millis(9))));
    assert!(!bench.store.advance_comparison(&created, created.clone()).await.unwrap());
    let again = bench.store.cancel_comparison(created.id, clock::wall()).await.map(|one| one.state);
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
}

pub async fn running_comparisons_are_limited_and_listed(bench: &Bench) {
    for _ in 0..RUNNING_MAX {
        create(bench).await.unwrap();
    }
    let refused = create(bench).await.map(|one| one.id);
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    let list = async |state| bench.store.comparisons(state, PageRequest { cursor: None, limit: 10 }).await.unwrap().items;
    let running = list(Some(JobState::Running)).await;
    assert_eq!(running.len(), RUNNING_MAX);
    assert!(running.is_sorted_by_key(|one| std::cmp::Reverse(one.id.as_i64())), "newest first");
    bench.store.cancel_comparison(running[0].id, clock::wall()).await.unwrap();
    assert_eq!((list(Some(JobState::Running)).await.len(), list(None).await.len()), (RUNNING_MAX - 1, RUNNING_MAX));
    create(bench).await.unwrap();
}
