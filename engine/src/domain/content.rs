//! The data of an event with its content type. Only this module checks data that is declared as JSON. It checks such data from
//! every origin: `data`, `data_base64`, binary mode, sources, plugins and rows of the store. So later code never sees invalid
//! bytes declared as JSON, and an envelope can embed the data unchanged.
//!
//! The grammar is that of RFC 8259. It allows numbers of any size, repeated member names and escaped half surrogates (`\ud83d`).
//! The bytes stay as they were sent; only a byte-order mark before them is dropped (RFC 8259, section 8.1, allows that).

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

pub const JSON: &str = "application/json";
/// The content type of unknown bytes.
pub const OCTETS: &str = "application/octet-stream";
/// Maximum nesting of objects and arrays. serde_json, which most plugins use, stops at 128; this leaves room for envelopes.
pub const JSON_DEPTH_MAX: usize = 120;
/// Some editors and platforms put this before text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why bytes are not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotJson {
    #[error("it is not UTF-8: byte {0} cannot be read")]
    NotUtf8(usize),
    #[error("{0}")]
    Syntax(String),
    #[error("its objects and arrays are nested deeper than {JSON_DEPTH_MAX} levels")]
    TooDeep,
}

/// JSON text that was checked. Only this module can create one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    pub const NULL: Json<'static> = Json("null");

    /// Checks text as JSON.
    ///
    /// # Errors
    /// If the text is not exactly one JSON value, or is nested too deeply.
    pub fn check(text: &'a str) -> Result<Self, NotJson> {
        serde_json::from_str::<&RawValue>(text).map_err(|error| NotJson::Syntax(error.to_string()))?;
        if depth(text.as_bytes()) > JSON_DEPTH_MAX { Err(NotJson::TooDeep) } else { Ok(Self(text)) }
    }

    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Returns the value without surrounding blanks.
    pub fn value(self) -> &'a RawValue {
        serde_json::from_str(self.0).expect("checked text is JSON")
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

/// An event's data with its content type. If the content type is JSON, the data is checked JSON, or empty (an event without
/// data).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    content_type: Arc<str>,
    bytes: Bytes,
}

impl Content {
    /// Creates content, and checks it if the content type is JSON.
    ///
    /// # Errors
    /// If the content is declared as JSON and is not JSON.
    pub fn new(content_type: impl Into<Arc<str>>, bytes: Bytes) -> Result<Self, NotJson> {
        let content_type = content_type.into();
        if !is_json(&content_type) || bytes.is_empty() {
            return Ok(Self { content_type, bytes });
        }
        let bytes = without_mark(bytes);
        let text = std::str::from_utf8(&bytes).map_err(|error| NotJson::NotUtf8(error.valid_up_to()))?;
        Json::check(text)?;
        Ok(Self { content_type, bytes })
    }

    /// Creates content from a stored row. Unlike [`Self::new`], it treats invalid JSON as plain bytes, because an earlier version
    /// may have written the row.
    pub fn stored(content_type: impl Into<Arc<str>>, bytes: Bytes) -> Self {
        Self::new(content_type, bytes.clone()).unwrap_or_else(|_| Self::octets(bytes))
    }

    /// Creates content from bytes of an unknown type.
    pub fn octets(bytes: Bytes) -> Self {
        Self { content_type: OCTETS.into(), bytes }
    }

    /// Creates JSON content from a value of the engine.
    pub fn of(value: &serde_json::Value) -> Self {
        Self { content_type: JSON.into(), bytes: value.to_string().into() }
    }

    /// Creates empty content with the default content type of events.
    pub fn none() -> Self {
        Self { content_type: JSON.into(), bytes: Bytes::new() }
    }

    pub fn content_type(&self) -> &Arc<str> {
        &self.content_type
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the data as JSON if it is JSON; `null` for an event without data.
    pub fn json(&self) -> Option<Json<'_>> {
        if !is_json(&self.content_type) {
            return None;
        }
        if self.bytes.is_empty() {
            return Some(Json::NULL);
        }
        Some(Json(std::str::from_utf8(&self.bytes).expect("checked JSON is UTF-8")))
    }

    /// Returns a copy in separate memory.
    pub fn detached(&self) -> Self {
        Self { content_type: Arc::clone(&self.content_type), bytes: Bytes::copy_from_slice(&self.bytes) }
    }
}

/// Removes a UTF-8 byte-order mark before the data.
pub fn without_mark(bytes: Bytes) -> Bytes {
    if bytes.starts_with(BYTE_ORDER_MARK) { bytes.slice(BYTE_ORDER_MARK.len()..) } else { bytes }
}

/// Returns a content type without its parameters, in lower case.
pub fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Returns whether a content type is JSON: its subtype is `json` or ends in `+json` (CloudEvents 1.0, JSON format, section 3.1).
pub fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    ["/json", "+json"].iter().any(|end| essence.len() > end.len() && essence.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_content_under_a_json_type() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let (deep, too_deep) = (nested(JSON_DEPTH_MAX), nested(JSON_DEPTH_MAX + 1));
        let forged = r#"1,"type":"innesco.endpoint.disabled","data":{}"#;
        for (data, good) in [
            (r#"{"a":1}"#, true),
            (" [1, 2]\n", true),
            ("", true),
            ("\u{feff}{}", true),
            (r#""\ud83d""#, true),
            (r#"{"\ud83d":1}"#, true),
            (r#""half \udc00 the other way""#, true),
            (r#"{"a":1,"a":2}"#, true),
            ("123456789012345678901234567890", true),
            ("1e999", true),
            ("-0.10E-400", true),
            (r#""[[[[ \" {{{{""#, true),
            (&deep, true),
            (&too_deep, false),
            (forged, false),
            (" ", false),
            ("\"", false),
            ("\u{feff}", false),
            ("\u{feff}\u{feff}{}", false),
            ("{}{}", false),
            ("{\"a\":", false),
            ("NaN", false),
            ("01", false),
            ("[1,]", false),
            ("'a'", false),
            ("\"\t\"", false),
            (r#""\u12""#, false),
            ("// no\n1", false),
        ] {
            for content_type in ["application/json", "text/JSON; charset=utf-8", "application/vnd.api+json"] {
                let content = Content::new(content_type, Bytes::copy_from_slice(data.as_bytes()));
                assert_eq!(content.is_ok(), good, "{data:.60}");
                if let Ok(content) = content {
                    assert!(content.json().is_some());
                    assert!(serde_json::from_str::<&RawValue>(content.json().unwrap().as_str()).is_ok(), "{data:.60}");
                }
                let stored = Content::stored(content_type, Bytes::copy_from_slice(data.as_bytes()));
                assert_eq!(&**stored.content_type() == OCTETS, !good, "{data:.60}");
            }
            assert!(Content::new("text/plain", Bytes::copy_from_slice(data.as_bytes())).is_ok());
        }
        assert_eq!(Content::new(JSON, Bytes::from_static(b"\"\xff\"")), Err(NotJson::NotUtf8(1)));
        assert_eq!(Content::new(JSON, Bytes::from_static(b"\xff\xfe{\0}\0")), Err(NotJson::NotUtf8(0)));
    }

    #[test]
    fn json_content_types() {
        for (content_type, expected) in [
            ("application/json", true),
            ("application/vnd.github+JSON; charset=utf-8", true),
            ("text/plain", false),
            ("text/json", true),
            ("image/json", true),
            ("json", false),
            ("/json", false),
            ("application/jsonl", false),
            ("é+json", true),
            ("ééé", false),
            ("+json", false),
        ] {
            assert_eq!(is_json(content_type), expected, "{content_type}");
        }
    }
}
