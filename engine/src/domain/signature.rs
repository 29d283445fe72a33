//! Standard Webhooks 1.0 signatures: HMAC-SHA256 (`v1`) and ed25519 (`v1a`).
//!
//! What is signed is `{webhook-id}.{webhook-timestamp}.{body}`; the header lists one `version,base64` per secret, so that a
//! receiver that knows any of them accepts. A secret never appears in `Debug` or `Display`; [`Secret::reveal`] is the only way out.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signer as _, SigningKey};
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
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1a => "v1a",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::V1, Self::V1a].into_iter().find(|scheme| scheme.as_str() == text)
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
