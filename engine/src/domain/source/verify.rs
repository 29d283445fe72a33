//! Whether a request comes from whom a source expects: checked on the bytes as they came, before anything reads them.
//!
//! A signature is compared as the text that it should have been, in constant time: another way to write the same signature (other
//! letters in hex, other padding in base64) is refused with every other change. Any secret that holds will do.

use std::time::Duration;

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use subtle::ConstantTimeEq as _;
use url::form_urlencoded;

use super::template::Template;
use crate::domain::{
    signature::{self, Verifier},
    time::Timestamp,
};

/// A request as it came.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// In capitals.
    pub method: &'a str,
    /// The address as its sender knows it, with the query: some sign it.
    pub url: &'a str,
    /// What follows the question mark; empty if nothing does.
    pub query: &'a str,
    /// Names in lower case. What is no text is left out.
    pub headers: &'a [(String, String)],
    pub body: &'a [u8],
}

impl<'a> Incoming<'a> {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The one header of that name: with two, someone could mean the one and someone else the other.
    fn only(&self, name: &str) -> Result<&'a str, Refusal> {
        let mut all = self.headers.iter().filter(|(known, _)| known == name);
        match (all.next(), all.next()) {
            (Some((_, value)), None) if !value.is_empty() => Ok(value),
            (Some(_), Some(_)) => Err(Refusal::Malformed(name.to_owned())),
            _ => Err(Refusal::Missing(name.to_owned())),
        }
    }
}

/// How senders prove themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Standard Webhooks, also under the names that Svix gives the headers.
    Standard,
    Hmac(HmacRule),
    /// HMAC-SHA1 of the address and the sorted fields of the form.
    Twilio,
    Basic {
        username: String,
    },
    Bearer,
    /// The secret itself in a header.
    Token {
        header: String,
    },
    /// Whoever knows the address may send.
    Nothing,
}

/// A signature by a shared secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HmacRule {
    /// The header with the signature, in lower case.
    pub header: String,
    pub algorithm: Algorithm,
    pub encoding: Encoding,
    /// What stands before the signature.
    pub prefix: String,
    /// What is signed.
    pub template: Template,
    /// Where the header is a list such as `t=1,v1=ab`: the key of signatures in it. Any of them will do.
    pub list_key: Option<String>,
    pub stamp: Option<Stamp>,
}

/// Where the time of signing stands, and how far it may be from now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub place: StampPlace,
    pub tolerance: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StampPlace {
    Header(String),
    /// Under this key in the list of [`HmacRule::list_key`].
    List(String),
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

    fn sign(self, key: &[u8], content: &[u8]) -> Vec<u8> {
        macro_rules! mac {
            ($hash:ty) => {{
                let mut mac = Hmac::<$hash>::new_from_slice(key).expect("HMAC takes keys of any length");
                mac.update(content);
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// In small letters.
    Hex,
    Base64,
    /// Of URLs, without padding.
    Base64Url,
}

impl Encoding {
    pub const ALL: [Self; 3] = [Self::Hex, Self::Base64, Self::Base64Url];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hex => "hex",
            Self::Base64 => "base64",
            Self::Base64Url => "base64url",
        }
    }

    fn write(self, bytes: &[u8]) -> String {
        match self {
            Self::Hex => signature::hex(bytes),
            Self::Base64 => BASE64_STANDARD.encode(bytes),
            Self::Base64Url => BASE64_URL_SAFE_NO_PAD.encode(bytes),
        }
    }
}

/// Why a request is not believed. Says nothing about a secret, nor what would have been right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the header {0} is missing")]
    Missing(String),
    #[error("the header {0} is not of the form that this source's senders have, or is there twice")]
    Malformed(String),
    #[error("the time of signing cannot be read")]
    BadTimestamp,
    #[error("it was signed more than {} away from now", crate::domain::duration::write(*.0))]
    OutsideWindow(Duration),
    #[error("the body is not covered by a signature")]
    NotCovered,
    #[error("it does not match what this source's senders know")]
    Mismatch,
}

impl Refusal {
    /// A word for programs, and for figures.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing",
            Self::Malformed(_) | Self::NotCovered => "malformed",
            Self::BadTimestamp | Self::OutsideWindow(_) => "timestamp",
            Self::Mismatch => "mismatch",
        }
    }
}

/// A request that is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Believed {
    /// Of what was signed, where something was.
    pub digest: Option<[u8; 32]>,
}

/// How far the time of signing of Standard Webhooks may be from now, either way.
const STANDARD_TOLERANCE: Duration = signature::TOLERANCE;

