//! Subscriptions of automation tools (REST hooks): a program subscribes to events, and unsubscribes. Each subscription is an endpoint
//! that a `410` removes; everything else about it is the endpoint's business.
//!
//! A key of the role `subscribe` sees and ends only its own subscriptions, and these reach public addresses only. Such keys are stored by
//! other companies' services; `admin` would be too much for them.
//!
//! The name of the endpoint is derived from the event and the target URL, and names are unique in the store. So the same subscription,
//! requested twice, at once or on two nodes, exists once. It is created first and looked up afterwards.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Api,
    access::Sight,
    audit::{self, Unchanged},
    auth::Caller,
    body,
    endpoints::{self, EndpointView},
    error::Problem,
    path::Path,
    view::PageView,
};
use crate::{
    domain::{
        endpoint::{DisabledReason, Endpoint, EndpointState, NewEndpoint, Reach},
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
    /// A key of the role `read` sees `***` in the place of its path and query.
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

    fn new(endpoint: &Endpoint, tag: Tag, sight: Sight) -> Self {
        Self::of(EndpointView::new(endpoint, tag, sight))
    }
}

/// Subscribe to events.
///
/// They are sent to the URL, signed by Standard Webhooks, until the subscription is deleted or the URL answers `410`. The same URL and
/// events again are answered with the subscription that exists; if it was disabled after days of failures, it goes on. With a key of
/// the role `subscribe`, the URL has to lead to a public address.
#[utoipa::path(
    post, path = "/v1/subscriptions", operation_id = "subscribe", tag = "subscriptions",
    request_body(content = Input, example = json!({ "target_url": "https://hooks.example.com/hooks/1/2", "event": "order.created" })),
    responses(
        (status = 201, description = "The new subscription, with its secret.", body = SubscriptionView),
        (status = 200, description = "The subscription that there was already, without its secret.", body = SubscriptionView),
    ),
    extensions(("x-problems" = json!(["bad_endpoint", "blocked_address", "conflict", "name_taken", "rate_limited"]))),
)]
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(Caller { key, sight }): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let input: Input = body::json(&api, &headers, body, Problem::bad_endpoint).await?;
    let events = Pattern::parse(&input.event).map_err(|bad| endpoints::wrong("event", bad))?;
    let reach = match sight {
        Sight::Whole => Reach::Opened,
        Sight::Own | Sight::WithoutSecrets => Reach::Public,
    };
    if reach == Reach::Public && input.event.starts_with("innesco.") {
        return Err(endpoints::wrong(
            "event",
            "innesco.* are the engine's own events, which go to endpoints of operators alone; subscribe with a key of the role operate",
        ));
    }
    let url = api.outbound.check_form(&input.target_url, reach).map_err(|bad| endpoints::bad_url("target_url", &bad))?;
    let title = format!("subscribed with the key {:?}", key.new.name);
    let secret = endpoints::secret(None, Scheme::default())?;
    let new = NewEndpoint::subscription(url.to_string(), events, title, secret, key.id, reach);
    if api.catalog.endpoints().named(&new.name).is_none() {
        // Room before addresses: when there is none, no name server is asked. What exists already was judged when it was made.
        endpoints::check_room(&api)?;
        api.outbound.check_addresses(&url, reach).await.map_err(|bad| endpoints::bad_url("target_url", &bad))?;
    }
    let tag = api.store.tag();
    match api.store.create_endpoint(new.clone()).await {
        Ok(endpoint) => {
            api.catalog.refresh_endpoints().await?;
            tracing::info!(endpoint = %new.name, key = %key.new.name, "subscribed");
            let view = SubscriptionView::of(EndpointView::revealing(&endpoint, tag));
            Ok((StatusCode::CREATED, Extension(audit::Target(view.id.clone())), Json(view)).into_response())
        }
        Err(taken @ Error::Taken { .. }) => {
            let (known, is_changed) = again(&api, &new).await?.ok_or(taken)?;
            let view = SubscriptionView::new(&known, tag, sight);
            let mut response = (StatusCode::OK, Extension(audit::Target(view.id.clone())), Json(view)).into_response();
            if !is_changed {
                response.extensions_mut().insert(Unchanged);
            }
            Ok(response)
        }
        Err(error) => Err(error.into()),
    }
}

