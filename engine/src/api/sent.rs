//! The requests of a delivery as the API shows them: as each attempt was sent, without secrets.
//!
//! For each attempt, the store records the endpoint's settings that the request used ([`SentAs`]). The rest follows from the event
//! and the plugin's payload. All attempts in one body format share one body, so the body of a delivery with 255 attempts is
//! rendered once.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;

use super::access::Sight;
use crate::{
    clock,
    domain::{
        endpoint::{Endpoint, shown_url},
        envelope::{Envelope, Format},
        id::Tag,
        sent::SentAs,
        time::Timestamp,
    },
    outbound::Content,
    store::{StoredAttempt, WholeDelivery},
    wire::{BodyView, RequestHeadView, SentRequestView},
};

/// Longest part of a body in an answer, in bytes. People rarely read more. `/v1/deliveries/{delivery}/body` has all of it.
const BODY_SHOWN_MAX: usize = 64 << 10;

/// Builds the requests of one delivery.
pub struct Requests<'a> {
    whole: &'a WholeDelivery,
    /// The endpoint as it is now; `None` if it was deleted.
    endpoint: Option<&'a Endpoint>,
    id: &'a str,
    event_id: &'a str,
    tag: Tag,
    sight: Sight,
    bodies: Vec<Rendered<'a>>,
}

/// A body as it was rendered for an attempt, with the format that the endpoint had at that time.
struct Rendered<'a> {
    envelope: Envelope,
    format: Format,
    /// Content type and bytes; `None` if it is too long, and was never sent.
    body: Option<(Cow<'a, str>, Bytes)>,
}

impl<'a> Requests<'a> {
    pub fn new(
        whole: &'a WholeDelivery,
        endpoint: Option<&'a Endpoint>,
        (id, event_id): (&'a str, &'a str),
        tag: Tag,
        sight: Sight,
    ) -> Self {
        Self { whole, endpoint, id, event_id, tag, sight, bodies: Vec::new() }
    }

    fn content(&self) -> Content<'a> {
        let Self { whole, event_id, tag, .. } = *self;
        Content { event: &whole.event, payload: whole.payload.as_ref(), event_id, tag }
    }

    /// Returns the content type and the body that were sent.
    fn body(&mut self, sent: &SentAs) -> Option<(Cow<'a, str>, Bytes)> {
        let SentAs { envelope, format, .. } = *sent;
        let known = self.bodies.iter().position(|one| (one.envelope, one.format) == (envelope, format));
        let place = known.unwrap_or_else(|| {
            let body = self.content().body(envelope, format).ok();
            self.bodies.push(Rendered { envelope, format, body });
            self.bodies.len() - 1
        });
        self.bodies[place].body.clone()
    }

    fn head(&mut self, sent: &SentAs, at: Timestamp) -> Option<(RequestHeadView, Cow<'a, str>, Bytes)> {
        let (content_type, body) = self.body(sent)?;
        let headers = self.content().headers_as_sent(sent, &content_type, self.id, at).ok()?;
        let url = match self.sight {
            Sight::Whole | Sight::Own => sent.url.clone(),
            Sight::WithoutSecrets => shown_url(&sent.url).into_owned(),
        };
        let head =
            RequestHeadView { method: "POST".into(), url, headers: headers.into_iter().collect(), body_bytes: body.len() as u64 };
        Some((head, content_type, body))
    }

    /// Returns the request of an attempt without its body; `None` if the attempt was made by an earlier version of the engine,
    /// which recorded no request, or if the request could not be built.
    pub fn of_attempt(&mut self, attempt: &StoredAttempt) -> Option<RequestHeadView> {
        Some(self.head(attempt.sent.as_ref()?, attempt.attempt.at)?.0)
    }

    /// Returns how and when the last attempt was sent. Before the first attempt, returns how it would be sent now.
    fn latest(&self) -> Option<(SentAs, Timestamp)> {
        match self.whole.story.attempts.last() {
            Some(last) => Some((last.sent.clone()?, last.attempt.at)),
            None => Some((SentAs::of(self.endpoint?), clock::wall())),
        }
    }

    /// Returns the request of the last attempt. Before the first attempt, returns the request that would be sent now.
    pub fn latest_view(&mut self) -> Option<SentRequestView> {
        let (sent, at) = self.latest()?;
        let (head, content_type, body) = self.head(&sent, at)?;
        Some(SentRequestView { head, body: BodyView::new(&content_type, &body) })
    }

    /// Returns the whole body of an attempt (counted from 1). Without a number, returns that of the latest request.
    pub fn whole_body(&mut self, attempt: Option<u32>) -> Option<Bytes> {
        let sent = match attempt {
            Some(n) => self.whole.story.attempts.iter().find(|one| one.id.n() == n)?.sent.clone()?,
            None => self.latest()?.0,
        };
        Some(self.body(&sent)?.1)
    }
}

impl BodyView {
    fn new(content_type: &str, body: &[u8]) -> Self {
        let content_type = content_type.to_owned();
        match std::str::from_utf8(body) {
            Ok(text) => {
                let shown = &text[..text.floor_char_boundary(BODY_SHOWN_MAX)];
                Self { content_type, text: Some(shown.to_owned()), base64: None, is_whole: shown.len() == text.len() }
            }
            Err(_) => {
                let shown = &body[..body.len().min(BODY_SHOWN_MAX)];
                let base64 = Some(BASE64_STANDARD.encode(shown));
                Self { content_type, text: None, base64, is_whole: shown.len() == body.len() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_shown_up_to_its_limit() {
        let most = BODY_SHOWN_MAX;
        let view = |body: &[u8]| {
            let view = BodyView::new("text/plain", body);
            (view.text.map(|text| text.len()), view.base64.map(|text| text.len()), view.is_whole)
        };
        assert_eq!(view(b""), (Some(0), None, true));
        assert_eq!(view(&vec![b'a'; most]), (Some(most), None, true));
        assert_eq!(view(&vec![b'a'; most + 1]), (Some(most), None, false));
        let accents = "é".repeat(most);
        assert_eq!(view(&accents.as_bytes()[..2 * (most / 2 + 1)]), (Some(most), None, false));
        let shifted = format!("a{accents}");
        assert_eq!(view(shifted.as_bytes()), (Some(most - 1), None, false), "no character is cut");
        assert_eq!(view(b"\xff\xfe"), (None, Some(4), true));
        assert_eq!(view(&vec![0xff; most + 1]), (None, Some(most.div_ceil(3) * 4), false));
    }
}
