//! The versions of a plugin: the table, and the actions that change which version serves. The page asks before an action that
//! affects every event.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::json;

use super::{one, path_of, route_of, short};
use crate::{
    api::Problem,
    clock,
    domain::plugin::VersionState,
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        parts::{self, Look, columns, segment, state::State as Shown, with_query},
        texts::Texts,
        visit::Visit,
    },
    wire::{PluginVersionView, PluginView},
};

/// Writes the stored versions, newest first.
pub fn table(visit: &Visit, plugin: &PluginView, versions: &[PluginVersionView]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    let path = path_of(&plugin.name);
    let (may, may_compare) = (visit.may("POST /v1/plugins/{plugin}/promote"), visit.may("POST /v1/plugins/{plugin}/compare"));
    let may_discard = visit.may("DELETE /v1/plugins/{plugin}/versions/{version}");
    let serves = versions.iter().any(|one| one.state == VersionState::Serving.as_str());
    let day = |at: &str| formats.time(at, &formats.in_list(at, clock::wall(), false));
    html! {
        table.rows.two role="table" aria-label=(t.versions) {
            (columns(&[(t.version, "w96"), (texts.common.state, ""), (texts.common.size, "w80 num"), ("", "w320 num")]))
            tbody role="rowgroup" {
                @for one in versions {
                    tr id=(format!("version-{}", one.version)) role="row" data-row tabindex="-1" {
                        td.pa role="cell" {
                            span.mono title=(one.version) { (short(&one.version)) }
                            @if !one.author_version.is_empty() { span.two { (foreign::value(&one.author_version)) } }
                        }
                        td.pb role="cell" {
                            (state_of(&one.state, texts).show())
                            span.two {
                                (day(&one.at))
                                @if let Some(ended) = &one.ended_at { " – " (day(ended)) }
                                ", " @if one.file.is_empty() { (t.by) " " (foreign::value(&one.by)) } @else { (t.of_file) " " (foreign::value(&one.file)) }
                            }
                        }
                        td.ph.num.dim role="cell" { (formats.bytes(one.bytes)) }
                        td.pe.num role="cell" {
                            @let is_candidate = one.state == VersionState::Candidate.as_str();
                            @if one.state != VersionState::Serving.as_str() {
                                div.acts.end {
                                    @if serves && may_compare { (parts::link_button(&with_query(&format!("{path}/compare"), "candidate", Some(&one.version)), None, t.compare, Look::Small)) }
                                    @if may { (parts::link_button(&with_query(&path, "ask", Some(&format!("promote~{}", one.version))), None, if is_candidate { t.promote } else { t.roll_back_to }, Look::Small)) }
                                    @if may_discard { (parts::link_button(&with_query(&path, "ask", Some(&format!("discard~{}", one.version))), None, t.discard, Look::Small)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn state_of(word: &str, texts: &Texts) -> Shown {
    match word {
        "serving" | "candidate" => Shown::of_plugin(word, texts),
        _ => Shown::calm(texts.plugins.kept),
    }
}

/// Writes the question before a change that affects every event. `fields` is the query of the page.
pub fn asked(visit: &Visit, plugin: &PluginView, fields: &Fields) -> Markup {
    let t = &visit.texts().plugins;
    let path = path_of(&plugin.name);
    let close = with_query(&path, "ask", None);
    let note = |state: Shown, words: Markup, verb: &str, label: &str, look: Look, hidden: &Markup| {
        let buttons = html! {
            (parts::action_away(visit, &format!("{path}/{verb}"), None, label, look, hidden))
            (parts::link_button(&close, None, visit.texts().common.cancel, Look::Quiet))
        };
        html! { div #asked.section { (parts::note(state, &words, &buttons)) } }
    };
    let none = html! {};
    match fields.get("ask").unwrap_or_default().split_once('~').unwrap_or((fields.get("ask").unwrap_or_default(), "")) {
        ("disable", _) if visit.may("POST /v1/plugins/{plugin}/disable") => {
            note(Shown::warning(""), html! { (t.disable_says) }, "disable", t.disable_confirm, Look::Plain, &none)
        }
        ("rollback", _) if visit.may("POST /v1/plugins/{plugin}/rollback") => {
            note(Shown::shadow(""), html! { (t.roll_back_says) }, "rollback", t.roll_back_confirm, Look::Plain, &none)
        }
        ("promote", version) if visit.may("POST /v1/plugins/{plugin}/promote") => {
            let words = html! { (t.promote_says) " " b.mono { (foreign::name(short(version))) } };
            let hidden = html! { input type="hidden" name="version" value=(version); };
            note(Shown::shadow(""), words, "promote", t.promote_confirm, Look::Plain, &hidden)
        }
        ("discard", version) if visit.may("DELETE /v1/plugins/{plugin}/versions/{version}") => {
            let words = html! { (t.discard_says) " " b.mono { (foreign::name(short(version))) } };
            let hidden = html! { input type="hidden" name="version" value=(version); };
            note(Shown::warning(""), words, "discard", t.discard_confirm, Look::Danger, &hidden)
        }
        ("remove", _) if visit.may("DELETE /v1/plugins/{plugin}") => {
            note(Shown::dead(""), html! { (t.remove_says) }, "remove", t.remove_confirm, Look::Danger, &none)
        }
        _ => none,
    }
}

/// Writes why a plugin in use was not removed, and offers to remove it all the same.
fn asked_again(visit: &Visit, plugin: &PluginView, why: &str) -> Markup {
    let t = &visit.texts().plugins;
    let path = path_of(&plugin.name);
    let force = html! { input type="hidden" name="force" value="on"; };
    let buttons = html! {
        (parts::action_away(visit, &format!("{path}/remove"), None, t.remove_force, Look::Danger, &force))
        (parts::link_button(&path, None, visit.texts().common.cancel, Look::Quiet))
    };
    html! { div #asked.section { (parts::note(Shown::dead(""), &html! { (foreign::value(why)) }, &buttons)) } }
}

fn to_page(name: &str) -> Response {
    Redirect::to(&path_of(name)).into_response()
}

/// Makes a version serve, or shows on the plugin's page why it does not.
pub async fn promote(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    let body = json!({ "version": form.fields.get("version") });
    match ui.act(&form.visit, Method::POST, &format!("{}/promote", route_of(&name)), Some(&body)).await {
        Ok(_) => Ok(to_page(&name)),
        Err(problem) => not_done(&ui, &form.visit, name, problem).await,
    }
}

pub async fn roll_back(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    match ui.act(&form.visit, Method::POST, &format!("{}/rollback", route_of(&name)), None).await {
        Ok(_) => Ok(to_page(&name)),
        Err(problem) => not_done(&ui, &form.visit, name, problem).await,
    }
}

/// Deletes the bytes of a version that does not serve, or shows on the plugin's page why that is refused.
pub async fn discard(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    let version = form.fields.get("version").unwrap_or_default();
    match ui.act(&form.visit, Method::DELETE, &format!("{}/versions/{}", route_of(&name), segment(version)), None).await {
        Ok(_) => Ok(Redirect::to(&with_query(&path_of(&name), "discarded", Some(short(version)))).into_response()),
        Err(problem) => not_done(&ui, &form.visit, name, problem).await,
    }
}

/// Shows why a version was not changed, beside the versions.
async fn not_done(ui: &Arc<Ui>, visit: &Visit, name: String, problem: Problem) -> Result<Response, Problem> {
    if problem.is_ours() || problem.code() == "not_found" {
        return Err(problem);
    }
    let why = html! { (visit.texts().plugins.not_changed) " " span.words.lines { (foreign::code(problem.detail())) } };
    let note = html! { div #asked.section { (parts::note(Shown::failed(""), &why, &html! {})) } };
    one::page(ui, visit, name, |_| note).await
}

pub async fn disable(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("{}/disable", route_of(&name)), None).await?;
    Ok(to_page(&name))
}

pub async fn enable(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("{}/enable", route_of(&name)), None).await?;
    Ok(to_page(&name))
}

/// Removes a plugin. If it is in use, it is removed only with force: the page asks again and shows what uses it.
pub async fn remove(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    let force = if form.fields.is_set("force") { "?force=true" } else { "" };
    match ui.act(&form.visit, Method::DELETE, &format!("{}{force}", route_of(&name)), None).await {
        Ok(_) => Ok(Redirect::to("/plugins").into_response()),
        Err(problem) if problem.code() == "conflict" && force.is_empty() => {
            let visit = &form.visit;
            one::page(&ui, visit, name, |plugin| asked_again(visit, plugin, problem.detail())).await
        }
        Err(problem) => Err(problem),
    }
}
