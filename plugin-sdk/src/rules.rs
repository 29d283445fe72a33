//! The engine's rules for what a run returns and stores, for tests of plugins. Native builds only.
//!
//! The engine has the same rules with the same words (`sandbox/output.rs` and `sandbox/state.rs`), and a test in the engine
//! compares its rules with this file. Limits that cannot be checked on the result alone exist only in the engine: memory, time, and
//! the total state of a plugin.

use std::{collections::BTreeSet, time::Duration};

use serde::de::IgnoredAny;

use crate::{Emit, Error, Outcome, Result, Webhook};

/// Limits of one run, as the engine has them.
pub mod limits {
    /// Maximum number of webhooks.
    pub const WEBHOOKS: usize = 1000;
    /// Maximum number of emitted events.
    pub const EVENTS: usize = 1000;
    /// Maximum size of a result, in bytes (setting `plugin.output_max`).
    pub const OUTPUT_BYTES: usize = 20 << 20;
    /// Maximum number of headers of a webhook.
    pub const HEADERS: usize = 32;
    /// Maximum length of a header's value, in bytes.
    pub const HEADER_VALUE_BYTES: usize = 4 << 10;
    /// Maximum length of a content type, in bytes.
    pub const CONTENT_TYPE_BYTES: usize = 255;
    /// Maximum length of an endpoint's name, in bytes.
    pub const NAME_BYTES: usize = 64;
    /// Maximum length of an event type, in bytes.
    pub const EVENT_TYPE_BYTES: usize = 255;
    /// Maximum number of attributes of an event. The next two limits are for their names and values, in bytes.
    pub const ATTRIBUTES: usize = 32;
    /// See [`ATTRIBUTES`].
    pub const ATTRIBUTE_NAME_BYTES: usize = 64;
    /// See [`ATTRIBUTES`]. Also the maximum length of a subject.
    pub const ATTRIBUTE_VALUE_BYTES: usize = 1024;
    /// Maximum time after which an emitted event takes place, in days.
    pub const AFTER_DAYS: u64 = 30;
    /// Maximum nesting of JSON data.
    pub const JSON_DEPTH: usize = 120;
    /// Maximum number of state keys that a run reads or writes.
    pub const STATE_KEYS: usize = 64;
    /// Maximum length of a state key, in bytes.
    pub const STATE_KEY_BYTES: usize = 256;
    /// Maximum size of a state value, in bytes.
    pub const STATE_VALUE_BYTES: usize = 64 << 10;
}

/// Header names that are reserved for the engine or the connection.
pub const OUR_HEADERS: [&str; 15] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "user-agent",
    "content-length",
    "content-encoding",
    "content-type",
    "forwarded",
    "via",
];
/// Prefixes of further reserved header names.
pub const OUR_HEADER_PREFIXES: [&str; 7] = ["innesco-", "webhook-", "svix-", "content-", "proxy-", "x-forwarded-", "ce-"];
/// Headers with credentials, which only an endpoint may set.
pub const ENDPOINT_HEADERS: [&str; 6] =
    ["authorization", "cookie", "x-hub-signature-256", "stripe-signature", "x-wc-webhook-signature", "x-shopify-hmac-sha256"];
/// Names of an event's own members, which cannot be attributes.
pub const TAKEN_ATTRIBUTES: [&str; 8] = ["id", "source", "specversion", "type", "subject", "time", "datacontenttype", "data"];

/// Checks a result as the engine does. `endpoints` are the names that exist; `None` accepts every name.
///
/// # Errors
///
/// The first violation, with the engine's code and message.
pub fn check(outcome: &Outcome, endpoints: Option<&BTreeSet<String>>) -> Result<()> {
    let (webhooks, events) = (outcome.webhooks.len(), outcome.events.len());
    if size_of(outcome) > limits::OUTPUT_BYTES {
        return refuse("output_too_large", format!("returned more than {} in one call", size(limits::OUTPUT_BYTES)));
    }
    if webhooks > limits::WEBHOOKS {
        return refuse("too_many_webhooks", format!("returned {webhooks} webhooks; the limit is {}", limits::WEBHOOKS));
    }
    if events > limits::EVENTS {
        return refuse("too_many_events", format!("emitted {events} events; the limit is {}", limits::EVENTS));
    }
    // The webhooks of an endpoint's plugin name no endpoint. A test does not declare whether its plugin belongs to an endpoint, so
    // the first webhook decides.
    let is_bound = endpoints.is_none() && outcome.webhooks.first().is_some_and(|first| first.to.is_none());
    for (place, one) in outcome.webhooks.iter().enumerate() {
        webhook(one, is_bound).map_err(|error| of("webhook", place, error))?;
    }
    for (place, one) in outcome.events.iter().enumerate() {
        emitted(one).map_err(|error| of("event", place, error))?;
    }
    for (place, one) in outcome.webhooks.iter().enumerate() {
        if let (Some(name), Some(known)) = (&one.to, endpoints)
            && !known.contains(name)
        {
            let advice = match nearest(name, known) {
                Some(nearest) => format!("the nearest name is {nearest:?}"),
                None => "create it, and the run is tried again".to_owned(),
            };
            let message = format!("webhook {} goes to endpoint {name:?}, which does not exist; {advice}", place + 1);
            return refuse("unknown_endpoint", message);
        }
    }
    if let Some(place) = outcome.events.iter().position(|one| one.event_type.starts_with("innesco.")) {
        let message =
            format!("event {}: types that begin with innesco. are reserved for the engine; choose another prefix", place + 1);
        return refuse("reserved_type", message);
    }
    Ok(())
}

