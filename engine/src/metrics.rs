//! The metrics of `/metrics`.
//!
//! One table below lists every metric: name, labels, meaning. Handles are created once and kept by their users (a plugin's in its
//! catalog entry, an endpoint's in the recorder), so counting is one addition in memory. Labels are bounded: names beyond a limit count
//! together as `other`. Text from strangers becomes a label only if it looks like a plain name, so no URL, secret or payload shows up.
//!
//! Metrics belong to the process and are reached through a function, as the clock is: passing a handle through every signature would
//! say nothing, and a process runs one engine. The crate `prometheus` was chosen because its histograms are plain counters;
//! `metrics-exporter-prometheus` keeps every sample until the next scrape. All counting for one event takes about 0.2 µs.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, OnceLock, RwLock},
    time::Duration,
};

use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

use crate::domain::{
    delivery::{AttemptOutcome, DeadReason},
    run::RunOutcome,
};

/// Maximum number of sources with a separate line. Sources come from outside, so few.
const SOURCES_MAX: usize = 50;
/// Maximum number of plugins with separate lines: each has about forty.
const PLUGINS_MAX: usize = 100;
/// Maximum number of endpoints with separate lines: each has up to a dozen.
const ENDPOINTS_MAX: usize = 200;
/// Maximum number of nodes with separate lines.
const NODES_MAX: usize = 100;
/// The label of everything beyond those limits.
pub const OTHER: &str = "other";
/// A longer source is not a plain name.
const SOURCE_LEN_MAX: usize = 64;

/// Seconds of one run: most take microseconds, the default deadline is 1 s.
const RUN_SECONDS: &[f64] = &[0.000_05, 0.000_1, 0.000_25, 0.001, 0.002_5, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];
/// Bytes of one run: from a small plugin to the default limit of 64 MiB and beyond.
const RUN_BYTES: &[f64] = &[
    131_072.0,
    524_288.0,
    1_048_576.0,
    2_097_152.0,
    4_194_304.0,
    8_388_608.0,
    16_777_216.0,
    33_554_432.0,
    67_108_864.0,
    268_435_456.0,
];
/// Seconds of one attempt, up to the default timeout of 20 s.
const ATTEMPT_SECONDS: &[f64] = &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0];
/// Seconds from acceptance to delivery: from milliseconds to the length of retries.
const END_TO_END_SECONDS: &[f64] =
    &[0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0];
/// Seconds of one commit: a fast disk needs half a millisecond, a slow one seconds.
const COMMIT_SECONDS: &[f64] = &[0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
/// Jobs that share a commit.
const SETTLEMENT_BYTES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 4e6, 8.4e6, 1.7e7, 3.4e7];
const COMMIT_JOBS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0];

macro_rules! kind {
    (counter) => {
        IntCounter
    };
    (counters) => {
        IntCounterVec
    };
    (number) => {
        IntGauge
    };
    (numbers) => {
        IntGaugeVec
    };
    (seconds) => {
        Counter
    };
    (gauge) => {
        Gauge
    };
    (gauges) => {
        GaugeVec
    };
    (histogram) => {
        Histogram
    };
    (histograms) => {
        HistogramVec
    };
}

macro_rules! table {
    ($($field:ident = $kind:ident($($argument:expr),*) $name:literal $help:literal;)*) => {
        /// Every metric of the table.
        struct Table { $($field: kind!($kind)),* }

        impl Table {
            fn new(registry: &Registry) -> Self {
                Self { $($field: make::$kind(registry, Opts::new($name, $help), $($argument),*)),* }
            }
        }

        /// Names and meanings, in the order of the table.
        pub const NAMES: &[(&str, &str)] = &[$(($name, $help)),*];
    };
}

