//! The page of one endpoint: its state, its deliveries, a test, and its policy in words.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Path, State},
    http::Uri,
    response::Response,
};
use maud::{Markup, html};

use super::{
    history::{self, History},
    title_of,
};
use crate::{
    api::{Problem, access::Sight, endpoints, stats::stats},
    clock,
    domain::{
        breaker::Breaker,
        retry::Schedule,
        stats::{About, Last},
        time::Timestamp,
    },
    store::{DeliveryFilter, PageRequest, StoredAttempt},
    ui::{
        Ui, foreign,
        form::Fields,
        layout::{self, Head, Page, Place},
        pages::{
            deliveries::{self, Rows, said},
            selected,
        },
        parts::{
            self, Look, action, charts, columns, icon, opened, peek, segment,
            state::{self, State as Shown},
        },
        visit::Visit,
    },
    wire::{EndpointView, StatsView, TestSend},
};

/// Maximum length of the shown part of a test's answer, in bytes.
const ANSWER_SHOWN_MAX: usize = 2048;

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>, uri: Uri) -> Result<Response, Problem> {
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    page(&ui, &visit, &name, &fields, None).await
}

/// Reads an endpoint as the API shows it to this person.
///
/// # Errors
/// If the role may not see endpoints, or no endpoint has this name.
pub async fn read(ui: &Ui, visit: &Visit, name: &str) -> Result<(EndpointView, Sight), Problem> {
    let caller = visit.caller("GET /v1/endpoints/{endpoint}")?;
    let sight = caller.sight;
    let api = State(Arc::clone(&ui.api));
    let view = endpoints::show(api, Extension(caller), crate::api::path::Path(name.to_owned())).await?.0;
    Ok((view, sight))
}

/// Writes the page, with the result of a test if one was just sent.
pub async fn page(
    ui: &Arc<Ui>,
    visit: &Visit,
    name: &str,
    fields: &Fields,
    test: Option<&TestSend>,
) -> Result<Response, Problem> {
    let (endpoint, sight) = read(ui, visit, name).await?;
    let texts = visit.texts();
    let page = deliveries::read(ui, fields, Some(&endpoint.name)).await?;
    let rows = Rows { ui, visit, fields, of_one: true };
    let last = match &endpoint.failing_since {
        Some(_) => last_failure(ui, &endpoint).await?,
        None => None,
    };
    let id = endpoints::find(&ui.api, &endpoint.name)?.id;
    let day = history::read(ui, &[id], Last::Day).await?.remove(&id);
    let week = stats(&ui.api, About::Endpoint(id), Last::Week).await?;
    let told = One { ui, visit, endpoint: &endpoint, sight, fields, day };
    let body = html! {
        div #endpoint-head data-live="deliveries" { (told.head()) (told.note(last.as_ref())) }
        div #week data-live="deliveries" { (told.week(&week)) }
        div.with-side #endpoint-body {
            section #rows.section data-live="deliveries" data-hold="always" {
                div.section-head {
                    div.row { h2 { (texts.deliveries.title) } (rows.states()) }
                    @if visit.may("POST /v1/deliveries/retry") {
                        (parts::link_button(&format!("/deliveries/retry?endpoint={}", segment(&endpoint.name)), Some("retry"), texts.deliveries.retry_dead, Look::Small))
                    }
                }
                div.above-list { (selected::held_row(visit, texts.deliveries.new_delivery, texts.deliveries.new_deliveries)) }
                @if page.items.is_empty() { (told.none(&rows)) } @else { (rows.table(&page.items)) (rows.pager(&page)) }
            }
            div.side {
                @if visit.may("POST /v1/endpoints/{endpoint}/test") { section #test.section { (told.test(test)) } }
                section #policy.section { (told.policy()) }
            }
        }
    };
    Ok(layout::page(ui, visit, &Page::new(Place::Endpoints, title_of(&endpoint), body)).await)
}

/// Returns the last attempt of the newest webhook that waits for another attempt.
async fn last_failure(ui: &Ui, endpoint: &EndpointView) -> Result<Option<StoredAttempt>, Problem> {
    let id = endpoints::find(&ui.api, &endpoint.name)?.id;
    let filter = DeliveryFilter { endpoint: Some(id), state: Some("retrying"), ..DeliveryFilter::default() };
    let page = ui.api.store.deliveries(filter, PageRequest { cursor: None, limit: 1 }).await?;
    Ok(page.items.into_iter().next().and_then(|delivery| delivery.last))
}

struct One<'a> {
    ui: &'a Ui,
    visit: &'a Visit,
    endpoint: &'a EndpointView,
    sight: Sight,
    fields: &'a Fields,
    day: Option<History>,
}

