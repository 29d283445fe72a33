//! A run: one plugin on one event. Its named outcomes, what it may ask for, and when a failed one is tried again.

use std::{fmt, time::Duration};

use super::{delivery::Payload, event::NewEvent, name::Slug, time::Timestamp};

/// How a run ended. Every run ends as exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunOutcome {
    Ok,
    /// The plugin said so.
    Failed,
    /// It panicked or did what WebAssembly forbids.
    Trapped,
    /// It ran longer than its deadline.
    Deadline,
    /// It asked for more memory than its limit.
    OutOfMemory,
    /// What it returned breaks a rule or a limit.
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
    /// A short stable word: the plugin's own for [`RunOutcome::Failed`], ours otherwise.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// Only a plugin that says so is tried again by itself.
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

    /// Anything unknown is `info`: a plugin's odd level must not lose its line.
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
}

/// What a run logged, within its limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunLog {
    pub lines: Vec<LogLine>,
    /// Lines that were over the limit and are not kept.
    pub dropped: u64,
}

/// A webhook that a plugin asks for.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// The endpoint's name; `None` from a plugin that belongs to an endpoint.
    pub to: Option<String>,
    pub payload: Payload,
}

/// What a run that ended `ok` asks for.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    pub webhooks: Vec<Webhook>,
    pub emitted: Vec<Emitted>,
}

/// An event that a plugin asks for. Its source and depth are the engine's to give.
#[derive(Clone, Debug)]
pub struct Emitted {
    pub event_type: super::name::EventType,
    pub subject: Option<String>,
    /// Its data, and what that is.
    pub content: super::content::Content,
    pub attributes: super::name::Attributes,
}

impl Emitted {
    /// The event that follows `cause`, from the plugin named `plugin`.
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

/// A value that a plugin keeps, as a run saw it: the version is 0 where there was none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRead {
    pub key: String,
    pub version: i64,
}

/// A value that a run leaves behind; `None` deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateWrite {
    pub key: String,
    pub value: Option<Vec<u8>>,
}

/// What a run read and wrote of its plugin's state. It commits only if what was read is still so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateUse {
    pub reads: Vec<StateRead>,
    pub writes: Vec<StateWrite>,
}

/// Where a run stands once it has been tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It ended `ok`; what it asked for has taken effect.
    Done,
    /// It is to be tried (again) at `due`.
    Waiting { due: Timestamp },
    /// Given up by itself; a person, or its cause going away, drives it again.
    Parked,
}

/// How long after each failed try a retryable run waits; after the last it is parked.
const RETRY_AFTER: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)];

impl RunState {
    /// What [`Self::as_str`] can say.
    pub const WORDS: [&str; 3] = ["done", "waiting", "parked"];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => Self::WORDS[0],
            Self::Waiting { .. } => Self::WORDS[1],
            Self::Parked => Self::WORDS[2],
        }
    }

    /// Where a run that failed for the `tries`-th time (from 1) stands.
    pub fn after_failure(retryable: bool, tries: u32, now: Timestamp) -> Self {
        let wait = RETRY_AFTER.get(tries.saturating_sub(1) as usize);
        match wait {
            Some(wait) if retryable => Self::Waiting { due: now.plus(*wait) },
            _ => Self::Parked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_retryable_failures_wait_and_only_four_times() {
        let now = Timestamp::from_millis(0);
        assert_eq!(RunState::after_failure(false, 1, now), RunState::Parked);
        let waits: Vec<_> = (1..=5).map(|tries| RunState::after_failure(true, tries, now)).collect();
        let due = |seconds: i64| RunState::Waiting { due: Timestamp::from_millis(seconds * 1000) };
        assert_eq!(waits, [due(1), due(10), due(60), due(300), RunState::Parked]);
    }

    #[test]
    fn outcomes_have_one_word_each() {
        for outcome in RunOutcome::ALL {
            assert_eq!(RunOutcome::parse(outcome.as_str()), Some(outcome));
        }
    }
}
