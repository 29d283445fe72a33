//! Versions of plugins: push, list, promote, roll back, remove.

use std::sync::Arc;

use axum::{Extension, Json, body::Body, extract::State, http::HeaderMap, http::StatusCode};
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::{
    super::{Api, audit, auth::Caller, body, error::Problem, page::Query, path::Path},
    find, unknown,
};
use crate::{
    catalog::{NotChosen, NotPushed, Origin, chosen, previous, version_change},
    clock,
    domain::{
        name::Slug,
        plugin::{Digest, Halt, VersionState, Way},
    },
    store::{PluginVersion, Proposal, Published},
    wire::{PageView, PluginVersionView, PluginView, values::values},
};

/// Maximum number of waiting runs that a refusal counts.
const RUNS_COUNTED: u32 = 1_000;

/// Options of a push.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Push {
    /// `true`: only store the version, so that it can be promoted later.
    #[serde(default)]
    pub candidate: bool,
}

/// The OpenAPI schema of a plugin's bytes.
pub enum PluginFile {}

values! {
    PluginFile, "PluginFile", json!({ "type": "string", "format": "binary", "description": "A `.wasm` file." });
}

/// Push a version of a plugin.
///
/// The body is the `.wasm` file, as the compiler writes it. The engine loads it under the limits of the plugin folder. Then the
/// version serves on every node. The name in its manifest must be the one in the path.
#[utoipa::path(
    put, path = "/v1/plugins/{plugin}", operation_id = "push_plugin", tag = "plugins",
    params(("plugin" = Slug, Path, description = "Name of the plugin.", example = "order-router"), Push),
    request_body(content = PluginFile, content_type = "application/wasm", example = json!("the bytes of the file")),
    responses((status = 200, description = "The version.", body = PluginVersionView)),
    extensions(("x-problems" = json!(["bad_plugin", "bad_value"]))),
)]
pub async fn push(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Query(push): Query<Push>,
    headers: HeaderMap,
    body: Body,
) -> Result<Changed, Problem> {
    let plugin = Slug::parse(&name).map_err(|bad| Problem::bad_value(bad.to_string()))?;
    let limit = api.catalog.plugin_bytes_max();
    let (bytes, _held) = body::read_up_to(&api, &headers, body, limit).await?;
    let proposal = if push.candidate { Proposal::Candidate } else { Proposal::Serve };
    let origin = Origin { way: Way::Upload, file: String::new(), by: caller.key.new.name.clone() };
    let (version, published) =
        api.catalog.push(&plugin, bytes.into(), proposal, origin).await.map_err(|error| refused(&plugin, error))?;
    changed(&api, &plugin, version, published).await
}

/// List the stored versions of a plugin, newest first.
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}/versions", operation_id = "list_plugin_versions", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    responses((status = 200, description = "All stored versions.", body = PageView<PluginVersionView>)),
)]
pub async fn list(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<PageView<PluginVersionView>>, Problem> {
    let (_, versions) = stored(&api, &name).await?;
    Ok(Json(PageView { items: versions.iter().map(PluginVersionView::new).collect(), next: None }))
}

/// Discard a stored version of a plugin that does not serve.
///
/// Its bytes are deleted, and its running comparisons are cancelled. You cannot discard the version that serves, or the version to
/// which a rollback would return. Recorded runs of a discarded version cannot be repeated any more.
#[utoipa::path(
    delete, path = "/v1/plugins/{plugin}/versions/{version}", operation_id = "discard_plugin_version", tag = "plugins",
    params(
        ("plugin" = String, Path, description = "Name of the plugin.", example = "order-router"),
        ("version" = String, Path, description = "The version, or the first digits of it.", example = "3fa2c1"),
    ),
    responses((status = 204, description = "The version is discarded.")),
    extensions(("x-problems" = json!(["bad_value", "conflict"]))),
)]
pub async fn discard(
    State(api): State<Arc<Api>>,
    Path((name, digits)): Path<(String, String)>,
) -> Result<(Extension<audit::Members>, StatusCode), Problem> {
    let (plugin, versions) = stored(&api, &name).await?;
    let version = match chosen(&versions, Some(&digits)) {
        Ok(one) => one.version,
        Err(NotChosen::Unknown) => {
            let text = format!("plugin {name} has no stored version {digits:?}; list them with innesco plugin versions {name}");
            return Err(Problem::not_found(text));
        }
        Err(error) => return Err(not_chosen(&name, &digits, error)),
    };
    api.store.discard(&plugin, version, clock::wall()).await?;
    tracing::info!(plugin = name, version = %version.short(), "version discarded");
    Ok((Extension(audit::Members(vec![format!("discarded {version}")])), StatusCode::NO_CONTENT))
}

