//! One exchange: sends the request and reads the answer up to a limit, within one timeout.
//!
//! A status that was read counts, even if the rest of the answer is faulty or too long. A receiver that answers 200 and then
//! streams forever has received the webhook. A retry would only duplicate it.
//!
//! A request is sent a second time within an attempt only if it is certain that nothing of it arrived. If the peer closed a
//! keep-alive connection between two uses, that is not the receiver's failure. Connections are reused and bodies are shared
//! instead of copied, for speed.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Uri,
    header::{ACCEPT, HOST, HeaderMap, LOCATION, RETRY_AFTER},
};
use http_body_util::{BodyExt as _, Full};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::Instant;
use url::{Host, Position, Url};

use super::{
    connections::{CONNECT_TIMEOUT, Connection, Connections},
    guard::{BadUrl, Guard, Transport, parse_url},
    identity::{Identities, Identity},
    lookups::SystemResolver,
    outcome::{Failure, Place, Wait},
    resolver::{Purpose, Resolve, admitted_addresses},
    wire::Seen,
};
use crate::{
    clock,
    domain::{
        delivery::{Attempt, AttemptOutcome},
        endpoint::{Reach, shown_url},
        retry::parse_retry_after,
        time::Timestamp,
    },
    trust::{self, Names},
};

/// Maximum number of bytes read of an answer. Receivers answer "ok"; a longer answer is at best an error page.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Timeout of a look-up when a URL is checked before it is saved.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum length of a DNS name, in bytes.
const HOST_BYTES_MAX: usize = 253;

const USER_AGENT: &str = concat!("innesco/", env!("CARGO_PKG_VERSION"));

/// Everything that one attempt sends.
#[derive(Clone)]
pub struct Request {
    pub url: Url,
    /// All headers: signatures, content type, the endpoint's headers. Only `host`, `content-length`, `accept` and `user-agent`
    /// are added.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Time of the attempt (wall clock). The headers contain the same time.
    pub at: Timestamp,
    /// Timeout of the whole exchange, from the look-up of the name to the last byte of the answer.
    pub timeout: Duration,
    /// Client certificate for the TLS handshake, if the endpoint has one.
    pub identity: Option<Identity>,
    /// The endpoint's reach.
    pub reach: Reach,
}

/// Shows neither the secret part of the URL nor the values of headers.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, headers, body, at, timeout, identity, reach } = self;
        f.debug_struct("Request")
            .field("url", &shown_url(url.as_str()))
            .field("headers", &headers.keys().collect::<Vec<_>>())
            .field("body_bytes", &body.len())
            .field("at", at)
            .field("timeout", timeout)
            .field("identity", identity)
            .field("reach", reach)
            .finish()
    }
}

/// The client could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// The HTTP client. Cheap to share. Use one client for the whole engine, because the client holds the keep-alive connections.
pub struct Outbound {
    opened: Way,
    /// Has separate keep-alive connections, because a connection into an opened network must not be reused for an endpoint that
    /// may not reach that network.
    public: Way,
    identities: Identities,
}

/// The part of the client that endpoints of one [`Reach`] share.
struct Way {
    clients: Clients,
    /// Connections without a client certificate.
    anonymous: Arc<Connections>,
}

impl Way {
    fn new(guard: Guard, names: Arc<dyn Resolve>, trusted: Arc<rustls::RootCertStore>) -> Result<Self, StartError> {
        let clients = Clients { guard: Arc::new(guard), names, trusted };
        let tls = clients.tls().map_err(StartError::Tls)?.with_no_client_auth();
        Ok(Self { clients, anonymous: Connections::new(tls) })
    }

    async fn open(
        &self,
        connections: &Arc<Connections>,
        transport: Transport,
        url: &Url,
        heard: &mut Heard,
    ) -> Result<Connection, Failure> {
        let Clients { guard, names, .. } = &self.clients;
        let addresses = match url.host() {
            Some(Host::Domain(name)) => {
                heard.stage = Stage::LookingUp;
                admitted_addresses(&**names, guard, transport, name).await.map_err(|error| Failure::of_dial(&*error, url))?
            }
            // The URL has an address instead of a name. The guard has already checked that address.
            _ => Vec::new(),
        };
        heard.stage = Stage::Connecting;
        match tokio::time::timeout(CONNECT_TIMEOUT, connections.open(url, addresses)).await {
            Ok(opened) => opened.map_err(|error| Failure::of_dial(&*error, url)),
            Err(_) => Err(Failure::timed_out(Wait::Connection, CONNECT_TIMEOUT, url)),
        }
    }
}

/// The configuration that all connections share.
pub(super) struct Clients {
    guard: Arc<Guard>,
    names: Arc<dyn Resolve>,
    trusted: Arc<rustls::RootCertStore>,
}

