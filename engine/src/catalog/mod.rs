//! What there is at this moment: which plugin versions serve, which endpoints exist and which keys open the API, as snapshots for
//! many look-ups.
//!
//! The plugin folder decides which plugins there are (`folder.rs`), or, where many nodes work on one store, the folders of all of
//! them, by way of the store (`follow.rs`); the store decides which endpoints. Workers take a snapshot per event and never see half a
//! change. A version is swapped in only after it has loaded whole, so a broken file leaves the old version
//! serving; runs that have begun end on the version they began with.

mod cache;
mod file;
mod folder;
mod follow;
mod keys;
mod pace;
mod plugins;
mod sources;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

pub use self::{
    cache::FileCache,
    folder::{Folder, watch},
    keys::{GuessableKey, KEY_PREFIX, Keys, check_given_key, hash_key, new_key},
    pace::Pace,
    plugins::{PluginEntry, PluginState, PluginTable},
    sources::{SourceTable, Sources},
};
use crate::{
    domain::{name::Slug, routing::EndpointTable},
    news::Feed,
    sandbox::Sandbox,
    store::{self, Store},
};

/// The snapshots, and what it takes to renew them.
pub struct Catalog {
    store: Arc<dyn Store>,
    sandbox: Sandbox,
    cache: FileCache,
    feed: Feed,
    folder: PathBuf,
    plugins: RwLock<Arc<PluginTable>>,
    endpoints: RwLock<Arc<EndpointTable>>,
    /// Another node may have changed which plugins serve.
    told: Notify,
    /// Plugins whose version that serves on other nodes is not ready on this one.
    behind: AtomicUsize,
    /// Held from the reading of the endpoints until they are swapped in: what was read last is what stands last.
    refreshing: tokio::sync::Mutex<()>,
}

impl Catalog {
    /// Reads the endpoints; plugins come with the first scan of the folder ([`Self::scan`]).
    pub async fn new(
        store: Arc<dyn Store>,
        sandbox: Sandbox,
        cache: FileCache,
        feed: Feed,
        folder: PathBuf,
    ) -> Result<Arc<Self>, store::Error> {
        let endpoints = EndpointTable::new(store.endpoints().await?);
        Ok(Arc::new(Self {
            store,
            sandbox,
            cache,
            feed,
            folder,
            plugins: RwLock::default(),
            endpoints: RwLock::new(Arc::new(endpoints)),
            told: Notify::new(),
            behind: AtomicUsize::new(0),
            refreshing: tokio::sync::Mutex::default(),
        }))
    }

    pub fn plugins(&self) -> Arc<PluginTable> {
        Arc::clone(&self.plugins.read().expect("no code panics while it swaps a snapshot"))
    }

    pub fn endpoints(&self) -> Arc<EndpointTable> {
        Arc::clone(&self.endpoints.read().expect("no code panics while it swaps a snapshot"))
    }

    /// Makes the endpoints as last committed the ones that everyone sees. Whoever changes one calls this before it answers.
    pub async fn refresh_endpoints(&self) -> Result<(), store::Error> {
        let _alone = self.refreshing.lock().await;
        let table = Arc::new(EndpointTable::new(self.store.endpoints().await?));
        *self.endpoints.write().expect("no code panics while it swaps a snapshot") = table;
        Ok(())
    }

    /// Stores a plugin's settings and makes its next runs see them.
    pub async fn set_plugin_config(&self, name: &Slug, config: BTreeMap<String, String>) -> Result<(), store::Error> {
        self.store.set_plugin_config(name, config.clone()).await?;
        self.change_plugins(|table| table.set_config(name, config));
        Ok(())
    }

    /// Makes the plugins' settings as last committed the ones that their next runs see.
    pub async fn refresh_plugin_configs(&self) -> Result<(), store::Error> {
        for row in self.store.plugins().await? {
            self.change_plugins(|table| table.set_config(&row.name, row.config));
        }
        Ok(())
    }

    /// Has whoever follows the plugin folder look at what other nodes did.
    pub fn plugins_told(&self) {
        self.told.notify_one();
    }

    /// Plugins whose version that serves on other nodes is not ready on this one.
    pub fn plugins_behind(&self) -> usize {
        self.behind.load(Ordering::Relaxed)
    }

    fn change_plugins<T>(&self, change: impl FnOnce(&mut PluginTable) -> T) -> T {
        let mut current = self.plugins.write().expect("no code panics while it swaps a snapshot");
        let mut table = PluginTable::clone(&current);
        let answer = change(&mut table);
        *current = Arc::new(table);
        answer
    }
}
