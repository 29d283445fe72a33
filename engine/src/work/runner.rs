//! The runner: routes events and runs plugins, on OS threads of its own, so that no guest ever holds up a socket.
//!
//! Fast threads take events in the order of their acceptance and run whatever is known to be fast. Everything else (a new version,
//! a slow plugin, one whose runs compete for state, a run that is tried again) is set apart as a run of its own, which a few
//! threads of low priority take, plugin by plugin. So the first thing that a bad plugin holds up is itself.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant, SystemTime},
};

use tokio::{runtime::Handle, sync::mpsc::UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::{
    bulletin,
    routing::{self, PlannedRun},
    settler::{Held, Settling},
};
use crate::{
    catalog::{Catalog, PluginEntry, PluginState},
    clock,
    domain::{
        endpoint::Endpoint,
        event::Event,
        name::Slug,
        run::{RunIdentity, RunRecord, RunState},
        time::Timestamp,
    },
    metrics::meters,
    sandbox::{Limits, Plugin, Report, RunInput, StateSource, StateUnavailable},
    store::{EventClaim, Handoff, RunClaim, Settlement, Settles, StateValue, Store, weight},
    traces::{Ran, Traces},
};

/// Runs of one plugin that go one after another in one turn, and are committed together.
const TURN_MAX: usize = 32;
/// No further one begins in a turn that has taken so long: the other plugins wait.
const TURN_TIME: Duration = Duration::from_millis(100);
/// No further one begins in a turn whose runs have written so many bytes of state: they are kept for the next to read.
const TURN_STATE_BYTES: usize = 8 << 20;
/// No further run begins with its event once the runs before it have returned so many bytes: the rest is set apart. What one event sets off
/// in a hundred plugins is then not in memory at once.
const TOGETHER_BYTES: usize = 8 << 20;

/// What the threads share.
pub struct Runner {
    pub store: Arc<dyn Store>,
    pub handoff: Handoff,
    pub catalog: Arc<Catalog>,
    pub limits: Limits,
    pub runtime: Handle,
    pub traces: Traces,
    pub settlements: UnboundedSender<Settling>,
    pub stop: CancellationToken,
}

/// Starts the threads. `broken` is cancelled if one ends before it is told to.
pub fn start_threads(
    runner: &Arc<Runner>,
    fast: usize,
    slow: usize,
    broken: &CancellationToken,
) -> io::Result<Vec<thread::JoinHandle<()>>> {
    let mut threads = Vec::new();
    for number in 0..fast + slow {
        let runner = Arc::clone(runner);
        let guard = EndGuard { stop: runner.stop.clone(), broken: broken.clone() };
        let is_fast = number < fast;
        let name = if is_fast { format!("run-{number}") } else { format!("run-apart-{}", number - fast) };
        let work = move || {
            let _guard = guard;
            if is_fast { runner.run_events() } else { runner.run_apart() }
        };
        threads.push(thread::Builder::new().name(name).spawn(work)?);
    }
    Ok(threads)
}

/// Says so when a thread ends that should not have.
struct EndGuard {
    stop: CancellationToken,
    broken: CancellationToken,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            tracing::error!("a thread that runs plugins has ended; the engine stops");
            self.broken.cancel();
        }
    }
}

