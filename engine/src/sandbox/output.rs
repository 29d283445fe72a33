//! Nothing that comes back from a guest is believed: names, headers, sizes and counts are checked, and one that breaks a rule makes
//! the whole run `bad-output`, saying which webhook or event it was (counted from 1).

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::{
    bindings::innesco::plugin::types::{self, Outcome},
    limits::Limits,
};
use crate::domain::{
    delivery::Payload,
    endpoint::{header_is_ours, header_is_the_endpoints},
    event::Event,
    name::{Attributes, EventType},
    run::{Emitted, Requests, RunFailure, RunOutcome, Webhook},
};

/// Bytes of a plugin's own failure code and message that are kept.
const CODE_BYTES: usize = 64;
const MESSAGE_BYTES: usize = 2 << 10;
/// Headers of one webhook.
const HEADERS_MAX: usize = 32;
/// Bytes of a content type or a header value.
const VALUE_BYTES: usize = 4 << 10;

fn bad(code: &str, message: String) -> RunFailure {
    RunFailure { outcome: RunOutcome::BadOutput, code: code.into(), message, retryable: false }
}

/// What a plugin says about itself when it cannot handle an event.
pub fn failure(failure: types::Failure) -> RunFailure {
    let code = if failure.code.is_empty() { "failed".to_owned() } else { clean(&failure.code, CODE_BYTES) };
    RunFailure {
        outcome: RunOutcome::Failed,
        code,
        message: clean(&failure.message, MESSAGE_BYTES),
        retryable: failure.retryable,
    }
}

/// Text without control characters, cut to a length.
pub fn clean(text: &str, bytes: usize) -> String {
    let mut kept = String::with_capacity(text.len().min(bytes));
    for c in text.chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > bytes {
            break;
        }
        kept.push(c);
    }
    kept
}

/// Checks an outcome and makes it ours.
pub fn check(outcome: Outcome, event: &Event, limits: &Limits, bound: bool) -> Result<Requests, RunFailure> {
    let count = |what: &str, count: usize, limit: usize| {
        if count <= limit {
            return Ok(());
        }
        Err(bad(&format!("too_many_{what}"), format!("it returned {count} {what}, more than the limit of {limit}")))
    };
    count("webhooks", outcome.webhooks.len(), limits.webhooks)?;
    count("events", outcome.events.len(), limits.events)?;
    let of_webhooks: usize = outcome.webhooks.iter().map(|webhook| webhook.body.len()).sum();
    let of_events: usize = outcome.events.iter().map(|event| event.data.len()).sum();
    if of_webhooks + of_events > limits.output_bytes {
        let message = format!("it returned {} bytes, more than the limit of {}", of_webhooks + of_events, limits.output_bytes);
        return Err(bad("output_too_large", message));
    }
    let webhooks = numbered("webhook", outcome.webhooks, |one| webhook(one, bound))?;
    let emitted = numbered("event", outcome.events, |one| emitted(one, event))?;
    Ok(Requests { webhooks, emitted })
}

/// Converts each item; the one that cannot be is named.
fn numbered<T, U>(what: &str, items: Vec<T>, convert: impl Fn(T) -> Result<U, String>) -> Result<Vec<U>, RunFailure> {
    let convert =
        |(place, item)| convert(item).map_err(|wrong| bad(&format!("bad_{what}"), format!("{what} {}: {wrong}", place + 1)));
    items.into_iter().enumerate().map(convert).collect()
}

fn webhook(webhook: types::Webhook, bound: bool) -> Result<Webhook, String> {
    match (&webhook.to, bound) {
        (None, false) => return Err("it names no endpoint to go to".into()),
        (Some(to), true) => {
            return Err(format!(
                "it goes to {to:?}, but a plugin that belongs to an endpoint can send only there; leave `to` out"
            ));
        }
        _ => {}
    }
    let event_type = webhook.type_.map(|text| EventType::parse(&text)).transpose().map_err(|bad| bad.to_string())?;
    content_type(&webhook.content_type)?;
    if webhook.headers.len() > HEADERS_MAX {
        return Err(format!("it has {} headers, more than the limit of {HEADERS_MAX}", webhook.headers.len()));
    }
    let headers = webhook.headers.into_iter().map(|(name, value)| header(&name, value)).collect::<Result<_, _>>()?;
    let payload = Payload { event_type, content_type: webhook.content_type, headers, body: Bytes::from(webhook.body) };
    Ok(Webhook { to: webhook.to, payload })
}

fn header(name: &str, value: String) -> Result<(String, String), String> {
    let name = name.to_ascii_lowercase();
    if HeaderName::try_from(&name).is_err() {
        return Err(format!("{:?} is not a header name", clean(&name, CODE_BYTES)));
    }
    if header_is_ours(&name) || header_is_the_endpoints(&name) {
        return Err(format!("the header {name:?} is not a plugin's to set; set it on the endpoint if it may be set at all"));
    }
    if value.len() > VALUE_BYTES || HeaderValue::try_from(&value).is_err() {
        return Err(format!("the value of header {name:?} must be at most {VALUE_BYTES} bytes of visible characters"));
    }
    Ok((name, value))
}

fn content_type(text: &str) -> Result<(), String> {
    let sendable = !text.is_empty() && text.len() <= 256 && text.bytes().all(|c| (32..127).contains(&c));
    if sendable { Ok(()) } else { Err("its content type must be 1 to 256 plain characters".into()) }
}

fn emitted(emitted: types::Emitted, cause: &Event) -> Result<Emitted, String> {
    let event_type = EventType::parse(&emitted.type_).map_err(|bad| bad.to_string())?;
    if event_type.starts_with("innesco.") {
        return Err(format!("{event_type:?} is a type of the engine's own events; choose another prefix"));
    }
    content_type(&emitted.content_type)?;
    if emitted.subject.as_ref().is_some_and(|subject| subject.len() > 512 || subject.chars().any(char::is_control)) {
        return Err("its subject must be at most 512 bytes without control characters".into());
    }
    // What the cause carries goes on, unless the plugin says otherwise: lists and initiators stay known along a chain.
    let mut attributes = Attributes::default();
    for (name, value) in emitted.attributes {
        attributes.push(&name, value).map_err(|bad| bad.to_string())?;
    }
    for (name, value) in &cause.new.attributes.0 {
        if attributes.get(name).is_none() {
            attributes.push(name, value.clone()).map_err(|bad| bad.to_string())?;
        }
    }
    Ok(Emitted {
        event_type,
        subject: emitted.subject,
        content_type: emitted.content_type,
        data: Bytes::from(emitted.data),
        attributes,
    })
}
