//! The input of a plugin: one event.

use serde::Deserialize;

use crate::{Error, Result, Time};

/// One thing that happened: a CloudEvent, with its data exactly as received.
///
/// In a test, [`testing::event`](crate::testing) builds one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The id that the sender gave to the event; if it gave none, the engine's id. Unique together with [`source`](Self::source).
    /// It stays the same when the event runs again, so you can derive ids from it.
    pub id: String,
    /// The sender: name or address of a system.
    pub source: String,
    /// Type of the event: `order.created`. (CloudEvents calls it `type`, a keyword in Rust.)
    pub event_type: String,
    /// Subject of the event, if the sender gave one.
    pub subject: Option<String>,
    /// Time of the event in RFC 3339: the sender's time, or the time of acceptance if the sender gave none. An event from a source
    /// has the time at which its request was accepted. A plugin has no clock; it uses this time, or
    /// [`accepted_at`](Self::accepted_at).
    pub time: String,
    /// Content type of `data`, usually `application/json`.
    pub content_type: String,
    /// The payload, byte for byte.
    pub data: Vec<u8>,
    /// Extension attributes, such as `channel` and `initiator`; [`attribute`](Self::attribute) looks one up.
    pub attributes: Vec<(String, String)>,
}

impl Event {
    /// Returns the time of the event as a [`Time`], which has the year, the hour and the other parts.
    ///
    /// # Errors
    ///
    /// `bad-time` if the time is not RFC 3339, which never happens for an event from an engine.
    pub fn time(&self) -> Result<Time> {
        Time::parse(&self.time)
    }

    /// Returns the time at which the engine accepted the event as a [`Time`], in UTC.
    ///
    /// # Errors
    /// See [`time`](Self::time).
    pub fn accepted_time(&self) -> Result<Time> {
        Time::parse(self.accepted_at())
    }

    /// Returns the time at which the engine accepted the event, in RFC 3339. A sender cannot choose this time.
    pub fn accepted_at(&self) -> &str {
        self.attribute("innesco.accepted-at").unwrap_or(&self.time)
    }

    /// Returns the extension attribute of this name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns a header of the request from which a source created the event. The name is in lower case. Headers with credentials
    /// are not stored.
    pub fn header(&self, name: &str) -> Option<&str> {
        let of = |(key, _): &&(String, String)| key.strip_prefix("http.header.") == Some(name);
        self.attributes.iter().find(of).map(|(_, value)| value.as_str())
    }

    /// Returns the query of the request from which a source created the event: the part of the address after the question mark.
    pub fn query(&self) -> Option<&str> {
        self.attribute("http.query")
    }

    /// Returns the received body of the request from which a source created the event. Returns `None` if the data is that body:
    /// forms and XML become JSON data, so there the two differ.
    pub fn raw_body(&self) -> Option<&str> {
        self.attribute("http.body")
    }

    /// Reads the data as JSON, regardless of the content type. The value may borrow text from the event.
    ///
    /// # Errors
    ///
    /// `bad-payload`, not retryable, if the data is not JSON or has another shape.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(&self.data).map_err(|error| self.bad_payload(error))
    }

    /// Returns the data as text.
    ///
    /// # Errors
    ///
    /// `bad-payload`, not retryable, if the data is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.data).map_err(|error| self.bad_payload(error))
    }

    fn bad_payload(&self, error: impl std::fmt::Display) -> Error {
        if self.data.is_empty() {
            return Error::permanent("bad-payload", format!("this {} event has no data", self.event_type));
        }
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
    fn missing_data_is_named() {
        let event = testing::event("order.created").data("application/json", Vec::new()).build();
        assert_eq!(event.json::<serde_json::Value>().unwrap_err().message, "this order.created event has no data");
    }

    #[test]
    fn text_fails_for_data_that_is_not_utf8() {
        let event = testing::event("file.received").data("application/octet-stream", [0xff, 0xfe]).build();
        assert_eq!(event.text().unwrap_err().code, "bad-payload");
        assert_eq!(testing::event("note").data("text/plain", "ciao").build().text().unwrap(), "ciao");
    }

    #[test]
    fn exposes_the_request_of_a_source() {
        let event = testing::event("shop.received")
            .attribute("http.method", "POST")
            .attribute("http.query", "a=1")
            .attribute("http.header.x-topic", "order")
            .attribute("http.body", "b=2")
            .build();
        assert_eq!((event.header("x-topic"), event.query(), event.raw_body()), (Some("order"), Some("a=1"), Some("b=2")));
        let bare = testing::event("order.created").build();
        assert_eq!((bare.header("x-topic"), bare.query(), bare.raw_body()), (None, None, None));
    }

    #[test]
    fn the_time_of_acceptance_is_not_the_senders() {
        let own = testing::event("order.created").time("2020-01-01T00:00:00Z").accepted_at("2026-01-02T03:04:05Z").build();
        assert_eq!((own.time.as_str(), own.accepted_at()), ("2020-01-01T00:00:00Z", "2026-01-02T03:04:05Z"));
        let without = testing::event("order.created").build();
        assert_eq!(without.accepted_at(), without.time);
        assert_eq!((own.time().unwrap().year(), own.accepted_time().unwrap().year()), (2020, 2026));
    }

    #[test]
    fn attributes_are_found_by_name() {
        let event = testing::event("mail.sent").attribute("channel", "newsletter").build();
        assert_eq!(event.attribute("channel"), Some("newsletter"));
        assert_eq!(event.attribute("initiator"), None);
    }
}
