//! Untrusted text: subjects, bodies, answers, names. It enters a page only through this module. It is always text, never markup,
//! and can neither reverse the direction of a line nor contain hidden characters.

use maud::{Markup, PreEscaped, Render as _, html};

/// Maximum length of a text in a list, in characters. The whole text is one click away.
const LIST_CHARS_MAX: usize = 256;

/// Returns whether a character changes the direction of text, hides, or controls a terminal.
const fn is_hidden(character: char) -> bool {
    matches!(character,
        '\u{0}'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}' | '\u{fffe}' | '\u{ffff}')
}

/// In a list, a hidden character counts as this many characters. Its mark is longer than one character, and a text of many hidden
/// characters must not fill a page.
const HIDDEN_WEIGHT: usize = 16;
/// If hidden characters follow each other, at most this many of them are shown one by one. The others are only counted.
const RUN_SHOWN_MAX: usize = 16;

/// Writes text with its hidden characters as marks, such as `U+202E`. If many hidden characters follow each other, only the first
/// ones are shown and the others are counted: `U+0000 U+0000 … +4080`.
pub fn visible(text: &str) -> Markup {
    if !text.contains(is_hidden) {
        return PreEscaped(text.render().into_string());
    }
    let mut rest = text;
    html! {
        @while let Some(at) = rest.find(is_hidden) {
            @let run = rest[at..].find(|character| !is_hidden(character)).map_or(&rest[at..], |length| &rest[at..at + length]);
            (&rest[..at]) span.esc { (marks(run)) }
            ({ rest = &rest[at + run.len()..]; "" })
        }
        (rest)
    }
}

/// Returns the marks of hidden characters that follow each other.
fn marks(run: &str) -> String {
    let number = run.chars().count();
    let mut marks: Vec<String> = run.chars().take(RUN_SHOWN_MAX).map(|one| format!("U+{:04X}", u32::from(one))).collect();
    if number > RUN_SHOWN_MAX {
        marks.push(format!("… +{}", number - RUN_SHOWN_MAX));
    }
    marks.join(" ")
}

/// Writes as much of a text as fits into `bytes` of markup, and returns what is left.
pub fn visible_within(text: &str, bytes: usize) -> (Markup, &str) {
    let weight = |character: char| match character {
        hidden if is_hidden(hidden) => 48,
        '<' | '>' | '&' | '"' => 6,
        other => other.len_utf8(),
    };
    let mut left = bytes;
    let end = text.char_indices().find(|(_, character)| {
        let weight = weight(*character);
        let is_over = weight > left;
        left = left.saturating_sub(weight);
        is_over
    });
    let (shown, rest) = text.split_at(end.map_or(text.len(), |(at, _)| at));
    (visible(shown), rest)
}

/// Returns text for places that take no markup, such as an option of a list, with hidden characters as marks.
pub fn marked(text: &str) -> String {
    let mark = |character| match character {
        hidden if is_hidden(hidden) => format!("U+{:04X}", u32::from(hidden)),
        other => other.to_string(),
    };
    text.chars().take(LIST_CHARS_MAX).map(mark).collect()
}

/// Writes an untrusted value within a sentence or a cell. The value is isolated, has its own direction, and is cut after 256
/// characters.
pub fn value(text: &str) -> Markup {
    let mut left = LIST_CHARS_MAX;
    let end = text.char_indices().find(|(_, character)| {
        let weight = match *character {
            hidden if is_hidden(hidden) => HIDDEN_WEIGHT,
            // HTML writes each of these characters as several characters.
            '<' | '>' | '&' | '"' => 3,
            _ => 1,
        };
        let is_over = weight > left;
        left = left.saturating_sub(weight);
        is_over
    });
    match end {
        None => html! { bdi dir="auto" { (visible(text)) } },
        Some((end, _)) => html! { bdi dir="auto" { (visible(&text[..end])) "…" } },
    }
}

/// Writes a name, type or id, left to right.
pub fn name(text: &str) -> Markup {
    html! { bdi { (visible(text)) } }
}

