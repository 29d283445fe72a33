//! The building blocks of pages. Each is one function that writes the markup that `style.css` and `live.js` expect.

pub mod charts;
pub mod diff;
pub mod json;
pub mod state;
pub mod strip;

use maud::{Markup, html};

use self::state::State;
use super::{
    assets::ICONS,
    foreign,
    form::{Fields, TOKEN_FIELD},
    visit::Visit,
};

/// An icon of the sprite, 16 px. The page must have text beside the icon that names its meaning.
pub fn icon(name: &str) -> Markup {
    html! { svg.icon aria-hidden="true" { use href=(format!("{}#i-{name}", ICONS.path())) {} } }
}

/// The shape of a state, 12 px.
pub fn shape(name: &str) -> Markup {
    html! { svg.si aria-hidden="true" { use href=(format!("{}#i-{name}", ICONS.path())) {} } }
}

/// A button that copies the text beside it. Copying needs script, so the button is hidden without script.
pub fn copy(text: &str, visit: &Visit) -> Markup {
    html! {
        button.copy.js type="button" data-copy=(text) aria-label=(visit.texts().frame.copy) title=(visit.texts().frame.copy) { (icon("copy")) }
    }
}

/// How a button looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The one main action of a page.
    Primary,
    Plain,
    Quiet,
    Danger,
    /// A button in a row, 26 px high.
    Small,
}

impl Look {
    /// Returns the classes of a button.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Primary => "btn primary",
            Self::Plain => "btn",
            Self::Quiet => "btn quiet",
            Self::Danger => "btn danger",
            Self::Small => "btn sm",
        }
    }
}

/// A link that looks like a button.
pub fn link_button(href: &str, icon_name: Option<&str>, label: &str, look: Look) -> Markup {
    html! { a class=(look.class()) href=(href) { @if let Some(name) = icon_name { (icon(name)) } (label) } }
}

/// A form with one button that makes a change. With script, the result appears without leaving the page.
pub fn action(visit: &Visit, path: &str, icon_name: Option<&str>, label: &str, look: Look) -> Markup {
    action_with(visit, path, icon_name, label, look, &html! {})
}

/// Like [`action`], with further fields.
pub fn action_with(visit: &Visit, path: &str, icon_name: Option<&str>, label: &str, look: Look, fields: &Markup) -> Markup {
    html! {
        form.act method="post" action=(path) {
            (hidden(visit))
            (fields)
            button class=(look.class()) type="submit" { @if let Some(name) = icon_name { (icon(name)) } (label) }
        }
    }
}

/// Like [`action_with`], for a change whose answer is another page.
pub fn action_away(visit: &Visit, path: &str, icon_name: Option<&str>, label: &str, look: Look, fields: &Markup) -> Markup {
    html! {
        form.act method="post" action=(path) data-whole {
            (hidden(visit))
            (fields)
            button class=(look.class()) type="submit" { @if let Some(name) = icon_name { (icon(name)) } (label) }
        }
    }
}

/// A button that cannot be used, with its reason beside it.
pub fn disabled_button(icon_name: Option<&str>, label: &str, reason: &str) -> Markup {
    html! {
        span.off {
            button.btn type="button" aria-disabled="true" { @if let Some(name) = icon_name { (icon(name)) } (label) }
            span.reason { (reason) }
        }
    }
}

/// The fields that every form has: the token of the session, and the page to return to.
pub fn hidden(visit: &Visit) -> Markup {
    html! {
        input type="hidden" name=(TOKEN_FIELD) value=(visit.token());
        input type="hidden" name="back" value=(visit.path);
    }
}

/// A choice between a few options, as links. Each option has a label, an address, and whether it is chosen.
pub fn seg(label: &str, choices: &[(&str, String, bool)]) -> Markup {
    html! {
        nav.seg aria-label=(label) {
            @for (word, href, chosen) in choices { a href=(href) aria-current=[chosen.then_some("true")] { (word) } }
        }
    }
}

