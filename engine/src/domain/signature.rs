//! Signatures: Standard Webhooks 1.0 with HMAC-SHA256 (`v1`) and ed25519 (`v1a`), and the schemes of well-known senders, for
//! receivers that were written for those senders.
//!
//! Standard Webhooks signs `{webhook-id}.{webhook-timestamp}.{body}`. The header lists one `version,base64` per secret, so a
//! receiver that knows any of the secrets accepts the webhook. Every webhook carries its id and time, regardless of the scheme.
//!
//! Received signatures are decoded from base64, with or without padding, and compared as bytes in constant time.
//!
//! A secret never appears in `Debug` or `Display`. Only [`Secret::reveal`] returns it.

use std::{
    fmt::{self, Write as _},
    ops::RangeInclusive,
    time::Duration,
};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::{
    given::{self, BadText},
    time::Timestamp,
};

/// The signature scheme of an endpoint's webhooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Standard Webhooks, HMAC-SHA256 under a shared secret.
    #[default]
    V1,
    /// Standard Webhooks, ed25519: receivers need only the public key.
    V1a,
    /// `X-Hub-Signature-256: sha256=<hex>`, HMAC-SHA256 of the body.
    Github,
    /// `Stripe-Signature: t=…,v1=<hex>`, HMAC-SHA256 of time and body.
    Stripe,
    /// `X-WC-Webhook-Signature: <base64>`, HMAC-SHA256 of the body.
    WooCommerce,
    /// `X-Shopify-Hmac-SHA256: <base64>`, HMAC-SHA256 of the body.
    Shopify,
    /// The secret itself, in a header that the endpoint chooses.
    Token,
    /// No signature: a receiver cannot verify the sender.
    None,
}

impl Scheme {
    pub const ALL: [Self; 8] =
        [Self::V1, Self::V1a, Self::Github, Self::Stripe, Self::WooCommerce, Self::Shopify, Self::Token, Self::None];

    /// The default header of [`Self::Token`].
    pub const TOKEN_HEADER_DEFAULT: &'static str = "x-webhook-token";

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1a => "v1a",
            Self::Github => "github",
            Self::Stripe => "stripe",
            Self::WooCommerce => "woocommerce",
            Self::Shopify => "shopify",
            Self::Token => "token",
            Self::None => "none",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str() == text)
    }

    /// Returns whether a webhook can carry signatures of several secrets, so that an old secret signs beside a new one. Otherwise
    /// only the newest signs.
    pub const fn carries_several(self) -> bool {
        matches!(self, Self::V1 | Self::V1a | Self::Stripe)
    }

    /// Returns the name of the header with the signature, in lower case.
    pub const fn header(self, token_header: &str) -> Option<&str> {
        match self {
            Self::V1 | Self::V1a => Some("webhook-signature"),
            Self::Github => Some("x-hub-signature-256"),
            Self::Stripe => Some("stripe-signature"),
            Self::WooCommerce => Some("x-wc-webhook-signature"),
            Self::Shopify => Some("x-shopify-hmac-sha256"),
            Self::Token => Some(token_header),
            Self::None => None,
        }
    }
}

/// The secret that signs an endpoint's webhooks.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The decoded bytes after `whsec_`.
    Hmac(Vec<u8>),
    /// The 32-byte seed after `whsk_`.
    Ed25519([u8; 32]),
    /// Text used as the key, for all schemes but those of Standard Webhooks.
    Text(String),
}

/// A malformed secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    #[error(
        "a secret is \"whsec_\" and the base64 of 24 to 64 bytes, or \"whsk_\" and the base64 of an ed25519 seed with its \
         public key"
    )]
    Key,
    #[error("a secret of this signature is {} to {} ASCII characters, without blanks or line ends around them", Secret::TEXT_LEN.start(), Secret::TEXT_LEN.end())]
    Text,
    #[error("it {0}")]
    Invisible(BadText),
}

impl Secret {
    /// Number of random bytes for a new secret.
    pub const SEED_LEN: usize = 32;
    /// Length of a text secret: long enough not to be guessed, short enough for a header.
    pub const TEXT_LEN: RangeInclusive<usize> = 16..=256;

