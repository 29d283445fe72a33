//! The store decides which plugins serve. Every node follows the store, compiles the versions, and reports which are ready.
//!
//! [`Catalog::follow`] does this, one call at a time, so the latest decision of the store stays in effect. The task that watches
//! the plugin folder calls it. Every request that changes a plugin calls it too, before the request is answered.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use super::{Catalog, Pace, PluginEntry, PluginState, PluginTable, folder::NotLoaded};
use crate::{
    clock,
    domain::{
        name::Slug,
        pattern::Pattern,
        plugin::{Digest, Halt},
        setting,
    },
    metrics::meters,
    news::News,
    sandbox::Plugin,
    store::{self, NodePlugin, PluginRow, Width},
};

/// What [`Catalog::follow`] keeps from one call to the next.
#[derive(Default)]
pub struct Following {
    /// Versions that do not load here. They are not tried repeatedly.
    failed: HashMap<Slug, Digest>,
    /// Serving plugins whose parked runs still have to be requeued.
    not_requeued: HashSet<Slug>,
    /// Plugins whose versions are not stored, because an older engine served them, and whose files do not load here.
    awaited: HashSet<Slug>,
}

impl Catalog {
    /// Loads and serves the versions that the store has chosen, and reports the result to the other nodes.
    pub async fn follow(&self) -> Result<(), store::Error> {
        let mut following = self.following.lock().await;
        let serving = self.store.serving().await?;
        let mut behind = 0;
        for row in &serving {
            let is_done = is_ready(&self.plugins(), row) && !following.not_requeued.contains(&row.name);
            if !is_done && !self.fetch(row, &mut following).await? {
                behind += 1;
            }
            self.follow_row(row);
        }
        let known = self.plugins();
        let is_known = |name: &Slug| serving.iter().any(|row| row.name == *name) || following.awaited.contains(name);
        for entry in known.iter().filter(|entry| !is_known(&entry.row.name)) {
            self.change_plugins(|table| table.remove(&entry.row.name));
            // Opens the queue of the removed plugin, so that its waiting runs are parked as not loadable.
            self.runs.set_width(&entry.row.name, None);
            let plugin = entry.row.name.to_string();
            tracing::info!(plugin, "plugin no longer serves: it was removed");
            self.feed.send(|| News::PluginGone { plugin });
        }
        self.behind.store(behind, Ordering::Relaxed);
        self.store.report(said_of(&self.plugins())).await
    }

    /// Loads a version from the store and makes it serve here. Returns whether it does.
    async fn fetch(&self, row: &PluginRow, following: &mut Following) -> Result<bool, store::Error> {
        if following.failed.get(&row.name) == Some(&row.version) {
            return Ok(false);
        }
        // Another version serves by now; the store announces that one too.
        let Some(loaded) = self.load_version(row).await? else { return Ok(false) };
        match loaded {
            Ok(loaded) => {
                following.not_requeued.insert(row.name.clone());
                self.serve(row.clone(), loaded).await?;
                following.not_requeued.remove(&row.name);
                following.awaited.remove(&row.name);
                following.failed.remove(&row.name);
                Ok(true)
            }
            Err(NotLoaded { reason, passes }) => {
                if !passes {
                    following.failed.insert(row.name.clone(), row.version);
                }
                self.refuse_version(row, reason);
                Ok(false)
            }
        }
    }

    /// Loads a version, from the cache if it is there. Returns `None` if its file is no longer stored.
    async fn load_version(&self, row: &PluginRow) -> Result<Option<Result<Plugin, NotLoaded>>, store::Error> {
        if let Err(reason) = self.check_len(row.bytes) {
            return Ok(Some(Err(reason.into())));
        }
        let loaded = match self.load_cached(&row.version).transpose() {
            Some(loaded) => loaded,
            None => match self.store.file(row.version).await? {
                Some(file) => self.load(&file),
                None => return Ok(None),
            },
        };
        Ok(Some(loaded.and_then(|loaded| {
            if *loaded.digest() != row.version || loaded.manifest().name != row.name {
                return Err("the stored file differs from the published one; push the plugin again".to_owned().into());
            }
            Ok(loaded)
        })))
    }

