//! Sources: the list, the page of one source, and the parts that both share.

mod connect;
mod edit;
mod one;

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use maud::{Markup, html};

pub use self::{
    connect::{create, form},
    edit::{change, edit},
    one::{remove, rotate_address, rotate_secret, show},
};
use crate::{
    api::{Problem, sources},
    clock,
    domain::{
        id::SourceId,
        source::Preset,
        stats::{About, Last},
    },
    ui::{
        Ui, foreign,
        layout::{self, Head, Page, Place},
        pages::endpoints::history::{self, History},
        parts::{
            self, Look, columns, segment,
            state::State as Shown,
            strip::{self, Bar},
        },
        texts::Texts,
        visit::Visit,
    },
    wire::SourceView,
};

pub async fn list(State(ui): State<Arc<Ui>>, visit: Visit) -> Result<Response, Problem> {
    let caller = visit.caller("GET /v1/sources")?;
    let mut all = sources::list(State(Arc::clone(&ui.api)), Extension(caller)).await?.0.items;
    all.sort_by(|one, other| one.name.cmp(&other.name));
    let about: Vec<About> =
        all.iter().filter_map(|one| SourceId::parse(&one.id, ui.api.store.tag()).map(About::Source)).collect();
    let day = history::of(&ui, &about, Last::Day).await?;
    let t = &visit.texts().sources;
    let connect = html! {
        @if visit.may("POST /v1/sources") { (parts::link_button("/sources/new", Some("plus"), t.connect, Look::Primary)) }
    };
    let head = Head { facts: Some(html! { (t.why) }), actions: Some(connect), ..layout::title(t.title) };
    let body = html! {
        (head.show())
        div #rows data-live="events sources" data-hold {
            @if all.is_empty() { (parts::empty("sources", t.none, &html! { p { (t.none_why) } }, &html! {})) }
            @else { (table(&visit, &all, &day)) }
        }
    };
    Ok(layout::page(&ui, &visit, &Page::new(Place::Sources, t.title, body)).await)
}

/// What a source accepted and refused in each hour.
fn bars(history: &History) -> Vec<Bar> {
    history.buckets.iter().map(|(_, counts)| Bar { good: counts.accepted, bad: counts.refused }).collect()
}

fn table(visit: &Visit, all: &[SourceView], day: &[History]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.sources;
    html! {
        (strip::pattern())
        table.rows.two role="table" aria-label=(t.title) {
            (columns(&[
                (t.source, ""), (t.sender, "w168"), (texts.common.state, "w200"), (texts.endpoints.day, "w144"), (t.accepted, "w96 num"), (t.refused, "w96 num"), (t.last, "w112 num"),
            ]))
            tbody role="rowgroup" {
                @for (place, source) in all.iter().enumerate() {
                    tr #(source.id) role="row" data-row {
                        td.pa role="cell" {
                            a.go href=(format!("/sources/{}", segment(&source.name))) { (foreign::name(&source.name)) }
                            @if let Some(title) = &source.title { span.two { (foreign::value(title)) } }
                        }
                        td.pc.dim role="cell" { (sender(&source.preset, texts)) }
                        td.pb role="cell" { (state_of(source, texts).show()) }
                        td.ph role="cell" { @if let Some(history) = day.get(place) { (strip::show(&bars(history))) } }
                        td.ph.num.ends role="cell" { (formats.number(source.accepted)) }
                        td.ph.num.ends role="cell" { (refused_count(source, &formats.number(source.refused))) }
                        td.pd.num.dim role="cell" {
                            @match &source.last_accepted_at {
                                Some(at) => (formats.time(at, &formats.in_list(at, clock::wall(), false))),
                                None => "–",
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Writes the number of refused requests, in red if every request was refused.
fn refused_count(source: &SourceView, number: &str) -> Markup {
    if source.refused > 0 && source.accepted == 0 {
        return html! { span.w data-s="bad" { (number) } };
    }
    html! { span.dim { (number) } }
}

/// Returns the state of a source, from its requests so far.
fn state_of(source: &SourceView, texts: &Texts) -> Shown {
    let t = &texts.sources;
    match (source.accepted, source.refused) {
        (0, 0) => Shown::pending(t.waiting),
        (0, _) => Shown::failed(t.all_refused),
        _ if source.proofs.is_empty() => Shown::warning(t.anyone),
        _ => Shown::ok(t.verified),
    }
}

/// Returns the name of a sender or of a verification method.
fn sender(preset: &str, texts: &Texts) -> &'static str {
    let t = &texts.sources;
    match Preset::parse(preset) {
        Some(Preset::StandardWebhooks) => "Standard Webhooks, Svix",
        Some(Preset::Github) => "GitHub",
        Some(Preset::Stripe) => "Stripe",
        Some(Preset::Shopify) => "Shopify",
        Some(Preset::WooCommerce) => "WooCommerce",
        Some(Preset::Slack) => "Slack",
        Some(Preset::Twilio) => "Twilio",
        Some(Preset::Gitlab) => "GitLab",
        Some(Preset::Zendesk) => "Zendesk",
        Some(Preset::Gitea) => "Gitea, Forgejo",
        Some(Preset::Meta) => "Meta",
        Some(Preset::Zoom) => "Zoom",
        Some(Preset::Strava) => "Strava",
        Some(Preset::Linear) => "Linear",
        Some(Preset::Mailgun) => "Mailgun",
        Some(Preset::Hmac) => t.by_hmac,
        Some(Preset::Basic) => t.by_password,
        Some(Preset::Bearer) => t.by_bearer,
        Some(Preset::HeaderToken) => t.by_token,
        Some(Preset::None) | None => t.by_nothing,
    }
}

/// Writes an address or a secret to copy, in large type and in full.
fn to_copy(visit: &Visit, id: &str, text: &str) -> Markup {
    html! {
        div.to-copy id=(id) {
            code { (foreign::code(text)) }
            button.btn.js type="button" data-copy=(text) { (parts::icon("copy")) (visit.texts().frame.copy) }
        }
    }
}
