//! Events, with everything that happened to them.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use utoipa::ToSchema;

use super::{DeliveryStoryView, RunStoryView, Word};
use crate::domain::{event::EventState, id::EventId, name::EventType, pattern::Pattern, time::Timestamp};

/// The answer for one accepted event.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Accepted)]
pub struct AcceptedView {
    /// The id that the sender gave to the event; if it gave none, the engine's id.
    pub id: String,
    pub source: String,
    /// The engine's id of the event.
    #[schema(value_type = EventId)]
    pub event: String,
    /// Whether the same event was accepted before. If so, this request changed nothing.
    pub duplicate: bool,
}

/// The answers to a list of events, in the order of that list.
#[derive(Deserialize, Serialize, ToSchema)]
pub struct AcceptedAll {
    pub items: Vec<AcceptedView>,
}

/// One accepted event.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventView {
    /// The engine's id.
    #[schema(value_type = EventId)]
    pub event: String,
    /// The id that the sender gave to the event; if it gave none, the engine's id.
    pub id: String,
    pub source: String,
    #[schema(value_type = EventType)]
    pub r#type: String,
    pub subject: Option<String>,
    /// Time of the event that the sender gave; if there is none, the time of acceptance.
    pub time: String,
    #[schema(value_type = Timestamp)]
    pub accepted_at: String,
    /// State of the event, which is the state of its worst part.
    #[schema(value_type = EventState)]
    pub state: Word,
    pub parts: PartsView,
    /// Number of earlier events in the chain that led to this event.
    pub depth: u8,
    /// Event whose run emitted this event.
    #[schema(value_type = Option<EventId>)]
    pub cause: Option<String>,
    /// Extension attributes.
    pub attributes: BTreeMap<String, String>,
    pub content_type: String,
    /// Size of its data.
    pub bytes: u64,
}

/// Numbers of an event's parts. Finished parts of rounds before the last replay do not count.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = EventParts)]
pub struct PartsView {
    /// Whether the event waits to be run, for the first time or for a replay.
    pub to_run: bool,
    pub runs: RunPartsView,
    pub deliveries: DeliveryPartsView,
}

/// Numbers of an event's runs that are not finished.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = RunParts)]
pub struct RunPartsView {
    pub waiting: u64,
    pub parked: u64,
}

/// Numbers of an event's deliveries by state.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = DeliveryParts)]
pub struct DeliveryPartsView {
    pub total: u64,
    pub pending: u64,
    pub retrying: u64,
    pub delivered: u64,
    pub dead: u64,
    pub cancelled: u64,
}

/// One event with its runs, deliveries and emitted events.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = EventStory)]
pub struct EventStoryView {
    #[serde(flatten)]
    pub event: EventView,
    #[serde(flatten)]
    pub data: DataView,
    /// The request that a source received.
    pub request: Option<RequestView>,
    pub runs: Vec<RunStoryView>,
    pub deliveries: Vec<DeliveryStoryView>,
    /// Events that its runs emitted.
    #[schema(value_type = Vec<EventId>)]
    pub emitted: Vec<String>,
    /// Events that the runs scheduled, and that wait or were cancelled. An event that has become due is in `emitted` instead.
    #[serde(default)]
    pub scheduled: Vec<ScheduledView>,
    /// The chain that contains this event: the first event of the chain and the events that follow from it, up to 200. A parent
    /// is before its children. Empty if the chain consists only of this event. If a history has several parts, only its first
    /// part has the chain.
    #[serde(default)]
    pub chain: Vec<ChainView>,
    /// Whether the chain has more events.
    #[serde(default)]
    pub chain_more: bool,
    /// Id of the W3C trace that the events of the chain carry in `traceparent`. Null if they carry none.
    #[serde(default)]
    pub trace: Option<String>,
    /// The most similar pattern of any plugin or endpoint, if none of them subscribes to the event.
    #[schema(value_type = Option<Pattern>)]
    pub nearest: Option<String>,
    /// Send this as `cursor` for the next part of the history.
    pub next: Option<String>,
}

/// A scheduled event: an event that is due later.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ScheduledEvent)]
pub struct ScheduledView {
    #[schema(value_type = EventType)]
    pub r#type: String,
    pub subject: Option<String>,
    /// `plugin/NAME` of the plugin that scheduled it.
    pub source: String,
    /// When it is due.
    #[schema(value_type = Timestamp)]
    pub due_at: String,
    /// When it was cancelled. Null if it waits.
    #[schema(value_type = Option<Timestamp>)]
    pub cancelled_at: Option<String>,
}

