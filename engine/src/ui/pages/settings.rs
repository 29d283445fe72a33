//! Settings: the keys, the audit trail and the nodes. Each tab is a separate page.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{Method, Uri},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::{Value, json};

use crate::{
    api::{
        Problem,
        audit::{self, Filter},
        keys, nodes,
        page::Query as ApiQuery,
    },
    clock,
    domain::{key::Role, time::Timestamp},
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        layout::{self, Page, Place},
        parts::{self, Field, Look, columns, segment, state::State as Shown, with_query},
        visit::Visit,
    },
    wire::{AuditView, KeyView, NodeView, PageView},
};

/// Entries of the audit trail on one page.
const PAGE: usize = 50;
/// A key that expires within this time is shown as a warning.
const SOON: std::time::Duration = std::time::Duration::from_secs(14 * 86_400);
/// A node without a heartbeat for this long is shown as silent.
const SILENT: std::time::Duration = std::time::Duration::from_secs(5);

/// Redirects to the first tab that the role may see.
pub async fn first(visit: Visit) -> Redirect {
    Redirect::to(if visit.may("GET /v1/keys") { "/settings/keys" } else { "/settings/nodes" })
}

fn frame(visit: &Visit, here: &str, body: &Markup) -> Markup {
    let texts = visit.texts();
    let tabs = [
        ("/settings/keys", texts.settings.keys, visit.may("GET /v1/keys")),
        ("/settings/audit", texts.settings.audit, visit.may("GET /v1/audit")),
        ("/settings/nodes", texts.settings.nodes, true),
    ];
    html! {
        (layout::title(texts.frame.settings).show())
        nav.tabs aria-label=(texts.frame.settings) {
            @for (path, label, _) in tabs.into_iter().filter(|(_, _, may)| *may) { a href=(path) aria-current=[(path == here).then_some("page")] { (label) } }
        }
        (body)
    }
}

async fn show(ui: &Ui, visit: &Visit, here: &str, body: Markup) -> Response {
    let texts = visit.texts();
    layout::page(ui, visit, &Page::new(Place::Settings, texts.frame.settings, frame(visit, here, &body))).await
}

/// Shows the keys, and a form for a new one.
pub async fn keys(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
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
    };
    Ok(show(ui, visit, "/settings/keys", body).await)
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
pub async fn create_key(State(ui): State<Arc<Ui>>, form: Form) -> Result<Response, Problem> {
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

pub async fn revoke_key(State(ui): State<Arc<Ui>>, Path(id): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::DELETE, &format!("/v1/keys/{}", segment(&id)), None).await?;
    Ok(Redirect::to("/settings/keys").into_response())
}

/// Shows the audit trail, newest first.
pub async fn audit(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    visit.sight("GET /v1/audit")?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let text = |name: &str| fields.get(name).map(str::to_owned);
    let filter = Filter {
        key: text("key"),
        action: text("action"),
        limit: Some(PAGE.to_string()),
        cursor: text("cursor"),
        ..Filter::default()
    };
    let page = audit::list(State(Arc::clone(&ui.api)), ApiQuery(filter)).await?.0;
    let texts = visit.texts();
    let t = &texts.settings;
    let given = |name: &str| fields.get(name).unwrap_or_default();
    let field = |name, label| Field { name, label, hint: None, error: None };
    let body = html! {
        form.filters method="get" action="/settings/audit" data-whole {
            (field("key", t.key).text(given("key"), t.any_key))
            (field("action", t.action).text(given("action"), t.any_action))
            button.btn type="submit" { (texts.common.apply) }
        }
        @if page.items.is_empty() { (parts::empty("filter", t.no_entry, &html! { p { (t.no_entry_why) } }, &parts::link_button("/settings/audit", Some("x"), texts.common.clear_all, Look::Plain))) }
        @else { (audit_table(&visit, &page)) (pager(&visit, &page, fields.get("cursor").is_some())) }
        p.hint { (t.audit_note) }
    };
    Ok(show(&ui, &visit, "/settings/audit", body).await)
}

