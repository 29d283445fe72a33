//! Connections: how many may be open, and how long each may stay open.
//!
//! A connection stays open only while its caller makes progress. Each state of a connection has a time limit: before its first
//! request and while a head arrives (`limits.head_time_max`), between requests (`limits.idle_time_max`), while a body arrives
//! (`limits.body_time_max`, see `body.rs`), and while the caller does not read its answer ([`STALL_TIME_MAX`],
//! [`ANSWER_RATE_MIN`]). If all places are taken, a waiting connection is evicted to make room for a new one. Connections that
//! never had a request are evicted first, then idle connections, then connections whose answer is not read. The new connection is
//! refused only if every other connection has a request in progress. The times are measured here, because hyper's timer starts with
//! the wait for a request, not with the first byte of the request.
//!
//! **The engine speaks only HTTP/1.1.** Clear-text HTTP/2 has hardly any users: proxies speak HTTP/1.1 to their servers by
//! default, browsers never speak HTTP/2 without TLS, and the engine has no gRPC. The flow control of HTTP/2 is above the socket,
//! and this file measures only the socket: a caller with a window of 0 would hold its answer forever, although no write to the
//! socket waits. To offer HTTP/2, add a clock per stream first. A client that starts with HTTP/2 gets `HTTP_1_1_REQUIRED`.
//!
//! There is no limit per peer address: behind a proxy all callers share one address, and an attacker has many. Set such a limit
//! in a proxy.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, HttpBody},
    http::Request,
    response::IntoResponse as _,
};
use bytes::Bytes;
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{error::Problem, inbound::Peer};

/// The configurable limits.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub connections_max: usize,
    /// Maximum time from the first byte of a request, or the start of its connection, to the end of the request's head.
    pub head_time_max: Duration,
    /// Maximum time between two requests of a connection.
    pub idle_time_max: Duration,
}

impl ConnectionLimits {
    /// Lowers `connections_max` to half of the files that the process may open. Every connection needs a file. The other half of
    /// the files is for webhooks under way, the store and the plugins.
    #[must_use]
    pub fn within_open_files(self) -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let half = files.map_or(usize::MAX, |files| usize::try_from(files / 2).unwrap_or(usize::MAX)).max(1);
        if half < self.connections_max {
            tracing::warn!(
                files,
                connections_max = half,
                "the process may open few files, so it accepts fewer connections than limits.connections_max; raise ulimit -n"
            );
        }
        Self { connections_max: self.connections_max.min(half), ..self }
    }
}

/// Maximum size of a request's head: line and headers. A larger head is refused with 431.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Answer to a client that starts with HTTP/2: an empty SETTINGS frame, then GOAWAY with HTTP_1_1_REQUIRED (RFC 9113, 6.8 and 7).
const HTTP_1_1_REQUIRED: &[u8] = b"\
    \0\0\0\x04\0\0\0\0\0\
    \0\0\x15\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0dHTTP/1.1 only";
/// Maximum number of bytes of answers that the system buffers for one connection. The system's default is several MiB, which the
/// engine would fill on every connection whose caller reads nothing. Bytes in transit do not count, so the limit does not slow down
/// a fast reader.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 << 10;
/// A caller that reads nothing of its answer for this long loses the connection.
const STALL_TIME_MAX: Duration = Duration::from_secs(30);
/// Minimum rate, in bytes per second, at which a caller must read a waiting answer after the first [`STALL_TIME_MAX`]. A slow
/// mobile network is faster.
const ANSWER_RATE_MIN: u64 = 16 << 10;
/// After this time a caller that does not read its answer may be evicted for a new connection.
const EVICTABLE_AFTER: Duration = Duration::from_secs(1);
/// Time after the stop signal for the rest of a head to arrive, and for a caller to read its answer.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// Maximum number of connections that receive a refusal at the same time. Further connections are closed without an answer.
const REFUSALS_MAX: usize = 256;
/// Time for sending a refusal.
const REFUSAL_TIME: Duration = Duration::from_secs(2);
/// Time for an evicted connection to close.
const ROOM_TIME: Duration = Duration::from_secs(1);
/// Pause after the system refused a connection, usually because file descriptors are exhausted.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `stop`, then finishes the requests in progress.
pub async fn serve(listener: TcpListener, router: Router, limits: ConnectionLimits, stop: impl Future<Output = ()>) {
    let server = Arc::new(Server {
        router,
        limits,
        places: Arc::new(Semaphore::new(limits.connections_max)),
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        open: Mutex::default(),
        stopping: CancellationToken::new(),
    });
    let connections = TaskTracker::new();
    let mut stop = pin!(stop);
    let mut failing = false;
    for number in 0_u64.. {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                let server = Arc::clone(&server);
                match server.place().await {
                    Some(place) => drop(connections.spawn(server.serve(number, stream, place))),
                    None => server.refuse(stream),
                }
            }
            Err(error) if is_the_connections(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "connection could not be accepted, retrying; check the limit of open files");
                }
                // Frees the file descriptor of a waiting connection for the new one.
                server.evict();
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
    drop(listener);
    server.stopping.cancel();
    connections.close();
    connections.wait().await;
}