impl One<'_> {
    fn path(&self, verb: &str) -> String {
        format!("/endpoints/{}/{verb}", segment(&self.endpoint.name))
    }

    fn head(&self) -> Markup {
        let (visit, endpoint) = (self.visit, self.endpoint);
        let (texts, formats) = (visit.texts(), visit.formats());
        let t = &texts.endpoint;
        let state = Shown::of_endpoint(&endpoint.state, endpoint.failing_since.is_some(), texts);
        let how_long = match &endpoint.failing_since {
            Some(since) if endpoint.state == "active" => html! { ((t.for_so_long)(&layout::age(since, visit))) },
            _ => html! {},
        };
        let facts = html! {
            span.fact { (foreign::cut(&endpoint.url)) @if self.sight == Sight::Whole { " " (parts::copy(&endpoint.url, visit)) } }
            @if let Some(share) = self.day.as_ref().and_then(History::first_try) { span.fact { ((t.first_try_in_day)(&formats.percent(share))) } }
            @if let Some(condition) = &endpoint.condition {
                @let number = condition.waiting.map_or_else(|| t.waiting_many.to_owned(), |waiting| formats.number(waiting));
                @match (condition.waiting, &condition.waiting_since) {
                    (Some(0), _) => {},
                    (_, Some(since)) => span.fact { ((t.waiting_oldest)(&number, &layout::age(since, visit))) },
                    (_, None) => span.fact { ((t.waiting)(&number)) },
                }
            }
            @if let Some(key) = &endpoint.subscribed_by { span.fact { ((texts.endpoints.by_key)(key)) } }
        };
        Head {
            above: Some((
                "/endpoints",
                texts.endpoints.title,
                html! { span.mono { (foreign::name(&endpoint.name)) } " " (parts::copy(&endpoint.name, visit)) },
            )),
            title: foreign::value(title_of(endpoint)),
            state: Some(html! { (state.chip(&how_long)) (self.said()) }),
            facts: Some(facts),
            actions: Some(self.actions()),
        }
        .show()
    }

    fn said(&self) -> Markup {
        let (t, formats) = (&self.visit.texts().endpoint, self.visit.formats());
        html! {
            @if let Some((action, at)) = said(self.fields, &self.endpoint.name) {
                @let at = formats.clock(at);
                span.said role="status" { @match action { "paused" => ((t.paused_at)(&at)), "disabled" => ((t.disabled_at)(&at)), "changed" => ((t.changed_at)(&at)), _ => ((t.resumed_at)(&at)) } }
            }
        }
    }

    fn actions(&self) -> Markup {
        let (visit, endpoint, t) = (self.visit, self.endpoint, &self.visit.texts().endpoint);
        if !visit.may("PATCH /v1/endpoints/{endpoint}") {
            return html! { span.reason { ((visit.texts().common.needs_role)("operate")) } };
        }
        html! {
            @match endpoint.state.as_ref() {
                "active" => (action(visit, &self.path("pause"), Some("pause"), t.pause, Look::Plain)),
                "paused" => (action(visit, &self.path("resume"), Some("play"), t.resume, Look::Plain)),
                _ => (action(visit, &self.path("resume"), Some("play"), t.enable, Look::Plain)),
            }
            (parts::link_button(&self.path("edit"), Some("pencil"), t.edit, Look::Plain))
            details.more-menu {
                summary.btn.quiet.tool aria-label=(t.more) title=(t.more) { (icon("more")) }
                div.box {
                    @if endpoint.signature != "none" { (parts::link_button(&self.path("rotate"), Some("key"), t.rotate, Look::Quiet)) }
                    @if endpoint.state != "disabled" { (action(visit, &self.path("disable"), Some("x"), t.disable, Look::Quiet)) }
                    (parts::link_button(&self.path("delete"), Some("trash"), t.delete, Look::Danger))
                }
            }
        }
    }

    fn standing(&self) -> Option<crate::domain::why::Standing> {
        let id = endpoints::find(&self.ui.api, &self.endpoint.name).ok()?.id;
        self.ui.api.catalog.standing(id)
    }

    /// Writes what is wrong, and what the engine does about it.
    fn note(&self, last: Option<&StoredAttempt>) -> Markup {
        let (visit, endpoint) = (self.visit, self.endpoint);
        let (texts, formats) = (visit.texts(), visit.formats());
        let t = &texts.endpoint;
        let resume = |label: &str, icon: &str| {
            html! { @if visit.may("POST /v1/endpoints/{endpoint}/resume") { (action(visit, &self.path("resume"), Some(icon), label, Look::Small)) } }
        };
        if endpoint.state == "disabled" {
            let (why, action) = match endpoint.disabled_reason.as_deref() {
                Some("gone") => (texts.now.disabled_gone, resume(t.enable, "play")),
                Some("failing") => (texts.now.disabled_failing, resume(t.enable, "play")),
                _ => (t.disabled_by_hand, html! {}),
            };
            return parts::note(Shown::dead(""), &html! { p { b { (why) } " " (t.disabled_effect) } }, &action);
        }
        if endpoint.state == "paused" {
            return parts::note(Shown::paused(""), &html! { p { (t.paused_effect) } }, &html! {});
        }
        let Some(since) = &endpoint.failing_since else { return html! {} };
        let breaker = self.standing().map(|standing| standing.breaker);
        let rule = formats.number(u64::from(endpoint.breaker.failures));
        let body = html! {
            p {
                b { ((texts.now.failing_since)(&formats.in_list(since, clock::wall(), false))) } " "
                @match breaker {
                    Some(Breaker::Open { until, .. }) => ((t.breaker_open)(&rule, &formats.clock(&until.to_string()))),
                    Some(Breaker::Probing { .. }) => ((t.breaker_probing)(&rule)),
                    _ => (t.breaker_closed),
                }
            }
            @if let Some(last) = last {
                p.muted {
                    (t.last_answer) " "
                    code { (state::outcome(last.attempt.outcome.as_str(), last.attempt.outcome.status(), texts)) } " "
                    @let said = String::from_utf8_lossy(&last.attempt.excerpt);
                    @if !said.trim().is_empty() { "“" (foreign::value(said.trim())) "”" } @else if let Some(detail) = &last.attempt.detail { (foreign::value(detail)) }
                }
            }
        };
        parts::note(Shown::retrying(""), &body, &resume(t.probe, "retry"))
    }

    /// Writes the last 7 days, with one bar for every two hours. Also without any webhook, so that the first one moves nothing.
    fn week(&self, week: &StatsView) -> Markup {
        let (visit, formats) = (self.visit, self.visit.formats());
        let t = &visit.texts().endpoint;
        let total = &week.total;
        let slots = charts::slots(week, charts::engine_slots(Last::Week));
        let bars = charts::Bars {
            slots: &slots,
            bucket_s: week.bucket_s,
            unit: t.per_bucket,
            value: |counts| (counts.delivered + counts.attempts_failed, counts.attempts_failed),
            say: t.bar_says,
            opens_events: false,
        };
        html! {
            figure.week {
                figcaption {
                    b { (t.week) } span.muted { ((t.week_total)(&formats.number(total.delivered), &formats.number(total.attempts_failed))) }
                    (peek(visit, "week", t.week_table))
                }
                (charts::bars(visit, &bars))
                @if opened(visit).any(|open| open == "week") { (self.week_table(week)) }
            }
        }
    }

    fn week_table(&self, week: &StatsView) -> Markup {
        let (visit, formats) = (self.visit, self.visit.formats());
        let t = &visit.texts().endpoint;
        html! {
            div.panel tabindex="0" {
                table.rows.keep role="table" {
                    (columns(&[(visit.texts().common.at, ""), (t.delivered, "w120 num"), (t.failed_tries, "w120 num")]))
                    tbody role="rowgroup" {
                        @for bucket in week.buckets.iter().rev() {
                            tr role="row" {
                                td.pa role="cell" { (formats.time(&bucket.at, &formats.in_list(&bucket.at, clock::wall(), false))) }
                                td.pb.num role="cell" { (formats.number(bucket.counts.delivered)) }
                                td.pd.num role="cell" { (formats.number(bucket.counts.attempts_failed)) }
                            }
                        }
                    }
                }
            }
        }
    }

    fn none(&self, rows: &Rows<'_>) -> Markup {
        let t = &self.visit.texts().endpoint;
        if self.fields.get("state").is_some() {
            return rows.none();
        }
        parts::empty("deliveries", t.none_yet, &html! { p { (t.none_yet_why) } }, &html! {})
    }

    fn test(&self, test: Option<&TestSend>) -> Markup {
        let t = &self.visit.texts().endpoint;
        html! {
            h2 { (t.test) }
            p.hint { (t.test_says) }
            p.acts { (action(self.visit, &self.path("test"), Some("arrow"), t.send_test, Look::Plain)) }
            @if let Some(test) = test { (answer(self.visit, test)) }
        }
    }

    /// Writes the policy in words.
    fn policy(&self) -> Markup {
        let (visit, endpoint) = (self.visit, self.endpoint);
        let (texts, formats) = (visit.texts(), visit.formats());
        let t = &texts.endpoint;
        let number = |number: usize| formats.number(number as u64);
        let schedule = endpoints::find(&self.ui.api, &endpoint.name).ok().and_then(|one| one.new.policy.schedule.clone());
        let (tries, span) = tries_of(&schedule.unwrap_or_default());
        let breaker = &endpoint.breaker;
        let line = |name: &str, value: Markup, more: Markup| {
            html! { div { dt { (name) } dd { (value) @if !more.0.is_empty() { div.muted { (more) } } } } }
        };
        let none = || html! {};
        html! {
            div.section-head { h2 { (t.policy) } @if visit.may("PATCH /v1/endpoints/{endpoint}") { a.small href=(self.path("edit")) { (t.edit) } } }
            @if let Some(warning) = &endpoint.warning { (parts::note(Shown::warning(""), &html! { p { (foreign::value(warning)) } }, &none())) }
            dl.policy {
                (line(texts.endpoints.gets, super::gets(visit, endpoint), html! {
                    @for (name, values) in &endpoint.r#where { div { (foreign::name(name)) ": " (foreign::value(&values.join(", "))) } }
                }))
                @if let Some(plugin) = &endpoint.plugin { (line(t.plugin, foreign::name(plugin), none())) }
                (line(t.body, html! { (endpoint.format.to_uppercase()) }, html! { (envelope(visit, &endpoint.envelope)) }))
                (line(t.signature, html! { (signature(visit, &endpoint.signature)) }, html! { @if let Some(header) = &endpoint.token_header { code { (foreign::name(header)) } } }))
                @if let Some(public) = &endpoint.public_key { (line(t.public_key, html! { (foreign::cut(public)) " " (parts::copy(public, visit)) }, none())) }
                (line(t.timeout, html! { (endpoint.timeout) }, none()))
                (line(t.tries, html! { ((t.tries_in)(&number(tries), &formats.span(span))) }, none()))
                (line(t.rate, html! { @match &endpoint.rate { Some(rate) => (rate), None => (t.no_rate) } }, none()))
                (line(t.at_once, html! { (number(endpoint.concurrency)) }, html! {
                    @if let Some(standing) = self.standing() { @if standing.at_once < endpoint.concurrency { ((t.at_once_now)(&number(standing.at_once))) } }
                }))
                (line(t.order, html! { @match endpoint.ordered.as_deref() { Some("subject") => (t.order_subject), Some(_) => (t.order_endpoint), None => (t.order_none) } }, none()))
                (line(t.breaker, html! {
                    @if breaker.failures == 0 { (t.breaker_never) }
                    @else { ((t.breaker_after)(&formats.number(u64::from(breaker.failures)), &breaker.wait, &breaker.wait_max)) }
                }, none()))
                @if !endpoint.headers.is_empty() {
                    (line(t.headers, html! { @for (name, value) in &endpoint.headers { div.mono { (foreign::name(name)) ": " (foreign::value(value)) } } }, none()))
                }
                @if let Some(certificate) = &endpoint.client_certificate { (line(t.certificate, html! { @if let Some(digest) = &certificate.sha256 { (foreign::cut(digest)) } @else { "–" } }, none())) }
                (line(texts.common.id, html! { span.mono { (endpoint.id) } " " (parts::copy(&endpoint.id, visit)) }, none()))
            }
        }
    }
}

