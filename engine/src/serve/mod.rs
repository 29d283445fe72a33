//! The engine as a whole. Only this module knows every part. It builds the parts, starts them in order and drains them in
//! reverse.

mod data_folder;

use std::{fs, net::SocketAddr, num::NonZero, sync::Arc, thread};

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::data_folder::lock_folder;
use self::data_folder::node_name;
use crate::{
    api::{self, Api, BodyRoom, Heavy, Inbound, LastLoad, LastProbe},
    catalog::{Catalog, FileCache, Folder, Keys, Sources, first_key, follow_config, watch},
    config::{Config, StoreAt},
    news::Feed,
    outbound::{Guard, Outbound},
    sandbox::Sandbox,
    store::{About, Handoff, KeyFile, Postgres, PostgresSettings, Sqlite, Store, Width},
    traces::{self, Traces},
    ui,
    work::{self, Work},
};

/// The engine, ready to serve: the store is open and every plugin has loaded or failed. Nothing runs yet.
pub struct Engine {
    config: Config,
    store: Arc<dyn Store>,
    handoff: Handoff,
    catalog: Arc<Catalog>,
    folder: Folder,
    outbound: Arc<Outbound>,
    feed: Feed,
    traces: Traces,
    keys: Arc<Keys>,
    sources: Arc<Sources>,
    /// The admin key that was created because none existed. It is shown once.
    pub new_admin_key: Option<String>,
    /// Links that sign in to the dashboard. Each link works once.
    links: ui::OneTimeLinks,
    /// The lock of the data folder, held while the engine lives.
    _lock: fs::File,
}

/// Returns the number of threads that repeat runs for comparisons: one for each core but one, at least 1. Their low priority does not
/// make them leave a core at once, so on all cores they would delay events: with 200 events a second on two cores, the p99 tripled.
fn compare_threads() -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    cores.saturating_sub(1).clamp(1, work::COMPARE_THREADS_MAX)
}