/// An event of a chain.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ChainedEvent)]
pub struct ChainView {
    #[schema(value_type = EventId)]
    pub event: String,
    #[schema(value_type = EventType)]
    pub r#type: String,
    pub subject: Option<String>,
    /// `plugin/NAME` if a plugin emitted the event, otherwise the sender.
    pub source: String,
    /// Event whose run emitted this event.
    #[schema(value_type = Option<EventId>)]
    pub cause: Option<String>,
    /// State of the event, which is the state of its worst part.
    #[schema(value_type = EventState)]
    pub state: Word,
    #[schema(value_type = Timestamp)]
    pub accepted_at: String,
}

/// Data of an event: JSON unchanged, text as a string, other data in base64.
#[derive(Serialize, ToSchema)]
#[schema(as = Data)]
#[serde(rename_all = "snake_case")]
pub enum DataView {
    #[serde(rename = "data")]
    #[schema(value_type = serde_json::Value)]
    Json(Box<RawValue>),
    #[serde(rename = "data_base64")]
    Base64(String),
}

/// Reads `data` or `data_base64` among the members of an event. Written by hand because serde cannot read a raw value among
/// flattened members. The JSON passes through [`Value`], which may change its bytes. A reader that needs the bytes must first cut
/// them out of the answer.
impl<'de> Deserialize<'de> for DataView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DataVisitor)
    }
}

struct DataVisitor;

impl<'de> Visitor<'de> for DataVisitor {
    type Value = DataView;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event with `data` or `data_base64`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<DataView, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<String>()? {
            match name.as_str() {
                "data" => {
                    let json: Value = members.next_value()?;
                    found = Some(DataView::Json(to_raw_value(&json).map_err(<A::Error as serde::de::Error>::custom)?));
                }
                "data_base64" => found = Some(DataView::Base64(members.next_value()?)),
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found.unwrap_or_else(|| DataView::Json(RawValue::NULL.to_owned())))
    }
}

/// The request that carried an event.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Request)]
pub struct RequestView {
    pub method: String,
    pub query: String,
    /// Name and value of each header. Credentials are not stored.
    pub headers: Vec<(String, String)>,
    /// The body, if it is text and differs from the data.
    pub body: Option<String>,
    /// The body in base64, if it is not text and differs from the data.
    pub body_base64: Option<String>,
}

/// What a cancellation changed.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = CancelledEvent)]
pub struct CancelledView {
    #[schema(value_type = EventId)]
    pub event: String,
    /// Number of events of the chain that were checked: this event, and those that follow from it.
    pub events: u64,
    /// How many of these events waited to be run.
    pub waiting: u64,
    /// Cancelled runs.
    pub runs: u64,
    /// Cancelled deliveries.
    pub deliveries: u64,
    /// Cancelled scheduled events.
    pub scheduled: u64,
    /// Whether the chain has more than 10,000 events. The events beyond that number were not changed.
    pub more: bool,
}

/// An accepted replay.
#[derive(Deserialize, Serialize, ToSchema)]
pub struct Replayed {
    #[schema(value_type = EventId)]
    pub event: String,
    /// Number of this replay of the event, counted from 1.
    pub round: u32,
}

/// What a subscription would have selected among the newest events.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Matches)]
pub struct MatchesView {
    /// Number of the newest events that were checked, at most 1,000.
    pub checked: u64,
    pub matched: u64,
    /// Types of the matching events, most frequent first, at most 20.
    pub types: Vec<MatchedType>,
    /// Webhook for the newest matching event; `null` if no event matches.
    pub sample: Option<MatchSampleView>,
}

/// Number of matching events of a type.
#[derive(Deserialize, Serialize, ToSchema)]
pub struct MatchedType {
    #[schema(value_type = EventType)]
    pub r#type: String,
    pub count: u64,
}

/// A webhook that an endpoint would have received.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = MatchSample)]
pub struct MatchSampleView {
    #[schema(value_type = EventId)]
    pub event: String,
    #[schema(value_type = EventType)]
    pub r#type: String,
    pub content_type: String,
    /// The body; `null` if it is not text.
    pub body: Option<String>,
}
