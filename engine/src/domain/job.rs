//! Jobs: one command on many deliveries, executed in batches. A job is a row with its filter, its cursor and its end (the last
//! delivery at its creation), so it survives the process.
//!
//! The cursor moves in the transaction of each batch. So an interrupted job processes each delivery once, and a delivery that
//! dies again is behind the cursor.

use super::{
    delivery::{DeadReason, DeliveryState},
    id::{DeliveryId, EndpointId, JobId},
    pattern::Pattern,
    time::Timestamp,
};

/// Maximum number of running jobs: each takes turns with other commits.
pub const JOBS_RUNNING_MAX: usize = 10;

/// The state of deliveries that a job retries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ended {
    #[default]
    Dead,
    Cancelled,
    /// Waiting for the next try, which becomes due now.
    Retrying,
}

impl Ended {
    pub const ALL: [Self; 3] = [Self::Dead, Self::Cancelled, Self::Retrying];

    /// Returns the word of [`DeliveryState::as_str`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Retrying => "retrying",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ended| ended.as_str() == text)
    }

    /// Returns the state of a delivery that ended so, or is due again, at a time; `None` if the word of its reason cannot be read.
    pub fn state(self, at: Timestamp, reason: Option<&str>) -> Option<DeliveryState> {
        match self {
            Self::Cancelled => Some(DeliveryState::Cancelled { at, reason: None }),
            Self::Retrying => Some(DeliveryState::Retrying { due: at }),
            Self::Dead => Some(DeliveryState::Dead { at, reason: DeadReason::parse(reason?)? }),
        }
    }
}

/// Selects the deliveries that a job retries.
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
            (Ended::Cancelled, DeliveryState::Cancelled { at, .. }) => *at,
            (Ended::Retrying, DeliveryState::Retrying { due }) => *due,
            _ => return false,
        };
        self.endpoint.is_none_or(|wanted| wanted == endpoint)
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
    }
}

/// A finished delivery that a job may match.
#[derive(Clone, Debug)]
pub struct Finished {
    pub id: DeliveryId,
    pub endpoint: EndpointId,
    /// `None` if it cannot be read.
    pub state: Option<DeliveryState>,
    /// The type that the receiver is told; `None` unless the filter asks for it and the event still exists.
    pub event_type: Option<String>,
}

/// One batch of a job.
#[derive(Debug)]
pub struct Batch {
    pub retries: Vec<Finished>,
    /// The last delivery that was looked at.
    pub cursor: Option<DeliveryId>,
    /// Deliveries that match and whose state cannot be read. They must not hold up those behind them.
    pub unreadable: u64,
    /// Whether all deliveries were looked at.
    pub is_whole: bool,
}

impl RetryFilter {
    /// Returns whether a delivery matches. One whose state cannot be read does.
    pub fn matches(&self, one: &Finished) -> bool {
        one.state.as_ref().is_none_or(|state| self.takes(one.endpoint, state))
            && self.event_type.as_ref().is_none_or(|wanted| one.event_type.as_ref().is_some_and(|it| wanted.matches(it)))
    }

