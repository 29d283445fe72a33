//! A body as an event's data: JSON as it is, forms and XML as JSON, anything else as the bytes that came. What calls itself
//! something that it is not, or grows past a limit, is kept as bytes as well: it was sent, so it must not be lost.
//!
//! A form's fields are text; `a[b]` is a member of an object, `a[]` an item of a list, and a name that is given several times a list.
//! An XML element is an object: attributes under `@name`, children under their names (several of one name are a list), text under
//! `#text`; an element with nothing but text is that text. Names are kept with their prefixes, there are no entities but the five of
//! XML itself, and a document type is refused.

use bytes::Bytes;
use indexmap::{IndexMap, map::Entry};
use quick_xml::{
    Reader, XmlVersion,
    errors::Error as XmlError,
    events::{BytesStart, Event as Xml},
};
use serde_json::value::RawValue;
use url::form_urlencoded;

use crate::domain::envelope::is_json;

/// Fields of a form, and elements with their attributes of a document: each takes some hundred bytes while it is read.
const NODES_MAX: usize = 50_000;
/// How deep a form's names and a document's elements go. serde_json reads 128.
const DEPTH_MAX: usize = 64;
/// What is shown as bytes.
const OCTETS: &str = "application/octet-stream";
const JSON: &str = "application/json";

/// What becomes of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    pub content_type: String,
    pub bytes: Bytes,
    /// Whether it is something else than the body as it came.
    pub rewritten: bool,
}

impl Data {
    fn as_it_is(content_type: &str, body: &Bytes) -> Self {
        Self { content_type: content_type.to_owned(), bytes: body.clone(), rewritten: false }
    }

    fn json(text: String) -> Self {
        Self { content_type: JSON.to_owned(), bytes: text.into(), rewritten: true }
    }

    /// What it is as JSON, if it is that.
    pub fn as_json(&self) -> Option<&str> {
        if is_json(&self.content_type) { std::str::from_utf8(&self.bytes).ok() } else { None }
    }
}

fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub fn is_form(content_type: &str) -> bool {
    essence(content_type) == "application/x-www-form-urlencoded"
}

fn is_xml(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence == "application/xml" || essence == "text/xml" || essence.ends_with("+xml")
}

/// Reads a body. A request without one is about its query.
pub fn read(content_type: Option<&str>, query: &str, body: &Bytes) -> Data {
    let content_type = content_type.map(str::trim).filter(|text| is_sendable(text));
    if body.is_empty() {
        return match form(query.as_bytes()) {
            Some(text) if !query.is_empty() => Data { rewritten: false, ..Data::json(text) },
            _ => Data::as_it_is(content_type.unwrap_or(JSON), body),
        };
    }
    let Some(content_type) = content_type else { return Data::as_it_is(OCTETS, body) };
    let rewritten = if is_json(content_type) {
        return if is_valid_json(body) { Data::as_it_is(content_type, body) } else { Data::as_it_is(OCTETS, body) };
    } else if is_form(content_type) {
        form(body)
    } else if is_xml(content_type) {
        xml(body)
    } else {
        return Data::as_it_is(content_type, body);
    };
    rewritten.map_or_else(|| Data::as_it_is(OCTETS, body), Data::json)
}

fn is_sendable(content_type: &str) -> bool {
    const LEN_MAX: usize = 256;
    !content_type.is_empty() && content_type.len() <= LEN_MAX && content_type.bytes().all(|c| (32..127).contains(&c))
}

fn is_valid_json(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<&RawValue>(text).is_ok())
}

/// What is read, on its way to JSON.
#[derive(Debug)]
enum Node {
    Text(String),
    List(Vec<Node>),
    Members(IndexMap<String, Node>),
}

impl Node {
    fn write(&self, to: &mut String) {
        match self {
            Self::Text(text) => to.push_str(&quoted(text)),
            Self::List(items) => {
                to.push('[');
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        to.push(',');
                    }
                    item.write(to);
                }
                to.push(']');
            }
            Self::Members(members) => {
                to.push('{');
                for (place, (name, member)) in members.iter().enumerate() {
                    if place > 0 {
                        to.push(',');
                    }
                    to.push_str(&quoted(name));
                    to.push(':');
                    member.write(to);
                }
                to.push('}');
            }
        }
    }

    fn to_json(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text is always JSON")
}

