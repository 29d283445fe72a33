//! The secret of a source, read in the form in which its sender shows it. Errors never repeat any part of the text.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    hmac::KeyEncoding,
    preset::Preset,
    verify::{Proofs, Rule},
};
use crate::domain::{
    given,
    signature::{Scheme, Secret, Verifier},
};

/// Length of a secret in bytes. Shorter ones can be guessed.
pub const SECRET_LEN: std::ops::RangeInclusive<usize> = 8..=512;
/// Length of a key of Standard Webhooks, in bytes.
const KEY_LEN: std::ops::RangeInclusive<usize> = 24..=64;

/// A text that cannot be the secret of a source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    #[error("must be {} to {} bytes long; this has {}", SECRET_LEN.start(), SECRET_LEN.end(), .0)]
    Length(usize),
    #[error("contains a line end or another invisible character; remove it")]
    Invisible,
    #[error("has a blank at its start or end; remove it")]
    Blank,
    #[error("contains characters beyond ASCII, which a header cannot carry")]
    NotAscii,
    #[error("is not {}, as secret_encoding requires; paste it as its sender shows it, or set secret_encoding to text", .0.as_str())]
    NotEncoded(KeyEncoding),
    #[error("decodes to a key of {} bytes; keys shorter than {} can be guessed", .0, SECRET_LEN.start())]
    KeyLength(usize),
    #[error("contains a blank, a line end or another invisible character; remove it")]
    Inside,
    #[error("is not base64 after \"{0}\"; write \"whsec_\" and base64, or \"whpk_\" and the base64 of an ed25519 public key")]
    NotBase64(&'static str),
    #[error("decodes to {} bytes after \"whsec_\"; {} to {} are allowed", .0, KEY_LEN.start(), KEY_LEN.end())]
    StandardLength(usize),
    #[error("is the secret half of an ed25519 key (\"whsk_\"), which only the sender needs; write the public half, \"whpk_…\"")]
    SecretHalf,
    #[error("is not an ed25519 public key after \"whpk_\"")]
    NotAKey,
}

/// Reads a secret with which senders sign, or which they send.
pub fn read(preset: Preset, proofs: &Proofs, text: &str) -> Result<Secret, BadSecret> {
    if *proofs.main() == Rule::Standard && proofs.0.len() == 1 {
        return standard(text).map(Secret::Text);
    }
    if text.chars().any(given::is_invisible) {
        return Err(BadSecret::Invisible);
    }
    let shown = proofs.0.iter().any(|rule| matches!(rule, Rule::Token { .. } | Rule::Bearer));
    if shown && !text.is_ascii() {
        return Err(BadSecret::NotAscii);
    }
    // WooCommerce's secrets can end in a blank, and so can a text that a person chose.
    let may_have_blanks = matches!(preset, Preset::WooCommerce | Preset::Hmac | Preset::Basic);
    if !may_have_blanks && text.trim() != text {
        return Err(BadSecret::Blank);
    }
    if !SECRET_LEN.contains(&text.len()) {
        return Err(BadSecret::Length(text.len()));
    }
    if let Rule::Hmac(rule) = proofs.main() {
        let key = rule.key.key(text).ok_or(BadSecret::NotEncoded(rule.key))?;
        if key.len() < *SECRET_LEN.start() {
            return Err(BadSecret::KeyLength(key.len()));
        }
    }
    Ok(Secret::Text(text.to_owned()))
}

/// Reads a secret of Standard Webhooks: with or without its prefix, with or without padding, in either alphabet, with or without
/// the `v1,` that Supabase puts before it. Returns the specification's form.
fn standard(text: &str) -> Result<String, BadSecret> {
    let is_around = |c: char| c.is_whitespace() || given::is_invisible(c);
    let text = text.trim_matches(is_around);
    let text = text.strip_prefix("v1,").unwrap_or(text);
    if text.contains(is_around) {
        return Err(BadSecret::Inside);
    }
    if text.starts_with("whsk_") {
        return Err(BadSecret::SecretHalf);
    }
    if let Some(key) = text.strip_prefix("whpk_") {
        let key = KeyEncoding::Base64.key(key).ok_or(BadSecret::NotBase64("whpk_"))?;
        let canonical = format!("whpk_{}", BASE64_STANDARD.encode(key));
        return Verifier::parse(&canonical).map(|_| canonical).map_err(|_| BadSecret::NotAKey);
    }
    let key = text.strip_prefix("whsec_").unwrap_or(text);
    let key = KeyEncoding::Base64.key(key).ok_or(BadSecret::NotBase64("whsec_"))?;
    if !KEY_LEN.contains(&key.len()) {
        return Err(BadSecret::StandardLength(key.len()));
    }
    Ok(format!("whsec_{}", BASE64_STANDARD.encode(key)))
}