/// Returns whether an error concerns only the connection that was being accepted, so that accepting the next connection may
/// succeed.
fn is_the_connections(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The state that all connections share.
struct Server {
    router: Router,
    limits: ConnectionLimits,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    stopping: CancellationToken,
}

impl Server {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().expect("no code panics while it holds this lock")
    }

    /// Returns a place for one more connection. If necessary, evicts a waiting connection.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        if !self.evict() {
            return None;
        }
        let place = Arc::clone(&self.places).acquire_owned();
        tokio::time::timeout(ROOM_TIME, place).await.ok()?.ok()
    }

    /// Closes the connection that is first in the order of eviction. Returns whether one could be closed.
    fn evict(&self) -> bool {
        let open = self.open();
        let left = open.values().filter(|connection| !connection.leave.is_cancelled());
        let spared = left.filter_map(|connection| Some((connection.spared()?, connection))).min_by_key(|(order, _)| *order);
        if let Some((_, connection)) = &spared {
            connection.leave.cancel();
        }
        spared.is_some()
    }

    /// Serves one connection until it ends.
    async fn serve(self: Arc<Self>, number: u64, stream: TcpStream, place: OwnedSemaphorePermit) {
        // Small answers must not wait for more data.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection keeps the delay of small packets");
        }
        #[cfg(target_os = "linux")]
        if let Err(error) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX) {
            tracing::debug!(%error, "connection keeps the system's limit of unsent bytes");
        }
        let connection = Arc::new(Connection::default());
        self.open().insert(number, Arc::clone(&connection));
        let why = self.converse(stream, &connection).await;
        self.open().remove(&number);
        drop(place);
        if let Some(why) = why {
            tracing::debug!(why, "connection closed");
        }
    }

    /// Returns why the engine closed the connection; `None` if the caller did.
    async fn converse(&self, stream: TcpStream, connection: &Arc<Connection>) -> Option<&'static str> {
        let peer = stream.peer_addr().ok().map(|address| Peer(address.ip()));
        let service = service_fn(|request: Request<Incoming>| {
            let answering = Answering::begin(connection);
            let router = self.router.clone();
            let mut request = request.map(Body::new);
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            async move {
                let answer = router.oneshot(request).await?;
                Ok::<_, Infallible>(answer.map(|body| Answer { body, _answering: answering }))
            }
        });
        let watched = Watched { stream, connection: Arc::clone(connection) };
        let mut serving = http().serve_connection(TokioIo::new(watched), service);
        let mut stopped = None;
        loop {
            let now = connection.now();
            let wait = match connection.activity().ends(&self.limits, stopped) {
                Some((end, why)) if end <= now => return Some(why),
                Some((end, _)) => end - now,
                None => STALL_TIME_MAX,
            };
            // A state that starts meanwhile may have a shorter limit than the current one, so this checks regularly.
            let wait = wait.min(self.limits.head_time_max / 2).max(Duration::from_millis(1));
            tokio::select! {
                ended = &mut serving => {
                    if ended.is_err_and(|error| error.is_parse_version_h2()) {
                        ask_for_http1(serving.into_parts().io.into_inner().stream).await;
                        return Some("the caller speaks HTTP/2");
                    }
                    return None;
                }
                () = connection.leave.cancelled() => return Some("evicted for a new connection"),
                () = self.stopping.cancelled(), if stopped.is_none() => {
                    stopped = Some(connection.now());
                    Pin::new(&mut serving).graceful_shutdown();
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Refuses a caller because no place is free.
    fn refuse(self: Arc<Self>, stream: TcpStream) {
        let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        tokio::spawn(async move {
            let max = self.limits.connections_max;
            let service = service_fn(move |_: Request<Incoming>| async move {
                let problem = Problem::come_back(format!(
                    "{max} connections are open, the limit (limits.connections_max), and every one is busy; try \
                     again in a second"
                ));
                Ok::<_, Infallible>(problem.into_response())
            });
            let mut http = http();
            http.keep_alive(false);
            // A caller that does not read in time gets no answer.
            let _ = tokio::time::timeout(REFUSAL_TIME, http.serve_connection(TokioIo::new(stream), service)).await;
            drop(permit);
        });
    }
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.max_buf_size(HEAD_BYTES_MAX);
    http
}

/// Answers a client that starts with HTTP/2.
async fn ask_for_http1(mut stream: TcpStream) {
    let asking = async {
        stream.write_all(HTTP_1_1_REQUIRED).await?;
        stream.shutdown().await
    };
    // The connection ends in either case.
    let _ = tokio::time::timeout(REFUSAL_TIME, asking).await;
}

/// An open connection.
struct Connection {
    began: Instant,
    activity: Mutex<Activity>,
    /// Cancelled when the connection is evicted.
    leave: CancellationToken,
}

impl Default for Connection {
    fn default() -> Self {
        Self { began: Instant::now(), activity: Mutex::default(), leave: CancellationToken::new() }
    }
}

impl Connection {
    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().expect("no code panics while it holds this lock")
    }

    /// The time since the connection was accepted.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns the rank for eviction and the start of the wait, or `None` if the connection must not be evicted now.
    fn spared(&self) -> Option<(Spared, Instant)> {
        let (order, since) = self.activity().spared(self.now())?;
        Some((order, self.began + since))
    }
}

/// The order in which connections are evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Spared {
    Unused,
    Idle,
    TakesNoAnswer,
}

