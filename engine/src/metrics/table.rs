//! The table of all metrics: name, kind, labels, meaning, and the buckets of histograms.

use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Seconds of one run: most runs take microseconds, and the default deadline is 1 s.
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
/// Seconds from acceptance to delivery: from milliseconds to an hour of retries.
const END_TO_END_SECONDS: &[f64] =
    &[0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0];
/// Seconds of one commit: a fast disk needs half a millisecond, a slow one seconds.
const COMMIT_SECONDS: &[f64] = &[0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
/// Bytes of run results in one batch of the settler: up to 8 MiB, or one larger result.
const SETTLEMENT_BYTES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 4e6, 8.4e6, 1.7e7, 3.4e7];
/// Jobs that share a commit.
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
        pub(super) struct Table { $(pub(super) $field: kind!($kind)),* }

        impl Table {
            pub(super) fn new(registry: &Registry) -> Self {
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
    plugins = numbers(&["state"]) "innesco_plugins" "Plugins: serving, disabled, held (failed too often), refused (a newer file is not used), not-loadable; and files that are not plugins (broken)";

    attempts = counters(&["endpoint", "outcome"]) "innesco_attempts_total" "Attempts, by outcome; answers by the class of their status";
    attempt_seconds = histogram(ATTEMPT_SECONDS) "innesco_attempt_seconds" "Duration of attempts";
    breaker_open = numbers(&["endpoint"]) "innesco_endpoint_breaker_open" "1 while the circuit breaker of the endpoint is open";
    endpoints = numbers(&["state"]) "innesco_endpoints" "Endpoints by state";
    created = counter() "innesco_deliveries_created_total" "Created deliveries";
    delivered = counter() "innesco_deliveries_delivered_total" "Delivered deliveries";
    dead = counters(&["reason"]) "innesco_deliveries_dead_total" "Dead deliveries, by reason";
    end_to_end_seconds = histogram(END_TO_END_SECONDS) "innesco_end_to_end_seconds" "Time from the acceptance of an event to its delivery, including retries and replays";

    depth = numbers(&["stage"]) "innesco_queue_depth" "Waiting items in memory and on disk: events, deferred runs, parked runs, deliveries, dead deliveries";
    oldest = gauges(&["stage"]) "innesco_queue_oldest_seconds" "Age of the oldest item: an event since its acceptance, a run or delivery since it was due, a dead delivery since it became dead";
    handoff_items = numbers(&["stage"]) "innesco_handoff_items" "Items in memory between commit and workers, including those in progress";
    handoff_bytes = numbers(&["stage"]) "innesco_handoff_bytes" "Bytes in memory between commit and workers, including items in progress";
    handoff_limit_bytes = numbers(&["stage"]) "innesco_handoff_limit_bytes" "Limit of bytes in memory between commit and workers; further items wait on disk";

    commit_seconds = histograms(&["kind"], COMMIT_SECONDS) "innesco_store_commit_seconds" "Duration of commits; only those of the kind promise are synced to disk";
    commit_jobs = histogram(COMMIT_JOBS) "innesco_store_commit_jobs" "Number of jobs per commit";
    settlement_batch_bytes = histogram(SETTLEMENT_BYTES) "innesco_settlement_batch_bytes" "Bytes of run results in one batch";
    commit_failures = counter() "innesco_store_commit_failures_total" "Failed commits, which had no effect";
    queued_bytes = number() "innesco_store_queued_bytes" "Bytes waiting to be written";
    file_bytes = numbers(&["file"]) "innesco_store_file_bytes" "Size of the store's files";
    disk_bytes = number() "innesco_disk_bytes" "Size of the disk that holds the data folder";
    disk_free_bytes = number() "innesco_disk_free_bytes" "Free space of the disk that holds the data folder";

    nodes = numbers(&["role"]) "innesco_nodes" "Live nodes by role; 1 with SQLite";
    node_leases = numbers(&["node"]) "innesco_node_leases" "Events, runs and deliveries that a node holds";
    node_oldest = gauges(&["node"]) "innesco_node_oldest_seconds" "How long a node has held its oldest event, run or delivery";
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

/// Creates each kind of metric. A name or label that breaks a rule of Prometheus causes a panic, so the first test that counts
/// anything fails.
mod make {
    use prometheus::{
        Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
        Registry, core::Collector,
    };

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