table! {
    accepted = counters(&["source"]) "innesco_events_accepted_total" "Stored events, by source";
    duplicates = counter() "innesco_events_duplicate_total" "Duplicates, which changed nothing";
    emitted = counter() "innesco_events_emitted_total" "Events that plugins emitted";
    unrouted = counter() "innesco_events_unrouted_total" "Events that matched no plugin and no subscription";
    refused = counters(&["code"]) "innesco_requests_refused_total" "Requests answered with an error, by code";

    source_refused = counters(&["source", "reason"]) "innesco_source_refusals_total" "Requests that a source refused, by reason";

    runs = counters(&["plugin", "outcome"]) "innesco_runs_total" "Runs of plugins, by outcome";
    run_seconds = histograms(&["plugin"], RUN_SECONDS) "innesco_run_seconds" "Duration of runs";
    run_bytes = histograms(&["plugin"], RUN_BYTES) "innesco_run_memory_peak_bytes" "Peak memory of runs";
    plugins = numbers(&["state"]) "innesco_plugins" "Plugins: serving, refused (a newer file is not used), not-loadable; and files that never were a plugin (broken)";

    attempts = counters(&["endpoint", "outcome"]) "innesco_attempts_total" "Attempts, by outcome; answers by the class of their status";
    attempt_seconds = histogram(ATTEMPT_SECONDS) "innesco_attempt_seconds" "Duration of attempts";
    breaker_open = numbers(&["endpoint"]) "innesco_endpoint_breaker_open" "1 while the circuit breaker of the endpoint is open";
    endpoints = numbers(&["state"]) "innesco_endpoints" "Endpoints by state";
    created = counter() "innesco_deliveries_created_total" "Created deliveries";
    delivered = counter() "innesco_deliveries_delivered_total" "Delivered deliveries";
    dead = counters(&["reason"]) "innesco_deliveries_dead_total" "Dead deliveries, by reason";
    end_to_end_seconds = histogram(END_TO_END_SECONDS) "innesco_end_to_end_seconds" "Time from the acceptance of an event to its delivery, retries and replays included";

    depth = numbers(&["stage"]) "innesco_queue_depth" "Waiting items in memory and on disk: events, deferred runs, parked runs, deliveries, dead deliveries";
    oldest = gauges(&["stage"]) "innesco_queue_oldest_seconds" "Age of the oldest item: an event since its acceptance, a run or delivery since it was due, a dead delivery since it died";
    handoff_items = numbers(&["stage"]) "innesco_handoff_items" "Items in memory between commit and workers, including those in progress";
    handoff_bytes = numbers(&["stage"]) "innesco_handoff_bytes" "Bytes of these items";
    handoff_limit_bytes = numbers(&["stage"]) "innesco_handoff_limit_bytes" "Limit of these bytes; more items wait on disk";

    commit_seconds = histograms(&["kind"], COMMIT_SECONDS) "innesco_store_commit_seconds" "Duration of commits: promises are synced to disk, progress is not";
    commit_jobs = histogram(COMMIT_JOBS) "innesco_store_commit_jobs" "Number of jobs per commit";
    settlement_batch_bytes = histogram(SETTLEMENT_BYTES) "innesco_settlement_batch_bytes" "Bytes of run results in one batch";
    commit_failures = counter() "innesco_store_commit_failures_total" "Failed commits, which had no effect";
    queued_bytes = number() "innesco_store_queued_bytes" "Bytes waiting to be written";
    file_bytes = numbers(&["file"]) "innesco_store_file_bytes" "Size of the store's files";
    disk_bytes = number() "innesco_disk_bytes" "Size of the disk that holds the data folder";
    disk_free_bytes = number() "innesco_disk_free_bytes" "Free space of that disk";

    nodes = numbers(&["role"]) "innesco_nodes" "Live nodes by role; 1 with SQLite";
    node_leases = numbers(&["node"]) "innesco_node_leases" "Events, runs and deliveries that a node holds";
    node_oldest = gauges(&["node"]) "innesco_node_oldest_seconds" "How long a node has held the oldest of them";
    node_silent = gauges(&["node"]) "innesco_node_silent_seconds" "Seconds since the node's last heartbeat (about 1 when healthy)";
    plugins_behind = number() "innesco_plugins_behind" "Plugins whose serving version on other nodes is not ready on this one";

    build = numbers(&["version"]) "innesco_build_info" "Always 1; the label has the engine's version";
    uptime = gauge() "innesco_uptime_seconds" "Seconds since the engine started";
    cpu = seconds() "process_cpu_seconds_total" "Processor time of the process, user and system";
    resident = number() "process_resident_memory_bytes" "Memory of the process that is in RAM";
    open_files = number() "process_open_fds" "Files and connections that the process has open";
    open_files_max = number() "process_max_fds" "Limit of open files";
    threads = number() "process_threads" "Threads of the process";
    started = gauge() "process_start_time_seconds" "When the process started, in seconds since 1970";
}

