//! Endpoints: create, change, rotate, pause, test, delete. A saved endpoint is valid, and its address was checked.

mod input;
pub mod preview;
mod schema;
pub mod test_send;
mod view;

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use self::{
    input::Input,
    schema::{GivenSecret, Patch},
};
pub use self::{
    input::{bad_url, secret, wrong},
    schema::{Grace, RateText},
    view::visible_url,
};
use super::{Api, access::Sight, audit, auth::Caller, body, error::Problem, page::Query, patch, path::Path};
use crate::{
    clock,
    domain::{
        endpoint::{DisabledReason, Endpoint, EndpointState},
        grace,
        id::EndpointId,
        signature::Scheme,
    },
    store::Deletion,
    wire::{EndpointView, PageView},
};

/// Maximum number of endpoints of one engine.
const ENDPOINTS_MAX: usize = 10_000;

/// Create an endpoint.
///
/// Only this answer contains the secret that signs the endpoint's webhooks.
#[utoipa::path(
    post, path = "/v1/endpoints", operation_id = "create_endpoint", tag = "endpoints",
    request_body(content = Input, examples(
        ("full" = (summary = "A subscription", value = json!({
            "name": "crm", "title": "The CRM", "url": "https://crm.example.com/hook", "events": ["order.*"],
            "where": { "channel": ["web", "newsletter"] }, "headers": { "authorization": "Bearer their-key" }, "timeout": "10s",
            "schedule": ["0s", "10s", "5m", "1h"],
        }))),
        ("least" = (summary = "Without a subscription, for webhooks of plugins", value = json!({
            "name": "sales-slack", "url": "https://hooks.example.com/sales",
        }))),
    )),
    responses((status = 201, description = "The endpoint, with its secret.", body = EndpointView)),
    extensions(("x-problems" = json!(["bad_endpoint", "blocked_address", "conflict", "name_taken"]))),
)]
pub async fn create(
    State(api): State<Arc<Api>>,
    request_headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Extension<audit::Target>, Json<EndpointView>), Problem> {
    let input: Input = body::json(&api, &request_headers, body, Problem::bad_endpoint).await?;
    let new = with_room(&api, input.check(&api, None)).await?;
    let endpoint = api.store.create_endpoint(new).await?;
    api.catalog.refresh_endpoints().await?;
    // Requeues the first parked runs at once; the maintenance task requeues the rest.
    if let Err(error) = api.store.requeue_wanting(clock::steady()).await {
        tracing::debug!(%error, "runs parked for the new endpoint are not requeued yet");
    }
    tracing::info!(endpoint = %endpoint.new.name, "endpoint created");
    let view = EndpointView::revealing(&endpoint, api.store.tag()).warned(&api);
    Ok((StatusCode::CREATED, Extension(audit::Target(view.name.clone())), Json(view)))
}

/// Runs `check`, which may ask a name server, only if one more endpoint is allowed.
pub async fn with_room<T>(api: &Api, check: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    with_room_beside(api.catalog.endpoints().iter().count(), check).await
}

async fn with_room_beside<T>(endpoints: usize, check: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    if endpoints >= ENDPOINTS_MAX {
        return Err(Problem::conflict(format!("there are already {ENDPOINTS_MAX} endpoints, the limit of one engine")));
    }
    check.await
}

/// List all endpoints.
#[utoipa::path(
    get, path = "/v1/endpoints", operation_id = "list_endpoints", tag = "endpoints",
    responses((status = 200, description = "All endpoints.", body = PageView<EndpointView>)),
)]
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<PageView<EndpointView>>, Problem> {
    let endpoints = api.store.endpoints().await?;
    let items = endpoints.iter().map(|endpoint| EndpointView::new(endpoint, api.store.tag(), caller.sight)).collect();
    Ok(Json(PageView { items, next: None }))
}

/// Finds an endpoint by its id or its name.
pub fn find(api: &Api, text: &str) -> Result<Arc<Endpoint>, Problem> {
    let endpoints = api.catalog.endpoints();
    let by_id = EndpointId::parse(text, api.store.tag()).and_then(|id| endpoints.get(id));
    by_id.or_else(|| endpoints.named(text)).cloned().ok_or_else(|| {
        let near = endpoints.nearest(text).map(|near| format!("; the nearest name is {near:?}")).unwrap_or_default();
        Problem::not_found(format!("no endpoint {text:?}{near}"))
    })
}

