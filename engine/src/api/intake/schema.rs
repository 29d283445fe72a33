//! The schema of an event that [`super::read`] accepts, for the OpenAPI document.

use serde_json::{Value, json};

use super::{BATCH_MAX, CONTENT_TYPE_LEN_MAX, MEMBERS_MAX, TEXT_LEN_MAX};
use crate::{
    domain::name::{Attributes, EventType},
    wire::values::values,
};

/// One or more events. Only the OpenAPI document uses this type; [`super::read`] parses the bytes without it.
pub enum EventsInput {}
/// The OpenAPI schema of a batch of CloudEvents.
pub enum BatchInput {}
/// The OpenAPI schema of one event.
pub enum EventInput {}
/// The data of an event in binary mode.
pub enum AnyData {}
/// A header's value for `id`, `source` or `subject`.
pub enum HeaderText {}
/// The value of `ce-specversion`.
pub enum SpecVersion {}
/// The value of `innesco-depth`.
pub enum Depth {}

values! {
    EventInput, "EventInput", event_schema();
    EventsInput, "EventsInput" with EventInput, json!({
        "description": "One event, or a list of them.",
        "oneOf": [
            { "$ref": "#/components/schemas/EventInput" },
            { "type": "array", "items": { "$ref": "#/components/schemas/EventInput" }, "minItems": 1, "maxItems": BATCH_MAX },
        ],
    });
    // Unlike a list in `application/json`, a batch may be empty (CloudEvents, JSON event format, 4).
    BatchInput, "BatchInput" with EventInput, json!({
        "description": "One event, or a batch of them, which may be empty.",
        "oneOf": [
            { "$ref": "#/components/schemas/EventInput" },
            { "type": "array", "items": { "$ref": "#/components/schemas/EventInput" }, "maxItems": BATCH_MAX },
        ],
    });
    AnyData, "AnyData", json!({ "type": "string", "format": "binary", "description": "The event's data, stored byte for byte." });
    HeaderText, "HeaderText", json!({
        "type": "string", "pattern": "^[!-~]([ -~]*[!-~])?$", "minLength": 1, "maxLength": TEXT_LEN_MAX,
        "description": "Percent-encoded text.",
    });
    SpecVersion, "SpecVersion", json!({ "type": "string", "enum": ["1.0"], "description": "The version of CloudEvents." });
    Depth, "Depth", json!({
        "type": "integer", "minimum": 0, "maximum": u32::MAX, "description": "Number of earlier events in the chain.",
    });
}

/// Returns the schema of an event that [`super::read`] accepts.
fn event_schema() -> Value {
    let text = |description: &str| {
        json!({
            "type": ["string", "null"], "minLength": 1, "maxLength": TEXT_LEN_MAX, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
            "description": description,
        })
    };
    let attribute = json!({
        "anyOf": [
            { "type": "string", "maxLength": Attributes::VALUE_LEN_MAX, "pattern": r"^[^\u0000-\u001f\u007f]*$" },
            { "type": "boolean" },
            { "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX },
            { "type": "null" },
        ],
    });
    json!({
        "type": "object",
        "description": "A CloudEvent as JSON. Only the type is required.",
        "required": ["type"],
        "properties": {
            "type": {
                "type": "string", "pattern": format!(r"^(?!innesco\.){}$", EventType::PATTERN), "minLength": 1, "maxLength": EventType::LEN_MAX,
                "description": "Event type. Types that begin with `innesco.` are reserved for the engine.",
            },
            "id": text("Id that the sender gives the event. A second event with the same source and id is a duplicate. Default: the engine's id."),
            "source": text("The sender. Default: `api`."),
            "subject": text("Subject of the event, within its source."),
            "time": { "type": ["string", "null"], "format": "date-time", "description": "Time of the event. Default: now." },
            "specversion": { "enum": ["1.0", null], "description": "The version of CloudEvents." },
            "datacontenttype": {
                "type": ["string", "null"], "pattern": "^[ -~]+$", "minLength": 1, "maxLength": CONTENT_TYPE_LEN_MAX,
                "description": "Content type of the data. Default: `application/json`.",
            },
            "data": { "description": "The data, stored unchanged. A string if the content type is not JSON." },
            "data_base64": {
                "type": ["string", "null"], "contentEncoding": "base64",
                "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
                "description": "The data in base64, instead of `data`.",
            },
        },
        "propertyNames": { "pattern": format!("^([a-z0-9]{{1,{}}}|data_base64)$", Attributes::NAME_LEN_MAX) },
        "maxProperties": MEMBERS_MAX,
        "additionalProperties": {
            "description": "An extension attribute, such as `channel` or `initiator`: a string, a boolean or a whole number.",
            "anyOf": attribute["anyOf"],
        },
        "not": { "required": ["data", "data_base64"], "properties": { "data_base64": { "type": "string" } } },
        "if": {
            "required": ["datacontenttype"],
            "properties": { "datacontenttype": {
                "type": "string",
                "not": { "pattern": r"^[ \t]*[^;]+[/+][Jj][Ss][Oo][Nn][ \t]*(;.*)?$" },
            } },
        },
        "then": { "properties": { "data": { "type": ["string", "null"] } } },
    })
}
