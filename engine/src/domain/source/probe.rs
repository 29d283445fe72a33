//! Questions that senders ask of an address, which are no events.

use std::borrow::Cow;

use super::{Incoming, Pick, Preset, Source};

/// The answer to a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub content_type: Option<&'static str>,
    pub body: String,
}

impl Source {
    /// Bytes of the longest unsigned question. A body that is longer is not read without a proof.
    pub const PROBE_BYTES_MAX: u64 = 512;

    /// Whether a request without any proof may be an unsigned question, so that its short body is worth reading.
    pub fn may_be_probe(&self, head: &Incoming<'_>, length: Option<u64>) -> bool {
        let short = length.is_some_and(|bytes| bytes <= Self::PROBE_BYTES_MAX);
        self.new.settings.preset == Preset::WooCommerce && short && !self.new.settings.proofs.are_brought_by(head)
    }

    /// The answer to an unsigned question of this source's senders. `None`: it is none.
    ///
    /// WooCommerce tries an address before it has told its secret: an unsigned form that names the webhook and nothing else.
    pub fn answer_probe(&self, request: &Incoming<'_>) -> Option<Reply> {
        /// Digits of a webhook's number.
        const DIGITS_MAX: usize = 20;
        let number = request.body.strip_prefix(b"webhook_id=")?;
        let is_number = (1..=DIGITS_MAX).contains(&number.len()) && number.iter().all(u8::is_ascii_digit);
        let signed = self.new.settings.proofs.are_brought_by(request);
        (self.new.settings.preset == Preset::WooCommerce && is_number && !signed).then(Reply::default)
    }

    /// What Slack wants to read back when an address is entered there. Asked of a request that is believed.
    pub fn challenge(&self, request: &Incoming<'_>) -> Option<Reply> {
        if self.new.settings.preset != Preset::Slack {
            return None;
        }
        let body = std::str::from_utf8(request.body).ok()?;
        let at = |place: &str| Pick::parse(place).ok()?.from(request, Some(body)).map(Cow::into_owned);
        let challenge = if at("body:/type")? == "url_verification" { at("body:/challenge") } else { None };
        challenge.map(|body| Reply { content_type: Some("text/plain; charset=utf-8"), body })
    }
}
