//! Reads requests into events: CloudEvents 1.0 in structured, batched and binary mode, and the same JSON with `type` as the only
//! required member. The bytes of `data` are cut out of the body unchanged. They are never parsed and written again.

mod schema;

use std::{borrow::Cow, collections::HashSet, fmt, sync::Arc};

use axum::http::{HeaderMap, header};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use percent_encoding::percent_decode;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

pub use self::schema::{AnyData, BatchInput, Depth, EventInput, EventsInput, HeaderText, SpecVersion};
use super::{
    body::{self, whole},
    error::Problem,
};
use crate::domain::{
    content::{Content, JSON, OCTETS, essence, is_json, without_mark},
    event::{DEPTH_MAX, NewEvent},
    name::{Attributes, EventType},
    parts::Parts,
    time,
    trace::{self, TRACEPARENT, TRACESTATE, TraceParent},
};

/// Maximum number of events in one request.
pub const BATCH_MAX: usize = 1_000;
/// Maximum number of members of one event: context attributes and extension attributes. A `null` member counts too.
const MEMBERS_MAX: usize = 9 + Attributes::COUNT_MAX;
/// Maximum length of `id`, `source` and `subject`, in bytes.
const TEXT_LEN_MAX: usize = 512;
/// Maximum length of a content type, in bytes.
const CONTENT_TYPE_LEN_MAX: usize = 256;
/// Attributes that must be strings (CloudEvents). Otherwise `7` and `"7"` would be two ids that look alike.
const CORE: [&str; 7] = ["id", "source", "type", "subject", "time", "specversion", "datacontenttype"];
/// The default source of an event.
pub const DEFAULT_SOURCE: &str = "api";

/// The events of a request.
pub struct Intake {
    pub events: Vec<NewEvent>,
    /// Whether the request has one event, not a list. The answer has the same shape.
    pub single: bool,
}

/// Reads a request. Either all of it is valid, or the problem names the invalid part.
pub fn read(headers: &HeaderMap, body: &Bytes) -> Result<Intake, Problem> {
    let depth = depth(headers)?;
    if let Some(coding) = body::coding(headers) {
        return Err(Problem::unsupported_media_type(format!(
            "bodies with content-encoding {coding:?} are not supported; send the event uncompressed"
        )));
    }
    let content_type = header_text(headers, header::CONTENT_TYPE.as_str())?.map(str::trim).filter(|text| !text.is_empty());
    let essence = essence(content_type.unwrap_or(JSON));
    let key = header_text(headers, "idempotency-key")?;

    // The content type decides the mode. Structured events may carry the headers of binary mode as well (HTTP binding, 3 and
    // 3.2.3).
    let is_binary = headers.contains_key("ce-type") || headers.contains_key("ce-specversion");
    let mut intake = if is_binary && !essence.starts_with("application/cloudevents") {
        Intake { events: vec![binary(headers, content_type, body)?], single: true }
    } else {
        match essence.as_str() {
            JSON | "application/cloudevents+json" => json(body)?,
            // A batch may be empty (HTTP binding, 3.3.2).
            "application/cloudevents-batch+json" if body.trim_ascii() == b"[]" => Intake { events: Vec::new(), single: false },
            "application/cloudevents-batch+json" => json(body)?,
            other => {
                return Err(Problem::unsupported_media_type(format!(
                    "{other:?} is not supported: send application/json, application/cloudevents+json or \
                     application/cloudevents-batch+json, or any content type together with the headers ce-type, ce-source and ce-id"
                )));
            }
        }
    };
    if let Some(key) = key {
        let [event] = intake.events.as_mut_slice() else {
            return Err(Problem::bad_request("Idempotency-Key is for one event; in a batch give each event an id"));
        };
        event.id.get_or_insert(Arc::from(key));
        checked_text("Idempotency-Key", key).map_err(Problem::bad_request)?;
    }
    let trace = trace(headers);
    for event in &mut intake.events {
        event.depth = depth;
        if let Some((parent, state)) = &trace {
            trace::adopt(Arc::make_mut(&mut event.attributes), parent, state.as_deref());
        }
    }
    Ok(intake)
}

