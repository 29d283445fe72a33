//! The jobs: bulk retries and replays, and comparisons, with their progress, and forms that start them.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{Method, Uri},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::{page, pager};
use crate::{
    api::{Problem, comparisons, jobs, page::Query as ApiQuery},
    clock,
    domain::event::EventState,
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        parts::{self, Field, Look, columns, segment, shape, state::State as Shown, with_query},
        texts::Texts,
        visit::Visit,
    },
    wire::{ComparisonView, JobView, PageView},
};

/// Number of jobs on one page, and number of comparisons that are listed beside them.
const PAGE: usize = 30;
const COMPARISONS: usize = 10;
/// Seconds after which the page is read again while a job runs.
const AGAIN_SECONDS: u8 = 2;

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    jobs_page(&ui, &visit, &fields, None).await
}

/// Writes the page. `problem` is what is wrong with the fields of a form.
async fn jobs_page(ui: &Arc<Ui>, visit: &Visit, fields: &Fields, problem: Option<&Problem>) -> Result<Response, Problem> {
    visit.sight("GET /v1/jobs")?;
    let filter = jobs::Filter {
        limit: Some(PAGE.to_string()),
        cursor: fields.get("cursor").map(str::to_owned),
        ..jobs::Filter::default()
    };
    let jobs = jobs::list(State(Arc::clone(&ui.api)), ApiQuery(filter)).await?.0;
    let compared = if visit.may("GET /v1/comparisons") {
        let filter = comparisons::Filter { limit: Some(COMPARISONS.to_string()), ..comparisons::Filter::default() };
        comparisons::list(State(Arc::clone(&ui.api)), ApiQuery(filter)).await?.0.items
    } else {
        Vec::new()
    };
    let running = jobs.items.iter().any(|job| job.state == "running") || compared.iter().any(|one| one.state == "running");
    let t = &visit.texts().settings;
    let body = html! {
        div #jobs.section data-live="again" {
            @if jobs.items.is_empty() { (parts::empty("retry", t.no_jobs, &html! { p { (t.no_jobs_why) } }, &html! {})) }
            @else { (jobs_table(visit, &jobs)) (pager(visit, &jobs, fields.is_set("cursor"))) }
        }
        @if !compared.is_empty() { div #comparisons.section data-live="again" { h2 { (t.comparisons) } (comparisons_table(visit, &compared)) } }
        @if visit.may("POST /v1/events/replay") { div #new-jobs.halves-page { (replay_form(visit, fields, problem)) (retry_form(visit)) } }
        @if running { span #again data-again=(AGAIN_SECONDS) {} }
    };
    Ok(page(ui, visit, "/settings/jobs", body).await)
}

fn state_of(word: &str, texts: &Texts) -> Shown {
    match word {
        "running" => Shown::pending(texts.settings.job_runs),
        "cancelled" => Shown::calm(texts.settings.job_stopped),
        _ => Shown::ok(texts.settings.job_done),
    }
}

fn jobs_table(visit: &Visit, jobs: &PageView<JobView>) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.settings;
    html! {
        table.rows.two role="table" aria-label=(t.jobs) {
            (columns(&[(t.job, ""), (texts.common.state, "w144"), (t.progress, "w200"), (t.failed, "w80 num"), (t.begun, "w144"), ("", "w96 num")]))
            tbody role="rowgroup" {
                @for job in &jobs.items {
                    @let kind = match job.kind.as_ref() { "delivery.retry" => t.retries_deliveries, "run.retry" => t.retries_runs, _ => t.replays_events };
                    tr #(job.id) role="row" data-row {
                        td.pa role="cell" { a.go href=(format!("/jobs/{}", segment(&job.id))) { (kind) } span.two { (which(job)) } }
                        td.pb role="cell" { (state_of(&job.state, texts).show()) }
                        td.pc role="cell" {
                            @match job.total {
                                Some(total) => { ((texts.states.of)(&formats.number(job.done), &formats.number(total))) progress max=(total.max(1)) value=(if job.state == "done" { total.max(1) } else { (job.done + job.failed).min(total) }) {} },
                                None => (formats.number(job.done)),
                            }
                        }
                        td.ph.num role="cell" { (formats.number(job.failed)) }
                        td.pd.dim role="cell" { (formats.time(&job.created_at, &formats.in_list(&job.created_at, clock::wall(), false))) }
                        td.pe.num role="cell" {
                            @if job.state == "running" && visit.may("POST /v1/jobs/{job}/cancel") {
                                (parts::action_away(visit, &format!("/jobs/{}/cancel", segment(&job.id)), None, texts.retry_many.stop, Look::Small, &html! {}))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Returns what a job works on, in the words of the API.
fn which(job: &JobView) -> Markup {
    let filter = &job.filter;
    let word = |word: &Option<crate::wire::Word>| word.as_ref().map(|word| word.to_string());
    let parts = [
        word(&filter.state),
        filter.endpoint.clone(),
        word(&filter.reason),
        filter.plugin.clone(),
        word(&filter.outcome),
        filter.source.clone(),
        filter.event_type.clone(),
        filter.since.clone().map(|since| format!("≥ {since}")),
        filter.until.clone().map(|until| format!("< {until}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    html! { (foreign::value(&parts.join(", "))) }
}

fn comparisons_table(visit: &Visit, all: &[ComparisonView]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.settings;
    html! {
        table.rows role="table" aria-label=(t.comparisons) {
            (columns(&[(texts.plugins.plugin, ""), (texts.common.state, "w144"), (texts.compare.compared, "w144 num"), (texts.compare.differ, "w96 num"), (t.begun, "w144")]))
            tbody role="rowgroup" {
                @for one in all {
                    tr #(one.id) role="row" data-row {
                        td.pa role="cell" { a.go href=(with_query(&format!("/plugins/{}/compare", segment(&one.plugin)), "id", Some(&one.id))) { (foreign::name(&one.plugin)) } }
                        td.pb role="cell" { (state_of(&one.state, texts).show()) }
                        td.pc.num role="cell" { (formats.number(one.report.compared)) }
                        td.ph.num role="cell" { (formats.number(one.report.differ)) }
                        td.pd.dim role="cell" { (formats.time(&one.created_at, &formats.in_list(&one.created_at, clock::wall(), false))) }
                    }
                }
            }
        }
    }
}

/// Writes the form that replays many events. A filter is required, because a replay sends new webhooks.
fn replay_form(visit: &Visit, fields: &Fields, problem: Option<&Problem>) -> Markup {
    let texts = visit.texts();
    let t = &texts.settings;
    let given = |name: &str| fields.get(name).unwrap_or_default();
    let error = |pointer: &str| problem.filter(|problem| problem.pointer() == Some(pointer)).map(Problem::detail);
    let field = |name, label, pointer| Field { name, label, hint: None, error: error(pointer) };
    let words = EventState::ALL.map(|state| (state.as_str(), Shown::of_event(state.as_str(), texts).word));
    let states: Vec<(&str, &str)> = std::iter::once(("", texts.events.any_state)).chain(words).collect();
    let elsewhere = problem
        .filter(|problem| !["/state", "/event_type", "/source", "/since"].contains(&problem.pointer().unwrap_or_default()));
    html! {
        form #replay-form.form method="post" action="/settings/jobs/replay" data-whole {
            (parts::hidden(visit))
            h2 { (t.replay_many) }
            p.hint { (t.replay_says) }
            @if let Some(problem) = elsewhere { p.error role="alert" { (shape("s-fail")) span { (foreign::code(problem.detail())) } } }
            (field("state", texts.common.state, "/state").choice(&states, given("state")))
            (field("event_type", texts.common.type_, "/event_type").text(given("event_type"), texts.events.any_such_as))
            (field("source", texts.common.source, "/source").text(given("source"), texts.events.any_source))
            (field("since", t.since, "/since").text(given("since"), "2026-01-31T09:30:00Z"))
            div.acts { button.btn type="submit" { (parts::icon("replay")) (t.replay_button) } }
        }
    }
}

fn retry_form(visit: &Visit) -> Markup {
    let t = &visit.texts().settings;
    html! {
        form #retry-form.form method="post" action="/settings/jobs/retry-runs" data-whole {
            (parts::hidden(visit))
            h2 { (t.retry_runs) }
            p.hint { (t.retry_runs_say) }
            (Field { name: "plugin", label: visit.texts().plugins.plugin, hint: None, error: None }.text("", t.every_plugin))
            div.acts {
                button.btn type="submit" { (parts::icon("retry")) (t.retry_runs_button) }
                (parts::link_button("/deliveries/retry", None, t.retry_deliveries, Look::Quiet))
            }
        }
    }
}

/// Starts a replay of many events. A fault is shown beside its field.
pub async fn replay(State(ui): State<Arc<Ui>>, form: Form) -> Result<Response, Problem> {
    start(&ui, &form, "/v1/events/replay", &["state", "event_type", "source", "since"]).await
}

/// Starts a retry of parked runs.
pub async fn retry_runs(State(ui): State<Arc<Ui>>, form: Form) -> Result<Response, Problem> {
    start(&ui, &form, "/v1/runs/retry", &["plugin"]).await
}

async fn start(ui: &Arc<Ui>, form: &Form, path: &str, names: &[&str]) -> Result<Response, Problem> {
    let given = names.iter().filter_map(|name| Some(((*name).to_owned(), Value::from(form.fields.get(name)?))));
    let filter: Map<String, Value> = given.collect();
    match ui.act(&form.visit, Method::POST, path, Some(&Value::Object(filter))).await {
        Ok(job) => Ok(Redirect::to(&format!("/jobs/{}", segment(job["id"].as_str().unwrap_or_default()))).into_response()),
        Err(problem) if problem.is_ours() => Err(problem),
        Err(problem) => jobs_page(ui, &form.visit, &form.fields, Some(&problem)).await,
    }
}

/// Redirects from the address of a form, which a browser without script may reload, to the jobs.
pub async fn to_page() -> Redirect {
    Redirect::to("/settings/jobs")
}
