//! How much a plugin may have and take. Every bound has a name, a unit and a reason.

use std::{num::NonZero, thread, time::Duration};

/// What the sandbox as a whole is set to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What a run may take, where nobody says otherwise for a plugin.
    pub limits: Limits,
    /// The largest file, in bytes. Python brings 18 to 38 MiB, JavaScript 8 to 14, Rust a tenth of one; compiling takes time
    /// and memory by size, so there is an end.
    pub plugin_bytes_max: usize,
    /// How many runs can be at once; more wait for their turn. Each has a place in the pool, reserved once at start.
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

/// What one run may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time from start to answer. A plugin takes microseconds; a second is a mistake, or a machine in trouble.
    pub deadline: Duration,
    /// Bytes of all linear memories and tables together. Generous for Rust, which starts at about one MiB.
    pub memory_bytes: usize,
    /// The same for big components (see [`Limits::BIG_CODE_BYTES`]), which bring a JavaScript or Python engine along.
    pub big_memory_bytes: usize,
    /// Bytes that cross from the guest in one call: above all what it returns. Each webhook is stored before it is sent. More than
    /// twice the default of `limits.body_bytes_max`: what is accepted must fit through a plugin that changes nothing, and a form or
    /// document may double as it becomes JSON.
    pub output_bytes: usize,
    /// Webhooks that one run may ask for; each becomes a delivery row.
    pub webhooks: usize,
    /// Events that one run may emit; each may run plugins again.
    pub events: usize,
    /// Log lines that are kept with a run; the rest is counted.
    pub log_lines: usize,
    /// Bytes of all kept log lines together.
    pub log_bytes: usize,
    /// Keys of its state that one run may read or write; each is checked when the event commits.
    pub state_keys: usize,
    /// Bytes of one value. State is for counters and cursors, not for documents.
    pub state_value_bytes: usize,
    /// Bytes of one key.
    pub state_key_bytes: usize,
}

impl Limits {
    /// Code and data beyond this many bytes make a component a big one: it brings an interpreter along.
    pub const BIG_CODE_BYTES: usize = 2 << 20;
    /// Where one log line is cut. Longer ones are data, which belongs elsewhere.
    pub const LOG_LINE_BYTES: usize = 4 << 10;
    /// Where the message of a plugin's own failure is cut, in bytes.
    pub const MESSAGE_BYTES: usize = 2 << 10;
    /// Where the code of a plugin's own failure is cut, in bytes.
    pub const CODE_BYTES: usize = 64;
    /// How long one run may wait for reads of state, all together. It does not count towards [`Limits::deadline`], and ends well before the lease
    /// of the run's event; a run that is not answered by then is tried again.
    pub const STATE_WAIT: Duration = Duration::from_secs(60);
    /// What a plugin may nest its calls to, in bytes; wasmtime's default, which every worker thread's stack has room for.
    pub const STACK_BYTES: usize = 512 << 10;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(1),
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

/// A size as people read it: `64 MiB`, `1500 B`.
pub(super) fn size(bytes: usize) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes.is_multiple_of(unit) => format!("{} {name}", bytes / unit),
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// A duration as people read it: `1 s`, `250 ms`.
pub(super) fn time(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis > 0 && millis.is_multiple_of(1000) { format!("{} s", millis / 1000) } else { format!("{millis} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!(size(64 << 20), "64 MiB");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(12), "12 B");
        assert_eq!(time(Duration::from_secs(1)), "1 s");
        assert_eq!(time(Duration::from_millis(250)), "250 ms");
    }
}
