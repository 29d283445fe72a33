//! Why a file is not loaded: what is the matter with it, and what to do. Each sentence follows `plugin file … is not loaded: `.

use super::limits::size;

/// A file that does not become a plugin.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("it is empty. If it is still being copied, it loads by itself when it is complete")]
    Empty,
    #[error("it is {}; the limit is {}. Build it with --release, or raise plugins.bytes_max", size(*found), size(*limit))]
    TooLarge { found: usize, limit: usize },
    #[error(
        "it is not WebAssembly but {looks_like}. Build a crate with innesco plugin build, \
         or with cargo build --release --target wasm32-unknown-unknown, and drop in the .wasm file that it writes"
    )]
    NotWasm { looks_like: &'static str },
    #[error("it is WebAssembly text. Turn it into a binary with wat2wasm or wasm-tools parse")]
    Text,
    #[error(
        "it is compiled machine code, which is never taken from a plugin folder: it could do anything. \
         Drop in the .wasm file that it was compiled from"
    )]
    Precompiled,
    #[error("it is a native program, not WebAssembly. Build it with --target wasm32-unknown-unknown")]
    Native,
    #[error("it ends in the middle, after {}. If it is still being copied, it loads by itself when it is complete", size(*length))]
    Truncated { length: usize },
    #[error("it is broken: {detail} (at byte {offset}). Build it again")]
    Invalid { detail: String, offset: u64 },
    #[error("it was built without the SDK: a plain module that says nothing of its types. {}", CALL_EXPORT)]
    NoSdk,
    #[error("it exports no innesco:plugin/handler. {}", CALL_EXPORT)]
    NoHandler,
    #[error(
        "it exports an innesco:plugin/handler of another shape than contract {engine} has: {detail}. Build it with innesco-sdk {}",
        minor(engine)
    )]
    OtherHandler { detail: String, engine: &'static str },
    #[error(
        "it was built against contract {contract} and uses {uses}; this engine speaks {engine}. \
         Upgrade the engine, or build with innesco-sdk {}",
        minor(engine)
    )]
    NewerContract { contract: String, uses: String, engine: &'static str },
    #[error("it brings wasm-bindgen, which works only in browsers: {advice}")]
    WasmBindgen { advice: &'static str },
    #[error("it is built for wasm32-wasip1. Build it for wasm32-unknown-unknown, or for wasm32-wasip2")]
    Wasip1,
    #[error("it imports {}, which no plugin gets: {advice}", imports.join(", "))]
    UnknownImports { imports: Vec<String>, advice: &'static str },
    #[error("it does not fit together: {detail}. Build it again with innesco-sdk {}", minor(engine))]
    Unlinkable { detail: String, engine: &'static str },
    #[error("it does not become a component: {detail}. Build it again with the newest innesco-sdk of this engine")]
    NotAComponent { detail: String },
    #[error("it asks for more than a plugin gets: {detail}")]
    TooDemanding { detail: String },
    #[error("it does not compile: {detail}")]
    NotCompilable { detail: String },
    #[error("it cannot say what it is: its describe {detail}")]
    Describe { detail: String },
    #[error("what it says of itself is not valid: {detail}. Change it and build it again")]
    BadManifest { detail: String },
    #[error("{sentence}")]
    Refused { sentence: String, may_be_incomplete: bool },
    #[error(
        "the file is damaged or too complex: {reason}. It is not tried again until it is replaced or touched, or the engine upgraded"
    )]
    TooComplex { reason: String },
    #[error("the process that loads plugins did not do its work: {detail}. The file is tried again")]
    NoLoader { detail: String },
    #[error("the engine failed while loading it: {detail}. This is a fault of the engine; please report it with the file")]
    Engine { detail: String },
}

const CALL_EXPORT: &str = "Build a crate that calls innesco_sdk::export!(…) with: innesco plugin build";

impl LoadError {
    /// Whether the file may only be incomplete: half copied, still growing.
    pub fn may_be_incomplete(&self) -> bool {
        matches!(self, Self::Empty | Self::Truncated { .. } | Self::Refused { may_be_incomplete: true, .. })
    }

    /// Whether the same file may load the next time.
    pub fn passes(&self) -> bool {
        matches!(self, Self::NoLoader { .. })
    }
}

/// `1.0` of `1.0.0`, as one asks cargo for it.
fn minor(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(minor, _)| minor)
}
