//! A run of one plugin on one event: its outcomes, its requests, and the state machine of its tries.
//!
//! [`RunRecord`] is one try, as the second commit of an event (commit 2 in `ARCHITECTURE.md`) stores it. Its [`RunEnd`] has one
//! variant for each way in which a try can end, and each variant holds only what such an end has: a deferred run has no effects,
//! a failed run has a reason, a parked run may name a missing endpoint. So a run whose result is refused cannot leave a webhook
//! or a state write behind. [`RunIdentity`] creates records. A function that changes the end of a record returns a new record.
//! The SQLite store and the Postgres store use the same accessors.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    delivery::{NewDelivery, Payload},
    event::NewEvent,
    id::{EndpointId, RunId},
    name::Slug,
    plugin::Digest,
    recording::Recording,
    time::Timestamp,
};

/// The outcome of a run. Every executed run has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunOutcome {
    Ok,
    /// The plugin returned a failure.
    Failed,
    /// The plugin panicked, or broke a rule of WebAssembly.
    Trapped,
    /// The plugin ran longer than its deadline.
    Deadline,
    /// The plugin requested more memory than its limit.
    OutOfMemory,
    /// The plugin's result breaks a rule or a limit.
    BadOutput,
    /// The plugin's file is missing or broken.
    NotLoadable,
}

impl RunOutcome {
    pub const ALL: [Self; 7] =
        [Self::Ok, Self::Failed, Self::Trapped, Self::Deadline, Self::OutOfMemory, Self::BadOutput, Self::NotLoadable];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Trapped => "trapped",
            Self::Deadline => "deadline",
            Self::OutOfMemory => "out-of-memory",
            Self::BadOutput => "bad-output",
            Self::NotLoadable => "not-loadable",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

impl fmt::Display for RunOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a run did not end `ok`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFailure {
    pub outcome: RunOutcome,
    /// A short stable word. The plugin chooses it for [`RunOutcome::Failed`], and the engine for every other outcome.
    pub code: String,
    /// A sentence for the operator.
    pub message: String,
    /// Whether the plugin requests another try.
    pub retryable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    pub const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warn, Self::Error];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    /// Reads a level. An unknown level is read as `info`, so that the line is not lost.
    pub fn parse(text: &str) -> Self {
        match text {
            "debug" => Self::Debug,
            "warn" => Self::Warn,
            "error" => Self::Error,
            _ => Self::Info,
        }
    }
}

/// One line that a plugin logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub level: LogLevel,
    pub message: String,
    /// Fields of the line, as names and values.
    pub fields: Vec<(String, String)>,
}

/// The log of a run, within its limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunLog {
    pub lines: Vec<LogLine>,
    /// Number of lines beyond the limit, which are not stored.
    pub dropped: u64,
}

/// A webhook that a plugin requests.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// The endpoint's name; `None` if the plugin belongs to an endpoint.
    pub to: Option<String>,
    pub payload: Payload,
}

/// The requests of a run that ended `ok`.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    pub webhooks: Vec<Webhook>,
    pub emitted: Vec<Emitted>,
}

/// Maximum delay of an event that a plugin schedules. The event that caused it stays in the store for that time.
pub const AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// An event that a plugin requests. The engine sets its source and depth.
#[derive(Clone, Debug)]
pub struct Emitted {
    /// How long after the run the event is due. If it is zero, the event is stored together with the run.
    pub after: Duration,
    pub event_type: super::name::EventType,
    pub subject: Option<String>,
    /// Its data and content type.
    pub content: super::content::Content,
    pub attributes: super::name::Attributes,
}

impl Emitted {
    /// Returns the event that the plugin named `plugin` emits because of the event `cause`.
    pub fn into_event(mut self, cause: &super::event::Event, plugin: &Slug) -> NewEvent {
        super::trace::inherit(&mut self.attributes, cause);
        NewEvent {
            id: None,
            source: format!("plugin/{plugin}").into(),
            event_type: self.event_type,
            subject: self.subject.map(Into::into),
            time: None,
            content: self.content,
            attributes: self.attributes.into(),
            depth: cause.new.depth + 1,
            cause: Some(cause.id),
            request: None,
        }
    }
}

