//! Output formats: tables on a terminal, tab-separated lines in a pipe, JSON lines with `--json`. Each state has one word, mark
//! and colour everywhere.
//!
//! Colours are always written. The output stream removes them if they are unwanted (`NO_COLOR`, pipes). Untrusted text passes
//! [`measure::one_line`] or [`measure::lines`] before it reaches a terminal.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write},
};

use anstyle::{AnsiColor, Color, Style};
use jiff::tz::TimeZone;
use serde_json::Value;

use super::{answer::Answer, measure, wrong};
use crate::{clock, domain::time::Timestamp};

pub const GREEN: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Green)));
pub const YELLOW: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Yellow)));
pub const RED: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Red)));
pub const MAGENTA: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Magenta)));
pub const BLUE: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Blue)));
pub const DIM: Style = Style::new().dimmed();

/// Maximum number of characters of a table cell on a terminal; longer text is cut.
const CELL_MAX: usize = 60;

/// Writes a line to standard error. A line that cannot be written is dropped, because a full disk or a closed pipe must not stop the
/// command or a part of the engine.
macro_rules! tell {
    ($($text:tt)*) => { $crate::cli::output::write_line(anstream::stderr(), format_args!($($text)*)) };
}

/// Writes a line to standard output, for a command that continues if it cannot be written.
macro_rules! show {
    ($($text:tt)*) => { $crate::cli::output::write_line(anstream::stdout(), format_args!($($text)*)) };
}

pub(super) use {show, tell};

/// What [`tell`] and [`show`] do. Writes the line at once, because several threads write.
pub fn write_line(mut to: impl Write, text: fmt::Arguments<'_>) {
    let _ = to.write_all(format!("{text}\n").as_bytes());
}

/// A text in a style.
pub struct Styled<T>(pub Style, pub T);

impl<T: fmt::Display> fmt::Display for Styled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.1.to_string();
        // Pads manually, because the invisible characters of a style must not count.
        let padding = f.width().unwrap_or(0).saturating_sub(text.chars().count());
        write!(f, "{}{text}{}{:padding$}", self.0.render(), self.0.render_reset(), "")
    }
}

/// Returns the mark and the style of a state or outcome.
pub fn look(state: &str) -> (char, Style) {
    // A count may follow the word: `retrying, 1 of 2 delivered`.
    match state.split(',').next().unwrap_or_default() {
        "delivered" | "ok" | "serving" | "done" | "active" => ('●', GREEN),
        "pending" | "waiting" => ('○', YELLOW),
        "retrying" => ('◔', YELLOW),
        "paused" | "held" => ('‖', MAGENTA),
        "unrouted" | "nothing-sent" | "skipped" | "cancelled" | "" => ('–', DIM),
        "shadow" => ('◇', BLUE),
        _ => ('✕', RED),
    }
}

/// Formats a state as text: mark and word.
pub fn state(state: &str) -> Styled<String> {
    let (mark, style) = look(state);
    Styled(style, format!("{mark} {}", measure::one_line(state)))
}

/// Returns the status of an attempt's answer, or its outcome.
pub fn attempt(outcome: &str, status: Option<u16>) -> Styled<String> {
    let word = match (outcome, status) {
        ("answered", Some(status)) => status.to_string(),
        (outcome, Some(status)) => format!("{status} {outcome}"),
        (outcome, None) => outcome.to_owned(),
    };
    let style = if status.is_some_and(|status| (200..300).contains(&status)) { GREEN } else { RED };
    Styled(style, word)
}

/// The content of a column, which decides its format.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    State,
    Time,
}

/// One column of a table: its title, and the text that it shows for an item.
pub struct Column<T> {
    title: &'static str,
    kind: Kind,
    of: fn(&T) -> String,
}

impl<T> Column<T> {
    pub const fn text(title: &'static str, of: fn(&T) -> String) -> Self {
        Self { title, kind: Kind::Text, of }
    }

    /// A state, with mark and colour.
    pub const fn state(title: &'static str, of: fn(&T) -> String) -> Self {
        Self { title, kind: Kind::State, of }
    }

