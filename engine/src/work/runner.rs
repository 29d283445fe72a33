//! The runner: plans events and runs plugins, on dedicated OS threads, so that no plugin delays a socket.
//!
//! Fast threads take events in the order of their acceptance and run the plugins that are known to be fast. They defer all other
//! runs: runs of a new version, of a slow plugin or of a plugin whose runs compete for state, and all retries. A deferred run gets
//! its own row, and a few threads of low priority take it, plugin by plugin. So a slow plugin delays mainly its own runs.

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
    notices,
    plan::{self, PlannedRun},
    settler::{Held, Settling},
    verdict,
};
use crate::{
    catalog::{Catalog, PluginEntry, PluginState},
    clock,
    domain::{
        endpoint::Endpoint,
        event::Event,
        name::Slug,
        quarantine::is_breach,
        routing::EndpointTable,
        run::{RunIdentity, RunOutcome, RunRecord, RunState, StoredState},
        time::Timestamp,
    },
    metrics::meters,
    sandbox::{Limits, Plugin, Report, RunInput, StateSource, StateUnavailable},
    store::{
        EarlyCaller, EarlyRun, EventClaim, EventSlot, Handoff, Permit, PluginRow, Room, RunClaim, Settlement, Settles, Store,
        weight,
    },
    traces::{Ran, Traces},
};

/// Maximum number of deferred runs of one plugin in a batch. They run one after another and are committed together.
const BATCH_MAX: usize = 32;
/// Time after which a batch starts no other run, because the other plugins wait.
const BATCH_TIME: Duration = Duration::from_millis(100);
/// Once the runs of a batch have written this many bytes of state, the batch starts no other run, because that state stays in
/// memory until the batch ends.
const BATCH_STATE_BYTES: usize = 8 << 20;
/// Once the runs of an event have returned this many bytes, its further runs are deferred. So the results of a hundred plugins on
/// one event are not in memory at once.
const TOGETHER_BYTES: usize = 8 << 20;

/// The state that the threads of the runner share.
pub struct Runner {
    pub store: Arc<dyn Store>,
    pub handoff: Handoff,
    pub catalog: Arc<Catalog>,
    pub limits: Limits,
    /// A plugin is held if the runs of one of its versions break limits more often than this within a minute; 0 turns this off.
    pub quarantine: usize,
    pub runtime: Handle,
    pub traces: Traces,
    pub settlements: UnboundedSender<Settling>,
    pub stop: CancellationToken,
}

/// Starts the threads. Cancels `broken` if a thread ends before `stop`.
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
            if is_fast { runner.run_events() } else { runner.run_deferred() }
        };
        threads.push(thread::Builder::new().name(name).spawn(work)?);
    }
    Ok(threads)
}

/// Cancels `broken` when a thread ends before the stop.
struct EndGuard {
    stop: CancellationToken,
    broken: CancellationToken,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            tracing::error!("thread that runs plugins has ended; the engine stops");
            self.broken.cancel();
        }
    }
}

/// One try of a run, before it starts.
struct Try<'a> {
    identity: RunIdentity,
    /// The endpoint that the plugin belongs to.
    bound: Option<&'a Endpoint>,
    event: &'a Event,
}

/// When a try began and ended; `None` if no traces are exported.
type TryTime = Option<(SystemTime, SystemTime)>;

/// The plugin of a try, and its time.
type Tried = (Option<Arc<PluginEntry>>, TryTime);

/// The decision about a try.
enum Start<'a> {
    /// The plugin is executed, and sees the state that earlier runs of its batch have written.
    Now { entry: &'a PluginEntry, code: &'a Plugin, written: Option<&'a Arc<Mutex<Written>>> },
    /// The run is deferred, and gets its own row.
    Later,
    /// The plugin cannot be executed. The text is the reason.
    Never(String),
}

