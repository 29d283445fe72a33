//! The dashboard: pages for people, rendered by the server from the same reads as the API.
//!
//! A page reads by calling the functions of `api/`. A change goes through the router of the API, in this process, with the key of
//! the person who is signed in ([`Ui::act`]). So the roles, checks, limits and audit trail of the API apply, and this module has no
//! access rules.
//!
//! What must stay true: every form and link works without script. Untrusted text reaches a page only through `foreign.rs`. Pages
//! load nothing from other hosts, and the content security policy ([`POLICY`]) has no `unsafe-*`.

pub mod actions;
pub mod assets;
pub mod foreign;
pub mod form;
pub mod in_force;
pub mod layout;
pub mod live;
pub mod needs;
pub mod pages;
pub mod parts;
pub mod session;
pub mod texts;
pub mod view;
pub mod visit;

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde_json::Value;
use tower::ServiceExt as _;
use url::Url;

use self::visit::Visit;
pub use self::{in_force::InForce, session::OneTimeLinks};
use crate::api::{Api, Problem, SignedIn};

/// Content security policy: a page may load only what this engine serves, and no other page can frame it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
    base-uri 'none'; frame-ancestors 'none'";

/// Headers of every page.
const HEADERS: [(header::HeaderName, HeaderValue); 5] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// Maximum length of the API's answer to a change, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What the foot of the rail shows about the engine.
#[derive(Clone)]
pub struct About {
    /// Name of the node. An engine that has no name shows the address on which it listens.
    pub node: String,
    /// The kind of store, such as `SQLite`.
    pub store: &'static str,
    pub settings: Arc<[InForce]>,
    /// Maximum number of bytes that the store may hold; `None` without a limit.
    pub store_bytes_max: Option<u64>,
}

/// The shared parts of all pages.
pub struct Ui {
    pub api: Arc<Api>,
    /// The API's own router.
    routes: Router,
    pub about: About,
    pub links: OneTimeLinks,
    needs: needs::LastNeeds,
}

