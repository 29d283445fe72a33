//! Converts a file's bytes into a plugin that can run.
//!
//! [`Sandbox::compile`] does everything that reads a file: it validates, encodes and compiles the file, and links it once as a
//! test. The engine runs that in a child process (`child.rs`). [`Sandbox::load`] takes the code from the child or from the cache,
//! links it and reads the plugin's manifest. So an engine whose cache has all plugins starts no child.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use serde::Deserialize;
use wasmtime::component::Component;
use wit_component::ComponentEncoder;

use super::{
    backtrace::{ReadLines, SourceLines},
    bindings::{CONTRACT, PACKAGE, PluginPre, innesco::plugin::types},
    diagnose::{self, Form},
    engine::{Compiler, Kind, Pool, Sandbox},
    error::LoadError,
    host::Host,
    limits::{Limits, size},
    lines,
    log::printable,
    nesting,
    run::{Guest, panic_text},
};
use crate::domain::{
    name::Slug,
    pattern::Pattern,
    plugin::{Digest, Manifest},
    setting::{Setting, SettingType},
    time::Timestamp,
};

/// Maximum length of a description and a version, in bytes.
const DESCRIPTION_BYTES: usize = 1 << 10;
const VERSION_BYTES: usize = 64;
/// Maximum number of patterns in a plugin's `on`.
const PATTERNS_MAX: usize = 256;
/// Maximum number of declared settings, and maximum length of a setting's name, in bytes. A person must be able to read the list.
const SETTINGS_MAX: usize = 100;
const SETTING_NAME_BYTES: usize = 64;

/// Results of earlier loads. Compiling takes milliseconds to seconds, loading compiled code takes microseconds. The methods with a
/// default store nothing.
pub trait CodeCache: Send + Sync {
    /// Returns the code that was stored under this key.
    ///
    /// The implementer must return only bytes that [`CodeCache::put`] received under the same key, unchanged, and must prove it
    /// with a keyed hash: compiled code runs without a sandbox.
    fn get(&self, key: &str) -> Option<Vec<u8>>;

    /// Stores code if possible. A failure costs only the time to compile again.
    fn put(&self, key: &str, code: &[u8]);

    /// Stores the table of lines of the code under this key if possible. A failure costs only the lines of backtraces.
    fn put_lines(&self, _key: &str, _lines: &[u8]) {}

    /// Returns a function that can later read the table of lines stored under this key; `None` if this cache stores no tables.
    fn lines(&self, _key: &str) -> Option<ReadLines> {
        None
    }

    /// Returns why this file was too complex for this version of the engine, if it was.
    fn too_complex(&self, _digest: &Digest) -> Option<String> {
        None
    }

    /// Records that a file is too complex, so that the next start does not try it again.
    fn put_too_complex(&self, _digest: &Digest, _reason: &str) {}
}

/// A cache that stores nothing.
pub struct NoCache;

impl CodeCache for NoCache {
    fn get(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn put(&self, _: &str, _: &[u8]) {}
}

/// A component as machine code, and the pool in which it runs.
#[derive(Clone)]
pub struct Compiled {
    pub(super) kind: Kind,
    pub(super) code: Vec<u8>,
    /// The table of its lines; empty without debug information.
    pub(super) lines: Vec<u8>,
}

/// A compiled and linked version of a plugin. Share it in an `Arc`; runs may be concurrent.
pub struct Plugin {
    pub(super) guest: Guest,
    manifest: Manifest,
    imports: Vec<String>,
    pub(super) source: SourceLines,
}

impl Plugin {
    /// Returns the identity of this version: the SHA-256 of the file.
    pub fn digest(&self) -> &Digest {
        &self.guest.digest
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns whether it can read and write state. If it cannot, its runs need no source of state.
    pub fn uses_state(&self) -> bool {
        self.imports.iter().any(|import| import.strip_prefix(PACKAGE).is_some_and(|rest| rest.starts_with("state@")))
    }

    /// Returns whether it contains an interpreter and therefore gets more memory.
    pub fn is_big(&self) -> bool {
        self.guest.pool.kind == Kind::Big
    }

    /// Returns everything that it imports, and so everything that it can request.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plugin({}@{})", self.manifest.name, self.guest.digest.short())
    }
}

impl Sandbox {
    /// Returns the maximum size of a plugin file, in bytes.
    pub fn plugin_bytes_max(&self) -> usize {
        self.settings.plugin_bytes_max
    }

