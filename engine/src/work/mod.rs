//! The work on events, as a few small workers around the store:
//!
//! - the **acceptor** stores new events, together with their results if these are known at once (`acceptor.rs`);
//! - the **runner** takes events, plans them and runs their plugins, on dedicated threads (`runner.rs`, `plan.rs`, `verdict.rs`);
//! - the **settler** commits the results of events and runs, many at a time (`settler.rs`, `amend.rs`; this is commit 2);
//! - the **sender** signs and sends deliveries, from one queue per endpoint (`sender.rs`, `throttle.rs`);
//! - the **recorder** commits the attempts, many at a time (`recorder.rs`; this is commit 3);
//! - the **claimer** claims due rows that no worker holds (`claimer.rs`);
//! - the **scheduler** accepts scheduled events once they are due (`scheduler.rs`);
//! - **maintenance** (`maintenance.rs`), **jobs** (`jobs.rs`) and **comparisons** (`comparer.rs`) go through stored rows, a batch
//!   at a time.
//!
//! `batches.rs` is the loop of the settler and of the recorder; `notices.rs` creates the operational events that these two store;
//! `reports.rs` reports what was settled.
//!
//! Workers pass claims to each other. A dropped claim delays its event until the lease ends, but never loses the event. Each
//! worker is a loop around a step that returns what it did. The tests (`tests.rs`) call the steps on a SQLite store, without a
//! process, a socket or a wait.

mod acceptor;
mod amend;
mod batches;
mod claimer;
mod comparer;
mod jobs;
mod maintenance;
mod notices;
mod plan;
mod recorder;
mod reports;
mod runner;
mod sampler;
mod scheduler;
mod sender;
mod settler;
#[cfg(test)]
mod tests;
mod throttle;
mod verdict;

pub use self::{comparer::THREADS_MAX as COMPARE_THREADS_MAX, verdict::refusal};

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    acceptor::Acceptor, batches::write_all, comparer::Comparer, maintenance::Maintenance, recorder::Recorder, reports::Reports,
    runner::Runner, sampler::Sampler, sender::Sender, settler::Settler, throttle::Throttles,
};
use crate::{
    catalog::{Catalog, Keys},
    domain::retention::Retention,
    metrics::meters,
    news::Feed,
    outbound::Outbound,
    sandbox::{Limits, Timed},
    store::{Accept, Budget, Handoff, Store},
    traces::Traces,
};

/// The parts of the engine that the workers use.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub handoff: Handoff,
    pub catalog: Arc<Catalog>,
    pub keys: Arc<Keys>,
    pub outbound: Arc<Outbound>,
    pub feed: Feed,
    pub traces: Traces,
    pub settings: Settings,
}

/// Settings of the workers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether this process runs plugins and sends webhooks. Otherwise it does only maintenance, and other nodes do the rest.
    pub works: bool,
    /// Limits of one run.
    pub run_limits: Limits,
    /// A plugin is held if the runs of one of its versions break limits more often than this within a minute; 0 turns this off.
    pub quarantine: usize,
    /// Threads that run events with fast plugins. Default: one per core, at least 2.
    pub run_threads: usize,
    /// Threads of low priority that execute deferred runs. Default: half the cores, at least 1.
    pub slow_threads: usize,
    /// Threads of low priority that repeat recorded runs for comparisons, at most [`comparer::THREADS_MAX`].
    pub compare_threads: usize,
    pub retention: Retention,
    /// An endpoint is disabled after this long without a success.
    pub disable_after: Duration,
    /// Maximum number of bytes in the store. Above it the oldest finished events are evicted. Default: no limit.
    pub store_bytes_max: Option<u64>,
    /// How long a stop waits for attempts in flight. Default: 25 s, because orchestrators kill a process after 30 s.
    pub drain: Duration,
}

/// The running workers.
pub struct Work {
    /// Cancelling this makes the workers take no more claims.
    stop: CancellationToken,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// The settler, which ends once the threads have ended.
    settler: JoinSet<()>,
    takers: JoinSet<()>,
    /// The recorder, which ends once every attempt is recorded.
    recorder: JoinSet<()>,
    /// The budget of bytes that wait for the settler.
    outcomes: Arc<Budget>,
    acceptor: Acceptor,
    drain: Duration,
}

