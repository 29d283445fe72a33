//! What a plugin has stored: its keys by prefix, and one value.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{Method, Uri},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};

use super::{Tab, path_of, read, route_of, tab_page};
use crate::{
    api::{
        Problem,
        page::Query as ApiQuery,
        path::Path as ApiPath,
        plugins::{self, KeyFilter, OneKey},
    },
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        parts::{self, Field, Look, columns, json, segment, state::State as Shown, with_query},
        visit::Visit,
    },
    wire::{PageView, StateKeyView, StateSizeView, StateValueView},
};

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>, uri: Uri) -> Result<Response, Problem> {
    visit.sight("GET /v1/plugins/{plugin}/state/keys")?;
    visit.sight("GET /v1/plugins/{plugin}/state/value")?;
    let plugin = read(&ui, &visit, name).await?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let path = || ApiPath(plugin.name.clone());
    let size = plugins::state(State(Arc::clone(&ui.api)), path()).await?.0;
    let text = |name: &str| fields.get(name).map(str::to_owned);
    let filter = KeyFilter { prefix: text("prefix"), cursor: text("cursor"), ..KeyFilter::default() };
    let keys = plugins::state_keys(State(Arc::clone(&ui.api)), path(), ApiQuery(filter)).await?.0;
    let value = match text("key") {
        Some(key) => Some(plugins::state_value(State(Arc::clone(&ui.api)), path(), ApiQuery(OneKey { key })).await?.0),
        None => None,
    };
    let body = html! {
        (search(&visit, &plugin.name, &fields, &size))
        @if fields.get("ask") == Some("clear") && visit.may("DELETE /v1/plugins/{plugin}/state") { div #asked.section { (asked(&visit, &plugin.name, &size)) } }
        @if let Some(value) = &value { div #value.section { (panel(&visit, value)) } }
        div #keys-list.section { (table(&visit, &keys)) }
    };
    Ok(tab_page(&ui, &visit, &plugin, Tab::State, body).await)
}

fn search(visit: &Visit, plugin: &str, fields: &Fields, size: &StateSizeView) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    let field = Field { name: "prefix", label: t.begin_with, hint: None, error: None };
    html! {
        form #state-search.filters method="get" action=(format!("{}/state", path_of(plugin))) data-whole role="search" {
            div.grow { (field.text(fields.get("prefix").unwrap_or_default(), "")) }
            button.btn type="submit" { (texts.common.apply) }
        }
        div #state-size.section-head {
            p.hint { ((t.state_size)(&formats.number(size.keys), &formats.bytes(size.bytes), &formats.bytes(size.bytes_max))) }
            @if size.keys > 0 && visit.may("DELETE /v1/plugins/{plugin}/state") {
                (parts::link_button(&with_query(&format!("{}/state", path_of(plugin)), "ask", Some("clear")), Some("trash"), t.clear_state, Look::Small))
            }
        }
    }
}

/// Writes the question before all state is deleted. It repeats the number of keys.
fn asked(visit: &Visit, plugin: &str, size: &StateSizeView) -> Markup {
    let t = &visit.texts().plugins;
    let path = format!("{}/state", path_of(plugin));
    let number = visit.formats().number(size.keys);
    let buttons = html! {
        (parts::action(visit, &format!("{path}/clear"), None, &(t.clear_state_confirm)(&number), Look::Danger))
        (parts::link_button(&path, None, visit.texts().common.cancel, Look::Quiet))
    };
    parts::note(Shown::dead(""), &html! { (t.clear_state_says) }, &buttons)
}

fn table(visit: &Visit, keys: &PageView<StateKeyView>) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    if keys.items.is_empty() {
        return parts::empty("plugins", t.no_state, &html! { p { (t.no_state_why) } }, &html! {});
    }
    html! {
        table.rows role="table" aria-label=(texts.common.state) {
            (columns(&[(t.key, ""), (t.expires, "w144"), (texts.common.size, "w96 num")]))
            tbody role="rowgroup" {
                @for (number, one) in keys.items.iter().enumerate() {
                    tr id=(format!("key-{number}")) role="row" data-row {
                        td.pa.mono role="cell" { a.go href=(with_query(&visit.path, "key", Some(&one.key))) { (foreign::value(&one.key)) } }
                        td.pc.dim role="cell" { @match &one.expires_at { Some(at) => (formats.time(at, &formats.day_and_clock(at))), None => (t.never) } }
                        td.pb.num.dim role="cell" { (formats.bytes(one.bytes)) }
                    }
                }
            }
        }
        @if let Some(next) = &keys.next {
            div.pager { span {} (parts::link_button(&with_query(&visit.path, "cursor", Some(next)), Some("down"), t.more_keys, Look::Small)) }
        }
    }
}

fn panel(visit: &Visit, value: &StateValueView) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    let text = value.value.as_ref().map(|raw| raw.get());
    html! {
        div.panel {
            div.cap {
                h3.mono.whole { (foreign::code(&value.key)) }
                div.end {
                    span.muted { (formats.bytes(value.bytes)) }
                    @if visit.may("DELETE /v1/plugins/{plugin}/state/value") {
                        form.act method="post" action=(format!("{}/state/delete", path_of(&value.plugin))) {
                            (parts::hidden(visit))
                            input type="hidden" name="key" value=(value.key);
                            button.btn.sm.danger type="submit" { (t.delete_value) }
                        }
                    }
                    (parts::link_button(&with_query(&visit.path, "key", None), Some("x"), texts.frame.close, Look::Small))
                }
            }
            @match (text, &value.value_base64) {
                (Some(text), _) => { @let (body, _) = json::pretty(text, &formats); pre.code tabindex="0" { (body) } },
                (None, Some(base64)) => { @let (body, _) = json::raw(base64); pre.code tabindex="0" { (body) } },
                (None, None) => {},
            }
        }
    }
}

pub async fn delete_value(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    let key = segment(form.fields.get("key").unwrap_or_default());
    ui.act(&form.visit, Method::DELETE, &format!("{}/state/value?key={key}", route_of(&name)), None).await?;
    Ok(to_state(&name))
}

pub async fn clear(State(ui): State<Arc<Ui>>, Path(name): Path<String>, form: Form) -> Result<Response, Problem> {
    ui.act(&form.visit, Method::DELETE, &format!("{}/state", route_of(&name)), None).await?;
    Ok(to_state(&name))
}

fn to_state(name: &str) -> Response {
    Redirect::to(&format!("{}/state", path_of(name))).into_response()
}
