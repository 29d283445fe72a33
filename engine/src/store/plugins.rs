//! Stored plugins: the version that served last, and the configuration.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{
    Error,
    row::{Columns, Row},
};
use crate::domain::{name::Slug, plugin::Digest};

/// Stores plugins.
#[async_trait]
pub trait Plugins {
    /// Stores which version of a plugin serves. Its configuration is not changed.
    ///
    /// # Errors
    /// If the commit failed.
    async fn remember_plugin(&self, plugin: PluginRow) -> Result<(), Error>;

    /// Replaces the configuration.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    async fn set_plugin_config(&self, name: &Slug, config: BTreeMap<String, String>) -> Result<(), Error>;

    /// Returns all plugins, by name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn plugins(&self) -> Result<Vec<PluginRow>, Error>;
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
}

impl PluginRow {
    /// The columns of [`Self::read`], in its order.
    pub(super) const COLUMNS: &str = "name, version, author_version, description, patterns, file, bytes, config";

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
        })
    }
}