fn refuse<T>(code: &str, message: impl Into<String>) -> Result<T> {
    Err(Error::permanent(code, message))
}

/// Adds to an error the number of its webhook or event, counted from 1.
fn of(thing: &str, place: usize, error: Error) -> Error {
    Error { message: format!("{thing} {}: {}", place + 1, error.message), ..error }
}

fn size_of(outcome: &Outcome) -> usize {
    let pairs = |all: &[(String, String)]| all.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    let webhooks = outcome.webhooks.iter().map(|one| one.body.len() + one.content_type.len() + pairs(&one.headers));
    let events = outcome.events.iter().map(|one| one.data.len() + one.event_type.len() + pairs(&one.attributes));
    webhooks.chain(events).sum()
}

fn webhook(webhook: &Webhook, is_bound: bool) -> Result<()> {
    match &webhook.to {
        None if !is_bound => return refuse("no_endpoint", "names no endpoint; set `to`"),
        Some(to) if is_bound => {
            let message = format!(
                "goes to {:?}, but the plugin of an endpoint can send only to that endpoint; leave `to` out",
                printable(to, limits::NAME_BYTES)
            );
            return refuse("endpoint_not_allowed", message);
        }
        Some(to) if to.is_empty() || to.len() > limits::NAME_BYTES => {
            let shown = printable(to, limits::NAME_BYTES);
            return refuse("bad_endpoint", format!("goes to {shown:?}, which cannot be an endpoint's name"));
        }
        _ => {}
    }
    if webhook.headers.len() > limits::HEADERS {
        return refuse("bad_header", format!("has {} headers; the limit is {}", webhook.headers.len(), limits::HEADERS));
    }
    if let Some(text) = &webhook.event_type {
        event_type(text)?;
    }
    content_type(&webhook.content_type)?;
    webhook.headers.iter().try_for_each(|(name, value)| header(name, value))
}

fn emitted(event: &Emit) -> Result<()> {
    event_type(&event.event_type)?;
    content_type(&event.content_type)?;
    if is_json(&event.content_type) && !event.data.is_empty() {
        json(&event.data).or_else(|error| {
            let kind = &event.content_type;
            refuse("bad_data", format!("declares its data as {kind}, but the data does not parse: {error}"))
        })?;
    }
    if let Some(after) = event.after
        && after > Duration::from_secs(limits::AFTER_DAYS * 24 * 60 * 60)
    {
        let (millis, days) = (after.as_millis(), limits::AFTER_DAYS);
        return refuse("bad_delay", format!("is due after {millis} ms; the limit is {days} days"));
    }
    let mut seen = BTreeSet::new();
    for (name, value) in &event.attributes {
        attribute(name, value, &mut seen).or_else(|message| refuse("bad_attribute", message))?;
    }
    match &event.subject {
        Some(subject) if subject.len() > limits::ATTRIBUTE_VALUE_BYTES || subject.chars().any(char::is_control) => {
            let most = limits::ATTRIBUTE_VALUE_BYTES;
            refuse("bad_subject", format!("its subject must be text of at most {most} bytes without control characters"))
        }
        _ => Ok(()),
    }
}

fn event_type(text: &str) -> Result<()> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._~:/?#[]@!$&'()+;=%-".contains(&c);
    if text.is_empty() || text.len() > limits::EVENT_TYPE_BYTES || !text.bytes().all(allowed) {
        let most = limits::EVENT_TYPE_BYTES;
        let rule = "use letters, digits and the other characters of a URI, except * and the comma";
        return refuse("bad_event_type", format!("{text:?} is not an event type: {rule}, {most} at most"));
    }
    Ok(())
}

fn content_type(text: &str) -> Result<()> {
    if text.contains('/') && text.len() <= limits::CONTENT_TYPE_BYTES && text.bytes().all(is_in_header) {
        return Ok(());
    }
    let shown = printable(text, limits::CONTENT_TYPE_BYTES);
    refuse("bad_content_type", format!("{shown:?} is not a content type; write one such as application/json"))
}

/// Returns whether a header's value may contain a byte: printable ASCII and tabs.
const fn is_in_header(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte < 127)
}

