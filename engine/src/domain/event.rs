//! An event: one thing that happened. A CloudEvent (1.0) whose data is stored byte for byte.

use std::{borrow::Cow, sync::Arc};

use super::{
    content::Content,
    id::{EventId, Tag},
    name::{Attributes, EventType},
    request::Request,
    time::Timestamp,
};

/// Maximum length of a chain of events that cause each other. A longer one is a loop and ends in a named error.
pub const DEPTH_MAX: u8 = 8;

/// An event without the engine's id.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The sender's id, which identifies a duplicate: see [`NewEvent::repeat_key`].
    pub id: Option<Arc<str>>,
    pub source: Arc<str>,
    pub event_type: EventType,
    pub subject: Option<Arc<str>>,
    /// RFC 3339, as the caller wrote it; `None` means the time of acceptance.
    pub time: Option<Arc<str>>,
    /// Its data with the content type.
    pub content: Content,
    pub attributes: Arc<Attributes>,
    /// Number of earlier events in its chain.
    pub depth: u8,
    /// The event whose run emitted this one.
    pub cause: Option<EventId>,
    /// The request from which a source created it.
    pub request: Option<Arc<Request>>,
}

/// Prefix of the source in the key of an event from a source. No `source` of `/v1/events` can contain it, so a published event
/// can neither replace a source's event nor be mistaken for one.
const SOURCE_DOOR: char = '\u{1}';

/// Returns whether only the engine may use a `source`: its own, or that of a plugin.
pub fn is_reserved_source(source: &str) -> bool {
    source == "innesco" || source.starts_with("plugin/")
}

impl NewEvent {
    /// Returns the pair under which the store remembers the sender's id. `/v1/events` cannot reach the name space of sources.
    pub fn repeat_key(&self) -> Option<(Cow<'_, str>, &str)> {
        let id = self.id.as_deref()?;
        let source = if self.request.is_some() { format!("{SOURCE_DOOR}{}", self.source).into() } else { (&*self.source).into() };
        Some((source, id))
    }
}

/// State of an event as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// Its runs are not finished.
    Waiting,
    /// Its runs are finished; its deliveries have their own states.
    Done,
    /// At least one run is parked.
    Failed,
    /// No plugin and no endpoint subscribes to it.
    Unrouted,
}

impl EventState {
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Done, Self::Failed, Self::Unrouted];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unrouted => "unrouted",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
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