/// A form as JSON. A form whose one field `payload` is JSON is that (GitHub's). `None`: it is none, or too large.
fn form(body: &[u8]) -> Option<String> {
    let mut members = IndexMap::new();
    let mut count = 0;
    for (name, value) in form_urlencoded::parse(body) {
        count += 1;
        // What is no UTF-8 was replaced; kept as bytes it is not lost.
        if count > NODES_MAX || name.contains(char::REPLACEMENT_CHARACTER) || value.contains(char::REPLACEMENT_CHARACTER) {
            return None;
        }
        let steps = steps(&name);
        if !insert(&mut members, &steps, &value) {
            // It contradicts an earlier one, so its name is taken as it is written.
            add(&mut members, &name, Node::Text(value.into_owned()));
        }
    }
    if count == 1
        && let Some(Node::Text(payload)) = members.get("payload")
        && is_valid_json(payload.as_bytes())
    {
        return Some(payload.clone());
    }
    let mut root = Node::Members(members);
    numbered(&mut root);
    Some(root.to_json())
}

/// `a[b][]` as `a`, `b` and an empty step; a name that is not of that form is one step.
fn steps(name: &str) -> Vec<&str> {
    let Some((first, rest)) = name.split_once('[') else { return vec![name] };
    let Some(rest) = rest.strip_suffix(']') else { return vec![name] };
    let mut steps = vec![first];
    steps.extend(rest.split("]["));
    let plain = |step: &&str| !step.contains(['[', ']']);
    // An item of a list can only be the last step: which item would the next one be of?
    let only_last = steps[1..].iter().rev().skip(1).all(|step| !step.is_empty());
    if first.is_empty() || steps.len() > DEPTH_MAX || !only_last || !steps.iter().all(plain) { vec![name] } else { steps }
}

/// Puts a value where the steps lead. `false`: something else stands there, and nothing changed.
fn insert(members: &mut IndexMap<String, Node>, steps: &[&str], value: &str) -> bool {
    match steps {
        [name] => {
            add(members, name, Node::Text(value.to_owned()));
            true
        }
        [name, ""] => match members.entry((*name).to_owned()).or_insert_with(|| Node::List(Vec::new())) {
            Node::List(items) => {
                items.push(Node::Text(value.to_owned()));
                true
            }
            Node::Text(_) | Node::Members(_) => false,
        },
        [name, rest @ ..] => match members.entry((*name).to_owned()).or_insert_with(|| Node::Members(IndexMap::new())) {
            Node::Members(inner) => insert(inner, rest, value),
            Node::Text(_) | Node::List(_) => false,
        },
        [] => false,
    }
}

/// Adds a member; the second of a name makes it a list.
fn add(members: &mut IndexMap<String, Node>, name: &str, node: Node) {
    match members.entry(name.to_owned()) {
        Entry::Vacant(place) => {
            place.insert(node);
        }
        Entry::Occupied(mut place) => match place.get_mut() {
            Node::List(items) => items.push(node),
            other => {
                let first = std::mem::replace(other, Node::List(Vec::new()));
                *other = Node::List(vec![first, node]);
            }
        },
    }
}

/// Objects whose names count from 0 are lists: `a[0]`, `a[1]`.
fn numbered(node: &mut Node) {
    match node {
        Node::Text(_) => {}
        Node::List(items) => items.iter_mut().for_each(numbered),
        Node::Members(members) => {
            members.values_mut().for_each(numbered);
            let counts = members.keys().enumerate().all(|(place, name)| *name == place.to_string());
            if counts && !members.is_empty() {
                *node = Node::List(std::mem::take(members).into_values().collect());
            }
        }
    }
}

/// An element that is open.
struct Open {
    name: String,
    members: IndexMap<String, Node>,
    text: String,
}

impl Open {
    fn close(mut self) -> (String, Node) {
        let text = self.text.trim();
        let node = if self.members.is_empty() {
            Node::Text(text.to_owned())
        } else {
            if !text.is_empty() {
                add(&mut self.members, "#text", Node::Text(text.to_owned()));
            }
            Node::Members(self.members)
        };
        (self.name, node)
    }
}

/// A document as JSON. `None`: it is none, is not UTF-8, has a document type or entities of its own, or is too large or too deep.
fn xml(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim_start_matches('\u{feff}');
    let root = document(text).ok().flatten()?;
    Some(Node::Members(root).to_json())
}