impl Clients {
    /// Creates connections that present a client certificate.
    pub(super) fn presenting(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<Connections>, StartError> {
        let tls = self.tls().and_then(|tls| tls.with_client_auth_cert(chain, key)).map_err(StartError::Tls)?;
        Ok(Connections::new(tls))
    }

    fn tls(&self) -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>, rustls::Error> {
        trust::client_config(Arc::clone(&self.trusted), Names::Checked)
    }
}

impl Outbound {
    pub fn new(guard: Guard) -> Result<Self, StartError> {
        Self::with_resolver(guard, Arc::new(SystemResolver::default()))
    }

    /// Like [`Self::new`], with another resolver.
    pub fn with_resolver(guard: Guard, names: Arc<dyn Resolve>) -> Result<Self, StartError> {
        Self::with_roots(guard, names, trust::roots())
    }

    /// Like [`Self::new`], with another resolver. Trusts only receivers with certificates of these authorities.
    pub fn with_trust(guard: Guard, names: Arc<dyn Resolve>, trusted: Vec<CertificateDer<'static>>) -> Result<Self, StartError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(trusted);
        Self::with_roots(guard, names, Arc::new(roots))
    }

    fn with_roots(guard: Guard, names: Arc<dyn Resolve>, trusted: Arc<rustls::RootCertStore>) -> Result<Self, StartError> {
        Ok(Self {
            opened: Way::new(guard, Arc::clone(&names), Arc::clone(&trusted))?,
            public: Way::new(Guard::public(), names, trusted)?,
            identities: Identities::default(),
        })
    }

    const fn way(&self, reach: Reach) -> &Way {
        match reach {
            Reach::Opened => &self.opened,
            Reach::Public => &self.public,
        }
    }

    /// Checks a URL that is to be saved for an endpoint of this reach. Also checks every current address of the URL's name.
    ///
    /// A name that does not resolve yet is accepted, because it is checked again at each connection.
    pub async fn check_url(&self, url: &str, reach: Reach) -> Result<Url, BadUrl> {
        let url = self.check_form(url, reach)?;
        self.check_addresses(&url, reach).await?;
        Ok(url)
    }

    /// The part of [`Self::check_url`] without a look-up. Returns the URL as it would be saved.
    pub fn check_form(&self, url: &str, reach: Reach) -> Result<Url, BadUrl> {
        let url = parse_url(url)?;
        self.way(reach).clients.guard.admit_url(&url)?;
        Ok(url)
    }

    /// The part of [`Self::check_url`] that asks a name server, which may be slow.
    pub async fn check_addresses(&self, url: &Url, reach: Reach) -> Result<(), BadUrl> {
        let guard = &self.way(reach).clients.guard;
        let transport = guard.admit_url(url)?;
        if let Some(Host::Domain(name)) = url.host() {
            for ip in self.addresses(name).await {
                guard.admit(ip, transport).map_err(|blocked| blocked.behind_name(name))?;
            }
        }
        Ok(())
    }

    /// Creates a client for addresses that the operator chose, such as a trace collector. The client does not use the guard. It
    /// uses no proxy either, and follows no redirects.
    pub fn operators_client(&self, timeout: Duration) -> Result<reqwest::Client, StartError> {
        let tls = self.opened.clients.tls().map_err(StartError::Tls)?.with_no_client_auth();
        reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .timeout(timeout)
            .build()
            .map_err(StartError::Client)
    }

    async fn addresses(&self, name: &str) -> Vec<IpAddr> {
        match tokio::time::timeout(CHECK_TIMEOUT, self.opened.clients.names.resolve(name, Purpose::Checking)).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }

    /// Makes one attempt. Never fails: every reaction of the other side is an outcome.
    pub async fn send(&self, request: Request) -> Attempt {
        let (at, started) = (request.at, Instant::now());
        let mut heard = Heard::default();
        let ended = match tokio::time::timeout(request.timeout, self.exchange(&request, &mut heard)).await {
            Ok(ended) => ended,
            Err(_) => Err(Failure::timed_out(heard.missing(), request.timeout, &request.url)),
        };
        let (outcome, detail) = match ended {
            Ok(outcome) => (outcome, heard.detail),
            Err(failure) => (failure.outcome, Some(failure.detail)),
        };
        Attempt { at, outcome, latency: started.elapsed(), detail, excerpt: heard.excerpt.into(), retry_after: heard.retry_after }
    }

