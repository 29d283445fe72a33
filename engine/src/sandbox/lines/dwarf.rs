//! Reads DWARF: which line of source each part of the code came from, and which functions were inlined there.
//!
//! The bytes are untrusted. Each loop here takes its steps from a [`Budget`], each list has a limit, and nothing recurses. A part
//! that cannot be read is left out.

use std::{collections::HashMap, time::Duration};

use gimli::{
    AttributeValue, DW_AT_abstract_origin, DW_AT_call_file, DW_AT_call_line, DW_AT_linkage_name, DW_AT_name, DW_AT_specification,
    DW_TAG_inlined_subroutine, DW_TAG_subprogram, DebuggingInformationEntry, Dwarf, EndianSlice, LineProgramHeader, LittleEndian,
    Unit, UnitSectionOffset,
};

use super::{parts::CoreModule, path, table::Texts};
use crate::clock;

/// Processor time for reading the debug information of one file. A plugin of 1 MiB takes a fiftieth of it.
const CPU: Duration = Duration::from_secs(2);
/// Steps between two checks of the clock.
const STEPS: u32 = 4096;
/// Maximum number of lines, functions, and places where functions were inlined, all together. A plugin of 1 MiB has a tenth of this
/// number.
const FACTS_MAX: usize = 1_000_000;
/// Maximum number of references from a function's entry to the entry that has the function's name. Compilers write two.
const REFERENCES_MAX: usize = 8;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// The debug information is broken, or takes more than its budget.
#[derive(Debug)]
pub struct Unreadable;

impl From<gimli::Error> for Unreadable {
    fn from(_: gimli::Error) -> Self {
        Self
    }
}

/// The work that may still be done.
pub struct Budget {
    began: Duration,
    steps: u32,
    facts: usize,
}

impl Budget {
    pub fn new() -> Self {
        Self { began: clock::thread_cpu(), steps: 0, facts: FACTS_MAX }
    }

    /// Takes steps from the budget.
    pub fn step(&mut self, steps: usize) -> Result<(), Unreadable> {
        self.steps = self.steps.saturating_add(u32::try_from(steps).unwrap_or(u32::MAX));
        if self.steps < STEPS {
            return Ok(());
        }
        self.steps = 0;
        if clock::thread_cpu().saturating_sub(self.began) > CPU { Err(Unreadable) } else { Ok(()) }
    }

    fn fact(&mut self) -> Result<(), Unreadable> {
        self.facts = self.facts.checked_sub(1).ok_or(Unreadable)?;
        self.step(1)
    }
}

/// A line of a source file. The file is given by its number in [`Texts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    pub file: u32,
    /// 0 if no line is known.
    pub line: u32,
}

/// An address and a place in the source: code from this address on came from this place, up to the next row.
#[derive(Clone, Copy)]
pub struct Row {
    pub at: u32,
    pub place: Place,
}

