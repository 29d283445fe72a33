//! Events: accept, list, inspect, replay.

mod view;
pub mod why;

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, answers, body,
    error::Problem,
    intake,
    page::{Limit, Paging, Query, instant},
    path::Path,
};
use crate::{
    clock,
    domain::{
        event::{EventState, NewEvent, is_reserved_source},
        id::{CHILDREN_MAX, EventId, Tag},
        name::{EventType, nearest},
        pattern::Pattern,
        time::Timestamp,
    },
    metrics::meters,
    store::{self, Accepted, Cancelled, EventFilter, StoryPlace},
    wire::{AcceptedAll, AcceptedView, CancelledView, EventStoryView, EventView, PageView, Replayed, values::values},
};

/// Accept one event, or a list of them.
///
/// The answer is sent after the events are on disk. The answer to one event is one object, and the answer to a list is a list in
/// the same order. If an earlier event has the same `source`, `id` and `type`, the new event changes nothing, and `event` in its
/// answer is the id of the earlier event. The data of the two events is not compared. If an earlier event has the same `source` and
/// `id` but another `type`, the new event is refused. The `source` of an event sent here cannot be the name of an inbound source
/// (`/v1/sources`).
#[utoipa::path(
    post, path = "/v1/events", operation_id = "accept_events", tag = "events",
    params(
        ("idempotency-key" = Option<intake::HeaderText>, Header, description = "The `id` for a single event that has none."),
        ("innesco-depth" = Option<intake::Depth>, Header, description =
            "Number of earlier events in the chain; webhooks of an engine carry it. More than 8 are a loop."),
        ("traceparent" = Option<String>, Header, description =
            "Trace of the events (W3C Trace Context). An event with its own trace keeps it. A malformed value is ignored."),
        ("tracestate" = Option<String>, Header, description = "Belongs to `traceparent`. A malformed value is ignored."),
        ("ce-type" = Option<EventType>, Header, description =
            "With this header or `ce-specversion` the request is one CloudEvent in binary mode: the body is its data, of any content type."),
        ("ce-specversion" = Option<intake::SpecVersion>, Header, description = "Binary mode: the version of CloudEvents."),
        ("ce-id" = Option<intake::HeaderText>, Header, description = "Binary mode: the event's id, percent-encoded."),
        ("ce-source" = Option<intake::HeaderText>, Header, description = "Binary mode: the event's source, percent-encoded."),
        ("ce-subject" = Option<intake::HeaderText>, Header, description = "Binary mode: the event's subject, percent-encoded."),
        ("ce-time" = Option<Timestamp>, Header, description =
            "Binary mode: time of the event. Every other header that begins with `ce-` is an extension attribute."),
    ),
    request_body(description = "One event or a list of 1 to 1,000 events, as JSON. Or any data, with the headers of CloudEvents' binary mode.", content(
        (intake::EventsInput = "application/json", examples(
            ("one" = (summary = "One event", value = json!({
                "type": "order.created", "source": "shop", "id": "order-4711", "channel": "web", "data": { "total": 129.5 },
            }))),
            ("least" = (summary = "The smallest event", value = json!({ "type": "order.created" }))),
            ("list" = (summary = "Several at once", value = json!([
                { "type": "order.created", "data": { "total": 129.5 } },
                { "type": "order.paid", "data": { "total": 129.5 } },
            ]))),
        )),
        (intake::EventsInput = "application/cloudevents+json", example = json!({
            "specversion": "1.0", "type": "order.created", "source": "/shop", "id": "order-4712", "time": "2026-01-31T09:30:00Z",
            "subject": "4712", "datacontenttype": "application/json", "data": { "total": 99 },
        })),
        (intake::BatchInput = "application/cloudevents-batch+json", example = json!([
            { "specversion": "1.0", "type": "order.created", "source": "/shop", "id": "order-4713", "data": { "total": 1 } },
            { "specversion": "1.0", "type": "logo.changed", "source": "/shop", "id": "logo-1", "datacontenttype": "image/png", "data_base64": "iVBORw0KGgo=" },
        ])),
        (intake::AnyData = "application/octet-stream", example = json!("any bytes")),
    )),
    responses((
        status = 202, description = "The events are on disk.", body = Answer, example = json!({
            "id": "order-4711", "source": "shop", "event": "evt_k7q22a9", "duplicate": false,
        }),
    )),
    extensions(("x-problems" = json!(["bad_event", "batch_too_large", "id_taken", "loop_detected", "unsupported_media_type"]))),
)]
pub async fn accept(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let began = api.traces.begin();
    let (body, _held) = body::read(&api, &headers, body).await?;
    let intake::Intake { events, single } = api.heavy.run(body.len(), || intake::read(&headers, &body)).await??;
    refuse_taken_sources(&api, &events, single)?;
    let mut items = store_events(&api, began, events).await?;
    let status = StatusCode::ACCEPTED;
    if single && let Some(item) = items.pop() {
        return Ok((status, Json(item)).into_response());
    }
    Ok((status, Json(AcceptedAll { items })).into_response())
}

