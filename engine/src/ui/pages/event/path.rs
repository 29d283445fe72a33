//! The path of an event in three columns: its source, its runs, its deliveries. Each node links to its part of the story.

use maud::{Markup, html};

use crate::{
    ui::{
        foreign,
        parts::{
            icon, shape,
            state::{self, State},
        },
        visit::Visit,
    },
    wire::{DeliveryView, EventStoryView, RunView},
};

/// Maximum number of runs that are shown, and of webhooks of one run. Webhooks that are not delivered are all shown. Delivered
/// webhooks beyond the maximum are only counted.
const NODES_MAX: usize = 12;

pub fn show(visit: &Visit, story: &EventStoryView) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let event = &story.event;
    // Shows the last round. Only the story has earlier rounds.
    let round = story.runs.iter().map(|run| run.run.round).chain(story.deliveries.iter().map(|one| one.delivery.round)).max();
    let runs: Vec<&RunView> = story.runs.iter().map(|run| &run.run).filter(|run| Some(run.round) == round).collect();
    let deliveries: Vec<&DeliveryView> =
        story.deliveries.iter().map(|one| &one.delivery).filter(|one| Some(one.round) == round).collect();
    if runs.is_empty() && deliveries.is_empty() {
        return html! {};
    }
    let of = |run: Option<&str>| deliveries.iter().copied().filter(|one| one.run.as_deref() == run).collect::<Vec<_>>();
    let direct = of(None);
    html! {
        div.path {
            div.from {
                h2 { (texts.event.path_from) }
                a.node href="#received" data-s="ok" { (shape("s-ok")) span.name { (foreign::name(&event.source)) } span.what { (formats.bytes(event.bytes)) } }
            }
            div.ways {
                div.heads aria-hidden="true" { h2 { (texts.event.path_ran) } h2 { (texts.event.path_sent) } }
                @for run in runs.iter().take(NODES_MAX) { (way(visit, run, &of(Some(&run.id)))) }
                @if !direct.is_empty() {
                    div.way {
                        div.ran { span.node { (icon("filter")) span.name { (texts.event.subscription) } span.what { (texts.event.direct) } } }
                        (sent(visit, &direct))
                    }
                }
            }
        }
    }
}

fn way(visit: &Visit, run: &RunView, deliveries: &[&DeliveryView]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let shown = State::of_run(run, texts);
    let what = if run.state == "parked" { texts.states.run_parked.to_owned() } else { formats.millis(run.duration_ms) };
    html! {
        div.way {
            div.ran {
                a.node href=(format!("#{}", run.id)) data-s=(shown.tone.as_str()) {
                    (shape(shown.shape)) span.name { (foreign::name(&run.plugin)) (version(run.version.as_deref())) } span.what { (what) }
                }
            }
            @if !deliveries.is_empty() { (sent(visit, deliveries)) }
            @else if run.state == "parked" {
                div.sent { span.missing {
                    @match &run.endpoint {
                        Some(endpoint) => { (foreign::name(endpoint)) " " (texts.event.nothing_until_retry) },
                        None => (texts.event.parked_short),
                    }
                } }
            }
        }
    }
}

/// Writes the start of a version's digest: `@91be07`.
pub fn version(version: Option<&str>) -> Markup {
    html! { @if let Some(version) = version { span.version title=(version) { "@" (&version[..version.len().min(6)]) } } }
}

fn sent(visit: &Visit, deliveries: &[&DeliveryView]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let mut shown: Vec<&&DeliveryView> = deliveries.iter().filter(|one| one.state != "delivered").collect();
    let rest = deliveries.iter().filter(|one| one.state == "delivered").count();
    let room = NODES_MAX.saturating_sub(shown.len());
    shown.extend(deliveries.iter().filter(|one| one.state == "delivered").take(room));
    shown.sort_by(|one, other| one.id.cmp(&other.id));
    let hidden = rest.saturating_sub(room);
    html! {
        div.sent {
            @for delivery in shown {
                @let look = State::of_delivery(&delivery.state, texts);
                a.node href=(format!("#{}", delivery.id)) data-s=(look.tone.as_str()) {
                    (shape(look.shape)) span.name { (foreign::name(&delivery.endpoint_name)) }
                    span.what {
                        @match (&delivery.last, delivery.state.as_ref()) {
                            (Some(last), "delivered" | "dead") => (state::answer(last, texts)),
                            (_, "retrying") => {
                                ((texts.event.try_one)(&formats.number(u64::from(delivery.attempt_count) + 1)))
                                @if let Some(due) = &delivery.due { ", " (formats.clock(due)) }
                            },
                            _ => (look.word),
                        }
                    }
                }
            }
            @if hidden > 0 { span.missing { ((texts.event.and_more)(&formats.number(hidden as u64))) } }
        }
    }
}
