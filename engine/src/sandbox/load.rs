//! From a file's bytes to a plugin that can run.
//!
//! [`Sandbox::compile`] does all that reads a file: it validates, encodes, compiles and links it once, as a trial. The engine has a
//! child process do that (`child.rs`). [`Sandbox::load`] takes the code that comes of it, or that was kept from an earlier start,
//! links it and asks the plugin what it is. So a start with a full cache starts no child.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use wasmtime::component::Component;
use wit_component::ComponentEncoder;

use super::{
    bindings::{CONTRACT, PACKAGE, PluginPre, innesco::plugin::types},
    diagnose::{self, Form},
    engine::{Compiler, Kind, Pool, Sandbox},
    error::LoadError,
    host::Host,
    limits::{Limits, size},
    log::printable,
    nesting,
    run::{Guest, panic_text},
};
use crate::domain::{
    name::Slug,
    pattern::Pattern,
    plugin::{Digest, Manifest},
    time::Timestamp,
};

/// The longest description and version that are kept, in bytes.
const DESCRIPTION_BYTES: usize = 1 << 10;
const VERSION_BYTES: usize = 64;
/// How many patterns a plugin can be `on`.
const PATTERNS_MAX: usize = 256;

/// What is known of files from earlier loads: compiling takes milliseconds to seconds, loading what was compiled microseconds.
pub trait CodeCache: Send + Sync {
    /// Returns the code that was stored under this key.
    ///
    /// The implementer promises that it returns only bytes that [`CodeCache::put`] received under the same key, unchanged, and
    /// proves that with a keyed hash: compiled code runs without any sandbox around it.
    fn get(&self, key: &str) -> Option<Vec<u8>>;

    /// Stores code, if it can; failing to costs only the time to compile.
    fn put(&self, key: &str, code: &[u8]);

    /// Returns why this file was too complex for this version of the engine, if it was.
    fn too_complex(&self, digest: &Digest) -> Option<String>;

    /// Records that a file is too complex, so that the next start does not spend its time and memory on it again.
    fn put_too_complex(&self, digest: &Digest, reason: &str);
}

/// Stores nothing.
pub struct NoCache;

impl CodeCache for NoCache {
    fn get(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn put(&self, _: &str, _: &[u8]) {}

    fn too_complex(&self, _: &Digest) -> Option<String> {
        None
    }

    fn put_too_complex(&self, _: &Digest, _: &str) {}
}

/// A component as machine code, and the pool whose plugins it joins.
#[derive(Clone)]
pub struct Compiled {
    pub(super) kind: Kind,
    pub(super) code: Vec<u8>,
}

/// A version of a plugin, compiled and linked. Share it in an `Arc`; runs may go on side by side.
pub struct Plugin {
    pub(super) guest: Guest,
    manifest: Manifest,
    bytes_len: usize,
    imports: Vec<String>,
}

impl Plugin {
    /// What identifies this version: the SHA-256 of the file as it was dropped.
    pub fn digest(&self) -> &Digest {
        &self.guest.digest
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The size of the file as it was dropped.
    pub fn bytes_len(&self) -> usize {
        self.bytes_len
    }

    /// Whether it can read and write state; if not, its runs need none.
    pub fn uses_state(&self) -> bool {
        self.imports.iter().any(|import| import.strip_prefix(PACKAGE).is_some_and(|rest| rest.starts_with("state@")))
    }

    /// Whether it brings an interpreter along, and is given more memory for it.
    pub fn is_big(&self) -> bool {
        self.guest.pool.kind == Kind::Big
    }

    /// Everything that it imports, and with that everything that it can ask for.
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
    /// Size of a plugin file in bytes.
    pub fn plugin_bytes_max(&self) -> usize {
        self.settings.plugin_bytes_max
    }

    /// Makes a plugin of a file's bytes. Blocks for as long as compiling takes, unless `cache` has the code.
    ///
    /// # Errors
    ///
    /// Each says what is the matter with the file and what to do.
    pub fn load(&self, bytes: &[u8], cache: &dyn CodeCache) -> Result<Plugin, LoadError> {
        guarded(|| self.load_unguarded(bytes, cache))
    }

    fn load_unguarded(&self, bytes: &[u8], cache: &dyn CodeCache) -> Result<Plugin, LoadError> {
        let limit = self.settings.plugin_bytes_max;
        if bytes.len() > limit {
            return Err(LoadError::TooLarge { found: bytes.len(), limit });
        }
        // A look at the first bytes alone.
        diagnose::form(bytes)?;
        let digest = Digest::of(bytes);
        let (pool, component) = match self.cached(&digest, cache) {
            Some(found) => found,
            None => self.compiled(bytes, &digest, cache)?,
        };
        let Linked { pre, imports, wasi } = link(&pool, &component)?;
        let guest = Guest { pool, pre, digest, wasi };
        let manifest = describe(&guest, &self.settings.limits)?;
        Ok(Plugin { guest, manifest, bytes_len: bytes.len(), imports })
    }

    /// Takes compiled code from the cache. What is there was validated when it was compiled.
    fn cached(&self, digest: &Digest, cache: &dyn CodeCache) -> Option<(Arc<Pool>, Component)> {
        [&self.small, &self.big].into_iter().find_map(|pool| {
            let code = cache.get(&pool.key(digest))?;
            Some((pool.clone(), pool.deserialize(&code).ok()?))
        })
    }

    /// Has a file compiled that the cache does not know.
    fn compiled(&self, bytes: &[u8], digest: &Digest, cache: &dyn CodeCache) -> Result<(Arc<Pool>, Component), LoadError> {
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
        cache.put(&pool.key(digest), &compiled.code);
        Ok((pool.clone(), component))
    }

    /// Compiles a file in this process. Everything that reads a stranger's bytes is here, and depends on them and the settings alone.
    ///
    /// # Errors
    ///
    /// Each says what is the matter with the file and what to do.
    pub(super) fn compile(&self, bytes: &[u8]) -> Result<Compiled, LoadError> {
        guarded(|| self.compile_unguarded(bytes))
    }

    fn compile_unguarded(&self, bytes: &[u8]) -> Result<Compiled, LoadError> {
        let form = diagnose::form(bytes)?;
        nesting::check(bytes)?;
        diagnose::validate(bytes)?;
        let encoded = match form {
            Form::Component => None,
            Form::CoreModule => Some(encode(bytes)?),
        };
        let component = encoded.as_deref().unwrap_or(bytes);
        let weight = diagnose::weight(component)?;
        let pool = if weight.code_bytes > Limits::BIG_CODE_BYTES { &self.big } else { &self.small };
        let asked = usize::try_from(weight.memory_bytes).unwrap_or(usize::MAX);
        if asked > pool.memory_bytes_max {
            let detail = format!("a memory of {} from the start; the limit is {}", size(asked), size(pool.memory_bytes_max));
            return Err(LoadError::TooDemanding { detail });
        }
        let code = pool.engine.precompile_component(component).map_err(|error| diagnose::not_compilable(&error))?;
        // What breaks here must not break in the engine first.
        let component = pool.deserialize(&code).map_err(|error| diagnose::not_compilable(&error))?;
        link(pool, &component)?;
        Ok(Compiled { kind: pool.kind, code })
    }
}

/// Compilers are large programs. One that panics on a strange file must not take its caller's thread along.
fn guarded<T>(load: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|panic| Err(LoadError::Engine { detail: panic_text(&*panic) }))
}

/// A component with its imports found.
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
    /// Names compiled code by what it was compiled from, and by everything that decides how.
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

