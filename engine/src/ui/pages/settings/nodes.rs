//! The nodes that share the store, and the health of the node that answers.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use maud::{Markup, html};

use super::page;
use crate::{
    api::{Problem, health, metrics, nodes},
    clock,
    domain::time::Timestamp,
    store::Load,
    ui::{
        Ui, foreign,
        parts::{self, columns, state::State as Shown},
        visit::Visit,
    },
    wire::NodeView,
};

/// A node without a heartbeat for this long is shown as silent.
const SILENT: std::time::Duration = std::time::Duration::from_secs(5);
/// A disk that is fuller than this percentage is shown as a warning.
const DISK_PERCENT_MAX: u64 = 90;

/// Shows the nodes that share the store.
pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit) -> Result<Response, Problem> {
    visit.sight("GET /v1/nodes")?;
    let nodes = nodes::list(State(Arc::clone(&ui.api))).await?.0.items;
    let (status, ready) = health::ready(State(Arc::clone(&ui.api))).await;
    let load = metrics::load(&ui.api).await;
    let t = &visit.texts().settings;
    let body = html! {
        div #health.section data-live="events deliveries" { (health_of(&ui, &visit, status.is_success(), &ready.0.reasons, &load.load)) }
        @if nodes.is_empty() { p.calm-line { (parts::shape("s-ok")) b { (t.one_engine) } " " (t.one_engine_why) } }
        @else { div #nodes data-live="events deliveries plugins" { (nodes_table(&visit, &nodes)) } }
    };
    Ok(page(&ui, &visit, "/settings/nodes", body).await)
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

/// Writes the health in sentences: whether events are accepted, what waits, how full the disk is.
fn health_of(ui: &Ui, visit: &Visit, is_ready: bool, reasons: &[String], load: &Load) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.settings;
    let used = (load.disk_free_bytes * 100).checked_div(load.disk_bytes).map_or(0, |free| 100 - free);
    let (waiting, _) = load.waiting();
    html! {
        h2 { (t.health) }
        ul.gate {
            li data-s=(if is_ready { "ok" } else { "bad" }) {
                (parts::shape(if is_ready { "s-ok" } else { "s-fail" }))
                b.grow { (if is_ready { t.takes_events } else { t.takes_no_events }) }
                span.muted { @if is_ready { (ui.about.store) } @else { (foreign::value(&reasons.join("; "))) } }
            }
            li data-s="ok" { (parts::shape("s-ok")) b.grow { (t.in_hand) } span.muted { (formats.number(waiting)) } }
            @if load.disk_bytes > 0 {
                @let is_full = used >= DISK_PERCENT_MAX;
                li data-s=(if is_full { "wait" } else { "ok" }) {
                    (parts::shape(if is_full { "s-warn" } else { "s-ok" }))
                    b.grow { (t.disk) } span.muted { ((t.disk_free)(&formats.bytes(load.disk_free_bytes), &formats.bytes(load.disk_bytes))) }
                }
            }
        }
    }
}
