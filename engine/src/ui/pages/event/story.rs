//! The story of an event, oldest first: received, ran, sent, emitted. Every part has its actions beside it.

use std::time::Duration;

use maud::{Markup, html};

use super::{Choice, data_text, path::version};
use crate::{
    api::{
        Problem,
        deliveries::{delivery_id, requests_of},
        events::event_id,
    },
    clock,
    domain::time::Timestamp,
    store::StoryPlace,
    ui::{
        Ui, foreign,
        parts::{
            self, Look, columns, diff, json, peek, seg,
            state::{self, State},
            with_query,
        },
        visit::Visit,
    },
    wire::{AttemptView, DeliveryStoryView, EventStoryView, LogView, RequestView, RunStoryView, SentRequestView},
};

/// Maximum number of emitted events that are shown. Each of them costs a read of the store.
const EMITTED_SHOWN_MAX: usize = 20;

/// Maximum number of webhooks of one run whose difference from the event is shown.
const DIFFERENCES_MAX: usize = 3;

/// Writes one event's story.
pub struct Teller<'a> {
    pub ui: &'a Ui,
    pub visit: &'a Visit,
    pub choice: &'a Choice,
    pub story: &'a EventStoryView,
}

/// The parts of one step.
struct Step<'a> {
    id: &'a str,
    /// Time of the step, if it is known.
    at: Option<String>,
    state: State,
    line: Markup,
    end: Markup,
    below: Markup,
}

