//! How things look: tables on a terminal, tab-separated lines in a pipe, JSON lines with `--json`; one word, mark and colour per
//! state, everywhere the same.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
};

use anstyle::{AnsiColor, Color, Style};
use serde_json::Value;

pub const GREEN: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Green)));
pub const YELLOW: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Yellow)));
pub const RED: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Red)));
pub const MAGENTA: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Magenta)));
pub const DIM: Style = Style::new().dimmed();

/// A text in a style; plain where the reader wants no colour (`NO_COLOR`, pipes).
pub struct Styled<T>(pub Style, pub T);

impl<T: fmt::Display> fmt::Display for Styled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.1.to_string();
        // Padded by hand: the invisible characters of a style must not count.
        let padding = f.width().unwrap_or(0).saturating_sub(text.chars().count());
        write!(f, "{}{text}{}{:padding$}", self.0.render(), self.0.render_reset(), "")
    }
}

/// The mark and the style of a state or outcome.
pub fn look(state: &str) -> (char, Style) {
    match state {
        "delivered" | "ok" | "serving" | "done" | "active" => ('●', GREEN),
        "pending" | "waiting" => ('○', DIM),
        "retrying" => ('◔', YELLOW),
        "paused" | "held" => ('‖', MAGENTA),
        "unrouted" | "skipped" | "cancelled" => ('–', DIM),
        _ => ('✕', RED),
    }
}

/// A state as it stands in text: mark and word.
pub fn state(state: &str) -> Styled<String> {
    let (mark, style) = look(state);
    Styled(style, format!("{mark} {state}"))
}

/// A status or an outcome of an attempt.
pub fn attempt(outcome: &str, status: Option<u64>) -> Styled<String> {
    let word = status.map_or_else(|| outcome.to_owned(), |status| status.to_string());
    let style = if status.is_some_and(|status| (200..300).contains(&status)) { GREEN } else { RED };
    Styled(style, word)
}

/// One column of a table: its title, and its text in an item.
pub type Column = (&'static str, fn(&Value) -> String);

/// Prints answers in the form that the reader can use.
pub struct Printer {
    json: bool,
    terminal: bool,
}

impl Printer {
    pub fn new(json: bool) -> Self {
        Self { json, terminal: io::stdout().is_terminal() }
    }

    /// Prints one thing: as JSON, or as `words` say.
    pub fn thing(&self, thing: &Value, words: impl FnOnce(&Value) -> String) -> io::Result<()> {
        let text = if self.json { thing.to_string() } else { words(thing) };
        writeln!(anstream::stdout(), "{}", text.trim_end())
    }

    /// Prints a list.
    pub fn list(&self, items: &[Value], columns: &[Column], nothing: &str) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        if self.json {
            return items.iter().try_for_each(|item| writeln!(out, "{item}"));
        }
        let rows: Vec<Vec<String>> = items.iter().map(|item| columns.iter().map(|(_, text)| text(item)).collect()).collect();
        if !self.terminal {
            return rows.iter().try_for_each(|row| writeln!(out, "{}", row.join("\t")));
        }
        if rows.is_empty() {
            return writeln!(out, "{nothing}");
        }
        let width = |place: usize| {
            let cells = rows.iter().map(|row| row[place].chars().count());
            cells.chain([columns[place].0.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let titles: Vec<String> = columns.iter().zip(&widths).map(|((title, _), width)| format!("{title:<width$}")).collect();
        writeln!(out, "{}", Styled(DIM, titles.join("  ").trim_end()))?;
        for row in rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).zip(columns).map(|((cell, width), (title, _))| cell_text(title, cell, *width)).collect();
            writeln!(out, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }

    /// A time as this reader wants it: local and relative on a terminal, RFC 3339 elsewhere.
    pub fn time(&self, text: &str) -> String {
        if self.terminal && !self.json { local_time(text) } else { text.to_owned() }
    }
}

fn cell_text(title: &str, cell: &str, width: usize) -> String {
    match title {
        "state" | "outcome" => format!("{:<width$}", Styled(look(cell).1, cell)),
        _ => format!("{cell:<width$}"),
    }
}

/// `09:14:02`, or with the date where it is not today's.
pub fn local_time(text: &str) -> String {
    let Ok(instant) = text.parse::<jiff::Timestamp>() else { return text.to_owned() };
    let zone = jiff::tz::TimeZone::system();
    let (there, now) = (instant.to_zoned_datetime(zone.clone()), jiff::Timestamp::now().to_zoned_datetime(zone));
    let form = if there.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    there.strftime(form).to_string()
}

/// The text of a member, or a dash.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Asks before something is done that cannot be undone.
pub fn confirm(what: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        anyhow::bail!("{what}: nothing was done. Say --yes to do it without being asked");
    }
    anstream::eprint!("{what}. Go on? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { anyhow::bail!("nothing was done") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_do_not_count_as_width() {
        let cell = format!("{:<6}|", Styled(GREEN, "ok"));
        assert_eq!(anstream::adapter::strip_str(&cell).to_string(), "ok    |");
    }

    #[test]
    fn every_state_has_its_mark() {
        for (word, mark) in
            [("delivered", '●'), ("waiting", '○'), ("retrying", '◔'), ("dead", '✕'), ("paused", '‖'), ("unrouted", '–')]
        {
            assert_eq!(look(word).0, mark, "{word}");
        }
    }
}
