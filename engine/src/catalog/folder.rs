//! The plugin folder: loads its files and makes them serve. Changes are found by notification and, because notifications can be
//! lost, by a slow poll.
//!
//! A file is read once its writer seems finished. It is hashed, and loaded completely outside of the async threads, one file at a
//! time, before it serves. A file that vanishes and comes back within [`SETTLE`] was replaced, not removed. Only its content
//! identifies a file; its time and length only show when to read it again. An unreadable file is tried again at every scan.
//!
//! Exactly one file provides a plugin. If two files hold the same plugin, the one that already serves continues. The other
//! replaces it once the first is removed, broken or another plugin.
//!
//! With many nodes, the store decides which version serves, and the folder reports to it ([`PluginRegistry`](crate::store::PluginRegistry)): a
//! written file is published, and a removed file withdraws its version. `follow.rs` handles changes of other nodes.

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
    domain::{name::Slug, pattern::Pattern, plugin::Digest, setting},
    metrics::meters,
    news::News,
    sandbox::{LoadError, Plugin},
    store::{self, FileSeen, PluginRow, Published},
};

/// How long a file may be missing before its plugin stops serving.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the folder must be unchanged before it is scanned: files arrive in pieces.
const QUIET: Duration = Duration::from_millis(200);
/// After this time a folder is scanned even if it still changes.
const UNQUIET_MAX: Duration = Duration::from_secs(1);
/// Interval of scans without notifications.
const POLL: Duration = Duration::from_secs(5);

/// State of one file.
#[derive(Default)]
struct Known {
    /// The last content. `None`: unreadable, or to be tried again, so every scan reads the file.
    read: Option<Read>,
    /// The plugin that it provides, in the version that loaded last.
    plugin: Option<Provided>,
    /// The plugin that it would provide if no other file did.
    wants: Option<Slug>,
    /// Why its current content is not used.
    refused: Option<String>,
    missing_since: Option<Instant>,
}

/// The content that was read of a file, as far as its metadata shows.
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

/// State of the folder at the last scan.
#[derive(Default)]
pub struct Folder {
    files: BTreeMap<String, Known>,
    /// Plugins whose files were removed or became other plugins. They stop serving unless another file provides them.
    vacated: Vec<(String, Provided)>,
    /// Whether the folder was scanned before: files found at the first scan may be old.
    scanned: bool,
    /// Versions published by other nodes that do not load here. They are not tried repeatedly.
    pub(super) failed: HashMap<Slug, Digest>,
    /// Serving versions of other nodes whose parked runs still have to be requeued.
    pub(super) not_requeued: HashSet<Slug>,
}

/// Why bytes did not become a plugin.
pub(super) struct NotLoaded {
    pub reason: String,
    /// Whether the same bytes may load next time.
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

/// Follows the folder until `stop`. `folder` has the result of the first scan.
pub async fn watch(catalog: Arc<Catalog>, mut folder: Folder, stop: CancellationToken) {
    let (changed, mut changes) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |_| {
        // A full channel already holds a notification.
        let _ = changed.try_send(());
    });
    // Without notifications (some file systems have none) only the poll finds changes.
    let mut watcher = watcher.inspect_err(|error| tracing::warn!(%error, "plugin folder is polled, not watched")).ok();
    if let Some(watcher) = &mut watcher
        && let Err(error) = watcher.watch(&catalog.folder, notify::RecursiveMode::NonRecursive)
    {
        tracing::warn!(%error, "plugin folder is polled, not watched");
    }
    // Scans at once, because the folder may have changed before it was watched.
    let mut scan = true;
    let mut scanned_at = Instant::now();
    loop {
        if scan {
            scanned_at = Instant::now();
            if let Err(error) = catalog.scan(&mut folder).await {
                tracing::error!(%error, "plugin folder could not be synchronized with the store; retrying");
            }
        }
        if let Err(error) = catalog.follow(&mut folder).await {
            tracing::debug!(%error, "plugins could not be synchronized with the store; retrying");
        }
        scan = tokio::select! {
            () = stop.cancelled() => return,
            Some(()) = changes.recv() => {
                let began = Instant::now();
                while began.elapsed() < UNQUIET_MAX && matches!(tokio::time::timeout(QUIET, changes.recv()).await, Ok(Some(()))) {}
                true
            }
            // Does not scan the folder, where a file may be half written.
            () = catalog.plugins_changed.notified() => false,
            () = tokio::time::sleep(folder.next_scan().saturating_sub(scanned_at.elapsed())) => true,
        };
    }
}

