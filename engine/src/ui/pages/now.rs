//! The first page: whether all is well, and if not, what to do. Until the first event arrives, it shows how to send one.

use std::{collections::HashSet, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{Method, Uri},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::json;

use crate::{
    api::{
        Problem,
        events::{self, Filter},
        metrics,
        page::Query as ApiQuery,
        stats,
    },
    clock,
    domain::{
        endpoint::{DisabledReason, Endpoint, EndpointState},
        id::EndpointId,
        stats::{About, Last},
    },
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        layout::{self, Head, Page, Place},
        needs::{self, Need, Needs, PARKED_COUNTED_MAX},
        pages::{
            endpoints::{
                actions::page_of,
                history::{self, History},
            },
            send,
        },
        parts::{
            self, Look,
            charts::{self, Slot},
            columns, icon, segment, shape,
            state::{self, State as Shown},
            strip, with_query,
        },
        view::back,
        visit::Visit,
    },
    wire::EventView,
};

/// Maximum number of rows in the live list.
const LIVE: usize = 9;
/// Maximum number of problems that are shown.
const NEEDS_MAX: usize = 8;

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    visit.sight("GET /v1/events")?;
    let texts = visit.texts();
    let newest = Filter { limit: Some(LIVE.to_string()), ..Filter::default() };
    let newest = events::list(State(Arc::clone(&ui.api)), ApiQuery(newest)).await?.0.items;
    let needs = needs::now(&ui).await?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let last = fields.get("last").and_then(Last::parse).unwrap_or(Last::Day);
    let (title, body) = if newest.is_empty() && needs.all.is_empty() {
        (texts.now.first_title, html! { div #first data-live="events" { (first_run(&ui, &visit)) } })
    } else {
        let body = html! {
            (Head { actions: Some(spans(&visit, last)), ..layout::title(texts.now.title) }.show())
            section #needs.section data-live="events deliveries plugins" data-hold="whole" { (needs_list(&visit, &needs)) }
            section #figures.section.with-charts data-live="events deliveries" { (figures(&ui, &visit, last).await?) }
            div #lists.halves-page {
                section #newest.section data-live="events" data-hold { (live(&visit, &newest)) }
                @if visit.may("GET /v1/endpoints") { section #endpoints.section data-live="events deliveries" data-hold { (endpoints_list(&ui, &visit, &needs).await?) } }
            }
        };
        (texts.now.title, body)
    };
    Ok(layout::page(&ui, &visit, &Page::new(Place::Now, title, body)).await)
}

/// Writes the links that choose the span of the figures.
fn spans(visit: &Visit, last: Last) -> Markup {
    let texts = &visit.texts().now;
    let choices = Last::ALL.map(|one| {
        let label = match one {
            Last::Hour => texts.hour,
            Last::Day => texts.day,
            Last::Week => texts.week,
        };
        (label, with_query(&visit.path, "last", Some(one.as_str())), one == last)
    });
    parts::seg(texts.span, &choices)
}

/// Writes one figure: name with its unit, number, a sentence. The unit does not follow the number, because it would move with
/// every added digit.
fn figure(name: &str, value: &str, say: &str) -> Markup {
    html! { div.figure { div.name { (name) } div.value { (value) } div.say { (say) } } }
}

async fn figures(ui: &Ui, visit: &Visit, last: Last) -> Result<Markup, Problem> {
    visit.sight("GET /v1/stats")?;
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.now;
    let stats = stats::stats(&ui.api, About::Engine, last).await?;
    let slots = charts::slots(&stats, charts::engine_slots(last));
    let load = metrics::load(&ui.api).await;
    let total = &stats.total;
    let span = stats.bucket_s * slots.iter().filter(|slot| slot.counts.is_some()).count().max(1) as u64;
    let (waiting, oldest) = load.load.waiting();
    let unit = (t.per)(&formats.span(Duration::from_secs(stats.bucket_s)));
    let millis = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| formats.millis(value));
    let share = match total.delivered {
        0 => "–".to_owned(),
        delivered => formats.percent(total.first_try as f64 / delivered as f64),
    };
    let bars = charts::Bars {
        slots: &slots,
        bucket_s: stats.bucket_s,
        unit: &unit,
        value: |counts| (counts.delivered + counts.attempts_failed, counts.attempts_failed),
        say: t.say_bar,
        opens_events: true,
    };
    Ok(html! {
        div.figures {
            (figure(t.accepted_rate, &formats.decimal(total.accepted as f64 / span as f64, 1), &(t.accepted_say)(&formats.number(total.accepted))))
            (figure(t.first_try, &share, &(t.first_try_say)(&formats.number(total.delivered.saturating_sub(total.first_try)), &formats.number(total.delivered))))
            (figure(t.latency_median, &millis(total.p50_ms), &(t.latency_say)(&millis(total.p99_ms))))
            (figure(t.waiting, &formats.number(waiting), &if waiting == 0 { t.waiting_none.to_owned() } else { (t.waiting_say)(&formats.span(oldest)) }))
        }
        div.charts {
            div { div.cap { h3 { (t.webhooks) } (parts::peek(visit, "table-webhooks", t.table)) } (charts::bars(visit, &bars)) @if parts::opened(visit).any(|open| open == "table-webhooks") { (counts_table(visit, &slots)) } }
            div { div.cap { h3 { (t.latency) } (parts::peek(visit, "table-latency", t.table)) } (charts::lines(visit, &slots)) @if parts::opened(visit).any(|open| open == "table-latency") { (latency_table(visit, &slots)) } }
        }
    })
}

