//! Example of transforming the webhooks of an endpoint: masks personal data and keeps every other byte.
//!
//! The plugin runs for the endpoints that name it as their plugin. Anywhere in a JSON body, it masks:
//! - e-mail addresses in any text, also in the names of members: `***@example.com`;
//! - phone numbers in international form in any text: `+39 333 1234567` becomes `***67`;
//! - all text and numbers in members that hold names or phone numbers, also in nested members: `***`.
//!
//! The optional setting `fields` names more members to mask, such as `notes, address`. Case, dashes and underscores are ignored.

mod mask;

use std::borrow::Cow;

use innesco_sdk::{
    prelude::*,
    serde::{self, Deserializer as _, de::IgnoredAny},
    serde_json,
};

/// Members that hold personal data, as [`plain`] writes them. `name` is not in the list, because products have names too.
#[rustfmt::skip]
const FIELDS: &[&str] = &[
    "firstname", "middlename", "lastname", "fullname", "givenname", "familyname", "surname", "customername", "contactname",
    "phone", "phonenumber", "mobile", "mobilephone", "telephone", "tel", "fax",
];

struct PiiRedact;

impl Plugin for PiiRedact {
    // The list is empty, so the plugin runs only for the endpoints that name it. For these it runs on every event type.
    const ON: &'static [&'static str] = &[];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let json = event.text().map_err(not_json)?;
        serde_json::from_str::<IgnoredAny>(json).map_err(not_json)?;
        let further = config::get("fields").unwrap_or_default();
        let further: Vec<String> = further.split(',').map(plain).collect();
        let is_personal = |member: &str| {
            let member = plain(member);
            !member.is_empty() && (FIELDS.contains(&member.as_str()) || further.contains(&member))
        };
        Ok(Webhook::onward().body(&event.content_type, redact(json, is_personal)?).into())
    }
}

innesco_sdk::export!(PiiRedact);

/// Copies valid JSON token by token, which keeps spaces, the order of members and the digits of numbers.
fn redact(json: &str, is_personal: impl Fn(&str) -> bool) -> Result<String> {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    let mut personal = false; // whether the next token is in a personal member
    let mut around = Vec::new(); // the value of `personal` for each enclosing object and array
    while let Some(first) = rest.chars().next() {
        let token;
        (token, rest) = rest.split_at(token_len(rest, first));
        match first {
            '{' | '[' => around.push(personal),
            '}' | ']' => personal = around.pop().unwrap_or_default(),
            _ => {}
        }
        match first {
            '"' => {
                let text = decoded(token)?;
                let is_member = rest.trim_start().starts_with(':');
                let masked = if personal && !is_member && !text.is_empty() { Cow::Borrowed("***") } else { mask::text(&text) };
                if is_member {
                    personal = around.last() == Some(&true) || is_personal(&text);
                }
                out += &if *masked == *text { token.to_owned() } else { serde_json::to_string(&masked)? };
            }
            '-' | '0'..='9' if personal => out += "\"***\"",
            _ => out += token,
        }
    }
    Ok(out)
}

/// Decodes a string token. Half of a surrogate pair (`\ud83d`) is valid JSON but not text, so it becomes U+FFFD. The output
/// contains that character only if the token has personal data, because other tokens are copied unchanged.
fn decoded(token: &str) -> Result<String> {
    struct Lossy;
    impl serde::de::Visitor<'_> for Lossy {
        type Value = String;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string")
        }
        fn visit_bytes<E>(self, text: &[u8]) -> std::result::Result<String, E> {
            Ok(String::from_utf8_lossy(text).into_owned())
        }
    }
    serde_json::Deserializer::from_str(token).deserialize_bytes(Lossy).map_err(not_json)
}

