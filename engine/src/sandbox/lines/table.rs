//! The table of lines: built where a file is compiled, stored beside its code, searched after a failure.
//!
//! Numbers are little-endian and 32 bits wide. A table contains in this order:
//!
//! 1. [`MAGIC`], the number of entries, the number of lines, the number of texts
//! 2. the entries, sorted by offset. An entry is an offset and the number of its first line, or [`NONE`] if it has no line.
//! 3. the lines. A line consists of the numbers of its function and its file, the number of the line in the file, and flags.
//! 4. the end of each text in part 5
//! 5. the texts

use std::{collections::HashMap, fmt::Write as _, hash::Hash};

use super::{
    dwarf::{self, Budget, Facts, Place, Row, Scope, ScopeKind, Unreadable},
    parts::{CoreModule, core_modules},
    path,
};
use crate::sandbox::log::printable;

/// The first number of each table. Identifies this form; tables of other forms are ignored.
const MAGIC: u32 = u32::from_le_bytes(*b"iln1");
const NONE: u32 = u32::MAX;
/// Maximum size of a table, in bytes. A plugin of 1 MiB has a table of about 2 MiB.
const TABLE_BYTES_MAX: usize = 8 << 20;
/// Maximum number of functions inlined in each other. Deeper ones are left out.
const LEVELS_MAX: usize = 64;
/// Maximum length of a function's name, in bytes; a longer name is cut.
const FUNCTION_BYTES: usize = 160;
/// Flag of a line that was inlined: the next line in the table is the line of its caller.
const HAS_MORE: u32 = 1;
/// Flag of a line that is part of Rust or of the SDK.
const IS_GLUE: u32 = 2;

const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 8;
const LINE_BYTES: usize = 16;

/// A place in a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Empty if it is not known.
    pub function: String,
    /// Empty if it is not known.
    pub file: String,
    /// 0 if it is not known.
    pub line: u32,
    /// Whether it is part of Rust or of the SDK, which the author of a plugin does not change.
    pub is_glue: bool,
}

/// The texts of a table: names of functions, and paths of files as debug information has them.
pub struct Texts {
    functions: Numbered<String>,
    files: Numbered<String>,
    /// The number of each function, by its name in the linker's form.
    raw: HashMap<String, u32>,
    bytes: usize,
}

impl Default for Texts {
    fn default() -> Self {
        let mut texts = Self { functions: Numbered::default(), files: Numbered::default(), raw: HashMap::new(), bytes: 0 };
        // Number 0 stands for a text that is not known.
        texts.functions.number(String::new());
        texts.files.number(String::new());
        texts
    }
}

impl Texts {
    /// Returns the number of a function.
    pub fn function(&mut self, raw: &str, budget: &mut Budget) -> Result<u32, Unreadable> {
        if let Some(known) = self.raw.get(raw) {
            return Ok(*known);
        }
        // A name in the linker's form can expand to a thousand times its length.
        budget.step(1 + raw.len())?;
        self.weigh(raw.len() + FUNCTION_BYTES)?;
        let number = self.functions.number(function_name(raw));
        self.raw.insert(raw.to_owned(), number);
        Ok(number)
    }

    /// Returns the number of a file.
    pub fn file(&mut self, path: &str) -> Result<u32, Unreadable> {
        self.weigh(path.len())?;
        Ok(self.files.number(path.to_owned()))
    }

    fn weigh(&mut self, bytes: usize) -> Result<(), Unreadable> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > 4 * TABLE_BYTES_MAX { Err(Unreadable) } else { Ok(()) }
    }
}

