//! The plugin folder: its files propose versions of plugins to the store, which decides which version serves
//! ([`PluginRegistry`](crate::store::PluginRegistry)). Changes are found by notification and, because notifications can be lost,
//! by a slow poll.
//!
//! A file is read once its writer seems finished. It is hashed and loaded before it is proposed, one file at a time, and never on
//! the threads that serve sockets. A file that vanishes and comes back within [`SETTLE`] was replaced, not removed. Only its
//! content identifies a file; its time and length only show when to read it again. An unreadable file is tried again at every
//! scan.
//!
//! A removed file changes nothing. The exception is `innesco dev`: its plugin folder holds only plugins that the command built, so
//! a plugin stops serving there when its file is removed.

use std::{
    collections::BTreeMap,
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
    Catalog, PluginState,
    file::{Content, PluginFile, Stamp, Unopened},
};
use crate::{
    clock,
    domain::{
        name::Slug,
        plugin::{Digest, Way},
    },
    news::News,
    sandbox::{LoadError, Plugin},
    store::{self, NewAudit, NewVersion, PluginRow, Proposal, Published},
};

/// How long a file may be missing before it counts as removed.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the folder must be unchanged before it is scanned, because files arrive in pieces.
const QUIET: Duration = Duration::from_millis(200);
/// After this time a folder is scanned even if it still changes.
const UNQUIET_MAX: Duration = Duration::from_secs(1);
/// Interval between scans while no notification arrives.
const POLL: Duration = Duration::from_secs(5);

/// State of one file in the folder.
#[derive(Default)]
struct Known {
    /// The last content. `None` if the file is unreadable or must be tried again; every scan then reads the file.
    read: Option<Read>,
    /// The plugin in the content that loaded last.
    plugin: Option<Slug>,
    /// Why its current content is not used.
    refused: Option<String>,
    missing_since: Option<Instant>,
}

/// The last reading of a file: its metadata and the digest of its content.
#[derive(Clone, Copy)]
struct Read {
    stamp: Stamp,
    /// Whether the file need not be read again while it has the same stamp.
    settled: bool,
    digest: Digest,
}

/// State of the folder at the last scan.
#[derive(Default)]
pub struct Folder {
    files: BTreeMap<String, Known>,
    /// Whether the folder was scanned before: files found at the first scan may be old.
    scanned: bool,
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
        && let Err(error) = watcher.watch(&catalog.options.folder, notify::RecursiveMode::NonRecursive)
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
        if let Err(error) = catalog.follow().await {
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
    /// Returns the time from one scan to the next if no notification arrives. It is short while a file is missing, because the file
    /// may come back.
    fn next_scan(&self) -> Duration {
        let missing = self.files.values().filter_map(|known| known.missing_since);
        missing.map(|since| SETTLE.saturating_sub(since.elapsed())).min().unwrap_or(POLL).clamp(QUIET, POLL)
    }

    /// Returns another file with this plugin, if any.
    fn other_file(&self, plugin: &Slug, except: &str) -> Option<&str> {
        let has =
            |known: &Known| known.missing_since.is_none() && known.refused.is_none() && known.plugin.as_ref() == Some(plugin);
        self.files.iter().find(|(file, known)| *file != except && has(known)).map(|(file, _)| file.as_str())
    }

    fn known(&mut self, file: &str) -> &mut Known {
        self.files.entry(file.to_owned()).or_default()
    }
}

impl Catalog {
    /// Proposes new versions from the folder. After the first scan every file has loaded or failed. [`Self::follow`] then
    /// serves the versions that the store accepted.
    pub async fn scan(&self, folder: &mut Folder) -> Result<(), store::Error> {
        let found = match list(&self.options.folder) {
            Ok(found) => found,
            Err(error) => {
                let folder = self.options.folder.display();
                tracing::error!(%folder, %error, "plugin folder cannot be read; serving versions keep serving");
                return Ok(());
            }
        };
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
            self.clear_refusal(&file, folder);
            let plugin = folder.known(&file).plugin.clone();
            if let Some(plugin) = plugin.filter(|plugin| folder.other_file(plugin, &file).is_none()) {
                self.file_was_removed(&file, &plugin).await?;
            }
            folder.files.remove(&file);
        }
        if !folder.scanned && self.options.way == Way::Dev {
            let is_gone = |row: &&PluginRow| !row.file.is_empty() && !found.contains(&row.file);
            for row in self.store.serving().await?.iter().filter(is_gone) {
                self.store.withdraw(&row.name, row.version, clock::wall()).await?;
            }
        }
        folder.scanned = true;
        Ok(())
    }

