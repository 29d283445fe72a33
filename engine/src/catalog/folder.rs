//! The plugin folder: what lies in it serves. Changes are seen by notification and, since those can be lost, by a slow poll.
//!
//! A file is read once its writer seems done, hashed, loaded whole off the async threads, one at a time, and only then swapped
//! in. A file that vanishes and comes back within [`SETTLE`] was replaced, not removed. What a file is, its content says: its time, its length
//! and the like only tell when to read it again. What cannot be read is tried again at every look.
//!
//! A plugin is provided by one file. Of two with the same plugin the one that serves goes on serving, and the other has its place as soon as
//! that one is removed, broken or another plugin.
//!
//! Where many nodes work on one store, it is the store that says what serves, and what happens in a folder is told to it
//! ([`PluginRegistry`](crate::store::PluginRegistry)): a file that is written is published, and its removal withdraws its version. What other nodes did
//! is the business of `follow.rs`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsString,
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use notify::Watcher as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Catalog, Pace, PluginEntry, PluginState,
    file::{Content, PluginFile, Stamp, Unopened},
};
use crate::{
    clock,
    domain::{name::Slug, pattern::Pattern, plugin::Digest},
    metrics::meters,
    news::News,
    sandbox::{LoadError, Plugin},
    store::{self, FileSeen, PluginRow, Published},
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
#[derive(Default)]
struct Known {
    /// What was read of it last. `None`: it could not be read, or has to be tried again, so every look does.
    read: Option<Read>,
    /// The plugin that it provides, in the version that loaded last.
    plugin: Option<Provided>,
    /// The plugin that it would provide if no other file did.
    wants: Option<Slug>,
    /// Why its present content is not used.
    refused: Option<String>,
    missing_since: Option<Instant>,
}

/// The content that was read of a file, as far as that can be told from the outside.
#[derive(Clone, Copy)]
struct Read {
    stamp: Stamp,
    settled: bool,
    digest: Digest,
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
    files: BTreeMap<String, Known>,
    /// Plugins whose files are gone or became other plugins. Unless another file provides them, they leave.
    vacated: Vec<(String, Provided)>,
    /// Whether it was ever looked at: what is found before that may have lain there for long.
    looked: bool,
    /// Versions that other nodes have published and that do not load here: they are not tried again and again.
    pub(super) failed: HashMap<Slug, Digest>,
    /// Versions of other nodes' that serve, and whose parked runs have still to be driven.
    pub(super) undriven: HashSet<Slug>,
}

/// Why bytes did not become a plugin.
pub(super) struct NotLoaded {
    pub reason: String,
    /// Whether the same bytes may load the next time.
    pub passes: bool,
}

impl From<LoadError> for NotLoaded {
    fn from(error: LoadError) -> Self {
        Self { reason: error.to_string(), passes: error.passes() }
    }
}

impl From<String> for NotLoaded {
    fn from(reason: String) -> Self {
        Self { reason, passes: false }
    }
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

    /// The other file whose present content provides a plugin, if there is one.
    fn provider(&self, plugin: &Slug, except: &str) -> Option<&str> {
        let provides = |known: &Known| {
            known.refused.is_none()
                && known.missing_since.is_none()
                && known.plugin.as_ref().is_some_and(|provided| provided.name == *plugin)
        };
        self.files.iter().find(|(file, known)| *file != except && provides(known)).map(|(file, _)| file.as_str())
    }

    /// Whether any file has to do with a plugin: it provides it, did before it was broken, or may come back.
    fn holds(&self, plugin: &Slug) -> bool {
        self.files.values().any(|known| known.plugin.as_ref().is_some_and(|provided| provided.name == *plugin))
    }

    /// A file that waited for a plugin's name, and may have it now. While the file that had it is only missing, it may be being replaced.
    fn heir(&self) -> Option<String> {
        let comes_back = |plugin: &Slug| {
            let had = |known: &Known| known.plugin.as_ref().is_some_and(|provided| provided.name == *plugin);
            self.files.values().any(|known| known.missing_since.is_some() && had(known))
        };
        let is_free = |file: &str, known: &Known| {
            known.missing_since.is_none()
                && known.wants.as_ref().is_some_and(|plugin| self.provider(plugin, file).is_none() && !comes_back(plugin))
        };
        self.files.iter().find(|(file, known)| is_free(file, known)).map(|(file, _)| file.clone())
    }

    fn known(&mut self, file: &str) -> &mut Known {
        self.files.entry(file.to_owned()).or_default()
    }
}

impl Catalog {
    /// Brings the plugins in line with the folder. After the first scan every file found has loaded or failed.
    pub async fn scan(&self, folder: &mut Folder) -> Result<(), store::Error> {
        let mut found = match list(&self.folder) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(folder = %self.folder.display(), %error, "the plugin folder cannot be read; what serves goes on serving");
                return Ok(());
            }
        };
        if !folder.looked {
            // Of two files with the same plugin the one that served goes on serving.
            let served: HashSet<String> = self.store.plugins().await?.into_iter().map(|row| row.file).collect();
            found.sort_by_key(|file| !served.contains(file));
        }
        // First of all, so that a file that was renamed does not stand in its own way.
        for (file, known) in &mut folder.files {
            match found.contains(file) {
                true => known.missing_since = None,
                false => known.missing_since = known.missing_since.or_else(|| Some(Instant::now())),
            }
        }
        for file in &found {
            self.look(file, folder).await?;
        }
        let gone = |known: &Known| known.missing_since.is_some_and(|since| since.elapsed() >= SETTLE);
        let files: Vec<String> = folder.files.iter().filter(|(_, known)| gone(known)).map(|(file, _)| file.clone()).collect();
        for file in files {
            self.change_plugins(|table| table.set_broken(&file, None));
            if let Some(plugin) = folder.files.remove(&file).and_then(|known| known.plugin) {
                folder.vacated.push((file, plugin));
            }
        }
        while let Some(heir) = folder.heir() {
            let known = folder.known(&heir);
            (known.wants, known.read) = (None, None);
            self.look(&heir, folder).await?;
        }
        while let Some((file, plugin)) = folder.vacated.last().cloned() {
            if !folder.holds(&plugin.name) {
                self.take_out(&file, &plugin).await?;
            }
            folder.vacated.pop();
        }
        folder.looked = true;
        Ok(())
    }

    /// Looks at one file, and takes what is new.
    async fn look(&self, file: &str, folder: &mut Folder) -> Result<(), store::Error> {
        let before = folder.known(file).read.take();
        let opened = match PluginFile::open(&self.folder, file) {
            Ok(opened) => opened,
            Err(Unopened::Gone) => {
                folder.known(file).missing_since.get_or_insert_with(Instant::now);
                return Ok(());
            }
            Err(Unopened::Refused(reason)) => return self.refuse(file, reason.to_owned(), folder).await,
            Err(Unopened::Unreadable(error)) => return self.refuse(file, unreadable(&error), folder).await,
        };
        let touched = before.is_none_or(|read| read.stamp != opened.stamp);
        if let Some(read) = before.filter(|read| !touched && read.settled) {
            folder.known(file).read = Some(read);
            return Ok(());
        }
        if let Err(reason) = self.check_len(opened.stamp.bytes) {
            return self.refuse(file, reason, folder).await;
        }
        let limit = self.sandbox.plugin_bytes_max() as u64;
        let content = match tokio::task::block_in_place(|| opened.read(limit)) {
            Ok(Some(content)) => content,
            // Somebody writes to it; it is looked at again when that is over.
            Ok(None) => return Ok(()),
            Err(error) => return self.refuse(file, unreadable(&error), folder).await,
        };
        let Content { bytes, digest, stamp, settled } = content;
        let is_same = before.is_some_and(|read| read.digest == digest);
        // The same bytes again are nothing new, unless somebody touched the file to have it tried again.
        let known = folder.known(file);
        let asks = touched && (known.refused.is_some() || known.plugin.is_none() || self.store.plugin_registry().is_some());
        let passed = is_same && !asks || self.take(file, bytes, digest, folder).await?;
        folder.known(file).read = passed.then_some(Read { stamp, settled, digest });
        Ok(())
    }

    /// Loads the content of one file and swaps it in, or notes why not. Returns whether that is settled until the file changes.
    async fn take(&self, file: &str, bytes: Vec<u8>, digest: Digest, folder: &mut Folder) -> Result<bool, store::Error> {
        if folder.looked {
            // Whoever writes a file while the engine runs wants it tried.
            self.cache.forgive(&digest);
        }
        let loaded = match self.load(&bytes) {
            Ok(loaded) => loaded,
            Err(NotLoaded { reason, passes }) => {
                self.refuse(file, reason, folder).await?;
                return Ok(!passes);
            }
        };
        let manifest = loaded.manifest().clone();
        let before = folder.known(file).plugin.take_if(|before| before.name != manifest.name);
        folder.vacated.extend(before.map(|before| (file.to_owned(), before)));
        if let Some(other) = folder.provider(&manifest.name, file) {
            let reason = format!("plugin {} is provided by {other} already; remove one of the two files", manifest.name);
            folder.known(file).wants = Some(manifest.name);
            self.refuse(file, reason, folder).await?;
            return Ok(true);
        }

        let provided = Provided { name: manifest.name.clone(), version: digest };
        let row = PluginRow {
            name: manifest.name.clone(),
            version: digest,
            author_version: manifest.version,
            description: manifest.description,
            on: manifest.on.iter().map(ToString::to_string).collect(),
            file: file.to_owned(),
            bytes: loaded.bytes_len() as u64,
            config: Default::default(),
        };
        let mut is_used = true;
        if let Some(registry) = self.store.plugin_registry() {
            let seen = if folder.looked { FileSeen::Written } else { FileSeen::AtStart };
            is_used = registry.publish(row.clone(), bytes, seen).await? != Published::Outdated;
        } else {
            self.store.remember_plugin(row.clone()).await?;
        }
        if is_used {
            self.serve(row, loaded).await?;
        } else {
            tracing::warn!(
                plugin = %row.name,
                version = %row.version.short(),
                file,
                "plugin file is not used: the nodes have had this version and no longer serve it; to serve it again, write the file \
                 anew (touch is enough) while the engine runs"
            );
        }
        let name = provided.name.clone();
        let known = folder.known(file);
        (known.plugin, known.wants, known.refused) = (Some(provided), None, None);
        // A file that provided the plugin before it was broken or removed has lost it.
        for (other, known) in folder.files.iter_mut().filter(|(other, _)| *other != file) {
            if known.plugin.take_if(|provided| provided.name == name).is_some() {
                self.change_plugins(|table| table.set_broken(other, known.refused.clone()));
            }
        }
        self.change_plugins(|table| table.set_broken(file, None));
        Ok(true)
    }

    /// Swaps a version in.
    pub(super) async fn serve(&self, row: PluginRow, loaded: Plugin) -> Result<(), store::Error> {
        let stored = self.store.plugins().await?.into_iter().find(|stored| stored.name == row.name);
        let config = stored.map(|stored| stored.config).unwrap_or_default();
        let serving = self.plugins().get(&row.name).cloned();
        let was = serving.as_ref().map(|entry| entry.row.version);
        // The same version from another file, or again: what is known of its pace stays known.
        let same = serving.filter(|entry| matches!(entry.state, PluginState::Serving(_)) && entry.row.version == row.version);
        let bytes = loaded.bytes_len();
        self.change_plugins(|table| {
            table.insert(PluginEntry {
                meters: meters().plugin(&row.name),
                row: PluginRow { config: config.clone(), ..row.clone() },
                on: loaded.manifest().on.clone(),
                pace: same.as_ref().map_or_else(Arc::default, |entry| Arc::clone(&entry.pace)),
                state: PluginState::Serving(Arc::new(loaded)),
                config: Arc::new(config),
                refused: None,
            });
        });
        let driven = self.store.requeue_not_loadable(&row.name, clock::steady()).await?;
        tracing::info!(plugin = %row.name, version = %row.version.short(), file = row.file, driven, "plugin serves");
        let plugin = row.name.to_string();
        self.feed.tell(|| News::PluginServes { plugin, version: row.version, was: was.filter(|was| *was != row.version), bytes });
        Ok(())
    }

    /// Loads bytes. Where the cache does not know them they are compiled, which takes as long as it takes: never on the threads that
    /// serve sockets.
    pub(super) fn load(&self, bytes: &[u8]) -> Result<Plugin, NotLoaded> {
        Ok(tokio::task::block_in_place(|| self.sandbox.load(bytes, &self.cache))?)
    }

    /// Refuses what is too long before it is read.
    pub(super) fn check_len(&self, len: u64) -> Result<(), String> {
        let limit = self.sandbox.plugin_bytes_max() as u64;
        if len > limit {
            return Err(format!("it has {len} bytes, more than the {limit} that a plugin may have"));
        }
        Ok(())
    }

    /// Notes why a file is not used. What served goes on serving; what served in an earlier life of the engine still matches.
    async fn refuse(&self, file: &str, reason: String, folder: &mut Folder) -> Result<(), store::Error> {
        let known = folder.known(file);
        if known.refused.as_ref() == Some(&reason) {
            // It was tried again, and said so before.
            return Ok(());
        }
        let before = known.plugin.clone();
        tracing::error!(file, reason, "plugin file is not loaded");
        let table = self.plugins();
        let entry = before.as_ref().and_then(|plugin| table.get(&plugin.name));
        let keeps = entry.filter(|entry| matches!(entry.state, PluginState::Serving(_))).map(|entry| entry.row.version);
        let message = reason.clone();
        self.feed.tell(|| News::PluginFailed { file: file.to_owned(), keeps, message });
        if let Some(entry) = entry {
            self.change_plugins(|table| table.set_refused(&entry.row.name, Some(reason.clone())));
        } else {
            let served = match self.store.plugin_registry() {
                None => self.store.plugins().await?.into_iter().find(|row| row.file == file),
                // What served serves on, whatever lies in this folder.
                Some(_) => None,
            };
            match served.filter(|row| table.get(&row.name).is_none() && known.wants.is_none()) {
                Some(row) => {
                    known.plugin = Some(Provided { name: row.name.clone(), version: row.version });
                    self.set_not_loadable(row, reason.clone());
                }
                None => self.change_plugins(|table| table.set_broken(file, Some(reason.clone()))),
            }
        }
        known.refused = Some(reason);
        Ok(())
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

    /// Takes a plugin out that no file provides any more.
    async fn take_out(&self, file: &str, plugin: &Provided) -> Result<(), store::Error> {
        if let Some(registry) = self.store.plugin_registry() {
            // Where another version was written meanwhile, that one serves on.
            registry.withdraw(&plugin.name, plugin.version).await?;
            return Ok(());
        }
        self.change_plugins(|table| table.remove(&plugin.name));
        tracing::info!(plugin = %plugin.name, file, "plugin file was removed; the plugin serves no more");
        self.feed.tell(|| News::PluginGone { plugin: plugin.name.to_string() });
        Ok(())
    }
}

fn unreadable(error: &io::Error) -> String {
    format!("it cannot be read: {error}. It is tried again every {} s", POLL.as_secs())
}

/// The names that end in `.wasm` in a folder, in their order.
fn list(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<OsString> = names.collect::<io::Result<_>>()?;
    let is_plugin = |name: &String| !name.starts_with('.') && name.ends_with(".wasm");
    let mut found: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).filter(is_plugin).collect();
    found.sort();
    Ok(found)
}