/// Stores events, and updates metrics. `began` is for the trace.
pub async fn store_events(
    api: &Api,
    began: Option<std::time::SystemTime>,
    events: Vec<NewEvent>,
) -> Result<Vec<AcceptedView>, Problem> {
    let facts =
        |event: &NewEvent| (event.id.clone(), Arc::clone(&event.source), event.event_type.clone(), api.traces.brought(event));
    let facts: Vec<_> = events.iter().map(facts).collect();
    let tag = api.store.tag();
    let count = events.len();
    let accepted = api.acceptor.accept(events).await.map_err(|error| match error {
        store::Error::IdTaken(taken) => id_taken(&taken, count, tag),
        error => error.into(),
    })?;
    let mut items = Vec::with_capacity(accepted.len());
    for (accepted, (id, source, event_type, brought)) in accepted.into_iter().zip(facts) {
        let event = accepted.id();
        let duplicate = matches!(accepted, Accepted::Duplicate(_));
        if duplicate {
            meters().duplicates.inc();
        } else {
            meters().accepted(&source).inc();
            api.traces.accepted(tag, began, event, &event_type, brought);
        }
        let text = event.text(tag);
        items.push(AcceptedView {
            id: id.map_or_else(|| text.clone(), |id| id.to_string()),
            source: source.to_string(),
            event: text,
            duplicate,
        });
    }
    meters().tally.accepted(items.iter().filter(|item| !item.duplicate).count() as u64);
    Ok(items)
}

fn id_taken(taken: &store::IdTaken, count: usize, tag: Tag) -> Problem {
    let earlier = match taken.earlier {
        Some(earlier) => format!("the event {}", earlier.text(tag)),
        None => "an earlier event in the batch".to_owned(),
    };
    let item = if count == 1 { String::new() } else { format!("/{}", taken.place) };
    Problem::id_taken(format!("{taken}; {earlier} has it. Nothing was stored; give each event a different id"))
        .at(format!("{item}/id"))
}

/// Refuses events that claim to come from a source of the engine. A source's name in an event proves that the source verified the
/// event.
fn refuse_taken_sources(api: &Api, events: &[NewEvent], single: bool) -> Result<(), Problem> {
    let sources = api.sources.table();
    let taken = |event: &&NewEvent| sources.named(&event.source).is_some() || is_reserved_source(&event.source);
    let Some(place) = events.iter().position(|event| taken(&event)) else { return Ok(()) };
    let source = &events[place].source;
    let whose = if is_reserved_source(source) { "belongs to the engine" } else { "is the name of a source" };
    let item = if single { String::new() } else { format!("/{place}") };
    Err(Problem::bad_event(format!(
        "source: {source:?} {whose}, and only events received there may use it; give your events another source, such as \"my-{source}\""
    ))
    .at(format!("{item}/source")))
}

/// The answer to one event is an object; the answer to a list of events is a list.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes the alternatives in the document")]
enum Answer {
    One(AcceptedView),
    All(AcceptedAll),
}

