//! Builds the request of one attempt: body and content type, the endpoint's headers, the signature. A test of an endpoint
//! (`innesco endpoint test`) uses the same function, so that a receiver sees no difference from a delivery.
//!
//! A request is built for each attempt, not once for a delivery: receivers reject old timestamps, and the last retry is hours
//! later.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_TYPE, InvalidHeaderName, InvalidHeaderValue},
};
use url::Url;

use super::{client::Request, identity::Identity};
use crate::domain::{
    delivery::Payload,
    endpoint::Endpoint,
    envelope::{self, Envelope, Format, Rendered, TooLong},
    event::Event,
    id::Tag,
    sent::{MASKED, SentAs},
    signature::{Proof, Scheme},
    time::Timestamp,
};

/// The content, the endpoint and the id of one webhook.
#[derive(Clone, Copy)]
pub struct Webhook<'a> {
    pub endpoint: &'a Endpoint,
    pub event: &'a Event,
    /// The plugin's webhook; `None` sends the event itself.
    pub payload: Option<&'a Payload>,
    /// The `webhook-id`: the same on every attempt.
    pub id: &'a str,
    /// The `innesco-event`: the event's id in this engine.
    pub event_id: &'a str,
    /// The store's tag: part of the id that the engine gives to an event whose sender gave none.
    pub tag: Tag,
}

/// Why a webhook cannot be built, in words for the endpoint's owner.
#[derive(Debug, thiserror::Error)]
pub enum Unsendable {
    #[error("the endpoint's URL cannot be used: {0}")]
    Url(#[from] url::ParseError),
    #[error("{name:?} is not a header name")]
    HeaderName { name: String, source: InvalidHeaderName },
    #[error("the value of header {name} cannot be sent")]
    HeaderValue { name: HeaderName, source: InvalidHeaderValue },
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

impl Webhook<'_> {
    /// Builds the signed request of an attempt at `now` (wall clock). `steady` is the time on the steady clock, which measures the
    /// grace period of a replaced secret.
    pub fn request(&self, now: Timestamp, steady: Timestamp) -> Result<Request, Unsendable> {
        let policy = &self.endpoint.new.policy;
        let url = Url::parse(&self.endpoint.new.url)?;
        let content = Content { event: self.event, payload: self.payload, event_id: self.event_id, tag: self.tag };
        let (content_type, body) = content.body(policy.envelope, policy.format)?;
        let proof = self.endpoint.proof().headers(self.endpoint.signing_secrets(steady), self.id, now, &body);
        let headers = content.headers(&policy.headers, &content_type, proof)?;
        let certificate = policy.client_certificate.as_ref().map(Arc::clone);
        let identity = certificate.map(|certificate| Identity { endpoint: self.endpoint.id, certificate });
        Ok(Request { url, headers, body, at: now, timeout: policy.timeout, identity, reach: policy.reach })
    }
}

/// The parts of a webhook that do not come from its endpoint.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    pub event: &'a Event,
    /// The plugin's webhook; `None` sends the event itself.
    pub payload: Option<&'a Payload>,
    /// The `innesco-event`.
    pub event_id: &'a str,
    pub tag: Tag,
}

impl<'a> Content<'a> {
    /// Returns the headers of an attempt in a form to show to people. `sent` has the endpoint's settings that the attempt used, and
    /// `at` is the time of the attempt. Each secret is [`MASKED`]. Headers of the connection (`host`, `user-agent`,
    /// `content-length`) and `traceparent` are missing. `id` is the `webhook-id`.
    ///
    /// # Errors
    /// The same errors as [`Webhook::request`]. A request with such an error was not sent.
    pub fn headers_as_sent(
        &self,
        sent: &SentAs,
        content_type: &str,
        id: &str,
        at: Timestamp,
    ) -> Result<Vec<(String, String)>, Unsendable> {
        let token_header = sent.token_header.as_deref().unwrap_or(Scheme::TOKEN_HEADER_DEFAULT);
        let proof = Proof { scheme: sent.scheme, token_header }.masked_headers(id, at, MASKED);
        let headers = self.headers(&sent.headers, content_type, proof)?;
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Ok(headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect())
    }

    /// Returns the content type and the body in the format of an endpoint. A plugin's body has its own content type.
    ///
    /// # Errors
    /// [`TooLong`] if the body is too long. Such a body was not sent.
    pub fn body(&self, envelope: Envelope, format: Format) -> Result<(Cow<'a, str>, Bytes), TooLong> {
        match self.payload {
            Some(payload) => Ok((Cow::Borrowed(payload.content_type.as_str()), payload.body.clone())),
            None => {
                let Rendered { content_type, body } = envelope::render(self.event, self.tag, envelope, format)?;
                Ok((content_type, body))
            }
        }
    }