/// Options of a promotion.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
struct Promotion {
    /// The version, or the first digits of it; by default the newest candidate.
    #[schema(max_length = 64, pattern = "^[0-9a-f]*$")]
    version: Option<String>,
}

/// Make a stored version of a plugin serve.
#[utoipa::path(
    post, path = "/v1/plugins/{plugin}/promote", operation_id = "promote_plugin", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    request_body(content = Option<Promotion>, example = json!({ "version": "3fa2c1" })),
    responses((status = 200, description = "The version, which serves now.", body = PluginVersionView)),
    extensions(("x-problems" = json!(["bad_plugin", "bad_value", "conflict"]))),
)]
pub async fn promote(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Changed, Problem> {
    let promotion = body::optional_json::<Promotion>(&api, &headers, body, Problem::bad_value).await?.unwrap_or_default();
    let (_, versions) = stored(&api, &name).await?;
    let digits = promotion.version.as_deref();
    let version = chosen(&versions, digits).map_err(|error| not_chosen(&name, digits.unwrap_or_default(), error))?;
    serve(&api, &caller, version).await
}

/// Serve the previous version again.
///
/// A second rollback returns to the version that served before the first rollback.
#[utoipa::path(
    post, path = "/v1/plugins/{plugin}/rollback", operation_id = "roll_back_plugin", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    responses((status = 200, description = "The version, which serves now.", body = PluginVersionView)),
    extensions(("x-problems" = json!(["bad_plugin", "conflict"]))),
)]
pub async fn rollback(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Changed, Problem> {
    let (_, versions) = stored(&api, &name).await?;
    let none = || Problem::conflict(format!("plugin {name} has no earlier version whose bytes are stored"));
    serve(&api, &caller, previous(&versions).ok_or_else(none)?).await
}

/// Options of a removal.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Removal {
    /// `true`: remove the plugin even if it is in use.
    #[serde(default)]
    pub force: bool,
}

/// Remove a plugin, so that none of its versions serves.
///
/// Its versions, settings and state stay; pushing or promoting a version brings it back. A plugin is in use if runs wait for it or
/// if an endpoint names it. It is then removed only with `force`. Its waiting runs are parked as `not-loadable` until the plugin is
/// back.
#[utoipa::path(
    delete, path = "/v1/plugins/{plugin}", operation_id = "remove_plugin", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router"), Removal),
    responses((status = 204, description = "The plugin is removed.")),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn remove(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(removal): Query<Removal>,
) -> Result<(Extension<audit::Members>, StatusCode), Problem> {
    let serving = api.store.serving().await?.into_iter().find(|row| *row.name == *name);
    let row = serving.ok_or_else(|| unknown(&api, &name))?;
    if !removal.force {
        let runs = api.store.waiting_runs(&row.name, RUNS_COUNTED).await?;
        let endpoints = api.catalog.endpoints().iter().filter(|one| one.new.plugin.as_ref() == Some(&row.name)).count();
        if runs > 0 || endpoints > 0 {
            let runs = if runs == u64::from(RUNS_COUNTED) { format!("{runs} or more") } else { runs.to_string() };
            let text = format!(
                "plugin {name} is in use: {runs} runs wait for it and {endpoints} endpoints name it; wait until they are done and change \
                 the endpoints, or remove it with force, which parks its runs"
            );
            return Err(Problem::conflict(text));
        }
    }
    if !api.catalog.remove(&row.name, row.version).await? {
        return Err(Problem::conflict(format!("another version of plugin {name} began to serve; try again")));
    }
    tracing::info!(plugin = name, version = %row.version.short(), "plugin removed");
    Ok((Extension(audit::Members(vec![version_change(Some(row.version), None)])), StatusCode::NO_CONTENT))
}