/// Reads one event from the JSON that `POST /v1/events` takes, for commands that work without an engine.
///
/// # Errors
/// If the event is not valid. The error is a sentence that says what is wrong.
pub fn one_event(body: &Bytes) -> Result<NewEvent, String> {
    let sentence = |problem: Problem| problem.detail().to_owned();
    let mut events = json(body).map_err(sentence)?.events;
    match (events.pop(), events.len()) {
        (Some(event), 0) => Ok(event),
        (_, more) => Err(format!("it has {} events; give one", more + 1)),
    }
}

/// Returns the trace of a request (W3C Trace Context). A malformed trace is ignored.
pub fn trace(headers: &HeaderMap) -> Option<(String, Option<String>)> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let (parent, None) = (parents.next()?.to_str().ok()?, parents.next()) else { return None };
    let parent = TraceParent::parse(parent)?;
    // Several `tracestate` headers count as one list.
    let states: Vec<_> = headers.get_all(TRACESTATE).iter().map(|value| value.to_str().unwrap_or("=")).collect();
    Some((parent.to_string(), trace::trace_state(&states.join(","))))
}

/// Returns the number of earlier events in the chain. The engine's webhooks carry the count, so that a loop is detected.
pub fn depth(headers: &HeaderMap) -> Result<u8, Problem> {
    let Some(text) = header_text(headers, "innesco-depth")? else { return Ok(0) };
    let depth: u32 =
        text.parse().map_err(|_| Problem::bad_request(format!("the header innesco-depth is {text:?}, which is not a number")))?;
    match u8::try_from(depth) {
        Ok(depth) if depth <= DEPTH_MAX => Ok(depth),
        _ => Err(Problem::loop_detected(format!(
            "this event ends a chain of {depth} events that caused each other, more than the limit of {DEPTH_MAX}; \
             two systems probably react to each other"
        ))),
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| Problem::bad_request(format!("the header {name} is not plain text")))
}

fn json(body: &Bytes) -> Result<Intake, Problem> {
    let body = &without_mark(body.clone());
    let text = std::str::from_utf8(body)
        .map_err(|error| Problem::bad_json(format!("the body is not UTF-8: byte {} cannot be read", error.valid_up_to())))?;
    let mut parts = Parts::default();
    if !text.trim_start().starts_with('[') {
        let members: Members<'_> = parse(text)?;
        let event = event(members, body, &mut parts).map_err(|bad| bad.problem(None))?;
        return Ok(Intake { events: vec![event], single: true });
    }
    let items = match parse(text)? {
        Items::All(items) => items,
        Items::TooMany => {
            return Err(Problem::batch_too_large(format!(
                "the batch has more than {BATCH_MAX} events; send several smaller batches"
            )));
        }
    };
    if items.is_empty() {
        return Err(Problem::bad_event("the batch is empty; send at least one event"));
    }
    let mut events = Vec::with_capacity(items.len());
    for (place, item) in items.into_iter().enumerate() {
        let members: Members<'_> = serde_json::from_str(item.get())
            .map_err(|_| Bad { member: None, detail: "must be an object".into() }.problem(Some(place)))?;
        events.push(event(members, body, &mut parts).map_err(|bad| bad.problem(Some(place)))?);
    }
    Ok(Intake { events, single: false })
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        if error.is_data() {
            Problem::bad_event(format!("{error}"))
        } else if error.is_eof() {
            Problem::bad_json(format!("the body ends too early, at {place}"))
        } else {
            let message = error.to_string();
            let what = message.split(" at line ").next().unwrap_or_default();
            Problem::bad_json(format!("{what} at {place}"))
        }
    })
}

/// The events of a batch, unparsed.
enum Items<'a> {
    All(Vec<&'a RawValue>),
    /// More than [`BATCH_MAX`] events; those beyond it were skipped.
    TooMany,
}

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Items<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of events")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = all.next_element()? {
                    if items.len() == BATCH_MAX {
                        while all.next_element::<IgnoredAny>()?.is_some() {}
                        return Ok(Items::TooMany);
                    }
                    items.push(item);
                }
                Ok(Items::All(items))
            }
        }
        deserializer.deserialize_seq(Collect)
    }
}