/// A scheduled event: an event that is due later. Once it is due, it is routed like any other event.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// How long after the commit of its run the event is due.
    pub after: Duration,
    pub event: NewEvent,
}

/// A value of plugin state that a run read. The version is 0 if no value existed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRead {
    pub key: String,
    pub version: i64,
}

/// A stored value of a plugin's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredState {
    pub value: Vec<u8>,
    /// Changes with each write, so that a commit detects a concurrent write. Never 0.
    pub version: i64,
    /// A run that begins at this time or later finds no value. `None`: the value never expires.
    pub expires_at: Option<Timestamp>,
}

impl StoredState {
    /// Returns whether a run that begins at `now` finds the value.
    pub fn exists_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}

/// A write to plugin state. If `value` is `None`, it deletes the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateWrite {
    pub key: String,
    pub value: Option<Vec<u8>>,
    /// When the value expires, on the clock of [`Recording::at`]. `None`: never.
    pub expires_at: Option<Timestamp>,
}

/// The reads and writes of a run in its plugin's state. The run commits only if the values that it read are unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateUse {
    pub reads: Vec<StateRead>,
    pub writes: Vec<StateWrite>,
}

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// The run ended `ok`, and its effects are stored.
    Done,
    /// The run's next try is due at `due`.
    Waiting { due: Timestamp },
    /// The run failed and is not retried automatically. An operator, or the creation of the missing endpoint or plugin, makes it
    /// due again.
    Parked,
    /// An operator cancelled the run, or a replay of its event replaced it.
    Cancelled,
}

impl RunState {
    /// Every result of [`Self::as_str`].
    pub const WORDS: [&str; 4] = ["done", "waiting", "parked", "cancelled"];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => Self::WORDS[0],
            Self::Waiting { .. } => Self::WORDS[1],
            Self::Parked => Self::WORDS[2],
            Self::Cancelled => Self::WORDS[3],
        }
    }

    /// Returns the state of a run without a row in the queue of runs.
    pub fn ended(outcome: Option<RunOutcome>) -> Self {
        match outcome {
            Some(RunOutcome::Ok) => Self::Done,
            _ => Self::Cancelled,
        }
    }
}

/// The remedy for a parked run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// An operator repairs the plugin and retries the run.
    Retry,
    /// The missing endpoint: once it exists, the run is tried again automatically.
    ItsEndpoint,
    /// The plugin's file: once it loads, the run is tried again automatically.
    ItsPlugin,
}

/// Returns the remedy for a run that was parked with this outcome. `wants` is the missing endpoint that it waits for.
pub fn remedy(outcome: RunOutcome, wants: Option<&str>) -> Remedy {
    match (outcome, wants) {
        (_, Some(_)) => Remedy::ItsEndpoint,
        (RunOutcome::NotLoadable, None) => Remedy::ItsPlugin,
        _ => Remedy::Retry,
    }
}

/// How long a retryable run waits after each failed try. A run that fails after the last wait is parked.
const RETRY_AFTER: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)];

/// The run that a try belongs to.
#[derive(Clone, Debug)]
pub struct RunIdentity {
    /// The run's row; `None` for a run that gets its row with this try.
    pub id: Option<RunId>,
    pub plugin: Slug,
    /// The endpoint that the run belongs to, if it is a run of the endpoint's own plugin.
    pub endpoint: Option<EndpointId>,
    /// Tries before this one.
    pub tries_before: u32,
}

/// The time and memory of an execution.
#[derive(Clone, Debug)]
pub struct Execution {
    pub version: Digest,
    pub took: Duration,
    /// Peak memory of the plugin, in bytes.
    pub memory_peak: u64,
    pub log: RunLog,
    pub recording: Recording,
    /// Lines of the plugin's source at which the run was stopped, innermost first. Empty unless it was stopped.
    pub backtrace: Arc<[String]>,
}

/// The effects of a run that ended `ok`.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    pub deliveries: Vec<NewDelivery>,
    /// Events that are stored together with the run.
    pub emitted: Vec<NewEvent>,
    pub scheduled: Vec<Scheduled>,
    pub state_use: StateUse,
}

/// One try of a run, as the second commit of its event stores it.
#[derive(Clone, Debug)]
pub struct RunRecord {
    pub identity: RunIdentity,
    pub end: RunEnd,
}

