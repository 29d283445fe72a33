//! Verifies that a request comes from a sender of the source. Works on the received bytes, before any other code reads them.
//!
//! A source accepts several proofs, in an order of precedence. The first proof that is in the request, and that can use one of
//! the source's secrets, decides. So a request with a wrong signature is refused even if it also has a valid token. If the head
//! of a request shows that the request must be refused, the body is not read ([`Proofs::check_head`]). The work that an
//! unverified request can cause is bounded: at most one HMAC per secret (for Twilio, four), ten signatures and [`FIELDS_MAX`]
//! fields.

use std::{borrow::Cow, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::form_urlencoded;

use super::{
    hmac::{HmacRule, Place},
    pick::{Path, Pick},
    twilio,
};
use crate::domain::{
    signature::{self, Claim, Rejection, Verifier},
    time::Timestamp,
};

/// Maximum number of fields of a form or query that are read before verification. Twilio's longest forms have about a hundred.
pub const FIELDS_MAX: usize = 1_000;

/// A received request.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// In upper case.
    pub method: &'a str,
    /// The URL as its sender knows it, with the query, because some senders sign it.
    pub url: &'a str,
    /// The part after the question mark; may be empty.
    pub query: &'a str,
    /// Names in lower case. Values that are not text are left out.
    pub headers: &'a [(String, String)],
    pub body: &'a [u8],
}

impl<'a> Incoming<'a> {
    /// Returns the first header with that name.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the only header with that name. Refuses a request with two such headers, because a proxy could use one of them and
    /// the engine the other.
    pub fn only(&self, name: &str) -> Result<&'a str, Refusal> {
        let mut all = self.headers.iter().filter(|(known, _)| known == name);
        match (all.next(), all.next()) {
            (Some((_, value)), None) if !value.is_empty() => Ok(value),
            (Some(_), Some(_)) => Err(Refusal::malformed(name, "is sent twice".to_owned())),
            _ => Err(Refusal::Missing(format!("the header {name}"))),
        }
    }

    /// Returns whether the body is a URL-encoded form. A multipart form is not.
    pub fn is_form(&self) -> bool {
        self.header("content-type").is_some_and(super::data::is_form)
    }

    /// Returns the first field with that name in a form or a query. Searches only the first [`FIELDS_MAX`] fields.
    pub fn field<'f>(&self, form: &'f [u8], name: &str) -> Option<Cow<'f, str>> {
        form_urlencoded::parse(form).take(FIELDS_MAX).find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Returns the text at a place in a JSON body, or a field of a form.
    pub fn in_body(&self, path: &Path) -> Option<Cow<'a, str>> {
        match self.header("content-type") {
            Some(said) if super::data::is_form(said) => self.field(self.body, path.only_step()?),
            Some(said) if super::data::is_multipart(said) => {
                super::data::multipart_field(said, self.body, path.only_step()?, FIELDS_MAX).map(Into::into)
            }
            _ => path.find(std::str::from_utf8(self.body).ok()?),
        }
    }
}

/// One verification method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Standard Webhooks, with its own header names or those of Svix.
    Standard,
    Hmac(HmacRule),
    /// Twilio's HMAC of the address and the sorted fields of the form.
    Twilio,
    Basic {
        username: String,
    },
    Bearer,
    /// The secret itself in a header.
    Token {
        header: String,
    },
    /// Every caller that knows the address may send.
    Nothing,
}

/// Why a request is not verified. Contains neither a part of a secret nor a part of a valid signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0} is missing")]
    Missing(String),
    #[error("{part} {why}")]
    Malformed { part: String, why: String },
    #[error("the request has both webhook-… and svix-… headers; send only one kind")]
    BothFamilies,
    #[error("the form has more than {FIELDS_MAX} fields")]
    TooManyFields,
    #[error("the signed time cannot be read")]
    BadTimestamp,
    #[error("the signed time differs from now by more than {}", crate::domain::duration::write(*.0))]
    OutsideWindow(Duration),
    #[error("the body is not covered by a signature")]
    NotCovered,
    #[error("the signature or token does not match any secret of this source")]
    Mismatch,
}