/// The members of an object, in order, with unparsed values.
struct Members<'a> {
    all: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// More than [`MEMBERS_MAX`] members; those beyond it were skipped.
    too_many: bool,
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event as an object, such as {\"type\": \"order.created\", \"data\": {}}")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members { all: Vec::with_capacity(8), too_many: false };
                while let Some((Name(name), value)) = map.next_entry()? {
                    if members.all.len() == MEMBERS_MAX {
                        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                        members.too_many = true;
                        break;
                    }
                    members.all.push((name, value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A member's name, borrowed unless it contains escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The error in one event.
struct Bad {
    member: Option<String>,
    detail: String,
}

impl Bad {
    fn of(member: &str, detail: impl fmt::Display) -> Self {
        Self { member: Some(member.to_owned()), detail: detail.to_string() }
    }

    /// Creates the problem, with the item's place in the batch.
    fn problem(self, place: Option<usize>) -> Problem {
        let item = place.map(|place| format!("items[{place}]"));
        let subject = match (&item, &self.member) {
            (Some(item), Some(member)) => format!("{item}.{member}: "),
            (Some(item), None) => format!("{item} "),
            (None, Some(member)) => format!("{member}: "),
            (None, None) => String::new(),
        };
        let mut pointer = place.map(|place| format!("/{place}")).unwrap_or_default();
        if let Some(member) = &self.member {
            pointer.push('/');
            pointer.push_str(&member.replace('~', "~0").replace('/', "~1"));
        }
        Problem::bad_event(format!("{subject}{}", self.detail)).at(pointer)
    }
}

fn event(members: Members<'_>, body: &Bytes, parts: &mut Parts) -> Result<NewEvent, Bad> {
    parts.take(1 + members.all.len()).map_err(|error| Bad { member: None, detail: format!("cannot be read: {error}") })?;
    if members.too_many {
        return Err(Bad { member: None, detail: format!("has more than {MEMBERS_MAX} members, the maximum of an event") });
    }
    let mut draft = Draft::default();
    let mut data: Option<&RawValue> = None;
    let mut base64: Option<String> = None;
    let mut seen: HashSet<&str> = HashSet::with_capacity(members.all.len());
    for (name, value) in &members.all {
        if !seen.insert(name) {
            return Err(Bad::of(name, "is given twice"));
        }
        match &**name {
            "data" => data = Some(value),
            "data_base64" => base64 = text(name, value)?,
            name if CORE.contains(&name) => draft.set(name, text(name, value)?)?,
            name => draft.set(name, scalar(name, value)?)?,
        }
    }
    match (data, base64) {
        (Some(_), Some(_)) => return Err(Bad::of("data_base64", "cannot be given together with data")),
        (Some(raw), None) => draft.set_data(raw, body)?,
        (None, Some(text)) => {
            let bytes = BASE64_STANDARD.decode(text).map_err(|_| Bad::of("data_base64", "is not base64"))?;
            draft.content_type.get_or_insert(OCTETS.into());
            draft.set_content("data_base64", Bytes::from(bytes))?;
        }
        (None, None) => {}
    }
    draft.finish()
}

fn text(name: &str, value: &RawValue) -> Result<Option<String>, Bad> {
    match serde_json::from_str::<Option<String>>(value.get()) {
        Ok(text) => Ok(text),
        Err(_) => Err(Bad::of(name, "must be a string")),
    }
}

/// Returns the value of an attribute as text. CloudEvents attributes are strings, booleans and integers; `null` counts as absent.
fn scalar(name: &str, value: &RawValue) -> Result<Option<String>, Bad> {
    let raw = value.get();
    match raw.as_bytes().first() {
        Some(b'"') => text(name, value),
        Some(b'n') => Ok(None),
        Some(b't' | b'f') => Ok(Some(raw.to_owned())),
        Some(b'-' | b'0'..=b'9') if raw.parse::<i64>().is_ok() => Ok(Some(raw.to_owned())),
        Some(b'-' | b'0'..=b'9') if let Some(whole) = raw.parse().ok().and_then(whole) => Ok(Some(whole.to_string())),
        _ => Err(Bad::of(name, "must be a string, a boolean or a whole number; put structured values into data")),
    }
}

/// A partly read event.
#[derive(Default)]
struct Draft {
    id: Option<Arc<str>>,
    source: Option<Arc<str>>,
    event_type: Option<EventType>,
    subject: Option<Arc<str>>,
    time: Option<Arc<str>>,
    content_type: Option<String>,
    attributes: Attributes,
    content: Option<Content>,
}

impl Draft {
    /// Sets one context attribute.
    fn set(&mut self, name: &str, value: Option<String>) -> Result<(), Bad> {
        let Some(value) = value else { return Ok(()) };
        let checked = |value: &str| checked_text(name, value).map(|()| Arc::from(value)).map_err(|detail| Bad::of(name, detail));
        match name {
            "id" => self.id = Some(checked(&value)?),
            "source" => self.source = Some(checked(&value)?),
            "subject" => self.subject = Some(checked(&value)?),
            "type" => {
                let event_type = EventType::parse(&value).map_err(|bad| Bad::of(name, bad))?;
                if event_type.is_ours() {
                    return Err(Bad::of(
                        name,
                        "types that begin with innesco. are reserved for the engine; choose another prefix",
                    ));
                }
                self.event_type = Some(event_type);
            }
            "time" => {
                let time = time::rfc3339(&value).ok_or_else(|| {
                    Bad::of(name, format!("{value:?} is not a time; write RFC 3339, such as 2026-01-31T09:30:00Z"))
                })?;
                self.time = Some(time.into());
            }
            "specversion" if value == "1.0" => {}
            "specversion" => return Err(Bad::of(name, format!("{value:?} is not supported; send CloudEvents 1.0"))),
            "datacontenttype" => {
                let sendable =
                    !value.is_empty() && value.len() <= CONTENT_TYPE_LEN_MAX && value.bytes().all(|c| (32..127).contains(&c));
                if !sendable {
                    return Err(Bad::of(name, "must be a content type of at most 256 plain characters"));
                }
                self.content_type = Some(value);
            }
            name => self.attributes.push(name, value).map_err(|bad| Bad::of(name, bad))?,
        }
        Ok(())
    }

    /// Sets `data` unchanged. If the content type is not JSON, a string is the data itself (CloudEvents 1.0, JSON format, 3.1).
    fn set_data(&mut self, raw: &RawValue, body: &Bytes) -> Result<(), Bad> {
        let json = self.content_type.as_deref().is_none_or(is_json);
        let data =
            if json { body.slice_ref(raw.get().as_bytes()) } else { text("data", raw)?.map(Bytes::from).unwrap_or_default() };
        self.set_content("data", data)
    }

    /// Sets the data from this member. All ways to send data call this function.
    fn set_content(&mut self, member: &str, data: Bytes) -> Result<(), Bad> {
        let content_type = self.content_type.take().unwrap_or_else(|| JSON.to_owned());
        let wrong = |error| Bad::of(member, format!("is not valid {content_type}: {error}"));
        self.content = Some(Content::new(content_type.as_str(), data).map_err(wrong)?);
        Ok(())
    }

    fn finish(self) -> Result<NewEvent, Bad> {
        let event_type =
            self.event_type.ok_or_else(|| Bad::of("type", "is missing; give an event type, such as order.created"))?;
        let content = match (self.content, self.content_type) {
            (Some(content), _) => content,
            (None, Some(content_type)) => Content::stored(content_type, Bytes::new()),
            (None, None) => Content::none(),
        };
        Ok(NewEvent {
            id: self.id,
            source: self.source.unwrap_or_else(|| DEFAULT_SOURCE.into()),
            event_type,
            subject: self.subject,
            time: self.time,
            content,
            attributes: Arc::new(self.attributes),
            depth: 0,
            cause: None,
            request: None,
        })
    }
}

fn checked_text(name: &str, value: &str) -> Result<(), String> {
    if value.is_empty() || value.len() > TEXT_LEN_MAX || value.chars().any(char::is_control) {
        return Err(format!("{name} must be 1 to {TEXT_LEN_MAX} bytes of text without control characters"));
    }
    Ok(())
}

/// Reads CloudEvents 1.0, HTTP protocol binding, binary mode: attributes in `ce-` headers, data in the body. Without a content type
/// the data is stored as bytes, because nothing says that it is JSON.
fn binary(headers: &HeaderMap, content_type: Option<&str>, body: &Bytes) -> Result<NewEvent, Problem> {
    let mut draft = Draft::default();
    let mut parts = Parts::default();
    for name in headers.keys() {
        let Some(attribute) = name.as_str().strip_prefix("ce-") else { continue };
        let wrong = |detail: String| Problem::bad_event(format!("the header {name}: {detail}")).at(format!("/{attribute}"));
        parts.take(1).map_err(|error| wrong(error.to_string()))?;
        let mut values = headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Err(wrong("is given twice".to_owned())) };
        if attribute == "datacontenttype" {
            return Err(wrong("is not allowed; use the header content-type".to_owned()));
        }
        let value = header_value(value.as_bytes()).map_err(|detail| wrong(detail.to_owned()))?;
        draft.set(attribute, Some(value)).map_err(|bad| wrong(bad.detail))?;
    }
    draft
        .set("datacontenttype", Some(content_type.unwrap_or(OCTETS).to_owned()))
        .map_err(|bad| Problem::bad_event(format!("the header content-type {}", bad.detail)))?;
    draft.set_content("the body", body.clone()).map_err(|bad| Problem::bad_json(format!("the body {}", bad.detail)))?;
    draft.finish().map_err(|bad| Problem::bad_event(format!("the header ce-type {}", bad.detail)).at("/type"))
}

/// Returns the text of a `ce-` header: without the quotes of older senders, then percent-decoded once (HTTP binding, 3.1.3.2).
/// Bytes beyond ASCII, which some senders do not encode, are read as UTF-8.
fn header_value(value: &[u8]) -> Result<String, &'static str> {
    let unquoted: Cow<'_, [u8]> = match value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
        Some(quoted) => {
            let mut text = Vec::with_capacity(quoted.len());
            let mut bytes = quoted.iter();
            while let Some(byte) = bytes.next() {
                text.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
            }
            text.into()
        }
        None => value.into(),
    };
    let decoded =
        percent_decode(&unquoted).decode_utf8().map_err(|_| "is not UTF-8, either as it was sent or after percent-decoding")?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, response::IntoResponse as _};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn headers_of(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn good(pairs: &[(&'static str, &str)], body: &str) -> Vec<NewEvent> {
        match read(&headers_of(pairs), &Bytes::copy_from_slice(body.as_bytes())) {
            Ok(intake) => intake.events,
            Err(problem) => panic!("{body}: {problem:?}"),
        }
    }

    async fn bad(pairs: &[(&'static str, &str)], body: &str) -> Value {
        let problem = read(&headers_of(pairs), &Bytes::copy_from_slice(body.as_bytes())).err().expect(body);
        let response = problem.into_response();
        serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.unwrap()).unwrap()
    }

    #[test]
    fn data_is_kept_byte_for_byte() {
        let [event] = &good(&[], r#" {"type":"order.created","data":{"z":1.50,  "a":[ ]},"channel":"news","n":7} "#)[..] else {
            panic!()
        };
        assert_eq!(&event.content.bytes()[..], br#"{"z":1.50,  "a":[ ]}"#);
        assert_eq!(event.attributes.0, [("channel".into(), "news".into()), ("n".into(), "7".into())]);
        assert_eq!((&*event.source, event.id.as_deref()), ("api", None));
        let [event] = &good(&[], r#"{"type":"a","n":5.0,"m":-1e3}"#)[..] else { panic!() };
        assert_eq!(event.attributes.0, [("n".into(), "5".into()), ("m".into(), "-1000".into())]);
    }

    #[test]
    fn reads_the_three_modes_of_cloudevents() {
        let structured = &good(
            &[("content-type", "application/cloudevents+json; charset=utf-8")],
            r#"{"specversion":"1.0","type":"a","source":"s","id":"1","datacontenttype":"text/plain","data":"hi"}"#,
        )[0];
        assert_eq!((&structured.content.bytes()[..], &**structured.content.content_type()), (&b"hi"[..], "text/plain"));
        let base64 = &good(&[], r#"{"type":"a","data_base64":"/wA="}"#)[0];
        assert_eq!(
            (&base64.content.bytes()[..], &**base64.content.content_type()),
            (&b"\xff\x00"[..], "application/octet-stream")
        );
        let batch = good(&[("content-type", "application/cloudevents-batch+json")], r#"[{"type":"a"},{"type":"b","id":"2"}]"#);
        assert_eq!(batch.len(), 2);
        let binary = &good(
            &[("ce-type", "a"), ("ce-source", "/s"), ("ce-id", "a%20b"), ("ce-channel", "x"), ("content-type", "image/png")],
            "raw",
        )[0];
        assert_eq!(
            (binary.id.as_deref(), &**binary.content.content_type(), &binary.content.bytes()[..]),
            (Some("a b"), "image/png", &b"raw"[..])
        );
    }

    /// A request is read to its end, but nothing is allocated for members and events beyond the limit.
    #[test]
    fn items_beyond_the_limits_allocate_nothing() {
        let nulls = |count: usize| (0..count).map(|number| format!(",\"m{number}\":null")).collect::<String>();
        for count in [MEMBERS_MAX, 10_000] {
            let text = format!("{{\"type\":\"a.b\"{}}}", nulls(count));
            let members: Members<'_> = serde_json::from_str(&text).unwrap();
            assert_eq!((members.all.len(), members.too_many), (MEMBERS_MAX, true));
            let mut parts = Parts::default();
            let bad = event(members, &Bytes::from(text.clone()), &mut parts).expect_err("too many members");
            assert_eq!(bad.detail, "has more than 41 members, the maximum of an event");
            assert_eq!(parts.made(), 1 + MEMBERS_MAX);
        }
        let text = format!("{{\"type\":\"a.b\"{}}}", nulls(MEMBERS_MAX - 1));
        let members: Members<'_> = serde_json::from_str(&text).unwrap();
        assert!(event(members, &Bytes::from(text.clone()), &mut Parts::default()).is_ok());
        for count in [BATCH_MAX, BATCH_MAX + 1, 100_000] {
            let text = format!("[{}0]", "0,".repeat(count - 1));
            match serde_json::from_str(&text).unwrap() {
                Items::All(items) => assert_eq!((count, items.len()), (BATCH_MAX, BATCH_MAX)),
                Items::TooMany => assert!(count > BATCH_MAX),
            }
        }
        assert!(
            serde_json::from_str::<Items<'_>>(&format!("[{}", "0,".repeat(2_000))).is_err(),
            "skipped items must be JSON too"
        );
    }

    /// Every way to send data checks that data declared as JSON is JSON.
    #[tokio::test]
    async fn every_way_to_send_data_refuses_invalid_json() {
        for (data, good) in [
            (r#"{"a":1}"#, true),
            ("\u{feff}{}", true),
            (r#"1,"type":"forged""#, false),
            ("{", false),
            (" ", false),
            ("\"", false),
        ] {
            let encoded = BASE64_STANDARD.encode(data);
            let base64 = format!(r#"{{"type":"a","datacontenttype":"application/json","data_base64":"{encoded}"}}"#);
            let batch = format!("[{base64}]");
            let binary = [("ce-type", "a"), ("content-type", "application/json")];
            for (headers, body) in [(&[][..], base64.as_str()), (&[], &batch), (&binary, data)] {
                let read = read(&headers_of(headers), &Bytes::copy_from_slice(body.as_bytes()));
                assert_eq!(read.is_ok(), good, "{body}");
                if let Ok(read) = read {
                    assert_eq!(read.events[0].content.json().unwrap().as_str(), data.trim_start_matches('\u{feff}'));
                }
            }
        }
    }

    /// The cases are the forms of binary mode that the HTTP binding of CloudEvents allows.
    #[tokio::test]
    async fn reads_headers_of_binary_mode_as_the_binding_requires() {
        let event = |headers: &[(&'static str, &str)]| {
            let all: Vec<_> = [("ce-specversion", "1.0"), ("ce-type", "a")].iter().chain(headers).copied().collect();
            read(&headers_of(&all), &Bytes::from_static(b"plain text")).map(|mut read| read.events.remove(0))
        };
        for headers in [&[][..], &[("content-type", "")], &[("content-type", "  ")]] {
            let content = event(headers).unwrap().content;
            assert_eq!((&**content.content_type(), &content.bytes()[..]), (OCTETS, &b"plain text"[..]), "{headers:?}");
        }
        for (value, subject) in [
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("a%20b", "a b"),
            ("%e2%82%ac", "€"),
            ("\"quoted \\\"text\\\"\"", "quoted \"text\""),
            ("\"%E2%82%AC\"", "€"),
            ("100%", "100%"),
            ("%zz%2", "%zz%2"),
            ("%2525", "%25"),
            ("a+b", "a+b"),
        ] {
            assert_eq!(event(&[("ce-subject", value)]).unwrap().subject.as_deref(), Some(subject), "{value}");
        }
        let mut raw = headers_of(&[("ce-type", "a")]);
        raw.insert("ce-subject", http::HeaderValue::from_bytes("é".as_bytes()).unwrap());
        assert_eq!(read(&raw, &Bytes::new()).unwrap().events[0].subject.as_deref(), Some("é"));
        for (name, value, detail) in [
            ("ce-subject", "%C0%A0", "is not UTF-8"),
            ("ce-subject", "%0A", "without control characters"),
            ("ce-datacontenttype", "text/plain", "use the header content-type"),
            ("ce-type", "b", "is given twice"),
            ("ce-data", "x", "is a member of every event"),
            ("ce-Some-Name", "x", "is not an attribute name"),
        ] {
            let problem = event(&[(name.to_ascii_lowercase().leak(), value)]).expect_err(name);
            assert!(problem.detail().contains(detail), "{name}: {}", problem.detail());
        }
    }

    /// The cases are requests that fit two modes. The content type decides which mode applies.
    #[test]
    fn structured_events_may_carry_the_headers_of_binary_mode() {
        let structured = [("content-type", "application/cloudevents+json"), ("ce-type", "outer"), ("ce-id", "1")];
        assert_eq!(&*good(&structured, r#"{"specversion":"1.0","type":"inner","id":"2","source":"/s"}"#)[0].event_type, "inner");
        let batch = [("content-type", "application/cloudevents-batch+json; charset=utf-8"), ("ce-specversion", "1.0")];
        assert_eq!(good(&batch, r#"[{"type":"a"},{"type":"b"}]"#).len(), 2);
        assert_eq!(good(&batch, " []").len(), 0, "a batch may be empty");
        assert_eq!(
            &*good(&[("content-type", "application/json"), ("ce-type", "outer")], r#"{"type":"inner"}"#)[0].event_type,
            "outer"
        );
    }

    #[test]
    fn normalizes_values_for_every_receiver() {
        let time = |text: &str| good(&[], &format!(r#"{{"type":"a","time":"{text}"}}"#))[0].time.clone();
        assert_eq!(time("2026-01-31t09:30:00.5z").as_deref(), Some("2026-01-31T09:30:00.5Z"));
        assert_eq!(time("2026-01-31 09:30:60Z").as_deref(), Some("2026-01-31T09:30:59Z"));
        for event_type in ["https://shop.example/order#created", "order:created", "com.example/order+created"] {
            assert_eq!(&*good(&[], &format!(r#"{{"type":"{event_type}"}}"#))[0].event_type, event_type);
        }
    }

    #[test]
    fn ignores_a_byte_order_mark_before_the_body() {
        assert_eq!(good(&[], "\u{feff}{\"type\":\"a\",\"data\":{\"x\":1}}")[0].content.json().unwrap().as_str(), r#"{"x":1}"#);
        assert_eq!(good(&[], "\u{feff}[{\"type\":\"a\"}]").len(), 1);
    }

    #[test]
    fn an_idempotency_key_replaces_a_missing_id() {
        let key = [("idempotency-key", "k1")];
        assert_eq!(good(&key, r#"{"type":"a"}"#)[0].id.as_deref(), Some("k1"));
        assert_eq!(good(&key, r#"{"type":"a","id":"own"}"#)[0].id.as_deref(), Some("own"));
    }

    #[tokio::test]
    async fn errors_point_to_the_wrong_member() {
        let json = [("content-type", "application/json")];
        for (body, code, detail, pointer) in [
            ("", "bad_json", "the body ends too early, at line 1, column 0", Value::Null),
            ("{\"type\": \"a\",}", "bad_json", "trailing comma at line 1, column 14", Value::Null),
            ("7", "bad_event", "an event as an object", Value::Null),
            ("{}", "bad_event", "type: is missing; give an event type, such as order.created", json!("/type")),
            (
                r#"[{"type":"a"},{"type":"order created"}]"#,
                "bad_event",
                "items[1].type: \"order created\" is not an event type",
                json!("/1/type"),
            ),
            (r#"[{"type":"a"}, 7]"#, "bad_event", "items[1] must be an object", json!("/1")),
            ("[]", "bad_event", "the batch is empty", Value::Null),
            (r#"{"type":"a","Channel":"x"}"#, "bad_event", "\"Channel\" is not an attribute name", json!("/Channel")),
            (r#"{"type":"a","list":{}}"#, "bad_event", "list: must be a string", json!("/list")),
            (r#"{"type":"a","time":"noon"}"#, "bad_event", "time: \"noon\" is not a time", json!("/time")),
            (r#"{"type":"a","id":""}"#, "bad_event", "id: id must be 1 to 512 bytes", json!("/id")),
            (r#"{"type":"a","id":7}"#, "bad_event", "id: must be a string", json!("/id")),
            (r#"{"type":"a","type":"b"}"#, "bad_event", "type: is given twice", json!("/type")),
            (r#"{"type":"a","data_base64":"!"}"#, "bad_event", "data_base64: is not base64", json!("/data_base64")),
            (
                r#"{"type":"a","data_base64":"MSwidHlwZSI6ImZvcmdlZCI=","datacontenttype":"application/json"}"#,
                "bad_event",
                "data_base64: is not valid application/json",
                json!("/data_base64"),
            ),
            (r#"{"type":"a","specversion":"0.3"}"#, "bad_event", "specversion: \"0.3\"", json!("/specversion")),
        ] {
            let problem = bad(&json, body).await;
            assert_eq!(problem["code"], code, "{body}: {problem}");
            assert!(problem["detail"].as_str().unwrap().contains(detail), "{body}: {problem}");
            assert_eq!(problem["pointer"], pointer, "{body}: {problem}");
        }
        assert_eq!(bad(&[("content-type", "text/xml")], "<a/>").await["code"], "unsupported_media_type");
        let packed = bad(&[("content-encoding", "gzip")], r#"{"type":"a"}"#).await;
        assert_eq!(packed["code"], "unsupported_media_type", "{packed}");
        assert_eq!(good(&[("content-encoding", "identity")], r#"{"type":"a"}"#).len(), 1);
        assert_eq!(bad(&[("innesco-depth", "9")], r#"{"type":"a"}"#).await["code"], "loop_detected");
        assert_eq!(bad(&[("idempotency-key", "k")], r#"[{"type":"a"},{"type":"b"}]"#).await["code"], "bad_request");
        let many = format!("[{}]", vec![r#"{"type":"a"}"#; BATCH_MAX + 1].join(","));
        assert_eq!(bad(&json, &many).await["code"], "batch_too_large");
    }

    proptest! {
        #[test]
        fn no_request_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&HeaderMap::new(), &Bytes::from(body));
        }

        #[test]
        fn no_request_similar_to_an_event_panics(body in "[\\[{]?(\"(type|data|id|é|\\\\u00e9)\": ?(\"a.b\"|1|null|\\{\\}|\\[1\\]),? ?){0,4}[}\\]]?") {
            let _ = read(&HeaderMap::new(), &Bytes::from(body));
        }
    }
}
