//! Presets of well-known senders: how they prove their requests, and where the event type and the id are.

use std::time::Duration;

use super::{
    Dedupe,
    hmac::{Algorithm, Encoding, HmacRule, KeyEncoding, Place, SignedBody, Stamp},
    pick::{Path, Pick},
    template::Template,
    verify::{Proofs, Rule},
};

/// A sender, or a common verification method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    StandardWebhooks,
    Github,
    Stripe,
    Shopify,
    WooCommerce,
    Slack,
    Twilio,
    Gitlab,
    Zendesk,
    Gitea,
    Meta,
    Zoom,
    Strava,
    Linear,
    Mailgun,
    Hmac,
    Basic,
    Bearer,
    HeaderToken,
    None,
}

/// Default maximum age of a signed time.
pub const TOLERANCE_DEFAULT: Duration = Duration::from_secs(300);
/// Maximum age for Mailgun.
const TOLERANCE_OF_MAILGUN: Duration = Duration::from_secs(24 * 3600);
/// The default header of [`Preset::HeaderToken`].
pub const TOKEN_HEADER_DEFAULT: &str = "x-webhook-token";
/// The default user name of [`Preset::Basic`].
pub const USERNAME_DEFAULT: &str = "innesco";

impl Preset {
    pub const ALL: [Self; 20] = [
        Self::StandardWebhooks,
        Self::Github,
        Self::Stripe,
        Self::Shopify,
        Self::WooCommerce,
        Self::Slack,
        Self::Twilio,
        Self::Gitlab,
        Self::Zendesk,
        Self::Gitea,
        Self::Meta,
        Self::Zoom,
        Self::Strava,
        Self::Linear,
        Self::Mailgun,
        Self::Hmac,
        Self::Basic,
        Self::Bearer,
        Self::HeaderToken,
        Self::None,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StandardWebhooks => "standard-webhooks",
            Self::Github => "github",
            Self::Stripe => "stripe",
            Self::Shopify => "shopify",
            Self::WooCommerce => "woocommerce",
            Self::Slack => "slack",
            Self::Twilio => "twilio",
            Self::Gitlab => "gitlab",
            Self::Zendesk => "zendesk",
            Self::Gitea => "gitea",
            Self::Meta => "meta",
            Self::Zoom => "zoom",
            Self::Strava => "strava",
            Self::Linear => "linear",
            Self::Mailgun => "mailgun",
            Self::Hmac => "hmac",
            Self::Basic => "basic",
            Self::Bearer => "bearer",
            Self::HeaderToken => "header-token",
            Self::None => "none",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.as_str() == text)
    }

    /// Returns whether the sender creates the secret, so that the operator must enter it.
    pub const fn secret_is_theirs(self) -> bool {
        matches!(
            self,
            Self::Stripe
                | Self::Shopify
                | Self::Slack
                | Self::Twilio
                | Self::Zendesk
                | Self::Meta
                | Self::Zoom
                | Self::Linear
                | Self::Mailgun
        )
    }

    /// Returns the verification methods; the first one that a request contains decides. For [`Self::Hmac`] these are defaults:
    /// the source's settings must complete them.
    pub fn proofs(self) -> Proofs {
        let hmac = |header: &str, encoding, prefix: &str, template: &str, stamp: Option<&str>| HmacRule {
            place: Place::Header(header.to_owned()),
            second: None,
            algorithm: Algorithm::Sha256,
            encoding,
            prefix: prefix.to_owned(),
            template: Template::parse(template).expect("a preset's template"),
            body: SignedBody::AsSent,
            list_key: None,
            key: KeyEncoding::Text,
            stamp: stamp.map(|name| Stamp { place: Place::Header(name.to_owned()), tolerance: TOLERANCE_DEFAULT }),
        };
        let path = |text: &str| Path::parse(text).expect("a preset's place");
        let in_body = |text: &str| Place::Body(path(text));
        let by_body = |header, encoding, prefix| Rule::Hmac(hmac(header, encoding, prefix, "{body}", None));
        let rule = match self {
            Self::StandardWebhooks => Rule::Standard,
            Self::Github => by_body("x-hub-signature-256", Encoding::Hex, "sha256="),
            Self::Stripe => Rule::Hmac(HmacRule {
                // Stripe's older signature `v0` is only for test events and proves nothing.
                list_key: Some("v1".to_owned()),
                stamp: Some(Stamp { place: Place::List("t".to_owned()), tolerance: TOLERANCE_DEFAULT }),
                ..hmac("stripe-signature", Encoding::Hex, "", "{timestamp}.{body}", None)
            }),
            // Shopify's headers have no `x-` since the Events API of 2026. If a request has both headers, Shopify's library reads
            // the newer header.
            Self::Shopify => {
                let header = |name| by_body(name, Encoding::Base64, "");
                return Proofs(vec![header("shopify-hmac-sha256"), header("x-shopify-hmac-sha256")]);
            }
            Self::WooCommerce => by_body("x-wc-webhook-signature", Encoding::Base64, ""),
            Self::Slack => Rule::Hmac(hmac(
                "x-slack-signature",
                Encoding::Hex,
                "v0=",
                "v0:{timestamp}:{body}",
                Some("x-slack-request-timestamp"),
            )),
            Self::Twilio => Rule::Twilio,
            // A webhook of GitLab has a signing token, a secret token, or both.
            Self::Gitlab => {
                return Proofs(vec![Rule::Standard, Rule::Token { header: "x-gitlab-token".to_owned() }]);
            }
            Self::Zendesk => Rule::Hmac(hmac(
                "x-zendesk-webhook-signature",
                Encoding::Base64,
                "",
                "{timestamp}{body}",
                Some("x-zendesk-webhook-signature-timestamp"),
            )),
            Self::Gitea => {
                let header = |(name, prefix)| {
                    let rule = hmac(name, Encoding::Hex, prefix, "{body}", None);
                    Rule::Hmac(HmacRule { body: SignedBody::PayloadField, ..rule })
                };
                let known = [("x-gitea-signature", ""), ("x-forgejo-signature", ""), ("x-gogs-signature", "")];
                return Proofs(known.map(header).to_vec());
            }
            Self::Meta => by_body("x-hub-signature-256", Encoding::Hex, "sha256="),
            Self::Zoom => {
                Rule::Hmac(hmac("x-zm-signature", Encoding::Hex, "v0=", "v0:{timestamp}:{body}", Some("x-zm-request-timestamp")))
            }
            Self::Strava => Rule::Nothing,
            Self::Linear => Rule::Hmac(HmacRule {
                stamp: Some(Stamp { place: in_body("/webhookTimestamp"), tolerance: TOLERANCE_DEFAULT }),
                ..hmac("linear-signature", Encoding::Hex, "", "{body}", None)
            }),
            // A webhook of Mailgun has timestamp, token and signature in a member of its JSON. A Mailgun route posts a received
            // mail as a form with these three fields.
            Self::Mailgun => {
                let signed = |within: &str| HmacRule {
                    place: in_body(&format!("{within}/signature")),
                    // Mailgun retries for eight hours. The token in a webhook identifies duplicates for longer than that.
                    stamp: Some(Stamp { place: in_body(&format!("{within}/timestamp")), tolerance: TOLERANCE_OF_MAILGUN }),
                    ..hmac("", Encoding::Hex, "", &format!("{{timestamp}}{{body:{within}/token}}"), None)
                };
                // An event of a subaccount is signed with the key of the primary account, too.
                let webhook = HmacRule { second: Some(path("/signature/parent-signature")), ..signed("/signature") };
                return Proofs(vec![Rule::Hmac(webhook), Rule::Hmac(signed(""))]);
            }
            Self::Hmac => by_body("x-signature", Encoding::Hex, ""),
            Self::Basic => Rule::Basic { username: USERNAME_DEFAULT.to_owned() },
            Self::Bearer => Rule::Bearer,
            Self::HeaderToken => Rule::Token { header: TOKEN_HEADER_DEFAULT.to_owned() },
            Self::None => Rule::Nothing,
        };
        Proofs(vec![rule])
    }

    /// Returns where the event type is, and its prefix. If the prefix is `None`, the source's name is the prefix.
    pub fn event_type(self) -> (Option<Pick>, Option<&'static str>) {
        let (pick, prefix) = match self {
            Self::Github => ("header:x-github-event", "github"),
            Self::Stripe => ("body:/type", "stripe"),
            Self::Shopify => ("header:shopify-topic,x-shopify-topic", "shopify"),
            Self::WooCommerce => ("header:x-wc-webhook-topic", "woocommerce"),
            Self::Slack => ("body:/event/type", "slack"),
            Self::Twilio => ("body:/MessageStatus", "twilio"),
            Self::Gitlab => ("header:x-gitlab-event", "gitlab"),
            Self::Zendesk => ("body:/type", "zendesk"),
            Self::Gitea => ("header:x-gitea-event,x-forgejo-event,x-gogs-event", "gitea"),
            Self::Meta => ("body:/object", "meta"),
            Self::Zoom => ("body:/event", "zoom"),
            Self::Strava => ("body:/object_type", "strava"),
            Self::Linear => ("body:/type", "linear"),
            Self::Mailgun => ("body:/event-data/event", "mailgun"),
            Self::StandardWebhooks => return (Some(known("body:/type")), None),
            Self::Hmac | Self::Basic | Self::Bearer | Self::HeaderToken | Self::None => return (None, None),
        };
        (Some(known(pick)), Some(prefix))
    }

    /// Returns how duplicates are detected. An id that the signature does not cover is combined with the digest of the signed
    /// text, so that one captured request cannot claim the id of a later one. The digest alone is not enough, because senders
    /// repeat whole bodies: two `workflow_dispatch` webhooks of GitHub can differ only in the id of the delivery.
    pub fn dedupe(self) -> Dedupe {
        let pick = match self {
            Self::Github => "header:x-github-delivery",
            Self::Stripe => "body:/id",
            Self::Shopify => "header:shopify-webhook-id,x-shopify-webhook-id",
            Self::WooCommerce => "header:x-wc-webhook-delivery-id",
            Self::Slack => "body:/event_id",
            Self::Twilio => "header:i-twilio-idempotency-token",
            Self::Gitlab => "header:webhook-id,idempotency-key",
            Self::Zendesk => "header:x-zendesk-webhook-invocation-id",
            Self::Gitea => "header:x-gitea-delivery,x-forgejo-delivery,x-gogs-delivery",
            Self::Linear => "header:linear-delivery",
            Self::StandardWebhooks => "header:webhook-id",
            Self::Meta | Self::Zoom | Self::Mailgun | Self::Hmac => return Dedupe::Digest,
            Self::Strava | Self::Basic | Self::Bearer | Self::HeaderToken | Self::None => return Dedupe::Off,
        };
        Dedupe::Pick(known(pick))
    }

    /// Returns the HTTP methods that senders of this preset use.
    pub const fn methods(self) -> &'static [&'static str] {
        match self {
            // A webhook of Gitea can use GET, with the payload in the query.
            Self::Gitea => &["GET", "POST"],
            _ => &["POST"],
        }
    }

    /// Returns the answer that senders of this preset expect: a content type and a body. `None` means that senders ignore the
    /// body, so the answer contains the event's id.
    pub const fn answer(self) -> Option<(&'static str, &'static str)> {
        match self {
            // Slack reads every body as an instruction: after a slash command it shows the body, and in a modal the body is an
            // error.
            Self::Slack => Some(("text/plain; charset=utf-8", "")),
            // Twilio reads every answer as TwiML. JSON causes Twilio's error 12300, which the person on the phone hears.
            Self::Twilio => Some(("text/xml", "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response></Response>")),
            _ => None,
        }
    }

    /// Returns the documented maximum size of a body of these senders, in bytes.
    pub const fn body_bytes_sent(self) -> Option<u64> {
        match self {
            // GitHub: "Payloads are capped at 25 MB". GitLab sends no payload above 25 MB (its merge request 38687).
            Self::Github | Self::Gitlab => Some(25 << 20),
            _ => None,
        }
    }

    /// Returns the default limit of a body, in bytes, if it is lower than the engine's limit.
    pub const fn body_bytes_max(self) -> Option<u64> {
        match self {
            // Twilio's forms have a few kilobytes. Each form is hashed at least twice per secret, because the spelling of the
            // address is not known.
            Self::Twilio => Some(1 << 20),
            _ => None,
        }
    }
}

fn known(text: &str) -> Pick {
    Pick::parse(text).expect("a preset's place")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_parse_and_every_preset_is_complete() {
        for preset in Preset::ALL {
            assert_eq!(Preset::parse(preset.as_str()), Some(preset));
            let (proofs, _, _) = (preset.proofs(), preset.event_type(), preset.dedupe());
            for rule in &proofs.0 {
                if let Rule::Hmac(rule) = rule {
                    let signed = rule.template.has_timestamp() || rule.template.has_body() && preset == Preset::Linear;
                    assert_eq!(signed, rule.stamp.is_some(), "{preset:?}");
                }
                assert!(rule.has_secret() || matches!(preset, Preset::None | Preset::Strava));
            }
        }
        assert_eq!(Preset::parse("paypal"), None);
    }
}
