//! An event: one thing that happened. It is a CloudEvent (1.0) whose data is stored byte for byte.

use std::{borrow::Cow, sync::Arc};

use super::{
    content::Content,
    id::{EventId, Tag},
    name::{Attributes, EventType},
    request::Request,
    time::Timestamp,
};

/// Maximum length of a chain of events that cause each other. A longer chain counts as a loop and ends with an error.
pub const DEPTH_MAX: u8 = 8;

/// An event without the engine's id.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The id that the sender gave to the event. It identifies a duplicate: see [`NewEvent::repeat_key`].
    pub id: Option<Arc<str>>,
    pub source: Arc<str>,
    pub event_type: EventType,
    pub subject: Option<Arc<str>>,
    /// The caller's time in RFC 3339, in the form that every receiver can read. `None` means the time of acceptance.
    pub time: Option<Arc<str>>,
    /// The event's data with its content type.
    pub content: Content,
    pub attributes: Arc<Attributes>,
    /// Number of earlier events in the chain that led to this event.
    pub depth: u8,
    /// The event whose run emitted this event.
    pub cause: Option<EventId>,
    /// The request from which a source created the event.
    pub request: Option<Arc<Request>>,
}

/// Prefix in the repeat key of every event that a source created. No `source` of `/v1/events` can contain this character. So a
/// published event is never taken for a repeat of a source's event, nor the other way round.
const SOURCE_DOOR: char = '\u{1}';

/// Returns whether a `source` is reserved for the engine, because it names the engine or a plugin.
pub fn is_reserved_source(source: &str) -> bool {
    source == "innesco" || source.starts_with("plugin/")
}

impl NewEvent {
    /// Returns the pair under which the store remembers the sender's id. Events of `/v1/events` and events of sources never share
    /// a pair.
    pub fn repeat_key(&self) -> Option<(Cow<'_, str>, &str)> {
        let id = self.id.as_deref()?;
        let source = if self.request.is_some() { format!("{SOURCE_DOOR}{}", self.source).into() } else { (&*self.source).into() };
        Some((source, id))
    }
}

/// State of an event as a whole, which is the state of its worst part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// Nothing has failed, but the event, one of its runs, or the first attempt of a delivery still waits.
    Waiting,
    /// At least one delivery waits for its next attempt.
    Retrying,
    /// At least one run is parked or one delivery is dead.
    Failed,
    /// Everything is finished, and at least one webhook was delivered.
    Delivered,
    /// Everything is finished, but no webhook was delivered: either there was none at all, or every webhook was cancelled.
    NothingSent,
    /// No plugin and no endpoint subscribes to it.
    Unrouted,
}

impl EventState {
    pub const ALL: [Self; 6] = [Self::Waiting, Self::Retrying, Self::Failed, Self::Delivered, Self::NothingSent, Self::Unrouted];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::Delivered => "delivered",
            Self::NothingSent => "nothing-sent",
            Self::Unrouted => "unrouted",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Numbers of an event's parts by state. Finished deliveries count only if they belong to the newest round, because a replay
/// replaces the results of earlier rounds. Unfinished parts of every round count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The event itself waits to be run, for the first time or for a replay.
    pub to_run: bool,
    /// No plugin and no endpoint subscribed to it when it was run.
    pub unrouted: bool,
    pub runs_waiting: u64,
    pub runs_parked: u64,
    pub pending: u64,
    pub retrying: u64,
    pub delivered: u64,
    pub dead: u64,
    pub cancelled: u64,
}

impl Parts {
    /// Returns the state of the worst part.
    pub const fn state(&self) -> EventState {
        if self.to_run {
            EventState::Waiting
        } else if self.runs_parked > 0 || self.dead > 0 {
            EventState::Failed
        } else if self.retrying > 0 {
            EventState::Retrying
        } else if self.runs_waiting > 0 || self.pending > 0 {
            EventState::Waiting
        } else if self.unrouted {
            EventState::Unrouted
        } else if self.delivered > 0 {
            EventState::Delivered
        } else {
            EventState::NothingSent
        }
    }
}

/// An accepted event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The engine's id.
    pub id: EventId,
    pub accepted_at: Timestamp,
    /// The sender's part of the event.
    pub new: NewEvent,
}

impl Event {
    /// Returns `id` as in CloudEvents: the sender's, otherwise the engine's.
    pub fn public_id(&self, tag: Tag) -> String {
        self.new.id.as_deref().map_or_else(|| self.id.text(tag), str::to_owned)
    }

    /// Returns `time` as in CloudEvents: the sender's, otherwise the time of acceptance.
    pub fn time(&self) -> String {
        match &self.new.time {
            Some(time) => time.to_string(),
            None => self.accepted_at.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_state_of_its_worst_part() {
        use EventState::{Delivered, Failed, NothingSent, Retrying, Unrouted, Waiting};
        let none = Parts::default();
        for (what, parts, expected) in [
            ("not run yet", Parts { to_run: true, ..none }, Waiting),
            ("to be replayed after it was unrouted", Parts { to_run: true, unrouted: true, ..none }, Waiting),
            ("to be replayed while an old delivery is retried", Parts { to_run: true, retrying: 1, ..none }, Waiting),
            ("no plugin and no endpoint", Parts { unrouted: true, ..none }, Unrouted),
            ("all runs ended without a webhook", none, NothingSent),
            ("a run waits for its next try", Parts { runs_waiting: 1, ..none }, Waiting),
            ("a run waits, another part is delivered", Parts { runs_waiting: 1, delivered: 1, ..none }, Waiting),
            ("a run is parked", Parts { runs_parked: 1, ..none }, Failed),
            ("a run is parked, the rest is under way", Parts { runs_parked: 1, pending: 1, retrying: 1, ..none }, Failed),
            ("a first attempt waits", Parts { pending: 1, delivered: 1, ..none }, Waiting),
            ("a delivery is retried, another one waits", Parts { retrying: 1, pending: 1, ..none }, Retrying),
            ("a delivery is retried, another one is delivered", Parts { retrying: 1, delivered: 1, ..none }, Retrying),
            ("a delivery is dead, another one is retried", Parts { dead: 1, retrying: 1, ..none }, Failed),
            ("a delivery is dead, another one is delivered", Parts { dead: 1, delivered: 1, ..none }, Failed),
            ("all delivered", Parts { delivered: 2, ..none }, Delivered),
            ("one delivered, one cancelled", Parts { delivered: 1, cancelled: 1, ..none }, Delivered),
            ("all cancelled", Parts { cancelled: 2, ..none }, NothingSent),
        ] {
            assert_eq!(parts.state(), expected, "{what}");
        }
    }

    #[test]
    fn states_have_one_word_each() {
        for state in EventState::ALL {
            assert_eq!(EventState::parse(state.as_str()), Some(state));
        }
    }
}
