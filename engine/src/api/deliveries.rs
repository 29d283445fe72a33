//! Deliveries: list, read, retry, cancel.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Api,
    access::Sight,
    answers,
    auth::Caller,
    endpoints,
    error::Problem,
    events::event_id,
    millis,
    page::{Limit, Paging, Query, instant},
    path::Path,
    sent::Requests,
};
use crate::{
    clock,
    domain::{
        delivery::{Attempt, DeliveryState},
        id::{DeliveryId, EventId, Tag},
        time::Timestamp,
    },
    store::{DeliveryFilter, DeliveryStory, DeliverySummary, StoredAttempt, WholeDelivery},
    wire::{AttemptResultView, AttemptView, DeliveryStoryView, DeliveryView, LastView, PageView, SentRequestView},
};

#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only deliveries to this endpoint: id or name.
    pub endpoint: Option<String>,
    /// Only deliveries of this event.
    #[param(value_type = Option<EventId>)]
    pub event: Option<String>,
    /// Only deliveries in this state.
    #[param(value_type = Option<DeliveryState>)]
    pub state: Option<String>,
    /// Only deliveries of events accepted at this time or later.
    #[param(value_type = Option<Timestamp>)]
    pub since: Option<String>,
    /// Maximum number of deliveries.
    #[param(value_type = Option<Limit>)]
    pub limit: Option<String>,
    /// The `next` of the previous page.
    #[param(value_type = Option<DeliveryId>)]
    pub cursor: Option<String>,
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
        since: instant("since", filter.since.as_deref())?,
    };
    let page = api.store.deliveries(filter, paging.request).await?;
    Ok(Json(PageView {
        items: page.items.iter().map(|summary| DeliveryView::new(summary, tag)).collect(),
        next: page.next.map(|id| DeliveryId::from_i64(id).text(tag)),
    }))
}

pub fn delivery_id(api: &Api, text: &str) -> Result<DeliveryId, Problem> {
    DeliveryId::parse(text, api.store.tag()).ok_or_else(|| Problem::not_found(format!("no delivery {text:?}")))
}

/// Read one delivery with every attempt, and what was sent.
///
/// `request` is the request of the last attempt. Before the first attempt, it is the request that would be sent now. Each attempt
/// has its request too, without the body. Signatures, secrets and the values of the endpoint's headers are masked. A body is cut
/// after 64 KiB; `/v1/deliveries/{delivery}/body` has all of it.
#[utoipa::path(
    get, path = "/v1/deliveries/{delivery}", operation_id = "show_delivery", tag = "deliveries",
    params(("delivery" = DeliveryId, Path, description = "Id of the delivery.")),
    responses((status = 200, description = "The delivery.", body = DeliveryStoryView)),
)]
pub async fn show(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let whole = api.store.whole_delivery(delivery_id(&api, &id)?).await?;
    let bytes = content_bytes(&whole);
    let written = || {
        let (tag, story) = (api.store.tag(), &whole.story);
        with_requests(&api, &whole, caller.sight, |requests| {
            let mut view = DeliveryStoryView::new(story, tag);
            for (view, attempt) in view.attempts.iter_mut().zip(&story.attempts) {
                view.request = requests.of_attempt(attempt);
            }
            answers::json(&DeliveryStoryView { request: requests.latest_view(), ..view })
        })
    };
    api.heavy.run(bytes, written).await
}

fn content_bytes(whole: &WholeDelivery) -> usize {
    whole.payload.as_ref().map_or(whole.event.new.content.bytes().len(), |payload| payload.body.len())
}

fn with_requests<T>(api: &Api, whole: &WholeDelivery, sight: Sight, work: impl FnOnce(&mut Requests<'_>) -> T) -> T {
    let (tag, summary, endpoints) = (api.store.tag(), &whole.story.summary, api.catalog.endpoints());
    let (id, event_id) = (summary.id.text(tag), whole.event.id.text(tag));
    let endpoint = endpoints.get(summary.endpoint).map(|endpoint| &**endpoint);
    work(&mut Requests::new(whole, endpoint, (&id, &event_id), tag, sight))
}

/// Returns the request of a delivery's last attempt. Before the first attempt, returns the request that would be sent now.
pub async fn requests_of(api: &Api, whole: &WholeDelivery, sight: Sight) -> Result<Option<SentRequestView>, Problem> {
    let read = || with_requests(api, whole, sight, |requests| requests.latest_view());
    api.heavy.run(content_bytes(whole), read).await
}

#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WhichBody {
    /// Number of the attempt, from 1; default: the last one.
    #[param(value_type = Option<u8>, minimum = 1)]
    pub attempt: Option<String>,
}

