//! Plugins: what serves, what does not and why, and their settings.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, body::Body, extract::State, http::HeaderMap};

use serde_json::json;

use super::{
    Api, body,
    error::Problem,
    path::Path,
    values::values,
    view::{ClearedStateView, PageView, PluginView, StateSizeView},
};
use crate::{
    catalog::PluginEntry,
    domain::name::{Slug, nearest},
    store::{self, StateSize, Store},
};

/// Settings of one plugin, and the length of a name or a value in bytes.
const CONFIG_COUNT_MAX: usize = 100;
const CONFIG_LEN_MAX: usize = 8 << 10;
/// Bytes of all settings as JSON: every value may have its full length.
const CONFIG_BYTES_MAX: usize = 1 << 20;

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
    let config: BTreeMap<String, String> = body::json_within(&api, &headers, body, CONFIG_BYTES_MAX, Problem::bad_value).await?;
    let fits =
        config.len() <= CONFIG_COUNT_MAX && config.iter().all(|(name, value)| name.len().max(value.len()) <= CONFIG_LEN_MAX);
    if !fits {
        let text = format!("a plugin has at most {CONFIG_COUNT_MAX} settings of at most {CONFIG_LEN_MAX} bytes each");
        return Err(Problem::bad_value(text));
    }
    api.catalog.set_plugin_config(&plugin.row.name, config.clone()).await?;
    Ok(Json(config))
}

/// A plugin that serves, or one that is gone and has left state behind.
async fn keeper_of_state(api: &Api, name: &str) -> Result<(Slug, StateSize), Problem> {
    let unknown = || find(api, name).map(|entry| entry.row.name.clone());
    let Ok(plugin) = Slug::parse(name) else { return Ok((unknown()?, StateSize::default())) };
    let size = api.store.state_size(&plugin).await?;
    if size == StateSize::default() {
        unknown()?;
    }
    Ok((plugin, size))
}

/// Read how much state a plugin keeps. The values are the plugin's own and are not shown.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/state", operation_id = "show_plugin_state", tag = "plugins",
    params(("plugin" = String, Path, description = "Its name.", example = "order-router")),
    responses((status = 200, description = "How much, and how much it may keep.", body = StateSizeView)),
)]
pub async fn state(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<StateSizeView>, Problem> {
    let (plugin, size) = keeper_of_state(&api, &name).await?;
    let limits = api.store.state_limits();
    Ok(Json(StateSizeView {
        plugin: plugin.to_string(),
        keys: size.keys,
        bytes: size.bytes,
        keys_max: limits.keys_max,
        bytes_max: limits.bytes_max,
    }))
}

/// Delete all state of a plugin. It cannot be taken back.
///
/// The plugin begins anew, as on its first event. Runs that have read some of it and are not yet committed run again.
#[utoipa::path(
    delete, path = "/v1/plugins/{plugin}/state", operation_id = "clear_plugin_state", tag = "plugins",
    params(("plugin" = String, Path, description = "Its name.", example = "order-router")),
    responses((status = 200, description = "What was deleted.", body = ClearedStateView)),
)]
pub async fn clear_state(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<ClearedStateView>, Problem> {
    let (plugin, _) = keeper_of_state(&api, &name).await?;
    let keys = clear(&*api.store, &plugin).await?;
    Ok(Json(ClearedStateView { plugin: plugin.to_string(), keys }))
}

/// Clears by steps, between which others write. What a plugin writes anew meanwhile does not keep it going for ever.
async fn clear(store: &dyn Store, plugin: &Slug) -> Result<u64, store::Error> {
    let there = store.state_size(plugin).await?.keys;
    let mut gone = 0;
    while gone < there {
        match store.clear_state(plugin).await? {
            0 => break,
            keys => gone += keys as u64,
        }
    }
    Ok(gone)
}