/// All metrics; [`meters`] returns them.
pub struct Meters {
    registry: Registry,
    table: Table,
    /// By source.
    sources: Family<IntCounter>,
    /// The label of each source that has refusals.
    refusing: Family<String>,
    plugins: Family<PluginMeters>,
    endpoints: Family<EndpointMeters>,
    /// Created deliveries.
    pub created: IntCounter,
    pub delivered: IntCounter,
    pub duplicates: IntCounter,
    pub emitted: IntCounter,
    pub unrouted: IntCounter,
    pub attempt_seconds: Histogram,
    pub end_to_end_seconds: Histogram,
    pub commit_promise_seconds: Histogram,
    pub commit_progress_seconds: Histogram,
    pub commit_jobs: Histogram,
    pub settlement_batch_bytes: Histogram,
    pub commit_failures: IntCounter,
}

/// Returns the metrics of this process.
pub fn meters() -> &'static Meters {
    static METERS: LazyLock<Meters> = LazyLock::new(Meters::new);
    &METERS
}

impl Meters {
    fn new() -> Self {
        let registry = Registry::new();
        let table = Table::new(&registry);
        table.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        for reason in DeadReason::ALL {
            table.dead.with_label_values(&[reason.as_str()]);
        }
        let sources = table.accepted.clone();
        let (runs, seconds, bytes) = (table.runs.clone(), table.run_seconds.clone(), table.run_bytes.clone());
        let (attempts, breaker) = (table.attempts.clone(), table.breaker_open.clone());
        Self {
            sources: Family::new(SOURCES_MAX, move |source| sources.with_label_values(&[source])),
            refusing: Family::new(SOURCES_MAX, str::to_owned),
            plugins: Family::new(PLUGINS_MAX, move |plugin| PluginMeters {
                runs: RunOutcome::ALL.map(|outcome| runs.with_label_values(&[plugin, outcome.as_str()])),
                seconds: seconds.with_label_values(&[plugin]),
                memory: bytes.with_label_values(&[plugin]),
            }),
            endpoints: Family::new(ENDPOINTS_MAX, move |endpoint| EndpointMeters {
                name: endpoint.to_owned(),
                attempts: attempts.clone(),
                by_outcome: Default::default(),
                breaker_open: breaker.with_label_values(&[endpoint]),
            }),
            created: table.created.clone(),
            delivered: table.delivered.clone(),
            duplicates: table.duplicates.clone(),
            emitted: table.emitted.clone(),
            unrouted: table.unrouted.clone(),
            attempt_seconds: table.attempt_seconds.clone(),
            end_to_end_seconds: table.end_to_end_seconds.clone(),
            commit_promise_seconds: table.commit_seconds.with_label_values(&["promise"]),
            commit_progress_seconds: table.commit_seconds.with_label_values(&["progress"]),
            commit_jobs: table.commit_jobs.clone(),
            settlement_batch_bytes: table.settlement_batch_bytes.clone(),
            commit_failures: table.commit_failures.clone(),
            registry,
            table,
        }
    }

    /// Returns the counter of accepted events of a source.
    pub fn accepted(&self, source: &str) -> Arc<IntCounter> {
        self.sources.get(if is_plain(source) { source } else { OTHER })
    }

    /// Returns the metrics of a plugin. The catalog keeps this handle.
    pub fn plugin(&self, name: &str) -> Arc<PluginMeters> {
        self.plugins.get(name)
    }

    /// Returns the metrics of an endpoint. The recorder keeps this handle.
    pub fn endpoint(&self, name: &str) -> Arc<EndpointMeters> {
        self.endpoints.get(name)
    }

    /// Creates the counters of all error codes and of all reasons of sources, so that the first refusal is an increase from 0.
    pub fn expect_refusals(&self, codes: impl Iterator<Item = &'static str>, reasons: impl Iterator<Item = &'static str>) {
        for code in codes {
            self.table.refused.with_label_values(&[code]);
        }
        for reason in reasons {
            self.table.source_refused.with_label_values(&[OTHER, reason]);
        }
    }

