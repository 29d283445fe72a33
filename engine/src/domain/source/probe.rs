//! Questions that senders ask of an address before or between their webhooks. They are answered and become no events.
//!
//! Most are asked without a proof: the sender has not yet stored the secret. Such an answer repeats a text of the question, or is empty.
//! A sender that is asked for a secret in return ([`Source::challenge`]) has proved itself first.

use std::borrow::Cow;

use super::{Believed, Incoming, Pick, Preset, Refusal, Source, hmac::Algorithm, verify::same};
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

/// Bytes of a text that is repeated. Challenges have a few dozen.
const CHALLENGE_LEN_MAX: usize = 1024;

impl Source {
    /// Bytes of the longest unsigned question. A longer body is not read without a proof.
    pub const PROBE_BYTES_MAX: u64 = 512;

    /// The answer to a question that the head alone asks: `HEAD`, the challenge of a hub (Meta, WebSub, Strava), or the parameter that
    /// the source names.
    ///
    /// # Errors
    /// Refuses a hub with another token.
    pub fn answer_head(&self, head: &Incoming<'_>) -> Result<Option<Reply>, Refusal> {
        if head.method == "HEAD" {
            return Ok(Some(Reply::default()));
        }
        let parameter = |name: &str| head.field(head.query.as_bytes(), name).filter(|text| text.len() <= CHALLENGE_LEN_MAX);
        if let Some(name) = &self.new.settings.challenge
            && !self.new.settings.proofs.are_brought_by(head)
            && let Some(challenge) = parameter(name)
        {
            return Ok(Some(Reply::text(challenge)));
        }
        let Some(expected) = self.new.verify_token.as_ref().filter(|_| head.method == "GET") else { return Ok(None) };
        let Some(mode) = parameter("hub.mode") else { return Ok(None) };
        // A hub of WebSub 1.0 has no token and names what was subscribed to.
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
            // A hub that refuses a subscription reports it, and expects a success.
            None if mode == "denied" => Some(Reply::default()),
            None => None,
        })
    }

    /// Whether a request without any proof may be an unsigned question, so that its short body is worth reading.
    pub fn may_be_probe(&self, head: &Incoming<'_>, length: Option<u64>) -> bool {
        let short = length.is_some_and(|bytes| bytes <= Self::PROBE_BYTES_MAX);
        let asks = matches!(self.new.settings.preset, Preset::WooCommerce | Preset::Slack);
        asks && short && !self.new.settings.proofs.are_brought_by(head)
    }

    /// The answer to an unsigned question in a body. `None`: it is none.
    ///
    /// WooCommerce tries an address before it has told its secret, by an unsigned form that names the webhook and nothing else. Slack
    /// checks the certificate of an address by a form with `ssl_check=1`.
    pub fn answer_probe(&self, request: &Incoming<'_>) -> Option<Reply> {
        /// Digits of a webhook's number.
        const DIGITS_MAX: usize = 20;
        if self.new.settings.proofs.are_brought_by(request) {
            return None;
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

    /// The answer to a question that a believed request asks. `None`: it is an event. `steady` is when secrets end.
    pub fn challenge(&self, request: &Incoming<'_>, believed: &Believed, steady: Timestamp) -> Option<Reply> {
        let preset = self.new.settings.preset;
        if preset == Preset::Slack && is_ssl_check(request) {
            return Some(Reply::default());
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
                // With the secret that this request was signed with: during a rotation there are two.
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
