//! Nodes: the processes that work on one store together, as the store knows them.

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
/// The processes that work on the same store, by name. A store that belongs to one process (sqlite) has none.
#[utoipa::path(
    get, path = "/v1/nodes", operation_id = "list_nodes", tag = "engine",
    responses((status = 200, description = "All of them.", body = PageView<NodeView>, example = json!({
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

/// A process that works on the store.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub struct NodeView {
    /// The same after a restart of the same node.
    pub name: String,
    /// What it does: `all`, `api` (takes and answers calls) or `work` (runs and sends).
    pub role: String,
    /// Of its engine.
    pub version: String,
    /// Where it listens.
    pub address: String,
    #[schema(value_type = Timestamp)]
    pub started_at: String,
    /// When it was last heard of: every second while it lives.
    #[schema(value_type = Timestamp)]
    pub seen_at: String,
    /// Events, runs and deliveries that it is working on.
    pub leases: u64,
    /// Since when it has had the oldest of them.
    #[schema(value_type = Option<Timestamp>)]
    pub holds_since: Option<String>,
    /// What it has ready.
    pub plugins: Vec<NodePluginView>,
    /// Whether this is the node that answers.
    pub answers: bool,
}

/// A plugin as a node has it.
#[derive(Serialize, ToSchema)]
#[schema(as = NodePlugin)]
pub struct NodePluginView {
    /// Its name; the file's, where it never became a plugin.
    pub name: String,
    /// SHA-256 of the version that serves there; `null` if none does.
    pub version: Option<String>,
    /// Why none does, or why a newer one is not taken.
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
