//! One new event.

use serde::Serialize;

use crate::Result;

/// A new event, which goes through plugins and subscriptions as any other, and knows the event that caused it.
///
/// A chain of events that cause events may be 8 deep; a loop ends in a failure that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Emit {
    /// What kind of thing happened: `contact.unreachable`.
    pub event_type: String,
    /// What it happened to.
    pub subject: Option<String>,
    /// What `data` is.
    pub content_type: String,
    /// The payload, byte for byte.
    pub data: Vec<u8>,
    /// Extension attributes, which subscriptions can select by.
    pub attributes: Vec<(String, String)>,
}

impl Emit {
    /// An event of this type (letters, digits, dots, dashes and underscores), without data until some is given.
    pub fn new(event_type: impl Into<String>) -> Self {
        Self {
            event_type: event_type.into(),
            subject: None,
            content_type: "application/octet-stream".to_owned(),
            data: Vec::new(),
            attributes: Vec::new(),
        }
    }

    /// Says what it happened to.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets the data to this value as JSON.
    ///
    /// # Errors
    ///
    /// `bad-payload` for what JSON cannot say, such as a map whose keys are not text. `json!({…})` never fails.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(self.data("application/json", serde_json::to_vec(value)?))
    }

    /// Sets the data to these bytes.
    pub fn data(mut self, content_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.content_type = content_type.into();
        self.data = bytes.into();
        self
    }

    /// Adds an extension attribute. CloudEvents wants its name in lower-case letters and digits.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_emitted_event_says_what_it_was_told() {
        let emit = Emit::new("contact.unreachable")
            .subject("anna@example.com")
            .json(&json!({ "bounces": 3 }))
            .unwrap()
            .attribute("channel", "newsletter");
        assert_eq!(emit.event_type, "contact.unreachable");
        assert_eq!(emit.subject.as_deref(), Some("anna@example.com"));
        assert_eq!((emit.content_type.as_str(), emit.data.as_slice()), ("application/json", br#"{"bounces":3}"#.as_slice()));
        assert_eq!(emit.attributes, [("channel".to_owned(), "newsletter".to_owned())]);
    }
}
