//! Receivers for tests, on loopback and with real sockets.
//!
//! [`Receiver`] behaves well: it stores its requests and answers as configured. [`Hostile`] misbehaves: each of its constructors makes
//! one kind. Both types count what happens, and a test waits for a count with a deadline. If the deadline passes, the message shows the
//! last state.
//!
//! Receivers use plain sockets, so that a test sees the exact bytes and can break every rule of HTTP.

mod hostile;
mod wire;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
pub use hostile::{Hostile, Reads, Tally};
use rcgen::CertifiedKey;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    },
};

/// One received request.
#[derive(Clone)]
pub struct Received {
    /// Number of the request, from 0.
    pub number: usize,
    /// Number of the connection, from 0.
    pub connection: usize,
    pub method: String,
    /// The path with the query.
    pub path: String,
    /// The headers in the received order and spelling.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub arrived: Instant,
}

impl Received {
    /// Returns the first header with that name, in any spelling.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self.text().chars().take(200).collect();
        write!(f, "#{} {} {} ({} bytes: {text:?})", self.number, self.method, self.path, self.body.len())
    }
}

/// The answer of a [`Receiver`] to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub delay: Duration,
    /// Closes the connection afterwards, without announcing it.
    pub hang_up: bool,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new(), delay: Duration::ZERO, hang_up: false }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub fn then_hang_up(mut self) -> Self {
        self.hang_up = true;
        self
    }
}

type Program = Box<dyn Fn(&Received) -> Answer + Send + Sync>;

/// A receiver that behaves well. It stops when dropped.
pub struct Receiver {
    address: SocketAddr,
    scheme: &'static str,
    received: watch::Sender<Vec<Received>>,
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Receiver {
    /// Starts a receiver that answers `200` with an empty body.
    pub async fn start() -> Self {
        Self::answering(|_| Answer::status(200)).await
    }

    /// Starts a receiver that answers with the result of `program`.
    pub async fn answering(program: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(Box::new(program), None).await
    }

    /// Starts a receiver that gives these answers in order, and repeats the last one.
    pub async fn sequence(answers: Vec<Answer>) -> Self {
        assert!(!answers.is_empty(), "a sequence needs an answer");
        Self::answering(move |received| answers[received.number.min(answers.len() - 1)].clone()).await
    }

    /// Like [`Self::answering`], with TLS and this certificate.
    pub async fn with_tls(identity: &Identity, program: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(Box::new(program), Some(identity.acceptor(&[b"http/1.1"]))).await
    }

    /// Like [`Self::with_tls`], but requires a client certificate issued by `wanted`.
    pub async fn with_mutual_tls(
        identity: &Identity,
        wanted: &Identity,
        program: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Box::new(program), Some(identity.mutual_acceptor(wanted))).await
    }

    async fn serve(program: Program, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let received = watch::Sender::new(Vec::new());
        let connections = Arc::new(AtomicUsize::new(0));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (program, record, count) = (Arc::new(program), received.clone(), Arc::clone(&connections));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let number = count.fetch_add(1, Ordering::Relaxed);
                let (program, record, tls) = (Arc::clone(&program), record.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => converse(stream, number, &program, &record).await,
                        Some(tls) => match tls.accept(stream).into_fallible().await {
                            Ok(stream) => converse(stream, number, &program, &record).await,
                            // Reads until the client closes. If this side closed first, while the client is still sending, the
                            // client would not learn the reason.
                            Err((_, mut stream)) => {
                                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                            }
                        },
                    }
                });
            }
        });
        Self { address, scheme, received, connections, serving }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL of `path`, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Returns all requests so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.borrow().clone()
    }

    /// Returns the number of connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Waits until the requests satisfy `condition`. If they do not by `deadline`, panics and shows them.
    pub async fn wait_for(&self, what: &str, deadline: Duration, condition: impl FnMut(&[Received]) -> bool) -> Vec<Received> {
        let mut condition = condition;
        reached(&self.received, what, deadline, |received| condition(received)).await
    }

    /// Waits for the `count`-th request.
    pub async fn wait_for_count(&self, count: usize, deadline: Duration) -> Vec<Received> {
        self.wait_for(&format!("{count} requests"), deadline, |received| received.len() >= count).await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Answers the requests of one connection until either side closes.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    program: &Program,
    record: &watch::Sender<Vec<Received>>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = wire::read_request(&mut stream, &mut buffer).await {
        let mut received = Received {
            number: 0,
            connection,
            method: request.method,
            path: request.path,
            headers: request.headers,
            body: request.body,
            arrived: Instant::now(),
        };
        record.send_modify(|all| {
            received.number = all.len();
            all.push(received.clone());
        });
        let answer = program(&received);
        if !answer.delay.is_zero() {
            tokio::time::sleep(answer.delay).await;
        }
        if stream.write_all(&wire::answer(answer.status, &answer.headers, &answer.body)).await.is_err() || answer.hang_up {
            return;
        }
    }
}

