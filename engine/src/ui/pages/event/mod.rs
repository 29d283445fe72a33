//! The page of one event: where it came from, what ran, what was sent, and how to repair what failed.

mod actions;
mod path;
pub mod story;

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderValue, Uri, header},
    response::Response,
};
use maud::{Markup, html};

pub use self::actions::{cancel, cancel_delivery, replay, retry_delivery, retry_failed, retry_run};
use crate::{
    api::{Problem, events::event_id},
    ui::{
        Ui, foreign,
        form::Fields,
        layout::{self, Head, Page, Place},
        parts::{
            self, Look, disabled_button, seg, segment,
            state::{self, State as Shown},
            with_query,
        },
        visit::Visit,
    },
    wire::{DataView, EventStoryView, EventView},
};

/// The choices in the address of the page.
pub struct Choice {
    fields: Fields,
}

impl Choice {
    pub fn of(uri: &Uri) -> Self {
        Self { fields: Fields::parse(uri.query().unwrap_or_default().as_bytes()) }
    }

    /// Returns whether to show the time of day instead of the time since the start.
    fn clock(&self, visit: &Visit) -> bool {
        self.fields.get("times").map_or(visit.view.clock, |times| times == "clock")
    }

    fn only_problems(&self) -> bool {
        self.fields.get("only") == Some("problems")
    }

    fn raw(&self) -> bool {
        self.fields.is_set("raw")
    }

    /// Returns the action that was just applied to a part of the page, and the time of that action.
    fn said(&self, part: &str) -> Option<(&str, &str)> {
        let mut words = self.fields.get("said")?.splitn(3, '~');
        let (action, target, at) = (words.next()?, words.next()?, words.next()?);
        (target == part).then_some((action, at))
    }
}

/// Returns an event's data, if it is text.
pub fn data_text(data: &DataView) -> Option<&str> {
    match data {
        DataView::Json(json) => Some(json.get()),
        DataView::Base64(_) => None,
    }
}