/// Read one endpoint.
#[utoipa::path(
    get, path = "/v1/endpoints/{endpoint}", operation_id = "show_endpoint", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Id or name of the endpoint.", example = "crm")),
    responses((status = 200, description = "The endpoint, without its secret.", body = EndpointView)),
)]
pub async fn show(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<EndpointView>, Problem> {
    let endpoint = find(&api, &id)?;
    let view = EndpointView::new(&endpoint, api.store.tag(), caller.sight).warned(&api);
    Ok(Json(view.in_condition(&api, endpoint.id).await?))
}

/// Change an endpoint.
///
/// A JSON merge patch (RFC 7396): given members are replaced, `null` restores the default. If the signature changes, the answer
/// contains the new secret.
#[utoipa::path(
    patch, path = "/v1/endpoints/{endpoint}", operation_id = "change_endpoint", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Id or name of the endpoint.", example = "crm")),
    request_body(content(
        (Patch = "application/merge-patch+json", example = json!({ "events": ["order.*", "customer.created"], "timeout": null })),
        (Patch = "application/json", example = json!({ "title": "The new CRM" })),
    )),
    responses((status = 200, description = "The changed endpoint.", body = EndpointView)),
    extensions(("x-problems" = json!(["bad_endpoint", "blocked_address"]))),
)]
pub async fn change(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request_headers: HeaderMap,
    body: Body,
) -> Result<(Extension<audit::Members>, Json<EndpointView>), Problem> {
    let patch: serde_json::Map<String, Value> = body::json(&api, &request_headers, body, Problem::bad_endpoint).await?;
    let before = find(&api, &id)?;
    let tag = api.store.tag();
    if patch.get("name").is_some_and(|name| name.as_str() != Some(&before.new.name)) {
        return Err(wrong("name", "cannot be changed, because plugins send to it; change the title instead"));
    }
    let current = Input::of(&before, EndpointView::new(&before, tag, Sight::Whole));
    let mut merged = serde_json::to_value(current).map_err(|error| Problem::internal(error.to_string()))?;
    let members = patch.keys().cloned().collect();
    patch::merge(&mut merged, Value::Object(patch));
    body::whole_numbers(&mut merged);
    let input: Input = serde_json::from_value(merged).map_err(|error| Problem::bad_endpoint(error.to_string()))?;
    let changed = Endpoint { new: input.check(&api, Some(&before)).await?, ..Endpoint::clone(&before) };
    api.store.update_endpoint(changed.clone()).await?;
    api.catalog.refresh_endpoints().await?;
    let new_secret = changed.new.scheme != before.new.scheme;
    // Reads the endpoint again, because its state may have changed meanwhile.
    let changed = find(&api, &id)?;
    let view = if new_secret { EndpointView::revealing(&changed, tag) } else { EndpointView::new(&changed, tag, caller.sight) };
    Ok((Extension(audit::Members(members)), Json(view.warned(&api))))
}

#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Removal {
    /// `true`: delete the endpoint even if it is in use.
    #[serde(default)]
    pub force: bool,
}

/// Delete an endpoint.
///
/// An endpoint is in use if deliveries wait for it, or if a serving plugin recently sent webhooks to it by its name. It is then
/// deleted only with `force`. Its waiting deliveries are cancelled. From then on, a plugin's webhook to this name is `cancelled`
/// (`endpoint-deleted`), and the rest of the run takes effect.
#[utoipa::path(
    delete, path = "/v1/endpoints/{endpoint}", operation_id = "delete_endpoint", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Id or name of the endpoint.", example = "crm"), Removal),
    responses((status = 204, description = "The endpoint is deleted.")),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn remove(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(removal): Query<Removal>,
) -> Result<StatusCode, Problem> {
    let endpoint = find(&api, &id)?;
    // Includes plugins that do not load at the moment, because they send again once they load.
    let serving = || api.catalog.plugins().iter().map(|entry| entry.row.name.clone()).collect();
    let deletion = if removal.force { Deletion::Forced } else { Deletion::Unused { serving: serving() } };
    api.store.delete_endpoint(endpoint.id, deletion, None).await?;
    api.catalog.refresh_endpoints().await?;
    tracing::info!(endpoint = %endpoint.new.name, "endpoint deleted; its waiting deliveries are cancelled");
    Ok(StatusCode::NO_CONTENT)
}

