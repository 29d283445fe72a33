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

/// Work on many deliveries.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    #[schema(value_type = JobId)]
    pub id: String,
    /// What it does; `delivery.retry` so far.
    #[schema(value_type = String)]
    pub kind: Word,
    #[schema(value_type = JobState)]
    pub state: Word,
    /// Deliveries that are due again.
    pub done: u64,
    /// Deliveries that could not be: their endpoint is gone or disabled, or they have had all their attempts.
    pub failed: u64,
    /// How many there were at the beginning; null when they were too many to count.
    pub total: Option<u64>,
    pub filter: RetryFilterView,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    #[schema(value_type = Option<Timestamp>)]
    pub finished_at: Option<String>,
}

/// What a bulk retry was asked for.
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
