//! Questions that senders ask an address before or between their webhooks. The source answers a question, and creates no event
//! for it.
//!
//! Most questions have no proof, because the sender has not yet stored the secret. The answer to such a question repeats a text
//! of the question, or is empty. If the answer is computed with a secret ([`Source::challenge`]), the sender is verified first.

use std::borrow::Cow;

use super::{
    Believed, Challenge, ChallengePlace, Incoming, Pick, Preset, Refusal, Source, hmac::Algorithm, pick::Path, verify::same,
};
use crate::domain::{signature, time::Timestamp};

/// The answer to a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub content_type: Option<&'static str>,
    pub body: String,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

impl Reply {
    fn text(body: impl Into<String>) -> Self {
        Self { content_type: Some(TEXT), body: body.into() }
    }

    fn json(members: &[(&str, &str)]) -> Self {
        let quoted = |text: &str| serde_json::to_string(text).expect("text is always JSON");
        let members: Vec<String> = members.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
        Self { content_type: Some(JSON), body: format!("{{{}}}", members.join(",")) }
    }
}

/// Maximum length of a repeated text, in bytes. Challenges have a few dozen bytes.
const CHALLENGE_LEN_MAX: usize = 1024;

impl Challenge {
    /// Repeats a text as senders expect it.
    fn reply(&self, text: Cow<'_, str>) -> Option<Reply> {
        (text.len() <= CHALLENGE_LEN_MAX).then(|| match &self.member {
            Some(member) => Reply::json(&[(member, &text)]),
            None => Reply::text(text),
        })
    }
}

impl Source {
    /// Maximum size of an unsigned question, in bytes. A larger body is not read without a proof.
    pub const PROBE_BYTES_MAX: u64 = 512;

    /// Answers a question that needs no body: a `HEAD` request, the challenge of a hub (Meta, WebSub, Strava), or a request with
    /// the challenge parameter or header that is set for the source.
    ///
    /// # Errors
    /// Refuses the question of a hub if its token is wrong.
    pub fn answer_head(&self, head: &Incoming<'_>) -> Result<Option<Reply>, Refusal> {
        if head.method == "HEAD" {
            return Ok(Some(Reply::default()));
        }
        let parameter = |name: &str| head.field(head.query.as_bytes(), name).filter(|text| text.len() <= CHALLENGE_LEN_MAX);
        if let Some(challenge) = &self.new.settings.challenge {
            let text = match &challenge.place {
                // If the request also has a proof, it is an event, and its address has this parameter only by chance.
                ChallengePlace::Query(_) if self.new.settings.proofs.are_brought_by(head) => None,
                ChallengePlace::Query(name) => head.field(head.query.as_bytes(), name),
                // Only questions have this header. Okta sends its credentials beside it.
                ChallengePlace::Header(name) => head.header(name).map(Into::into),
                ChallengePlace::Body(_) => None,
            };
            if let Some(reply) = text.and_then(|text| challenge.reply(text)) {
                return Ok(Some(reply));
            }
        }
        let Some(expected) = self.new.verify_token.as_ref().filter(|_| head.method == "GET") else { return Ok(None) };
        let Some(mode) = parameter("hub.mode") else { return Ok(None) };
        // A hub of WebSub 1.0 has no token and names the subscribed topic.
        let given = parameter("hub.verify_token").or_else(|| parameter("hub.topic")).unwrap_or_default();
        if !same(&expected.reveal(), &given) {
            return Err(Refusal::Malformed {
                part: "hub.verify_token (or hub.topic)".to_owned(),
                why: "is not the verify_token of this source".to_owned(),
            });
        }
        Ok(match parameter("hub.challenge") {
            Some(challenge) if self.new.settings.preset == Preset::Strava => Some(Reply::json(&[("hub.challenge", &challenge)])),
            Some(challenge) => Some(Reply::text(challenge)),
            // A hub that denies a subscription reports this, and expects a success status.
            None if mode == "denied" => Some(Reply::default()),
            None => None,
        })
    }

