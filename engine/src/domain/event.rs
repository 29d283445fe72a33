//! An event: one thing that happened. A CloudEvent (1.0) whose data is kept byte for byte as it came.

use std::{borrow::Cow, sync::Arc};

use super::{
    content::Content,
    id::{EventId, Tag},
    name::{Attributes, EventType},
    request::Request,
    time::Timestamp,
};

/// How deep a chain of events that cause events can be; one deeper is a loop and ends in a named error.
pub const DEPTH_MAX: u8 = 8;

/// An event before it has an id of ours.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The id that the sender gave, by which a repeat is known: see [`NewEvent::repeat_key`].
    pub id: Option<Arc<str>>,
    pub source: Arc<str>,
    pub event_type: EventType,
    pub subject: Option<Arc<str>>,
    /// RFC 3339, as the caller wrote it; `None` means the instant of acceptance.
    pub time: Option<Arc<str>>,
    /// Its data, and what that is.
    pub content: Content,
    pub attributes: Arc<Attributes>,
    /// How many events stand before this one in its chain.
    pub depth: u8,
    /// The event whose run emitted this one.
    pub cause: Option<EventId>,
    /// The request that a source took it from.
    pub request: Option<Arc<Request>>,
}

/// Stands before the source in the key of an event that a source took. No `source` of `/v1/events` can contain it, so a published
/// event can neither take the place of a source's nor be taken for one.
const SOURCE_DOOR: char = '\u{1}';

/// Whether a `source` is one that only the engine gives: its own, or that of a plugin.
pub fn is_reserved_source(source: &str) -> bool {
    source == "innesco" || source.starts_with("plugin/")
}

impl NewEvent {
    /// The pair under which the store remembers the sender's id. Events of sources have a name space that `/v1/events` cannot reach.
    pub fn repeat_key(&self) -> Option<(Cow<'_, str>, &str)> {
        let id = self.id.as_deref()?;
        let source = if self.request.is_some() { format!("{SOURCE_DOOR}{}", self.source).into() } else { (&*self.source).into() };
        Some((source, id))
    }
}

/// State of an event as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// Not run yet.
    Waiting,
    /// Run; its deliveries have their own states.
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
    /// Our id.
    pub id: EventId,
    pub accepted_at: Timestamp,
    /// What the sender said.
    pub new: NewEvent,
}

impl Event {
    /// `id` as CloudEvents has it: the sender's, else ours.
    pub fn public_id(&self, tag: Tag) -> String {
        self.new.id.as_deref().map_or_else(|| self.id.text(tag), str::to_owned)
    }

    /// `time` as CloudEvents has it: the sender's, else the instant of acceptance.
    pub fn time(&self) -> String {
        match &self.new.time {
            Some(time) => time.to_string(),
            None => self.accepted_at.to_string(),
        }
    }
}
