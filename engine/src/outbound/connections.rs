//! Connections to receivers: opened through the guard, kept open for a while, and reused.
//!
//! A connection uses HTTP/2 if TLS negotiated it, and many exchanges share it. Otherwise it uses HTTP/1.1, one exchange at a
//! time. Even for a failed exchange, this module reports whether a request was sent at all, and which status was received.

use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::Name},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, task::AbortHandle, time::Instant};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::wire::{Overheard, Seen, Socket};

/// Maximum time to connect, counted from the end of the look-up. The timeout of the whole exchange applies too.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an unused connection is kept. Many servers close after five idle seconds (Node, Apache, uvicorn). Because the engine
/// closes earlier, it rarely sends a request on a connection that the server is closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Maximum number of unused connections to one receiver.
const IDLE_CONNECTIONS_MAX: usize = 256;

/// Interval of the check for expired connections.
const SWEEP: Duration = Duration::from_secs(1);

/// Maximum number of received bytes that wait to be read, for one HTTP/2 answer and for a whole HTTP/2 connection.
const H2_STREAM_BYTES: u32 = 128 * 1024;
const H2_CONNECTION_BYTES: u32 = 1024 * 1024;

/// Maximum number of header lines of an answer. Servers that set many cookies reach dozens.
const ANSWER_HEADERS_MAX: usize = 256;

type Body = Full<Bytes>;
type BoxError = Box<dyn Error + Send + Sync>;

/// Target of a connection: scheme, host and port.
pub(super) type Origin = url::Origin;

/// A connection that is ready for an exchange.
pub(super) struct Connection {
    speaks: Protocol,
    pub(super) seen: Arc<Seen>,
    /// Whether it served an earlier exchange.
    pub(super) kept: bool,
}

enum Protocol {
    Http1 { sender: http1::SendRequest<Body>, driver: Driver },
    Http2 { sender: http2::SendRequest<Body> },
}

/// The task that reads and writes an HTTP/1 connection. Dropping this value ends the task, so that no more of an abandoned
/// exchange is sent.
struct Driver(Option<AbortHandle>);

impl Driver {
    /// Lets the connection close cleanly.
    fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Why an exchange has no answer.
#[derive(Debug)]
pub(super) struct NoAnswer {
    pub(super) error: hyper::Error,
    /// Whether it is certain that nothing of the request reached the receiver.
    pub(super) unsent: bool,
}

impl Connection {
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.speaks, Protocol::Http2 { .. })
    }

    pub(super) async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, NoAnswer> {
        self.seen.begin(self.kept);
        match &mut self.speaks {
            Protocol::Http1 { sender, .. } => sender.try_send_request(request).await.map_err(|failed| {
                let (error, returned) = parts(failed);
                NoAnswer { error, unsent: returned || !self.seen.sent() }
            }),
            Protocol::Http2 { sender } => sender.try_send_request(request).await.map_err(|failed| {
                let (error, returned) = parts(failed);
                let unsent = returned || is_refused(&error);
                NoAnswer { error, unsent }
            }),
        }
    }
}

/// Returns the error, and whether the request was returned, which happens only if nothing of it was written.
fn parts(mut failed: TrySendError<Request<Body>>) -> (hyper::Error, bool) {
    let returned = failed.take_message().is_some();
    (failed.into_error(), returned)
}

/// Returns whether the server declared that it did not process the request (RFC 9113, section 8.7).
fn is_refused(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            let leaving = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            return error.is_remote() && (refused || leaving);
        }
        cause = error.source();
    }
    false
}

/// Opens connections and keeps them. Uses `tls` for `https://`, and no encryption for `http://`.
pub(super) struct Connections {
    tls: Arc<ClientConfig>,
    kept: Mutex<HashMap<Origin, Kept>>,
}

#[derive(Default)]
struct Kept {
    /// The most recently used connection is last.
    idle: Vec<(Connection, Instant)>,
    shared: Option<(http2::SendRequest<Body>, Arc<Seen>, Instant)>,
}