/// A statement about the whole page, on a background in the colour of its state.
pub fn note(state: State, body: &Markup, action: &Markup) -> Markup {
    html! {
        div.note role="status" data-s=(state.tone.as_str()) {
            (shape(state.shape)) div.text { (body) } @if !action.0.is_empty() { div.acts { (action) } }
        }
    }
}

/// The text of an empty list: what it will contain, and the next step.
pub fn empty(icon_name: &str, title: &str, body: &Markup, actions: &Markup) -> Markup {
    html! {
        div.empty { (icon(icon_name)) h2 { (title) } div.why { (body) } @if !actions.0.is_empty() { div.acts { (actions) } } }
    }
}

/// Returns the place of the first shown item of a list that is cut into pages of `most` items. The address has it as `from`.
pub fn first_shown(fields: &Fields, total: usize, most: usize) -> usize {
    let from = fields.get("from").and_then(|from| from.parse().ok()).unwrap_or(0_usize);
    from.min(total.saturating_sub(1)) / most * most
}

/// Links to the pages before and after the shown one.
pub fn pages(visit: &Visit, from: usize, total: usize, most: usize) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let to = |from: usize| with_query(&visit.path, "from", (from > 0).then(|| from.to_string()).as_deref());
    html! {
        @if total > most {
            div.pager {
                span.muted { ((texts.event.shown_of)(&formats.number((total - from).min(most) as u64), &formats.number(total as u64))) }
                div.acts {
                    @if from > 0 { (link_button(&to(from.saturating_sub(most)), None, texts.endpoints.before, Look::Small)) }
                    @if from + most < total { (link_button(&to(from + most), Some("down"), texts.endpoints.more, Look::Small)) }
                }
            }
        }
    }
}

/// A command to copy.
pub fn command(text: &str, visit: &Visit) -> Markup {
    html! { div.cmd { code tabindex="0" { (foreign::code(text)) } (copy(text, visit)) } }
}

/// A link that opens a body, a log or a table in place. Without script, it loads the page with that part open.
pub fn peek(visit: &Visit, id: &str, label: &str) -> Markup {
    let is_open = opened(visit).any(|open| open == id);
    html! {
        a.peek href=(with_open(&visit.path, id, !is_open)) aria-expanded=(if is_open { "true" } else { "false" }) data-in-place { (icon("chevron")) (label) }
    }
}

/// Returns the ids of the parts that are open on the page: `?open=data,log-1`.
pub fn opened(visit: &Visit) -> impl Iterator<Item = &str> {
    let (_, query) = visit.path.split_once('?').unwrap_or_default();
    let list = query.split('&').find_map(|pair| pair.strip_prefix("open=")).unwrap_or_default();
    list.split([',', '+']).filter(|id| !id.is_empty())
}

/// Returns the address of the page with this part opened or closed.
fn with_open(path: &str, id: &str, open: bool) -> String {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let list = query.split('&').find_map(|pair| pair.strip_prefix("open=")).unwrap_or_default();
    let mut ids: Vec<&str> = list.split(',').filter(|one| !one.is_empty() && *one != id).collect();
    if open {
        ids.push(id);
    }
    with_query(&format!("{path}?{query}"), "open", (!ids.is_empty()).then(|| ids.join(",")).as_deref())
}

/// Returns an address with one parameter of its query set or removed. Bytes of the value other than letters, digits and `-._,:~`
/// are percent-encoded.
pub fn with_query(path: &str, name: &str, value: Option<&str>) -> String {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let is_other = |pair: &&str| !pair.is_empty() && pair.split('=').next() != Some(name);
    let mut pairs: Vec<String> = query.split('&').filter(is_other).map(str::to_owned).collect();
    if let Some(value) = value {
        let encoded = percent_encoding::utf8_percent_encode(value, QUERY);
        pairs.push(format!("{name}={encoded}"));
    }
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

/// Bytes that are percent-encoded in a query and in a path segment: all except letters, digits and these.
pub const QUERY: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b',')
    .remove(b':')
    .remove(b'~')
    .remove(b'*');

