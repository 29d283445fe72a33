//! Why a file does not load, in words for its author: what is wrong, and what to do about it.

use wasmtime::{Engine, component::Component};

use super::bindings::{PACKAGE, VERSION};

/// A file that is no plugin. Each text follows "plugin file x.wasm is not loaded:".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("it has {bytes} bytes, more than the {limit} that a plugin file may have (limits.plugin_bytes_max)")]
    TooLarge { bytes: usize, limit: usize },
    #[error("it is not WebAssembly but {0}. Drop in the .wasm file that cargo writes into target/wasm32-unknown-unknown/release")]
    NotWasm(&'static str),
    #[error("it ends in its middle: it is half copied, or was cut off. Copy it under another name and rename it")]
    Truncated,
    #[error("it is not valid WebAssembly: {0}")]
    Invalid(String),
    #[error("it was built without the SDK. Build a crate that calls innesco_sdk::export!(…) with: innesco plugin build")]
    NoContract,
    #[error("it exports no innesco:plugin/handler. Build a crate that calls innesco_sdk::export!(…) with: innesco plugin build")]
    NoHandler,
    #[error(
        "it was built against contract {version} and uses {used}; this engine speaks {VERSION}. Upgrade the engine, or build with an \
         older innesco-sdk"
    )]
    NewerContract { version: String, used: String },
    #[error(
        "it brings wasm-bindgen, which works only in browsers (chrono with default features does that). Use chrono with \
         default-features = false, uuid and getrandom without their js features; the time is event.time"
    )]
    WasmBindgen,
    #[error("it imports WASI preview 1. Build it for wasm32-unknown-unknown, or for wasm32-wasip2")]
    Preview1,
    #[error("it imports {0}, which no engine offers. A plugin has only what innesco_sdk gives it: log, config and state")]
    UnknownImport(String),
    #[error("it does not describe itself: {0}")]
    Describe(String),
    #[error("its manifest is not valid: {0}")]
    Manifest(String),
    #[error("the engine refuses it: {0}")]
    Refused(String),
}

/// Tells WebAssembly from everything else by its first bytes.
pub fn recognise(bytes: &[u8]) -> Result<(), LoadError> {
    let starts = |prefix: &[u8]| bytes.starts_with(prefix);
    match bytes {
        [] => Err(LoadError::NotWasm("an empty file")),
        _ if starts(b"\0asm") => Ok(()),
        // Compiled code would be run as it is; only the engine's own cache may bring it.
        _ if starts(b"\x7fELF") => Err(LoadError::NotWasm("compiled machine code")),
        _ if starts(b"(module") || starts(b"(component") => Err(LoadError::NotWasm("WebAssembly text")),
        _ if b"\0asm".starts_with(bytes) => Err(LoadError::Truncated),
        _ => Err(LoadError::NotWasm("something else")),
    }
}

pub fn invalid(error: &wasmparser::BinaryReaderError) -> LoadError {
    let text = error.to_string();
    if text.contains("unexpected end") || text.contains("unexpected-eof") {
        LoadError::Truncated
    } else {
        LoadError::Invalid(text)
    }
}

/// Judges a core module by what it imports from and whether it carries the contract.
pub fn check_module(imports: &[String], has_contract: bool) -> Result<(), LoadError> {
    if imports.iter().any(|module| module.starts_with("__wbindgen")) {
        return Err(LoadError::WasmBindgen);
    }
    if imports.iter().any(|module| module == "wasi_snapshot_preview1") {
        return Err(LoadError::Preview1);
    }
    if has_contract { Ok(()) } else { Err(LoadError::NoContract) }
}

/// What the encoder says about a module that cannot become a component.
pub fn encoding(text: &str) -> LoadError {
    if text.contains("__wbindgen") {
        return LoadError::WasmBindgen;
    }
    match quoted(text, "import interface named `").or_else(|| quoted(text, "requires an import named `")) {
        Some(name) => LoadError::UnknownImport(name.to_owned()),
        None => LoadError::Refused(text.to_owned()),
    }
}

/// Judges a component by the interfaces that it imports.
pub fn check_imports(imports: &[String]) -> Result<(), LoadError> {
    let known = |name: &&String| name.starts_with(PACKAGE) || name.starts_with("wasi:");
    match imports.iter().find(|name| !known(name)) {
        Some(name) => Err(LoadError::UnknownImport(name.clone())),
        None => Ok(()),
    }
}

/// Why a component does not link: what it imports is not (all) there.
pub fn linking(error: &wasmtime::Error, imports: &[String]) -> LoadError {
    let text = format!("{error:#}");
    let newer = imports.iter().find_map(|name| {
        let (interface, version) = name.strip_prefix(PACKAGE)?.split_once('@')?;
        (version != VERSION && text.contains(name.as_str())).then_some((interface, version))
    });
    match newer {
        Some((interface, version)) => {
            let function = quoted(&text, "instance export `").map(|function| format!(".{function}")).unwrap_or_default();
            LoadError::NewerContract { version: version.to_owned(), used: format!("{interface}{function}") }
        }
        None => match quoted(&text, "component imports instance `") {
            Some(name) => LoadError::UnknownImport(name.to_owned()),
            None => LoadError::Refused(text),
        },
    }
}

/// Why a component that links has not the exports of a plugin.
pub fn exports(error: &wasmtime::Error, component: &Component, engine: &Engine) -> LoadError {
    let handler = format!("{PACKAGE}handler");
    match component.component_type().exports(engine).find(|(name, _)| name.starts_with(&handler)) {
        None => LoadError::NoHandler,
        Some((name, _)) => match name.split_once('@') {
            Some((_, version)) if version != VERSION => {
                LoadError::NewerContract { version: version.to_owned(), used: "another shape of the handler".into() }
            }
            _ => LoadError::Refused(format!("its handler has another shape than the contract: {error:#}")),
        },
    }
}

/// What stands between `before` and the next backtick.
fn quoted<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split('`').next()
}
