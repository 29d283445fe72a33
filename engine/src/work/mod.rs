//! What happens after an event is accepted, as a few small engines around the store:
//!
//! - the **runner** takes events, routes them and runs their plugins, on threads of its own (`runner.rs`);
//! - the **settler** commits what came of that, many at a time (`settler.rs`, commit 2);
//! - the **sender** signs and sends deliveries, each endpoint in its own queue (`sender.rs`);
//! - the **recorder** commits the attempts, many at a time (`recorder.rs`, commit 3);
//! - the **claimer** brings back what is due and in nobody's hands (`claimer.rs`), and the **keeper** does the upkeep (`keeper.rs`);
//! - **jobs** of people are worked off beside it (`jobs.rs`).
//!
//! They pass claims along; a claim that is dropped anywhere costs a lease's time, never an event.

mod amend;
mod batches;
mod bulletin;
mod claimer;
mod gates;
mod jobs;
mod keeper;
mod recorder;
mod routing;
mod runner;
mod sender;
mod settler;

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{gates::Gates, keeper::Keeper, recorder::Recorder, runner::Runner, sender::Sender, settler::Settler};
use crate::{
    catalog::{Catalog, Keys},
    domain::retention::Retention,
    news::Feed,
    outbound::Outbound,
    sandbox::Limits,
    store::{Budget, Handoff, Store},
    traces::Traces,
};

/// What the work needs of the rest.
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

/// Knobs of the work.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether this process runs and sends, or leaves that to others and does its own upkeep only.
    pub works: bool,
    /// Limits of one run.
    pub run_limits: Limits,
    /// Threads that run events with fast plugins. Default: one per core, at least 2.
    pub run_threads: usize,
    /// Threads that run what was set apart, at low priority. Default 2.
    pub slow_threads: usize,
    pub retention: Retention,
    /// An endpoint is disabled after so long without a success.
    pub disable_after: Duration,
    /// What the store may hold, in bytes; past it the oldest finished events leave before their time. Default: no limit.
    pub store_bytes_max: Option<u64>,
    /// How long a stop waits for attempts that are under way. Default 25 s: orchestrators kill after 30 s.
    pub drain: Duration,
}

/// The work, under way.
pub struct Work {
    /// Stops taking claims.
    stop: CancellationToken,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// Ends by itself once the threads have.
    settler: JoinSet<()>,
    takers: JoinSet<()>,
    /// Ends by itself once every attempt is recorded.
    recorder: JoinSet<()>,
    /// What the threads hand to the settler.
    outcomes: Arc<Budget>,
    drain: Duration,
}

impl Work {
    /// Starts everything. `broken` is cancelled if a part of it ends before it is told to: the process should then end, and be
    /// started again.
    pub fn start(parts: Parts, broken: CancellationToken) -> std::io::Result<Self> {
        let Parts { store, handoff, catalog, keys, outbound, feed, traces, settings } = parts;
        let stop = CancellationToken::new();
        let outcomes = Arc::clone(&handoff.outcomes);
        let mut takers = JoinSet::new();
        let keeper = Keeper {
            store: Arc::clone(&store),
            keys,
            retention: settings.retention,
            bytes_max: settings.store_bytes_max,
            stop: stop.clone(),
        };
        takers.spawn(guarded("keeper", keeper.run(), stop.clone(), broken.clone()));
        if !settings.works {
            let (threads, settler, recorder) = (Vec::new(), JoinSet::new(), JoinSet::new());
            return Ok(Self { stop, threads, settler, takers, recorder, outcomes, drain: settings.drain });
        }
        let (settlements, to_settle) = mpsc::unbounded_channel();
        let (attempts, to_record) = mpsc::unbounded_channel();

        let runner = Arc::new(Runner {
            store: Arc::clone(&store),
            handoff: handoff.clone(),
            catalog: Arc::clone(&catalog),
            limits: settings.run_limits.clone(),
            runtime: tokio::runtime::Handle::current(),
            traces: traces.clone(),
            settlements,
            stop: stop.clone(),
        });
        let threads = runner::start_threads(&runner, settings.run_threads, settings.slow_threads, &broken)?;
        drop(runner);

        let mut settler = JoinSet::new();
        let settling = Settler { store: Arc::clone(&store), catalog: Arc::clone(&catalog), feed: feed.clone() };
        settler.spawn(settling.run(to_settle));
        let mut recorder = JoinSet::new();
        let recording = Recorder { store: Arc::clone(&store), catalog: Arc::clone(&catalog), feed, traces: traces.clone() };
        recorder.spawn(recording.run(to_record));

        let gates = Gates::new(Arc::clone(&handoff.deliveries), catalog.endpoints(), settings.disable_after);
        let sender = Sender { store: Arc::clone(&store), handoff: handoff.clone(), catalog, outbound, traces, attempts, gates };
        takers.spawn(guarded("sender", sender.run(stop.clone()), stop.clone(), broken.clone()));
        let claims = claimer::run(Arc::clone(&store), handoff.clone(), stop.clone());
        takers.spawn(guarded("claimer", claims, stop.clone(), broken.clone()));
        let jobs = jobs::run(store, handoff, stop.clone());
        takers.spawn(guarded("jobs", jobs, stop.clone(), broken));
        Ok(Self { stop, threads, settler, takers, recorder, outcomes, drain: settings.drain })
    }

    /// Takes nothing more, finishes what is in hand as far as the time allows, and commits it. What is left is claimed after the
    /// next start.
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
        // A thread that still waits for room would keep the process from ending.
        self.outcomes.close();
        if drained.is_err() {
            tracing::warn!(after = ?self.drain, "not everything in hand could be finished; the next start goes on with it");
        }
    }
}

/// Runs a part that should end only when told to.
async fn guarded(
    name: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
    stop: CancellationToken,
    broken: CancellationToken,
) {
    let ended = tokio::spawn(part).await;
    if !stop.is_cancelled() {
        tracing::error!(part = name, panicked = ended.is_err(), "a part of the engine has ended; the engine stops");
        broken.cancel();
    }
}
