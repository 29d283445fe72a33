//! Figures of several rounds, and the table that shows them.

use std::fmt;

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

    /// Returns the ratio of this figure to another, round by round.
    pub fn against(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(own, other)| own / other).collect())
    }
}

/// Writes the median with the lowest and the highest value.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(lowest), Some(highest)) = (sorted.first(), sorted.last()) else { return f.pad("-") };
        f.pad(&format!("{} ({}–{})", short(sorted[sorted.len() / 2]), short(*lowest), short(*highest)))
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

/// Formats columns as wide as their widest cell.
pub struct Table(Vec<Vec<String>>);

impl Table {
    pub fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|&cell| cell.to_owned()).collect()])
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }

    pub fn print(&self, title: &str) {
        println!("{title}");
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.0.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        for (nth, row) in self.0.iter().enumerate() {
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
