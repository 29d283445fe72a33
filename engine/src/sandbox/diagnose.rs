//! Explains what is wrong with a file, from its first bytes, its structure and its imports.

use std::collections::BTreeSet;

use wasmparser::{Parser, Payload, Validator, WasmFeatures};
use wasmtime::{
    Engine,
    component::{Component, types::ComponentItem},
};

use super::{
    advice,
    bindings::{CONTRACT, OFFERED, PACKAGE},
    error::LoadError,
    log::printable,
};

/// Maximum number of imports that an error names.
const NAMED_MAX: usize = 5;
/// Maximum length of an error of a third-party tool, in bytes; a longer error is cut.
const DETAIL_BYTES: usize = 600;

/// The unit in which memories are declared.
const PAGE_BYTES: u64 = 64 << 10;

/// The form of a valid file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The output of cargo for wasm32-unknown-unknown.
    CoreModule,
    Component,
}

/// Checks the first bytes: whether this is WebAssembly, and in which form.
pub fn form(bytes: &[u8]) -> Result<Form, LoadError> {
    const MAGIC: &[u8] = b"\0asm";
    if Parser::is_core_wasm(bytes) {
        return Ok(Form::CoreModule);
    }
    if Parser::is_component(bytes) {
        return Ok(Form::Component);
    }
    Err(match bytes {
        [] => LoadError::Empty,
        _ if bytes.len() < 8 && bytes.starts_with(&MAGIC[..bytes.len().min(4)]) => LoadError::Truncated { length: bytes.len() },
        _ if Engine::detect_precompiled(bytes).is_some() => LoadError::Precompiled,
        _ if bytes.starts_with(b"\x7fELF") => LoadError::Native,
        _ if is_text(bytes) => LoadError::Text,
        _ if bytes.starts_with(MAGIC) => {
            LoadError::Invalid { detail: "its version of WebAssembly is unknown".to_owned(), offset: 4 }
        }
        _ => LoadError::NotWasm { looks_like: looks_like(bytes) },
    })
}

/// Validates a file completely, so that the compiler never reads a broken one.
pub fn validate(bytes: &[u8]) -> Result<(), LoadError> {
    let features = WasmFeatures::default() - WasmFeatures::MEMORY64 - WasmFeatures::RELAXED_SIMD - WasmFeatures::CM_ASYNC;
    Validator::new_with_features(features).validate_all(bytes).map(drop).map_err(|error| broken(&error, bytes))
}

/// The size of a component, and its initial memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of code and data, without debug information.
    pub code_bytes: usize,
    /// Initial size of its largest memory, in bytes.
    pub memory_bytes: u64,
}

/// Computes the weight of a component with everything nested in it.
pub fn weight(bytes: &[u8]) -> Result<Weight, LoadError> {
    let mut weight = Weight::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| broken(&error, bytes))? {
            Payload::CodeSectionStart { size, .. } => weight.code_bytes += size as usize,
            Payload::DataSection(section) => weight.code_bytes += section.range().len(),
            Payload::MemorySection(section) => {
                for memory in section {
                    let pages = memory.map_err(|error| broken(&error, bytes))?.initial;
                    weight.memory_bytes = weight.memory_bytes.max(pages.saturating_mul(PAGE_BYTES));
                }
            }
            _ => {}
        }
    }
    Ok(weight)
}