impl Runner {
    /// Waits for something; `None` when it is time to stop.
    fn wait<T>(&self, next: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                next = next => Some(next),
            }
        })
    }

    fn run_events(&self) {
        loop {
            let next = async {
                let (claim, _turn) = self.handoff.events.next().await;
                self.handoff.settings.known(claim.settings).await;
                claim
            };
            let Some(claim) = self.wait(next) else { return };
            if claim.lease.until <= clock::steady() {
                continue;
            }
            self.run_event(claim);
        }
    }

    /// An event's first run, or a replay: route, run what is fast, set the rest apart.
    fn run_event(&self, claim: EventClaim) {
        let (plugins, endpoints) = (self.catalog.plugins(), self.catalog.endpoints());
        let event = &claim.event;
        let plan = routing::plan(event, &plugins, &endpoints);
        let now = clock::steady();
        let (mut runs, mut bytes) = (Vec::with_capacity(plan.runs.len()), 0);
        for PlannedRun { plugin, entry, endpoint } in &plan.runs {
            let endpoint = endpoint.as_deref();
            let identity =
                RunIdentity { id: None, plugin: plugin.clone(), endpoint: endpoint.map(|endpoint| endpoint.id), tries_before: 0 };
            let began = self.traces.begin();
            let mut record = match serving(plugin, entry.as_deref()) {
                Err(reason) => identity.not_loadable(reason),
                Ok((entry, _)) if !entry.pace.is_fast(now) || bytes > TOGETHER_BYTES => identity.deferred(now),
                Ok((entry, code)) => match self.run(entry, code, event, endpoint, Box::new(self.committed(plugin))) {
                    Ok(report) => routing::ran(identity, *code.digest(), report, event, endpoint, &endpoints, now),
                    Err(error) => {
                        tracing::warn!(%plugin, %error, "state could not be read; the run is tried again");
                        identity.deferred(now)
                    }
                },
            };
            self.tell_failure(&mut record, entry.as_deref(), event, now);
            count(entry.as_deref(), &record);
            self.tell(began, event, claim.round, &mut record);
            bytes += weight::run(&record);
            runs.push(record);
        }
        let settles = Settles::Event { id: event.id, round: claim.round, lease: claim.lease };
        let settlement = Settlement { settles, event: Arc::clone(event), runs, direct: plan.direct };
        self.settle(settlement, Held::Event(claim.slot));
    }

    fn run_apart(&self) {
        lower_priority();
        loop {
            let Some((first, turn)) = self.wait(self.handoff.runs.next()) else { return };
            let (began, turn) = (Instant::now(), Arc::new(turn));
            // What this turn's runs have written, on top of what is committed: they are settled in this order.
            let written = Arc::default();
            let (mut next, mut count) = (Some(first), 0);
            while let Some(claim) = next {
                if self.wait(self.handoff.settings.known(claim.settings)).is_none() {
                    return;
                }
                if claim.lease.until > clock::steady() {
                    self.run_claim(claim, &turn, &written);
                }
                if self.stop.is_cancelled() {
                    return;
                }
                count += 1;
                let goes_on = count < TURN_MAX && began.elapsed() < TURN_TIME && bytes_of(&written) < TURN_STATE_BYTES;
                next = if goes_on { self.handoff.runs.more(&turn) } else { None };
            }
        }
    }

    /// A run of its own: tried for the first time, or again.
    fn run_claim(&self, claim: RunClaim, turn: &Arc<crate::store::Turn<Slug, RunClaim>>, written: &Arc<Mutex<Written>>) {
        let (plugins, endpoints) = (self.catalog.plugins(), self.catalog.endpoints());
        let now = clock::steady();
        let endpoint = claim.endpoint.and_then(|id| endpoints.get(id)).map(|endpoint| &**endpoint);
        let entry = plugins.get(&claim.plugin);
        let identity =
            RunIdentity { id: Some(claim.id), plugin: claim.plugin.clone(), endpoint: claim.endpoint, tries_before: claim.tries };
        let began = self.traces.begin();
        let mut record = match serving(&claim.plugin, entry.map(|entry| &**entry)) {
            // It belonged to an endpoint that was deleted since: there is nothing left for it to do.
            _ if claim.endpoint.is_some() && endpoint.is_none() => {
                identity.not_loadable("the endpoint that it belonged to was deleted".to_owned())
            }
            Err(reason) => identity.not_loadable(reason),
            Ok((entry, code)) => {
                let state = Overlay { committed: self.committed(&claim.plugin), written: Arc::clone(written) };
                match self.run(entry, code, &claim.event, endpoint, Box::new(state)) {
                    Ok(report) => routing::ran(identity, *code.digest(), report, &claim.event, endpoint, &endpoints, now),
                    Err(error) => {
                        tracing::warn!(plugin = %claim.plugin, %error, "state could not be read; the run is tried again");
                        identity.deferred(now)
                    }
                }
            }
        };
        self.tell_failure(&mut record, entry.map(|entry| &**entry), &claim.event, now);
        count(entry.map(|entry| &**entry), &record);
        self.tell(began, &claim.event, claim.round, &mut record);
        let settles = Settles::Run { id: claim.id, round: claim.round, lease: claim.lease };
        note_writes(written, &record, settles.state_version());
        let settlement = Settlement { settles, event: Arc::clone(&claim.event), runs: vec![record], direct: Vec::new() };
        self.settle(settlement, Held::Run(claim.slot, Arc::clone(turn)));
    }

    /// A run that is given up becomes an event of ours.
    fn tell_failure(&self, record: &mut RunRecord, entry: Option<&PluginEntry>, event: &Event, now: Timestamp) {
        if let (RunState::Parked, Some(failure), Some(entry)) = (record.state(), record.failure(), entry)
            && entry.pace.tells_failure(now)
        {
            let notice = bulletin::plugin_failed(&record.identity.plugin, event, failure, self.store.tag());
            record.set_notice(notice);
        }
    }

    fn run(
        &self,
        entry: &PluginEntry,
        code: &Plugin,
        event: &Event,
        endpoint: Option<&Endpoint>,
        state: Box<dyn StateSource>,
    ) -> Result<Report, StateUnavailable> {
        let input =
            RunInput { event, tag: self.store.tag(), config: &entry.config, limits: &self.limits, bound: endpoint.is_some() };
        let before = clock::thread_cpu();
        let report = code.run(input, state)?;
        // Not the time that passed: on a busy machine that says more about its neighbours than about the plugin.
        entry.pace.note(clock::thread_cpu().saturating_sub(before));
        Ok(report)
    }

    fn committed(&self, plugin: &Slug) -> Committed {
        Committed { store: Arc::clone(&self.store), runtime: self.runtime.clone(), plugin: plugin.clone() }
    }

    /// Tells of a run that has ended as a span, if anybody listens.
    fn tell(&self, began: Option<SystemTime>, event: &Event, round: u32, record: &mut RunRecord) {
        let (Some(outcome), tries) = (record.outcome(), record.tries()) else { return };
        let RunIdentity { plugin, endpoint, .. } = &record.identity;
        let ran = Ran { event, round, plugin, endpoint: *endpoint, tries, outcome };
        self.traces.ran(self.store.tag(), began, &ran, record.end.emitted_mut());
    }

    /// Hands a settlement on once there is room for its bytes. The settler never waits for a thread, so it makes room whatever waits here;
    /// the thread itself holds one settlement more at most.
    fn settle(&self, settlement: Settlement, held: Held) {
        let room = self.runtime.block_on(self.handoff.outcomes.reserve(weight::settlement(&settlement)));
        // Without room the process is about to end: the claim is taken up at the next start.
        let Some(room) = room else { return };
        // The settler outlives the threads, so there is always someone to take it.
        let _ = self.settlements.send(Settling { settlement, held, room });
    }
}

