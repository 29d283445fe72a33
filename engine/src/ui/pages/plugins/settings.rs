//! The settings of a plugin: a field for each setting that it declares, and a pair of fields for the name and value of a further
//! setting.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Path, State},
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::{Tab, path_of, read, route_of, tab_page};
use crate::{
    api::{Problem, path::Path as ApiPath, plugins},
    clock,
    domain::setting::SettingType,
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        parts::{self, Field, columns, shape},
        visit::Visit,
    },
    wire::{PluginConfigView, PluginView, SettingView},
};

/// Prefix of the names of fields for settings. It is followed by the name that the plugin gave the setting.
const PREFIX: &str = "set-";

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    visit.sight("GET /v1/plugins/{plugin}/config")?;
    let plugin = read(&ui, &visit, name).await?;
    page(&ui, &visit, &plugin, None).await
}

/// Replaces the settings. A fault is shown beside its field, with everything that was typed.
pub async fn save(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    let Form { visit, fields } = form;
    let mut values: Map<String, Value> =
        fields.beginning_with(PREFIX).map(|(name, value)| (name.to_owned(), value.into())).collect();
    if let (Some(name), Some(value)) = (fields.get("new-name"), fields.get("new-value")) {
        values.insert(name.to_owned(), value.into());
    }
    match ui.act(&visit, Method::PUT, &format!("{}/config", route_of(&name)), Some(&Value::Object(values))).await {
        Ok(_) => Ok(Redirect::to(&format!("{}/settings", path_of(&name))).into_response()),
        Err(problem) if problem.pointer().is_some() => {
            let plugin = read(&ui, &visit, name).await?;
            page(&ui, &visit, &plugin, Some((&fields, &problem))).await
        }
        Err(problem) => Err(problem),
    }
}

async fn page(ui: &Ui, visit: &Visit, plugin: &PluginView, typed: Option<(&Fields, &Problem)>) -> Result<Response, Problem> {
    let config = plugins::config(State(Arc::clone(&ui.api)), ApiPath(plugin.name.clone())).await?.0;
    let body = html! {
        div #settings.with-side {
            form.form method="post" action=(format!("{}/settings", path_of(&plugin.name))) { (fields_of(visit, &config, typed)) }
            div { (revisions(visit, &config)) }
        }
    };
    Ok(tab_page(ui, visit, plugin, Tab::Settings, body).await)
}

fn fields_of(visit: &Visit, config: &PluginConfigView, typed: Option<(&Fields, &Problem)>) -> Markup {
    let t = &visit.texts().plugins;
    let may = visit.may("PUT /v1/plugins/{plugin}/config");
    let problem = |name: &str| {
        let given = typed.and_then(|(_, problem)| Some((unescaped(problem.pointer()?), problem.detail())));
        let stored = || config.problems.iter().map(|one| (unescaped(&one.pointer), one.detail.as_str()));
        given.into_iter().chain(stored()).find(|(pointed, _)| pointed == name).map(|(_, detail)| detail.to_owned())
    };
    // Declared settings come first, then those that were set under other names.
    let declared: BTreeMap<&str, &SettingView> = config.settings.iter().map(|one| (one.name.as_str(), one)).collect();
    let is_group = |name: &str| name.ends_with(".*");
    let mut names: Vec<&str> = config.settings.iter().map(|one| one.name.as_str()).filter(|name| !is_group(name)).collect();
    names.extend(config.config.keys().map(String::as_str).filter(|name| !declared.contains_key(name)));
    let is_open = config.settings.is_empty() || config.settings.iter().any(|one| is_group(&one.name));
    let elsewhere =
        typed.filter(|(_, problem)| problem.pointer().is_none_or(|pointer| !names.contains(&unescaped(pointer).as_str())));
    html! {
        (parts::hidden(visit))
        @if names.is_empty() && !is_open { p.muted { (t.no_settings) } }
        @for name in &names {
            @let field_name = format!("{PREFIX}{name}");
            @let stored = config.config.get(*name).map(String::as_str);
            @let value = typed.map_or(stored, |(fields, _)| fields.get(&field_name)).unwrap_or_default();
            @let about = declared.get(name).copied();
            @let error = problem(name);
            @let field = Field { name: &field_name, label: name, hint: about.map(|one| hint(visit, one)), error: error.as_deref() };
            @let default = about.and_then(|one| one.default.as_deref()).unwrap_or_default();
            @if about.is_some_and(|one| one.r#type == SettingType::Boolean.as_str()) && ["", "true", "false"].contains(&value) {
                @let unset = if default.is_empty() { t.unset.to_owned() } else { format!("{} {default}", t.default) };
                (field.choice(&[("", &unset), ("true", "true"), ("false", "false")], value))
            } @else { (field.text(value, default)) }
        }
        @if is_open && may {
            @for group in config.settings.iter().filter(|one| is_group(&one.name)) { p.hint { b.mono { (foreign::name(&group.name)) } " " (hint(visit, group)) } }
            div.row {
                div.grow { (Field { name: "new-name", label: t.new_name, hint: None, error: None }.text("", "")) }
                div.grow { (Field { name: "new-value", label: t.new_value, hint: None, error: None }.text("", "")) }
            }
        }
        @if let Some((_, problem)) = elsewhere { p.error role="alert" { (shape("s-fail")) span { (foreign::code(problem.detail())) } } }
        @if may { div.acts { button.btn.primary type="submit" { (t.save) } span.hint { (t.save_says) } } }
    }
}

/// Returns the name in a JSON pointer that consists of a single part.
fn unescaped(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace("~1", "/").replace("~0", "~")
}

fn hint(visit: &Visit, setting: &SettingView) -> Markup {
    let t = &visit.texts().plugins;
    html! {
        (foreign::value(&setting.description)) " · "
        span.mono { (setting.r#type) }
        @if setting.required { ", " (t.required) }
        @if let Some(default) = &setting.default { ", " (t.default) " " span.mono { (foreign::value(default)) } }
    }
}

fn revisions(visit: &Visit, config: &PluginConfigView) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    html! {
        h2 { (t.revisions) }
        @if config.revisions.is_empty() { p.muted { (t.no_revisions) } } @else {
            table.rows role="table" aria-label=(t.revisions) {
                (columns(&[(t.number, "w48"), (t.by_whom, ""), (texts.common.time, "w120 num")]))
                tbody role="rowgroup" {
                    @for one in config.revisions.iter().take(20) {
                        tr id=(format!("revision-{}", one.revision)) role="row" {
                            td.pa role="cell" { (formats.number(one.revision.unsigned_abs())) }
                            td.pb role="cell" { (foreign::value(&one.by)) }
                            td.pc.num.dim role="cell" { (formats.time(&one.at, &formats.in_list(&one.at, clock::wall(), false))) }
                        }
                    }
                }
            }
        }
    }
}