/// Options of a rotation.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// New secret; generated by default.
    #[schema(value_type = Option<GivenSecret>)]
    secret: Option<String>,
    /// Grace period in which the old secret still signs: at most 7 days; default 24h.
    #[schema(value_type = Option<Grace>)]
    grace: Option<String>,
}

/// Create a new secret for an endpoint.
///
/// Webhooks are also signed with the old secret until its grace period ends.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/rotate-secret", operation_id = "rotate_endpoint_secret", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Id or name of the endpoint.", example = "crm")),
    request_body(content = Option<Rotation>, example = json!({ "grace": "12h" })),
    responses((status = 200, description = "The endpoint, with its new secret.", body = EndpointView)),
    extensions(("x-problems" = json!(["bad_endpoint", "bad_value", "conflict"]))),
)]
pub async fn rotate(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    request_headers: HeaderMap,
    body: Body,
) -> Result<Json<EndpointView>, Problem> {
    let rotation = body::optional_json::<Rotation>(&api, &request_headers, body, Problem::bad_value).await?.unwrap_or_default();
    let mut endpoint = Endpoint::clone(&*find(&api, &id)?);
    let scheme = endpoint.new.scheme;
    if scheme == Scheme::None {
        return Err(Problem::conflict("signature \"none\" has no secret; choose another signature first"));
    }
    let given = rotation.grace.as_deref().unwrap_or(if scheme.carries_several() { grace::DEFAULT } else { "0s" });
    let period =
        grace::parse(given).ok_or_else(|| Problem::bad_value(format!("grace: {given:?} is not {}", grace::RULE)).at("/grace"))?;
    if !period.is_zero() && !scheme.carries_several() {
        let detail = format!(
            "grace: a webhook carries only one {} signature, so the old secret ends at once; leave grace out",
            scheme.as_str()
        );
        return Err(Problem::bad_value(detail).at("/grace"));
    }
    endpoint.rotate(secret(rotation.secret.as_deref(), scheme)?, clock::steady(), period);
    api.store.update_endpoint(endpoint.clone()).await?;
    api.catalog.refresh_endpoints().await?;
    Ok(Json(EndpointView::revealing(&endpoint, api.store.tag())))
}

/// Pause an endpoint.
///
/// Its deliveries are stored and wait.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/pause", operation_id = "pause_endpoint", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Id or name of the endpoint.", example = "crm")),
    responses((status = 200, description = "The changed endpoint.", body = EndpointView)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn pause(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<EndpointView>, Problem> {
    set_state(&api, &caller, &id, EndpointState::Paused).await
}

/// Disable an endpoint.
///
/// Its waiting deliveries are marked dead and stay stored. Until the endpoint is resumed, each new delivery is dead too.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/disable", operation_id = "disable_endpoint", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Id or name of the endpoint.", example = "crm")),
    responses((status = 200, description = "The changed endpoint.", body = EndpointView)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn disable(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<EndpointView>, Problem> {
    set_state(&api, &caller, &id, EndpointState::Disabled(DisabledReason::ByHand)).await
}

/// Resume an endpoint.
///
/// Also enables a disabled endpoint again. Deliveries that wait for their next attempt become due now.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/resume", operation_id = "resume_endpoint", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Id or name of the endpoint.", example = "crm")),
    responses((status = 200, description = "The changed endpoint.", body = EndpointView)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn resume(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<EndpointView>, Problem> {
    set_state(&api, &caller, &id, EndpointState::Active).await
}

async fn set_state(api: &Api, caller: &Caller, id: &str, to: EndpointState) -> Result<Json<EndpointView>, Problem> {
    let endpoint = find(api, id)?;
    api.store.set_endpoint_state(endpoint.id, &[endpoint.new.state], to, None).await?;
    api.catalog.refresh_endpoints().await?;
    Ok(Json(EndpointView::new(&*find(api, id)?, api.store.tag(), caller.sight)))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn no_name_server_is_asked_for_an_endpoint_beyond_the_limit() {
        let asked = Cell::new(0);
        let ask = async || {
            asked.set(asked.get() + 1);
            Ok(())
        };
        assert!(with_room_beside(ENDPOINTS_MAX - 1, ask()).await.is_ok());
        let refused = with_room_beside(ENDPOINTS_MAX, ask()).await.expect_err("there is no room");
        assert!(refused.detail().contains("10000 endpoints"), "{refused:?}");
        assert_eq!(asked.get(), 1);
    }
}
