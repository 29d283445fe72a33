//! Deliveries: list, read, retry, cancel.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Api, endpoints,
    error::Problem,
    events::event_id,
    page::{Limit, Paging, Query},
    path::Path,
    view::{DeliveryStoryView, DeliveryView, PageView},
};
use crate::{
    clock,
    domain::{
        delivery::DeliveryState,
        id::{DeliveryId, EventId},
    },
    store::DeliveryFilter,
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
