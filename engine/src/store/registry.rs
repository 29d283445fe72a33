//! The plugin registry: plugin files that all nodes of a store share.

use async_trait::async_trait;

use super::{Error, NodePlugin, PluginRow};
use crate::domain::{name::Slug, plugin::Digest};

/// When a node saw a plugin file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSeen {
    /// The file was in the folder when the node started.
    AtStart,
    /// The file was written while the node was running.
    Written,
}

/// Result of publishing a plugin file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// This version serves.
    Serves,
    /// The version was known and no longer serves: nothing changed.
    Outdated,
}

/// Plugin files that the nodes of a store share. The registry decides for all nodes which version of a plugin serves: the version whose file
/// it stores. Every change raises the config version.
#[async_trait]
pub trait PluginRegistry: Send + Sync {
    /// Makes a version serve. It replaces the version that serves under this name. A version that a node finds at its start, and
    /// that any node has published before, changes nothing: it may be older than the version that serves.
    ///
    /// # Errors
    /// If the commit failed.
    async fn publish(&self, plugin: PluginRow, file: Vec<u8>, seen: FileSeen) -> Result<Published, Error>;

    /// Stops a plugin if `version` serves. Returns whether it did.
    ///
    /// # Errors
    /// If the commit failed.
    async fn withdraw(&self, plugin: &Slug, version: Digest) -> Result<bool, Error>;

    /// Returns the plugins that serve, by name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn serving(&self) -> Result<Vec<PluginRow>, Error>;

    /// Returns the file of a version that serves, or `None` once another version serves.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn file(&self, version: Digest) -> Result<Option<Vec<u8>>, Error>;

    /// Stores this node's report about its plugins, for the other nodes.
    ///
    /// # Errors
    /// If the commit failed.
    async fn report(&self, plugins: Vec<NodePlugin>) -> Result<(), Error>;
}