impl Refusal {
    /// Reports what is wrong with one header.
    pub fn malformed(header: &str, why: String) -> Self {
        Self::Malformed { part: format!("the header {header}"), why }
    }

    /// Returns a word for programs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing",
            Self::Malformed { .. } | Self::BothFamilies | Self::TooManyFields | Self::NotCovered => "malformed",
            Self::BadTimestamp | Self::OutsideWindow(_) => "timestamp",
            Self::Mismatch => "mismatch",
        }
    }
}

/// A verified request, and which part of it was proved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Believed {
    /// Index of the proof that decided.
    pub by: usize,
    /// Index of the valid secret among the source's secrets, newest first.
    pub secret: usize,
    /// The id of the request, if it is signed.
    pub id: Option<String>,
    /// Digest of the signed text, if there is a signature.
    pub digest: Option<[u8; 32]>,
    pub evidence: Evidence,
}

/// The part of a verified request that becomes the event's data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Evidence {
    /// The body.
    #[default]
    Whole,
    /// One signed field.
    Payload(String),
    /// The signed fields, sorted, and each only once.
    Form(Vec<(String, String)>),
}

/// The headers of Standard Webhooks, and those of Svix, which are older than the standard.
const FAMILIES: [[&str; 3]; 2] =
    [["webhook-id", "webhook-timestamp", "webhook-signature"], ["svix-id", "svix-timestamp", "svix-signature"]];

