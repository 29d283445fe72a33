//! Runs of plugins on events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Word;
use crate::domain::{
    id::{EventId, RunId},
    run::{LogLevel, RunOutcome, RunState},
    time::Timestamp,
};

/// One run of a plugin on an event.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Run)]
pub struct RunView {
    #[schema(value_type = RunId)]
    pub id: String,
    #[schema(value_type = EventId)]
    pub event: String,
    /// Type of the event.
    pub r#type: String,
    pub plugin: String,
    /// SHA-256 of the plugin that ran.
    pub version: Option<String>,
    /// Name of the endpoint that the plugin belongs to.
    pub endpoint: Option<String>,
    /// 0 for the first run, then one more for each replay.
    pub round: u32,
    #[schema(value_type = RunState)]
    pub state: Word,
    #[schema(value_type = Option<RunOutcome>)]
    pub outcome: Option<Word>,
    /// Why the run failed, for programs.
    pub code: Option<String>,
    /// Why the run failed, for people.
    pub message: Option<String>,
    /// Name of the missing endpoint that the run waits for. Once it exists, the run is tried again automatically.
    pub wants: Option<String>,
    pub tries: u32,
    /// When the next try is due.
    #[schema(value_type = Option<Timestamp>)]
    pub due: Option<String>,
    pub duration_ms: f64,
    /// Peak memory.
    pub memory_bytes: u64,
    /// Number of webhooks that it requested.
    pub webhooks: u32,
    /// Number of events that it emitted.
    pub events: u32,
    /// Revision of the plugin's settings that it used. Null if the run was not executed.
    pub settings_revision: Option<i64>,
}

/// A run with its log.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = RunStory)]
pub struct RunStoryView {
    #[serde(flatten)]
    pub run: RunView,
    /// Lines of the plugin's source at which the run was stopped, innermost first: `orders::total (src/lib.rs:23)`. Empty if it
    /// was not stopped, or if the plugin was built without debug information.
    #[serde(default)]
    pub backtrace: Vec<String>,
    pub log: Vec<LogView>,
    /// Number of lines that were dropped because the log reached its limit.
    pub log_dropped: u64,
}

/// Everything that a run depended on. With it, the same version of the plugin repeats the run exactly.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = RunRecord)]
pub struct RunRecordView {
    #[schema(value_type = RunId)]
    pub run: String,
    pub plugin: String,
    /// SHA-256 of the plugin that ran.
    pub version: Option<String>,
    #[schema(value_type = Option<RunOutcome>)]
    pub outcome: Option<Word>,
    /// Whether the plugin belongs to an endpoint. If so, its webhooks name no endpoint.
    pub bound: bool,
    pub event: RecordedEventView,
    /// Revision of the plugin's settings.
    pub settings_revision: Option<i64>,
    /// The settings of that revision, without defaults. Null if they are no longer stored.
    pub settings: Option<BTreeMap<String, String>>,
    /// When the run began. This time decides which values of state had expired. The plugin cannot read it. Null if the run used
    /// no state.
    #[schema(value_type = Option<Timestamp>)]
    #[serde(default)]
    pub at: Option<String>,
    /// The state that the run read. The keys are in the order in which the run first read them.
    pub state: Vec<RecordedStateView>,
    /// Why the run cannot be repeated. Null if it can.
    pub not_repeatable: Option<String>,
    /// The limits that apply to runs in this engine now.
    #[serde(default)]
    pub limits: Option<RunLimitsView>,
}

/// Limits of one run. With the same limits, a repetition on another machine ends as it does in this engine.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = RunLimits)]
pub struct RunLimitsView {
    /// `plugin.deadline`, in milliseconds.
    pub deadline_ms: u64,
    /// `plugin.memory_max`.
    pub memory_bytes: u64,
    /// Memory limit of plugins that contain an interpreter.
    pub big_memory_bytes: u64,
    /// `plugin.output_max`.
    pub output_bytes: u64,
    /// `plugin.webhooks_max`.
    pub webhooks: u64,
    /// `plugin.events_max`.
    pub events: u64,
    /// `plugin.log_lines_max`.
    pub log_lines: u64,
}

/// The event as the plugin received it.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = RecordedEvent)]
pub struct RecordedEventView {
    #[schema(value_type = EventId)]
    pub event: String,
    pub id: String,
    pub source: String,
    pub r#type: String,
    pub subject: Option<String>,
    pub time: String,
    #[schema(value_type = Timestamp)]
    pub accepted_at: String,
    /// Number of earlier events in the chain that led to this event.
    #[serde(default)]
    pub depth: u8,
    pub content_type: String,
    /// Names and values of the attributes. If the event came from a source, the parts of its request are attributes too.
    pub attributes: Vec<(String, String)>,
    #[schema(content_encoding = "base64")]
    pub data_base64: String,
}

/// A value of a plugin's state that a run read.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = RecordedState)]
pub struct RecordedStateView {
    pub key: String,
    /// Null if no value existed.
    #[schema(content_encoding = "base64")]
    pub value_base64: Option<String>,
}

/// A line that a plugin logged.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[schema(as = LogLine)]
pub struct LogView {
    #[schema(value_type = LogLevel)]
    pub level: Word,
    pub message: String,
    /// Fields of the line, by name.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
}
