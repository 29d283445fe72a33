//! Jobs: one command on many deliveries, executed in batches. A job is a row with its filter, its cursor and its end (the last
//! delivery at its creation), so it survives the process.
//!
//! The cursor moves in the transaction of each batch. So an interrupted job processes each delivery once, and a delivery that
//! dies again is behind the cursor.

use super::{
    delivery::{DeadReason, DeliveryState},
    id::{EndpointId, JobId},
    pattern::Pattern,
    time::Timestamp,
};

/// Maximum number of running jobs: each takes turns with other commits.
pub const JOBS_RUNNING_MAX: usize = 10;

/// The final state of deliveries that a job retries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ended {
    #[default]
    Dead,
    Cancelled,
}

impl Ended {
    pub const ALL: [Self; 2] = [Self::Dead, Self::Cancelled];

    /// Returns the word of [`DeliveryState::as_str`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ended| ended.as_str() == text)
    }
}

/// Selects the finished deliveries that a job retries.
#[derive(Clone, Debug, Default)]
pub struct RetryFilter {
    pub endpoint: Option<EndpointId>,
    pub ended: Ended,
    pub reason: Option<DeadReason>,
    /// The event type for the receiver.
    pub event_type: Option<Pattern>,
    /// Died or cancelled at or after this time.
    pub since: Option<Timestamp>,
    /// Died or cancelled before this time.
    pub until: Option<Timestamp>,
}

impl RetryFilter {
    /// Returns whether a delivery matches everything but its type, which needs a look-up.
    pub fn takes(&self, endpoint: EndpointId, state: &DeliveryState) -> bool {
        let at = match (self.ended, state) {
            (Ended::Dead, DeliveryState::Dead { at, reason }) if self.reason.is_none_or(|wanted| wanted == *reason) => *at,
            (Ended::Cancelled, DeliveryState::Cancelled { at }) => *at,
            _ => return false,
        };
        self.endpoint.is_none_or(|wanted| wanted == endpoint)
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    Running,
    /// All matching deliveries were processed.
    Done,
    /// Cancelled by a person; completed work stays.
    Cancelled,
}

impl JobState {
    pub const ALL: [Self; 3] = [Self::Running, Self::Done, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A bulk retry with its progress.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub filter: RetryFilter,
    pub state: JobState,
    /// Number of deliveries that are due again.
    pub done: u64,
    /// Number of deliveries that cannot be retried: their endpoint is deleted or disabled, or all attempts are used up.
    pub failed: u64,
    /// Number of matching deliveries at creation; `None` if there were too many to count.
    pub total: Option<u64>,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

impl Job {
    /// The word for what jobs do. All of them retry deliveries so far.
    pub const KIND: &str = "delivery.retry";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_matching_deliveries() {
        let at = Timestamp::from_millis;
        let crm = EndpointId::from_i64(1);
        let dead = |at| DeliveryState::Dead { at, reason: DeadReason::Exhausted };
        let all = RetryFilter::default();
        assert!(all.takes(crm, &dead(at(5))));
        assert!(!all.takes(crm, &DeliveryState::Cancelled { at: at(5) }), "dead deliveries by default");
        assert!(!all.takes(crm, &DeliveryState::Delivered { at: at(5) }));
        let cancelled = RetryFilter { ended: Ended::Cancelled, ..RetryFilter::default() };
        assert!(cancelled.takes(crm, &DeliveryState::Cancelled { at: at(5) }));
        assert!(!cancelled.takes(crm, &dead(at(5))));
        let gone = RetryFilter { reason: Some(DeadReason::Gone), ..RetryFilter::default() };
        assert!(!gone.takes(crm, &dead(at(5))));
        let other = RetryFilter { endpoint: Some(EndpointId::from_i64(2)), ..RetryFilter::default() };
        assert!(!other.takes(crm, &dead(at(5))));
        let between = RetryFilter { since: Some(at(5)), until: Some(at(7)), ..RetryFilter::default() };
        let taken: Vec<i64> = (4..8).filter(|millis| between.takes(crm, &dead(at(*millis)))).collect();
        assert_eq!(taken, [5, 6]);
    }
}
