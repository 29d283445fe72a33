//! Sends one test webhook, which is built and signed like any other, and answers with the result. No event and no delivery is
//! stored, and the endpoint's health is not affected.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State, http::HeaderMap};
use bytes::Bytes;
use serde_json::json;

use super::find;
use crate::{
    api::{Api, body, error::Problem, intake, path::Path},
    clock,
    domain::{
        content::Content,
        event::{Event, NewEvent},
        id::EventId,
        name::EventType,
    },
    outbound::Webhook,
    random,
    wire::{AttemptResultView, TestSend},
};

/// The default event type of a test.
const TYPE: &str = "innesco.test";

/// Test an endpoint.
///
/// Sends one webhook for your event (as in `POST /v1/events`), or for one of type `innesco.test`. The webhook is signed like any
/// other, and sent regardless of the state of the endpoint. The response shows the receiver's answer. Nothing is stored, no plugin
/// runs, nothing is retried, and a failure is not recorded.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/test", operation_id = "test_endpoint", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Id or name of the endpoint.", example = "crm")),
    request_body(content = Option<intake::EventInput>, example = json!({ "type": "order.created", "data": { "total": 129.5 } })),
    responses((status = 200, description = "The result; `outcome` shows whether it was sent.", body = TestSend)),
    extensions(("x-problems" = json!(["bad_endpoint", "bad_event", "batch_too_large", "loop_detected", "unsupported_media_type"]))),
)]
pub async fn send(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TestSend>, Problem> {
    let endpoint = find(&api, &id)?;
    let (body, _held) = body::read(&api, &headers, body).await?;
    let webhook_id = format!("test_{:032x}", u128::from_le_bytes(random::bytes()?));
    let now = clock::wall();
    // `null` means no event, as documented. In binary mode, `null` is an event's data.
    let none = body.is_empty() || body.trim_ascii() == b"null" && !headers.contains_key("ce-type");
    let new = if none { plain(&webhook_id) } else { api.heavy.run(body.len(), || named(&headers, &body)).await?? };
    let event =
        Event { id: EventId::from_i64(0), accepted_at: now, new: NewEvent { id: Some(webhook_id.as_str().into()), ..new } };
    let webhook = Webhook {
        endpoint: &endpoint,
        event: &event,
        payload: None,
        id: &webhook_id,
        event_id: &webhook_id,
        tag: api.store.tag(),
    };
    let request = api.heavy.run(body.len(), || webhook.request(now, clock::steady())).await?;
    let request = request.map_err(|unsendable| Problem::bad_endpoint(unsendable.to_string()))?;
    let attempt = api.outbound.send(request).await;
    Ok(Json(TestSend {
        delivered: attempt.outcome.is_success(),
        event_type: event.new.event_type.to_string(),
        result: AttemptResultView::new(&attempt),
        webhook_id,
    }))
}

fn plain(id: &str) -> NewEvent {
    NewEvent {
        id: None,
        source: "innesco".into(),
        event_type: EventType::parse(TYPE).expect("the type of a test is valid"),
        subject: None,
        time: None,
        content: Content::of(&json!({ "test": id, "hint": "this is only a test" })),
        attributes: Arc::default(),
        depth: 0,
        cause: None,
        request: None,
    }
}

fn named(headers: &HeaderMap, body: &Bytes) -> Result<NewEvent, Problem> {
    let mut events = intake::read(headers, body)?.events;
    match (events.pop(), events.len()) {
        (Some(event), 0) => Ok(event),
        (_, more) => Err(Problem::batch_too_large(format!("a test sends one event; {} were given", more + 1))),
    }
}