/// Writes lines of code or a log, left to right.
pub fn code(text: &str) -> Markup {
    html! { bdi dir="ltr" { (visible(text)) } }
}

/// Isolates untrusted text in a sentence without markup, such as a `title`.
pub fn isolated(text: &str) -> String {
    let shown: String = text.chars().take(LIST_CHARS_MAX).filter(|character| !is_hidden(*character)).collect();
    format!("\u{2068}{shown}\u{2069}")
}

/// Maximum length of the `title` of a text whose middle is cut, in bytes. A list of such texts must not fill a page.
const TITLE_BYTES_MAX: usize = 256;
/// Maximum length of the visible part of such a text, in bytes. It is wider than the places where it is shown.
const CUT_BYTES_MAX: usize = 128;

/// Writes a long URL, id or digest. The browser hides the middle of the text, but copies the whole text, which is also in `title`.
/// Text that is not ASCII, is short or is very long is cut at its end instead.
pub fn cut(text: &str) -> Markup {
    let is_cuttable = text.is_ascii() && text.len() > 24 && text.len() <= 4096;
    if !is_cuttable {
        return html! { span.cut title=(isolated(text)) { (value(text)) } };
    }
    let (head, tail) = text.split_at(text.len() - 12);
    let title = match text.len() {
        0..=TITLE_BYTES_MAX => text.to_owned(),
        _ => format!("{}…{tail}", &text[..TITLE_BYTES_MAX]),
    };
    let head = &head[..head.len().min(CUT_BYTES_MAX)];
    html! { span.cut.mono title=(title) { bdi { (visible(head)) } bdi { @if head.len() + tail.len() < text.len() { "…" } (visible(tail)) } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_markup_is_shown_as_text() {
        assert_eq!(value("<b>&\"").into_string(), "<bdi dir=\"auto\">&lt;b&gt;&amp;&quot;</bdi>");
    }

    #[test]
    fn hidden_characters_are_shown() {
        assert_eq!(visible("a\u{202e}b\0").into_string(), "a<span class=\"esc\">U+202E</span>b<span class=\"esc\">U+0000</span>");
        assert_eq!(marked("a\u{202e}<b"), "aU+202E<b");
        for kept in ["\n", "\t", "é", "👩‍🚀", "طلب", " "] {
            assert_eq!(visible(kept).into_string(), kept, "{kept:?}");
        }
    }

    #[test]
    fn text_of_hidden_characters_does_not_fill_a_page() {
        assert_eq!(visible("\u{1}\u{2}").into_string(), "<span class=\"esc\">U+0001 U+0002</span>");
        assert!(visible(&"\0".repeat(4096)).into_string().ends_with("U+0000 … +4080</span>"));
        assert!(value(&"a\u{202e}".repeat(400)).into_string().len() < 800);
        for text in ["a\0".repeat(90_000), "<&>".repeat(90_000), "é".repeat(90_000), "\0".repeat(90_000)] {
            let (markup, rest) = visible_within(&text, 64 << 10);
            assert!(!rest.is_empty() && markup.0.len() <= 64 << 10, "{}", markup.0.len());
        }
        assert_eq!(visible_within("all", 64).1, "");
        assert!(cut(&format!("https://x.example/{}", "a".repeat(3000))).into_string().len() < 1000);
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let text = "é".repeat(LIST_CHARS_MAX + 1);
        let shown = value(&text).into_string();
        assert_eq!(shown.matches('é').count(), LIST_CHARS_MAX);
        assert!(shown.ends_with("…</bdi>"));
        assert_eq!(value(&"é".repeat(LIST_CHARS_MAX)).into_string().matches('…').count(), 0);
    }

    #[test]
    fn the_middle_of_an_address_is_cut_and_the_title_has_all_of_it() {
        let url = "https://crm.example.org/api/v2/hooks/innesco/contacts";
        let shown = cut(url).into_string();
        assert!(shown.contains(&format!("title=\"{url}\"")) && shown.ends_with("<bdi>sco/contacts</bdi></span>"), "{shown}");
        assert!(cut("short").into_string().contains("<bdi dir=\"auto\">short</bdi>"));
    }
}
