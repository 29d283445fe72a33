//! Versions of plugins: push, show, list, promote, roll back, remove.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::de::IgnoredAny;
use serde_json::json;

use super::{
    answer::Answer,
    card::Card,
    client::Client,
    event::short,
    measure,
    output::{Column, Printer, confirm, texts},
    wrong,
};
use crate::wire::{PluginVersionView, PluginView};

#[derive(clap::Args)]
pub struct PushArgs {
    /// File that `innesco plugin build` or cargo wrote
    file: std::path::PathBuf,
    /// Store it without serving; promote it later
    #[arg(long)]
    candidate: bool,
    /// Name of the plugin [default: the file's name, with dashes for underscores]
    #[arg(long)]
    name: Option<String>,
}

pub fn push(args: &PushArgs, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let bytes = fs::read(&args.file).with_context(|| format!("{} cannot be read", args.file.display()))?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&args.file).ok_or_else(|| wrong("the file has no name; name the plugin with --name".to_owned()))?,
    };
    let query: &[(&str, &str)] = if args.candidate { &[("candidate", "true")] } else { &[] };
    let answer = client.put_file(&["v1", "plugins", &name], query, "application/wasm", bytes)?;
    Ok(out.answer(&answer, |pushed: &PluginVersionView| {
        let next = if args.candidate { format!("; make it serve with: innesco plugin promote {name}") } else { String::new() };
        format!("pushed {}{next}", headline(pushed))
    })?)
}

/// Returns the name of the plugin in a file. In the names of files, cargo replaces the dashes of a crate's name by underscores.
fn name_of(file: &Path) -> Option<String> {
    Some(file.file_stem()?.to_string_lossy().replace('_', "-"))
}

/// Formats a version, such as `order-router@3fa2c1, serving`.
fn headline(version: &PluginVersionView) -> String {
    format!("{}@{}, {}", version.plugin, short(&version.version), version.state)
}

pub fn show(plugin: &str, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let answer = client.get(&["v1", "plugins", plugin])?;
    Ok(out.answer(&answer, |plugin: &PluginView| {
        let version = plugin.version.as_deref().map(|version| format!("@{}", short(version))).unwrap_or_default();
        let mut card = Card::new(format!("{}{version}, {}", plugin.name, plugin.state));
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        card.known("error", plugin.error.as_deref());
        card.known("about", known(&plugin.description).as_deref());
        card.known("on", known(&texts(&plugin.on)).as_deref());
        card.known("author's", known(&plugin.author_version).as_deref());
        card.known("version", plugin.version.as_deref());
        card.known("file", known(&plugin.file).as_deref());
        card.line("size", measure::size(plugin.bytes));
        card.into_text()
    })?)
}

pub fn list(plugin: &str, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let items = client.list(&["v1", "plugins", plugin, "versions"], &[], usize::MAX)?;
    let columns: [Column<PluginVersionView>; 7] = [
        Column::text("version", |item| short(&item.version)),
        Column::state("state", |item| item.state.to_string()),
        Column::time("at", |item| item.at.clone()),
        Column::text("by", |item| item.by.clone()),
        Column::text("way", |item| item.way.to_string()),
        Column::text("size", |item| measure::size(item.bytes)),
        Column::text("about", |item| format!("{} {}", item.author_version, item.description).trim().to_owned()),
    ];
    Ok(out.list(&items, &columns, "No version is stored.")?)
}

pub fn discard(plugin: &str, version: Option<&str>, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let newest = || -> anyhow::Result<String> {
        let all: Vec<PluginVersionView> =
            client.list(&["v1", "plugins", plugin, "versions"], &[], usize::MAX)?.into_iter().map(Answer::into_thing).collect();
        let candidate = all.into_iter().find(|one| one.state == "candidate").map(|one| one.version);
        candidate
            .ok_or_else(|| wrong(format!("plugin {plugin} has no candidate; name a version (innesco plugin versions {plugin})")))
    };
    let version = version.map_or_else(newest, |version| Ok(version.to_owned()))?;
    client.delete::<IgnoredAny>(&["v1", "plugins", plugin, "versions", &version])?;
    Ok(out.thing(&json!({ "discarded": version, "plugin": plugin }), |_| format!("discarded {plugin}@{}", short(&version)))?)
}

pub fn promote(plugin: &str, version: Option<&str>, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let body = version.map(|version| json!({ "version": version }));
    let answer = client.post(&["v1", "plugins", plugin, "promote"], body.as_ref())?;
    Ok(out.answer(&answer, |version: &PluginVersionView| format!("promoted {}", headline(version)))?)
}

pub fn roll_back(plugin: &str, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let answer = client.post(&["v1", "plugins", plugin, "rollback"], None)?;
    Ok(out.answer(&answer, |version: &PluginVersionView| format!("rolled back to {}", headline(version)))?)
}

/// Disables or enables a plugin.
pub fn set_halt(plugin: &str, verb: &str, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let answer = client.post(&["v1", "plugins", plugin, verb], None)?;
    Ok(out.answer(&answer, |plugin: &PluginView| format!("{verb}d {}", plugin.name))?)
}

pub fn remove(plugin: &str, force: bool, yes: bool, client: &Client, out: &Printer) -> anyhow::Result<()> {
    confirm(&format!("this removes plugin {plugin}; its versions, settings and state stay"), yes)?;
    let query: &[(&str, &str)] = if force { &[("force", "true")] } else { &[] };
    client.delete_with::<IgnoredAny>(&["v1", "plugins", plugin], query)?;
    Ok(out.thing(&json!({ "removed": plugin }), |_| format!("removed {plugin}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_cargo_has_the_name_of_its_plugin() {
        let name = |file: &str| name_of(Path::new(file));
        assert_eq!(name("target/release/order_router.wasm").as_deref(), Some("order-router"));
        assert_eq!(name("order-router.wasm").as_deref(), Some("order-router"));
        assert_eq!(name("/"), None);
    }
}