/// Values in the order of their numbers. Each value occurs once.
struct Numbered<T> {
    values: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { values: Vec::new(), numbers: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash> Numbered<T> {
    fn number(&mut self, value: T) -> u32 {
        let next = self.values.len() as u32;
        *self.numbers.entry(value).or_insert_with_key(|value| {
            self.values.push(value.clone());
            next
        })
    }
}

/// Returns the name of a function as its author knows it: `<orders::Router as sdk::Plugin>::handle` is `orders::Router::handle`.
fn function_name(raw: &str) -> String {
    /// A text that accepts no more once it is long enough.
    struct Short(String);

    impl std::fmt::Write for Short {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.push_str(text);
            if self.0.len() > 4 * FUNCTION_BYTES { Err(std::fmt::Error) } else { Ok(()) }
        }
    }

    let mut name = Short(String::new());
    let _ = match rustc_demangle::try_demangle(raw) {
        // `{:#}` leaves out the hash.
        Ok(demangled) => write!(name, "{demangled:#}"),
        Err(_) => write!(name, "{raw}"),
    };
    let name = name.0;
    let short = name.strip_prefix('<').and_then(|rest| {
        let mut depth = 0_i32;
        let (mut of, mut end) = (None, None);
        for (at, c) in rest.char_indices() {
            match c {
                '<' => depth += 1,
                // The `>` of an arrow (`->`) closes nothing.
                '>' if !rest[..at].ends_with('-') => depth -= 1,
                ' ' if depth == 0 && rest[at..].starts_with(" as ") => of = of.or(Some(at)),
                _ => {}
            }
            if depth < 0 {
                end = Some(at);
                break;
            }
        }
        Some(format!("{}{}", &rest[..of?], &rest[end? + 1..]))
    });
    printable(short.as_deref().unwrap_or(&name), FUNCTION_BYTES).replace(['\n', '\t'], " ")
}

/// Builds the table of a component from its debug information. `stripped` is the same component as the compiler sees it. Returns
/// no bytes if nothing is known about its code.
pub fn build(component: &[u8], stripped: &[u8]) -> Vec<u8> {
    if component.len() == stripped.len() {
        return Vec::new();
    }
    let (with, without) = (core_modules(component), core_modules(stripped));
    let all = || with.iter().zip(&without);
    let table = table(all(), true).filter(|table| table.len() <= TABLE_BYTES_MAX);
    // If the debug information exceeds a limit, the names of functions may still be known.
    let table = table.or_else(|| table_of_names(all()));
    table.unwrap_or_default()
}

fn table_of_names<'a>(modules: impl Iterator<Item = (&'a CoreModule<'a>, &'a CoreModule<'a>)>) -> Option<Vec<u8>> {
    table(modules, false).filter(|table| table.len() <= TABLE_BYTES_MAX)
}

/// One line of a table: its function, and its place in the source.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Step {
    function: u32,
    place: Place,
}

/// Entries and lines so far.
#[derive(Default)]
struct Draft {
    texts: Texts,
    /// Offsets in the stripped component, each with the number of its chain of steps; 0 means no chain.
    entries: Vec<(u32, u32)>,
    chains: Numbered<Vec<Step>>,
    /// Number of steps in all chains.
    steps: usize,
    /// Paths of files in which the engine enters a plugin.
    entered: Vec<u32>,
}

fn table<'a>(modules: impl Iterator<Item = (&'a CoreModule<'a>, &'a CoreModule<'a>)>, reads_dwarf: bool) -> Option<Vec<u8>> {
    let (mut draft, mut budget) = (Draft::default(), Budget::new());
    draft.chains.number(Vec::new());
    for (with, without) in modules {
        let mut facts = match reads_dwarf {
            true => dwarf::read(with, &mut draft.texts, &mut budget).ok()?,
            false => Facts::default(),
        };
        let mut failed = false;
        with.names(|number, name| {
            let Some(body) = with.bodies.get(number).filter(|body| body.start >= with.code.start) else { return };
            let at = |offset: usize| (offset - with.code.start) as u32;
            match draft.texts.function(name, &mut budget) {
                Ok(function) => facts.scopes.push(Scope {
                    start: at(body.start),
                    end: at(body.end),
                    level: 0,
                    kind: ScopeKind::Named,
                    function,
                }),
                Err(Unreadable) => failed = true,
            }
        });
        if failed {
            return None;
        }
        draft.add(with, without.code.start as u32, facts, &mut budget).ok()?;
    }
    (draft.chains.values.len() > 1).then(|| draft.encode())
}

