//! Deliveries: listed, explained, retried, called off.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;

use super::{
    Api, endpoints,
    error::Problem,
    events::event_id,
    page::{Paging, Query},
    view::{DeliveryStoryView, DeliveryView, PageView},
};
use crate::{clock, domain::id::DeliveryId, store::DeliveryFilter};

const STATES: [&str; 5] = ["pending", "retrying", "delivered", "dead", "cancelled"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    endpoint: Option<String>,
    event: Option<String>,
    state: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

pub async fn list(State(api): State<Arc<Api>>, Query(filter): Query<Filter>) -> Result<Json<PageView<DeliveryView>>, Problem> {
    let tag = api.store.tag();
    let paging = Paging::new(filter.limit.as_deref(), filter.cursor.as_deref(), |text| {
        DeliveryId::parse(text, tag).map(DeliveryId::as_i64)
    })?;
    let state = match &filter.state {
        None => None,
        Some(text) => match STATES.iter().find(|state| *state == text) {
            Some(state) => Some(*state),
            None => return Err(Problem::bad_request(format!("state is {text:?}; it is one of {}", STATES.join(", ")))),
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
    DeliveryId::parse(text, api.store.tag()).ok_or_else(|| Problem::not_found(format!("there is no delivery {text:?}")))
}

pub async fn show(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<DeliveryStoryView>, Problem> {
    let story = api.store.delivery(delivery_id(&api, &id)?).await?;
    Ok(Json(DeliveryStoryView::new(&story, api.store.tag())))
}

pub async fn retry(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<DeliveryStoryView>), Problem> {
    api.store.retry_delivery(delivery_id(&api, &id)?, clock::steady()).await?;
    Ok((StatusCode::ACCEPTED, show(State(api), Path(id)).await?))
}

pub async fn cancel(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<DeliveryStoryView>, Problem> {
    api.store.cancel_delivery(delivery_id(&api, &id)?, clock::wall()).await?;
    show(State(api), Path(id)).await
}