/// Returns a value encoded as a segment of a path.
pub fn segment(value: &str) -> String {
    percent_encoding::utf8_percent_encode(value, QUERY).to_string()
}

/// A field of a form, with its label above and its hint below. An error replaces the hint.
pub struct Field<'a> {
    pub name: &'a str,
    pub label: &'a str,
    pub hint: Option<Markup>,
    pub error: Option<&'a str>,
}

impl Field<'_> {
    /// Writes the field around its control. The control uses [`Self::id`] and [`Self::described`].
    pub fn around(&self, control: &Markup) -> Markup {
        html! {
            div.field data-bad=[self.error.map(|_| "")] {
                label for=(self.id()) { (self.label) }
                (control)
                @if let Some(error) = self.error {
                    p.error id=(format!("{}-note", self.id())) { (shape("s-fail")) span { (error) } }
                } @else if let Some(hint) = &self.hint {
                    p.hint id=(format!("{}-note", self.id())) { (hint) }
                }
            }
        }
    }

    pub fn id(&self) -> String {
        format!("f-{}", self.name)
    }

    /// Returns the `aria-describedby` of the control.
    pub fn described(&self) -> Option<String> {
        (self.error.is_some() || self.hint.is_some()).then(|| format!("{}-note", self.id()))
    }

    /// Writes a one-line text input as the control.
    pub fn text(&self, value: &str, placeholder: &str) -> Markup {
        self.around(&html! {
            input.mono[false] type="text" id=(self.id()) name=(self.name) value=(value) placeholder=(placeholder) dir="auto" autocomplete="off"
                aria-invalid=[self.error.map(|_| "true")] aria-describedby=[self.described()];
        })
    }

    /// Writes a drop-down list as the control. Each choice has a value and a label.
    pub fn choice(&self, choices: &[(&str, &str)], chosen: &str) -> Markup {
        self.around(&html! {
            select id=(self.id()) name=(self.name) aria-describedby=[self.described()] {
                @for (value, label) in choices { option value=(value) selected[*value == chosen] { (foreign::marked(label)) } }
            }
        })
    }
}

/// The head of a table. Each column has a label and a class.
pub fn columns(columns: &[(&str, &str)]) -> Markup {
    html! {
        thead role="rowgroup" { tr role="row" { @for (label, class) in columns { th role="columnheader" scope="col" class=(class) title=(label) { (label) } } } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_one_parameter_of_an_address_leaves_the_others() {
        for (path, value, expected) in [
            ("/events", Some("dead"), "/events?state=dead"),
            ("/events?state=failed&type=a", Some("dead"), "/events?type=a&state=dead"),
            ("/events?state=failed&type=a", None, "/events?type=a"),
            ("/events?state=failed", None, "/events"),
            ("/events", Some("a b&c"), "/events?state=a%20b%26c"),
        ] {
            assert_eq!(with_query(path, "state", value), expected);
        }
    }

    #[test]
    fn a_page_of_a_list_begins_at_a_multiple_of_its_length() {
        for (from, total, expected) in
            [("", 120, 0), ("from=50", 120, 50), ("from=70", 120, 50), ("from=900", 120, 100), ("from=x", 0, 0)]
        {
            assert_eq!(first_shown(&Fields::parse(from.as_bytes()), total, 50), expected, "{from} of {total}");
        }
    }

    #[test]
    fn parts_open_and_close_independently() {
        assert_eq!(with_open("/events/evt_1", "data", true), "/events/evt_1?open=data");
        assert_eq!(with_open("/events/evt_1?open=data&clock=on", "log-1", true), "/events/evt_1?clock=on&open=data,log-1");
        assert_eq!(with_open("/events/evt_1?open=data,log-1", "data", false), "/events/evt_1?open=log-1");
        assert_eq!(with_open("/events/evt_1?open=data", "data", false), "/events/evt_1");
    }
}
