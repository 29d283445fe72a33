//! Nodes: the processes that work on one store.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::time::Timestamp;

/// A process that shares the store.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Node)]
pub struct NodeView {
    /// Name; stays the same after a restart of the node.
    pub name: String,
    /// Role: `all`, `api` (answers API requests) or `work` (runs plugins and sends webhooks).
    pub role: String,
    /// Version of its engine.
    pub version: String,
    /// Address on which it listens.
    pub address: String,
    #[schema(value_type = Timestamp)]
    pub started_at: String,
    /// Time of the last heartbeat. A living node sends one heartbeat per second.
    #[schema(value_type = Timestamp)]
    pub seen_at: String,
    /// Number of leases that it holds: one for each event, run or delivery on which it works.
    pub leases: u64,
    /// Time since which it has held the oldest of these leases.
    #[schema(value_type = Option<Timestamp>)]
    pub holds_since: Option<String>,
    /// Its plugins.
    pub plugins: Vec<NodePluginView>,
    /// Whether this node sent this answer.
    pub answers: bool,
}

/// A plugin on a node.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = NodePlugin)]
pub struct NodePluginView {
    /// Name of the plugin, or of the file if it is not a plugin.
    pub name: String,
    /// SHA-256 of the version that serves on this node; `null` if none serves.
    pub version: Option<String>,
    /// Why no version serves, or why a newer version does not.
    pub error: Option<String>,
}
