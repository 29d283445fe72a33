//! The page of one source: the address to paste, the last requests, why requests were refused, and the rules.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::{HeaderMap, Method, Uri, header},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};

use super::{connect, sender, state_of, to_copy};
use crate::{
    api::{
        Problem,
        events::{self, Filter},
        page::Query as ApiQuery,
        path::Path as ApiPath,
        sources,
    },
    clock,
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        layout::{self, Head, Page, Place},
        parts::{self, Look, columns, seg, segment, state::State as Shown, with_query},
        texts::Texts,
        view::back,
        visit::Visit,
    },
    wire::{EventView, RefusalView, SourceView},
};

/// Maximum number of accepted requests on the page. The list of events has all of them.
const ACCEPTED_SHOWN: usize = 20;

pub async fn show(
    State(ui): State<Arc<Ui>>,
    visit: Visit,
    Path(name): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let caller = visit.caller("GET /v1/sources/{source}")?;
    let source = sources::show(State(Arc::clone(&ui.api)), Extension(caller), ApiPath(name)).await?.0;
    visit.sight("GET /v1/events")?;
    // Before the source existed, anybody with a key could send events under its name. Since then, only requests to the source
    // create such events.
    let since = Some(source.created_at.clone());
    let filter =
        Filter { source: Some(source.name.clone()), since, limit: Some(ACCEPTED_SHOWN.to_string()), ..Filter::default() };
    let accepted = events::list(State(Arc::clone(&ui.api)), ApiQuery(filter)).await?.0.items;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let texts = visit.texts();
    let t = &texts.sources;
    let body = html! {
        div #source-head data-live="events sources" { (head(&visit, &source, &fields)) }
        @if fields.get("ask") == Some("delete") && visit.may("DELETE /v1/sources/{source}") { div #ask.section { (ask_removal(&visit, &source)) } }
        @if let Some(warning) = &source.warning { div #warning.section { (parts::note(Shown::warning(""), &html! { (foreign::code(warning)) }, &html! {})) } }
        div #address-section.section {
            h2 { (t.address) }
            (address(&visit, &source, &headers))
        }
        div #source-parts.with-side {
            div #requests.section data-live="events sources" { (requests(&visit, &source, &accepted, &fields)) }
            div #rules.section { h2 { (t.rules) } (rules(&visit, &source)) }
        }
    };
    Ok(layout::page(&ui, &visit, &Page::new(Place::Sources, &source.name, body)).await)
}

fn head(visit: &Visit, source: &SourceView, fields: &Fields) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.sources;
    let path = format!("/sources/{}", segment(&source.name));
    let last = source.last_accepted_at.as_ref().map(|at| (t.last_at)(&formats.in_list(at, clock::wall(), false)));
    let actions = html! {
        @if visit.may("POST /v1/sources/{source}/rotate-secret") && source.secrets > 0 {
            (parts::action(visit, &format!("{path}/rotate-secret"), Some("key"), t.rotate_secret, Look::Plain))
        }
        @if visit.may("POST /v1/sources/{source}/rotate-address") {
            (parts::action(visit, &format!("{path}/rotate-address"), Some("link"), t.rotate_address, Look::Plain))
        }
        @if visit.may("PATCH /v1/sources/{source}") { (parts::link_button(&format!("{path}/edit"), Some("pencil"), texts.endpoint.edit, Look::Plain)) }
        @if visit.may("DELETE /v1/sources/{source}") {
            (parts::link_button(&with_query(&visit.path, "ask", Some("delete")), Some("trash"), t.delete, Look::Danger))
        }
        @if let Some((what, at)) = fields.get("said").and_then(|said| said.split_once('~')) {
            @let at = formats.clock(at);
            span.said role="status" { @if what == "saved" { ((texts.endpoint.changed_at)(&at)) } @else { ((t.address_rotated)(&at)) } }
        }
    };
    Head {
        above: Some(("/sources", t.title, html! { span.mono { (foreign::name(&source.name)) } })),
        title: foreign::name(&source.name),
        state: Some(state_of(source, texts).chip(&html! { @if let Some(last) = last { (last) } })),
        facts: Some(html! {
            span.fact { (sender(&source.preset, texts)) }
            @if let Some(title) = &source.title { span.fact { (foreign::value(title)) } }
            span.fact { ((t.counts)(&formats.number(source.accepted), &formats.number(source.refused), &formats.number(source.duplicates))) }
        }),
        actions: Some(actions),
    }
    .show()
}

