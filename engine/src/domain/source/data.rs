//! Reads a body as an event's data. JSON stays unchanged, forms and XML become JSON, and other bodies stay unchanged. Only this
//! file decides how a body is read. It uses the source's setting `body_as` and the body's content type.
//!
//! A body that is not what it declares, or exceeds a limit, is stored as bytes with the reason. It was sent, so it must not be
//! lost.

mod form;
mod multipart;
mod node;
mod text;
mod xml;

use bytes::Bytes;
use encoding_rs::UTF_8;

pub use self::multipart::field as multipart_field;

use crate::domain::{
    content::{Content, JSON, Json, NotJson, OCTETS, essence, is_json},
    parts::{Parts, TooManyParts},
};

/// The content type of a body that a source reads as text.
const TEXT: &str = "text/plain; charset=utf-8";

/// Maximum factor by which a body may grow when it becomes JSON. Text in a single-byte charset can double its size; other bodies
/// become shorter. The default of `plugin.output_max` leaves room for this.
const GROWTH_MAX: usize = 2;
/// Additional growth that is allowed, in bytes, for quotes, commas and names of items. Short bodies need it.
const GROWTH_SLACK: usize = 512 << 10;

/// How a source reads its bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyAs {
    /// By the content type of each body.
    #[default]
    Auto,
    Json,
    Form,
    Xml,
    Text,
    Bytes,
}

impl BodyAs {
    pub const ALL: [Self; 6] = [Self::Auto, Self::Json, Self::Form, Self::Xml, Self::Text, Self::Bytes];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Json => "json",
            Self::Form => "form",
            Self::Xml => "xml",
            Self::Text => "text",
            Self::Bytes => "bytes",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

/// The data of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    pub content: Content,
    /// Whether the data differs from the received body.
    pub rewritten: bool,
    /// Why a body was stored as bytes although it should have been read.
    pub unread: Option<Unread>,
}

