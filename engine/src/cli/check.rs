//! `innesco check`: verifies the data folder of a stopped engine, row by row.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{
    measure::count,
    output::{Printer, RED, Styled},
    serve::Folder,
};
use crate::{
    serve::lock_folder,
    store::{CheckReport, KeyFile, Sqlite},
};

#[derive(clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    folder: Folder,
}

/// The error for a check with findings. The exit code is 1.
#[derive(Debug, thiserror::Error)]
#[error("{0} in {1}; where a finding names no cure, restore a backup and report it")]
struct NotInOrder(String, String);

pub fn run(args: &CheckArgs, out: &Printer) -> anyhow::Result<()> {
    let config = args.folder.config()?;
    let file = config.data.join("innesco.db");
    anyhow::ensure!(file.exists(), "no store in {}; give its folder with --data", config.data.display());
    // A row that moves during the search would be reported as missing.
    let _lock = lock_folder(&config.data)?;
    let report = Sqlite::check(&file, &KeyFile::at(config.master_key_file))
        .with_context(|| format!("the store in {} cannot be checked", config.data.display()))?;
    out.thing(&view(&report), |_| page(&report))?;
    match report.findings.len() as u64 {
        0 => Ok(()),
        found => Err(NotInOrder(count(found, "finding"), config.data.display().to_string()).into()),
    }
}

fn view(report: &CheckReport) -> Value {
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| json!({ "what": finding.what, "count": finding.count, "examples": finding.examples }))
        .collect();
    let counts: serde_json::Map<String, Value> = report.counts.iter().map(|(what, count)| (what.clone(), json!(count))).collect();
    json!({ "ok": report.findings.is_empty(), "layout": report.layout, "counts": counts, "findings": findings })
}

fn page(report: &CheckReport) -> String {
    let mut lines: Vec<String> = report.counts.iter().map(|(what, count)| format!("{count:>12}  {what}")).collect();
    lines.push(String::new());
    for finding in &report.findings {
        let examples = if finding.examples.is_empty() { String::new() } else { format!(": {}", finding.examples.join(", ")) };
        let times = if finding.count > 1 { format!(" ({} times)", finding.count) } else { String::new() };
        lines.push(format!("{}  {}{times}{examples}", Styled(RED, "✕"), finding.what));
    }
    if report.findings.is_empty() {
        lines.push("no findings".to_owned());
    }
    lines.join("\n")
}
