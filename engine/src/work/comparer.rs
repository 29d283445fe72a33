//! Comparisons: repeats recorded runs with the serving version of a plugin and with a candidate, and reports what differs. The
//! repeated runs have no effect.
//!
//! A batch reads recorded runs, repeats each with both versions on low-priority threads, and stores the report with the new cursor.
//! So a comparison continues after a restart. If several nodes work on the same comparison, only one of them stores each batch. The
//! sandbox reserves additional places for the instances of these runs ([`THREADS_MAX`]), so these runs take no place from the runs
//! of events.
//!
//! A comparison with `follow` repeats new runs after they have ended. It never builds up a backlog: after [`FOLLOW_TIME`], a batch
//! counts the remaining runs as skipped. On a busy node the low-priority threads get less done in that time, so more runs are
//! skipped.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, task::JoinHandle};

use super::verdict;
use crate::{
    catalog::Catalog,
    clock,
    domain::{
        comparison::{Comparison, Report, Request, Share, Took},
        difference::{Answer, Difference, differences},
        endpoint::Endpoint,
        job::JobState,
        name::Slug,
        plugin::VersionState,
        recording::RecordedState,
        routing::EndpointTable,
        run::{Requests, RunFailure, StoredState},
        setting,
    },
    sandbox::{Limits, Plugin, RunInput, StateSource},
    store::{self, Page, PageRequest, RecordedFilter, RecordedRun, SettledFrom, Store},
};

/// Maximum number of threads that repeat runs.
pub const THREADS_MAX: usize = 4;
/// Time after which a batch reads no further page. The progress is stored after each batch.
const BATCH_TIME: Duration = Duration::from_millis(250);
/// Maximum number of recorded runs in one page. The store reads a page at normal priority, so a page is short.
const PAGE_RUNS: u64 = 100;
/// How long one batch of a comparison with `follow` may take. Such a batch repeats the runs that have ended since the previous
/// batch.
const FOLLOW_TIME: Duration = Duration::from_secs(1);
/// Number of recorded runs that are repeated before the time is checked again.
const FOLLOW_RUNS: usize = 100;
/// A comparison with `follow` repeats a run only if the run's event was accepted at least this long ago. This leaves the nodes
/// time to commit all earlier events. If a commit takes longer, the comparison may miss the runs of its events.
const FOLLOW_DELAY: Duration = Duration::from_secs(3);
/// Maximum time to wait for a run, counted from the acceptance of its event. A run that has not ended by then is not repeated, and
/// the runs of later events no longer wait for it.
const FOLLOW_WAIT: Duration = Duration::from_secs(60);

/// Advances comparisons.
pub struct Comparer {
    pub store: Arc<dyn Store>,
    pub catalog: Arc<Catalog>,
    pub limits: Limits,
    pub threads: usize,
}

/// Both versions of a comparison.
struct Versions {
    serving: Arc<Plugin>,
    candidate: Arc<Plugin>,
}

/// The settings of one revision as each version reads them.
struct Configs {
    serving: Arc<BTreeMap<String, String>>,
    candidate: Arc<BTreeMap<String, String>>,
}

/// The comparisons that are still running after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Number of comparisons that have more runs to compare.
    pub busy: usize,
    /// Number of comparisons that wait for new runs.
    pub following: usize,
}

/// The result of one pair of runs.
struct Pair {
    serving: Took,
    candidate: Took,
    differences: Vec<Difference>,
    read_current_state: bool,
}

impl Comparer {
    /// Advances every running comparison by one batch, the oldest first. Returns how many are still running.
    ///
    /// # Errors
    /// If the store failed. The next call repeats the batch.
    pub async fn step(&self) -> Result<Running, store::Error> {
        let page = PageRequest { cursor: None, limit: crate::domain::comparison::RUNNING_MAX };
        let mut running = Running::default();
        for comparison in self.store.comparisons(Some(JobState::Running), page).await?.items.into_iter().rev() {
            let follows = comparison.request.follow.is_some();
            let state = if follows { self.follow(&comparison).await? } else { self.advance(&comparison).await? };
            *(if follows { &mut running.following } else { &mut running.busy }) += usize::from(state == JobState::Running);
        }
        Ok(running)
    }

