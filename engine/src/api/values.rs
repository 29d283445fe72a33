//! What a value of the API may be, for the OpenAPI document: ids, names, times, words. Each is said of the type that reads it, with
//! the limits that type keeps; nothing here reads anything itself.

use serde_json::{Value, json};
use utoipa::{
    ToSchema,
    openapi::{
        RefOr, Schema,
        extensions::Extensions,
        schema::{Object, SchemaType},
    },
};

use super::{endpoints::ENDPOINT_STATES, openapi::AS_IT_IS, view::PLUGIN_STATES};
use crate::{
    catalog::PluginState,
    domain::{
        delivery::{AttemptOutcome, DeadReason, DeliveryState},
        endpoint::{DisabledReason, EndpointState, OnGone, Ordering, Reach},
        envelope::{Envelope, Format},
        event::EventState,
        id::{AttemptId, AuditId, DeliveryId, EndpointId, EventId, JobId, KeyId, RunId, SourceId},
        job::{Ended, JobState},
        key::Role,
        name::{EventType, Slug},
        pattern::Pattern,
        run::{LogLevel, RunOutcome, RunState},
        signature::Scheme,
        time::Timestamp,
    },
};

/// A schema in JSON, for what `utoipa` has no word.
pub fn schema(json: Value) -> RefOr<Schema> {
    let mut object = Object::with_type(SchemaType::AnyValue);
    object.extensions = Some(Extensions::from_iter([(AS_IT_IS, json)]));
    RefOr::T(Schema::Object(object))
}

/// Says what a type looks like in the document: the type, its name there (and a type that its schema refers to), its schema in JSON.
macro_rules! values {
    ($($type:ty, $name:literal $(with $part:ty)?, $schema:expr;)*) => {$(
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                $crate::api::values::schema($schema)
            }
        }

        impl utoipa::ToSchema for $type {
            fn name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            $(fn schemas(schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>) {
                schemas.push((<$part as utoipa::ToSchema>::name().into_owned(), <$part as utoipa::PartialSchema>::schema()));
            })?
        }
    )*};
}
pub(super) use values;

values! {
    EventId, "EventId", id("evt", "One accepted event.");
    RunId, "RunId", id("run", "One plugin on one event.");
    DeliveryId, "DeliveryId", id("dlv", "One webhook on its way to one endpoint; also the `webhook-id` of every attempt.");
    AttemptId, "AttemptId", id("att", "One try of a delivery.");
    EndpointId, "EndpointId", id("ep", "An outbound target.");
    SourceId, "SourceId", id("src", "An address for third parties.");
    KeyId, "KeyId", id("key", "An API key.");
    JobId, "JobId", id("job", "Work on many rows that goes on by itself.");
    AuditId, "AuditId", id("aud", "One change in the audit trail.");

    Timestamp, "Timestamp", json!({
        "type": "string", "format": "date-time", "description": "RFC 3339; what the engine writes is in UTC, to the millisecond.",
        "examples": ["2026-01-31T09:30:00.000Z"],
    });
    Slug, "Name", json!({
        "type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$", "minLength": 1, "maxLength": Slug::LEN_MAX,
        "description": "A fixed name: lower-case letters, digits, dashes and underscores.", "examples": ["crm"],
    });
    EventType, "EventType", json!({
        "type": "string", "pattern": format!("^{}$", EventType::PATTERN), "minLength": 1, "maxLength": EventType::LEN_MAX,
        "description": "What kind of thing happened.", "examples": ["order.created"],
    });
    Pattern, "EventPattern", json!({
        "type": "string", "pattern": format!(r"^(\*|{}(\.\*)?)$", EventType::PATTERN),
        "description": "Which event types: one of them, all below a prefix (`order.*`), or all (`*`).", "examples": ["order.*"],
    });

    EventState, "EventState", words("Where an event stands.", &EventState::ALL.map(EventState::as_str));
    RunState, "RunState", words(
        "Whether a run is over, is to be tried again by itself, or waits for a person.", &RunState::WORDS);
    RunOutcome, "RunOutcome", words("How a run ended.", &RunOutcome::ALL.map(RunOutcome::as_str));
    LogLevel, "LogLevel", words("How grave a plugin meant it.", &LogLevel::ALL.map(LogLevel::as_str));
    DeliveryState, "DeliveryState", words("Where a delivery stands.", &DeliveryState::WORDS);
    DeadReason, "DeadReason", words("Why a delivery was given up.", &DeadReason::ALL.map(DeadReason::as_str));
    Ended, "Ended", words("How a delivery ended that can be retried in bulk.", &Ended::ALL.map(Ended::as_str));
    JobState, "JobState", words("Whether a job goes on, has come to its end, or was called off.", &JobState::ALL.map(JobState::as_str));
    AttemptOutcome, "AttemptOutcome", words("What the other side did.", &AttemptOutcome::WORDS);
    EndpointState, "EndpointState", words("Whether an endpoint takes webhooks.", &ENDPOINT_STATES);
    DisabledReason, "DisabledReason", words("Why an endpoint is disabled.", &DisabledReason::ALL.map(DisabledReason::as_str));
    Ordering, "Ordering", words(
        "In which order webhooks arrive: one after the other (`endpoint`), or so among events of one `subject`.",
        &[Ordering::Endpoint, Ordering::Subject].map(Ordering::as_str));
    OnGone, "OnGone", words(
        "What becomes of an endpoint that answers `410`: it is disabled, or removed as the subscription of a program.",
        &OnGone::ALL.map(OnGone::as_str));
    Reach, "Reach", words(
        "Which addresses webhooks may reach: public ones and the networks that the operator opened (`opened`), or `public` ones alone.",
        &Reach::ALL.map(Reach::as_str));
    PluginState, "PluginState", words("Whether a plugin runs.", &PLUGIN_STATES);
    Scheme, "Signature", words(
        "How webhooks prove themselves: Standard Webhooks (`v1`: HMAC-SHA256, `v1a`: ed25519), the way of another sender, a `token` in a \
         header, or not at all (`none`).",
        &Scheme::ALL.map(Scheme::as_str));
    Envelope, "Envelope", words(
        "What stands around an event's data: `{type, timestamp, data}` (`standard`), a CloudEvent, or nothing (`data`).",
        &Envelope::ALL.map(Envelope::as_str));
    Format, "Format", words("How a body is written.", &Format::ALL.map(Format::as_str));
    Role, "Role", words(
        "What a key may do: send events (`publish`), read without secrets (`read`), manage its own subscriptions (`subscribe`), read \
         `/metrics` alone (`metrics`), run deliveries, endpoints and sources (`operate`), everything (`admin`).",
        &Role::ALL.map(Role::as_str));
}