impl Runner {
    /// Waits for `next`; returns `None` on a stop.
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
                let (claim, _permit) = self.handoff.events.next().await;
                self.handoff.settings.known(claim.settings).await;
                claim
            };
            let Some(claim) = self.wait(next) else { return };
            if claim.lease.until > clock::steady() {
                self.process(claim);
            }
        }
    }

    /// Runs an event. Passes the results to the settler, or stores an early event with them.
    pub fn process(&self, mut claim: EventClaim) {
        let caller = claim.caller.take();
        // A caller that waits no longer stores the event without results.
        if caller.as_ref().is_some_and(EarlyCaller::has_left) {
            return;
        }
        let round = claim.round;
        let (mut settlement, slot, tried) = self.run_event(claim);
        let answer = match caller.map(EarlyCaller::keep) {
            None => None,
            Some(Some(answer)) => Some(answer),
            // The caller has stored the event without these results meanwhile, so they must not be counted or reported either.
            Some(None) => return,
        };
        for (record, (entry, time)) in settlement.runs.iter_mut().zip(tried) {
            self.note(record, entry.as_deref(), &settlement.event, round, time);
        }
        match answer {
            None => self.settle(settlement, Held::Event(slot)),
            Some(answer) => {
                if let Some(room) = self.room(&settlement) {
                    self.store.accept_run(EarlyRun { settlement, slot, room }, answer);
                }
            }
        }
    }

    /// Runs an event for the first time, or again for a replay: plans it, runs the fast plugins and defers the other runs. Also returns
    /// what [`Self::note`] needs for each run.
    fn run_event(&self, claim: EventClaim) -> (Settlement, EventSlot, Vec<Tried>) {
        let (plugins, endpoints) = (self.catalog.plugins(), self.catalog.endpoints());
        let event = &claim.event;
        let plan = plan::plan(&event.new, &plugins, &endpoints);
        let now = clock::steady();
        let (mut runs, mut tried, mut bytes) = (Vec::with_capacity(plan.runs.len()), Vec::with_capacity(plan.runs.len()), 0);
        for PlannedRun { plugin, entry, endpoint } in plan.runs {
            let start = match serving(&plugin, entry.as_deref()) {
                Err(reason) => Start::Never(reason),
                Ok((entry, _)) if entry.row.halt.is_some() => Start::Later,
                Ok((entry, code)) if entry.pace.is_fast(now) && bytes <= TOGETHER_BYTES => {
                    Start::Now { entry, code, written: None }
                }
                Ok(_) => Start::Later,
            };
            let bound = endpoint.as_deref();
            let identity = RunIdentity { id: None, plugin, endpoint: bound.map(|endpoint| endpoint.id), tries_before: 0 };
            let (record, time) = self.run(Try { identity, bound, event }, start, &endpoints, now);
            bytes += weight::run(&record);
            runs.push(record);
            tried.push((entry, time));
        }
        let settles = Settles::Event { id: event.id, round: claim.round, lease: claim.lease };
        let settlement = Settlement { settles, event: Arc::clone(event), runs, direct: plan.direct };
        (settlement, claim.slot, tried)
    }

    fn run_deferred(&self) {
        lower_priority();
        loop {
            let Some((first, permit)) = self.wait(self.handoff.runs.next()) else { return };
            let (began, permit) = (Instant::now(), Arc::new(permit));
            // State that earlier runs of this batch have written. It comes in addition to the committed state. This is valid
            // because the runs are settled in the order in which they execute.
            let written = Arc::default();
            let (mut next, mut count) = (Some(first), 0);
            while let Some(claim) = next {
                if self.wait(self.handoff.settings.known(claim.settings)).is_none() {
                    return;
                }
                if claim.lease.until > clock::steady() {
                    let (settlement, held) = self.run_claim(claim, &permit, &written);
                    self.settle(settlement, held);
                }
                if self.stop.is_cancelled() {
                    return;
                }
                count += 1;
                let continues = count < BATCH_MAX && began.elapsed() < BATCH_TIME && bytes_of(&written) < BATCH_STATE_BYTES;
                next = if continues { self.handoff.runs.more(&permit) } else { None };
            }
        }
    }

    /// Executes a deferred run for the first time, or a failed run again.
    pub fn run_claim(
        &self,
        claim: RunClaim,
        permit: &Arc<Permit<Slug, RunClaim>>,
        written: &Arc<Mutex<Written>>,
    ) -> (Settlement, Held) {
        let RunClaim { id, event, round, plugin, endpoint, tries, lease, settings: _, slot } = claim;
        let (plugins, endpoints) = (self.catalog.plugins(), self.catalog.endpoints());
        let bound = endpoint.and_then(|id| endpoints.get(id)).map(|endpoint| &**endpoint);
        let entry = plugins.get(&plugin).map(|entry| &**entry);
        let start = match serving(&plugin, entry) {
            _ if endpoint.is_some() && bound.is_none() => Start::Never("the endpoint that it belonged to was deleted".to_owned()),
            Err(reason) => Start::Never(reason),
            // The plugin's queue was closed after this run was claimed.
            Ok((entry, _)) if entry.row.halt.is_some() => Start::Later,
            Ok((entry, code)) => Start::Now { entry, code, written: Some(written) },
        };
        let identity = RunIdentity { id: Some(id), plugin, endpoint, tries_before: tries };
        let (mut record, time) = self.run(Try { identity, bound, event: &event }, start, &endpoints, clock::steady());
        self.note(&mut record, entry, &event, round, time);
        let settles = Settles::Run { id, round, lease };
        note_writes(written, &record, settles.state_version());
        let settlement = Settlement { settles, event, runs: vec![record], direct: Vec::new() };
        (settlement, Held::Run(slot, Arc::clone(permit)))
    }

    /// Executes one try.
    fn run(&self, one: Try<'_>, start: Start<'_>, endpoints: &EndpointTable, now: Timestamp) -> (RunRecord, TryTime) {
        let Try { identity, bound, event } = one;
        let began = self.traces.begin();
        let record = match start {
            Start::Later => identity.deferred(now),
            Start::Never(reason) => identity.not_loadable(reason),
            Start::Now { entry, code, written } => {
                let state = self.state(&identity.plugin, written);
                match self.execute(entry, code, event, bound, Box::new(state)) {
                    Ok(report) => verdict::record(identity, *code.digest(), report, event, bound, endpoints, now),
                    Err(error) => {
                        tracing::warn!(plugin = %identity.plugin, %error, "plugin state not readable; the run is tried again");
                        identity.deferred(now)
                    }
                }
            }
        };
        (record, began.map(|began| (began, clock::system())))
    }

    /// Counts and traces a try whose result takes effect, and reports a run that was parked.
    fn note(&self, record: &mut RunRecord, entry: Option<&PluginEntry>, event: &Event, round: u32, time: TryTime) {
        let now = clock::steady();
        self.add_notice(record, entry, event, now);
        self.hold_if_broken(record, entry, event, now);
        count(entry, record);
        self.trace(time, event, round, record);
    }

    fn execute(
        &self,
        entry: &PluginEntry,
        code: &Plugin,
        event: &Event,
        bound: Option<&Endpoint>,
        state: Box<dyn StateSource>,
    ) -> Result<Report, StateUnavailable> {
        let input = RunInput {
            event,
            tag: self.store.tag(),
            config: &entry.config,
            revision: entry.row.revision,
            limits: &self.limits,
            bound: bound.is_some(),
            now: clock::wall(),
        };
        let before = clock::thread_cpu();
        let report = code.run(input, state)?;
        // The pace is measured in processor time, because on a busy machine the elapsed time depends more on other programs than on
        // the plugin.
        entry.pace.note(clock::thread_cpu().saturating_sub(before));
        Ok(report)
    }

    fn state(&self, plugin: &Slug, written: Option<&Arc<Mutex<Written>>>) -> State {
        State { store: Arc::clone(&self.store), runtime: self.runtime.clone(), plugin: plugin.clone(), written: written.cloned() }
    }

    /// Adds an operational event to a parked run.
    fn add_notice(&self, record: &mut RunRecord, entry: Option<&PluginEntry>, event: &Event, now: Timestamp) {
        if let (RunState::Parked, Some(failure), Some(entry)) = (record.state(), record.failure(), entry)
            && entry.pace.may_report_failure(now)
        {
            let notice = notices::plugin_failed(&record.identity.plugin, event, failure, self.store.tag());
            record.set_notice(notice);
        }
    }

    /// Holds the plugin if its version has broken its limits too often, and adds the operational event that reports it.
    fn hold_if_broken(&self, record: &mut RunRecord, entry: Option<&PluginEntry>, event: &Event, now: Timestamp) {
        let (Some(entry), true) = (entry, is_breach(record)) else { return };
        if !entry.pace.note_breach(now, self.quarantine) {
            return;
        }
        let PluginRow { name, version, .. } = &entry.row;
        match self.runtime.block_on(self.catalog.hold_plugin(&entry.row)) {
            Ok(true) => {
                tracing::warn!(plugin = %name, version = %version.short(), limit = self.quarantine, "plugin is held: it failed too often");
                let notice = record.failure().and_then(|failure| notices::plugin_quarantined(name, *version, event, failure));
                record.set_notice(notice);
            }
            // The plugin was held, disabled or replaced meanwhile.
            Ok(false) => {}
            Err(error) => tracing::warn!(plugin = %name, %error, "plugin could not be held; its next failures count anew"),
        }
    }

    /// Exports a span of an ended run, if traces are exported.
    fn trace(&self, time: TryTime, event: &Event, round: u32, record: &mut RunRecord) {
        let (Some(outcome), tries) = (record.outcome(), record.tries()) else { return };
        let RunIdentity { plugin, endpoint, .. } = &record.identity;
        let ran = Ran { event, round, plugin, endpoint: *endpoint, tries, outcome };
        self.traces.ran(self.store.tag(), time, &ran, record.end.events_mut());
    }

    /// Waits until the budget has room for the bytes of a settlement. No commit waits for a thread, so the budget gets room again in
    /// any case. Until then the calling thread holds this one settlement. Returns `None` if the process is about to end.
    fn room(&self, settlement: &Settlement) -> Option<Room> {
        self.runtime.block_on(self.handoff.outcomes.reserve(weight::settlement(settlement)))
    }

    /// Passes a settlement to the settler once the budget has room.
    pub fn settle(&self, settlement: Settlement, held: Held) {
        // Without room, the row is claimed again after the next start.
        let Some(room) = self.room(&settlement) else { return };
        // The settler outlives the threads, so the channel is open.
        let _ = self.settlements.send(Settling::new(settlement, held, room));
    }
}

