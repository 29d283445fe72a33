//! Figures of several rounds, the table that shows them, and the JSON file that keeps them.

use std::{fmt, fs, path::Path, sync::Mutex};

use anyhow::Context as _;
use serde_json::{Value, json};

/// Every printed table, as JSON.
static PRINTED: Mutex<Vec<Value>> = Mutex::new(Vec::new());

/// Writes every printed table to a file, with a description of the machine.
///
/// # Errors
/// If the file cannot be written.
pub fn write_all(file: &Path, machine: &Value) -> anyhow::Result<()> {
    let all = json!({ "machine": machine, "tables": *PRINTED.lock().expect("no code panics while it holds it") });
    fs::write(file, format!("{all:#}\n")).with_context(|| format!("{} cannot be written", file.display()))
}

/// The values of one figure, one per round.
#[derive(Clone, Default)]
pub struct Figure(Vec<f64>);

impl Figure {
    pub fn note(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn highest(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Returns the ratio of this figure to another, round by round.
    pub fn against(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(own, other)| own / other).collect())
    }
}

impl From<f64> for Figure {
    fn from(value: f64) -> Self {
        Self(vec![value])
    }
}

/// Writes the median with the lowest and the highest value; of a single value only this value.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted[..] {
            [] => f.pad("-"),
            [only] => f.pad(&short(only)),
            [lowest, .., highest] => f.pad(&format!("{} ({}–{})", short(self.median()), short(lowest), short(highest))),
        }
    }
}

/// Formats three significant digits with separated thousands.
fn short(value: f64) -> String {
    match value.abs() {
        100_000.0.. => format!("{:.0}k", value / 1e3),
        10_000.0.. => format!("{:.1}k", value / 1e3),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A cell of a table. The JSON file has a figure with the values of all its rounds.
pub enum Cell {
    Text(String),
    Figure(Figure),
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Figure> for Cell {
    fn from(figure: Figure) -> Self {
        Self::Figure(figure)
    }
}

impl From<&Figure> for Cell {
    fn from(figure: &Figure) -> Self {
        Self::Figure(figure.clone())
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self::Figure(value.into())
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.pad(text),
            Self::Figure(figure) => figure.fmt(f),
        }
    }
}

impl Cell {
    fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text.trim()),
            Self::Figure(Figure(values)) => json!(values),
        }
    }
}

/// Formats columns as wide as their widest cell.
pub struct Table(Vec<Vec<Cell>>);

impl Table {
    pub fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|&cell| cell.into()).collect()])
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.0.push(cells.into_iter().collect());
    }

    /// Prints the table, and keeps it for [`write_all`].
    pub fn print(&self, title: &str) {
        let rows: Vec<Vec<Value>> = self.0.iter().map(|row| row.iter().map(Cell::to_json).collect()).collect();
        PRINTED.lock().expect("no code panics while it holds it").push(json!({ "title": title, "rows": rows }));
        println!("{title}");
        let rows: Vec<Vec<String>> = self.0.iter().map(|row| row.iter().map(Cell::to_string).collect()).collect();
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        for (nth, row) in rows.iter().enumerate() {
            let cells = (0..columns).map(|column| {
                let (cell, width) = (row.get(column).map_or("", String::as_str), width(column).unwrap_or(0));
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            println!("  {}", line.trim_end());
            if nth == 0 {
                println!("  {}", "─".repeat(line.chars().count()));
            }
        }
        println!();
    }
}