fn audit_table(visit: &Visit, page: &PageView<AuditView>) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.settings;
    html! {
        table.rows role="table" aria-label=(t.audit) {
            (columns(&[(t.when, "w120"), (t.key, "w168"), (t.action, "w200"), (t.target, ""), (texts.event.answer_head, "w96")]))
            tbody role="rowgroup" {
                @for entry in &page.items {
                    tr #(entry.id) role="row" data-row {
                        td.pc.dim role="cell" { (formats.time(&entry.at, &formats.in_list(&entry.at, clock::wall(), false))) }
                        td.pd role="cell" { (foreign::value(&entry.key)) }
                        td.pa.mono role="cell" { (foreign::name(&entry.action)) }
                        td.ph role="cell" {
                            @if let Some(target) = &entry.target { (foreign::value(target)) }
                            @if !entry.members.is_empty() { " " span.dim { (foreign::value(&entry.members.join(", "))) } }
                        }
                        td.pb role="cell" {
                            @match entry.status {
                                Some(status) if status >= 400 => span.s data-s="bad" { (parts::shape("s-fail")) span { (status) } },
                                Some(status) => (status),
                                None => span.dim { "–" },
                            }
                        }
                    }
                }
            }
        }
    }
}

fn pager<T>(visit: &Visit, page: &PageView<T>, is_later: bool) -> Markup {
    let texts = visit.texts();
    html! {
        div.pager {
            span.muted { (texts.frame.newest_first) }
            div.acts {
                @if is_later { (parts::link_button(&with_query(&visit.path, "cursor", None), None, texts.common.previous, Look::Small)) }
                @if let Some(next) = &page.next { (parts::link_button(&with_query(&visit.path, "cursor", Some(next)), Some("down"), texts.frame.older, Look::Small)) }
            }
        }
    }
}

/// Shows the nodes that share the store.
pub async fn nodes(State(ui): State<Arc<Ui>>, visit: Visit) -> Result<Response, Problem> {
    visit.sight("GET /v1/nodes")?;
    let nodes = nodes::list(State(Arc::clone(&ui.api))).await?.0.items;
    let t = &visit.texts().settings;
    let body = html! {
        @if nodes.is_empty() { p.calm-line { (parts::shape("s-ok")) b { (t.one_engine) } " " (t.one_engine_why) } }
        @else { div #nodes data-live="events deliveries plugins" { (nodes_table(&visit, &nodes)) } }
    };
    Ok(show(&ui, &visit, "/settings/nodes", body).await)
}

fn nodes_table(visit: &Visit, nodes: &[NodeView]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.settings;
    let silent = |node: &NodeView| {
        Timestamp::parse_rfc3339(&node.seen_at).map(|seen| clock::wall().since(seen)).filter(|time| *time > SILENT)
    };
    html! {
        table.rows.two role="table" aria-label=(t.nodes) {
            (columns(&[(t.node, ""), (texts.common.state, "w168"), (t.does, "w80"), (t.address, "w200"), (t.engine, "w96"), (t.holds, "w80 num"), (texts.frame.plugins, "w168")]))
            tbody role="rowgroup" {
                @for node in nodes {
                    @let wrong = node.plugins.iter().filter(|plugin| plugin.error.is_some()).count() as u64;
                    tr role="row" data-row {
                        td.pa role="cell" { b { (foreign::name(&node.name)) } @if node.answers { span.two { (t.answers) } } }
                        td.pb role="cell" {
                            @match silent(node) { Some(time) => (Shown::warning(t.silent).with(&html! { (formats.span(time)) })), None => (Shown::ok(t.alive).show()) }
                        }
                        td.ph role="cell" { (node.role) }
                        td.pc.mono.dim role="cell" { (foreign::name(&node.address)) }
                        td.ph role="cell" { (node.version) }
                        td.pd.num role="cell" { (formats.number(node.leases)) }
                        td.ph role="cell" {
                            @if wrong > 0 { (Shown::failed(t.not_loaded).with(&html! { (formats.number(wrong)) })) } @else { (Shown::ok(t.loaded).with(&html! { (formats.number(node.plugins.len() as u64)) })) }
                        }
                    }
                }
            }
        }
    }
}
