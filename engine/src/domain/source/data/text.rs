//! Parameters of content types, and text in any charset.

use bytes::Bytes;
use encoding_rs::{Encoding, UTF_8};

/// Returns a parameter of a content type, such as `charset` or `boundary`, without quotes (RFC 9110, section 5.6.6).
pub fn parameter(content_type: &str, wanted: &str) -> Option<String> {
    let (_, mut rest) = content_type.split_once(';')?;
    loop {
        rest = rest.trim_start_matches([';', ' ', '\t']);
        let (name, after) = rest.split_once('=')?;
        let (value, after) = value(after.trim_start())?;
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

/// Reads a token or a quoted string. Returns its value, and the text after it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return Some((text[..end].trim().to_owned(), &text[end..]));
    };
    let (mut value, mut chars) = (String::new(), quoted.char_indices());
    while let Some((place, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[place + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// Returns the charset of a content type; `Err` if it is not supported.
pub fn charset(content_type: &str) -> Result<Option<&'static Encoding>, String> {
    match parameter(content_type, "charset") {
        None => Ok(None),
        Some(label) if label.is_empty() => Ok(None),
        Some(label) => Encoding::for_label(label.as_bytes()).map(Some).ok_or(label),
    }
}

/// Decodes text in this charset; the default is UTF-8. Returns `None` if a character is not in the charset.
pub fn decode(charset: Option<&'static Encoding>, bytes: &[u8]) -> Option<String> {
    let charset = charset.unwrap_or(UTF_8);
    charset.decode_without_bom_handling_and_without_replacement(bytes).map(|text| text.into_owned())
}

/// Removes a byte-order mark. Returns the charset of the mark, and the body without it.
pub fn unmarked(body: &Bytes) -> (Option<&'static Encoding>, Bytes) {
    match Encoding::for_bom(body) {
        Some((charset, len)) => (Some(charset), body.slice(len..)),
        None => (None, body.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_parameters() {
        for (content_type, wanted, found) in [
            ("text/plain; charset=utf-8", "charset", Some("utf-8")),
            ("text/plain;Charset=\"ISO-8859-1\"", "charset", Some("ISO-8859-1")),
            ("text/plain; a=b ;charset = x", "charset", Some("x")),
            ("multipart/form-data; boundary=\"a;\\\"b\"; charset=utf-8", "boundary", Some("a;\"b")),
            ("multipart/form-data; boundary=\"a;b\"; charset=utf-8", "charset", Some("utf-8")),
            ("multipart/form-data; boundary=----WebKitFormBoundary=x", "boundary", Some("----WebKitFormBoundary=x")),
            ("text/plain", "charset", None),
            ("text/plain;", "charset", None),
            ("text/plain; charset", "charset", None),
            ("text/plain; charset=\"never ends", "charset", None),
        ] {
            assert_eq!(parameter(content_type, wanted).as_deref(), found, "{content_type}");
        }
        assert_eq!(charset("a/b; charset=made-up"), Err("made-up".to_owned()));
        assert_eq!(charset("a/b; charset="), Ok(None));
    }
}
