//! Settings: the keys, the audit trail, the limits in force, the nodes and the jobs. Each tab is a separate page.

pub mod audit;
pub mod jobs;
pub mod keys;
pub mod limits;
pub mod nodes;

use std::sync::Arc;

use axum::{
    Router,
    response::{Redirect, Response},
    routing::get,
};
use maud::{Markup, html};

use crate::{
    ui::{
        Ui,
        layout::{self, Page, Place},
        parts::{self, Look, with_query},
        visit::Visit,
    },
    wire::PageView,
};

/// The pages of the settings.
pub fn routes() -> Router<Arc<Ui>> {
    Router::new()
        .route("/settings", get(first))
        .route("/settings/keys", get(keys::show).post(keys::create))
        .route("/settings/keys/rekey", get(keys::to_page).post(keys::rekey))
        .route("/settings/keys/{key}/revoke", get(keys::to_page).post(keys::revoke))
        .route("/settings/audit", get(audit::show))
        .route("/settings/limits", get(limits::show))
        .route("/settings/nodes", get(nodes::show))
        .route("/settings/jobs", get(jobs::show))
        .route("/settings/jobs/retry-runs", get(jobs::to_page).post(jobs::retry_runs))
        .route("/settings/jobs/replay", get(jobs::to_page).post(jobs::replay))
}

/// Redirects to the first tab that the role may see.
pub async fn first(visit: Visit) -> Redirect {
    Redirect::to(if visit.may("GET /v1/keys") { "/settings/keys" } else { "/settings/limits" })
}

fn frame(visit: &Visit, here: &str, body: &Markup) -> Markup {
    let texts = visit.texts();
    let t = &texts.settings;
    let tabs = [
        ("/settings/keys", t.keys, visit.may("GET /v1/keys")),
        ("/settings/audit", t.audit, visit.may("GET /v1/audit")),
        ("/settings/limits", t.limits, true),
        ("/settings/nodes", t.nodes, true),
        ("/settings/jobs", t.jobs, visit.may("GET /v1/jobs")),
    ];
    html! {
        (layout::title(texts.frame.settings).show())
        nav #tabs.tabs aria-label=(texts.frame.settings) {
            @for (path, label, _) in tabs.into_iter().filter(|(_, _, may)| *may) { a href=(path) aria-current=[(path == here).then_some("page")] { (label) } }
        }
        (body)
    }
}

async fn page(ui: &Ui, visit: &Visit, here: &str, body: Markup) -> Response {
    let texts = visit.texts();
    layout::page(ui, visit, &Page::new(Place::Settings, texts.frame.settings, frame(visit, here, &body))).await
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