impl Rule {
    /// Whether a secret belongs to it.
    pub const fn has_secret(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// Whether what is sent is signed, and not only the sender's.
    pub const fn signs(&self) -> bool {
        matches!(self, Self::Standard | Self::Hmac(_) | Self::Twilio)
    }

    /// The headers that carry the proof, in lower case.
    pub fn headers(&self) -> Vec<&str> {
        match self {
            Self::Standard => vec!["webhook-signature", "svix-signature"],
            Self::Hmac(rule) => vec![&rule.header],
            Self::Twilio => vec!["x-twilio-signature"],
            Self::Basic { .. } | Self::Bearer => vec!["authorization"],
            Self::Token { header } => vec![header],
            Self::Nothing => Vec::new(),
        }
    }

    /// Verifies a request under any of the secrets that hold.
    pub fn verify(&self, secrets: &[&str], request: &Incoming<'_>, now: Timestamp) -> Result<Believed, Refusal> {
        match self {
            Self::Standard => standard(secrets, request, now),
            Self::Hmac(rule) => rule.verify(secrets, request, now),
            Self::Twilio => twilio(secrets, request),
            Self::Basic { username } => basic(username, secrets, request),
            Self::Bearer => {
                let (scheme, token) = request.only("authorization")?.split_once(' ').unwrap_or_default();
                if !scheme.eq_ignore_ascii_case("bearer") {
                    return Err(Refusal::Malformed("authorization".to_owned()));
                }
                token_matches(secrets, token)
            }
            Self::Token { header } => token_matches(secrets, request.only(header)?),
            Self::Nothing => Ok(Believed { digest: None }),
        }
    }
}

/// In constant time, but for the lengths.
fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

/// All are looked at, whichever matches.
fn any_same<'a>(expected: impl Iterator<Item = &'a str>, given: &str) -> bool {
    expected.fold(false, |found, one| found | same(one, given))
}

fn token_matches(secrets: &[&str], given: &str) -> Result<Believed, Refusal> {
    if any_same(secrets.iter().copied(), given) { Ok(Believed { digest: None }) } else { Err(Refusal::Mismatch) }
}

fn basic(username: &str, secrets: &[&str], request: &Incoming<'_>) -> Result<Believed, Refusal> {
    let malformed = || Refusal::Malformed("authorization".to_owned());
    let (scheme, pair) = request.only("authorization")?.split_once(' ').ok_or_else(malformed)?;
    let pair = BASE64_STANDARD.decode(pair).ok().and_then(|pair| String::from_utf8(pair).ok()).ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    let (name, password) = pair.split_once(':').ok_or_else(malformed)?;
    let known = same(username, name) & any_same(secrets.iter().copied(), password);
    if known { Ok(Believed { digest: None }) } else { Err(Refusal::Mismatch) }
}