/// Waits until `state` satisfies `condition`. If it does not by `deadline`, panics and shows its last value.
pub async fn reached<T: Clone + fmt::Debug>(
    state: &watch::Sender<T>,
    what: &str,
    deadline: Duration,
    condition: impl FnMut(&T) -> bool,
) -> T {
    let mut changes = state.subscribe();
    match tokio::time::timeout(deadline, changes.wait_for(condition)).await {
        Ok(Ok(reached)) => reached.clone(),
        _ => panic!("waited {deadline:?} for {what}; the last state: {:?}", *state.borrow()),
    }
}

/// A server's certificate and key.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    /// Creates a self-signed certificate, which only clients that trust [`Self::certificate`] accept.
    pub fn self_signed(name: &str) -> Self {
        Self::of(rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate for a plain name"))
    }

    /// Like [`Self::self_signed`], but expired.
    pub fn expired(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).expect("a plain name");
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let signing_key = rcgen::KeyPair::generate().expect("a key");
        let cert = params.self_signed(&signing_key).expect("a certificate for a plain name");
        Self::of(CertifiedKey { cert, signing_key })
    }

    /// Creates an authority and a certificate for `name` that it issued. Returns the authority's certificate in PEM, and the issued
    /// identity.
    pub fn issued(name: &str) -> (String, Self) {
        let mut authority = rcgen::CertificateParams::new([]).expect("no name at all");
        authority.distinguished_name.push(rcgen::DnType::CommonName, format!("the authority of {name}"));
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let root = authority.self_signed(&key).expect("a certificate for an authority").der().clone();
        let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a plain name");
        let signing_key = rcgen::KeyPair::generate().expect("a key");
        let cert = params.signed_by(&signing_key, &rcgen::Issuer::new(authority, key)).expect("a certificate for a plain name");
        (Self::block("CERTIFICATE", &root), Self::of(CertifiedKey { cert, signing_key }))
    }

    /// Creates a self-signed client certificate.
    pub fn client(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::new([]).expect("no name at all");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let signing_key = rcgen::KeyPair::generate().expect("a key");
        let cert = params.self_signed(&signing_key).expect("a certificate for a plain name");
        Self::of(CertifiedKey { cert, signing_key })
    }

    /// Returns the certificate in PEM.
    pub fn pem(&self) -> String {
        Self::block("CERTIFICATE", &self.certificate)
    }

    /// Returns the key in PEM.
    pub fn key_pem(&self) -> String {
        Self::block("PRIVATE KEY", &self.key)
    }

    fn block(label: &str, der: &[u8]) -> String {
        let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, der);
        format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
    }

    fn of(made: CertifiedKey<rcgen::KeyPair>) -> Self {
        Self { certificate: made.cert.der().clone(), key: made.signing_key.serialize_der() }
    }

    /// Accepts TLS connections and offers these protocols in order of preference.
    pub fn acceptor(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        self.accepting(WebPkiClientVerifier::no_client_auth(), protocols)
    }

    /// Accepts TLS connections from clients with a certificate issued by `wanted`.
    pub fn mutual_acceptor(&self, wanted: &Identity) -> TlsAcceptor {
        let mut roots = RootCertStore::empty();
        roots.add(wanted.certificate.clone()).expect("a certificate");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
        self.accepting(verifier.build().expect("there is a root"), &[b"http/1.1"])
    }

    fn accepting(&self, clients: Arc<dyn ClientCertVerifier>, protocols: &[&[u8]]) -> TlsAcceptor {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows the default versions")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![self.certificate.clone()], PrivatePkcs8KeyDer::from(self.key.clone()).into())
            .expect("the key belongs to the certificate");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}
