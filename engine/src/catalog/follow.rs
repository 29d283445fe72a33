//! Plugins on many nodes: the store decides which version of each serves. Every node follows it, compiles the versions, and
//! reports which are ready. With SQLite there is nothing to follow: the folder decides.
//!
//! Only the task that follows the plugin folder does this ([`watch`](super::watch)), so the latest decision of the store stays in
//! effect.

use std::sync::atomic::Ordering;

use super::{Catalog, Folder, PluginState, PluginTable, folder::NotLoaded};
use crate::{
    news::News,
    sandbox::Plugin,
    store::{self, NodePlugin, PluginRegistry, PluginRow},
};

impl Catalog {
    /// Synchronizes the plugins with the store, if the store decides which serve, and reports the result to the other nodes.
    pub async fn follow(&self, folder: &mut Folder) -> Result<(), store::Error> {
        let Some(registry) = self.store.plugin_registry() else { return Ok(()) };
        let serving = registry.serving().await?;
        let mut behind = 0;
        for row in &serving {
            let is_done = is_ready(&self.plugins(), row) && !folder.not_requeued.contains(&row.name);
            if !is_done && !self.fetch(registry, row, folder).await? {
                behind += 1;
            }
        }
        let known = self.plugins();
        for entry in known.iter().filter(|entry| !serving.iter().any(|row| row.name == entry.row.name)) {
            self.change_plugins(|table| table.remove(&entry.row.name));
            let plugin = entry.row.name.to_string();
            tracing::info!(plugin, "plugin no longer serves: its file was removed from the folder of a node");
            self.feed.send(|| News::PluginGone { plugin });
        }
        self.behind.store(behind, Ordering::Relaxed);
        registry.report(said_of(&self.plugins())).await
    }

    /// Loads a version from the store and makes it serve. Returns whether it serves here.
    async fn fetch(&self, registry: &dyn PluginRegistry, row: &PluginRow, folder: &mut Folder) -> Result<bool, store::Error> {
        if folder.failed.get(&row.name) == Some(&row.version) {
            return Ok(false);
        }
        let loaded = match self.check_len(row.bytes) {
            Ok(()) => match registry.file(row.version).await? {
                Some(file) => self.load_version(row, &file),
                // Another version serves by now; the store announces that one too.
                None => return Ok(false),
            },
            Err(reason) => Err(reason.into()),
        };
        match loaded {
            Ok(loaded) => {
                folder.not_requeued.insert(row.name.clone());
                self.serve(row.clone(), loaded).await?;
                folder.not_requeued.remove(&row.name);
                folder.failed.remove(&row.name);
                Ok(true)
            }
            Err(NotLoaded { reason, passes }) => {
                if !passes {
                    folder.failed.insert(row.name.clone(), row.version);
                }
                self.refuse_version(row, reason);
                Ok(false)
            }
        }
    }

    fn load_version(&self, row: &PluginRow, file: &[u8]) -> Result<Plugin, NotLoaded> {
        let loaded = self.load(file)?;
        if *loaded.digest() != row.version || loaded.manifest().name != row.name {
            return Err("the stored file differs from the published one; write the file into a plugin folder again"
                .to_owned()
                .into());
        }
        Ok(loaded)
    }

    /// Records why a version that serves on other nodes does not serve here. A version that serves here keeps serving.
    fn refuse_version(&self, row: &PluginRow, reason: String) {
        let version = row.version.short();
        tracing::error!(plugin = %row.name, version, reason, "plugin version of the other nodes is not loaded");
        let table = self.plugins();
        let keeps = table.get(&row.name).filter(|entry| matches!(entry.state, PluginState::Serving(_)));
        let (file, message) = (row.file.clone(), reason.clone());
        self.feed.send(|| News::PluginFailed { file, keeps: keeps.map(|entry| entry.row.version), message });
        match keeps {
            Some(_) => self.change_plugins(|table| table.set_refused(&row.name, Some(reason))),
            None => self.set_not_loadable(row.clone(), reason),
        }
    }
}

fn is_ready(table: &PluginTable, row: &PluginRow) -> bool {
    table.get(&row.name).is_some_and(|entry| matches!(entry.state, PluginState::Serving(_)) && entry.row.version == row.version)
}

/// Returns the report on this node's plugins.
fn said_of(table: &PluginTable) -> Vec<NodePlugin> {
    let known = table.iter().map(|entry| {
        let (version, error) = match &entry.state {
            PluginState::Serving(_) => (Some(entry.row.version), None),
            PluginState::NotLoadable(reason) => (None, Some(reason.clone())),
        };
        NodePlugin { name: entry.row.name.to_string(), version, error: entry.refused.clone().or(error) }
    });
    let broken =
        table.broken().map(|(file, reason)| NodePlugin { name: file.to_owned(), version: None, error: Some(reason.to_owned()) });
    known.chain(broken).collect()
}
