//! Untrusted text: subjects, bodies, answers, names. It enters a page only through this module. It is always text, never markup,
//! and can neither reverse the direction of a line nor hide in it.

use maud::{Markup, PreEscaped, Render as _, html};

/// Maximum length of a text in a list, in characters. The whole text is one click away.
const LIST_CHARS_MAX: usize = 256;

/// Returns whether a character changes the direction of text, hides, or controls a terminal.
const fn is_hidden(character: char) -> bool {
    matches!(character,
        '\u{0}'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}' | '\u{fffe}' | '\u{ffff}')
}

/// Writes text with its hidden characters as marks, such as `U+202E`.
pub fn visible(text: &str) -> Markup {
    if !text.contains(is_hidden) {
        return PreEscaped(text.render().into_string());
    }
    let mut rest = text;
    html! {
        @while let Some(at) = rest.find(is_hidden) {
            @let hidden = rest[at..].chars().next().unwrap_or_default();
            (&rest[..at]) span.esc { "U+" (format!("{:04X}", u32::from(hidden))) }
            ({ rest = &rest[at + hidden.len_utf8()..]; "" })
        }
        (rest)
    }
}

/// Writes an untrusted value within a sentence or a cell: isolated, in its own direction, cut after 256 characters.
pub fn value(text: &str) -> Markup {
    match text.char_indices().nth(LIST_CHARS_MAX) {
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

/// Writes a long URL, id or digest so that the browser cuts its middle. The whole text is in `title`, and copying copies all of it.
/// Other text is cut at its end.
pub fn cut(text: &str) -> Markup {
    let is_cuttable = text.is_ascii() && text.len() > 24 && text.len() <= 4096;
    if !is_cuttable {
        let whole = isolated(text);
        return html! { span.cut title=(whole) { bdi dir="auto" { (visible(text)) } } };
    }
    let (head, tail) = text.split_at(text.len() - 12);
    html! { span.cut.mono title=(text) { bdi { (visible(head)) } bdi { (visible(tail)) } } }
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
        for kept in ["\n", "\t", "é", "👩‍🚀", "طلب", " "] {
            assert_eq!(visible(kept).into_string(), kept, "{kept:?}");
        }
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
