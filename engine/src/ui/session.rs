//! Sessions: a person signs in with an API key and gets a cookie.
//!
//! The cookie holds the key's id, the end of the session and the token for its forms, sealed with the store's master key. So a
//! session is valid on every node, survives a restart, and ends when its key expires or is revoked, because the key is looked up
//! on every request. No table holds sessions. Signing out deletes the cookie in the browser. To end every session of a key at
//! once, revoke the key.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{
    Ui, as_text,
    form::{self, Form},
    pages::sign_in,
    view::{back, cookie},
};
use crate::{
    api::{Api, Problem, access},
    clock,
    domain::{id::KeyId, key::Role, time::Timestamp},
    random::{self, NoRandomness},
    store::KeyRow,
};

/// Purpose of the sealed value. A value that was sealed for another purpose is refused.
const CONTEXT: &str = "dashboard session";
/// Length of a session.
pub const SESSION_HOURS: u64 = 12;
/// Length of a session if the person chose to stay signed in.
pub const LONG_SESSION_DAYS: u64 = 30;
/// How long a one-time link works.
const LINK_TIME: Duration = Duration::from_secs(3600);

/// A valid session.
#[derive(Clone)]
pub struct Session {
    pub key: KeyId,
    /// The content of the hidden field in the forms of this session.
    pub token: String,
}

/// The content of a session's cookie.
#[derive(Deserialize, Serialize)]
struct Sealed {
    key: i64,
    /// Wall clock, ms.
    ends: i64,
    token: String,
}

/// Returns the name of the cookie. Engines on other ports of the same host have other stores, and a browser must be able to keep
/// a session with each engine.
fn cookie_name(api: &Api) -> String {
    format!("innesco_session_{}", api.store.tag().as_str())
}

/// Returns the session of a request, unless it has ended.
pub fn of(ui: &Ui, headers: &HeaderMap) -> Option<Session> {
    let sealed = BASE64_URL_SAFE_NO_PAD.decode(cookie(headers, &cookie_name(&ui.api))?).ok()?;
    let plain = ui.api.store.unseal(CONTEXT, &sealed)?;
    let Sealed { key, ends, token } = serde_json::from_slice(&plain).ok()?;
    (clock::wall().millis() < ends).then(|| Session { key: KeyId::from_i64(key), token })
}

/// Returns whether `external_url` says that browsers reach the engine through TLS only.
fn is_behind_tls(api: &Api) -> bool {
    api.inbound.external_url.as_ref().is_some_and(|url| url.scheme() == "https")
}

/// Returns whether the request names the host of `external_url`. Only then may its cookie demand TLS, because an engine with such a
/// URL can still be reached over plain HTTP on its machine.
fn uses_external_host(api: &Api, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(as_text).unwrap_or_default();
    let ours = api.inbound.external_url.as_ref().and_then(url::Url::host_str).unwrap_or_default();
    host.split(':').next().is_some_and(|host| host.eq_ignore_ascii_case(ours))
}

/// Returns the attribute `Secure` for a cookie, if the request came through TLS.
pub fn secure(api: &Api, headers: &HeaderMap) -> &'static str {
    if is_behind_tls(api) && uses_external_host(api, headers) { "; Secure" } else { "" }
}

fn set_cookie(api: &Api, headers: &HeaderMap, value: &str, seconds: u64) -> HeaderValue {
    let secure = secure(api, headers);
    let text = format!("{}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}", cookie_name(api));
    HeaderValue::from_str(&text).expect("base64 is ASCII")
}

/// Starts a session, and returns its cookie.
fn begin(api: &Api, headers: &HeaderMap, key: &KeyRow, length: Duration) -> Result<HeaderValue, Problem> {
    let token = BASE64_URL_SAFE_NO_PAD.encode(random::bytes::<18>()?);
    let sealed = Sealed { key: key.id.as_i64(), ends: clock::wall().plus(length).millis(), token };
    let plain = serde_json::to_vec(&sealed).expect("numbers and text are JSON");
    let sealed = BASE64_URL_SAFE_NO_PAD.encode(api.store.seal(CONTEXT, &plain)?);
    Ok(set_cookie(api, headers, &sealed, length.as_secs()))
}

/// Why a sign-in was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEntry {
    Missing,
    /// The text is not a key of this engine.
    Unknown,
    Expired(Timestamp),
    /// The role of the key may not open pages.
    Role(Role),
    /// The form came from a page of another site.
    Foreign,
}