/// How one try ended.
#[derive(Clone, Debug)]
pub enum RunEnd {
    /// The try does not count: the plugin was not executed, or its result must not take effect. The run is due at `due`.
    Deferred {
        due: Timestamp,
    },
    Ok {
        execution: Execution,
        effects: Effects,
    },
    Failed {
        /// `None` if the plugin could not be executed.
        execution: Option<Execution>,
        failure: RunFailure,
        then: AfterFailure,
    },
}

/// The next step after a failed try.
#[derive(Clone, Debug)]
pub enum AfterFailure {
    /// The next try is due at `due`.
    Again { due: Timestamp },
    Parked {
        /// Name of the missing endpoint. Creating that endpoint makes the run due again.
        wants: Option<String>,
        /// The operational event that reports the failure, stored with it.
        notice: Option<Box<NewEvent>>,
    },
}

impl RunEnd {
    /// Returns the events that the plugin requested, including the scheduled ones.
    pub fn events_mut(&mut self) -> impl Iterator<Item = &mut NewEvent> {
        let (emitted, scheduled): (&mut [_], &mut [Scheduled]) = match self {
            Self::Ok { effects, .. } => (&mut effects.emitted, &mut effects.scheduled),
            Self::Deferred { .. } | Self::Failed { .. } => (&mut [], &mut []),
        };
        emitted.iter_mut().chain(scheduled.iter_mut().map(|one| &mut one.event))
    }
}

impl RunIdentity {
    /// Records a run that gets its own row and is due at `due`.
    pub const fn deferred(self, due: Timestamp) -> RunRecord {
        RunRecord { identity: self, end: RunEnd::Deferred { due } }
    }

    /// Records a run that ended `ok`.
    pub const fn ok(self, execution: Execution, effects: Effects) -> RunRecord {
        RunRecord { identity: self, end: RunEnd::Ok { execution, effects } }
    }

    /// Records a run that failed. If the failure is retryable, the run waits for another try, up to four times. Otherwise the run
    /// is parked.
    pub fn failed(self, execution: Execution, failure: RunFailure, now: Timestamp) -> RunRecord {
        let wait = RETRY_AFTER.get(self.tries_before as usize);
        match wait {
            Some(wait) if failure.retryable => {
                let then = AfterFailure::Again { due: now.plus(*wait) };
                RunRecord { identity: self, end: RunEnd::Failed { execution: Some(execution), failure, then } }
            }
            _ => self.parked(Some(execution), failure, None),
        }
    }

    /// Records a run whose plugin cannot be executed. It is parked.
    pub fn not_loadable(self, reason: String) -> RunRecord {
        let failure =
            RunFailure { outcome: RunOutcome::NotLoadable, code: "not_loadable".into(), message: reason, retryable: false };
        self.parked(None, failure, None)
    }

    /// Records a run that is parked after a failure.
    pub const fn parked(self, execution: Option<Execution>, failure: RunFailure, wants: Option<String>) -> RunRecord {
        let then = AfterFailure::Parked { wants, notice: None };
        RunRecord { identity: self, end: RunEnd::Failed { execution, failure, then } }
    }
}

impl RunRecord {
    /// Undoes the try: the run is due at `due`, as if it had not been executed.
    #[must_use]
    pub fn defer(self, due: Timestamp) -> Self {
        self.identity.deferred(due)
    }

    /// Refuses the run's result: the run is parked as `bad-output`, without effects.
    #[must_use]
    pub fn refuse(self, code: &str, message: String) -> Self {
        let execution = match self.end {
            RunEnd::Deferred { .. } => None,
            RunEnd::Ok { execution, .. } => Some(execution),
            RunEnd::Failed { execution, .. } => execution,
        };
        let failure = RunFailure { outcome: RunOutcome::BadOutput, code: code.into(), message, retryable: false };
        self.identity.parked(execution, failure, None)
    }

    /// Drops the run's log and its backtrace.
    #[must_use]
    pub fn without_log(mut self) -> Self {
        if let RunEnd::Ok { execution, .. } | RunEnd::Failed { execution: Some(execution), .. } = &mut self.end {
            execution.log = RunLog::default();
            execution.backtrace = Arc::default();
        }
        self
    }

