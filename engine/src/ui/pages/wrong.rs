//! Shows a problem as a page: what happened, a possible reason, what to do. The code and the time are at the end, for a report.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use maud::{Markup, html};

use crate::{
    api::Problem,
    clock,
    ui::{
        Asked, Ui, foreign,
        layout::{self, Page, Place},
        parts::{self, Look, state::State},
        texts::Texts,
        view::View,
        visit::Visit,
    },
};

/// Seconds after which a page about a temporary problem reloads.
const AGAIN_SECONDS: u16 = 5;

/// Returns what happened, and a possible reason.
fn words(problem: &Problem, texts: &Texts) -> (&'static str, Option<&'static str>) {
    let wrong = &texts.wrong;
    match problem.code() {
        "not_found" => (wrong.not_found, Some(wrong.not_found_why)),
        "forbidden" => (wrong.forbidden, Some(wrong.forbidden_why)),
        "conflict" => (wrong.conflict, Some(wrong.conflict_why)),
        "store_unavailable" | "store_full" => (wrong.unavailable, Some(wrong.unavailable_why)),
        "overloaded" | "query_too_slow" => (wrong.overloaded, None),
        "internal" => (wrong.internal, Some(wrong.internal_why)),
        _ if problem.status() == StatusCode::BAD_REQUEST => (wrong.bad_request, None),
        _ => (wrong.other, None),
    }
}

/// Returns the rail entry that a path belongs to.
fn place(path: &str) -> Place {
    match path.split('/').nth(1).unwrap_or_default() {
        "" => Place::Now,
        "deliveries" => Place::Deliveries,
        "endpoints" => Place::Endpoints,
        "plugins" => Place::Plugins,
        "sources" => Place::Sources,
        "settings" => Place::Settings,
        _ => Place::Events,
    }
}

pub async fn show(ui: &Ui, asked: &Asked, problem: &Problem) -> Response {
    let visit = Visit::of(ui, &asked.headers, &asked.path);
    let view = visit.as_ref().map_or_else(|| View::of(&asked.headers), |visit| visit.view.clone());
    let texts = view.lang.texts();
    let status = problem.status().as_u16().to_string();
    let passes = problem.status() == StatusCode::SERVICE_UNAVAILABLE;
    let (title, why) = words(problem, texts);
    let now = clock::wall().to_string();
    let formats = crate::ui::texts::Formats { lang: view.lang, zone: view.zone.clone() };
    let id = asked.path.strip_prefix("/events/").map(|rest| rest.split(['?', '/']).next().unwrap_or_default());
    let title = match id.filter(|_| problem.code() == "not_found") {
        Some(id) => (texts.wrong.not_found_event)(&foreign::isolated(id)),
        None => title.to_owned(),
    };
    let body = html! {
        div.wrong {
            p { (chip(&status)) }
            h1 { (title) }
            @if let Some(why) = why { p.why { (why) } }
            @if passes { p.why #again data-again=(AGAIN_SECONDS) { ((texts.wrong.again_in)(&AGAIN_SECONDS.to_string())) } }
            div.panel { h2 { (texts.wrong.says) } pre.code { (foreign::code(problem.detail())) } }
            div.acts {
                @if passes { (parts::link_button(&asked.path, Some("retry"), texts.wrong.try_now, Look::Primary)) }
                @else { (parts::link_button("/events", None, texts.wrong.to_events, Look::Primary)) }
                (parts::link_button("/", None, texts.wrong.to_now, Look::Plain))
            }
            p.small { ((texts.wrong.small)(problem.code(), &formats.exact(&now))) }
        }
    };
    let mut answer = match &visit {
        Some(visit) => layout::page(ui, visit, &Page::new(place(&asked.path), &title, body)).await,
        None => layout::bare(&view, &title, &body),
    };
    *answer.status_mut() = problem.status();
    if let Some(seconds) = problem.retry_after() {
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    answer.into_response()
}

fn chip(status: &str) -> Markup {
    let failed = State::failed("");
    html! { span.s.chip data-s=(failed.tone.as_str()) { (parts::shape(failed.shape)) span { (status) } } }
}
