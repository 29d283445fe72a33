//! Where in a plugin's source a run failed.
//!
//! A run that fails records only the offsets of its frames in the code. After the run has ended, its version's table of lines
//! ([`Lines`]) turns these offsets into text. The table is read from the cache at the first failure, and stays in memory. The texts
//! of the most recent places stay in memory too, so a flood of failures at one place costs only look-ups.

use std::{
    collections::HashMap,
    num::NonZero,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use wasmtime::WasmBacktrace;

use super::lines::{Line, Lines};

/// Maximum number of frames that a failed run records. The first frames of a panic belong to Rust's standard library.
pub const RECORDED_MAX: NonZero<usize> = NonZero::new(32).expect("it is not zero");
/// Maximum number of lines in a backtrace.
pub const LINES_MAX: usize = 16;
/// Maximum number of backtraces that a version keeps as text. A plugin fails at a few places.
const KEPT_MAX: usize = 64;

/// Returns the offsets of the frames in which a call ended, innermost first.
pub fn offsets(error: &wasmtime::Error) -> Vec<u32> {
    let frames = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    frames.iter().filter_map(|frame| u32::try_from(frame.module_offset()?).ok()).collect()
}

/// Reads the bytes of a table of lines, if it is still stored.
pub type ReadLines = Box<dyn Fn() -> Option<Vec<u8>> + Send + Sync>;

/// The lines of source of one version: turns offsets in its code into lines.
pub struct SourceLines {
    read: ReadLines,
    lines: OnceLock<Option<Lines>>,
    kept: Mutex<HashMap<Vec<u32>, Arc<[String]>>>,
}

impl SourceLines {
    /// Creates the lines of a version. `read` returns the bytes of its table.
    pub fn new(read: ReadLines) -> Self {
        Self { read, lines: OnceLock::new(), kept: Mutex::default() }
    }

    /// Returns the backtrace of a failed run, innermost line first; empty if the version has no debug information.
    pub fn backtrace(&self, offsets: Vec<u32>) -> Arc<[String]> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if offsets.is_empty() {
            return Arc::default();
        }
        if let Some(known) = kept().get(&offsets) {
            return Arc::clone(known);
        }
        let Some(lines) = self.lines.get_or_init(|| Lines::read((self.read)()?)) else { return Arc::default() };
        let all: Vec<Line> = offsets.iter().flat_map(|offset| lines.at(*offset)).collect();
        let text: Arc<[String]> = texts(&all).into();
        let mut kept = kept();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(offsets, Arc::clone(&text));
        text
    }
}

/// Formats the lines that help the author of a plugin: those of Rust and of the SDK are left out, unless there are no others.
fn texts(all: &[Line]) -> Vec<String> {
    let of_author = all.iter().any(|line| !line.is_glue);
    let mut texts: Vec<String> = Vec::new();
    let mut repeated = false;
    for line in all.iter().filter(|line| !(of_author && line.is_glue)).map(text).filter(|text| !text.is_empty()) {
        if texts.last() == Some(&line) {
            repeated = true;
            continue;
        }
        mark(&mut texts, std::mem::take(&mut repeated));
        if texts.len() == LINES_MAX {
            return texts;
        }
        texts.push(line);
    }
    mark(&mut texts, repeated);
    texts
}

fn mark(texts: &mut [String], repeated: bool) {
    if let Some(last) = texts.last_mut().filter(|_| repeated) {
        last.push_str(", repeated");
    }
}

fn text(Line { function, file, line, .. }: &Line) -> String {
    let place = if *line == 0 { file.clone() } else { format!("{file}:{line}") };
    match (function.is_empty(), file.is_empty()) {
        (false, true) => function.clone(),
        (true, false) => place,
        (false, false) => format!("{function} ({place})"),
        (true, true) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(function: &str, file: &str, line: u32, is_glue: bool) -> Line {
        Line { function: function.into(), file: file.into(), line, is_glue }
    }

    #[test]
    fn a_backtrace_has_the_lines_of_its_author() {
        let panic = line("core::panicking::panic_fmt", "core/src/panicking.rs", 80, true);
        let own = line("orders::total", "src/lib.rs", 7, false);
        let export = line("_export_handle_cabi", "innesco-sdk/src/bindings.rs", 3, true);
        assert_eq!(texts(&[panic.clone(), own.clone(), export.clone()]), ["orders::total (src/lib.rs:7)"]);
        assert_eq!(
            texts(&[panic.clone(), export]),
            ["core::panicking::panic_fmt (core/src/panicking.rs:80)", "_export_handle_cabi (innesco-sdk/src/bindings.rs:3)"],
            "better than none"
        );
        let named = line("orders::total", "", 0, false);
        assert_eq!(texts(&[named, line("", "src/lib.rs", 8, false)]), ["orders::total", "src/lib.rs:8"]);
    }

    #[test]
    fn recursion_is_one_line() {
        let mut all = vec![line("orders::down", "src/lib.rs", 7, false); 30];
        all.push(line("orders::handle", "src/lib.rs", 3, false));
        assert_eq!(texts(&all), ["orders::down (src/lib.rs:7), repeated", "orders::handle (src/lib.rs:3)"]);
        let many: Vec<Line> = (0..40).map(|number| line("f", "src/lib.rs", number + 1, false)).collect();
        assert_eq!(texts(&many).len(), LINES_MAX);
    }

    #[test]
    fn a_table_is_read_once_and_only_after_a_failure() {
        let reads = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&reads);
        let source = SourceLines::new(Box::new(move || {
            *counted.lock().unwrap() += 1;
            None
        }));
        assert!(source.backtrace(Vec::new()).is_empty());
        assert_eq!(*reads.lock().unwrap(), 0);
        assert!(source.backtrace(vec![7]).is_empty() && source.backtrace(vec![8]).is_empty());
        assert_eq!(*reads.lock().unwrap(), 1);
    }
}
