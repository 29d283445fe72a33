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

/// What decides about events.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Plugin)]
pub struct PluginView {
    pub name: String,
    /// SHA-256 of its bytes; `null` for a file that never became a plugin.
    pub version: Option<String>,
    #[schema(value_type = PluginState)]
    pub state: Word,
    /// Why it does not load, or why a newer file was refused.
    pub error: Option<String>,
    pub description: String,
    /// What its author calls this version.
    pub author_version: String,
    /// The events that it runs on.
    pub on: Vec<String>,
    pub file: String,
    pub bytes: u64,
}

/// How much state a plugin keeps, and how much it may.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = PluginStateSize)]
pub struct StateSizeView {
    pub plugin: String,
    pub keys: u64,
    /// Keys and values together.
    pub bytes: u64,
    /// `plugin.state_keys_max`.
    pub keys_max: u64,
    /// `plugin.state_max`.
    pub bytes_max: u64,
}

/// What was cleared.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ClearedState)]
pub struct ClearedStateView {
    pub plugin: String,
    /// How many keys were deleted.
    pub keys: u64,
}