/// Finds what prevents a core module from becoming a component.
pub fn core_module(bytes: &[u8]) -> Result<(), LoadError> {
    let mut has_types = false;
    let mut unknown = BTreeSet::new();
    let mut browser = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| broken(&error, bytes))? {
            Payload::CustomSection(section) if section.name().starts_with("component-type") => has_types = true,
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(|error| broken(&error, bytes))?;
                    if import.module.starts_with("__wbindgen") || import.module == "wbg" || import.name.starts_with("__wbindgen")
                    {
                        browser.push(import.name);
                        continue;
                    }
                    if import.module.starts_with("wasi_snapshot_preview1") || import.module.starts_with("wasi_unstable") {
                        return Err(LoadError::Wasip1);
                    }
                    // An import of the SDK has the name of an interface, such as `innesco:plugin/log@1.0.0`, or belongs to the
                    // encoder.
                    if import.module.contains(':') {
                        if !import.module.contains(PACKAGE) && !is_wasi(import.module) {
                            unknown.insert(printable(import.module, 128));
                        }
                    } else if !import.module.starts_with(['$', '[']) {
                        unknown.insert(format!("{}.{}", printable(import.module, 64), printable(import.name, 64)));
                    }
                }
            }
            _ => {}
        }
    }
    if !browser.is_empty() {
        return Err(LoadError::WasmBindgen { advice: advice::for_browser_imports(browser.into_iter()) });
    }
    if !unknown.is_empty() {
        return Err(unknown_imports(unknown));
    }
    if has_types { Ok(()) } else { Err(LoadError::NoSdk) }
}

/// Explains why a component does not link. Of several unknown imports it reports the one that helps the author most.
pub fn unlinkable(component: &Component, engine: &Engine, error: &wasmtime::Error) -> LoadError {
    let mut unknown = BTreeSet::new();
    for (name, import) in component.component_type().imports(engine) {
        let Some((interface, version)) = name.strip_prefix(PACKAGE).map(split_version) else {
            if !is_wasi(name) {
                unknown.insert(printable(name, 128));
            }
            continue;
        };
        let offered = OFFERED.iter().find(|(known, _)| *known == interface).map_or(&[][..], |(_, functions)| functions);
        if let ComponentItem::ComponentInstance(instance) = import.ty {
            let functions = instance.exports(engine).filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)));
            let missing = functions.map(|(name, _)| name).find(|name| !offered.contains(name) || !same_major(version));
            if let Some(function) = missing {
                let uses = format!("{}.{}", printable(interface, 64), printable(function, 64));
                return LoadError::NewerContract { contract: printable(version, 32), uses, engine: CONTRACT };
            }
        }
    }
    if unknown.is_empty() {
        return LoadError::Unlinkable { detail: chain(error), engine: CONTRACT };
    }
    unknown_imports(unknown)
}

/// Checks the same as [`handler`] without an engine, except for the version of the handler.
pub fn has_handler(component: &[u8]) -> Result<(), LoadError> {
    for payload in Parser::new(0).parse_all(component) {
        if let Payload::ComponentExportSection(exports) = payload.map_err(|error| broken(&error, component))? {
            for export in exports {
                let name = export.map_err(|error| broken(&error, component))?.name.name;
                if name.strip_prefix(PACKAGE).is_some_and(|rest| split_version(rest).0 == "handler") {
                    return Ok(());
                }
            }
        }
    }
    Err(LoadError::NoHandler)
}

/// Checks that a component exports the handler.
pub fn handler(component: &Component, engine: &Engine) -> Result<(), LoadError> {
    let exports = component.component_type();
    let mut exports = exports.exports(engine).filter_map(|(name, _)| name.strip_prefix(PACKAGE).map(split_version));
    match exports.find(|(interface, _)| *interface == "handler") {
        None => Err(LoadError::NoHandler),
        Some((_, version)) if !same_major(version) => {
            Err(LoadError::NewerContract { contract: printable(version, 32), uses: "its handler".to_owned(), engine: CONTRACT })
        }
        Some(_) => Ok(()),
    }
}

/// Returns the names of everything that a component imports.
pub fn imports(component: &Component, engine: &Engine) -> Vec<String> {
    component.component_type().imports(engine).map(|(name, _)| name.to_owned()).collect()
}

pub fn is_wasi(import: &str) -> bool {
    const GIVEN: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
    let package = import.strip_prefix("wasi:").and_then(|rest| rest.split_once('/'));
    package.is_some_and(|(package, rest)| GIVEN.contains(&package) && split_version(rest).1.starts_with("0.2."))
}

