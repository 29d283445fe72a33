//! The engine as a whole: the only place that knows every part. It builds them, starts them in order and drains them in reverse.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Api, BodyRoom, ConnectionLimits, Heavy, Inbound, LastLoad, LastProbe},
    catalog::{Catalog, FileCache, Folder, Keys, Sources, check_given_key, hash_key, new_key, watch},
    clock,
    config::{Config, StoreAt},
    domain::key::Role,
    files,
    news::Feed,
    outbound::{Guard, Outbound},
    sandbox::Sandbox,
    store::{self, About, Handoff, KeyFile, NewKey, Postgres, PostgresSettings, Sqlite, Store, Width},
    traces::{self, Traces},
    work::{self, Work},
};

/// The engine, ready to serve: events wait in the store, plugins have loaded or failed, nothing runs yet.
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
    /// The admin key that was made because there was none. Shown once.
    pub new_admin_key: Option<String>,
    /// Held for as long as the engine lives.
    _lock: fs::File,
}

impl Engine {
    /// Opens the data folder, the store and the plugin folder. `address` is what the API will be served on; `admin_key` is the first
    /// admin key, where there is none yet.
    ///
    /// Returns once every plugin file found has loaded or failed.
    pub async fn open(config: Config, address: SocketAddr, admin_key: Option<String>, feed: Feed) -> anyhow::Result<Self> {
        let lock = lock_folder(&config.data)?;
        fs::create_dir_all(&config.plugins).with_context(|| {
            format!("plugin folder {} cannot be made; choose another with --plugins", config.plugins.display())
        })?;
        let outbound = Arc::new(Outbound::new(Guard::new(config.allow_net.clone()))?);
        let traces = match &config.otel {
            Some(collector) => Traces::to(collector, outbound.operators_client(traces::EXPORT_TIMEOUT)?)?,
            None => Traces::default(),
        };
        let sandbox = Sandbox::new(crate::sandbox::Settings {
            limits: config.run_limits.clone(),
            plugin_bytes_max: config.plugin_bytes_max,
            threads: config.run_threads + config.slow_threads + 1,
        })?;
        let cache =
            FileCache::open(config.data.join("cache")).context("the compile cache in the data folder cannot be opened")?;

        let handoff = Handoff::default();
        let store = open_store(&config, address, handoff.clone()).await?;
        let new_admin_key = first_key(&*store, admin_key).await?;
        let keys = Arc::new(Keys::new(Arc::clone(&store)).await?);
        let sources = Arc::new(Sources::new(Arc::clone(&store)).await?);
        let catalog = Catalog::new(Arc::clone(&store), sandbox, cache, feed.clone(), config.plugins.clone()).await?;
        let mut folder = Folder::default();
        catalog.scan(&mut folder).await?;
        catalog.follow(&mut folder).await?;
        Ok(Self { config, store, handoff, catalog, folder, outbound, feed, traces, keys, sources, new_admin_key, _lock: lock })
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Makes sure that `key` is an admin key, for whoever owns the data folder and has lost the first one.
    pub async fn admit(&self, key: &str) -> anyhow::Result<()> {
        let hash = hash_key(key);
        if !self.store.keys().await?.iter().any(|known| known.new.hash == hash) {
            let name = format!("admin {:02x}{:02x}", hash[0], hash[1]);
            self.store.create_key(NewKey { name, role: Role::Admin, hash, expires_at: None }).await?;
            self.keys.refresh().await?;
        }
        Ok(())
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Serves on `listener` until `stop`, then drains: takes nothing more, finishes what is in hand, closes the store.
    ///
    /// # Errors
    /// A part of the engine has ended by itself. Nothing is lost; the process should be started again.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
        let broken = CancellationToken::new();
        let (store, role) = (Arc::clone(&self.store), self.config.node.role);
        let mut following = tokio::spawn(follow_settings(
            self.handoff.clone(),
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
                run_threads: self.config.run_threads,
                slow_threads: self.config.slow_threads,
                retention: self.config.retention,
                disable_after: self.config.disable_after,
                store_bytes_max: self.config.store_bytes_max,
                drain: self.config.drain,
            },
        };
        let traces = self.traces.clone();
        let work = Work::start(parts, broken.clone())?;
        let watching = tokio::spawn(watch(Arc::clone(&self.catalog), self.folder, stop.clone()));
        let api = Arc::new(Api {
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
            body_bytes_max: self.config.body_bytes_max,
            body_time_max: self.config.body_time_max,
            body_room: BodyRoom::default(),
            heavy: Heavy::default(),
            last_probe: LastProbe::default(),
            last_load: LastLoad::new(self.config.metrics),
            stopping: stop.clone(),
        });
        let told = || {
            let (stop, broken) = (stop.clone(), broken.clone());
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = broken.cancelled() => {}
                }
            }
        };
        let serving = api::serve(listener, api::router(api, role.takes_calls()), within_files(self.config.connections), told());
        tokio::select! {
            () = serving => {}
            // Nobody runs anything before it is known what people set.
            ended = &mut following => {
                tracing::error!(panicked = ended.is_err(), "what other nodes change is no longer followed; the engine stops");
                broken.cancel();
            }
            // Callers that keep their connection open do not keep the engine from stopping.
            () = async { told().await; tokio::time::sleep(self.config.drain).await } => {}
        }
        stop.cancel();
        watching.abort();
        following.abort();
        work.drain().await;
        if let Err(error) = store.leave().await {
            tracing::warn!(%error, "the other nodes could not be told that this one ends; they take over what it held once they miss it");
        }
        let _ = tokio::task::spawn_blocking(move || traces.finish()).await;
        if broken.is_cancelled() {
            bail!("a part of the engine has ended by itself; the log says which. Nothing is lost: start it again");
        }
        Ok(())
    }
}

