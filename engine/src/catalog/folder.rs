//! The plugin folder: what lies in it serves. Changes are seen by notification and, since those can be lost, by a slow poll.
//!
//! A file is read once its writer seems done, hashed, loaded whole off the async threads, one at a time, and only then swapped
//! in. A file that vanishes and comes back within [`SETTLE`] was replaced, not removed.

use std::{
    collections::HashMap,
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
    domain::{name::Slug, pattern::Pattern},
    metrics::meters,
    news::News,
    store::{self, Drive, PluginRow},
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
    plugin: Option<Slug>,
    missing_since: Option<Instant>,
}

/// The folder as last seen.
#[derive(Default)]
pub struct Folder {
    files: HashMap<String, Known>,
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
    loop {
        // First of all, for what changed before the folder was watched.
        if let Err(error) = catalog.scan(&mut folder).await {
            tracing::error!(%error, "the plugin folder could not be brought in line with the store; it is tried again");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            Some(()) = changes.recv() => {
                let began = Instant::now();
                while began.elapsed() < UNQUIET_MAX && matches!(tokio::time::timeout(QUIET, changes.recv()).await, Ok(Some(()))) {}
            }
            () = tokio::time::sleep(folder.next_look()) => {}
        }
    }
}

impl Folder {
    /// A missing file is looked for again as soon as its time is over.
    fn next_look(&self) -> Duration {
        let missing = self.files.values().filter_map(|known| known.missing_since);
        missing.map(|since| SETTLE.saturating_sub(since.elapsed())).min().unwrap_or(POLL).clamp(QUIET, POLL)
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
                self.take_out(&file, known.plugin.as_ref());
                folder.files.remove(&file);
            }
        }
        Ok(())
    }

    /// Loads one file and swaps it in, or notes why not. Says which plugin the file provides from now on.
    async fn take(&self, file: &str, before: Option<&Slug>, folder: &Folder) -> Result<Option<Slug>, store::Error> {
        let loaded = match self.load(file).await {
            Ok(plugin) => plugin,
            Err(reason) => return self.refuse(file, before, reason).await,
        };
        let manifest = loaded.manifest().clone();
        let rival = folder.files.iter().find(|(other, known)| {
            *other != file && known.plugin.as_ref() == Some(&manifest.name) && known.missing_since.is_none()
        });
        if let Some((other, _)) = rival
            && self.folder.join(other).exists()
        {
            let reason = format!("plugin {} is provided by {other} already; remove one of the two files", manifest.name);
            return self.refuse(file, before, reason).await;
        }
        if let Some(before) = before.filter(|before| **before != manifest.name) {
            self.take_out(file, Some(before));
        }

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
        self.store.remember_plugin(row.clone()).await?;
        let stored = self.store.plugins().await?.into_iter().find(|stored| stored.name == row.name);
        let config = stored.map(|stored| stored.config).unwrap_or_default();
        let was = self.plugins().get(&row.name).map(|entry| entry.row.version);
        let bytes = loaded.bytes_len();
        self.change_plugins(|table| {
            table.insert(PluginEntry {
                meters: meters().plugin(&row.name),
                row: PluginRow { config: config.clone(), ..row.clone() },
                on: manifest.on,
                state: PluginState::Serving(Arc::new(loaded)),
                config: Arc::new(config),
                pace: Arc::new(Pace::default()),
                refused: None,
            });
        });
        let driven = self.store.drive_parked(Drive::PluginLoaded(row.name.clone()), clock::steady()).await?;
        tracing::info!(plugin = %row.name, version = %row.version.short(), file, driven, "plugin serves");
        let plugin = row.name.to_string();
        self.feed.tell(|| News::PluginServes { plugin, version: row.version, was: was.filter(|was| *was != row.version), bytes });
        Ok(Some(row.name))
    }

    async fn load(&self, file: &str) -> Result<crate::sandbox::Plugin, String> {
        let path = self.folder.join(file);
        let limit = self.sandbox.plugin_bytes_max() as u64;
        let len = fs::metadata(&path).map_err(|error| error.to_string())?.len();
        if len > limit {
            return Err(format!("it has {len} bytes, more than the {limit} that a plugin may have"));
        }
        // Loading compiles, which takes as long as it takes: never on the threads that serve sockets.
        tokio::task::block_in_place(|| {
            let bytes = fs::read(&path).map_err(|error| error.to_string())?;
            self.sandbox.load(&bytes, &self.cache).map_err(|error| error.to_string())
        })
    }

    /// Notes why a file was not taken. What served goes on serving; what served in an earlier life of the engine still matches.
    async fn refuse(&self, file: &str, before: Option<&Slug>, reason: String) -> Result<Option<Slug>, store::Error> {
        tracing::error!(file, reason, "plugin file is not loaded");
        let table = self.plugins();
        let keeps = before
            .and_then(|name| table.get(name))
            .filter(|entry| matches!(entry.state, PluginState::Serving(_)))
            .map(|entry| entry.row.version);
        let message = reason.clone();
        self.feed.tell(|| News::PluginFailed { file: file.to_owned(), keeps, message });
        if let Some(name) = before {
            self.change_plugins(|table| table.set_refused(name, Some(reason)));
            return Ok(Some(name.clone()));
        }
        let served = self.store.plugins().await?.into_iter().find(|row| row.file == file);
        let Some(row) = served.filter(|row| self.plugins().get(&row.name).is_none()) else {
            self.change_plugins(|table| table.set_broken(file, Some(reason)));
            return Ok(None);
        };
        let name = row.name.clone();
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
        Ok(Some(name))
    }

    fn take_out(&self, file: &str, plugin: Option<&Slug>) {
        self.change_plugins(|table| {
            table.set_broken(file, None);
            if let Some(name) = plugin
                && table.get(name).is_some_and(|entry| entry.row.file == file)
            {
                table.remove(name);
            }
        });
        if let Some(name) = plugin {
            tracing::info!(plugin = %name, file, "plugin file was removed; the plugin serves no more");
            self.feed.tell(|| News::PluginGone { plugin: name.to_string() });
        }
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
