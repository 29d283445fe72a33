//! Plugins: what serves, what does not and why, and their settings.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, body::Body, extract::State, http::HeaderMap};

use serde_json::json;

use super::{
    Api, body,
    error::Problem,
    path::Path,
    values::values,
    view::{PageView, PluginView},
};
use crate::{catalog::PluginEntry, domain::name::nearest};

/// Settings of one plugin, and the length of a name or a value in bytes.
const CONFIG_COUNT_MAX: usize = 100;
const CONFIG_LEN_MAX: usize = 8 << 10;

/// The settings of a plugin, for the document.
pub enum Settings {}

values! {
    Settings, "PluginSettings", json!({
        "type": "object", "maxProperties": CONFIG_COUNT_MAX,
        "description": "Settings that the plugin reads by name.",
        "propertyNames": { "maxLength": CONFIG_LEN_MAX },
        "additionalProperties": { "type": "string", "maxLength": CONFIG_LEN_MAX },
    });
}

/// List all plugins, with the files that are none.
#[utoipa::path(
    get, path = "/v1/plugins", operation_id = "list_plugins", tag = "plugins",
    responses((status = 200, description = "All of them.", body = PageView<PluginView>)),
)]
pub async fn list(State(api): State<Arc<Api>>) -> Json<PageView<PluginView>> {
    let plugins = api.catalog.plugins();
    let serving = plugins.iter().map(|entry| PluginView::new(entry));
    let broken = plugins.broken().map(|(file, reason)| PluginView::broken(file, reason));
    Json(PageView { items: serving.chain(broken).collect(), next: None })
}

fn find(api: &Api, name: &str) -> Result<Arc<PluginEntry>, Problem> {
    let plugins = api.catalog.plugins();
    plugins.get(name).cloned().ok_or_else(|| {
        let near = nearest(name, plugins.iter().map(|entry| &*entry.row.name));
        let near = near.map(|near| format!("; the nearest name is {near:?}")).unwrap_or_default();
        Problem::not_found(format!("there is no plugin {name:?}{near}"))
    })
}

/// Read one plugin.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}", operation_id = "show_plugin", tag = "plugins",
    params(("plugin" = String, Path, description = "Its name.", example = "order-router")),
    responses((status = 200, description = "The plugin.", body = PluginView)),
)]
pub async fn show(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<PluginView>, Problem> {
    Ok(Json(PluginView::new(&*find(&api, &name)?)))
}

/// Read the settings of a plugin.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/config", operation_id = "show_plugin_settings", tag = "plugins",
    params(("plugin" = String, Path, description = "Its name.", example = "order-router")),
    responses((status = 200, description = "All of its settings.", body = Settings)),
)]
pub async fn config(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<BTreeMap<String, String>>, Problem> {
    Ok(Json(BTreeMap::clone(&find(&api, &name)?.config)))
}

/// Replace the settings of a plugin, as a whole.
#[utoipa::path(
    put, path = "/v1/plugins/{plugin}/config", operation_id = "set_plugin_settings", tag = "plugins",
    params(("plugin" = String, Path, description = "Its name.", example = "order-router")),
    request_body(content = Settings, content_type = "application/json", example = json!({ "threshold": "1000" })),
    responses((status = 200, description = "The settings as they are now.", body = Settings)),
    extensions(("x-problems" = json!(["bad_value"]))),
)]
pub async fn set_config(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<BTreeMap<String, String>>, Problem> {
    let plugin = find(&api, &name)?;
    let config: BTreeMap<String, String> = body::json(&api, &headers, body, Problem::bad_value).await?;
    let fits =
        config.len() <= CONFIG_COUNT_MAX && config.iter().all(|(name, value)| name.len().max(value.len()) <= CONFIG_LEN_MAX);
    if !fits {
        let text = format!("a plugin has at most {CONFIG_COUNT_MAX} settings of at most {CONFIG_LEN_MAX} bytes each");
        return Err(Problem::bad_value(text));
    }
    api.catalog.set_plugin_config(&plugin.row.name, config.clone()).await?;
    Ok(Json(config))
}