/// Writes the figures of the bars as a table, newest first, without empty spans.
fn counts_table(visit: &Visit, slots: &[Slot<'_>]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.now;
    html! {
        table.rows.keep role="table" {
            (columns(&[(texts.common.at, ""), (t.accepted, "num"), (t.delivered, "num"), (t.failed_tries, "num")]))
            tbody role="rowgroup" {
                @for (slot, counts) in slots.iter().rev().filter_map(|slot| Some((slot, slot.counts?))).filter(|(_, counts)| counts.accepted + counts.delivered + counts.attempts_failed > 0) {
                    @let at = slot.at.to_string();
                    tr role="row" {
                        td.pa role="cell" { (formats.time(&at, &formats.minute(&at))) }
                        td.pb.num role="cell" { (formats.number(counts.accepted)) }
                        td.pc.num role="cell" { (formats.number(counts.delivered)) }
                        td.pd.num role="cell" { (formats.number(counts.attempts_failed)) }
                    }
                }
            }
        }
    }
}

/// Writes the figures of the lines as a table, newest first.
fn latency_table(visit: &Visit, slots: &[Slot<'_>]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    html! {
        table.rows.keep role="table" {
            (columns(&[(texts.common.at, ""), ("p50", "num"), ("p99", "num")]))
            tbody role="rowgroup" {
                @for (slot, p50, p99) in slots.iter().rev().filter_map(|slot| Some((slot, slot.counts?.p50_ms?, slot.counts?.p99_ms?))) {
                    @let at = slot.at.to_string();
                    tr role="row" {
                        td.pa role="cell" { (formats.time(&at, &formats.minute(&at))) }
                        td.pb.num role="cell" { (formats.millis(p50)) }
                        td.pd.num role="cell" { (formats.millis(p99)) }
                    }
                }
            }
        }
    }
}

fn needs_list(visit: &Visit, needs: &Needs) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let number = needs.all.len();
    // A live update that would lengthen or shorten the list waits behind this button, because everything below would move.
    let held = html! { button.held-row.js type="button" hidden data-many=((texts.now.needs_changed)("%")) data-none=(texts.now.needs_solved) {} };
    if number == 0 {
        return html! {
            (changed(visit))
            div.calm-line { (shape("s-ok")) p { b { (texts.now.nothing) } " " (texts.now.nothing_why) } (held) }
        };
    }
    html! {
        (changed(visit))
        div.section-head { h2 { (texts.now.needs_you) " " span.n { (formats.number(number as u64)) } } (held) }
        ul.needs {
            @for need in needs.all.iter().take(NEEDS_MAX) { (one(visit, need)) }
            @if number > NEEDS_MAX { li.more { ((texts.now.and_more)(&formats.number((number - NEEDS_MAX) as u64))) } }
        }
    }
}