    /// Compares page after page for [`BATCH_TIME`]. While a page is compared, the next page is read.
    async fn advance(&self, before: &Comparison) -> Result<JobState, store::Error> {
        let (began, mut now, mut configs) = (Instant::now(), before.clone(), HashMap::new());
        let versions = match self.versions(before).await? {
            Ok(versions) => versions,
            Err(problem) => return self.end(before, now, Some(problem)).await,
        };
        let mut reading = self.read(&now, 0);
        loop {
            let page = match reading.await.expect("a read never panics") {
                Ok(page) => page,
                // The next try would fail in the same way, and would delay other jobs.
                Err(error @ (store::Error::Corrupt { .. } | store::Error::TooSlow(_))) => {
                    return self.end(before, now, Some(format!("the recorded runs cannot be read: {error}"))).await;
                }
                Err(error) => return Err(error),
            };
            now.cursor = page.next;
            let seen = page.items.len() as u64;
            let is_last = page.next.is_none() || looked_at(&now) + seen >= before.request.last;
            let next = (!is_last && began.elapsed() < BATCH_TIME).then(|| self.read(&now, seen));
            self.add_configs(&mut configs, &before.request.plugin, &versions, &page.items).await?;
            tokio::task::block_in_place(|| self.compare(&versions, &configs, &page.items, &mut now));
            if is_last {
                return self.end(before, now, None).await;
            }
            match next {
                Some(next) => reading = next,
                None => return self.store_progress(before, now).await,
            }
        }
    }

    /// Ends a comparison. If it ended early, `problem` says why.
    async fn end(&self, before: &Comparison, mut now: Comparison, problem: Option<String>) -> Result<JobState, store::Error> {
        (now.state, now.problem) = (JobState::Done, problem);
        self.store_progress(before, now).await
    }

    /// Stores a comparison that has advanced, and returns its state.
    async fn store_progress(&self, before: &Comparison, mut now: Comparison) -> Result<JobState, store::Error> {
        let state = now.state;
        if state != JobState::Running {
            now.finished_at = Some(clock::wall());
            let Report { compared, differ, .. } = now.report;
            let id = before.id.text(self.store.tag());
            tracing::info!(comparison = id, plugin = %before.request.plugin, compared, differ, "comparison ended");
        }
        // If the comparison was cancelled, or if another node has already advanced it, the next step sees that.
        self.store.advance_comparison(before, now).await?;
        Ok(state)
    }

    /// Repeats the runs that have ended since the previous batch, as many as [`FOLLOW_TIME`] allows, and counts the others as
    /// skipped.
    async fn follow(&self, before: &Comparison) -> Result<JobState, store::Error> {
        let mut now = before.clone();
        if let Some(problem) = self.follows_no_more(before).await? {
            return self.end(before, now, problem).await;
        }
        let versions = match self.versions(before).await? {
            Ok(versions) => versions,
            Err(problem) => return self.end(before, now, Some(problem)).await,
        };
        let (began, at, mut configs) = (Instant::now(), clock::wall(), HashMap::new());
        loop {
            let is_late = began.elapsed() >= FOLLOW_TIME;
            let filter = Self::filter(before);
            let from = SettledFrom { after: now.cursor, waits_since: at.minus(FOLLOW_WAIT), until: at.minus(FOLLOW_DELAY) };
            let left = usize::try_from(before.request.last - looked_at(&now)).unwrap_or(usize::MAX);
            let page = match self.store.settled_runs(filter, from, if is_late { 0 } else { FOLLOW_RUNS.min(left) }).await {
                Ok(page) => page,
                Err(error @ store::Error::Corrupt { .. }) => {
                    return self.end(before, now, Some(format!("the recorded runs cannot be read: {error}"))).await;
                }
                Err(error) => return Err(error),
            };
            self.add_configs(&mut configs, &before.request.plugin, &versions, &page.items).await?;
            tokio::task::block_in_place(|| self.compare(&versions, &configs, &page.items, &mut now));
            (now.cursor, now.report.skipped) = (page.after, now.report.skipped + page.passed);
            if is_complete(&now) {
                now.state = JobState::Done;
            }
            if !page.more || now.state != JobState::Running {
                break;
            }
        }
        if now.cursor == before.cursor {
            return Ok(JobState::Running);
        }
        self.store_progress(before, now).await
    }