/// The subscription that exists already, and whether it is another one now. One that was given up since its target failed for days
/// is wanted after all; one whose maker is not known becomes the asker's, with the asker's reach.
async fn again(api: &Api, new: &NewEndpoint) -> Result<Option<(Arc<Endpoint>, bool)>, Problem> {
    let find = || api.catalog.endpoints().named(&new.name).filter(|known| known.new.is_same_subscription(new)).cloned();
    api.catalog.refresh_endpoints().await?;
    let Some(known) = find() else { return Ok(None) };
    let given_up = EndpointState::Disabled(DisabledReason::Failing);
    let (is_given_up, is_unclaimed) = (known.new.state == given_up, known.new.policy.maker.is_none());
    if is_unclaimed {
        let mut claimed = Endpoint::clone(&known);
        (claimed.new.policy.maker, claimed.new.policy.reach) = (new.policy.maker, new.policy.reach);
        api.store.update_endpoint(claimed).await?;
    }
    if is_given_up {
        api.store.set_endpoint_state(known.id, &[given_up], EndpointState::Active, None).await?;
    }
    if is_given_up || is_unclaimed {
        api.catalog.refresh_endpoints().await?;
    }
    Ok(find().map(|found| (found, is_given_up || is_unclaimed)))
}

impl Caller {
    /// Whether the caller may know of a subscription.
    fn sees(&self, endpoint: &Endpoint) -> bool {
        endpoint.new.is_subscription()
            && match self.sight {
                Sight::Own => endpoint.new.policy.maker == Some(self.key.id),
                Sight::Whole | Sight::WithoutSecrets => true,
            }
    }
}

/// List subscriptions.
///
/// With a key of the role `subscribe`, those that this key made.
#[utoipa::path(
    get, path = "/v1/subscriptions", operation_id = "list_subscriptions", tag = "subscriptions",
    responses((status = 200, description = "All that the key may see.", body = PageView<SubscriptionView>)),
)]
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<PageView<SubscriptionView>>, Problem> {
    let endpoints = api.store.endpoints().await?;
    let subscriptions = endpoints.iter().filter(|endpoint| caller.sees(endpoint));
    let items = subscriptions.map(|endpoint| SubscriptionView::new(endpoint, api.store.tag(), caller.sight)).collect();
    Ok(Json(PageView { items, next: None }))
}

/// Finds a subscription that the caller may know of. Another key's is answered like one that never existed.
fn find(api: &Api, caller: &Caller, id: &str) -> Result<Arc<Endpoint>, Problem> {
    let found = endpoints::find(api, id).ok().filter(|endpoint| caller.sees(endpoint));
    found.ok_or_else(|| {
        Problem::not_found(format!(
            "there is no subscription {id:?} of this key; it may have been deleted, have ended with a 410, or belong to another key"
        ))
    })
}

/// Read one subscription.
#[utoipa::path(
    get, path = "/v1/subscriptions/{subscription}", operation_id = "show_subscription", tag = "subscriptions",
    params(("subscription" = String, Path, description = "Its id.", example = "ep_k7q22a9")),
    responses((status = 200, description = "The subscription, without its secret.", body = SubscriptionView)),
)]
pub async fn show(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<SubscriptionView>, Problem> {
    Ok(Json(SubscriptionView::new(&*find(&api, &caller, &id)?, api.store.tag(), caller.sight)))
}

/// Delete a subscription.
///
/// Deliveries that wait for it are cancelled.
#[utoipa::path(
    delete, path = "/v1/subscriptions/{subscription}", operation_id = "unsubscribe", tag = "subscriptions",
    params(("subscription" = String, Path, description = "Its id.", example = "ep_k7q22a9")),
    responses((status = 204, description = "It is gone.")),
    extensions(("x-problems" = json!(["rate_limited"]))),
)]
pub async fn remove(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let subscription = find(&api, &caller, &id)?;
    api.store.delete_endpoint(subscription.id, None).await?;
    api.catalog.refresh_endpoints().await?;
    tracing::info!(endpoint = %subscription.new.name, "unsubscribed; what waited for it is cancelled");
    Ok(StatusCode::NO_CONTENT)
}
