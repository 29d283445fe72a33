//! Endpoints: the list, the page of one endpoint, the form that creates and changes endpoints, and the page that shows a secret
//! once.

pub mod actions;
pub mod form;
pub mod history;
pub mod one;
pub mod secret;

use std::{collections::HashMap, sync::Arc};

use axum::{extract::State, http::Uri, response::Response};
use maud::{Markup, html};

use self::history::History;
use crate::{
    api::{Problem, endpoints::visible_url},
    domain::{
        endpoint::{Endpoint, EndpointState},
        id::EndpointId,
        stats::Last,
        time::Timestamp,
    },
    store::{BACKLOG_COUNTED_MAX, Backlog},
    ui::{
        Ui, foreign,
        form::Fields,
        layout::{self, Head, Page, Place},
        parts::{self, Look, columns, icon, seg, state::State as Shown, strip, with_query},
        visit::Visit,
    },
    wire::EndpointView,
};

/// Endpoints on one page. Their titles and URLs can be long.
const PAGE: usize = 40;

/// Returns the title of an endpoint, or its name if it has no title.
pub fn title_of(endpoint: &EndpointView) -> &str {
    endpoint.title.as_deref().filter(|title| !title.trim().is_empty()).unwrap_or(&endpoint.name)
}

/// The endpoints that fail, and since when. The snapshot of the endpoints does not know it.
type Failing = HashMap<EndpointId, Timestamp>;

/// Returns the state of an endpoint by which the list can be filtered.
fn condition(endpoint: &Endpoint, failing: &Failing) -> &'static str {
    match endpoint.new.state {
        EndpointState::Paused => "paused",
        EndpointState::Disabled(_) => "disabled",
        EndpointState::Active if failing.contains_key(&endpoint.id) => "failing",
        EndpointState::Active => "active",
    }
}

/// Returns the sort key of an endpoint in the list: endpoints in trouble come first.
fn rank(endpoint: &Endpoint, failing: &Failing) -> u8 {
    match condition(endpoint, failing) {
        "failing" => 0,
        "disabled" => 1,
        "paused" => 2,
        _ => 3,
    }
}

pub async fn list(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    let caller = visit.caller("GET /v1/endpoints")?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    // The snapshot needs no reading of all endpoints and their secrets. Only those that the page shows are converted.
    let all = ui.api.catalog.endpoints();
    let failing: Failing = ui.api.store.failing_endpoints().await?.into_iter().collect();
    let word = fields.get("q").unwrap_or_default().to_lowercase();
    let has_word = |one: &&Arc<Endpoint>| {
        let has = |text: &str| text.to_lowercase().contains(&word);
        word.is_empty() || has(&one.new.name) || one.new.title.as_deref().is_some_and(has) || has(&visible_url(one, caller.sight))
    };
    let found: Vec<&Arc<Endpoint>> = all.iter().filter(has_word).collect();
    let chosen = fields.get("state");
    let mut shown: Vec<&Arc<Endpoint>> =
        found.iter().copied().filter(|one| chosen.is_none_or(|state| condition(one, &failing) == state)).collect();
    shown.sort_by_key(|one| (rank(one, &failing), &*one.new.name));
    let total = shown.len();
    let from = parts::first_shown(&fields, total, PAGE);
    let t = &visit.texts().endpoints;
    let shown = &shown[from.min(total)..(from + PAGE).min(total)];
    let ids: Vec<EndpointId> = shown.iter().map(|one| one.id).collect();
    let day = history::read(&ui, &ids, Last::Day).await?;
    let backlogs = ui.api.store.backlogs(&ids).await?;
    let rows = shown.iter().zip(backlogs).map(|(one, backlog)| {
        let now = Endpoint { failing_since: failing.get(&one.id).copied(), ..Endpoint::clone(one) };
        row(&visit, &EndpointView::new(&now, ui.api.store.tag(), caller.sight), day.get(&one.id), backlog)
    });
    let actions = html! {
        form.find method="get" action="/endpoints" data-whole role="search" {
            (icon("search"))
            input #f-q type="search" name="q" value=(fields.get("q").unwrap_or_default()) placeholder=(t.filter) aria-label=(t.filter);
            @if let Some(state) = chosen { input type="hidden" name="state" value=(state); }
        }
        @if visit.may("POST /v1/endpoints") { (parts::link_button("/endpoints/new", Some("plus"), t.new, Look::Primary)) }
    };
    let body = html! {
        (Head { actions: Some(actions), ..layout::title(t.title) }.show())
        @if all.iter().next().is_none() { (none_yet(&visit)) }
        @else {
            div #rows data-live="events deliveries" data-hold {
                p.row { (states(&visit, &found, &failing, chosen)) }
                @if shown.is_empty() { (none_match(&visit)) }
                @else { (table(&visit, rows)) (parts::pages(&visit, from, total, PAGE)) }
            }
        }
    };
    Ok(layout::page(&ui, &visit, &Page::new(Place::Endpoints, t.title, body)).await)
}