    /// Counts a request that was answered with this error code.
    pub fn refused(&self, code: &'static str) {
        self.table.refused.with_label_values(&[code]).inc();
    }

    /// Counts a request that a source refused. The reason is one of those that were expected ([`Self::expect_refusals`]).
    pub fn source_refused(&self, source: &str, reason: &'static str) {
        self.table.source_refused.with_label_values(&[self.refusing.get(source).as_str(), reason]).inc();
    }

    /// Counts dead deliveries.
    pub fn dead(&self, reason: &'static str, count: usize) {
        self.table.dead.with_label_values(&[reason]).inc_by(count as u64);
    }

    /// Updates the gauges, and writes all metrics as Prometheus text.
    pub fn render(&self, now: &Readings<'_>) -> String {
        let table = &self.table;
        for stage in now.stages {
            table.depth.with_label_values(&[stage.name]).set(number(stage.depth));
            table.oldest.with_label_values(&[stage.name]).set(stage.oldest.as_secs_f64());
        }
        for lane in now.lanes {
            table.handoff_items.with_label_values(&[lane.name]).set(number(lane.items));
            table.handoff_bytes.with_label_values(&[lane.name]).set(number(lane.bytes));
            table.handoff_limit_bytes.with_label_values(&[lane.name]).set(number(lane.limit_bytes));
        }
        for (gauges, counts) in
            [(&table.file_bytes, now.file_bytes), (&table.plugins, now.plugins), (&table.endpoints, now.endpoints)]
        {
            for (name, count) in counts {
                gauges.with_label_values(&[name]).set(number(*count));
            }
        }
        self.note_nodes(now.nodes);
        table.plugins_behind.set(number(now.plugins_behind));
        table.queued_bytes.set(number(now.queued_bytes));
        table.disk_bytes.set(number(now.disk_bytes));
        table.disk_free_bytes.set(number(now.disk_free_bytes));
        table.uptime.set(now.uptime.as_secs_f64());
        self.note_process();
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| {
            // Only a name or label that breaks a rule can cause this, and the table above has all of them.
            tracing::error!(%error, "metrics could not be written");
            String::new()
        })
    }

    /// Nodes join and leave: earlier ones are removed.
    fn note_nodes(&self, nodes: &[NodeReading]) {
        let table = &self.table;
        table.nodes.reset();
        let of_nodes = [&table.node_oldest, &table.node_silent];
        of_nodes.iter().for_each(|gauges| gauges.reset());
        table.node_leases.reset();
        // So that they exist with every store.
        table.node_leases.with_label_values(&[OTHER]);
        of_nodes.iter().for_each(|gauges| drop(gauges.with_label_values(&[OTHER])));
        if nodes.is_empty() {
            table.nodes.with_label_values(&["all"]).set(1);
        }
        for (place, node) in nodes.iter().enumerate() {
            let name = if place < NODES_MAX { &*node.name } else { OTHER };
            table.nodes.with_label_values(&[&node.role]).inc();
            table.node_leases.with_label_values(&[name]).add(number(node.leases));
            for (gauges, time) in of_nodes.iter().zip([node.oldest, node.silent]) {
                let gauge = gauges.with_label_values(&[name]);
                gauge.set(gauge.get().max(time.as_secs_f64()));
            }
        }
    }

    /// Reads the kernel's figures of this process; missing ones stay 0.
    #[cfg(target_os = "linux")]
    fn note_process(&self) {
        let table = &self.table;
        let Ok(process) = procfs::process::Process::myself() else { return };
        if let Ok(stat) = process.stat() {
            let ticks = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
            table.cpu.inc_by((ticks(stat.utime + stat.stime) - table.cpu.get()).max(0.0));
            table.resident.set(number(stat.rss * procfs::page_size()));
            table.threads.set(stat.num_threads);
            if let Ok(booted) = procfs::boot_time_secs() {
                table.started.set(booted as f64 + ticks(stat.starttime));
            }
        }
        if let Ok(count) = process.fd_count() {
            table.open_files.set(number(count as u64));
        }
        if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            table.open_files_max.set(number(most));
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn note_process(&self) {}
}

