//! Standard Webhooks 1.0 signatures: HMAC-SHA256 (`v1`) and ed25519 (`v1a`).
//!
//! What is signed is `{webhook-id}.{webhook-timestamp}.{body}`; the header lists one `version,base64` per secret, so that a
//! receiver that knows any of them accepts. A secret never appears in `Debug` or `Display`; [`Secret::reveal`] is the only way out.

use std::{fmt, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::time::Timestamp;

/// Which signature an endpoint's webhooks carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// HMAC-SHA256 under a shared secret.
    #[default]
    V1,
    /// ed25519: receivers hold the public key only.
    V1a,
}

impl Scheme {
    pub const ALL: [Self; 2] = [Self::V1, Self::V1a];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1a => "v1a",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str() == text)
    }
}

/// What an endpoint's webhooks are signed with.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The decoded bytes behind `whsec_`.
    Hmac(Vec<u8>),
    /// The 32-byte seed behind `whsk_`.
    Ed25519([u8; 32]),
}

/// A secret that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a secret is \"whsec_\" and the base64 of 24 to 64 bytes, or \"whsk_\" and the base64 of an ed25519 seed with its public key"
)]
pub struct BadSecret;

impl Secret {
    /// Random bytes that a new secret needs.
    pub const SEED_LEN: usize = 32;

    pub fn from_seed(scheme: Scheme, seed: [u8; Self::SEED_LEN]) -> Self {
        match scheme {
            Scheme::V1 => Self::Hmac(seed.to_vec()),
            Scheme::V1a => Self::Ed25519(seed),
        }
    }

    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let decode = |base64: &str| BASE64_STANDARD.decode(base64).map_err(|_| BadSecret);
        if let Some(base64) = text.strip_prefix("whsk_") {
            let bytes = decode(base64)?;
            let (seed, public) = bytes.split_first_chunk::<32>().ok_or(BadSecret)?;
            let derived = SigningKey::from_bytes(seed).verifying_key();
            return if derived.as_bytes() == public { Ok(Self::Ed25519(*seed)) } else { Err(BadSecret) };
        }
        let key = decode(text.strip_prefix("whsec_").ok_or(BadSecret)?)?;
        if (24..=64).contains(&key.len()) { Ok(Self::Hmac(key)) } else { Err(BadSecret) }
    }

    pub const fn scheme(&self) -> Scheme {
        match self {
            Self::Hmac(_) => Scheme::V1,
            Self::Ed25519(_) => Scheme::V1a,
        }
    }

    /// The secret itself, for the one reply that may carry it and for the store.
    pub fn reveal(&self) -> String {
        match self {
            Self::Hmac(key) => format!("whsec_{}", BASE64_STANDARD.encode(key)),
            Self::Ed25519(seed) => {
                let key = SigningKey::from_bytes(seed);
                let pair = [seed.as_slice(), key.verifying_key().as_bytes()].concat();
                format!("whsk_{}", BASE64_STANDARD.encode(pair))
            }
        }
    }

    /// What a receiver verifies with, where that is not the secret itself.
    pub fn public(&self) -> Option<String> {
        match self {
            Self::Hmac(_) => None,
            Self::Ed25519(seed) => {
                let key = SigningKey::from_bytes(seed).verifying_key();
                Some(format!("whpk_{}", BASE64_STANDARD.encode(key.as_bytes())))
            }
        }
    }

    fn sign(&self, content: &[&[u8]]) -> String {
        match self {
            Self::Hmac(key) => {
                let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
                content.iter().for_each(|part| mac.update(part));
                format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
            }
            Self::Ed25519(seed) => {
                let signature = SigningKey::from_bytes(seed).sign(&content.concat());
                format!("v1a,{}", BASE64_STANDARD.encode(signature.to_bytes()))
            }
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, not shown)", self.scheme().as_str())
    }
}

