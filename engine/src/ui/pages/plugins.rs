//! Plugins: the list, and the page of one plugin with its versions and last runs.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{Method, Uri},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::json;

use crate::{
    api::{
        Problem,
        page::Query as ApiQuery,
        path::Path as ApiPath,
        plugins,
        runs::{self, Filter},
    },
    clock,
    domain::plugin::VersionState,
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        layout::{self, Head, Page, Place},
        parts::{self, Look, columns, segment, state::State as Shown, with_query},
        view::back,
        visit::Visit,
    },
    wire::{PageView, PluginVersionView, PluginView, RunView},
};

/// Maximum number of runs on the page of a plugin.
const RUNS: usize = 20;

pub async fn list(State(ui): State<Arc<Ui>>, visit: Visit) -> Result<Response, Problem> {
    visit.sight("GET /v1/plugins")?;
    let plugins = plugins::list(State(Arc::clone(&ui.api))).await?.0.items;
    let texts = visit.texts();
    let body = html! {
        (layout::title(texts.frame.plugins).show())
        div #plugins data-live="plugins" {
            @if plugins.is_empty() {
                (parts::empty("plugins", texts.plugins.none, &html! { p { (texts.plugins.none_why) } (parts::command("innesco plugin new my-first", &visit)) }, &html! {}))
            } @else { (table(&visit, &plugins)) }
        }
    };
    Ok(layout::page(&ui, &visit, &Page::new(Place::Plugins, texts.frame.plugins, body)).await)
}

fn table(visit: &Visit, plugins: &[PluginView]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    html! {
        table.rows.two role="table" aria-label=(texts.frame.plugins) {
            (columns(&[(t.name, ""), (texts.common.state, "w200"), (t.on, "w240"), (texts.common.size, "w96 num")]))
            tbody role="rowgroup" {
                @for plugin in plugins {
                    tr role="row" data-row {
                        td.pa role="cell" {
                            @if plugin.version.is_some() { a.go href=(format!("/plugins/{}", segment(&plugin.name))) { b { (foreign::name(&plugin.name)) } } }
                            @else { b { (foreign::name(&plugin.name)) } }
                            @match &plugin.error {
                                Some(error) => span.two.bad-text title=(foreign::isolated(error)) { (foreign::value(error)) },
                                None => span.two { (foreign::value(&plugin.description)) },
                            }
                        }
                        td.pb role="cell" {
                            (Shown::of_plugin(&plugin.state, texts).show())
                            @if let Some(version) = &plugin.version { span.two.mono title=(version) { (&version[..version.len().min(6)]) } }
                        }
                        td.ph.mono role="cell" { (foreign::value(&plugin.on.join(", "))) }
                        td.pd.num.dim role="cell" { (formats.bytes(plugin.bytes)) }
                    }
                }
            }
        }
    }
}

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>, uri: Uri) -> Result<Response, Problem> {
    visit.sight("GET /v1/plugins/{plugin}")?;
    let plugin = plugins::show(State(Arc::clone(&ui.api)), ApiPath(name.clone())).await?.0;
    let versions = plugins::versions::list(State(Arc::clone(&ui.api)), ApiPath(name.clone())).await?.0.items;
    let filter = Filter { plugin: Some(name.clone()), limit: Some(RUNS.to_string()), ..Filter::default() };
    let runs = runs::list(State(Arc::clone(&ui.api)), ApiQuery(filter)).await?.0;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let texts = visit.texts();
    let body = html! {
        div #plugin-head data-live="plugins" { (head(&visit, &plugin, &versions)) }
        @if let Some(ask) = fields.get("ask") { (asked(&visit, &plugin, ask)) }
        section #versions.section data-live="plugins" { h2 { (texts.plugins.versions) } (versions_table(&visit, &plugin, &versions)) }
        section #runs.section data-live="plugins" data-hold { h2 { (texts.plugins.runs) } (runs_table(&visit, &runs)) }
    };
    Ok(layout::page(&ui, &visit, &Page::new(Place::Plugins, &plugin.name, body)).await)
}

fn action_path(plugin: &PluginView, verb: &str) -> String {
    format!("/plugins/{}/{verb}", segment(&plugin.name))
}

fn head(visit: &Visit, plugin: &PluginView, versions: &[PluginVersionView]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    let may = visit.may("POST /v1/plugins/{plugin}/promote");
    let has_earlier = versions.iter().any(|version| version.state == VersionState::Kept.as_str());
    let actions = html! {
        @if may {
            @if plugin.state == "disabled" || plugin.state == "held" {
                (parts::action(visit, &action_path(plugin, "enable"), Some("play"), t.enable, Look::Plain))
            } @else if plugin.state == "serving" {
                (parts::link_button(&with_query(&visit.path, "ask", Some("disable")), Some("pause"), t.disable, Look::Plain))
            }
            @if has_earlier { (parts::link_button(&with_query(&visit.path, "ask", Some("rollback")), Some("replay"), t.roll_back, Look::Plain)) }
        }
    };
    let facts = html! {
        @if !plugin.description.is_empty() { span.fact { (foreign::value(&plugin.description)) } }
        span.fact { (t.on) " " b.mono { (foreign::value(&plugin.on.join(", "))) } }
        @if let Some(version) = &plugin.version { span.fact { "SHA-256 " (foreign::cut(version)) (parts::copy(version, visit)) } }
        span.fact { (formats.bytes(plugin.bytes)) }
    };
    html! {
        (Head {
            above: Some(("/plugins", texts.frame.plugins, html! { span.mono { (foreign::name(&plugin.name)) } })),
            title: foreign::name(&plugin.name),
            state: Some(Shown::of_plugin(&plugin.state, texts).chip(&html! {})),
            facts: Some(facts),
            actions: Some(actions),
        }.show())
        @if let Some(error) = &plugin.error { (parts::note(Shown::failed(""), &html! { (t.not_loaded) " " span.words { (foreign::code(error)) } }, &html! {})) }
        @if plugin.state == "held" { (parts::note(Shown::held(""), &html! { (t.held_why) }, &html! {})) }
    }
}