    /// Checks one file, and proposes new content.
    async fn check(&self, file: &str, folder: &mut Folder) -> Result<(), store::Error> {
        let before = folder.known(file).read.take();
        let opened = match PluginFile::open(&self.options.folder, file) {
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
            // Another process is writing the file, which is checked again afterwards.
            Ok(None) => return Ok(()),
            Err(error) => return self.refuse(file, unreadable(&error), folder).await,
        };
        let Content { bytes, digest, stamp, settled } = content;
        // A touched file is proposed again, even with the same bytes.
        let is_same = before.is_some_and(|read| read.digest == digest);
        let passed = is_same && !touched || self.take(file, bytes, digest, folder).await?;
        folder.known(file).read = passed.then_some(Read { stamp, settled, digest });
        Ok(())
    }

    /// Proposes the content of one file, or records why it is not used. Returns whether the result is final until the file
    /// changes.
    async fn take(&self, file: &str, bytes: Vec<u8>, digest: Digest, folder: &mut Folder) -> Result<bool, store::Error> {
        let proposal = match (folder.scanned, self.options.way) {
            (false, Way::File | Way::Upload) => Proposal::AtStart,
            (true, _) | (false, Way::Dev) => Proposal::Serve,
        };
        if proposal == Proposal::AtStart
            && let Some(plugin) = self.store.plugin_of(digest).await?
        {
            if self.plugins().get(&plugin).is_none_or(|entry| entry.row.version != digest) {
                let version = digest.short();
                tracing::warn!(
                    %plugin,
                    version,
                    file,
                    "plugin file is not used: this version is known and does not serve; to serve it again, run innesco plugin \
                     promote, or write the file again (touch is enough) while the engine runs"
                );
            }
            folder.known(file).plugin = Some(plugin);
            return Ok(true);
        }
        if folder.scanned {
            // A file that is written while the engine runs is tried again, even if its bytes did not load before.
            self.cache.forgive(&digest);
        }
        let loaded = match self.load(&bytes) {
            Ok(loaded) => loaded,
            Err(NotLoaded { reason, passes }) => {
                self.refuse(file, reason, folder).await?;
                return Ok(!passes);
            }
        };
        let new = NewVersion {
            plugin: row_of(&loaded, file, bytes.len()),
            file: bytes,
            way: self.options.way,
            by: self.options.folder.display().to_string(),
            at: clock::wall(),
        };
        let name = new.plugin.name.clone();
        self.publish_audited(new, proposal).await?;
        self.forgive(&name).await;
        if folder.scanned {
            // Makes the version serve before the other files of this scan are loaded.
            self.follow().await?;
        }
        self.clear_refusal(file, folder);
        folder.known(file).plugin = Some(name.clone());
        if let Some(other) = folder.other_file(&name, file) {
            tracing::warn!(plugin = %name, file, other, "two files have the same plugin: the one written last serves; remove the other");
        }
        Ok(true)
    }

    /// Proposes a version. If it begins to serve, adds an entry to the audit trail.
    async fn publish_audited(&self, new: NewVersion, proposal: Proposal) -> Result<(), store::Error> {
        let (plugin, version) = (new.plugin.name.to_string(), new.plugin.version);
        let entry =
            NewAudit { at: new.at, key: new.by.clone(), action: "plugin.version".to_owned(), target: Some(plugin.clone()) };
        let entry = self.store.begin_audit(entry).await?;
        match self.store.publish(new, proposal, self.options.versions).await {
            Ok(Published::Serves { from }) => {
                self.store.finish_audit(entry, 200, None, Some(vec![version_change(from, Some(version))])).await
            }
            Ok(Published::Unchanged | Published::Candidate | Published::Outdated) => self.store.withdraw_audit(entry).await,
            Err(error) => {
                self.store.withdraw_audit(entry).await?;
                Err(error)
            }
        }
    }

    /// Loads the bytes of a plugin. Compiles them if no result is cached. Never called on the threads that serve sockets, because
    /// compiling can take long.
    pub(super) fn load(&self, bytes: &[u8]) -> Result<Plugin, NotLoaded> {
        Ok(tokio::task::block_in_place(|| self.sandbox.load(bytes, &self.cache))?)
    }

    /// Loads a version whose compiled code is cached. So its file need not be read from the store and hashed.
    pub(super) fn load_cached(&self, version: &Digest) -> Result<Option<Plugin>, NotLoaded> {
        Ok(tokio::task::block_in_place(|| self.sandbox.load_cached(version, &self.cache))?)
    }

    /// Refuses a file that is too large before it is read.
    pub(super) fn check_len(&self, len: u64) -> Result<(), String> {
        let limit = self.sandbox.plugin_bytes_max() as u64;
        if len > limit {
            return Err(format!("it has {len} bytes, more than the limit of {limit}"));
        }
        Ok(())
    }

