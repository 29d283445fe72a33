//! The page for signing in with a key.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{Query, State},
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};
use maud::html;

use crate::ui::{
    Ui, as_text, foreign, layout,
    parts::{self, icon, shape},
    session::{NoEntry, SESSION_HOURS},
    texts::{Formats, Lang},
    view::{View, back},
};

/// Shows the page. `?lang=it` chooses the language, because the form that usually does this needs a session.
pub async fn show(State(ui): State<Arc<Ui>>, headers: HeaderMap, Query(query): Query<HashMap<String, String>>) -> Response {
    let to = back(query.get("back").map(String::as_str));
    let Some(lang) = query.get("lang") else {
        return draw(&ui, &View::of(&headers), &headers, to, None, query.contains_key("link"));
    };
    let mut view = View::of(&headers);
    view.choose("lang", lang);
    let page = draw(&ui, &view, &headers, to, None, false);
    ([(header::SET_COOKIE, view.cookie())], page).into_response()
}

/// Shows the page again after a failed sign-in.
pub fn page(ui: &Ui, headers: &HeaderMap, to: &str, wrong: Option<NoEntry>) -> Response {
    draw(ui, &View::of(headers), headers, to, wrong, false)
}

fn draw(ui: &Ui, view: &View, headers: &HeaderMap, to: &str, wrong: Option<NoEntry>, link_used: bool) -> Response {
    let (all, formats) = (view.lang.texts(), Formats { lang: view.lang, zone: view.zone.clone() });
    let texts = &all.sign_in;
    let host = headers.get(header::HOST).map(as_text).unwrap_or_default();
    let error = wrong.map(|wrong| match wrong {
        NoEntry::Missing => texts.missing.to_owned(),
        NoEntry::Unknown => texts.unknown.to_owned(),
        NoEntry::Expired(at) => (texts.expired)(&formats.day_and_clock(&at.to_string())),
        NoEntry::Role(role) => (texts.role)(role.as_str()),
        NoEntry::Foreign => texts.foreign.to_owned(),
    });
    let title = (texts.title)(&foreign::isolated(host));
    let body = html! {
        div.sign-in {
            p.brand { svg.mark aria-hidden="true" { use href=(format!("{}#i-mark", crate::ui::assets::ICONS.path())) {} } "Innesco" }
            h1 { (title) }
            @if link_used { p.hint role="status" { (texts.link_used) } }
            form method="post" action="/sign-in" data-whole {
                input type="hidden" name="back" value=(to);
                div.field data-bad=[error.as_ref().map(|_| "")] {
                    label for="f-key" { (texts.key) }
                    input #f-key type="password" name="key" required autofocus autocomplete="current-password" spellcheck="false"
                        aria-invalid=[error.as_ref().map(|_| "true")] aria-describedby="f-key-note f-key-hint";
                    @if let Some(error) = &error { p.error #f-key-note role="alert" { (shape("s-fail")) span { (error) } } }
                    p.hint #f-key-hint { (texts.printed) }
                }
                div.cmd { code { "innesco keys create my-name --role admin" }
                    button.copy.js type="button" data-copy="innesco keys create my-name --role admin" aria-label=(all.frame.copy) title=(all.frame.copy) { (icon("copy")) }
                }
                div.row {
                    button.btn.primary type="submit" { (texts.button) }
                    label.tick { input type="checkbox" name="long"; span { (texts.long) } " " span.muted { ((texts.else_hours)(&formats.number(SESSION_HOURS))) } }
                }
            }
        }
        footer.small {
            span { "Innesco " (env!("CARGO_PKG_VERSION")) }
            @for lang in Lang::ALL { a href=(parts::with_query(&parts::with_query("/sign-in", "lang", Some(lang.as_str())), "back", (to != "/").then_some(to))) lang=(lang.as_str()) { (lang.name()) } }
            span.muted { (foreign::name(&ui.about.node)) }
        }
    };
    layout::bare(view, texts.button, &body)
}
