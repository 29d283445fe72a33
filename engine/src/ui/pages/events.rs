//! The list of events, with filters to find one.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::Uri, response::Response};
use maud::{Markup, html};

use crate::{
    api::{
        Problem,
        events::{self, Filter},
        page::Query as ApiQuery,
        stats,
    },
    clock,
    domain::{
        event::EventState,
        stats::{About, Last},
        time::Timestamp,
    },
    ui::{
        Ui, foreign,
        form::Fields,
        layout::{self, Head, Page, Place},
        pages::{
            selected::{self, Kind},
            send,
        },
        parts::{
            self, Field, Look, charts, columns, icon, opened, peek,
            state::{self, State as Shown},
            with_query,
        },
        visit::Visit,
    },
    wire::{EventView, PageView},
};

/// Events on one page.
const PAGE: usize = 50;

/// The filters of the address, as they were typed.
struct Chosen<'a> {
    fields: &'a Fields,
}

impl Chosen<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    /// Returns the start of the chosen span, or `None` for all time.
    fn since(&self) -> Option<String> {
        let span = match self.text("time")? {
            "hour" => Duration::from_secs(3600),
            "day" => Duration::from_secs(86_400),
            "week" => Duration::from_secs(7 * 86_400),
            _ => return None,
        };
        Some(clock::wall().minus(span).to_string())
    }

    fn filter(&self) -> Filter {
        let text = |name: &str| self.text(name).map(str::to_owned);
        Filter {
            r#type: text("type"),
            source: text("source"),
            id: text("id"),
            subject: text("subject"),
            state: text("state"),
            since: self.since().or_else(|| text("since")),
            until: text("until"),
            limit: Some(PAGE.to_string()),
            cursor: text("cursor"),
            ..Filter::default()
        }
    }
}

/// Names of the filters in the address, in the order of the page.
const FILTERS: [&str; 8] = ["type", "source", "state", "time", "id", "subject", "since", "until"];

pub async fn list(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    visit.sight("GET /v1/events")?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let chosen = Chosen { fields: &fields };
    let texts = visit.texts();
    let page = events::list(State(Arc::clone(&ui.api)), ApiQuery(chosen.filter())).await?.0;
    let send = html! {
        @if visit.may(send::ROUTE) { (parts::link_button("/events/send", Some("arrow"), texts.events.send, Look::Plain)) }
    };
    let is_filtered = FILTERS.iter().any(|name| chosen.text(name).is_some());
    let body = html! {
        (Head { actions: Some(send), ..layout::title(texts.events.title) }.show())
        (filters(&ui, &visit, &chosen))
        figure #volume.week data-live="events" { (volume(&ui, &visit, &chosen).await?) }
        div #rows data-live="events" data-hold="always" {
            (selected::bar(&visit, Kind::Replay))
            @if page.items.is_empty() { (none(&visit, &chosen, is_filtered, page.next.is_some())) }
            @else { (table(&visit, &page)) }
            @if !page.items.is_empty() || page.next.is_some() { (pager(&visit, &chosen, &page)) }
        }
    };
    Ok(layout::page(&ui, &visit, &Page::new(Place::Events, texts.events.title, body)).await)
}

