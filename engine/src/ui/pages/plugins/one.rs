//! The first page of a plugin: what waits for a person, figures, versions, a form to upload a version, and details of the plugin.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::Uri,
    response::{Redirect, Response},
};
use maud::{Markup, html};

use super::{Tab, list::RUNS_COUNTED, path_of, read, short, tab_page, upload, versions};
use crate::{
    api::{Problem, page::Query as ApiQuery, path::Path as ApiPath, plugins, runs, stats::stats},
    domain::{
        name::Slug,
        plugin::VersionState,
        run::RunState,
        stats::{About, Last},
    },
    ui::{
        Ui, foreign,
        form::Fields,
        needs::PARKED_COUNTED_MAX,
        parts::{self, Look, state::State as Shown, with_query},
        visit::Visit,
    },
    wire::{PluginVersionView, PluginView, RunView, StatsView},
};

/// Number of newest runs whose time and memory are shown.
const RUNS: usize = 100;

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>, uri: Uri) -> Result<Response, Problem> {
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    page(&ui, &visit, name, |plugin| versions::asked(&visit, plugin, &fields)).await
}

/// Redirects from the address of a change, which a browser without script may reload, to the plugin's page.
pub async fn to_page(Path(name): Path<String>) -> Redirect {
    Redirect::to(&path_of(&name))
}

/// The data from which the figures are computed.
struct Figures {
    day: StatsView,
    newest: Vec<RunView>,
    parked: u64,
    /// Runs that wait, up to [`RUNS_COUNTED`].
    waiting: u64,
}

/// Writes the page, with a question or an answer above its figures.
pub async fn page(
    ui: &Arc<Ui>,
    visit: &Visit,
    name: String,
    above: impl FnOnce(&PluginView) -> Markup,
) -> Result<Response, Problem> {
    let plugin = read(ui, visit, name).await?;
    visit.sight("GET /v1/plugins/{plugin}/versions")?;
    let stored = plugins::versions::list(State(Arc::clone(&ui.api)), ApiPath(plugin.name.clone())).await?.0.items;
    let figures = figures(ui, &plugin).await?;
    let fields = Fields::parse(visit.path.split_once('?').unwrap_or_default().1.as_bytes());
    let t = &visit.texts().plugins;
    let body = html! {
        (above(&plugin))
        @if let Some(new) = fields.get("new").and_then(|new| stored.iter().find(|one| one.version == new)) {
            div #uploaded.section { (upload::stored(visit, &plugin, &stored, new, &fields)) }
        }
        @if let Some(version) = fields.get("discarded") {
            div #discarded.section { (parts::note(Shown::ok(""), &html! { b.mono { (foreign::name(version)) } " " (t.discarded) }, &html! {})) }
        }
        div #plugin-notes data-live="plugins" { (notes(visit, &plugin, &stored, &figures)) }
        div #figures.section data-live="plugins" { (figures_panel(visit, &figures)) }
        div #plugin-parts.with-side {
            div {
                div #versions.section data-live="plugins" { h2 { (t.versions) } (versions::table(visit, &plugin, &stored)) }
                @if visit.may("PUT /v1/plugins/{plugin}") {
                    div #upload.section { (upload::form(visit, &upload::Given { name: &plugin.name, is_fixed: true, ..upload::Given::default() }, None)) }
                }
            }
            div #about.section data-live="plugins" { h2 { (t.what_it_is) } (about(visit, &plugin)) }
        }
    };
    Ok(tab_page(ui, visit, &plugin, Tab::Overview, body).await)
}

async fn figures(ui: &Arc<Ui>, plugin: &PluginView) -> Result<Figures, Problem> {
    let Ok(name) = Slug::parse(&plugin.name) else { return Err(Problem::not_found(format!("no plugin {:?}", plugin.name))) };
    let list = |state: Option<RunState>, limit: usize| {
        let filter = runs::Filter {
            plugin: Some(plugin.name.clone()),
            state: state.map(|state| state.as_str().to_owned()),
            limit: Some(limit.to_string()),
            ..runs::Filter::default()
        };
        runs::list(State(Arc::clone(&ui.api)), ApiQuery(filter))
    };
    Ok(Figures {
        newest: list(None, RUNS).await?.0.items,
        parked: list(Some(RunState::Parked), PARKED_COUNTED_MAX).await?.0.items.len() as u64,
        waiting: ui.api.store.waiting_runs(&name, RUNS_COUNTED).await?,
        day: stats(&ui.api, About::Plugin(name), Last::Day).await?,
    })
}

/// Returns the value that `percent` of the values do not exceed; `None` without values.
fn percentile(mut values: Vec<f64>, percent: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let place = (values.len() * percent).div_ceil(100);
    values.get(place.checked_sub(1)?).copied()
}

