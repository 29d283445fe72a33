//! A request from a signed-in person: their key, their preferences, and the page they asked for.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::request::Parts,
    response::{IntoResponse as _, Redirect, Response},
};
use subtle::ConstantTimeEq as _;

use super::{
    Ui,
    session::{self, Session},
    texts::{Formats, Texts},
    view::View,
};
use crate::{
    api::{
        Problem,
        access::{self, Sight},
        auth::Caller,
    },
    clock,
    domain::time::Timestamp,
    store::KeyRow,
};

/// What every page knows of its reader.
#[derive(Clone)]
pub struct Visit {
    pub key: Arc<KeyRow>,
    session: Session,
    pub view: View,
    /// Path and query of the page.
    pub path: String,
    /// When the page was requested.
    pub at: Timestamp,
}

impl Visit {
    /// Returns the visit that belongs to the session cookie, if the session and its key are valid.
    pub fn of(ui: &Ui, headers: &axum::http::HeaderMap, path: &str) -> Option<Self> {
        let session = session::of(ui, headers)?;
        let at = clock::wall();
        let key = ui.api.keys.of_session(session.key, at)?;
        Some(Self { key, session, view: View::of(headers), path: path.to_owned(), at })
    }

    pub fn texts(&self) -> &'static Texts {
        self.view.lang.texts()
    }

    pub fn formats(&self) -> Formats {
        Formats { lang: self.view.lang, zone: self.view.zone.clone() }
    }

    /// Returns the text of the hidden field that each form has.
    pub fn token(&self) -> &str {
        &self.session.token
    }

    pub fn is_token(&self, given: &str) -> bool {
        given.as_bytes().ct_eq(self.session.token.as_bytes()).into()
    }

    /// Returns whether this person may use a route of the API, written as in the API's table: `POST /v1/events/{event}/replay`.
    /// Pages hide the buttons of routes that are not allowed.
    pub fn may(&self, route: &str) -> bool {
        access::sight(self.key.new.role, route).is_some()
    }

    /// Returns how much of a route's answer this person may see. A page that shows data of a route must call this first.
    ///
    /// # Errors
    /// If the role may not use the route.
    pub fn sight(&self, route: &str) -> Result<Sight, Problem> {
        let role = self.key.new.role.as_str();
        access::sight(self.key.new.role, route).ok_or_else(|| {
            Problem::forbidden(format!("the key {:?} has the role {role}, which may not see this", self.key.new.name))
        })
    }

    /// Returns this person as a caller of the API, to call API handlers as functions.
    ///
    /// # Errors
    /// If the role may not use the route.
    pub fn caller(&self, route: &str) -> Result<Caller, Problem> {
        Ok(Caller { key: Arc::clone(&self.key), sight: self.sight(route)? })
    }
}

impl FromRequestParts<Arc<Ui>> for Visit {
    type Rejection = Response;

    /// Without a session, redirects to the sign-in page, which leads back.
    async fn from_request_parts(parts: &mut Parts, ui: &Arc<Ui>) -> Result<Self, Response> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        Self::of(ui, &parts.headers, path).ok_or_else(|| {
            let back: String = url::form_urlencoded::byte_serialize(path.as_bytes()).collect();
            let to = if path == "/" || parts.method != axum::http::Method::GET {
                "/sign-in".to_owned()
            } else {
                format!("/sign-in?back={back}")
            };
            Redirect::to(&to).into_response()
        })
    }
}
