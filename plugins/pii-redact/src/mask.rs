//! Finds and masks e-mail addresses and phone numbers in a text.

use std::{borrow::Cow, ops::RangeInclusive};

/// The sign in an address, as typed and as encoded in a URL.
const AT: [&str; 2] = ["@", "%40"];
/// Number of digits of a phone number with its country code (ITU-T E.164). A number with fewer digits is an amount or an offset.
const PHONE_DIGITS: RangeInclusive<usize> = 8..=15;

pub fn text(text: &str) -> Cow<'_, str> {
    if !text.contains('+') && !AT.iter().any(|at| text.contains(at)) {
        return text.into();
    }
    phone_numbers(&AT.iter().fold(text.to_owned(), |text, at| email_addresses(&text, at))).into()
}

/// `anna@example.com` becomes `***@example.com`.
fn email_addresses(text: &str, at: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(at) {
        let other = before.trim_end_matches(|c: char| c.is_alphanumeric() || "!#$%'*+-=^_`{|}~.".contains(c));
        if other.len() < before.len() && after.starts_with(char::is_alphanumeric) {
            out += other;
            out += "***";
        } else {
            out += before;
        }
        out += at;
        rest = after;
    }
    out + rest
}

/// `+39 333 1234567` becomes `***67`.
fn phone_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('+') {
        out += before;
        let end = after.find(|c: char| !c.is_ascii_digit() && !" -./()".contains(c)).unwrap_or(after.len());
        let number = after[..end].trim_end_matches(|c: char| !c.is_ascii_digit());
        let digits: Vec<char> = number.chars().filter(char::is_ascii_digit).collect();
        if PHONE_DIGITS.contains(&digits.len()) && !number.starts_with(' ') {
            out += "***";
            out.extend(&digits[digits.len() - 2..]);
            rest = &after[number.len()..];
        } else {
            out.push('+');
            rest = after;
        }
    }
    out + rest
}