    /// Returns `Some` if a comparison with `follow` must end, because its serving version no longer serves. The inner value is the
    /// problem, or `None` if the candidate serves now. This asks the store, because the catalog of this node may be older than the
    /// comparison.
    async fn follows_no_more(&self, comparison: &Comparison) -> Result<Option<Option<String>>, store::Error> {
        let Request { plugin, serving, candidate, .. } = &comparison.request;
        let versions = self.store.versions(plugin).await?;
        let serves = versions.iter().find(|one| one.state == VersionState::Serving).map(|one| one.version);
        Ok(match serves {
            Some(serves) if serves == *serving => None,
            Some(serves) if serves == *candidate => Some(None),
            Some(serves) => Some(Some(format!("another version serves now, {}; compare the candidate with it", serves.short()))),
            None => Some(Some(format!("plugin {plugin} was removed"))),
        })
    }

    /// Loads both versions. The inner error says why one of them cannot run.
    async fn versions(&self, comparison: &Comparison) -> Result<Result<Versions, String>, store::Error> {
        let request = &comparison.request;
        let serving = match self.catalog.version(&request.plugin, request.serving).await? {
            Ok(plugin) => plugin,
            Err(reason) => return Ok(Err(format!("the serving version cannot run any more: {reason}"))),
        };
        Ok(match self.catalog.version(&request.plugin, request.candidate).await? {
            Ok(candidate) => Ok(Versions { serving, candidate }),
            Err(reason) => Err(format!("the candidate cannot run: {reason}")),
        })
    }

    /// Begins to read the next page. `ahead` is the number of runs on earlier pages that are not counted yet.
    fn read(&self, comparison: &Comparison, ahead: u64) -> JoinHandle<Result<Page<RecordedRun>, store::Error>> {
        let left = comparison.request.last.saturating_sub(looked_at(comparison) + ahead);
        let limit = usize::try_from(left.min(PAGE_RUNS)).unwrap_or(usize::MAX);
        let (store, filter) = (Arc::clone(&self.store), Self::filter(comparison));
        let page = PageRequest { cursor: comparison.cursor, limit };
        tokio::spawn(async move { store.recorded_runs(filter, page).await })
    }

    fn filter(comparison: &Comparison) -> RecordedFilter {
        let Request { plugin, events, since, follow, .. } = &comparison.request;
        let since =
            if follow.is_some() { Some(since.unwrap_or(comparison.created_at).max(comparison.created_at)) } else { *since };
        RecordedFilter { plugin: plugin.clone(), events: events.clone(), since, share: follow.unwrap_or(Share::ALL) }
    }

    /// Adds the settings of the revisions that these runs used. A revision that is no longer stored is left out.
    async fn add_configs(
        &self,
        configs: &mut HashMap<i64, Configs>,
        plugin: &Slug,
        versions: &Versions,
        runs: &[RecordedRun],
    ) -> Result<(), store::Error> {
        for revision in runs.iter().filter_map(|run| run.recording.as_ref()).map(|recording| recording.settings) {
            if configs.contains_key(&revision) {
                continue;
            }
            if let Some(stored) = self.store.plugin_config_at(plugin, revision).await? {
                let of = |version: &Plugin| Arc::new(setting::effective(&version.manifest().settings, &stored));
                let both = Configs { serving: of(&versions.serving), candidate: of(&versions.candidate) };
                configs.insert(revision, both);
            }
        }
        Ok(())
    }

