//! Advances the running jobs and comparisons in turn, each by one batch. So a long job delays neither the other jobs nor the
//! commits that callers wait for.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::comparer::{Comparer, Running};
use crate::{
    clock,
    domain::job::{JOBS_RUNNING_MAX, JobState},
    store::{Error, Handoff, PageRequest, Store},
};

/// How often the store is asked without a wake-up. A lost wake-up delays jobs by at most this interval.
const POLL: Duration = Duration::from_secs(5);
/// Pause between two batches, so that other commits get through.
const PAUSE: Duration = Duration::from_millis(10);
/// Pause between two batches of comparisons that wait for new runs.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

pub async fn run(store: Arc<dyn Store>, comparer: Comparer, handoff: Handoff, stop: CancellationToken) {
    loop {
        let both = async { Ok::<_, Error>((step(&*store).await?, comparer.step().await?)) };
        let wait = match both.await {
            Ok((0, Running { busy: 0, following: 0 })) => POLL,
            Ok((0, Running { busy: 0, .. })) => FOLLOW_EVERY,
            Ok(_) => PAUSE,
            Err(error) => {
                tracing::error!(%error, "job not advanced; retrying");
                POLL
            }
        };
        let woken = async {
            // The pause between two batches is so short that no wake-up is needed.
            if wait != PAUSE { handoff.jobs.notified().await } else { std::future::pending().await }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = woken => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Advances every running job by one batch, the oldest first. Returns the number of jobs that are still running.
pub async fn step(store: &dyn Store) -> Result<usize, Error> {
    let page = PageRequest { cursor: None, limit: JOBS_RUNNING_MAX };
    let mut running = 0;
    for job in store.jobs(Some(JobState::Running), page).await?.items.into_iter().rev() {
        let job = store.advance_job(job.id, clock::steady(), clock::wall()).await?;
        match job.state {
            JobState::Running => running += 1,
            state => tracing::info!(job = %job.id.text(store.tag()), state = state.as_str(), job.done, job.failed, "job ended"),
        }
    }
    Ok(running)
}
