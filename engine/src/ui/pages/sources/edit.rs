//! Changing a source: the rules that an operator sets. A rule that is not changed keeps following the preset.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::{Method, StatusCode},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::html;
use serde_json::{Map, Value, json};

use crate::{
    api::{Problem, path::Path as ApiPath, sources},
    clock,
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        layout::{self, Head, Page, Place},
        parts::{self, Field, Look, segment, shape, with_query},
        texts::Texts,
        visit::Visit,
    },
    wire::SourceView,
};

/// Fields of the form, by their names in the API, and whether they are lists.
const FIELDS: [(&str, bool); 8] = [
    ("title", false),
    ("type_from", false),
    ("type_prefix", false),
    ("dedupe", false),
    ("allow", true),
    ("methods", true),
    ("content_types", true),
    ("rate", false),
];

/// Returns the text of a field from the present settings of the source.
fn current(source: &SourceView, name: &str) -> String {
    match name {
        "title" => source.title.clone().unwrap_or_default(),
        "type_from" => source.type_from.clone().unwrap_or_default(),
        "type_prefix" => source.type_prefix.clone(),
        "dedupe" => source.dedupe.clone(),
        "allow" => source.allow.join(" "),
        "methods" => source.methods.join(" "),
        "content_types" => source.content_types.join(" "),
        _ => source.rate.clone().unwrap_or_default(),
    }
}

/// Returns the changed members. An emptied field gets the default of the preset.
fn patch(source: &SourceView, fields: &Fields) -> Map<String, Value> {
    let mut patch = Map::new();
    for (name, is_list) in FIELDS {
        let typed = fields.get(name).unwrap_or_default();
        if typed == current(source, name) {
            continue;
        }
        let value = match (typed, is_list) {
            ("", _) => Value::Null,
            (text, true) => json!(text.split([' ', ',']).filter(|word| !word.is_empty()).collect::<Vec<_>>()),
            (text, false) => json!(text),
        };
        patch.insert(name.to_owned(), value);
    }
    patch
}

async fn read(ui: &Ui, visit: &Visit, name: &str) -> Result<SourceView, Problem> {
    let caller = visit.caller("GET /v1/sources/{source}")?;
    Ok(sources::show(State(Arc::clone(&ui.api)), Extension(caller), ApiPath(name.to_owned())).await?.0)
}

pub async fn edit(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    visit.sight("PATCH /v1/sources/{source}")?;
    let source = read(&ui, &visit, &name).await?;
    Ok(page(&ui, &visit, &source, |name| current(&source, name), None).await)
}

pub async fn change(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    let visit = &form.visit;
    let source = read(&ui, visit, &name).await?;
    let patch = patch(&source, &form.fields);
    let path = format!("/sources/{}", segment(&source.name));
    if patch.is_empty() {
        return Ok(Redirect::to(&path).into_response());
    }
    match ui.act(visit, Method::PATCH, &format!("/v1{path}"), Some(&Value::Object(patch))).await {
        Ok(_) => Ok(Redirect::to(&with_query(&path, "said", Some(&format!("saved~{}", clock::wall())))).into_response()),
        Err(problem) if problem.status().is_client_error() && problem.status() != StatusCode::FORBIDDEN => {
            let typed = |name: &str| form.fields.get(name).unwrap_or_default().to_owned();
            Ok(page(&ui, visit, &source, typed, Some(&problem)).await)
        }
        Err(problem) => Err(problem),
    }
}

/// Returns label and hint of a field.
fn words(name: &str, texts: &Texts) -> (&'static str, &'static str) {
    let t = &texts.sources;
    match name {
        "title" => (t.label, t.label_hint),
        "type_from" => (t.type_from, t.type_from_hint),
        "type_prefix" => (t.prefix, t.prefix_hint),
        "dedupe" => (t.known_by, t.known_by_hint),
        "allow" => (t.may_come_from, t.allow_hint),
        "methods" => (t.methods, t.methods_hint),
        "content_types" => (t.content_types, t.content_types_hint),
        _ => (t.at_most, t.rate_hint),
    }
}

async fn page(
    ui: &Ui,
    visit: &Visit,
    source: &SourceView,
    value: impl Fn(&str) -> String,
    problem: Option<&Problem>,
) -> Response {
    let texts = visit.texts();
    let path = format!("/sources/{}", segment(&source.name));
    // A fault concerns a field, or an entry of the list in a field.
    let place = problem.and_then(|problem| problem.pointer()?.trim_start_matches('/').split('/').next());
    let place = place.or_else(|| problem.and_then(|problem| problem.detail().split([':', '[', ' ']).next()));
    let is_known = FIELDS.iter().any(|(name, _)| place == Some(*name));
    let head = Head {
        above: Some((path.as_str(), source.name.as_str(), html! { (texts.endpoint.edit) })),
        title: html! { (texts.endpoint.edit) " " (foreign::name(&source.name)) },
        state: None,
        facts: Some(html! { (texts.sources.edit_why) }),
        actions: None,
    };
    let body = html! {
        (head.show())
        form.form method="post" action=(format!("{path}/edit")) data-whole {
            (parts::hidden(visit))
            @if let (Some(problem), false) = (problem, is_known) { p.error role="alert" { (shape("s-fail")) span { (foreign::code(problem.detail())) } } }
            @for (name, _) in FIELDS {
                @let (label, hint) = words(name, texts);
                @let error = problem.filter(|_| place == Some(name)).map(Problem::detail);
                (Field { name, label, hint: Some(html! { (hint) }), error }.text(&value(name), ""))
            }
            div.acts {
                button.btn.primary type="submit" { (texts.webhook.save) }
                (parts::link_button(&path, None, texts.common.cancel, Look::Quiet))
            }
        }
    };
    layout::page(ui, visit, &Page::new(Place::Sources, texts.endpoint.edit, body)).await
}