    /// Repeats these runs, and adds them to the report in their order.
    fn compare(&self, versions: &Versions, configs: &HashMap<i64, Configs>, runs: &[RecordedRun], now: &mut Comparison) {
        let endpoints = self.catalog.endpoints();
        let runtime = Handle::current();
        let next = AtomicUsize::new(0);
        let work = || {
            let _ = rustix::process::nice(19);
            let mut pairs = Vec::new();
            while let Some((place, run)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, runs.get(at)?))) {
                pairs.push((place, self.pair(versions, configs, run, &endpoints, &runtime)));
                // Without this yield, a thread that wakes up for an event waits until the kernel ends this thread's time slice. A
                // time slice lasts milliseconds even at the lowest priority.
                thread::yield_now();
            }
            pairs
        };
        let mut pairs: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads.clamp(1, THREADS_MAX)).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a run never panics")).collect()
        });
        pairs.sort_unstable_by_key(|(place, _)| *place);
        let hides_values = now.request.hides_values;
        for (place, pair) in pairs {
            match pair {
                None => now.report.not_repeatable += 1,
                Some(Pair { serving, candidate, differences, read_current_state }) => {
                    now.report.read_current_state += u64::from(read_current_state);
                    now.report.add(runs[place].id.as_i64(), serving, candidate, differences, hides_values);
                }
            }
        }
    }

    /// Repeats one run with both versions. Returns `None` if it cannot be repeated.
    fn pair(
        &self,
        versions: &Versions,
        configs: &HashMap<i64, Configs>,
        run: &RecordedRun,
        endpoints: &EndpointTable,
        runtime: &Handle,
    ) -> Option<Pair> {
        let recording = run.recording.as_ref()?;
        let RecordedState::Read(read) = &recording.state else { return None };
        let bound = match run.endpoint {
            Some(id) => Some(&**endpoints.get(id)?),
            None => None,
        };
        let config = configs.get(&recording.settings)?;
        let current = Arc::new(Current {
            store: Arc::clone(&self.store),
            runtime: runtime.clone(),
            plugin: run.plugin.clone(),
            read: Mutex::default(),
            was_used: AtomicBool::new(false),
        });
        let repeat = |plugin: &Plugin, config| {
            let input = RunInput {
                event: &run.event,
                tag: self.store.tag(),
                config,
                revision: recording.settings,
                limits: &self.limits,
                bound: bound.is_some(),
                now: recording.at.unwrap_or(run.event.accepted_at),
            };
            let state = Recorded { read: read.iter().cloned().collect(), current: Arc::clone(&current) };
            let report = plugin.run(input, Box::new(state)).ok()?;
            let result = report.result.and_then(|requests| checked(requests, run, bound, endpoints));
            Some((result, report.state.writes, report.took, report.memory_peak))
        };
        let (before, after) = (repeat(&versions.serving, &config.serving)?, repeat(&versions.candidate, &config.candidate)?);
        Some(Pair {
            serving: Took { time: before.2, memory: before.3, is_ok: before.0.is_ok() },
            candidate: Took { time: after.2, memory: after.3, is_ok: after.0.is_ok() },
            differences: differences(
                Answer { result: before.0.as_ref(), writes: &before.1 },
                Answer { result: after.0.as_ref(), writes: &after.1 },
            ),
            read_current_state: current.was_used.load(Ordering::Relaxed),
        })
    }
}

/// Returns the number of recorded runs that a comparison has looked at.
const fn looked_at(comparison: &Comparison) -> u64 {
    comparison.report.compared + comparison.report.not_repeatable
}

/// Returns whether a comparison has looked at as many runs as its request allows.
const fn is_complete(comparison: &Comparison) -> bool {
    looked_at(comparison) >= comparison.request.last
}

/// Applies the rules that are checked only after a run has left the sandbox. One of them is that an endpoint must exist.
fn checked(
    requests: Requests,
    run: &RecordedRun,
    bound: Option<&Endpoint>,
    endpoints: &EndpointTable,
) -> Result<Requests, RunFailure> {
    match verdict::refusal(&requests, &run.plugin, &run.event, bound, endpoints) {
        None => Ok(requests),
        Some(failure) => Err(failure),
    }
}

/// The state that the recorded run read. A key that this run did not read has its current value, which is the same for both
/// versions.
struct Recorded {
    read: HashMap<String, Option<Vec<u8>>>,
    current: Arc<Current>,
}

struct Current {
    store: Arc<dyn Store>,
    runtime: Handle,
    plugin: Slug,
    read: Mutex<HashMap<String, Option<Vec<u8>>>>,
    was_used: AtomicBool,
}

/// The state version that is returned with every value that a repeated run reads. Repeated runs are not committed, so this version
/// is never compared.
const VERSION: i64 = 1;

impl StateSource for Recorded {
    fn get(&mut self, key: &str) -> Result<Option<StoredState>, anyhow::Error> {
        let value = match self.read.get(key) {
            Some(value) => value.clone(),
            None => self.current.get(key)?,
        };
        // The recorded run has already decided which values had expired.
        Ok(value.map(|value| StoredState { value, version: VERSION, expires_at: None }))
    }
}

impl Current {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, anyhow::Error> {
        self.was_used.store(true, Ordering::Relaxed);
        let mut read = self.read.lock().expect("no code panics while it holds it");
        if let Some(value) = read.get(key) {
            return Ok(value.clone());
        }
        let value = self.runtime.block_on(self.store.read_state(&self.plugin, key))?.map(|(value, _)| value);
        read.insert(key.to_owned(), value.clone());
        Ok(value)
    }
}
