//! Events as JSON in a file: as `POST /v1/events` takes them, or as `innesco event show --json` prints them. Data is read byte
//! for byte.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, anyhow, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    api, clock,
    domain::{
        content::{Content, is_json},
        event::{Event, NewEvent},
        id::EventId,
        name::{Attributes, EventType},
        request::Request,
        time::Timestamp,
    },
    wire::{RecordedEventView, RequestView},
};

/// Reads one event.
///
/// # Errors
/// If the bytes are not an event. The error names the reason.
pub fn read(bytes: Vec<u8>) -> anyhow::Result<Event> {
    if bytes.trim_ascii().is_empty() {
        bail!("it is empty");
    }
    if let Ok(stored) = serde_json::from_slice::<Stored<'_>>(&bytes) {
        return stored.event();
    }
    let new = api::one_event(&Bytes::from(bytes)).map_err(|reason| anyhow!(reason))?;
    Ok(Event { id: EventId::from_i64(1), accepted_at: clock::wall(), new })
}

/// An event as an engine shows it, without its history.
#[derive(Deserialize)]
struct Stored<'a> {
    id: String,
    source: String,
    r#type: String,
    subject: Option<String>,
    time: String,
    accepted_at: String,
    depth: u8,
    attributes: BTreeMap<String, String>,
    content_type: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    request: Option<RequestView>,
}

impl Stored<'_> {
    fn event(self) -> anyhow::Result<Event> {
        let data = match (&self.data_base64, self.data.map(RawValue::get)) {
            (Some(base64), _) => BASE64_STANDARD.decode(base64).context("its data_base64 is not base64")?,
            (None, None | Some("null")) if !is_json(&self.content_type) => Vec::new(),
            // Data that is not JSON is shown as a JSON string.
            (None, Some(json)) if !is_json(&self.content_type) => serde_json::from_str::<String>(json)?.into_bytes(),
            (None, json) => json.unwrap_or_default().as_bytes().to_vec(),
        };
        let mut attributes = Attributes::default();
        for (name, value) in self.attributes {
            attributes.push(&name, value)?;
        }
        let request = self.request.map(request).transpose()?;
        let new = NewEvent {
            id: Some(self.id.into()),
            source: self.source.into(),
            event_type: EventType::parse(&self.r#type).map_err(|bad| anyhow!("its type: {bad}"))?,
            subject: self.subject.map(Into::into),
            time: sent_time(self.time, &self.accepted_at),
            content: Content::new(self.content_type, data.into()).map_err(|reason| anyhow!("its data is not JSON: {reason}"))?,
            attributes: attributes.into(),
            depth: self.depth,
            cause: None,
            request: request.map(Arc::new),
        };
        let accepted_at = Timestamp::parse_rfc3339(&self.accepted_at).context("its accepted_at is not a time")?;
        Ok(Event { id: EventId::from_i64(1), accepted_at, new })
    }
}

/// Reads the event of a recorded run. The attributes of an event from a source already contain the parts of its request.
///
/// # Errors
/// If a part of it cannot be read, because the engine is newer than this program.
pub fn recorded(view: RecordedEventView) -> anyhow::Result<Event> {
    let data = BASE64_STANDARD.decode(view.data_base64).context("the data of the event is not base64")?;
    let new = NewEvent {
        id: Some(view.id.into()),
        source: view.source.into(),
        event_type: EventType::parse(&view.r#type).map_err(|bad| anyhow!("its type: {bad}"))?,
        subject: view.subject.map(Into::into),
        time: sent_time(view.time, &view.accepted_at),
        content: Content::stored(view.content_type, data.into()),
        attributes: Attributes(view.attributes).into(),
        depth: view.depth,
        cause: None,
        request: None,
    };
    let accepted_at = Timestamp::parse_rfc3339(&view.accepted_at).context("its accepted_at is not a time")?;
    Ok(Event { id: EventId::from_i64(1), accepted_at, new })
}

/// Returns the time that the sender gave, if any. An engine shows an event without such a time with the time of its acceptance.
fn sent_time(shown: String, accepted_at: &str) -> Option<Arc<str>> {
    (shown != accepted_at).then(|| shown.into())
}

fn request(view: RequestView) -> anyhow::Result<Request> {
    let body = match (view.body, view.body_base64) {
        (Some(text), _) => Some(text.into_bytes()),
        (None, Some(base64)) => Some(BASE64_STANDARD.decode(base64).context("the body_base64 of its request is not base64")?),
        (None, None) => None,
    };
    Ok(Request { method: view.method, query: view.query, headers: view.headers, body: body.map(Into::into) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", read(text.as_bytes().to_vec()).expect_err("it is no event"))
    }

    #[test]
    fn reads_an_event_as_it_is_sent() {
        let event = read(br#"{"type": "order.created", "data": {"total": 1.50}, "channel": "web"}"#.to_vec()).unwrap();
        assert_eq!((&*event.new.event_type, &event.new.content.bytes()[..]), ("order.created", &br#"{"total": 1.50}"#[..]));
        assert_eq!(event.new.attributes.get("channel"), Some("web"));
        assert!(read(br#"[{"type": "order.created"}]"#.to_vec()).is_ok(), "a list of one");
    }

    #[test]
    fn reads_an_event_as_an_engine_shows_it() {
        let shown = r#"{"event": "evt_1", "id": "evt_1", "source": "shop", "type": "order.created", "subject": null,
            "time": "2026-01-31T09:30:00+01:00", "accepted_at": "2026-01-31T08:30:00.123Z", "state": "failed", "parts": {}, "depth": 2,
            "cause": null, "attributes": {"channel": "web"}, "content_type": "application/json", "bytes": 15,
            "data": {"total": 1.50}, "request": {"method": "POST", "query": "", "headers": [["x-a", "1"]], "body": "b=2",
            "body_base64": null}, "runs": [], "deliveries": [], "emitted": [], "next": null}"#;
        let event = read(shown.as_bytes().to_vec()).unwrap();
        assert_eq!(event.new.id.as_deref(), Some("evt_1"));
        assert_eq!(
            (&*event.time(), event.accepted_at.to_string().as_str()),
            ("2026-01-31T09:30:00+01:00", "2026-01-31T08:30:00.123Z")
        );
        assert_eq!((&event.new.content.bytes()[..], event.new.depth), (&br#"{"total": 1.50}"#[..], 2));
        let around = event.new.request.as_ref().unwrap().attributes();
        assert_eq!(around[2], ("http.body".to_owned(), "b=2".to_owned()));

        let untimed = shown.replace("2026-01-31T09:30:00+01:00", "2026-01-31T08:30:00.123Z");
        assert_eq!(read(untimed.into_bytes()).unwrap().new.time, None);

        let text = shown.replace("application/json", "text/plain").replace(r#"{"total": 1.50}"#, r#""line\n""#);
        assert_eq!(&read(text.into_bytes()).unwrap().new.content.bytes()[..], b"line\n");
    }

    #[test]
    fn explains_why_a_file_is_no_event() {
        for (text, reason) in [
            ("", "it is empty"),
            ("{", "the body ends too early, at line 1, column 1"),
            ("7", "an event as an object"),
            ("{}", "type"),
            (r#"[{"type": "a.b"}, {"type": "a.b"}]"#, "it has 2 events; give one"),
        ] {
            assert!(error(text).contains(reason), "{text}: {}", error(text));
        }
    }
}
