//! The search box: an id, type, name or state leads to its page.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{Query, State},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::html;

use crate::{
    api::{Problem, events::types},
    domain::{
        event::EventState,
        id::{DeliveryId, EventId, RunId},
        pattern::Pattern,
    },
    store::{EventFilter, PageRequest},
    ui::{
        Ui, foreign,
        layout::{self, Page, Place},
        parts::{self, Look, segment, with_query},
        visit::Visit,
    },
};

pub async fn find(
    State(ui): State<Arc<Ui>>,
    visit: Visit,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Problem> {
    visit.sight("GET /v1/events")?;
    let text = query.get("q").map(|text| text.trim()).unwrap_or_default();
    let to = place_of(&ui, text).await?;
    Ok(match to {
        Some(to) => Redirect::to(&to).into_response(),
        None => nothing(&ui, &visit, text).await,
    })
}

/// Returns the path of the page that fits a text best.
async fn place_of(ui: &Ui, text: &str) -> Result<Option<String>, Problem> {
    let tag = ui.api.store.tag();
    if text.is_empty() {
        return Ok(Some("/events".to_owned()));
    }
    if let Some(event) = EventId::parse(text, tag) {
        return Ok(Some(format!("/events/{}", event.text(tag))));
    }
    if let Some(delivery) = DeliveryId::parse(text, tag) {
        return Ok(Some(format!("/events/{}#{}", delivery.event().text(tag), delivery.text(tag))));
    }
    if let Some(run) = RunId::parse(text, tag) {
        return Ok(Some(format!("/events/{}#{}", run.event().text(tag), run.text(tag))));
    }
    if EventState::parse(text).is_some() {
        return Ok(Some(with_query("/events", "state", Some(text))));
    }
    let one = PageRequest { cursor: None, limit: 2 };
    for (name, filter) in [
        ("id", EventFilter { id: Some(text.to_owned()), ..EventFilter::default() }),
        ("subject", EventFilter { subject: Some(text.to_owned()), ..EventFilter::default() }),
        ("type", EventFilter { event_type: Some(types(text)), ..EventFilter::default() }),
        ("source", EventFilter { source: Some(text.to_owned()), ..EventFilter::default() }),
    ] {
        if name == "type" && Pattern::parse(text).is_err() {
            continue;
        }
        let found = ui.api.store.events(filter, one).await?.items;
        match found.as_slice() {
            [] => {}
            [only] if name == "id" => return Ok(Some(format!("/events/{}", segment(&only.event.id.text(tag))))),
            _ => return Ok(Some(with_query("/events", name, Some(text)))),
        }
    }
    Ok(None)
}

async fn nothing(ui: &Ui, visit: &Visit, text: &str) -> Response {
    let texts = visit.texts();
    let body = html! {
        (layout::title(texts.search.title).show())
        (parts::empty(
            "search",
            texts.search.nothing,
            &html! { p { b { (foreign::value(text)) } } p { (texts.search.nothing_why) } },
            &parts::link_button("/events", None, texts.wrong.to_events, Look::Plain),
        ))
    };
    layout::page(ui, visit, &Page::new(Place::Events, texts.search.title, body)).await
}
