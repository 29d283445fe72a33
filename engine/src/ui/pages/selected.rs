//! Acting on the selected rows of a list. A page repeats the number of rows and asks for confirmation, and then shows the results.
//! The change of each row is one request of the API.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{Method, Uri},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};

use crate::{
    api::{Problem, deliveries::delivery_id, events::event_id},
    clock,
    domain::id::EventId,
    store::{Error, EventFilter, PageRequest},
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        layout::{self, Head, Page, Place},
        parts::{self, Look, columns, icon, segment, state, state::State as Shown, with_query},
        visit::Visit,
    },
    wire::{DeliveryView, EventView},
};

/// Maximum number of rows that one request may name. A page of a list has fewer.
const SELECTED_MAX: usize = 100;

/// What the selected rows are, and what is done to them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Replay,
    Retry,
}

impl Kind {
    /// Name of the field with an id.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Replay => "event",
            Self::Retry => "delivery",
        }
    }

    pub const fn path(self) -> &'static str {
        match self {
            Self::Replay => "/events/replay",
            Self::Retry => "/deliveries/selected",
        }
    }

    /// The route of the API.
    pub const fn route(self) -> &'static str {
        match self {
            Self::Replay => "POST /v1/events/{event}/replay",
            Self::Retry => "POST /v1/deliveries/{delivery}/retry",
        }
    }

    const fn list(self) -> &'static str {
        match self {
            Self::Replay => "/events",
            Self::Retry => "/deliveries",
        }
    }

    const fn place(self) -> Place {
        match self {
            Self::Replay => Place::Events,
            Self::Retry => Place::Deliveries,
        }
    }

    const fn icon(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Retry => "retry",
        }
    }
}

/// Writes the box that selects a row. It belongs to the form of [`bar`].
pub fn tick(visit: &Visit, kind: Kind, id: &str) -> Markup {
    html! { input type="checkbox" form="bulk" name=(kind.field()) value=(id) aria-label=((visit.texts().selected.select)(id)); }
}

/// Writes the row above a list: the number of new rows that wait, or the button that acts on the selected rows. Its height is the
/// same in all states.
pub fn bar(visit: &Visit, kind: Kind) -> Markup {
    let t = &visit.texts().selected;
    let texts = visit.texts();
    let (label, many) = match kind {
        Kind::Replay => (t.replay_selected, (t.replay_many)("%")),
        Kind::Retry => (t.retry_selected, (t.retry_many)("%")),
    };
    let held = match kind {
        Kind::Replay => held_row(visit, texts.events.new_event, texts.events.new_events),
        Kind::Retry => held_row(visit, texts.deliveries.new_delivery, texts.deliveries.new_deliveries),
    };
    html! {
        div.above-list {
            (held)
            @if visit.may(kind.route()) {
                form #bulk.bulk method="get" action=(kind.path()) data-whole {
                    button.btn.sm type="submit" data-many=(many) { (icon(kind.icon())) span { (label) } }
                }
            }
        }
    }
}

/// Writes the place above a list where new rows wait, as a button with their number. It is as high as the words in its place when no
/// row waits.
pub fn held_row(visit: &Visit, one: &str, many: fn(&str) -> String) -> Markup {
    html! {
        button.held-row.js type="button" hidden data-one=(one) data-many=(many("%")) {}
        p.up-to-date.js { (visit.texts().selected.up_to_date) }
    }
}

/// One selected row, as it is now.
enum Row {
    Event(Box<EventView>),
    Delivery(Box<DeliveryView>),
}

pub async fn ask_replay(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    ask(&ui, &visit, &uri, Kind::Replay).await
}

pub async fn ask_retry(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    ask(&ui, &visit, &uri, Kind::Retry).await
}

pub async fn replay(State(ui): State<Arc<Ui>>, form: Form) -> Result<Response, Problem> {
    act(&ui, &form, Kind::Replay).await
}

