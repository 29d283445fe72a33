//! The frame around every page: the rail (the navigation at the side), the top bar, and the head of the page.

use std::time::Duration;

use axum::response::{Html, IntoResponse as _, Response};
use maud::{DOCTYPE, Markup, html};

use super::{
    Ui, assets, foreign,
    needs::{self, Needs},
    parts::{self, action_with, icon, shape},
    texts::{Lang, Texts},
    view::View,
    visit::Visit,
};
use crate::clock;

/// An entry of the rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Now,
    Events,
    Deliveries,
    Endpoints,
    Plugins,
    Sources,
    Settings,
}

impl Place {
    /// Entries of the rail, except `Settings`, which is at its foot.
    const RAIL: [Self; 7] =
        [Self::Now, Self::Events, Self::Deliveries, Self::Endpoints, Self::Plugins, Self::Sources, Self::Settings];

    pub const fn path(self) -> &'static str {
        match self {
            Self::Now => "/",
            Self::Events => "/events",
            Self::Deliveries => "/deliveries",
            Self::Endpoints => "/endpoints",
            Self::Plugins => "/plugins",
            Self::Sources => "/sources",
            Self::Settings => "/settings",
        }
    }

    pub const fn label(self, texts: &Texts) -> &'static str {
        match self {
            Self::Now => texts.frame.now,
            Self::Events => texts.frame.events,
            Self::Deliveries => texts.frame.deliveries,
            Self::Endpoints => texts.frame.endpoints,
            Self::Plugins => texts.frame.plugins,
            Self::Sources => texts.frame.sources,
            Self::Settings => texts.frame.settings,
        }
    }

    fn icon(self) -> Markup {
        match self {
            Self::Now => icon("now"),
            Self::Events => icon("events"),
            Self::Deliveries => icon("deliveries"),
            Self::Endpoints => icon("endpoints"),
            Self::Plugins => icon("plugins"),
            Self::Sources => icon("sources"),
            Self::Settings => icon("settings"),
        }
    }
}

/// A page inside the frame.
pub struct Page<'a> {
    pub place: Place,
    /// The title of the page and of its browser tab.
    pub title: &'a str,
    pub body: Markup,
    /// The event whose signals the page follows. If it is `None`, the page follows all signals.
    pub event: Option<&'a str>,
}

impl<'a> Page<'a> {
    pub const fn new(place: Place, title: &'a str, body: Markup) -> Self {
        Self { place, title, body, event: None }
    }
}

/// Writes a page inside the frame.
pub async fn page(ui: &Ui, visit: &Visit, page: &Page<'_>) -> Response {
    let texts = visit.texts();
    // If the store does not answer, the rail has no counts.
    let needs = needs::now(ui).await.unwrap_or_default();
    let body = html! {
        a.skip href="#main" { (texts.frame.skip) }
        (rail(ui, visit, page.place, &needs))
        (top_bar(visit))
        main #main tabindex="-1" { (page.body) }
        div #said.sr role="status" aria-live="polite" {}
        (keys(visit))
    };
    let stream = match page.event {
        Some(event) => format!("since={}&event={event}", visit.at.millis()),
        None => format!("since={}", visit.at.millis()),
    };
    document(&visit.view, page.title, &body, Some(&stream)).into_response()
}

/// Writes a document. `stream` is the query of its event stream. Without a stream, the page is not updated.
pub fn document(view: &View, title: &str, body: &Markup, stream: Option<&str>) -> Html<String> {
    let theme = (view.theme.as_str() != "system").then_some(view.theme.as_str());
    let texts = view.lang.texts();
    let markup = html! {
        (DOCTYPE)
        html lang=(view.lang.as_str()) data-theme=[theme] {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · Innesco" }
                link rel="stylesheet" href=(assets::STYLE.path());
                link rel="icon" href=(assets::MARK.path()) type="image/svg+xml";
                script src=(assets::SCRIPT.path()) defer {}
                script src=(assets::INPUT.path()) defer {}
            }
            body data-live=[stream] data-zone=(view.zone_name) data-keys=(if view.keys { "on" } else { "off" }) data-copied=(texts.frame.copied)
                data-ago=((texts.frame.live_ago)("%")) data-lost=((texts.frame.stale)("%")) data-lang=(view.lang.as_str()) { (body) }
        }
    };
    Html(markup.into_string())
}

fn rail(ui: &Ui, visit: &Visit, here: Place, needs: &Needs) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let (needs, failing) = (needs.all.len() as u64, needs.failing());
    html! {
        nav #rail.rail aria-label="Innesco" {
            a.brand href="/" { svg.mark aria-hidden="true" { use href=(format!("{}#i-mark", assets::ICONS.path())) {} } "Innesco" }
            ul #rail-list data-live="events deliveries plugins" {
                @for place in Place::RAIL {
                    li.apart[place == Place::Settings] {
                        a href=(place.path()) aria-current=[(place == here).then_some("page")] {
                            (place.icon()) span.label { (place.label(texts)) }
                            @if place == Place::Now && needs > 0 {
                                @let number = formats.number(needs);
                                span.count data-s="bad" { (shape("s-fail")) span aria-hidden="true" { (number) } span.sr { ((texts.frame.needs_you_count)(&number)) } }
                            }
                            @if place == Place::Endpoints && failing > 0 {
                                @let number = formats.number(failing);
                                span.count data-s="wait" { (shape("s-retry")) span aria-hidden="true" { (number) } span.sr { ((texts.frame.failing_count)(&number)) } }
                            }
                        }
                    }
                }
            }
            (foot(ui, visit))
        }
    }
}

