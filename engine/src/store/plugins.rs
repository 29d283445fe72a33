//! Stored plugins: the version that served last, and the configuration.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{
    Error,
    row::{Columns, Row},
};
use crate::domain::{
    name::Slug,
    plugin::{Digest, Halt},
    time::Timestamp,
};

/// Stores plugins.
#[async_trait]
pub trait Plugins {
    /// Stores the settings as a new revision, which replaces all earlier values. The plugin need not exist yet: it gets these
    /// settings once it exists. The last [`REVISIONS_MAX`] revisions stay stored. Returns the revision's number.
    ///
    /// # Errors
    /// If the commit failed.
    async fn set_plugin_config(
        &self,
        name: &Slug,
        config: BTreeMap<String, String>,
        author: String,
        at: Timestamp,
    ) -> Result<i64, Error>;

    /// Returns the settings of a plugin and their revisions. If the plugin has no settings, both are empty.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they cannot be read.
    async fn plugin_config(&self, name: &Slug) -> Result<PluginConfig, Error>;

    /// Returns the settings of one revision, which a recorded run names. Revision 0 has no settings. Returns `None` if the revision
    /// is no longer stored.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they cannot be read.
    async fn plugin_config_at(&self, name: &Slug, revision: i64) -> Result<Option<BTreeMap<String, String>>, Error>;

    /// Returns all plugins, sorted by name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn plugins(&self) -> Result<Vec<PluginRow>, Error>;
}

/// Maximum number of revisions of a plugin's settings. Operators need no older ones.
pub const REVISIONS_MAX: i64 = 100;

/// The settings of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginConfig {
    pub config: BTreeMap<String, String>,
    /// Newest first. Settings that were stored before revisions were numbered have no revision.
    pub revisions: Vec<ConfigRevision>,
}

/// Who changed the settings, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRevision {
    pub number: i64,
    pub at: Timestamp,
    /// The name of the key.
    pub author: String,
}

impl PluginConfig {
    /// The columns, in the order in which [`Self::read`] reads them.
    pub(super) const COLUMNS: &str = "plugin, revision, at, author, config";

    /// Adds a revision. Revisions are added newest first, so the values of the first one are in effect.
    pub(super) fn add(&mut self, (revision, config): (ConfigRevision, BTreeMap<String, String>)) {
        if self.revisions.is_empty() {
            self.config = config;
        }
        self.revisions.push(revision);
    }

    /// Reads the settings of a revision, if its row exists.
    pub(super) fn read_at(revision: i64, row: Option<&impl Row>) -> Result<Option<BTreeMap<String, String>>, Error> {
        match row {
            None if revision == 0 => Ok(Some(BTreeMap::new())),
            None => Ok(None),
            Some(row) => Self::read_revision(row).map(|(_, config)| Some(config)),
        }
    }

    /// Reads one revision.
    pub(super) fn read_revision(row: &impl Row) -> Result<(ConfigRevision, BTreeMap<String, String>), Error> {
        let columns = Columns::named("plugin_config", row);
        columns.word(0, "plugin", |name| Slug::parse(name).ok())?;
        let revision = ConfigRevision {
            number: columns.number(1, "revision")?,
            at: columns.time(2, "at")?,
            author: columns.text(3, "author")?.to_owned(),
        };
        Ok((revision, columns.place.json("config", columns.text(4, "config")?)?))
    }
}

/// A plugin as it is stored.
#[derive(Clone, Debug)]
pub struct PluginRow {
    pub name: Slug,
    /// The version that served last.
    pub version: Digest,
    /// The author's version, from the metadata of the file.
    pub author_version: String,
    pub description: String,
    pub on: Vec<String>,
    /// Name of the file in the plugin folder.
    pub file: String,
    pub bytes: u64,
    pub config: BTreeMap<String, String>,
    /// Number of the revision of `config`; 0 if no settings were ever stored.
    pub revision: i64,
    /// `None` if the plugin runs.
    pub halt: Option<Halt>,
}

/// The column `state` of a plugin that runs.
pub(super) const RUNS: &str = "serving";

impl PluginRow {
    /// The columns, in the order in which [`Self::read`] reads them.
    pub(super) const COLUMNS: &str = "name, version, author_version, description, patterns, file, bytes, config, \
         coalesce((SELECT max(c.revision) FROM plugin_config c WHERE c.plugin = name), 0), state";

    pub(super) fn read(row: &impl Row) -> Result<Self, Error> {
        let columns = Columns::named("plugin", row);
        let version = columns.bytes(1, "version")?.try_into().map_err(|_| columns.place.corrupt("version"))?;
        Ok(Self {
            name: columns.word(0, "name", |name| Slug::parse(name).ok())?,
            version: Digest::from_bytes(version),
            author_version: columns.text(2, "author_version")?.to_owned(),
            description: columns.text(3, "description")?.to_owned(),
            on: columns.place.json("patterns", columns.text(4, "patterns")?)?,
            file: columns.text(5, "file")?.to_owned(),
            bytes: columns.number(6, "bytes")?.unsigned_abs(),
            config: columns.place.json("config", columns.text(7, "config")?)?,
            revision: columns.number(8, "revision")?,
            halt: columns.word(9, "state", |word| if word == RUNS { Some(None) } else { Halt::parse(word).map(Some) })?,
        })
    }
}
