//! Values that are measured only when metrics are read: queues, nodes, sizes.

use std::time::Duration;

/// The current values of gauges.
pub struct Readings<'a> {
    pub stages: &'a [StageReading],
    pub queues: &'a [QueueReading],
    pub file_bytes: &'a [(&'static str, u64)],
    /// Number of plugins in each state.
    pub plugins: &'a [(&'static str, u64)],
    /// Number of endpoints in each state.
    pub endpoints: &'a [(&'static str, u64)],
    /// Empty with SQLite.
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
    /// How long the node has held its oldest item; zero if it holds nothing.
    pub oldest: Duration,
    /// Time since its last heartbeat.
    pub silent: Duration,
}

/// Waiting items of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageReading {
    pub name: &'static str,
    pub depth: u64,
    /// How long the oldest item has waited; zero if no item waits.
    pub oldest: Duration,
}

/// Items of one stage in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueReading {
    pub name: &'static str,
    pub items: u64,
    pub bytes: u64,
    pub limit_bytes: u64,
}
