//! Statistics: counts over time.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Word;
use crate::domain::{stats::Last, time::Timestamp};

/// Counts over time.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Stats)]
pub struct StatsView {
    #[schema(value_type = Last)]
    pub last: Word,
    /// Length of a bucket, in seconds.
    pub bucket_s: u64,
    /// Sum over all buckets.
    pub total: CountsView,
    /// Oldest first. A bucket is missing if no node ran in that time. In the counts of an endpoint, a plugin or a source, a
    /// bucket is also missing if nothing happened to it in that time.
    pub buckets: Vec<BucketView>,
}

/// What happened in one bucket.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = StatsBucket)]
pub struct BucketView {
    /// Start of the bucket. The last bucket contains the current time.
    #[schema(value_type = Timestamp)]
    pub at: String,
    #[serde(flatten)]
    pub counts: CountsView,
}

/// What happened in a period. Members that do not apply to an endpoint, a plugin or a source are 0.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[schema(as = StatsCounts)]
pub struct CountsView {
    /// New events.
    pub accepted: u64,
    /// Requests that sources refused.
    pub refused: u64,
    /// Runs that ended.
    pub runs: u64,
    /// Runs that ended with another outcome than `ok`.
    pub runs_failed: u64,
    /// Deliveries that succeeded.
    pub delivered: u64,
    /// Deliveries that succeeded at the first attempt.
    pub first_try: u64,
    /// Failed attempts.
    pub attempts_failed: u64,
    /// Half of the deliveries succeeded within this time after their event was accepted. Exact to a factor of 1.4. Only for the
    /// whole engine.
    pub p50_ms: Option<f64>,
    /// 99 % of the deliveries succeeded within this time after their event was accepted. Exact to a factor of 1.4.
    pub p99_ms: Option<f64>,
}