    /// Fails where the code is of another engine, or asks for more than this pool has.
    #[expect(unsafe_code, reason = "compiled code is taken back; this is the only place that trusts bytes")]
    fn deserialize(&self, code: &[u8]) -> wasmtime::Result<Component> {
        // SAFETY: `code` must be what `Engine::precompile_component` gave. It comes from `Sandbox::compile`, run here or by a child of
        // the same program (`child.rs` says why its word counts), or from the cache. `CodeCache` promises, and its
        // implementer proves with a keyed hash, that it returns only what `put` received, and `put` receives nothing else. Files from
        // a plugin folder never come here: `diagnose::form` refuses precompiled ones.
        unsafe { Component::deserialize(&self.engine, code) }
    }
}

/// Turns what cargo writes into a component.
pub(super) fn encode(module: &[u8]) -> Result<Vec<u8>, LoadError> {
    diagnose::core_module(module)?;
    let encode = || ComponentEncoder::default().validate(true).module(module)?.encode();
    encode().map_err(|error: anyhow::Error| {
        let detail = format!("{error:#}");
        // A module that has no `…/handler@…#describe` at all was built for a world without the handler, or lost its exports.
        if detail.contains("handler") && detail.contains("failed to find export") {
            return LoadError::NoHandler;
        }
        LoadError::NotAComponent { detail: printable(&detail.replace('\n', " "), 600) }
    })
}

/// Starts the plugin once, without any event, and asks it what it is.
fn describe(guest: &Guest, limits: &Limits) -> Result<Manifest, LoadError> {
    let nothing = Arc::new(BTreeMap::new());
    let host = |log| guest.host(limits, log, nothing.clone(), None, "", Timestamp::from_millis(0));
    let (answer, told) = guest.call(limits, host, |plugin, store| plugin.innesco_plugin_handler().call_describe(store));
    let said = match answer {
        Ok(said) => said,
        Err(error) => {
            let failure = told.explain(error, limits).unwrap_or_else(|unavailable| unavailable.as_failure());
            return Err(LoadError::Describe { detail: failure.message });
        }
    };
    manifest(said)
}

fn manifest(said: types::Manifest) -> Result<Manifest, LoadError> {
    let bad = |field: &str, detail: &str| LoadError::BadManifest { detail: format!("{field}: {}", printable(detail, 400)) };
    let name = Slug::parse(&said.name).map_err(|error| bad("name", &error.0))?;
    if said.on.len() > PATTERNS_MAX {
        return Err(bad("on", &format!("{} patterns are too many; the limit is {PATTERNS_MAX}", said.on.len())));
    }
    let on: Result<Vec<_>, _> = said.on.iter().map(|pattern| Pattern::parse(pattern)).collect();
    Ok(Manifest {
        name,
        version: printable(&said.version, VERSION_BYTES),
        description: printable(&said.description, DESCRIPTION_BYTES),
        on: on.map_err(|error| bad("on", &error.0))?,
    })
}