/// Returns the length of the first token of `rest`: a string, a number, or one other character.
fn token_len(rest: &str, first: char) -> usize {
    match first {
        '"' => {
            let mut escaped = true; // treats the opening quote as escaped, so that it does not end the string
            let closing = rest.find(|c| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            closing.map_or(rest.len(), |at| at + 1)
        }
        '-' | '0'..='9' => rest.find(|c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E' | '0'..='9')).unwrap_or(rest.len()),
        other => other.len_utf8(),
    }
}

/// Normalizes a member's name: `First_Name`, `first-name` and `firstName` become `firstname`.
fn plain(member: &str) -> String {
    member.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn not_json(error: impl std::fmt::Display) -> Error {
    Error::permanent("not-json", format!("only JSON can be redacted, so nothing is sent: {error}"))
}

#[cfg(test)]
mod tests {
    use innesco_sdk::testing;

    use super::*;

    fn redacted(engine: &mut testing::Engine, json: &str) -> String {
        let event = testing::event("contact.created").data("application/vnd.acme+json", json).build();
        let outcome = engine.run(&PiiRedact, &event).unwrap();
        let webhook = &outcome.webhooks()[0];
        assert_eq!((webhook.to.as_deref(), webhook.content_type.as_str()), (None, "application/vnd.acme+json"));
        String::from_utf8(webhook.body.clone()).unwrap()
    }

    #[track_caller]
    fn check(json: &str, expected: &str) {
        assert_eq!(redacted(&mut testing::engine(), json), expected);
    }

    #[test]
    fn keeps_other_data_byte_for_byte() {
        for json in [
            "{ \"b\" : 1.10,\r\n\t\"a\":12345678901234567890123, \"b\":-1e+2 }\n",
            r#"{"text":"caf\u00e9 \"quoted\\\" \/ 😀","ok":[true,false,null,{},[]],"name":"Green tea","":"","email":null}"#,
            "[]",
            "\"1+1 = 2, C++, @home, 2026-01-02T03:04:05+02:00, +500\"",
            "7",
        ] {
            check(json, json);
        }
    }

    #[test]
    fn masks_addresses_and_numbers_in_any_text() {
        check(
            r#"{"note":"Write to anna@example.com or +39 (333) 123-4567.","deep":[{"x":["o'brien+x@mail.example.org"]}]}"#,
            r#"{"note":"Write to ***@example.com or ***67.","deep":[{"x":["***@mail.example.org"]}]}"#,
        );
        check(r#"{"to":{"anna@example.com":{"ok":true}}}"#, r#"{"to":{"***@example.com":{"ok":true}}}"#);
    }

    #[test]
    fn masks_escaped_addresses() {
        check(r#"{"a":"anna\u0040example.com","b":"\u002b393331234567"}"#, r#"{"a":"***@example.com","b":"***67"}"#);
        check(
            r#""https://shop.example/unsubscribe?anna%40example.com""#,
            r#""https://shop.example/unsubscribe?***%40example.com""#,
        );
    }

    #[test]
    fn masks_everything_in_personal_members() {
        check(
            r#"{"first_name":"Anna","lastName": "","phone":3331234567,"id":7,"Mobile":["333 123",{"kind":"home","ok":true}],"n":1}"#,
            r#"{"first_name":"***","lastName": "","phone":"***","id":7,"Mobile":["***",{"kind":"***","ok":true}],"n":1}"#,
        );
        check(r#"[{"fax":{"a":1},"b":[2]},{"c":"d"}]"#, r#"[{"fax":{"a":"***"},"b":[2]},{"c":"d"}]"#);
    }

    #[test]
    fn masks_members_from_the_setting() {
        let mut engine = testing::engine().config("fields", "notes, Home-Address,");
        let json = r#"{"notes":"tall","homeAddress":{"street":"Via Roma","no":1},"other":"x","":"y"}"#;
        assert_eq!(
            redacted(&mut engine, json),
            r#"{"notes":"***","homeAddress":{"street":"***","no":"***"},"other":"x","":"y"}"#
        );
    }

    #[test]
    fn sends_nothing_that_is_not_json() {
        for data in [b"name=Anna".as_slice(), b"", b"{\"a\":1", b"{} {}", b"\"\xff\""] {
            let event = testing::event("contact.created").data("text/plain", data).build();
            let error = testing::run(&PiiRedact, &event).unwrap_err();
            assert_eq!((error.code.as_str(), error.retryable), ("not-json", false), "{error}");
        }
    }

    /// The plugin handles all JSON that the engine accepts, because it must not lose an accepted event.
    #[test]
    fn accepts_all_valid_json() {
        for json in [
            r#"{"text":"ciao \ud83d","\udc00":1}"#,
            r#""\ud800""#,
            "[1e999,-0.0,123456789012345678901234567890.10]",
            r#"{"a":1,"a":2}"#,
            " null\r\n",
        ] {
            check(json, json);
        }
        check(r#"{"a":"\ud83d anna@example.com"}"#, "{\"a\":\"\u{fffd}\u{fffd}\u{fffd} ***@example.com\"}");
    }

    #[test]
    fn nesting_has_no_limit() {
        let json = format!("{}\"anna@example.com\"{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(redacted(&mut testing::engine(), &json).contains("[\"***@example.com\"]"));
    }
}
