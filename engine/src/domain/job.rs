//! Jobs: one command on many deliveries, runs or events, executed in batches. A job is stored as a row with its filter, its
//! cursor and its end (the last event that existed when the job was created), so it survives a restart.
//!
//! The cursor moves in the transaction of each batch. So even an interrupted job processes each item once. An item that fails
//! again is not retried by the same job.

use super::{
    delivery::{DeadReason, DeliveryState},
    event::EventState,
    id::{DeliveryId, EndpointId, EventId, JobId},
    name::Slug,
    pattern::Pattern,
    run::RunOutcome,
    time::Timestamp,
};

/// Maximum number of running jobs. It is small because the batches of jobs delay other commits.
pub const JOBS_RUNNING_MAX: usize = 10;

/// The state of deliveries that a job retries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ended {
    #[default]
    Dead,
    Cancelled,
    /// The deliveries wait for their next attempt. The job makes that attempt due now.
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

    /// Returns the state of a delivery. `at` is the time at which the delivery ended, or is due again. Returns `None` if the word
    /// of its reason cannot be read.
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
    /// Only deliveries whose webhook has this event type.
    pub event_type: Option<Pattern>,
    /// Only deliveries that died, were cancelled, or are due again at or after this time.
    pub since: Option<Timestamp>,
    /// Only deliveries that died, were cancelled, or are due again before this time.
    pub until: Option<Timestamp>,
}

impl RetryFilter {
    /// Returns whether a delivery matches every condition except the event type, which needs a look-up.
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
    /// The type in the webhook; `None` unless the filter needs it and the event still exists.
    pub event_type: Option<String>,
}

impl RetryFilter {
    /// Returns whether the filter is only a state and an endpoint, which an index has. Such deliveries are counted without reading
    /// them.
    pub const fn is_by_index(&self) -> bool {
        self.reason.is_none() && self.event_type.is_none() && self.since.is_none() && self.until.is_none()
    }

    /// Decides about a delivery. If its state is unreadable, only its event type is checked.
    pub fn decide(&self, one: &Finished) -> Decision {
        let matches =
            one.state.as_ref().is_none_or(|state| self.takes(one.endpoint, state)) && fits(&self.event_type, &one.event_type);
        match &one.state {
            _ if !matches => Decision::Skip,
            Some(_) => Decision::Take,
            None => Decision::Unreadable,
        }
    }
}

/// Returns whether a type matches a pattern. Without a pattern, every type matches.
fn fits(wanted: &Option<Pattern>, event_type: &Option<String>) -> bool {
    wanted.as_ref().is_none_or(|wanted| event_type.as_ref().is_some_and(|it| wanted.matches(it)))
}

/// Returns whether a time is in a range. The end is not part of the range.
fn is_between(at: Timestamp, since: Option<Timestamp>, until: Option<Timestamp>) -> bool {
    since.is_none_or(|since| at >= since) && until.is_none_or(|until| at < until)
}

/// Selects the parked runs that a job retries.
#[derive(Clone, Debug, Default)]
pub struct RunRetryFilter {
    pub plugin: Option<Slug>,
    pub outcome: Option<RunOutcome>,
    pub event_type: Option<Pattern>,
    /// Only runs of events accepted at or after this time.
    pub since: Option<Timestamp>,
    /// Only runs of events accepted before this time.
    pub until: Option<Timestamp>,
}

/// A parked run that a job may match.
#[derive(Clone, Debug)]
pub struct ParkedRun {
    pub plugin: String,
    /// `None` if it cannot be read.
    pub outcome: Option<RunOutcome>,
    /// Type and time of acceptance of its event; `None` if the event is missing.
    pub event: Option<(String, Timestamp)>,
}

impl RunRetryFilter {
    /// Decides about a parked run. An unreadable value does not exclude a run.
    pub fn decide(&self, run: &ParkedRun) -> Decision {
        let event_type = run.event.as_ref().map(|(event_type, _)| event_type.clone());
        let matches = self.plugin.as_ref().is_none_or(|wanted| **wanted == *run.plugin)
            && (run.outcome.is_none() || self.outcome.is_none_or(|wanted| Some(wanted) == run.outcome))
            && (run.event.is_none() || fits(&self.event_type, &event_type))
            && run.event.as_ref().is_none_or(|(_, at)| is_between(*at, self.since, self.until));
        match (run.outcome, &run.event) {
            _ if !matches => Decision::Skip,
            (Some(_), Some(_)) => Decision::Take,
            _ => Decision::Unreadable,
        }
    }
}

