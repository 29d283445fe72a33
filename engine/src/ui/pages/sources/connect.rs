//! Connecting a source: the form for its sender, name and secret, then the page that shows the secret once.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, Method, Uri},
    response::Response,
};
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::{one, sender, to_copy};
use crate::{
    api::Problem,
    domain::source::Preset,
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        layout::{self, Head, Page, Place},
        parts::{self, Field, Look, segment, shape, with_query},
        visit::Visit,
    },
    wire::SourceView,
};

/// Fields of the form, by their names in the API.
const FIELDS: [&str; 5] = ["name", "title", "secret", "type_prefix", "header"];

pub async fn form(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    visit.sight("POST /v1/sources")?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    Ok(page(&ui, &visit, &fields, None).await)
}

/// Creates a source, then shows its secret. If the input has a fault, shows the form again with the fault beside its field. All
/// input is kept, except the secret.
pub async fn create(State(ui): State<Arc<Ui>>, headers: HeaderMap, form: Form) -> Result<Response, Problem> {
    let Form { visit, fields } = form;
    let mut input = Map::new();
    input.insert("preset".to_owned(), chosen(&fields).as_str().into());
    for name in FIELDS {
        if let Some(text) = fields.get(name) {
            input.insert(name.to_owned(), text.into());
        }
    }
    match ui.act(&visit, Method::POST, "/v1/sources", Some(&Value::Object(input))).await {
        Ok(made) => once(&ui, &visit, &made, &headers).await,
        Err(problem) if problem.pointer().is_some() || problem.code() == "name_taken" => {
            Ok(page(&ui, &visit, &fields, Some(&problem)).await)
        }
        Err(problem) => Err(problem),
    }
}

/// Returns the chosen sender. The default is a signature that the operator describes.
fn chosen(fields: &Fields) -> Preset {
    fields.get("preset").and_then(Preset::parse).unwrap_or(Preset::Github)
}

async fn page(ui: &Ui, visit: &Visit, fields: &Fields, problem: Option<&Problem>) -> Response {
    let texts = visit.texts();
    let t = &texts.sources;
    let preset = chosen(fields);
    let head = Head {
        above: Some(("/sources", t.title, html! { (t.connect_short) })),
        facts: Some(html! { (t.connect_why) }),
        ..layout::title(t.connect)
    };
    let body = html! {
        (head.show())
        ul.tiles aria-label=(t.sender) {
            @for one in Preset::ALL {
                li { a.tile href=(with_query("/sources/new", "preset", Some(one.as_str()))) aria-current=[(one == preset).then_some("true")] { (sender(one.as_str(), texts)) } }
            }
        }
        div.with-side {
            form.form method="post" action="/sources/new" { (fields_of(visit, fields, preset, problem)) }
            div.section { h2 { (t.what_verified) } (verified(visit, preset)) }
        }
    };
    layout::page(ui, visit, &Page::new(Place::Sources, t.connect, body)).await
}

fn fields_of(visit: &Visit, fields: &Fields, preset: Preset, problem: Option<&Problem>) -> Markup {
    let texts = visit.texts();
    let t = &texts.sources;
    let place = problem.map(|problem| problem.pointer().unwrap_or("/name").trim_start_matches('/'));
    let error = |name: &str| problem.filter(|_| place == Some(name)).map(Problem::detail);
    let elsewhere = problem.filter(|_| place.is_none_or(|place| !FIELDS.contains(&place)));
    let field = |name, label, hint: &str| Field { name, label, hint: Some(html! { (hint) }), error: error(name) };
    let value = |name: &str| fields.get(name).unwrap_or_default();
    let (_, prefix) = preset.event_type();
    let secret_hint = if preset.secret_is_theirs() { t.secret_theirs } else { t.secret_hint };
    html! {
        (parts::hidden(visit))
        input type="hidden" name="preset" value=(preset.as_str());
        @if let Some(problem) = elsewhere { p.error role="alert" { (shape("s-fail")) span { (foreign::code(problem.detail())) } } }
        (field("name", t.name, t.name_hint).text(value("name"), preset.as_str()))
        (field("title", t.label, t.label_hint).text(value("title"), ""))
        @if preset.proofs().have_secret() {
            // A typed secret is not sent back to the browser.
            (field("secret", t.secret, secret_hint).text("", ""))
        }
        @if matches!(preset, Preset::Hmac | Preset::HeaderToken) {
            (field("header", t.header, t.header_hint).text(value("header"), preset.proofs().main().headers().first().copied().unwrap_or_default()))
        }
        (field("type_prefix", t.prefix, t.prefix_hint).text(value("type_prefix"), prefix.unwrap_or_default()))
        div.acts {
            button.btn.primary type="submit" { (t.create) }
            (parts::link_button("/sources", None, t.cancel, Look::Quiet))
        }
    }
}

/// Writes what the preset verifies, before the source exists.
fn verified(visit: &Visit, preset: Preset) -> Markup {
    let t = &visit.texts().sources;
    let mono = |text: &str| html! { span.mono { (text) } };
    let places = preset.proofs().places();
    let rows = [
        (
            t.verified_by,
            if places.is_empty() {
                html! { (t.nothing_proves) }
            } else {
                mono(&places.join(", "))
            },
        ),
        (t.type_from, preset.event_type().0.map_or_else(|| html! { (t.no_prefix) }, |pick| mono(&pick.to_string()))),
        (t.known_by, mono(&preset.dedupe().to_string())),
        (t.methods, mono(&preset.methods().join(", "))),
    ];
    html! { dl.policy { @for (name, value) in rows { div { dt { (name) } dd { (value) } } } } }
}

/// Shows the secret of a source, once. The page has no live region, so no update can replace the secret.
pub async fn once(ui: &Ui, visit: &Visit, made: &Value, headers: &HeaderMap) -> Result<Response, Problem> {
    let source: SourceView = serde_json::from_value(made.clone()).map_err(|error| Problem::internal(error.to_string()))?;
    let t = &visit.texts().sources;
    let path = format!("/sources/{}", segment(&source.name));
    let head = Head {
        above: Some(("/sources", t.title, html! { span.mono { (foreign::name(&source.name)) } })),
        ..layout::title(if source.secret.is_some() { t.once_title } else { t.address })
    };
    let body = html! {
        (head.show())
        @if let Some(secret) = &source.secret {
            div #once-secret.section { h2 { (t.secret) } (to_copy(visit, "secret", secret)) p.hint { (t.once_why) } }
        }
        div #once-address.section { h2 { (t.address) } (one::address(visit, &source, headers)) p.hint { (t.once_next) } }
        div.acts { (parts::link_button(&path, Some("arrow"), t.to_source, Look::Plain)) }
    };
    Ok(layout::page(ui, visit, &Page::new(Place::Sources, t.once_title, body)).await)
}
