//! A signature with a shared secret. A rule describes the signature: where it is, how it is encoded, and which text is signed.
//!
//! Signatures are compared as bytes, in constant time. Their spelling (upper case in hex, padding in base64) proves nothing, and
//! differs between libraries. The id of a duplicate is derived from the signed text, never from the signature.

use std::{borrow::Cow, fmt, time::Duration};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq as _;

use super::{
    pick::Path,
    template::Template,
    verify::{Believed, Evidence, Incoming, Refusal, digest},
};
use crate::domain::{
    signature::{PADDED_OR_NOT, SIGNATURES_MAX},
    time::Timestamp,
};

/// A signature with a shared secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HmacRule {
    pub place: Place,
    /// Where the body may have a second signature of the same text, made with another key. One valid signature is enough.
    pub second: Option<Path>,
    pub algorithm: Algorithm,
    pub encoding: Encoding,
    /// Text before the signature. Blanks between this text and the signature are skipped.
    pub prefix: String,
    /// The signed text.
    pub template: Template,
    /// What `{body}` stands for in the template.
    pub body: SignedBody,
    /// For a list header such as `t=1,v1=ab`: the name of the entries that are signatures. One valid signature is enough.
    pub list_key: Option<String>,
    /// How the secret's text becomes the key.
    pub key: KeyEncoding,
    pub stamp: Option<Stamp>,
}

/// Where a signature or a time is in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Name in lower case.
    Header(String),
    /// A place in a JSON body, or a field of a form.
    Body(Path),
    /// The entry with this name in the list of [`HmacRule::list_key`]. Only a time can be there.
    List(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Body(path) => write!(f, "body:{path}"),
            Self::List(key) => write!(f, "list:{key}"),
        }
    }
}

/// The part of a request that a sender signs as its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedBody {
    AsSent,
    /// The field `payload` of a form or, with `GET`, of the query. Any other body is signed as it is sent (Gitea, Forgejo, Gogs).
    PayloadField,
}

/// Where the signed time is, and its maximum difference from now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub place: Place,
    pub tolerance: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Self; 3] = [Self::Sha1, Self::Sha256, Self::Sha512];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Returns the length of a signature, in bytes.
    pub const fn signature_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    pub fn sign(self, key: &[u8], content: &[&[u8]]) -> Vec<u8> {
        #[cfg(test)]
        crate::domain::signature::work::note();
        macro_rules! mac {
            ($hash:ty) => {{
                let mut mac = Hmac::<$hash>::new_from_slice(key).expect("HMAC takes keys of any length");
                content.iter().for_each(|part| mac.update(part));
                mac.finalize().into_bytes().to_vec()
            }};
        }
        match self {
            Self::Sha1 => mac!(Sha1),
            Self::Sha256 => mac!(Sha256),
            Self::Sha512 => mac!(Sha512),
        }
    }
}

/// The encoding of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Lower or upper case.
    Hex,
    /// With or without padding.
    Base64,
    /// Base64 in the URL alphabet, with or without padding.
    Base64Url,
}

/// Base64 for URLs, with or without padding.
const URL_PADDED_OR_NOT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Encoding {
    pub const ALL: [Self; 3] = [Self::Hex, Self::Base64, Self::Base64Url];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hex => "hex",
            Self::Base64 => "base64",
            Self::Base64Url => "base64url",
        }
    }

    pub fn read(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Hex => unhex(text),
            Self::Base64 => PADDED_OR_NOT.decode(text).ok(),
            Self::Base64Url => URL_PADDED_OR_NOT.decode(text).ok(),
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// How the text of a secret becomes the key of the signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyEncoding {
    /// The text is the key.
    #[default]
    Text,
    Base64,
    Hex,
}

impl KeyEncoding {
    pub const ALL: [Self; 3] = [Self::Text, Self::Base64, Self::Hex];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Base64 => "base64",
            Self::Hex => "hex",
        }
    }

    /// Returns the key, or `None` if the text has another encoding.
    pub fn key(self, secret: &str) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Text => Some(secret.as_bytes().into()),
            Self::Base64 => Encoding::Base64.read(secret).or_else(|| Encoding::Base64Url.read(secret)).map(Into::into),
            Self::Hex => unhex(secret).map(Into::into),
        }
    }
}

