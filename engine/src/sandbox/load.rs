//! Loading: from a file's bytes to a plugin that has been tried once.

use std::{collections::BTreeMap, sync::Arc};

use wasmparser::{Encoding, Parser, Payload};
use wasmtime::{
    Engine, Store,
    component::{Component, types::ComponentItem},
};
use wit_component::ComponentEncoder;

use super::{
    CodeCache,
    bindings::{self, PluginPre},
    diagnose::{self, LoadError},
    engine::{Engines, Host},
    host::Guest,
    output,
    run::{StateSource, explain, new_store},
};
use crate::domain::{
    name::Slug,
    pattern::Pattern,
    plugin::{Digest, Manifest},
    run::RunOutcome,
};

/// A loaded version of a plugin.
pub struct Plugin {
    engine: Engine,
    pre: PluginPre<Guest>,
    digest: Digest,
    manifest: Manifest,
    bytes_len: usize,
    uses_state: bool,
    uses_wasi: bool,
}

impl Plugin {
    /// The SHA-256 of the file's bytes.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How large its file is.
    pub const fn bytes_len(&self) -> usize {
        self.bytes_len
    }

    /// Whether it keeps state.
    pub const fn uses_state(&self) -> bool {
        self.uses_state
    }

    pub(super) const fn uses_wasi(&self) -> bool {
        self.uses_wasi
    }

    pub(super) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn instantiate(&self, store: &mut Store<Guest>) -> wasmtime::Result<bindings::Plugin> {
        self.pre.instantiate(store)
    }
}

pub fn load(engines: &Engines, bytes: &[u8], cache: &dyn CodeCache) -> Result<Plugin, LoadError> {
    let limit = engines.settings.plugin_bytes_max;
    if bytes.len() > limit {
        return Err(LoadError::TooLarge { bytes: bytes.len(), limit });
    }
    diagnose::recognise(bytes)?;
    let parts = examine(bytes)?;
    let host = engines.for_size(bytes.len());
    let digest = Digest::of(bytes);

    let key = format!("{digest} {} {}", host.name, compatibility(&host.engine));
    let component = match cached(&host.engine, &key, cache) {
        Some(component) => component,
        None => {
            let component = compile(host, bytes, &parts)?;
            // A plugin that cannot be serialized is compiled again next time.
            if let Ok(code) = component.serialize() {
                cache.put(&key, &code);
            }
            component
        }
    };

    let imports: Vec<String> = component
        .component_type()
        .imports(&host.engine)
        .filter(|(_, item)| !matches!(item.ty, ComponentItem::Type(_)))
        .map(|(name, _)| name.to_owned())
        .collect();
    diagnose::check_imports(&imports)?;
    let uses_wasi = imports.iter().any(|name| name.starts_with("wasi:"));
    let uses_state = imports.iter().any(|name| name.starts_with("innesco:plugin/state@"));
    let linker = if uses_wasi { &host.wasi } else { &host.plain };
    let pre = linker.instantiate_pre(&component).map_err(|error| diagnose::linking(&error, &imports))?;
    let pre = PluginPre::new(pre).map_err(|error| diagnose::exports(&error, &component, &host.engine))?;

    let mut plugin = Plugin {
        engine: host.engine.clone(),
        pre,
        digest,
        manifest: Manifest {
            name: Slug::parse("unnamed").expect("it is a slug"),
            version: String::new(),
            description: String::new(),
            on: vec![],
        },
        bytes_len: bytes.len(),
        uses_state,
        uses_wasi,
    };
    plugin.manifest = describe(engines, &plugin)?;
    Ok(plugin)
}

/// What a file is made of.
struct Parts {
    encoding: Encoding,
    /// Names of modules that a core module imports from.
    imports: Vec<String>,
    /// It carries the section from which a component is made.
    has_contract: bool,
}