/// Reads one event with its history.
pub async fn read(ui: &Ui, id: &str, part: Option<&str>) -> Result<EventStoryView, Problem> {
    let from = part.and_then(crate::api::events::story_place).unwrap_or_default();
    let story = ui.api.store.event(event_id(&ui.api, id)?, from).await?;
    let tag = ui.api.store.tag();
    ui.api
        .heavy
        .run(story.event.new.content.bytes().len(), || {
            EventStoryView::new(&story, |event_type| ui.api.catalog.nearest_pattern(event_type), tag)
        })
        .await
}

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, Path(id): Path<String>, uri: Uri) -> Result<Response, Problem> {
    visit.sight("GET /v1/events/{event}")?;
    let choice = Choice::of(&uri);
    let story = read(&ui, &id, choice.fields.get("part")).await?;
    let told = story::Teller { ui: &ui, visit: &visit, choice: &choice, story: &story };
    let event = &story.event;
    let body = html! {
        div #event-head data-live="events deliveries" {
            (head(&visit, event))
            (path::show(&visit, &story))
        }
        div #event-bar.bar data-live="events deliveries" { (bar(&ui, &visit, &choice, &story)) }
        ol #story.story data-live="events deliveries" aria-label=(visit.texts().event.story) { (told.all().await?) }
        @if let Some(next) = &story.next {
            p.more { (parts::link_button(&with_query(&visit.path, "part", Some(next)), Some("down"), visit.texts().event.more_parts, Look::Plain)) }
        }
    };
    let page = Page { event: Some(&event.event), ..Page::new(Place::Events, &event.r#type, body) };
    Ok(layout::page(&ui, &visit, &page).await)
}

fn head(visit: &Visit, event: &EventView) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.event;
    let fact = |name: &str, value: Markup| html! { span.fact { (name) " " b { (value) } } };
    let facts = html! {
        (fact(t.from, foreign::name(&event.source)))
        span.fact { (formats.time(&event.accepted_at, &formats.day_and_clock(&event.accepted_at))) }
        @if event.id != event.event { span.fact { (t.callers_id) " " (foreign::cut(&event.id)) " " (parts::copy(&event.id, visit)) } }
        @if let Some(subject) = &event.subject { (fact(t.subject, html! { span.mono { (foreign::value(subject)) } })) }
        @for (name, value) in &event.attributes { span.fact { (foreign::name(name)) " " b.mono { (foreign::value(value)) } } }
        span.fact { ((t.depth_of)(&formats.number(u64::from(event.depth)))) }
        @if let Some(cause) = &event.cause { span.fact { (t.cause) " " a.mono href=(format!("/events/{cause}")) { (cause) } } }
    };
    let count = state::delivered_of(event, texts, &formats);
    // In "delivered, 2 of 2" the state names what is counted.
    let count = html! { (count) @if event.state != "delivered" && !count.0.is_empty() { " " (t.delivered) } };
    Head {
        above: Some((
            "/events",
            texts.events.title,
            html! { span.mono { (event.event) } " " (parts::copy(&event.event, visit)) },
        )),
        title: foreign::name(&event.r#type),
        state: Some(Shown::of_event(&event.state, texts).chip(&count)),
        facts: Some(facts),
        actions: None,
    }
    .show()
}

/// Returns the number of an event's parts that can be retried.
fn failed_parts(story: &EventStoryView) -> u64 {
    let parts = &story.event.parts;
    parts.runs.parked + parts.deliveries.dead + parts.deliveries.retrying
}

/// Returns whether something of an event may still be cancelled: a part that has not ended, or an event that followed from it.
fn may_be_cancelled(story: &EventStoryView) -> bool {
    let parts = &story.event.parts;
    let is_open =
        parts.to_run || parts.runs.waiting + parts.runs.parked + parts.deliveries.pending + parts.deliveries.retrying > 0;
    is_open || !story.emitted.is_empty() || story.scheduled.iter().any(|one| one.cancelled_at.is_none())
}

/// Writes what a cancellation changed, if it was made from this page. `done` is its word in the address: `cancelled-3`.
fn cancelled(visit: &Visit, (done, at): (&str, &str)) -> Option<Markup> {
    let (t, formats) = (&visit.texts().event, visit.formats());
    let (number, at) = (done.strip_prefix("cancelled-")?.parse().ok()?, formats.clock(at));
    let words = match number {
        0 => (t.cancelled_none)(&at),
        1 => (t.cancelled_one)(&at),
        _ => (t.cancelled_parts)(&formats.number(number), &at),
    };
    Some(html! { span.said role="status" { (words) } })
}

fn bar(ui: &Ui, visit: &Visit, choice: &Choice, story: &EventStoryView) -> Markup {
    let (texts, event) = (visit.texts(), &story.event);
    let t = &texts.event;
    let may_retry = visit.may("POST /v1/deliveries/{delivery}/retry");
    let may_replay = visit.may("POST /v1/events/{event}/replay");
    let may_cancel = visit.may("POST /v1/events/{event}/cancel");
    let clock = choice.clock(visit);
    let address = |name: &str, value: Option<&str>| with_query(&visit.path, name, value);
    let formats = visit.formats();
    html! {
        div.acts {
            @if may_retry && failed_parts(story) > 0 {
                (parts::action(visit, &format!("/events/{}/retry", event.event), Some("retry"), t.retry_failed, Look::Primary))
            }
            @if let Some(("retried", at)) = choice.said(&event.event) { span.said role="status" { ((t.retried)(&formats.clock(at))) } }
            @if may_replay {
                (parts::link_button(&address("ask", Some("replay")), Some("replay"), texts.common.replay, Look::Plain))
            }
            @if let Some(("replayed", at)) = choice.said(&event.event) { span.said role="status" { ((t.replayed)(&formats.clock(at))) } }
            @if let Some(curl) = curl(ui, story) {
                button.btn.js type="button" data-copy=(curl) { (parts::icon("terminal")) (t.copy_curl) }
            }
            (parts::link_button(&format!("/events/{}/fixture", event.event), Some("file"), t.fixture, Look::Plain))
            @if may_retry && failed_parts(story) == 0 { (disabled_button(Some("retry"), texts.common.retry, t.nothing_failed)) }
            @if may_cancel && may_be_cancelled(story) { (parts::link_button(&address("ask", Some("cancel")), None, t.cancel_event, Look::Plain)) }
            @if let Some(cancelled) = choice.said(&event.event).and_then(|said| cancelled(visit, said)) { (cancelled) }
            @if !may_retry { span.reason { ((texts.common.needs_role)("operate")) } }
        }
        div.choices {
            (seg(t.clock, &[(t.since_start, address("times", Some("since")), !clock), (t.clock, address("times", Some("clock")), clock)]))
            @let only = choice.only_problems();
            a.tick href=(address("only", (!only).then_some("problems"))) aria-current=[only.then_some("true")] data-in-place {
                span.box aria-hidden="true" { @if only { (parts::icon("check")) } } (t.only_problems)
            }
        }
        @match choice.fields.get("ask") {
            Some("replay") if may_replay => (ask_replay(visit, event)),
            Some("cancel") if may_cancel => (ask_cancel(visit, event)),
            _ => {},
        }
    }
}

/// Maximum length of the data in a command to copy, in bytes.
const CURL_BYTES_MAX: usize = 16 << 10;

/// Returns a command that sends the same event again. The shell fills in the key.
fn curl(ui: &Ui, story: &EventStoryView) -> Option<String> {
    let (event, data) = (&story.event, data_text(&story.data)?);
    if data.len() > CURL_BYTES_MAX {
        return None;
    }
    let base = ui
        .api
        .inbound
        .external_url
        .as_ref()
        .map_or_else(|| "http://127.0.0.1:8080".to_owned(), |url| url.as_str().trim_end_matches('/').to_owned());
    let mut members = serde_json::Map::new();
    members.insert("type".to_owned(), event.r#type.clone().into());
    if let Some(subject) = &event.subject {
        members.insert("subject".to_owned(), subject.clone().into());
    }
    for (name, value) in &event.attributes {
        members.insert(name.clone(), value.clone().into());
    }
    let head = serde_json::Value::Object(members).to_string();
    let body = format!("{},\"data\":{data}}}", head.trim_end_matches('}'));
    let quoted = body.replace('\'', r"'\''");
    Some(format!(
        "curl {base}/v1/events -H \"authorization: Bearer $INNESCO_KEY\" -H 'content-type: application/json' -d '{quoted}'"
    ))
}

/// Writes the question before a replay, with what receivers will see.
fn ask_replay(visit: &Visit, event: &EventView) -> Markup {
    let texts = visit.texts();
    let action = html! {
        (parts::action(visit, &format!("/events/{}/replay", event.event), Some("replay"), texts.event.replay_confirm, Look::Plain))
        (parts::link_button(&with_query(&visit.path, "ask", None), None, texts.frame.close, Look::Quiet))
    };
    parts::note(Shown::shadow(""), &html! { (texts.event.replay_says) }, &action)
}

/// Asks before a cancellation, and shows what it reaches.
fn ask_cancel(visit: &Visit, event: &EventView) -> Markup {
    let texts = visit.texts();
    let action = html! {
        (parts::action(visit, &format!("/events/{}/cancel", event.event), None, texts.event.cancel_confirm, Look::Danger))
        (parts::link_button(&with_query(&visit.path, "ask", None), None, texts.frame.close, Look::Quiet))
    };
    parts::note(Shown::warning(""), &html! { (texts.event.cancel_says) }, &action)
}

/// Downloads the data of an event, byte for byte.
pub async fn data(State(ui): State<Arc<Ui>>, visit: Visit, Path(id): Path<String>) -> Response {
    ui.pass(&visit, &format!("/v1/events/{}/data", segment(&id))).await
}

/// Downloads an event with its history, as the API shows it. `innesco plugin test` reads this file as a test case.
pub async fn fixture(State(ui): State<Arc<Ui>>, visit: Visit, Path(id): Path<String>) -> Response {
    let mut answer = ui.pass(&visit, &format!("/v1/events/{}", segment(&id))).await;
    let name = format!("attachment; filename=\"{}.json\"", segment(&id));
    if let Ok(value) = HeaderValue::from_str(&name) {
        answer.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    answer
}