/// Returns the code that serves, or the reason why no code serves.
fn serving<'a>(plugin: &Slug, entry: Option<&'a PluginEntry>) -> Result<(&'a PluginEntry, &'a Plugin), String> {
    match entry {
        None => Err(format!("plugin {plugin} does not exist; push it with innesco plugin push")),
        Some(entry) => match &entry.state {
            PluginState::Serving(code) => Ok((entry, code)),
            PluginState::NotLoadable(reason) => Err(format!("plugin {plugin} does not load: {reason}")),
        },
    }
}

/// Counts a run that has ended. A run that loses a state conflict has been executed, too. So a run counts each time it is executed.
fn count(entry: Option<&PluginEntry>, record: &RunRecord) {
    let Some(outcome) = record.outcome() else { return };
    let (took, memory_peak) = record.execution().map_or((Duration::ZERO, 0), |execution| (execution.took, execution.memory_peak));
    meters().tally.ran(&record.identity.plugin, outcome == RunOutcome::Ok);
    match entry {
        Some(entry) => entry.meters.ran(outcome, took, memory_peak),
        None => meters().plugin(&record.identity.plugin).ran(outcome, took, memory_peak),
    }
}

/// State that the runs of one batch have written so far: key → the value, or `None` where it was deleted.
type Written = HashMap<String, Option<StoredState>>;

