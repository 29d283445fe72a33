//! Whether a request comes from a sender of the source: checked on the bytes as they came, before anything reads them.
//!
//! A source accepts a list of proofs. The first of them whose header is present decides, so a wrong signature refuses a request even
//! beside a right token. What the head of a request can decide is decided before the body is read ([`Proofs::check_head`]). The work
//! for a request without a proof has a bound: one HMAC per secret (Twilio: two), ten signatures read, [`FIELDS_MAX`] fields read.

use std::{borrow::Cow, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::form_urlencoded;

use super::{
    hmac::HmacRule,
    pick::{Path, Pick},
    twilio,
};
use crate::domain::{
    signature::{self, Claim, Rejection, Verifier},
    time::Timestamp,
};

/// Fields of a form or a query that are read before the sender has proved itself. Twilio's longest forms have about a hundred.
pub const FIELDS_MAX: usize = 1_000;

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

    /// The one header of that name: with two, a proxy could mean the one and the engine the other.
    pub fn only(&self, name: &str) -> Result<&'a str, Refusal> {
        let mut all = self.headers.iter().filter(|(known, _)| known == name);
        match (all.next(), all.next()) {
            (Some((_, value)), None) if !value.is_empty() => Ok(value),
            (Some(_), Some(_)) => Err(Refusal::malformed(name, "is there twice".to_owned())),
            _ => Err(Refusal::Missing(format!("the header {name}"))),
        }
    }

    pub fn is_form(&self) -> bool {
        self.header("content-type").is_some_and(super::data::is_form)
    }

    /// The first field of that name in a form or a query, among its first [`FIELDS_MAX`].
    pub fn field<'f>(&self, form: &'f [u8], name: &str) -> Option<Cow<'f, str>> {
        form_urlencoded::parse(form).take(FIELDS_MAX).find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The text at a place in the body: of JSON, or the field of a form.
    pub fn in_body(&self, path: &Path) -> Option<Cow<'a, str>> {
        if self.is_form() {
            return self.field(self.body, path.only_step()?);
        }
        path.find(std::str::from_utf8(self.body).ok()?)
    }
}

/// One way for senders to prove themselves.
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
    /// Everyone who knows the address may send.
    Nothing,
}

/// Why a request is not believed. Contains nothing of a secret, nor of a right signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0} is missing")]
    Missing(String),
    #[error("{part} {why}")]
    Malformed { part: String, why: String },
    #[error("the headers webhook-… and svix-… are both there; a sender sends one of the two")]
    BothFamilies,
    #[error("the form has more than {FIELDS_MAX} fields")]
    TooManyFields,
    #[error("the time of signing cannot be read")]
    BadTimestamp,
    #[error("it was signed more than {} away from now", crate::domain::duration::write(*.0))]
    OutsideWindow(Duration),
    #[error("the body is not covered by a signature")]
    NotCovered,
    #[error("it does not match any secret of this source")]
    Mismatch,
}

impl Refusal {
    /// What is wrong with one header.
    pub fn malformed(header: &str, why: String) -> Self {
        Self::Malformed { part: format!("the header {header}"), why }
    }

    /// A word for programs, and for figures.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing",
            Self::Malformed { .. } | Self::BothFamilies | Self::TooManyFields | Self::NotCovered => "malformed",
            Self::BadTimestamp | Self::OutsideWindow(_) => "timestamp",
            Self::Mismatch => "mismatch",
        }
    }
}

/// A request that is believed, and what of it was proved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Believed {
    /// Which of the source's proofs it was.
    pub by: usize,
    /// Which of the secrets that hold it was signed with, the newest first.
    pub secret: usize,
    /// The id that was signed.
    pub id: Option<String>,
    /// Of what was signed, where something was.
    pub digest: Option<[u8; 32]>,
    pub evidence: Evidence,
}

/// What of a believed request becomes the event's data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Evidence {
    /// The body.
    #[default]
    Whole,
    /// A field that was signed alone.
    Payload(String),
    /// The fields that were signed, sorted and each once.
    Form(Vec<(String, String)>),
}