/// The store that the settings name.
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
        // Nobody here takes what is handed over: all of it waits for the other nodes.
        handoff.events.set_width(&(), Some(Width::CLOSED));
    }
    let name = match &config.node.name {
        Some(name) => name.clone(),
        None => drawn_name(&config.data)?,
    };
    let about = About { name, role: config.node.role.as_str().to_owned(), address: address.to_string() };
    let settings = PostgresSettings { url, about, silence: config.node.silence };
    let opened = Postgres::open(settings, key_file, handoff, limits).await;
    Ok(Arc::new(opened.with_context(|| format!("the store at {} cannot be opened", config.store))?))
}

/// What a node is called that nobody has given a name: drawn once, and the same after every restart.
fn drawn_name(data: &Path) -> anyhow::Result<String> {
    let file = data.join("node");
    let shown = file.display();
    match fs::read_to_string(&file) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{shown}, the name of this node, cannot be read"));
        }
        _ => {}
    }
    let mut random = [0; 4];
    getrandom::fill(&mut random)?;
    let name = format!("node-{:08x}", u32::from_le_bytes(random));
    files::replace(&file, &[name.as_bytes()]).with_context(|| format!("{shown}, the name of this node, cannot be written"))?;
    Ok(name)
}

/// How long to wait before settings are read again: when the database was away, and when something in them cannot be read.
const SETTINGS_AGAIN: Duration = Duration::from_millis(500);
const SETTINGS_BROKEN_AGAIN: Duration = Duration::from_secs(10);

/// Makes what other nodes have changed known here.
async fn follow_settings(handoff: Handoff, catalog: Arc<Catalog>, sources: Arc<Sources>, keys: Arc<Keys>) {
    let (mut is_away, mut is_broken) = (false, false);
    loop {
        let version = if is_away {
            tokio::time::sleep(SETTINGS_AGAIN).await;
            handoff.settings.told()
        } else if is_broken {
            let changed = tokio::time::timeout(SETTINGS_BROKEN_AGAIN, handoff.settings.changed()).await;
            changed.unwrap_or_else(|_| handoff.settings.told())
        } else {
            handoff.settings.changed().await
        };
        // They are loaded beside, which takes as long as it takes.
        catalog.plugins_told();
        let for_runs = [catalog.refresh_endpoints().await, catalog.refresh_plugin_configs().await];
        // What is broken does not stop what can be done without it.
        if !for_runs.iter().any(|read| read.as_ref().is_err_and(store::Error::passes)) {
            handoff.settings.know(version);
        }
        let read = for_runs.into_iter().chain([sources.refresh().await, keys.refresh().await]);
        let (away, broken): (Vec<_>, Vec<_>) = read.filter_map(Result::err).partition(store::Error::passes);
        if let (Some(error), false) = (broken.first(), is_broken) {
            tracing::error!(%error, "what was set cannot be read; this node goes on by what it knew before, and tries again from time to time");
        }
        (is_away, is_broken) = (!away.is_empty(), !broken.is_empty());
    }
}