    fn headers(
        &self,
        of_endpoint: &[(String, String)],
        content_type: &str,
        proof: Vec<(&str, String)>,
    ) -> Result<HeaderMap, Unsendable> {
        let mut headers = HeaderMap::with_capacity(8);
        let own = self.payload.map(|payload| payload.headers.as_slice()).unwrap_or_default();
        // The endpoint's headers replace those of the plugin, because the endpoint's owner decides. The engine's headers are last
        // and replace both.
        for (name, value) in own.iter().chain(of_endpoint) {
            set(&mut headers, header_name(name)?, value)?;
        }
        set(&mut headers, CONTENT_TYPE, content_type)?;
        for (name, value) in proof {
            set(&mut headers, header_name(name)?, &value)?;
        }
        let event_type = self.payload.and_then(|payload| payload.event_type.as_ref()).unwrap_or(&self.event.new.event_type);
        set(&mut headers, HeaderName::from_static("innesco-event"), self.event_id)?;
        set(&mut headers, HeaderName::from_static("innesco-type"), event_type)?;
        headers.insert(HeaderName::from_static("innesco-depth"), HeaderValue::from(u16::from(self.event.new.depth) + 1));
        Ok(headers)
    }
}

fn header_name(name: &str) -> Result<HeaderName, Unsendable> {
    HeaderName::try_from(name).map_err(|source| Unsendable::HeaderName { name: name.to_owned(), source })
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), Unsendable> {
    match HeaderValue::try_from(value) {
        Ok(value) => {
            headers.insert(name, value);
            Ok(())
        }
        Err(source) => Err(Unsendable::HeaderValue { name, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        certificate::ClientCertificate,
        content::Content as Data,
        endpoint::{EndpointState, HeldSecret, NewEndpoint, Policy, Reach, Subscription},
        event::NewEvent,
        id::{EndpointId, EventId},
        name::{EventType, Slug},
        signature::Secret,
    };

    const NOW: Timestamp = Timestamp::from_millis(1_614_265_330_000);

    fn endpoint(scheme: Scheme, policy: Policy) -> Endpoint {
        let secret = Secret::from_seed(scheme, [7; 32]);
        Endpoint {
            id: EndpointId::from_i64(3),
            created_at: NOW,
            failing_since: None,
            new: NewEndpoint {
                name: Slug::parse("crm").unwrap(),
                title: None,
                url: "https://crm.example/hook?a=b".into(),
                subscription: Subscription::default(),
                plugin: None,
                scheme,
                secrets: vec![HeldSecret { secret, until: None }],
                policy,
                state: EndpointState::Active,
            },
        }
    }

    fn event() -> Event {
        Event {
            id: EventId::from_i64(1),
            accepted_at: NOW,
            new: NewEvent {
                id: None,
                source: "shop".into(),
                event_type: EventType::parse("order.created").unwrap(),
                subject: None,
                time: None,
                content: Data::of(&serde_json::json!({ "id": 7 })),
                attributes: Default::default(),
                depth: 2,
                cause: None,
                request: None,
            },
        }
    }

    fn request(endpoint: &Endpoint, payload: Option<&Payload>) -> Request {
        let webhook =
            Webhook { endpoint, event: &event(), payload, id: "dlv_1", event_id: "evt_1", tag: Tag::from_random([1; 4]) };
        webhook.request(NOW, NOW).unwrap()
    }

    fn lines(request: &Request) -> Vec<String> {
        let headers = request.headers.iter();
        headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn sends_an_event_in_the_format_of_its_endpoint() {
        let secret = Secret::from_seed(Scheme::Github, [7; 32]).reveal();
        let (scheme, headers) = (Scheme::Token, vec![("x-shop".to_owned(), "7".to_owned())]);
        let policy = Policy {
            envelope: Envelope::Data,
            format: Format::Form,
            token_header: Some("x-api-key".into()),
            headers,
            ..Policy::default()
        };
        let request = request(&endpoint(scheme, policy), None);
        assert_eq!((request.url.as_str(), &request.body[..]), ("https://crm.example/hook?a=b", &b"id=7"[..]));
        let expected = [
            "x-shop: 7".to_owned(),
            "content-type: application/x-www-form-urlencoded".to_owned(),
            "webhook-id: dlv_1".to_owned(),
            "webhook-timestamp: 1614265330".to_owned(),
            format!("x-api-key: {secret}"),
            "innesco-event: evt_1".to_owned(),
            "innesco-type: order.created".to_owned(),
            "innesco-depth: 3".to_owned(),
        ];
        assert_eq!(lines(&request), expected);
        assert!(request.identity.is_none());
    }

    #[test]
    fn sends_a_plugins_body_unchanged_and_its_headers_last() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let payload = Payload {
            event_type: Some(EventType::parse("order.big").unwrap()),
            content_type: "text/plain".into(),
            headers: vec![header("x-shop", "the plugin's"), header("x-api-key", "the plugin's"), header("x-own", "the plugin's")],
            body: Bytes::from_static(b"\xff as it is"),
        };
        let policy = Policy {
            envelope: Envelope::CloudEvents,
            format: Format::Xml,
            token_header: Some("x-api-key".into()),
            headers: vec![header("x-shop", "the endpoint's")],
            client_certificate: Some(Arc::new(ClientCertificate { chain: String::new(), key: String::new() })),
            reach: Reach::Public,
            ..Policy::default()
        };
        let request = request(&endpoint(Scheme::Token, policy), Some(&payload));
        assert_eq!(request.body, payload.body);
        let of = |name: &str| request.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(
            (of("content-type"), of("x-shop"), of("x-own")),
            (vec!["text/plain"], vec!["the endpoint's"], vec!["the plugin's"])
        );
        assert_eq!(
            (of("innesco-event"), of("innesco-type")),
            (vec!["evt_1"], vec!["order.big"]),
            "the type that the plugin chose"
        );
        assert_eq!(of("x-api-key"), [Secret::from_seed(Scheme::Token, [7; 32]).reveal()]);
        assert_eq!((request.identity.unwrap().endpoint, request.reach), (EndpointId::from_i64(3), Reach::Public));
    }

    #[test]
    fn a_request_is_shown_as_it_was_sent_without_secrets() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let payload = Payload {
            event_type: Some(EventType::parse("order.big").unwrap()),
            content_type: "text/plain".into(),
            headers: vec![header("x-own", "1")],
            body: Bytes::from_static(b"text"),
        };
        let policies = [
            Policy::default(),
            Policy {
                envelope: Envelope::CloudEvents,
                format: Format::Xml,
                token_header: Some("x-api-key".into()),
                headers: vec![header("authorization", "Bearer planted"), header("accept", "text/html")],
                ..Policy::default()
            },
        ];
        let mut compared = 0;
        for scheme in Scheme::ALL {
            for policy in &policies {
                for payload in [None, Some(&payload)] {
                    let mut endpoint = endpoint(scheme, policy.clone());
                    if scheme == Scheme::None {
                        endpoint.new.secrets.clear();
                    }
                    let sent = request(&endpoint, payload);
                    let event = event();
                    let content = Content { event: &event, payload, event_id: "evt_1", tag: Tag::from_random([1; 4]) };
                    let kept = SentAs::of(&endpoint);
                    let (content_type, body) = content.body(kept.envelope, kept.format).unwrap();
                    let shown = content.headers_as_sent(&kept, &content_type, "dlv_1", NOW).unwrap();
                    assert_eq!((kept.url.as_str(), &body), (sent.url.as_str(), &sent.body));
                    let secret = [scheme.header("x-api-key").filter(|_| policy.token_header.is_some()), Some("authorization")];
                    let secret = [secret[0].or(scheme.header(Scheme::TOKEN_HEADER_DEFAULT)), secret[1]];
                    let masked = |(name, value): (&HeaderName, &HeaderValue)| {
                        let is_secret = secret.contains(&Some(name.as_str()));
                        let value = if is_secret { MASKED } else { value.to_str().unwrap() };
                        (name.as_str().to_owned(), value.to_owned())
                    };
                    assert_eq!(shown, sent.headers.iter().map(masked).collect::<Vec<_>>(), "{scheme:?}");
                    compared += shown.iter().filter(|(_, value)| value == MASKED).count();
                }
            }
        }
        assert!(compared > 2 * Scheme::ALL.len(), "secrets were masked: {compared}");
    }

    #[test]
    fn explains_what_cannot_be_sent() {
        let mut wrong = endpoint(Scheme::V1, Policy { format: Format::Xml, ..Policy::default() });
        let mut event = event();
        let refused = |endpoint: &Endpoint, event: &Event| {
            let webhook =
                Webhook { endpoint, event, payload: None, id: "dlv_1", event_id: "evt_1", tag: Tag::from_random([1; 4]) };
            webhook.request(NOW, NOW).unwrap_err().to_string()
        };
        event.new.content = Data::of(&serde_json::json!({ "n".repeat(10_000): vec![0; 10_000] }));
        assert!(refused(&wrong, &event).starts_with("as xml the event is longer than 16 MiB"));
        wrong.new.url = "crm.example".into();
        assert!(refused(&wrong, &event).starts_with("the endpoint's URL cannot be used: "));
    }
}