/// The headers of Standard Webhooks, and of Svix, from which they came.
const FAMILIES: [[&str; 3]; 2] =
    [["webhook-id", "webhook-timestamp", "webhook-signature"], ["svix-id", "svix-timestamp", "svix-signature"]];

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
            Self::Standard => FAMILIES.map(|[_, _, signature]| signature).to_vec(),
            Self::Hmac(rule) => rule.header().into_iter().collect(),
            Self::Twilio => vec![twilio::HEADER],
            Self::Basic { .. } | Self::Bearer => vec!["authorization"],
            Self::Token { header } => vec![header],
            Self::Nothing => Vec::new(),
        }
    }

    /// Whether a request brings this proof, right or wrong. What stands in a body is known only once the body is read.
    fn is_brought_by(&self, request: &Incoming<'_>) -> bool {
        let headers = self.headers();
        headers.is_empty() || headers.iter().any(|name| request.header(name).is_some())
    }

    /// Whether any of these secrets can be used for it.
    fn has_use_for(&self, secrets: &[&str]) -> bool {
        *self != Self::Standard || secrets.iter().any(|secret| Verifier::parse(secret).is_ok())
    }

    /// Whether the signature covers what a pick names. Of nothing that is not signed it does.
    pub fn covers(&self, pick: &Pick) -> bool {
        match (self, pick) {
            (Self::Hmac(rule), Pick::Header(names)) => names.iter().all(|name| rule.covers_header(name)),
            (Self::Hmac(rule), Pick::Body(_)) => rule.template.has_body(),
            (Self::Standard | Self::Twilio, Pick::Body(_)) => true,
            _ => false,
        }
    }

    /// Whether the query is as the sender wrote it, so that it may become data. Where nothing is signed, it is as good as the body.
    pub fn vouches_for_query(&self) -> bool {
        match self {
            Self::Hmac(rule) => rule.template.has_query(),
            Self::Standard => false,
            Self::Twilio | Self::Basic { .. } | Self::Bearer | Self::Token { .. } | Self::Nothing => true,
        }
    }

    /// Checks what the head of a request says. `None`: the body has to be read, and [`Self::verify`] decides.
    fn check_head(&self, secrets: &[&str], request: &Incoming<'_>, now: Timestamp) -> Result<Option<Believed>, Refusal> {
        match self {
            Self::Standard => claim(request, now).map(|_| None),
            Self::Hmac(rule) => rule.check_head(request, now).map(|()| None),
            Self::Twilio => twilio::given(request).map(|_| None),
            Self::Basic { .. } | Self::Bearer | Self::Token { .. } | Self::Nothing => {
                self.verify(secrets, request, now).map(Some)
            }
        }
    }

    fn verify(&self, secrets: &[&str], request: &Incoming<'_>, now: Timestamp) -> Result<Believed, Refusal> {
        match self {
            Self::Standard => standard(secrets, request, now),
            Self::Hmac(rule) => rule.verify(secrets, request, now),
            Self::Twilio => twilio::verify(secrets, request),
            Self::Basic { username } => basic(username, secrets, request),
            Self::Bearer => {
                let (scheme, token) = request.only("authorization")?.split_once(' ').unwrap_or_default();
                if !scheme.eq_ignore_ascii_case("bearer") {
                    return Err(Refusal::malformed("authorization", "does not begin with \"Bearer \"".to_owned()));
                }
                token_matches(secrets, token.trim_start_matches(' '))
            }
            Self::Token { header } => token_matches(secrets, request.only(header)?),
            Self::Nothing => Ok(Believed::default()),
        }
    }
}

/// The proofs that a source accepts, the one that wins first. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proofs(pub Vec<Rule>);

impl Proofs {
    /// The proof that new senders should use.
    pub fn main(&self) -> &Rule {
        self.0.first().unwrap_or(&Rule::Nothing)
    }

    pub fn get(&self, place: usize) -> &Rule {
        self.0.get(place).unwrap_or(&Rule::Nothing)
    }

    /// Whether a secret belongs to them.
    pub fn have_secret(&self) -> bool {
        self.main().has_secret()
    }

    /// Whether any of them signs what is sent.
    pub fn sign(&self) -> bool {
        self.0.iter().any(Rule::signs)
    }

