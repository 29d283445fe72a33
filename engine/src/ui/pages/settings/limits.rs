//! Retention and limits, as they are in force on this node, and how full the store is.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use maud::{Markup, html};

use super::page;
use crate::{
    api::{Problem, metrics},
    ui::{
        Ui, foreign, in_force,
        parts::{self, state::State as Shown},
        visit::Visit,
    },
};

/// The page warns when the store has reached this percentage of its limit.
const FULL_PERCENT: u64 = 80;

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit) -> Result<Response, Problem> {
    visit.sight("GET /v1/stats")?;
    let used = ui.api.store.size().await?;
    let load = metrics::load(&ui.api).await;
    let t = &visit.texts().settings;
    let body = html! {
        div #store-size.section { (size(&ui, &visit, used, load.load.disk_free_bytes, load.load.disk_bytes)) }
        div #retention.section { (in_force::table(&visit, &ui, t.kept_for, &["retention."])) }
        div #limits-in-force.section { (in_force::table(&visit, &ui, t.limits_in_force, &["limits.", "plugin.", "delivery."])) }
        p #limits-say.hint { (t.limits_say) " " code { "innesco serve --check" } }
    };
    Ok(page(&ui, &visit, "/settings/limits", body).await)
}

fn size(ui: &Ui, visit: &Visit, used: u64, free: u64, disk: u64) -> Markup {
    let formats = visit.formats();
    let t = &visit.texts().settings;
    let most = ui.about.store_bytes_max;
    let percent = most.map(|most| used.saturating_mul(100) / most.max(1));
    html! {
        @if let Some(percent) = percent.filter(|percent| *percent >= FULL_PERCENT) {
            div.section { (parts::note(Shown::warning(""), &html! { b { ((t.store_full)(&formats.number(percent))) } " " (t.store_full_cure) }, &html! {})) }
        }
        div.figures {
            div.figure {
                p.name { (t.store) }
                p.value { (formats.bytes(used)) }
                p.say { @match most { Some(most) => ((t.of_size)(&formats.bytes(most))), None => (t.no_limit) } }
                @if let Some(most) = most { progress max=(most) value=(used.min(most)) {} }
            }
            div.figure {
                p.name { (t.disk) }
                @if disk > 0 { p.value { (formats.bytes(free)) } p.say { ((t.free_of)(&formats.bytes(disk))) } }
                @else { p.value { "–" } p.say { (t.other_machine) } }
            }
            div.figure {
                p.name { (t.kind_of_store) }
                p.value { (ui.about.store) }
                p.say { (t.of_node) " " (foreign::name(&ui.about.node)) }
            }
        }
    }
}