fn foot(ui: &Ui, visit: &Visit) -> Markup {
    let (texts, view) = (visit.texts(), &visit.view);
    let other = match view.lang {
        Lang::En => Lang::It,
        Lang::It => Lang::En,
    };
    let choice = |name: &str, value: &str, label: &str, icon: Markup| {
        html! {
            form method="post" action="/view" data-whole {
                (parts::hidden(visit))
                button.btn.quiet.tool type="submit" name=(name) value=(value) aria-label=(label) title=(label) { (icon) }
            }
        }
    };
    html! {
        div.foot {
            p { b { (foreign::name(&ui.about.node)) } " · " (env!("CARGO_PKG_VERSION")) }
            p { (ui.about.store) }
            div.tools {
                (choice("theme", view.theme.next().as_str(), texts.frame.theme, icon("theme")))
                (choice("lang", other.as_str(), other.name(), icon("globe")))
                a.btn.quiet.tool href="#keys" data-keys-help aria-label=(texts.frame.keys_help) title=(texts.frame.keys_help) { (icon("help")) }
                form.last method="post" action="/sign-out" data-whole {
                    (parts::hidden(visit))
                    button.btn.quiet.tool type="submit" aria-label=(texts.frame.sign_out) title=(texts.frame.sign_out) { (icon("sign-out")) }
                }
            }
        }
    }
}

fn top_bar(visit: &Visit) -> Markup {
    let texts = visit.texts();
    let choose = |value: &str, label: &str, chosen: bool| {
        html! { button type="submit" name="times" value=(value) aria-pressed=(if chosen { "true" } else { "false" }) { (label) } }
    };
    html! {
        header.top {
            a.btn.quiet.menu href="#rail" data-menu aria-label=(texts.frame.menu) { (icon("menu")) }
            form.find role="search" action="/search" method="get" data-whole {
                (icon("search"))
                input #find type="search" name="q" placeholder=(texts.frame.search) aria-label=(texts.frame.search_label) autocomplete="off" spellcheck="false";
                kbd aria-hidden="true" { "/" }
            }
            span #live.live.js data-s="ok" { (shape("s-ok")) span.word { (texts.frame.live) } " " span #live-age.age {} }
            form.seg.times method="post" action="/view" data-whole aria-label=(texts.frame.times_label) {
                (parts::hidden(visit))
                (choose("local", texts.frame.local, !visit.view.utc))
                (choose("utc", texts.frame.utc, visit.view.utc))
            }
        }
    }
}

/// Writes the list of shortcuts. It is the target of a link, so it also opens without script.
fn keys(visit: &Visit) -> Markup {
    let texts = &visit.texts().keys;
    let rows = [
        ("/", texts.search),
        ("g n · g e · g d · g t · g p · g s", texts.pages),
        ("j · k", texts.rows),
        ("Enter", texts.open),
        ("Esc", texts.back),
        ("r", texts.retry),
        ("R", texts.replay),
        ("c", texts.copy),
        ("x", texts.select),
        (".", texts.clock),
        ("?", texts.this),
    ];
    let (next, label) = if visit.view.keys { ("off", texts.off) } else { ("on", texts.on) };
    html! {
        div #keys.keys role="dialog" aria-labelledby="keys-title" {
            div.box {
                h2 #keys-title { (texts.title) }
                dl { @for (key, what) in rows { dt { kbd { (key) } } dd { (what) } } }
                p.hint { (texts.why) }
                div.acts {
                    (action_with(visit, "/view", None, label, parts::Look::Plain, &html! { input type="hidden" name="keys" value=(next); }))
                    a.btn href="#main" { (visit.texts().frame.close) }
                }
            }
        }
    }
}

/// The head of a page: breadcrumb, title with a state, a line of details, at most three actions.
pub struct Head<'a> {
    /// Path and label of the page above, and the last part of the breadcrumb.
    pub above: Option<(&'a str, &'a str, Markup)>,
    pub title: Markup,
    pub state: Option<Markup>,
    pub facts: Option<Markup>,
    pub actions: Option<Markup>,
}

impl Head<'_> {
    pub fn show(&self) -> Markup {
        html! {
            div.head {
                @if let Some((path, label, last)) = &self.above {
                    nav.crumbs aria-label="breadcrumb" { a href=(path) { (label) } " / " (last) }
                }
                div.line {
                    h1 { (self.title) }
                    @if let Some(state) = &self.state { (state) }
                    @if let Some(actions) = &self.actions { div.acts { (actions) } }
                }
                @if let Some(facts) = &self.facts { div.facts { (facts) } }
            }
        }
    }
}

/// A head with only a title.
pub fn title(text: &str) -> Head<'_> {
    Head { above: None, title: html! { (text) }, state: None, facts: None, actions: None }
}

/// Returns how long ago this time was, in the reader's language.
pub fn age(at: &str, visit: &Visit) -> String {
    let at = crate::domain::time::Timestamp::parse_rfc3339(at);
    let age = at.map_or(Duration::ZERO, |at| clock::wall().since(at));
    visit.formats().span(age)
}

/// Writes a page without a rail, for people who are not signed in.
pub fn bare(view: &View, title: &str, body: &Markup) -> Response {
    document(view, title, &html! { main #main.bare tabindex="-1" { (body) } }, None).into_response()
}