fn one(visit: &Visit, need: &Need) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let now = &texts.now;
    let (kind, look, name, words, said, open) = match need {
        Need::Failing { endpoint, since, next, .. } => {
            let mut words = (now.failing_since)(&formats.in_list(&since.to_string(), clock::wall(), false));
            if let Some(next) = next {
                words.push(' ');
                words.push_str(&(now.next_try)(&formats.clock(&next.to_string())));
            }
            ("endpoint", Shown::retrying(""), endpoint, words, None, page_of(endpoint))
        }
        Need::Disabled { endpoint, reason } => {
            let why = if *reason == DisabledReason::Gone { now.disabled_gone } else { now.disabled_failing };
            ("endpoint", Shown::dead(""), endpoint, why.to_owned(), None, page_of(endpoint))
        }
        Need::Parked { plugin, number, message, version } => {
            let shown = formats.number(*number);
            let words = match *number {
                1 => now.parked_one.to_owned(),
                number if number >= PARKED_COUNTED_MAX as u64 => (now.parked_over)(&shown),
                _ => (now.parked)(&shown),
            };
            (
                version.as_deref().unwrap_or("plugin"),
                Shown::failed(""),
                plugin,
                words,
                message.as_deref(),
                format!("/plugins/{}", segment(plugin)),
            )
        }
        Need::Refused { plugin, why } => {
            ("file", Shown::failed(""), plugin, now.not_loaded.to_owned(), Some(why.as_str()), String::new())
        }
    };
    html! {
        li.need id=(format!("need-{kind}-{name}")) tabindex="-1" data-row data-s=(look.tone.as_str()) {
            (shape(look.shape))
            div.text {
                b { (foreign::name(name)) } " " (words)
                @if let Some(at) = retried(visit, name) { " " span.said role="status" { ((now.retry_began)(&formats.clock(&at))) } }
                // The number is last, because it grows.
                @if let Need::Failing { waiting: Some(waiting), .. } = need { p.muted { ((now.waiting_here)(&formats.number(*waiting))) } }
                // Always one line: the message of another run must not be higher than this one.
                @match said.and_then(|said| said.lines().next()) {
                    Some(said) => p.words title=(foreign::isolated(said)) { (foreign::value(said)) },
                    None if matches!(need, Need::Parked { .. }) => p.words { "–" },
                    None => {},
                }
            }
            div.acts {
                @if !open.is_empty() { (parts::link_button(&open, None, texts.common.open, Look::Small)) }
                @match need {
                    Need::Failing { endpoint, .. } if visit.may("POST /v1/endpoints/{endpoint}/pause") => (parts::action(visit, &format!("{}/pause", page_of(endpoint)), Some("pause"), texts.endpoint.pause, Look::Small)),
                    Need::Disabled { endpoint, .. } if visit.may("POST /v1/endpoints/{endpoint}/resume") => (parts::action(visit, &format!("{}/resume", page_of(endpoint)), Some("play"), texts.endpoint.enable, Look::Small)),
                    _ => {},
                }
                @if let (Need::Parked { plugin, number, .. }, true) = (need, visit.may("POST /v1/runs/retry")) {
                    @let label = match *number { 1 => now.retry_run.to_owned(), number => (now.retry_runs)(&formats.number(number)) };
                    // The number in the label grows, and must not move the elements beside the button.
                    span.grows { (parts::action_with(visit, "/runs/retry", Some("retry"), &label, Look::Small, &html! { input type="hidden" name="plugin" value=(plugin); })) }
                }
            }
        }
    }
}

/// Writes which endpoint was paused or enabled from this page, because it is no longer listed as a problem.
fn changed(visit: &Visit) -> Markup {
    let (texts, formats) = (&visit.texts().endpoint, visit.formats());
    let (_, query) = visit.path.split_once('?').unwrap_or_default();
    let fields = Fields::parse(query.as_bytes());
    let mut words = fields.get("said").unwrap_or_default().splitn(3, '~');
    html! {
        @if let (Some(action), Some(name), Some(at)) = (words.next(), words.next(), words.next()) {
            @let at = formats.clock(at);
            p.said role="status" { (foreign::name(name)) ": " @if action == "paused" { ((texts.paused_at)(&at)) } @else { ((texts.resumed_at)(&at)) } }
        }
    }
}

/// Returns when a retry of this plugin's runs was started from this page.
fn retried(visit: &Visit, plugin: &str) -> Option<String> {
    let (_, query) = visit.path.split_once('?')?;
    let fields = Fields::parse(query.as_bytes());
    let (name, at) = fields.get("said")?.split_once('~')?;
    (name == plugin && !at.contains('~')).then(|| at.to_owned())
}

/// Starts a retry of the parked runs of a plugin.
pub async fn retry_runs(State(ui): State<Arc<Ui>>, form: Form) -> Result<Response, Problem> {
    let plugin = form.fields.get("plugin").unwrap_or_default();
    ui.act(&form.visit, Method::POST, "/v1/runs/retry", Some(&json!({ "plugin": plugin }))).await?;
    let said = format!("{plugin}~{}", clock::wall());
    Ok(Redirect::to(&with_query(back(form.fields.get("back")), "said", Some(&said))).into_response())
}

