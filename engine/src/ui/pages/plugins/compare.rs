//! Comparing a candidate with the version that serves: the form, the earlier comparisons, and one comparison with its progress.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, State},
    http::{Method, Uri},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::{path_of, read, report, route_of, short};
use crate::{
    api::{Problem, comparisons, page::Query as ApiQuery, path::Path as ApiPath, plugins::versions},
    clock,
    domain::plugin::VersionState,
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        layout::{self, Head, Page, Place},
        parts::{self, Field, Look, columns, segment, shape, state::State as Shown, with_query},
        visit::Visit,
    },
    wire::{ComparisonView, PluginVersionView, PluginView},
};

/// Number of newest comparisons, of all plugins, among which the page searches those of its plugin.
const SEARCHED: usize = 100;
/// Maximum number of comparisons that the page lists.
const LISTED: usize = 5;
/// Seconds after which a running comparison is read again.
const AGAIN_SECONDS: u8 = 1;

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>, uri: Uri) -> Result<Response, Problem> {
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    page(&ui, &visit, name, &fields, None).await
}

/// Writes the page. `problem` is what is wrong with the fields of a form.
async fn page(
    ui: &Arc<Ui>,
    visit: &Visit,
    name: String,
    fields: &Fields,
    problem: Option<&Problem>,
) -> Result<Response, Problem> {
    visit.sight("POST /v1/plugins/{plugin}/compare")?;
    let plugin = read(ui, visit, name).await?;
    let stored = versions::list(State(Arc::clone(&ui.api)), ApiPath(plugin.name.clone())).await?.0.items;
    let filter = comparisons::Filter { limit: Some(SEARCHED.to_string()), ..comparisons::Filter::default() };
    let mut all = comparisons::list(State(Arc::clone(&ui.api)), ApiQuery(filter)).await?.0.items;
    all.retain(|one| one.plugin == plugin.name);
    let shown = match fields.get("id") {
        Some(id) => Some(comparisons::show(State(Arc::clone(&ui.api)), ApiPath(id.to_owned())).await?.0),
        None => None,
    };
    let texts = visit.texts();
    let t = &texts.compare;
    let title = match &shown {
        Some(one) => format!("{}: {}", plugin.name, (t.against)(short(&one.serving), short(&one.candidate))),
        None => format!("{}: {}", plugin.name, t.title),
    };
    let last = html! { a.mono href=(path_of(&plugin.name)) { (foreign::name(&plugin.name)) } " / " (t.title) };
    let head = Head {
        above: Some(("/plugins", texts.frame.plugins, last)),
        title: html! { (title) },
        state: shown.as_ref().map(|one| state_of(visit, one).chip(&counted(visit, one))),
        facts: Some(html! { span.fact { (t.nothing_sent) } }),
        actions: None,
    };
    let body = html! {
        div #compare-head data-live="again" { (head.show()) }
        @if let Some(one) = &shown { (report::promotion(visit, &plugin, &stored, one, fields)) }
        div #start-form.section { (start_form(visit, &plugin, &stored, fields, problem)) }
        @match &shown {
            Some(one) => div #comparison data-live="again" { (progress(visit, one)) (report::show(visit, one)) },
            None => div #comparison data-live="again" {},
        }
        div #earlier.section { (earlier(visit, &all, shown.as_ref().map(|one| one.id.as_str()))) }
    };
    Ok(layout::page(ui, visit, &Page::new(Place::Plugins, &title, body)).await)
}

fn state_of(visit: &Visit, one: &ComparisonView) -> Shown {
    let t = &visit.texts().compare;
    match one.state.as_ref() {
        "running" => Shown::pending(if one.follow { t.follows } else { t.running }),
        "cancelled" => Shown::calm(t.cancelled),
        _ if one.report.differ == 0 => Shown::ok(t.all_same),
        _ => Shown::shadow(t.differ_word),
    }
}

fn counted(visit: &Visit, one: &ComparisonView) -> Markup {
    html! { @if one.report.differ > 0 && one.state == "done" { (visit.formats().number(one.report.differ)) } }
}

fn start_form(
    visit: &Visit,
    plugin: &PluginView,
    stored: &[PluginVersionView],
    fields: &Fields,
    problem: Option<&Problem>,
) -> Markup {
    let texts = visit.texts();
    let t = &texts.compare;
    let others: Vec<&PluginVersionView> = stored.iter().filter(|one| one.state != VersionState::Serving.as_str()).collect();
    if others.is_empty() {
        return parts::empty(
            "plugins",
            t.no_candidate,
            &html! { p { (t.no_candidate_why) } },
            &parts::link_button(
                &with_query("/plugins/upload", "plugin", Some(&plugin.name)),
                Some("upload"),
                texts.plugins.upload_short,
                Look::Plain,
            ),
        );
    }
    let labels: Vec<String> =
        others.iter().map(|one| format!("{} {}", short(&one.version), word_of(visit, &one.state))).collect();
    let choices: Vec<(&str, &str)> =
        others.iter().map(|one| one.version.as_str()).zip(labels.iter().map(String::as_str)).collect();
    let given = |name: &str| fields.get(name).unwrap_or_default();
    let error = |pointer: &str| problem.filter(|problem| problem.pointer() == Some(pointer)).map(Problem::detail);
    let field = |name, label, pointer| Field { name, label, hint: None, error: error(pointer) };
    let modes = [("", t.of_the_past), ("follow", t.of_now)];
    let lasts = [("", "10 000"), ("1000", "1 000"), ("100000", "100 000"), ("1000000", "1 000 000")];
    let since = [
        ("", t.any_time),
        ("3600", texts.events.time_hour),
        ("86400", texts.events.time_day),
        ("604800", texts.events.time_week),
    ];
    let known = ["/candidate", "/event_type", "/last", "/since", "/share"];
    let elsewhere = problem.filter(|problem| problem.pointer().is_none_or(|pointer| !known.contains(&pointer)));
    html! {
        form #start.filters method="post" action=(format!("{}/compare", path_of(&plugin.name))) data-whole {
            (parts::hidden(visit))
            (field("candidate", t.candidate, "/candidate").choice(&choices, given("candidate")))
            (field("mode", t.which, "/follow").choice(&modes, given("mode")))
            (field("last", t.last, "/last").choice(&lasts, given("last")))
            (field("share", t.share, "/share").choice(&[("", "100 %"), ("10", "10 %"), ("1", "1 %")], given("share")))
            (field("event_type", texts.common.type_, "/event_type").text(given("event_type"), texts.events.any_such_as))
            (field("age", texts.common.time, "/since").choice(&since, given("age")))
            label.tick.field-tick { input type="checkbox" name="mask" value="on" checked[fields.is_set("mask")]; (t.mask) }
            button.btn type="submit" { (t.start) }
        }
        @if let Some(problem) = elsewhere { p.error role="alert" { (shape("s-fail")) span { (foreign::code(problem.detail())) } } }
    }
}

