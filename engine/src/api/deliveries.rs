//! Deliveries: list, read, retry, cancel.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Api, endpoints,
    error::Problem,
    events::event_id,
    millis,
    page::{Limit, Paging, Query},
    path::Path,
};
use crate::{
    clock,
    domain::{
        delivery::{Attempt, DeliveryState},
        id::{DeliveryId, EventId, Tag},
        time::Timestamp,
    },
    store::{DeliveryFilter, DeliveryStory, DeliverySummary, StoredAttempt},
    wire::{AttemptResultView, AttemptView, DeliveryStoryView, DeliveryView, LastView, PageView},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only to this endpoint: id or name.
    endpoint: Option<String>,
    /// Only of this event.
    #[param(value_type = Option<EventId>)]
    event: Option<String>,
    /// Only in this state.
    #[param(value_type = Option<DeliveryState>)]
    state: Option<String>,
    /// Maximum number of deliveries.
    #[param(value_type = Option<Limit>)]
    limit: Option<String>,
    /// The `next` of the previous page.
    #[param(value_type = Option<DeliveryId>)]
    cursor: Option<String>,
}

/// List deliveries, newest first.
#[utoipa::path(
    get, path = "/v1/deliveries", operation_id = "list_deliveries", tag = "deliveries", params(Filter),
    responses((status = 200, description = "One page.", body = PageView<DeliveryView>)),
    extensions(("x-problems" = json!(["not_found"]))),
)]
pub async fn list(State(api): State<Arc<Api>>, Query(filter): Query<Filter>) -> Result<Json<PageView<DeliveryView>>, Problem> {
    let tag = api.store.tag();
    let paging = Paging::new(filter.limit.as_deref(), filter.cursor.as_deref(), |text| {
        DeliveryId::parse(text, tag).map(DeliveryId::as_i64)
    })?;
    let state = match &filter.state {
        None => None,
        Some(text) => match DeliveryState::WORDS.iter().find(|state| *state == text) {
            Some(state) => Some(*state),
            None => {
                return Err(Problem::bad_request(format!("state is {text:?}; it is one of {}", DeliveryState::WORDS.join(", "))));
            }
        },
    };
    let filter = DeliveryFilter {
        endpoint: filter.endpoint.as_deref().map(|text| endpoints::find(&api, text).map(|endpoint| endpoint.id)).transpose()?,
        event: filter.event.as_deref().map(|text| event_id(&api, text)).transpose()?,
        state,
    };
    let page = api.store.deliveries(filter, paging.request).await?;
    Ok(Json(PageView {
        items: page.items.iter().map(|summary| DeliveryView::new(summary, tag)).collect(),
        next: page.next.map(|id| DeliveryId::from_i64(id).text(tag)),
    }))
}

fn delivery_id(api: &Api, text: &str) -> Result<DeliveryId, Problem> {
    DeliveryId::parse(text, api.store.tag()).ok_or_else(|| Problem::not_found(format!("no delivery {text:?}")))
}

/// Read one delivery with every attempt.
#[utoipa::path(
    get, path = "/v1/deliveries/{delivery}", operation_id = "show_delivery", tag = "deliveries",
    params(("delivery" = DeliveryId, Path, description = "Id of the delivery.")),
    responses((status = 200, description = "The delivery.", body = DeliveryStoryView)),
)]
pub async fn show(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<DeliveryStoryView>, Problem> {
    let story = api.store.delivery(delivery_id(&api, &id)?).await?;
    Ok(Json(DeliveryStoryView::new(&story, api.store.tag())))
}

/// Retry a delivery now, under the same id.
#[utoipa::path(
    post, path = "/v1/deliveries/{delivery}/retry", operation_id = "retry_delivery", tag = "deliveries",
    params(("delivery" = DeliveryId, Path, description = "Id of the delivery.")),
    responses((status = 202, description = "The delivery is due.", body = DeliveryStoryView)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn retry(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<DeliveryStoryView>), Problem> {
    api.store.retry_delivery(delivery_id(&api, &id)?, clock::steady()).await?;
    Ok((StatusCode::ACCEPTED, show(State(api), Path(id)).await?))
}

/// Cancel a delivery.
#[utoipa::path(
    post, path = "/v1/deliveries/{delivery}/cancel", operation_id = "cancel_delivery", tag = "deliveries",
    params(("delivery" = DeliveryId, Path, description = "Id of the delivery.")),
    responses((status = 200, description = "The cancelled delivery.", body = DeliveryStoryView)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn cancel(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<DeliveryStoryView>, Problem> {
    api.store.cancel_delivery(delivery_id(&api, &id)?, clock::wall()).await?;
    show(State(api), Path(id)).await
}

impl DeliveryView {
    pub fn new(summary: &DeliverySummary, tag: Tag) -> Self {
        let (due, at, reason) = match summary.state {
            DeliveryState::Pending { due } | DeliveryState::Retrying { due } => (Some(due), None, None),
            DeliveryState::Delivered { at } | DeliveryState::Cancelled { at } => (None, Some(at), None),
            DeliveryState::Dead { at, reason } => (None, Some(at), Some(reason.as_str().into())),
        };
        let text = |at: Timestamp| at.to_string();
        Self {
            id: summary.id.text(tag),
            event: summary.id.event().text(tag),
            endpoint: summary.endpoint.text(tag),
            endpoint_name: summary.endpoint_name.clone(),
            r#type: summary.event_type.clone(),
            round: summary.round,
            state: summary.state.as_str().into(),
            reason,
            attempt_count: summary.attempts,
            due: due.map(clock::as_wall).map(text),
            at: at.map(text),
            last: summary
                .last
                .as_ref()
                .map(|last| LastView { outcome: last.attempt.outcome.as_str().into(), status: last.attempt.outcome.status() }),
        }
    }
}

impl DeliveryStoryView {
    pub fn new(story: &DeliveryStory, tag: Tag) -> Self {
        Self {
            delivery: DeliveryView::new(&story.summary, tag),
            attempts: story.attempts.iter().map(|attempt| AttemptView::new(attempt, tag)).collect(),
        }
    }
}

impl AttemptView {
    fn new(stored: &StoredAttempt, tag: Tag) -> Self {
        Self { id: stored.id.text(tag), n: stored.id.n(), result: AttemptResultView::new(&stored.attempt) }
    }
}

impl AttemptResultView {
    pub fn new(attempt: &Attempt) -> Self {
        Self {
            at: attempt.at.to_string(),
            outcome: attempt.outcome.as_str().into(),
            status: attempt.outcome.status(),
            latency_ms: millis(attempt.latency),
            detail: attempt.detail.clone(),
            excerpt: String::from_utf8_lossy(&attempt.excerpt).into_owned(),
        }
    }
}
