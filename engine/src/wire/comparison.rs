//! Comparisons of plugin versions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Word;
use crate::domain::{
    id::{ComparisonId, EventId, RunId},
    job::JobState,
    pattern::Pattern,
    time::Timestamp,
};

/// A comparison of the serving version of a plugin with a candidate, on recorded runs: past runs, or new runs as they end.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Comparison)]
pub struct ComparisonView {
    #[schema(value_type = ComparisonId)]
    pub id: String,
    pub plugin: String,
    /// SHA-256 of the version that served when the comparison was created.
    pub serving: String,
    /// SHA-256 of the candidate.
    pub candidate: String,
    #[schema(value_type = JobState)]
    pub state: Word,
    /// Why the comparison ended early. Null if it did not.
    pub problem: Option<String>,
    /// Maximum number of runs.
    pub last: u64,
    /// Whether the comparison counts new runs as they end.
    #[serde(default)]
    pub follow: bool,
    /// Percentage of the new runs that are compared. Null if `follow` is false.
    pub share: Option<u8>,
    #[schema(value_type = Option<Pattern>)]
    pub event_type: Option<String>,
    #[schema(value_type = Option<Timestamp>)]
    pub since: Option<String>,
    /// Whether examples hide their values.
    pub mask: bool,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    #[schema(value_type = Option<Timestamp>)]
    pub finished_at: Option<String>,
    pub report: ReportView,
}

/// What a comparison has found so far.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ComparisonReport)]
pub struct ReportView {
    /// Recorded runs that both versions repeated.
    pub compared: u64,
    pub same: u64,
    pub differ: u64,
    /// Runs that end `ok` with the serving version, but not with the candidate.
    pub new_failures: u64,
    /// Runs that end `ok` with the candidate, but not with the serving version.
    pub fixed_failures: u64,
    /// Runs in which an endpoint gets more or fewer webhooks.
    pub targets_differ: u64,
    /// Recorded runs that cannot be repeated. They are not compared.
    pub not_repeatable: u64,
    /// Runs in which a version read state that is not recorded. Both versions then read the current value of the state.
    pub read_current_state: u64,
    /// New runs that were left out because the node was busy.
    #[serde(default)]
    pub skipped: u64,
    /// Differences by cause, the most frequent first.
    pub changes: Vec<ChangeView>,
    pub serving: CostView,
    pub candidate: CostView,
}

/// Differences with the same cause.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ComparisonChange)]
pub struct ChangeView {
    /// The cause, such as `webhook to crm: body /total changed`.
    pub change: String,
    /// Its kind, such as `body` or `webhook-added`.
    pub kind: String,
    /// Number of runs.
    pub count: u64,
    pub samples: Vec<SampleView>,
}

/// One run with a difference.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ComparisonSample)]
pub struct SampleView {
    #[schema(value_type = RunId)]
    pub run: String,
    #[schema(value_type = EventId)]
    pub event: String,
    /// The value with the serving version, shortened.
    pub from: Option<String>,
    /// The value with the candidate, shortened.
    pub to: Option<String>,
}

/// Time and memory of one version's runs, exact to a few percent.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ComparisonCost)]
pub struct CostView {
    pub time_ms: PercentilesView,
    /// Peak memory.
    pub memory_bytes: PercentilesView,
}

/// The values that half of the runs, and 99 % of the runs, do not exceed.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Percentiles)]
pub struct PercentilesView {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}