fn word_of(visit: &Visit, state: &str) -> &'static str {
    let texts = visit.texts();
    if state == VersionState::Candidate.as_str() { texts.states.plugin_candidate } else { texts.plugins.kept }
}

/// Writes how far a running comparison is, and the button that ends it.
fn progress(visit: &Visit, one: &ComparisonView) -> Markup {
    let formats = visit.formats();
    let t = &visit.texts().compare;
    let done = one.report.compared + one.report.not_repeatable;
    html! {
        @if let Some(problem) = &one.problem { div.section { (parts::note(Shown::failed(""), &html! { (foreign::code(problem)) }, &html! {})) } }
        @if one.state == "running" {
            div #progress.section {
                p role="status" { @if one.follow { ((t.followed_so_far)(&formats.number(done))) } @else { ((t.compared_so_far)(&formats.number(done), &formats.number(one.last))) } }
                @if !one.follow { progress max=(one.last) value=(done) {} }
                @if visit.may("POST /v1/comparisons/{comparison}/cancel") {
                    (parts::action(visit, &format!("{}/compare/{}/cancel", path_of(&one.plugin), segment(&one.id)), None, t.stop, Look::Plain))
                }
                span #again data-again=(AGAIN_SECONDS) {}
            }
        }
    }
}

/// Writes the last comparisons of the plugin, newest first.
fn earlier(visit: &Visit, all: &[ComparisonView], shown: Option<&str>) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.compare;
    let mut others = all.iter().filter(|one| Some(one.id.as_str()) != shown).take(LISTED).peekable();
    if others.peek().is_none() {
        return html! {};
    }
    html! {
        h2 { (t.earlier) }
        table.rows role="table" aria-label=(t.earlier) {
            (columns(&[(texts.common.time, "w168"), (t.versions, ""), (texts.common.state, "w200"), (t.compared, "w144 num")]))
            tbody role="rowgroup" {
                @for one in others {
                    tr #(one.id) role="row" data-row {
                        td.pa role="cell" { a.go href=(with_query(&format!("{}/compare", path_of(&one.plugin)), "id", Some(&one.id))) { (formats.time(&one.created_at, &formats.in_list(&one.created_at, clock::wall(), false))) } }
                        td.pc.mono role="cell" { ((t.against)(short(&one.serving), short(&one.candidate))) }
                        td.pb role="cell" { (state_of(visit, one).with(&counted(visit, one))) }
                        td.pd.num.dim role="cell" { (formats.number(one.report.compared)) }
                    }
                }
            }
        }
    }
}

/// Starts a comparison and shows it. A fault is shown beside its field.
pub async fn start(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    let Form { visit, fields } = form;
    let follows = fields.get("mode") == Some("follow");
    let mut input = Map::new();
    for name in ["candidate", "event_type"] {
        if let Some(text) = fields.get(name) {
            input.insert(name.to_owned(), text.into());
        }
    }
    for (name, is_meant) in [("last", true), ("share", follows)] {
        if let Some(number) = fields.get(name).filter(|_| is_meant).and_then(|text| text.parse::<u64>().ok()) {
            input.insert(name.to_owned(), number.into());
        }
    }
    if let Some(seconds) = fields.get("age").and_then(|text| text.parse().ok()) {
        input.insert("since".to_owned(), clock::wall().minus(Duration::from_secs(seconds)).to_string().into());
    }
    input.insert("follow".to_owned(), follows.into());
    input.insert("mask".to_owned(), fields.is_set("mask").into());
    match ui.act(&visit, Method::POST, &format!("{}/compare", route_of(&name)), Some(&Value::Object(input))).await {
        Ok(made) => Ok(to_comparison(&name, made["id"].as_str().unwrap_or_default())),
        Err(problem) if problem.is_ours() => Err(problem),
        Err(problem) => page(&ui, &visit, name, &fields, Some(&problem)).await,
    }
}

pub async fn cancel(
    State(ui): State<Arc<Ui>>,
    Path((name, id)): Path<(String, String)>,
    form: Form,
) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("/v1/comparisons/{}/cancel", segment(&id)), None).await?;
    Ok(to_comparison(&name, &id))
}

fn to_comparison(name: &str, id: &str) -> Response {
    Redirect::to(&with_query(&format!("{}/compare", path_of(name)), "id", Some(id))).into_response()
}
