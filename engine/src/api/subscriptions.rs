//! Subscriptions of automation tools (REST hooks): a program subscribes to events, and unsubscribes. Each subscription is an
//! endpoint that a `410` removes; everything else works as for other endpoints.
//!
//! A key of the role `subscribe` sees and deletes only its own subscriptions, and these reach only public addresses. Services of
//! other companies store such keys, so they must not have the rights of `admin`.
//!
//! The endpoint's name is derived from the event and the target URL, and names are unique in the store. So a subscription that is
//! requested twice, even concurrently or on two nodes, exists once. The code tries to create it first, and looks it up if it exists
//! already.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    access::Sight,
    audit::{self, Unchanged},
    auth::Caller,
    body, endpoints,
    error::Problem,
    page::Query,
    path::Path,
};
use crate::{
    domain::{
        content::JSON,
        endpoint::{DisabledReason, Endpoint, EndpointState, NewEndpoint, Reach},
        envelope::{self, Envelope, Format},
        id::Tag,
        name::EventType,
        pattern::Pattern,
        signature::Scheme,
        time::Timestamp,
    },
    store::{Deletion, Error, EventFilter, EventSummary, PageRequest, StoryPlace},
    wire::{EndpointView, PageView, SubscriptionView},
};

/// Request of a program to subscribe.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SubscriptionInput)]
struct Input {
    /// URL that receives the events. Private and other special addresses are refused.
    #[schema(format = "uri")]
    target_url: String,
    /// Pattern of event types.
    #[schema(value_type = Pattern)]
    event: String,
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
/// The engine sends the events to the URL, signed as Standard Webhooks specifies, until the subscription is deleted or the URL
/// answers `410`. A second request with the same URL and events returns the existing subscription. A subscription that was disabled
/// after days of failures is then resumed. With a key of the role `subscribe`, the URL must have a public address.
#[utoipa::path(
    post, path = "/v1/subscriptions", operation_id = "subscribe", tag = "subscriptions",
    request_body(content = Input, example = json!({ "target_url": "https://hooks.example.com/hooks/1/2", "event": "order.created" })),
    responses(
        (status = 201, description = "The new subscription, with its secret.", body = SubscriptionView),
        (status = 200, description = "The existing subscription, without its secret.", body = SubscriptionView),
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
            "innesco.* events are only for operators; subscribe with a key of the role operate",
        ));
    }
    let url = api.outbound.check_form(&input.target_url, reach).map_err(|bad| endpoints::bad_url("target_url", &bad))?;
    let title = format!("subscribed with the key {:?}", key.new.name);
    let secret = endpoints::secret(None, Scheme::default())?;
    let new = NewEndpoint::subscription(url.to_string(), events, title, secret, key.id, reach);
    if api.catalog.endpoints().named(&new.name).is_none() {
        // Only the addresses of a new subscription are checked, because those of an existing one were checked when it was
        // created.
        let addresses =
            async { api.outbound.check_addresses(&url, reach).await.map_err(|bad| endpoints::bad_url("target_url", &bad)) };
        endpoints::with_room(&api, addresses).await?;
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

/// Returns the existing subscription, and whether it changed. A subscription that was disabled after failures is resumed. A
/// subscription without a known creator becomes the caller's, and may reach what the caller's role may reach.
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
    /// Returns whether the caller may see a subscription.
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
/// A key of the role `subscribe` sees only the subscriptions that it created.
#[utoipa::path(
    get, path = "/v1/subscriptions", operation_id = "list_subscriptions", tag = "subscriptions",
    responses((status = 200, description = "All subscriptions that the key may see.", body = PageView<SubscriptionView>)),
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

/// Finds a subscription that the caller may see. The answer for another key's subscription is the same as for one that never
/// existed.
fn find(api: &Api, caller: &Caller, id: &str) -> Result<Arc<Endpoint>, Problem> {
    let found = endpoints::find(api, id).ok().filter(|endpoint| caller.sees(endpoint));
    found.ok_or_else(|| {
        Problem::not_found(format!(
            "no subscription {id:?} of this key; it may have been deleted, have ended with a 410, or belong to another key"
        ))
    })
}

/// Number of newest events that are searched for samples: one page of the store.
const SAMPLED_FROM: usize = 500;
/// Maximum number of samples in an answer. A tool shows one to its user.
const SAMPLES_MAX: usize = 3;
/// Largest data of a sample, in bytes. A tool only reads which fields a sample has, and smaller events show them as well.
const SAMPLE_BYTES_MAX: u64 = 64 << 10;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Samples {
    /// Pattern of event types; default `*`.
    #[param(value_type = Option<Pattern>)]
    event: Option<String>,
}

/// Body of a webhook that a subscription receives.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the body, which is sent as it is rendered")]
struct Sample {
    #[schema(value_type = EventType)]
    r#type: String,
    #[schema(value_type = Timestamp)]
    timestamp: String,
    /// JSON, or text as a string.
    data: Option<serde_json::Value>,
    /// Other data, in base64, instead of `data`.
    #[schema(nullable = false)]
    data_base64: Option<String>,
}

/// List samples for a subscription.
///
/// Returns the bodies that a subscription to this pattern would have received for the newest events: at most 3, newest first. Only
/// the last 500 events are searched. Tools use the samples to map fields. Events with more than 64 KiB of data and operational
/// events (`innesco.*`) are left out.
#[utoipa::path(
    get, path = "/v1/subscriptions/samples", operation_id = "sample_subscription", tag = "subscriptions",
    params(Samples),
    responses((status = 200, description = "The bodies.", body = Vec<Sample>)),
)]
pub async fn samples(State(api): State<Arc<Api>>, Query(wanted): Query<Samples>) -> Result<Response, Problem> {
    let pattern =
        Pattern::parse(wanted.event.as_deref().unwrap_or("*")).map_err(|bad| Problem::bad_request(format!("event: {bad}")))?;
    let event_type = match &pattern {
        Pattern::Exactly(_) => Some(pattern.clone()),
        Pattern::All | Pattern::Below(_) => None,
    };
    let filter = EventFilter { event_type, ..EventFilter::default() };
    let page = api.store.events(filter, PageRequest { cursor: None, limit: SAMPLED_FROM }).await?;
    let fits = |summary: &&EventSummary| {
        let event_type = &summary.event.new.event_type;
        pattern.matches(event_type) && !event_type.is_ours() && summary.bytes <= SAMPLE_BYTES_MAX
    };
    let mut samples = Vec::new();
    for summary in page.items.iter().filter(fits).take(SAMPLES_MAX) {
        let event = api.store.event(summary.event.id, StoryPlace::default()).await?.event;
        // JSON in the standard envelope is never too long.
        if let Ok(body) = envelope::render(&event, api.store.tag(), Envelope::Standard, Format::Json) {
            samples.push(body.body);
        }
    }
    let body = [&b"["[..], &samples.join(&b","[..]), b"]"].concat();
    Ok(([(CONTENT_TYPE, JSON)], body).into_response())
}

/// Read one subscription.
#[utoipa::path(
    get, path = "/v1/subscriptions/{subscription}", operation_id = "show_subscription", tag = "subscriptions",
    params(("subscription" = String, Path, description = "Id of the subscription.", example = "ep_k7q22a9")),
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
/// Its waiting deliveries are cancelled.
#[utoipa::path(
    delete, path = "/v1/subscriptions/{subscription}", operation_id = "unsubscribe", tag = "subscriptions",
    params(("subscription" = String, Path, description = "Id of the subscription.", example = "ep_k7q22a9")),
    responses((status = 204, description = "The subscription is deleted.")),
    extensions(("x-problems" = json!(["rate_limited"]))),
)]
pub async fn remove(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let subscription = find(&api, &caller, &id)?;
    api.store.delete_endpoint(subscription.id, Deletion::Forced, None).await?;
    api.catalog.refresh_endpoints().await?;
    tracing::info!(endpoint = %subscription.new.name, "subscription deleted; its waiting deliveries are cancelled");
    Ok(StatusCode::NO_CONTENT)
}