impl Folder {
    /// Returns the time of the next scan; a missing file is checked as soon as its time is over.
    fn next_scan(&self) -> Duration {
        let missing = self.files.values().filter_map(|known| known.missing_since);
        missing.map(|since| SETTLE.saturating_sub(since.elapsed())).min().unwrap_or(POLL).clamp(QUIET, POLL)
    }

    /// Returns the other file whose current content provides a plugin, if any.
    fn provider(&self, plugin: &Slug, except: &str) -> Option<&str> {
        let provides = |known: &Known| {
            known.refused.is_none()
                && known.missing_since.is_none()
                && known.plugin.as_ref().is_some_and(|provided| provided.name == *plugin)
        };
        self.files.iter().find(|(file, known)| *file != except && provides(known)).map(|(file, _)| file.as_str())
    }

    /// Returns whether a file concerns a plugin: it provides the plugin, provided it before it was broken, or is missing for a
    /// moment.
    fn holds(&self, plugin: &Slug) -> bool {
        self.files.values().any(|known| known.plugin.as_ref().is_some_and(|provided| provided.name == *plugin))
    }

    /// Returns a file that waits for a plugin's name and may get it now. A providing file that is missing may be about to be
    /// replaced.
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
    /// Updates the plugins from the folder. After the first scan every file has loaded or failed.
    pub async fn scan(&self, folder: &mut Folder) -> Result<(), store::Error> {
        let mut found = match list(&self.folder) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(folder = %self.folder.display(), %error, "plugin folder cannot be read; serving versions keep serving");
                return Ok(());
            }
        };
        if !folder.scanned {
            // Of two files with the same plugin, the one that already serves continues.
            let served: HashSet<String> = self.store.plugins().await?.into_iter().map(|row| row.file).collect();
            found.sort_by_key(|file| !served.contains(file));
        }
        // Done first, so that a renamed file does not compete with itself.
        for (file, known) in &mut folder.files {
            match found.contains(file) {
                true => known.missing_since = None,
                false => known.missing_since = known.missing_since.or_else(|| Some(Instant::now())),
            }
        }
        for file in &found {
            self.check(file, folder).await?;
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
            self.check(&heir, folder).await?;
        }
        while let Some((file, plugin)) = folder.vacated.last().cloned() {
            if !folder.holds(&plugin.name) {
                self.take_out(&file, &plugin).await?;
            }
            folder.vacated.pop();
        }
        folder.scanned = true;
        Ok(())
    }

    /// Checks one file, and loads new content.
    async fn check(&self, file: &str, folder: &mut Folder) -> Result<(), store::Error> {
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
            // Another process writes to it; the file is checked again when that is over.
            Ok(None) => return Ok(()),
            Err(error) => return self.refuse(file, unreadable(&error), folder).await,
        };
        let Content { bytes, digest, stamp, settled } = content;
        let is_same = before.is_some_and(|read| read.digest == digest);
        // The same bytes change nothing, unless a person touched the file so that it is tried again.
        let known = folder.known(file);
        let asks = touched && (known.refused.is_some() || known.plugin.is_none() || self.store.plugin_registry().is_some());
        let passed = is_same && !asks || self.take(file, bytes, digest, folder).await?;
        folder.known(file).read = passed.then_some(Read { stamp, settled, digest });
        Ok(())
    }

    /// Loads the content of one file and serves it, or records why not. Returns whether the result is final until the file
    /// changes.
    async fn take(&self, file: &str, bytes: Vec<u8>, digest: Digest, folder: &mut Folder) -> Result<bool, store::Error> {
        if folder.scanned {
            // A file that is written while the engine runs is tried in any case.
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
            let reason = format!("plugin {} is already provided by {other}; remove one of the two files", manifest.name);
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
            revision: 0,
        };
        let mut is_used = true;
        if let Some(registry) = self.store.plugin_registry() {
            let seen = if folder.scanned { FileSeen::Written } else { FileSeen::AtStart };
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
                "plugin file is not used: the nodes had this version and no longer serve it; to serve it again, write the file \
                 again (touch is enough) while the engine runs"
            );
        }
        let name = provided.name.clone();
        let known = folder.known(file);
        (known.plugin, known.wants, known.refused) = (Some(provided), None, None);
        // A file that provided the plugin before it was broken or removed no longer does.
        for (other, known) in folder.files.iter_mut().filter(|(other, _)| *other != file) {
            if known.plugin.take_if(|provided| provided.name == name).is_some() {
                self.change_plugins(|table| table.set_broken(other, known.refused.clone()));
            }
        }
        self.change_plugins(|table| table.set_broken(file, None));
        Ok(true)
    }

    /// Makes a version serve.
    pub(super) async fn serve(&self, row: PluginRow, loaded: Plugin) -> Result<(), store::Error> {
        let stored = self.store.plugins().await?.into_iter().find(|stored| stored.name == row.name);
        let (config, revision) = stored.map(|stored| (stored.config, stored.revision)).unwrap_or_default();
        let serving = self.plugins().get(&row.name).cloned();
        let was = serving.as_ref().map(|entry| entry.row.version);
        // The same version from another file keeps its measured pace.
        let same = serving.filter(|entry| matches!(entry.state, PluginState::Serving(_)) && entry.row.version == row.version);
        let bytes = loaded.bytes_len();
        let settings = loaded.manifest().settings.clone();
        for misfit in setting::misfits(&settings, &config) {
            tracing::warn!(plugin = %row.name, setting = misfit.name, reason = misfit.detail, "plugin setting does not fit");
        }
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
        let driven = self.store.requeue_not_loadable(&row.name, clock::steady()).await?;
        tracing::info!(plugin = %row.name, version = %row.version.short(), file = row.file, driven, "plugin serves");
        let plugin = row.name.to_string();
        self.feed.send(|| News::PluginServes { plugin, version: row.version, was: was.filter(|was| *was != row.version), bytes });
        Ok(())
    }

    /// Loads bytes. Without a cached result they are compiled, which can take long, so never on the threads that serve sockets.
    pub(super) fn load(&self, bytes: &[u8]) -> Result<Plugin, NotLoaded> {
        Ok(tokio::task::block_in_place(|| self.sandbox.load(bytes, &self.cache))?)
    }

    /// Refuses a file that is too large before it is read.
    pub(super) fn check_len(&self, len: u64) -> Result<(), String> {
        let limit = self.sandbox.plugin_bytes_max() as u64;
        if len > limit {
            return Err(format!("it has {len} bytes, more than the limit of {limit}"));
        }
        Ok(())
    }

    /// Records why a file is not used. The serving version keeps serving; a version from before the restart still matches.
    async fn refuse(&self, file: &str, reason: String, folder: &mut Folder) -> Result<(), store::Error> {
        let known = folder.known(file);
        if known.refused.as_ref() == Some(&reason) {
            // A repeated failure was already logged.
            return Ok(());
        }
        let before = known.plugin.clone();
        tracing::error!(file, reason, "plugin file is not loaded");
        let table = self.plugins();
        let entry = before.as_ref().and_then(|plugin| table.get(&plugin.name));
        let keeps = entry.filter(|entry| matches!(entry.state, PluginState::Serving(_))).map(|entry| entry.row.version);
        let message = reason.clone();
        self.feed.send(|| News::PluginFailed { file: file.to_owned(), keeps, message });
        if let Some(entry) = entry {
            self.change_plugins(|table| table.set_refused(&entry.row.name, Some(reason.clone())));
        } else {
            let served = match self.store.plugin_registry() {
                None => self.store.plugins().await?.into_iter().find(|row| row.file == file),
                // The serving version continues, regardless of this folder.
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

    /// Sets a plugin as not loadable. It matches by its last manifest; its runs are parked until it loads.
    pub(super) fn set_not_loadable(&self, row: PluginRow, reason: String) {
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

    /// Removes a plugin that no file provides any more.
    async fn take_out(&self, file: &str, plugin: &Provided) -> Result<(), store::Error> {
        if let Some(registry) = self.store.plugin_registry() {
            // If another version was written meanwhile, it keeps serving.
            registry.withdraw(&plugin.name, plugin.version).await?;
            return Ok(());
        }
        self.change_plugins(|table| table.remove(&plugin.name));
        tracing::info!(plugin = %plugin.name, file, "plugin no longer serves: its file was removed");
        self.feed.send(|| News::PluginGone { plugin: plugin.name.to_string() });
        Ok(())
    }
}

fn unreadable(error: &io::Error) -> String {
    format!("it cannot be read: {error}. The engine retries every {} s", POLL.as_secs())
}

/// Lists the names in a folder that end in `.wasm`, sorted.
fn list(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<OsString> = names.collect::<io::Result<_>>()?;
    let is_plugin = |name: &String| !name.starts_with('.') && name.ends_with(".wasm");
    let mut found: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).filter(is_plugin).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The role of a file in the folder.
    #[derive(Clone, Copy)]
    enum Is {
        /// It provides the plugin.
        Provider,
        /// It provided the plugin until its content was broken.
        Broken,
        /// It provided the plugin, and is missing for a moment.
        Missing,
        /// It holds the plugin too, but another file provided the plugin when this one was read.
        Rival,
        /// As [`Self::Rival`], and missing.
        MissingRival,
        /// It provides another plugin.
        Other,
    }

    fn folder(files: &[(&str, Is)]) -> Folder {
        let plugin = |name: &str| Slug::parse(name).unwrap();
        let provided = |name: &str| Some(Provided { name: plugin(name), version: Digest::of(b"") });
        let known = |is| match is {
            Is::Provider => Known { plugin: provided("crm"), ..Known::default() },
            Is::Broken => Known { plugin: provided("crm"), refused: Some("it is not WebAssembly".into()), ..Known::default() },
            Is::Missing => Known { plugin: provided("crm"), missing_since: Some(Instant::now()), ..Known::default() },
            Is::Rival => Known { wants: Some(plugin("crm")), refused: Some("already provided".into()), ..Known::default() },
            Is::MissingRival => Known { wants: Some(plugin("crm")), missing_since: Some(Instant::now()), ..Known::default() },
            Is::Other => Known { plugin: provided("other"), ..Known::default() },
        };
        Folder { files: files.iter().map(|(file, is)| ((*file).to_owned(), known(*is))).collect(), ..Folder::default() }
    }

    /// Cases: files that hold the same plugin, after removals, renames and broken writes.
    #[test]
    fn of_rival_files_one_provides_the_plugin_and_the_next_inherits_it() {
        use Is::{Broken, Missing, MissingRival, Other, Provider, Rival};
        for (what, files, provider, heir, holds) in [
            ("one file", &[("a", Provider)][..], Some("a"), None, true),
            ("two rivals", &[("a", Rival), ("b", Provider)], Some("b"), None, true),
            ("the provider was removed", &[("a", Rival)], None, Some("a"), false),
            ("it was removed, and two wait", &[("a", Rival), ("b", Rival)], None, Some("a"), false),
            ("it is being replaced", &[("a", Rival), ("b", Missing)], None, None, true),
            ("it was replaced by something broken", &[("a", Rival), ("b", Broken)], None, Some("a"), true),
            ("it became another plugin", &[("a", Rival), ("b", Other)], None, Some("a"), false),
            ("renamed: the old name is missing, the new one is read", &[("a", Missing), ("b", Provider)], Some("b"), None, true),
            ("the rival was removed", &[("a", MissingRival), ("b", Provider)], Some("b"), None, true),
            ("both were removed", &[("a", MissingRival), ("b", Missing)], None, None, true),
            ("broken alone: its last version keeps serving", &[("a", Broken)], None, None, true),
            ("nothing", &[], None, None, false),
        ] {
            let (folder, plugin) = (folder(files), Slug::parse("crm").unwrap());
            assert_eq!(folder.provider(&plugin, ""), provider, "{what}");
            assert_eq!(folder.heir().as_deref(), heir, "{what}");
            assert_eq!(folder.holds(&plugin), holds, "{what}");
        }
        assert_eq!(folder(&[("a", Provider)]).provider(&Slug::parse("crm").unwrap(), "a"), None, "no rival of itself");
        assert_eq!(folder(&[("a", Provider)]).next_scan(), POLL);
        assert!(folder(&[("a", Missing)]).next_scan() <= SETTLE, "a missing file is checked as soon as its time is over");
    }

    /// Cases: what editors, copy programs and mounts leave in a folder.
    #[test]
    fn only_visible_wasm_files_are_plugins() {
        let home = tempfile::tempdir().unwrap();
        for name in [
            "b.wasm",
            "a.wasm",
            // The folder of a mounted ConfigMap, which Kubernetes exchanges.
            "..data.wasm",
            // Drafts of rsync, vim, Emacs and of copies in progress.
            ".a.wasm.Xq81Zb",
            ".a.wasm",
            ".a.wasm.swp",
            "a.wasm~",
            "#a.wasm#",
            "a.wasm.part",
            "a.wasm.tmp",
            "a.WASM",
            "a.wat",
            "wasm",
        ] {
            fs::write(home.path().join(name), b"").unwrap();
        }
        assert_eq!(list(home.path()).unwrap(), ["a.wasm", "b.wasm"]);
        assert!(list(&home.path().join("missing")).is_err());
    }
}
