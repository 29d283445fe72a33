//! The parts of a component that debug information needs: its core modules, with their code and their custom sections.

use std::{borrow::Cow, ops::Range};

use wasmparser::{BinaryReader, Encoding, ExternalKind, Name, NameSectionReader, Parser, Payload, TypeRef};

/// The ids of sections inside a component: custom sections, core modules and components.
const CUSTOM: u8 = 0;
const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;

/// Returns a valid component without the sections that only people and other tools read: debug information, names, producers.
///
/// So two builds of the same code, one with and one without debug information, are the same bytes to the compiler.
pub fn stripped(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut kept = Vec::with_capacity(bytes.len());
    match strip(bytes, &mut kept) {
        Some(()) => Cow::Owned(kept),
        // This cannot happen after validation.
        None => Cow::Borrowed(bytes),
    }
}

fn strip(bytes: &[u8], kept: &mut Vec<u8>) -> Option<()> {
    let (header, mut rest) = bytes.split_at_checked(8)?;
    let is_component = header[6] == 1;
    kept.extend_from_slice(header);
    while let Some((&id, after)) = rest.split_first() {
        let mut reader = BinaryReader::new(after, 0);
        let length = reader.read_var_u32().ok()? as usize;
        let (body, next) = after[reader.current_position()..].split_at_checked(length)?;
        match (is_component, id) {
            (false, CUSTOM) if is_for_people(body) => {}
            (true, CORE_MODULE | COMPONENT) => {
                let mut inner = Vec::with_capacity(body.len());
                strip(body, &mut inner)?;
                kept.push(id);
                write_length(kept, inner.len());
                kept.extend_from_slice(&inner);
            }
            _ => kept.extend_from_slice(&rest[..rest.len() - next.len()]),
        }
        rest = next;
    }
    Some(())
}

/// Returns whether a custom section changes nothing in the code.
fn is_for_people(body: &[u8]) -> bool {
    const NAMES: [&str; 5] = ["name", "producers", "target_features", "sourceMappingURL", "external_debug_info"];
    let name = BinaryReader::new(body, 0).read_string().unwrap_or_default();
    name.starts_with(".debug_") || NAMES.contains(&name)
}

fn write_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

/// A core module in a component.
#[derive(Default)]
pub struct CoreModule<'a> {
    /// Where the content of its code section is. Addresses in debug information count from the start of this content.
    pub code: Range<usize>,
    /// Where the body of each of its functions is.
    pub bodies: Vec<Range<usize>>,
    /// Number of functions that it imports. They have the first indices.
    imported: usize,
    /// Indices of the functions that the engine calls.
    exported: Vec<u32>,
    custom: Vec<(&'a str, &'a [u8])>,
}

impl<'a> CoreModule<'a> {
    /// Returns the content of a custom section; empty if the module has no section of this name.
    pub fn section(&self, name: &str) -> &'a [u8] {
        self.custom.iter().find(|(found, _)| *found == name).map_or(&[], |(_, content)| content)
    }

    /// Calls `each` with each function that has a name and is not imported: the number of the function's body, and the name.
    pub fn names(&self, mut each: impl FnMut(usize, &'a str)) {
        // A broken section names fewer functions.
        for name in NameSectionReader::new(BinaryReader::new(self.section("name"), 0)).map_while(Result::ok) {
            let Name::Function(names) = name else { continue };
            for naming in names.into_iter().map_while(Result::ok) {
                if let Some(number) = (naming.index as usize).checked_sub(self.imported) {
                    each(number, naming.name);
                }
            }
        }
    }

    /// Returns the bodies of the functions that the engine calls.
    pub fn entries(&self) -> impl Iterator<Item = &Range<usize>> {
        let numbers = self.exported.iter().filter_map(|index| (*index as usize).checked_sub(self.imported));
        numbers.filter_map(|number| self.bodies.get(number))
    }
}

/// Returns the core modules of a component, in their order. If the component is broken, the result ends where it breaks.
pub fn core_modules(bytes: &[u8]) -> Vec<CoreModule<'_>> {
    let mut modules: Vec<CoreModule<'_>> = Vec::new();
    // For each open part: its number, if the part is a core module.
    let mut open = Vec::new();
    for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
        match payload {
            Payload::Version { encoding, .. } => {
                open.push((encoding == Encoding::Module).then_some(modules.len()));
                if encoding == Encoding::Module {
                    modules.push(CoreModule::default());
                }
                continue;
            }
            Payload::End(_) => {
                open.pop();
                continue;
            }
            _ => {}
        }
        let Some(module) = open.last().copied().flatten().and_then(|number| modules.get_mut(number)) else { continue };
        match payload {
            Payload::CodeSectionStart { range, .. } => module.code = range,
            Payload::CodeSectionEntry(body) => module.bodies.push(body.range()),
            Payload::CustomSection(section) => module.custom.push((section.name(), section.data())),
            Payload::ImportSection(section) => {
                let imports = section.into_imports().map_while(Result::ok);
                module.imported += imports.filter(|import| matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_))).count();
            }
            Payload::ExportSection(section) => {
                let exports = section.into_iter().map_while(Result::ok);
                let called =
                    exports.filter(|export| export.kind == ExternalKind::Func && export.name.contains("innesco:plugin/"));
                module.exported.extend(called.map(|export| export.index));
            }
            _ => {}
        }
    }
    modules
}
