//! Jobs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Word;
use crate::domain::{
    delivery::DeadReason,
    id::{EndpointId, JobId},
    job::{Ended, JobState},
    pattern::Pattern,
    time::Timestamp,
};

/// A background job on many deliveries.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    #[schema(value_type = JobId)]
    pub id: String,
    /// Kind of the job: always `delivery.retry`.
    #[schema(value_type = String)]
    pub kind: Word,
    #[schema(value_type = JobState)]
    pub state: Word,
    /// Number of deliveries that are due again.
    pub done: u64,
    /// Number of deliveries that cannot be retried: their endpoint is deleted or disabled, or their attempts are used up.
    pub failed: u64,
    /// Number of matching deliveries when the job was created; `null` if they were too many to count.
    pub total: Option<u64>,
    pub filter: RetryFilterView,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    #[schema(value_type = Option<Timestamp>)]
    pub finished_at: Option<String>,
}

/// Filter of a bulk retry.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = RetryFilter)]
pub struct RetryFilterView {
    #[schema(value_type = Option<EndpointId>)]
    pub endpoint: Option<String>,
    #[schema(value_type = Ended)]
    pub state: Word,
    #[schema(value_type = Option<DeadReason>)]
    pub reason: Option<Word>,
    #[schema(value_type = Option<Pattern>)]
    pub event_type: Option<String>,
    #[schema(value_type = Option<Timestamp>)]
    pub since: Option<String>,
    #[schema(value_type = Option<Timestamp>)]
    pub until: Option<String>,
}
