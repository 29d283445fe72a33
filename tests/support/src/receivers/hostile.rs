//! Receivers that misbehave, one constructor for each kind.

use std::{future::Future, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{Identity, reached, wire};

/// The counts of a [`Hostile`] receiver so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of accepted connections.
    pub accepted: usize,
    /// Number of connections that the client has not closed.
    pub open: usize,
    /// Number of complete requests.
    pub requests: usize,
    /// Number of bytes that the system accepted for sending.
    pub bytes_written: u64,
}

/// How much of a request a receiver reads before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    Whole,
    /// Only the head.
    Head,
    /// The complete first request of a connection, which the receiver answers with `200`, and the head of the second request.
    HeadOfSecond,
}

/// A receiver that misbehaves. It stops when dropped.
pub struct Hostile {
    address: SocketAddr,
    scheme: &'static str,
    tally: watch::Sender<Tally>,
    serving: JoinHandle<()>,
}

impl Hostile {
    /// Reads the request and never answers.
    pub async fn hang_before_headers() -> Self {
        Self::after_request(|peer| async move { peer.hold().await }).await
    }

    /// Accepts connections and never reads.
    pub async fn hang_before_reading() -> Self {
        Self::serve("http", |peer| async move { peer.hold_unread().await }).await
    }

    /// Announces a body and sends a byte of it every `interval`.
    pub async fn drip(interval: Duration) -> Self {
        Self::after_request(move |mut peer| async move {
            let head: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
            let mut next = head;
            while peer.write(next).await {
                next = b".";
                tokio::time::sleep(interval).await;
            }
        })
        .await
    }

    /// Sends one header every `interval`, endlessly.
    pub async fn slow_headers(interval: Duration) -> Self {
        Self::after_request(move |mut peer| async move {
            let mut next: &[u8] = b"HTTP/1.1 200 OK\r\n";
            while peer.write(next).await {
                next = b"x: y\r\n";
                tokio::time::sleep(interval).await;
            }
        })
        .await
    }

    /// Answers `200` and sends an endless body as fast as possible.
    pub async fn endless_body() -> Self {
        Self::after_request(|mut peer| async move {
            let chunk = [b"10000\r\n".as_slice(), &vec![b'x'; 0x10000], b"\r\n"].concat();
            let mut alive = peer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while alive {
                alive = peer.write(&chunk).await;
            }
        })
        .await
    }

    /// Announces a body of 10 GB and sends as much of it as the client reads.
    pub async fn huge_body() -> Self {
        Self::after_request(|mut peer| async move {
            let chunk = vec![b'x'; 0x10000];
            let mut alive = peer.write(b"HTTP/1.1 500 Oh\r\ncontent-length: 10000000000\r\n\r\n").await;
            while alive {
                alive = peer.write(&chunk).await;
            }
        })
        .await
    }

    /// Sends endless headers as fast as possible.
    pub async fn huge_headers() -> Self {
        Self::after_request(|mut peer| async move {
            let chunk = format!("x-huge: {}\r\n", "y".repeat(8000)).into_bytes();
            let mut alive = peer.write(b"HTTP/1.1 200 OK\r\n").await;
            while alive {
                alive = peer.write(&chunk).await;
            }
        })
        .await
    }

    /// Reads the request and resets the connection.
    pub async fn reset() -> Self {
        Self::after_request(|peer| async move {
            let _ = peer.stream.set_zero_linger();
        })
        .await
    }

    /// Announces a body, sends half of it and closes the connection.
    pub async fn close_within_body() -> Self {
        Self::after_request(|mut peer| async move {
            peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf").await;
        })
        .await
    }

    /// Reads the request and closes the connection in good order, without an answer.
    pub async fn close_without_answer() -> Self {
        Self::after_request(|_| async {}).await
    }

