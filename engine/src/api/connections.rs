//! Connections: how many there may be at once, and how long each may keep the engine waiting.
//!
//! Whoever only holds a connection open costs a place and a few KiB, and both for a short time: the head of a request has to
//! arrive, an answer has to be taken, and a connection that nothing happens on is closed. Where all places are taken, the one that
//! has waited longest without a request under way makes room, those that never had one first; where every one is busy, the new one
//! is told so. hyper's own timer begins with the wait for a request, not with its first byte, and not before the version is known,
//! so the watch over a connection is kept here.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, HttpBody},
    http::{Request, Version},
    response::IntoResponse as _,
};
use bytes::Bytes;
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{error::Problem, inbound::Peer};

/// The limits that are settings.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub connections_max: usize,
    /// From the first byte of a request (or the beginning of its connection) to the end of its head.
    pub head_time_max: Duration,
    /// Between two requests of a connection.
    pub idle_time_max: Duration,
}

/// The head of a request: line and headers. What is larger is refused with 431.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Requests that one HTTP/2 connection may have under way.
const STREAMS_MAX: u32 = 100;
/// An answer of which the other side takes nothing for so long is given up.
const STALL_TIME_MAX: Duration = Duration::from_secs(30);
/// Connections that are being told that there is no place for them. More are closed without a word.
const REFUSALS_MAX: usize = 256;
/// For telling them.
const REFUSAL_TIME: Duration = Duration::from_secs(2);
/// How long a connection that is to make room may take to be gone.
const ROOM_TIME: Duration = Duration::from_secs(1);
/// Before trying again when the system gives no more connections (mostly for want of file descriptors).
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `stop`, then finishes the requests that are under way.
pub async fn serve(listener: TcpListener, router: Router, limits: ConnectionLimits, stop: impl Future<Output = ()>) {
    let house = Arc::new(House {
        router,
        limits,
        places: Arc::new(Semaphore::new(limits.connections_max)),
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        open: Mutex::default(),
        closing: CancellationToken::new(),
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
                let house = Arc::clone(&house);
                match house.place().await {
                    Some(place) => drop(connections.spawn(house.keep(number, stream, place))),
                    None => house.refuse(stream),
                }
            }
            Err(error) if is_the_connections(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "no connection can be accepted; trying again. Does the process run out of files?");
                }
                // A file that an idle connection holds is better used for one with a request.
                house.close_idlest();
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
    drop(listener);
    house.closing.cancel();
    connections.close();
    connections.wait().await;
}

/// Whether it is about the one connection that was to be accepted, and says nothing about the next.
fn is_the_connections(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// What all connections share.
struct House {
    router: Router,
    limits: ConnectionLimits,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    open: Mutex<HashMap<u64, Arc<Pulse>>>,
    closing: CancellationToken,
}

impl House {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Pulse>>> {
        self.open.lock().expect("no code panics while it holds the connections")
    }

    /// A place for one more connection, if need be that of one that does nothing.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        if !self.close_idlest() {
            return None;
        }
        let place = Arc::clone(&self.places).acquire_owned();
        tokio::time::timeout(ROOM_TIME, place).await.ok()?.ok()
    }

    /// Closes the connection that has waited longest without a request under way, and of those that never had one before the
    /// others. Says whether there was one.
    fn close_idlest(&self) -> bool {
        let open = self.open();
        let waiting = open.values().filter(|pulse| !pulse.leave.is_cancelled());
        let idlest = waiting.filter_map(|pulse| Some((pulse.waiting()?, pulse))).min_by_key(|(since, _)| *since);
        if let Some((_, pulse)) = &idlest {
            pulse.leave.cancel();
        }
        idlest.is_some()
    }

    /// Serves one connection to its end.
    async fn keep(self: Arc<Self>, number: u64, stream: TcpStream, place: OwnedSemaphorePermit) {
        // Small answers must not wait for more to be sent with them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps the delay of small packets");
        }
        let pulse = Arc::new(Pulse::default());
        self.open().insert(number, Arc::clone(&pulse));
        let why = self.converse(stream, &pulse).await;
        self.open().remove(&number);
        drop(place);
        if let Some(why) = why {
            tracing::debug!(why, "a connection was closed");
        }
    }

    /// Says why it was closed, unless the other side did it.
    async fn converse(&self, stream: TcpStream, pulse: &Arc<Pulse>) -> Option<&'static str> {
        let peer = stream.peer_addr().ok().map(|address| Peer(address.ip()));
        let service = service_fn(|request: Request<Incoming>| {
            let answering = Answering::begin(pulse, request.version());
            let router = self.router.clone();
            let mut request = request.map(Body::new);
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            async move {
                let answer = router.oneshot(request).await?;
                // The answer is under way until its last byte has left for the connection.
                Ok::<_, Infallible>(answer.map(|body| Answer { body, _answering: answering }))
            }
        });
        let builder = builder();
        let watched = Watched { stream, pulse: Arc::clone(pulse) };
        let mut connection = pin!(builder.serve_connection(TokioIo::new(watched), service));
        let mut ending = false;
        loop {
            let wait = match pulse.patience(&self.limits) {
                Ok(wait) => wait,
                Err(why) => return Some(why),
            };
            tokio::select! {
                _ended = connection.as_mut() => return None,
                () = pulse.leave.cancelled() => return Some("another connection needed its place"),
                () = self.closing.cancelled(), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Tells a caller that there is no place.
    fn refuse(self: Arc<Self>, stream: TcpStream) {
        let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        tokio::spawn(async move {
            let max = self.limits.connections_max;
            let service = service_fn(move |_: Request<Incoming>| async move {
                let told = Problem::come_back(format!(
                    "{max} connections are open, the most that are kept (limits.connections_max), and every one is busy; try \
                     again in a second"
                ));
                Ok::<_, Infallible>(told.into_response())
            });
            let mut builder = builder();
            builder.http1().keep_alive(false);
            // Who does not listen in time is not told.
            let _ = tokio::time::timeout(REFUSAL_TIME, builder.serve_connection(TokioIo::new(stream), service)).await;
            drop(permit);
        });
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(HEAD_BYTES_MAX);
    builder.http2().max_concurrent_streams(STREAMS_MAX);
    builder
}

/// Marks that something has not happened.
const NEVER: u64 = u64::MAX;

/// What is known about a connection's life. Times are milliseconds after its beginning.
struct Pulse {
    began: Instant,
    /// Requests that are being answered.
    answering: AtomicU32,
    /// Whether it has had a request.
    used: AtomicBool,
    /// HTTP/2 has frames that belong to no request; a byte there is not the beginning of a head.
    multiplexed: AtomicBool,
    /// Since when no request is being answered.
    waiting_since: AtomicU64,
    /// When the first byte of a head arrived.
    head_since: AtomicU64,
    /// Since when the other side takes nothing.
    stalled_since: AtomicU64,
    /// Cancelled when its place is needed.
    leave: CancellationToken,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            answering: AtomicU32::new(0),
            used: AtomicBool::new(false),
            multiplexed: AtomicBool::new(false),
            waiting_since: AtomicU64::new(0),
            head_since: AtomicU64::new(NEVER),
            stalled_since: AtomicU64::new(NEVER),
            leave: CancellationToken::new(),
        }
    }
}

