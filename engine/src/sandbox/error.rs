//! Why a file does not load, and what to do. Each text continues a line that begins with `plugin file … is not loaded: `.

use super::limits::size;

/// The reason why a file does not become a plugin.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("it is empty. If it is still being copied, it loads automatically when it is complete")]
    Empty,
    #[error("it is {}; the limit is {}. Build it with --release, or raise limits.plugin_bytes_max", size(*found), size(*limit))]
    TooLarge { found: usize, limit: usize },
    #[error(
        "it is not WebAssembly but {looks_like}. Build a crate with innesco plugin build, \
         or with cargo build --release --target wasm32-unknown-unknown, and copy its .wasm file here"
    )]
    NotWasm { looks_like: &'static str },
    #[error("it is WebAssembly text. Turn it into a binary with wat2wasm or wasm-tools parse")]
    Text,
    #[error(
        "it is compiled machine code, which is never loaded from a plugin folder, because nothing could check it. \
         Copy the .wasm file here from which it was compiled"
    )]
    Precompiled,
    #[error("it is a native program, not WebAssembly. Build it with --target wasm32-unknown-unknown")]
    Native,
    #[error("it ends in the middle, after {}. If it is still being copied, it loads automatically when it is complete", size(*length))]
    Truncated { length: usize },
    #[error("it is broken: {detail} (at byte {offset}). Build it again")]
    Invalid { detail: String, offset: u64 },
    #[error("it was built without the SDK: it is a core module, not a component. {}", CALL_EXPORT)]
    NoSdk,
    #[error("it exports no innesco:plugin/handler. {}", CALL_EXPORT)]
    NoHandler,
    #[error(
        "it exports an innesco:plugin/handler of another shape than contract {engine} has: {detail}. Build it with innesco-sdk {}",
        minor(engine)
    )]
    OtherHandler { detail: String, engine: &'static str },
    #[error(
        "it was built against contract {contract} and uses {uses}; this engine supports {engine}. \
         Upgrade the engine, or build with innesco-sdk {}",
        minor(engine)
    )]
    NewerContract { contract: String, uses: String, engine: &'static str },
    #[error("it contains wasm-bindgen, which works only in browsers: {advice}")]
    WasmBindgen { advice: &'static str },
    #[error("it is built for wasm32-wasip1. Build it for wasm32-unknown-unknown, or for wasm32-wasip2")]
    Wasip1,
    #[error("it imports {}, which plugins cannot use: {advice}", imports.join(", "))]
    UnknownImports { imports: Vec<String>, advice: &'static str },
    #[error("its parts do not fit together: {detail}. Build it again with innesco-sdk {}", minor(engine))]
    Unlinkable { detail: String, engine: &'static str },
    #[error("it does not become a component: {detail}. Build it again with the newest innesco-sdk of this engine")]
    NotAComponent { detail: String },
    #[error("it exceeds a limit of plugins: {detail}")]
    TooDemanding { detail: String },
    #[error("it does not compile: {detail}")]
    NotCompilable { detail: String },
    #[error("its describe function failed: it {detail}")]
    Describe { detail: String },
    #[error("its manifest is not valid: {detail}. Change it and build it again")]
    BadManifest { detail: String },
    #[error("{sentence}")]
    Refused { sentence: String, may_be_incomplete: bool },
    #[error(
        "the file is damaged or too complex: {reason}. It is not tried again until it is replaced or touched, or the engine upgraded"
    )]
    TooComplex { reason: String },
    #[error("the process that loads plugins failed: {detail}. The engine retries")]
    NoLoader { detail: String },
    #[error("the engine failed while loading it: {detail}. This is a fault of the engine; please report it with the file")]
    Engine { detail: String },
}

const CALL_EXPORT: &str = "Build a crate that calls innesco_sdk::export!(…) with: innesco plugin build";

impl LoadError {
    /// Returns whether the file may be incomplete: half copied, still growing.
    pub fn may_be_incomplete(&self) -> bool {
        matches!(self, Self::Empty | Self::Truncated { .. } | Self::Refused { may_be_incomplete: true, .. })
    }

    /// Returns whether the same file may load next time.
    pub fn passes(&self) -> bool {
        matches!(self, Self::NoLoader { .. })
    }
}

/// Returns `1.0` of `1.0.0`, as in a cargo requirement.
fn minor(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(minor, _)| minor)
}
