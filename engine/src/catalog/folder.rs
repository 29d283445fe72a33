//! The plugin folder: what lies in it serves. Changes are seen by notification and, since those can be lost, by a slow poll.
//!
//! A file is read once its writer seems done, hashed, loaded whole off the async threads, one at a time, and only then swapped
//! in. A file that vanishes and comes back within [`SETTLE`] was replaced, not removed.
//!
//! Where many nodes work on one store, it is the store that says what serves, and what happens in a folder is told to it
//! ([`Depot`](crate::store::Depot)): a file that is written is published, and its removal withdraws its version. What other nodes did
//! is the business of `follow.rs`.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use notify::Watcher as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Catalog, Pace, PluginEntry, PluginState};
use crate::{
    clock,
    domain::{name::Slug, pattern::Pattern, plugin::Digest},
    metrics::meters,
    news::News,
    sandbox::Plugin,
    store::{self, PluginRow, Published, Shown},
};

/// How long a file may be missing before its plugin is taken out.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the folder must be quiet before it is looked at: files arrive in pieces.
const QUIET: Duration = Duration::from_millis(200);
/// How long it may be unquiet: then it is looked at all the same.
const UNQUIET_MAX: Duration = Duration::from_secs(1);
/// How often it is looked at without any notification.
const POLL: Duration = Duration::from_secs(5);

/// What is known of one file.
struct Known {
    modified: Option<SystemTime>,
    len: u64,
    /// The plugin that it provides, if it loaded.
    plugin: Option<Provided>,
    missing_since: Option<Instant>,
}

/// A plugin that a file provides, in the version that loaded last.
#[derive(Clone)]
struct Provided {
    name: Slug,
    version: Digest,
}

/// The folder as last seen.
#[derive(Default)]
pub struct Folder {
    files: HashMap<String, Known>,
    /// Whether it was ever looked at: what is found before that may have lain there for long.
    looked: bool,
    /// Versions that other nodes have published and that do not load here: they are not tried again and again.
    pub(super) failed: HashMap<Slug, Digest>,
    /// Versions of other nodes' that serve, and whose parked runs have still to be driven.
    pub(super) undriven: HashSet<Slug>,
}

/// Follows the folder until `stop`. `folder` holds what the first scan saw.
pub async fn watch(catalog: Arc<Catalog>, mut folder: Folder, stop: CancellationToken) {
    let (changed, mut changes) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |_| {
        // A full channel holds a notification already.
        let _ = changed.try_send(());
    });
    // Without notifications (some file systems have none) the poll does it alone.
    let mut watcher = watcher.inspect_err(|error| tracing::warn!(%error, "the plugin folder is polled, not watched")).ok();
    if let Some(watcher) = &mut watcher
        && let Err(error) = watcher.watch(&catalog.folder, notify::RecursiveMode::NonRecursive)
    {
        tracing::warn!(%error, "the plugin folder is polled, not watched");
    }
    // First of all, for what changed before the folder was watched.
    let mut look = true;
    let mut looked_at = Instant::now();
    loop {
        if look {
            looked_at = Instant::now();
            if let Err(error) = catalog.scan(&mut folder).await {
                tracing::error!(%error, "the plugin folder could not be brought in line with the store; it is tried again");
            }
        }
        if let Err(error) = catalog.follow(&mut folder).await {
            tracing::debug!(%error, "the plugins could not be brought in line with the store; it is tried again");
        }
        look = tokio::select! {
            () = stop.cancelled() => return,
            Some(()) = changes.recv() => {
                let began = Instant::now();
                while began.elapsed() < UNQUIET_MAX && matches!(tokio::time::timeout(QUIET, changes.recv()).await, Ok(Some(()))) {}
                true
            }
            // Not a reason to look into the folder, where a file may be half written.
            () = catalog.told.notified() => false,
            () = tokio::time::sleep(folder.next_look().saturating_sub(looked_at.elapsed())) => true,
        };
    }
}

impl Folder {
    /// A missing file is looked for again as soon as its time is over.
    fn next_look(&self) -> Duration {
        let missing = self.files.values().filter_map(|known| known.missing_since);
        missing.map(|since| SETTLE.saturating_sub(since.elapsed())).min().unwrap_or(POLL).clamp(QUIET, POLL)
    }

    /// The other file that provides a plugin, if there is one.
    fn rival(&self, file: &str, plugin: &Slug) -> Option<&str> {
        let provides = |known: &Known| known.plugin.as_ref().is_some_and(|provided| provided.name == *plugin);
        let other = self.files.iter().find(|(other, known)| *other != file && provides(known) && known.missing_since.is_none());
        other.map(|(other, _)| other.as_str())
    }
}

