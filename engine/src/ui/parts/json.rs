//! Bodies: JSON with muted member names, other text unchanged. A long string is cut, and the number of omitted characters is
//! shown.

use maud::{Markup, PreEscaped, html};
use serde_json::Value;

use crate::ui::{foreign, texts::Formats};

/// Maximum length of a JSON string that is shown whole, in characters.
const STRING_CHARS_MAX: usize = 4096;
/// Maximum length of the shown part of a body, in bytes.
pub const SHOWN_BYTES_MAX: usize = 64 << 10;
/// Maximum size of the markup of one body, in bytes. It is so small that a page with an open body stays under 90 kB.
const MARKUP_BYTES_MAX: usize = 64 << 10;
/// Bytes of markup reserved for the end of a body that is not shown whole.
const END_BYTES: usize = 4 << 10;
/// Deepest nesting that is indented. Deeper values are shown on one line.
const DEPTH_MAX: usize = 60;

/// Writes JSON with an indent of two spaces, or other text unchanged. Returns whether all of the text is shown.
pub fn pretty(text: &str, formats: &Formats) -> (Markup, bool) {
    match serde_json::from_str::<Value>(text) {
        Ok(value) => {
            let mut writer = Writer { out: String::new(), left: SHOWN_BYTES_MAX, formats };
            writer.value(&value, 0);
            let is_whole = !writer.is_full();
            (PreEscaped(writer.out), is_whole)
        }
        Err(_) => raw(text),
    }
}

/// Writes as much of a text as a page may show, unchanged. Returns whether all of the text is shown.
pub fn raw(text: &str) -> (Markup, bool) {
    let (markup, rest) = foreign::visible_within(text, MARKUP_BYTES_MAX);
    (html! { bdi dir="ltr" { (markup) } }, rest.is_empty())
}

struct Writer<'a> {
    out: String,
    /// Bytes of source text that may still be written.
    left: usize,
    formats: &'a Formats,
}

impl Writer<'_> {
    fn put(&mut self, markup: &Markup) {
        self.out.push_str(&markup.0);
    }

    fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }

    fn is_full(&self) -> bool {
        self.left == 0 || self.out.len() > MARKUP_BYTES_MAX - END_BYTES
    }

    fn mark(&mut self, text: &str) {
        self.put(&html! { i { (text) } });
    }

    fn line(&mut self, depth: usize) {
        self.out.push('\n');
        // Once the limit is reached, only closing brackets follow, which need no indentation.
        if self.is_full() {
            return;
        }
        self.out.extend(std::iter::repeat_n("  ", depth.min(DEPTH_MAX)));
        self.spend(1 + 2 * depth.min(DEPTH_MAX));
    }

    /// Writes a JSON string with its hidden characters made visible.
    fn string(&mut self, text: &str) -> Markup {
        let (shown, more) = match text.char_indices().nth(STRING_CHARS_MAX) {
            None => (text, 0),
            Some((end, _)) => (&text[..end], text[end..].chars().count()),
        };
        self.spend(shown.len() + 2);
        let quoted = serde_json::to_string(shown).unwrap_or_default();
        // Control characters are shown like other hidden characters, not as JSON escapes them.
        let inside = quoted.trim_matches('"');
        let inside = if shown.contains(|character: char| character.is_control()) { shown } else { inside };
        let formats = self.formats;
        let (markup, rest) = foreign::visible_within(inside, (MARKUP_BYTES_MAX - END_BYTES / 2).saturating_sub(self.out.len()));
        if !rest.is_empty() {
            self.left = 0;
        }
        html! {
            "\"" bdi { (markup) } @if more > 0 { span.esc { "… +" (formats.number(more as u64)) } } "\""
        }
    }

    fn value(&mut self, value: &Value, depth: usize) {
        if self.is_full() {
            return;
        }
        match value {
            Value::Object(members) if members.is_empty() => self.mark("{}"),
            Value::Array(items) if items.is_empty() => self.mark("[]"),
            Value::Object(members) => {
                self.mark("{");
                for (place, (name, value)) in members.iter().enumerate() {
                    if self.is_full() {
                        break;
                    }
                    self.line(depth + 1);
                    let name = self.string(name);
                    self.put(&html! { i { (name) ": " } });
                    self.value(value, depth + 1);
                    if place + 1 < members.len() {
                        self.mark(",");
                    }
                }
                self.line(depth);
                self.mark("}");
            }
            Value::Array(items) => {
                self.mark("[");
                for (place, value) in items.iter().enumerate() {
                    if self.is_full() {
                        break;
                    }
                    self.line(depth + 1);
                    self.value(value, depth + 1);
                    if place + 1 < items.len() {
                        self.mark(",");
                    }
                }
                self.line(depth);
                self.mark("]");
            }
            Value::String(text) => {
                let text = self.string(text);
                self.put(&text);
            }
            other => {
                let text = other.to_string();
                self.spend(text.len());
                self.put(&html! { (text) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::ui::texts::Lang;

    fn shown(text: &str) -> (String, bool) {
        let (markup, is_whole) = pretty(text, &Formats { lang: Lang::En, zone: TimeZone::UTC });
        (markup.0, is_whole)
    }

    fn words(text: &str) -> String {
        let mut inside = false;
        shown(text)
            .0
            .chars()
            .filter(|c| {
                match c {
                    '<' => inside = true,
                    '>' => {
                        inside = false;
                        return false;
                    }
                    _ => {}
                }
                !inside
            })
            .collect()
    }

    #[test]
    fn json_is_indented_and_escaped() {
        assert_eq!(
            words(r#"{"a":[1,"<b>"],"c":{}}"#),
            "{\n  &quot;a&quot;: [\n    1,\n    &quot;&lt;b&gt;&quot;\n  ],\n  &quot;c&quot;: {}\n}"
        );
        assert_eq!(shown("not json <").0, "<bdi dir=\"ltr\">not json &lt;</bdi>");
    }

    #[test]
    fn long_strings_and_long_bodies_are_cut_and_show_the_hidden_length() {
        let (text, is_whole) = shown(&format!("{{\"export\":\"{}\"}}", "A".repeat(1_000_000)));
        assert!(is_whole && text.len() < 6_000 && text.contains("… +995,904"), "{}", text.len());
        let (text, is_whole) = shown(&format!("[{}1]", "1234567,".repeat(50_000)));
        assert!(!is_whole && text.len() <= MARKUP_BYTES_MAX, "{}", text.len());
        for hostile in ["a\u{1}".repeat(60_000), "<".repeat(60_000), "\u{1}".repeat(60_000)] {
            let many = serde_json::to_string(&vec![hostile.clone(); 40]).unwrap();
            assert!(shown(&many).0.len() <= MARKUP_BYTES_MAX, "{}", shown(&many).0.len());
            assert!(shown(&hostile).0.len() <= MARKUP_BYTES_MAX + 64);
            let nested = format!("{}1{}", "[".repeat(100), "]".repeat(100));
            assert!(shown(&format!("[{}]", vec![nested; 900].join(","))).0.len() <= MARKUP_BYTES_MAX * 2);
        }
    }

    #[test]
    fn hidden_characters_in_strings_are_shown() {
        let (text, _) = shown(r#"{"override":"\u202egnp.exe","nul":"a\u0000b"}"#);
        assert!(
            text.contains("<span class=\"esc\">U+202E</span>gnp.exe") && text.contains("a<span class=\"esc\">U+0000</span>b"),
            "{text}"
        );
    }
}