    /// Takes the deliveries that match, `most` at most, in their order.
    pub fn batch(&self, found: Vec<Finished>, most: usize) -> Batch {
        let mut batch = Batch { retries: Vec::new(), cursor: None, unreadable: 0, is_whole: true };
        for one in found {
            if batch.retries.len() + batch.unreadable as usize == most {
                batch.is_whole = false;
                break;
            }
            batch.cursor = Some(one.id);
            if !self.matches(&one) {
                continue;
            }
            match one.state {
                Some(_) => batch.retries.push(one),
                None => batch.unreadable += 1,
            }
        }
        batch
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

    /// Ends a running job.
    pub fn end(&mut self, state: JobState, at: Timestamp) {
        self.state = state;
        self.finished_at = Some(at);
    }

    /// Cancels a running job.
    ///
    /// # Errors
    /// Why it is refused, if the job is not running.
    pub fn cancel(&mut self, at: Timestamp) -> Result<(), String> {
        match self.state {
            JobState::Running => {
                self.end(JobState::Cancelled, at);
                Ok(())
            }
            ended => Err(format!("it is {} already; only a running job can be cancelled", ended.as_str())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_where_it_has_enough_and_continues_behind_it() {
        let one = |id: i64, state| Finished {
            id: DeliveryId::from_i64(id),
            endpoint: EndpointId::from_i64(1),
            state,
            event_type: None,
        };
        let dead = |id| one(id, Some(DeliveryState::Dead { at: Timestamp::from_millis(5), reason: DeadReason::Exhausted }));
        let delivered = |id| one(id, Some(DeliveryState::Delivered { at: Timestamp::from_millis(5) }));
        let unreadable = |id| one(id, None);
        for (what, found, most, retries, cursor, failed, is_whole) in [
            ("none", vec![], 2, vec![], None, 0, true),
            ("fewer than it may take", vec![dead(1), delivered(2)], 2, vec![1], Some(2), 0, true),
            ("as many as it may take", vec![dead(1), dead(2)], 2, vec![1, 2], Some(2), 0, true),
            ("one more", vec![dead(1), dead(2), delivered(3)], 2, vec![1, 2], Some(2), 0, false),
            ("an unreadable one counts", vec![unreadable(1), dead(2), dead(3)], 2, vec![2], Some(2), 1, false),
        ] {
            let batch = RetryFilter::default().batch(found, most);
            assert_eq!(batch.retries.iter().map(|one| one.id.as_i64()).collect::<Vec<_>>(), retries, "{what}");
            assert_eq!(
                (batch.cursor.map(DeliveryId::as_i64), batch.unreadable, batch.is_whole),
                (cursor, failed, is_whole),
                "{what}"
            );
        }
    }

    #[test]
    fn a_filter_by_type_matches_only_deliveries_with_a_type() {
        let filter = RetryFilter { event_type: Some(Pattern::parse("order.*").unwrap()), ..RetryFilter::default() };
        let one = |event_type: Option<&str>| Finished {
            id: DeliveryId::from_i64(1),
            endpoint: EndpointId::from_i64(1),
            state: None,
            event_type: event_type.map(str::to_owned),
        };
        let matches = [Some("order.paid"), Some("ticket.new"), None].map(|event_type| filter.matches(&one(event_type)));
        assert_eq!(matches, [true, false, false]);
    }

    #[test]
    fn selects_matching_deliveries() {
        let at = Timestamp::from_millis;
        let crm = EndpointId::from_i64(1);
        let dead = |at| DeliveryState::Dead { at, reason: DeadReason::Exhausted };
        let all = RetryFilter::default();
        assert!(all.takes(crm, &dead(at(5))));
        assert!(!all.takes(crm, &DeliveryState::Cancelled { at: at(5), reason: None }), "dead deliveries by default");
        assert!(!all.takes(crm, &DeliveryState::Delivered { at: at(5) }));
        let cancelled = RetryFilter { ended: Ended::Cancelled, ..RetryFilter::default() };
        assert!(cancelled.takes(crm, &DeliveryState::Cancelled { at: at(5), reason: None }));
        assert!(!cancelled.takes(crm, &dead(at(5))));
        let retrying = RetryFilter { ended: Ended::Retrying, ..RetryFilter::default() };
        assert!(retrying.takes(crm, &DeliveryState::Retrying { due: at(5) }));
        assert!(!retrying.takes(crm, &DeliveryState::Pending { due: at(5) }), "it is due already");
        let gone = RetryFilter { reason: Some(DeadReason::Gone), ..RetryFilter::default() };
        assert!(!gone.takes(crm, &dead(at(5))));
        let other = RetryFilter { endpoint: Some(EndpointId::from_i64(2)), ..RetryFilter::default() };
        assert!(!other.takes(crm, &dead(at(5))));
        let between = RetryFilter { since: Some(at(5)), until: Some(at(7)), ..RetryFilter::default() };
        let taken: Vec<i64> = (4..8).filter(|millis| between.takes(crm, &dead(at(*millis)))).collect();
        assert_eq!(taken, [5, 6]);
    }
}