pub async fn retry(State(ui): State<Arc<Ui>>, form: Form) -> Result<Response, Problem> {
    act(&ui, &form, Kind::Retry).await
}

/// Returns the selected ids, each once.
fn ids(fields: &Fields, kind: Kind) -> Result<Vec<&str>, Problem> {
    let mut ids: Vec<&str> = fields.all(kind.field()).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() > SELECTED_MAX {
        return Err(Problem::bad_request(format!("{} rows are selected; select at most {SELECTED_MAX}", ids.len())));
    }
    Ok(ids)
}

async fn ask(ui: &Ui, visit: &Visit, uri: &Uri, kind: Kind) -> Result<Response, Problem> {
    visit.sight(kind.route())?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let mut rows = Vec::new();
    for id in ids(&fields, kind)? {
        rows.extend(read(ui, kind, id).await?);
    }
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.selected;
    let number = formats.number(rows.len() as u64);
    let title = match (kind, rows.len()) {
        (Kind::Replay, 1) => t.title_replay_one.to_owned(),
        (Kind::Replay, _) => (t.title_replay)(&number),
        (Kind::Retry, 1) => t.title_retry_one.to_owned(),
        (Kind::Retry, _) => (t.title_retry)(&number),
    };
    let button = match (kind, rows.len()) {
        (Kind::Replay, 1) => t.button_replay_one.to_owned(),
        (Kind::Replay, _) => (t.button_replay)(&number),
        (Kind::Retry, 1) => texts.retry_many.button_one.to_owned(),
        (Kind::Retry, _) => (texts.retry_many.button)(&number),
    };
    let list_title = match kind {
        Kind::Replay => texts.events.title,
        Kind::Retry => texts.deliveries.title,
    };
    let done = fields.get("said").and_then(|said| {
        let mut words = said.splitn(3, '~');
        Some((words.next()?.parse::<u64>().ok()?, words.next()?.parse::<u64>().ok()?, words.next()?))
    });
    let body = html! {
        (Head { above: Some((kind.list(), list_title, html! { (t.selected) })), ..layout::title(&title) }.show())
        div.ask #ask {
            @if rows.is_empty() {
                (parts::empty("filter", t.none, &html! { p { (t.none_why) } }, &parts::link_button(kind.list(), None, texts.frame.close, Look::Plain)))
            } @else if let Some((done, refused, at)) = done {
                p.said role="status" { ((t.done)(&formats.number(done), &formats.clock(at))) }
                @if refused > 0 { p { ((t.refused)(&formats.number(refused))) } }
                div.acts { (parts::link_button(kind.list(), None, texts.frame.close, Look::Primary)) }
            } @else {
                p { @match kind { Kind::Replay => (texts.event.replay_says), Kind::Retry => (texts.retry_many.says) } }
                form.acts method="post" action=(kind.path()) data-whole {
                    (parts::hidden(visit))
                    @for row in &rows { input type="hidden" name=(kind.field()) value=(row.id()); }
                    button.btn.primary type="submit" { (icon(kind.icon())) (button) }
                    (parts::link_button(kind.list(), None, texts.common.cancel, Look::Plain))
                }
            }
        }
        @if !rows.is_empty() { div #rows.section data-live="events deliveries" { (table(visit, kind, &rows)) } }
    };
    Ok(layout::page(ui, visit, &Page::new(kind.place(), &title, body)).await)
}

