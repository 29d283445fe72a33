//! Jobs: one command over many deliveries, worked off in batches. A job is a row with its filter, its cursor and its end (the last
//! delivery that existed when it was created), so it survives the process.
//!
//! The cursor moves in the transaction of each batch. An interrupted job therefore takes up each delivery once, and a delivery that
//! dies again lies behind the cursor.

use super::{
    delivery::{DeadReason, DeliveryState},
    id::{EndpointId, JobId},
    pattern::Pattern,
    time::Timestamp,
};

/// Jobs that can be running at once: each takes its turn between other commits.
pub const JOBS_RUNNING_MAX: usize = 10;

/// How a delivery ended that a job takes up again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ended {
    #[default]
    Dead,
    Cancelled,
}

impl Ended {
    pub const ALL: [Self; 2] = [Self::Dead, Self::Cancelled];

    /// The word of [`DeliveryState::as_str`].
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

/// Which finished deliveries a job sends again.
#[derive(Clone, Debug, Default)]
pub struct RetryFilter {
    pub endpoint: Option<EndpointId>,
    pub ended: Ended,
    pub reason: Option<DeadReason>,
    /// The type that the receiver is told.
    pub event_type: Option<Pattern>,
    /// Given up or called off at or after.
    pub since: Option<Timestamp>,
    /// Given up or called off before.
    pub until: Option<Timestamp>,
}

impl RetryFilter {
    /// Whether a delivery is meant, by everything but its type, which costs a look-up.
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
    /// Every delivery that it meant was looked at.
    Done,
    /// Called off by a person; what it did before stands.
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

/// A bulk retry as it stands.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub filter: RetryFilter,
    pub state: JobState,
    /// Deliveries that are due again.
    pub done: u64,
    /// Deliveries that could not be: their endpoint is gone or disabled, or they have had all their attempts.
    pub failed: u64,
    /// How many there were when it was created; `None` when they were too many to count.
    pub total: Option<u64>,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_deliveries_a_filter_takes() {
        let at = Timestamp::from_millis;
        let crm = EndpointId::from_i64(1);
        let dead = |at| DeliveryState::Dead { at, reason: DeadReason::Exhausted };
        let all = RetryFilter::default();
        assert!(all.takes(crm, &dead(at(5))));
        assert!(!all.takes(crm, &DeliveryState::Cancelled { at: at(5) }), "dead ones unless it says otherwise");
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
