//! The list of plugins: which version serves, how its runs end, and what waits for a person.

use std::{collections::HashMap, sync::Arc};

use axum::{extract::State, http::Uri, response::Response};
use maud::{Markup, html};

use super::{path_of, short, upload};
use crate::{
    api::{Problem, plugins},
    clock,
    domain::{
        name::Slug,
        stats::{About, Counts, Last, first_bucket, fold},
    },
    store::PluginVersion,
    ui::{
        Ui, foreign,
        form::Fields,
        layout::{self, Page, Place},
        needs::{self, Need, Needs},
        parts::{
            self, Look, columns,
            state::State as Shown,
            strip::{self, Bar},
        },
        visit::Visit,
    },
    wire::PluginView,
};

/// Plugins on one page.
const PAGE: usize = 50;
/// Maximum number of waiting runs of a held plugin that are counted.
pub const RUNS_COUNTED: u32 = 1_000;

/// Further data that the rows show.
struct Beside {
    candidates: Vec<PluginVersion>,
    needs: Arc<Needs>,
    days: HashMap<String, Vec<Counts>>,
    /// Waiting runs of held plugins.
    held: HashMap<String, u64>,
}

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    visit.sight("GET /v1/plugins")?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let mut all = plugins::list(State(Arc::clone(&ui.api))).await?.0.items;
    // Plugins that do not work are on the first page.
    let is_well = |plugin: &PluginView| plugin.error.is_none() && plugin.state != "held";
    all.sort_by(|one, other| (is_well(one), &one.name).cmp(&(is_well(other), &other.name)));
    let total = all.len();
    let from = parts::first_shown(&fields, total, PAGE);
    let all: Vec<PluginView> = all.into_iter().skip(from).take(PAGE).collect();
    let beside = Beside {
        candidates: ui.api.store.candidates().await?,
        needs: needs::now(&ui).await?,
        days: days(&ui, &all).await?,
        held: held(&ui, &all).await?,
    };
    let texts = visit.texts();
    let t = &texts.plugins;
    let upload_button = html! {
        @if visit.may("PUT /v1/plugins/{plugin}") { (parts::link_button("/plugins/upload", Some("upload"), t.upload_short, Look::Primary)) }
    };
    let body = html! {
        (layout::Head { actions: Some(upload_button), ..layout::title(texts.frame.plugins) }.show())
        div #rows.section data-live="plugins" data-hold {
            @if all.is_empty() { (parts::empty("plugins", t.none, &html! { p { (t.none_why) } }, &html! {})) }
            @else { (strip::pattern()) (table(&visit, &all, &beside)) (parts::pages(&visit, from, total, PAGE)) }
        }
        div #more.halves-page {
            @if visit.may("PUT /v1/plugins/{plugin}") { div { (upload::form(&visit, &upload::Given::default(), None)) } }
            div { p.muted { (t.new_why) } (parts::command("innesco plugin new my-first", &visit)) }
        }
    };
    Ok(layout::page(&ui, &visit, &Page::new(Place::Plugins, texts.frame.plugins, body)).await)
}

/// Returns the runs of each plugin in the last 24 hours, with one count for each hour.
async fn days(ui: &Ui, all: &[PluginView]) -> Result<HashMap<String, Vec<Counts>>, Problem> {
    let about: Vec<About> = all.iter().filter_map(|plugin| Slug::parse(&plugin.name).ok()).map(About::Plugin).collect();
    let Some((cell, length, count)) = about.first().and_then(|about| Last::Day.buckets(about)) else { return Ok(HashMap::new()) };
    let first = first_bucket(clock::wall(), length, count);
    let mut by_name: HashMap<String, Vec<_>> = HashMap::new();
    for (about, at, counts) in ui.api.store.counts(about, cell, first).await? {
        if let About::Plugin(name) = about {
            by_name.entry(name.to_string()).or_default().push((at, counts));
        }
    }
    let hours = |cells: Vec<_>| {
        let known = fold(cells, first, length);
        let starts = (0..count).map(|place| first.plus(std::time::Duration::from_millis((place * length).unsigned_abs())));
        starts.map(|at| known.get(&at).cloned().unwrap_or_default()).collect()
    };
    Ok(by_name.into_iter().map(|(name, cells)| (name, hours(cells))).collect())
}

