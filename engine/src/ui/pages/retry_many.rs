//! Retrying many deliveries: the page that asks for confirmation, and the page with the progress of the job. The job continues when
//! the reader leaves the page.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, State},
    http::{Method, Uri},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::json;

use super::endpoints::{actions::page_of, one, title_of};
use crate::{
    api::{
        Problem, endpoints,
        jobs::{self, Retried},
        page::Query as ApiQuery,
        path::Path as ApiPath,
    },
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        layout::{self, Head, Page, Place},
        parts::{self, Look, action, icon, segment, state::State as Shown, with_query},
        texts::Texts,
        visit::Visit,
    },
    wire::{EndpointView, JobView},
};

/// Seconds after which the progress of a running job is loaded again.
const AGAIN_SECONDS: u16 = 2;

/// The deliveries that the address selects.
struct Which<'a>(&'a Fields);

impl Which<'_> {
    fn state(&self) -> &str {
        self.0.get("state").unwrap_or("dead")
    }

    fn retried(&self) -> Retried {
        let text = |name: &str| self.0.get(name).map(str::to_owned);
        Retried {
            endpoint: text("endpoint"),
            state: Some(self.state().to_owned()),
            event_type: text("type"),
            ..Retried::default()
        }
    }
}

pub async fn ask(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    visit.sight("POST /v1/deliveries/retry")?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let which = Which(&fields);
    let count = jobs::count_retries(State(Arc::clone(&ui.api)), ApiQuery(which.retried())).await?.0.count;
    let endpoint = match fields.get("endpoint") {
        Some(name) => Some(one::read(&ui, &visit, name).await?.0),
        None => None,
    };
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.retry_many;
    let number = count.map_or_else(|| t.many.to_owned(), |count| formats.number(count));
    let state = Shown::of_delivery(which.state(), texts);
    let title = match (&endpoint, count) {
        (Some(endpoint), Some(1)) => (t.title_to_one)(state.word, &foreign::isolated(title_of(endpoint))),
        (Some(endpoint), _) => (t.title_to)(&number, state.word, &foreign::isolated(title_of(endpoint))),
        (None, Some(1)) => (t.title_one)(state.word),
        (None, _) => (t.title)(&number, state.word),
    };
    let button = if count == Some(1) { t.button_one.to_owned() } else { (t.button)(&number) };
    let back = endpoint.as_ref().map_or_else(|| "/deliveries".to_owned(), |endpoint| page_of(&endpoint.name));
    let body = html! {
        (head(&visit, &back, endpoint.as_ref(), &title))
        div.ask {
            @if count == Some(0) {
                (parts::empty("deliveries", t.none, &html! { p { (t.none_why) } }, &parts::link_button(&back, None, texts.frame.close, Look::Plain)))
            } @else {
                p { (t.says) }
                dl.policy {
                    div { dt { (t.which) } dd { (state.show()) @if let Some(kind) = fields.get("type") { " " (texts.events.type_is) " " (foreign::value(kind)) } } }
                    @if let Some(endpoint) = &endpoint {
                        div { dt { (t.pace) } dd { (pace(&ui, &visit, endpoint, count)) } }
                        @if let Some(but) = but(&visit, endpoint) { div { dt { (t.but) } dd { (but) } } }
                    }
                }
                p.muted { (t.continues) }
                form.acts method="post" action="/deliveries/retry" data-whole {
                    (parts::hidden(&visit))
                    input type="hidden" name="state" value=(which.state());
                    @if let Some(endpoint) = &endpoint { input type="hidden" name="endpoint" value=(endpoint.name); }
                    @if let Some(kind) = fields.get("type") { input type="hidden" name="type" value=(kind); }
                    @if endpoint.as_ref().is_some_and(|endpoint| endpoint.state == "disabled") { (parts::disabled_button(Some("retry"), &button, t.enable_first)) }
                    @else { button.btn.primary type="submit" { (icon("retry")) (button) } }
                    (parts::link_button(&back, None, texts.common.cancel, Look::Plain))
                }
            }
        }
    };
    Ok(layout::page(&ui, &visit, &Page::new(Place::Deliveries, &title, body)).await)
}

