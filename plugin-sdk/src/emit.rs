//! A new event that a plugin emits.

use std::time::Duration;

use serde::Serialize;

use crate::Result;

/// A new event, which reaches plugins and subscriptions like any other. The engine records which event caused it.
///
/// A chain in which each event caused the next may have 8 events; a longer chain fails with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Emit {
    /// Type of the event: `contact.unreachable`.
    pub event_type: String,
    /// Subject of the event, such as a customer's id.
    pub subject: Option<String>,
    /// Content type of `data`.
    pub content_type: String,
    /// The payload, byte for byte.
    pub data: Vec<u8>,
    /// Extension attributes; subscriptions can filter by them.
    pub attributes: Vec<(String, String)>,
    /// Time from the run to the event. If it is `None`, the event takes place at once.
    pub after: Option<Duration>,
}

impl Emit {
    /// Creates an event of this type, without data. A type has letters, digits and the other characters of a URI, except `*` and
    /// the comma.
    pub fn new(event_type: impl Into<String>) -> Self {
        Self {
            event_type: event_type.into(),
            subject: None,
            content_type: "application/octet-stream".to_owned(),
            data: Vec::new(),
            attributes: Vec::new(),
            after: None,
        }
    }

    /// Sets the subject.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets the data to this value as JSON.
    ///
    /// # Errors
    ///
    /// `bad-payload` if JSON cannot represent the value, such as a map whose keys are not text. `json!({…})` never fails.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(self.data("application/json", serde_json::to_vec(value)?))
    }

    /// Sets the data to these bytes.
    pub fn data(mut self, content_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.content_type = content_type.into();
        self.data = bytes.into();
        self
    }

    /// Adds an extension attribute. CloudEvents requires lower-case letters and digits for its name.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// Lets the event take place this long after the run, up to 30 days. Use it for a reminder, an escalation or a check. The
    /// engine stores the event with the run. When the event is due, it goes to the plugins and endpoints that exist then. If the
    /// event that this plugin handles is cancelled (`innesco event cancel`), the later event is cancelled too.
    ///
    /// ```
    /// # use innesco_sdk::prelude::*;
    /// # use std::time::Duration;
    /// let reminder = Emit::new("invoice.reminder").subject("7").after(Duration::from_secs(3 * 24 * 60 * 60));
    /// ```
    pub fn after(mut self, duration: Duration) -> Self {
        self.after = Some(duration);
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_emitted_event_holds_its_parts() {
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
