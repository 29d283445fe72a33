//! The schemas of input for endpoints, for the OpenAPI document.

use serde_json::{Value, json};
use utoipa::{
    PartialSchema as _,
    openapi::{RefOr, Schema},
};

use super::input::{CONDITIONS_MAX, CONDITIONS_TOO, HEADER_LEN_MAX, Input, SUBSCRIPTION_MAX};
use crate::{
    api::openapi,
    domain::{
        breaker::BreakerRule,
        endpoint::{OUR_HEADER_PREFIXES, OUR_HEADERS, Policy, Subscription},
        grace,
        name::Attributes,
        rate::Rate,
    },
    wire::values::{between, durations, schema, values},
};

/// A timeout.
pub enum Timeout {}
/// A concurrency.
pub enum Concurrency {}
/// A rate.
pub enum RateText {}
/// Number of failures in a row.
pub enum BreakerFailures {}
/// Open time of a breaker.
pub enum BreakerWait {}
/// A wait in a schedule.
pub enum Wait {}
/// Grace period of an old secret.
pub enum Grace {}
/// A secret chosen by the caller.
pub enum GivenSecret {}
/// A change: [`Input`] with every member optional.
pub enum Patch {}

const DAY: u64 = 24 * 60 * 60;
/// Units for durations of at most a week, with the minimum and the maximum number of each unit.
const WITHIN_A_WEEK: [(&str, u64, u64); 5] =
    [("ms", 0, 7 * DAY * 1000), ("s", 0, 7 * DAY), ("(m|min)", 0, 7 * DAY / 60), ("h", 0, 7 * 24), ("d", 0, 7)];

values! {
    Timeout, "Timeout", json!({
        "type": "string", "pattern": durations(&[("ms", 100, 60_000), ("s", 1, 60), ("(m|min)", 1, 1)]), "examples": ["20s"],
        "description": "Time for one complete attempt: 100ms to 60s.",
    });
    Wait, "Wait", json!({
        "type": "string", "pattern": durations(&WITHIN_A_WEEK), "examples": ["10m"],
        "description": "Wait before an attempt: at most 7 days.",
    });
    Concurrency, "Concurrency", json!({
        "type": "integer", "minimum": 1, "maximum": Policy::CONCURRENCY_MAX, "default": Policy::CONCURRENCY_DEFAULT,
        "description": "Maximum number of concurrent webhooks.",
    });
    RateText, "Rate", json!({
        "type": "string", "pattern": format!("^({})/(s|m|h)$", between(1, Rate::COUNT_MAX.into())), "examples": ["50/s"],
        "description": "Maximum number per second, minute or hour.",
    });
    BreakerFailures, "BreakerFailures", json!({
        "type": "integer", "minimum": 0, "maximum": BreakerRule::FAILURES_MAX, "default": BreakerRule::default().failures,
        "description": "Number of failures in a row that open the breaker; 0: it never opens.",
    });
    BreakerWait, "BreakerWait", json!({
        "type": "string", "pattern": durations(&[
            ("ms", 100, 24 * 3_600_000), ("s", 1, 24 * 3600), ("(m|min)", 1, 24 * 60), ("h", 1, 24), ("d", 1, 1),
        ]), "examples": ["10s"],
        "description": "Open time of a breaker: 100ms to 24h.",
    });
    Grace, "Grace", json!({
        "type": "string", "pattern": durations(&WITHIN_A_WEEK), "examples": [grace::DEFAULT],
        "description": "Grace period in which the old secret still signs: at most 7 days.",
    });
    GivenSecret, "GivenSecret", json!({
        "type": "string", "pattern": "^[!-~]{16,256}$",
        "description": "`whsec_` and the base64 of 24 to 64 bytes (`v1`), or `whsk_` and the base64 of an ed25519 seed with its public \
                         key (`v1a`); for all other signatures any 16 to 256 visible characters.",
    });
    Patch, "EndpointPatch", patch_schema();
}

pub fn conditions_schema() -> RefOr<Schema> {
    schema(json!({
        "type": "object", "maxProperties": CONDITIONS_MAX,
        "description": "Attribute → allowed values, one of which an event must have (`source` and `subject` count as attributes). \
                        `data:/POINTER` is a JSON pointer into the event's data: a text, number or boolean there is compared as written, \
                        and data that is not JSON does not match. `where` narrows `events`, and has no effect without `events`.",
        "propertyNames": { "anyOf": [
            {
                "pattern": format!("^[a-z0-9]{{1,{}}}$", Attributes::NAME_LEN_MAX),
                "not": { "enum": Attributes::TAKEN.iter().filter(|name| !CONDITIONS_TOO.contains(name)).collect::<Vec<_>>() },
            },
            { "pattern": format!("^{}/", Subscription::DATA), "maxLength": Subscription::DATA_LEN_MAX },
        ] },
        "additionalProperties": { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": SUBSCRIPTION_MAX },
        "examples": [{ "channel": ["newsletter"], "data:/country": ["IT", "DE"] }],
        "x-beside": { "dependentSchemas": { "where": { "anyOf": [
            { "properties": { "where": { "maxProperties": 0 } } },
            { "required": ["events"], "properties": { "events": { "minItems": 1 } } },
        ] } } },
    }))
}

pub fn headers_schema() -> RefOr<Schema> {
    schema(json!({
        "type": "object", "maxProperties": Policy::HEADERS_MAX,
        "description": format!("Sent with every webhook. Headers of the engine or the connection are refused: {}, and names that begin \
            with {}.", OUR_HEADERS.join(", "), OUR_HEADER_PREFIXES.join(", ")),
        "propertyNames": { "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" },
        "additionalProperties": {
            "type": "string", "maxLength": HEADER_LEN_MAX, "pattern": r"^[^\u0000-\u0008\u000a-\u001f\u007f]*$",
        },
        "examples": [{ "authorization": "Bearer their-key" }],
    }))
}

/// The schema of a merge patch of [`Input`]: no member is required, and `null` restores the default.
fn patch_schema() -> Value {
    let mut schema = serde_json::to_value(Input::schema()).expect("utoipa's shapes are JSON");
    openapi::settle(&mut schema);
    for needless in ["required", "dependentSchemas"] {
        schema.as_object_mut().expect("an input is an object").remove(needless);
    }
    schema["description"] = json!("A change of an endpoint: given members are replaced, `null` restores the default.");
    let properties = schema["properties"].as_object_mut().expect("an input has members");
    // A change cannot contain these: the name is fixed, and a rotation replaces the secret.
    properties.remove("name");
    properties.remove("secret");
    for (_, member) in properties.iter_mut().filter(|(name, _)| *name != "url") {
        if member["additionalProperties"].is_object() {
            let value = member["additionalProperties"].take();
            member["additionalProperties"] = json!({ "anyOf": [value, { "type": "null" }] });
        }
        *member = json!({ "anyOf": [member, { "type": "null" }] });
    }
    schema
}