/// The current values of gauges.
pub struct Readings<'a> {
    pub stages: &'a [Stage],
    pub lanes: &'a [Lane],
    pub file_bytes: &'a [(&'static str, u64)],
    /// Number of plugins in each state.
    pub plugins: &'a [(&'static str, u64)],
    /// Number of endpoints in each state.
    pub endpoints: &'a [(&'static str, u64)],
    /// None with SQLite.
    pub nodes: &'a [NodeReading],
    pub plugins_behind: u64,
    pub queued_bytes: u64,
    pub disk_bytes: u64,
    pub disk_free_bytes: u64,
    pub uptime: Duration,
}

/// One node of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReading {
    pub name: String,
    pub role: String,
    pub leases: u64,
    /// How long it has held its oldest item; zero if it holds nothing.
    pub oldest: Duration,
    /// Time since its last heartbeat.
    pub silent: Duration,
}

/// Waiting items of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    pub name: &'static str,
    pub depth: u64,
    /// How long the oldest has waited; zero if nothing waits.
    pub oldest: Duration,
}

/// Items of one stage in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    pub name: &'static str,
    pub items: u64,
    pub bytes: u64,
    pub limit_bytes: u64,
}

/// The metrics of one plugin.
pub struct PluginMeters {
    runs: [IntCounter; RunOutcome::ALL.len()],
    seconds: Histogram,
    memory: Histogram,
}

impl PluginMeters {
    /// Counts a run. One that did not start, because its plugin does not load, has taken no time.
    pub fn ran(&self, outcome: RunOutcome, took: Duration, memory_peak: u64) {
        self.runs[outcome as usize].inc();
        if outcome != RunOutcome::NotLoadable {
            self.seconds.observe(took.as_secs_f64());
            self.memory.observe(memory_peak as f64);
        }
    }
}

/// Outcomes of an attempt, as metrics distinguish them.
const ATTEMPT_OUTCOMES: [&str; 12] = [
    "1xx",
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "timed-out",
    "refused",
    "reset",
    "unreachable",
    "name-not-found",
    "blocked",
    "tls-failed",
];

/// The metrics of one endpoint.
pub struct EndpointMeters {
    name: String,
    attempts: IntCounterVec,
    /// Created when first needed, because most endpoints only answer 2xx.
    by_outcome: [OnceLock<IntCounter>; ATTEMPT_OUTCOMES.len()],
    /// 1 while its breaker is open.
    pub breaker_open: IntGauge,
}

impl EndpointMeters {
    /// Counts an attempt.
    pub fn attempted(&self, outcome: AttemptOutcome) {
        let place = outcome_place(outcome);
        let counter =
            self.by_outcome[place].get_or_init(|| self.attempts.with_label_values(&[&*self.name, ATTEMPT_OUTCOMES[place]]));
        counter.inc();
    }
}

fn outcome_place(outcome: AttemptOutcome) -> usize {
    match outcome {
        AttemptOutcome::Answered { status } | AttemptOutcome::BodyTooLarge { status } => {
            usize::from((status / 100).clamp(1, 5)) - 1
        }
        AttemptOutcome::TimedOut => 5,
        AttemptOutcome::Refused => 6,
        AttemptOutcome::Reset => 7,
        AttemptOutcome::Unreachable => 8,
        AttemptOutcome::NameNotFound => 9,
        AttemptOutcome::Blocked => 10,
        AttemptOutcome::TlsFailed => 11,
    }
}

/// Handles by name, up to a limit; all others share one.
struct Family<T> {
    most: usize,
    make: Box<dyn Fn(&str) -> T + Send + Sync>,
    made: RwLock<HashMap<Box<str>, Arc<T>>>,
}

impl<T> Family<T> {
    fn new(most: usize, make: impl Fn(&str) -> T + Send + Sync + 'static) -> Self {
        Self { most, make: Box::new(make), made: RwLock::default() }
    }

    fn get(&self, name: &str) -> Arc<T> {
        {
            let made = self.made.read().expect("no code panics while it makes a handle");
            let full = made.len() >= self.most;
            if let Some(handle) = made.get(name).or_else(|| if full { made.get(OTHER) } else { None }) {
                return Arc::clone(handle);
            }
        }
        let mut made = self.made.write().expect("no code panics while it makes a handle");
        let name = if made.len() < self.most { name } else { OTHER };
        Arc::clone(made.entry(name.into()).or_insert_with(|| Arc::new((self.make)(name))))
    }
}