/// Reads a file to its end before anything else sees it.
fn examine(bytes: &[u8]) -> Result<Parts, LoadError> {
    wasmparser::Validator::new().validate_all(bytes).map_err(|error| diagnose::invalid(&error))?;
    let mut parts = Parts { encoding: Encoding::Module, imports: Vec::new(), has_contract: false };
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| diagnose::invalid(&error))? {
            Payload::Version { encoding, range, .. } if range.start == 0 => parts.encoding = encoding,
            Payload::ImportSection(section) if parts.encoding == Encoding::Module => {
                for import in section.into_imports() {
                    let import = import.map_err(|error| diagnose::invalid(&error))?;
                    if !parts.imports.iter().any(|known| known == import.module) {
                        parts.imports.push(import.module.to_owned());
                    }
                }
            }
            Payload::CustomSection(section) if section.name().starts_with("component-type") => parts.has_contract = true,
            _ => {}
        }
    }
    Ok(parts)
}

fn compile(host: &Host, bytes: &[u8], parts: &Parts) -> Result<Component, LoadError> {
    let encoded;
    let bytes = match parts.encoding {
        Encoding::Component => bytes,
        Encoding::Module => {
            diagnose::check_module(&parts.imports, parts.has_contract)?;
            let encoder = ComponentEncoder::default().validate(true).module(bytes);
            encoded =
                encoder.and_then(|mut encoder| encoder.encode()).map_err(|error| diagnose::encoding(&format!("{error:#}")))?;
            &encoded
        }
    };
    Component::new(&host.engine, bytes).map_err(|error| LoadError::Refused(format!("{error:#}")))
}

/// Tells code that this engine can run from code of other versions and settings.
fn compatibility(engine: &Engine) -> String {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn cached(engine: &Engine, key: &str, cache: &dyn CodeCache) -> Option<Component> {
    let code = cache.get(key)?;
    #[expect(unsafe_code, reason = "compiled code can only be taken over unsafely")]
    // SAFETY: the bytes were serialized by this function's caller under this very key, and the cache promises to return nothing
    // else (`CodeCache`): it authenticates what it keeps.
    let component = unsafe { Component::deserialize(engine, code) };
    component.inspect_err(|error| tracing::warn!(%error, "compiled code does not fit this engine; compiling again")).ok()
}

/// Asks a plugin, once, what it is: also the proof that it can be instantiated.
fn describe(engines: &Engines, plugin: &Plugin) -> Result<Manifest, LoadError> {
    let limits = engines.settings.limits;
    let wasi = plugin
        .uses_wasi
        .then(|| super::wasi::Wasi::new(crate::domain::time::Timestamp::from_millis(0), plugin.digest.as_bytes(), 4096));
    let mut store = new_store(plugin, Guest::new(limits, Arc::new(BTreeMap::new()), Box::new(NoState), wasi));
    let described =
        plugin.instantiate(&mut store).and_then(|instance| instance.innesco_plugin_handler().call_describe(&mut store));
    let manifest = match described {
        Ok(manifest) => manifest,
        Err(error) => {
            let failure = explain(&error, &mut store.into_data()).map_err(|error| LoadError::Describe(error.to_string()))?;
            return Err(match failure.outcome {
                RunOutcome::Trapped => LoadError::Describe(format!("{} ({error:#})", failure.message)),
                _ => LoadError::Describe(failure.message),
            });
        }
    };
    let name = Slug::parse(&manifest.name).map_err(|bad| LoadError::Manifest(format!("its name {bad}")))?;
    if manifest.on.len() > 100 {
        return Err(LoadError::Manifest(format!("it runs on {} patterns; at most 100 are taken", manifest.on.len())));
    }
    let on = manifest.on.iter().map(|text| Pattern::parse(text)).collect::<Result<_, _>>();
    Ok(Manifest {
        name,
        version: output::clean(&manifest.version, 64),
        description: output::clean(&manifest.description, 500),
        on: on.map_err(|bad| LoadError::Manifest(bad.to_string()))?,
    })
}

/// A plugin has no state before it runs.
struct NoState;

impl StateSource for NoState {
    fn get(&mut self, _: &str) -> Result<Option<(Vec<u8>, i64)>, anyhow::Error> {
        Ok(None)
    }
}