/// Reads a signed time: seconds since 1970, milliseconds if the number is too large for seconds, or RFC 3339.
fn instant(text: &str) -> Option<Timestamp> {
    /// As a number of seconds, this is in the year 5138.
    const MILLIS_FROM: i64 = 100_000_000_000;
    if text.bytes().all(|c| c.is_ascii_digit()) {
        let number: i64 = text.parse().ok()?;
        return Some(Timestamp::from_millis(if number < MILLIS_FROM { number * 1000 } else { number }));
    }
    Timestamp::parse_rfc3339(text)
}

/// Returns the entries of a list such as `t=1,v1=ab` or `ts=1;h1=ab`.
fn entries(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.split([',', ';', ' ']).filter_map(|entry| entry.split_once('='))
}

impl HmacRule {
    /// Returns the name of the header with the signature.
    pub fn header(&self) -> Option<&str> {
        match &self.place {
            Place::Header(name) => Some(name),
            Place::Body(_) | Place::List(_) => None,
        }
    }

    /// Returns whether the signature covers this header.
    pub fn covers_header(&self, name: &str) -> bool {
        self.template.has_header(name)
    }

    /// Checks the head of a request, so that a request without a usable proof is refused before its body is read.
    pub fn check_head(&self, request: &Incoming<'_>, now: Timestamp) -> Result<(), Refusal> {
        if matches!(self.place, Place::Header(_)) {
            self.candidates(request)?;
        }
        if self.stamp.as_ref().is_some_and(|stamp| !matches!(stamp.place, Place::Body(_))) {
            self.time(request, now)?;
        }
        Ok(())
    }

    /// Verifies a request. Computes one HMAC per secret, regardless of the number of signatures.
    pub fn verify(&self, secrets: &[&str], request: &Incoming<'_>, now: Timestamp) -> Result<Believed, Refusal> {
        let candidates = self.candidates(request)?;
        let time = self.time(request, now)?;
        let (body, evidence) = self.signed_body(request)?;
        let parts = self.template.fill(request, &body, &time).map_err(Refusal::Missing)?;
        let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        let signed_with = |secret: &str| {
            let right = self.key.key(secret).map(|key| self.algorithm.sign(&key, &parts));
            right.is_some_and(|right| candidates.iter().fold(false, |found, one| found | bool::from(right.ct_eq(one))))
        };
        let secret = secrets.iter().position(|secret| signed_with(secret)).ok_or(Refusal::Mismatch)?;
        Ok(Believed { secret, digest: Some(digest(&parts)), evidence, ..Believed::default() })
    }

