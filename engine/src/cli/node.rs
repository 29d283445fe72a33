//! `innesco node`: the processes that work on one store together.

use super::{
    client::Client,
    output::{Column, Printer, text},
};

#[derive(clap::Subcommand)]
pub enum NodeCommand {
    /// Those that are alive, as the store knows them
    #[command(before_help = "Example:  innesco node list")]
    List,
}

pub fn run(command: &NodeCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let NodeCommand::List = command;
    let columns = [
        Column::text("node", |item| text(&item["name"])),
        Column::text("does", |item| text(&item["role"])),
        Column::text("address", |item| text(&item["address"])),
        Column::text("holds", |item| text(&item["leases"])),
        Column::text("version", |item| text(&item["version"])),
        Column::time("started", |item| text(&item["started_at"])),
        Column::time("seen", |item| text(&item["seen_at"])),
    ];
    let none = "No nodes: this engine has its store to itself.";
    out.list(&client.list(&["v1", "nodes"], &[], usize::MAX)?, &columns, none)?;
    Ok(())
}
