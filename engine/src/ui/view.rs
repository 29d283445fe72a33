//! A person's display preferences: language, theme, times. They are stored in one cookie, and changed by a form that works without
//! script.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse as _, Redirect, Response},
};
use jiff::tz::TimeZone;

use super::{Ui, as_text, form::Form, texts::Lang};

/// Name of the cookie with the preferences. The script writes the browser's time zone into another cookie.
const COOKIE: &str = "innesco_view";
/// Name of the cookie with the browser's time zone, such as `Europe/Rome`.
const ZONE_COOKIE: &str = "innesco_zone";
const YEAR_SECONDS: u32 = 365 * 86_400;

/// Which colours a person chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Theme {
    /// The colours of the system.
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    const ALL: [Self; 3] = [Self::System, Self::Light, Self::Dark];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    /// Returns the theme that the button in the rail chooses next.
    pub const fn next(self) -> Self {
        match self {
            Self::System => Self::Dark,
            Self::Dark => Self::Light,
            Self::Light => Self::System,
        }
    }
}

/// The choices of one person.
#[derive(Clone, Debug)]
pub struct View {
    pub lang: Lang,
    pub theme: Theme,
    /// Show times in UTC instead of the browser's zone.
    pub utc: bool,
    /// Show the steps of an event with the time of day instead of the time since its start.
    pub clock: bool,
    /// Whether single keys work as shortcuts.
    pub keys: bool,
    /// The zone in which times are shown.
    pub zone: TimeZone,
    /// Name of the browser's zone as received. Empty if it is not known yet.
    pub zone_name: String,
}

impl View {
    pub fn of(headers: &HeaderMap) -> Self {
        let chosen = cookie(headers, COOKIE).unwrap_or_default();
        let choice = |name: &str| chosen.split('.').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('-'));
        let accepted = headers.get(header::ACCEPT_LANGUAGE).map(as_text).unwrap_or_default();
        let zone_name = cookie(headers, ZONE_COOKIE).unwrap_or_default().replace("%2F", "/");
        let utc = choice("times") == Some("utc");
        let zone = if utc { TimeZone::UTC } else { TimeZone::get(&zone_name).unwrap_or(TimeZone::UTC) };
        Self {
            lang: choice("lang").and_then(Lang::parse).unwrap_or_else(|| Lang::accepted(accepted)),
            theme: choice("theme")
                .and_then(|word| Theme::ALL.into_iter().find(|theme| theme.as_str() == word))
                .unwrap_or_default(),
            utc,
            clock: choice("clock") == Some("on"),
            keys: choice("keys") != Some("off"),
            zone,
            zone_name,
        }
    }

    /// Returns the cookie that stores these choices.
    pub fn cookie(&self) -> HeaderValue {
        let mut text = format!("{COOKIE}=lang-{}.theme-{}", self.lang.as_str(), self.theme.as_str());
        for (name, is_set) in [(".times-utc", self.utc), (".clock-on", self.clock), (".keys-off", !self.keys)] {
            text.push_str(if is_set { name } else { "" });
        }
        write!(text, "; Path=/; Max-Age={YEAR_SECONDS}; SameSite=Lax").expect("writing to a String cannot fail");
        HeaderValue::from_str(&text).expect("the words are ASCII")
    }

    /// Applies one choice, such as `theme` `dark`. Unknown choices change nothing.
    pub fn choose(&mut self, name: &str, value: &str) {
        match name {
            "lang" => self.lang = Lang::parse(value).unwrap_or(self.lang),
            "theme" => self.theme = Theme::ALL.into_iter().find(|theme| theme.as_str() == value).unwrap_or(self.theme),
            "times" => self.utc = value == "utc",
            "clock" => self.clock = value == "on",
            "keys" => self.keys = value != "off",
            _ => {}
        }
    }
}

/// Returns the value of a cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().map(as_text).flat_map(|line| line.split(';'));
    all.filter_map(|pair| pair.trim().split_once('=')).find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// Returns the path if it is on this site, otherwise `/`. A form must not send people to another site.
pub fn back(path: Option<&str>) -> &str {
    let is_ours = |path: &&str| {
        path.starts_with('/') && !path.starts_with("//") && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    };
    path.filter(is_ours).unwrap_or("/")
}

/// Stores one choice and returns to the page.
pub async fn change(State(_): State<Arc<Ui>>, form: Form) -> Response {
    let mut view = form.visit.view.clone();
    for name in ["lang", "theme", "times", "clock", "keys"] {
        if let Some(value) = form.fields.get(name) {
            view.choose(name, value);
        }
    }
    let answer = Redirect::to(back(form.fields.get("back")));
    ([(header::SET_COOKIE, view.cookie())], answer).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cookies: &str, accepted: &str) -> View {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, cookies.parse().unwrap());
        headers.insert(header::ACCEPT_LANGUAGE, accepted.parse().unwrap());
        View::of(&headers)
    }

    #[test]
    fn choices_survive_their_cookie() {
        let mut view = of("", "it-IT,it;q=0.9,en;q=0.8");
        assert_eq!((view.lang, view.theme, view.utc, view.keys), (Lang::It, Theme::System, false, true));
        for (name, value) in [("lang", "en"), ("theme", "dark"), ("times", "utc"), ("clock", "on"), ("keys", "off"), ("x", "y")] {
            view.choose(name, value);
        }
        let cookie = view.cookie();
        let read = of(as_text(&cookie).split(';').next().unwrap(), "it");
        assert_eq!((read.lang, read.theme, read.utc, read.clock, read.keys), (Lang::En, Theme::Dark, true, true, false));
    }

    #[test]
    fn times_follow_the_zone_of_the_browser_unless_utc_is_chosen() {
        let zone = |cookies: &str| of(cookies, "en").zone.iana_name().map(str::to_owned);
        assert_eq!(zone("innesco_zone=Europe/Rome").as_deref(), Some("Europe/Rome"));
        assert_eq!(zone("innesco_zone=Europe%2FRome; innesco_view=times-utc").as_deref(), Some("UTC"));
        assert_eq!(zone("innesco_zone=Nowhere/Land").as_deref(), Some("UTC"));
    }

    #[test]
    fn forms_return_to_pages_of_the_dashboard_only() {
        for (path, expected) in [
            (Some("/events?state=failed"), "/events?state=failed"),
            (Some("//evil.example"), "/"),
            (Some("/\\evil.example"), "/"),
            (Some("https://evil.example"), "/"),
            (Some("/a\r\nset-cookie: x"), "/"),
            (None, "/"),
        ] {
            assert_eq!(back(path), expected, "{path:?}");
        }
    }
}
