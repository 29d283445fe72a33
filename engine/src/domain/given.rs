//! Cleans the text of settings, addresses and keys that come from the environment, a file or a flag.
//!
//! `echo key | base64`, editors on Windows and copied web pages add invisible characters. Characters around a value are removed.
//! A value with such a character inside is refused, because the character cannot be intended.

use std::borrow::Cow;

/// An invisible character inside a value. The text of this error continues a sentence about the value, and does not repeat the
/// value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    #[error("contains {}; write it on one line, without invisible characters", name(*.0))]
    Invisible(char),
    #[error("contains {}; a key has only ASCII letters, digits and punctuation, without blanks", name(*.0))]
    NotOfAKey(char),
    #[error("is empty")]
    Empty,
}

/// Returns the name of a common character, or the code of any other.
fn name(c: char) -> Cow<'static, str> {
    match c {
        '\n' => "a line end".into(),
        '\r' => "a carriage return".into(),
        '\t' => "a tab".into(),
        ' ' => "a blank".into(),
        '\u{feff}' => "a byte-order mark".into(),
        other => format!("the character U+{:04X}", u32::from(other)).into(),
    }
}

/// Returns whether a character is invisible. A blank does not count as invisible, because a path may have one.
pub fn is_invisible(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

/// Returns a value without blanks, line ends and invisible characters around it.
///
/// # Errors
/// An invisible character is inside the value.
pub fn value(text: &str) -> Result<&str, BadText> {
    let value = text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c));
    match value.chars().find(|c| is_invisible(*c)) {
        Some(c) => Err(BadText::Invisible(c)),
        None => Ok(value),
    }
}

/// Works like [`value`], but for an API key: also refuses blanks, because a header carries the key as one word.
pub fn key(text: &str) -> Result<&str, BadText> {
    let key = value(text)?;
    match key.chars().find(|c| !c.is_ascii_graphic()) {
        Some(c) => Err(BadText::NotOfAKey(c)),
        None if key.is_empty() => Err(BadText::Empty),
        None => Ok(key),
    }
}

/// Returns a setting without its passwords: those of a URL (`user:password@`) and of parameters (`?password=…`).
///
/// Works on the text instead of a parsed URL, because a malformed address may contain a password too. If in doubt, it hides the
/// text.
pub fn without_passwords(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let rest = match (rest.find(':'), rest.rfind('@')) {
        // The last `@` counts: an earlier one belongs to the password.
        (Some(colon), Some(at)) if colon < at => format!("{}:***{}", &rest[..colon], &rest[at..]),
        _ => rest.to_owned(),
    };
    let Some((before, query)) = rest.split_once('?') else { return format!("{scheme}://{rest}") };
    let pairs: Vec<String> = query.split('&').map(without_value).collect();
    format!("{scheme}://{before}?{}", pairs.join("&"))
}

fn without_value(pair: &str) -> String {
    const SECRET: [&str; 4] = ["pass", "secret", "token", "key"];
    match pair.split_once('=') {
        // A name with percent escapes may stand for one of these names, so its value is hidden.
        Some((name, _)) if name.contains('%') || SECRET.iter().any(|word| name.to_ascii_lowercase().contains(word)) => {
            format!("{name}=***")
        }
        _ => pair.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_invisible_characters_around_a_value() {
        for given in [
            "value",
            "value\n",
            "value\r\n",
            "value\r",
            " value ",
            "\tvalue\t",
            "\u{feff}value",
            "\u{feff}value\r\n",
            "\n\nvalue\n\n",
            "value\u{a0}",
            "value\u{200b}",
            "value\u{2028}",
            "value\0",
            "\u{2060}value\u{3000}",
        ] {
            assert_eq!(value(given), Ok("value"), "{given:?}");
            assert_eq!(key(given), Ok("value"), "{given:?}");
        }
        assert_eq!(value(" \r\n"), Ok(""));
        assert_eq!(value("/srv/my data "), Ok("/srv/my data"));
        assert_eq!(value("müller"), Ok("müller"));
    }

    #[test]
    fn refuses_and_names_invisible_characters_inside_a_value() {
        for (given, named) in [
            ("first\nsecond", "a line end"),
            ("first\r\nsecond", "a carriage return"),
            ("first\tsecond", "a tab"),
            ("first\u{feff}second", "a byte-order mark"),
            ("first\u{200b}second", "the character U+200B"),
            ("first\u{202e}second", "the character U+202E"),
            ("first\0second", "the character U+0000"),
        ] {
            let refused = value(given).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("contains {named}; ")), "{given:?}: {refused}");
            assert!(!refused.contains("first"), "the error does not repeat a possible secret: {refused}");
            assert!(key(given).is_err(), "{given:?}");
        }
        for (given, named) in
            [("one two", "a blank"), ("schlüssel", "the character U+00FC"), ("a\u{a0}b", "the character U+00A0")]
        {
            assert!(key(given).unwrap_err().to_string().starts_with(&format!("contains {named}; ")), "{given:?}");
        }
        assert_eq!(key("\n"), Err(BadText::Empty));
    }

    #[test]
    fn passwords_are_not_shown() {
        for (given, shown) in [
            ("postgres://me:secret@db/events", "postgres://me:***@db/events"),
            ("postgres://me:se@cr:et@db:5432/events", "postgres://me:***@db:5432/events"),
            ("postgres://me:12/3@db/events", "postgres://me:***@db/events"),
            ("postgres://me:12?3@db/events", "postgres://me:***@db/events"),
            ("postgres://me@db/events?password=secret", "postgres://me@db/events?password=***"),
            ("postgres://db/e?sslmode=require&PassWord=secret", "postgres://db/e?sslmode=require&PassWord=***"),
            ("postgres://db/e?p%61ssword=secret&user=me", "postgres://db/e?p%61ssword=***&user=me"),
            ("postgres://me:secret@one:1,two:2/e", "postgres://me:***@one:1,two:2/e"),
            ("postgre://me:secret@db/events", "postgre://me:***@db/events"),
            ("postgres://db/events?sslmode=require", "postgres://db/events?sslmode=require"),
            ("https://hooks.example.com", "https://hooks.example.com"),
            ("https://collector.example/v1?api_key=secret", "https://collector.example/v1?api_key=***"),
            ("sqlite", "sqlite"),
            ("/srv/a=b@c", "/srv/a=b@c"),
        ] {
            assert_eq!(without_passwords(given), shown, "{given}");
        }
    }
}