/// Every connection is a file. The other half is for webhooks under way, the store and the plugins.
fn within_files(limits: ConnectionLimits) -> ConnectionLimits {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let half = files.map_or(usize::MAX, |files| usize::try_from(files / 2).unwrap_or(usize::MAX)).max(1);
    if half < limits.connections_max {
        tracing::warn!(
            files,
            connections_max = half,
            "the process may open few files, so fewer connections are taken than limits.connections_max; raise it with ulimit -n"
        );
    }
    ConnectionLimits { connections_max: limits.connections_max.min(half), ..limits }
}

/// What engines make in their data folder: the store with its log, keys, compiled code, the lock, the node's name.
fn made_by_engines(name: &str) -> bool {
    name.starts_with("innesco.db") || name.starts_with("master.key") || ["cache", "lock", "node", "node.draft"].contains(&name)
}

/// Makes the data folder if it does not exist, and takes it for this process: two engines on one would send everything twice.
pub fn lock_folder(data: &Path) -> anyhow::Result<fs::File> {
    let shown = data.display();
    files::own_folder(data, made_by_engines)
        .with_context(|| format!("data folder {shown} cannot be made; choose another with --data"))?;
    let file = files::open_or_create(&data.join("lock"))
        .with_context(|| format!("data folder {shown} cannot be written; change its owner, or choose another with --data"))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        anyhow::anyhow!("data folder {shown} is in use by another engine; stop that one, or choose another folder with --data")
    })?;
    Ok(file)
}

/// Makes an admin key where none is good any more. Returns it only if nobody has seen it yet.
async fn first_key(store: &dyn Store, given: Option<String>) -> anyhow::Result<Option<String>> {
    let keys = store.keys().await?;
    let now = clock::wall();
    let known = given.as_ref().and_then(|given| keys.iter().find(|key| key.new.hash == hash_key(given)));
    if keys.iter().any(|key| key.new.role == Role::Admin && !key.has_expired(now)) {
        match (&given, known) {
            (Some(_), None) => {
                tracing::warn!("INNESCO_ADMIN_KEY is not used: this data folder has keys already, and it is none of them");
            }
            // Made when less was asked of it. It goes on opening the API: refusing it would lock its operator out.
            (Some(key), Some(known)) => {
                if let Err(guessable) = check_given_key(key) {
                    let name = &known.new.name;
                    tracing::warn!(
                        name,
                        "the admin key in INNESCO_ADMIN_KEY {guessable}. Replace it: innesco keys create NAME --role admin, then \
                         innesco keys revoke {name:?}"
                    );
                }
            }
            (None, _) => {}
        }
        return Ok(None);
    }
    if known.is_some() {
        bail!("INNESCO_ADMIN_KEY is a key that has expired or is no admin's, and no admin key is left; set it to a new one");
    }
    let key = match &given {
        Some(key) => {
            check_given_key(key).map_err(|guessable| anyhow::anyhow!("INNESCO_ADMIN_KEY {guessable}"))?;
            key.clone()
        }
        None => new_key()?,
    };
    let hash = hash_key(&key);
    let name = match keys.iter().any(|key| key.new.name == "admin") {
        false => "admin".to_owned(),
        true => format!("admin {:02x}{:02x}", hash[0], hash[1]),
    };
    match store.create_key(NewKey { name, role: Role::Admin, hash, expires_at: None }).await {
        // Another node, which starts at the same moment, was first.
        Err(store::Error::Taken { .. }) => Ok(None),
        created => created.map(|_| given.is_none().then_some(key)).map_err(Into::into),
    }
}