/// Returns the number of tries of a schedule, and the time from the first try to the last.
fn tries_of(schedule: &Schedule) -> (usize, Duration) {
    let waits = schedule.waits();
    (waits.len(), waits.iter().skip(1).sum())
}

fn envelope(visit: &Visit, word: &str) -> &'static str {
    let t = &visit.texts().webhook;
    match word {
        "data" => t.envelope_data,
        "cloudevents" => t.envelope_cloudevents,
        _ => t.envelope_standard,
    }
}

fn signature(visit: &Visit, word: &str) -> String {
    match word {
        "v1" => "Standard Webhooks v1".to_owned(),
        "v1a" => "Standard Webhooks v1a".to_owned(),
        "none" => visit.texts().endpoint.no_signature.to_owned(),
        other => other.to_owned(),
    }
}

/// Writes the result of a test.
pub fn answer(visit: &Visit, test: &TestSend) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let result = &test.result;
    let shown = if test.delivered { Shown::ok("") } else { Shown::failed("") };
    let said: String = result.excerpt.chars().take(ANSWER_SHOWN_MAX).collect();
    let at = Timestamp::parse_rfc3339(&result.at).unwrap_or_else(clock::wall).to_string();
    html! {
        div.panel #test-answer {
            div.cap role="status" {
                span.s.said-state data-s=(shown.tone.as_str()) { (parts::shape(shown.shape)) span { (state::outcome(&result.outcome, result.status, texts)) } }
                span.muted { ((texts.endpoint.test_took)(&formats.millis(result.latency_ms), &formats.clock(&at))) }
            }
            @if !said.is_empty() { pre.code tabindex="0" { (foreign::code(&said)) } }
            @else if let Some(detail) = &result.detail { pre.code tabindex="0" { (foreign::code(detail)) } }
            @else { p.code.muted { (texts.event.empty_body) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_schedule_has_ten_tries() {
        let (tries, span) = tries_of(&Schedule::default());
        assert_eq!((tries, span), (10, Duration::from_secs(75 * 3600 + 35 * 60 + 5)));
    }
}