/// Asks before a change that affects every event.
fn asked(visit: &Visit, plugin: &PluginView, ask: &str) -> Markup {
    let t = &visit.texts().plugins;
    let (words, label, path, version) = match ask.split_once('~') {
        None if ask == "disable" => (t.disable_says, t.disable_confirm, "disable", None),
        None if ask == "rollback" => (t.roll_back_says, t.roll_back_confirm, "rollback", None),
        Some(("promote", version)) => (t.promote_says, t.promote_confirm, "promote", Some(version)),
        _ => return html! {},
    };
    if !visit.may("POST /v1/plugins/{plugin}/promote") {
        return html! {};
    }
    let fields = html! { @if let Some(version) = version { input type="hidden" name="version" value=(version); } };
    let action = html! {
        (parts::action_with(visit, &action_path(plugin, path), None, label, Look::Plain, &fields))
        (parts::link_button(&with_query(&visit.path, "ask", None), None, visit.texts().frame.close, Look::Quiet))
    };
    parts::note(
        Shown::shadow(""),
        &html! { (words) @if let Some(version) = version { " " b.mono { (foreign::name(version)) } } },
        &action,
    )
}

fn version_state(visit: &Visit, word: &str) -> Shown {
    let texts = visit.texts();
    match word {
        "serving" => Shown::ok(texts.states.plugin_serving),
        "candidate" => Shown::shadow(texts.states.plugin_candidate),
        _ => Shown::calm(texts.plugins.kept),
    }
}

fn versions_table(visit: &Visit, plugin: &PluginView, versions: &[PluginVersionView]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    let may = visit.may("POST /v1/plugins/{plugin}/promote");
    html! {
        table.rows role="table" aria-label=(t.versions) {
            (columns(&[(t.version, "w112"), (texts.common.state, "w144"), (t.since, "w144"), (t.by, ""), (texts.common.size, "w96 num"), ("", "w168")]))
            tbody role="rowgroup" {
                @for version in versions {
                    @let short = &version.version[..version.version.len().min(12)];
                    tr role="row" data-row {
                        td.pa.mono role="cell" title=(version.version) { (&short[..short.len().min(6)]) }
                        td.pb role="cell" { (version_state(visit, &version.state).show()) }
                        td.pc.dim role="cell" { (formats.time(&version.at, &formats.in_list(&version.at, clock::wall(), false))) }
                        td.pd role="cell" { (foreign::value(&version.by)) @if !version.author_version.is_empty() { " " span.dim { (foreign::value(&version.author_version)) } } }
                        td.ph.num.dim role="cell" { (formats.bytes(version.bytes)) }
                        td.pe.num role="cell" {
                            @if may && version.state != "serving" {
                                (parts::link_button(&with_query(&action_address(plugin), "ask", Some(&format!("promote~{short}"))), None, t.promote, Look::Small))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn action_address(plugin: &PluginView) -> String {
    format!("/plugins/{}", segment(&plugin.name))
}

fn runs_table(visit: &Visit, runs: &PageView<RunView>) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    if runs.items.is_empty() {
        return html! { p.calm-line { (t.no_runs) } };
    }
    html! {
        table.rows role="table" aria-label=(t.runs) {
            (columns(&[(texts.common.type_, ""), (texts.common.outcome, "w168"), (t.version, "w96"), (texts.common.took, "w96 num"), (t.memory, "w96 num"), (t.message, "")]))
            tbody role="rowgroup" {
                @for run in &runs.items {
                    tr #(run.id) role="row" data-row {
                        td.pa role="cell" { a.go href=(format!("/events/{}#{}", run.event, run.id)) { (foreign::name(&run.r#type)) } }
                        td.pb role="cell" { (Shown::of_run(run, texts).show()) }
                        td.ph.mono.dim role="cell" { @if let Some(version) = &run.version { (&version[..version.len().min(6)]) } }
                        td.pd.num role="cell" { (formats.millis(run.duration_ms)) }
                        td.ph.num.dim role="cell" { (formats.bytes(run.memory_bytes)) }
                        td.pc role="cell" { @if let Some(message) = &run.message { (foreign::value(message.lines().next().unwrap_or_default())) } }
                    }
                }
            }
        }
    }
}

/// Redirects to the page of the plugin.
fn done(form: &Form) -> Response {
    Redirect::to(&with_query(back(form.fields.get("back")), "ask", None)).into_response()
}

pub async fn promote(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    let body = json!({ "version": form.fields.get("version") });
    ui.act(&form.visit, Method::POST, &format!("/v1/plugins/{}/promote", segment(&name)), Some(&body)).await?;
    Ok(done(&form))
}

pub async fn roll_back(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("/v1/plugins/{}/rollback", segment(&name)), None).await?;
    Ok(done(&form))
}

pub async fn disable(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("/v1/plugins/{}/disable", segment(&name)), None).await?;
    Ok(done(&form))
}

pub async fn enable(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("/v1/plugins/{}/enable", segment(&name)), None).await?;
    Ok(done(&form))
}