/// Why a body was stored as bytes. The text begins with a code that does not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    #[error("not-json: {0}")]
    NotJson(#[from] NotJson),
    #[error("not-text: a character is not in the charset of the body")]
    NotText,
    #[error("unknown-charset: the charset {0:?} is not supported")]
    UnknownCharset(String),
    #[error("not-multipart: {0}")]
    NotMultipart(String),
    #[error("not-xml: {0}")]
    NotXml(String),
    #[error("document-type: documents with a document type or entities are not supported")]
    DocumentType,
    #[error("too-deep: its elements are nested deeper than {} levels", xml::DEPTH_MAX)]
    TooDeep,
    #[error("too-long: as JSON it is more than {GROWTH_MAX} times as long as received")]
    TooLong,
    #[error("too-many-parts: {0}")]
    TooManyParts(#[from] TooManyParts),
}

impl Data {
    fn as_it_is(content_type: &str, body: &Bytes) -> Self {
        match Content::new(content_type, body.clone()) {
            Ok(content) => Self { content, rewritten: false, unread: None },
            Err(error) => Self::unread(body, error.into()),
        }
    }

    fn unread(body: &Bytes, why: Unread) -> Self {
        Self { content: Content::octets(body.clone()), rewritten: false, unread: Some(why) }
    }

    /// Creates data from a reader's result.
    fn of(body: &Bytes, read: Result<Content, Unread>) -> Self {
        match read {
            Ok(content) if content.bytes().len() > body.len() * GROWTH_MAX + GROWTH_SLACK => Self::unread(body, Unread::TooLong),
            Ok(content) => Self { rewritten: content.bytes() != body, content, unread: None },
            Err(why) => Self::unread(body, why),
        }
    }

    /// Returns the data as JSON, if it is JSON.
    pub fn as_json(&self) -> Option<&str> {
        self.content.json().filter(|_| !self.content.bytes().is_empty()).map(Json::as_str)
    }
}

pub fn is_form(content_type: &str) -> bool {
    essence(content_type) == "application/x-www-form-urlencoded"
}

pub fn is_multipart(content_type: &str) -> bool {
    essence(content_type) == "multipart/form-data"
}

fn is_xml(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence == "application/xml" || essence == "text/xml" || essence.ends_with("+xml")
}

/// Returns whether a body begins like a JSON object or array.
fn looks_like_json(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{") || body.trim_ascii_start().starts_with(b"[")
}

/// Reads a body. If the body is empty, reads the query instead.
pub fn read(body_as: BodyAs, content_type: Option<&str>, query: &str, body: &Bytes) -> Data {
    let content_type = content_type.map(str::trim).filter(|text| is_sendable(text));
    if body.is_empty() {
        return match form::read(query.as_bytes(), None, &mut Parts::default()) {
            Ok(text) if !query.is_empty() => Data { rewritten: false, ..Data::of(body, json_text(text)) },
            _ => Data::as_it_is(content_type.unwrap_or(JSON), body),
        };
    }
    let said = content_type.unwrap_or_default();
    let mut kind = match body_as {
        BodyAs::Auto if is_json(said) => BodyAs::Json,
        BodyAs::Auto if is_form(said) || is_multipart(said) => BodyAs::Form,
        BodyAs::Auto if is_xml(said) => BodyAs::Xml,
        kind => kind,
    };
    if body_as == BodyAs::Auto && (content_type.is_none() || is_form(said)) && looks_like_json(&text::unmarked(body).1) {
        // Some senders omit the content type, or declare everything a form, like `curl -d`.
        let read = json(JSON, body);
        if read.is_ok() {
            return Data::of(body, read);
        }
    }
    if content_type.is_none() && kind == BodyAs::Auto && text::unmarked(body).1.starts_with(b"<?xml") {
        kind = BodyAs::Xml;
    }
    let mut parts = Parts::default();
    match kind {
        BodyAs::Auto => Data::as_it_is(content_type.unwrap_or(OCTETS), body),
        BodyAs::Bytes => Data::as_it_is(OCTETS, body),
        BodyAs::Text => Data::of(body, as_text(said, body)),
        BodyAs::Json => Data::of(body, json(if is_json(said) { said } else { JSON }, body)),
        BodyAs::Form => Data::of(body, as_form(said, body, &mut parts).and_then(json_text)),
        BodyAs::Xml => Data::of(body, as_xml(said, body, &mut parts).and_then(json_text)),
    }
}

fn is_sendable(content_type: &str) -> bool {
    const LEN_MAX: usize = 256;
    !content_type.is_empty() && content_type.len() <= LEN_MAX && content_type.bytes().all(|c| (32..127).contains(&c))
}

/// Wraps the JSON text that a reader of forms or XML has written.
fn json_text(text: String) -> Result<Content, Unread> {
    Ok(Content::new(JSON, text.into())?)
}

/// Reads JSON. JSON is UTF-8 regardless of its content type (RFC 8259, section 8.1); another charset is used only if the body is
/// not UTF-8.
fn json(content_type: &str, body: &Bytes) -> Result<Content, Unread> {
    let (mark, unmarked) = text::unmarked(body);
    if mark.is_none_or(|charset| charset == UTF_8) && std::str::from_utf8(&unmarked).is_ok() {
        return Ok(Content::new(content_type, unmarked)?);
    }
    match mark.or(charset(content_type)?) {
        Some(charset) if charset != UTF_8 => {
            let text = text::decode(Some(charset), &unmarked).ok_or(Unread::NotText)?;
            Ok(Content::new(essence(content_type), text.into())?)
        }
        _ => Ok(Content::new(content_type, unmarked)?),
    }
}

fn charset(content_type: &str) -> Result<Option<&'static encoding_rs::Encoding>, Unread> {
    text::charset(content_type).map_err(Unread::UnknownCharset)
}

fn as_text(content_type: &str, body: &Bytes) -> Result<Content, Unread> {
    let (mark, unmarked) = text::unmarked(body);
    let text = text::decode(mark.or(charset(content_type)?), &unmarked).ok_or(Unread::NotText)?;
    Ok(Content::new(TEXT, text.into())?)
}

fn as_form(content_type: &str, body: &Bytes, parts: &mut Parts) -> Result<String, Unread> {
    let (mark, unmarked) = text::unmarked(body);
    if is_multipart(content_type) {
        return multipart::read(content_type, &unmarked, parts);
    }
    form::read(&unmarked, mark.or(charset(content_type)?), parts)
}

/// Reads XML. Its charset comes from its byte-order mark, else from its content type, else from its declaration (RFC 7303,
/// section 3).
fn as_xml(content_type: &str, body: &Bytes, parts: &mut Parts) -> Result<String, Unread> {
    let (mark, unmarked) = text::unmarked(body);
    let charset = match mark.or(charset(content_type)?) {
        Some(charset) => Some(charset),
        None => xml::declared_charset(&unmarked)?,
    };
    let text = text::decode(charset, &unmarked).ok_or(Unread::NotText)?;
    xml::read(&text, parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{node::Node, *};
    use crate::domain::parts::PARTS_MAX;

    fn of(content_type: &str, body: &str) -> Data {
        read(BodyAs::Auto, Some(content_type), "", &Bytes::copy_from_slice(body.as_bytes()))
    }

    fn value(content_type: &str, body: &str) -> Value {
        let data = of(content_type, body);
        assert_eq!((&**data.content.content_type(), data.rewritten), (JSON, true), "{body}");
        serde_json::from_slice(data.content.bytes()).unwrap()
    }

    #[test]
    fn json_is_unchanged() {
        let body = r#"{ "z": 1.50,  "a": [ ] }"#;
        for content_type in ["application/json", "application/vnd.api+json; charset=utf-8"] {
            let data = of(content_type, body);
            let content = &data.content;
            assert_eq!((&content.bytes()[..], &**content.content_type(), data.rewritten), (body.as_bytes(), content_type, false));
        }
    }

    #[test]
    fn mislabelled_bodies_are_stored_as_bytes_with_a_reason() {
        let deep = format!("{}{}", "<a>".repeat(xml::DEPTH_MAX + 1), "</a>".repeat(xml::DEPTH_MAX + 1));
        let wide = format!("<a>{}</a>", "<b/>".repeat(PARTS_MAX));
        let attributes = (0..=PARTS_MAX).map(|number| format!(" a{number}=''")).collect::<String>();
        let adorned = format!("<a{attributes}/>");
        let many = "a=1&".repeat(PARTS_MAX + 1);
        let nested = (0..PARTS_MAX / 8).map(|number| format!("{number}{}=&", "[a]".repeat(8))).collect::<String>();
        let form = "application/x-www-form-urlencoded";
        for (content_type, body, why) in [
            ("application/json", "{\"a\":", "not-json: EOF while parsing a value"),
            (form, "a=1&b=%ff&charset=utf-8", "not-text: "),
            (
                "application/x-www-form-urlencoded; charset=klingon",
                "a=1",
                "unknown-charset: the charset \"klingon\" is not supported",
            ),
            ("text/xml", "<?xml version='1.0' encoding='klingon'?><a/>", "unknown-charset: "),
            ("multipart/form-data", "--x\r\n\r\n\r\n--x--", "not-multipart: its content type has no boundary"),
            ("multipart/form-data; boundary=x", "--y--", "not-multipart: its boundary does not occur"),
            (
                "multipart/form-data; boundary=x",
                "--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1",
                "not-multipart: its last boundary",
            ),
            ("multipart/form-data; boundary=x", "--x\r\n\r\n1\r\n--x--", "not-multipart: a part has no name"),
            ("application/json", "[[[", "not-json: EOF while parsing a list"),
            ("text/xml", "<a><b></a>", "not-xml: "),
            ("text/xml", "<a/><b/>", "not-xml: there is content outside of its root element"),
            ("text/xml", "no element", "not-xml: there is content outside of its root element"),
            ("text/xml", "<a>", "not-xml: an element has no end"),
            ("text/xml", "<a>&mine;</a>", "document-type: "),
            ("text/xml", "<a b='&mine;'/>", "not-xml: "),
            ("text/xml", "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", "document-type: "),
            ("text/xml", "<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "document-type: "),
            ("text/xml", deep.as_str(), "too-deep: "),
            ("text/xml", wide.as_str(), "too-many-parts: it has more than 50000 parts"),
            ("text/xml", adorned.as_str(), "too-many-parts: "),
            (form, many.as_str(), "too-many-parts: "),
            (form, nested.as_str(), "too-many-parts: "),
            (form, "a=%ff", "not-text: "),
        ] {
            let data = of(content_type, body);
            assert_eq!((&**data.content.content_type(), data.rewritten), (OCTETS, false), "{body:.40}");
            assert_eq!(&data.content.bytes()[..], body.as_bytes());
            let reason = data.unread.expect("a reason").to_string();
            assert!(reason.starts_with(why), "{body:.40}: {reason}");
        }
        let image = of("image/png", "\u{1}");
        assert_eq!((&**image.content.content_type(), image.unread), ("image/png", None));
        assert_eq!(&**read(BodyAs::Auto, None, "", &Bytes::from_static(b"x")).content.content_type(), OCTETS);
    }

    /// Counts the nodes of a tree, regardless of the bytes from which each was created.
    fn nodes(node: &Node) -> usize {
        match node {
            Node::Text(_) | Node::Json(_) => 1,
            Node::List(items) => 1 + items.iter().map(nodes).sum::<usize>(),
            Node::Members(members) => 1 + members.values().map(nodes).sum::<usize>(),
        }
    }

    #[test]
    fn every_node_counts_against_the_budget() {
        for body in
            ["a=1", "a=1&a=2&a=3", "a[]=1&a[]=2", "a[b][c][d]=1&a[b][c][e]=2", "a=1&a[b]=2", "a[b]=1&a=2", "a[0][x]=1&a[1][x]=2"]
        {
            let mut parts = Parts::default();
            let value: Value = serde_json::from_str(&form::read(body.as_bytes(), None, &mut parts).unwrap()).unwrap();
            fn count(value: &Value) -> usize {
                match value {
                    Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
                    Value::Object(members) => 1 + members.values().map(count).sum::<usize>(),
                    _ => 1,
                }
            }
            // The root is not counted. Nor is the list that a second field with the same name starts, because it replaces a text.
            let doubled = usize::from(body.starts_with("a=1&a=2") || body == "a[b]=1&a=2");
            assert_eq!(parts.made(), count(&value) - 1 - doubled, "{body}");
        }
        for (body, made) in [("<a/>", 1), ("<a b='1' c='2'><d/><d>x</d></a>", 5)] {
            let mut parts = Parts::default();
            let root = xml::document(body, &mut parts).unwrap();
            assert_eq!(parts.made(), made, "{body}");
            assert!(nodes(&Node::Members(root)) <= 2 * made + 1, "{body}");
        }
    }

    #[test]
    fn a_form_of_brackets_stays_within_the_budget() {
        // 8 MiB, the default limit of a body.
        let body: String = (0..43_000).map(|number| format!("{number:05x}{}=&", "[a]".repeat(form::DEPTH_MAX - 1))).collect();
        let mut parts = Parts::default();
        assert_eq!(form::read(body.as_bytes(), None, &mut parts), Err(Unread::TooManyParts(TooManyParts)));
        assert!(parts.made() <= PARTS_MAX);
        // A deeper name is not divided at all.
        let deep = format!("a{}=1", "[a]".repeat(form::DEPTH_MAX));
        let mut parts = Parts::default();
        form::read(deep.as_bytes(), None, &mut parts).unwrap();
        assert_eq!(parts.made(), 1);
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

    /// Cases: JSON, forms and documents that are not plain UTF-8, or start with a byte-order mark.
    #[test]
    fn bodies_are_read_in_their_charset() {
        let utf16 =
            |text: &str| -> Vec<u8> { [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect() };
        let form = "application/x-www-form-urlencoded";
        let big =
            |text: &str| -> Vec<u8> { [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_be_bytes).collect() };
        for (content_type, body, expected) in [
            ("application/json", b"\xef\xbb\xbf{\"a\":\"\xc3\xa9\"}".to_vec(), json!({ "a": "é" })),
            ("application/json; charset=utf-16", utf16(r#"{"a":"é😀"}"#), json!({ "a": "é😀" })),
            ("application/json", big(r#"{"a":"é"}"#), json!({ "a": "é" })),
            ("application/json; charset=ISO-8859-1", b"{\"a\":\"\xe9\"}".to_vec(), json!({ "a": "é" })),
            ("application/json; charset=ISO-8859-1", "{\"a\":\"é\"}".into(), json!({ "a": "é" })),
            (form, b"\xef\xbb\xbftype=made&b=2".to_vec(), json!({ "type": "made", "b": "2" })),
            (
                "application/x-www-form-urlencoded; charset=windows-1252",
                b"n=Jos%E9&p=%80".to_vec(),
                json!({ "n": "José", "p": "€" }),
            ),
            ("application/x-www-form-urlencoded;charset=\"Shift_JIS\"", b"n=%93%FA%96%7B".to_vec(), json!({ "n": "日本" })),
            (form, b"n=Jos%E9&charset=windows-1252".to_vec(), json!({ "n": "José", "charset": "windows-1252" })),
            (form, b"_charset_=iso-8859-2&n=%B9".to_vec(), json!({ "_charset_": "iso-8859-2", "n": "š" })),
            (form, "n=Jos%C3%A9&charset=windows-1252".into(), json!({ "n": "José", "charset": "windows-1252" })),
            ("text/xml", b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a>\xe9</a>".to_vec(), json!({ "a": "é" })),
            ("text/xml; charset=koi8-r", b"<a>\xc1</a>".to_vec(), json!({ "a": "а" })),
            ("application/xml", utf16("<?xml version=\"1.0\" encoding=\"UTF-16\"?><a>é</a>"), json!({ "a": "é" })),
            ("text/xml; charset=utf-8", "<?xml version='1.0' encoding='ISO-8859-1'?><a>é</a>".into(), json!({ "a": "é" })),
        ] {
            let data = read(BodyAs::Auto, Some(content_type), "", &Bytes::from(body));
            assert_eq!(data.unread, None, "{content_type}");
            let read: Value = serde_json::from_slice(data.content.bytes()).unwrap();
            assert_eq!(read, expected, "{content_type}");
        }
    }

    /// Cases: bodies that are JSON under another content type or none.
    #[test]
    fn recognizes_undeclared_json() {
        let form = Some("application/x-www-form-urlencoded");
        for (content_type, body, is_json) in [
            (None, r#"{"id":"evt_1"}"#, true),
            (None, " [1]", true),
            (Some(""), "{}", true),
            (None, "\u{feff}{}", true),
            (form, r#"{"id":7,"a":"b=c&d"}"#, true),
            (form, "[]", true),
            (form, "{id=7}", false),
            (form, "a={}", false),
            (None, "7", false),
            (None, "{", false),
            (Some("text/plain"), "{}", false),
            (Some("application/octet-stream"), "{}", false),
        ] {
            let data = read(BodyAs::Auto, content_type, "", &Bytes::copy_from_slice(body.as_bytes()));
            let bytes = &data.content.bytes()[..];
            assert_eq!(
                bytes == body.trim_start_matches('\u{feff}').as_bytes() && data.as_json().is_some(),
                is_json,
                "{content_type:?} {body}"
            );
        }
        let document = read(BodyAs::Auto, None, "", &Bytes::from_static(b"<?xml version='1.0'?><a>1</a>"));
        assert_eq!(document.as_json(), Some(r#"{"a":"1"}"#));
    }

    /// Cases: a body with a wrong content type, corrected by the source's setting.
    #[test]
    fn a_source_overrides_the_content_type() {
        let form = "application/x-www-form-urlencoded";
        for (body_as, content_type, body, expected, kind) in [
            (BodyAs::Json, "text/plain; charset=UTF-8", r#"{"Type":"Notification"}"#, r#"{"Type":"Notification"}"#, JSON),
            (BodyAs::Json, "application/vnd.a+json", "{}", "{}", "application/vnd.a+json"),
            (BodyAs::Json, "application/octet-stream", "\u{feff}[1.10]", "[1.10]", JSON),
            (BodyAs::Form, "text/plain", "a=1", r#"{"a":"1"}"#, JSON),
            (BodyAs::Form, "", "a[b]=1", r#"{"a":{"b":"1"}}"#, JSON),
            (BodyAs::Xml, "text/plain", "<a>1</a>", r#"{"a":"1"}"#, JSON),
            (BodyAs::Text, "application/json", "{not json", "{not json", TEXT),
            (BodyAs::Text, form, "a=1", "a=1", TEXT),
            (BodyAs::Bytes, "application/json", "{}", "{}", OCTETS),
            (BodyAs::Bytes, form, "a=1", "a=1", OCTETS),
        ] {
            let data = read(body_as, Some(content_type), "", &Bytes::copy_from_slice(body.as_bytes()));
            assert_eq!(
                (&data.content.bytes()[..], &**data.content.content_type()),
                (expected.as_bytes(), kind),
                "{body_as:?} {body}"
            );
            assert_eq!((data.unread, data.rewritten), (None, body != expected), "{body_as:?} {body}");
        }
        let wrong = read(BodyAs::Json, Some("text/plain"), "", &Bytes::from_static(b"hello"));
        assert_eq!(&**wrong.content.content_type(), OCTETS);
        assert!(matches!(wrong.unread, Some(Unread::NotJson(_))));
        assert!(BodyAs::ALL.iter().all(|one| BodyAs::parse(one.as_str()) == Some(*one)));
    }

    /// Cases: multipart forms of mail services, media servers and browsers.
    #[test]
    fn multipart_forms_become_objects() {
        let part = |headers: &str, body: &str| format!("--x\r\nContent-Disposition: form-data; {headers}\r\n\r\n{body}\r\n");
        let plex = part("name=\"payload\"\r\nContent-Type: application/json", r#"{"event":"media.play","n":1.10}"#);
        let text = part("name=\"from\"", "anna");
        let file = part("name=\"thumb\"; filename=\"a b.jpg\"\r\nContent-Type: image/jpeg", "JPEG\r\n--xy\r\n");
        let empty_file = part("name=file; filename=\"\"\r\ncontent-type: application/octet-stream", "");
        let quoted = part("name=\"a%22b\\\"c\"", "1");
        for (body, expected) in [
            (format!("{plex}{text}--x--\r\n"), r#"{"payload":{"event":"media.play","n":1.10},"from":"anna"}"#),
            (format!("{plex}--x--"), r#"{"event":"media.play","n":1.10}"#),
            (
                format!("{text}{file}--x--"),
                r#"{"from":"anna","thumb":{"filename":"a b.jpg","content_type":"image/jpeg","size":12}}"#,
            ),
            (format!("preamble\r\n{text}--x--\r\nepilogue"), r#"{"from":"anna"}"#),
            (format!("{text}{text}--x--"), r#"{"from":["anna","anna"]}"#),
            (format!("{}{}--x--", part("name=\"a[b]\"", "1"), part("name=\"a[c][]\"", "2")), r#"{"a":{"b":"1","c":["2"]}}"#),
            (format!("{empty_file}--x--"), r#"{"file":{"filename":"","content_type":"application/octet-stream","size":0}}"#),
            (format!("{quoted}--x--"), r#"{"a\"b\"c":"1"}"#),
            (format!("{}--x--", part("name=n\r\nContent-Type: application/json", "{no")), r#"{"n":"{no"}"#),
            ("--x--\r\n".to_owned(), "{}"),
            ("--x  \r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--x--".to_owned(), r#"{"a":""}"#),
        ] {
            let data = of("multipart/form-data; boundary=\"x\"", &body);
            assert_eq!((data.as_json(), &data.unread), (Some(expected), &None), "{body}");
            assert!(data.rewritten);
        }
        let raw = |body: &[u8]| read(BodyAs::Auto, Some("multipart/form-data; boundary=x"), "", &Bytes::copy_from_slice(body));
        let of_charset =
            b"--x\r\nContent-Disposition: form-data; name=a\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n\xe9\r\n--x--";
        assert_eq!(raw(of_charset).as_json(), Some(r#"{"a":"é"}"#));
        let sendgrid = b"--x\r\nContent-Disposition: form-data; name=charsets\r\n\r\n{\"text\":\"iso-8859-1\"}\r\n--x\r\n\
            Content-Disposition: form-data; name=text\r\n\r\n\xe9\r\n--x--";
        assert_eq!(raw(sendgrid).as_json(), Some(r#"{"charsets":"{\"text\":\"iso-8859-1\"}","text":"é"}"#));
        let unknown = b"--x\r\nContent-Disposition: form-data; name=text\r\n\r\n\xe9\r\n--x--";
        assert_eq!(
            raw(unknown).as_json(),
            Some(r#"{"text":{"content_type":"text/plain","size":1}}"#),
            "bytes that are not text are a file"
        );
        let many = format!("{}--x--", part("name=a", "").repeat(PARTS_MAX / 2 + 1));
        assert!(matches!(of("multipart/form-data; boundary=x", &many).unread, Some(Unread::TooManyParts(_))));
    }

    #[test]
    fn a_body_that_grows_as_json_is_stored_as_bytes() {
        let body = format!("a={}", "\u{1}".repeat(GROWTH_SLACK));
        let data = of("application/x-www-form-urlencoded", &body);
        assert_eq!((data.unread, data.rewritten), (Some(Unread::TooLong), false));
    }

    #[test]
    fn without_a_body_the_query_is_read() {
        let data = read(BodyAs::Auto, None, "a=1&b[]=2", &Bytes::new());
        let content = data.content;
        assert_eq!(serde_json::from_slice::<Value>(content.bytes()).unwrap(), json!({ "a": "1", "b": ["2"] }));
        assert_eq!(&**content.content_type(), JSON);
        let nothing = read(BodyAs::Auto, None, "", &Bytes::new()).content;
        assert_eq!((&**nothing.content_type(), nothing.bytes().len()), (JSON, 0));
    }

    proptest! {
        /// For any body: data declared as JSON is JSON, and data that was not rewritten equals the body.
        #[test]
        fn nothing_panics_and_nothing_is_lost(
            kind in prop::sample::select(vec![
                "application/json", "application/xml", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=b",
            ]),
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                "[<>/a-c&;#0-9'\"= !\\[\\]CDAT?-]{0,80}".prop_map(String::into_bytes),
                "((\r\n)?--b(--)?(\r\n)?|content-disposition: form-data; ?|(file)?name=\"?[ab]\"?;?|\r\n){0,10}".prop_map(String::into_bytes),
                "([ab](\\[[ab0]?\\]){0,3}=?[%a-f0-9+]{0,4}&?){0,8}".prop_map(String::into_bytes),
                "(<[ab]( [ab]='[a&;]{0,3}')?/?>|</[ab]>|[xy&;]{0,2}){0,12}".prop_map(String::into_bytes),
            ],
        ) {
            let body = Bytes::from(body);
            let data = read(BodyAs::Auto, Some(kind), "", &body);
            if data.rewritten || !body.is_empty() && is_json(data.content.content_type()) {
                let text = std::str::from_utf8(data.content.bytes()).unwrap();
                prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok(), "{text:?}");
            }
            if !data.rewritten {
                prop_assert_eq!(data.content.bytes(), &body);
            }
        }
    }
}