/// The state of a connection. Times are relative to its acceptance.
#[derive(Clone, Copy, Debug, Default)]
struct Activity {
    /// Number of requests that are being answered.
    answering: u32,
    /// Whether it has had a request.
    used: bool,
    /// The time since which no request is being answered.
    waiting_since: Duration,
    /// The time when the first byte of a head arrived.
    head_since: Option<Duration>,
    /// Set while bytes of an answer wait for the caller.
    blocked: Option<Blocked>,
}

/// An answer that the caller reads more slowly than the engine writes it.
#[derive(Clone, Copy, Debug)]
struct Blocked {
    since: Duration,
    /// When the caller last read something.
    moved: Duration,
    /// Number of bytes read since `since`.
    taken: u64,
}

impl Activity {
    /// Returns when and why the connection is closed if nothing happens until then, or `None` while a request is in progress.
    /// `stopped` is the time of the stop signal.
    fn ends(&self, limits: &ConnectionLimits, stopped: Option<Duration>) -> Option<(Duration, &'static str)> {
        let (since, end, why) = if let Some(blocked) = self.blocked {
            let at_rate = blocked.since + STALL_TIME_MAX + Duration::from_secs(blocked.taken / ANSWER_RATE_MIN);
            (blocked.since, at_rate.min(blocked.moved + STALL_TIME_MAX), "the caller does not read its answer")
        } else if self.answering > 0 {
            return None;
        } else if let Some(head) = self.head_since {
            (head, head + limits.head_time_max, "the head of a request did not arrive in time (limits.head_time_max)")
        } else if self.used {
            let since = self.waiting_since;
            (since, since + limits.idle_time_max, "no further request arrived (limits.idle_time_max)")
        } else {
            (Duration::ZERO, limits.head_time_max, "no request arrived (limits.head_time_max)")
        };
        let at_stop = stopped.map(|stopped| stopped.max(since) + STOP_TIME_MAX);
        Some((at_stop.map_or(end, |at_stop| at_stop.min(end)), why))
    }

    /// Returns the rank for eviction, and the time since which the connection waits, or `None` if it must not be evicted now.
    fn spared(&self, now: Duration) -> Option<(Spared, Duration)> {
        match self.blocked {
            Some(blocked) => (now - blocked.since >= EVICTABLE_AFTER).then_some((Spared::TakesNoAnswer, blocked.since)),
            None if self.answering > 0 => None,
            None if self.used => Some((Spared::Idle, self.waiting_since)),
            None => Some((Spared::Unused, self.waiting_since)),
        }
    }

    /// Records that bytes arrived.
    fn read(&mut self, now: Duration) {
        if self.answering == 0 {
            self.head_since.get_or_insert(now);
        }
    }

    /// Records the result of a write: the number of bytes that the caller read, or `None` if it reads nothing now.
    fn wrote(&mut self, now: Duration, taken: Option<usize>) {
        match (taken, &mut self.blocked) {
            (Some(bytes), Some(blocked)) if bytes > 0 => {
                blocked.moved = now;
                blocked.taken += bytes as u64;
            }
            (None, blocked @ None) => *blocked = Some(Blocked { since: now, moved: now, taken: 0 }),
            _ => {}
        }
    }

    /// Records that the caller read everything. Only now can the next request be read, even if its head arrived earlier.
    fn flushed(&mut self, now: Duration) {
        if self.blocked.take().is_some() {
            self.head_since = self.head_since.map(|_| now);
        }
    }
}

/// A request in progress. Dropping it records that the answer was handed to the connection, or that the caller left.
struct Answering(Arc<Connection>);