fn header(name: &str, value: &str) -> Result<()> {
    let in_name = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    if name.is_empty() || !name.bytes().all(in_name) {
        return refuse("bad_header", format!("{:?} is not the name of a header", printable(name, 64)));
    }
    let name = name.to_ascii_lowercase();
    if OUR_HEADERS.contains(&&*name) || OUR_HEADER_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return refuse("header_not_allowed", format!("sets the header {name}, which is reserved for the engine"));
    }
    if ENDPOINT_HEADERS.contains(&&*name) {
        return refuse("header_not_allowed", format!("sets the header {name}, which only the endpoint may set; set it there"));
    }
    if value.len() > limits::HEADER_VALUE_BYTES || !value.bytes().all(is_in_header) {
        let most = limits::HEADER_VALUE_BYTES;
        let rule = "must be printable ASCII without line breaks";
        return refuse("bad_header", format!("the value of header {name} {rule}, {most} bytes at most"));
    }
    Ok(())
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    ["/json", "+json"].iter().any(|end| essence.len() > end.len() && essence.ends_with(end))
}

fn json(data: &[u8]) -> Result<(), String> {
    let data = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    let text =
        std::str::from_utf8(data).map_err(|error| format!("it is not UTF-8: byte {} cannot be read", error.valid_up_to()))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| error.to_string())?;
    match depth(text.as_bytes()) > limits::JSON_DEPTH {
        true => Err(format!("its objects and arrays are nested deeper than {} levels", limits::JSON_DEPTH)),
        false => Ok(()),
    }
}

/// Returns the nesting depth of valid JSON.
fn depth(json: &[u8]) -> usize {
    let (mut deep, mut deepest) = (0_usize, 0);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                deep += 1;
                deepest = deepest.max(deep);
            }
            b'}' | b']' => deep = deep.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

fn attribute<'a>(name: &'a str, value: &str, seen: &mut BTreeSet<&'a str>) -> Result<(), String> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.is_empty() || name.len() > limits::ATTRIBUTE_NAME_BYTES || !name.bytes().all(allowed) {
        let most = limits::ATTRIBUTE_NAME_BYTES;
        return Err(format!("{name:?} is not an attribute name: use lower-case letters and digits, {most} at most"));
    }
    if TAKEN_ATTRIBUTES.contains(&name) {
        return Err(format!("{name:?} is a member of every event, not an attribute"));
    }
    if value.len() > limits::ATTRIBUTE_VALUE_BYTES || value.bytes().any(|c| c.is_ascii_control()) {
        let most = limits::ATTRIBUTE_VALUE_BYTES;
        return Err(format!("the value of attribute {name:?} must be text of at most {most} bytes without control characters"));
    }
    if seen.contains(name) {
        return Err(format!("attribute {name:?} is given twice"));
    }
    if seen.len() == limits::ATTRIBUTES {
        return Err(format!("an event has at most {} attributes", limits::ATTRIBUTES));
    }
    seen.insert(name);
    Ok(())
}

/// Checks a use of state. `used` are the keys that the run has used before.
///
/// # Errors
///
/// The limit that the use exceeds, in the engine's words.
pub fn check_state(used: &BTreeSet<String>, key: &str, value: Option<&[u8]>) -> Result<()> {
    let too_much = |message| refuse("state_limit", message);
    let (found, limit) = (value.map_or(0, <[u8]>::len), limits::STATE_VALUE_BYTES);
    if found > limit {
        return too_much(format!("sets a state value of {}; the limit is {}", size(found), size(limit)));
    }
    let (found, limit) = (key.len(), limits::STATE_KEY_BYTES);
    if found > limit {
        return too_much(format!("uses a state key of {}; the limit is {}", size(found), size(limit)));
    }
    if !used.contains(key) && used.len() >= limits::STATE_KEYS {
        return too_much(format!("uses more than {} state keys in one run", limits::STATE_KEYS));
    }
    Ok(())
}

/// Formats a size: `64 KiB`, `1500 B`.
fn size(bytes: usize) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes.is_multiple_of(unit) => format!("{} {name}", bytes / unit),
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// Cuts a text, and drops control characters except line breaks and tabs.
fn printable(text: &str, bytes_max: usize) -> String {
    let mut kept = String::new();
    for c in text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')) {
        if kept.len() + c.len_utf8() > bytes_max {
            break;
        }
        kept.push(c);
    }
    kept
}

/// Returns the known name that differs from `typed` in the fewest letters, if it is similar enough.
fn nearest<'a>(typed: &str, known: &'a BTreeSet<String>) -> Option<&'a String> {
    let distance = |name: &String| {
        let mut row: Vec<usize> = (0..=name.len()).collect();
        for (place, a) in typed.bytes().enumerate() {
            let mut before = std::mem::replace(&mut row[0], place + 1);
            for (column, b) in name.bytes().enumerate() {
                let change = before + usize::from(a != b);
                before = row[column + 1];
                row[column + 1] = change.min(before + 1).min(row[column] + 1);
            }
        }
        row[name.len()]
    };
    known.iter().map(|name| (distance(name), name)).filter(|(far, name)| far * 2 <= name.len()).min().map(|(_, name)| name)
}