    /// The headers that carry the secret itself, in lower case.
    pub fn secret_headers(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|rule| match rule {
            Rule::Token { header } => Some(header.as_str()),
            _ => None,
        })
    }

    /// Whether a request has the header of any proof, right or wrong.
    pub fn are_brought_by(&self, request: &Incoming<'_>) -> bool {
        self.0.iter().flat_map(Rule::headers).any(|name| request.header(name).is_some())
    }

    /// The proof that decides about a request: the first that it brings.
    fn deciding(&self, secrets: &[&str], request: &Incoming<'_>) -> Result<(usize, &Rule), Refusal> {
        let mut brought = self.0.iter().enumerate().filter(|(_, rule)| rule.is_brought_by(request));
        let usable = brought.clone().find(|(_, rule)| rule.has_use_for(secrets));
        usable.or_else(|| brought.next()).ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().filter_map(|rule| rule.headers().first().copied()).collect();
            Refusal::Missing(format!("the header {}", names.join(" or ")))
        })
    }

    /// Checks what the head of a request says, so that a stranger's body is not even read. `None`: the body decides.
    ///
    /// # Errors
    /// Refuses a request whose head has no proof, or one that cannot be right.
    pub fn check_head(&self, secrets: &[&str], request: &Incoming<'_>, now: Timestamp) -> Result<Option<Believed>, Refusal> {
        let (by, rule) = self.deciding(secrets, request)?;
        Ok(rule.check_head(secrets, request, now)?.map(|believed| Believed { by, ..believed }))
    }

    /// Verifies a request with its body, under any of the secrets that hold.
    ///
    /// # Errors
    /// Refuses a request that none of the proofs covers.
    pub fn verify(&self, secrets: &[&str], request: &Incoming<'_>, now: Timestamp) -> Result<Believed, Refusal> {
        let (by, rule) = self.deciding(secrets, request)?;
        Ok(Believed { by, ..rule.verify(secrets, request, now)? })
    }
}

/// In constant time, but for the lengths.
pub fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

/// All are looked at, whichever matches.
fn any_same<'a>(expected: impl Iterator<Item = &'a str>, given: &str) -> bool {
    expected.fold(false, |found, one| found | same(one, given))
}

fn token_matches(secrets: &[&str], given: &str) -> Result<Believed, Refusal> {
    if any_same(secrets.iter().copied(), given) { Ok(Believed::default()) } else { Err(Refusal::Mismatch) }
}

fn basic(username: &str, secrets: &[&str], request: &Incoming<'_>) -> Result<Believed, Refusal> {
    let malformed = || Refusal::malformed("authorization", "is not \"Basic \" and the base64 of NAME:PASSWORD".to_owned());
    let (scheme, pair) = request.only("authorization")?.split_once(' ').ok_or_else(malformed)?;
    let pair = BASE64_STANDARD.decode(pair.trim_start_matches(' ')).ok();
    let pair = pair.and_then(|pair| String::from_utf8(pair).ok()).ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    let (name, password) = pair.split_once(':').ok_or_else(malformed)?;
    let known = same(username, name) & any_same(secrets.iter().copied(), password);
    if known { Ok(Believed::default()) } else { Err(Refusal::Mismatch) }
}

/// What the headers of Standard Webhooks claim, with the id's and the signature's names in this request.
fn claim<'a>(request: &Incoming<'a>, now: Timestamp) -> Result<Claim<'a>, Refusal> {
    let has = |family: &[&str; 3]| family.iter().any(|name| request.header(name).is_some());
    // With both, one family would prove the request and the other would name it.
    let names = match FAMILIES.map(|family| has(&family)) {
        [true, true] => return Err(Refusal::BothFamilies),
        [false, true] => FAMILIES[1],
        [_, false] => FAMILIES[0],
    };
    let [id, stamp, list] = names.map(|name| request.only(name));
    let (id, stamp, list) = (id?, stamp?, list?);
    // With a dot inside, what is signed could be cut at another place (Standard Webhooks 1.0).
    if id.contains('.') {
        return Err(Refusal::malformed(names[0], "has a dot".to_owned()));
    }
    if !stamp.bytes().all(|c| c.is_ascii_digit()) {
        return Err(Refusal::BadTimestamp);
    }
    let header = |name| match name {
        "webhook-id" => Some(id),
        "webhook-timestamp" => Some(stamp),
        _ => Some(list),
    };
    Claim::read(header, now).map_err(|rejection| match rejection {
        Rejection::Missing(_) => Refusal::Missing(format!("the header {}", names[2])),
        Rejection::BadTimestamp => Refusal::BadTimestamp,
        Rejection::TooOldOrNew => Refusal::OutsideWindow(signature::TOLERANCE),
        Rejection::TooMany => Refusal::malformed(names[2], format!("lists more than {} signatures", signature::SIGNATURES_MAX)),
        Rejection::NoMatch => Refusal::Mismatch,
    })
}

fn standard(secrets: &[&str], request: &Incoming<'_>, now: Timestamp) -> Result<Believed, Refusal> {
    let claim = claim(request, now)?;
    let verifiers: Vec<Verifier> = secrets.iter().filter_map(|secret| Verifier::parse(secret).ok()).collect();
    if !claim.matches(&verifiers, request.body) {
        return Err(Refusal::Mismatch);
    }
    let digest = digest(&[claim.stamp().as_bytes(), request.body]);
    Ok(Believed { id: Some(claim.id.to_owned()), digest: Some(digest), ..Believed::default() })
}

pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}