    /// Returns the text at a place. Refuses a header or a list entry that occurs twice.
    fn at<'a>(&self, place: &Place, request: &Incoming<'a>) -> Result<Cow<'a, str>, Refusal> {
        match place {
            Place::Header(name) => request.only(name).map(Into::into),
            Place::Body(path) => request.in_body(path).ok_or_else(|| Refusal::Missing(format!("the member {path} of the body"))),
            Place::List(key) => {
                let name = self.header().unwrap_or_default();
                let list = request.only(name)?;
                let mut all = entries(list).filter(|(known, _)| known == key).map(|(_, value)| value);
                match (all.next(), all.next()) {
                    (Some(one), None) => Ok(one.into()),
                    (None, _) => Err(Refusal::malformed(name, format!("has no entry {key}=…"))),
                    (Some(_), Some(_)) => Err(Refusal::malformed(name, format!("has more than one entry {key}=…"))),
                }
            }
        }
    }

    /// Returns the signatures of a request, as bytes.
    fn candidates(&self, request: &Incoming<'_>) -> Result<Vec<Vec<u8>>, Refusal> {
        let mut texts = vec![self.at(&self.place, request)?];
        texts.extend(self.second.as_ref().and_then(|path| request.in_body(path)));
        let part = self.header().map_or_else(|| "the signature in the body".to_owned(), |name| format!("the header {name}"));
        let malformed = |why: String| Refusal::Malformed { part: part.clone(), why };
        let given: Vec<&str> = match &self.list_key {
            Some(key) => {
                texts.iter().flat_map(|text| entries(text)).filter(|(name, _)| name == key).map(|(_, value)| value).collect()
            }
            None => texts.iter().map(|text| &**text).collect(),
        };
        if given.len() > SIGNATURES_MAX {
            return Err(malformed(format!("lists more than {SIGNATURES_MAX} signatures")));
        }
        let mut found = Vec::new();
        let mut why = self.list_key.as_ref().map_or(String::new(), |key| format!("has no entry {key}=…"));
        for one in given {
            let Some(rest) = one.strip_prefix(self.prefix.trim_end()) else {
                why = format!("does not begin with {:?}", self.prefix);
                continue;
            };
            match self.encoding.read(rest.trim_start_matches(' ')) {
                None => why = format!("is not {}", self.encoding.as_str()),
                Some(bytes) if bytes.len() != self.algorithm.signature_len() => {
                    why = format!("is not as long as a signature by {}", self.algorithm.as_str());
                }
                Some(bytes) => found.push(bytes),
            }
        }
        if found.is_empty() { Err(malformed(why)) } else { Ok(found) }
    }

    /// Returns the signed time as text; empty if there is none.
    fn time<'a>(&self, request: &Incoming<'a>, now: Timestamp) -> Result<Cow<'a, str>, Refusal> {
        let Some(stamp) = &self.stamp else { return Ok(Cow::Borrowed("")) };
        let text = self.at(&stamp.place, request)?;
        let at = instant(&text).ok_or(Refusal::BadTimestamp)?;
        if at.since(now).max(now.since(at)) > stamp.tolerance {
            return Err(Refusal::OutsideWindow(stamp.tolerance));
        }
        Ok(text)
    }

    /// Returns the text for `{body}`, and which part of the request it proves.
    fn signed_body<'a>(&self, request: &Incoming<'a>) -> Result<(Cow<'a, [u8]>, Evidence), Refusal> {
        let from = match self.body {
            SignedBody::PayloadField if request.body.is_empty() && !request.query.is_empty() => request.query.as_bytes(),
            SignedBody::PayloadField if request.is_form() => request.body,
            SignedBody::PayloadField | SignedBody::AsSent => return Ok((request.body.into(), Evidence::Whole)),
        };
        let payload = request.field(from, "payload").ok_or_else(|| Refusal::Missing("the field payload".to_owned()))?;
        let evidence = Evidence::Payload(payload.to_string());
        Ok((Cow::Owned(payload.into_owned().into_bytes()), evidence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_signatures_and_keys_in_every_spelling() {
        let bytes = [0xfb, 0xff, 0x01, 0xab];
        for (encoding, texts, bad) in [
            (Encoding::Hex, vec!["fbff01ab", "FBFF01AB", "fbFF01aB"], vec!["fbff01a", "fbff01ag", "fb ff01ab", "0xfbff01"]),
            (Encoding::Base64, vec!["+/8Bqw==", "+/8Bqw"], vec!["-_8Bqw==", "+/8Bqx==", "+/8B qw=="]),
            (Encoding::Base64Url, vec!["-_8Bqw", "-_8Bqw=="], vec!["+/8Bqw", "-_8Bqx"]),
        ] {
            for text in texts {
                assert_eq!(encoding.read(text).as_deref(), Some(&bytes[..]), "{text}");
            }
            for text in bad {
                assert_ne!(encoding.read(text).as_deref(), Some(&bytes[..]), "{text}");
            }
        }
        for (encoding, text) in
            [(KeyEncoding::Base64, "+/8Bqw=="), (KeyEncoding::Base64, "-_8Bqw"), (KeyEncoding::Hex, "FBff01ab")]
        {
            assert_eq!(encoding.key(text).as_deref(), Some(&bytes[..]), "{text}");
        }
        assert_eq!(KeyEncoding::Text.key("+/8Bqw==").as_deref(), Some(&b"+/8Bqw=="[..]));
        assert!(KeyEncoding::Hex.key("xyz").is_none() && KeyEncoding::Base64.key("a b").is_none());
    }

    #[test]
    fn times_are_read_in_seconds_milliseconds_and_rfc_3339() {
        for text in ["1614265330", "1614265330000", "2021-02-25T15:02:10Z"] {
            assert_eq!(instant(text).map(|at| at.seconds()), Some(1_614_265_330), "{text}");
        }
        for text in ["", "-1", "noon", "16142653.30", "99999999999999999999"] {
            assert_eq!(instant(text), None, "{text}");
        }
    }
}
