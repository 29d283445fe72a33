//! Subscriptions of automation tools (REST hooks): a program says where it wants which events, and takes that back by itself. Each is
//! an endpoint that a `410` removes; what else there is to it is the endpoint's business.
//!
//! A subscription is made first and looked for afterwards: its name is unique in the store, so that the same one asked for twice, at
//! once or on two nodes, is one.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Api, audit,
    auth::Caller,
    body,
    endpoints::{self, EndpointView},
    error::Problem,
    path::Path,
    view::PageView,
};
use crate::{
    domain::{
        endpoint::{DisabledReason, Endpoint, EndpointState, NewEndpoint},
        id::{EndpointId, Tag},
        name::Slug,
        pattern::Pattern,
        signature::Scheme,
        time::Timestamp,
    },
    store::Error,
};

/// What a program wants to hear of, and where.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SubscriptionInput)]
struct Input {
    /// Where the events are to be sent. Private and other special addresses are refused.
    #[schema(format = "uri")]
    target_url: String,
    /// Which events.
    #[schema(value_type = Pattern)]
    event: String,
}

/// What a program has subscribed to: an endpoint that is removed when it answers `410`.
#[derive(Serialize, ToSchema)]
#[schema(as = Subscription)]
pub struct SubscriptionView {
    /// What it is taken back by; also the endpoint's id.
    #[schema(value_type = EndpointId)]
    id: String,
    #[schema(format = "uri")]
    target_url: String,
    #[schema(value_type = Pattern)]
    event: String,
    /// The name of the endpoint.
    #[schema(value_type = Slug)]
    endpoint: String,
    #[schema(value_type = EndpointState)]
    state: &'static str,
    #[schema(value_type = Timestamp)]
    created_at: String,
    /// What its webhooks are signed with. Only in the reply that creates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    secret: Option<String>,
}

impl SubscriptionView {
    fn of(endpoint: EndpointView) -> Self {
        Self {
            id: endpoint.id,
            target_url: endpoint.url,
            event: endpoint.events.into_iter().next().unwrap_or_default(),
            endpoint: endpoint.name,
            state: endpoint.state,
            created_at: endpoint.created_at,
            secret: endpoint.secret,
        }
    }

    fn new(endpoint: &Endpoint, tag: Tag) -> Self {
        Self::of(EndpointView::new(endpoint, tag))
    }
}

/// Subscribe to events.
///
/// They are sent to the URL, signed by Standard Webhooks, until the subscription is deleted or the URL answers `410`. The same URL and
/// events again are answered with the subscription that there is; if it was disabled after days of failures, it goes on.
#[utoipa::path(
    post, path = "/v1/subscriptions", operation_id = "subscribe", tag = "subscriptions",
    request_body(content = Input, example = json!({ "target_url": "https://hooks.example.com/hooks/1/2", "event": "order.created" })),
    responses(
        (status = 201, description = "The new subscription, with its secret.", body = SubscriptionView),
        (status = 200, description = "The subscription that there was already, without its secret.", body = SubscriptionView),
    ),
    extensions(("x-problems" = json!(["bad_endpoint", "blocked_address", "conflict", "name_taken"]))),
)]
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(Caller(key)): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Extension<audit::Target>, Json<SubscriptionView>), Problem> {
    let input: Input = body::json(&api, &headers, body, Problem::bad_endpoint).await?;
    let events = Pattern::parse(&input.event).map_err(|bad| endpoints::wrong("event", bad))?;
    let url = api.outbound.check_url(&input.target_url).await.map_err(|bad| endpoints::bad_url("target_url", &bad))?;
    let title = format!("subscribed with the key {:?}", key.new.name);
    let new = NewEndpoint::subscription(url.to_string(), events, title, endpoints::secret(None, Scheme::default())?);
    if api.catalog.endpoints().named(&new.name).is_none() {
        endpoints::check_room(&api)?;
    }
    let (status, view) = match api.store.create_endpoint(new.clone()).await {
        Ok(endpoint) => {
            api.catalog.refresh_endpoints().await?;
            tracing::info!(endpoint = %new.name, key = %key.new.name, "subscribed");
            (StatusCode::CREATED, SubscriptionView::of(EndpointView::revealing(&endpoint, api.store.tag())))
        }
        Err(taken @ Error::Taken { .. }) => {
            let known = again(&api, &new).await?.ok_or(taken)?;
            (StatusCode::OK, SubscriptionView::new(&known, api.store.tag()))
        }
        Err(error) => return Err(error.into()),
    };
    Ok((status, Extension(audit::Target(view.id.clone())), Json(view)))
}

/// The subscription that there is already. One that was given up since its target failed for days is wanted after all.
async fn again(api: &Api, new: &NewEndpoint) -> Result<Option<Arc<Endpoint>>, Problem> {
    let find = || api.catalog.endpoints().named(&new.name).filter(|known| known.new.is_same_subscription(new)).cloned();
    api.catalog.refresh_endpoints().await?;
    let Some(known) = find() else { return Ok(None) };
    let given_up = EndpointState::Disabled(DisabledReason::Failing);
    if known.new.state == given_up {
        api.store.set_endpoint_state(known.id, &[given_up], EndpointState::Active, None).await?;
        api.catalog.refresh_endpoints().await?;
    }
    Ok(find())
}

/// List all subscriptions.
#[utoipa::path(
    get, path = "/v1/subscriptions", operation_id = "list_subscriptions", tag = "subscriptions",
    responses((status = 200, description = "All of them.", body = PageView<SubscriptionView>)),
)]
pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<PageView<SubscriptionView>>, Problem> {
    let endpoints = api.store.endpoints().await?;
    let subscriptions = endpoints.iter().filter(|endpoint| endpoint.new.is_subscription());
    let items = subscriptions.map(|endpoint| SubscriptionView::new(endpoint, api.store.tag())).collect();
    Ok(Json(PageView { items, next: None }))
}

fn find(api: &Api, id: &str) -> Result<Arc<Endpoint>, Problem> {
    let found = endpoints::find(api, id).ok().filter(|endpoint| endpoint.new.is_subscription());
    found.ok_or_else(|| {
        Problem::not_found(format!("there is no subscription {id:?}; it may have been taken back, or have ended with a 410"))
    })
}

/// Read one subscription.
#[utoipa::path(
    get, path = "/v1/subscriptions/{subscription}", operation_id = "show_subscription", tag = "subscriptions",
    params(("subscription" = String, Path, description = "Its id.", example = "ep_k7q22a9")),
    responses((status = 200, description = "The subscription, without its secret.", body = SubscriptionView)),
)]
pub async fn show(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<SubscriptionView>, Problem> {
    Ok(Json(SubscriptionView::new(&*find(&api, &id)?, api.store.tag())))
}

/// Take a subscription back.
///
/// What waits for it is cancelled.
#[utoipa::path(
    delete, path = "/v1/subscriptions/{subscription}", operation_id = "unsubscribe", tag = "subscriptions",
    params(("subscription" = String, Path, description = "Its id.", example = "ep_k7q22a9")),
    responses((status = 204, description = "It is gone.")),
)]
pub async fn remove(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let subscription = find(&api, &id)?;
    api.store.delete_endpoint(subscription.id, None).await?;
    api.catalog.refresh_endpoints().await?;
    tracing::info!(endpoint = %subscription.new.name, "unsubscribed; what waited for it is cancelled");
    Ok(StatusCode::NO_CONTENT)
}
