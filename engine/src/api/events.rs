//! Events: accepting, listing, explaining, replaying.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    Api,
    auth::Publisher,
    body,
    error::Problem,
    intake,
    page::{Paging, Query},
    view::{AcceptedView, EventStoryView, EventView, PageView},
};
use crate::{
    clock,
    domain::{event::NewEvent, id::EventId, name::nearest, time::Timestamp},
    metrics::meters,
    news::News,
    store::{EventFilter, EventState},
};

/// Commit 1. The answer is sent after the events are on disk.
pub async fn accept(State(api): State<Arc<Api>>, _: Publisher, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let began = api.traces.begin();
    let body = body::read(&api, &headers, body).await?;
    let intake::Intake { events, single } = intake::read(&headers, &body)?;
    let told =
        |event: &NewEvent| (event.id.clone(), Arc::clone(&event.source), event.event_type.clone(), api.traces.brought(event));
    let told: Vec<_> = events.iter().map(told).collect();
    let accepted = api.store.accept(events).await?;
    let tag = api.store.tag();
    let mut items = Vec::with_capacity(accepted.len());
    for (accepted, (id, source, event_type, brought)) in accepted.into_iter().zip(told) {
        let event = accepted.id();
        let duplicate = matches!(accepted, crate::store::Accepted::Duplicate(_));
        if duplicate {
            meters().duplicates.inc();
        } else {
            meters().accepted(&source).inc();
            api.traces.accepted(tag, began, event, &event_type, brought);
        }
        if !duplicate {
            let source = source.to_string();
            api.feed.tell(|| News::Accepted { event, event_type: event_type.to_string(), source });
        }
        let text = event.text(tag);
        items.push(AcceptedView {
            id: id.map_or_else(|| text.clone(), |id| id.to_string()),
            source: source.to_string(),
            event: text,
            duplicate,
        });
    }
    let status = StatusCode::ACCEPTED;
    if single && let Some(item) = items.pop() {
        return Ok((status, Json(item)).into_response());
    }
    #[derive(Serialize)]
    struct Items {
        items: Vec<AcceptedView>,
    }
    Ok((status, Json(Items { items })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    r#type: Option<String>,
    source: Option<String>,
    state: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

pub async fn list(State(api): State<Arc<Api>>, Query(filter): Query<Filter>) -> Result<Json<PageView<EventView>>, Problem> {
    let tag = api.store.tag();
    let paging =
        Paging::new(filter.limit.as_deref(), filter.cursor.as_deref(), |text| EventId::parse(text, tag).map(EventId::as_i64))?;
    let state = filter.state.as_deref().map(event_state).transpose()?;
    let time = |name: &str, text: Option<&str>| {
        text.map(|text| {
            Timestamp::parse_rfc3339(text)
                .ok_or_else(|| Problem::bad_request(format!("{name} is {text:?}; write RFC 3339, such as 2026-01-31T09:30:00Z")))
        })
        .transpose()
    };
    let filter = EventFilter {
        event_type: filter.r#type.clone(),
        source: filter.source.clone(),
        state,
        since: time("since", filter.since.as_deref())?,
        until: time("until", filter.until.as_deref())?,
    };
    let page = api.store.events(filter, paging.request).await?;
    Ok(Json(PageView {
        items: page.items.iter().map(|summary| EventView::summary(summary, tag)).collect(),
        next: page.next.map(|id| EventId::from_i64(id).text(tag)),
    }))
}

fn event_state(text: &str) -> Result<EventState, Problem> {
    EventState::parse(text).ok_or_else(|| {
        let words = EventState::ALL.map(EventState::as_str);
        let near = nearest(text, words).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        Problem::bad_request(format!("state is {text:?}; it is one of {}{near}", words.join(", ")))
    })
}

/// Reads an id in an address; one that this store did not issue is simply not there.
pub fn event_id(api: &Api, text: &str) -> Result<EventId, Problem> {
    EventId::parse(text, api.store.tag()).ok_or_else(|| Problem::not_found(format!("there is no event {text:?}")))
}

pub async fn show(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<EventStoryView>, Problem> {
    let story = api.store.event(event_id(&api, &id)?).await?;
    Ok(Json(EventStoryView::new(&story, api.store.tag())))
}

#[derive(Serialize)]
pub struct Replayed {
    event: String,
    /// Which replay of the event this is, counted from 1.
    round: u32,
}

pub async fn replay(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<(StatusCode, Json<Replayed>), Problem> {
    let round = api.store.replay_event(event_id(&api, &id)?, clock::steady()).await?;
    Ok((StatusCode::ACCEPTED, Json(Replayed { event: id, round })))
}