#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only events of this type, or of all types below a prefix, such as `order.*`.
    #[param(value_type = Option<Pattern>)]
    pub r#type: Option<String>,
    /// Only events from this source.
    pub source: Option<String>,
    /// Only events to which the sender gave this id.
    pub id: Option<String>,
    /// Only events with this subject.
    pub subject: Option<String>,
    /// Only events in this state.
    #[param(value_type = Option<EventState>)]
    pub state: Option<String>,
    /// Also the engine's own events (`innesco.*`). Default: only if `type` or `source` selects them.
    pub own: Option<bool>,
    /// Only events accepted at this time or later.
    #[param(value_type = Option<Timestamp>)]
    pub since: Option<String>,
    /// Only events accepted before this time.
    #[param(value_type = Option<Timestamp>)]
    pub until: Option<String>,
    /// Maximum number of events.
    #[param(value_type = Option<Limit>)]
    pub limit: Option<String>,
    /// The `next` of the previous page.
    #[param(value_type = Option<EventId>)]
    pub cursor: Option<String>,
}

/// List events, newest first.
///
/// The engine's own events (`innesco.*`) are left out, unless `own`, `type` or `source` asks for them.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "list_events", tag = "events", params(Filter),
    responses((status = 200, description = "One page.", body = PageView<EventView>)),
)]
pub async fn list(State(api): State<Arc<Api>>, Query(filter): Query<Filter>) -> Result<Json<PageView<EventView>>, Problem> {
    let tag = api.store.tag();
    let paging =
        Paging::new(filter.limit.as_deref(), filter.cursor.as_deref(), |text| EventId::parse(text, tag).map(EventId::as_i64))?;
    let state = filter.state.as_deref().map(event_state).transpose()?;
    let asks_for_own =
        filter.r#type.as_deref().is_some_and(|text| text.starts_with("innesco.")) || filter.source.as_deref() == Some("innesco");
    let filter = EventFilter {
        without_own: !filter.own.unwrap_or(asks_for_own),
        event_type: filter.r#type.as_deref().map(types),
        source: filter.source.clone(),
        id: filter.id.clone(),
        subject: filter.subject.clone(),
        state,
        since: instant("since", filter.since.as_deref())?,
        until: instant("until", filter.until.as_deref())?,
    };
    let page = api.store.events(filter, paging.request).await?;
    Ok(Json(PageView {
        items: page.items.iter().map(|summary| EventView::summary(summary, tag)).collect(),
        next: page.next.map(|id| EventId::from_i64(id).text(tag)),
    }))
}

/// Reads a filter of types. A text that is not a valid pattern selects nothing: it is compared with the whole type, and no event
/// has such a type.
pub fn types(text: &str) -> Pattern {
    Pattern::parse(text).unwrap_or_else(|_| Pattern::Exactly(text.to_owned()))
}

fn event_state(text: &str) -> Result<EventState, Problem> {
    EventState::parse(text).ok_or_else(|| {
        let words = EventState::ALL.map(EventState::as_str);
        let near = nearest(text, words).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        Problem::bad_request(format!("state is {text:?}; it is one of {}{near}", words.join(", ")))
    })
}

/// Reads an id from the path. An id that this store did not issue is not found.
pub fn event_id(api: &Api, text: &str) -> Result<EventId, Problem> {
    EventId::parse(text, api.store.tag()).ok_or_else(|| Problem::not_found(format!("no event {text:?}")))
}

/// Selects a part of an event's history.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StoryPart {
    /// The `next` of the previous part.
    #[param(value_type = Option<StoryCursor>)]
    pub cursor: Option<String>,
}

/// The OpenAPI schema of a cursor, which is the start of a part of the history.
pub enum StoryCursor {}

values! {
    StoryCursor, "StoryCursor", json!({
        "type": "string", "pattern": "^[0-9]+(\\.[0-9]+){2,3}$", "description": "Start of the next part of the history.",
    });
}