impl Catalog {
    /// Brings the plugins in line with the folder. After the first one every file found has loaded or failed.
    pub async fn scan(&self, folder: &mut Folder) -> Result<(), store::Error> {
        let found = match list(&self.folder) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(folder = %self.folder.display(), %error, "the plugin folder cannot be read; what serves goes on serving");
                return Ok(());
            }
        };
        for (file, modified, len) in &found {
            let unchanged = folder.files.get(file).is_some_and(|known| known.modified == *modified && known.len == *len);
            if unchanged {
                folder.files.get_mut(file).expect("it was just there").missing_since = None;
                continue;
            }
            let before = folder.files.get(file).and_then(|known| known.plugin.clone());
            let plugin = self.take(file, before.as_ref(), folder).await?;
            folder.files.insert(file.clone(), Known { modified: *modified, len: *len, plugin, missing_since: None });
        }
        let gone: Vec<String> =
            folder.files.keys().filter(|known| !found.iter().any(|(file, ..)| file == *known)).cloned().collect();
        for file in gone {
            let known = folder.files.get_mut(&file).expect("it was just listed");
            if known.missing_since.get_or_insert_with(Instant::now).elapsed() >= SETTLE {
                let plugin = known.plugin.clone();
                self.take_out(&file, plugin.as_ref(), folder).await?;
                folder.files.remove(&file);
            }
        }
        folder.looked = true;
        Ok(())
    }

    /// Loads one file and swaps it in, or notes why not. Says which plugin the file provides from now on.
    async fn take(&self, file: &str, before: Option<&Provided>, folder: &Folder) -> Result<Option<Provided>, store::Error> {
        let (loaded, bytes) = match self.load(file) {
            Ok(loaded) => loaded,
            Err(reason) => return self.refuse(file, before, reason).await,
        };
        let manifest = loaded.manifest().clone();
        if let Some(other) = folder.rival(file, &manifest.name)
            && self.folder.join(other).exists()
        {
            let reason = format!("plugin {} is provided by {other} already; remove one of the two files", manifest.name);
            return self.refuse(file, before, reason).await;
        }
        if let Some(before) = before.filter(|before| before.name != manifest.name) {
            self.take_out(file, Some(before), folder).await?;
        }

        let provided = Provided { name: manifest.name.clone(), version: *loaded.digest() };
        let row = PluginRow {
            name: manifest.name.clone(),
            version: *loaded.digest(),
            author_version: manifest.version,
            description: manifest.description,
            on: manifest.on.iter().map(ToString::to_string).collect(),
            file: file.to_owned(),
            bytes: loaded.bytes_len() as u64,
            config: Default::default(),
        };
        if let Some(depot) = self.store.depot() {
            let shown = if folder.looked { Shown::Written } else { Shown::AtStart };
            if depot.publish(row.clone(), bytes, shown).await? == Published::Outdated {
                tracing::warn!(
                    plugin = %row.name,
                    version = %row.version.short(),
                    file,
                    "plugin file is not used: the nodes have had this version and no longer serve it; to serve it again, write the file \
                     anew (touch is enough) while the engine runs"
                );
                return Ok(Some(provided));
            }
        } else {
            self.store.remember_plugin(row.clone()).await?;
        }
        self.serve(row, loaded).await?;
        Ok(Some(provided))
    }

    /// Swaps a version in.
    pub(super) async fn serve(&self, row: PluginRow, loaded: Plugin) -> Result<(), store::Error> {
        let stored = self.store.plugins().await?.into_iter().find(|stored| stored.name == row.name);
        let config = stored.map(|stored| stored.config).unwrap_or_default();
        let was = self.plugins().get(&row.name).map(|entry| entry.row.version);
        let bytes = loaded.bytes_len();
        self.change_plugins(|table| {
            table.insert(PluginEntry {
                meters: meters().plugin(&row.name),
                row: PluginRow { config: config.clone(), ..row.clone() },
                on: loaded.manifest().on.clone(),
                state: PluginState::Serving(Arc::new(loaded)),
                config: Arc::new(config),
                pace: Arc::new(Pace::default()),
                refused: None,
            });
        });
        let driven = self.store.drive_not_loadable(&row.name, clock::steady()).await?;
        tracing::info!(plugin = %row.name, version = %row.version.short(), file = row.file, driven, "plugin serves");
        let plugin = row.name.to_string();
        self.feed.tell(|| News::PluginServes { plugin, version: row.version, was: was.filter(|was| *was != row.version), bytes });
        Ok(())
    }

    fn load(&self, file: &str) -> Result<(Plugin, Vec<u8>), String> {
        let path = self.folder.join(file);
        self.check_len(fs::metadata(&path).map_err(|error| error.to_string())?.len())?;
        // Loading compiles, which takes as long as it takes: never on the threads that serve sockets.
        tokio::task::block_in_place(|| {
            let bytes = fs::read(&path).map_err(|error| error.to_string())?;
            Ok((self.sandbox.load(&bytes, &self.cache).map_err(|error| error.to_string())?, bytes))
        })
    }

    /// Refuses what is too long before it is read.
    pub(super) fn check_len(&self, len: u64) -> Result<(), String> {
        let limit = self.sandbox.plugin_bytes_max() as u64;
        if len > limit {
            return Err(format!("it has {len} bytes, more than the {limit} that a plugin may have"));
        }
        Ok(())
    }

    /// Notes why a file was not taken. What served goes on serving; what served in an earlier life of the engine still matches.
    async fn refuse(&self, file: &str, before: Option<&Provided>, reason: String) -> Result<Option<Provided>, store::Error> {
        tracing::error!(file, reason, "plugin file is not loaded");
        let table = self.plugins();
        let known = before.and_then(|plugin| table.get(&plugin.name));
        let keeps = known.filter(|entry| matches!(entry.state, PluginState::Serving(_))).map(|entry| entry.row.version);
        let message = reason.clone();
        self.feed.tell(|| News::PluginFailed { file: file.to_owned(), keeps, message });
        if let Some(entry) = known {
            self.change_plugins(|table| table.set_refused(&entry.row.name, Some(reason)));
            return Ok(before.cloned());
        }
        let served = match self.store.depot() {
            None => self.store.plugins().await?.into_iter().find(|row| row.file == file),
            // What served serves on, whatever lies in this folder.
            Some(_) => None,
        };
        let Some(row) = served.filter(|row| self.plugins().get(&row.name).is_none()) else {
            self.change_plugins(|table| table.set_broken(file, Some(reason)));
            return Ok(before.cloned());
        };
        let provided = Provided { name: row.name.clone(), version: row.version };
        self.set_not_loadable(row, reason);
        Ok(Some(provided))
    }

    /// A plugin that matches by what its last version said of itself; its runs are parked until it loads.
    pub(super) fn set_not_loadable(&self, row: PluginRow, reason: String) {
        self.change_plugins(|table| {
            table.insert(PluginEntry {
                on: row.on.iter().filter_map(|pattern| Pattern::parse(pattern).ok()).collect(),
                config: Arc::new(row.config.clone()),
                meters: meters().plugin(&row.name),
                row,
                state: PluginState::NotLoadable(reason),
                pace: Arc::new(Pace::default()),
                refused: None,
            });
        });
    }

    async fn take_out(&self, file: &str, plugin: Option<&Provided>, folder: &Folder) -> Result<(), store::Error> {
        if let (Some(depot), Some(plugin)) = (self.store.depot(), plugin) {
            // A file that was only renamed is there under its other name. Where another version was written meanwhile, that one
            // serves on.
            if folder.rival(file, &plugin.name).is_none() {
                depot.withdraw(&plugin.name, plugin.version).await?;
            }
            self.change_plugins(|table| table.set_broken(file, None));
            return Ok(());
        }
        self.change_plugins(|table| {
            table.set_broken(file, None);
            if let Some(plugin) = plugin
                && table.get(&plugin.name).is_some_and(|entry| entry.row.file == file)
            {
                table.remove(&plugin.name);
            }
        });
        if let Some(Provided { name, .. }) = plugin {
            tracing::info!(plugin = %name, file, "plugin file was removed; the plugin serves no more");
            self.feed.tell(|| News::PluginGone { plugin: name.to_string() });
        }
        Ok(())
    }
}

/// The `.wasm` files of a folder, with what tells whether they changed, in the order of their names.
fn list(folder: &Path) -> io::Result<Vec<(String, Option<SystemTime>, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') || !name.ends_with(".wasm") {
            continue;
        }
        // A file that vanishes between the listing and here is simply not there.
        if let Ok(metadata) = fs::metadata(entry.path())
            && metadata.is_file()
        {
            found.push((name, metadata.modified().ok(), metadata.len()));
        }
    }
    found.sort();
    Ok(found)
}