/// The code that serves, or why none does.
fn serving<'a>(plugin: &Slug, entry: Option<&'a PluginEntry>) -> Result<(&'a PluginEntry, &'a Plugin), String> {
    match entry {
        None => Err(format!("plugin {plugin} is not there; put its file into the plugin folder")),
        Some(entry) => match &entry.state {
            PluginState::Serving(code) => Ok((entry, code)),
            PluginState::NotLoadable(reason) => Err(format!("plugin {plugin} does not load: {reason}")),
        },
    }
}

/// Counts a run that has ended. One that lost a race for its state has run all the same, and counts again when it runs again.
fn count(entry: Option<&PluginEntry>, record: &RunRecord) {
    let Some(outcome) = record.outcome() else { return };
    let (took, memory_peak) = record.execution().map_or((Duration::ZERO, 0), |execution| (execution.took, execution.memory_peak));
    match entry {
        Some(entry) => entry.meters.ran(outcome, took, memory_peak),
        None => meters().plugin(&record.identity.plugin).ran(outcome, took, memory_peak),
    }
}

/// State as last committed.
struct Committed {
    store: Arc<dyn Store>,
    runtime: Handle,
    plugin: Slug,
}

impl StateSource for Committed {
    fn get(&mut self, key: &str) -> Result<Option<StateValue>, anyhow::Error> {
        Ok(self.runtime.block_on(self.store.read_state(&self.plugin, key))?)
    }
}

/// What the runs of one turn have written so far: key → the value, or `None` where it was deleted.
type Written = HashMap<String, Option<StateValue>>;

/// State as it will be once the earlier runs of this turn are committed.
struct Overlay {
    committed: Committed,
    written: Arc<Mutex<Written>>,
}

impl StateSource for Overlay {
    fn get(&mut self, key: &str) -> Result<Option<StateValue>, anyhow::Error> {
        let written = self.written.lock().expect("no code panics while it holds it").get(key).cloned();
        match written {
            Some(value) => Ok(value),
            None => self.committed.get(key),
        }
    }
}

fn bytes_of(written: &Mutex<Written>) -> usize {
    let written = written.lock().expect("no code panics while it holds it");
    written.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, |(value, _)| value.len())).sum()
}

/// Adds what a run leaves behind; the store gives it the same version.
fn note_writes(written: &Mutex<Written>, record: &RunRecord, version: i64) {
    let mut written = written.lock().expect("no code panics while it holds it");
    for write in record.writes() {
        let value = write.value.clone().map(|value| (value, version));
        written.insert(write.key.clone(), value);
    }
}

/// Whatever runs here must not take the processor from what others wait for.
fn lower_priority() {
    // On Linux this is the calling thread's alone. Where it is not allowed, the threads are equals.
    let _ = rustix::process::nice(10);
}