fn standard(secrets: &[&str], request: &Incoming<'_>, now: Timestamp) -> Result<Believed, Refusal> {
    let names = match request.header("webhook-signature") {
        None if request.header("svix-signature").is_some() => ["svix-id", "svix-timestamp", "svix-signature"],
        _ => ["webhook-id", "webhook-timestamp", "webhook-signature"],
    };
    let [id, stamp, list] = names.map(|name| request.only(name));
    let (id, stamp, list) = (id?, stamp?, list?);
    // With a dot inside, what is signed could be cut at another place (Standard Webhooks 1.0).
    if id.contains('.') {
        return Err(Refusal::Malformed(names[0].to_owned()));
    }
    if !stamp.bytes().all(|c| c.is_ascii_digit()) {
        return Err(Refusal::BadTimestamp);
    }
    let verifiers: Vec<Verifier> = secrets.iter().filter_map(|secret| Verifier::parse(secret).ok()).collect();
    let header = |name| match name {
        "webhook-id" => Some(id),
        "webhook-timestamp" => Some(stamp),
        _ => Some(list),
    };
    signature::verify(&verifiers, header, request.body, now).map_err(|rejection| match rejection {
        signature::Rejection::Missing(_) => Refusal::Missing(names[2].to_owned()),
        signature::Rejection::BadTimestamp => Refusal::BadTimestamp,
        signature::Rejection::TooOldOrNew => Refusal::OutsideWindow(STANDARD_TOLERANCE),
        signature::Rejection::NoMatch => Refusal::Mismatch,
    })?;
    Ok(Believed { digest: Some(digest(&[id.as_bytes(), b".", stamp.as_bytes(), b".", request.body])) })
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// A time of signing: seconds since 1970, or milliseconds where it is too large for that, or RFC 3339.
fn instant(text: &str) -> Option<Timestamp> {
    /// In seconds it would be the year 5138.
    const MILLIS_FROM: i64 = 100_000_000_000;
    if text.bytes().all(|c| c.is_ascii_digit()) {
        let number: i64 = text.parse().ok()?;
        return Some(Timestamp::from_millis(if number < MILLIS_FROM { number * 1000 } else { number }));
    }
    Timestamp::parse_rfc3339(text)
}

impl HmacRule {
    fn verify(&self, secrets: &[&str], request: &Incoming<'_>, now: Timestamp) -> Result<Believed, Refusal> {
        let header = request.only(&self.header)?;
        let malformed = || Refusal::Malformed(self.header.clone());
        let in_list = |key: &str| {
            let entries = header.split(',').filter_map(|entry| entry.trim().split_once('='));
            entries.filter(|(name, _)| *name == key).map(|(_, value)| value).collect::<Vec<_>>()
        };
        let given = match &self.list_key {
            Some(key) => in_list(key),
            None => vec![header],
        };
        if given.is_empty() {
            return Err(malformed());
        }
        let stamp = match &self.stamp {
            None => "",
            Some(stamp) => {
                let text = match &stamp.place {
                    StampPlace::Header(name) => request.only(name)?,
                    StampPlace::List(key) => match in_list(key).as_slice() {
                        [one] => *one,
                        _ => return Err(malformed()),
                    },
                };
                let at = instant(text).ok_or(Refusal::BadTimestamp)?;
                if at.since(now).max(now.since(at)) > stamp.tolerance {
                    return Err(Refusal::OutsideWindow(stamp.tolerance));
                }
                text
            }
        };
        let content = self.template.fill(request, stamp).ok_or_else(malformed)?;
        let mut matches = false;
        for secret in secrets {
            let expected = format!("{}{}", self.prefix, self.encoding.write(&self.algorithm.sign(secret.as_bytes(), &content)));
            for one in &given {
                matches |= same(&expected, one);
            }
        }
        if matches { Ok(Believed { digest: Some(digest(&[&content])) }) } else { Err(Refusal::Mismatch) }
    }
}

/// Twilio signs its address and the sorted fields of a form; of any other body a digest that stands in the query.
fn twilio(secrets: &[&str], request: &Incoming<'_>) -> Result<Believed, Refusal> {
    let given = request.only("x-twilio-signature")?;
    let in_query = form_urlencoded::parse(request.query.as_bytes()).find(|(name, _)| name == "bodySHA256");
    let fields = match in_query {
        Some((_, expected)) => {
            if !same(&signature::hex(&digest(&[request.body])), &expected) {
                return Err(Refusal::Mismatch);
            }
            String::new()
        }
        None if request.body.is_empty() => String::new(),
        None if is_form(request) => {
            let mut fields: Vec<(String, String)> = form_urlencoded::parse(request.body).into_owned().collect();
            fields.sort();
            fields.dedup();
            fields.into_iter().flat_map(|(name, value)| [name, value]).collect()
        }
        None => return Err(Refusal::NotCovered),
    };
    let mut matches = false;
    for url in spellings(request.url) {
        let content = [url.as_bytes(), fields.as_bytes()].concat();
        for secret in secrets {
            let expected = BASE64_STANDARD.encode(Algorithm::Sha1.sign(secret.as_bytes(), &content));
            matches |= same(&expected, given);
        }
    }
    // Of what is signed alone: a form can be written in more than one way.
    let signed = digest(&[request.url.as_bytes(), fields.as_bytes()]);
    if matches { Ok(Believed { digest: Some(signed) }) } else { Err(Refusal::Mismatch) }
}

fn is_form(request: &Incoming<'_>) -> bool {
    request.header("content-type").is_some_and(super::data::is_form)
}

/// An address with and without the port that goes without saying: senders differ.
fn spellings(url: &str) -> Vec<String> {
    let mut ways = vec![url.to_owned()];
    let (Some((scheme, rest)), Ok(parsed)) = (url.split_once("://"), url::Url::parse(url)) else { return ways };
    let port = if scheme == "https" { ":443" } else { ":80" };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if let Some(bare) = authority.strip_suffix(port) {
        ways.push(format!("{scheme}://{bare}{path}"));
    } else if parsed.port().is_none() {
        ways.push(format!("{scheme}://{authority}{port}{path}"));
    }
    ways
}
