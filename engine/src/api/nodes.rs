//! Nodes: the processes that share one store.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, error::Problem, view::PageView};
use crate::{
    domain::time::Timestamp,
    store::{Node, NodePlugin},
};

/// List the nodes.
///
/// The processes that share the store, by name. With SQLite the list is empty.
#[utoipa::path(
    get, path = "/v1/nodes", operation_id = "list_nodes", tag = "engine",
    responses((status = 200, description = "All live nodes.", body = PageView<NodeView>, example = json!({
        "items": [{
            "name": "node-1f0c22aa", "role": "all", "version": "0.1.0", "address": "10.1.0.7:8080",
            "started_at": "2026-01-31T09:30:00.000Z", "seen_at": "2026-01-31T09:45:12.250Z", "leases": 12,
            "holds_since": "2026-01-31T09:45:11.975Z",
            "plugins": [{
                "name": "order-router", "version": "3fa2c1d0a9a54bd6a9a6f1c4c7c1f5f0e7d8b6a59483726150f9e8d7c6b5a493", "error": null,
            }],
            "answers": true,
        }],
        "next": null,
    }))),
)]
pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<PageView<NodeView>>, Problem> {
    let items = api.store.nodes().await?.iter().map(NodeView::new).collect();
    Ok(Json(PageView { items, next: None }))
}

/// A process that shares the store.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub struct NodeView {
    /// Name; stays the same after a restart of the node.
    pub name: String,
    /// Role: `all`, `api` (answers calls) or `work` (runs and sends).
    pub role: String,
    /// Version of its engine.
    pub version: String,
    /// Address on which it listens.
    pub address: String,
    #[schema(value_type = Timestamp)]
    pub started_at: String,
    /// Last heartbeat; one per second while the node lives.
    #[schema(value_type = Timestamp)]
    pub seen_at: String,
    /// Number of events, runs and deliveries that it holds.
    pub leases: u64,
    /// Since when it has held the oldest of them.
    #[schema(value_type = Option<Timestamp>)]
    pub holds_since: Option<String>,
    /// Its plugins.
    pub plugins: Vec<NodePluginView>,
    /// Whether this node answers the request.
    pub answers: bool,
}

/// A plugin on a node.
#[derive(Serialize, ToSchema)]
#[schema(as = NodePlugin)]
pub struct NodePluginView {
    /// Name of the plugin, or of the file if it never became a plugin.
    pub name: String,
    /// SHA-256 of the version that serves on this node; `null` if none serves.
    pub version: Option<String>,
    /// Why no version serves, or why a newer one does not.
    pub error: Option<String>,
}

impl NodeView {
    fn new(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            role: node.role.clone(),
            version: node.version.clone(),
            address: node.address.clone(),
            started_at: node.started_at.to_string(),
            seen_at: node.seen_at.to_string(),
            leases: node.leases,
            holds_since: node.holds_since.map(|since| since.to_string()),
            plugins: node.plugins.iter().map(NodePluginView::new).collect(),
            answers: node.is_this_one,
        }
    }
}

impl NodePluginView {
    fn new(plugin: &NodePlugin) -> Self {
        Self {
            name: plugin.name.clone(),
            version: plugin.version.map(|version| version.to_string()),
            error: plugin.error.clone(),
        }
    }
}