fn figures_panel(visit: &Visit, figures: &Figures) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    let figure =
        |name: &str, value: Markup, say: String| html! { div.figure { p.name { (name) } p.value { (value) } p.say { (say) } } };
    let done: Vec<&RunView> = figures.newest.iter().filter(|run| run.outcome.is_some()).collect();
    let times: Vec<f64> = done.iter().map(|run| run.duration_ms).collect();
    let memory = percentile(done.iter().map(|run| run.memory_bytes as f64).collect(), 99);
    let number = |number: u64, most: u64| {
        if number >= most { (t.or_more)(&formats.number(number)) } else { formats.number(number) }
    };
    let none = || html! { "–" };
    let of_newest = (t.of_newest)(&formats.number(done.len() as u64));
    html! {
        div.figures {
            (figure(t.runs_in_day, html! { (formats.number(figures.day.total.runs)) }, (t.runs_failed)(&formats.number(figures.day.total.runs_failed))))
            (figure(t.time, percentile(times.clone(), 50).map_or_else(none, |time| html! { (formats.millis(time)) " " span.unit { "p50" } }), match percentile(times, 99) {
                Some(time) => format!("p99 {}, {of_newest}", formats.millis(time)),
                None => t.no_runs.to_owned(),
            }))
            (figure(t.memory, memory.map_or_else(none, |bytes| html! { (formats.bytes(bytes as u64)) " " span.unit { "p99" } }), of_newest.clone()))
            (figure(t.not_done, html! { (number(figures.parked, PARKED_COUNTED_MAX as u64)) }, (t.and_waiting)(&number(figures.waiting, u64::from(RUNS_COUNTED)))))
        }
    }
}

/// Writes what waits for a person, and how to repair it.
fn notes(visit: &Visit, plugin: &PluginView, stored: &[PluginVersionView], figures: &Figures) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    let path = path_of(&plugin.name);
    let ask = |what: &str| with_query(&path, "ask", Some(what));
    let candidate = stored.iter().find(|one| one.state == VersionState::Candidate.as_str());
    let is_promoted = stored.iter().any(|one| one.state == VersionState::Serving.as_str());
    let may_promote = visit.may("POST /v1/plugins/{plugin}/promote");
    let may_discard = visit.may("DELETE /v1/plugins/{plugin}/versions/{version}");
    html! {
        @if plugin.state == "held" {
            div #held.section {
                (parts::note(Shown::held(""), &html! { b { ((t.held_title)(&formats.number(figures.waiting))) } " " (t.held_cure) }, &html! {
                    (parts::link_button(&format!("{path}/runs"), None, t.see_runs, Look::Small))
                    @if may_promote { (parts::link_button(&ask("rollback"), None, t.roll_back, Look::Small)) (parts::action(visit, &format!("{path}/enable"), None, t.enable, Look::Small)) }
                }))
            }
        }
        @if let Some(error) = &plugin.error {
            div #refused.section { (parts::note(Shown::failed(""), &html! { (t.not_loaded) " " span.words.lines { (foreign::code(error)) } }, &html! {})) }
        }
        @if figures.parked > 0 {
            div #parked.section {
                (parts::note(Shown::failed(""), &html! { ((t.parked_says)(&formats.number(figures.parked))) @if let Some(message) = figures.newest.iter().find_map(|run| run.message.as_deref()) { " " span.words { (foreign::value(message.lines().next().unwrap_or_default())) } } }, &html! {
                    (parts::link_button(&with_query(&format!("{path}/runs"), "state", Some("parked")), None, t.see_runs, Look::Small))
                }))
            }
        }
        @if let Some(one) = candidate {
            div #candidate.section {
                (parts::note(Shown::shadow(""), &html! { b.mono { (short(&one.version)) } " " (t.candidate_says) }, &html! {
                    @if is_promoted && visit.may("POST /v1/plugins/{plugin}/compare") { (parts::link_button(&with_query(&format!("{path}/compare"), "candidate", Some(&one.version)), None, t.compare, Look::Small)) }
                    @if may_promote { (parts::link_button(&ask(&format!("promote~{}", one.version)), None, t.promote, Look::Small)) }
                    @if may_discard { (parts::link_button(&ask(&format!("discard~{}", one.version)), None, t.discard, Look::Small)) }
                }))
            }
        }
    }
}

fn about(visit: &Visit, plugin: &PluginView) -> Markup {
    let t = &visit.texts().plugins;
    html! {
        dl.policy {
            div { dt { (t.runs_on) } dd.mono { @if plugin.on.is_empty() { "–" } @else { (foreign::code(&plugin.on.join(", "))) } } }
            div { dt { (t.may) } dd { (t.may_what) } }
            div { dt { (t.may_not) } dd { (t.may_not_what) } }
            @if !plugin.author_version.is_empty() { div { dt { (t.its_version) } dd { (foreign::value(&plugin.author_version)) } } }
            @if let Some(version) = &plugin.version { div { dt { "SHA-256" } dd { div.fact { (foreign::cut(version)) (parts::copy(version, visit)) } } } }
            @if !plugin.file.is_empty() { div { dt { (t.file) } dd.mono { (foreign::code(&plugin.file)) } } }
            div { dt { (visit.texts().common.size) } dd { (visit.formats().bytes(plugin.bytes)) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        for (values, percent, expected) in
            [(values.clone(), 50, Some(50.0)), (values, 99, Some(99.0)), (vec![7.0], 99, Some(7.0)), (Vec::new(), 50, None)]
        {
            assert_eq!(percentile(values, percent), expected);
        }
    }
}
