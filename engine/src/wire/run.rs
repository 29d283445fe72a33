//! Runs: a plugin on an event.

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
    /// Next try.
    #[schema(value_type = Option<Timestamp>)]
    pub due: Option<String>,
    pub duration_ms: f64,
    /// Peak memory.
    pub memory_bytes: u64,
    /// Number of webhooks that it requested.
    pub webhooks: u32,
    /// Number of events that it emitted.
    pub events: u32,
}

/// A run with its log.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = RunStory)]
pub struct RunStoryView {
    #[serde(flatten)]
    pub run: RunView,
    pub log: Vec<LogView>,
    /// Number of lines dropped above the limit.
    pub log_dropped: u64,
}

/// A line that a plugin logged.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = LogLine)]
pub struct LogView {
    #[schema(value_type = LogLevel)]
    pub level: Word,
    pub message: String,
}