impl Work {
    /// Starts all workers. Cancels `broken` if a worker ends before it is stopped. The process should then end and be restarted.
    pub fn start(parts: Parts, broken: CancellationToken) -> std::io::Result<Self> {
        let Parts { store, handoff, catalog, keys, outbound, feed, traces, settings } = parts;
        let stop = CancellationToken::new();
        let outcomes = Arc::clone(&handoff.outcomes);
        let reports = Arc::new(Reports::new(Arc::clone(&store), Arc::clone(&catalog), feed.clone()));
        let acceptor = Acceptor {
            store: Arc::clone(&store),
            handoff: handoff.clone(),
            catalog: Arc::clone(&catalog),
            feed: feed.clone(),
            reports: Arc::clone(&reports),
            works: settings.works,
        };
        let mut takers = JoinSet::new();
        let maintenance = Maintenance::new(Arc::clone(&store), keys, settings.retention, settings.store_bytes_max, stop.clone());
        takers.spawn(guarded("maintenance", maintenance.run(), stop.clone(), broken.clone()));
        let scheduler = scheduler::run(Arc::clone(&store), stop.clone());
        takers.spawn(guarded("scheduler", scheduler, stop.clone(), broken.clone()));
        let sampler = Sampler::new(Arc::clone(&store), &meters().tally);
        takers.spawn(guarded("sampler", sampler.run(stop.clone()), stop.clone(), broken.clone()));
        if !settings.works {
            let (threads, settler, recorder) = (Vec::new(), JoinSet::new(), JoinSet::new());
            return Ok(Self { stop, threads, settler, takers, recorder, outcomes, acceptor, drain: settings.drain });
        }
        let (settlements, to_settle) = mpsc::unbounded_channel();
        let (attempts, to_record) = mpsc::unbounded_channel();

        let runner = Arc::new(Runner {
            store: Arc::clone(&store),
            handoff: handoff.clone(),
            catalog: Arc::clone(&catalog),
            limits: settings.run_limits.clone(),
            quarantine: settings.quarantine,
            runtime: tokio::runtime::Handle::current(),
            traces: traces.clone(),
            settlements,
            stop: stop.clone(),
        });
        let threads = runner::start_threads(&runner, settings.run_threads, settings.slow_threads, &broken)?;
        drop(runner);

        let mut settler = JoinSet::new();
        let settling = Settler { store: Arc::clone(&store), catalog: Arc::clone(&catalog), reports };
        settler.spawn(write_all(settling, to_settle));
        let mut recorder = JoinSet::new();
        let recording = Recorder::new(Arc::clone(&store), Arc::clone(&catalog), feed, traces.clone());
        recorder.spawn(write_all(recording, to_record));

        let throttles = Throttles::new(Arc::clone(&handoff.deliveries), catalog.endpoints(), settings.disable_after);
        let throttles = Arc::new(throttles);
        catalog.set_standings(Arc::clone(&throttles) as _);
        let sender = Sender {
            store: Arc::clone(&store),
            handoff: handoff.clone(),
            catalog: Arc::clone(&catalog),
            exchange: outbound,
            traces,
            attempts,
            throttles,
        };
        takers.spawn(guarded("sender", sender.run(stop.clone()), stop.clone(), broken.clone()));
        let claims = claimer::run(Arc::clone(&store), handoff.clone(), stop.clone());
        takers.spawn(guarded("claimer", claims, stop.clone(), broken.clone()));
        // On a busy machine, threads of low priority wait for a processor. A run on such a thread is limited by processor time, so
        // it ends in the same way as on a quiet machine.
        let limits = Limits { timed: Timed::Processor, ..settings.run_limits };
        let comparer = Comparer { store: Arc::clone(&store), catalog, limits, threads: settings.compare_threads };
        let jobs = jobs::run(store, comparer, handoff, stop.clone());
        takers.spawn(guarded("jobs", jobs, stop.clone(), broken));
        Ok(Self { stop, threads, settler, takers, recorder, outcomes, acceptor, drain: settings.drain })
    }

    /// Returns the entry for new events.
    pub fn acceptor(&self) -> Arc<dyn Accept + Send + Sync> {
        Arc::new(self.acceptor.clone())
    }

    /// Takes no more claims. Then finishes and commits the work in flight, as far as time allows. The remaining work is claimed
    /// after the next start.
    pub async fn drain(mut self) {
        self.stop.cancel();
        let threads = self.threads;
        let in_hand = async {
            let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
            let _ = joined.await;
            while self.settler.join_next().await.is_some() {}
            while self.takers.join_next().await.is_some() {}
            while self.recorder.join_next().await.is_some() {}
        };
        let drained = tokio::time::timeout(self.drain, in_hand).await;
        // A thread that still waits for room would prevent the process from ending.
        self.outcomes.close();
        if drained.is_err() {
            tracing::warn!(after = ?self.drain, "some work in flight was not finished in time; the next start continues it");
        }
    }
}

/// Runs a worker that should end only after `stop`.
pub async fn guarded(
    name: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
    stop: CancellationToken,
    broken: CancellationToken,
) {
    let ended = tokio::spawn(part).await;
    if !stop.is_cancelled() {
        tracing::error!(worker = name, panicked = ended.is_err(), "worker has ended; the engine stops");
        broken.cancel();
    }
}
