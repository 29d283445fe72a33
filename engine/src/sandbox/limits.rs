//! What one run may use. Each limit has a unit, a default and the reason for it.

use std::time::Duration;

/// Limits of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time. 1 s: a transform takes microseconds; what takes longer is broken.
    pub deadline: Duration,
    /// Bytes of all its memories and tables together. 64 MiB: ten times what parsing a large body needs.
    pub memory_bytes: usize,
    /// Bytes that it returns, and that it passes in one call. 4 MiB: larger than any webhook a receiver takes.
    pub output_bytes: usize,
    /// Webhooks that it asks for. 1,000: a fan-out, not a flood.
    pub webhooks: usize,
    /// Events that it emits. 1,000, as above.
    pub events: usize,
    /// Log lines that are kept; more are counted and dropped.
    pub log_lines: usize,
    /// Bytes of one log line and of all together; more is cut off. 64 KiB: a run's log is read by a person.
    pub log_bytes: usize,
    /// Different state keys that it touches. 64: state is small things.
    pub state_keys: usize,
    /// Bytes of one state key.
    pub state_key_bytes: usize,
    /// Bytes of one state value.
    pub state_value_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(1),
            memory_bytes: 64 << 20,
            output_bytes: 4 << 20,
            webhooks: 1_000,
            events: 1_000,
            log_lines: 100,
            log_bytes: 64 << 10,
            state_keys: 64,
            state_key_bytes: 256,
            state_value_bytes: 64 << 10,
        }
    }
}