fn head(visit: &Visit, back: &str, endpoint: Option<&EndpointView>, title: &str) -> Markup {
    let texts = visit.texts();
    let above = endpoint.map_or(texts.deliveries.title, title_of);
    Head { above: Some((back, above, html! { (texts.common.retry) })), ..layout::title(title) }.show()
}

/// Writes how fast the webhooks will be sent, and how long that takes.
fn pace(ui: &Ui, visit: &Visit, endpoint: &EndpointView, count: Option<u64>) -> String {
    let (t, formats) = (&visit.texts().retry_many, visit.formats());
    let rate = endpoints::find(&ui.api, &endpoint.name).ok().and_then(|one| one.new.policy.rate);
    match (rate, count) {
        (Some(rate), Some(count)) => (t.pace_rate)(&rate.to_string(), &formats.span(taking(count, rate.interval()))),
        (Some(rate), None) => rate.to_string(),
        (None, _) => (t.pace_free)(&formats.number(endpoint.concurrency as u64)),
    }
}

/// Returns how long this number of webhooks takes at one webhook per `interval`, but at least one second.
fn taking(count: u64, interval: Duration) -> Duration {
    interval.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)).max(Duration::from_secs(1))
}

/// Writes a warning if the endpoint does not deliver now.
fn but(visit: &Visit, endpoint: &EndpointView) -> Option<Markup> {
    let texts = visit.texts();
    let t = &texts.retry_many;
    let state = Shown::of_endpoint(&endpoint.state, endpoint.failing_since.is_some(), texts);
    let why = match (endpoint.state.as_ref(), &endpoint.failing_since) {
        ("disabled", _) => t.but_disabled.to_owned(),
        ("paused", _) => t.but_paused.to_owned(),
        (_, Some(since)) => (t.but_failing)(&layout::age(since, visit)),
        _ => return None,
    };
    Some(html! { (state.show()) ": " (why) })
}

pub async fn start(State(ui): State<Arc<Ui>>, form: Form) -> Result<Response, Problem> {
    let which = Which(&form.fields);
    let body = json!({ "state": which.state(), "endpoint": form.fields.get("endpoint"), "event_type": form.fields.get("type") });
    let job = ui.act(&form.visit, Method::POST, "/v1/deliveries/retry", Some(&body)).await?;
    Ok(Redirect::to(&format!("/jobs/{}", segment(job["id"].as_str().unwrap_or_default()))).into_response())
}

pub async fn stop(State(ui): State<Arc<Ui>>, Path(id): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("/v1/jobs/{}/cancel", segment(&id)), None).await?;
    Ok(Redirect::to(&format!("/jobs/{}", segment(&id))).into_response())
}

