//! `innesco comparison`: lists, shows, watches and cancels comparisons of plugin versions.

use super::{
    client::Client,
    compare,
    event::short,
    output::{Column, Printer, confirm},
};
use crate::wire::ComparisonView;

#[derive(clap::Subcommand)]
pub enum ComparisonCommand {
    /// List the newest comparisons
    #[command(before_help = "Example:  innesco comparison list")]
    List {
        /// Only comparisons in this state: running, done, cancelled
        #[arg(long)]
        state: Option<String>,
        /// Number of comparisons
        #[arg(long, short = 'n', default_value_t = 20, value_name = "COUNT")]
        limit: usize,
    },
    /// Show the report of one comparison so far
    #[command(before_help = "Example:  innesco comparison show cmp_k7q212")]
    Show {
        /// Comparison id, cmp_…
        comparison: String,
    },
    /// Watch one comparison until it ends, then show its report
    #[command(before_help = "Example:  innesco comparison watch cmp_k7q212")]
    Watch {
        /// Comparison id, cmp_…
        comparison: String,
    },
    /// Cancel a comparison; its report stays
    #[command(before_help = "Example:  innesco comparison cancel cmp_k7q212")]
    Cancel {
        /// Comparison id, cmp_…
        comparison: String,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

pub fn run(command: &ComparisonCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        ComparisonCommand::List { state, limit } => {
            let items = client.list(&["v1", "comparisons"], &[("state", state.as_deref())], *limit)?;
            let columns: [Column<ComparisonView>; 8] = [
                Column::text("comparison", |item| item.id.clone()),
                Column::text("plugin", |item| item.plugin.clone()),
                Column::text("candidate", |item| short(&item.candidate)),
                Column::text("runs", |item| if item.follow { "new".to_owned() } else { "recorded".to_owned() }),
                Column::state("state", |item| item.state.to_string()),
                Column::text("compared", |item| item.report.compared.to_string()),
                Column::text("differ", |item| item.report.differ.to_string()),
                Column::time("created", |item| item.created_at.clone()),
            ];
            out.list(&items, &columns, "No comparison.")?;
        }
        ComparisonCommand::Show { comparison } => {
            out.answer(&client.get(&["v1", "comparisons", comparison])?, compare::page)?;
        }
        ComparisonCommand::Watch { comparison } => {
            let ended = compare::watch(client.get(&["v1", "comparisons", comparison])?, client)?;
            out.answer(&ended, compare::page)?;
        }
        ComparisonCommand::Cancel { comparison, yes } => {
            confirm(&format!("this cancels {comparison}; its report stays"), *yes)?;
            out.answer(&client.post(&["v1", "comparisons", comparison, "cancel"], None)?, compare::page)?;
        }
    }
    Ok(())
}
