//! The body of a webhook that goes to a subscriber without a plugin in between: `{"type", "timestamp", "data"}`, as Standard
//! Webhooks 1.0 suggests ("Payload structure").

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::event::Event;

/// The content type of what [`standard`] makes.
pub const CONTENT_TYPE: &str = "application/json";

/// Writes the standard body. JSON data stands in it byte for byte; text becomes a string; anything else becomes `data_base64`
/// (the member that the JSON format of CloudEvents 1.0 has for it).
pub fn standard(event: &Event) -> Vec<u8> {
    let data = &event.new.data;
    let mut body = Vec::with_capacity(data.len() + event.new.event_type.len() + 64);
    body.extend_from_slice(b"{\"type\":");
    push_string(&mut body, &event.new.event_type);
    body.extend_from_slice(b",\"timestamp\":");
    push_string(&mut body, &event.time());
    if is_json(&event.new.content_type) {
        body.extend_from_slice(b",\"data\":");
        body.extend_from_slice(if data.is_empty() { b"null" } else { data });
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

/// Whether a content type is JSON: `application/json`, `text/json`, or any with the suffix `+json`.
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || essence.eq_ignore_ascii_case("text/json")
        || essence.len() > 5
            && essence.is_char_boundary(essence.len() - 5)
            && essence[essence.len() - 5..].eq_ignore_ascii_case("+json")
}

fn push_string(body: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(body, text).expect("a string is always JSON, and a vector takes every byte");
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::{event::NewEvent, id::EventId, name::EventType, time::Timestamp};

    fn body(content_type: &str, data: &'static [u8]) -> Vec<u8> {
        standard(&Event {
            id: EventId::from_i64(1),
            accepted_at: Timestamp::from_millis(1_614_265_330_042),
            new: NewEvent {
                id: None,
                source: "shop".into(),
                event_type: EventType::parse("order.created").unwrap(),
                subject: None,
                time: None,
                content_type: content_type.into(),
                data: Bytes::from_static(data),
                attributes: Default::default(),
                depth: 0,
                cause: None,
            },
        })
    }

    #[test]
    fn json_stands_byte_for_byte() {
        let body = body("application/json", br#"{"z": 1.50, "a":  [true]}"#);
        let text = String::from_utf8(body).unwrap();
        assert_eq!(text, r#"{"type":"order.created","timestamp":"2021-02-25T15:02:10.042Z","data":{"z": 1.50, "a":  [true]}}"#);
    }

    #[test]
    fn what_is_not_json_is_still_carried() {
        let parse = |body: Vec<u8>| serde_json::from_slice::<Value>(&body).unwrap();
        assert_eq!(parse(body("text/plain", b"say \"hi\""))["data"], json!("say \"hi\""));
        assert_eq!(parse(body("image/png", b"\xff\x00"))["data_base64"], json!("/wA="));
        assert_eq!(parse(body("application/json", b""))["data"], Value::Null);
    }

    #[test]
    fn json_content_types() {
        for (content_type, expected) in [
            ("application/json", true),
            ("application/vnd.github+JSON; charset=utf-8", true),
            ("text/plain", false),
            ("é+json", true),
            ("ééé", false),
        ] {
            assert_eq!(is_json(content_type), expected, "{content_type}");
        }
    }
}