impl Rule {
    /// Returns whether this method uses a secret.
    pub const fn has_secret(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// Returns whether the content is signed. Otherwise only the sender is proved.
    pub const fn signs(&self) -> bool {
        matches!(self, Self::Standard | Self::Hmac(_) | Self::Twilio)
    }

    /// Returns the names of the headers that carry the proof, in lower case.
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

    /// Returns where the proof is in the body, if it is there.
    fn member(&self) -> Option<&Path> {
        match self {
            Self::Hmac(HmacRule { place: Place::Body(path), .. }) => Some(path),
            _ => None,
        }
    }

    /// Returns whether a request has this proof, valid or not. Before the body is read, every proof in the body counts as
    /// present.
    fn is_brought_by(&self, request: &Incoming<'_>) -> bool {
        if let Some(path) = self.member() {
            return request.body.is_empty() || request.in_body(path).is_some();
        }
        let headers = self.headers();
        headers.is_empty() || headers.iter().any(|name| request.header(name).is_some())
    }

    /// Returns whether this method can use any of these secrets.
    fn has_use_for(&self, secrets: &[&str]) -> bool {
        *self != Self::Standard || secrets.iter().any(|secret| Verifier::parse(secret).is_ok())
    }

    /// Returns whether the signature covers everything that `pick` reads. Without a signature nothing is covered.
    pub fn covers(&self, pick: &Pick) -> bool {
        match (self, pick) {
            (Self::Hmac(rule), Pick::Header(names)) => names.iter().all(|name| rule.covers_header(name)),
            (Self::Hmac(rule), Pick::Body(_)) => rule.template.has_body(),
            (Self::Standard | Self::Twilio, Pick::Body(_)) => true,
            _ => false,
        }
    }

    /// Returns whether the sender is known to have sent the query, so that the query may become data. Without a signature, the
    /// query is as trusted as the body.
    pub fn vouches_for_query(&self) -> bool {
        match self {
            Self::Hmac(rule) => rule.template.has_query(),
            Self::Standard => false,
            Self::Twilio | Self::Basic { .. } | Self::Bearer | Self::Token { .. } | Self::Nothing => true,
        }
    }

    /// Checks the head of a request. Returns `None` if the body is needed. Then [`Self::verify`] decides.
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

/// The proofs that a source accepts, in their order of precedence. The list is never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proofs(pub Vec<Rule>);

impl Proofs {
    /// Returns the first proof, which new senders should use.
    pub fn main(&self) -> &Rule {
        self.0.first().unwrap_or(&Rule::Nothing)
    }

    pub fn get(&self, place: usize) -> &Rule {
        self.0.get(place).unwrap_or(&Rule::Nothing)
    }

    /// Returns whether these proofs use a secret.
    pub fn have_secret(&self) -> bool {
        self.main().has_secret()
    }

    /// Returns whether any of them signs the content.
    pub fn sign(&self) -> bool {
        self.0.iter().any(Rule::signs)
    }

    /// Returns the names of the headers that carry the secret itself, in lower case.
    pub fn secret_headers(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|rule| match rule {
            Rule::Token { header } => Some(header.as_str()),
            _ => None,
        })
    }

    /// Returns where each proof is, in order of precedence: `header:NAME` or `body:/POINTER`.
    pub fn places(&self) -> Vec<String> {
        let place = |rule: &Rule| match (rule.headers().first(), rule.member()) {
            (Some(name), _) => Some(format!("header:{name}")),
            (None, member) => member.map(|path| format!("body:{path}")),
        };
        self.0.iter().filter_map(place).collect()
    }

    /// Returns whether a request has the header of any proof, valid or not.
    pub fn are_brought_by(&self, request: &Incoming<'_>) -> bool {
        self.0.iter().flat_map(Rule::headers).any(|name| request.header(name).is_some())
    }

    /// Returns the proof that decides about a request. This is the first proof in the request that can use one of the secrets. If
    /// none can, it is the first proof in the request.
    fn deciding(&self, secrets: &[&str], request: &Incoming<'_>) -> Result<(usize, &Rule), Refusal> {
        let mut brought = self.0.iter().enumerate().filter(|(_, rule)| rule.is_brought_by(request));
        let usable = brought.clone().find(|(_, rule)| rule.has_use_for(secrets));
        usable.or_else(|| brought.next()).ok_or_else(|| {
            let headers: Vec<&str> = self.0.iter().filter_map(|rule| rule.headers().first().copied()).collect();
            let members: Vec<String> = self.0.iter().filter_map(|rule| Some(rule.member()?.to_string())).collect();
            Refusal::Missing(if headers.is_empty() {
                format!("the member {} of the body", members.join(" or "))
            } else {
                format!("the header {}", headers.join(" or "))
            })
        })
    }

    /// Checks the head of a request, so that the body of an unverified caller is not read. Returns `None` if the body is needed
    /// to decide.
    ///
    /// # Errors
    /// Refuses a request whose head has no proof, or a proof that cannot be valid.
    pub fn check_head(&self, secrets: &[&str], request: &Incoming<'_>, now: Timestamp) -> Result<Option<Believed>, Refusal> {
        let (by, rule) = self.deciding(secrets, request)?;
        Ok(rule.check_head(secrets, request, now)?.map(|believed| Believed { by, ..believed }))
    }

    /// Verifies a request, including its body. One of the valid secrets must match.
    ///
    /// # Errors
    /// Refuses a request that has no proof, or that the deciding proof does not verify.
    pub fn verify(&self, secrets: &[&str], request: &Incoming<'_>, now: Timestamp) -> Result<Believed, Refusal> {
        let (by, rule) = self.deciding(secrets, request)?;
        Ok(Believed { by, ..rule.verify(secrets, request, now)? })
    }
}

/// Compares two texts in constant time. Only a difference in length is visible in the time.
pub fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

/// Compares all expected values, even after a match.
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

/// Reads the claims of Standard Webhooks headers, with the names used in this request.
fn claim<'a>(request: &Incoming<'a>, now: Timestamp) -> Result<Claim<'a>, Refusal> {
    let has = |family: &[&str; 3]| family.iter().any(|name| request.header(name).is_some());
    // A request with both families of headers is refused. Otherwise one family could prove the request while the id came from the
    // other family.
    let names = match FAMILIES.map(|family| has(&family)) {
        [true, true] => return Err(Refusal::BothFamilies),
        [false, true] => FAMILIES[1],
        [_, false] => FAMILIES[0],
    };
    let [id, stamp, list] = names.map(|name| request.only(name));
    let (id, stamp, list) = (id?, stamp?, list?);
    // If the id could have a dot, the same signed text could be divided into other parts (Standard Webhooks 1.0).
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
