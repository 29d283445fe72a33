//! The request of one attempt: the body and its type, the endpoint's headers, the signature. Whoever sends a webhook makes it here,
//! so that a test looks to a receiver exactly as the real thing does.
//!
//! Made per attempt, not per delivery: receivers reject old timestamps, and the last retry is hours later.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_TYPE, InvalidHeaderName, InvalidHeaderValue},
};
use url::Url;

use super::client::Request;
use crate::domain::{delivery::Payload, endpoint::Endpoint, envelope, event::Event, id::Tag, signature, time::Timestamp};

/// What goes to whom, and under which name.
#[derive(Clone, Copy)]
pub struct Webhook<'a> {
    pub endpoint: &'a Endpoint,
    pub event: &'a Event,
    /// What a plugin made of the event; without one the event itself goes.
    pub payload: Option<&'a Payload>,
    /// The `webhook-id`: the same on every attempt.
    pub id: &'a str,
    /// The store's, in which an event without a caller's id is named.
    pub tag: Tag,
}

/// A webhook that cannot be put into a request, as a sentence that its owner can act on.
#[derive(Debug, thiserror::Error)]
pub enum Unsendable {
    #[error("the endpoint's URL cannot be used: {0}")]
    Url(#[from] url::ParseError),
    #[error("{name:?} is not a header name")]
    HeaderName { name: String, source: InvalidHeaderName },
    #[error("the value of header {name} cannot be sent")]
    HeaderValue { name: HeaderName, source: InvalidHeaderValue },
}

impl Webhook<'_> {
    /// The signed request of an attempt that is made at `now`.
    pub fn request(&self, now: Timestamp) -> Result<Request, Unsendable> {
        let new = &self.endpoint.new;
        let url = Url::parse(&new.url)?;
        let (body, content_type) = match self.payload {
            Some(payload) => (payload.body.clone(), payload.content_type.as_str()),
            None => (Bytes::from(envelope::standard(self.event)), envelope::CONTENT_TYPE),
        };
        let signature = signature::signature(self.endpoint.signing_secrets(now), self.id, now, &body);

        let mut headers = HeaderMap::with_capacity(8);
        let own = self.payload.map(|payload| payload.headers.as_slice()).unwrap_or_default();
        // The endpoint's headers last: where both set one, its owner decides. Then the engine's.
        for (name, value) in own.iter().chain(&new.policy.headers) {
            set(&mut headers, header_name(name)?, value)?;
        }
        set(&mut headers, CONTENT_TYPE, content_type)?;
        set(&mut headers, HeaderName::from_static("webhook-id"), self.id)?;
        set(&mut headers, HeaderName::from_static("webhook-timestamp"), &now.seconds().to_string())?;
        set(&mut headers, HeaderName::from_static("webhook-signature"), &signature)?;
        headers.insert(HeaderName::from_static("innesco-depth"), HeaderValue::from(u16::from(self.event.new.depth) + 1));
        Ok(Request { url, headers, body, timeout: new.policy.timeout })
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
