//! The body of a webhook that is sent to a subscriber without a plugin. The envelope is the structure around the event's data,
//! and the format is the encoding of that structure. JSON data is embedded in JSON byte for byte. XML and forms are limited in
//! size and depth, regardless of the data.

mod form;
mod xml;

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use indexmap::IndexMap;
use serde_json::value::RawValue;

use super::{content::Json, event::Event, id::Tag};

/// The structure around the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Envelope {
    /// `{"type", "timestamp", "data"}`, as Standard Webhooks 1.0 suggests ("Payload structure").
    #[default]
    Standard,
    /// CloudEvents 1.0. With JSON, this is its structured mode.
    CloudEvents,
    /// No envelope: the data alone, under its own content type.
    Data,
}

impl Envelope {
    pub const ALL: [Self; 3] = [Self::Standard, Self::CloudEvents, Self::Data];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::CloudEvents => "cloudevents",
            Self::Data => "data",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|envelope| envelope.as_str() == text)
    }
}

/// The encoding of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Xml,
    Form,
}

impl Format {
    pub const ALL: [Self; 3] = [Self::Json, Self::Xml, Self::Form];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Xml => "xml",
            Self::Form => "form",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == text)
    }
}

/// A complete body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered<'a> {
    pub content_type: Cow<'a, str>,
    pub body: Bytes,
}

/// A body that became too long. XML and forms repeat names, so a small event can become a huge body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "as {} the event is longer than {} MiB, the limit; choose another format, or let a plugin shorten it",
    .0.as_str(),
    BYTES_MAX >> 20
)]
pub struct TooLong(pub Format);

/// Maximum size of a body in XML or as a form, in bytes. Twice the default limit of an event: enough for all events except those
/// crafted to grow.
pub const BYTES_MAX: usize = 16 << 20;

/// Maximum depth at which objects and lists become XML or form parts; deeper values are written as JSON text.
pub const DEPTH_MAX: usize = 32;

/// Writes the event for a receiver. An event without a sender's id gets the engine's id, with this `tag`.
///
/// # Errors
/// Only XML and forms can be [`TooLong`].
pub fn render(event: &Event, tag: Tag, envelope: Envelope, format: Format) -> Result<Rendered<'_>, TooLong> {
    let content = &event.new.content;
    let own = || Rendered { content_type: Cow::Borrowed(&**content.content_type()), body: content.bytes().clone() };
    let data = match (format, envelope) {
        (Format::Json, Envelope::Standard) => return Ok(ready("application/json", standard(event))),
        (Format::Json, Envelope::CloudEvents) => return Ok(ready("application/cloudevents+json", cloud_event(event, tag))),
        (Format::Json, Envelope::Data) => return Ok(own()),
        (Format::Xml | Format::Form, _) => Data::of(event),
    };
    let root = match (envelope, data) {
        (Envelope::Data, Data::Json(value)) => Root::Value(value),
        // Neither XML nor a form can represent bare text or bytes, so such data is sent unchanged.
        (Envelope::Data, Data::Text(_) | Data::Binary(_)) => return Ok(own()),
        (Envelope::Standard, data) => {
            let context = [("type", event.new.event_type.to_string()), ("timestamp", event.time())];
            Root::Members(members(context, data))
        }
        (Envelope::CloudEvents, data) => Root::Members(members(context(event, tag), data)),
    };
    let (content_type, body) = match format {
        Format::Form => ("application/x-www-form-urlencoded", form::write(&root)),
        Format::Json | Format::Xml => ("application/xml", xml::write(&root)),
    };
    body.map(|body| ready(content_type, body)).ok_or(TooLong(format))
}