/// Writes the address to give to the sender. A key of the role `read` does not see it, because with some presets it is the only
/// secret.
pub fn address(visit: &Visit, source: &SourceView, headers: &HeaderMap) -> Markup {
    let t = &visit.texts().sources;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    match (&source.url, &source.path) {
        (Some(url), _) => to_copy(visit, "address", url),
        (None, Some(path)) => html! {
            (to_copy(visit, "address", &format!("http://{host}{path}")))
            p.hint { (t.address_hint) }
        },
        (None, None) => html! { p.muted { (t.address_hidden) } },
    }
}

/// A request as the page lists it.
enum Came<'a> {
    Accepted(&'a EventView),
    Refused(&'a RefusalView),
}

impl Came<'_> {
    fn at(&self) -> &str {
        match self {
            Self::Accepted(event) => &event.accepted_at,
            Self::Refused(refusal) => &refusal.at,
        }
    }
}

fn requests(visit: &Visit, source: &SourceView, accepted: &[EventView], fields: &Fields) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.sources;
    let only_refused = fields.get("only") == Some("refused");
    let mut all: Vec<Came<'_>> = source.refusals.iter().map(Came::Refused).collect();
    if !only_refused {
        all.extend(accepted.iter().map(Came::Accepted));
    }
    // Times in one format and zone sort as text.
    all.sort_by(|one, other| other.at().cmp(one.at()));
    let refused = (t.only_refused)(&formats.number(source.refusals.len() as u64));
    let choices = [
        (texts.deliveries.all, with_query(&visit.path, "only", None), !only_refused),
        (refused.as_str(), with_query(&visit.path, "only", Some("refused")), only_refused),
    ];
    html! {
        div.section-head { h2 { (t.requests) } (seg(t.requests, &choices)) }
        @if source.accepted == 0 && source.refused == 0 {
            p.calm-line #waiting role="status" { (Shown::pending(t.waiting_line).show()) }
        } @else if all.is_empty() {
            p.muted { (t.none_refused) }
        } @else {
            table.rows role="table" aria-label=(t.requests) {
                (columns(&[(texts.common.time, "w112"), (texts.common.outcome, "w120"), (t.what, ""), (t.from, "w144")]))
                tbody role="rowgroup" { @for (number, one) in all.iter().enumerate() { (row(visit, number, one)) } }
            }
            @if accepted.len() == ACCEPTED_SHOWN && !only_refused {
                p.pager { (parts::link_button(&with_query(&with_query("/events", "source", Some(&source.name)), "since", Some(&source.created_at)), Some("events"), t.all_events, Look::Small)) }
            }
        }
    }
}