    /// Reads a request up to `reads`, writes `answer` and closes the TCP connection. Unread data resets the connection, and TLS ends
    /// without `close_notify`. Counts every request with a complete head.
    pub async fn raw(answer: impl Into<Vec<u8>>, reads: Reads, identity: Option<&Identity>) -> Self {
        let (answer, tls) = (answer.into(), identity.map(|identity| identity.acceptor(&[b"http/1.1"])));
        let scheme = if tls.is_some() { "https" } else { "http" };
        Self::serve(scheme, move |Peer { stream, tally }| {
            let (answer, tls) = (answer.clone(), tls.clone());
            async move {
                match tls {
                    None => answer_and_close(stream, &tally, &answer, reads).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            answer_and_close(stream, &tally, &answer, reads).await;
                        }
                    }
                }
            }
        })
        .await
    }

    /// Answers with something that is not HTTP.
    pub async fn not_http() -> Self {
        Self::after_request(|mut peer| async move {
            peer.write(b"220 mail.example ESMTP ready\r\n").await;
            peer.hold().await;
        })
        .await
    }

    /// Answers `302` to `location`.
    pub async fn redirect_to(location: &str) -> Self {
        let answer = wire::answer(302, &[("location".to_owned(), location.to_owned())], b"");
        Self::answering(answer).await
    }

    /// Answers with `status` and nothing else.
    pub async fn status(status: u16) -> Self {
        Self::answering(wire::answer(status, &[], b"")).await
    }

    /// Speaks TLS with a certificate of an unknown issuer.
    pub async fn bad_tls() -> Self {
        let tls = Identity::self_signed("localhost").acceptor(&[]);
        Self::serve("https", move |peer| {
            let tls = tls.clone();
            async move {
                let _ = tls.accept(peer.stream).await;
            }
        })
        .await
    }

    /// Gives out an `https` URL, but does not use TLS.
    pub async fn no_tls() -> Self {
        Self::serve("https", |mut peer| async move {
            peer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            peer.hold().await;
        })
        .await
    }

    /// Gives out an `https` URL, and hangs during the handshake.
    pub async fn hang_in_tls() -> Self {
        Self::serve("https", |peer| async move { peer.hold().await }).await
    }

    async fn answering(answer: Vec<u8>) -> Self {
        Self::after_request(move |mut peer| {
            let answer = answer.clone();
            async move {
                peer.write(&answer).await;
                peer.hold().await;
            }
        })
        .await
    }

    /// Reads one request, then misbehaves.
    async fn after_request<F: Future<Output = ()> + Send>(misbehave: impl Fn(Peer) -> F + Clone + Send + Sync + 'static) -> Self {
        Self::serve("http", move |mut peer| {
            let misbehave = misbehave.clone();
            async move {
                if wire::read_request(&mut peer.stream, &mut Vec::new()).await.is_some() {
                    peer.tally.send_modify(|tally| tally.requests += 1);
                    misbehave(peer).await;
                }
            }
        })
        .await
    }

    async fn serve<F: Future<Output = ()> + Send + 'static>(
        scheme: &'static str,
        misbehave: impl Fn(Peer) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let tally = watch::Sender::new(Tally::default());
        let counted = tally.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Bytes must be sent at once, because a reset discards bytes that are still waiting to be sent.
                let _ = stream.set_nodelay(true);
                counted.send_modify(|tally| {
                    tally.accepted += 1;
                    tally.open += 1;
                });
                let misbehaving = misbehave(Peer { stream, tally: counted.clone() });
                let counted = counted.clone();
                tokio::spawn(async move {
                    misbehaving.await;
                    counted.send_modify(|tally| tally.open -= 1);
                });
            }
        });
        Self { address, scheme, tally, serving }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL of `path`, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    /// Waits until the counts satisfy `condition`. If they do not by `deadline`, panics and shows them.
    pub async fn wait_for(&self, what: &str, deadline: Duration, condition: impl FnMut(&Tally) -> bool) -> Tally {
        reached(&self.tally, what, deadline, condition).await
    }

    /// Waits until the other side has closed every connection.
    pub async fn wait_until_left(&self) -> Tally {
        self.wait_for("all connections to be closed", Duration::from_secs(5), |tally| tally.accepted > 0 && tally.open == 0).await
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer_and_close(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    tally: &watch::Sender<Tally>,
    answer: &[u8],
    reads: Reads,
) {
    let mut buffer = Vec::new();
    if reads == Reads::HeadOfSecond {
        if wire::read_request(&mut stream, &mut buffer).await.is_none() {
            return;
        }
        tally.send_modify(|tally| tally.requests += 1);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let _ = stream.flush().await;
    }
    let came = match reads {
        Reads::Whole => wire::read_request(&mut stream, &mut buffer).await.is_some(),
        Reads::Head | Reads::HeadOfSecond => wire::read_head(&mut stream, &mut buffer).await.is_some(),
    };
    if came {
        tally.send_modify(|tally| tally.requests += 1);
        let _ = stream.write_all(answer).await;
        let _ = stream.flush().await;
    }
}

/// One connection of a hostile receiver.
struct Peer {
    stream: TcpStream,
    tally: watch::Sender<Tally>,
}

impl Peer {
    /// Writes all of `bytes`; returns false if the other side has closed.
    async fn write(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.stream.write(rest).await {
                Ok(written) => {
                    self.tally.send_modify(|tally| tally.bytes_written += written as u64);
                    rest = &rest[written..];
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Waits until the other side closes.
    async fn hold(mut self) {
        let mut sink = [0; 4096];
        while matches!(self.stream.read(&mut sink).await, Ok(1..)) {}
    }

    /// Keeps the connection open and does nothing.
    async fn hold_unread(self) {
        let _stream = self.stream;
        std::future::pending::<()>().await;
    }
}