    /// Records why a file is not used. The plugin that it had before keeps serving.
    async fn refuse(&self, file: &str, reason: String, folder: &mut Folder) -> Result<(), store::Error> {
        let table = self.plugins();
        let first = !folder.scanned;
        let known = folder.known(file);
        if known.refused.as_ref() == Some(&reason) {
            // A repeated failure was already logged.
            return Ok(());
        }
        tracing::error!(file, reason, "plugin file is not loaded");
        if known.plugin.is_none() {
            known.plugin = table.iter().find(|entry| entry.row.file == file).map(|entry| entry.row.name.clone());
        }
        let serving = known.plugin.as_ref().and_then(|plugin| table.get(plugin));
        let keeps = serving.filter(|entry| matches!(entry.state, PluginState::Serving(_))).map(|entry| entry.row.version);
        let message = reason.clone();
        self.feed.send(|| News::PluginFailed { file: file.to_owned(), keeps, message });
        match serving {
            Some(entry) => self.change_plugins(|table| table.set_refused(&entry.row.name, Some(reason.clone()))),
            None if first && self.await_again(file, &reason).await? => {}
            None => self.change_plugins(|table| table.set_broken(file, Some(reason.clone()))),
        }
        folder.known(file).refused = Some(reason);
        Ok(())
    }

    /// Removes the record that a file is not used.
    fn clear_refusal(&self, file: &str, folder: &mut Folder) {
        let known = folder.known(file);
        if known.refused.take().is_some()
            && let Some(plugin) = &known.plugin
        {
            self.change_plugins(|table| table.set_refused(plugin, None));
        }
        self.change_plugins(|table| table.set_broken(file, None));
    }

    async fn file_was_removed(&self, file: &str, plugin: &Slug) -> Result<(), store::Error> {
        let table = self.plugins();
        let Some(entry) = table.get(plugin).filter(|entry| entry.row.file == file) else { return Ok(()) };
        if self.options.way == Way::Dev {
            self.store.withdraw(plugin, entry.row.version, clock::wall()).await?;
        } else {
            tracing::info!(%plugin, file, "plugin keeps serving although its file was removed; to stop it, run innesco plugin remove {plugin}");
        }
        Ok(())
    }
}

/// Returns the row of a plugin that was loaded from a file of this name and size.
pub(super) fn row_of(loaded: &Plugin, file: &str, bytes: usize) -> PluginRow {
    let manifest = loaded.manifest();
    PluginRow {
        name: manifest.name.clone(),
        version: *loaded.digest(),
        author_version: manifest.version.clone(),
        description: manifest.description.clone(),
        on: manifest.on.iter().map(ToString::to_string).collect(),
        file: file.to_owned(),
        bytes: bytes as u64,
        config: BTreeMap::new(),
        revision: 0,
        halt: None,
    }
}

/// Formats the change of the serving version for the audit trail.
pub fn version_change(from: Option<Digest>, to: Option<Digest>) -> String {
    let text = |version: Option<Digest>| version.map_or_else(|| "none".to_owned(), |version| version.to_string());
    format!("{} → {}", text(from), text(to))
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

    #[test]
    fn a_missing_file_is_checked_as_soon_as_its_time_is_over() {
        let mut folder = Folder::default();
        folder.known("a").plugin = Slug::parse("crm").ok();
        assert_eq!(folder.next_scan(), POLL);
        folder.known("a").missing_since = Some(Instant::now());
        assert!(folder.next_scan() <= SETTLE);
    }

    #[test]
    fn another_file_with_the_same_plugin_must_be_usable() {
        let crm = Slug::parse("crm").unwrap();
        let mut folder = Folder::default();
        folder.known("a").plugin = Some(crm.clone());
        assert_eq!(folder.other_file(&crm, "a"), None, "not itself");
        assert_eq!(folder.other_file(&crm, "b"), Some("a"));
        folder.known("a").refused = Some("it is not WebAssembly".into());
        assert_eq!(folder.other_file(&crm, "b"), None);
        (folder.known("a").refused, folder.known("a").missing_since) = (None, Some(Instant::now()));
        assert_eq!(folder.other_file(&crm, "b"), None);
    }

    /// The cases are names that editors, copy programs and mounts leave in a folder.
    #[test]
    fn only_visible_wasm_files_are_plugins() {
        let home = tempfile::tempdir().unwrap();
        for name in [
            "b.wasm",
            "a.wasm",
            // A mounted ConfigMap has such an entry, which Kubernetes exchanges.
            "..data.wasm",
            // Temporary files of rsync, vim, Emacs and of copies in progress.
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
