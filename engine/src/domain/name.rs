//! Names: slugs, event types and attributes. They are parsed once, at the boundary, and trusted afterwards.

use std::{fmt, ops::Deref, sync::Arc};

/// A name that breaks its rule. The text of this error follows the field's name in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadName(pub String);

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name!(
    /// The name of an endpoint, a plugin or a source. It never changes, because plugins and addresses refer to it.
    Slug
);

impl Slug {
    pub const LEN_MAX: usize = 64;

    pub fn parse(text: &str) -> Result<Self, BadName> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
        if text.is_empty() || text.len() > Self::LEN_MAX || !text.bytes().all(allowed) || text.starts_with(['-', '_']) {
            return Err(BadName(format!(
                "{text:?} is not a name: use 1 to {} lower-case letters, digits, dashes and underscores, starting with a letter or digit",
                Self::LEN_MAX
            )));
        }
        Ok(Self(text.into()))
    }
}

name!(
    /// An event type: `order.created`.
    EventType
);

impl EventType {
    pub const LEN_MAX: usize = 255;
    /// The rule as a regular expression, for the OpenAPI document.
    pub const PATTERN: &str = r"[A-Za-z0-9._~:/?#\[\]@!$&'()+;=%-]+";

    /// CloudEvents allows any text. This function accepts only the characters of a URI (RFC 3986), without `*` (for patterns) and
    /// `,` (for lists). Every header, log and command line can carry these characters unchanged.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._~:/?#[]@!$&'()+;=%-".contains(&c);
        if text.is_empty() || text.len() > Self::LEN_MAX || !text.bytes().all(allowed) {
            return Err(BadName(format!(
                "{text:?} is not an event type: use letters, digits and the other characters of a URI, except * and the comma, {} at most",
                Self::LEN_MAX
            )));
        }
        Ok(Self(text.into()))
    }

    /// Returns whether it has only usual characters: letters, digits, dots, dashes and underscores.
    pub fn is_plain(&self) -> bool {
        self.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'))
    }

    /// Returns whether this is the type of an operational event. Only the engine may send such events.
    pub fn is_ours(&self) -> bool {
        self.starts_with("innesco.")
    }
}

/// Extension attributes of an event, in their original order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub Vec<(String, String)>);

impl Attributes {
    /// Maximum number of attributes of an event.
    pub const COUNT_MAX: usize = 32;
    pub const NAME_LEN_MAX: usize = 64;
    pub const VALUE_LEN_MAX: usize = 1024;
    /// Names of an event's own members in CloudEvents 1.0: an extension with such a name would appear twice in JSON.
    pub const TAKEN: [&str; 8] = ["id", "source", "specversion", "type", "subject", "time", "datacontenttype", "data"];

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Adds an attribute if it follows the rules of CloudEvents 1.0 ("Attribute naming convention") and the limits above.
    pub fn push(&mut self, name: &str, value: String) -> Result<(), BadName> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        if name.is_empty() || name.len() > Self::NAME_LEN_MAX || !name.bytes().all(allowed) {
            return Err(BadName(format!(
                "{name:?} is not an attribute name: use lower-case letters and digits, {} at most",
                Self::NAME_LEN_MAX
            )));
        }
        if Self::TAKEN.contains(&name) {
            return Err(BadName(format!("{name:?} is a member of every event, not an attribute")));
        }
        if value.len() > Self::VALUE_LEN_MAX || value.bytes().any(|c| c.is_ascii_control()) {
            return Err(BadName(format!(
                "the value of attribute {name:?} must be text of at most {} bytes without control characters",
                Self::VALUE_LEN_MAX
            )));
        }
        if self.get(name).is_some() {
            return Err(BadName(format!("attribute {name:?} is given twice")));
        }
        if self.0.len() == Self::COUNT_MAX {
            return Err(BadName(format!("an event has at most {} attributes", Self::COUNT_MAX)));
        }
        self.0.push((name.to_owned(), value));
        Ok(())
    }
}

/// Returns the known name that is most similar to a mistyped name, for helpful errors.
///
/// The work is bounded: it skips texts that are not names, and compares at most [`COMPARED_MAX`] names.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Comparing two names of usual length takes half a microsecond, so a search ends within about 1 ms.
    const COMPARED_MAX: usize = 2_000;
    if typed.len() > Slug::LEN_MAX {
        return None;
    }
    known
        .into_iter()
        .take(COMPARED_MAX)
        .map(|name| (strsim::jaro_winkler(typed, name), name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|(one, _), (two, _)| one.total_cmp(two))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs() {
        for good in ["crm", "sales-slack", "a_1", "7up"] {
            assert!(Slug::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "CRM", "a b", "-a", "é", &"x".repeat(65)] {
            assert!(Slug::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn event_types() {
        for good in ["order.created", "com.github.pull_request.opened", "A-1"] {
            assert!(EventType::parse(good).unwrap().is_plain(), "{good}");
        }
        for uri in [
            "https://shop.example/types/order?v=2#created",
            "order:created",
            "com.example/v2",
            "urn:a:b+c",
            "a@[b](c)'d'%20;e=f&g!~$",
        ] {
            assert!(!EventType::parse(uri).unwrap().is_plain(), "{uri}");
        }
        for bad in ["", "order created", "order.*", "a,b", "a\"b", "a\\b", "<a>", "é", "a\nb", "a|b", "{a}", &"x".repeat(256)] {
            assert!(EventType::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn attributes_are_ordered_and_limited() {
        let mut attributes = Attributes::default();
        attributes.push("channel", "newsletter".into()).unwrap();
        assert!(attributes.push("channel", "again".into()).is_err());
        assert!(attributes.push("Channel", "x".into()).is_err());
        assert!(attributes.push("type", "x".into()).is_err(), "an event already has a type");
        assert!(attributes.push("b", "line\nbreak".into()).is_err());
        assert_eq!(attributes.get("channel"), Some("newsletter"));
    }

    #[test]
    fn finds_a_similar_name() {
        let known = ["sales-slack", "crm", "mailer"];
        assert_eq!(nearest("sales-slak", known), Some("sales-slack"));
        assert_eq!(nearest("zzz", known), None);
    }

    #[test]
    fn the_search_for_a_similar_name_is_bounded() {
        let long = "x".repeat(60_000);
        assert_eq!(nearest(&long, [&*long]), None, "a text that is not a name is not compared");
        let compared = std::cell::Cell::new(0);
        let known = std::iter::repeat_n("sales", 10_000).inspect(|_| compared.set(compared.get() + 1));
        assert_eq!(nearest("sale", known), Some("sales"));
        assert_eq!(compared.get(), 2_000);
    }
}