    /// Loads a plugin from a file's bytes. Blocks while it compiles, unless `cache` has the code.
    ///
    /// # Errors
    ///
    /// Each error explains what is wrong with the file and what to do.
    pub fn load(&self, bytes: &[u8], cache: &dyn CodeCache) -> Result<Plugin, LoadError> {
        guarded(|| self.load_unguarded(bytes, cache), |detail| LoadError::Engine { detail })
    }

    /// Loads a version whose code is in the cache, without its file. Returns `None` if the cache does not have the code.
    ///
    /// # Errors
    ///
    /// If the plugin does not run.
    pub fn load_cached(&self, version: &Digest, cache: &dyn CodeCache) -> Result<Option<Plugin>, LoadError> {
        guarded(|| self.load_cached_unguarded(version, cache), |detail| LoadError::Engine { detail })
    }

    fn load_cached_unguarded(&self, version: &Digest, cache: &dyn CodeCache) -> Result<Option<Plugin>, LoadError> {
        let Some((pool, component)) = self.cached(version, cache) else { return Ok(None) };
        self.finished(pool, &component, version, None, cache).map(Some)
    }

    fn load_unguarded(&self, bytes: &[u8], cache: &dyn CodeCache) -> Result<Plugin, LoadError> {
        let limit = self.settings.plugin_bytes_max;
        if bytes.len() > limit {
            return Err(LoadError::TooLarge { found: bytes.len(), limit });
        }
        // Checks only the first bytes.
        diagnose::form(bytes)?;
        let digest = Digest::of(bytes);
        if let Some(plugin) = self.load_cached_unguarded(&digest, cache)? {
            return Ok(plugin);
        }
        let (pool, component, lines) = self.compiled(bytes, &digest, cache)?;
        self.finished(pool, &component, &digest, Some(lines), cache)
    }

    /// Links compiled code and reads the plugin's manifest. `lines` is the table of its lines, if it was compiled just now.
    fn finished(
        &self,
        pool: Arc<Pool>,
        component: &Component,
        version: &Digest,
        lines: Option<Vec<u8>>,
        cache: &dyn CodeCache,
    ) -> Result<Plugin, LoadError> {
        let source = SourceLines::new(match cache.lines(&pool.key(version)) {
            Some(stored) => stored,
            None => Box::new(move || lines.clone()),
        });
        let Linked { pre, imports, wasi } = link(&pool, component)?;
        let guest = Guest { pool, pre, digest: *version, wasi };
        let manifest = describe(&guest, &self.settings.limits)?;
        Ok(Plugin { guest, manifest, imports, source })
    }

    /// Returns compiled code from the cache. It was validated when it was compiled.
    fn cached(&self, digest: &Digest, cache: &dyn CodeCache) -> Option<(Arc<Pool>, Component)> {
        [&self.small, &self.big].into_iter().find_map(|pool| {
            let code = cache.get(&pool.key(digest))?;
            Some((pool.clone(), pool.deserialize(&code).ok()?))
        })
    }

    /// Compiles a file that is not in the cache. Also returns the table of its lines.
    fn compiled(&self, bytes: &[u8], digest: &Digest, cache: &dyn CodeCache) -> Result<Fresh, LoadError> {
        if let Some(reason) = cache.too_complex(digest) {
            return Err(LoadError::TooComplex { reason });
        }
        let compiled = match &self.compiler {
            Compiler::Child(children) => children.compile(bytes),
            Compiler::Here => self.compile(bytes),
        };
        let compiled = compiled.inspect_err(|error| {
            if let LoadError::TooComplex { reason } = error {
                cache.put_too_complex(digest, reason);
            }
        })?;
        let pool = match compiled.kind {
            Kind::Small => &self.small,
            Kind::Big => &self.big,
        };
        let component = pool.deserialize(&compiled.code).map_err(|error| diagnose::not_compilable(&error))?;
        let key = pool.key(digest);
        cache.put(&key, &compiled.code);
        if !compiled.lines.is_empty() {
            cache.put_lines(&key, &compiled.lines);
        }
        Ok((pool.clone(), component, compiled.lines))
    }

    /// Compiles a file in this process. All code that reads untrusted bytes is called from here. The result depends only on the
    /// bytes and the settings.
    ///
    /// # Errors
    ///
    /// Each error explains what is wrong with the file and what to do.
    pub(super) fn compile(&self, bytes: &[u8]) -> Result<Compiled, LoadError> {
        // These parsers panic on some hand-made files, whose content they consider impossible.
        guarded(
            || self.compile_unguarded(bytes),
            |detail| LoadError::TooComplex { reason: format!("loading it crashed the compiler ({detail})") },
        )
    }