/// Writes the states as links, each with its number of endpoints.
fn states(visit: &Visit, found: &[&Arc<Endpoint>], failing: &Failing, chosen: Option<&str>) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let (t, words) = (&texts.endpoints, &texts.states);
    let to = |state: Option<&str>| with_query(&with_query(&visit.path, "state", state), "from", None);
    let all = (format!("{} {}", t.all, formats.number(found.len() as u64)), to(None), chosen.is_none());
    let mut choices = vec![all];
    for (state, word) in [
        ("active", words.endpoint_active),
        ("failing", words.endpoint_failing),
        ("paused", words.endpoint_paused),
        ("disabled", words.endpoint_disabled),
    ] {
        let number = found.iter().filter(|one| condition(one, failing) == state).count() as u64;
        if number > 0 || chosen == Some(state) {
            choices.push((format!("{word} {}", formats.number(number)), to(Some(state)), chosen == Some(state)));
        }
    }
    let choices: Vec<(&str, String, bool)> = choices.iter().map(|(word, to, is)| (word.as_str(), to.clone(), *is)).collect();
    seg(texts.common.state, &choices)
}

fn table(visit: &Visit, rows: impl Iterator<Item = Markup>) -> Markup {
    let texts = visit.texts();
    let t = &texts.endpoints;
    html! {
        (strip::pattern())
        table.rows.two role="table" aria-label=(t.title) {
            (columns(&[(t.endpoint, "w200"), (t.url, ""), (t.gets, "w144"), (texts.common.state, "w144"), (t.day, "w144"), (t.first_try, "w80 num"), (t.waiting, "w80 num")]))
            tbody role="rowgroup" { @for row in rows { (row) } }
        }
    }
}

fn row(visit: &Visit, endpoint: &EndpointView, past: Option<&History>, backlog: Backlog) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let share = past.and_then(History::first_try);
    html! {
        tr #(endpoint.id) role="row" data-row {
            td.pa role="cell" {
                a.go href=(format!("/endpoints/{}", endpoint.name)) { (foreign::value(title_of(endpoint))) }
                span.two { span.mono { (foreign::name(&endpoint.name)) } @if let Some(key) = &endpoint.subscribed_by { " " ((texts.endpoints.by_key)(key)) } }
            }
            td.pc role="cell" { (foreign::cut(&endpoint.url)) }
            td.pd.mono.dim role="cell" { (gets(visit, endpoint)) }
            td.pb role="cell" { (Shown::of_endpoint(&endpoint.state, endpoint.failing_since.is_some(), texts).show()) }
            td.ph role="cell" { @if let Some(past) = past { (strip::show(&past.bars())) } }
            td.ph.num role="cell" { @match share { Some(share) => (formats.percent(share)), None => span.dim { "–" } } }
            td.ph.num.ends role="cell" {
                @match backlog.waiting { Some(0) => span.dim { "–" }, Some(number) => (formats.number(number)), None => ((texts.endpoints.over)(&formats.number(BACKLOG_COUNTED_MAX.unsigned_abs()))) }
            }
        }
    }
}

/// Writes which events an endpoint receives.
pub fn gets(visit: &Visit, endpoint: &EndpointView) -> Markup {
    html! {
        @if endpoint.events.is_empty() { (visit.texts().endpoints.from_plugins) }
        @else { (foreign::value(&endpoint.events.join(", "))) }
    }
}

fn none_yet(visit: &Visit) -> Markup {
    let t = &visit.texts().endpoints;
    let actions = html! {
        @if visit.may("POST /v1/endpoints") { (parts::link_button("/endpoints/new", Some("plus"), t.new, Look::Plain)) }
    };
    let command = "innesco endpoint add crm https://crm.example.org/hook --events 'order.*'";
    parts::empty("endpoints", t.none_yet, &html! { p { (t.none_yet_why) } (parts::command(command, visit)) }, &actions)
}

fn none_match(visit: &Visit) -> Markup {
    let texts = visit.texts();
    let t = &texts.endpoints;
    let clear = parts::link_button("/endpoints", Some("x"), texts.common.clear_all, Look::Plain);
    parts::empty("filter", t.none_match, &html! { p { (t.none_match_why) } }, &clear)
}
