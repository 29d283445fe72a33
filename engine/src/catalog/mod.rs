//! Snapshots of what currently exists: serving plugin versions, endpoints, sources and API keys.
//!
//! The store decides which version of each plugin serves (`follow.rs`). The plugin folder only proposes versions (`folder.rs`).
//! The store decides which endpoints exist. Workers take a snapshot per event and never see half a change. A version serves only
//! after it has loaded completely, so a broken file leaves the old version serving. Runs in progress end on the version that they
//! started with.

mod cache;
mod config;
mod file;
mod folder;
mod follow;
mod keys;
mod pace;
mod plugins;
mod readings;
mod sources;
mod versions;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

pub use self::{
    cache::FileCache,
    config::follow_config,
    folder::{Folder, version_change, watch},
    keys::{FirstKeyError, GuessableKey, KEY_PREFIX, Keys, first_key, hash_key, key_ending, new_key, withdraw_first_key},
    pace::Pace,
    plugins::{PluginEntry, PluginState, PluginTable},
    sources::{SourceTable, Sources},
    versions::{NotChosen, NotPushed, Origin, chosen, previous},
};
use self::{follow::Following, readings::Readings};
use crate::{
    clock,
    domain::{id::EndpointId, name::Slug, pattern::nearest, plugin::Way, routing::EndpointTable, why::Standing},
    news::Feed,
    sandbox::{Plugin, Sandbox},
    store::{self, Queues, RunClaim, Store, VersionLimits},
};

/// The snapshots, and the means to refresh them.
pub struct Catalog {
    store: Arc<dyn Store>,
    sandbox: Sandbox,
    cache: FileCache,
    feed: Feed,
    options: CatalogOptions,
    /// The queues of deferred runs, one per plugin. The queue of a plugin that does not run is closed.
    runs: Arc<Queues<Slug, RunClaim>>,
    plugins: RwLock<Arc<PluginTable>>,
    endpoints: RwLock<Arc<EndpointTable>>,
    /// Notified when another node may have changed which plugins serve.
    plugins_changed: Notify,
    following: tokio::sync::Mutex<Following>,
    /// Held while a plugin that was sent in a request is loaded.
    pushing: tokio::sync::Mutex<()>,
    /// Number of plugins whose serving version is not ready here.
    behind: AtomicUsize,
    readings: Readings,
    /// Versions that do not serve, loaded for comparisons, the latest last.
    versions: tokio::sync::Mutex<Vec<Arc<Plugin>>>,
    /// Knows how the sender of this process treats the endpoints.
    standings: OnceLock<Arc<dyn Standings>>,
}

/// Knows how the sender of this process treats each endpoint now.
pub trait Standings: Send + Sync {
    /// Returns `None` if the sender has sent nothing to the endpoint since the start.
    fn standing(&self, endpoint: EndpointId) -> Option<Standing>;
}

/// Settings of the catalog.
#[derive(Clone, Debug)]
pub struct CatalogOptions {
    /// The plugin folder.
    pub folder: PathBuf,
    /// How files get into the folder.
    pub way: Way,
    pub versions: VersionLimits,
}

/// Reads the endpoints, and the names of deleted ones.
async fn table(store: &dyn Store) -> Result<EndpointTable, store::Error> {
    // The order matters: an endpoint that is deleted between the two readings is in both lists, and then counts as existing.
    let endpoints = store.endpoints().await?;
    Ok(EndpointTable::new(endpoints).with_deleted(store.deleted_endpoints().await?))
}

impl Catalog {
    /// Reads the endpoints. [`Self::follow`] reads the plugins.
    pub async fn new(
        store: Arc<dyn Store>,
        sandbox: Sandbox,
        cache: FileCache,
        feed: Feed,
        options: CatalogOptions,
        runs: Arc<Queues<Slug, RunClaim>>,
    ) -> Result<Arc<Self>, store::Error> {
        let endpoints = table(&*store).await?;
        Ok(Arc::new(Self {
            store,
            sandbox,
            cache,
            feed,
            options,
            runs,
            plugins: RwLock::default(),
            endpoints: RwLock::new(Arc::new(endpoints)),
            plugins_changed: Notify::new(),
            following: tokio::sync::Mutex::default(),
            pushing: tokio::sync::Mutex::default(),
            behind: AtomicUsize::new(0),
            readings: Readings::default(),
            versions: tokio::sync::Mutex::default(),
            standings: OnceLock::new(),
        }))
    }

    pub fn plugins(&self) -> Arc<PluginTable> {
        Arc::clone(&self.plugins.read().expect("no code panics while it swaps a snapshot"))
    }

    pub fn endpoints(&self) -> Arc<EndpointTable> {
        Arc::clone(&self.endpoints.read().expect("no code panics while it swaps a snapshot"))
    }

    /// Returns the pattern of a plugin or endpoint that is most similar to this event type.
    pub fn nearest_pattern(&self, event_type: &str) -> Option<String> {
        let (plugins, endpoints) = (self.plugins(), self.endpoints());
        let patterns = plugins.iter().flat_map(|entry| &entry.on);
        let patterns = patterns.chain(endpoints.iter().flat_map(|endpoint| &endpoint.new.subscription.events));
        nearest(event_type, patterns).map(ToString::to_string)
    }

    /// Sets the source of [`Self::standing`]. Only the first call counts.
    pub fn set_standings(&self, standings: Arc<dyn Standings>) {
        let _ = self.standings.set(standings);
    }

    /// Returns how the sender of this process treats an endpoint now; `None` if this process has sent nothing to the endpoint.
    pub fn standing(&self, endpoint: EndpointId) -> Option<Standing> {
        self.standings.get()?.standing(endpoint)
    }

    /// Reads the last committed endpoints. A request that changes an endpoint calls this before it answers.
    pub async fn refresh_endpoints(&self) -> Result<(), store::Error> {
        let read = async {
            let table = Arc::new(table(&*self.store).await?);
            *self.endpoints.write().expect("no code panics while it swaps a snapshot") = table;
            Ok(())
        };
        self.readings.share(read).await
    }

    /// Stores a plugin's settings as a new revision by `author`. The plugin's next runs use the new settings.
    pub async fn set_plugin_config(
        &self,
        name: &Slug,
        config: BTreeMap<String, String>,
        author: String,
    ) -> Result<(), store::Error> {
        let revision = self.store.set_plugin_config(name, config.clone(), author, clock::wall()).await?;
        self.change_plugins(|table| table.set_config(name, revision, config));
        Ok(())
    }

    /// Reads the last committed settings of plugins. The next runs of the plugins use them.
    pub async fn refresh_plugin_configs(&self) -> Result<(), store::Error> {
        for row in self.store.plugins().await? {
            self.change_plugins(|table| table.set_config(&row.name, row.revision, row.config));
        }
        Ok(())
    }

    /// Notifies the task that follows the plugin folder: another node may have changed a plugin.
    pub fn notify_plugins_changed(&self) {
        self.plugins_changed.notify_one();
    }

    /// Returns the number of plugins whose serving version is not ready here.
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
