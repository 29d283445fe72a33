//! The keys: who may do what, a form for a new one, and the master key.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{Method, Uri},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::{Value, json};

use super::page;
use crate::{
    api::{Problem, keys},
    clock,
    domain::{key::Role, time::Timestamp},
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        parts::{self, Field, Look, columns, segment, state::State as Shown, with_query},
        visit::Visit,
    },
    wire::{KeyView, PageView},
};

/// A key that expires within this time is shown as a warning.
const SOON: std::time::Duration = std::time::Duration::from_secs(14 * 86_400);

/// Shows the keys, and a form for a new one.
pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    keys_page(&ui, &visit, fields.get("ask"), &html! {}, None).await
}

/// The fields of a refused form, and the reason.
struct Refused<'a> {
    fields: &'a Fields,
    problem: Problem,
}

impl Refused<'_> {
    fn error(&self, pointer: &str) -> Option<&str> {
        (self.problem.pointer() == Some(pointer)).then(|| self.problem.detail())
    }
}

async fn keys_page(
    ui: &Arc<Ui>,
    visit: &Visit,
    ask: Option<&str>,
    note: &Markup,
    refused: Option<Refused<'_>>,
) -> Result<Response, Problem> {
    visit.sight("GET /v1/keys")?;
    let keys = keys::list(State(Arc::clone(&ui.api))).await?.0;
    let body = html! {
        (note)
        div.with-side {
            div #keys-list { (keys_table(ui, visit, &keys, ask)) }
            (new_key(visit, refused.as_ref()))
        }
        @if visit.may("POST /v1/keys/rekey") { div #master-key.section { (master_key(visit, ask)) } }
    };
    Ok(page(ui, visit, "/settings/keys", body).await)
}

fn keys_table(ui: &Ui, visit: &Visit, keys: &PageView<KeyView>, ask: Option<&str>) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.settings;
    let own = visit.key.id.text(ui.api.store.tag());
    html! {
        table.rows role="table" aria-label=(t.keys) {
            (columns(&[(t.name, ""), (t.role, "w80"), (texts.common.state, "w144"), (t.ends, "w96"), (t.last_used, "w112"), ("", "w96")]))
            tbody role="rowgroup" {
                @for key in &keys.items {
                    tr #(key.id) role="row" data-row {
                        td.pa role="cell" { (foreign::value(&key.name)) @if let Some(ending) = &key.ending { " " span.dim.mono { "…" (ending) } } }
                        td.ph role="cell" { (key.role) }
                        td.pb role="cell" { (key_state(visit, key).show()) }
                        td.pc.dim role="cell" {
                            @match &key.expires_at { Some(at) => (formats.time(at, &formats.in_list(at, clock::wall(), false))), None => (t.never) }
                        }
                        td.pd.dim role="cell" {
                            @if key.id == own { (t.this_session) }
                            @else { @match &key.last_used_at { Some(at) => (formats.time(at, &formats.in_list(at, clock::wall(), false))), None => (t.never_used) } }
                        }
                        td.pe.num role="cell" {
                            @if key.id == own { span.dim title=(t.own_key) { (t.yours) } }
                            @else if ask == Some(key.id.as_str()) {
                                (parts::action(visit, &format!("/settings/keys/{}/revoke", segment(&key.id)), None, t.revoke_confirm, Look::Small))
                            } @else {
                                (parts::link_button(&with_query("/settings/keys", "ask", Some(&key.id)), None, t.revoke, Look::Small))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn key_state(visit: &Visit, key: &KeyView) -> Shown {
    let t = &visit.texts().settings;
    let ends = key.expires_at.as_deref().and_then(Timestamp::parse_rfc3339);
    if key.expired {
        Shown::dead(t.expired)
    } else if ends.is_some_and(|ends| ends.since(clock::wall()) < SOON) {
        Shown::warning(t.expires_soon)
    } else {
        Shown::ok(t.good)
    }
}

fn new_key(visit: &Visit, refused: Option<&Refused<'_>>) -> Markup {
    let t = &visit.texts().settings;
    let given = |name: &str| refused.and_then(|refused| refused.fields.get(name)).unwrap_or_default();
    let error = |pointer: &str| refused.and_then(|refused| refused.error(pointer));
    let chosen = if given("role").is_empty() { Role::Publish.as_str() } else { given("role") };
    let roles = [
        (Role::Read, t.may_read),
        (Role::Publish, t.may_publish),
        (Role::Subscribe, t.may_subscribe),
        (Role::Metrics, t.may_metrics),
        (Role::Operate, t.may_operate),
        (Role::Admin, t.may_admin),
    ];
    let other =
        refused.filter(|refused| !["/name", "/role", "/expires"].contains(&refused.problem.pointer().unwrap_or_default()));
    let times = [("", t.ever), ("30d", t.month), ("90d", t.quarter), ("365d", t.year)];
    html! {
        form.form method="post" action="/settings/keys" {
            (parts::hidden(visit))
            h2 { (t.new_key) }
            @if let Some(other) = other { (parts::note(Shown::failed(""), &html! { (foreign::code(other.problem.detail())) }, &html! {})) }
            (Field { name: "name", label: t.name, hint: None, error: error("/name") }.text(given("name"), t.name_hint))
            fieldset.field {
                legend.label { (t.it_may) }
                @for (role, what) in roles {
                    label.tick { input type="radio" name="role" value=(role.as_str()) checked[role.as_str() == chosen]; span { b { (role.as_str()) } " " span.muted { (what) } } }
                }
            }
            (Field { name: "expires", label: t.good_for, hint: None, error: error("/expires") }.choice(&times, given("expires")))
            div.row { button.btn.primary type="submit" { (t.create_key) } }
            p.hint { (t.shown_once) }
        }
    }
}

/// Creates a key and shows it once.
pub async fn create(State(ui): State<Arc<Ui>>, form: Form) -> Result<Response, Problem> {
    let Form { visit, fields } = form;
    let mut body = json!({ "name": fields.get("name").unwrap_or_default(), "role": fields.get("role").unwrap_or_default() });
    if let Some(expires) = fields.get("expires") {
        body["expires"] = Value::from(expires);
    }
    match ui.act(&visit, Method::POST, "/v1/keys", Some(&body)).await {
        Ok(made) => {
            let t = &visit.texts().settings;
            let key = made["key"].as_str().unwrap_or_default();
            let words = html! { b { (t.copy_now) } div.cmd { code { (key) } (parts::copy(key, &visit)) } };
            keys_page(&ui, &visit, None, &parts::note(Shown::ok(""), &words, &html! {}), None).await
        }
        Err(problem) => keys_page(&ui, &visit, None, &html! {}, Some(Refused { fields: &fields, problem })).await,
    }
}

pub async fn revoke(State(ui): State<Arc<Ui>>, Path(id): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::DELETE, &format!("/v1/keys/{}", segment(&id)), None).await?;
    Ok(Redirect::to("/settings/keys").into_response())
}

/// Writes the button that replaces the master key. The first press of a button only asks for confirmation.
fn master_key(visit: &Visit, ask: Option<&str>) -> Markup {
    let t = &visit.texts().settings;
    html! {
        h2 { (t.master_key) }
        p.hint { (t.master_key_says) }
        @if ask == Some("rekey") { (parts::action(visit, "/settings/keys/rekey", Some("key"), t.rekey_confirm, Look::Plain)) }
        @else { (parts::link_button(&with_query("/settings/keys", "ask", Some("rekey")), Some("key"), t.rekey, Look::Plain)) }
    }
}

pub async fn rekey(State(ui): State<Arc<Ui>>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, "/v1/keys/rekey", None).await?;
    let note = parts::note(Shown::ok(""), &html! { (form.visit.texts().settings.rekeyed) }, &html! {});
    keys_page(&ui, &form.visit, None, &note, None).await
}

/// Redirects from the address of a change, which a browser without script may reload, to the keys.
pub async fn to_page() -> Redirect {
    Redirect::to("/settings/keys")
}
