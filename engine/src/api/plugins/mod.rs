//! Plugins: list, read, settings, state. The routes of their versions are in `versions.rs`.

pub mod versions;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{Extension, Json, body::Body, extract::State, http::HeaderMap};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Value, json, value::to_raw_value};
use utoipa::IntoParams;

use super::{
    Api, audit,
    auth::Caller,
    body,
    error::Problem,
    page::{Limit, Paging, Query},
    path::Path,
};
use crate::{
    catalog::{PluginEntry, PluginState},
    domain::{
        content,
        name::{Slug, nearest},
        plugin::Halt,
        setting::{self, Given, Setting},
    },
    store::{self, ConfigRevision, PluginVersion, StateKey, StateSize, Store},
    wire::{
        self, ClearedStateView, ConfigRevisionView, DeletedStateView, PageView, PluginConfigView, PluginView, SettingProblemView,
        SettingView, StateKeyView, StateSizeView, StateValueView, values::values,
    },
};

/// Maximum number of settings of one plugin; maximum length of a name or a value, in bytes.
const CONFIG_COUNT_MAX: usize = 100;
const CONFIG_LEN_MAX: usize = 8 << 10;
/// Maximum size of all settings as JSON, in bytes. It is large enough for the maximum number of values of maximum length.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// The OpenAPI schema of a plugin's settings.
pub enum Settings {}

values! {
    Settings, "PluginSettings", json!({
        "type": "object", "maxProperties": CONFIG_COUNT_MAX,
        "description": "Settings by name. The plugin reads each value as text. The member `settings` of the answer has the types.",
        "propertyNames": { "maxLength": CONFIG_LEN_MAX },
        "additionalProperties": { "oneOf": [
            { "type": "string", "maxLength": CONFIG_LEN_MAX }, { "type": "number" }, { "type": "boolean" },
            { "type": "array", "items": { "type": "string", "pattern": "^[^,]*$" } },
        ] },
    });
}

/// List all plugins, and files that are not plugins.
#[utoipa::path(
    get, path = "/v1/plugins", operation_id = "list_plugins", tag = "plugins",
    responses((status = 200, description = "All plugins and files.", body = PageView<PluginView>)),
)]
pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<PageView<PluginView>>, Problem> {
    let mut candidates = api.store.candidates().await?;
    candidates.dedup_by(|older, newer| older.plugin == newer.plugin);
    let plugins = api.catalog.plugins();
    let serving = plugins.iter().map(|entry| PluginView::new(entry));
    let candidates = candidates.iter().filter(|one| plugins.get(&one.plugin).is_none()).map(PluginView::candidate);
    let broken = plugins.broken().map(|(file, reason)| PluginView::broken(file, reason));
    Ok(Json(PageView { items: serving.chain(candidates).chain(broken).collect(), next: None }))
}

pub fn find(api: &Api, name: &str) -> Result<Arc<PluginEntry>, Problem> {
    api.catalog.plugins().get(name).cloned().ok_or_else(|| unknown(api, name))
}

fn unknown(api: &Api, name: &str) -> Problem {
    let plugins = api.catalog.plugins();
    let near = nearest(name, plugins.iter().map(|entry| &*entry.row.name));
    let near = near.map(|near| format!("; the nearest name is {near:?}")).unwrap_or_default();
    Problem::not_found(format!("no plugin {name:?}{near}"))
}

