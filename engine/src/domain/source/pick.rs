//! A place in a request: a header, a place in the body, or a constant (`header:x-github-event`, `body:/type`,
//! `constant:order.created`).

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::verify::Incoming;

/// A place in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The value of the first of these headers that the request has. Names are in lower case.
    Header(Vec<String>),
    Body(Path),
    Constant(String),
}

/// A place in JSON: the names of members and the numbers of items that lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<String>);

/// Maximum length of a pick's text, in bytes.
const LEN_MAX: usize = 256;

impl Pick {
    /// Parses a pick, or explains what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?} is not a place in a request; write header:NAME, body:/POINTER (or body:$.path) or constant:TEXT, {LEN_MAX} \
                 characters at most"
            )
        };
        if text.len() > LEN_MAX || text.bytes().any(|c| c.is_ascii_control()) {
            return Err(bad());
        }
        match text.split_once(':') {
            Some(("header", names)) if names.split(',').all(|name| !name.is_empty()) => {
                Ok(Self::Header(names.split(',').map(str::to_ascii_lowercase).collect()))
            }
            Some(("body", path)) => Path::parse(path).map(Self::Body).ok_or_else(bad),
            Some(("constant", text)) if !text.is_empty() => Ok(Self::Constant(text.to_owned())),
            _ => Err(bad()),
        }
    }

    /// Returns the text at the place. `data` is the event's data as JSON. Numbers and booleans are returned as text, as they were
    /// written.
    pub fn from<'a>(&'a self, request: &Incoming<'a>, data: Option<&'a str>) -> Option<Cow<'a, str>> {
        let found = match self {
            Self::Header(names) => Cow::Borrowed(names.iter().find_map(|name| request.header(name))?),
            Self::Body(path) => path.find(data?)?,
            Self::Constant(text) => Cow::Borrowed(text.as_str()),
        };
        (!found.is_empty()).then_some(found)
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(names) => write!(f, "header:{}", names.join(",")),
            Self::Body(path) => write!(f, "body:{path}"),
            Self::Constant(text) => write!(f, "constant:{text}"),
        }
    }
}

impl Path {
    /// Parses a JSON pointer (RFC 6901), or a simple JSONPath such as `$.order.lines[0].sku`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix('$') {
            let path = path.replace('[', ".").replace(']', "");
            let names = path.strip_prefix('.')?.split('.').map(|name| name.trim_matches(['\'', '"']).to_owned());
            let names: Vec<String> = names.collect();
            return (!names.iter().any(String::is_empty)).then_some(Self(names));
        }
        let names = text.strip_prefix('/')?.split('/');
        Some(Self(names.map(|name| name.replace("~1", "/").replace("~0", "~")).collect()))
    }

    /// Returns the name if the path has only one step.
    pub fn only_step(&self) -> Option<&str> {
        match self.0.as_slice() {
            [name] => Some(name),
            _ => None,
        }
    }

    /// Returns the scalar at the place; `None` if there is none. The rest of the JSON is read, but not stored.
    pub fn find<'a>(&self, json: &'a str) -> Option<Cow<'a, str>> {
        let mut place = json;
        for name in &self.0 {
            let mut reader = serde_json::Deserializer::from_str(place);
            place = Step(name).deserialize(&mut reader).ok()??.get();
        }
        match place.as_bytes().first()? {
            b'"' => match serde_json::from_str::<&str>(place) {
                Ok(plain) => Some(plain.into()),
                // Half a surrogate is valid JSON but not text; it is replaced.
                Err(_) => serde_json::from_str::<Name<'_>>(place).ok().map(|Name(text)| text),
            },
            b'{' | b'[' | b'n' => None,
            _ => Some(place.into()),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|name| write!(f, "/{}", name.replace('~', "~0").replace('/', "~1")))
    }
}

/// One step into JSON: the member with this name, or the item with this number.
struct Step<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Name(name)) = map.next_key()? {
            // If two members have the same name, the last one counts, as in most JSON parsers.
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let wanted: Option<usize> = self.0.parse().ok();
        let mut found = None;
        for place in 0.. {
            if Some(place) == wanted {
                found = items.next_element()?;
            } else if items.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
        }
        Ok(found)
    }
}

/// Text, borrowed unless it has escapes. It is read as bytes, because serde_json refuses half a surrogate as text. A member with
/// such a name must not hide the other members.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_borrowed_bytes<E>(self, name: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Name(String::from_utf8_lossy(name)))
            }
            fn visit_bytes<E>(self, name: &[u8]) -> Result<Self::Value, E> {
                Ok(Name(String::from_utf8_lossy(name).into_owned().into()))
            }
        }
        deserializer.deserialize_bytes(Text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pick(text: &str, json: &str) -> Option<String> {
        let headers = [("x-topic".to_owned(), "order.created".to_owned())];
        let request = Incoming { method: "POST", url: "", query: "", headers: &headers, body: b"" };
        Pick::parse(text).unwrap().from(&request, Some(json)).map(Cow::into_owned)
    }

    #[test]
    fn places_are_found() {
        let json = r#"{"type":"a","n":1.50,"b":true,"\u0065":{"x/y":["p",{"q":"r\n"}]},"z":null,"o":{},"type":"last"}"#;
        for (text, found) in [
            ("header:X-Topic", Some("order.created")),
            ("header:x-none", None),
            ("header:x-none,X-Topic", Some("order.created")),
            ("constant:a:b", Some("a:b")),
            ("body:/type", Some("last")),
            ("body:$.n", Some("1.50")),
            ("body:/b", Some("true")),
            ("body:/e/x~1y/0", Some("p")),
            ("body:/e/x~1y/1/q", Some("r\n")),
            ("body:$.e['x/y'][1].q", Some("r\n")),
            ("body:/e/x~1y/2", None),
            ("body:/z", None),
            ("body:/o", None),
            ("body:/type/deeper", None),
        ] {
            assert_eq!(pick(text, json).as_deref(), found, "{text}");
        }
        for (json, found) in [
            (r#"{"\ud83d":1,"type":"a"}"#, Some("a")),
            (r#"{"deep":["\udc00"],"type":"a"}"#, Some("a")),
            (r#"{"big":123456789012345678901234567890,"type":1e999}"#, Some("1e999")),
            (r#"{"type":"\ud83dx"}"#, Some("\u{fffd}\u{fffd}\u{fffd}x")),
            (r#"{"type":-0.10}"#, Some("-0.10")),
            (r#"{"TYPE":1,"type":{"a":1}}"#, None),
        ] {
            assert_eq!(pick("body:/type", json).as_deref(), found, "{json}");
        }
        for bad in
            ["", "type", "header:", "header:a,", "body:type", "body:$", "body:$.a..b", "constant:", "query:a", "constant:a\nb"]
        {
            assert!(Pick::parse(bad).is_err(), "{bad}");
        }
        for text in ["header:x-topic", "header:x-topic,topic", "body:/e/x~1y/1/q", "constant:a:b"] {
            assert_eq!(Pick::parse(text).unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn no_path_and_no_json_panics(path in "(/[a~01/\\[]{0,3}){1,4}", json in "[\\[{\"a:,1}\\] ]{0,30}") {
            if let Ok(Pick::Body(path)) = Pick::parse(&format!("body:{path}")) {
                let _ = path.find(&json);
            }
        }
    }
}