/// Converts an error of the compiler. Distinguishes a component that exceeds the pool's limits or its memory budget from one that
/// does not compile.
pub fn not_compilable(error: &wasmtime::Error) -> LoadError {
    let detail = chain(error);
    if error.is::<wasmtime::error::OutOfMemory>() {
        return LoadError::TooComplex { reason: "loading it took more memory than a file of its size may take".to_owned() };
    }
    if ["exceeds the", "instance allocation for this"].iter().any(|words| detail.contains(words)) {
        return LoadError::TooDemanding { detail };
    }
    LoadError::NotCompilable { detail }
}

/// Formats an error with its causes as one line of limited length.
pub fn chain(error: &wasmtime::Error) -> String {
    // The backtrace of a call is shown separately.
    let causes =
        error.chain().map(ToString::to_string).filter(|text| !text.starts_with("error while executing at wasm backtrace"));
    printable(&causes.collect::<Vec<_>>().join(": ").replace('\n', " "), DETAIL_BYTES)
}

/// Translates the parser's error. A file that ends too early is reported as incomplete.
pub fn broken(error: &wasmparser::Error, bytes: &[u8]) -> LoadError {
    if error.message().starts_with("unexpected end") {
        return LoadError::Truncated { length: bytes.len() };
    }
    LoadError::Invalid { detail: printable(error.message(), DETAIL_BYTES), offset: error.offset() as u64 }
}

fn unknown_imports(names: BTreeSet<String>) -> LoadError {
    let advice = advice::for_imports(names.iter().map(String::as_str));
    let more = names.len().saturating_sub(NAMED_MAX);
    let mut imports: Vec<String> = names.into_iter().take(NAMED_MAX).collect();
    if more > 0 {
        imports.push(format!("and {more} more"));
    }
    LoadError::UnknownImports { imports, advice }
}

fn split_version(name: &str) -> (&str, &str) {
    name.split_once('@').unwrap_or((name, ""))
}

fn same_major(version: &str) -> bool {
    version.split('.').next() == CONTRACT.split('.').next()
}

fn is_text(bytes: &[u8]) -> bool {
    let start = bytes[..bytes.len().min(4096)].trim_ascii_start();
    [b"(module".as_slice(), b"(component", b"(;", b";;"].iter().any(|opening| start.starts_with(opening))
}

/// Describes a file that is not WebAssembly by its first bytes. Never returns the bytes themselves: a secret may have been copied
/// to the wrong place.
fn looks_like(bytes: &[u8]) -> &'static str {
    const BEGINNINGS: [(&[u8], &str); 10] = [
        (b"version https://git-lfs", "a pointer of Git LFS (fetch the file itself with git lfs pull)"),
        (b"\x1f\x8b", "gzip data (unpack it first)"),
        (b"\x28\xb5\x2f\xfd", "zstd data (unpack it first)"),
        (b"PK\x03\x04", "a zip archive (unpack it first)"),
        (b"!<arch>", "a static library"),
        (b"\x89PNG", "an image"),
        (b"#!", "a script"),
        (b"MZ", "a program for Windows"),
        (b"\xcf\xfa\xed\xfe", "a program for macOS"),
        (b"-----BEGIN", "a key or a certificate"),
    ];
    if let Some((_, name)) = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)) {
        return name;
    }
    let start = &bytes[..bytes.len().min(512)];
    let text = start.trim_ascii_start().to_ascii_lowercase();
    if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") {
        return "a web page (an answer to a download that failed?)";
    }
    if bytes.len() > 1 && start.get(257..262) == Some(b"ustar") {
        return "a tar archive (unpack it first)";
    }
    match start.iter().all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace()) {
        true => "text",
        false if start.iter().all(|byte| *byte == 0) => "nothing but zeros (a copy that was cut off?)",
        false => "data of an unknown kind",
    }
}
