//! Many nodes: what they know of each other, and the plugin files that they share.

use async_trait::async_trait;

use super::{Error, PluginRow};
use crate::domain::{name::Slug, plugin::Digest, time::Timestamp};

/// One of the processes that work on a store together.
#[derive(Clone, Debug)]
pub struct Node {
    pub id: i64,
    /// The same after a restart of the same node.
    pub name: String,
    /// What it does: `all`, `api` or `work`.
    pub role: String,
    /// Of its engine.
    pub version: String,
    /// Where its API listens.
    pub address: String,
    pub started_at: Timestamp,
    /// When it was last heard of.
    pub seen_at: Timestamp,
    /// Events, runs and deliveries that it holds.
    pub leases: u64,
    /// Since when it has held the oldest of them.
    pub holds_since: Option<Timestamp>,
    /// What it said last of its plugins.
    pub plugins: Vec<NodePlugin>,
    /// Whether it is the one that answers.
    pub is_this_one: bool,
}

/// What a node says of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlugin {
    /// The plugin's name; the file's, where it never became one.
    pub name: String,
    /// The version that serves there.
    pub version: Option<Digest>,
    /// Why none does, or why a newer one is not taken.
    pub error: Option<String>,
}

/// How a node came by a plugin file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It lay in the folder when the node started.
    AtStart,
    /// It was written while the node was running.
    Written,
}

/// What became of a file that a node has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is the version that serves.
    Serves,
    /// It was known already, and serves no more: nothing changed.
    Outdated,
}

/// The plugin files of a store that many nodes work on. Which version of a plugin serves is said here, once for all of them: the one
/// whose file is kept. Every change is told to all nodes as one of the settings is.
#[async_trait]
pub trait Depot: Send + Sync {
    /// Makes a version the one that serves, whatever served under its name. One that a node finds at its start and that any node has
    /// shown before changes nothing: it may well be older than what serves.
    async fn publish(&self, plugin: PluginRow, file: Vec<u8>, shown: Shown) -> Result<Published, Error>;

    /// Lets a plugin serve no more, if this is the version that does. Says whether it was.
    async fn withdraw(&self, plugin: &Slug, version: Digest) -> Result<bool, Error>;

    /// The plugins that serve, by name.
    async fn serving(&self) -> Result<Vec<PluginRow>, Error>;

    /// The file of a version that serves; `None` once another one does.
    async fn file(&self, version: Digest) -> Result<Option<Vec<u8>>, Error>;

    /// Notes for the other nodes what this one has ready.
    async fn report(&self, plugins: Vec<NodePlugin>) -> Result<(), Error>;
}
