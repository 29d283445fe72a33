//! The list of deliveries over all endpoints. The page of an endpoint shows the same rows.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::Uri, response::Response};
use maud::{Markup, html};

use crate::{
    api::{
        Problem,
        deliveries::{self, Filter},
        page::Query as ApiQuery,
    },
    clock,
    domain::{endpoint::EndpointState, time::Timestamp},
    ui::{
        Ui, foreign,
        form::Fields,
        layout::{self, Head, Page, Place},
        pages::selected::{self, Kind},
        parts::{
            self, Field, Look, columns, seg,
            state::{self, State as Shown},
            with_query,
        },
        visit::Visit,
    },
    wire::{DeliveryView, PageView},
};

/// Deliveries on one page.
const PAGE: usize = 50;
/// Maximum number of endpoints that the filter lists by name. If more exist, the user types the name.
const OFFERED_MAX: usize = 200;
/// Names of the filters in the address, in the order of the page.
const FILTERS: [&str; 4] = ["endpoint", "state", "time", "event"];

/// A table of deliveries: which rows it has, and how it shows them.
pub struct Rows<'a> {
    pub ui: &'a Ui,
    pub visit: &'a Visit,
    pub fields: &'a Fields,
    /// Whether all rows belong to the same endpoint. If so, its name is not repeated in the rows, and tries are shown as dots.
    pub of_one: bool,
}

/// Returns the start of the span that a filter names, or `None` for all time.
fn since(span: Option<&str>) -> Option<String> {
    let span = match span? {
        "hour" => Duration::from_secs(3600),
        "day" => Duration::from_secs(86_400),
        "week" => Duration::from_secs(7 * 86_400),
        _ => return None,
    };
    Some(clock::wall().minus(span).to_string())
}

/// Reads one page of the deliveries that the address selects.
///
/// # Errors
/// If a filter is not valid, or the store does not answer.
pub async fn read(ui: &Ui, fields: &Fields, endpoint: Option<&str>) -> Result<PageView<DeliveryView>, Problem> {
    let text = |name: &str| fields.get(name).map(str::to_owned);
    let filter = Filter {
        endpoint: endpoint.map(str::to_owned).or_else(|| text("endpoint")),
        event: text("event"),
        state: text("state"),
        since: since(fields.get("time")),
        limit: Some(PAGE.to_string()),
        cursor: text("cursor"),
    };
    Ok(deliveries::list(State(Arc::clone(&ui.api)), ApiQuery(filter)).await?.0)
}

pub async fn list(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    visit.sight("GET /v1/deliveries")?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let texts = visit.texts();
    let page = read(&ui, &fields, None).await?;
    let rows = Rows { ui: &ui, visit: &visit, fields: &fields, of_one: false };
    let actions = visit.may("POST /v1/deliveries/retry").then(|| {
        let endpoint = fields.get("endpoint");
        parts::link_button(
            &with_query("/deliveries/retry", "endpoint", endpoint),
            Some("retry"),
            texts.deliveries.retry_dead,
            Look::Plain,
        )
    });
    let body = html! {
        (Head { actions, ..layout::title(texts.deliveries.title) }.show())
        (filters(&rows))
        div #rows data-live="deliveries" data-hold="always" {
            (selected::bar(&visit, Kind::Retry))
            @if page.items.is_empty() { (rows.none()) }
            @else { (rows.table(&page.items)) (rows.pager(&page)) }
        }
    };
    Ok(layout::page(&ui, &visit, &Page::new(Place::Deliveries, texts.deliveries.title, body)).await)
}

fn filters(rows: &Rows<'_>) -> Markup {
    let (visit, fields) = (rows.visit, rows.fields);
    let texts = visit.texts();
    let t = &texts.deliveries;
    let text = |name: &str| fields.get(name).unwrap_or_default();
    let mut names: Vec<String> = rows.ui.api.catalog.endpoints().iter().map(|endpoint| endpoint.new.name.to_string()).collect();
    names.sort();
    let given = text("endpoint");
    let mut endpoints: Vec<(&str, &str)> = vec![("", t.any_endpoint)];
    endpoints.extend(names.iter().map(|name| (name.as_str(), name.as_str())));
    if !given.is_empty() && !names.iter().any(|name| name == given) {
        endpoints.push((given, given));
    }
    let events = &texts.events;
    let times = [("", events.time_all), ("hour", events.time_hour), ("day", events.time_day), ("week", events.time_week)];
    let field = |name, label| Field { name, label, hint: None, error: None };
    html! {
        form.filters method="get" action="/deliveries" data-whole role="search" aria-label=(t.caption) {
            @if names.len() > OFFERED_MAX { (field("endpoint", t.endpoint).text(given, t.any_endpoint)) }
            @else { (field("endpoint", t.endpoint).choice(&endpoints, given)) }
            (field("time", texts.common.time).choice(&times, text("time")))
            div.grow { (field("event", t.event).text(text("event"), "evt_…")) }
            @if let Some(state) = fields.get("state") { input type="hidden" name="state" value=(state); }
            button.btn type="submit" { (texts.common.apply) }
        }
        p.row { (rows.states()) }
    }
}