fn row(visit: &Visit, number: usize, one: &Came<'_>) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.sources;
    let time = formats.time(one.at(), &formats.in_list(one.at(), clock::wall(), false));
    match one {
        Came::Accepted(event) => html! {
            tr #(event.event) role="row" data-row {
                td.pc.dim role="cell" { (time) }
                td.pb role="cell" { (Shown::ok(t.one_accepted).show()) }
                td.pa role="cell" { a.go href=(format!("/events/{}", event.event)) { (foreign::name(&event.r#type)) } }
                td.pd role="cell" {}
            }
        },
        Came::Refused(refusal) => html! {
            tr id=(format!("refused-{}-{number}", refusal.at)) role="row" data-row tabindex="-1" {
                td.pc.dim role="cell" { (time) }
                td.pb role="cell" { (Shown::failed(t.one_refused).show()) }
                td.pa.whole role="cell" { (reason(&refusal.reason, texts)) span.why { (foreign::code(&refusal.detail)) } }
                td.pd.mono.dim role="cell" { (foreign::value(&refusal.address)) }
            }
        },
    }
}

/// Returns why a request was refused.
fn reason(word: &str, texts: &Texts) -> Markup {
    let t = &texts.sources;
    let known = match word {
        "missing" => t.why_missing,
        "malformed" => t.why_malformed,
        "timestamp" => t.why_timestamp,
        "mismatch" => t.why_mismatch,
        "address" => t.why_address,
        "method" => t.why_method,
        "content-type" => t.why_content_type,
        "body" => t.why_body,
        "rate" => t.why_rate,
        "depth" => t.why_depth,
        "id" => t.why_id,
        other => return html! { (foreign::name(other)) },
    };
    html! { (known) }
}

/// Writes the rules of a source in words.
fn rules(visit: &Visit, source: &SourceView) -> Markup {
    let t = &visit.texts().sources;
    let mono = |text: &str| html! { span.mono { (foreign::code(text)) } };
    let list = |all: &[String], none: &str| {
        if all.is_empty() {
            html! { (none) }
        } else {
            mono(&all.join(", "))
        }
    };
    let mut rows: Vec<(&str, Markup)> = vec![(t.verified_by, list(&source.proofs, t.nothing_proves))];
    let mut text = |name, value: &Option<String>| {
        if let Some(value) = value {
            rows.push((name, mono(value)));
        }
    };
    text(t.signed_text, &source.template);
    text(t.signed_time, &source.timestamp);
    text(t.tolerance, &source.tolerance);
    text(t.type_from, &source.type_from);
    rows.push((
        t.prefix,
        if source.type_prefix.is_empty() {
            html! { (t.no_prefix) }
        } else {
            mono(&source.type_prefix)
        },
    ));
    rows.push((t.known_by, mono(&source.dedupe)));
    rows.push((t.may_come_from, list(&source.allow, t.anywhere)));
    rows.push((t.methods, list(&source.methods, t.anything)));
    rows.push((t.content_types, list(&source.content_types, t.anything)));
    if let Some(rate) = &source.rate {
        rows.push((t.at_most, mono(rate)));
    }
    let answer = source.answer_body.as_deref().unwrap_or("{\"accepted\": \"evt_…\"}");
    rows.push((t.answer, html! { (source.answer_status) " " (mono(answer)) }));
    html! { dl.policy { @for (name, value) in rows { div { dt { (name) } dd { (value) } } } } }
}

/// Writes the question before a source is deleted.
fn ask_removal(visit: &Visit, source: &SourceView) -> Markup {
    let texts = visit.texts();
    let action = html! {
        form.act method="post" action=(format!("/sources/{}/delete", segment(&source.name))) data-whole {
            (parts::hidden(visit))
            button.btn.danger type="submit" { (texts.sources.delete_confirm) }
        }
        (parts::link_button(&with_query(&visit.path, "ask", None), None, texts.frame.close, Look::Quiet))
    };
    parts::note(Shown::dead(""), &html! { (texts.sources.delete_says) }, &action)
}

pub async fn remove(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::DELETE, &format!("/v1/sources/{}", segment(&name)), None).await?;
    Ok(Redirect::to("/sources").into_response())
}

pub async fn rotate_address(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::POST, &format!("/v1/sources/{}/rotate-address", segment(&name)), None).await?;
    Ok(Redirect::to(&with_query(back(form.fields.get("back")), "said", Some(&format!("address~{}", clock::wall()))))
        .into_response())
}

/// Generates a new secret and shows it once. Browsers do not store the page, and loading its address again shows the source.
pub async fn rotate_secret(
    State(ui): State<Arc<Ui>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    form: Form,
) -> Result<Response, Problem> {
    let made = ui.act(&form.visit, Method::POST, &format!("/v1/sources/{}/rotate-secret", segment(&name)), None).await?;
    connect::once(&ui, &form.visit, &made, &headers).await
}
