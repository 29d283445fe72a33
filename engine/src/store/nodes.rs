//! Nodes: the processes that work on one store together.

use async_trait::async_trait;

use super::{Error, PluginRegistry};
use crate::domain::{plugin::Digest, time::Timestamp};

/// Knows the nodes of a store. A store that belongs to one process has none.
#[async_trait]
pub trait Nodes {
    /// Returns the nodes, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn nodes(&self) -> Result<Vec<Node>, Error> {
        Ok(Vec::new())
    }

    /// Returns where the nodes share plugin files. `None` if the plugin folder of one process decides which version serves.
    fn plugin_registry(&self) -> Option<&dyn PluginRegistry> {
        None
    }

    /// Gives back at once what this process holds: it is about to end.
    ///
    /// # Errors
    /// If the commit failed: the other nodes take over after the time of silence.
    async fn leave(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// One of the processes that work on a store together.
#[derive(Clone, Debug)]
pub struct Node {
    pub id: i64,
    /// The same after a restart of the same node.
    pub name: String,
    /// What it does: `all`, `api` or `work`.
    pub role: String,
    /// Version of its engine.
    pub version: String,
    /// Where its API listens.
    pub address: String,
    pub started_at: Timestamp,
    /// Time of its last heartbeat.
    pub seen_at: Timestamp,
    /// Events, runs and deliveries that it holds.
    pub leases: u64,
    /// Since when it has held the oldest of them.
    pub holds_since: Option<Timestamp>,
    /// Its last report about its plugins.
    pub plugins: Vec<NodePlugin>,
    /// Whether it answers this request.
    pub is_this_one: bool,
}

/// A node's report about one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlugin {
    /// The plugin's name; the file's, where it never became one.
    pub name: String,
    /// The version that serves there.
    pub version: Option<Digest>,
    /// Why none does, or why a newer one is not taken.
    pub error: Option<String>,
}
