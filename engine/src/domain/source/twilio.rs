//! Twilio's signature: HMAC-SHA1 of the address and the sorted fields of a form; of any other body a digest that stands in the query.
//!
//! What is signed has no separators, and a field that is given twice counts once. So the event's data is built from the pairs that
//! were signed, and a repeat is known by the signed text, however its pairs are cut.

use std::borrow::Cow;

use base64::Engine as _;
use subtle::ConstantTimeEq as _;
use url::form_urlencoded;

use super::{
    hmac::Algorithm,
    verify::{Believed, Evidence, FIELDS_MAX, Incoming, Refusal, digest, same},
};
use crate::domain::signature::{self, PADDED_OR_NOT};

/// The header with the signature.
pub const HEADER: &str = "x-twilio-signature";

/// The signature that a request carries.
pub fn given(request: &Incoming<'_>) -> Result<Vec<u8>, Refusal> {
    let text = request.only(HEADER)?;
    let read = PADDED_OR_NOT.decode(text).ok().filter(|bytes| bytes.len() == Algorithm::Sha1.len());
    read.ok_or_else(|| Refusal::malformed(HEADER, "is not the base64 of a signature by sha1".to_owned()))
}

/// Verifies a request. Reads at most [`FIELDS_MAX`] fields, and computes two HMACs per secret.
pub fn verify(secrets: &[&str], request: &Incoming<'_>) -> Result<Believed, Refusal> {
    let given = given(request)?;
    let in_query = request.field(request.query.as_bytes(), "bodySHA256");
    let pairs = match in_query {
        Some(expected) => {
            if !same(&signature::hex(&digest(&[request.body])), &expected.to_ascii_lowercase()) {
                return Err(Refusal::Mismatch);
            }
            Vec::new()
        }
        None if request.body.is_empty() => Vec::new(),
        None if request.is_form() => sorted(request.body)?,
        None => return Err(Refusal::NotCovered),
    };
    let fields: Vec<&[u8]> = pairs.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]).collect();
    let mut matches = false;
    for url in spellings(request.url) {
        let content = [&[url.as_bytes()], fields.as_slice()].concat();
        for secret in secrets {
            let right = Algorithm::Sha1.sign(secret.as_bytes(), &content);
            matches |= bool::from(right.ct_eq(&given));
        }
    }
    if !matches {
        return Err(Refusal::Mismatch);
    }
    let signed = digest(&[&[request.url.as_bytes()], fields.as_slice()].concat());
    let owned = |(name, value): (Cow<'_, str>, Cow<'_, str>)| (name.into_owned(), value.into_owned());
    let evidence = if pairs.is_empty() { Evidence::Whole } else { Evidence::Form(pairs.into_iter().map(owned).collect()) };
    Ok(Believed { digest: Some(signed), evidence, ..Believed::default() })
}

/// The fields as they are signed: sorted, each once. Borrowed from the body where nothing in them is escaped.
fn sorted(form: &[u8]) -> Result<Vec<(Cow<'_, str>, Cow<'_, str>)>, Refusal> {
    let mut pairs: Vec<_> = form_urlencoded::parse(form).take(FIELDS_MAX + 1).collect();
    if pairs.len() > FIELDS_MAX {
        return Err(Refusal::TooManyFields);
    }
    pairs.sort();
    pairs.dedup();
    Ok(pairs)
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
