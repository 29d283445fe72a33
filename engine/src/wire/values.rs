//! Schemas of values for the OpenAPI document: ids, names, times, enumerations. Each schema is declared for the type that parses
//! the value, with that type's limits. This file parses nothing.

use serde_json::{Value, json};
use utoipa::{
    ToSchema,
    openapi::{
        RefOr, Schema,
        extensions::Extensions,
        schema::{Object, SchemaType},
    },
};

use super::{ENDPOINT_STATES, EndReason, PluginState};
use crate::domain::{
    breaker::Breaker,
    delivery::{AttemptOutcome, CancelReason, DeadReason, DeliveryState},
    endpoint::{DisabledReason, EndpointState, OnGone, Ordering, Reach},
    envelope::{Envelope, Format},
    event::EventState,
    id::{AttemptId, AuditId, ComparisonId, DeliveryId, EndpointId, EventId, JobId, KeyId, RunId, SourceId},
    job::{Ended, JobState, Task},
    key::Role,
    name::{EventType, Slug},
    pattern::Pattern,
    plugin::{VersionState, Way},
    run::{LogLevel, RunOutcome, RunState},
    setting::SettingType,
    signature::Scheme,
    stats::Last,
    time::Timestamp,
    why::{Link, Verdict},
};

/// Marks a schema written in JSON; its members replace the mark.
pub const AS_IT_IS: &str = "x-as-it-is";

/// Wraps a JSON schema that `utoipa` cannot express.
pub fn schema(json: Value) -> RefOr<Schema> {
    let mut object = Object::with_type(SchemaType::AnyValue);
    object.extensions = Some(Extensions::from_iter([(AS_IT_IS, json)]));
    RefOr::T(Schema::Object(object))
}