    /// Returns whether a request without a proof may be an unsigned question, so that its short body is read.
    pub fn may_be_probe(&self, head: &Incoming<'_>, length: Option<u64>) -> bool {
        let short = length.is_some_and(|bytes| bytes <= Self::PROBE_BYTES_MAX);
        let asks = matches!(self.new.settings.preset, Preset::WooCommerce | Preset::Slack) || self.body_challenge().is_some();
        asks && short && !self.new.settings.proofs.are_brought_by(head)
    }

    /// Answers an unsigned question in a body. Returns `None` if the body is not a question.
    ///
    /// Before WooCommerce uses its secret, it tests the address with an unsigned form that only names the webhook. Slack checks
    /// the TLS certificate of an address: it sends a form that contains `ssl_check=1`.
    pub fn answer_probe(&self, request: &Incoming<'_>) -> Option<Reply> {
        /// Maximum number of digits of a webhook's number.
        const DIGITS_MAX: usize = 20;
        if self.new.settings.proofs.are_brought_by(request) {
            return None;
        }
        if let Some((challenge, text)) =
            self.body_challenge().and_then(|(challenge, path)| Some((challenge, request.in_body(path)?)))
        {
            return challenge.reply(text);
        }
        let asks = match self.new.settings.preset {
            Preset::WooCommerce => request
                .body
                .strip_prefix(b"webhook_id=")
                .is_some_and(|number| (1..=DIGITS_MAX).contains(&number.len()) && number.iter().all(u8::is_ascii_digit)),
            Preset::Slack => is_ssl_check(request),
            _ => false,
        };
        asks.then(Reply::default)
    }

    /// Returns the challenge of the source if senders put it into a body, and its place in that body.
    fn body_challenge(&self) -> Option<(&Challenge, &Path)> {
        match &self.new.settings.challenge {
            Some(challenge @ Challenge { place: ChallengePlace::Body(path), .. }) => Some((challenge, path)),
            _ => None,
        }
    }

    /// Answers a question in a verified request. Returns `None` if the request is an event. The steady clock `steady` decides
    /// which secrets are valid.
    pub fn challenge(&self, request: &Incoming<'_>, believed: &Believed, steady: Timestamp) -> Option<Reply> {
        let preset = self.new.settings.preset;
        if preset == Preset::Slack && is_ssl_check(request) {
            return Some(Reply::default());
        }
        if !self.new.settings.proofs.have_secret()
            && let Some((challenge, path)) = self.body_challenge()
            && request.body.len() as u64 <= Self::PROBE_BYTES_MAX
            && let Some(text) = request.in_body(path)
        {
            // A source without a secret accepts every request as verified, including questions.
            return challenge.reply(text);
        }
        if !matches!(preset, Preset::Slack | Preset::Zoom) {
            return None;
        }
        let body = std::str::from_utf8(request.body).ok()?;
        let at = |place: &str| Pick::parse(place).ok()?.from(request, Some(body)).map(Cow::into_owned);
        match preset {
            Preset::Slack if at("body:/type")? == "url_verification" => at("body:/challenge").map(Reply::text),
            Preset::Zoom if at("body:/event")? == "endpoint.url_validation" => {
                let plain = at("body:/payload/plainToken")?;
                let secrets = self.secrets(steady);
                // Uses the secret that signed this request, because a source has two secrets during a rotation.
                let secret = secrets.get(believed.secret)?;
                let hashed = signature::hex(&Algorithm::Sha256.sign(secret.as_bytes(), &[plain.as_bytes()]));
                Some(Reply::json(&[("plainToken", &plain), ("encryptedToken", &hashed)]))
            }
            _ => None,
        }
    }
}

fn is_ssl_check(request: &Incoming<'_>) -> bool {
    request.is_form() && request.field(request.body, "ssl_check").is_some_and(|value| value == "1")
}
