//! Sending one event by hand, to see what the engine does with it. Programs use `POST /v1/events`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{Method, Uri},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::{Value, json};

use crate::{
    api::Problem,
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        layout::{self, Head, Page, Place},
        parts::{self, Field, Look, icon, segment, shape},
        visit::Visit,
    },
};

/// The route of the API that accepts events.
pub const ROUTE: &str = "POST /v1/events";
/// The event that an empty form offers.
const TYPE: &str = "order.created";
const DATA: &str = r#"{"id": 7, "total": 1500, "country": "IT"}"#;

/// What is wrong with a form, and the field with the fault, if it is in a field.
struct Fault {
    field: Option<&'static str>,
    words: String,
}

/// Writes the form, with the example event.
pub fn form(visit: &Visit, look: Look) -> Markup {
    filled(visit, TYPE, DATA, None, look)
}

fn filled(visit: &Visit, event_type: &str, data: &str, fault: Option<&Fault>, look: Look) -> Markup {
    let texts = visit.texts();
    let t = &texts.events;
    let error = |name: &str| fault.filter(|fault| fault.field == Some(name)).map(|fault| fault.words.as_str());
    let area = Field { name: "data", label: t.send_data, hint: Some(html! { (t.send_data_hint) }), error: error("data") };
    html! {
        form #send.form method="post" action="/events/send" data-whole {
            (parts::hidden(visit))
            @if let Some(fault) = fault.filter(|fault| fault.field.is_none()) { p.error role="alert" { (shape("s-fail")) span { (foreign::code(&fault.words)) } } }
            (Field { name: "type", label: texts.common.type_, hint: None, error: error("type") }.text(event_type, TYPE))
            (area.around(&html! {
                textarea id=(area.id()) name="data" rows="4" dir="ltr" spellcheck="false" aria-invalid=[area.error.map(|_| "true")]
                    aria-describedby=[area.described()] { (data) }
            }))
            div.acts { button class=(look.class()) type="submit" { (icon("arrow")) (t.send_button) } }
        }
    }
}

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    visit.sight(ROUTE)?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    Ok(page(&ui, &visit, fields.get("type").unwrap_or(TYPE), DATA, None).await)
}

async fn page(ui: &Ui, visit: &Visit, event_type: &str, data: &str, fault: Option<&Fault>) -> Response {
    let texts = visit.texts();
    let t = &texts.events;
    let head = Head {
        above: Some(("/events", t.title, html! { (t.send_button) })),
        facts: Some(html! { (t.send_why) }),
        ..layout::title(t.send_title)
    };
    let body = html! { (head.show()) (filled(visit, event_type, data, fault, Look::Primary)) };
    layout::page(ui, visit, &Page::new(Place::Events, t.send_title, body)).await
}

/// Sends the event and opens its page. A fault is shown beside its field.
pub async fn send(State(ui): State<Arc<Ui>>, form: Form) -> Result<Response, Problem> {
    let visit = &form.visit;
    visit.sight(ROUTE)?;
    let (event_type, text) = (form.fields.get("type").unwrap_or_default(), form.fields.get("data").unwrap_or("null"));
    let data: Value = match serde_json::from_str(text) {
        Ok(data) => data,
        Err(error) => {
            let words = (visit.texts().events.send_not_json)(&error.to_string());
            return Ok(page(&ui, visit, event_type, text, Some(&Fault { field: Some("data"), words })).await);
        }
    };
    match ui.act(visit, Method::POST, "/v1/events", Some(&json!({ "type": event_type, "data": data }))).await {
        Ok(sent) => Ok(Redirect::to(&format!("/events/{}", segment(sent["event"].as_str().unwrap_or_default()))).into_response()),
        Err(problem) if problem.status().is_client_error() && problem.code() != "forbidden" => {
            let field = problem.pointer().filter(|pointer| pointer.starts_with("/type")).map(|_| "type");
            let fault = Fault { field, words: problem.detail().to_owned() };
            Ok(page(&ui, visit, event_type, text, Some(&fault)).await)
        }
        Err(problem) => Err(problem),
    }
}