    /// Adds the operational event that reports a parked run. Does nothing to a run that is not parked.
    pub fn set_notice(&mut self, event: Option<NewEvent>) {
        if let RunEnd::Failed { then: AfterFailure::Parked { notice, .. }, .. } = &mut self.end {
            *notice = event.map(Box::new);
        }
    }

    /// Returns the run's state after this try.
    pub const fn state(&self) -> RunState {
        match &self.end {
            RunEnd::Ok { .. } => RunState::Done,
            RunEnd::Deferred { due } | RunEnd::Failed { then: AfterFailure::Again { due }, .. } => {
                RunState::Waiting { due: *due }
            }
            RunEnd::Failed { then: AfterFailure::Parked { .. }, .. } => RunState::Parked,
        }
    }

    /// Returns the outcome of this try; `None` if it was deferred.
    pub const fn outcome(&self) -> Option<RunOutcome> {
        match &self.end {
            RunEnd::Deferred { .. } => None,
            RunEnd::Ok { .. } => Some(RunOutcome::Ok),
            RunEnd::Failed { failure, .. } => Some(failure.outcome),
        }
    }

    /// Returns the number of tries so far. A deferred try does not count.
    pub const fn tries(&self) -> u32 {
        match &self.end {
            RunEnd::Deferred { .. } => self.identity.tries_before,
            RunEnd::Ok { .. } | RunEnd::Failed { .. } => self.identity.tries_before + 1,
        }
    }

    pub const fn execution(&self) -> Option<&Execution> {
        match &self.end {
            RunEnd::Deferred { .. } => None,
            RunEnd::Ok { execution, .. } => Some(execution),
            RunEnd::Failed { execution, .. } => execution.as_ref(),
        }
    }

    pub const fn failure(&self) -> Option<&RunFailure> {
        match &self.end {
            RunEnd::Failed { failure, .. } => Some(failure),
            RunEnd::Deferred { .. } | RunEnd::Ok { .. } => None,
        }
    }

    /// Returns the name of the missing endpoint that a parked run waits for.
    pub fn wants(&self) -> Option<&str> {
        match &self.end {
            RunEnd::Failed { then: AfterFailure::Parked { wants, .. }, .. } => wants.as_deref(),
            _ => None,
        }
    }

    pub fn notice(&self) -> Option<&NewEvent> {
        match &self.end {
            RunEnd::Failed { then: AfterFailure::Parked { notice, .. }, .. } => notice.as_deref(),
            _ => None,
        }
    }

    const fn effects(&self) -> Option<&Effects> {
        match &self.end {
            RunEnd::Ok { effects, .. } => Some(effects),
            RunEnd::Deferred { .. } | RunEnd::Failed { .. } => None,
        }
    }

    pub fn deliveries(&self) -> &[NewDelivery] {
        self.effects().map_or(&[], |effects| &effects.deliveries)
    }

    pub fn emitted(&self) -> &[NewEvent] {
        self.effects().map_or(&[], |effects| &effects.emitted)
    }

    pub fn scheduled(&self) -> &[Scheduled] {
        self.effects().map_or(&[], |effects| &effects.scheduled)
    }

    /// Returns the number of events that the plugin requested, including the scheduled ones.
    pub fn events(&self) -> usize {
        self.emitted().len() + self.scheduled().len()
    }

    /// Returns every event that is stored together with this try: the emitted ones, and the notice.
    pub fn new_events(&self) -> impl Iterator<Item = &NewEvent> {
        self.emitted().iter().chain(self.notice())
    }

    pub fn reads(&self) -> &[StateRead] {
        self.effects().map_or(&[], |effects| &effects.state_use.reads)
    }

    pub fn writes(&self) -> &[StateWrite] {
        self.effects().map_or(&[], |effects| &effects.state_use.writes)
    }

    /// Returns whether this try changes any row besides the run's.
    pub fn has_effect(&self) -> bool {
        let nothing = self.deliveries().is_empty() && self.writes().is_empty() && self.scheduled().is_empty();
        !nothing || self.new_events().next().is_some()
    }

