//! The log of a run, within its limits: a flood is counted, not stored.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::limits::Limits;
use crate::domain::run::{LogLevel, LogLine, RunLog};

/// The prefix of the line that the SDK's panic hook writes.
const PANIC: &str = "panicked at ";

/// The log of a run so far. Shared, because a guest with WASI also writes to its standard streams.
#[derive(Clone)]
pub struct SharedLog(Arc<Mutex<Log>>);

struct Log {
    kept: RunLog,
    lines_max: usize,
    bytes_left: usize,
    /// The last panic, stored even after a flood, because it explains the trap.
    panic: Option<String>,
}

impl SharedLog {
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Mutex::new(Log {
            kept: RunLog::default(),
            lines_max: limits.log_lines,
            bytes_left: limits.log_bytes,
            panic: None,
        })))
    }

    pub fn write(&self, level: LogLevel, message: &str) {
        self.lock().write(level, message, Vec::new());
    }

    /// Writes a line with fields. The bytes of the fields count like those of the text.
    pub fn write_with(&self, level: LogLevel, message: &str, fields: Vec<(String, String)>) {
        self.lock().write(level, message, fields);
    }

    /// Takes the text of the panic that the guest logged, if any. The text becomes the message of the run, so its line is removed
    /// from the end of the log.
    pub fn take_panic(&self) -> Option<String> {
        let mut log = self.lock();
        let panic = log.panic.take()?;
        if log.kept.lines.last().is_some_and(|line| line.message == panic) {
            log.kept.lines.pop();
        }
        Some(panic)
    }

    /// Returns the log and empties it.
    pub fn take(&self) -> RunLog {
        std::mem::take(&mut self.lock().kept)
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn write(&mut self, level: LogLevel, message: &str, fields: Vec<(String, String)>) {
        if message.starts_with(PANIC) {
            self.panic = Some(printable(message, Limits::MESSAGE_BYTES));
        }
        if self.kept.lines.len() == self.lines_max || self.bytes_left == 0 {
            self.kept.dropped += 1;
            return;
        }
        let message = printable(message, Limits::LOG_LINE_BYTES.min(self.bytes_left));
        self.bytes_left -= message.len();
        let mut kept = Vec::new();
        for (name, value) in fields.into_iter().take(Limits::LOG_FIELDS) {
            let room = (Limits::LOG_LINE_BYTES - message.len()).min(self.bytes_left);
            let name = printable(&name, room.min(Limits::CODE_BYTES)).replace(['\n', '\t'], " ");
            let value = printable(&value, room - name.len());
            if name.is_empty() || room == name.len() {
                break;
            }
            self.bytes_left -= name.len() + value.len();
            kept.push((name, value));
        }
        self.kept.lines.push(LogLine { level, message, fields: kept });
    }
}

/// Makes a guest's text safe to show: cut at `bytes_max`, and without control characters (which could draw on a terminal) except
/// line breaks and tabs.
pub fn printable(text: &str, bytes_max: usize) -> String {
    let mut kept = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')) {
        if kept.len() + c.len_utf8() > bytes_max {
            break;
        }
        kept.push(c);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_a_long_line_is_cut() {
        let log = SharedLog::new(&Limits { log_lines: 3, log_bytes: 6 << 10, ..Limits::default() });
        log.write(LogLevel::Info, &"é".repeat(4000));
        log.write(LogLevel::Info, &"x".repeat(4000));
        log.write(LogLevel::Info, "no room left");
        log.write(LogLevel::Error, "panicked at src/lib.rs:1:1: late");
        let kept = log.take();
        let lengths: Vec<_> = kept.lines.iter().map(|line| line.message.len()).collect();
        assert_eq!((lengths, kept.dropped), (vec![4096, 2048], 2));
        assert_eq!(log.take_panic().as_deref(), Some("panicked at src/lib.rs:1:1: late"));
    }

    #[test]
    fn the_log_line_of_a_panic_becomes_the_message_of_the_run() {
        let log = SharedLog::new(&Limits::default());
        log.write(LogLevel::Info, "before");
        log.write(LogLevel::Error, "panicked at src/lib.rs:1:1: late");
        assert_eq!(log.take_panic().as_deref(), Some("panicked at src/lib.rs:1:1: late"));
        assert_eq!(log.take().lines.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["before"]);
        assert_eq!(log.take_panic(), None);
    }

    #[test]
    fn facts_of_a_line_count_towards_its_limits() {
        let log = SharedLog::new(&Limits { log_bytes: 40, ..Limits::default() });
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        log.write_with(LogLevel::Info, "order", vec![pair("id", "7"), pair("", "x"), pair("late", "y")]);
        log.write_with(LogLevel::Info, "order", vec![pair("id", &"7".repeat(99)), pair("no", "room")]);
        log.write_with(LogLevel::Info, "dropped", vec![]);
        let kept = log.take();
        assert_eq!(kept.lines[0].fields, [pair("id", "7")]);
        assert_eq!((kept.lines[1].fields.as_slice(), kept.dropped), (&[pair("id", &"7".repeat(25))][..], 1));
        let log = SharedLog::new(&Limits::default());
        log.write_with(LogLevel::Info, "many", (0..99).map(|number| pair(&number.to_string(), "x")).collect());
        assert_eq!(log.take().lines[0].fields.len(), Limits::LOG_FIELDS);
    }

    #[test]
    fn removes_control_characters() {
        assert_eq!(printable("a\x1b[31mred\r\n\tb\u{9b}", 100), "a[31mred\n\tb");
    }
}