/// Declares the schemas of types. Each line has the type, its name in the document, another type if the schema refers to one, and
/// the schema in JSON.
macro_rules! values {
    ($($type:ty, $name:literal $(with $part:ty)?, $schema:expr;)*) => {$(
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                $crate::wire::values::schema($schema)
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
pub(crate) use values;

values! {
    EventId, "EventId", id("evt", "An accepted event.");
    RunId, "RunId", id("run", "A run: one plugin on one event.");
    DeliveryId, "DeliveryId", id("dlv", "A delivery: one webhook to one endpoint. Also the `webhook-id` of every attempt.");
    AttemptId, "AttemptId", id("att", "An attempt of a delivery.");
    EndpointId, "EndpointId", id("ep", "An endpoint.");
    SourceId, "SourceId", id("src", "A source.");
    KeyId, "KeyId", id("key", "An API key.");
    JobId, "JobId", id("job", "A background job.");
    ComparisonId, "ComparisonId", id("cmp", "A comparison of two versions of a plugin.");
    AuditId, "AuditId", id("aud", "An entry of the audit trail.");

    Timestamp, "Timestamp", json!({
        "type": "string", "format": "date-time", "description": "RFC 3339. The engine writes UTC with milliseconds.",
        "examples": ["2026-01-31T09:30:00.000Z"],
    });
    Slug, "Name", json!({
        "type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$", "minLength": 1, "maxLength": Slug::LEN_MAX,
        "description": "A name: lower-case letters, digits, dashes and underscores.", "examples": ["crm"],
    });
    EventType, "EventType", json!({
        "type": "string", "pattern": format!("^{}$", EventType::PATTERN), "minLength": 1, "maxLength": EventType::LEN_MAX,
        "description": "An event type.", "examples": ["order.created"],
    });
    Pattern, "EventPattern", json!({
        "type": "string", "pattern": format!(r"^(\*|{}(\.\*)?)$", EventType::PATTERN),
        "description": "A pattern of event types: one type, all below a prefix (`order.*`), or all (`*`).", "examples": ["order.*"],
    });

    Last, "Last", words("A period that ends now.", &Last::ALL.map(Last::as_str));
    EventState, "EventState", words(
        "State of an event, that of its worst part: a parked run or a dead delivery (`failed`), a delivery that is tried again (`retrying`), \
         anything else that is not finished (`waiting`), at least one webhook delivered (`delivered`), no webhook (`nothing-sent`), or no \
         matching plugin and endpoint (`unrouted`).",
        &EventState::ALL.map(EventState::as_str));
    RunState, "RunState", words(
        "State of a run: done, waiting for its next try, parked until its cause is repaired, or cancelled.", &RunState::WORDS);
    Verdict, "Verdict", words(
        "Whether an event reached an endpoint: delivered, waiting (it continues without help), or stopped.", &Verdict::ALL.map(Verdict::as_str));
    Link, "Link", words("Link of the chain from an event to an endpoint. The values are in the order of the chain.", &Link::ALL.map(Link::as_str));
    SettingType, "SettingType", words("Type of a setting.", &SettingType::ALL.map(SettingType::as_str));
    RunOutcome, "RunOutcome", words("Outcome of a run.", &RunOutcome::ALL.map(RunOutcome::as_str));
    LogLevel, "LogLevel", words("Severity of a log line.", &LogLevel::ALL.map(LogLevel::as_str));
    DeliveryState, "DeliveryState", words("State of a delivery.", &DeliveryState::WORDS);
    DeadReason, "DeadReason", words("Why a delivery is dead.", &DeadReason::ALL.map(DeadReason::as_str));
    EndReason, "EndReason", words("Why a delivery is dead or cancelled.", &end_reasons());
    Ended, "Ended", words("State of deliveries for a bulk retry. `retrying`: those that wait for their next attempt.", &Ended::ALL.map(Ended::as_str));
    Task, "JobKind", words(
        "Work of a job: send deliveries again, run parked runs again, or run whole events again.", &Task::KINDS);
    JobState, "JobState", words("State of a job or a comparison: running, done or cancelled.", &JobState::ALL.map(JobState::as_str));
    AttemptOutcome, "AttemptOutcome", words("Outcome of an attempt.", &AttemptOutcome::WORDS);
    EndpointState, "EndpointState", words("State of an endpoint.", &ENDPOINT_STATES);
    Breaker, "BreakerState", words(
        "State of a circuit breaker: webhooks go out (`closed`), none goes out before the next probe (`open`), or one at a time goes out as a \
         probe (`probing`).",
        &Breaker::WORDS);
    DisabledReason, "DisabledReason", words("Why an endpoint is disabled.", &DisabledReason::ALL.map(DisabledReason::as_str));
    Ordering, "Ordering", words(
        "Order of webhooks: one at a time for the whole endpoint (`endpoint`), or for each `subject`.",
        &[Ordering::Endpoint, Ordering::Subject].map(Ordering::as_str));
    OnGone, "OnGone", words(
        "Reaction to the answer `410`: the endpoint is disabled, or removed (subscriptions that programs created).",
        &OnGone::ALL.map(OnGone::as_str));
    Reach, "Reach", words(
        "Addresses that webhooks may reach: public ones and networks that the operator opened (`opened`), or only `public` ones.",
        &Reach::ALL.map(Reach::as_str));
    VersionState, "VersionState", words(
        "State of a version: pushed to be promoted later (`candidate`), `serving`, or one that served before (`kept`).",
        &VersionState::ALL.map(VersionState::as_str));
    Way, "Way", words(
        "How a version was proposed: as a file in a plugin folder, over the API (`upload`), or built by `innesco dev`.",
        &Way::ALL.map(Way::as_str));
    PluginState, "PluginState", words(
        "State of a plugin: it runs (`serving`), has only a `candidate`, was `disabled` by a person, is `held` because it failed too often, \
         or does not load.",
        &PluginState::WORDS);
    Scheme, "Signature", words(
        "Signature scheme: Standard Webhooks (`v1`: HMAC-SHA256, `v1a`: ed25519), the scheme of another sender, a `token` in a \
         header, or `none`.",
        &Scheme::ALL.map(Scheme::as_str));
    Envelope, "Envelope", words(
        "Body format: `standard` (`{type, timestamp, data}`), `cloudevents`, or `data` (event data only).",
        &Envelope::ALL.map(Envelope::as_str));
    Format, "Format", words("Body encoding.", &Format::ALL.map(Format::as_str));
    Role, "Role", words(
        "Role of a key: send events (`publish`), read without secrets (`read`), manage its own subscriptions (`subscribe`), read \
         only `/metrics` (`metrics`), manage deliveries, endpoints and sources (`operate`), everything (`admin`).",
        &Role::ALL.map(Role::as_str));
}

fn end_reasons() -> Vec<&'static str> {
    DeadReason::ALL.map(DeadReason::as_str).into_iter().chain(CancelReason::ALL.map(CancelReason::as_str)).collect()
}

fn id(prefix: &str, description: &str) -> Value {
    json!({
        "type": "string", "pattern": format!("^{prefix}_[0-9a-hjkmnp-tv-z]{{6,18}}$"), "description": description,
        "examples": [format!("{prefix}_k7q22a9")],
    })
}

/// Returns a type's name in the document and its schema.
pub fn named<T: ToSchema>() -> (String, Value) {
    (T::name().into_owned(), serde_json::to_value(T::schema()).expect("utoipa's shapes are JSON"))
}

/// Returns the schema of an enumeration.
pub fn words(description: &str, words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words, "description": description })
}

/// Returns a pattern for durations such as `20s`. Each entry of `units` is the name of a unit with the minimum and the maximum
/// number. The minimum is a power of ten, or zero.
pub fn durations(units: &[(&str, u64, u64)]) -> String {
    let of = |(unit, least, most): &(&str, u64, u64)| format!("({}){unit}", between(*least, *most));
    format!("^({})$", units.iter().map(of).collect::<Vec<_>>().join("|"))
}

/// Returns a pattern for whole numbers from `least` (a power of ten, or zero) to `most`, without leading zeros.
pub fn between(least: u64, most: u64) -> String {
    let mut ways = Vec::new();
    let digits: Vec<u8> = most.to_string().into_bytes().iter().map(|digit| digit - b'0').collect();
    // Numbers with fewer digits than `most`.
    for length in least.to_string().len()..digits.len() {
        ways.push(match length {
            1 if least == 0 => "[0-9]".to_owned(),
            length => format!("[1-9][0-9]{{{}}}", length - 1),
        });
    }
    // Numbers with as many digits as `most`, in which the first digit that differs is smaller.
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
    fn a_range_pattern_matches_exactly_its_numbers() {
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