pub fn story_place(text: &str) -> Option<StoryPlace> {
    let mut numbers = text.split('.');
    let place = StoryPlace {
        run: numbers.next()?.parse().ok().filter(|run| *run <= CHILDREN_MAX)?,
        delivery: numbers.next()?.parse().ok().filter(|delivery| *delivery <= CHILDREN_MAX)?,
        emitted: numbers.next()?.parse().ok().filter(|emitted| *emitted >= 0)?,
        // Cursors of earlier engines have three numbers.
        scheduled: numbers.next().map_or(Some(0), |text| text.parse().ok().filter(|number| *number <= CHILDREN_MAX))?,
    };
    numbers.next().is_none().then_some(place)
}

/// Read one event with its history.
///
/// The answer holds the first 100 runs, the first 100 deliveries with the last 10 attempts of each, the first 1,000 emitted events,
/// and the first 100 events that are due later. If more exist, `next` is the `cursor` for the next part of the history. That part
/// repeats the event without its data. `/v1/deliveries/{delivery}` has all attempts of a delivery.
#[utoipa::path(
    get, path = "/v1/events/{event}", operation_id = "show_event", tag = "events",
    params(("event" = EventId, Path, description = "Id of the event, `evt_…`."), StoryPart),
    responses((status = 200, description = "The event, its data, its runs and its deliveries.", body = EventStoryView)),
)]
pub async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(part): Query<StoryPart>,
) -> Result<Response, Problem> {
    let id = event_id(&api, &id)?;
    let wrong = |text: &String| Problem::bad_request(format!("cursor is {text:?}; use the `next` of the previous part"));
    let from = part.cursor.as_ref().map(|text| story_place(text).ok_or_else(|| wrong(text))).transpose()?;
    let story = api.store.event(id, from.unwrap_or_default()).await?;
    let chain = match from {
        None => Some(api.store.chain(id).await?),
        Some(_) => None,
    };
    let written = || {
        let tag = api.store.tag();
        let view = EventStoryView::new(&story, |event_type| api.catalog.nearest_pattern(event_type), tag);
        answers::json(&match &chain {
            Some(chain) => view.with_chain(chain, tag),
            None => view.without_data(),
        })
    };
    api.heavy.run(story.event.new.content.bytes().len(), written).await
}

/// Read the data of an event as it was received.
///
/// The answer has the data byte for byte, for every content type.
#[utoipa::path(
    get, path = "/v1/events/{event}/data", operation_id = "read_event_data", tag = "events",
    params(("event" = EventId, Path, description = "Id of the event, `evt_…`.")),
    responses((status = 200, description = "The data.", body = String, content_type = "application/octet-stream")),
)]
pub async fn data(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let event = api.store.event(event_id(&api, &id)?, StoryPlace::default()).await?.event;
    Ok(answers::bytes(event.new.content.bytes().clone()))
}

/// Replay an event through the current plugins and subscriptions.
///
/// The replay creates new deliveries with new ids.
#[utoipa::path(
    post, path = "/v1/events/{event}/replay", operation_id = "replay_event", tag = "events",
    params(("event" = EventId, Path, description = "Id of the event, `evt_…`.")),
    responses((status = 202, description = "The replay is accepted.", body = Replayed)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn replay(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<(StatusCode, Json<Replayed>), Problem> {
    let round = api.store.replay_event(event_id(&api, &id)?, clock::steady()).await?;
    Ok((StatusCode::ACCEPTED, Json(Replayed { event: id, round })))
}

/// Cancel the work that an event still has to do.
///
/// Cancels its waiting and parked runs, its waiting deliveries, the events that its runs scheduled, and the event itself if it
/// waits to be run. Does the same for all events that it caused. Webhooks that were sent stay sent. A repeated call changes
/// nothing more.
#[utoipa::path(
    post, path = "/v1/events/{event}/cancel", operation_id = "cancel_event", tag = "events",
    params(("event" = EventId, Path, description = "Id of the event, `evt_…`.")),
    responses((status = 200, description = "What was cancelled.", body = CancelledView)),
)]
pub async fn cancel(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<CancelledView>, Problem> {
    let Cancelled { events, waiting, runs, deliveries, scheduled, more } =
        api.store.cancel_event(event_id(&api, &id)?, clock::wall()).await?;
    Ok(Json(CancelledView { event: id, events, waiting, runs, deliveries, scheduled, more }))
}
