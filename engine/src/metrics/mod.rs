//! The metrics of `/metrics`.
//!
//! `table.rs` lists every metric: name, labels, meaning. Each handle is created once and held by its users, so counting is one
//! addition in memory. A plugin's handle is in its catalog entry, an endpoint's in the recorder and in its throttle. Labels are
//! bounded: names beyond a limit count together as `other`. Text from callers becomes a label only if it looks like a plain name,
//! so no URL, secret or payload shows up.
//!
//! Metrics belong to the process and are reached through a function, like the clock. Passing them through every signature would
//! add nothing, since a process runs one engine. The crate `prometheus` was chosen because its histograms are plain counters;
//! `metrics-exporter-prometheus` keeps every sample until the next scrape. All counting for one event takes about 0.2 µs.

mod handles;
mod readings;
mod table;
mod tally;

use std::sync::{Arc, LazyLock};

use prometheus::{Histogram, IntCounter, Registry, TextEncoder};

pub use self::{
    handles::{EndpointMeters, PluginMeters},
    readings::{NodeReading, QueueReading, Readings, StageReading},
    table::NAMES,
    tally::Tally,
};
use self::{
    handles::{Family, is_plain},
    table::Table,
};
use crate::domain::{delivery::DeadReason, run::RunOutcome};

/// Maximum number of sources with a separate line. Few, because callers choose their names.
const SOURCES_MAX: usize = 50;
/// Maximum number of plugins with separate lines: each has about forty.
const PLUGINS_MAX: usize = 100;
/// Maximum number of endpoints with separate lines: each has up to a dozen.
const ENDPOINTS_MAX: usize = 200;
/// Maximum number of nodes with separate lines.
const NODES_MAX: usize = 100;
/// The label of all names beyond the limits above.
pub const OTHER: &str = "other";

/// All metrics; [`meters`] returns them.
pub struct Meters {
    registry: Registry,
    table: Table,
    /// Counters of accepted events, by source.
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
    /// Counts for the statistics over time.
    pub tally: Tally,
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
            tally: Tally::default(),
            registry,
            table,
        }
    }

    /// Returns the counter of accepted events of a source.
    pub fn accepted(&self, source: &str) -> Arc<IntCounter> {
        self.sources.get(if is_plain(source) { source } else { OTHER })
    }

    /// Returns the metrics of a plugin. The catalog holds this handle.
    pub fn plugin(&self, name: &str) -> Arc<PluginMeters> {
        self.plugins.get(name)
    }

    /// Returns the metrics of an endpoint. The recorder and the throttle hold this handle.
    pub fn endpoint(&self, name: &str) -> Arc<EndpointMeters> {
        self.endpoints.get(name)
    }

    /// Creates a counter for each error code and for each reason why a source refuses a request, so that the first refusal is an
    /// increase from 0.
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

    /// Counts a request that a source refused. The reason is one of those passed to [`Self::expect_refusals`].
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
        for queue in now.queues {
            table.handoff_items.with_label_values(&[queue.name]).set(number(queue.items));
            table.handoff_bytes.with_label_values(&[queue.name]).set(number(queue.bytes));
            table.handoff_limit_bytes.with_label_values(&[queue.name]).set(number(queue.limit_bytes));
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
            // Only a name or label that breaks a rule can cause this, and every name and label is in the table.
            tracing::error!(%error, "metrics could not be written");
            String::new()
        })
    }

    /// Replaces the lines of all nodes, so that a node that left has none.
    fn note_nodes(&self, nodes: &[NodeReading]) {
        let table = &self.table;
        table.nodes.reset();
        let of_nodes = [&table.node_oldest, &table.node_silent];
        of_nodes.iter().for_each(|gauges| gauges.reset());
        table.node_leases.reset();
        // These lines exist even without nodes, so that SQLite and Postgres have the same metrics.
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

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
