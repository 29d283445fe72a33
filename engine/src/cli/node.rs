//! `innesco node`: lists the nodes of one store.

use super::{
    client::Client,
    event::short,
    output::{Column, Printer},
};
use crate::wire::{NodePluginView, NodeView};

#[derive(clap::Subcommand)]
pub enum NodeCommand {
    /// List the live nodes and the plugin versions that each has ready
    #[command(before_help = "Example:  innesco node list")]
    List,
}

pub fn run(command: &NodeCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let NodeCommand::List = command;
    let columns: [Column<NodeView>; 9] = [
        Column::text("node", |item| item.name.clone()),
        Column::text("does", |item| item.role.clone()),
        Column::text("address", |item| item.address.clone()),
        Column::text("version", |item| item.version.clone()),
        Column::time("started", |item| item.started_at.clone()),
        Column::time("seen", |item| item.seen_at.clone()),
        Column::text("holds", |item| item.leases.to_string()),
        Column::time("oldest since", |item| item.holds_since.clone().unwrap_or_default()),
        Column::text("plugins", |item| plugins(&item.plugins)),
    ];
    let none = "No nodes: this engine uses SQLite alone.";
    out.list(&client.list(&["v1", "nodes"], &[], usize::MAX)?, &columns, none)?;
    Ok(())
}

/// Lists the plugins of a node. Failed plugins come first, because the end of a long list may be cut.
fn plugins(plugins: &[NodePluginView]) -> String {
    let named = |plugin: &NodePluginView| {
        let version = plugin.version.as_deref().map(|version| format!("@{}", short(version))).unwrap_or_default();
        format!("{}{version}", plugin.name)
    };
    let failed = plugins.iter().filter_map(|plugin| Some(format!("{} ({})", named(plugin), plugin.error.as_ref()?)));
    let fine = plugins.iter().filter(|plugin| plugin.error.is_none()).map(named);
    failed.chain(fine).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::examples::read, *};

    #[test]
    fn failed_plugins_of_a_node_come_first() {
        let version = "3fa2c1".to_owned() + &"0".repeat(58);
        let said: Vec<NodePluginView> = read(json!([
            { "name": "ledger", "version": version, "error": null },
            { "name": "order-router", "version": version, "error": "it is empty" },
            { "name": "text.wasm", "version": null, "error": "not WebAssembly" },
        ]));
        assert_eq!(plugins(&said), "order-router@3fa2c1 (it is empty) text.wasm (not WebAssembly) ledger@3fa2c1");
        assert_eq!(plugins(&[]), "");
    }
}