fn filters(ui: &Ui, visit: &Visit, chosen: &Chosen<'_>) -> Markup {
    let texts = visit.texts();
    let (t, common) = (&texts.events, &texts.common);
    let text = |name: &str| chosen.text(name).unwrap_or_default();
    let sources: Vec<String> = {
        let table = ui.api.sources.table();
        let mut names: Vec<String> = table.iter().map(|source| source.new.name.to_string()).collect();
        names.sort();
        names
    };
    let mut source_choices: Vec<(&str, &str)> = vec![("", t.any_source)];
    source_choices.extend(sources.iter().map(|name| (name.as_str(), name.as_str())));
    let given = text("source");
    if !given.is_empty() && !sources.iter().any(|name| name == given) {
        source_choices.push((given, given));
    }
    let mut states: Vec<(&str, &str)> = vec![("", t.any_state)];
    states.extend(EventState::ALL.map(|state| (state.as_str(), Shown::of_event(state.as_str(), texts).word)));
    let times = [("", t.time_all), ("hour", t.time_hour), ("day", t.time_day), ("week", t.time_week)];
    let field = |name, label| Field { name, label, hint: None, error: None };
    html! {
        form.filters method="get" action="/events" data-whole role="search" aria-label=(t.caption) {
            (field("type", common.type_).text(text("type"), t.any_such_as))
            (field("source", common.source).choice(&source_choices, given))
            (field("state", common.state).choice(&states, text("state")))
            (field("time", common.time).choice(&times, text("time")))
            div.grow { (field("id", t.id_label).text(text("id"), t.id_hint)) }
            @if let Some(subject) = chosen.text("subject") { input type="hidden" name="subject" value=(subject); }
            button.btn type="submit" { (common.apply) }
        }
        @if FILTERS.iter().any(|name| chosen.text(name).is_some()) {
            p.only { (t.only) " "
                @for name in FILTERS {
                    @if let Some(value) = chosen.text(name) {
                        @let filter = filter_words(visit, name);
                        a.token href=(with_query(&with_query(&visit.path, name, None), "cursor", None)) title=((t.clear)(&filter_name(visit, name).to_lowercase())) {
                            (filter) " " b { (shown_value(visit, name, value)) } " " (icon("x"))
                        }
                        " "
                    }
                }
                a href="/events" { (common.clear_all) }
            }
        }
    }
}

/// Writes bars of the accepted events: those of the chosen source, or of all sources if none is chosen. A bar links to the events
/// of its span.
async fn volume(ui: &Ui, visit: &Visit, chosen: &Chosen<'_>) -> Result<Markup, Problem> {
    visit.sight("GET /v1/stats")?;
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.events;
    let source = chosen.text("source").and_then(|name| ui.api.sources.table().named(name).map(|source| source.id));
    let about = source.map_or(About::Engine, About::Source);
    let last = match chosen.text("time") {
        Some("hour") if source.is_none() => Last::Hour,
        Some("week") => Last::Week,
        _ => Last::Day,
    };
    let stats = stats::stats(&ui.api, about.clone(), last).await?;
    let slots = charts::slots(&stats, charts::slots_of(last, &about));
    let unit = (t.per)(&formats.span(Duration::from_secs(stats.bucket_s)));
    let span = match last {
        Last::Hour => t.time_hour,
        Last::Day => t.time_day,
        Last::Week => t.time_week,
    };
    let bars = charts::Bars {
        slots: &slots,
        bucket_s: stats.bucket_s,
        unit: &unit,
        value: |counts| (counts.accepted, 0),
        say: t.say_bar,
        opens_events: true,
    };
    let number = formats.number(stats.total.accepted);
    Ok(html! {
        figcaption {
            // The number comes last, because it grows and would move everything that comes after it.
            span.muted { @match chosen.text("source").filter(|_| source.is_some()) { Some(name) => ((t.in_span_from)(span, &foreign::isolated(name))), None => ((t.in_span)(span)) } }
            b { ((t.accepted_number)(&number)) }
            (peek(visit, "volume", texts.now.table))
        }
        (charts::bars_of(visit, &bars, charts::LOW, &visit.path))
        @if opened(visit).any(|open| open == "volume") {
            div.panel tabindex="0" {
                table.rows.keep role="table" aria-label=(unit) {
                    (columns(&[(texts.common.at, ""), (texts.now.accepted, "num")]))
                    tbody role="rowgroup" {
                        @for (slot, counts) in slots.iter().rev().filter_map(|slot| Some((slot, slot.counts?))).filter(|(_, counts)| counts.accepted > 0) {
                            @let at = slot.at.to_string();
                            tr role="row" {
                                td.pa role="cell" { a href=(charts::span_address(&visit.path, slot, stats.bucket_s)) { (formats.time(&at, &formats.day_and_clock(&at))) } }
                                td.pb.num role="cell" { (formats.number(counts.accepted)) }
                            }
                        }
                    }
                }
            }
        }
    })
}

fn filter_words(visit: &Visit, name: &str) -> &'static str {
    let texts = visit.texts();
    match name {
        "type" => texts.events.type_is,
        "source" => texts.events.source_is,
        "state" => texts.events.state_is,
        "id" => texts.events.id_is,
        "subject" => texts.common.subject,
        "since" => texts.events.since_is,
        "until" => texts.events.until_is,
        _ => texts.events.time_is,
    }
}