fn document(text: &str) -> Result<Option<IndexMap<String, Node>>, XmlError> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut root = IndexMap::new();
    let mut open: Vec<Open> = Vec::new();
    let mut nodes = 0;
    loop {
        match reader.read_event()? {
            Xml::Start(start) => {
                let Some(element) = begin(&start, &mut nodes)? else { return Ok(None) };
                if open.len() == DEPTH_MAX || open.is_empty() && !root.is_empty() {
                    return Ok(None);
                }
                open.push(element);
            }
            Xml::End(_) => {
                let Some((name, node)) = open.pop().map(Open::close) else { return Ok(None) };
                add(open.last_mut().map_or(&mut root, |outer| &mut outer.members), &name, node);
            }
            Xml::Text(part) => {
                let part = part.xml10_content();
                match open.last_mut() {
                    Some(element) => element.text.push_str(&part),
                    None if part.trim().is_empty() => {}
                    None => return Ok(None),
                }
            }
            Xml::CData(part) => match open.last_mut() {
                Some(element) => element.text.push_str(&part.xml10_content()),
                None => return Ok(None),
            },
            Xml::GeneralRef(reference) => {
                let Some(element) = open.last_mut() else { return Ok(None) };
                match reference.resolve_char_ref()? {
                    Some(c) => element.text.push(c),
                    None => match quick_xml::escape::resolve_predefined_entity(&reference.xml10_content()) {
                        Some(text) => element.text.push_str(text),
                        None => return Ok(None),
                    },
                }
            }
            Xml::DocType(_) => return Ok(None),
            Xml::Eof => return Ok((open.is_empty() && !root.is_empty()).then_some(root)),
            // Instructions to a program and comments are no data. `Empty` is expanded.
            Xml::Decl(_) | Xml::PI(_) | Xml::Comment(_) | Xml::Empty(_) => {}
        }
    }
}