/// Returns whether a source is a plain name that may be shown: CloudEvents allows any URI, which can contain anything.
fn is_plain(source: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_./".contains(&c);
    source.len() <= SOURCE_LEN_MAX && source.bytes().all(plain) && !source.contains("//")
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Creates each kind of metric. A name or label that breaks a rule of Prometheus fails the first test that counts anything.
mod make {
    use super::*;

    fn registered<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
        let made = made.expect("the table keeps the rules for names");
        registry.register(Box::new(made.clone())).expect("each name is in the table once");
        made
    }

    pub fn counter(registry: &Registry, opts: Opts) -> IntCounter {
        registered(registry, IntCounter::with_opts(opts))
    }

    pub fn counters(registry: &Registry, opts: Opts, labels: &[&str]) -> IntCounterVec {
        registered(registry, IntCounterVec::new(opts, labels))
    }

    pub fn number(registry: &Registry, opts: Opts) -> IntGauge {
        registered(registry, IntGauge::with_opts(opts))
    }

    pub fn numbers(registry: &Registry, opts: Opts, labels: &[&str]) -> IntGaugeVec {
        registered(registry, IntGaugeVec::new(opts, labels))
    }

    pub fn seconds(registry: &Registry, opts: Opts) -> Counter {
        registered(registry, Counter::with_opts(opts))
    }

    pub fn gauge(registry: &Registry, opts: Opts) -> Gauge {
        registered(registry, Gauge::with_opts(opts))
    }

    pub fn gauges(registry: &Registry, opts: Opts, labels: &[&str]) -> GaugeVec {
        registered(registry, GaugeVec::new(opts, labels))
    }

    pub fn histogram(registry: &Registry, opts: Opts, buckets: &[f64]) -> Histogram {
        registered(registry, Histogram::with_opts(HistogramOpts::from(opts).buckets(buckets.to_vec())))
    }

    pub fn histograms(registry: &Registry, opts: Opts, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        registered(registry, HistogramVec::new(HistogramOpts::from(opts).buckets(buckets.to_vec()), labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_become_labels() {
        for (source, plain) in [
            ("shop", true),
            ("plugin/ledger", true),
            ("eu.shop_1-a", true),
            ("https://shop.example/?token=1", false),
            ("//shop", false),
            ("a b", false),
            ("a?b=c", false),
            ("user@shop", false),
            ("ünïcode", false),
            (&"x".repeat(SOURCE_LEN_MAX + 1), false),
        ] {
            assert_eq!(is_plain(source), plain, "{source}");
        }
    }

    #[test]
    fn names_beyond_the_limit_share_one_handle() {
        let family = Family::new(2, str::to_owned);
        assert_eq!([&**family.get("a"), &**family.get("b"), &**family.get("c"), &**family.get("d")], ["a", "b", OTHER, OTHER]);
        assert_eq!((&**family.get("a"), &**family.get("b")), ("a", "b"), "the first names keep their handles");
        assert!(Arc::ptr_eq(&family.get("c"), &family.get("e")));
    }

    #[test]
    fn every_way_to_end_has_a_place() {
        let places = [
            (AttemptOutcome::Answered { status: 204 }, "2xx"),
            (AttemptOutcome::Answered { status: 101 }, "1xx"),
            (AttemptOutcome::Answered { status: 999 }, "5xx"),
            (AttemptOutcome::BodyTooLarge { status: 200 }, "2xx"),
            (AttemptOutcome::TimedOut, "timed-out"),
            (AttemptOutcome::Refused, "refused"),
            (AttemptOutcome::Reset, "reset"),
            (AttemptOutcome::Unreachable, "unreachable"),
            (AttemptOutcome::NameNotFound, "name-not-found"),
            (AttemptOutcome::Blocked, "blocked"),
            (AttemptOutcome::TlsFailed, "tls-failed"),
        ];
        for (outcome, word) in places {
            assert_eq!(ATTEMPT_OUTCOMES[outcome_place(outcome)], word);
            assert!(outcome.status().is_some() || outcome.as_str() == word, "the same word as everywhere");
        }
        for (place, outcome) in RunOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place, "counters stand in the order of the outcomes");
        }
    }
}
