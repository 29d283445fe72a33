//! Plugins and the size of their state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Word;
use crate::domain::{
    plugin::{Halt, VersionState, Way},
    setting::SettingType,
    time::Timestamp,
};

/// The words for the state of a plugin.
pub enum PluginState {}

impl PluginState {
    pub const SERVING: &str = "serving";
    pub const NOT_LOADABLE: &str = "not-loadable";
    pub const WORDS: [&str; 5] =
        [Self::SERVING, VersionState::Candidate.as_str(), Halt::Disabled.as_str(), Halt::Held.as_str(), Self::NOT_LOADABLE];
}

/// A plugin.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Plugin)]
pub struct PluginView {
    pub name: String,
    /// SHA-256 of its file; `null` if the file is not a plugin.
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
    /// Name of its file in the plugin folder; empty for an upload.
    pub file: String,
    pub bytes: u64,
}

/// A stored version of a plugin.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = PluginVersion)]
pub struct PluginVersionView {
    pub plugin: String,
    /// SHA-256 of its file.
    pub version: String,
    #[schema(value_type = VersionState)]
    pub state: Word,
    /// When the version was last pushed or promoted.
    #[schema(value_type = Timestamp)]
    pub at: String,
    /// Who proposed the version: the name of a key, or the plugin folder.
    pub by: String,
    /// How the version was proposed.
    #[schema(value_type = Way)]
    pub way: Word,
    pub description: String,
    /// The author's name for this version.
    pub author_version: String,
    /// Patterns of the event types that it runs on.
    pub on: Vec<String>,
    /// Name of its file in the plugin folder; empty for an upload.
    pub file: String,
    pub bytes: u64,
    /// When the version last stopped serving.
    #[schema(value_type = Option<Timestamp>)]
    pub ended_at: Option<String>,
}

/// The settings of a plugin.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = PluginConfig)]
pub struct PluginConfigView {
    pub plugin: String,
    /// Number of the last change; 0 before the first change.
    #[schema(minimum = 0)]
    pub revision: i64,
    /// The values that the operator set, by name, as the plugin reads them.
    pub config: BTreeMap<String, String>,
    /// The settings that the plugin declares. Empty if it declares none, does not load or does not exist.
    pub settings: Vec<SettingView>,
    /// Values that do not fit the declaration, and required settings without a value.
    pub problems: Vec<SettingProblemView>,
    /// The last 100 changes, newest first.
    pub revisions: Vec<ConfigRevisionView>,
}

/// A setting that a plugin declares.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Setting)]
pub struct SettingView {
    /// A name that ends in `.*` stands for all names with this prefix.
    pub name: String,
    #[schema(value_type = SettingType)]
    pub r#type: Word,
    /// The value that the plugin reads if the operator has set no value.
    pub default: Option<String>,
    pub description: String,
    pub required: bool,
}

/// A setting that does not fit the plugin's declaration.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = SettingProblem)]
pub struct SettingProblemView {
    /// JSON pointer (RFC 6901) into `config`.
    pub pointer: String,
    pub detail: String,
}

/// A change of a plugin's settings.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ConfigRevision)]
pub struct ConfigRevisionView {
    #[schema(minimum = 1)]
    pub revision: i64,
    #[schema(value_type = Timestamp)]
    pub at: String,
    /// Name of the key that made the change.
    pub by: String,
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

/// A key of a plugin's state.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = PluginStateKey)]
pub struct StateKeyView {
    pub key: String,
    /// Size of its value.
    pub bytes: u64,
    /// When it expires; null if never.
    #[schema(value_type = Option<Timestamp>)]
    #[serde(default)]
    pub expires_at: Option<String>,
}

/// A value of a plugin's state: JSON unchanged, other text as a string, other bytes in base64.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = PluginStateValue)]
pub struct StateValueView {
    pub plugin: String,
    pub key: String,
    /// Size of the value.
    pub bytes: u64,
    /// The value, if it is text. A string may be stored as JSON or as bare text: see `is_json`.
    #[schema(value_type = serde_json::Value)]
    pub value: Option<Box<RawValue>>,
    pub is_json: bool,
    /// The value in base64, if it is not text.
    pub value_base64: Option<String>,
}

/// A deleted value of a plugin's state.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = DeletedState)]
pub struct DeletedStateView {
    pub plugin: String,
    pub key: String,
}

/// Result of clearing a plugin's state.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ClearedState)]
pub struct ClearedStateView {
    pub plugin: String,
    /// Number of deleted keys.
    pub keys: u64,
}