impl Draft {
    /// Adds what is known about a core module whose code section has its content at `base`.
    fn add(&mut self, module: &CoreModule<'_>, base: u32, facts: Facts, budget: &mut Budget) -> Result<(), Unreadable> {
        let Facts { mut rows, mut scopes } = facts;
        rows.sort_by_key(|row| row.at);
        scopes.sort_by_key(|scope| (scope.start, scope.level));
        let edges = scopes.iter().flat_map(|scope| [scope.start, scope.end]);
        let mut edges: Vec<u32> = rows.iter().map(|row| row.at).chain(edges).collect();
        edges.sort_unstable();
        edges.dedup();
        let (mut rows, mut scopes) = (rows.into_iter().peekable(), scopes.into_iter().peekable());
        let (mut place, mut active): (Place, Vec<Scope>) = (Place::default(), Vec::new());
        let first = self.entries.len();
        for at in edges {
            active.retain(|scope| scope.end > at);
            while let Some(scope) = scopes.next_if(|scope| scope.start <= at) {
                budget.step(1)?;
                if active.len() < LEVELS_MAX && scope.end > at {
                    active.push(scope);
                }
            }
            while let Some(Row { place: next, .. }) = rows.next_if(|row| row.at <= at) {
                place = next;
            }
            budget.step(1 + active.len())?;
            let steps = chain(&active, place);
            let (known, length) = (self.chains.values.len(), steps.len());
            let chain = self.chains.number(steps);
            if self.chains.values.len() > known {
                self.steps += length;
            }
            if self.entries[first..].last().is_none_or(|(_, last)| *last != chain) {
                self.entries.push((base.saturating_add(at), chain));
            }
            if self.entries.len() * ENTRY_BYTES + self.steps * LINE_BYTES > TABLE_BYTES_MAX {
                return Err(Unreadable);
            }
        }
        self.entries.push((base.saturating_add(module.code.len() as u32), 0));
        for body in module.entries() {
            let start = base.saturating_add(body.start.saturating_sub(module.code.start) as u32);
            let end = base.saturating_add(body.end.saturating_sub(module.code.start) as u32);
            let from = self.entries.partition_point(|(at, _)| *at < start);
            let inside = self.entries[from..].iter().take_while(|(at, _)| *at < end);
            let outermost = inside.filter_map(|(_, chain)| Some(self.chains.values[*chain as usize].last()?.place.file));
            for file in outermost.filter(|file| *file != 0) {
                if self.entered.last() != Some(&file) {
                    self.entered.push(file);
                }
            }
        }
        Ok(())
    }

    fn encode(mut self) -> Vec<u8> {
        // The engine enters a plugin in code that a macro of the SDK wrote into the plugin's crate.
        let entered = self.entered.iter().map(|file| self.texts.files.values[*file as usize].as_str());
        let own = entered.filter(|path| !path::shown(path, None).is_glue).find_map(path::crate_of).map(str::to_owned);
        let files: Vec<_> = self.texts.files.values.iter().map(|file| path::shown(file, own.as_deref())).collect();
        let mut texts: Numbered<String> = Numbered::default();
        texts.number(String::new());
        let (mut lines, mut starts, mut count) = (Vec::new(), vec![NONE], 0_u32);
        for chain in &self.chains.values[1..] {
            starts.push(count);
            count += chain.len() as u32;
            for (place, step) in chain.iter().enumerate() {
                let (function, file) = (&self.texts.functions.values[step.function as usize], &files[step.place.file as usize]);
                let is_glue = file.is_glue || is_glue(function);
                let flags = if place + 1 < chain.len() { HAS_MORE } else { 0 } | if is_glue { IS_GLUE } else { 0 };
                let (function, file) = (texts.number(function.clone()), texts.number(file.text.clone()));
                lines.extend([function, file, step.place.line, flags]);
            }
        }
        self.entries.sort_by_key(|(at, _)| *at);
        let mut numbers = vec![MAGIC, self.entries.len() as u32, count, texts.values.len() as u32];
        numbers.extend(self.entries.iter().flat_map(|(at, chain)| [*at, starts[*chain as usize]]));
        numbers.extend(lines);
        let mut end = 0_u32;
        numbers.extend(texts.values.iter().map(|text| {
            end += text.len() as u32;
            end
        }));
        let mut bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        texts.values.iter().for_each(|text| bytes.extend_from_slice(text.as_bytes()));
        bytes
    }
}

