//! The runs of a plugin, by state, and the actions that retry and cancel them.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{Method, Uri},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::json;

use super::{Tab, path_of, read, short, tab_page};
use crate::{
    api::{
        Problem,
        page::Query as ApiQuery,
        runs::{self, Filter},
    },
    domain::run::RunState,
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        pages::{event::story::asked, selected},
        parts::{self, Look, columns, segment, state::State as Shown, with_query},
        view::back,
        visit::Visit,
    },
    wire::RunView,
};

/// Runs on one page.
const PAGE: usize = 50;

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>, uri: Uri) -> Result<Response, Problem> {
    let plugin = read(&ui, &visit, name).await?;
    visit.sight("GET /v1/runs")?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let chosen = fields.get("state").unwrap_or_default();
    let filter = Filter {
        plugin: Some(plugin.name.clone()),
        state: (!chosen.is_empty()).then(|| chosen.to_owned()),
        limit: Some(PAGE.to_string()),
        cursor: fields.get("cursor").map(str::to_owned),
        ..Filter::default()
    };
    let page = runs::list(State(Arc::clone(&ui.api)), ApiQuery(filter)).await?.0;
    let texts = visit.texts();
    let t = &texts.plugins;
    let path = format!("{}/runs", path_of(&plugin.name));
    let choice = |state: &str, label| {
        let query = (!state.is_empty()).then_some(state);
        (label, with_query(&path, "state", query), state == chosen)
    };
    let choices = [
        choice("", t.all_runs),
        choice(RunState::Parked.as_str(), texts.states.run_parked),
        choice("waiting", texts.states.run_waiting),
        choice("cancelled", texts.states.run_cancelled),
    ];
    let body = html! {
        div #which.row.above {
            (parts::seg(texts.common.state, &choices))
            @if chosen == RunState::Parked.as_str() && !page.items.is_empty() && visit.may("POST /v1/runs/retry") {
                @let hidden = html! { input type="hidden" name="plugin" value=(plugin.name); };
                (parts::action_away(&visit, &format!("{}/retry-parked", path_of(&plugin.name)), Some("retry"), t.retry_parked, Look::Plain, &hidden))
            }
        }
        div #runs data-live="plugins" data-hold="always" {
            div.above-list { (selected::held_row(&visit, t.new_run, t.new_runs)) }
            @if page.items.is_empty() { (parts::empty("plugins", t.no_runs, &html! { p { (if chosen.is_empty() { t.no_runs_why } else { t.no_runs_of_state }) } }, &html! {})) }
            @else { (table(&visit, &page.items)) }
        }
        div #pager.pager {
            span.muted { (texts.frame.newest_first) }
            div.acts {
                @if fields.is_set("cursor") { (parts::link_button(&with_query(&visit.path, "cursor", None), None, texts.common.previous, Look::Small)) }
                @if let Some(next) = &page.next {
                    (parts::link_button(&with_query(&visit.path, "cursor", Some(next)), Some("down"), texts.frame.older, Look::Small))
                }
            }
        }
    };
    Ok(tab_page(&ui, &visit, &plugin, Tab::Runs, body).await)
}

fn table(visit: &Visit, runs: &[RunView]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    html! {
        table.rows.two role="table" aria-label=(t.runs) {
            (columns(&[(t.event, ""), (texts.common.outcome, "w200"), (t.asked, "w168"), (texts.common.took, "w96 num"), (t.memory, "w96 num"), (t.version, "w80"), ("", "w168 num")]))
            tbody role="rowgroup" {
                @for run in runs {
                    tr #(run.id) role="row" data-row {
                        td.pa role="cell" {
                            a.go href=(format!("/events/{}#{}", run.event, run.id)) { (foreign::name(&run.r#type)) }
                            @match &run.message {
                                Some(message) => span.two title=(foreign::isolated(message)) { (foreign::value(message.lines().next().unwrap_or_default())) },
                                None => span.two.mono { (run.event) },
                            }
                        }
                        td.pb role="cell" { (Shown::of_run(run, texts).show()) @if run.state == RunState::Parked.as_str() { span.two { (texts.states.run_parked) } } }
                        td.pc.dim role="cell" { @if run.webhooks + run.events == 0 { "–" } @else { (asked(visit, run.webhooks, run.events)) } }
                        td.pd.num.dim role="cell" { (formats.millis(run.duration_ms)) }
                        td.ph.num.dim role="cell" { (formats.bytes(run.memory_bytes)) }
                        td.ph.mono.dim role="cell" { @if let Some(version) = &run.version { (short(version)) } @else { "–" } }
                        td.pe.num role="cell" { (repairs(visit, run)) }
                    }
                }
            }
        }
    }
}

fn repairs(visit: &Visit, run: &RunView) -> Markup {
    let texts = visit.texts();
    let is = |state: &str| run.state == state;
    let action = |verb: &str, label| {
        parts::action(visit, &format!("{}/runs/{}/{verb}", path_of(&run.plugin), run.id), None, label, Look::Small)
    };
    html! {
        @if is("parked") || is("waiting") || is("cancelled") {
            div.acts.end {
                @if visit.may("POST /v1/runs/{run}/retry") { (action("retry", texts.common.retry)) }
                @if !is("cancelled") && visit.may("POST /v1/runs/{run}/cancel") { (action("cancel", texts.common.cancel)) }
            }
        }
    }
}

/// Redirects to the page of the runs.
fn done(form: &Form) -> Response {
    Redirect::to(back(form.fields.get("back"))).into_response()
}

pub async fn retry(State(ui): State<Arc<Ui>>, Path((_, run)): Path<(String, String)>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("/v1/runs/{}/retry", segment(&run)), None).await?;
    Ok(done(&form))
}

pub async fn cancel(State(ui): State<Arc<Ui>>, Path((_, run)): Path<(String, String)>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("/v1/runs/{}/cancel", segment(&run)), None).await?;
    Ok(done(&form))
}

/// Starts a job that retries the parked runs of the plugin, and shows its progress.
pub async fn retry_parked(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    let job = ui.act(&form.visit, Method::POST, "/v1/runs/retry", Some(&json!({ "plugin": name }))).await?;
    Ok(Redirect::to(&format!("/jobs/{}", segment(job["id"].as_str().unwrap_or_default()))).into_response())
}