/// Read one plugin.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}", operation_id = "show_plugin", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    responses((status = 200, description = "The plugin.", body = PluginView)),
)]
pub async fn show(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<PluginView>, Problem> {
    let problem = match find(&api, &name) {
        Ok(entry) => return Ok(Json(PluginView::new(&entry))),
        Err(problem) => problem,
    };
    let candidate = api.store.candidates().await?.into_iter().find(|one| *one.plugin == *name);
    candidate.map(|one| Json(PluginView::candidate(&one))).ok_or(problem)
}

/// Read the settings of a plugin, the settings that it declares, and who changed them.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/config", operation_id = "show_plugin_settings", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    responses((status = 200, description = "The settings of the plugin.", body = PluginConfigView)),
)]
pub async fn config(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<PluginConfigView>, Problem> {
    let Ok(plugin) = Slug::parse(&name) else { return Err(unknown(&api, &name)) };
    let view = config_of(&api, &plugin).await?;
    match api.catalog.plugins().get(&name) {
        None if view.revision == 0 => Err(unknown(&api, &name)),
        _ => Ok(Json(view)),
    }
}

/// Replace all settings of a plugin.
///
/// The values are checked against the settings that the plugin declares. Settings of a plugin that does not exist yet apply once
/// it is loaded. Do not put secrets into settings: put a token for a receiver into the `headers` of its endpoint.
#[utoipa::path(
    put, path = "/v1/plugins/{plugin}/config", operation_id = "set_plugin_settings", tag = "plugins",
    params(("plugin" = Slug, Path, description = "Name of the plugin.", example = "order-router")),
    request_body(content = Settings, content_type = "application/json", example = json!({ "threshold": 1000 })),
    responses((status = 200, description = "The new settings.", body = PluginConfigView)),
    extensions(("x-problems" = json!(["bad_value"]))),
)]
pub async fn set_config(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(Extension<audit::Members>, Json<PluginConfigView>), Problem> {
    let plugin = Slug::parse(&name).map_err(|bad| Problem::bad_value(bad.to_string()))?;
    let values: BTreeMap<String, Value> = body::json_within(&api, &headers, body, CONFIG_BYTES_MAX, Problem::bad_value).await?;
    if values.len() > CONFIG_COUNT_MAX {
        return Err(Problem::bad_value(format!("a plugin has at most {CONFIG_COUNT_MAX} settings")));
    }
    let given = values.into_iter().map(given).collect::<Result<BTreeMap<_, _>, _>>()?;
    let declared = api.catalog.plugins().get(&name).map(|entry| entry.settings.clone()).unwrap_or_default();
    let config =
        setting::check(&declared, &given).map_err(|misfit| Problem::bad_value(misfit.detail).at(pointer(&misfit.name)))?;
    if let Some((name, _)) = config.iter().find(|(name, value)| name.len().max(value.len()) > CONFIG_LEN_MAX) {
        let text = format!("the name and the value of a setting have at most {CONFIG_LEN_MAX} bytes");
        return Err(Problem::bad_value(text).at(pointer(name)));
    }
    let before = api.store.plugin_config(&plugin).await?.config;
    api.catalog.set_plugin_config(&plugin, config.clone(), caller.key.new.name.clone()).await?;
    let names: BTreeSet<&String> = before.keys().chain(config.keys()).collect();
    let changed = names.into_iter().filter(|name| before.get(*name) != config.get(*name)).cloned().collect();
    Ok((Extension(audit::Members(changed)), Json(config_of(&api, &plugin).await?)))
}

/// Reads a value of a setting.
fn given((name, value): (String, Value)) -> Result<(String, Given), Problem> {
    let of_items = |items: Vec<Value>| items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>();
    let given = match value {
        Value::String(text) => Some(Given::Text(text)),
        Value::Number(number) => Some(Given::Number(number.to_string())),
        Value::Bool(value) => Some(Given::Boolean(value)),
        Value::Array(items) => of_items(items).map(Given::List),
        Value::Null | Value::Object(_) => None,
    };
    let wanted = "takes a text, a number, true, false or a list of texts; leave it out to unset it";
    let given = given.ok_or_else(|| Problem::bad_value(format!("setting {name:?} {wanted}")).at(pointer(&name)))?;
    Ok((name, given))
}

/// Returns the JSON pointer to a setting.
fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

async fn config_of(api: &Api, plugin: &Slug) -> Result<PluginConfigView, Problem> {
    let stored = api.store.plugin_config(plugin).await?;
    let declared = api.catalog.plugins().get(plugin).map(|entry| entry.settings.clone()).unwrap_or_default();
    let problems = setting::misfits(&declared, &stored.config);
    let revision =
        |one: &ConfigRevision| ConfigRevisionView { revision: one.number, at: one.at.to_string(), by: one.author.clone() };
    Ok(PluginConfigView {
        plugin: plugin.to_string(),
        revision: stored.revisions.first().map_or(0, |last| last.number),
        settings: declared.into_iter().map(SettingView::from).collect(),
        problems: problems
            .into_iter()
            .map(|misfit| SettingProblemView { pointer: pointer(&misfit.name), detail: misfit.detail })
            .collect(),
        revisions: stored.revisions.iter().map(revision).collect(),
        config: stored.config,
    })
}

impl From<Setting> for SettingView {
    fn from(setting: Setting) -> Self {
        Self {
            name: setting.name,
            r#type: setting.kind.as_str().into(),
            default: setting.default,
            description: setting.description,
            required: setting.is_required,
        }
    }
}

/// Returns a plugin that serves, or a removed one that has state.
async fn plugin_with_state(api: &Api, name: &str) -> Result<(Slug, StateSize), Problem> {
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
    let (plugin, size) = plugin_with_state(&api, &name).await?;
    let limits = api.store.state_limits();
    Ok(Json(StateSizeView {
        plugin: plugin.to_string(),
        keys: size.keys,
        bytes: size.bytes,
        keys_max: limits.keys_max,
        bytes_max: limits.bytes_max,
    }))
}

#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeyFilter {
    /// Only keys that begin with this text.
    pub prefix: Option<String>,
    /// Maximum number of keys.
    #[param(value_type = Option<Limit>)]
    pub limit: Option<String>,
    /// The `next` of the previous page.
    pub cursor: Option<String>,
}