/// Read the body of a webhook as it was sent.
///
/// The answer is the whole body, byte for byte. Its content type is in `request` of the delivery. Before the first attempt, the
/// answer is the body that would be sent now.
#[utoipa::path(
    get, path = "/v1/deliveries/{delivery}/body", operation_id = "read_delivery_body", tag = "deliveries",
    params(("delivery" = DeliveryId, Path, description = "Id of the delivery."), WhichBody),
    responses((status = 200, description = "The body.", body = String, content_type = "application/octet-stream")),
)]
pub async fn body(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(which): Query<WhichBody>,
) -> Result<Response, Problem> {
    let wrong = |text: &String| Problem::bad_request(format!("attempt is {text:?}; write a number, from 1"));
    let attempt = which.attempt.as_ref().map(|text| text.parse().map_err(|_| wrong(text))).transpose()?;
    let whole = api.store.whole_delivery(delivery_id(&api, &id)?).await?;
    let read = || with_requests(&api, &whole, Sight::Whole, |requests| requests.whole_body(attempt));
    let body = api.heavy.run(content_bytes(&whole), read).await?;
    let body = body.ok_or_else(|| {
        let which = which.attempt.map_or("a request".to_owned(), |n| format!("the request of attempt {n}"));
        Problem::not_found(format!("the delivery {id} has no record of {which}"))
    })?;
    Ok(answers::bytes(body))
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
    caller: Extension<Caller>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Response), Problem> {
    api.store.retry_delivery(delivery_id(&api, &id)?, clock::steady()).await?;
    Ok((StatusCode::ACCEPTED, show(State(api), caller, Path(id)).await?))
}

/// Cancel a delivery.
#[utoipa::path(
    post, path = "/v1/deliveries/{delivery}/cancel", operation_id = "cancel_delivery", tag = "deliveries",
    params(("delivery" = DeliveryId, Path, description = "Id of the delivery.")),
    responses((status = 200, description = "The cancelled delivery.", body = DeliveryStoryView)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn cancel(State(api): State<Arc<Api>>, caller: Extension<Caller>, Path(id): Path<String>) -> Result<Response, Problem> {
    api.store.cancel_delivery(delivery_id(&api, &id)?, clock::wall()).await?;
    show(State(api), caller, Path(id)).await
}

impl DeliveryView {
    pub fn new(summary: &DeliverySummary, tag: Tag) -> Self {
        let (due, at, reason) = match summary.state {
            DeliveryState::Pending { due } | DeliveryState::Retrying { due } => (Some(due), None, None),
            DeliveryState::Delivered { at } => (None, Some(at), None),
            DeliveryState::Cancelled { at, reason } => (None, Some(at), reason.map(|reason| reason.as_str().into())),
            DeliveryState::Dead { at, reason } => (None, Some(at), Some(reason.as_str().into())),
        };
        let text = |at: Timestamp| at.to_string();
        Self {
            id: summary.id.text(tag),
            event: summary.id.event().text(tag),
            endpoint: summary.endpoint.text(tag),
            endpoint_name: summary.endpoint_name.clone(),
            r#type: summary.event_type.clone(),
            run: summary.run.map(|run| run.text(tag)),
            round: summary.round,
            state: summary.state.as_str().into(),
            reason,
            attempt_count: summary.attempts,
            due: due.map(clock::as_wall).map(text),
            at: at.map(text),
            last: summary.last.as_ref().map(|last| LastView::new(&last.attempt)),
        }
    }
}

impl DeliveryStoryView {
    pub fn new(story: &DeliveryStory, tag: Tag) -> Self {
        Self {
            delivery: DeliveryView::new(&story.summary, tag),
            attempts: story.attempts.iter().map(|attempt| AttemptView::new(attempt, tag)).collect(),
            request: None,
        }
    }
}

impl LastView {
    fn new(attempt: &Attempt) -> Self {
        Self {
            outcome: attempt.outcome.as_str().into(),
            status: attempt.outcome.status(),
            at: attempt.at.to_string(),
            latency_ms: millis(attempt.latency),
            detail: attempt.detail.clone(),
        }
    }
}

impl AttemptView {
    fn new(stored: &StoredAttempt, tag: Tag) -> Self {
        Self { id: stored.id.text(tag), n: stored.id.n(), result: AttemptResultView::new(&stored.attempt), request: None }
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