impl Rows<'_> {
    /// Writes the states as links.
    pub fn states(&self) -> Markup {
        let texts = self.visit.texts();
        let chosen = self.fields.get("state");
        let to = |state: Option<&str>| {
            with_query(&with_query(&with_query(&self.visit.path, "state", state), "cursor", None), "said", None)
        };
        let mut choices = vec![(texts.deliveries.all, to(None), chosen.is_none())];
        for state in ["delivered", "pending", "retrying", "dead", "cancelled"] {
            let word = Shown::of_delivery(state, texts).word;
            choices.push((word, to(Some(state)), chosen == Some(state)));
        }
        seg(texts.common.state, &choices)
    }

    pub fn table(&self, items: &[DeliveryView]) -> Markup {
        let texts = self.visit.texts();
        let (t, common) = (&texts.deliveries, &texts.common);
        let all = [
            ("", "tick-col"),
            (t.last_try, "w96"),
            (common.type_, ""),
            (t.event, "w112"),
            (t.endpoint, "w120"),
            (common.state, "w144"),
            (t.answer, "w112"),
            (common.took, "w80 num"),
            (t.tries, "w80 num"),
            ("", "w96"),
        ];
        let of_one =
            [(t.last_try, "w96"), (common.type_, ""), (common.state, "w144"), (t.answer, ""), (t.tries, "w120"), ("", "w96")];
        html! {
            table.rows role="table" aria-label=(t.title) {
                (columns(if self.of_one { &of_one } else { &all }))
                tbody role="rowgroup" { @for delivery in items { (self.row(delivery)) } }
            }
        }
    }

    fn row(&self, delivery: &DeliveryView) -> Markup {
        let (texts, formats) = (self.visit.texts(), self.visit.formats());
        let tries = formats.number(u64::from(delivery.attempt_count));
        let planned = state::planned(self.ui, &delivery.endpoint_name);
        let is_planned = matches!(delivery.state.as_ref(), "retrying");
        let (took, at) = (delivery.last.as_ref().map(|last| formats.millis(last.latency_ms)), last_try(delivery));
        html! {
            tr #(delivery.id) role="row" data-row {
                @if !self.of_one { td.ph role="cell" { @if can_be_retried(delivery) && self.visit.may(Kind::Retry.route()) { (selected::tick(self.visit, Kind::Retry, &delivery.id)) } } }
                td.pc.dim role="cell" { @match at { Some(at) => (formats.time(at, &formats.in_list(at, clock::wall(), false))), None => "–" } }
                td.pa role="cell" { a.go href=(format!("/events/{}#{}", delivery.event, delivery.id)) { (foreign::name(&delivery.r#type)) } }
                @if !self.of_one {
                    td.ph.mono.dim role="cell" { (delivery.event) }
                    td.pd.dim role="cell" { (foreign::name(&delivery.endpoint_name)) }
                }
                td.pb role="cell" { (Shown::of_delivery(&delivery.state, texts).show()) }
                td.ph[!self.of_one].pd[self.of_one] role="cell" title=[delivery.last.as_ref().and_then(|last| last.detail.as_deref()).map(foreign::isolated)] { (self.answer(delivery)) @if self.of_one { @if let Some(took) = &took { " " span.dim { (took) } } } }
                @if self.of_one {
                    td.ph role="cell" {
                        @match delivery.state.as_ref() {
                            "retrying" => { (state::dots(delivery.attempt_count, planned)) span.sr { ((texts.states.of)(&tries, &formats.number(u64::from(planned)))) } },
                            "delivered" if delivery.attempt_count == 1 => span.dim { (texts.deliveries.first_try) },
                            _ => span.dim { ((texts.deliveries.tries_of)(&tries)) },
                        }
                    }
                } @else {
                    td.ph.num.dim role="cell" { @if let Some(took) = &took { (took) } }
                    td.ph.num role="cell" { @if is_planned { ((texts.states.of)(&tries, &formats.number(u64::from(planned)))) } @else { (tries) } }
                }
                td.pe.num role="cell" { (self.retry(delivery)) }
            }
        }
    }

    /// Writes what the receiver answered last, or why nothing was sent.
    fn answer(&self, delivery: &DeliveryView) -> Markup {
        let texts = self.visit.texts();
        let is_paused = || {
            let endpoints = self.ui.api.catalog.endpoints();
            endpoints.named(&delivery.endpoint_name).is_some_and(|endpoint| endpoint.new.state == EndpointState::Paused)
        };
        html! {
            @match (&delivery.last, &delivery.reason) {
                (Some(last), _) => {
                    (state::answer(last, texts))
                    @if let (Some(detail), false) = (&last.detail, last.outcome == "answered") { " " span.dim { (foreign::value(detail)) } }
                },
                (None, Some(reason)) => span.dim { (reason) },
                (None, None) if is_paused() => span.dim { (texts.deliveries.is_paused) },
                (None, None) => span.dim { "–" },
            }
        }
    }

    fn retry(&self, delivery: &DeliveryView) -> Markup {
        let (texts, formats) = (self.visit.texts(), self.visit.formats());
        let path = format!("/deliveries/{}/retry", delivery.id);
        html! {
            @if let Some(at) = said(self.fields, &delivery.id).map(|(_, at)| at).filter(|at| !has_tried_since(delivery, at)) {
                span.said role="status" { ((texts.event.retried)(&formats.clock(at))) }
            } @else if can_be_retried(delivery) && self.visit.may("POST /v1/deliveries/{delivery}/retry") {
                (parts::action(self.visit, &path, Some("retry"), texts.common.retry, Look::Small))
            }
        }
    }

    pub fn pager(&self, page: &PageView<DeliveryView>) -> Markup {
        let texts = self.visit.texts();
        html! {
            div.pager {
                span.muted { (texts.frame.newest_first) }
                div.acts {
                    @if self.fields.get("cursor").is_some() {
                        (parts::link_button(&with_query(&self.visit.path, "cursor", None), None, texts.common.previous, Look::Small))
                    }
                    @if let Some(next) = &page.next {
                        (parts::link_button(&with_query(&self.visit.path, "cursor", Some(next)), Some("down"), texts.frame.older, Look::Small))
                    }
                }
            }
        }
    }

    /// Writes the text of an empty list, which names the filters.
    pub fn none(&self) -> Markup {
        let texts = self.visit.texts();
        let t = &texts.deliveries;
        let set: Vec<&str> = FILTERS.into_iter().filter(|name| self.fields.is_set(name)).collect();
        if set.is_empty() {
            return parts::empty("deliveries", t.none_yet, &html! { p { (t.none_yet_why) } }, &html! {});
        }
        let word = |name: &str| match name {
            "endpoint" => t.endpoint,
            "state" => texts.common.state,
            "event" => t.event,
            _ => texts.common.time,
        };
        let actions = html! {
            @for name in set {
                @let to = with_query(&with_query(&self.visit.path, name, None), "cursor", None);
                (parts::link_button(&to, Some("x"), &(texts.events.clear)(word(name)), Look::Plain))
            }
        };
        let is_dead = self.fields.get("state") == Some("dead");
        let why = html! { p { (if is_dead { t.none_dead } else { t.none_match_why }) } };
        parts::empty("filter", t.none_match, &why, &actions)
    }
}

fn can_be_retried(delivery: &DeliveryView) -> bool {
    matches!(delivery.state.as_ref(), "retrying" | "dead" | "cancelled")
}

/// Returns when a delivery was tried last, or when it ended without a try.
fn last_try(delivery: &DeliveryView) -> Option<&str> {
    let last = delivery.last.as_ref().map(|last| last.at.as_str()).filter(|at| !at.is_empty());
    last.or(delivery.at.as_deref())
}

/// Returns whether a delivery was tried after a time.
fn has_tried_since(delivery: &DeliveryView, at: &str) -> bool {
    let time = Timestamp::parse_rfc3339;
    delivery.last.as_ref().is_some_and(|last| time(&last.at) > time(at))
}

/// Returns the action that was just applied to a part of the page, and the time of that action.
pub fn said<'a>(fields: &'a Fields, part: &str) -> Option<(&'a str, &'a str)> {
    let mut words = fields.get("said")?.splitn(3, '~');
    let (action, target, at) = (words.next()?, words.next()?, words.next()?);
    (target == part).then_some((action, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::delivery::DeliveryState;

    #[test]
    fn every_state_of_a_delivery_is_offered() {
        for state in DeliveryState::WORDS {
            assert!(["delivered", "pending", "retrying", "dead", "cancelled"].contains(&state), "{state}");
        }
    }

    #[test]
    fn an_action_is_reported_beside_its_part_of_the_page() {
        let fields = Fields::parse(b"said=retried~dlv_1~2026-11-24T13:02:11Z");
        assert_eq!(said(&fields, "dlv_1"), Some(("retried", "2026-11-24T13:02:11Z")));
        assert_eq!(said(&fields, "dlv_2"), None);
    }
}