    /// Creates a secret. An endpoint with [`Scheme::None`] does not use its secret.
    pub fn from_seed(scheme: Scheme, seed: [u8; Self::SEED_LEN]) -> Self {
        match scheme {
            Scheme::V1 => Self::Hmac(seed.to_vec()),
            Scheme::V1a => Self::Ed25519(seed),
            // The form of Stripe's secrets.
            Scheme::Stripe => Self::Text(format!("whsec_{}", hex(&seed))),
            _ => Self::Text(hex(&seed)),
        }
    }

    /// Reads a secret for webhooks of `scheme`. Blanks and line ends around a secret of Standard Webhooks are ignored.
    pub fn read(scheme: Scheme, text: &str) -> Result<Self, BadSecret> {
        if matches!(scheme, Scheme::V1 | Scheme::V1a) {
            return Self::parse(given::value(text).map_err(BadSecret::Invisible)?);
        }
        let visible = text.bytes().all(|c| matches!(c, b' '..=b'~')) && text.trim() == text;
        if visible && Self::TEXT_LEN.contains(&text.len()) { Ok(Self::Text(text.to_owned())) } else { Err(BadSecret::Text) }
    }

    /// Reads a secret of Standard Webhooks.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let decode = |base64: &str| BASE64_STANDARD.decode(base64).map_err(|_| BadSecret::Key);
        if let Some(base64) = text.strip_prefix("whsk_") {
            let bytes = decode(base64)?;
            let (seed, public) = bytes.split_first_chunk::<32>().ok_or(BadSecret::Key)?;
            let derived = SigningKey::from_bytes(seed).verifying_key();
            return if derived.as_bytes() == public { Ok(Self::Ed25519(*seed)) } else { Err(BadSecret::Key) };
        }
        let key = decode(text.strip_prefix("whsec_").ok_or(BadSecret::Key)?)?;
        if (24..=64).contains(&key.len()) { Ok(Self::Hmac(key)) } else { Err(BadSecret::Key) }
    }

    /// Returns whether it can sign webhooks of `scheme`.
    pub const fn is_for(&self, scheme: Scheme) -> bool {
        match (self, scheme) {
            (Self::Hmac(_), Scheme::V1) | (Self::Ed25519(_), Scheme::V1a) => true,
            (Self::Hmac(_) | Self::Ed25519(_), _) | (Self::Text(_), Scheme::V1 | Scheme::V1a | Scheme::None) => false,
            (Self::Text(_), _) => true,
        }
    }

    /// Returns the secret itself. Only two callers may use it: the API answer that shows the secret once, and the store.
    pub fn reveal(&self) -> String {
        match self {
            Self::Hmac(key) => format!("whsec_{}", BASE64_STANDARD.encode(key)),
            Self::Ed25519(seed) => {
                let key = SigningKey::from_bytes(seed);
                let pair = [seed.as_slice(), key.verifying_key().as_bytes()].concat();
                format!("whsk_{}", BASE64_STANDARD.encode(pair))
            }
            Self::Text(text) => text.clone(),
        }
    }

    /// Returns the receiver's verification key, if that is not the secret itself.
    pub fn public(&self) -> Option<String> {
        match self {
            Self::Hmac(_) | Self::Text(_) => None,
            Self::Ed25519(seed) => {
                let key = SigningKey::from_bytes(seed).verifying_key();
                Some(format!("whpk_{}", BASE64_STANDARD.encode(key.as_bytes())))
            }
        }
    }

    /// Returns one entry of `webhook-signature`.
    fn sign(&self, content: &[&[u8]]) -> String {
        match self {
            Self::Hmac(key) => format!("v1,{}", BASE64_STANDARD.encode(hmac(key, content))),
            Self::Ed25519(seed) => {
                let signature = SigningKey::from_bytes(seed).sign(&content.concat());
                format!("v1a,{}", BASE64_STANDARD.encode(signature.to_bytes()))
            }
            Self::Text(text) => format!("v1,{}", BASE64_STANDARD.encode(hmac(text.as_bytes(), content))),
        }
    }

    /// Computes HMAC-SHA256 with the secret's text as the key, because receivers of these schemes use that text as the key.
    fn sign_as_text(&self, content: &[&[u8]]) -> [u8; 32] {
        hmac(self.reveal().as_bytes(), content)
    }
}

