//! Twilio's signature: an HMAC of the address and, if the body is a form, of its sorted fields. For any other body, the query of
//! the address contains a digest of the body. The HMAC uses SHA-1 with the auth token, or SHA-256 with a shared key if another
//! header says so.
//!
//! The signed text has no separators, and a repeated field counts once. So an attacker can divide the same text into other pairs.
//! For this reason the event's data is built from the signed pairs, and a duplicate is detected by the signed text, however it is
//! divided.

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
/// The header that comes with a signature made with a shared key: `key=…,algorithm=HMAC_SHA256`.
const SETTINGS: &str = "x-twilio-webhooks-signature-settings";

/// Returns the algorithm that a request declares. If it is wrong, no secret matches.
fn algorithm(request: &Incoming<'_>) -> Result<Algorithm, Refusal> {
    if request.header(SETTINGS).is_none_or(str::is_empty) {
        return Ok(Algorithm::Sha1);
    }
    let pairs = request.only(SETTINGS)?.split(',').filter_map(|pair| pair.split_once('='));
    let named =
        pairs.filter(|(name, _)| name.trim() == "algorithm").map(|(_, value)| value.trim()).find(|value| !value.is_empty());
    match named.map(str::to_ascii_uppercase).as_deref() {
        None | Some("HMAC_SHA1") => Ok(Algorithm::Sha1),
        Some("HMAC_SHA256") => Ok(Algorithm::Sha256),
        Some(_) => Err(Refusal::malformed(SETTINGS, "has an algorithm other than HMAC_SHA1 and HMAC_SHA256".to_owned())),
    }
}

/// Returns the signature of a request and its algorithm.
pub fn given(request: &Incoming<'_>) -> Result<(Algorithm, Vec<u8>), Refusal> {
    let text = request.only(HEADER)?;
    let algorithm = algorithm(request)?;
    let read = PADDED_OR_NOT.decode(text).ok().filter(|bytes| bytes.len() == algorithm.signature_len());
    let malformed = || Refusal::malformed(HEADER, format!("is not the base64 of a signature by {}", algorithm.as_str()));
    Ok((algorithm, read.ok_or_else(malformed)?))
}

/// Verifies a request. Reads at most [`FIELDS_MAX`] fields, and computes one HMAC for each pair of a secret and a spelling of the
/// address. An address has at most four spellings.
pub fn verify(secrets: &[&str], request: &Incoming<'_>) -> Result<Believed, Refusal> {
    let (algorithm, given) = given(request)?;
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
            let right = algorithm.sign(secret.as_bytes(), &content);
            matches |= bool::from(right.ct_eq(&given));
        }
    }
    if !matches {
        return Err(Refusal::Mismatch);
    }
    let signed = digest(&[&[request.url.as_bytes()], fields.as_slice()].concat());
    let owned = |(name, value): Pair<'_>| (name.into_owned(), value.into_owned());
    let evidence = if pairs.is_empty() { Evidence::Whole } else { Evidence::Form(pairs.into_iter().map(owned).collect()) };
    Ok(Believed { digest: Some(signed), evidence, ..Believed::default() })
}

/// A field's name and value.
type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Returns the fields as they are signed: sorted, and each only once. A field is borrowed from the body unless it contains
/// escapes.
fn sorted(form: &[u8]) -> Result<Vec<Pair<'_>>, Refusal> {
    let mut pairs: Vec<_> = form_urlencoded::parse(form).take(FIELDS_MAX + 1).collect();
    if pairs.len() > FIELDS_MAX {
        return Err(Refusal::TooManyFields);
    }
    pairs.sort();
    pairs.dedup();
    Ok(pairs)
}

/// Returns the spellings of an address: as received and as a browser would write it (`'` as `%27`), each with and without the
/// default port. Senders differ.
fn spellings(url: &str) -> Vec<String> {
    let mut ways = vec![url.to_owned()];
    let Ok(parsed) = url::Url::parse(url) else { return ways };
    for written in [url, parsed.as_str()] {
        let Some((scheme, rest)) = written.split_once("://") else { continue };
        let port = if scheme == "https" { ":443" } else { ":80" };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let bare = authority.strip_suffix(port).unwrap_or(authority);
        ways.push(format!("{scheme}://{bare}{path}"));
        if parsed.port().is_none() {
            ways.push(format!("{scheme}://{bare}{port}{path}"));
        }
    }
    ways.sort();
    ways.dedup();
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_every_spelling_of_an_address() {
        for (url, ways) in [
            ("https://a/in", vec!["https://a/in", "https://a:443/in"]),
            ("https://a:443/in", vec!["https://a/in", "https://a:443/in"]),
            ("http://a/in?b=c", vec!["http://a/in?b=c", "http://a:80/in?b=c"]),
            ("https://a:8443/in", vec!["https://a:8443/in"]),
            (
                "https://a/in?b='c'",
                vec!["https://a/in?b=%27c%27", "https://a/in?b='c'", "https://a:443/in?b=%27c%27", "https://a:443/in?b='c'"],
            ),
            ("no address", vec!["no address"]),
        ] {
            assert_eq!(spellings(url), ways, "{url}");
        }
    }

    #[test]
    fn a_shared_key_uses_the_algorithm_of_its_header() {
        let (url, key) = ("https://a/in", "a-shared-key");
        let signed = |algorithm: Algorithm| {
            let signature = algorithm.sign(key.as_bytes(), &[url.as_bytes(), b"From2"]);
            base64::prelude::BASE64_STANDARD.encode(signature)
        };
        let (sha1, sha256) = (signed(Algorithm::Sha1), signed(Algorithm::Sha256));
        for (settings, signature, right) in [
            (None, &sha1, true),
            (None, &sha256, false),
            (Some(""), &sha1, true),
            (Some("key=k"), &sha1, true),
            (Some("key=k,algorithm=HMAC_SHA1"), &sha1, true),
            (Some("key=k,algorithm=HMAC_SHA256"), &sha256, true),
            (Some("key=k, algorithm=hmac_sha256"), &sha256, true),
            (Some("key=k,algorithm=HMAC_SHA256"), &sha1, false),
            (Some("key=k,algorithm=HMAC_MD5"), &sha1, false),
        ] {
            let mut pairs = vec![("content-type", "application/x-www-form-urlencoded"), (HEADER, signature.as_str())];
            pairs.extend(settings.map(|settings| (SETTINGS, settings)));
            let headers: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let request = Incoming { method: "POST", url, query: "", headers: &headers, body: b"From=2" };
            assert_eq!(verify(&[key], &request).is_ok(), right, "{settings:?}");
        }
    }
}