/// List the keys of a plugin's state, ordered by their bytes.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/state/keys", operation_id = "list_plugin_state_keys", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router"), KeyFilter),
    responses((status = 200, description = "One page.", body = PageView<StateKeyView>)),
)]
pub async fn state_keys(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(filter): Query<KeyFilter>,
) -> Result<Json<PageView<StateKeyView>>, Problem> {
    let (plugin, _) = plugin_with_state(&api, &name).await?;
    let most = Paging::new(filter.limit.as_deref(), None, |_| None)?.request.limit;
    let prefix = filter.prefix.unwrap_or_default();
    let mut keys = api.store.state_keys(&plugin, &prefix, filter.cursor.as_deref(), most + 1).await?;
    let more = keys.len() > most;
    keys.truncate(most);
    Ok(Json(PageView {
        next: keys.last().filter(|_| more).map(|last| last.key.clone()),
        items: keys
            .into_iter()
            .map(|StateKey { key, bytes, expires_at }| StateKeyView {
                key,
                bytes,
                expires_at: expires_at.map(|at| at.to_string()),
            })
            .collect(),
    }))
}

/// Selects a value of a plugin's state. A key is any text, so it is not a part of the path.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OneKey {
    /// The key.
    #[param(example = "last-order")]
    pub key: String,
}

fn no_value(plugin: &Slug, key: &str) -> Problem {
    let list = format!("see its keys with innesco plugin state {plugin}");
    Problem::not_found(format!("plugin {plugin} stores no value under the key {key:?}; {list}"))
}

/// Read a value of a plugin's state.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/state/value", operation_id = "read_plugin_state_value", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router"), OneKey),
    responses((status = 200, description = "The value.", body = StateValueView)),
)]
pub async fn state_value(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(OneKey { key }): Query<OneKey>,
) -> Result<Json<StateValueView>, Problem> {
    let (plugin, _) = plugin_with_state(&api, &name).await?;
    let (bytes, _) = api.store.read_state(&plugin, &key).await?.ok_or_else(|| no_value(&plugin, &key))?;
    let (size, plugin) = (bytes.len() as u64, plugin.to_string());
    let text = String::from_utf8(bytes);
    let (value, is_json, value_base64) = match text {
        Ok(text) => match content::Json::check(&text) {
            Ok(json) => (Some(json.value().to_owned()), true, None),
            Err(_) => (Some(to_raw_value(&text).expect("text is always JSON")), false, None),
        },
        Err(error) => (None, false, Some(BASE64_STANDARD.encode(error.into_bytes()))),
    };
    Ok(Json(StateValueView { plugin, key, bytes: size, value, is_json, value_base64 }))
}

/// Delete a value of a plugin's state. This cannot be undone.
///
/// If an uncommitted run has read the value, the run is repeated. The key is not in the audit trail: it may be personal data.
#[utoipa::path(
    delete, path = "/v1/plugins/{plugin}/state/value", operation_id = "delete_plugin_state_value", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router"), OneKey),
    responses((status = 200, description = "The value is deleted.", body = DeletedStateView)),
)]
pub async fn delete_state_value(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(OneKey { key }): Query<OneKey>,
) -> Result<Json<DeletedStateView>, Problem> {
    let (plugin, _) = plugin_with_state(&api, &name).await?;
    if !api.store.delete_state(&plugin, &key).await? {
        return Err(no_value(&plugin, &key));
    }
    Ok(Json(DeletedStateView { plugin: plugin.to_string(), key }))
}

/// Delete all state of a plugin. This cannot be undone.
///
/// Afterwards, the plugin runs as if for the first time. If an uncommitted run has read the state, the run is repeated.
#[utoipa::path(
    delete, path = "/v1/plugins/{plugin}/state", operation_id = "clear_plugin_state", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    responses((status = 200, description = "Size of the deleted state.", body = ClearedStateView)),
)]
pub async fn clear_state(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<ClearedStateView>, Problem> {
    let (plugin, _) = plugin_with_state(&api, &name).await?;
    let keys = clear(&*api.store, &plugin).await?;
    Ok(Json(ClearedStateView { plugin: plugin.to_string(), keys }))
}

/// Deletes in several transactions, so that other writes can run in between. The deletion does not take longer if the
/// plugin writes more state meanwhile.
async fn clear(store: &dyn Store, plugin: &Slug) -> Result<u64, store::Error> {
    let count = store.state_size(plugin).await?.keys;
    let mut deleted = 0;
    while deleted < count {
        match store.clear_state(plugin).await? {
            0 => break,
            keys => deleted += keys as u64,
        }
    }
    Ok(deleted)
}

impl PluginView {
    pub fn new(entry: &PluginEntry) -> Self {
        let row = &entry.row;
        let (state, error) = match &entry.state {
            PluginState::Serving(_) => (row.halt.map_or(wire::PluginState::SERVING, Halt::as_str), None),
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

    /// Returns the view of the newest candidate of a plugin without a serving version.
    pub fn candidate(stored: &PluginVersion) -> Self {
        Self {
            name: stored.plugin.to_string(),
            version: Some(stored.version.to_string()),
            state: stored.state.as_str().into(),
            error: None,
            description: stored.description.clone(),
            author_version: stored.author_version.clone(),
            on: stored.on.clone(),
            file: stored.file.clone(),
            bytes: stored.bytes,
        }
    }

    /// Returns the view of a file that is not a plugin, named after the file.
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
