//! A snapshot of the plugins: by name, and by the event types that they run on.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::Pace;
use crate::{
    domain::{
        name::Slug,
        pattern::{Pattern, PatternIndex},
        plugin::Halt,
        setting::{self, Setting},
    },
    metrics::PluginMeters,
    sandbox::Plugin,
    store::PluginRow,
};

/// Whether a plugin can run.
#[derive(Clone)]
pub enum PluginState {
    Serving(Arc<Plugin>),
    /// Why its file does not load. The plugin still matches the patterns of its last manifest; its runs are parked until it
    /// loads.
    NotLoadable(String),
}

/// One plugin.
#[derive(Clone)]
pub struct PluginEntry {
    /// The stored row of the version that serves, or served last.
    pub row: PluginRow,
    pub on: Vec<Pattern>,
    pub state: PluginState,
    /// The settings that it declares. Empty while it does not load.
    pub settings: Vec<Setting>,
    /// The settings that a run reads: the stored ones and the declared defaults.
    pub config: Arc<BTreeMap<String, String>>,
    pub pace: Arc<Pace>,
    pub meters: Arc<PluginMeters>,
    /// Why a newer file is not used while this version serves.
    pub refused: Option<String>,
}

/// Every plugin, and the files that are not plugins.
#[derive(Clone, Default)]
pub struct PluginTable {
    entries: BTreeMap<Slug, Arc<PluginEntry>>,
    /// File name → why it is not a plugin.
    broken: BTreeMap<String, String>,
    order: Vec<Slug>,
    index: PatternIndex<usize>,
}

impl PluginTable {
    pub fn get(&self, name: &str) -> Option<&Arc<PluginEntry>> {
        self.entries.get(&Slug::parse(name).ok()?)
    }

    /// Returns the plugins that run on this event type, ordered by name.
    pub fn matching(&self, event_type: &str) -> impl Iterator<Item = &Arc<PluginEntry>> {
        self.index.matching(event_type).into_iter().filter_map(|place| self.entries.get(&self.order[place]))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<PluginEntry>> {
        self.entries.values()
    }

    /// Returns the files that are not plugins, with the reason.
    pub fn broken(&self) -> impl Iterator<Item = (&str, &str)> {
        self.broken.iter().map(|(file, reason)| (file.as_str(), reason.as_str()))
    }

    pub(super) fn insert(&mut self, entry: PluginEntry) {
        self.broken.remove(&entry.row.file);
        self.entries.insert(entry.row.name.clone(), Arc::new(entry));
        self.reindex();
    }

    pub(super) fn remove(&mut self, name: &Slug) {
        self.entries.remove(name);
        self.reindex();
    }

    pub(super) fn set_broken(&mut self, file: &str, reason: Option<String>) {
        match reason {
            Some(reason) => self.broken.insert(file.to_owned(), reason),
            None => self.broken.remove(file),
        };
    }

    pub(super) fn set_refused(&mut self, name: &Slug, reason: Option<String>) {
        self.change(name, |entry| entry.refused = reason);
    }

    /// Sets the name of the file that proposed a plugin last.
    pub(super) fn set_file(&mut self, name: &Slug, file: &str) {
        self.change(name, |entry| file.clone_into(&mut entry.row.file));
    }

    pub(super) fn set_halt(&mut self, name: &Slug, halt: Option<Halt>) {
        self.change(name, |entry| entry.row.halt = halt);
        self.reindex();
    }

    pub(super) fn set_config(&mut self, name: &Slug, revision: i64, config: BTreeMap<String, String>) {
        self.change(name, |entry| {
            entry.config = Arc::new(setting::effective(&entry.settings, &config));
            (entry.row.config, entry.row.revision) = (config, revision);
        });
    }

    fn change(&mut self, name: &Slug, change: impl FnOnce(&mut PluginEntry)) {
        if let Some(entry) = self.entries.get_mut(name) {
            let mut changed = PluginEntry::clone(entry);
            change(&mut changed);
            *entry = Arc::new(changed);
        }
    }

    fn reindex(&mut self) {
        self.order = self.entries.keys().cloned().collect();
        self.index = PatternIndex::default();
        let places: HashMap<&Slug, usize> = self.order.iter().enumerate().map(|(place, name)| (name, place)).collect();
        for (name, entry) in self.entries.iter().filter(|(_, entry)| entry.row.halt != Some(Halt::Disabled)) {
            for pattern in &entry.on {
                self.index.insert(pattern, places[name]);
            }
        }
    }
}
