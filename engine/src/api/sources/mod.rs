//! Sources: create, change, rotate, delete. [`super::inbound`] handles their requests.

mod input;
mod view;

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use self::input::{Input, Patch, SourceSecret, new_token, secret, wrong};
use super::{Api, audit, auth::Caller, body, endpoints, error::Problem, patch, path::Path};
use crate::{
    clock,
    domain::{grace, id::SourceId, source::Source},
    wire::{PageView, SourceView},
};

/// Maximum number of sources of one engine.
const SOURCES_MAX: usize = 1_000;

/// Create a source.
///
/// Only this answer contains the secret with which the source's senders sign, or which they send.
#[utoipa::path(
    post, path = "/v1/sources", operation_id = "create_source", tag = "sources",
    request_body(content = Input, examples(
        ("github" = (summary = "A known sender", value = json!({ "name": "github", "preset": "github" }))),
        ("hmac" = (summary = "A custom signature", value = json!({
            "name": "crm", "title": "Our CRM", "preset": "hmac", "secret": "what-it-signs-with", "header": "crm-signature",
            "prefix": "sha256=", "template": "{timestamp}.{body}", "timestamp": "header:crm-time", "tolerance": "10m",
            "type_from": "body:/event", "dedupe": "body:/id", "attributes": { "initiator": "body:/initiated_by" },
        }))),
    )),
    responses((status = 201, description = "The source, with its secret.", body = SourceView)),
    extensions(("x-problems" = json!(["bad_source", "conflict", "name_taken"]))),
)]
pub async fn create(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Extension<audit::Target>, Json<SourceView>), Problem> {
    let input: Input = body::json(&api, &headers, body, Problem::bad_source).await?;
    if api.sources.table().count() >= SOURCES_MAX {
        return Err(Problem::conflict(format!("there are already {SOURCES_MAX} sources, the limit of one engine")));
    }
    let source = api.store.create_source(input.check(&api, None)?).await?;
    api.sources.refresh().await?;
    tracing::info!(source = %source.new.name, preset = source.new.settings.preset.as_str(), "source created");
    let view = SourceView::revealing(&api, &source).await?;
    Ok((StatusCode::CREATED, Extension(audit::Target(view.name.clone())), Json(view)))
}

/// List all sources.
#[utoipa::path(
    get, path = "/v1/sources", operation_id = "list_sources", tag = "sources",
    responses((status = 200, description = "All sources.", body = PageView<SourceView>)),
)]
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<PageView<SourceView>>, Problem> {
    let mut requests = api.inbound.watches.requests(&*api.store).await?;
    let mut view = |source: &Source| {
        let requests = requests.remove(&source.id).unwrap_or_default();
        SourceView::with(&api, source, requests, caller.sight)
    };
    let items = api.store.sources().await?.iter().map(&mut view).collect();
    Ok(Json(PageView { items, next: None }))
}

/// Finds a source by its id or its name.
pub fn find(api: &Api, text: &str) -> Result<Arc<Source>, Problem> {
    let sources = api.sources.table();
    let by_id = SourceId::parse(text, api.store.tag()).and_then(|id| sources.get(id));
    by_id.or_else(|| sources.named(text)).cloned().ok_or_else(|| {
        let near = sources.nearest(text).map(|near| format!("; the nearest name is {near:?}")).unwrap_or_default();
        Problem::not_found(format!("no source {text:?}{near}"))
    })
}