/// Reads one row. Returns `None` if the row no longer exists.
async fn read(ui: &Ui, kind: Kind, id: &str) -> Result<Option<Row>, Problem> {
    let tag = ui.api.store.tag();
    match kind {
        Kind::Replay => {
            let Ok(id) = event_id(&ui.api, id) else { return Ok(None) };
            Ok(event(ui, id).await?.map(|event| Row::Event(Box::new(event))))
        }
        Kind::Retry => {
            let Ok(id) = delivery_id(&ui.api, id) else { return Ok(None) };
            match ui.api.store.delivery(id).await {
                Ok(story) => Ok(Some(Row::Delivery(Box::new(DeliveryView::new(&story.summary, tag))))),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// Reads an event without its data. The event is the first item of the list of events that starts at it.
async fn event(ui: &Ui, id: EventId) -> Result<Option<EventView>, Problem> {
    let page = PageRequest { cursor: Some(id.as_i64() + 1), limit: 1 };
    let page = ui.api.store.events(EventFilter::default(), page).await?;
    let found = page.items.into_iter().next().filter(|summary| summary.event.id == id);
    Ok(found.map(|summary| EventView::summary(&summary, ui.api.store.tag())))
}

impl Row {
    fn id(&self) -> &str {
        match self {
            Self::Event(event) => &event.event,
            Self::Delivery(delivery) => &delivery.id,
        }
    }
}

fn table(visit: &Visit, kind: Kind, rows: &[Row]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let common = &texts.common;
    let third = match kind {
        Kind::Replay => common.source,
        Kind::Retry => texts.deliveries.endpoint,
    };
    html! {
        table.rows role="table" aria-label=(texts.selected.selected) {
            (columns(&[(common.type_, ""), (third, ""), (common.state, "state"), (common.id, "w168")]))
            tbody role="rowgroup" {
                @for row in rows {
                    @let (to, name, third, shown) = match row {
                        Row::Event(event) => (
                            format!("/events/{}", event.event), &event.r#type, &event.source,
                            Shown::of_event(&event.state, texts).with(&state::delivered_of(event, texts, &formats)),
                        ),
                        Row::Delivery(delivery) => (
                            format!("/events/{}#{}", delivery.event, delivery.id), &delivery.r#type, &delivery.endpoint_name,
                            Shown::of_delivery(&delivery.state, texts).show(),
                        ),
                    };
                    tr id=(row.id()) role="row" data-row {
                        td.pa role="cell" { a.go href=(to) { (foreign::name(name)) } }
                        td.pd.dim role="cell" { (foreign::value(third)) }
                        td.pb role="cell" { (shown) }
                        td.ph.mono role="cell" { (row.id()) }
                    }
                }
            }
        }
    }
}

async fn act(ui: &Ui, form: &Form, kind: Kind) -> Result<Response, Problem> {
    let visit = &form.visit;
    visit.sight(kind.route())?;
    let ids = ids(&form.fields, kind)?;
    let (mut done, mut refused) = (0_u64, 0_u64);
    for id in &ids {
        let path = match kind {
            Kind::Replay => format!("/v1/events/{}/replay", segment(id)),
            Kind::Retry => format!("/v1/deliveries/{}/retry", segment(id)),
        };
        match ui.act(visit, Method::POST, &path, None).await {
            Ok(_) => done += 1,
            // The state of the row has changed meanwhile, or the row is gone.
            Err(problem) if problem.status().is_client_error() => refused += 1,
            Err(problem) => return Err(problem),
        }
    }
    let selected: Vec<String> = ids.iter().map(|id| format!("{}={}", kind.field(), segment(id))).collect();
    let to = format!("{}?{}", kind.path(), selected.join("&"));
    Ok(Redirect::to(&with_query(&to, "said", Some(&format!("{done}~{refused}~{}", clock::wall())))).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_selected_once_and_not_too_many() {
        let fields = Fields::parse(b"event=evt_2&event=evt_1&event=evt_2&delivery=dlv_1");
        assert_eq!(ids(&fields, Kind::Replay).ok(), Some(vec!["evt_1", "evt_2"]));
        assert_eq!(ids(&fields, Kind::Retry).ok(), Some(vec!["dlv_1"]));
        let many: Vec<String> = (0..=SELECTED_MAX).map(|number| format!("event={number}")).collect();
        assert!(ids(&Fields::parse(many.join("&").as_bytes()), Kind::Replay).is_err());
    }
}