/// A range of code that belongs to a function.
#[derive(Clone, Copy)]
pub struct Scope {
    pub start: u32,
    pub end: u32,
    /// How deep it is nested: inlined functions are deeper than the one that contains them.
    pub level: u32,
    pub kind: ScopeKind,
    /// The number of the function's name in [`Texts`].
    pub function: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeKind {
    /// From the name section of a file without debug information.
    Named,
    /// From debug information. The name of the function may be only the last part of its path.
    Function { is_whole_name: bool },
    /// Inlined, at this place.
    Inlined { call: Place },
}

/// What is known about the code of a core module. Addresses count from the start of its code section.
#[derive(Default)]
pub struct Facts {
    pub rows: Vec<Row>,
    pub scopes: Vec<Scope>,
}

/// Reads the debug information of a core module.
///
/// # Errors
/// The debug information takes more than the budget. A broken part is no error; it is left out.
pub fn read(module: &CoreModule<'_>, texts: &mut Texts, budget: &mut Budget) -> Result<Facts, Unreadable> {
    let dwarf = Dwarf::load(|id| Ok::<_, Unreadable>(Bytes::new(module.section(id.name()), LittleEndian)))?;
    let code_len = u32::try_from(module.code.len()).map_err(|_| Unreadable)?;
    let mut reader = Reader { dwarf, code_len, texts, budget, facts: Facts::default(), named: HashMap::new(), open: Vec::new() };
    let mut units = reader.dwarf.units();
    while let Ok(Some(header)) = units.next() {
        reader.budget.step(STEPS as usize)?;
        let Ok(unit) = reader.dwarf.unit(header) else { continue };
        let files = reader.lines(&unit)?;
        reader.functions(&unit, &files)?;
    }
    reader.name_scopes()?;
    Ok(reader.facts)
}

/// A function as one entry describes it: its name, or a reference to the entry that has the name.
#[derive(Clone, Copy)]
struct Named {
    function: u32,
    is_whole: bool,
    origin: Option<usize>,
}

/// A scope whose function may be described later.
struct OpenScope {
    scope: Scope,
    entry: usize,
}

struct Reader<'a, 'b> {
    dwarf: Dwarf<Bytes<'a>>,
    code_len: u32,
    texts: &'b mut Texts,
    budget: &'b mut Budget,
    facts: Facts,
    /// Names of functions, by the offset of their entries.
    named: HashMap<usize, Named>,
    open: Vec<OpenScope>,
}

impl<'a> Reader<'a, '_> {
    /// Reads the lines of a unit. Returns the unit's files by their numbers.
    fn lines(&mut self, unit: &Unit<Bytes<'a>>) -> Result<HashMap<u64, u32>, Unreadable> {
        let mut files = HashMap::new();
        let Some(program) = unit.line_program.clone() else { return Ok(files) };
        let mut rows = program.rows();
        // The rows of a sequence count only once the sequence has ended: a function that the linker removed has no valid end.
        let mut sequence: Vec<Row> = Vec::new();
        while let Ok(Some((header, row))) = rows.next_row() {
            self.budget.fact()?;
            let at = u32::try_from(row.address()).unwrap_or(u32::MAX);
            if !row.end_sequence() {
                let file = self.file(unit, header, row.file_index(), &mut files)?;
                let line = row.line().and_then(|line| u32::try_from(line.get()).ok()).unwrap_or(0);
                sequence.push(Row { at, place: Place { file, line } });
                continue;
            }
            let begins = sequence.first().map_or(0, |row| row.at);
            if begins > 0 && begins < at && at <= self.code_len {
                self.facts.rows.append(&mut sequence);
                self.facts.rows.push(Row { at, place: Place::default() });
            }
            sequence.clear();
        }
        // Some files of the unit are in no row, but calls of inlined functions refer to them.
        let header = rows.header().clone();
        for number in 0..=header.file_names().len() as u64 {
            self.file(unit, &header, number, &mut files)?;
        }
        Ok(files)
    }