impl Ui {
    /// Makes a change through the API with the visitor's key, and returns the body of the answer.
    ///
    /// # Errors
    /// The problem that the API would answer with.
    pub async fn act(&self, visit: &Visit, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Problem> {
        let body = body.map_or_else(Body::empty, |json| Body::from(json.to_string()));
        self.act_with(visit, method, path, "application/json", body).await
    }

    /// Calls the API with the visitor's key and returns its answer, such as a file to download.
    pub async fn pass(&self, visit: &Visit, path: &str) -> Response {
        let request = Request::builder().uri(path).extension(SignedIn(Arc::clone(&visit.key))).body(Body::empty());
        let Ok(request) = request else { return Problem::bad_request(format!("{path:?} is not a path")).into_response() };
        let Ok(answer) = self.routes.clone().oneshot(request).await;
        answer
    }

    /// Like [`Self::act`], with a body of any type, such as a plugin's file.
    pub async fn act_with(
        &self,
        visit: &Visit,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Body,
    ) -> Result<Value, Problem> {
        debug_assert!(actions::is_made(&method, path), "{method} {path} is missing in actions.rs");
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, content_type);
        let request = request.extension(SignedIn(Arc::clone(&visit.key))).body(body);
        let request = request.map_err(|_| Problem::bad_request(format!("{path:?} is not a path")))?;
        let Ok(mut answer) = self.routes.clone().oneshot(request).await;
        if let Some(problem) = answer.extensions_mut().remove::<Problem>() {
            return Err(problem);
        }
        let bytes = axum::body::to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await;
        let bytes = bytes.map_err(|_| Problem::internal("the change was made, but the API's answer could not be read"))?;
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

/// Every page.
fn pages() -> Router<Arc<Ui>> {
    Router::new()
        .route("/", get(pages::now::show))
        .route("/events", get(pages::events::list))
        .route("/events/replay", get(pages::selected::ask_replay).post(pages::selected::replay))
        .route("/events/send", get(pages::send::show).post(pages::send::send))
        .route("/events/{event}", get(pages::event::show))
        .route("/events/{event}/data", get(pages::event::data))
        .route("/events/{event}/fixture", get(pages::event::fixture))
        .route("/events/{event}/replay", post(pages::event::replay))
        .route("/events/{event}/cancel", post(pages::event::cancel))
        .route("/events/{event}/retry", post(pages::event::retry_failed))
        .route("/runs/retry", post(pages::now::retry_runs))
        .route("/runs/{run}/retry", post(pages::event::retry_run))
        .route("/deliveries", get(pages::deliveries::list))
        .route("/deliveries/retry", get(pages::retry_many::ask).post(pages::retry_many::start))
        .route("/deliveries/selected", get(pages::selected::ask_retry).post(pages::selected::retry))
        .route("/deliveries/{delivery}/retry", post(pages::event::retry_delivery))
        .route("/deliveries/{delivery}/cancel", post(pages::event::cancel_delivery))
        .route("/endpoints", get(pages::endpoints::list))
        .route("/endpoints/new", get(pages::endpoints::form::new).post(pages::endpoints::form::create))
        .route("/endpoints/{endpoint}", get(pages::endpoints::one::show))
        .route("/endpoints/{endpoint}/edit", get(pages::endpoints::form::edit).post(pages::endpoints::form::change))
        .route("/endpoints/{endpoint}/secret", get(pages::endpoints::secret::show))
        .route("/endpoints/{endpoint}/rotate", get(pages::endpoints::actions::ask_rotate).post(pages::endpoints::actions::rotate))
        .route("/endpoints/{endpoint}/delete", get(pages::endpoints::actions::ask_delete).post(pages::endpoints::actions::delete))
        .route("/endpoints/{endpoint}/test", get(pages::endpoints::actions::to_page).post(pages::endpoints::actions::test))
        .route("/endpoints/{endpoint}/pause", get(pages::endpoints::actions::to_page).post(pages::endpoints::actions::pause))
        .route("/endpoints/{endpoint}/resume", get(pages::endpoints::actions::to_page).post(pages::endpoints::actions::resume))
        .route("/endpoints/{endpoint}/disable", get(pages::endpoints::actions::to_page).post(pages::endpoints::actions::disable))
        .route("/jobs/{job}", get(pages::retry_many::progress))
        .route("/jobs/{job}/cancel", post(pages::retry_many::stop))
        .merge(pages::plugins::routes())
        .merge(pages::settings::routes())
        .route("/sources", get(pages::sources::list))
        .route("/sources/new", get(pages::sources::form).post(pages::sources::create))
        .route("/sources/{source}", get(pages::sources::show))
        .route("/sources/{source}/edit", get(pages::sources::edit).post(pages::sources::change))
        .route("/sources/{source}/rotate-secret", post(pages::sources::rotate_secret))
        .route("/sources/{source}/rotate-address", post(pages::sources::rotate_address))
        .route("/sources/{source}/delete", post(pages::sources::remove))
        .route("/search", get(pages::search::find))
        .route("/live", get(live::follow))
        .route("/view", post(view::change))
        .route("/sign-out", post(session::sign_out))
}

/// Pages for people who are not signed in.
fn open_pages() -> Router<Arc<Ui>> {
    Router::new()
        .route("/sign-in", get(pages::sign_in::show).post(session::sign_in))
        .route("/sign-in/once/{token}", get(session::use_link))
        .route("/static/{digest}/{file}", get(assets::serve))
        .route("/favicon.ico", get(assets::favicon))
}

/// Returns the router of the API and the dashboard.
pub fn router(api: Arc<Api>, routes: Router, about: About, links: OneTimeLinks) -> Router {
    let ui = Arc::new(Ui { api, routes: routes.clone(), about, links, needs: needs::LastNeeds::default() });
    let guard = middleware::from_fn_with_state(Arc::clone(&ui), dress);
    let pages = pages().merge(open_pages()).route_layer(guard).with_state(Arc::clone(&ui));
    let missing = middleware::from_fn_with_state(ui, missing);
    // If no route matches, the fallback of the API answers. `missing` replaces that answer by a page for browsers, but not for
    // programs.
    routes.merge(pages).layer(missing)
}

/// Refuses requests under foreign host names, adds the headers, and turns a problem into a page.
async fn dress(State(ui): State<Arc<Ui>>, request: Request, next: Next) -> Response {
    if !is_our_host(&request, ui.api.inbound.external_url.as_ref()) {
        return finished(foreign_host());
    }
    let asked = Asked::of(&request);
    let mut answer = next.run(request).await;
    if let Some(problem) = answer.extensions_mut().remove::<Problem>() {
        answer = pages::wrong::show(&ui, &asked, &problem).await;
    }
    finished(answer)
}

/// Answers a browser that asks for a page that does not exist.
async fn missing(State(ui): State<Arc<Ui>>, request: Request, next: Next) -> Response {
    let is_of_a_program = !request.headers().get(header::ACCEPT).is_some_and(|accept| as_text(accept).contains("text/html"));
    if is_of_a_program || request.uri().path().starts_with("/v1/") || request.uri().path().starts_with("/in/") {
        return next.run(request).await;
    }
    let (asked, is_ours) = (Asked::of(&request), is_our_host(&request, ui.api.inbound.external_url.as_ref()));
    let mut answer = next.run(request).await;
    match answer.extensions_mut().remove::<Problem>() {
        Some(problem) if is_ours => finished(pages::wrong::show(&ui, &asked, &problem).await),
        _ => answer,
    }
}

/// The part of a request that a page needs to show a problem.
pub struct Asked {
    pub headers: axum::http::HeaderMap,
    pub path: String,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        Self { headers: request.headers().clone(), path: path.to_owned() }
    }
}

fn as_text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

fn finished(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, value);
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    answer
}

/// Returns whether the request's host is the engine: an IP address, a name of this machine, or the host of `external_url`. With DNS
/// rebinding, a foreign web page can send requests here under its own host name.
fn is_our_host<B>(request: &axum::http::Request<B>, external_url: Option<&Url>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| as_text(host).parse::<Authority>().ok());
    let Some(host) = host else { return false };
    let host = host.host().trim_matches(['[', ']']).to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok()
        || external_url.and_then(Url::host_str).is_some_and(|ours| ours.eq_ignore_ascii_case(&host))
}

fn foreign_host() -> Response {
    let text = "The dashboard does not answer under this host name. Open it at the engine's address, or set external_url to the URL at which people reach it.\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_to_the_engines_names_are_answered() {
        let external = Url::parse("https://hooks.example.com/x").unwrap();
        for (host, ours) in [
            ("127.0.0.1:8080", true),
            ("localhost", true),
            ("app.localhost:8080", true),
            ("[::1]:8080", true),
            ("10.1.4.20:8080", true),
            ("HOOKS.example.com", true),
            ("evil.example.com", false),
            ("localhost.evil.example.com", false),
            ("127.0.0.1.evil.example.com", false),
            ("", false),
        ] {
            let request = axum::http::Request::builder().header("host", host).body(()).unwrap();
            assert_eq!(is_our_host(&request, Some(&external)), ours, "{host}");
        }
    }

    #[test]
    fn the_policy_allows_nothing_unsafe_and_nothing_from_other_hosts() {
        assert!(!POLICY.contains("unsafe") && !POLICY.contains("http") && !POLICY.contains('*'));
    }
}