    /// A time in RFC 3339, shown in the reader's time zone.
    pub const fn time(title: &'static str, of: fn(&T) -> String) -> Self {
        Self { title, kind: Kind::Time, of }
    }
}

/// The reader of the output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Person,
    Pipe,
    /// A program that requested JSON.
    Script,
}

/// Prints answers in the format for the reader.
pub struct Printer {
    reader: Reader,
    now: Timestamp,
    zone: TimeZone,
}

impl Printer {
    pub fn new(json: bool) -> Self {
        let reader = match json {
            true => Reader::Script,
            false if io::stdout().is_terminal() => Reader::Person,
            false => Reader::Pipe,
        };
        Self { reader, now: clock::wall(), zone: TimeZone::system() }
    }

    #[cfg(test)]
    pub fn of(reader: Reader, now: &str) -> Self {
        Self { reader, now: Timestamp::parse_rfc3339(now).unwrap(), zone: TimeZone::UTC }
    }

    pub fn for_script(&self) -> bool {
        self.reader == Reader::Script
    }

    /// Prints one thing: as JSON, or as the text of `words`.
    pub fn thing(&self, thing: &Value, words: impl FnOnce(&Value) -> String) -> io::Result<()> {
        print(&if self.for_script() { thing.to_string() } else { words(thing) })
    }

    /// Prints one thing, with its JSON unchanged.
    pub fn exact(&self, json: &str, words: impl FnOnce() -> String) -> io::Result<()> {
        print(&if self.for_script() { json.to_owned() } else { words() })
    }

    /// Prints an answer: as JSON, or as `words` formats it.
    pub fn answer<T>(&self, answer: &Answer<T>, words: impl FnOnce(&T) -> String) -> io::Result<()> {
        print(&if self.for_script() { answer.json().to_string() } else { words(answer) })
    }

    /// Prints a list.
    pub fn list<T>(&self, items: &[Answer<T>], columns: &[Column<T>], nothing: &str) -> io::Result<()> {
        let text = self.listed(items, columns, nothing);
        if text.is_empty() { Ok(()) } else { print(&text) }
    }

    fn listed<T>(&self, items: &[Answer<T>], columns: &[Column<T>], nothing: &str) -> String {
        match self.reader {
            Reader::Script => items.iter().map(|item| item.json().to_string()).collect::<Vec<_>>().join("\n"),
            Reader::Person if items.is_empty() => nothing.to_owned(),
            Reader::Pipe | Reader::Person => self.table(&items.iter().map(|item| &**item).collect::<Vec<_>>(), columns),
        }
    }