/// Disable a plugin.
///
/// It matches no new events. Its runs wait until it is enabled, and so do runs of events for an endpoint that names it.
#[utoipa::path(
    post, path = "/v1/plugins/{plugin}/disable", operation_id = "disable_plugin", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    responses((status = 200, description = "The plugin.", body = PluginView)),
)]
pub async fn disable(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Halted, Problem> {
    set_halt(&api, &name, Some(Halt::Disabled)).await
}

/// Enable a plugin that was disabled, or held because it failed too often.
///
/// Its waiting runs continue, oldest first.
#[utoipa::path(
    post, path = "/v1/plugins/{plugin}/enable", operation_id = "enable_plugin", tag = "plugins",
    params(("plugin" = String, Path, description = "Name of the plugin.", example = "order-router")),
    responses((status = 200, description = "The plugin.", body = PluginView)),
)]
pub async fn enable(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Halted, Problem> {
    set_halt(&api, &name, None).await
}

/// A plugin after it was disabled or enabled.
type Halted = (Option<Extension<audit::Unchanged>>, Json<PluginView>);

async fn set_halt(api: &Api, name: &str, halt: Option<Halt>) -> Result<Halted, Problem> {
    let serving = api.store.serving().await?.into_iter().find(|row| *row.name == *name);
    let row = serving.ok_or_else(|| unknown(api, name))?;
    let changed = api.catalog.set_plugin_halt(&row, halt).await?;
    Ok(((!changed).then_some(Extension(audit::Unchanged)), Json(PluginView::new(&*find(api, name)?))))
}

/// A version after a change, and what changed, for the audit trail.
type Changed = (Option<Extension<audit::Members>>, Option<Extension<audit::Unchanged>>, Json<PluginVersionView>);

async fn changed(api: &Api, plugin: &Slug, version: Digest, published: Published) -> Result<Changed, Problem> {
    let versions = api.store.versions(plugin).await?;
    let gone = || Problem::conflict(format!("plugin {plugin} has more candidates than plugin.versions_bytes_max allows"));
    let stored = versions.iter().find(|one| one.version == version).ok_or_else(gone)?;
    let members = match published {
        Published::Serves { from } => Some(version_change(from, Some(version))),
        Published::Candidate => Some(format!("candidate {version}")),
        Published::Unchanged | Published::Outdated => None,
    };
    let unchanged = members.is_none().then_some(Extension(audit::Unchanged));
    let members = members.map(|change| Extension(audit::Members(vec![change])));
    Ok((members, unchanged, Json(PluginVersionView::new(stored))))
}

async fn serve(api: &Api, caller: &Caller, version: &PluginVersion) -> Result<Changed, Problem> {
    let by = caller.key.new.name.clone();
    let published = api.catalog.promote(version, by).await.map_err(|error| refused(&version.plugin, error))?;
    changed(api, &version.plugin, version.version, published).await
}

/// Returns the stored versions of a plugin. A plugin without stored versions counts as unknown.
async fn stored(api: &Api, name: &str) -> Result<(Slug, Vec<PluginVersion>), Problem> {
    let Ok(plugin) = Slug::parse(name) else { return Err(unknown(api, name)) };
    match api.store.versions(&plugin).await? {
        none if none.is_empty() => Err(unknown(api, name)),
        versions => Ok((plugin, versions)),
    }
}

fn refused(plugin: &Slug, error: NotPushed) -> Problem {
    match error {
        NotPushed::NotLoaded(reason) => Problem::bad_plugin(format!("the plugin does not load: {reason}")),
        NotPushed::OtherName(other) => {
            Problem::bad_plugin(format!("the file is plugin {other}, not {plugin}; push it under the name {other}"))
        }
        NotPushed::Store(error) => error.into(),
    }
}

pub fn not_chosen(plugin: &str, digits: &str, error: NotChosen) -> Problem {
    match error {
        NotChosen::None => {
            Problem::conflict(format!("plugin {plugin} has no candidate; push one as a candidate, or name a version"))
        }
        NotChosen::Unknown => {
            let text = format!(
                "plugin {plugin} has no stored version that begins with {digits:?}; list them with innesco plugin versions"
            );
            Problem::bad_value(text).at("/version")
        }
        NotChosen::Ambiguous(all) => {
            let all: Vec<String> = all.iter().map(|version| version.to_string()[..12].to_owned()).collect();
            Problem::bad_value(format!("{} versions begin with {digits:?}: {}", all.len(), all.join(", "))).at("/version")
        }
    }
}

impl PluginVersionView {
    pub fn new(stored: &PluginVersion) -> Self {
        Self {
            plugin: stored.plugin.to_string(),
            version: stored.version.to_string(),
            state: stored.state.as_str().into(),
            at: stored.at.to_string(),
            by: stored.by.clone(),
            way: stored.way.as_str().into(),
            description: stored.description.clone(),
            author_version: stored.author_version.clone(),
            on: stored.on.clone(),
            file: stored.file.clone(),
            bytes: stored.bytes,
            // The serving version has no end, even if it stopped serving earlier and serves again.
            ended_at: stored.ended_at.filter(|_| stored.state != VersionState::Serving).map(|at| at.to_string()),
        }
    }
}