    /// Makes a version serve on this node.
    async fn serve(&self, row: PluginRow, loaded: Plugin) -> Result<(), store::Error> {
        let stored = self.store.plugins().await?.into_iter().find(|stored| stored.name == row.name);
        let (config, revision) = stored.map(|stored| (stored.config, stored.revision)).unwrap_or_default();
        let serving = self.plugins().get(&row.name).cloned();
        let was = serving.as_ref().map(|entry| entry.row.version);
        // The same version from another file keeps its measured pace.
        let same = serving.filter(|entry| matches!(entry.state, PluginState::Serving(_)) && entry.row.version == row.version);
        let bytes = row.bytes;
        let settings = loaded.manifest().settings.clone();
        for misfit in setting::misfits(&settings, &config) {
            tracing::warn!(plugin = %row.name, setting = misfit.name, reason = misfit.detail, "plugin setting does not fit");
        }
        self.set_queue(&row);
        self.change_plugins(|table| {
            table.insert(PluginEntry {
                meters: meters().plugin(&row.name),
                row: PluginRow { config: config.clone(), revision, ..row.clone() },
                on: loaded.manifest().on.clone(),
                pace: same.as_ref().map_or_else(Arc::default, |entry| Arc::clone(&entry.pace)),
                state: PluginState::Serving(Arc::new(loaded)),
                config: Arc::new(setting::effective(&settings, &config)),
                settings,
                refused: None,
            });
        });
        let requeued = self.store.requeue_not_loadable(&row.name, clock::steady()).await?;
        tracing::info!(plugin = %row.name, version = %row.version.short(), file = row.file, requeued, "plugin serves");
        let plugin = row.name.to_string();
        self.feed.send(|| News::PluginServes { plugin, version: row.version, was: was.filter(|was| *was != row.version), bytes });
        Ok(())
    }

    /// If the plugin is halted, closes its queue, so that its runs wait in the store. Otherwise opens its queue.
    fn set_queue(&self, row: &PluginRow) {
        self.runs.set_width(&row.name, row.halt.map(|_| Width::CLOSED));
    }

    /// Applies two members of a plugin's row, the name of its file and whether the plugin runs. Ignores the version.
    pub(super) fn follow_row(&self, row: &PluginRow) {
        let table = self.plugins();
        let Some(entry) = table.get(&row.name) else { return };
        if entry.row.file != row.file {
            self.change_plugins(|table| table.set_file(&row.name, &row.file));
        }
        if entry.row.halt != row.halt {
            self.change_plugins(|table| table.set_halt(&row.name, row.halt));
            self.set_queue(row);
            let state = row.halt.map_or("serving", Halt::as_str);
            tracing::info!(plugin = %row.name, state, "plugin state changed");
        }
    }

    /// Makes the next [`Self::follow`] try again to load a version that did not load here.
    pub(super) async fn forgive(&self, plugin: &Slug) {
        self.following.lock().await.failed.remove(plugin);
    }

    /// Records why the version that the store has chosen does not serve here. An earlier version that serves here keeps serving.
    fn refuse_version(&self, row: &PluginRow, reason: String) {
        let version = row.version.short();
        tracing::error!(plugin = %row.name, version, reason, "plugin version is not loaded");
        let table = self.plugins();
        let keeps = table.get(&row.name).filter(|entry| matches!(entry.state, PluginState::Serving(_)));
        let file = if row.file.is_empty() { row.name.to_string() } else { row.file.clone() };
        let message = reason.clone();
        self.feed.send(|| News::PluginFailed { file, keeps: keeps.map(|entry| entry.row.version), message });
        match keeps {
            Some(_) => self.change_plugins(|table| table.set_refused(&row.name, Some(reason))),
            None => self.set_not_loadable(row.clone(), reason),
        }
    }

    /// Marks a plugin as not loadable. Events still match the patterns of its last manifest. Its runs are parked until it loads.
    fn set_not_loadable(&self, row: PluginRow, reason: String) {
        self.change_plugins(|table| {
            table.insert(PluginEntry {
                on: row.on.iter().filter_map(|pattern| Pattern::parse(pattern).ok()).collect(),
                settings: Vec::new(),
                config: Arc::new(row.config.clone()),
                meters: meters().plugin(&row.name),
                row,
                state: PluginState::NotLoadable(reason),
                pace: Arc::new(Pace::default()),
                refused: None,
            });
        });
    }

    /// Marks a plugin as not loadable if an older engine, which stored no versions, served it from this file. Returns whether
    /// such a plugin exists.
    pub(super) async fn await_again(&self, file: &str, reason: &str) -> Result<bool, store::Error> {
        let served = self.store.plugins().await?.into_iter().find(|row| row.file == file);
        match served {
            Some(row) if self.store.plugin_of(row.version).await?.is_none() => {
                self.following.lock().await.awaited.insert(row.name.clone());
                self.set_not_loadable(row, reason.to_owned());
                Ok(true)
            }
            _ => Ok(false),
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