/// Returns the source lines of a place in the code, innermost first.
fn chain(active: &[Scope], mut place: Place) -> Vec<Step> {
    let mut chain = Vec::new();
    let named = active.iter().find(|scope| scope.kind == ScopeKind::Named).map_or(0, |scope| scope.function);
    for scope in active.iter().rev() {
        match scope.kind {
            ScopeKind::Inlined { call } => {
                chain.push(Step { function: scope.function, place });
                place = call;
            }
            // The linker's name has the whole path.
            ScopeKind::Function { is_whole_name } => {
                let function = if is_whole_name || named == 0 { scope.function } else { named };
                chain.push(Step { function, place });
                return chain;
            }
            ScopeKind::Named => {}
        }
    }
    if named != 0 || place != Place::default() {
        chain.push(Step { function: named, place });
    }
    chain
}

/// Returns whether a function whose file is not known is part of Rust or of the SDK.
fn is_glue(function: &str) -> bool {
    const BEGINNINGS: [&str; 9] =
        ["core::", "std::", "alloc::", "innesco_sdk::", "innesco:plugin/", "__", "rust_", "cabi_", "dlmalloc::"];
    BEGINNINGS.iter().any(|beginning| function.starts_with(beginning)) || function.contains("::__innesco_plugin::")
}

/// A table of lines, to search.
pub struct Lines(Vec<u8>);

impl Lines {
    /// Reads a table. Returns `None` if it is not complete, or has another form.
    pub fn read(bytes: Vec<u8>) -> Option<Self> {
        let lines = Self(bytes);
        let [magic, entries, steps, texts] = [0, 4, 8, 12].map(|at| lines.number(at));
        let numbers = HEADER_BYTES as u64
            + u64::from(entries?) * ENTRY_BYTES as u64
            + u64::from(steps?) * LINE_BYTES as u64
            + u64::from(texts?) * 4;
        (magic? == MAGIC && numbers <= lines.0.len() as u64).then_some(lines)
    }

    /// Returns the source lines of an offset in the compiled component: first the line of the code itself, then the lines at which
    /// this code was inlined.
    pub fn at(&self, offset: u32) -> Vec<Line> {
        let (entries, steps) = (self.count(4), self.count(8));
        let (mut low, mut high) = (0, entries);
        while low < high {
            let middle = low.midpoint(high);
            match self.number(HEADER_BYTES + middle * ENTRY_BYTES) {
                Some(at) if at <= offset => low = middle + 1,
                _ => high = middle,
            }
        }
        let Some(entry) = low.checked_sub(1) else { return Vec::new() };
        let first = self.number(HEADER_BYTES + entry * ENTRY_BYTES + 4).filter(|first| *first != NONE);
        let mut lines = Vec::new();
        for step in first.map_or(0..0, |first| first as usize..steps).take(LEVELS_MAX + 1) {
            let at = HEADER_BYTES + entries * ENTRY_BYTES + step * LINE_BYTES;
            let [function, file, line, flags] = [0, 4, 8, 12].map(|part| self.number(at + part).unwrap_or(0));
            let (function, file) = (self.text(function), self.text(file));
            lines.push(Line { function, file, line, is_glue: flags & IS_GLUE != 0 });
            if flags & HAS_MORE == 0 {
                break;
            }
        }
        lines
    }

    fn number(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.0.get(at..)?.first_chunk().copied()?))
    }

    fn count(&self, at: usize) -> usize {
        self.number(at).unwrap_or(0) as usize
    }

    fn text(&self, number: u32) -> String {
        let ends = HEADER_BYTES + self.count(4) * ENTRY_BYTES + self.count(8) * LINE_BYTES;
        let texts = ends + self.count(12) * 4;
        let end = |number: u32| self.number(ends + number as usize * 4).unwrap_or(0) as usize;
        let start = number.checked_sub(1).map_or(0, end);
        let text = self.0.get(texts + start..texts + end(number)).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }
}
