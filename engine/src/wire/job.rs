//! Jobs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Word;
use crate::domain::{
    delivery::DeadReason,
    id::{EndpointId, JobId},
    job::{JobState, Task},
    pattern::Pattern,
    run::RunOutcome,
    time::Timestamp,
};

/// A background job on many deliveries, runs or events.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    #[schema(value_type = JobId)]
    pub id: String,
    #[schema(value_type = Task)]
    pub kind: Word,
    #[schema(value_type = JobState)]
    pub state: Word,
    /// Number of deliveries, runs or events that the job has made due again.
    pub done: u64,
    /// Number of deliveries, runs or events that cannot become due, because the endpoint is deleted or disabled, all attempts are
    /// used up, or the event waits to be run.
    pub failed: u64,
    /// Number of matching deliveries, runs or events when the job was created; `null` if there were too many to count.
    pub total: Option<u64>,
    pub filter: RetryFilterView,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    #[schema(value_type = Option<Timestamp>)]
    pub finished_at: Option<String>,
}

/// A number of things.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Count)]
pub struct CountView {
    /// `null` if there are too many things to count.
    pub count: Option<u64>,
}

/// Filter of a job. A member that the job does not use is `null`.
#[derive(Default, Deserialize, Serialize, ToSchema)]
#[schema(as = RetryFilter)]
pub struct RetryFilterView {
    #[schema(value_type = Option<EndpointId>)]
    pub endpoint: Option<String>,
    /// State of the deliveries, runs or events; `null` for any.
    #[schema(value_type = Option<String>)]
    pub state: Option<Word>,
    #[schema(value_type = Option<DeadReason>)]
    pub reason: Option<Word>,
    pub plugin: Option<String>,
    #[schema(value_type = Option<RunOutcome>)]
    pub outcome: Option<Word>,
    pub source: Option<String>,
    #[schema(value_type = Option<Pattern>)]
    pub event_type: Option<String>,
    #[schema(value_type = Option<Timestamp>)]
    pub since: Option<String>,
    #[schema(value_type = Option<Timestamp>)]
    pub until: Option<String>,
}
