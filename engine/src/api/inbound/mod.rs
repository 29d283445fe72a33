//! `/in/{source}`: receives webhooks of third parties. Nothing in a request is trusted before its sender is verified. Then it
//! becomes an event, which is on disk before the sender is answered.
//!
//! Work before the verification is cheap. A request is charged to its caller before any work. If its head already shows that it
//! has no proof, it is refused before its body is read. Bodies use their source's share of memory. Requests with valid proof from
//! a flooding caller are still accepted, but are checked one by one.
//!
//! A refusal explains the error without revealing a secret or helping to find one. Refusals are counted, and the last ones are
//! stored ([`watch`]).

mod peer;
mod request;
pub mod watch;

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use serde_json::json;
use url::Url;
use utoipa::ToSchema;

pub use self::peer::{ForwardedHeader, Peer, Proxies};
use self::watch::{Watch, Watches};
use super::{
    Api,
    body::{self, Held},
    error::Problem,
    events, intake,
    path::Path,
};
use crate::{
    clock,
    domain::{
        content::essence,
        source::{Incoming, Refusal, Reply, Source},
        trace,
    },
    metrics::meters,
    news::News,
    wire::values::values,
};

/// Settings that all sources share.
pub struct Inbound {
    pub watches: Watches,
    pub proxies: Proxies,
    /// URL under which senders reach the engine. If it is `None`, the host of each request is used.
    pub external_url: Option<Url>,
}

impl Inbound {
    /// Returns the address of a source as its senders know it, if `external_url` is set.
    pub fn url(&self, source: &Source) -> Option<String> {
        let base = self.external_url.as_ref()?.as_str().trim_end_matches('/');
        Some(format!("{base}/in/{}", source.address()))
    }

    /// Returns the full URL of a request, with its query, as its sender wrote it.
    fn requested(&self, uri: &Uri, headers: &HeaderMap) -> String {
        let path = uri.path_and_query().map_or(uri.path(), |whole| whole.as_str());
        match &self.external_url {
            Some(base) => format!("{}{path}", base.as_str().trim_end_matches('/')),
            None => {
                let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
                let host = named.or_else(|| uri.authority().map(|authority| authority.as_str())).unwrap_or_default();
                format!("http://{host}{path}")
            }
        }
    }
}

/// The OpenAPI schema of the body of a request to a source.
pub enum AnyBody {}

values! {
    AnyBody, "AnyBody", json!({ "description": "The sender's webhook: JSON, a form, XML or any bytes." });
}

/// The answer to an accepted request, unless its source defines another answer.
#[derive(Serialize, ToSchema)]
pub struct Taken {
    /// Id of the event.
    #[schema(value_type = crate::domain::id::EventId)]
    accepted: String,
}

/// Reasons why a source refuses a request: labels of a metric, so they never change their meaning.
pub const REASONS: [&str; 12] = [
    "missing",
    "malformed",
    "timestamp",
    "mismatch",
    "address",
    "method",
    "content-type",
    "body",
    "rate",
    "flood",
    "depth",
    "id",
];

/// A refused request: the reason as a word of [`REASONS`], and the answer.
struct No(&'static str, Problem);

/// A request in progress.
struct Visit<'a> {
    api: &'a Api,
    source: &'a Source,
    caller: IpAddr,
    watch: Arc<Watch>,
    /// Whether its caller was recently refused too often.
    is_flooding: bool,
}

