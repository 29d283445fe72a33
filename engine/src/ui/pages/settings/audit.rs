//! The audit trail, newest first, with its filters.

use std::sync::Arc;

use axum::{extract::State, http::Uri, response::Response};
use maud::{Markup, html};

use super::{page, pager};
use crate::{
    api::{
        Problem,
        audit::{self, Filter},
        page::Query as ApiQuery,
    },
    clock,
    ui::{
        Ui, foreign,
        form::Fields,
        parts::{self, Field, Look, columns},
        visit::Visit,
    },
    wire::{AuditView, PageView},
};

/// Entries of the audit trail on one page.
const PAGE: usize = 50;

/// Shows the audit trail, newest first.
pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
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
    let entries = audit::list(State(Arc::clone(&ui.api)), ApiQuery(filter)).await?.0;
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
        @if entries.items.is_empty() { (parts::empty("filter", t.no_entry, &html! { p { (t.no_entry_why) } }, &parts::link_button("/settings/audit", Some("x"), texts.common.clear_all, Look::Plain))) }
        @else { (audit_table(&visit, &entries)) (pager(&visit, &entries, fields.get("cursor").is_some())) }
        p.hint { (t.audit_note) }
    };
    Ok(page(&ui, &visit, "/settings/audit", body).await)
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
                        td.ph.whole role="cell" {
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
