//! Limits of plugins. Every limit has a name, a unit and a reason.

use std::{num::NonZero, thread, time::Duration};

/// Settings of the whole sandbox.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Default limits of a run.
    pub limits: Limits,
    /// Maximum file size, in bytes. Plugins in Python have 18 to 38 MiB, those in JavaScript 8 to 14 MiB, those in Rust half a
    /// MiB. The time and memory of compiling grow with the size.
    pub plugin_bytes_max: usize,
    /// Maximum number of concurrent runs; further runs wait. Each concurrent run has a place in the pool, which is reserved at
    /// start.
    pub threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            plugin_bytes_max: 64 << 20,
            threads: thread::available_parallelism().map_or(2, NonZero::get),
        }
    }
}

/// The time that counts towards [`Limits::deadline`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timed {
    /// Elapsed time, so that a run never occupies its thread for longer than the deadline.
    #[default]
    Elapsed,
    /// Processor time, so that the outcome does not depend on what else the machine does.
    Processor,
}

/// Limits of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum time from start to answer, measured as `timed` says. A plugin takes microseconds; a second means a bug or an
    /// overloaded machine.
    pub deadline: Duration,
    /// What the deadline measures.
    pub timed: Timed,
    /// Maximum size of all linear memories and tables together, in bytes. The default is generous for a plugin in Rust, which
    /// starts with about one MiB.
    pub memory_bytes: usize,
    /// `memory_bytes` of big components (see [`Limits::BIG_CODE_BYTES`]), which contain a JavaScript or Python engine.
    pub big_memory_bytes: usize,
    /// Maximum number of bytes that the guest passes in one call: mainly its result. Each webhook is stored before it is sent.
    /// The default is more than twice that of `limits.body_bytes_max`: an accepted event must fit through a plugin that changes
    /// nothing, and a form or document may double when it becomes JSON.
    pub output_bytes: usize,
    /// Maximum number of webhooks of one run; each becomes a delivery row.
    pub webhooks: usize,
    /// Maximum number of events that one run may emit; each may run plugins again.
    pub events: usize,
    /// Maximum number of log lines stored with a run. Further lines are only counted.
    pub log_lines: usize,
    /// Maximum size of all stored log lines together, in bytes.
    pub log_bytes: usize,
    /// Maximum number of state keys that one run may read or write; each is checked when the event commits.
    pub state_keys: usize,
    /// Maximum size of one value, in bytes. State is for counters and cursors, not for documents.
    pub state_value_bytes: usize,
    /// Maximum size of one key, in bytes.
    pub state_key_bytes: usize,
}

impl Limits {
    /// Above this size of code and data, in bytes, a component counts as big: it contains an interpreter.
    pub const BIG_CODE_BYTES: usize = 2 << 20;
    /// Maximum length of a log line, in bytes; a longer line is cut. Longer text is data, not a log line.
    pub const LOG_LINE_BYTES: usize = 4 << 10;
    /// Maximum number of fields (name and value) of one log line; more are dropped.
    pub const LOG_FIELDS: usize = 32;
    /// Maximum length of the message of a failure that a plugin returns, in bytes; a longer message is cut.
    pub const MESSAGE_BYTES: usize = 2 << 10;
    /// Maximum length of the code of a failure that a plugin returns, in bytes; a longer code is cut.
    pub const CODE_BYTES: usize = 64;
    /// Total time that one run may wait for reads of state. It does not count towards [`Limits::deadline`], and is much shorter
    /// than the lease of the run's event. A run whose reads take longer is tried again.
    pub const STATE_WAIT: Duration = Duration::from_secs(60);
    /// Maximum stack of a plugin's calls, in bytes; wasmtime's default. The stack of every worker thread has room for it.
    pub const STACK_BYTES: usize = 512 << 10;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(1),
            timed: Timed::Elapsed,
            memory_bytes: 64 << 20,
            big_memory_bytes: 256 << 20,
            output_bytes: 20 << 20,
            webhooks: 1000,
            events: 1000,
            log_lines: 100,
            log_bytes: 64 << 10,
            state_keys: 64,
            state_value_bytes: 64 << 10,
            state_key_bytes: 256,
        }
    }
}

/// Formats a size: `64 MiB`, `1500 B`.
pub(super) fn size(bytes: usize) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes.is_multiple_of(unit) => format!("{} {name}", bytes / unit),
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// Formats a duration: `1 s`, `250 ms`.
pub(super) fn time(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis > 0 && millis.is_multiple_of(1000) { format!("{} s", millis / 1000) } else { format!("{millis} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_sizes_and_times() {
        assert_eq!(size(64 << 20), "64 MiB");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(12), "12 B");
        assert_eq!(time(Duration::from_secs(1)), "1 s");
        assert_eq!(time(Duration::from_millis(250)), "250 ms");
    }
}
