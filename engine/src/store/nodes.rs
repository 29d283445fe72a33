//! Nodes: the processes that work on one store together.

use async_trait::async_trait;

use super::Error;
use crate::domain::{plugin::Digest, time::Timestamp};

/// Lists the nodes of a store. A store that belongs to one process has none.
#[async_trait]
pub trait Nodes {
    /// Returns the nodes, sorted by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn nodes(&self) -> Result<Vec<Node>, Error> {
        Ok(Vec::new())
    }

    /// Releases all leases of this process at once. Called when the process is about to end.
    ///
    /// # Errors
    /// If the commit failed: the other nodes take over once this node has been silent for long enough.
    async fn leave(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// One of the processes that work on a store together.
#[derive(Clone, Debug)]
pub struct Node {
    pub id: i64,
    /// Name of the node. It stays the same across restarts.
    pub name: String,
    /// Role: `all`, `api` or `work`.
    pub role: String,
    /// Version of the node's engine.
    pub version: String,
    /// Address of the node's API.
    pub address: String,
    pub started_at: Timestamp,
    /// Time of its last heartbeat.
    pub seen_at: Timestamp,
    /// Events, runs and deliveries that the node holds.
    pub leases: u64,
    /// Time since which the node has held the oldest event, run or delivery.
    pub holds_since: Option<Timestamp>,
    /// The node's last report about its plugins.
    pub plugins: Vec<NodePlugin>,
    /// Whether this node answers the request.
    pub is_this_one: bool,
}

/// A node's report about one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlugin {
    /// Name of the plugin, or of its file if no plugin could be read from it.
    pub name: String,
    /// The version that serves on this node.
    pub version: Option<Digest>,
    /// Why no version serves, or why a newer version is refused.
    pub error: Option<String>,
}