async fn held(ui: &Ui, all: &[PluginView]) -> Result<HashMap<String, u64>, Problem> {
    let mut held = HashMap::new();
    for plugin in all.iter().filter(|plugin| plugin.state == "held") {
        if let Ok(name) = Slug::parse(&plugin.name) {
            held.insert(plugin.name.clone(), ui.api.store.waiting_runs(&name, RUNS_COUNTED).await?);
        }
    }
    Ok(held)
}

fn table(visit: &Visit, all: &[PluginView], beside: &Beside) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    html! {
        table.rows.two role="table" aria-label=(texts.frame.plugins) {
            (columns(&[(t.plugin, ""), (texts.common.state, "w168"), (t.on, "w168"), (t.runs_in_day, "w144"), (t.failed, "w80 num"), (t.waiting, "w168")]))
            tbody role="rowgroup" {
                @for plugin in all {
                    @let is_file = plugin.version.is_none();
                    @let hours = beside.days.get(&plugin.name);
                    tr id=(format!("plugin-{}", plugin.name)) role="row" data-row tabindex=[is_file.then_some("-1")] {
                        td.pa role="cell" {
                            @if is_file { (foreign::name(&plugin.file)) } @else { a.go href=(path_of(&plugin.name)) { (foreign::name(&plugin.name)) } }
                            @match &plugin.error {
                                Some(error) => span.two.bad-text title=(foreign::isolated(error)) { (foreign::value(error)) },
                                None => span.two { (foreign::value(&plugin.description)) },
                            }
                        }
                        td.pb role="cell" {
                            (Shown::of_plugin(&plugin.state, texts).show())
                            @if let Some(version) = &plugin.version { span.two.mono { (short(version)) } }
                        }
                        td.pc.mono.dim role="cell" { @if plugin.on.is_empty() { "–" } @else { (foreign::value(&plugin.on.join(", "))) } }
                        td.ph role="cell" { @match hours { Some(hours) => (strip::show(&bars(hours))), None => span.dim { "–" } } }
                        td.ph.num role="cell" {
                            @let failed = hours.map_or(0, |hours| hours.iter().map(|hour| hour.runs_failed).sum::<u64>());
                            @if failed > 0 { span.w data-s="bad" { (formats.number(failed)) } } @else { span.dim { "0" } }
                        }
                        td.pd role="cell" { (waits(visit, plugin, beside)) }
                    }
                }
            }
        }
    }
}

fn bars(hours: &[Counts]) -> Vec<Bar> {
    hours.iter().map(|hour| Bar { good: hour.runs.saturating_sub(hour.runs_failed), bad: hour.runs_failed }).collect()
}

/// Writes what waits for a person: held events, parked runs, a candidate.
fn waits(visit: &Visit, plugin: &PluginView, beside: &Beside) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let candidate = beside.candidates.iter().find(|one| *one.plugin == *plugin.name).map(|one| one.version.to_string());
    let candidate = candidate.filter(|version| plugin.version.as_ref() != Some(version));
    let parked: u64 = beside
        .needs
        .all
        .iter()
        .map(|need| match need {
            Need::Parked { plugin: of, number, .. } if *of == plugin.name => *number,
            _ => 0,
        })
        .sum();
    let held = beside.held.get(&plugin.name).copied().unwrap_or(0);
    html! {
        @if held > 0 { (Shown::held(texts.plugins.waits).with(&html! { (formats.number(held)) })) }
        @else if parked > 0 { (Shown::failed(texts.states.run_parked).with(&html! { (formats.number(parked)) })) }
        @if let Some(version) = candidate { div { (Shown::shadow(texts.states.plugin_candidate).with(&html! { span.mono { (short(&version)) } })) } }
    }
}
