//! An event: one thing that happened. A CloudEvent (1.0) whose data is kept byte for byte as it came.

use std::sync::Arc;

use bytes::Bytes;

use super::{
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
    /// The id that the caller gave. (`source`, `id`) is accepted once within the dedupe window.
    pub id: Option<Arc<str>>,
    pub source: Arc<str>,
    pub event_type: EventType,
    pub subject: Option<Arc<str>>,
    /// RFC 3339, as the caller wrote it; `None` means the instant of acceptance.
    pub time: Option<Arc<str>>,
    pub content_type: Arc<str>,
    pub data: Bytes,
    pub attributes: Arc<Attributes>,
    /// How many events stand before this one in its chain.
    pub depth: u8,
    /// The event whose run emitted this one.
    pub cause: Option<EventId>,
    /// The request that a source took it from.
    pub request: Option<Arc<Request>>,
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