fn hmac(key: &[u8], content: &[&[u8]]) -> [u8; 32] {
    #[cfg(test)]
    work::note();
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    content.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// Returns lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// How an endpoint's webhooks are signed.
#[derive(Clone, Copy, Debug)]
pub struct Proof<'a> {
    pub scheme: Scheme,
    /// In lower case; only for [`Scheme::Token`].
    pub token_header: &'a str,
}

impl<'a> Proof<'a> {
    /// Returns names (in lower case) and values of the headers with the webhook's id, its time and its signature. `secrets` are
    /// the valid secrets, newest first.
    pub fn headers<'s>(
        self,
        secrets: impl IntoIterator<Item = &'s Secret>,
        webhook_id: &str,
        at: Timestamp,
        body: &[u8],
    ) -> Vec<(&'a str, String)> {
        let mut headers = vec![("webhook-id", webhook_id.to_owned()), ("webhook-timestamp", at.seconds().to_string())];
        let mut secrets = secrets.into_iter().peekable();
        if let Some(name) = self.scheme.header(self.token_header)
            && let Some(newest) = secrets.peek()
        {
            let value = match self.scheme {
                Scheme::V1 | Scheme::V1a => signature(secrets, webhook_id, at, body),
                Scheme::Stripe => stripe(secrets, at, body),
                Scheme::Github => format!("sha256={}", hex(&newest.sign_as_text(&[body]))),
                Scheme::WooCommerce | Scheme::Shopify => BASE64_STANDARD.encode(newest.sign_as_text(&[body])),
                Scheme::Token | Scheme::None => newest.reveal(),
            };
            headers.push((name, value));
        }
        headers
    }
}

impl<'a> Proof<'a> {
    /// Returns the headers of [`Self::headers`] in a form to show to people, with `masked` in place of the signature or the
    /// secret.
    pub fn masked_headers(self, webhook_id: &str, at: Timestamp, masked: &str) -> Vec<(&'a str, String)> {
        let mut headers = vec![("webhook-id", webhook_id.to_owned()), ("webhook-timestamp", at.seconds().to_string())];
        headers.extend(self.scheme.header(self.token_header).map(|name| (name, masked.to_owned())));
        headers
    }
}

/// Returns the value of `webhook-signature` for one attempt: every secret's signature, separated by spaces.
pub fn signature<'a>(secrets: impl IntoIterator<Item = &'a Secret>, webhook_id: &str, at: Timestamp, body: &[u8]) -> String {
    let stamp = format!("{webhook_id}.{}.", at.seconds());
    let signatures: Vec<String> = secrets.into_iter().map(|secret| secret.sign(&[stamp.as_bytes(), body])).collect();
    signatures.join(" ")
}

/// Returns the value of `Stripe-Signature`: the time, and every secret's signature.
fn stripe<'a>(secrets: impl Iterator<Item = &'a Secret>, at: Timestamp, body: &[u8]) -> String {
    let stamp = format!("{}.", at.seconds());
    secrets.fold(format!("t={}", at.seconds()), |mut value, secret| {
        value.extend([",v1=", &hex(&secret.sign_as_text(&[stamp.as_bytes(), body]))]);
        value
    })
}

/// A receiver's verification key.
#[derive(Clone)]
pub enum Verifier {
    Hmac(Vec<u8>),
    Ed25519(Box<VerifyingKey>),
}

impl Verifier {
    /// Reads `whsec_…` (shared), `whpk_…` (public) or `whsk_…` (secret, of which the public half is used).
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        if let Some(base64) = text.strip_prefix("whpk_") {
            let bytes = BASE64_STANDARD.decode(base64).map_err(|_| BadSecret::Key)?;
            let bytes: [u8; 32] = bytes.try_into().map_err(|_| BadSecret::Key)?;
            return VerifyingKey::from_bytes(&bytes).map(|key| Self::Ed25519(Box::new(key))).map_err(|_| BadSecret::Key);
        }
        Ok(match Secret::parse(text)? {
            Secret::Hmac(key) => Self::Hmac(key),
            Secret::Ed25519(seed) => Self::Ed25519(Box::new(SigningKey::from_bytes(&seed).verifying_key())),
            Secret::Text(text) => Self::Hmac(text.into_bytes()),
        })
    }
}

