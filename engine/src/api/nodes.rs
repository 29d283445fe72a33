//! Nodes: the processes that work on one store together, as the store knows them.

use std::sync::Arc;

use axum::{Json, extract::State};

use super::{
    Api,
    error::Problem,
    view::{NodeView, PageView},
};

/// List the nodes.
///
/// The processes that work on the same store, by name. A store that belongs to one process (sqlite) has none.
#[utoipa::path(
    get, path = "/v1/nodes", operation_id = "list_nodes", tag = "engine",
    responses((status = 200, description = "All of them.", body = PageView<NodeView>, example = json!({
        "items": [{
            "name": "node-1f0c22aa", "role": "all", "version": "0.1.0", "address": "10.1.0.7:8080",
            "started_at": "2026-01-31T09:30:00.000Z", "seen_at": "2026-01-31T09:45:12.250Z", "leases": 12, "answers": true,
        }],
        "next": null,
    }))),
)]
pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<PageView<NodeView>>, Problem> {
    let items = api.store.nodes().await?.iter().map(NodeView::new).collect();
    Ok(Json(PageView { items, next: None }))
}