fn ready(content_type: &'static str, body: Vec<u8>) -> Rendered<'static> {
    Rendered { content_type: Cow::Borrowed(content_type), body: body.into() }
}

/// Writes `{"type", "timestamp", "data"}`. JSON data is embedded byte for byte; text becomes a string; other data becomes
/// `data_base64`, as in the JSON format of CloudEvents 1.0.
fn standard(event: &Event) -> Vec<u8> {
    let data = event.new.content.bytes();
    let mut body = Vec::with_capacity(data.len() + event.new.event_type.len() + 64);
    body.extend_from_slice(b"{\"type\":");
    push_string(&mut body, &event.new.event_type);
    body.extend_from_slice(b",\"timestamp\":");
    push_string(&mut body, &event.time());
    if let Some(json) = event.new.content.json() {
        push_data(&mut body, json);
    } else if let Ok(text) = std::str::from_utf8(data) {
        body.extend_from_slice(b",\"data\":");
        push_string(&mut body, text);
    } else {
        body.extend_from_slice(b",\"data_base64\":");
        push_string(&mut body, &BASE64_STANDARD.encode(data));
    }
    body.push(b'}');
    body
}

/// Writes the JSON format of CloudEvents 1.0. JSON data is in `data`, byte for byte. Other data is in `data_base64`, so that its
/// bytes are unchanged.
fn cloud_event(event: &Event, tag: Tag) -> Vec<u8> {
    let data = event.new.content.bytes();
    let mut body = Vec::with_capacity(data.len() + 512);
    for (name, value) in context(event, tag) {
        body.push(if body.is_empty() { b'{' } else { b',' });
        push_string(&mut body, &name);
        body.push(b':');
        push_string(&mut body, &value);
    }
    if data.is_empty() {
        // CloudEvents has no member for missing data.
    } else if let Some(json) = event.new.content.json() {
        push_data(&mut body, json);
    } else {
        body.extend_from_slice(b",\"data_base64\":");
        push_string(&mut body, &BASE64_STANDARD.encode(data));
    }
    body.push(b'}');
    body
}

/// Returns the context attributes of CloudEvents 1.0, extensions last.
fn context(event: &Event, tag: Tag) -> Vec<(Cow<'_, str>, String)> {
    let new = &event.new;
    let mut context = vec![
        ("specversion".into(), "1.0".to_owned()),
        ("id".into(), event.public_id(tag)),
        ("source".into(), new.source.to_string()),
        ("type".into(), new.event_type.to_string()),
        ("time".into(), event.time()),
        ("datacontenttype".into(), new.content.content_type().to_string()),
    ];
    context.extend(new.subject.as_ref().map(|subject| ("subject".into(), subject.to_string())));
    context.extend(new.attributes.0.iter().map(|(name, value)| (Cow::Borrowed(name.as_str()), value.clone())));
    context
}

/// The data of an event.
enum Data<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Binary(&'a [u8]),
}

impl<'a> Data<'a> {
    fn of(event: &'a Event) -> Self {
        if let Some(json) = event.new.content.json() {
            return Self::Json(json.value());
        }
        let data = event.new.content.bytes();
        std::str::from_utf8(data).map_or(Self::Binary(data), Self::Text)
    }
}

/// The input of [`xml`] and [`form`].
enum Root<'a> {
    Members(Vec<(Cow<'a, str>, Node<'a>)>),
    Value(&'a RawValue),
}

enum Node<'a> {
    Text(Cow<'a, str>),
    Json(&'a RawValue),
}

fn members<'a, N: Into<Cow<'a, str>>>(
    context: impl IntoIterator<Item = (N, String)>,
    data: Data<'a>,
) -> Vec<(Cow<'a, str>, Node<'a>)> {
    let mut members: Vec<_> = context.into_iter().map(|(name, value)| (name.into(), Node::Text(Cow::Owned(value)))).collect();
    members.push(match data {
        Data::Json(value) => ("data".into(), Node::Json(value)),
        Data::Text(text) => ("data".into(), Node::Text(text.into())),
        Data::Binary(bytes) => ("data_base64".into(), Node::Text(BASE64_STANDARD.encode(bytes).into())),
    });
    members
}

/// A JSON value, parsed one level deep. Numbers stay as written, and members in their order.
enum Value<'a> {
    Members(IndexMap<String, &'a RawValue>),
    List(Vec<&'a RawValue>),
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
    /// Parses a value. `depth` is the number of enclosing objects and lists.
    fn read(raw: &'a RawValue, depth: usize) -> Self {
        let json = raw.get();
        let read = match json.as_bytes().first() {
            Some(b'{') if depth < DEPTH_MAX => serde_json::from_str(json).map(Self::Members),
            Some(b'[') if depth < DEPTH_MAX => serde_json::from_str(json).map(Self::List),
            Some(b'"') => serde_json::from_str(json).map(|text: String| Self::Text(text.into())),
            Some(b'n') => Ok(Self::Text("".into())),
            _ => Ok(Self::Text(json.into())),
        };
        // Half of a surrogate pair is valid JSON but not text: such a value is written as JSON.
        read.unwrap_or_else(|_| Self::Text(json.into()))
    }
}

/// Embeds data unchanged. Takes only checked JSON, because other bytes could end the member and start new members.
fn push_data(body: &mut Vec<u8>, data: Json<'_>) {
    body.extend_from_slice(b",\"data\":");
    body.extend_from_slice(data.as_str().as_bytes());
}

fn push_string(body: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(body, text).expect("a string is always JSON, and a vector takes every byte");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use quick_xml::{Reader, XmlVersion, events::Event as Xml};
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::domain::{
        content::{Content, JSON_DEPTH_MAX},
        event::NewEvent,
        id::EventId,
        name::{Attributes, EventType},
        time::Timestamp,
    };

    fn event(content_type: &str, data: impl Into<Bytes>) -> Event {
        Event {
            id: EventId::from_i64(1),
            accepted_at: Timestamp::from_millis(1_614_265_330_042),
            new: NewEvent {
                id: None,
                source: "shop".into(),
                event_type: EventType::parse("order.created").unwrap(),
                subject: None,
                time: None,
                content: Content::new(content_type, data.into()).unwrap(),
                attributes: Default::default(),
                depth: 0,
                cause: None,
                request: None,
            },
        }
    }

    fn tag() -> Tag {
        Tag::from_random([7; 4])
    }

    /// Returns content type and body as text.
    fn rendered(event: &Event, envelope: Envelope, format: Format) -> (String, String) {
        let rendered = render(event, tag(), envelope, format).unwrap();
        (rendered.content_type.into_owned(), String::from_utf8(rendered.body.to_vec()).unwrap())
    }

    fn body(content_type: &str, data: &'static [u8], envelope: Envelope, format: Format) -> String {
        rendered(&event(content_type, data), envelope, format).1
    }

    #[test]
    fn embeds_json_byte_for_byte() {
        let data = br#"{"z": 1.50, "a":  [true]}"#;
        let body = |envelope| body("application/json", data, envelope, Format::Json);
        assert_eq!(
            body(Envelope::Standard),
            r#"{"type":"order.created","timestamp":"2021-02-25T15:02:10.042Z","data":{"z": 1.50, "a":  [true]}}"#
        );
        let cloud_event = body(Envelope::CloudEvents);
        assert!(cloud_event.ends_with(r#","data":{"z": 1.50, "a":  [true]}}"#), "{cloud_event}");
        assert_eq!(body(Envelope::Data).as_bytes(), data);
    }

    #[test]
    fn carries_data_that_is_not_json() {
        let parse = |content_type, data, envelope| -> Json {
            serde_json::from_str(&body(content_type, data, envelope, Format::Json)).unwrap()
        };
        assert_eq!(parse("text/plain", b"say \"hi\"", Envelope::Standard)["data"], json!("say \"hi\""));
        assert_eq!(parse("image/png", b"\xff\x00", Envelope::Standard)["data_base64"], json!("/wA="));
        assert_eq!(parse("application/json", b"", Envelope::Standard)["data"], Json::Null);
        assert_eq!(parse("text/plain", b"hi", Envelope::CloudEvents)["data_base64"], json!("aGk="));
        let empty = parse("application/json", b"", Envelope::CloudEvents);
        assert!(empty.get("data").is_none() && empty.get("data_base64").is_none(), "{empty}");

        for format in Format::ALL {
            let png = event("image/png", &b"\xff\x00"[..]);
            let rendered = render(&png, tag(), Envelope::Data, format).unwrap();
            assert_eq!((&*rendered.content_type, &rendered.body[..]), ("image/png", &b"\xff\x00"[..]), "{format:?}");
        }
        assert!(body("image/png", b"\xff\x00", Envelope::Standard, Format::Xml).contains("<data_base64>/wA=</data_base64>"));
        assert!(body("text/plain", b"a & b", Envelope::Standard, Format::Xml).contains("<data>a &amp; b</data>"));
        assert!(body("text/plain", b"a & b", Envelope::Standard, Format::Form).ends_with("&data=a+%26+b"));
    }

    #[test]
    fn a_cloud_event_has_all_known_attributes() {
        let mut event = event("application/vnd.shop+json", &b"[1]"[..]);
        let mut attributes = Attributes::default();
        attributes.push("channel", "news \"letter\"".to_owned()).unwrap();
        event.new.attributes = attributes.into();
        event.new.subject = Some("order/7".into());
        let (content_type, body) = rendered(&event, Envelope::CloudEvents, Format::Json);
        assert_eq!(content_type, "application/cloudevents+json");
        let mut expected = json!({
            "specversion": "1.0", "id": event.id.text(tag()), "source": "shop", "type": "order.created", "subject": "order/7",
            "time": "2021-02-25T15:02:10.042Z", "datacontenttype": "application/vnd.shop+json", "channel": "news \"letter\"",
            "data": [1],
        });
        assert_eq!(serde_json::from_str::<Json>(&body).unwrap(), expected);
        event.new.id = Some("o-7".into());
        event.new.time = Some("2021-02-25T16:02:10+01:00".into());
        expected["id"] = json!("o-7");
        expected["time"] = json!("2021-02-25T16:02:10+01:00");
        assert_eq!(serde_json::from_str::<Json>(&rendered(&event, Envelope::CloudEvents, Format::Json).1).unwrap(), expected);
    }

    #[test]
    fn xml_by_example() {
        let table = [
            (
                r#"{"id":7,"total":1.50,"tags":["a","b"],"empty":[],"none":null,"is":true}"#,
                "<id>7</id><total>1.50</total><tags>a</tags><tags>b</tags><none></none><is>true</is>",
            ),
            (r#"{"z":{"b":1,"a":2}}"#, "<z><b>1</b><a>2</a></z>"),
            (r#"{"rows":[[1,2],[3]]}"#, "<rows><item>1</item><item>2</item></rows><rows><item>3</item></rows>"),
            (r#"[1,{"a":2}]"#, "<item>1</item><item><a>2</a></item>"),
            (r#""a < b & c""#, "a &lt; b &amp; c"),
            (
                r#"{"1st":1,"":2,"a b":3,"xmlns":4,"a:b":5,"größe":6,"\"":7}"#,
                r#"<item name="1st">1</item><item name="">2</item><item name="a b">3</item><item name="xmlns">4</item><item name="a:b">5</item><item name="größe">6</item><item name="&quot;">7</item>"#,
            ),
            (
                r#"{"c":"\u0000\u001b\ufffe\t\r\n","\n":1}"#,
                "<c>\u{fffd}\u{fffd}\u{fffd}\t&#13;\n</c><item name=\"&#10;\">1</item>",
            ),
            (r#"{"half":"\ud800"}"#, r#"<half>&quot;\ud800&quot;</half>"#),
        ];
        for (data, expected) in table {
            let (content_type, body) = rendered(&event("application/json", data), Envelope::Data, Format::Xml);
            assert_eq!(content_type, "application/xml");
            let head = r#"<?xml version="1.0" encoding="UTF-8"?><webhook>"#;
            let inside = body.strip_prefix(head).and_then(|rest| rest.strip_suffix("</webhook>")).unwrap();
            assert_eq!(inside, expected, "{data}");
        }
        let standard = body("application/json", b"{\"id\":7}", Envelope::Standard, Format::Xml);
        assert!(standard.contains(
            "<webhook><type>order.created</type><timestamp>2021-02-25T15:02:10.042Z</timestamp><data><id>7</id></data></webhook>"
        ), "{standard}");
    }

    #[test]
    fn form_by_example() {
        let table = [
            (r#"{"id":7,"a":{"b":["x y",true]},"none":null,"empty":{},"l":[]}"#, "id=7&a[b][0]=x+y&a[b][1]=true&none="),
            (r#"[1,[2]]"#, "0=1&1[0]=2"),
            (r#""alone""#, "data=alone"),
            ("{}", ""),
            (r#"{"":{"":1}}"#, "[]=1"),
        ];
        for (data, expected) in table {
            let (content_type, body) = rendered(&event("application/json", data), Envelope::Data, Format::Form);
            assert_eq!(content_type, "application/x-www-form-urlencoded");
            assert_eq!(body.replace("%5B", "[").replace("%5D", "]"), expected, "{data}");
        }
        assert_eq!(
            body("application/json", b"{\"id\":7}", Envelope::Standard, Format::Form),
            "type=order.created&timestamp=2021-02-25T15%3A02%3A10.042Z&data%5Bid%5D=7"
        );
    }

    #[test]
    fn deep_values_stay_json_and_growing_bodies_are_refused() {
        let deep = "[".repeat(JSON_DEPTH_MAX) + &"]".repeat(JSON_DEPTH_MAX);
        let xml = rendered(&event("application/json", deep.clone()), Envelope::Data, Format::Xml).1;
        assert_eq!(xml.matches("<item>").count(), DEPTH_MAX);
        assert!(xml.contains(&"[".repeat(JSON_DEPTH_MAX - DEPTH_MAX)));
        let form = rendered(&event("application/json", deep), Envelope::Data, Format::Form).1;
        assert_eq!(form.matches("%5B0%5D").count(), DEPTH_MAX - 1);

        // XML and forms repeat the long name for each of many items.
        let swelling = format!("{{\"{}\":[{}0]}}", "n".repeat(10_000), "0,".repeat(10_000));
        for format in [Format::Xml, Format::Form] {
            let refused = render(&event("application/json", swelling.clone()), tag(), Envelope::Standard, format).map(drop);
            assert_eq!(refused, Err(TooLong(format)));
        }
        assert!(TooLong(Format::Xml).to_string().starts_with("as xml the event is longer than 16 MiB"));
    }

    /// Any JSON, with names and texts that people would not write.
    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<String>().prop_map(Json::from),
            "[\\x00-\\x20<>&'\"\\]]{0,6}".prop_map(Json::from),
        ];
        let name =
            || prop_oneof![any::<String>(), "[a-zA-Z_:.0-9-]{0,5}", "[xX][mM][lL][a-z]{0,2}", "[\\x00-\\x20<>&'\"\\[\\]]{0,4}"];
        leaf.prop_recursive(5, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
                prop::collection::vec((name(), inner), 0..6).prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    /// Collects the texts of all leaves in order, as in the XML.
    fn leaves(value: &Json, texts: &mut Vec<String>) {
        match value {
            Json::Object(members) => members.values().for_each(|value| leaves(value, texts)),
            Json::Array(items) => items.iter().for_each(|item| leaves(item, texts)),
            Json::Null => {}
            Json::String(text) => texts.push(text.clone()),
            other => texts.push(other.to_string()),
        }
    }

    proptest! {
        #[test]
        fn xml_of_any_data_can_be_read(value in any_json()) {
            let event = event("application/json", value.to_string());
            let body = render(&event, tag(), Envelope::Data, Format::Xml).unwrap().body;
            let body = std::str::from_utf8(&body).unwrap();
            let forbidden = |c: char| c < ' ' && !"\t\n\r".contains(c) || c == '\u{fffe}' || c == '\u{ffff}';
            prop_assert!(!body.contains(forbidden), "{body:?}");

            let mut reader = Reader::from_str(body);
            let (mut text, mut depth) = (String::new(), 0_usize);
            loop {
                match reader.read_event().unwrap() {
                    Xml::Start(start) => {
                        depth += 1;
                        for attribute in start.attributes() {
                            attribute.unwrap().normalized_value(XmlVersion::Explicit1_0).unwrap();
                        }
                    }
                    Xml::End(_) => depth -= 1,
                    Xml::Text(part) => text.push_str(&part.xml10_content()),
                    Xml::GeneralRef(reference) => match reference.resolve_char_ref().unwrap() {
                        Some(c) => text.push(c),
                        None => text.push_str(quick_xml::escape::resolve_predefined_entity(&reference.xml10_content()).unwrap()),
                    },
                    Xml::Decl(_) => {}
                    Xml::Eof => break,
                    other => prop_assert!(false, "unexpected {other:?}"),
                }
            }
            prop_assert_eq!(depth, 0);
            let mut expected = Vec::new();
            leaves(&value, &mut expected);
            let expected: String = expected.concat().chars().map(|c| if forbidden(c) { '\u{fffd}' } else { c }).collect();
            prop_assert_eq!(text, expected);
        }

        #[test]
        fn a_form_of_any_data_can_be_read(value in any_json()) {
            let event = event("application/json", value.to_string());
            let body = render(&event, tag(), Envelope::Data, Format::Form).unwrap().body;
            let values: Vec<String> = url::form_urlencoded::parse(&body).map(|(_, value)| value.into_owned()).collect();
            fn leaves(value: &Json, texts: &mut Vec<String>) {
                match value {
                    Json::Object(members) => members.values().for_each(|value| leaves(value, texts)),
                    Json::Array(items) => items.iter().for_each(|item| leaves(item, texts)),
                    Json::Null => texts.push(String::new()),
                    Json::String(text) => texts.push(text.clone()),
                    other => texts.push(other.to_string()),
                }
            }
            let mut expected = Vec::new();
            leaves(&value, &mut expected);
            prop_assert_eq!(values, expected);
        }

        #[test]
        fn a_cloud_event_of_any_context_is_json(source in any::<String>(), subject in any::<Option<String>>(), value in any_json()) {
            let mut event = event("application/json", value.to_string());
            event.new.source = source.clone().into();
            event.new.subject = subject.clone().map(Into::into);
            let body = render(&event, tag(), Envelope::CloudEvents, Format::Json).unwrap().body;
            let read: BTreeMap<String, Json> = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(&read["source"], &Json::from(source));
            prop_assert_eq!(read.get("subject").cloned(), subject.map(Json::from));
            prop_assert_eq!(&read["data"], &value);
        }
    }

    #[test]
    fn words_read_back() {
        assert!(Envelope::ALL.iter().all(|envelope| Envelope::parse(envelope.as_str()) == Some(*envelope)));
        assert!(Format::ALL.iter().all(|format| Format::parse(format.as_str()) == Some(*format)));
        assert_eq!((Envelope::parse("json"), Format::parse("yaml")), (None, None));
    }
}