/// Creates a secret in the form that the senders of such a source expect.
pub fn make(proofs: &Proofs, seed: [u8; Secret::SEED_LEN]) -> Secret {
    let text = |scheme| Secret::from_seed(scheme, seed).reveal();
    Secret::Text(match proofs.main() {
        Rule::Standard => text(Scheme::V1),
        Rule::Hmac(rule) if rule.key == KeyEncoding::Base64 => BASE64_STANDARD.encode(seed),
        _ => text(Scheme::Token),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::source::Draft;

    fn read_for(preset: &str, encoding: Option<&str>, text: &str) -> Result<String, BadSecret> {
        let hmac = preset == "hmac";
        let draft = Draft {
            preset: preset.to_owned(),
            header: hmac.then(|| "x-sig".to_owned()),
            secret_encoding: encoding.map(str::to_owned),
            ..Draft::default()
        };
        let settings = draft.settle().unwrap();
        read(settings.preset, &settings.proofs, text).map(|secret| secret.reveal())
    }

    #[test]
    fn reads_secrets_as_senders_show_them() {
        let key = BASE64_STANDARD.encode([0xfb; 32]);
        let whsec = format!("whsec_{key}");
        let url = key.replace('+', "-").replace('/', "_");
        let whpk = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
        for text in [
            whsec.clone(),
            format!("v1,{whsec}"),
            key.clone(),
            whsec.trim_end_matches('=').to_owned(),
            format!("whsec_{url}"),
            format!(" {whsec}\r\n"),
            format!("\u{feff}{whsec}\n"),
            format!("{whsec}\u{200b}"),
        ] {
            assert_eq!(read_for("standard-webhooks", None, &text), Ok(whsec.clone()), "{text:?}");
        }
        assert_eq!(read_for("standard-webhooks", None, whpk.trim_end_matches('=')), Ok(whpk.to_owned()));
        for (preset, encoding, text) in [
            ("woocommerce", None, ">Zx3RbX)87dswyS/X|JkJVB|~<x`s-7:5NLAM0N;!s1}F!BO## "),
            ("hmac", None, " with blanks "),
            ("github", None, "Zoë's own secret"),
            ("basic", None, "pässword"),
            ("gitlab", None, whsec.as_str()),
            ("gitlab", None, "a-plain-token"),
            ("hmac", Some("base64"), "vqF0En+Z0ucuRTM/01o2GuhMH3hKKk/N2bOmlM31zaA="),
            ("hmac", Some("base64"), "vqF0En-Z0ucuRTM_01o2GuhMH3hKKk_N2bOmlM31zaA"),
            ("hmac", Some("hex"), "DEADBEEFdeadbeef00"),
        ] {
            assert_eq!(read_for(preset, encoding, text).as_deref(), Ok(text), "{preset}");
        }
    }

    #[test]
    fn explains_what_is_wrong_with_a_secret() {
        let whsk = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
        for (preset, encoding, text, wrong) in [
            ("github", None, "short", BadSecret::Length(5)),
            ("github", None, "a-secret-\n", BadSecret::Invisible),
            ("github", None, "a-secret\u{0}-", BadSecret::Invisible),
            ("github", None, "\u{feff}a-secret", BadSecret::Invisible),
            ("hmac", None, "a-secret\u{200b}", BadSecret::Invisible),
            ("header-token", None, "a-secret\u{2060}", BadSecret::Invisible),
            ("standard-webhooks", None, "whsec_MfKQ9r8GKYqr\u{200b}TwjUPD8ILPZIo2LaLaSw", BadSecret::Inside),
            ("stripe", None, "whsec_abcdef ", BadSecret::Blank),
            ("header-token", None, "a-sécret-of-mine", BadSecret::NotAscii),
            ("bearer", None, " a-secret-of-mine", BadSecret::Blank),
            ("hmac", Some("base64"), "not base64 at all", BadSecret::NotEncoded(KeyEncoding::Base64)),
            ("hmac", Some("hex"), "0123456789abcdef0", BadSecret::NotEncoded(KeyEncoding::Hex)),
            ("hmac", Some("hex"), "0123456789", BadSecret::KeyLength(5)),
            ("standard-webhooks", None, "whsec_MfKQ9r8GKYqr TwjUPD8ILPZIo2LaLaSw", BadSecret::Inside),
            ("standard-webhooks", None, whsk, BadSecret::SecretHalf),
            ("standard-webhooks", None, "whpk_c2hvcnQ=", BadSecret::NotAKey),
            ("standard-webhooks", None, "whsec_c2hvcnQ=", BadSecret::StandardLength(5)),
            ("standard-webhooks", None, "whsec_{}", BadSecret::NotBase64("whsec_")),
            ("standard-webhooks", None, "no-whsec!", BadSecret::NotBase64("whsec_")),
        ] {
            assert_eq!(read_for(preset, encoding, text), Err(wrong.clone()), "{preset} {text:?}");
            assert!(!wrong.to_string().contains(text.trim()), "{wrong}");
        }
    }
}
