//! Draws charts (SVG) from the JSON file of a run of the benchmark.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// A chart: a row of a table for each bar, and the column with its value.
struct Chart {
    file: &'static str,
    title: &'static str,
    /// The beginning of the title of the table.
    table: &'static str,
    /// The titles of rows that the chart shows. `None` shows all rows that have a value.
    rows: Option<&'static [&'static str]>,
    columns: &'static [&'static str],
    /// The value at which a line is drawn.
    line: Option<f64>,
}

const CHARTS: &[Chart] = &[
    Chart {
        file: "performance-rate.svg",
        title: "Delivered events per second, relative to the durable null relay",
        table: "Side by side",
        rows: Some(&["64 callers   delivered/s"]),
        columns: &["no plugin ÷ durable", "plugin ÷ durable", "stock ÷ durable"],
        line: Some(1.0),
    },
    Chart {
        file: "performance-cpu.svg",
        title: "CPU time per event, relative to the durable null relay",
        table: "Side by side",
        rows: Some(&["64 callers   CPU µs/event"]),
        columns: &["no plugin ÷ durable", "plugin ÷ durable", "stock ÷ durable"],
        line: Some(1.0),
    },
    Chart {
        file: "performance-latency.svg",
        title: "End to end at a fixed rate: p50 in ms",
        table: "Fixed rates",
        rows: None,
        columns: &["end to end p50 ms"],
        line: None,
    },
    Chart {
        file: "performance-stored.svg",
        title: "Delivered events per second, relative to an empty store",
        table: "Stored deliveries: throughput",
        rows: None,
        columns: &["÷ empty"],
        line: Some(1.0),
    },
];

const WIDTH: f64 = 720.0;
const LABEL: f64 = 260.0;
const BAR: f64 = 16.0;
const GAP: f64 = 10.0;

/// Draws every chart whose table is in the JSON file.
///
/// # Errors
/// If the file is not a result of the benchmark, or a chart cannot be written.
pub fn draw(results: &Path, folder: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(results).with_context(|| format!("{} cannot be read", results.display()))?;
    let results: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", results.display()))?;
    let Some(tables) = results["tables"].as_array() else { bail!("the file has no tables") };
    for chart in CHARTS {
        let Some(table) = tables.iter().find(|table| table["title"].as_str().is_some_and(|title| title.starts_with(chart.table)))
        else {
            println!("no table {:?}: {} is not drawn", chart.table, chart.file);
            continue;
        };
        let bars = bars(chart, table);
        anyhow::ensure!(!bars.is_empty(), "the table {:?} has no values for {}", chart.table, chart.file);
        fs::write(folder.join(chart.file), svg(chart, &bars)).with_context(|| format!("{} cannot be written", chart.file))?;
    }
    Ok(())
}

/// Returns the bars of a chart: a label, and the median, the lowest and the highest value.
fn bars(chart: &Chart, table: &Value) -> Vec<(String, [f64; 3])> {
    let empty = Vec::new();
    let rows = table["rows"].as_array().unwrap_or(&empty);
    let Some((head, rows)) = rows.split_first() else { return Vec::new() };
    let mut bars = Vec::new();
    for row in
        rows.iter().filter(|row| chart.rows.is_none_or(|rows| rows.iter().any(|name| row[0].as_str() == Some(name.trim()))))
    {
        for column in chart.columns {
            let Some(at) = head.as_array().and_then(|head| head.iter().position(|title| title.as_str() == Some(column))) else {
                continue;
            };
            let mut values: Vec<f64> =
                row[at].as_array().map(|all| all.iter().filter_map(Value::as_f64).collect()).unwrap_or_default();
            values.sort_by(f64::total_cmp);
            if let [lowest, .., highest] = values[..] {
                let label = if chart.rows.is_some() { *column } else { row[0].as_str().unwrap_or_default() };
                let label = label.split(" ÷").next().unwrap_or_default();
                bars.push((label.to_owned(), [values[values.len() / 2], lowest, highest]));
            }
        }
    }
    bars
}

/// Draws horizontal bars. A thin line on each bar goes from the lowest to the highest value.
fn svg(chart: &Chart, bars: &[(String, [f64; 3])]) -> String {
    let most = bars.iter().map(|(_, [.., highest])| *highest).chain(chart.line).fold(0.0, f64::max);
    let scale = (WIDTH - LABEL - 90.0) / most;
    let height = 44.0 + bars.len() as f64 * (BAR + GAP);
    let mut out = String::new();
    // Writing to a String never fails.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>{title}</title>\n\
         <style>text{{font:13px system-ui,sans-serif;fill:#1c2430}}.bar{{fill:#4c6fd6}}.range,.line{{stroke:#1c2430;stroke-width:1}}\
         .line{{stroke-dasharray:3 3}}@media(prefers-color-scheme:dark){{text{{fill:#e6e9ef}}.range,.line{{stroke:#e6e9ef}}\
         .bar{{fill:#7f9bf0}}}}</style>\n<text x=\"0\" y=\"18\" font-weight=\"600\">{title}</text>\n",
        title = chart.title
    );
    for (nth, (label, [median, lowest, highest])) in bars.iter().enumerate() {
        let top = 34.0 + nth as f64 * (BAR + GAP);
        let middle = top + BAR / 2.0;
        let [width, from, to] = [*median, *lowest, *highest].map(|value| value * scale);
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{label}</text><rect class=\"bar\" x=\"{LABEL}\" y=\"{top}\" width=\"{width:.1}\" \
             height=\"{BAR}\" rx=\"2\"/><line class=\"range\" x1=\"{x1:.1}\" x2=\"{x2:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
             <text x=\"{end:.1}\" y=\"{y}\">{median:.2}</text>",
            x = LABEL - 8.0,
            y = middle + 4.5,
            x1 = LABEL + from,
            x2 = LABEL + to,
            end = LABEL + to.max(width) + 6.0,
        );
    }
    if let Some(line) = chart.line {
        let x = LABEL + line * scale;
        let _ = writeln!(out, "<line class=\"line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"28\" y2=\"{:.1}\"/>", height - 6.0);
    }
    out.push_str("</svg>\n");
    out
}
