//! `innesco audit`: lists the audit trail.

use super::{
    client::Client,
    event,
    output::{Column, Printer, texts},
};
use crate::{clock, wire::AuditView};

#[derive(clap::Args)]
pub struct AuditArgs {
    /// Only changes by the key of this name
    // A distinct id: the global `--key` is another argument.
    #[arg(id = "by_key", long = "by", value_name = "NAME")]
    by: Option<String>,
    /// Only changes with this action, such as endpoint.update or key.create
    #[arg(long)]
    action: Option<String>,
    /// Only changes since this time: 24h (ago), or 2026-01-31T09:30:00Z
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only changes before this time
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Number of entries
    #[arg(long, short = 'n', default_value_t = 20, value_name = "COUNT")]
    limit: usize,
}

pub fn run(args: &AuditArgs, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let since = args.since.as_deref().map(|text| event::instant("--since", text, clock::wall())).transpose()?;
    let until = args.until.as_deref().map(|text| event::instant("--until", text, clock::wall())).transpose()?;
    let query = [
        ("key", args.by.as_deref()),
        ("action", args.action.as_deref()),
        ("since", since.as_deref()),
        ("until", until.as_deref()),
    ];
    let columns: [Column<AuditView>; 6] = [
        Column::time("at", |item| item.at.clone()),
        Column::text("key", |item| item.key.clone()),
        Column::text("action", |item| item.action.clone()),
        Column::text("target", |item| item.target.clone().unwrap_or_default()),
        Column::text("answered", answered),
        Column::text("members", |item| texts(&item.members)),
    ];
    Ok(out.list(&client.list(&["v1", "audit"], &query, args.limit)?, &columns, "No such change.")?)
}

/// Returns the status that an entry records, or a text if it has none.
fn answered(entry: &AuditView) -> String {
    entry.status.map_or_else(|| "in progress, or the engine stopped".to_owned(), |status| status.to_string())
}