    /// Returns a table. For a pipe, it has no titles and no padding.
    pub fn table<T>(&self, items: &[&T], columns: &[Column<T>]) -> String {
        if self.reader == Reader::Pipe {
            let row = |item: &&T| columns.iter().map(|column| filled(&(column.of)(item))).collect::<Vec<_>>().join("\t");
            return items.iter().map(row).collect::<Vec<_>>().join("\n");
        }
        let cell = |column: &Column<T>, item: &T| {
            let text = filled(&(column.of)(item));
            match column.kind {
                Kind::Text => measure::cut(&text, CELL_MAX),
                Kind::State => state(&text).1,
                Kind::Time => self.time(&text),
            }
        };
        let rows: Vec<Vec<String>> = items.iter().map(|item| columns.iter().map(|column| cell(column, item)).collect()).collect();
        let width = |place: usize| {
            let cells = rows.iter().map(|row| row[place].chars().count());
            cells.chain([columns[place].title.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let titles: Vec<String> =
            columns.iter().zip(&widths).map(|(column, width)| format!("{:<width$}", column.title)).collect();
        let mut lines = vec![Styled(DIM, titles.join("  ").trim_end()).to_string()];
        for row in rows {
            let last = row.len().saturating_sub(1);
            let cells = row.iter().zip(columns).zip(&widths).enumerate().map(|(place, ((cell, column), width))| {
                let width = if place == last { 0 } else { *width };
                let style = match column.kind {
                    Kind::Text => Style::new(),
                    Kind::State => cell.split_once(' ').map_or(DIM, |(_, word)| look(word).1),
                    Kind::Time => DIM,
                };
                format!("{:<width$}", Styled(style, cell))
            });
            lines.push(cells.collect::<Vec<_>>().join("  "));
        }
        lines.join("\n")
    }

    /// Formats a time for the reader: local time and age on a terminal, unchanged elsewhere.
    pub fn time(&self, text: &str) -> String {
        match Timestamp::parse_rfc3339(text) {
            Some(at) if self.reader == Reader::Person => format!("{}, {}", self.clock(at), self.relative(at)),
            _ => measure::one_line(text),
        }
    }

    /// Like [`Self::time`], without the age.
    pub fn clock_time(&self, text: &str) -> String {
        match Timestamp::parse_rfc3339(text) {
            Some(at) if self.reader == Reader::Person => self.clock(at),
            _ => measure::one_line(text),
        }
    }

    fn clock(&self, at: Timestamp) -> String {
        clock_face(at, self.now, &self.zone)
    }

    /// Formats a time relative to now: `2 min ago`, `in 5 s`.
    fn relative(&self, at: Timestamp) -> String {
        if at.seconds() == self.now.seconds() {
            "now".to_owned()
        } else if at > self.now {
            format!("in {}", measure::coarse(at.since(self.now)))
        } else {
            format!("{} ago", measure::coarse(self.now.since(at)))
        }
    }
}

/// Formats a time by its age: `09:14:02` today, `21 Nov 09:14` this year, `2025-11-21 09:14` in earlier years.
fn clock_face(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let there =
        |instant: Timestamp| jiff::Timestamp::from_millisecond(instant.millis()).map(|at| at.to_zoned_datetime(zone.clone()));
    let (Ok(at), Ok(now)) = (there(at), there(now)) else { return at.to_string() };
    let form = if at.date() == now.date() {
        "%H:%M:%S"
    } else if at.year() == now.year() {
        "%d %b %H:%M"
    } else {
        "%Y-%m-%d %H:%M"
    };
    at.strftime(form).to_string()
}

/// Returns the current local time, for the start of a line.
pub fn now() -> Styled<String> {
    let now = clock::wall();
    Styled(DIM, clock_face(now, now, &TimeZone::system()))
}

/// Returns a cell's text: one line, never empty, so that columns can be split.
fn filled(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { measure::one_line(text) }
}

/// Prints a text with a line end.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    // Written at once, so that a reader that ends after the first line has got all of it.
    out.write_all(format!("{}\n", text.trim_end()).as_bytes())?;
    out.flush()
}

/// Largest part of a body shown on a terminal, in bytes.
const BODY_SHOWN_MAX: usize = 64 << 10;

/// Prints a body: byte for byte into a pipe or a file, as readable text on a terminal.
pub fn print_body(body: &[u8]) -> io::Result<()> {
    if !io::stdout().is_terminal() {
        let mut out = io::stdout().lock();
        out.write_all(body)?;
        return out.flush();
    }
    let shown = &body[..body.len().min(BODY_SHOWN_MAX)];
    print(&measure::lines(&String::from_utf8_lossy(shown)))?;
    if shown.len() < body.len() {
        let (shown, all) = (measure::size(shown.len() as u64), measure::size(body.len() as u64));
        tell!("the first {shown} of {all}; to get all of it, write it to a file: add > body");
    }
    Ok(())
}

/// Joins the texts of a list, or returns a dash.
pub fn texts(values: &[String]) -> String {
    if values.is_empty() { "-".to_owned() } else { values.join(" ") }
}

/// Indents every line.
pub fn indent(text: &str) -> String {
    text.lines().map(|line| format!("          {line}").trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Announces an action that cannot be undone, and asks for confirmation.
pub fn confirm(what: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(wrong(format!("{what}. Nothing was changed: this is not a terminal, so add --yes to confirm")));
    }
    write!(anstream::stderr(), "{what}. Continue? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { anyhow::bail!("nothing was changed") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-11-24T09:16:02Z";

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn items() -> Vec<Answer<Value>> {
        [
            json!({ "id": "dlv_1", "at": "2026-11-24T09:14:02Z", "state": "delivered", "note": "a\tb\nc" }),
            json!({ "id": "dlv_22", "at": "2025-11-20T09:14:02Z", "state": "dead" }),
        ]
        .map(|item| Answer::read(item).unwrap())
        .into()
    }

    fn member(item: &Value, name: &str) -> String {
        item[name].as_str().unwrap_or_default().to_owned()
    }

    fn columns() -> [Column<Value>; 4] {
        [
            Column::text("delivery", |item| member(item, "id")),
            Column::time("at", |item| member(item, "at")),
            Column::state("state", |item| member(item, "state")),
            Column::text("note", |item| member(item, "note")),
        ]
    }

    #[test]
    fn people_get_a_table() {
        let printer = Printer::of(Reader::Person, NOW);
        let expected = "\
delivery  at                         state        note
dlv_1     09:14:02, 2 min ago        ● delivered  a\\tb\\nc
dlv_22    2025-11-20 09:14, 369 d ago  ✕ dead       -";
        let table = plain(&printer.listed(&items(), &columns(), "none"));
        let squeezed =
            |text: &str| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
        assert_eq!(squeezed(&table), squeezed(expected));
        let starts: Vec<usize> =
            table.lines().zip(["state", "●", "✕"]).map(|(line, word)| line[..line.find(word).unwrap()].chars().count()).collect();
        assert!(starts.iter().all(|start| *start == starts[0]), "columns are aligned: {starts:?}");
        assert_eq!(printer.listed(&[], &columns(), "No delivery."), "No delivery.");
    }

    #[test]
    fn pipes_get_columns_without_marks() {
        let printer = Printer::of(Reader::Pipe, NOW);
        let expected = "dlv_1\t2026-11-24T09:14:02Z\tdelivered\ta\\tb\\nc\ndlv_22\t2025-11-20T09:14:02Z\tdead\t-";
        assert_eq!(printer.listed(&items(), &columns(), "No delivery."), expected);
        assert_eq!(printer.listed(&[], &columns(), "No delivery."), "");
    }

    #[test]
    fn scripts_get_json_lines() {
        let printer = Printer::of(Reader::Script, NOW);
        let table = printer.listed(&items(), &columns(), "");
        assert_eq!(table.lines().count(), 2);
        assert_eq!(serde_json::from_str::<Value>(table.lines().next().unwrap()).unwrap(), *items()[0].json());
    }

    #[test]
    fn times() {
        let printer = Printer::of(Reader::Person, NOW);
        for (at, text) in [
            (NOW, "09:16:02, now"),
            ("2026-11-24T09:16:07Z", "09:16:07, in 5 s"),
            ("2026-11-21T09:16:02Z", "21 Nov 09:16, 3 d ago"),
            ("sometime", "sometime"),
        ] {
            assert_eq!(printer.time(at), text);
        }
    }

    #[test]
    fn styles_do_not_count_as_width() {
        assert_eq!(plain(&format!("{:<6}|", Styled(GREEN, "ok"))), "ok    |");
    }

    #[test]
    fn every_state_has_its_mark() {
        for (word, mark) in [
            ("delivered", '●'),
            ("waiting", '○'),
            ("retrying", '◔'),
            ("dead", '✕'),
            ("trapped", '✕'),
            ("paused", '‖'),
            ("unrouted", '–'),
            ("nothing-sent", '–'),
            ("retrying, 1 of 2 delivered", '◔'),
            ("parked", '✕'),
            ("shadow", '◇'),
        ] {
            assert_eq!(look(word).0, mark, "{word}");
        }
    }

    #[test]
    fn attempts() {
        assert_eq!(attempt("answered", Some(503)).1, "503");
        assert_eq!(attempt("body-too-large", Some(200)).1, "200 body-too-large");
        assert_eq!(attempt("timed-out", None).1, "timed-out");
    }
}