/// Selects the events that a job replays.
#[derive(Clone, Debug, Default)]
pub struct ReplayFilter {
    pub state: Option<EventState>,
    pub event_type: Option<Pattern>,
    pub source: Option<String>,
    /// Only events accepted at or after this time.
    pub since: Option<Timestamp>,
    /// Only events accepted before this time.
    pub until: Option<Timestamp>,
}

/// An event that a job may match.
#[derive(Clone, Debug)]
pub struct AcceptedEvent {
    pub state: EventState,
    pub event_type: String,
    pub source: String,
    pub accepted_at: Timestamp,
}

impl ReplayFilter {
    /// Returns whether it selects every event.
    pub fn is_empty(&self) -> bool {
        let Self { state, event_type, source, since, until } = self;
        state.is_none() && event_type.is_none() && source.is_none() && since.is_none() && until.is_none()
    }

    /// Decides about an event.
    pub fn decide(&self, event: &AcceptedEvent) -> Decision {
        let matches = self.state.is_none_or(|wanted| wanted == event.state)
            && self.event_type.as_ref().is_none_or(|wanted| wanted.matches(&event.event_type))
            && self.source.as_ref().is_none_or(|wanted| *wanted == event.source)
            && is_between(event.accepted_at, self.since, self.until);
        if matches { Decision::Take } else { Decision::Skip }
    }
}

/// The decision of a job about an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Take,
    Skip,
    /// The item may match but cannot be read. It counts as failed, and must not delay the items after it.
    Unreadable,
}

/// One batch of a job. The numbers are those of the items' rows.
#[derive(Debug)]
pub struct Batch {
    pub taken: Vec<i64>,
    /// The last item that was checked.
    pub cursor: Option<i64>,
    pub unreadable: u64,
    /// Whether all items were checked.
    pub is_whole: bool,
}

impl Batch {
    /// Takes the matching items in order. The batch has at most `most` items; unreadable items count too.
    pub fn of(found: Vec<(i64, Decision)>, most: usize) -> Self {
        let mut batch = Self { taken: Vec::new(), cursor: None, unreadable: 0, is_whole: true };
        for (id, decision) in found {
            if batch.taken.len() + batch.unreadable as usize == most {
                batch.is_whole = false;
                break;
            }
            batch.cursor = Some(id);
            match decision {
                Decision::Take => batch.taken.push(id),
                Decision::Skip => {}
                Decision::Unreadable => batch.unreadable += 1,
            }
        }
        batch
    }
}

/// The work of a job: one command, and the filter of its items.
#[derive(Clone, Debug)]
pub enum Task {
    /// Sends finished deliveries again, each with its original id.
    RetryDeliveries(RetryFilter),
    /// Runs parked runs again.
    RetryRuns(RunRetryFilter),
    /// Runs whole events again; their webhooks are new.
    ReplayEvents(ReplayFilter),
}

impl Task {
    /// Every result of [`Self::kind`].
    pub const KINDS: [&str; 3] = ["delivery.retry", "run.retry", "event.replay"];