/// The value of `webhook-signature` for one attempt: every secret's signature, separated by spaces.
pub fn signature<'a>(secrets: impl IntoIterator<Item = &'a Secret>, webhook_id: &str, at: Timestamp, body: &[u8]) -> String {
    let stamp = format!("{webhook_id}.{}.", at.seconds());
    let signatures: Vec<String> = secrets.into_iter().map(|secret| secret.sign(&[stamp.as_bytes(), body])).collect();
    signatures.join(" ")
}

/// What a receiver verifies with.
#[derive(Clone)]
pub enum Verifier {
    Hmac(Vec<u8>),
    Ed25519(Box<VerifyingKey>),
}

impl Verifier {
    /// Reads `whsec_…` (shared), `whpk_…` (public) or `whsk_…` (secret, whose public half is taken).
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        if let Some(base64) = text.strip_prefix("whpk_") {
            let bytes = BASE64_STANDARD.decode(base64).map_err(|_| BadSecret)?;
            let bytes: [u8; 32] = bytes.try_into().map_err(|_| BadSecret)?;
            return VerifyingKey::from_bytes(&bytes).map(|key| Self::Ed25519(Box::new(key))).map_err(|_| BadSecret);
        }
        Ok(match Secret::parse(text)? {
            Secret::Hmac(key) => Self::Hmac(key),
            Secret::Ed25519(seed) => Self::Ed25519(Box::new(SigningKey::from_bytes(&seed).verifying_key())),
        })
    }

    fn accepts(&self, version: &str, signature: &[u8], content: &[u8]) -> bool {
        match self {
            Self::Hmac(key) if version == "v1" => {
                let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
                mac.update(content);
                // Compares in constant time.
                mac.verify_slice(signature).is_ok()
            }
            Self::Ed25519(key) if version == "v1a" => {
                Signature::from_slice(signature).is_ok_and(|signature| key.verify_strict(content, &signature).is_ok())
            }
            _ => false,
        }
    }
}

/// Why a webhook is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the header {0} is missing")]
    Missing(&'static str),
    #[error("webhook-timestamp is not a number of seconds")]
    BadTimestamp,
    #[error("webhook-timestamp is more than {} s away from now", TOLERANCE.as_secs())]
    TooOldOrNew,
    #[error("no signature matches")]
    NoMatch,
}

/// How far a webhook's timestamp may be from the receiver's clock, either way.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// Verifies as a receiver does (Standard Webhooks 1.0, "Verifying signatures"): any signature of the list that any verifier accepts
/// will do; versions that are not known are skipped.
pub fn verify<'a>(
    verifiers: &[Verifier],
    header: impl Fn(&'static str) -> Option<&'a str>,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Rejection> {
    let header = |name| header(name).filter(|value| !value.is_empty()).ok_or(Rejection::Missing(name));
    let (id, timestamp, signatures) = (header("webhook-id")?, header("webhook-timestamp")?, header("webhook-signature")?);
    let seconds: i64 = timestamp.parse().map_err(|_| Rejection::BadTimestamp)?;
    if seconds.abs_diff(now.seconds()) > TOLERANCE.as_secs() {
        return Err(Rejection::TooOldOrNew);
    }
    let content = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    let matches = signatures.split(' ').filter_map(|one| one.split_once(',')).any(|(version, base64)| {
        BASE64_STANDARD
            .decode(base64)
            .is_ok_and(|signature| verifiers.iter().any(|verifier| verifier.accepts(version, &signature, &content)))
    });
    if matches { Ok(()) } else { Err(Rejection::NoMatch) }
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
            assert_eq!(Secret::parse(bad), Err(BadSecret), "{bad}");
        }
    }

    #[test]
    fn a_receiver_believes_what_it_should_and_nothing_else() {
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
    }

    proptest! {
        /// An independent implementation accepts what we sign.
        #[test]
        fn the_official_library_accepts_what_we_sign(key in prop::array::uniform32(0u8..), body in "\\PC{0,200}") {
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