    fn file(
        &mut self,
        unit: &Unit<Bytes<'a>>,
        header: &LineProgramHeader<Bytes<'a>>,
        number: u64,
        files: &mut HashMap<u64, u32>,
    ) -> Result<u32, Unreadable> {
        if let Some(known) = files.get(&number) {
            return Ok(*known);
        }
        self.budget.fact()?;
        let text = |value: Option<AttributeValue<Bytes<'a>>>| {
            value
                .and_then(|value| self.dwarf.attr_string(unit, value).ok())
                .map(|text| text.to_string_lossy())
                .unwrap_or_default()
        };
        let found = header.file(number);
        let folder = text(found.and_then(|file| file.directory(header)));
        let name = text(found.map(gimli::FileEntry::path_name));
        let home = unit.comp_dir.map(|home| home.to_string_lossy()).unwrap_or_default();
        let file = if name.is_empty() { 0 } else { self.texts.file(&path::join([&home, &folder, &name]))? };
        files.insert(number, file);
        Ok(file)
    }

    /// Reads the functions of a unit, and where they were inlined.
    fn functions(&mut self, unit: &Unit<Bytes<'a>>, files: &HashMap<u64, u32>) -> Result<(), Unreadable> {
        let mut entries = unit.entries();
        while let Ok(Some(entry)) = entries.next_dfs() {
            self.budget.step(1 + entry.attrs().len())?;
            let is_inlined = entry.tag() == DW_TAG_inlined_subroutine;
            if !is_inlined && entry.tag() != DW_TAG_subprogram {
                continue;
            }
            self.budget.fact()?;
            let offset = section_offset(unit, entry.offset());
            let named = self.named(unit, entry)?;
            self.named.insert(offset, named);
            let kind = match is_inlined {
                false => ScopeKind::Function { is_whole_name: false },
                true => ScopeKind::Inlined { call: call(entry, files) },
            };
            let level = u32::try_from(entry.depth()).unwrap_or(0).saturating_add(1);
            let Ok(mut ranges) = self.dwarf.die_ranges(unit, entry) else { continue };
            while let Ok(Some(range)) = ranges.next() {
                self.budget.fact()?;
                let (Ok(start), Ok(end)) = (u32::try_from(range.begin), u32::try_from(range.end)) else { continue };
                if 0 < start && start < end && end <= self.code_len {
                    let scope = Scope { start, end, level, kind, function: 0 };
                    self.open.push(OpenScope { scope, entry: offset });
                }
            }
        }
        Ok(())
    }

    fn named(&mut self, unit: &Unit<Bytes<'a>>, entry: &DebuggingInformationEntry<Bytes<'a>>) -> Result<Named, Unreadable> {
        for (attribute, is_whole) in [(DW_AT_linkage_name, true), (DW_AT_name, false)] {
            let name = entry.attr_value(attribute).and_then(|name| self.dwarf.attr_string(unit, name).ok());
            if let Some(name) = name.filter(|name| !name.is_empty()) {
                let function = self.texts.function(&name.to_string_lossy(), self.budget)?;
                return Ok(Named { function, is_whole, origin: None });
            }
        }
        let reference = entry.attr_value(DW_AT_abstract_origin).or_else(|| entry.attr_value(DW_AT_specification));
        let origin = match reference {
            Some(AttributeValue::UnitRef(offset)) => Some(section_offset(unit, offset)),
            Some(AttributeValue::DebugInfoRef(offset)) => Some(offset.0),
            _ => None,
        };
        Ok(Named { function: 0, is_whole: false, origin })
    }

    /// Gives each scope the name in its entry, or the name in the entry to which its entry refers.
    fn name_scopes(&mut self) -> Result<(), Unreadable> {
        for OpenScope { mut scope, entry } in std::mem::take(&mut self.open) {
            self.budget.step(1)?;
            let mut named = self.named.get(&entry);
            for _ in 0..REFERENCES_MAX {
                let Some(origin) = named.filter(|named| named.function == 0).and_then(|named| named.origin) else { break };
                named = self.named.get(&origin);
            }
            if let Some(named) = named {
                scope.function = named.function;
                if let ScopeKind::Function { is_whole_name } = &mut scope.kind {
                    *is_whole_name = named.is_whole;
                }
            }
            self.facts.scopes.push(scope);
        }
        Ok(())
    }
}

/// Returns the place at which a function was inlined.
fn call(entry: &DebuggingInformationEntry<Bytes<'_>>, files: &HashMap<u64, u32>) -> Place {
    let file = match entry.attr_value(DW_AT_call_file) {
        Some(AttributeValue::FileIndex(number)) => files.get(&number).copied().unwrap_or(0),
        _ => 0,
    };
    let line = entry.attr_value(DW_AT_call_line).and_then(|line| line.udata_value());
    Place { file, line: line.and_then(|line| u32::try_from(line).ok()).unwrap_or(0) }
}

fn section_offset(unit: &Unit<Bytes<'_>>, offset: gimli::UnitOffset) -> usize {
    let UnitSectionOffset(offset) = offset.to_unit_section_offset(unit);
    offset
}
