//! Nodes: the processes that share one store.

use std::sync::Arc;

use axum::{Json, extract::State};

use super::{Api, error::Problem};
use crate::{
    store::{Node, NodePlugin},
    wire::{NodePluginView, NodeView, PageView},
};

/// List the nodes.
///
/// The list has the processes that share the store, and is sorted by name. With SQLite, the list is empty.
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
