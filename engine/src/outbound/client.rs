//! One exchange: the request goes out, the answer is read up to its cap, and all of it fits into one timeout.
//!
//! Two clients share the work of a [`Reach`]: one speaks TLS to whatever the guard admits, one speaks plain HTTP and is given addresses
//! from opened networks only. Connections are kept and used again; that, and bodies that are shared instead of copied, is what
//! makes this fast.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::header::{HeaderMap, LOCATION, RETRY_AFTER};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::Instant;
use url::{Host, Url};

use super::{
    guard::{BadUrl, Guard, Transport, parse_url},
    identity::{Identities, Identity},
    lookups::SystemResolver,
    outcome::{Failure, Place, Wait},
    progress::{NotePhase, Phase, Progress},
    resolver::{GuardedResolver, Purpose, Resolve},
};
use crate::{
    clock,
    domain::{
        delivery::{Attempt, AttemptOutcome},
        endpoint::{Reach, shown_url},
        retry::parse_retry_after,
    },
    trust::{self, Names},
};

/// How much of an answer is read. Receivers say "ok"; what is longer is an error page at best.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The longest wait for a connection, within the whole exchange's timeout.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an unused connection is kept. Many servers hang up after five seconds of silence (Node, Apache, uvicorn); leaving
/// first means that a request seldom meets a connection that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Unused connections kept to one receiver.
const IDLE_CONNECTIONS_MAX: usize = 256;

/// What one HTTP/2 answer, and all of them on a connection, may hold in memory before it is read.
const H2_STREAM_BYTES: u32 = 128 * 1024;
const H2_CONNECTION_BYTES: u32 = 1024 * 1024;

/// How soon a kept connection that the other side had closed shows it: within a round trip. What breaks off later broke
/// off while the receiver was at work.
const STALE_WITHIN: Duration = Duration::from_secs(1);

/// How long a look-up may take when a URL is checked at save.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest name that the DNS knows.
const HOST_BYTES_MAX: usize = 253;

const USER_AGENT: &str = concat!("innesco/", env!("CARGO_PKG_VERSION"));

/// One attempt to make: everything that goes over the wire.
#[derive(Clone)]
pub struct Request {
    pub url: Url,
    /// Complete: signatures, content type, the endpoint's own. Only `host`, `content-length`, `accept` and `user-agent` are
    /// added.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// For the whole exchange, from the look-up of the name to the last byte of the answer.
    pub timeout: Duration,
    /// Presented in the TLS handshake, where the endpoint has one.
    pub identity: Option<Identity>,
    /// The endpoint's.
    pub reach: Reach,
}

/// Shows neither the secret part of the URL nor the value of a header.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, headers, body, timeout, identity, reach } = self;
        f.debug_struct("Request")
            .field("url", &shown_url(url.as_str()))
            .field("headers", &headers.keys().collect::<Vec<_>>())
            .field("body_bytes", &body.len())
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

/// The way out. Cheap to share, and meant to be one for the whole engine, since it holds the kept connections.
pub struct Outbound {
    opened: Way,
    /// Has kept connections of its own: one that leads into an opened network must not be used again for an endpoint that cannot
    /// reach it.
    public: Way,
    identities: Identities,
}

/// What endpoints of one [`Reach`] share.
struct Way {
    clients: Clients,
    encrypted: reqwest::Client,
    plain: reqwest::Client,
}

impl Way {
    fn new(guard: Guard, names: Arc<dyn Resolve>, trusted: Arc<rustls::RootCertStore>) -> Result<Self, StartError> {
        let clients = Clients { guard: Arc::new(guard), names, trusted };
        let encrypted = clients.anonymous(Transport::Encrypted)?;
        let plain = clients.anonymous(Transport::Plain)?;
        Ok(Self { clients, encrypted, plain })
    }
}

/// What every client is made of.
pub(super) struct Clients {
    guard: Arc<Guard>,
    names: Arc<dyn Resolve>,
    trusted: Arc<rustls::RootCertStore>,
}

impl Clients {
    fn anonymous(&self, transport: Transport) -> Result<reqwest::Client, StartError> {
        let tls = self.tls().map_err(StartError::Tls)?.with_no_client_auth();
        self.client(transport, tls)
    }

    /// One that says who it is.
    pub(super) fn presenting(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<reqwest::Client, StartError> {
        let tls = self.tls().and_then(|tls| tls.with_client_auth_cert(chain, key)).map_err(StartError::Tls)?;
        self.client(Transport::Encrypted, tls)
    }

    fn tls(&self) -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>, rustls::Error> {
        trust::client_config(Arc::clone(&self.trusted), Names::Checked)
    }

    fn client(&self, transport: Transport, mut tls: rustls::ClientConfig) -> Result<reqwest::Client, StartError> {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let names = GuardedResolver { names: Arc::clone(&self.names), guard: Arc::clone(&self.guard), transport };
        client(transport, names, tls).map_err(StartError::Client)
    }
}

impl Outbound {
    pub fn new(guard: Guard) -> Result<Self, StartError> {
        Self::with_resolver(guard, Arc::new(SystemResolver::default()))
    }

    /// As [`Self::new`], with a look-up of one's own.
    pub fn with_resolver(guard: Guard, names: Arc<dyn Resolve>) -> Result<Self, StartError> {
        Self::with_roots(guard, names, trust::roots())
    }

    /// As [`Self::new`], with a look-up of one's own, and trusting receivers that these certificates vouch for.
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

    /// Judges a URL that someone wants to save for an endpoint of this reach, with every address that its name has now.
    ///
    /// A name that does not resolve yet is taken: it is judged again at each connection.
    pub async fn check_url(&self, url: &str, reach: Reach) -> Result<Url, BadUrl> {
        let url = self.check_form(url, reach)?;
        self.check_addresses(&url, reach).await?;
        Ok(url)
    }