impl Answering {
    fn begin(connection: &Arc<Connection>) -> Self {
        let mut activity = connection.activity();
        activity.answering += 1;
        activity.used = true;
        activity.head_since = None;
        drop(activity);
        Self(Arc::clone(connection))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let now = self.0.now();
        let mut activity = self.0.activity();
        activity.waiting_since = now;
        activity.answering -= 1;
    }
}

/// The body of an answer. Dropping it records that the connection has received all of it.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that records the activity of its connection.
struct Watched {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl Watched {
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let taken = match &written {
            Poll::Pending => None,
            Poll::Ready(written) => Some(*written.as_ref().unwrap_or(&0)),
        };
        self.connection.activity().wrote(self.connection.now(), taken);
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.connection.activity().read(self.connection.now());
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // hyper flushes only after it has written everything.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.activity().flushed(self.connection.now());
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits { connections_max: 1, head_time_max: secs(10), idle_time_max: secs(60) };

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A connection whose caller sent a request at 1 s and does not read the whole answer.
    fn blocked() -> Activity {
        let mut activity = Activity { answering: 1, used: true, ..Activity::default() };
        activity.wrote(secs(1), Some(100_000));
        activity.wrote(secs(1), None);
        activity
    }

    fn end(activity: Activity) -> Option<u64> {
        activity.ends(&LIMITS, None).map(|(end, _)| end.as_secs())
    }

    #[test]
    fn each_state_ends_by_its_limit() {
        let unused = Activity::default();
        assert_eq!(end(unused), Some(10), "without a request");
        let mut head = unused;
        head.read(secs(4));
        head.read(secs(9));
        assert_eq!(end(head), Some(14), "the first byte of a head counts");
        let idle = Activity { used: true, waiting_since: secs(5), ..unused };
        assert_eq!(end(idle), Some(65));
        assert_eq!(end(Activity { answering: 1, ..idle }), None, "the engine works");
    }

    #[test]
    fn an_answer_is_read_at_a_minimum_rate_or_lost() {
        assert_eq!(end(blocked()), Some(31), "a caller that reads nothing is closed");
        let mut slow = blocked();
        let mut now = 1;
        while end(slow).is_some_and(|end| now < end) {
            now += 29;
            slow.wrote(secs(now), Some(1));
            slow.wrote(secs(now), None);
        }
        assert!(now < 60, "a byte every 29 s does not count as progress: it ended at {now} s");
        let mut fast = blocked();
        for now in 2..100 {
            fast.wrote(secs(now), Some(16 << 10));
            assert_eq!(end(fast), Some(now + 30), "the rate is sufficient");
        }
        fast.flushed(secs(100));
        assert_eq!(end(fast), None, "nothing waits any more");
        let mut pause = blocked();
        pause.wrote(secs(2), Some(1 << 30));
        assert_eq!(end(pause), Some(32), "earlier progress does not excuse a stall");
    }

    #[test]
    fn a_connection_with_an_unread_answer_is_not_idle() {
        let mut activity = blocked();
        activity.answering = 0;
        assert_eq!(end(activity), Some(31));
        assert_eq!(activity.spared(secs(1)), None, "a caller that stalls briefly is not evicted");
        assert_eq!(activity.spared(secs(2)), Some((Spared::TakesNoAnswer, secs(1))));
        activity.read(secs(2));
        activity.flushed(secs(30));
        assert_eq!(end(activity), Some(40), "the next head had to wait, and is not late");
    }

    #[test]
    fn connections_are_evicted_in_order() {
        let unused = Activity::default();
        let idle = Activity { used: true, waiting_since: secs(5), ..unused };
        let busy = Activity { answering: 1, ..idle };
        let order = |activity: Activity| activity.spared(secs(20));
        assert_eq!(order(busy), None, "the engine works for it");
        assert!(order(unused) < order(idle) && order(idle) < order(blocked()));
        assert!(order(idle) < order(Activity { waiting_since: secs(6), ..idle }), "the one that has waited longest goes first");
    }

    #[test]
    fn a_stop_gives_a_stalled_caller_little_time() {
        let at_stop = |activity: Activity| activity.ends(&LIMITS, Some(secs(20))).map(|(end, _)| end.as_secs());
        assert_eq!(at_stop(blocked()), Some(25));
        let mut head = Activity::default();
        head.read(secs(19));
        assert_eq!(at_stop(head), Some(25));
        let mut later = Activity { answering: 1, used: true, ..Activity::default() };
        assert_eq!(at_stop(later), None, "a request under way has the time of the drain");
        later.wrote(secs(30), None);
        assert_eq!(at_stop(later), Some(35));
    }
}