/// An element with its attributes. `None`: there are too many.
fn begin(start: &BytesStart<'_>, nodes: &mut usize) -> Result<Option<Open>, XmlError> {
    let mut members = IndexMap::new();
    *nodes += 1;
    for attribute in start.attributes() {
        let attribute = attribute?;
        *nodes += 1;
        if *nodes > NODES_MAX {
            return Ok(None);
        }
        let value = attribute.normalized_value(XmlVersion::Implicit1_0)?.into_owned();
        add(&mut members, &format!("@{}", attribute.key.0), Node::Text(value));
    }
    let name = start.name().0.to_owned();
    Ok((*nodes <= NODES_MAX).then(|| Open { name, members, text: String::new() }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn of(content_type: &str, body: &str) -> Data {
        read(Some(content_type), "", &Bytes::copy_from_slice(body.as_bytes()))
    }

    fn value(content_type: &str, body: &str) -> Value {
        let data = of(content_type, body);
        assert_eq!((data.content_type.as_str(), data.rewritten), (JSON, true), "{body}");
        serde_json::from_slice(&data.bytes).unwrap()
    }

    #[test]
    fn json_stays_as_it_is() {
        let body = r#"{ "z": 1.50,  "a": [ ] }"#;
        for content_type in ["application/json", "application/vnd.api+json; charset=utf-8"] {
            let data = of(content_type, body);
            assert_eq!((&data.bytes[..], data.content_type.as_str(), data.rewritten), (body.as_bytes(), content_type, false));
        }
    }

    #[test]
    fn what_is_not_what_it_says_is_kept_as_bytes() {
        let deep = format!("{}{}", "<a>".repeat(DEPTH_MAX + 1), "</a>".repeat(DEPTH_MAX + 1));
        let wide = format!("<a>{}</a>", "<b/>".repeat(NODES_MAX));
        let many = "a=1&".repeat(NODES_MAX + 1);
        for (content_type, body) in [
            ("application/json", "{\"a\":"),
            ("application/json", "[[["),
            ("text/xml", "<a><b></a>"),
            ("text/xml", "<a/><b/>"),
            ("text/xml", "no element"),
            ("text/xml", "<a>&mine;</a>"),
            ("text/xml", "<a b='&mine;'/>"),
            ("text/xml", "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>"),
            ("text/xml", "<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>"),
            ("text/xml", deep.as_str()),
            ("text/xml", wide.as_str()),
            ("application/x-www-form-urlencoded", many.as_str()),
            ("application/x-www-form-urlencoded", "a=%ff"),
        ] {
            let data = of(content_type, body);
            assert_eq!((data.content_type.as_str(), data.rewritten), (OCTETS, false), "{:.40}", body);
            assert_eq!(&data.bytes[..], body.as_bytes());
        }
        let image = of("image/png", "\u{1}");
        assert_eq!(image.content_type, "image/png");
        assert_eq!(read(None, "", &Bytes::from_static(b"x")).content_type, OCTETS);
    }

    #[test]
    fn forms_become_objects() {
        let form = "application/x-www-form-urlencoded; charset=UTF-8";
        for (body, expected) in [
            ("type=subscribe&list=3&initiated_by=admin", json!({ "type": "subscribe", "list": "3", "initiated_by": "admin" })),
            (
                "contact[email]=a%40b.c&contact[fields][1]=x+y&contact[tags][]=p&contact[tags][]=q",
                json!({ "contact": { "email": "a@b.c", "fields": { "1": "x y" }, "tags": ["p", "q"] } }),
            ),
            ("a=1&a=2&b[0]=x&b[1][c]=y", json!({ "a": ["1", "2"], "b": ["x", { "c": "y" }] })),
            ("a=1&a[b]=2", json!({ "a": "1", "a[b]": "2" })),
            ("a[b]=2&a=1", json!({ "a": [{ "b": "2" }, "1"] })),
            ("a[=1&[b]=2&a[][c]=3", json!({ "a[": "1", "[b]": "2", "a[][c]": "3" })),
            ("payload=%7B%22a%22%3A1.50%7D", json!({ "a": 1.5 })),
            ("payload=text", json!({ "payload": "text" })),
            ("webhook_id=7", json!({ "webhook_id": "7" })),
            ("empty", json!({ "empty": "" })),
        ] {
            assert_eq!(value(form, body), expected, "{body}");
        }
    }

    #[test]
    fn documents_become_objects() {
        for (body, expected) in [
            ("<?xml version='1.0'?><order><id>7</id></order>", json!({ "order": { "id": "7" } })),
            ("<a x='1 &amp; 2'>t<b/>u</a>", json!({ "a": { "@x": "1 & 2", "b": "", "#text": "tu" } })),
            ("<a><b>1</b><b>2</b><c/></a>", json!({ "a": { "b": ["1", "2"], "c": "" } })),
            ("<a>&lt;&#65;<![CDATA[<&]]></a>", json!({ "a": "<A<&" })),
            ("<s:a xmlns:s='u'> <s:b> x </s:b> </s:a>", json!({ "s:a": { "@xmlns:s": "u", "s:b": "x" } })),
            ("\u{feff}<a><!-- no --><?php no ?>x</a>\n", json!({ "a": "x" })),
        ] {
            assert_eq!(value("application/soap+xml; charset=utf-8", body), expected, "{body}");
        }
    }

    #[test]
    fn a_request_without_a_body_is_about_its_query() {
        let data = read(None, "a=1&b[]=2", &Bytes::new());
        assert_eq!(serde_json::from_slice::<Value>(&data.bytes).unwrap(), json!({ "a": "1", "b": ["2"] }));
        assert_eq!(data.content_type, JSON);
        let nothing = read(None, "", &Bytes::new());
        assert_eq!((nothing.content_type.as_str(), nothing.bytes.len()), (JSON, 0));
    }

    proptest! {
        /// Whatever comes, what is called JSON is JSON, and what was not rewritten is what came.
        #[test]
        fn nothing_panics_and_nothing_is_lost(
            kind in prop::sample::select(vec!["application/json", "application/xml", "application/x-www-form-urlencoded", "text/plain"]),
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                "[<>/a-c&;#0-9'\"= !\\[\\]CDAT?-]{0,80}".prop_map(String::into_bytes),
                "([ab](\\[[ab0]?\\]){0,3}=?[%a-f0-9+]{0,4}&?){0,8}".prop_map(String::into_bytes),
                "(<[ab]( [ab]='[a&;]{0,3}')?/?>|</[ab]>|[xy&;]{0,2}){0,12}".prop_map(String::into_bytes),
            ],
        ) {
            let body = Bytes::from(body);
            let data = read(Some(kind), "", &body);
            if data.rewritten || !body.is_empty() && is_json(&data.content_type) {
                prop_assert!(is_valid_json(&data.bytes), "{:?}", data.bytes);
            }
            if !data.rewritten {
                prop_assert_eq!(&data.bytes, &body);
            }
        }
    }
}
