//! `innesco node`: lists the nodes of one store.

use serde_json::Value;

use super::{
    client::Client,
    event::short,
    output::{Column, Printer, text},
};

#[derive(clap::Subcommand)]
pub enum NodeCommand {
    /// List the live nodes and the plugin versions that each has ready
    #[command(before_help = "Example:  innesco node list")]
    List,
}

pub fn run(command: &NodeCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let NodeCommand::List = command;
    let columns = [
        Column::text("node", |item| text(&item["name"])),
        Column::text("does", |item| text(&item["role"])),
        Column::text("address", |item| text(&item["address"])),
        Column::text("version", |item| text(&item["version"])),
        Column::time("started", |item| text(&item["started_at"])),
        Column::time("seen", |item| text(&item["seen_at"])),
        Column::text("holds", |item| text(&item["leases"])),
        Column::time("oldest since", |item| text(&item["holds_since"])),
        Column::text("plugins", |item| plugins(&item["plugins"])),
    ];
    let none = "No nodes: this engine uses SQLite alone.";
    out.list(&client.list(&["v1", "nodes"], &[], usize::MAX)?, &columns, none)?;
    Ok(())
}

/// Lists the plugins of a node. Failed ones come first, because the end of a long list may be cut.
fn plugins(plugins: &Value) -> String {
    let plugins = plugins.as_array().map(Vec::as_slice).unwrap_or_default();
    let (wrong, fine): (Vec<&Value>, Vec<&Value>) = plugins.iter().partition(|plugin| !plugin["error"].is_null());
    let named = |plugin: &Value| {
        let version = plugin["version"].as_str().map(|version| format!("@{}", short(version))).unwrap_or_default();
        format!("{}{version}", text(&plugin["name"]))
    };
    let wrong = wrong.into_iter().map(|plugin| format!("{} ({})", named(plugin), text(&plugin["error"])));
    wrong.chain(fine.into_iter().map(named)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn failed_plugins_of_a_node_come_first() {
        let version = "3fa2c1".to_owned() + &"0".repeat(58);
        let said = json!([
            { "name": "ledger", "version": version, "error": null },
            { "name": "order-router", "version": version, "error": "it is empty" },
            { "name": "text.wasm", "version": null, "error": "not WebAssembly" },
        ]);
        assert_eq!(plugins(&said), "order-router@3fa2c1 (it is empty) text.wasm (not WebAssembly) ledger@3fa2c1");
        assert_eq!(plugins(&json!([])), "");
    }
}
