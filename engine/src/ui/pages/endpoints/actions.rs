//! Changes to one endpoint. Each goes through the API. A change that cannot be undone needs a confirmation on a separate page.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, Method},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::json;

use super::{
    one::{self, read},
    secret, title_of,
};
use crate::{
    api::Problem,
    clock,
    domain::signature::Scheme,
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        layout::{self, Head, Page, Place},
        parts::{self, Field, Look, segment, state::State as Shown, with_query},
        view::back,
        visit::Visit,
    },
    wire::{EndpointView, TestSend},
};

fn api_path(name: &str, verb: &str) -> String {
    format!("/v1/endpoints/{}/{verb}", segment(name))
}

pub fn page_of(name: &str) -> String {
    format!("/endpoints/{}", segment(name))
}

async fn set_state(ui: &Ui, name: &str, form: &Form, verb: &str, done: &str) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &api_path(name, verb), None).await?;
    Ok(said(back(form.fields.get("back")), name, done))
}

/// Redirects to a page, which then shows what was done, beside the endpoint's state.
pub fn said(to: &str, name: &str, done: &str) -> Response {
    Redirect::to(&with_query(to, "said", Some(&format!("{done}~{name}~{}", clock::wall())))).into_response()
}

pub async fn pause(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    set_state(&ui, &name, &form, "pause", "paused").await
}

pub async fn resume(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    set_state(&ui, &name, &form, "resume", "resumed").await
}

pub async fn disable(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    set_state(&ui, &name, &form, "disable", "disabled").await
}

/// Redirects to the endpoint's page, so that reloading the address of an action does nothing.
pub async fn to_page(Path(name): Path<String>) -> Redirect {
    Redirect::to(&page_of(&name))
}

/// Sends a test webhook and returns its result.
///
/// # Errors
/// If the role may not send, or the endpoint has no usable settings.
pub async fn send_test(ui: &Ui, visit: &Visit, name: &str) -> Result<TestSend, Problem> {
    let answer = ui.act(visit, Method::POST, &api_path(name, "test"), None).await?;
    serde_json::from_value(answer).map_err(|error| Problem::internal(error.to_string()))
}

/// Sends a test and shows the answer on the endpoint's page.
pub async fn test(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    let result = send_test(&ui, &form.visit, &name).await?;
    let page = page_of(&name);
    let came_from = back(form.fields.get("back"));
    let is_page = came_from.split('?').next() == Some(page.as_str());
    let path = if is_page { came_from.to_owned() } else { page };
    let mut visit = form.visit;
    visit.path = path;
    let query = visit.path.split_once('?').map_or("", |(_, query)| query).to_owned();
    one::page(&ui, &visit, &name, &Fields::parse(query.as_bytes()), Some(&result)).await
}

/// Writes a page that asks before a change: the effects, then the form.
async fn ask(ui: &Ui, visit: &Visit, endpoint: &EndpointView, title: &str, body: Markup) -> Response {
    let page = page_of(&endpoint.name);
    let head = Head {
        above: Some((&page, title_of(endpoint), html! { (title) })),
        title: html! { (title) ": " (foreign::value(title_of(endpoint))) },
        state: None,
        facts: None,
        actions: None,
    };
    layout::page(ui, visit, &Page::new(Place::Endpoints, title, html! { (head.show()) (body) })).await
}

/// The buttons below a question.
fn buttons(visit: &Visit, endpoint: &EndpointView, label: &str, look: Look) -> Markup {
    html! {
        div.acts {
            button class=(if look == Look::Danger { "btn danger" } else { "btn primary" }) type="submit" { (label) }
            (parts::link_button(&page_of(&endpoint.name), None, visit.texts().endpoint.keep, Look::Quiet))
        }
    }
}

pub async fn ask_rotate(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    visit.sight("POST /v1/endpoints/{endpoint}/rotate-secret")?;
    let (endpoint, _) = read(&ui, &visit, &name).await?;
    let t = &visit.texts().endpoint;
    let carries_several = Scheme::parse(&endpoint.signature).is_some_and(Scheme::carries_several);
    let body = html! {
        form.form method="post" action=(format!("{}/rotate", page_of(&endpoint.name))) data-whole {
            (parts::hidden(&visit))
            p { (if carries_several { t.rotate_says } else { t.rotate_says_one }) }
            @if carries_several {
                (Field { name: "grace", label: t.grace, hint: Some(html! { (t.grace_hint) }), error: None }
                    .choice(&[("24h", "24 h"), ("1h", "1 h"), ("7d", t.grace_week), ("0s", t.grace_none)], "24h"))
            }
            (buttons(&visit, &endpoint, t.rotate, Look::Primary))
        }
    };
    Ok(ask(&ui, &visit, &endpoint, t.rotate, body).await)
}

pub async fn rotate(
    State(ui): State<Arc<Ui>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    form: Form,
) -> Result<Response, Problem> {
    let body = form.fields.get("grace").map(|grace| json!({ "grace": grace }));
    let answer = ui.act(&form.visit, Method::POST, &api_path(&name, "rotate-secret"), body.as_ref()).await?;
    secret::show_once(&ui, &headers, &answer, None, secret::Why::Rotated)
}

pub async fn ask_delete(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    deletion(&ui, &visit, &name, None).await
}

/// Writes the page that asks for the endpoint's name before it is deleted. If the last try was refused, the page shows why.
async fn deletion(ui: &Ui, visit: &Visit, name: &str, refused: Option<Refused>) -> Result<Response, Problem> {
    visit.sight("DELETE /v1/endpoints/{endpoint}")?;
    let (endpoint, _) = read(ui, visit, name).await?;
    let t = &visit.texts().endpoint;
    let in_use = match &refused {
        Some(Refused::InUse(why)) => Some(why.clone()),
        _ => None,
    };
    let error = matches!(refused, Some(Refused::OtherName)).then_some(t.delete_other_name);
    let body = html! {
        form.form method="post" action=(format!("{}/delete", page_of(&endpoint.name))) data-whole {
            (parts::hidden(visit))
            p { (t.delete_says) }
            @if let Some(why) = &in_use {
                (parts::note(Shown::warning(""), &html! { p { b { (t.delete_in_use) } } p { (foreign::value(why)) } }, &html! {}))
                label.tick { input type="checkbox" name="force" value="on"; (t.delete_force) }
            }
            (Field { name: "name", label: t.delete_type, hint: Some(html! { code { (foreign::name(&endpoint.name)) } }), error }.text("", ""))
            (buttons(visit, &endpoint, t.delete, Look::Danger))
        }
    };
    Ok(ask(ui, visit, &endpoint, t.delete, body).await)
}

/// Why an endpoint was not deleted.
enum Refused {
    /// The typed name is not that of the endpoint.
    OtherName,
    InUse(String),
}

pub async fn delete(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    let (endpoint, _) = read(&ui, &form.visit, &name).await?;
    if form.fields.get("name") != Some(endpoint.name.as_str()) {
        return deletion(&ui, &form.visit, &name, Some(Refused::OtherName)).await;
    }
    let force = if form.fields.is_set("force") { "?force=true" } else { "" };
    match ui.act(&form.visit, Method::DELETE, &format!("/v1/endpoints/{}{force}", segment(&endpoint.name)), None).await {
        Ok(_) => Ok(Redirect::to("/endpoints").into_response()),
        Err(problem) if problem.code() == "conflict" => {
            deletion(&ui, &form.visit, &name, Some(Refused::InUse(problem.detail().to_owned()))).await
        }
        Err(problem) => Err(problem),
    }
}