/// Read one source.
///
/// Includes counts of accepted and refused requests since the source was created, and the last refusals with reasons.
#[utoipa::path(
    get, path = "/v1/sources/{source}", operation_id = "show_source", tag = "sources",
    params(("source" = String, Path, description = "Id or name of the source.", example = "github")),
    responses((status = 200, description = "The source, without its secret.", body = SourceView)),
)]
pub async fn show(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<SourceView>, Problem> {
    Ok(Json(SourceView::new(&api, &*find(&api, &id)?, caller.sight).await?))
}

/// Change a source.
///
/// A JSON merge patch (RFC 7396): given members are replaced, `null` restores the default. If the preset changes, the old secret
/// becomes invalid, and the answer contains the new one.
#[utoipa::path(
    patch, path = "/v1/sources/{source}", operation_id = "change_source", tag = "sources",
    params(("source" = String, Path, description = "Id or name of the source.", example = "github")),
    request_body(content(
        (Patch = "application/merge-patch+json", example = json!({ "allow": ["192.0.2.0/24"], "rate": null })),
        (Patch = "application/json", example = json!({ "title": "GitHub" })),
    )),
    responses((status = 200, description = "The changed source.", body = SourceView)),
    extensions(("x-problems" = json!(["bad_source"]))),
)]
pub async fn change(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(Extension<audit::Members>, Json<SourceView>), Problem> {
    let patch: serde_json::Map<String, Value> = body::json(&api, &headers, body, Problem::bad_source).await?;
    let before = find(&api, &id)?;
    if patch.get("name").is_some_and(|name| name.as_str() != Some(&before.new.name)) {
        return Err(wrong("name", "cannot be changed, because events carry it; change the title instead"));
    }
    let keeps_verify_token = !patch.contains_key("verify_token");
    let mut merged = serde_json::to_value(Input::of(&before)).map_err(|error| Problem::internal(error.to_string()))?;
    let members = patch.keys().cloned().collect();
    patch::merge(&mut merged, Value::Object(patch));
    body::whole_numbers(&mut merged);
    let input: Input = serde_json::from_value(merged).map_err(|error| Problem::bad_source(error.to_string()))?;
    let mut changed = Source { new: input.check(&api, Some(&before))?, ..Source::clone(&before) };
    if keeps_verify_token {
        changed.new.verify_token.clone_from(&before.new.verify_token);
    }
    api.store.update_source(changed.clone()).await?;
    api.sources.refresh().await?;
    let new_secret = changed.new.settings.preset != before.new.settings.preset;
    let view = match new_secret {
        true => SourceView::revealing(&api, &changed).await?,
        false => SourceView::new(&api, &changed, caller.sight).await?,
    };
    Ok((Extension(audit::Members(members)), Json(view)))
}

/// Delete a source.
///
/// Requests to its address get 404. Its events stay.
#[utoipa::path(
    delete, path = "/v1/sources/{source}", operation_id = "delete_source", tag = "sources",
    params(("source" = String, Path, description = "Id or name of the source.", example = "github")),
    responses((status = 204, description = "The source is deleted.")),
)]
pub async fn remove(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let source = find(&api, &id)?;
    api.store.delete_source(source.id).await?;
    api.sources.refresh().await?;
    api.inbound.watches.forget(source.id);
    tracing::info!(source = %source.new.name, "source deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// Options of a secret rotation.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SourceRotation)]
struct Rotation {
    /// New secret of the senders; generated by default.
    #[schema(value_type = Option<SourceSecret>)]
    secret: Option<String>,
    /// Grace period in which the old secret stays valid: at most 7 days; default 24h.
    #[schema(value_type = Option<endpoints::Grace>)]
    grace: Option<String>,
}

/// Create a new secret for a source.
///
/// The old secret stays valid until its grace period ends, so that you can give the new one to the sender.
#[utoipa::path(
    post, path = "/v1/sources/{source}/rotate-secret", operation_id = "rotate_source_secret", tag = "sources",
    params(("source" = String, Path, description = "Id or name of the source.", example = "github")),
    request_body(content = Option<Rotation>, example = json!({ "grace": "12h" })),
    responses((status = 200, description = "The source, with its new secret.", body = SourceView)),
    extensions(("x-problems" = json!(["bad_source", "bad_value", "conflict"]))),
)]
pub async fn rotate(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SourceView>, Problem> {
    let rotation = body::optional_json::<Rotation>(&api, &headers, body, Problem::bad_value).await?.unwrap_or_default();
    let mut source = Source::clone(&*find(&api, &id)?);
    if !source.new.settings.proofs.have_secret() {
        return Err(Problem::conflict(format!(
            "preset \"{}\" has no secret; choose a preset with one",
            source.new.settings.preset.as_str()
        )));
    }
    let grace = grace_period(rotation.grace.as_deref())?;
    source.rotate(secret(rotation.secret.as_deref(), &source.new.settings)?, clock::steady(), grace);
    api.store.update_source(source.clone()).await?;
    api.sources.refresh().await?;
    Ok(Json(SourceView::revealing(&api, &source).await?))
}

/// Options of an address rotation.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AddressRotation)]
struct AddressRotation {
    /// Grace period in which the old address stays valid: at most 7 days; default 24h.
    #[schema(value_type = Option<endpoints::Grace>)]
    grace: Option<String>,
}

/// Create a new address for a source.
///
/// The old address stays valid until its grace period ends, so that you can give the new one to the sender. `0s` ends it at once.
#[utoipa::path(
    post, path = "/v1/sources/{source}/rotate-address", operation_id = "rotate_source_address", tag = "sources",
    params(("source" = String, Path, description = "Id or name of the source.", example = "github")),
    request_body(content = Option<AddressRotation>, example = json!({ "grace": "12h" })),
    responses((status = 200, description = "The source, with its new address.", body = SourceView)),
    extensions(("x-problems" = json!(["bad_value"]))),
)]
pub async fn rotate_address(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SourceView>, Problem> {
    let rotation = body::optional_json::<AddressRotation>(&api, &headers, body, Problem::bad_value).await?.unwrap_or_default();
    let mut source = Source::clone(&*find(&api, &id)?);
    source.rotate_address(new_token()?, clock::steady(), grace_period(rotation.grace.as_deref())?);
    api.store.update_source(source.clone()).await?;
    api.sources.refresh().await?;
    tracing::info!(source = %source.new.name, "source has a new address");
    Ok(Json(SourceView::new(&api, &source, caller.sight).await?))
}

/// Reads the grace period of a rotation.
fn grace_period(given: Option<&str>) -> Result<Duration, Problem> {
    let period = grace::parse(given.unwrap_or(grace::DEFAULT));
    period.ok_or_else(|| Problem::bad_value(format!("grace: must be {}", grace::RULE)).at("/grace"))
}