    fn compile_unguarded(&self, bytes: &[u8]) -> Result<Compiled, LoadError> {
        let form = diagnose::form(bytes)?;
        nesting::check(bytes)?;
        diagnose::validate(bytes)?;
        let encoded = match form {
            Form::Component => None,
            Form::CoreModule => Some(encode(bytes)?),
        };
        let whole = encoded.as_deref().unwrap_or(bytes);
        let component = &*lines::stripped(whole);
        let weight = diagnose::weight(component)?;
        let pool = if weight.code_bytes > Limits::BIG_CODE_BYTES { &self.big } else { &self.small };
        let asked = usize::try_from(weight.memory_bytes).unwrap_or(usize::MAX);
        if asked > pool.memory_bytes_max {
            let detail =
                format!("it declares an initial memory of {}; the limit is {}", size(asked), size(pool.memory_bytes_max));
            return Err(LoadError::TooDemanding { detail });
        }
        let (code, lines) = thread::scope(|scope| {
            let lines = scope.spawn(|| lines::build(whole, component));
            let code = pool.engine.precompile_component(component);
            // If the parser of the debug information panics, the code is still accepted, without lines.
            (code, lines.join().unwrap_or_default())
        });
        let code = code.map_err(|error| diagnose::not_compilable(&error))?;
        // Linked here too, so that a failure is found before the engine loads the code.
        let component = pool.deserialize(&code).map_err(|error| diagnose::not_compilable(&error))?;
        link(pool, &component)?;
        Ok(Compiled { kind: pool.kind, code, lines })
    }
}

/// A component that was just compiled: its pool, its code and the table of its lines.
type Fresh = (Arc<Pool>, Component, Vec<u8>);

/// Catches panics. Compilers are large programs, and a panic on a malformed file must not end the caller's thread.
fn guarded<T>(load: impl FnOnce() -> Result<T, LoadError>, panicked: fn(String) -> LoadError) -> Result<T, LoadError> {
    catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|panic| Err(panicked(panic_text(&*panic))))
}

/// A component with its imports resolved.
struct Linked {
    pre: PluginPre<Host>,
    imports: Vec<String>,
    /// Whether it was linked with WASI.
    wasi: bool,
}

fn link(pool: &Pool, component: &Component) -> Result<Linked, LoadError> {
    let engine = &pool.engine;
    let imports = diagnose::imports(component, engine);
    let wasi = imports.iter().any(|import| diagnose::is_wasi(import));
    let linker = if wasi { &pool.wasi_linker } else { &pool.linker };
    let linked = linker.instantiate_pre(component).map_err(|error| diagnose::unlinkable(component, engine, &error))?;
    diagnose::handler(component, engine)?;
    let pre =
        PluginPre::new(linked).map_err(|error| LoadError::OtherHandler { detail: diagnose::chain(&error), engine: CONTRACT })?;
    Ok(Linked { pre, imports, wasi })
}

impl Pool {
    /// Returns the cache key of compiled code. The key contains the digest of the file, the kind of pool, and a hash of everything
    /// else that affects the code.
    fn key(&self, digest: &Digest) -> String {
        let mut hasher = DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        env!("CARGO_PKG_VERSION").hash(&mut hasher);
        let kind = match self.kind {
            Kind::Small => "small",
            Kind::Big => "big",
        };
        format!("{digest}-{kind}-{:016x}", hasher.finish())
    }

    /// Fails if the code belongs to another engine, or exceeds this pool's limits.
    #[expect(unsafe_code, reason = "loads compiled code; this is the only place that trusts bytes")]
    fn deserialize(&self, code: &[u8]) -> wasmtime::Result<Component> {
        // SAFETY: `code` must be the result of `Engine::precompile_component`. It comes from `Sandbox::compile`, run here or by a
        // child of the same program (`child.rs` explains why its result is trusted), or from the cache. `CodeCache` promises, and
        // its implementer proves with a keyed hash, that it returns only what `put` received, and `put` receives nothing else.
        // Files from a plugin folder never get here: `diagnose::form` refuses precompiled ones.
        unsafe { Component::deserialize(&self.engine, code) }
    }
}

/// Checks a file that cargo built, without compiling it. Finds what needs no engine: a missing handler, and imports that plugins
/// cannot use, such as those of wasm-bindgen.
///
/// # Errors
///
/// The reason why the file would not load.
pub fn check_built(bytes: &[u8]) -> Result<(), LoadError> {
    let check = || match diagnose::form(bytes)? {
        Form::CoreModule => diagnose::validate(bytes).and_then(|()| diagnose::has_handler(&encode(bytes)?)),
        Form::Component => Ok(()),
    };
    guarded(check, |detail| LoadError::TooComplex { reason: format!("checking it failed ({detail})") })
}