/// A plugin's state as last committed, or as it will be once the earlier runs of the batch are committed.
struct State {
    store: Arc<dyn Store>,
    runtime: Handle,
    plugin: Slug,
    written: Option<Arc<Mutex<Written>>>,
}

impl StateSource for State {
    fn get(&mut self, key: &str) -> Result<Option<StoredState>, anyhow::Error> {
        if let Some(written) = &self.written
            && let Some(value) = written.lock().expect("no code panics while it holds it").get(key)
        {
            return Ok(value.clone());
        }
        Ok(self.runtime.block_on(self.store.stored_state(&self.plugin, key))?)
    }
}

fn bytes_of(written: &Mutex<Written>) -> usize {
    let written = written.lock().expect("no code panics while it holds it");
    written.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, |stored| stored.value.len())).sum()
}

/// Adds the writes of a run, under the version that the store gives them.
fn note_writes(written: &Mutex<Written>, record: &RunRecord, version: i64) {
    let mut written = written.lock().expect("no code panics while it holds it");
    for write in record.writes() {
        let value = write.value.clone().map(|value| StoredState { value, version, expires_at: write.expires_at });
        written.insert(write.key.clone(), value);
    }
}

/// Lowers the priority of the calling thread: deferred runs must not take the processor from the other threads.
fn lower_priority() {
    // On Linux this lowers the priority of the thread only. On a system where it cannot be lowered, all threads have the same
    // priority.
    let _ = rustix::process::nice(10);
}