/// Returns the label of a filter's field.
fn filter_name(visit: &Visit, name: &str) -> &'static str {
    let texts = visit.texts();
    match name {
        "type" => texts.common.type_,
        "source" => texts.common.source,
        "state" => texts.common.state,
        "id" => texts.events.id_label,
        "subject" => texts.event.subject,
        _ => texts.common.time,
    }
}

fn shown_value(visit: &Visit, name: &str, value: &str) -> Markup {
    let texts = visit.texts();
    match (name, value) {
        ("state", word) if EventState::parse(word).is_some() => html! { (Shown::of_event(word, texts).word) },
        ("time", "hour") => html! { (texts.events.time_hour) },
        ("time", "day") => html! { (texts.events.time_day) },
        ("time", "week") => html! { (texts.events.time_week) },
        ("since" | "until", at) if Timestamp::parse_rfc3339(at).is_some() => {
            html! { (visit.formats().in_list(at, clock::wall(), false)) }
        }
        _ => foreign::value(value),
    }
}

fn table(visit: &Visit, page: &PageView<EventView>) -> Markup {
    let texts = visit.texts();
    let (t, common) = (&texts.events, &texts.common);
    html! {
        table.rows role="table" aria-label=(t.title) {
            (columns(&[
                ("", "tick-col"), (t.accepted, "w120"), (common.type_, ""), (common.source, "w144"), (t.subject_or_id, ""), (common.state, "state"),
                (common.size, "w80 num"), (common.id, "w120"),
            ]))
            tbody role="rowgroup" { @for event in &page.items { (row(visit, event)) } }
        }
    }
}

/// Writes one event in a list.
fn row(visit: &Visit, event: &EventView) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let shown = Shown::of_event(&event.state, texts);
    let count = state::delivered_of(event, texts, &formats);
    html! {
        tr #(event.event) role="row" data-row {
            td.ph role="cell" { @if visit.may(Kind::Replay.route()) { (selected::tick(visit, Kind::Replay, &event.event)) } }
            td.pc.dim role="cell" { (formats.time(&event.accepted_at, &formats.in_list(&event.accepted_at, clock::wall(), true))) }
            td.pa role="cell" { a.go href=(format!("/events/{}", event.event)) { (foreign::name(&event.r#type)) } }
            td.pd.dim role="cell" { (foreign::value(&event.source)) }
            td.ph role="cell" {
                @match (&event.subject, event.id == event.event) {
                    (Some(subject), _) => (foreign::value(subject)),
                    (None, false) => (foreign::value(&event.id)),
                    (None, true) => span.dim { "–" },
                }
            }
            td.pb role="cell" { (shown.with(&count)) }
            td.ph.num.dim role="cell" { (formats.bytes(event.bytes)) }
            td.ph.mono role="cell" { (event.event) }
        }
    }
}

fn pager(visit: &Visit, chosen: &Chosen<'_>, page: &PageView<EventView>) -> Markup {
    let texts = visit.texts();
    html! {
        div.pager {
            span.muted { (texts.frame.newest_first) }
            div.acts {
                @if chosen.text("cursor").is_some() {
                    (parts::link_button(&with_query(&visit.path, "cursor", None), None, texts.common.previous, Look::Small))
                }
                @if let Some(next) = &page.next {
                    (parts::link_button(&with_query(&visit.path, "cursor", Some(next)), Some("down"), texts.frame.older, Look::Small))
                }
            }
        }
    }
}

/// Writes the text of an empty list: the filters that hide everything, or how to send a first event.
fn none(visit: &Visit, chosen: &Chosen<'_>, is_filtered: bool, has_older: bool) -> Markup {
    let t = &visit.texts().events;
    if !is_filtered {
        let command = r#"innesco send order.created '{"id": 7, "total": 1500}'"#;
        return parts::empty("events", t.none_yet, &html! { p { (t.none_yet_why) } (parts::command(command, visit)) }, &html! {});
    }
    let actions = html! {
        @for name in FILTERS {
            @if chosen.text(name).is_some() {
                @let filter = filter_name(visit, name);
                (parts::link_button(&with_query(&with_query(&visit.path, name, None), "cursor", None), Some("x"), &(t.clear)(&filter.to_lowercase()), Look::Plain))
            }
        }
    };
    let why = if has_older { t.none_so_far } else { t.none_match_why };
    parts::empty("filter", t.none_match, &html! { p { (why) } }, &actions)
}