/// Turns a core module into a component.
pub(super) fn encode(module: &[u8]) -> Result<Vec<u8>, LoadError> {
    diagnose::core_module(module)?;
    let encode = || ComponentEncoder::default().validate(true).module(module)?.encode();
    encode().map_err(|error: anyhow::Error| {
        let detail = format!("{error:#}");
        // A module without any `…/handler@…#describe` was built for a world without the handler, or lost its exports.
        if detail.contains("handler") && detail.contains("failed to find export") {
            return LoadError::NoHandler;
        }
        LoadError::NotAComponent { detail: printable(&detail.replace('\n', " "), 600) }
    })
}

/// Starts the plugin once, without an event, and reads its manifest.
fn describe(guest: &Guest, limits: &Limits) -> Result<Manifest, LoadError> {
    let nothing = Arc::new(BTreeMap::new());
    let host = |log| guest.host(limits, log, nothing.clone(), None, "", Timestamp::from_millis(0));
    let (answer, facts) = guest.call(limits, host, |plugin, store| plugin.innesco_plugin_handler().call_describe(store));
    let said = match answer {
        Ok(said) => said,
        Err(error) => {
            let failure = facts.explain(error, limits).unwrap_or_else(|unavailable| unavailable.as_failure());
            return Err(LoadError::Describe { detail: failure.message });
        }
    };
    manifest(said)
}

fn manifest(said: types::Manifest) -> Result<Manifest, LoadError> {
    let bad = |field: &str, detail: &str| LoadError::BadManifest { detail: format!("{field}: {}", printable(detail, 400)) };
    let name = Slug::parse(&said.name).map_err(|error| bad("name", &error.0))?;
    if said.on.len() > PATTERNS_MAX {
        return Err(bad("on", &format!("{} patterns exceed the limit of {PATTERNS_MAX}", said.on.len())));
    }
    let on: Result<Vec<_>, _> = said.on.iter().map(|pattern| Pattern::parse(pattern)).collect();
    let mut settings = Vec::new();
    for (_, json) in said.attributes.iter().filter(|(name, _)| name == "setting") {
        if settings.len() == SETTINGS_MAX {
            return Err(bad("setting", &format!("more settings than the limit of {SETTINGS_MAX}")));
        }
        settings.push(setting(json).map_err(|detail| bad("setting", &detail))?);
    }
    Ok(Manifest {
        settings,
        name,
        version: printable(&said.version, VERSION_BYTES),
        description: printable(&said.description, DESCRIPTION_BYTES),
        on: on.map_err(|error| bad("on", &error.0))?,
    })
}

/// A setting as the manifest declares it. Other members are for newer engines.
#[derive(Deserialize)]
struct DeclaredSetting {
    name: String,
    r#type: String,
    default: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    required: bool,
}

fn setting(json: &str) -> Result<Setting, String> {
    let said: DeclaredSetting = serde_json::from_str(json).map_err(|error| format!("{json}: {error}"))?;
    let is_name = |c: char| !c.is_control() && !c.is_whitespace() && c != '=' && c != ',';
    if said.name.is_empty() || said.name.len() > SETTING_NAME_BYTES || !said.name.chars().all(is_name) {
        return Err(format!("{:?} is not a name: use 1 to {SETTING_NAME_BYTES} bytes without spaces, = and commas", said.name));
    }
    let kind = SettingType::parse(&said.r#type).ok_or_else(|| {
        let known = SettingType::ALL.map(SettingType::as_str).join(", ");
        format!("{} has the type {:?}; this engine knows {known}", said.name, said.r#type)
    })?;
    let description = printable(&said.description, DESCRIPTION_BYTES);
    let setting = Setting { name: said.name, kind, default: said.default, description, is_required: said.required };
    match setting.fault() {
        Some(fault) => Err(format!("{}: {fault}", setting.name)),
        None => Ok(setting),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_of_settings_are_read_or_named() {
        let read = setting(r#"{"name": "threshold", "type": "number", "default": "5", "description": "d", "later": 1}"#).unwrap();
        assert_eq!((read.kind, read.default.as_deref(), read.is_required), (SettingType::Number, Some("5"), false));
        for (json, expected) in [
            (r#"{"name": "a", "type": "date"}"#, "a has the type \"date\"; this engine knows text, integer"),
            (r#"{"name": "a b", "type": "text"}"#, "\"a b\" is not a name"),
            (r#"{"name": "a", "type": "number", "default": "x"}"#, "a: its default \"x\" is not a number"),
            ("{}", "missing field"),
        ] {
            let error = setting(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