    pub const fn kind(&self) -> &'static str {
        match self {
            Self::RetryDeliveries(_) => Self::KINDS[0],
            Self::RetryRuns(_) => Self::KINDS[1],
            Self::ReplayEvents(_) => Self::KINDS[2],
        }
    }

    /// Returns the row number before which the job ends. `last` is the last event that existed when the job was created.
    pub const fn end(&self, last: EventId) -> i64 {
        match self {
            Self::RetryDeliveries(_) | Self::RetryRuns(_) => last.children().1,
            Self::ReplayEvents(_) => last.as_i64() + 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    Running,
    /// All matching items were processed.
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

/// A job with its progress.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub task: Task,
    pub state: JobState,
    /// Number of items that the job made due.
    pub done: u64,
    /// Number of items that the command refuses, such as a delivery whose endpoint is disabled.
    pub failed: u64,
    /// Number of matching items at creation; `None` if there were too many to count.
    pub total: Option<u64>,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

impl Job {
    /// Ends a running job.
    pub fn end(&mut self, state: JobState, at: Timestamp) {
        self.state = state;
        self.finished_at = Some(at);
    }

    /// Cancels a running job.
    ///
    /// # Errors
    /// Returns why a job that is not running cannot be cancelled.
    pub fn cancel(&mut self, at: Timestamp) -> Result<(), String> {
        match self.state {
            JobState::Running => {
                self.end(JobState::Cancelled, at);
                Ok(())
            }
            ended => Err(format!("it is already {}; only a running job can be cancelled", ended.as_str())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_at_its_limit_and_the_next_one_continues_there() {
        use Decision::{Skip, Take, Unreadable};
        for (what, found, most, taken, cursor, failed, is_whole) in [
            ("no items", vec![], 2, vec![], None, 0, true),
            ("fewer items than the limit", vec![Take, Skip], 2, vec![1], Some(2), 0, true),
            ("as many items as the limit", vec![Take, Take], 2, vec![1, 2], Some(2), 0, true),
            ("one item more than the limit", vec![Take, Take, Skip], 2, vec![1, 2], Some(2), 0, false),
            ("an unreadable item counts as failed", vec![Unreadable, Take, Take], 2, vec![2], Some(2), 1, false),
        ] {
            let batch = Batch::of((1..).zip(found).collect(), most);
            assert_eq!(
                (batch.taken, batch.cursor, batch.unreadable, batch.is_whole),
                (taken, cursor, failed, is_whole),
                "{what}"
            );
        }
    }

    #[test]
    fn selects_parked_runs() {
        let at = Timestamp::from_millis;
        let run =
            ParkedRun { plugin: "router".into(), outcome: Some(RunOutcome::Trapped), event: Some(("order.paid".into(), at(5))) };
        let plugin = |name: &str| RunRetryFilter { plugin: Some(Slug::parse(name).unwrap()), ..RunRetryFilter::default() };
        let outcome = |outcome| RunRetryFilter { outcome: Some(outcome), ..RunRetryFilter::default() };
        let typed = |text: &str| RunRetryFilter { event_type: Some(Pattern::parse(text).unwrap()), ..RunRetryFilter::default() };
        let between =
            |since, until| RunRetryFilter { since: Some(at(since)), until: Some(at(until)), ..RunRetryFilter::default() };
        for (what, filter, expected) in [
            ("an empty filter", RunRetryFilter::default(), Decision::Take),
            ("the run's plugin", plugin("router"), Decision::Take),
            ("another plugin", plugin("route"), Decision::Skip),
            ("the run's outcome", outcome(RunOutcome::Trapped), Decision::Take),
            ("another outcome", outcome(RunOutcome::Failed), Decision::Skip),
            ("the type of the run's event", typed("order.*"), Decision::Take),
            ("another type", typed("ticket.*"), Decision::Skip),
            ("the range starts at its event's acceptance", between(5, 6), Decision::Take),
            ("the range ends at its event's acceptance", between(4, 5), Decision::Skip),
            ("the range starts after its event's acceptance", between(6, 7), Decision::Skip),
        ] {
            assert_eq!(filter.decide(&run), expected, "{what}");
        }
        let unreadable = ParkedRun { outcome: None, ..run.clone() };
        assert_eq!(outcome(RunOutcome::Failed).decide(&unreadable), Decision::Unreadable);
        assert_eq!(plugin("route").decide(&unreadable), Decision::Skip);
        assert_eq!(typed("ticket.*").decide(&ParkedRun { event: None, ..run }), Decision::Unreadable);
    }

    #[test]
    fn selects_events_to_replay() {
        let at = Timestamp::from_millis;
        let event = AcceptedEvent {
            state: EventState::Unrouted,
            event_type: "order.paid".into(),
            source: "shop".into(),
            accepted_at: at(5),
        };
        let all = ReplayFilter::default;
        for (what, filter, expected) in [
            ("the event's state", ReplayFilter { state: Some(EventState::Unrouted), ..all() }, Decision::Take),
            ("another state", ReplayFilter { state: Some(EventState::Failed), ..all() }, Decision::Skip),
            ("the event's type", ReplayFilter { event_type: Some(Pattern::parse("order.*").unwrap()), ..all() }, Decision::Take),
            ("another type", ReplayFilter { event_type: Some(Pattern::parse("order").unwrap()), ..all() }, Decision::Skip),
            ("the event's source", ReplayFilter { source: Some("shop".into()), ..all() }, Decision::Take),
            ("another source", ReplayFilter { source: Some("sho".into()), ..all() }, Decision::Skip),
            ("since the time of its acceptance", ReplayFilter { since: Some(at(5)), ..all() }, Decision::Take),
            ("until the time of its acceptance", ReplayFilter { until: Some(at(5)), ..all() }, Decision::Skip),
        ] {
            assert_eq!(filter.decide(&event), expected, "{what}");
            assert!(!filter.is_empty(), "{what}");
        }
        assert!(all().is_empty());
    }

    #[test]
    fn a_job_ends_at_the_last_event_of_its_creation() {
        let last = EventId::from_i64(7);
        assert_eq!(Task::ReplayEvents(ReplayFilter::default()).end(last), 8);
        let runs = Task::RetryRuns(RunRetryFilter::default()).end(last);
        assert!(last.run(3).as_i64() < runs && EventId::from_i64(8).run(0).as_i64() >= runs);
    }

    #[test]
    fn a_filter_by_type_matches_only_deliveries_with_a_type() {
        let filter = RetryFilter { event_type: Some(Pattern::parse("order.*").unwrap()), ..RetryFilter::default() };
        let one = |event_type: Option<&str>| Finished {
            id: DeliveryId::from_i64(1),
            endpoint: EndpointId::from_i64(1),
            state: Some(DeliveryState::Dead { at: Timestamp::from_millis(5), reason: DeadReason::Exhausted }),
            event_type: event_type.map(str::to_owned),
        };
        let decisions = [Some("order.paid"), Some("ticket.new"), None].map(|event_type| filter.decide(&one(event_type)));
        assert_eq!(decisions, [Decision::Take, Decision::Skip, Decision::Skip]);
        assert_eq!(filter.decide(&Finished { state: None, ..one(Some("order.paid")) }), Decision::Unreadable);
    }

    #[test]
    fn selects_matching_deliveries() {
        let at = Timestamp::from_millis;
        let crm = EndpointId::from_i64(1);
        let dead = |at| DeliveryState::Dead { at, reason: DeadReason::Exhausted };
        let all = RetryFilter::default();
        assert!(all.takes(crm, &dead(at(5))));
        assert!(
            !all.takes(crm, &DeliveryState::Cancelled { at: at(5), reason: None }),
            "a filter without a state takes only dead deliveries"
        );
        assert!(!all.takes(crm, &DeliveryState::Delivered { at: at(5) }));
        let cancelled = RetryFilter { ended: Ended::Cancelled, ..RetryFilter::default() };
        assert!(cancelled.takes(crm, &DeliveryState::Cancelled { at: at(5), reason: None }));
        assert!(!cancelled.takes(crm, &dead(at(5))));
        let retrying = RetryFilter { ended: Ended::Retrying, ..RetryFilter::default() };
        assert!(retrying.takes(crm, &DeliveryState::Retrying { due: at(5) }));
        assert!(!retrying.takes(crm, &DeliveryState::Pending { due: at(5) }), "a pending delivery is already due");
        let gone = RetryFilter { reason: Some(DeadReason::Gone), ..RetryFilter::default() };
        assert!(!gone.takes(crm, &dead(at(5))));
        let other = RetryFilter { endpoint: Some(EndpointId::from_i64(2)), ..RetryFilter::default() };
        assert!(!other.takes(crm, &dead(at(5))));
        let between = RetryFilter { since: Some(at(5)), until: Some(at(7)), ..RetryFilter::default() };
        let taken: Vec<i64> = (4..8).filter(|millis| between.takes(crm, &dead(at(*millis)))).collect();
        assert_eq!(taken, [5, 6]);
    }
}
