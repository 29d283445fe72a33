//! The difference between two bodies, line by line: the data of an event, and what a plugin made of it.

use maud::{Markup, html};
use serde_json::Value;

use crate::ui::{foreign, visit::Visit};

/// Maximum length of a body that is compared, in bytes.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Maximum number of pairs of lines that are compared. If there are more, all lines count as changed.
const PAIRS_MAX: usize = 1 << 20;
/// Maximum size of the markup of one difference, in bytes.
const MARKUP_BYTES_MAX: usize = 24 << 10;
/// Maximum length of a line, in bytes of markup.
const LINE_BYTES_MAX: usize = 512;
/// Number of equal lines that are shown around a change. Further equal lines are folded.
const AROUND: usize = 3;

/// One line of the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    Added(&'a str),
}

/// Writes JSON with one value per line, and other text unchanged.
fn pretty(text: &str) -> String {
    serde_json::from_str::<Value>(text).and_then(|value| serde_json::to_string_pretty(&value)).unwrap_or_else(|_| text.to_owned())
}

/// Returns whether two lines of JSON are the same. The comma that follows the last member but not the others is no change.
fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches(',') == other.trim_end_matches(',')
}

/// Compares two texts by their longest common lines.
fn compare<'a>(old: &'a str, new: &'a str) -> Vec<Line<'a>> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(one, other)| is_same(one, other)).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(one, other)| is_same(one, other)).count();
    let (gone, added) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut lines: Vec<Line<'_>> = old[..head].iter().copied().map(Line::Same).collect();
    if gone.len().saturating_mul(added.len()) > PAIRS_MAX {
        lines.extend(gone.iter().copied().map(Line::Gone));
        lines.extend(added.iter().copied().map(Line::Added));
    } else {
        // `common[i][j]` is the number of lines that `gone[i..]` and `added[j..]` have in common.
        let width = added.len() + 1;
        let mut common = vec![0_u32; (gone.len() + 1) * width];
        for i in (0..gone.len()).rev() {
            for j in (0..added.len()).rev() {
                common[i * width + j] = match is_same(gone[i], added[j]) {
                    true => common[(i + 1) * width + j + 1] + 1,
                    false => common[(i + 1) * width + j].max(common[i * width + j + 1]),
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < gone.len() || j < added.len() {
            if i < gone.len() && j < added.len() && is_same(gone[i], added[j]) {
                lines.push(Line::Same(gone[i]));
                (i, j) = (i + 1, j + 1);
            } else if i < gone.len() && (j == added.len() || common[(i + 1) * width + j] >= common[i * width + j + 1]) {
                lines.push(Line::Gone(gone[i]));
                i += 1;
            } else {
                lines.push(Line::Added(added[j]));
                j += 1;
            }
        }
    }
    lines.extend(old[old.len() - tail..].iter().copied().map(Line::Same));
    lines
}

/// Returns the name of a member and its value, if a line of JSON has both.
fn member(line: &str) -> Option<(&str, &str)> {
    let at = line.find("\": ")? + 3;
    Some(line.split_at(at))
}

/// Writes what differs between two bodies. Returns `None` if nothing differs.
pub fn show(visit: &Visit, old: &str, new: &str) -> Option<Markup> {
    let (old, new) = (pretty(old), pretty(new));
    let lines = compare(&old, &new);
    if lines.iter().all(|line| matches!(line, Line::Same(_))) {
        return None;
    }
    let (t, formats) = (&visit.texts().event, visit.formats());
    let mut out = html! {};
    let mut place = 0;
    while place < lines.len() {
        if out.0.len() > MARKUP_BYTES_MAX {
            out.0.push_str(&html! { span.l.muted { "…" } }.0);
            break;
        }
        let equal = lines[place..].iter().take_while(|line| matches!(line, Line::Same(_))).count();
        let (before, after) = (if place == 0 { 0 } else { AROUND }, if place + equal == lines.len() { 0 } else { AROUND });
        if equal > before + after + 1 {
            let folded = &lines[place + before..place + equal - after];
            let unfolded = html! {
                @for line in &lines[place..place + before] { (plain(*line)) }
                details.fold {
                    summary { ((t.lines_unchanged)(&formats.number(folded.len() as u64))) }
                    @for line in folded.iter().take(200) { (plain(*line)) }
                }
                @for line in &lines[place + equal - after..place + equal] { (plain(*line)) }
            };
            out.0.push_str(&unfolded.0);
            place += equal;
        } else if equal > 0 {
            for line in &lines[place..place + equal] {
                out.0.push_str(&plain(*line).0);
            }
            place += equal;
        } else {
            // If a removed and an added line have the same member, only its value is shown as changed.
            let changed: Vec<&Line<'_>> = lines[place..].iter().take_while(|line| !matches!(line, Line::Same(_))).collect();
            let name = |line: &Line<'_>| match line {
                Line::Same(_) => None,
                Line::Gone(text) | Line::Added(text) => member(text).map(|(name, _)| name.to_owned()),
            };
            for line in &changed {
                let is_other_side = |other: &&&Line<'_>| matches!(other, Line::Gone(_)) != matches!(line, Line::Gone(_));
                let has_other =
                    name(line).is_some() && changed.iter().filter(is_other_side).any(|other| name(other) == name(line));
                out.0.push_str(&changed_line(line, has_other).0);
            }
            place += changed.len();
        }
    }
    Some(html! { div.code.diff tabindex="0" { (out) } })
}

fn cut(text: &str) -> Markup {
    let (shown, rest) = foreign::visible_within(text, LINE_BYTES_MAX);
    html! { (shown) @if !rest.is_empty() { "…" } }
}

fn plain(line: Line<'_>) -> Markup {
    let (Line::Same(text) | Line::Gone(text) | Line::Added(text)) = line;
    html! { span.l { bdi dir="ltr" { (cut(text)) } } }
}

fn changed_line(line: &Line<'_>, of_value: bool) -> Markup {
    let (Line::Same(text) | Line::Gone(text) | Line::Added(text)) = line;
    let body = match member(text).filter(|_| of_value) {
        Some((name, value)) => {
            let end = value.len() - usize::from(value.ends_with(','));
            html! { bdi dir="ltr" { (cut(name)) b { (cut(&value[..end])) } (&value[end..]) } }
        }
        None => html! { bdi dir="ltr" { (cut(text)) } },
    };
    match line {
        Line::Gone(_) => html! { del.l { (body) } },
        _ => html! { ins.l { (body) } },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_common_stay_and_others_are_gone_or_added() {
        use Line::{Added, Gone, Same};
        assert_eq!(compare("a\nb\nc", "a\nx\nc"), [Same("a"), Gone("b"), Added("x"), Same("c")]);
        assert_eq!(compare("a\nb", "a\nb"), [Same("a"), Same("b")]);
        assert_eq!(compare("", "a"), [Added("a")]);
        assert_eq!(compare("\"a\": 1", "\"a\": 1,\n\"b\": 2"), [Same("\"a\": 1"), Added("\"b\": 2")], "a comma is no change");
        assert_eq!(compare("a\nb\nc\nd", "b\nd\ne"), [Gone("a"), Same("b"), Gone("c"), Same("d"), Added("e")]);
        let (many, others): (Vec<String>, Vec<String>) =
            ((0..2_000).map(|n| format!("{n}")).collect(), (0..2_000).map(|n| format!("x{n}")).collect());
        assert_eq!(compare(&many.join("\n"), &others.join("\n")).len(), 4_000);
    }

    #[test]
    fn a_member_is_its_name_and_its_value() {
        assert_eq!(member("  \"total\": \"1500.00\","), Some(("  \"total\": ", "\"1500.00\",")));
        assert_eq!(member("{"), None);
    }
}