    async fn exchange(&self, request: &Request, heard: &mut Heard) -> Result<AttemptOutcome, Failure> {
        let way = self.way(request.reach);
        let transport = way.clients.guard.admit_url(&request.url).map_err(Failure::refused)?;
        let own;
        let connections = match (transport, &request.identity) {
            (Transport::Encrypted, Some(identity)) => {
                own = self.identities.connections(identity, request.reach, &way.clients).map_err(Failure::no_client)?;
                &own
            }
            _ => &way.anonymous,
        };
        let origin = request.url.origin();
        loop {
            let mut connection = match connections.take(&origin) {
                Some(kept) => kept,
                None => way.open(connections, transport, &request.url, heard).await?,
            };
            heard.stage = Stage::Exchanging(Arc::clone(&connection.seen));
            let answer = match connection.send(prepared(request, connection.is_http2())?).await {
                Ok(answer) => answer,
                // The receiver closed a keep-alive connection just as it was reused.
                Err(none) if none.unsent && connection.kept => continue,
                Err(none) => return Err(Failure::of_exchange(&none.error, heard.status(), &request.url)),
            };
            let outcome = hear(answer, heard, &request.url).await?;
            if let AttemptOutcome::Answered { .. } = outcome {
                connections.give_back(origin, connection);
            }
            return Ok(outcome);
        }
    }
}

/// Reads the answer up to the limit.
async fn hear(answer: hyper::Response<hyper::body::Incoming>, heard: &mut Heard, url: &Url) -> Result<AttemptOutcome, Failure> {
    let status = answer.status().as_u16();
    heard.head(status, answer.headers(), url);
    let mut body = answer.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::of_exchange(&error, Some(status), url))?;
        let Ok(part) = frame.into_data() else { continue };
        length += part.len();
        heard.keep(&part);
        if length > ANSWER_BYTES_MAX {
            heard.detail = Some(format!("the answer is longer than {} KiB; the rest was not read", ANSWER_BYTES_MAX / 1024));
            return Ok(AttemptOutcome::BodyTooLarge { status });
        }
    }
    Ok(AttemptOutcome::Answered { status })
}

/// Builds the request for the HTTP library: HTTP/1 names the host in a header, HTTP/2 in the target.
fn prepared(request: &Request, http2: bool) -> Result<http::Request<Full<Bytes>>, Failure> {
    let unsendable = || Failure::refused(BadUrl::Unsendable);
    let (url, mut headers) = (&request.url, request.headers.clone());
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.entry(http::header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
    let target = if http2 {
        &url[..Position::AfterQuery]
    } else {
        headers.insert(HOST, HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort]).map_err(|_| unsendable())?);
        &url[Position::BeforePath..Position::AfterQuery]
    };
    let mut prepared = http::Request::new(Full::new(request.body.clone()));
    *prepared.method_mut() = http::Method::POST;
    *prepared.uri_mut() = target.parse::<Uri>().map_err(|_| unsendable())?;
    *prepared.headers_mut() = headers;
    Ok(prepared)
}

/// The part of the answer that has arrived so far. It is still available after the exchange has run out of time.
#[derive(Default)]
struct Heard {
    stage: Stage,
    /// Status of the answer, once its head is complete.
    status: Option<u16>,
    detail: Option<String>,
    /// The first bytes of the body. They are copied, because a slice would keep the connection's whole read buffer in memory as
    /// long as the attempt exists.
    excerpt: Vec<u8>,
    retry_after: Option<Duration>,
}

/// The current stage of an exchange.
#[derive(Default)]
enum Stage {
    #[default]
    LookingUp,
    Connecting,
    Exchanging(Arc<Seen>),
}

impl Heard {
    /// Returns the status that was read, even if only the status line arrived.
    fn status(&self) -> Option<u16> {
        match &self.stage {
            Stage::Exchanging(seen) => self.status.or_else(|| seen.status()),
            Stage::LookingUp | Stage::Connecting => None,
        }
    }

    /// Returns the stage that the exchange had reached when the time was over.
    fn missing(&self) -> Wait {
        match (&self.stage, self.status()) {
            (Stage::LookingUp, _) => Wait::Name,
            (Stage::Connecting, _) => Wait::Connection,
            (Stage::Exchanging(_), None) => Wait::Head,
            (Stage::Exchanging(_), Some(status)) => Wait::Answer { status },
        }
    }

    fn head(&mut self, status: u16, headers: &HeaderMap, url: &Url) {
        self.status = Some(status);
        self.retry_after = headers.get(RETRY_AFTER).and_then(|asked| parse_retry_after(asked.to_str().ok()?, clock::wall()));
        if (300..400).contains(&status) {
            let target = headers.get(LOCATION).and_then(|value| url.join(value.to_str().ok()?).ok());
            // The target is text of the receiver. It is shown only if its host is not longer than a DNS name can be.
            let named = target.filter(|target| target.host_str().is_some_and(|host| host.len() <= HOST_BYTES_MAX));
            self.detail = Some(match named {
                Some(target) => format!("a redirect to {}, which is not followed", Place(&target)),
                None => "a redirect, which is not followed".to_owned(),
            });
        }
    }

    fn keep(&mut self, part: &[u8]) {
        let room = Attempt::EXCERPT_MAX - self.excerpt.len();
        self.excerpt.extend_from_slice(&part[..part.len().min(room)]);
    }
}