impl Pulse {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    /// Whether it was used, and since when it waits for a request; `None` while one is being answered.
    fn waiting(&self) -> Option<(bool, Instant)> {
        let since = self.began + Duration::from_millis(self.waiting_since.load(Relaxed));
        (self.answering.load(Relaxed) == 0).then(|| (self.used.load(Relaxed), since))
    }

    /// How long to leave it alone before looking again, or why it is to be closed.
    fn patience(&self, limits: &ConnectionLimits) -> Result<Duration, &'static str> {
        let now = self.now();
        let left = |since: u64, most: Duration| most.checked_sub(Duration::from_millis(now.saturating_sub(since)));
        let stalled = self.stalled_since.load(Relaxed);
        let head = self.head_since.load(Relaxed);
        let wait = if stalled != NEVER {
            left(stalled, STALL_TIME_MAX).ok_or("the other side takes no answer")
        } else if self.answering.load(Relaxed) > 0 {
            Ok(STALL_TIME_MAX)
        } else if head != NEVER {
            left(head, limits.head_time_max).ok_or("the head of a request did not arrive in time (limits.head_time_max)")
        } else if self.used.load(Relaxed) {
            left(self.waiting_since.load(Relaxed), limits.idle_time_max).ok_or("no other request came (limits.idle_time_max)")
        } else {
            left(0, limits.head_time_max).ok_or("no request came (limits.head_time_max)")
        };
        // What begins meanwhile may have less time than what is waited for now: it is looked at at least so often.
        wait.map(|wait| wait.min(limits.head_time_max / 2).max(Duration::from_millis(1)))
    }
}

/// A request is under way. Dropping it says that its answer has left, or that nobody waits for it any more.
struct Answering(Arc<Pulse>);

impl Answering {
    fn begin(pulse: &Arc<Pulse>, version: Version) -> Self {
        pulse.answering.fetch_add(1, Relaxed);
        pulse.used.store(true, Relaxed);
        pulse.head_since.store(NEVER, Relaxed);
        if version == Version::HTTP_2 {
            pulse.multiplexed.store(true, Relaxed);
        }
        Self(Arc::clone(pulse))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.waiting_since.store(self.0.now(), Relaxed);
        self.0.answering.fetch_sub(1, Relaxed);
    }
}

/// The body of an answer, which knows when it has been taken whole.
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

/// A connection whose pulse is felt.
struct Watched {
    stream: TcpStream,
    pulse: Arc<Pulse>,
}

impl Watched {
    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let stalled = &self.pulse.stalled_since;
        match written {
            Poll::Pending if stalled.load(Relaxed) == NEVER => stalled.store(self.pulse.now(), Relaxed),
            Poll::Ready(_) if stalled.load(Relaxed) != NEVER => stalled.store(NEVER, Relaxed),
            _ => {}
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let pulse = &self.pulse;
        let begins = buffer.filled().len() > before
            && pulse.answering.load(Relaxed) == 0
            && pulse.head_since.load(Relaxed) == NEVER
            && !pulse.multiplexed.load(Relaxed);
        if begins {
            pulse.head_since.store(pulse.now(), Relaxed);
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

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
