//! Plugins and the size of their state.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Word;

/// The words for the state of a plugin.
pub enum PluginState {}

impl PluginState {
    pub const SERVING: &str = "serving";
    pub const NOT_LOADABLE: &str = "not-loadable";
    pub const WORDS: [&str; 2] = [Self::SERVING, Self::NOT_LOADABLE];
}

/// A plugin.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Plugin)]
pub struct PluginView {
    pub name: String,
    /// SHA-256 of its file; `null` if the file never became a plugin.
    pub version: Option<String>,
    #[schema(value_type = PluginState)]
    pub state: Word,
    /// Why it does not load, or why a newer file was rejected.
    pub error: Option<String>,
    pub description: String,
    /// The author's name for this version.
    pub author_version: String,
    /// Patterns of the event types that it runs on.
    pub on: Vec<String>,
    pub file: String,
    pub bytes: u64,
}

/// Size of a plugin's state, and its limits.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = PluginStateSize)]
pub struct StateSizeView {
    pub plugin: String,
    pub keys: u64,
    /// Size of keys and values.
    pub bytes: u64,
    /// `plugin.state_keys_max`.
    pub keys_max: u64,
    /// `plugin.state_max`.
    pub bytes_max: u64,
}

/// Result of clearing a plugin's state.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ClearedState)]
pub struct ClearedStateView {
    pub plugin: String,
    /// Number of deleted keys.
    pub keys: u64,
}