fn admit(api: &Api, text: Option<&str>) -> Result<Arc<KeyRow>, NoEntry> {
    let now = clock::wall();
    let key = api.keys.find(text.ok_or(NoEntry::Missing)?, now).ok_or(NoEntry::Unknown)?;
    if let Some(expired_at) = key.new.expires_at.filter(|_| key.has_expired(now)) {
        return Err(NoEntry::Expired(expired_at));
    }
    match access::sight(key.new.role, "GET /v1/events") {
        Some(_) => Ok(key),
        None => Err(NoEntry::Role(key.new.role)),
    }
}

/// Returns whether the headers show that the form came from another site. The form has no token yet, because no session exists.
/// Browsers that do not send `Sec-Fetch-Site` send `Origin`.
fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site").map(as_text) {
        return !["same-origin", "none"].contains(&site);
    }
    let host = headers.get(header::HOST).map(as_text).unwrap_or_default();
    let origin = headers.get(header::ORIGIN).map(as_text);
    origin.is_some_and(|origin| origin.split_once("://").is_none_or(|(_, named)| named != host))
}

/// Starts a session with the key of the form.
pub async fn sign_in(State(ui): State<Arc<Ui>>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let fields = form::read(&ui.api, &headers, body).await?;
    let entered = if is_from_elsewhere(&headers) { Err(NoEntry::Foreign) } else { admit(&ui.api, fields.get("key")) };
    let key = match entered {
        Ok(key) => key,
        Err(why) => {
            let page = sign_in::page(&ui, &headers, back(fields.get("back")), Some(why));
            return Ok((StatusCode::FORBIDDEN, page).into_response());
        }
    };
    let length = match fields.is_set("long") {
        true => Duration::from_secs(LONG_SESSION_DAYS * 86_400),
        false => Duration::from_secs(SESSION_HOURS * 3600),
    };
    let cookie = begin(&ui.api, &headers, &key, length)?;
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(back(fields.get("back")))).into_response())
}

/// Deletes the session's cookie.
pub async fn sign_out(State(ui): State<Arc<Ui>>, headers: HeaderMap, _form: Form) -> Response {
    ([(header::SET_COOKIE, set_cookie(&ui.api, &headers, "", 0))], Redirect::to("/sign-in")).into_response()
}

/// Links that sign in once without a key. `innesco dev` prints one.
#[derive(Clone, Default)]
pub struct OneTimeLinks(Arc<Mutex<HashMap<String, Link>>>);

struct Link {
    key: String,
    ends: Timestamp,
}

impl OneTimeLinks {
    /// Returns the path of a link that signs in with `key` once, within an hour.
    ///
    /// # Errors
    /// If the system provides no random bytes.
    pub fn create(&self, key: &str) -> Result<String, NoRandomness> {
        let token = BASE64_URL_SAFE_NO_PAD.encode(random::bytes::<18>()?);
        let link = Link { key: key.to_owned(), ends: clock::steady().plus(LINK_TIME) };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(token.clone(), link);
        Ok(format!("/sign-in/once/{token}"))
    }

    /// Removes a link and returns its key, unless it was used or has expired.
    fn take(&self, token: &str) -> Option<String> {
        let link = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(token)?;
        (clock::steady() < link.ends).then_some(link.key)
    }
}

/// Starts a session with a one-time link. A used link redirects to the sign-in page.
pub async fn use_link(State(ui): State<Arc<Ui>>, headers: HeaderMap, Path(token): Path<String>) -> Result<Response, Problem> {
    let key = ui.links.take(&token).and_then(|key| admit(&ui.api, Some(&key)).ok());
    let Some(key) = key else { return Ok(Redirect::to("/sign-in?link=used").into_response()) };
    let cookie = begin(&ui.api, &headers, &key, Duration::from_secs(SESSION_HOURS * 3600))?;
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_works_once() {
        let links = OneTimeLinks::default();
        let path = links.create("innk_x").unwrap();
        let token = path.strip_prefix("/sign-in/once/").unwrap();
        assert_eq!(links.take("other"), None);
        assert_eq!(links.take(token).as_deref(), Some("innk_x"));
        assert_eq!(links.take(token), None);
    }

    #[test]
    fn forms_of_other_sites_do_not_sign_in() {
        let from = |pairs: &[(&'static str, &str)]| {
            let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            is_from_elsewhere(&headers)
        };
        assert!(!from(&[("host", "127.0.0.1:8080")]), "a browser that sends neither header");
        assert!(!from(&[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")]));
        assert!(from(&[("host", "127.0.0.1:8080"), ("origin", "http://evil.example")]));
        assert!(from(&[("host", "127.0.0.1:8080"), ("origin", "null")]));
        assert!(from(&[("host", "127.0.0.1:8080"), ("sec-fetch-site", "cross-site")]));
        assert!(from(&[("host", "127.0.0.1:8080"), ("sec-fetch-site", "same-site")]));
    }
}