fn live(visit: &Visit, newest: &[EventView]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let common = &texts.common;
    html! {
        div.section-head { h2 { (texts.now.live) } a href="/events" { (texts.now.all) } }
        @if newest.is_empty() { p.calm-line { (texts.events.none_yet) } }
        @else {
            table.rows role="table" aria-label=(texts.now.live) {
                (columns(&[(common.time, "w80"), (common.type_, ""), (common.source, "w80"), (common.state, "state")]))
                tbody role="rowgroup" {
                    @for event in newest {
                        @let count = state::delivered_of(event, texts, &formats);
                        // Rows have no id, so a live update changes their text in place and no row moves.
                        tr role="row" data-row {
                            td.pc.dim role="cell" { (formats.time(&event.accepted_at, &formats.in_list(&event.accepted_at, clock::wall(), false))) }
                            td.pa role="cell" { a.go href=(format!("/events/{}", event.event)) { (foreign::name(&event.r#type)) } }
                            td.pd.dim role="cell" { (foreign::value(&event.source)) }
                            td.pb role="cell" { (Shown::of_event(&event.state, texts).with(&count)) }
                        }
                    }
                }
            }
        }
    }
}

/// Writes the endpoints, those in trouble first.
async fn endpoints_list(ui: &Ui, visit: &Visit, needs: &Needs) -> Result<Markup, Problem> {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.endpoints;
    let all = ui.api.catalog.endpoints();
    let mut shown: Vec<&Arc<Endpoint>> = all.iter().collect();
    let total = shown.len();
    let failing: HashSet<&str> = needs
        .all
        .iter()
        .filter_map(|need| match need {
            Need::Failing { endpoint, .. } => Some(endpoint.as_str()),
            _ => None,
        })
        .collect();
    let order = |one: &Arc<Endpoint>| {
        let rank = match one.new.state {
            EndpointState::Active if failing.contains(&*one.new.name) => 0,
            EndpointState::Disabled(_) => 1,
            EndpointState::Paused => 2,
            EndpointState::Active => 3,
        };
        (rank, one.new.name.to_string())
    };
    shown.sort_by_cached_key(|one| order(one));
    shown.truncate(LIVE);
    let ids: Vec<EndpointId> = shown.iter().map(|one| one.id).collect();
    let day = history::read(ui, &ids, Last::Day).await?;
    Ok(html! {
        div.section-head { h2 { (t.title) } a href="/endpoints" { ((texts.now.all_of)(&formats.number(total as u64))) } }
        @if shown.is_empty() { p.calm-line { (t.none_yet) } }
        @else {
            table.rows role="table" aria-label=(t.title) {
                (columns(&[(t.endpoint, ""), (t.day, "w144"), (texts.common.state, "w144"), (t.first_try, "w80 num")]))
                tbody role="rowgroup" {
                    @for one in shown {
                        @let past = day.get(&one.id);
                        @let state = if matches!(one.new.state, EndpointState::Disabled(_)) { "disabled" } else if one.new.state == EndpointState::Paused { "paused" } else { "active" };
                        tr role="row" data-row {
                            td.pa role="cell" { a.go href=(page_of(&one.new.name)) { (foreign::value(one.new.title.as_deref().unwrap_or(&one.new.name))) } }
                            td.ph role="cell" { @if let Some(past) = past { (strip::show(&past.bars())) } }
                            td.pb role="cell" { (Shown::of_endpoint(state, failing.contains(&*one.new.name), texts).show()) }
                            td.ph.num role="cell" { @match past.and_then(History::first_try) { Some(share) => (formats.percent(share)), None => span.dim { "–" } } }
                        }
                    }
                }
            }
        }
    })
}

/// Writes the steps to the first delivered webhook.
fn first_run(ui: &Ui, visit: &Visit) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let now = &texts.now;
    let plugins = ui.api.catalog.plugins().iter().count() as u64;
    let endpoints = ui.api.catalog.endpoints();
    let first = endpoints.iter().next().map(|endpoint| endpoint.new.name.to_string());
    let command = r#"innesco send order.created '{"id": 7, "total": 1500, "country": "IT"}'"#;
    html! {
        (Head { facts: Some(html! { (now.first_why) }), ..layout::title(now.first_title) }.show())
        ol.steps {
            li.done { span.ball { (icon("check")) } div { h2 { (now.step_runs) } p.muted { ((now.step_runs_what)(ui.about.store, &formats.number(plugins))) } } }
            @match &first {
                Some(name) => li.done { span.ball { (icon("check")) } div { h2 { (now.step_where) } p.muted { b { (foreign::name(name)) } " " (now.step_where_what) } } },
                None => li.here { span.ball { "2" } div { h2 { (now.step_where) } p.muted { (now.step_where_none) } @if visit.may("POST /v1/endpoints") { div.acts { (parts::link_button("/endpoints/new", Some("plus"), texts.endpoints.new, Look::Primary)) } } (parts::command("innesco endpoint add crm https://crm.example.org/hook --events order.created", visit)) } },
            }
            li.here[first.is_some()] { span.ball { "3" } div { h2 { (now.step_send) } p.muted { (now.step_send_what) } @if visit.may(send::ROUTE) { (send::form(visit, if first.is_some() { Look::Primary } else { Look::Plain })) } (parts::command(command, visit)) } }
            li { span.ball { "4" } div { h2 { (now.step_watch) } p.muted { (now.step_watch_what) } } }
        }
    }
}
