//! Plugins: list, read, settings, state.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, body::Body, extract::State, http::HeaderMap};

use serde_json::json;

use super::{Api, body, error::Problem, path::Path};
use crate::{
    catalog::{PluginEntry, PluginState},
    domain::name::{Slug, nearest},
    store::{self, StateSize, Store},
    wire::{self, ClearedStateView, PageView, PluginView, StateSizeView, values::values},
};

/// Maximum number of settings of one plugin; maximum length of a name or a value, in bytes.
const CONFIG_COUNT_MAX: usize = 100;
const CONFIG_LEN_MAX: usize = 8 << 10;
/// Maximum size of all settings as JSON, in bytes: every value may have its full length.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// The settings of a plugin, for the document.
pub enum Settings {}

values! {
    Settings, "PluginSettings", json!({
        "type": "object", "maxProperties": CONFIG_COUNT_MAX,
        "description": "Settings by name, which the plugin can read.",
        "propertyNames": { "maxLength": CONFIG_LEN_MAX },
        "additionalProperties": { "type": "string", "maxLength": CONFIG_LEN_MAX },
    });
}

/// List all plugins, and files that are not plugins.
#[utoipa::path(
    get, path = "/v1/plugins", operation_id = "list_plugins", tag = "plugins",
    responses((status = 200, description = "All plugins and files.", body = PageView<PluginView>)),
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
        Problem::not_found(format!("no plugin {name:?}{near}"))
    })
}

/// Read one plugin.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}", operation_id = "show_plugin", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    responses((status = 200, description = "The plugin.", body = PluginView)),
)]
pub async fn show(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<PluginView>, Problem> {
    Ok(Json(PluginView::new(&*find(&api, &name)?)))
}

/// Read the settings of a plugin.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/config", operation_id = "show_plugin_settings", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    responses((status = 200, description = "All settings of the plugin.", body = Settings)),
)]
pub async fn config(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<BTreeMap<String, String>>, Problem> {
    Ok(Json(BTreeMap::clone(&find(&api, &name)?.config)))
}

/// Replace all settings of a plugin.
#[utoipa::path(
    put, path = "/v1/plugins/{plugin}/config", operation_id = "set_plugin_settings", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    request_body(content = Settings, content_type = "application/json", example = json!({ "threshold": "1000" })),
    responses((status = 200, description = "The new settings.", body = Settings)),
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

/// Returns a plugin that serves, or a removed one that has state.
async fn keeper_of_state(api: &Api, name: &str) -> Result<(Slug, StateSize), Problem> {
    let unknown = || find(api, name).map(|entry| entry.row.name.clone());
    let Ok(plugin) = Slug::parse(name) else { return Ok((unknown()?, StateSize::default())) };
    let size = api.store.state_size(&plugin).await?;
    if size == StateSize::default() {
        unknown()?;
    }
    Ok((plugin, size))
}

/// Read the size of a plugin's state. The values are not shown.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/state", operation_id = "show_plugin_state", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    responses((status = 200, description = "Size of the state and its limits.", body = StateSizeView)),
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

/// Delete all state of a plugin. This cannot be undone.
///
/// The plugin starts anew, as on its first event. Uncommitted runs that have read the state run again.
#[utoipa::path(
    delete, path = "/v1/plugins/{plugin}/state", operation_id = "clear_plugin_state", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    responses((status = 200, description = "Size of the deleted state.", body = ClearedStateView)),
)]
pub async fn clear_state(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<ClearedStateView>, Problem> {
    let (plugin, _) = keeper_of_state(&api, &name).await?;
    let keys = clear(&*api.store, &plugin).await?;
    Ok(Json(ClearedStateView { plugin: plugin.to_string(), keys }))
}

/// Deletes in steps, so that other writes go between them. State that the plugin writes meanwhile does not prolong the deletion.
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

impl PluginView {
    pub fn new(entry: &PluginEntry) -> Self {
        let row = &entry.row;
        let (state, error) = match &entry.state {
            PluginState::Serving(_) => (wire::PluginState::SERVING, None),
            PluginState::NotLoadable(reason) => (wire::PluginState::NOT_LOADABLE, Some(reason.clone())),
        };
        Self {
            name: row.name.to_string(),
            version: Some(row.version.to_string()),
            state: state.into(),
            error: entry.refused.clone().or(error),
            description: row.description.clone(),
            author_version: row.author_version.clone(),
            on: row.on.clone(),
            file: row.file.clone(),
            bytes: row.bytes,
        }
    }

    /// A file that never became a plugin, under its own name.
    pub fn broken(file: &str, reason: &str) -> Self {
        Self {
            name: file.trim_end_matches(".wasm").to_owned(),
            version: None,
            state: wire::PluginState::NOT_LOADABLE.into(),
            error: Some(reason.to_owned()),
            description: String::new(),
            author_version: String::new(),
            on: Vec::new(),
            file: file.to_owned(),
            bytes: 0,
        }
    }
}