impl Teller<'_> {
    fn is_open(&self, id: &str) -> bool {
        parts::opened(self.visit).any(|open| open == id)
    }

    /// Writes the whole story.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn all(&self) -> Result<Markup, Problem> {
        let story = self.story;
        let texts = self.visit.texts();
        let formats = self.visit.formats();
        let rounds = story.runs.iter().map(|run| run.run.round).chain(story.deliveries.iter().map(|one| one.delivery.round));
        let (first, last) = rounds.fold((u32::MAX, 0), |(first, last), round| (first.min(round), last.max(round)));
        let only = self.choice.only_problems();
        let mut markup = html! { @if !only { (self.received()) } };
        for round in first.min(last)..=last {
            let heading =
                html! { @if round > 0 { li.round { h2 { ((texts.event.round)(&formats.number(u64::from(round)))) } } } };
            markup.0.push_str(&heading.0);
            for run in story.runs.iter().filter(|run| run.run.round == round) {
                if !only || run.run.state == "parked" {
                    let changed = self.changed(run).await?;
                    markup.0.push_str(&self.run(run, &changed).0);
                }
            }
            for delivery in story.deliveries.iter().filter(|one| one.delivery.round == round) {
                if !only || state::is_trouble(&delivery.delivery) {
                    markup.0.push_str(&self.delivery(delivery).await?.0);
                }
            }
        }
        if !only {
            markup.0.push_str(&self.emitted().await?.0);
            markup.0.push_str(&self.later().0);
        }
        let end = match story.event.state.as_ref() {
            "unrouted" => Some(texts.event.unrouted_note),
            "nothing-sent" if story.event.parts.deliveries.cancelled > 0 => Some(texts.event.all_cancelled_note),
            "nothing-sent" => Some(texts.event.nothing_sent_note),
            "waiting" if story.event.parts.to_run => Some(texts.event.waiting_note),
            _ => None,
        };
        let end = html! { @if let Some(words) = end { li #end.step { span.at {} span.mark data-s="calm" { (parts::shape("s-none")) } div.body { p.muted { (words) @if let Some(nearest) = &story.nearest { " " ((texts.event.nearest)(&foreign::isolated(nearest))) } } } } } };
        markup.0.push_str(&end.0);
        Ok(markup)
    }

    /// Writes when a step happened: the time of day, or the time since the event was accepted.
    fn at(&self, at: &str, is_first: bool) -> Markup {
        let formats = self.visit.formats();
        let parse = |text: &str| Timestamp::parse_rfc3339(text);
        let since = || Some(parse(at)?.since(parse(&self.story.event.accepted_at)?));
        let shown = match since() {
            Some(since) if !is_first && !self.choice.clock(self.visit) => {
                format!("+{}", formats.millis(since.as_millis() as f64))
            }
            _ => formats.in_list(at, clock::wall(), false),
        };
        formats.time(at, &shown)
    }

    fn step(&self, step: &Step<'_>) -> Markup {
        let first = step.id == "received";
        html! {
            li.step id=(step.id) tabindex="-1" data-row {
                span.at { @if let Some(at) = &step.at { (self.at(at, first)) } }
                (step.state.mark())
                div.body {
                    div.line { (step.line) @if !step.end.0.is_empty() { div.end { (step.end) } } }
                    (step.below)
                }
            }
        }
    }

    fn said(&self, part: &str) -> Markup {
        let (t, formats) = (&self.visit.texts().event, self.visit.formats());
        html! {
            @if let Some((action, at)) = self.choice.said(part) {
                span.said role="status" { @match action { "cancelled" => ((t.cancelled_at)(&formats.clock(at))), _ => ((t.retried)(&formats.clock(at))) } }
            }
        }
    }

    fn received(&self) -> Markup {
        let (visit, story) = (self.visit, self.story);
        let (texts, formats, event) = (visit.texts(), visit.formats(), &story.event);
        let t = &texts.event;
        let request = story.request.as_ref();
        let kind = event.content_type.split(';').next().unwrap_or_default();
        let line = html! {
            b { (t.received) }
            @if let Some(request) = request { code { (foreign::code(&request.method)) } span.w data-s="ok" { (t.verified) } }
            @else if event.cause.is_none() { span.muted { (t.through_api) } }
            span.muted { (formats.bytes(event.bytes)) " " (foreign::name(kind)) }
        };
        let end = html! {
            (peek(visit, "data", t.data))
            @if request.is_some() { (peek(visit, "headers", texts.common.headers)) }
        };
        let below = html! {
            @if self.is_open("data") { (self.data()) }
            @if self.is_open("headers") { @if let Some(request) = request { (request_panel(visit, request)) } }
        };
        let state = State::ok("");
        self.step(&Step { id: "received", at: Some(event.accepted_at.clone()), state, line, end, below })
    }

    fn data(&self) -> Markup {
        let (visit, story) = (self.visit, self.story);
        let (texts, formats, event) = (visit.texts(), visit.formats(), &story.event);
        let t = &texts.event;
        let raw = self.choice.raw();
        let text = data_text(&story.data);
        let download = format!("/events/{}/data", event.event);
        let choose = seg(
            t.data,
            &[(t.pretty, with_query(&visit.path, "raw", None), !raw), (t.raw, with_query(&visit.path, "raw", Some("1")), raw)],
        );
        html! {
            div.panel {
                div.cap { h3 { (t.data) } span.muted { (foreign::name(&event.content_type)) ", " (formats.bytes(event.bytes)) }
                    div.end { (choose) @if let Some(text) = text.filter(|text| text.len() <= json::SHOWN_BYTES_MAX) { (parts::copy(text, visit)) } }
                }
                @match text {
                    None => p.code.muted { ((t.not_text)(&formats.bytes(event.bytes))) },
                    Some(text) => {
                        @let (body, is_whole) = if raw { json::raw(text) } else { json::pretty(text, &formats) };
                        pre.code tabindex="0" { (body) }
                        @if !is_whole { div.foot { span.muted { ((t.shown_in_part)(&formats.bytes(event.bytes))) } " " a href=(download) { (texts.common.download) } } }
                    }
                }
            }
        }
    }

    /// Writes how the first webhooks of a run differ from the event's data. Writes nothing unless this part of the page is open.
    async fn changed(&self, told: &RunStoryView) -> Result<Markup, Problem> {
        let (visit, id) = (self.visit, &told.run.id);
        let mut markup = html! {};
        if !self.is_open(&format!("diff-{id}")) {
            return Ok(markup);
        }
        visit.sight("GET /v1/deliveries/{delivery}/body")?;
        let t = &visit.texts().event;
        for one in self.webhooks_of(id).take(DIFFERENCES_MAX) {
            let whole = self.ui.api.store.whole_delivery(delivery_id(&self.ui.api, &one.delivery.id)?).await?;
            let sent = whole.payload.as_ref().and_then(|payload| std::str::from_utf8(&payload.body).ok());
            let body = match (data_text(&self.story.data), sent) {
                (Some(data), Some(sent)) if data.len().max(sent.len()) <= diff::BODY_BYTES_MAX => {
                    diff::show(visit, data, sent).unwrap_or_else(|| html! { p.code.muted { (t.diff_same) } })
                }
                _ => html! { p.code.muted { (t.diff_none) } },
            };
            let panel = html! {
                div.panel {
                    div.cap { h3 { ((t.diff_of)(&foreign::isolated(&one.delivery.endpoint_name))) } }
                    (body)
                }
            };
            markup.0.push_str(&panel.0);
        }
        Ok(markup)
    }

    /// Returns the webhooks of a run.
    fn webhooks_of<'s>(&'s self, run: &'s str) -> impl Iterator<Item = &'s DeliveryStoryView> {
        self.story.deliveries.iter().filter(move |one| one.delivery.run.as_deref() == Some(run))
    }

    fn run(&self, told: &RunStoryView, changed: &Markup) -> Markup {
        let (visit, run) = (self.visit, &told.run);
        let (texts, formats) = (visit.texts(), visit.formats());
        let t = &texts.event;
        let state = State::of_run(run, texts);
        let log_id = format!("log-{}", run.id);
        let lines = told.log.len() as u64;
        let line = html! {
            b { (foreign::name(&run.plugin)) (version(run.version.as_deref())) }
            @if let Some(endpoint) = &run.endpoint { span.muted { ((t.for_endpoint)(&foreign::isolated(endpoint))) } }
            (state.word())
            @if run.version.is_some() {
                span.muted { (formats.millis(run.duration_ms)) } span.muted { (formats.bytes(run.memory_bytes)) }
            }
            @if run.outcome.as_deref() == Some("ok") { span.muted { (asked(visit, run.webhooks, run.events)) } }
            (self.said(&run.id))
        };
        let may = visit.may("POST /v1/runs/{run}/retry");
        let end = html! {
            @if lines > 0 {
                @let label = match told.log_dropped { 0 => (t.log)(&formats.number(lines)), dropped => (t.log_dropped)(&formats.number(lines), &formats.number(dropped)) };
                (peek(visit, &log_id, &label))
            }
            @if self.webhooks_of(&run.id).next().is_some() { (peek(visit, &format!("diff-{}", run.id), t.diff)) }
            @if may && matches!(run.state.as_ref(), "parked" | "cancelled") {
                (parts::action(visit, &format!("/runs/{}/retry", run.id), Some("retry"), t.retry_run, Look::Small))
            }
        };
        let below = html! {
            @if let Some(message) = &run.message { p.words { (foreign::code(message)) } }
            @for line in &told.backtrace { p.words.muted { (foreign::code(line)) } }
            @if run.state == "parked" {
                p.muted {
                    @match &run.wants { Some(name) => ((t.parked_waits)(&foreign::isolated(name))), None => (t.parked_note) }
                }
            }
            @if let (Some(due), "waiting") = (&run.due, run.state.as_ref()) {
                p.muted { ((t.next_try)(&formats.clock(due), &formats.span(until(due)))) }
            }
            (changed)
            @if self.is_open(&log_id) { (log_panel(visit, &told.log)) }
        };
        self.step(&Step { id: &run.id, at: None, state, line, end, below })
    }

    async fn delivery(&self, told: &DeliveryStoryView) -> Result<Markup, Problem> {
        let (visit, delivery) = (self.visit, &told.delivery);
        let (texts, formats) = (visit.texts(), visit.formats());
        let t = &texts.event;
        let state = State::of_delivery(&delivery.state, texts);
        let (request_id, answer_id) = (format!("request-{}", delivery.id), format!("answer-{}", delivery.id));
        let last = told.attempts.last();
        let is_simple = delivery.state == "delivered" && told.attempts.len() <= 1;
        let planned = state::planned(self.ui, &delivery.endpoint_name);
        let line = html! {
            b { (foreign::name(&delivery.endpoint_name)) }
            span.w data-s=(state.tone.as_str()) {
                (state.word) @if let (Some(last), "delivered") = (&delivery.last, delivery.state.as_ref()) { ", " (state::answer(last, texts)) }
            }
            @if let (true, Some(last)) = (is_simple, last) { span.muted { (formats.millis(last.result.latency_ms)) } }
            @if delivery.state == "retrying" {
                (state::dots(delivery.attempt_count, planned))
                @if let Some(due) = &delivery.due {
                    span.muted {
                        ((t.try_of)(&formats.number(u64::from(delivery.attempt_count) + 1), &formats.number(u64::from(planned)))) " "
                        ((t.next_try)(&formats.clock(due), &formats.span(until(due))))
                    }
                }
            } @else if delivery.attempt_count > 0 {
                span.muted { ((t.try_one)(&formats.number(u64::from(delivery.attempt_count)))) }
            }
            @if delivery.run.is_none() && delivery.state != "retrying" { span.muted { (t.direct) } }
            @if let Some(reason) = &delivery.reason { span.muted { (reason) } }
            (self.said(&delivery.id))
        };
        let may = visit.may("POST /v1/deliveries/{delivery}/retry");
        let act = |verb: &str, icon: Option<&str>, label: &str| {
            parts::action(visit, &format!("/deliveries/{}/{verb}", delivery.id), icon, label, Look::Small)
        };
        let end = html! {
            @if is_simple || last.is_none() {
                (peek(visit, &request_id, texts.common.request))
                @if last.is_some() { (peek(visit, &answer_id, texts.common.answer)) }
            }
            @if may {
                @match delivery.state.as_ref() {
                    "retrying" => { (act("retry", Some("retry"), texts.common.retry_now)) (act("cancel", None, texts.common.cancel)) },
                    "pending" => (act("cancel", None, texts.common.cancel)),
                    "dead" | "cancelled" => (act("retry", Some("retry"), texts.common.retry)),
                    _ => {},
                }
            }
        };
        let request = match self.is_open(&request_id) {
            true => self.request(&delivery.id).await?,
            false => None,
        };
        let below = html! {
            @if !is_simple && !told.attempts.is_empty() { (tries(visit, &told.attempts, &request_id, &answer_id)) }
            @if self.is_open(&request_id) {
                @match &request { Some(request) => (request_sent(visit, request)), None => p.muted { (t.no_request) } }
            }
            @if let (true, Some(last)) = (self.is_open(&answer_id), last) { (answer_panel(visit, &delivery.id, last)) }
        };
        let at = told.attempts.first().map(|first| first.result.at.clone());
        Ok(self.step(&Step { id: &delivery.id, at, state, line, end, below }))
    }

    async fn request(&self, id: &str) -> Result<Option<SentRequestView>, Problem> {
        let sight = self.visit.sight("GET /v1/deliveries/{delivery}")?;
        let whole = self.ui.api.store.whole_delivery(delivery_id(&self.ui.api, id)?).await?;
        requests_of(&self.ui.api, &whole, sight).await
    }

    async fn emitted(&self) -> Result<Markup, Problem> {
        let (visit, story) = (self.visit, self.story);
        let (texts, formats) = (visit.texts(), visit.formats());
        let mut markup = html! {};
        for id in story.emitted.iter().take(EMITTED_SHOWN_MAX) {
            let one = match self.ui.api.store.event(event_id(&self.ui.api, id)?, StoryPlace::default()).await {
                Ok(one) => EventStoryView::new(&one, |_| None, self.ui.api.store.tag()),
                // Retention may have removed the emitted event earlier than the event that caused it.
                Err(crate::store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let event = &one.event;
            let state = State::of_event(&event.state, texts);
            let open = format!("story-{id}");
            let line = html! {
                b { (texts.event.emitted) " " (foreign::name(&event.r#type)) }
                span.w data-s=(state.tone.as_str()) { (state.word) @let count = state::delivered_of(event, texts, &formats); @if !count.0.is_empty() { ", " (count) } }
                a.mono href=(format!("/events/{id}")) { (id) } (parts::copy(id, visit))
            };
            let below = html! { @if self.is_open(&open) { ol.story.nested { (self.nested(&one)) } } };
            let end = peek(visit, &open, texts.event.story);
            markup.0.push_str(&self.step(&Step { id, at: Some(event.accepted_at.clone()), state, line, end, below }).0);
        }
        let hidden = story.emitted.len().saturating_sub(EMITTED_SHOWN_MAX) as u64;
        let more = html! { @if hidden > 0 { li.step { span.at {} span.mark {} div.body { p.muted { ((texts.event.and_more_events)(&formats.number(hidden))) } } } } };
        markup.0.push_str(&more.0);
        Ok(markup)
    }

    /// Writes the events that take place later.
    fn later(&self) -> Markup {
        let (texts, formats) = (self.visit.texts(), self.visit.formats());
        let mut markup = html! {};
        for (place, one) in self.story.scheduled.iter().enumerate() {
            let state = State::of_scheduled(one.cancelled_at.is_some(), texts);
            let due = (texts.event.due_at)(&formats.day_and_clock(&one.due_at));
            let line = html! {
                b { (texts.event.later) " " (foreign::name(&one.r#type)) }
                @if let Some(subject) = &one.subject { span.mono { (foreign::value(subject)) } }
                span.w data-s=(state.tone.as_str()) { @if one.cancelled_at.is_some() { (state.word) } @else { (formats.time(&one.due_at, &due)) } }
                span.muted { (foreign::name(&one.source)) }
            };
            let id = format!("later-{place}");
            let step = Step { id: &id, at: one.cancelled_at.clone(), state, line, end: html! {}, below: html! {} };
            markup.0.push_str(&self.step(&step).0);
        }
        markup
    }

    /// Writes the story of an emitted event in short. The page of that event has all of it.
    fn nested(&self, story: &EventStoryView) -> Markup {
        let (texts, formats) = (self.visit.texts(), self.visit.formats());
        let line = |state: State, body: Markup| html! { li.step { span.at {} (state.mark()) div.body { div.line { (body) } } } };
        html! {
            @for run in &story.runs {
                @let state = State::of_run(&run.run, texts);
                (line(state, html! { b { (foreign::name(&run.run.plugin)) (version(run.run.version.as_deref())) } (state.word()) span.muted { (formats.millis(run.run.duration_ms)) } }))
            }
            @for one in &story.deliveries {
                @let state = State::of_delivery(&one.delivery.state, texts);
                (line(state, html! { b { (foreign::name(&one.delivery.endpoint_name)) } (state.word()) @if let Some(last) = &one.delivery.last { span.muted { (state::answer(last, texts)) } } }))
            }
            @if story.runs.is_empty() && story.deliveries.is_empty() { li.step { span.at {} span.mark {} div.body { p.muted { (texts.event.unrouted_note) } } } }
        }
    }
}

/// Returns what a run asked for: `2 webhooks, 1 event`.
pub fn asked(visit: &Visit, webhooks: u32, events: u32) -> String {
    let (t, formats) = (&visit.texts().event, visit.formats());
    let many = |number: u32, one: &'static str, more: fn(&str) -> String| match number {
        0 => None,
        1 => Some(one.to_owned()),
        number => Some(more(&formats.number(u64::from(number)))),
    };
    let words: Vec<String> = [many(webhooks, t.asked_webhook, t.asked_webhooks), many(events, t.asked_event, t.asked_events)]
        .into_iter()
        .flatten()
        .collect();
    if words.is_empty() { t.asked_nothing.to_owned() } else { words.join(", ") }
}

/// Returns the time until something is due, or zero if it is already due.
fn until(due: &str) -> Duration {
    Timestamp::parse_rfc3339(due).map_or(Duration::ZERO, |due| due.since(clock::wall()))
}

/// Writes the attempts of a delivery as a table. Only the last attempt can be opened.
fn tries(visit: &Visit, attempts: &[AttemptView], request_id: &str, answer_id: &str) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let common = &texts.common;
    html! {
        table.rows.tries role="table" {
            (columns(&[(texts.event.try_head, "w48"), (common.at, "w96"), (common.outcome, "w144"), (common.took, "w80 num"), (texts.event.answer_head, ""), ("", "w200")]))
            tbody role="rowgroup" {
                @for (place, attempt) in attempts.iter().enumerate() {
                    @let result = &attempt.result;
                    @let shown = if result.status.is_some_and(|status| (200..300).contains(&status)) { State::ok("") } else { State::failed("") };
                    tr role="row" {
                        td.pc role="cell" { (attempt.n) }
                        td.pd.dim role="cell" { (formats.time(&result.at, &formats.in_list(&result.at, clock::wall(), false))) }
                        td.pa role="cell" { span.s data-s=(shown.tone.as_str()) { (parts::shape(shown.shape)) span { (state::outcome(&result.outcome, result.status, texts)) } } }
                        td.pb.num role="cell" { (formats.millis(result.latency_ms)) }
                        td.ph.mono role="cell" {
                            @if result.excerpt.is_empty() { span.dim { @match &result.detail { Some(detail) => (foreign::value(detail)), None => (texts.event.no_answer) } } }
                            @else { (foreign::value(&result.excerpt)) }
                        }
                        td.pe.num role="cell" {
                            @if place + 1 == attempts.len() { (peek(visit, request_id, common.request)) (peek(visit, answer_id, common.answer)) }
                        }
                    }
                }
            }
        }
    }
}

/// Writes an answer: status, time and other details on the left, the first bytes of the body on the right.
fn answer_panel(visit: &Visit, id: &str, attempt: &AttemptView) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.event;
    let result = &attempt.result;
    html! {
        div.panel.halves {
            div {
                div.cap { h3 { ((t.last_answer)(&formats.number(u64::from(attempt.n)))) } }
                dl.facts-list.of-answer {
                    dt { (texts.common.status) } dd { (state::outcome(&result.outcome, result.status, texts)) }
                    @if let Some(detail) = &result.detail { dt { (texts.common.outcome) } dd { (foreign::value(detail)) } }
                    dt { (texts.common.took) } dd { (formats.millis(result.latency_ms)) }
                    dt { "webhook-id" } dd { (id) }
                }
            }
            div {
                div.cap { h3 { ((t.first_bytes)(&formats.number(result.excerpt.len() as u64))) } @if !result.excerpt.is_empty() { div.end { (parts::copy(&result.excerpt, visit)) } } }
                @if result.excerpt.is_empty() { p.code.muted { (t.empty_body) } } @else { pre.code tabindex="0" { (foreign::code(&result.excerpt)) } }
            }
        }
    }
}

/// Writes a request as it was sent: head on the left, body on the right.
fn request_sent(visit: &Visit, request: &SentRequestView) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let head = &request.head;
    html! {
        div.panel {
            div.cap { h3 { (texts.common.request) } span.muted.grow { code { (head.method) } " " (foreign::cut(&head.url)) } }
            dl.facts-list { @for (name, value) in &head.headers { dt { (foreign::name(name)) } dd { (foreign::value(value)) } } }
            @match &request.body.text {
                Some(text) => {
                    @let (body, is_whole) = json::pretty(text, &formats);
                    pre.code tabindex="0" { (body) }
                    @if !is_whole || !request.body.is_whole { div.foot { span.muted { ((texts.event.shown_in_part)(&formats.bytes(head.body_bytes))) } } }
                },
                None => p.code.muted { ((texts.event.not_text)(&formats.bytes(head.body_bytes))) },
            }
        }
    }
}

/// Writes the request that a source received.
fn request_panel(visit: &Visit, request: &RequestView) -> Markup {
    let texts = visit.texts();
    html! {
        div.panel {
            div.cap { h3 { (texts.common.headers) } }
            dl.facts-list {
                @if !request.query.is_empty() { dt { "?" } dd { (foreign::value(&request.query)) } }
                @for (name, value) in &request.headers { dt { (foreign::name(name)) } dd { (foreign::value(value)) } }
            }
            @if let Some(body) = &request.body {
                @let (shown, is_whole) = json::raw(body);
                pre.code tabindex="0" { (shown) }
                @if !is_whole { div.foot { span.muted { ((texts.event.shown_in_part)(&visit.formats().bytes(body.len() as u64))) } } }
            }
        }
    }
}

/// Maximum size of the markup of one log on the page, in bytes.
const LOG_MARKUP_MAX: usize = 32 << 10;

fn log_panel(visit: &Visit, log: &[LogView]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let mut left = LOG_MARKUP_MAX;
    let mut lines = html! {};
    let mut is_whole = true;
    for line in log {
        let (message, rest) = foreign::visible_within(&line.message, left);
        let line = html! { span.l { i { (line.level) } " " bdi dir="ltr" { (message) @if !rest.is_empty() { "…" } } "\n" } };
        left = left.saturating_sub(line.0.len());
        lines.0.push_str(&line.0);
        is_whole &= rest.is_empty();
        if left == 0 || !is_whole {
            is_whole = false;
            break;
        }
    }
    let bytes: usize = log.iter().map(|line| line.message.len()).sum();
    html! {
        div.panel {
            pre.code.log tabindex="0" { (lines) }
            @if !is_whole { div.foot { span.muted { ((texts.event.shown_in_part)(&formats.bytes(bytes as u64))) } } }
        }
    }
}