impl Connections {
    pub(super) fn new(mut tls: ClientConfig) -> Arc<Self> {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(Self { tls: Arc::new(tls), kept: Mutex::default() })
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Origin, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a keep-alive connection that is still alive, if any.
    pub(super) fn take(&self, origin: &Origin) -> Option<Connection> {
        let mut kept = self.kept();
        let kept = kept.get_mut(origin)?;
        if let Some((sender, seen, used)) = &mut kept.shared {
            if !sender.is_closed() {
                *used = Instant::now();
                return Some(Connection {
                    speaks: Protocol::Http2 { sender: sender.clone() },
                    seen: Arc::clone(seen),
                    kept: true,
                });
            }
            kept.shared = None;
        }
        while let Some((connection, since)) = kept.idle.pop() {
            if since.elapsed() < IDLE_TIMEOUT && connection.is_ready() {
                return Some(connection);
            }
            connection.retire();
        }
        None
    }

    /// Keeps a connection after its exchange, once the connection is ready for the next exchange.
    pub(super) fn give_back(self: &Arc<Self>, origin: Origin, mut connection: Connection) {
        let Protocol::Http1 { sender, .. } = &connection.speaks else { return };
        if sender.is_ready() {
            return self.keep(origin, connection);
        }
        let connections = Arc::downgrade(self);
        tokio::spawn(async move {
            let Protocol::Http1 { sender, .. } = &mut connection.speaks else { return };
            // A receiver that answered without reading the rest of the request never becomes ready.
            let ready = tokio::time::timeout(IDLE_TIMEOUT, sender.ready()).await;
            if let (Ok(Ok(())), Some(connections)) = (ready, Weak::upgrade(&connections)) {
                connections.keep(origin, connection);
            }
        });
    }

    fn keep(self: &Arc<Self>, origin: Origin, mut connection: Connection) {
        connection.kept = true;
        let mut kept = self.kept();
        self.sweep_later(&kept);
        let kept = kept.entry(origin).or_default();
        if kept.idle.len() >= IDLE_CONNECTIONS_MAX {
            return connection.retire();
        }
        kept.idle.push((connection, Instant::now()));
    }

    /// Shares a new HTTP/2 connection, unless another connection is already shared.
    fn share(self: &Arc<Self>, origin: Origin, sender: &http2::SendRequest<Body>, seen: &Arc<Seen>) {
        let mut kept = self.kept();
        self.sweep_later(&kept);
        let kept = kept.entry(origin).or_default();
        if kept.shared.as_ref().is_none_or(|(sender, ..)| sender.is_closed()) {
            kept.shared = Some((sender.clone(), Arc::clone(seen), Instant::now()));
        }
    }

    /// Starts the sweeper when the first connection is kept. The sweeper ends when no kept connection is left.
    fn sweep_later(self: &Arc<Self>, kept: &HashMap<Origin, Kept>) {
        if !kept.is_empty() {
            return;
        }
        let connections = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(connections) = Weak::upgrade(&connections) else { return };
                if connections.sweep() {
                    return;
                }
            }
        });
    }

    /// Drops expired connections. Returns whether none is left.
    fn sweep(&self) -> bool {
        let mut all = self.kept();
        all.retain(|_, kept| {
            let (stay, go): (Vec<_>, Vec<_>) = std::mem::take(&mut kept.idle)
                .into_iter()
                .partition(|(connection, since)| since.elapsed() < IDLE_TIMEOUT && !connection.is_closed());
            kept.idle = stay;
            go.into_iter().for_each(|(connection, _)| connection.retire());
            if kept.shared.as_ref().is_some_and(|(sender, _, used)| used.elapsed() >= IDLE_TIMEOUT || sender.is_closed()) {
                kept.shared = None;
            }
            !kept.idle.is_empty() || kept.shared.is_some()
        });
        all.is_empty()
    }

    /// Opens a connection to `url`. If its host is a name, the connection goes to one of `addresses`.
    pub(super) async fn open(self: &Arc<Self>, url: &Url, addresses: Vec<IpAddr>) -> Result<Connection, BoxError> {
        let stream = dial(url, addresses).await?;
        let (seen, encrypted) = (Arc::<Seen>::default(), url.scheme() == "https");
        let socket = Socket::new(stream, Arc::clone(&seen), encrypted);
        if !encrypted {
            return over_http1(socket, seen).await;
        }
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(server_name(url)?, socket).await?;
        if stream.get_ref().1.alpn_protocol() != Some(&b"h2"[..]) {
            return over_http1(stream, seen).await;
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(H2_STREAM_BYTES)
            .initial_connection_window_size(H2_CONNECTION_BYTES)
            // Many webhooks share one connection; a silent connection must not block them all.
            .keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        self.share(url.origin(), &sender, &seen);
        Ok(Connection { speaks: Protocol::Http2 { sender }, seen, kept: false })
    }
}

impl Connection {
    fn is_ready(&self) -> bool {
        matches!(&self.speaks, Protocol::Http1 { sender, .. } if sender.is_ready())
    }

    fn is_closed(&self) -> bool {
        matches!(&self.speaks, Protocol::Http1 { sender, .. } if sender.is_closed())
    }

    /// Closes an unused connection cleanly.
    fn retire(mut self) {
        if let Protocol::Http1 { driver, .. } = &mut self.speaks {
            driver.release();
        }
    }
}

async fn over_http1(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    seen: Arc<Seen>,
) -> Result<Connection, BoxError> {
    let (sender, connection) = http1::Builder::new()
        // Faulty data after the status must not cause retries.
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .max_headers(ANSWER_HEADERS_MAX)
        .handshake(TokioIo::new(Overheard::new(stream, Arc::clone(&seen))))
        .await?;
    let driver = Driver(Some(tokio::spawn(connection).abort_handle()));
    Ok(Connection { speaks: Protocol::Http1 { sender, driver }, seen, kept: false })
}

/// Connects to the first address that answers. Tries IPv4 and IPv6 if a name has both (RFC 8305).
async fn dial(url: &Url, addresses: Vec<IpAddr>) -> Result<TcpStream, BoxError> {
    let mut connector = HttpConnector::new_with_resolver(Found(addresses));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(15)));
    // The connector divides this time among the addresses, so that a silent first address does not use up the time of the others.
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let uri: Uri = url[..url::Position::BeforePath].parse()?;
    let stream = tower::Service::call(&mut connector, uri).await?;
    Ok(stream.into_inner())
}

fn server_name(url: &Url) -> Result<ServerName<'static>, BoxError> {
    Ok(match url.host() {
        Some(Host::Ipv4(ip)) => ServerName::IpAddress(IpAddr::from(ip).into()),
        Some(Host::Ipv6(ip)) => ServerName::IpAddress(IpAddr::from(ip).into()),
        Some(Host::Domain(name)) => ServerName::try_from(name.trim_end_matches('.').to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        None => return Err(io::Error::from(io::ErrorKind::InvalidInput).into()),
    })
}

/// The admitted addresses. The connector never looks up a name.
#[derive(Clone)]
struct Found(Vec<IpAddr>);

impl tower::Service<Name> for Found {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        // Port 0 means the URL's port.
        let addresses: Vec<SocketAddr> = self.0.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
        std::future::ready(Ok(addresses.into_iter()))
    }
}