pub async fn progress(State(ui): State<Arc<Ui>>, visit: Visit, Path(id): Path<String>) -> Result<Response, Problem> {
    visit.sight("GET /v1/jobs/{job}")?;
    let job = jobs::show(State(Arc::clone(&ui.api)), ApiPath(id)).await?.0;
    let endpoint = match &job.filter.endpoint {
        Some(id) => one::read(&ui, &visit, id).await.ok().map(|(endpoint, _)| endpoint),
        None => None,
    };
    let texts = visit.texts();
    let t = &texts.retry_many;
    let kind = Kind::of(&job, endpoint.as_ref(), texts);
    let title = match job.state.as_ref() {
        "running" => kind.running,
        "cancelled" => kind.cancelled,
        _ => kind.done,
    };
    let (place, back) = match (&endpoint, kind.of_deliveries) {
        (Some(endpoint), true) => (Place::Deliveries, page_of(&endpoint.name)),
        (None, true) => (Place::Deliveries, "/deliveries".to_owned()),
        (_, false) => (Place::Settings, "/settings/jobs".to_owned()),
    };
    let body = html! {
        @if kind.of_deliveries { (head(&visit, &back, endpoint.as_ref(), title)) }
        @else { (Head { above: Some((&back, texts.settings.jobs, html! { span.mono { (job.id) } })), ..layout::title(title) }.show()) }
        div #job.ask data-live="deliveries again" { (told(&visit, &job, &kind, &back)) }
        @if job.state == "running" { p.small #again data-again=(AGAIN_SECONDS) { (t.again) } }
    };
    Ok(layout::page(&ui, &visit, &Page::new(place, title, body)).await)
}

/// The words for what a job works on.
struct Kind {
    of_deliveries: bool,
    running: &'static str,
    cancelled: &'static str,
    done: &'static str,
    done_of: fn(&str, &str) -> String,
    done_so_far: fn(&str) -> String,
    did: &'static str,
    did_not: &'static str,
    did_not_why: &'static str,
    /// List of what became due.
    shows: String,
    /// List of what did not.
    shows_not: Option<String>,
}

impl Kind {
    fn of(job: &JobView, endpoint: Option<&EndpointView>, texts: &Texts) -> Self {
        let t = &texts.retry_many;
        let filter = &job.filter;
        match job.kind.as_ref() {
            "run.retry" => {
                let of = filter.plugin.as_ref().map(|plugin| format!("/plugins/{}/runs", segment(plugin)));
                Self {
                    of_deliveries: false,
                    running: t.running,
                    cancelled: t.cancelled,
                    done: t.done,
                    done_of: t.runs_done_of,
                    done_so_far: t.runs_done_so_far,
                    did: t.ran_again,
                    did_not: t.not_ran,
                    did_not_why: t.not_ran_why,
                    shows_not: of.as_ref().map(|of| format!("{of}?state=parked")),
                    shows: of.unwrap_or_else(|| "/plugins".to_owned()),
                }
            }
            "event.replay" => {
                let mut shows = "/events".to_owned();
                for (name, value) in
                    [("type", &filter.event_type), ("source", &filter.source), ("since", &filter.since), ("until", &filter.until)]
                {
                    shows = with_query(&shows, name, value.as_deref());
                }
                Self {
                    of_deliveries: false,
                    running: t.replaying,
                    cancelled: t.replay_cancelled,
                    done: t.replay_done,
                    done_of: t.events_done_of,
                    done_so_far: t.events_done_so_far,
                    did: t.replayed,
                    did_not: t.not_replayed,
                    did_not_why: t.not_replayed_why,
                    shows,
                    shows_not: None,
                }
            }
            _ => {
                let of = endpoint.map_or_else(|| "/deliveries".to_owned(), |endpoint| page_of(&endpoint.name));
                Self {
                    of_deliveries: true,
                    running: t.running,
                    cancelled: t.cancelled,
                    done: t.done,
                    done_of: t.done_of,
                    done_so_far: t.done_so_far,
                    did: t.sent_again,
                    did_not: t.not_sent,
                    did_not_why: t.not_sent_why,
                    shows: format!("{of}?state=retrying"),
                    shows_not: Some(format!("{of}?state=dead")),
                }
            }
        }
    }
}

fn told(visit: &Visit, job: &JobView, kind: &Kind, back: &str) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.retry_many;
    let done = formats.number(job.done);
    html! {
        p role="status" { @match job.total { Some(total) => ((kind.done_of)(&done, &formats.number(total))), None => ((kind.done_so_far)(&done)) } }
        @match job.total {
            Some(total) => progress max=(total.max(1)) value=(if job.state == "done" { total.max(1) } else { job.done + job.failed }) {},
            None if job.state == "running" => progress {},
            None => {},
        }
        dl.policy {
            div { dt { (kind.did) } dd { (done) " " a href=(kind.shows) { (if kind.of_deliveries { t.show_retrying } else { t.show }) } } }
            div { dt { (kind.did_not) } dd { (formats.number(job.failed)) @if job.failed > 0 { " " span.muted { (kind.did_not_why) } @if let Some(to) = &kind.shows_not { " " a href=(to) { (t.show) } } } } }
        }
        @if job.state == "running" { p.muted { (t.may_close) " " code { (job.id) } } }
        div.acts {
            @if job.state == "running" && visit.may("POST /v1/jobs/{job}/cancel") { (action(visit, &format!("/jobs/{}/cancel", job.id), None, t.stop, Look::Plain)) }
            (parts::link_button(back, None, texts.frame.close, Look::Primary))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_follows_from_the_pace() {
        assert_eq!(taking(37, Duration::from_millis(20)), Duration::from_secs(1));
        assert_eq!(taking(1200, Duration::from_millis(20)), Duration::from_secs(24));
    }
}