/// Why a webhook is not verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the header {0} is missing")]
    Missing(&'static str),
    #[error("webhook-timestamp is not a number of seconds")]
    BadTimestamp,
    #[error("webhook-timestamp is more than {} s away from now", TOLERANCE.as_secs())]
    TooOldOrNew,
    #[error("webhook-signature lists more than {SIGNATURES_MAX} signatures")]
    TooMany,
    #[error("no signature matches")]
    NoMatch,
}

/// Maximum difference between a webhook's timestamp and the receiver's clock.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// Maximum number of signatures of one webhook. Senders list one per secret, which is two during a rotation. Each signature costs
/// the receiver work before the sender is verified.
pub const SIGNATURES_MAX: usize = 10;

/// Maximum number of ed25519 checks per webhook; one check tries one signature with one key. Each check hashes the whole body
/// again, which an HMAC does only once per secret.
const PUBLIC_KEY_CHECKS_MAX: usize = 10;

/// The claims in a webhook's headers (Standard Webhooks 1.0), before its body is read.
pub struct Claim<'a> {
    pub id: &'a str,
    timestamp: &'a str,
    signatures: &'a str,
}

impl<'a> Claim<'a> {
    /// Reads the claims from the headers. Computes no signature.
    ///
    /// # Errors
    /// Refuses missing headers, a timestamp outside [`TOLERANCE`], and more than [`SIGNATURES_MAX`] signatures.
    pub fn read(header: impl Fn(&'static str) -> Option<&'a str>, now: Timestamp) -> Result<Self, Rejection> {
        let header = |name| header(name).filter(|value| !value.is_empty()).ok_or(Rejection::Missing(name));
        let (id, timestamp, signatures) = (header("webhook-id")?, header("webhook-timestamp")?, header("webhook-signature")?);
        let seconds: i64 = timestamp.parse().map_err(|_| Rejection::BadTimestamp)?;
        if seconds.abs_diff(now.seconds()) > TOLERANCE.as_secs() {
            return Err(Rejection::TooOldOrNew);
        }
        if signatures.split(' ').nth(SIGNATURES_MAX).is_some() {
            return Err(Rejection::TooMany);
        }
        Ok(Self { id, timestamp, signatures })
    }

    /// Returns the part of the signed text that is before the body.
    pub fn stamp(&self) -> String {
        format!("{}.{}.", self.id, self.timestamp)
    }

    /// Returns the signatures of one version that have the given length. Unknown versions are skipped, as the spec requires.
    fn of_version(&self, version: &str, length: usize) -> Vec<Vec<u8>> {
        let entries = self.signatures.split(' ').filter_map(|entry| entry.split_once(','));
        let known = entries.filter(|(known, _)| *known == version);
        known.filter_map(|(_, base64)| PADDED_OR_NOT.decode(base64).ok()).filter(|one| one.len() == length).collect()
    }

    /// Returns whether any of the verifiers accepts any of the signatures (Standard Webhooks 1.0, "Verifying signatures").
    /// Computes one HMAC per secret, regardless of the number of signatures.
    pub fn matches(&self, verifiers: &[Verifier], body: &[u8]) -> bool {
        let stamp = self.stamp();
        let (shared, public) = (self.of_version("v1", 32), self.of_version("v1a", 64));
        // All candidates are compared, in constant time, even after a match.
        let by_shared = |key: &[u8]| {
            let right = hmac(key, &[stamp.as_bytes(), body]);
            shared.iter().fold(false, |found, one| found | bool::from(right.as_slice().ct_eq(one)))
        };
        if !shared.is_empty() {
            let keys = verifiers.iter().filter_map(|verifier| match verifier {
                Verifier::Hmac(key) => Some(key),
                Verifier::Ed25519(_) => None,
            });
            if keys.fold(false, |found, key| found | by_shared(key)) {
                return true;
            }
        }
        let keys = verifiers.iter().filter_map(|verifier| match verifier {
            Verifier::Ed25519(key) => Some(key),
            Verifier::Hmac(_) => None,
        });
        let pairs = public.iter().flat_map(|one| keys.clone().map(move |key| (one, key)));
        let mut content = None;
        pairs.take(PUBLIC_KEY_CHECKS_MAX).any(|(one, key)| {
            let content: &Vec<u8> = content.get_or_insert_with(|| [stamp.as_bytes(), body].concat());
            #[cfg(test)]
            work::note();
            Signature::from_slice(one).is_ok_and(|signature| key.verify_strict(content, &signature).is_ok())
        })
    }
}

/// Base64 with or without padding, because libraries differ.
pub const PADDED_OR_NOT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Verifies like a receiver: reads the headers, then compares.
pub fn verify<'a>(
    verifiers: &[Verifier],
    header: impl Fn(&'static str) -> Option<&'a str>,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Rejection> {
    let claim = Claim::read(header, now)?;
    if claim.matches(verifiers, body) { Ok(()) } else { Err(Rejection::NoMatch) }
}

/// Counts computed signatures, so that tests can limit the work that an unverified caller can cause.
#[cfg(test)]
pub mod work {
    use std::cell::Cell;

    thread_local! {
        static COMPUTED: Cell<usize> = const { Cell::new(0) };
    }

    pub fn note() {
        COMPUTED.with(|computed| computed.set(computed.get() + 1));
    }

    /// Runs `step` and returns its result, with the number of signatures that it computed on this thread.
    pub fn of<T>(step: impl FnOnce() -> T) -> (T, usize) {
        let before = COMPUTED.with(Cell::get);
        let done = step();
        (done, COMPUTED.with(Cell::get) - before)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const WHSK: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";

    fn at() -> Timestamp {
        Timestamp::from_millis(1_614_265_330_000)
    }

    #[test]
    fn published_vectors() {
        let hmac = Secret::parse(WHSEC).unwrap();
        let v1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signature([&hmac], ID, at(), BODY), v1);

        let ed25519 = Secret::parse(WHSK).unwrap();
        let v1a = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
        assert_eq!(signature([&ed25519], ID, at(), BODY), v1a);
        assert_eq!(ed25519.public().unwrap(), "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=");

        assert_eq!(signature([&hmac, &ed25519], ID, at(), BODY), format!("{v1} {v1a}"));
    }

    #[test]
    fn secrets_read_back_and_stay_hidden() {
        for text in [WHSEC, WHSK] {
            let secret = Secret::parse(text).unwrap();
            assert_eq!(secret.reveal(), text);
            assert!(!format!("{secret:?}").contains(&text[6..12]));
        }
        for bad in ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &WHSK.replace("6Xb", "7Xb")] {
            assert_eq!(Secret::parse(bad), Err(BadSecret::Key), "{bad}");
        }
    }

    /// Returns the headers of an attempt as lines.
    fn headers(scheme: Scheme, secrets: &[&Secret], body: &[u8]) -> Vec<String> {
        let proof = Proof { scheme, token_header: "x-api-key" };
        let headers = proof.headers(secrets.iter().copied(), ID, at(), body);
        headers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }

    #[test]
    fn signs_the_vectors_of_other_senders() {
        let text = |text: &str| Secret::Text(text.to_owned());
        let (stripe, stripe_v1) = ("whsec_test_secret", "10c96c6fd3f320fcfc264cdc4f476c15060ede8e8a08404cea2ddf3b72544a9c");
        let base64 = "xL5cCS2Qf6JA8tpSTB/YKRNwU3knTRE8rNXsOmZ61NQ=";
        // GitHub's vector is in its documentation, "Testing the webhook payload validation".
        let table: [(Scheme, &str, &[u8], Option<String>); 6] = [
            (
                Scheme::Github,
                "It's a Secret to Everybody",
                b"Hello, World!",
                Some("x-hub-signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17".to_owned()),
            ),
            (Scheme::Stripe, stripe, BODY, Some(format!("stripe-signature: t=1614265330,v1={stripe_v1}"))),
            (Scheme::WooCommerce, "secret", BODY, Some(format!("x-wc-webhook-signature: {base64}"))),
            (Scheme::Shopify, "secret", BODY, Some(format!("x-shopify-hmac-sha256: {base64}"))),
            (Scheme::Token, "Bearer of a key", BODY, Some("x-api-key: Bearer of a key".to_owned())),
            (Scheme::None, "secret", BODY, None),
        ];
        for (scheme, secret, body, proof) in table {
            let mut expected = vec![format!("webhook-id: {ID}"), "webhook-timestamp: 1614265330".to_owned()];
            expected.extend(proof);
            assert_eq!(headers(scheme, &[&text(secret)], body), expected, "{scheme:?}");
        }
    }

    #[test]
    fn during_a_rotation_all_secrets_sign_if_the_scheme_allows() {
        let of = |scheme, byte| Secret::from_seed(scheme, [byte; 32]);
        for scheme in Scheme::ALL {
            let (new, old) = (of(scheme, 2), of(scheme, 1));
            let (both, newest, oldest) =
                (headers(scheme, &[&new, &old], BODY), headers(scheme, &[&new], BODY), headers(scheme, &[&old], BODY));
            if scheme.carries_several() {
                let name = scheme.header("").unwrap();
                let signatures = |lines: &[String]| -> Vec<String> {
                    let value = lines[2].strip_prefix(&format!("{name}: ")).unwrap();
                    value.split([' ', ',']).filter(|part| part.len() > 12).map(str::to_owned).collect()
                };
                assert_eq!(signatures(&both), [signatures(&newest), signatures(&oldest)].concat(), "{scheme:?}");
                assert_eq!(both.len(), 3);
            } else {
                assert_eq!(both, newest, "{scheme:?}");
            }
            assert_eq!(newest != oldest, scheme != Scheme::None, "{scheme:?}");
            assert_eq!(Scheme::parse(scheme.as_str()), Some(scheme));
        }
    }

    #[test]
    fn blanks_and_line_ends_around_a_secret_of_standard_webhooks_are_ignored() {
        for (scheme, secret) in [(Scheme::V1, WHSEC), (Scheme::V1a, WHSK)] {
            for around in [["", "\n"], ["", "\r\n"], [" ", "\t"], ["\u{feff}", ""], ["", "\u{200b}"]] {
                let pasted = around.join(secret);
                assert_eq!(Secret::read(scheme, &pasted), Secret::parse(secret), "{pasted:?}");
            }
            let refused = Secret::read(scheme, &secret.replacen('M', "\n", 1).replacen('6', "\n", 1)).unwrap_err().to_string();
            assert!(refused.starts_with("it contains a line end; "), "{refused}");
        }
    }

    #[test]
    fn a_secret_of_another_sender_is_text() {
        for good in ["0123456789abcdef", "It's a Secret to Everybody", WHSEC, &"x".repeat(256)] {
            let secret = Secret::read(Scheme::Github, good).unwrap();
            assert_eq!(secret.reveal(), good);
            assert!(secret.is_for(Scheme::Shopify) && !secret.is_for(Scheme::V1) && secret.public().is_none());
        }
        for bad in ["", "0123456789abcde", " 0123456789abcdef", "0123456789\nabcdef", "0123456789abcdé", &"x".repeat(257)] {
            assert_eq!(Secret::read(Scheme::Token, bad), Err(BadSecret::Text), "{bad}");
        }
        assert_eq!(Secret::read(Scheme::Token, "0123456789abcdef\n"), Err(BadSecret::Text));
        for scheme in Scheme::ALL {
            let made = Secret::from_seed(scheme, [7; 32]);
            if scheme != Scheme::None {
                assert!(made.is_for(scheme), "{scheme:?}");
                assert_eq!(Secret::read(scheme, &made.reveal()), Ok(made), "{scheme:?}");
            }
        }
    }

    #[test]
    fn a_receiver_accepts_only_valid_webhooks() {
        const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
        let v1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let v1a = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
        let check = |key: &str, id: &str, timestamp: &str, signatures: &str, body: &[u8], now: i64| {
            let header = |name| match name {
                "webhook-id" => Some(id),
                "webhook-timestamp" => Some(timestamp),
                _ => Some(signatures),
            };
            verify(&[Verifier::parse(key).unwrap()], header, body, Timestamp::from_millis(now * 1000))
        };
        let (stamp, now) = ("1614265330", 1_614_265_330);
        let list = format!("v1,bad= v2,{} {v1}", &v1[3..]);
        assert_eq!(check(WHSEC, ID, stamp, v1, BODY, now), Ok(()));
        assert_eq!(check(WHSEC, ID, stamp, &list, BODY, now + 300), Ok(()));
        assert_eq!(check(PUBLIC, ID, stamp, v1a, BODY, now), Ok(()));
        assert_eq!(check(WHSK, ID, stamp, &format!("{v1} {v1a}"), BODY, now), Ok(()));

        assert_eq!(check(WHSEC, "", stamp, v1, BODY, now), Err(Rejection::Missing("webhook-id")));
        assert_eq!(check(WHSEC, ID, "", v1, BODY, now), Err(Rejection::Missing("webhook-timestamp")));
        assert_eq!(check(WHSEC, ID, stamp, "", BODY, now), Err(Rejection::Missing("webhook-signature")));
        assert_eq!(check(WHSEC, ID, "noon", v1, BODY, now), Err(Rejection::BadTimestamp));
        assert_eq!(check(WHSEC, ID, stamp, v1, BODY, now + 301), Err(Rejection::TooOldOrNew));
        assert_eq!(check(WHSEC, ID, stamp, v1, BODY, now - 301), Err(Rejection::TooOldOrNew));
        for signatures in ["v1,", "v1", &v1[..40], &format!("v2{}", &v1[2..]), v1a] {
            assert_eq!(check(WHSEC, ID, stamp, signatures, BODY, now), Err(Rejection::NoMatch), "{signatures}");
        }
        assert_eq!(check(WHSEC, ID, stamp, v1, b"", now), Err(Rejection::NoMatch));
        assert_eq!(check(PUBLIC, ID, stamp, v1, BODY, now), Err(Rejection::NoMatch), "another scheme");
        assert_eq!(check(WHSEC, ID, stamp, v1.trim_end_matches('='), BODY, now), Ok(()), "without padding");
    }

    #[test]
    fn work_before_verification_is_bounded_for_any_number_of_signatures() {
        let shared: Vec<Verifier> = (0..5).map(|byte| Verifier::Hmac(vec![byte; 32])).collect();
        let public = |byte| SigningKey::from_bytes(&[byte; 32]).verifying_key();
        let public: Vec<Verifier> = (0..5).map(|byte| Verifier::Ed25519(Box::new(public(byte)))).collect();
        let (mac, signature) = (BASE64_STANDARD.encode([1; 32]), BASE64_STANDARD.encode([1; 64]));
        let (v1, v1a) = (format!("v1,{mac}"), format!("v1a,{signature}"));
        let repeated = |entry: &str, times| vec![entry; times].join(" ");
        for (verifiers, signatures, rejection, computed) in [
            (&shared, repeated(&v1, 10), Rejection::NoMatch, 5),
            (&shared, repeated(&v1, 11), Rejection::TooMany, 0),
            (&shared, repeated("v1,", 10), Rejection::NoMatch, 0),
            (&shared, repeated("v1,", 15_000), Rejection::TooMany, 0),
            (&shared, repeated("v2,AAAA", 10), Rejection::NoMatch, 0),
            (&shared, repeated(&v1a, 10), Rejection::NoMatch, 0),
            (&public, repeated(&v1a, 10), Rejection::NoMatch, PUBLIC_KEY_CHECKS_MAX),
            (&public, repeated("v1a,AAAA", 10), Rejection::NoMatch, 0),
            (&public, repeated(&v1, 10), Rejection::NoMatch, 0),
        ] {
            let header = |name| match name {
                "webhook-id" => Some(ID),
                "webhook-timestamp" => Some("1614265330"),
                _ => Some(signatures.as_str()),
            };
            let (verdict, work) = work::of(|| verify(verifiers, header, BODY, at()));
            assert_eq!((verdict, work), (Err(rejection), computed), "{:.40}", signatures);
        }
    }

    proptest! {
        /// An independent implementation accepts the engine's signatures.
        #[test]
        fn the_official_library_accepts_the_signatures(key in prop::array::uniform32(0u8..), body in "\\PC{0,200}") {
            let secret = Secret::from_seed(Scheme::V1, key);
            let now = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());
            let mut headers = http::HeaderMap::new();
            headers.insert("webhook-id", ID.parse().unwrap());
            headers.insert("webhook-timestamp", now.seconds().to_string().parse().unwrap());
            headers.insert("webhook-signature", signature([&secret], ID, now, body.as_bytes()).parse().unwrap());
            let verifier = standardwebhooks::Webhook::new(&secret.reveal()).unwrap();
            prop_assert!(verifier.verify(body.as_bytes(), &headers).is_ok());
            let mut tampered = body.into_bytes();
            tampered.push(b'!');
            prop_assert!(verifier.verify(&tampered, &headers).is_err());
        }
    }
}