    /// The part of [`Self::check_url`] that needs no look-up: the URL as it would be saved.
    pub fn check_form(&self, url: &str, reach: Reach) -> Result<Url, BadUrl> {
        let url = parse_url(url)?;
        self.way(reach).clients.guard.admit_url(&url)?;
        Ok(url)
    }

    /// The part of [`Self::check_url`] that asks a name server, whose answer may be long in coming.
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

    /// A client for addresses that the operator has chosen, such as a collector of traces: without the guard, and without a proxy
    /// or a redirect all the same.
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

    /// Makes one attempt. Never an `Err`: what the other side does is the attempt's outcome.
    pub async fn send(&self, request: Request) -> Attempt {
        let (at, started) = (clock::wall(), Instant::now());
        let progress = Progress::default();
        let mut heard = Heard::default();
        let exchange = progress.scope(self.exchange(&request, &progress, &mut heard));
        let ended = match tokio::time::timeout(request.timeout, exchange).await {
            Ok(ended) => ended,
            Err(_) => {
                let wait = match (heard.status, progress.phase()) {
                    (Some(status), _) => Wait::Answer { status },
                    (None, Phase::LookingUp) => Wait::Name,
                    (None, Phase::Connecting) => Wait::Connection,
                    (None, Phase::Kept | Phase::Connected) => Wait::Head,
                };
                Err(Failure::timed_out(wait, request.timeout, &request.url))
            }
        };
        let (outcome, detail) = match ended {
            Ok(outcome) => (outcome, heard.detail),
            Err(failure) => (failure.outcome, Some(failure.detail)),
        };
        Attempt { at, outcome, latency: started.elapsed(), detail, excerpt: heard.excerpt.into(), retry_after: heard.retry_after }
    }

    async fn exchange(&self, request: &Request, progress: &Progress, heard: &mut Heard) -> Result<AttemptOutcome, Failure> {
        let own;
        let way = self.way(request.reach);
        let client = match (way.clients.guard.admit_url(&request.url).map_err(Failure::refused)?, &request.identity) {
            (Transport::Encrypted, None) => &way.encrypted,
            (Transport::Encrypted, Some(identity)) => {
                own = self.identities.client(identity, request.reach, &way.clients).map_err(Failure::no_client)?;
                &own
            }
            (Transport::Plain, _) => &way.plain,
        };
        let started = Instant::now();
        let mut answer = client.execute(prepared(request)).await;
        if let Err(error) = &answer {
            let failure = Failure::of(error, &request.url);
            let stale =
                failure.outcome == AttemptOutcome::Reset && progress.phase() == Phase::Kept && started.elapsed() < STALE_WITHIN;
            if !stale {
                return Err(failure);
            }
            // The receiver closed a kept connection in the instant in which it was used again. That says nothing about the
            // receiver, and it knows the webhook by its id should it have read it after all.
            answer = client.execute(prepared(request)).await;
        }
        let mut answer = answer.map_err(|error| Failure::of(&error, &request.url))?;
        let status = answer.status().as_u16();
        heard.head(status, answer.headers(), &request.url);

        let mut length = 0;
        loop {
            let part = answer.chunk().await.map_err(|error| Failure::within_answer(&error, status, &request.url))?;
            let Some(part) = part else {
                return Ok(AttemptOutcome::Answered { status });
            };
            length += part.len();
            heard.keep(&part);
            if length > ANSWER_BYTES_MAX {
                heard.detail = Some(format!("the answer is longer than {} KiB; the rest was not read", ANSWER_BYTES_MAX / 1024));
                return Ok(AttemptOutcome::BodyTooLarge { status });
            }
        }
    }
}

fn prepared(request: &Request) -> reqwest::Request {
    let mut prepared = reqwest::Request::new(http::Method::POST, request.url.clone());
    *prepared.headers_mut() = request.headers.clone();
    *prepared.body_mut() = Some(request.body.clone().into());
    prepared
}

/// What came back so far. It outlives an exchange that ran out of time.
#[derive(Default)]
struct Heard {
    status: Option<u16>,
    detail: Option<String>,
    /// Copied out, because a slice would keep the connection's whole read buffer alive as long as the attempt.
    excerpt: Vec<u8>,
    retry_after: Option<Duration>,
}

impl Heard {
    fn head(&mut self, status: u16, headers: &HeaderMap, url: &Url) {
        self.status = Some(status);
        self.retry_after = headers.get(RETRY_AFTER).and_then(|asked| parse_retry_after(asked.to_str().ok()?, clock::wall()));
        if (300..400).contains(&status) {
            let target = headers.get(LOCATION).and_then(|value| url.join(value.to_str().ok()?).ok());
            // The target is the receiver's text: it is named only where it is as short as the name of a host can be.
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

fn client(transport: Transport, names: GuardedResolver, tls: rustls::ClientConfig) -> reqwest::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .tls_backend_preconfigured(tls)
        .dns_resolver(names)
        .connector_layer(NotePhase)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(15));
    match transport {
        Transport::Encrypted => builder
            .https_only(true)
            .http2_initial_stream_window_size(H2_STREAM_BYTES)
            .http2_initial_connection_window_size(H2_CONNECTION_BYTES)
            // Many webhooks share one connection; one that went silent must not swallow them all.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(5)),
        // Without TLS there is no HTTP/2, thus none of the refusals that the client would repeat a request for; saying so
        // saves a copy of each request.
        Transport::Plain => builder.http1_only().retry(reqwest::retry::never().max_retries_per_request(0)),
    }
    .build()
}