impl Engine {
    /// Opens the data folder, the store and the plugin folder. `address` is where the API will be served. `admin_key` becomes the first
    /// admin key if none exists.
    ///
    /// Returns once every plugin file has loaded or failed.
    pub async fn open(config: Config, address: SocketAddr, admin_key: Option<String>, feed: Feed) -> anyhow::Result<Self> {
        let lock = lock_folder(&config.data)?;
        let folder = &config.catalog.folder;
        if !folder.is_dir() {
            bail!("plugin folder {} does not exist; create it, or choose another with --plugins", folder.display());
        }
        let outbound = Arc::new(Outbound::new(Guard::new(config.allow_net.clone()))?);
        let traces = match &config.otel {
            Some(collector) => Traces::to(collector, outbound.operators_client(traces::EXPORT_TIMEOUT)?)?,
            None => Traces::default(),
        };
        let sandbox = Sandbox::new(crate::sandbox::Settings {
            limits: config.run_limits.clone(),
            plugin_bytes_max: config.plugin_bytes_max,
            threads: config.run_threads + config.slow_threads + compare_threads() + 1,
        })?;
        let cache =
            FileCache::open(config.data.join("cache")).context("the compile cache in the data folder cannot be opened")?;

        let handoff = Handoff::default();
        let store = open_store(&config, address, handoff.clone()).await?;
        let new_admin_key = first_key(&*store, admin_key).await?;
        let keys = Arc::new(Keys::new(Arc::clone(&store)).await?);
        let sources = Arc::new(Sources::new(Arc::clone(&store)).await?);
        let runs = Arc::clone(&handoff.runs);
        let catalog = Catalog::new(Arc::clone(&store), sandbox, cache, feed.clone(), config.catalog.clone(), runs).await?;
        let mut folder = Folder::default();
        catalog.follow().await?;
        catalog.scan(&mut folder).await?;
        catalog.follow().await?;
        Ok(Self {
            config,
            store,
            handoff,
            catalog,
            folder,
            outbound,
            feed,
            traces,
            keys,
            sources,
            new_admin_key,
            links: ui::OneTimeLinks::default(),
            _lock: lock,
        })
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Makes sure that `key` is an admin key, for the owner of the data folder who lost the first key.
    pub async fn admit(&self, key: &str) -> anyhow::Result<()> {
        self.keys.admit(key).await?;
        Ok(())
    }

    /// Returns the path of a link that signs in to the dashboard with `key`, once and within an hour.
    ///
    /// # Errors
    /// The system provides no random bytes.
    pub fn sign_in_link(&self, key: &str) -> anyhow::Result<String> {
        Ok(self.links.create(key)?)
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Serves on `listener` until `stop`. Then drains: accepts nothing more, finishes the work in flight and closes the store.
    ///
    /// # Errors
    /// A part of the engine has failed. Nothing is lost; start the process again.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
        let broken = CancellationToken::new();
        let (store, role) = (Arc::clone(&self.store), self.config.node.role);
        let mut following = tokio::spawn(follow_config(
            Arc::clone(&self.handoff.settings),
            Arc::clone(&self.catalog),
            Arc::clone(&self.sources),
            Arc::clone(&self.keys),
        ));
        let parts = work::Parts {
            store: Arc::clone(&self.store),
            handoff: self.handoff,
            catalog: Arc::clone(&self.catalog),
            keys: Arc::clone(&self.keys),
            outbound: Arc::clone(&self.outbound),
            feed: self.feed.clone(),
            traces: self.traces.clone(),
            settings: work::Settings {
                works: role.works(),
                run_limits: self.config.run_limits.clone(),
                quarantine: self.config.quarantine,
                run_threads: self.config.run_threads,
                slow_threads: self.config.slow_threads,
                compare_threads: compare_threads(),
                retention: self.config.retention,
                disable_after: self.config.disable_after,
                store_bytes_max: self.config.store_bytes_max,
                drain: self.config.drain,
            },
        };
        let traces = self.traces.clone();
        let work = Work::start(parts, broken.clone())?;
        let watching = watch(Arc::clone(&self.catalog), self.folder, stop.clone());
        let watching = tokio::spawn(work::guarded("plugin folder", watching, stop.clone(), broken.clone()));
        let counted = CancellationToken::new();
        let about = ui::About {
            node: self
                .config
                .node
                .name
                .clone()
                .unwrap_or_else(|| listener.local_addr().map_or_else(|_| "engine".to_owned(), |at| at.to_string())),
            store: match self.config.store {
                StoreAt::Sqlite => "SQLite",
                StoreAt::Postgres(_) => "Postgres",
            },
            settings: Arc::clone(&self.config.in_force),
            store_bytes_max: self.config.store_bytes_max,
        };
        let links = self.links;
        let api = Arc::new(Api {
            acceptor: work.acceptor(),
            store: self.store,
            catalog: self.catalog,
            outbound: self.outbound,
            feed: self.feed,
            traces: self.traces,
            keys: self.keys,
            sources: self.sources,
            inbound: Inbound {
                watches: api::Watches::default(),
                proxies: self.config.proxies,
                external_url: self.config.external_url,
            },
            subscribers: api::Subscribers::new(self.config.subscribe_rate),
            refusals: api::Refusals::default(),
            run_limits: self.config.run_limits,
            body_bytes_max: self.config.body_bytes_max,
            body_time_max: self.config.body_time_max,
            body_room: BodyRoom::default(),
            heavy: Heavy::default(),
            streams: api::Streams::default(),
            last_probe: LastProbe::default(),
            last_load: LastLoad::new(self.config.metrics),
            stopping: stop.clone(),
        });
        let counting = {
            let (api, stop) = (Arc::clone(&api), CancellationToken::clone(&counted));
            let counting = async move { api.inbound.watches.write(&*api.store, stop).await };
            tokio::spawn(work::guarded("requests to sources", counting, counted.clone(), broken.clone()))
        };
        let stopped = || {
            let (stop, broken) = (stop.clone(), broken.clone());
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = broken.cancelled() => {}
                }
            }
        };
        let routes = api::router(Arc::clone(&api), role.takes_calls());
        let routes = if role.takes_calls() { ui::router(api, routes, about, links) } else { routes };
        let serving = api::serve(listener, routes, self.config.connections.within_open_files(), stopped());
        tokio::select! {
            () = serving => {}
            // No event runs before its configuration is known, so an engine that no longer follows the configuration must stop.
            ended = &mut following => {
                tracing::error!(panicked = ended.is_err(), "the task that follows the configuration has ended; the engine stops");
                broken.cancel();
            }
            // Callers that hold their connections open must not delay the stop.
            () = async { stopped().await; tokio::time::sleep(self.config.drain).await } => {}
        }
        stop.cancel();
        watching.abort();
        following.abort();
        counted.cancel();
        if tokio::time::timeout(self.config.drain, counting).await.is_err() {
            tracing::warn!("last counts of requests to sources not stored: the store did not answer in time");
        }
        work.drain().await;
        if let Err(error) = store.leave().await {
            tracing::warn!(%error, "could not report to the other nodes that this node stops; they take over its work once its heartbeat is missing");
        }
        let _ = tokio::task::spawn_blocking(move || traces.finish()).await;
        if broken.is_cancelled() {
            bail!("a part of the engine has failed; the log names it. Nothing is lost: start the engine again");
        }
        Ok(())
    }
}

/// Opens the store that the settings name.
async fn open_store(config: &Config, address: SocketAddr, handoff: Handoff) -> anyhow::Result<Arc<dyn Store>> {
    let (key_file, limits) = (KeyFile::at(config.master_key_file.clone()), config.admission);
    let url = match &config.store {
        StoreAt::Sqlite => {
            let file = config.data.join("innesco.db");
            let opened = tokio::task::spawn_blocking(move || Sqlite::open(&file, key_file, handoff, limits)).await?;
            let store = opened.with_context(|| format!("the store in {} cannot be opened", config.data.display()))?;
            return Ok(Arc::new(store));
        }
        StoreAt::Postgres(url) => url.clone(),
    };
    if !config.node.role.works() {
        // This node has no workers, so its commits pass no work to workers of this process. All work waits for the other nodes.
        handoff.events.set_width(&(), Some(Width::CLOSED));
    }
    let name = match &config.node.name {
        Some(name) => name.clone(),
        None => node_name(&config.data)?,
    };
    let about = About { name, role: config.node.role.as_str().to_owned(), address: address.to_string() };
    let settings = PostgresSettings { url, about, silence: config.node.silence };
    let opened = Postgres::open(settings, key_file, handoff, limits).await;
    Ok(Arc::new(opened.with_context(|| format!("the store at {} cannot be opened", config.store))?))
}