/// Send a webhook to a source.
///
/// The source defines the proof of its sender and the allowed methods. The answer is sent after the event is on disk; a source can
/// define another status and body for its answers.
#[utoipa::path(
    post, path = "/in/{source}", operation_id = "receive_webhook", tag = "sources",
    params(("source" = String, Path, description = "The address of the source: its name and an unguessable part.")),
    request_body(description = "The sender's webhook.", content(
        (AnyBody = "application/json", example = json!({ "id": 7, "total": "129.50" })),
    )),
    responses((status = 200, description = "The event is on disk, or was already.", body = Taken)),
    extensions(("x-problems" = json!([
        "not_verified", "address_not_allowed", "unsupported_media_type", "id_taken", "rate_limited", "loop_detected", "store_full", "store_unavailable",
    ]))),
)]
pub async fn receive(
    State(api): State<Arc<Api>>,
    Path(address): Path<String>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Result<Response, Problem> {
    let sources = api.sources.table();
    let source = sources.at(&address, clock::steady()).ok_or_else(|| Problem::not_found("no source at this address"))?;
    // Every connection has a peer. A test that has no connection gets the unspecified address.
    let peer = peer.map_or(IpAddr::from([0, 0, 0, 0]), |Extension(Peer(address))| address);
    let caller = api.inbound.proxies.caller(peer, request.headers());
    let watches = &api.inbound.watches;
    let charge = watches.charge(source.id, caller, clock::steady());
    let is_flooding = charge.is_flooding;
    let visit = Visit { api: &api, source, caller, watch: watches.of(source.id), is_flooding };
    match visit.go(request).await {
        Ok(response) => {
            watches.refund(charge);
            Ok(response)
        }
        // The engine caused this refusal, so it does not count against the sender.
        Err(No(_, problem)) if problem.is_ours() => {
            watches.refund(charge);
            Err(problem)
        }
        Err(No(reason, problem)) => {
            // A caller that exceeds the rate or repeats an id was verified.
            let has_proved_itself = ["rate", "depth", "id"].contains(&reason);
            let (reason, problem) = match is_flooding && !has_proved_itself {
                true => ("flood", Problem::rate_limited(FLOODING).after(60)),
                false => (reason, problem),
            };
            if has_proved_itself {
                watches.refund(charge);
            }
            tracing::debug!(source = %source.new.name, %caller, reason, "request refused");
            // A flood must not displace the rest of the feed.
            if reason != "flood" {
                let (source, detail) = (source.new.name.to_string(), problem.detail().to_owned());
                api.feed.send(|| News::Refused { source, address: caller, reason, detail });
            }
            watches.refuse((source.id, &source.new.name), (caller, clock::wall()), reason, problem.detail());
            let mut response = problem.into_response();
            if reason == "method" {
                allow(&mut response, source);
            }
            Ok(response)
        }
    }
}

const FLOODING: &str = "too many requests from this address were refused; correct them, and try again in a minute";

/// Returns the answer to a challenge. The answer may repeat untrusted text, which no browser may interpret as a page.
fn plain(reply: Reply) -> Response {
    let Some(content_type) = reply.content_type else { return StatusCode::OK.into_response() };
    ([(header::CONTENT_TYPE, content_type), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], reply.body).into_response()
}

/// Adds the header that lists the allowed methods of a source.
fn allow(response: &mut Response, source: &Source) {
    if let Ok(methods) = HeaderValue::from_str(&source.new.settings.methods.join(", ")) {
        response.headers_mut().insert(header::ALLOW, methods);
    }
}

impl Visit<'_> {
    async fn go(&self, request: Request) -> Result<Response, No> {
        let settings = &self.source.new.settings;
        if !self.source.admits(self.caller) {
            return Err(No("address", Problem::address_not_allowed("this source refuses requests from this address")));
        }
        let (parts, body) = request.into_parts();
        if parts.method == Method::OPTIONS {
            return Ok(self.handshake(&parts.headers));
        }
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let headers = parts.headers.iter().filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?)));
        let headers: Vec<(String, String)> = headers.collect();
        let url = self.api.inbound.requested(&parts.uri, &parts.headers);
        let head = Incoming {
            method: parts.method.as_str(),
            url: &url,
            query: parts.uri.query().unwrap_or_default(),
            headers: &headers,
            body: &[],
        };
        let refused = |refusal: Refusal| No(refusal.as_str(), Problem::not_verified(refusal.to_string()));
        if let Some(reply) = self.source.answer_head(&head).map_err(refused)? {
            return Ok(plain(reply));
        }
        if !settings.methods.iter().any(|method| method == parts.method.as_str()) {
            let text = format!("this source allows {}", settings.methods.join(", "));
            return Err(No("method", Problem::method_not_allowed(text)));
        }
        self.check_kind(&parts.headers)?;
        let by_head = self.source.check_head(&head, clock::steady(), clock::wall());
        if let Err(refusal) = by_head {
            let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
            if !self.source.may_be_probe(&head, length) {
                return Err(refused(refusal));
            }
            let (body, _held) = self.read(&parts.headers, body).await?;
            let reply = self.source.answer_probe(&Incoming { body: &body, ..head });
            return reply.map(plain).ok_or_else(|| refused(refusal));
        }
        let (body, _held) = self.read(&parts.headers, body).await?;
        let incoming = Incoming { body: &body, ..head };
        let believed = match by_head {
            Ok(Some(believed)) => believed,
            _ => {
                let _turn = if self.is_flooding { self.watch.one_by_one.acquire().await.ok() } else { None };
                let verify = || self.source.verify(&incoming, clock::steady(), clock::wall());
                self.heavy(&body, verify).await?.map_err(refused)?
            }
        };
        // From here on the sender is verified. Only verified requests count for the rate.
        if !self.watch.has_room(settings.rate) {
            let rate = settings.rate.map(|rate| rate.to_string()).unwrap_or_default();
            return Err(No("rate", Problem::rate_limited(format!("this source accepts at most {rate}")).after(1)));
        }
        let read = || match self.source.challenge(&incoming, &believed, clock::steady()) {
            Some(challenge) => Err(challenge),
            None => Ok(self.source.event(&incoming, &body, &believed)),
        };
        let mut event = match self.heavy(&body, read).await? {
            Ok(event) => event,
            Err(challenge) => return Ok(plain(challenge)),
        };
        event.depth = intake::depth(&parts.headers).map_err(|problem| No("depth", problem))?;
        if let Some((parent, state)) = intake::trace(&parts.headers) {
            trace::adopt(Arc::make_mut(&mut event.attributes), &parent, state.as_deref());
        }
        let stored = events::store_events(self.api, self.api.traces.begin(), vec![event]).await;
        // If the store is not the cause, another event has this id.
        let stored = stored.map_err(|problem| No(if problem.is_ours() { "store" } else { "id" }, problem))?;
        let (event, duplicate) = stored.into_iter().next().map(|one| (one.event, one.duplicate)).unwrap_or_default();
        self.watch.note_accepted(clock::wall(), duplicate);
        meters().tally.source_accepted(self.source.id, duplicate);
        Ok(self.answer(event))
    }

    /// Parses a body without delaying other connections.
    async fn heavy<T>(&self, body: &[u8], work: impl FnOnce() -> T) -> Result<T, No> {
        self.api.heavy.run(body.len(), work).await.map_err(|problem| No("body", problem))
    }

    fn check_kind(&self, headers: &HeaderMap) -> Result<(), No> {
        let refuse = |text: String| Err(No("content-type", Problem::unsupported_media_type(text)));
        if let Some(coding) = body::coding(headers) {
            return refuse(format!("bodies with content-encoding {coding:?} are not supported; send the body uncompressed"));
        }
        let known = &self.source.new.settings.content_types;
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = essence(content_type.unwrap_or_default());
        let fits = |one: &String| match one.strip_suffix('*') {
            Some(kind) => essence.starts_with(kind),
            None => *one == essence,
        };
        if known.is_empty() || known.iter().any(fits) {
            return Ok(());
        }
        refuse(format!("this source accepts {}", known.join(", ")))
    }

    async fn read(&self, headers: &HeaderMap, body: Body) -> Result<(bytes::Bytes, Held), No> {
        let own = self.source.new.settings.body_bytes_max.and_then(|bytes| usize::try_from(bytes).ok());
        let limit = own.unwrap_or(usize::MAX).min(self.api.body_bytes_max).min(body::SOURCE_BODY_BYTES_MAX);
        let rooms = self.api.body_room.for_source(&self.watch.room);
        body::read_within(self.api, headers, body, limit, &rooms).await.map_err(|problem| No("body", problem))
    }

    /// Answers the request of CloudEvents senders for permission to send ("HTTP 1.1 Web Hooks", abuse protection). The permission
    /// is granted to every caller that knows the address.
    fn handshake(&self, asked: &HeaderMap) -> Response {
        let settings = &self.source.new.settings;
        let mut response = StatusCode::NO_CONTENT.into_response();
        allow(&mut response, self.source);
        let headers = response.headers_mut();
        if let Some(origin) = asked.get("webhook-request-origin") {
            headers.insert("webhook-allowed-origin", origin.clone());
            let each_minute = settings.rate.map(|rate| rate.within(std::time::Duration::from_secs(60)).max(1));
            let rate = each_minute.map_or(HeaderValue::from_static("*"), HeaderValue::from);
            headers.insert("webhook-allowed-rate", rate);
            *response.status_mut() = StatusCode::OK;
        }
        response
    }

    fn answer(&self, event: String) -> Response {
        let answer = &self.source.new.settings.answer;
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
        match &answer.body {
            None => (status, axum::Json(Taken { accepted: event })).into_response(),
            Some(body) if body.is_empty() => status.into_response(),
            Some(body) => (status, [(header::CONTENT_TYPE, answer.content_type.clone())], body.clone()).into_response(),
        }
    }
}