    /// Returns whether this try, made again with the same event and settings, has the same effects under the same ids. Plugins have
    /// no clock and no randomness, so only state and new events, which get new ids, make a difference.
    pub fn is_repeatable(&self) -> bool {
        self.reads().is_empty() && self.writes().is_empty() && self.scheduled().is_empty() && self.new_events().next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{content::Content, delivery::InitialState, name::EventType};

    const NOW: Timestamp = Timestamp::from_millis(0);

    fn identity(tries_before: u32) -> RunIdentity {
        let endpoint = Some(EndpointId::from_i64(3));
        RunIdentity { id: Some(RunId::from_i64(7)), plugin: Slug::parse("p").unwrap(), endpoint, tries_before }
    }

    fn execution() -> Execution {
        let line = LogLine { level: LogLevel::Info, message: "hello".into(), fields: vec![] };
        Execution {
            version: Digest::of(b"p"),
            took: Duration::from_micros(20),
            memory_peak: 1 << 16,
            log: RunLog { lines: vec![line], dropped: 1 },
            recording: Recording::default(),
            backtrace: Arc::from(["orders::total (src/lib.rs:7)".to_owned()]),
        }
    }

    fn effects() -> Effects {
        let write = StateWrite { key: "k".into(), value: Some(vec![1]), expires_at: None };
        let delivery =
            NewDelivery { endpoint: EndpointId::from_i64(3), payload: None, initial_state: InitialState::Due, ordering: None };
        let state_use = StateUse { reads: vec![StateRead { key: "k".into(), version: 0 }], writes: vec![write] };
        let scheduled = vec![Scheduled { after: Duration::from_secs(60), event: notice() }];
        Effects { deliveries: vec![delivery], emitted: vec![notice()], scheduled, state_use }
    }

    fn notice() -> NewEvent {
        NewEvent {
            id: None,
            source: "innesco".into(),
            event_type: EventType::parse("innesco.plugin.failed").unwrap(),
            subject: None,
            time: None,
            content: Content::octets(bytes::Bytes::new()),
            attributes: std::sync::Arc::default(),
            depth: 0,
            cause: None,
            request: None,
        }
    }

    fn failure(retryable: bool) -> RunFailure {
        RunFailure { outcome: RunOutcome::Failed, code: "busy".into(), message: "later".into(), retryable }
    }

    fn parked() -> RunRecord {
        let mut record = identity(0).parked(Some(execution()), failure(false), Some("crm".into()));
        record.set_notice(Some(notice()));
        record
    }

    /// Every end, by name.
    fn ends() -> [(&'static str, RunRecord); 5] {
        [
            ("deferred", identity(0).deferred(NOW)),
            ("ok", identity(0).ok(execution(), effects())),
            ("waits", identity(0).failed(execution(), failure(true), NOW)),
            ("parked", parked()),
            ("not loadable", identity(0).not_loadable("no file".into())),
        ]
    }

    fn has_no_effects(record: &RunRecord) -> bool {
        !record.has_effect() && record.reads().is_empty() && record.scheduled().is_empty()
    }

    #[test]
    fn only_retryable_failures_wait_and_only_four_times() {
        let state = |tries_before, retryable| identity(tries_before).failed(execution(), failure(retryable), NOW).state();
        assert_eq!(state(0, false), RunState::Parked);
        let due = |seconds: i64| RunState::Waiting { due: Timestamp::from_millis(seconds * 1000) };
        assert_eq!([0, 1, 2, 3, 4].map(|before| state(before, true)), [due(1), due(10), due(60), due(300), RunState::Parked]);
    }

    #[test]
    fn each_end_has_only_its_facts() {
        let now = RunState::Waiting { due: NOW };
        let soon = RunState::Waiting { due: NOW.plus(RETRY_AFTER[0]) };
        let expected = [
            (now, None, 0, false, None),
            (RunState::Done, Some(RunOutcome::Ok), 1, true, None),
            (soon, Some(RunOutcome::Failed), 1, false, None),
            (RunState::Parked, Some(RunOutcome::Failed), 1, true, Some("crm")),
            (RunState::Parked, Some(RunOutcome::NotLoadable), 1, false, None),
        ];
        for ((name, record), expected) in ends().into_iter().zip(expected) {
            let shown = (record.state(), record.outcome(), record.tries(), record.has_effect(), record.wants());
            assert_eq!(shown, expected, "{name}");
            assert_eq!(record.failure().is_some(), record.outcome().is_some_and(|outcome| outcome != RunOutcome::Ok), "{name}");
            assert_eq!(record.execution().is_some(), !matches!(name, "deferred" | "not loadable"), "{name}");
        }
    }

    #[test]
    fn only_state_and_new_events_make_a_try_unrepeatable() {
        let empty = || Effects { emitted: vec![], scheduled: vec![], state_use: StateUse::default(), ..effects() };
        let with_reads = StateUse { reads: effects().state_use.reads, writes: vec![] };
        let with_writes = StateUse { reads: vec![], writes: effects().state_use.writes };
        for (name, effects, expected) in [
            ("webhooks", empty(), true),
            ("a read", Effects { state_use: with_reads, ..empty() }, false),
            ("a write", Effects { state_use: with_writes, ..empty() }, false),
            ("an event", Effects { emitted: effects().emitted, ..empty() }, false),
            ("a scheduled event", Effects { scheduled: effects().scheduled, ..empty() }, false),
        ] {
            assert_eq!(identity(0).ok(execution(), effects).is_repeatable(), expected, "{name}");
        }
    }

    #[test]
    fn a_deferred_try_has_no_effects_and_does_not_count() {
        for (name, record) in ends() {
            let deferred = record.defer(NOW);
            assert_eq!(
                (deferred.state(), deferred.outcome(), deferred.tries()),
                (RunState::Waiting { due: NOW }, None, 0),
                "{name}"
            );
            assert!(has_no_effects(&deferred) && deferred.execution().is_none() && deferred.wants().is_none(), "{name}");
            assert_eq!((deferred.identity.id, deferred.identity.endpoint), (identity(0).id, identity(0).endpoint), "{name}");
        }
        assert_eq!(identity(3).ok(execution(), effects()).defer(NOW).tries(), 3);
    }

    #[test]
    fn a_refused_run_is_parked_without_effects_and_keeps_its_log() {
        for (name, record) in ends() {
            let log = record.execution().map(|execution| execution.log.clone());
            let refused = record.refuse("too_many_webhooks", "1 too many".into());
            assert_eq!(
                (refused.state(), refused.outcome(), refused.tries()),
                (RunState::Parked, Some(RunOutcome::BadOutput), 1),
                "{name}"
            );
            assert!(has_no_effects(&refused) && refused.wants().is_none(), "{name}");
            assert_eq!(refused.failure().map(|failure| failure.code.as_str()), Some("too_many_webhooks"), "{name}");
            assert_eq!(refused.execution().map(|execution| execution.log.clone()), log, "{name}");
            let bare = refused.without_log();
            assert!(
                bare.execution().is_none_or(|execution| execution.log == RunLog::default() && execution.backtrace.is_empty()),
                "{name}"
            );
        }
    }

    #[test]
    fn only_a_parked_run_gets_a_notice() {
        for (name, mut record) in ends() {
            record.set_notice(Some(notice()));
            assert_eq!(record.notice().is_some(), record.state() == RunState::Parked, "{name}");
        }
    }

    #[test]
    fn a_parked_run_has_one_remedy() {
        for (outcome, wants, expected) in [
            (RunOutcome::Trapped, None, Remedy::Retry),
            (RunOutcome::BadOutput, None, Remedy::Retry),
            (RunOutcome::BadOutput, Some("crm"), Remedy::ItsEndpoint),
            (RunOutcome::NotLoadable, None, Remedy::ItsPlugin),
        ] {
            assert_eq!(remedy(outcome, wants), expected, "{outcome}, {wants:?}");
        }
    }

    #[test]
    fn a_run_without_a_row_in_the_queue_is_done_or_cancelled() {
        assert_eq!(RunState::ended(Some(RunOutcome::Ok)), RunState::Done);
        for outcome in [None, Some(RunOutcome::Trapped)] {
            assert_eq!(RunState::ended(outcome), RunState::Cancelled);
        }
    }

    #[test]
    fn outcomes_have_one_word_each() {
        for outcome in RunOutcome::ALL {
            assert_eq!(RunOutcome::parse(outcome.as_str()), Some(outcome));
        }
    }
}