fn id(prefix: &str, description: &str) -> Value {
    json!({
        "type": "string", "pattern": format!("^{prefix}_[0-9a-hjkmnp-tv-z]{{6,18}}$"), "description": description,
        "examples": [format!("{prefix}_k7q22a9")],
    })
}

/// What a type is called in the document, and what it looks like there.
pub fn named<T: ToSchema>() -> (String, Value) {
    (T::name().into_owned(), serde_json::to_value(T::schema()).expect("utoipa's shapes are JSON"))
}

/// One of a few words.
pub fn words(description: &str, words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words, "description": description })
}

/// The pattern of durations in one unit or another, such as `20s`; `units` are names with the least and the most of them. The least
/// is a power of ten, or zero.
pub fn durations(units: &[(&str, u64, u64)]) -> String {
    let of = |(unit, least, most): &(&str, u64, u64)| format!("({}){unit}", between(*least, *most));
    format!("^({})$", units.iter().map(of).collect::<Vec<_>>().join("|"))
}

/// The pattern of whole numbers from `least` (a power of ten, or zero) to `most`, without leading zeros.
pub fn between(least: u64, most: u64) -> String {
    let mut ways = Vec::new();
    let digits: Vec<u8> = most.to_string().into_bytes().iter().map(|digit| digit - b'0').collect();
    // Shorter ones.
    for length in least.to_string().len()..digits.len() {
        ways.push(match length {
            1 if least == 0 => "[0-9]".to_owned(),
            length => format!("[1-9][0-9]{{{}}}", length - 1),
        });
    }
    // As long, and smaller at one place.
    for (place, digit) in digits.iter().enumerate() {
        let first = u8::from(place == 0 && (digits.len() > 1 || least > 0));
        if *digit > first {
            let head: String = digits[..place].iter().map(|digit| char::from(b'0' + digit)).collect();
            ways.push(format!("{head}[{first}-{}][0-9]{{{}}}", digit - 1, digits.len() - place - 1));
        }
    }
    ways.push(most.to_string());
    ways.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_range_and_no_others_fit_its_pattern() {
        for (least, most) in [(0, 0), (0, 7), (1, 9), (1, 60), (100, 60_000), (0, 168), (0, 604_800), (1, 100)] {
            let schema = json!({ "pattern": format!("^({})$", between(least, most)) });
            let fits = jsonschema::validator_for(&schema).expect("a pattern");
            let mut tried: Vec<u64> = (0..300).collect();
            tried.extend([least, most].iter().flat_map(|edge| edge.saturating_sub(3)..edge + 4));
            tried.extend([999, 1000, 9_999, 10_000, 599_999, 600_000, 604_799, 699_999]);
            for number in tried {
                let text = json!(number.to_string());
                assert_eq!(fits.is_valid(&text), (least..=most).contains(&number), "{number} in {least}..={most}: {schema}");
            }
        }
    }
}
