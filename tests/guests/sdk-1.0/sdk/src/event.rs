//! What a plugin is given: one event.

use serde::Deserialize;

use crate::{Error, Result};

/// One thing that happened: a CloudEvent, its data exactly as it was received.
///
/// In a test, [`testing::event`](crate::testing) builds one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The sender's id of it; together with [`source`](Self::source) it names the event for ever. The same when the event
    /// is run again, so a good seed for ids of your own.
    pub id: String,
    /// Who says so: a system's name or address.
    pub source: String,
    /// What kind of thing happened: `order.created`. (CloudEvents calls it `type`, which Rust keeps to itself.)
    pub event_type: String,
    /// What it happened to, if the sender said so.
    pub subject: Option<String>,
    /// When, in RFC 3339. A plugin has no clock: this is its time.
    pub time: String,
    /// What `data` is: `application/json`, most often.
    pub content_type: String,
    /// The payload, byte for byte.
    pub data: Vec<u8>,
    /// Extension attributes, such as `channel` and `initiator`; [`attribute`](Self::attribute) looks one up.
    pub attributes: Vec<(String, String)>,
}

impl Event {
    /// The extension attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Reads the data as JSON, whatever the content type says. Text may be borrowed from the event.
    ///
    /// # Errors
    ///
    /// `bad-payload`, not retryable, when it is not JSON or not of that shape.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(&self.data).map_err(|error| self.bad_payload(error))
    }

    /// The data as text.
    ///
    /// # Errors
    ///
    /// `bad-payload`, not retryable, when it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.data).map_err(|error| self.bad_payload(error))
    }

    fn bad_payload(&self, error: impl std::fmt::Display) -> Error {
        Error::permanent("bad-payload", format!("the data of this {} event is not as expected: {error}", self.event_type))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    #[test]
    fn json_may_borrow_from_the_event() {
        #[derive(Deserialize)]
        struct Order<'a> {
            country: &'a str,
        }
        let event = testing::event("order.created").json(json!({ "country": "IT" })).build();
        assert_eq!(event.json::<Order>().unwrap().country, "IT");
    }

    #[test]
    fn data_of_another_shape_is_a_permanent_failure_that_names_the_event_type() {
        let event = testing::event("order.created").json(json!({ "id": "seven" })).build();
        let error = event.json::<std::collections::BTreeMap<String, u64>>().unwrap_err();
        assert_eq!((error.code.as_str(), error.retryable), ("bad-payload", false));
        assert!(error.message.contains("order.created") && error.message.contains("line 1 column 13"), "{}", error.message);
    }

    #[test]
    fn data_that_is_not_utf8_is_no_text() {
        let event = testing::event("file.received").data("application/octet-stream", [0xff, 0xfe]).build();
        assert_eq!(event.text().unwrap_err().code, "bad-payload");
        assert_eq!(testing::event("note").data("text/plain", "ciao").build().text().unwrap(), "ciao");
    }

    #[test]
    fn attributes_are_found_by_name() {
        let event = testing::event("mail.sent").attribute("channel", "newsletter").build();
        assert_eq!(event.attribute("channel"), Some("newsletter"));
        assert_eq!(event.attribute("initiator"), None);
    }
}
