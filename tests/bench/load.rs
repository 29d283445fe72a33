//! The load generator and the sink, in one process. They record when each event was sent and accepted, and when its
//! webhook arrived.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, sleep_until},
};

use super::wire::{Wire, find, number};

/// Is added to an event's number, so that all numbers have the same number of digits.
const FIRST: usize = 1_000_000_000;
/// The text before an event's number, in the request and in every webhook.
const MARK: &[u8] = b"\"seq\":";
/// Maximum wait for the last webhooks of a phase.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);

/// Times of each event, in nanoseconds since the ledger was opened; 0 for what has not happened yet.
pub struct Ledger {
    opened: Instant,
    next: AtomicUsize,
    events: Vec<Entry>,
    repeats: AtomicUsize,
    refusals: AtomicUsize,
}

#[derive(Default)]
struct Entry {
    sent: AtomicU64,
    accepted: AtomicU64,
    arrived: AtomicU64,
}

impl Ledger {
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            next: AtomicUsize::new(0),
            events: (0..capacity).map(|_| Entry::default()).collect(),
            repeats: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_nanos()).expect("a run lasts less than 500 years").max(1)
    }

    fn arrived(&self, body: &[u8]) {
        let place = find(body, MARK).and_then(|at| number(&body[at + MARK.len()..]).checked_sub(FIRST));
        let Some(entry) = place.and_then(|place| self.events.get(place)) else { return };
        if entry.arrived.swap(self.now(), Ordering::Relaxed) != 0 {
            self.repeats.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until every accepted event of `phase` has arrived, or until a deadline.
    pub async fn settled(&self, phase: &Range<usize>) {
        let until = Instant::now() + ARRIVAL_MAX;
        let missing = || {
            self.events[phase.clone()]
                .iter()
                .any(|event| event.accepted.load(Ordering::Relaxed) != 0 && event.arrived.load(Ordering::Relaxed) == 0)
        };
        while missing() && Instant::now() < until {
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Returns the number of events whose webhook has arrived.
    pub fn count_arrived(&self) -> usize {
        self.events.iter().filter(|event| event.arrived.load(Ordering::Relaxed) != 0).count()
    }

    /// Clears everything, so that the numbers can be used again.
    pub fn clear(&self) {
        for value in self.events.iter().flat_map(|event| [&event.sent, &event.accepted, &event.arrived]) {
            value.store(0, Ordering::Relaxed);
        }
        self.next.store(0, Ordering::Relaxed);
    }

    pub fn report(&self, phase: Range<usize>) -> Report {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let all: Vec<(u64, u64, u64)> = self.events[phase]
            .iter()
            .map(|event| (load(&event.sent), load(&event.accepted), load(&event.arrived)))
            .filter(|(_, accepted, _)| *accepted != 0)
            .collect();
        let begin = all.iter().map(|(sent, ..)| *sent).min().unwrap_or(0);
        let span = |end: Option<u64>| seconds(end.unwrap_or(0).saturating_sub(begin));
        let arrived = all.iter().filter(|(.., arrived)| *arrived != 0);
        Report {
            count: all.len(),
            lost: all.len() - arrived.clone().count(),
            repeats: self.repeats.swap(0, Ordering::Relaxed),
            refusals: self.refusals.swap(0, Ordering::Relaxed),
            accepting: span(all.iter().map(|(_, accepted, _)| *accepted).max()),
            delivering: span(all.iter().map(|(.., arrived)| *arrived).max()),
            accept: Latencies::of(all.iter().map(|(sent, accepted, _)| accepted.saturating_sub(*sent))),
            // A webhook can arrive before the caller has read that its event was accepted.
            onward: Latencies::of(arrived.clone().map(|(_, accepted, arrived)| arrived.saturating_sub(*accepted))),
            whole: Latencies::of(arrived.map(|(sent, _, arrived)| arrived.saturating_sub(*sent))),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a run is short enough for a double")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// The results of one phase.
pub struct Report {
    pub count: usize,
    pub lost: usize,
    /// Number of repeated webhooks.
    pub repeats: usize,
    /// Number of answers that were not 202; the event was sent again.
    pub refusals: usize,
    /// Time from the sending of the first event to the acceptance of the last one, in seconds.
    accepting: f64,
    /// Time from the sending of the first event to the arrival of the last webhook, in seconds.
    delivering: f64,
    /// Time from sent to accepted.
    pub accept: Latencies,
    /// Time from accepted to arrived.
    pub onward: Latencies,
    /// Time from sent to arrived.
    pub whole: Latencies,
}

impl Report {
    #[expect(clippy::cast_precision_loss, reason = "a count of events")]
    pub fn accepted_per_second(&self) -> f64 {
        self.count as f64 / self.accepting.max(1e-9)
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of events")]
    pub fn delivered_per_second(&self) -> f64 {
        (self.count - self.lost) as f64 / self.delivering.max(1e-9)
    }
}

/// Percentiles, in milliseconds.
#[derive(Clone, Copy)]
pub struct Latencies {
    pub p50: f64,
    pub p99: f64,
    pub longest: f64,
}

impl Latencies {
    fn of(nanoseconds: impl Iterator<Item = u64>) -> Self {
        let mut sorted: Vec<u64> = nanoseconds.collect();
        sorted.sort_unstable();
        let at = |percent: usize| sorted.get(sorted.len() * percent / 100).map_or(f64::NAN, |value| seconds(*value) * 1e3);
        Self { p50: at(50), p99: at(99), longest: sorted.last().map_or(f64::NAN, |value| seconds(*value) * 1e3) }
    }
}

/// The data of an event: an order of 1 KB.
pub const ORDER: &str = include_str!("order.json");

/// A server, and the request to send to it. Only the numbers of the events in the request change.
#[derive(Clone)]
pub struct Target {
    address: String,
    request: Vec<u8>,
    /// Where the number of each event begins.
    digits: Vec<usize>,
}

impl Target {
    /// Creates events of this type for the server at `url`.
    pub fn new(url: &str, event_type: &str) -> Self {
        Self::with_data(url, event_type, ORDER.trim_end())
    }

    /// Like [`Self::new`], with this data instead of [`ORDER`]. The data must have a `seq` with as many digits as the order's.
    pub fn with_data(url: &str, event_type: &str, data: &str) -> Self {
        Self::with_body(url, &format!(r#"{{"type":"{event_type}","source":"shop","data":{data}}}"#))
    }

    /// Creates batches of this many events, each as of [`Self::new`].
    pub fn batch(url: &str, event_type: &str, events: usize) -> Self {
        let event = format!(r#"{{"type":"{event_type}","source":"shop","data":{}}}"#, ORDER.trim_end());
        Self::with_body(url, &format!("[{}]", vec![event; events].join(",")))
    }

    fn with_body(url: &str, body: &str) -> Self {
        let address = url.trim_start_matches("http://").to_owned();
        let mut request = format!(
            "POST /v1/events HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            super::engine::KEY,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body.as_bytes());
        let mut digits: Vec<usize> = Vec::new();
        while let Some(at) = find(&request[digits.last().copied().unwrap_or(0)..], MARK) {
            digits.push(digits.last().copied().unwrap_or(0) + at + MARK.len());
        }
        assert!(!digits.is_empty(), "the order has a number");
        Self { address, request, digits }
    }

    async fn connect(&self) -> std::io::Result<Wire> {
        Wire::new(TcpStream::connect(&self.address).await?)
    }

    /// Sends the events with the numbers from `first` on until they are accepted.
    async fn send(&mut self, wire: &mut Wire, first: usize, ledger: &Ledger) -> std::io::Result<()> {
        for (nth, at) in self.digits.iter().enumerate() {
            let digits = (FIRST + first + nth).to_string();
            self.request[*at..at + digits.len()].copy_from_slice(digits.as_bytes());
        }
        loop {
            wire.write(&self.request).await?;
            let Some((head, _)) = wire.read().await? else { return Err(std::io::ErrorKind::UnexpectedEof.into()) };
            if head.get(9..12) == Some(b"202") {
                for event in &ledger.events[first..first + self.digits.len()] {
                    event.accepted.store(ledger.now(), Ordering::Relaxed);
                }
                return Ok(());
            }
            ledger.refusals.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Runs callers that each send their next event when the previous one was accepted, until `events` are sent or `time` is over.
pub async fn closed_loop(target: &Target, ledger: &Arc<Ledger>, callers: usize, events: usize, time: Duration) -> Range<usize> {
    closed_loop_over(std::slice::from_ref(target), ledger, callers, events, time).await
}

/// Like [`closed_loop`], with the callers spread over several targets.
pub async fn closed_loop_over(
    targets: &[Target],
    ledger: &Arc<Ledger>,
    callers: usize,
    events: usize,
    time: Duration,
) -> Range<usize> {
    let first = ledger.next.load(Ordering::Relaxed);
    let end = (first + events).min(ledger.events.len());
    let until = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for target in targets.iter().cycle().take(callers) {
        let (mut target, ledger) = (target.clone(), Arc::clone(ledger));
        tasks.spawn(async move {
            let mut wire = target.connect().await?;
            while Instant::now() < until {
                let size = target.digits.len();
                let place = ledger.next.fetch_add(size, Ordering::Relaxed);
                if place + size > end {
                    break;
                }
                for event in &ledger.events[place..place + size] {
                    event.sent.store(ledger.now(), Ordering::Relaxed);
                }
                target.send(&mut wire, place, &ledger).await?;
            }
            Ok::<_, std::io::Error>(())
        });
    }
    finish(tasks).await;
    let last = ledger.next.load(Ordering::Relaxed).min(end);
    ledger.next.store(last, Ordering::Relaxed);
    first..last
}

/// Sends events at a fixed rate. The latency of an event counts from its planned time, even if it waited for a connection.
pub async fn open_loop(target: &Target, ledger: &Arc<Ledger>, per_second: u32, time: Duration) -> Range<usize> {
    const CONNECTIONS: usize = 64;
    let first = ledger.next.load(Ordering::Relaxed);
    let count = (time.as_secs_f64() * f64::from(per_second)) as usize;
    let end = (first + count).min(ledger.events.len());
    let gap = Duration::from_secs(1) / per_second;
    let start = tokio::time::Instant::now() + Duration::from_millis(20);
    let mut tasks = JoinSet::new();
    for nth in 0..CONNECTIONS {
        let (mut target, ledger) = (target.clone(), Arc::clone(ledger));
        tasks.spawn(async move {
            let mut wire = target.connect().await?;
            for place in (first + nth..end).step_by(CONNECTIONS) {
                let due = start + gap * u32::try_from(place - first).expect("few events");
                let late = tokio::time::Instant::now().saturating_duration_since(due);
                sleep_until(due).await;
                let sent = ledger.now() - u64::try_from(late.as_nanos()).expect("a short time");
                ledger.events[place].sent.store(sent, Ordering::Relaxed);
                target.send(&mut wire, place, &ledger).await?;
            }
            Ok::<_, std::io::Error>(())
        });
    }
    finish(tasks).await;
    ledger.next.store(end, Ordering::Relaxed);
    first..end
}

async fn finish(mut tasks: JoinSet<std::io::Result<()>>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended.expect("callers do not panic") {
            eprintln!("a caller stopped: {error}");
        }
    }
}

/// Starts a receiver that records when webhooks arrive. Returns its URL.
pub async fn sink(ledger: &Arc<Ledger>) -> std::io::Result<String> {
    sink_at(ledger, "http://127.0.0.1:0/").await
}

/// Like [`sink`], at this URL, whose receiver was [`refused`] before.
pub async fn sink_at(ledger: &Arc<Ledger>, url: &str) -> std::io::Result<String> {
    let listener = TcpListener::bind(url.trim_start_matches("http://").trim_end_matches('/')).await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let ledger = Arc::downgrade(ledger);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Some(ledger) = ledger.upgrade() else { return };
            tokio::spawn(async move {
                let mut wire = Wire::new(stream)?;
                while let Some((_, body)) = wire.read().await? {
                    ledger.arrived(body);
                    wire.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    Ok(url)
}

/// Starts a receiver that accepts every connection and never answers.
pub async fn hanging() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    Ok(url)
}

/// Returns the address of a receiver that refuses connections.
pub async fn refused() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(format!("http://{}/", listener.local_addr()?))
}

/// Starts a receiver that answers 503. Once `turned` is set, it still accepts requests, but never answers.
pub async fn turning(turned: Arc<AtomicBool>) -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let turned = Arc::clone(&turned);
            tokio::spawn(async move {
                let mut wire = Wire::new(stream)?;
                while wire.read().await?.is_some() {
                    if turned.load(Ordering::Relaxed) {
                        std::future::pending::<()>().await;
                    }
                    wire.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await?;
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    Ok(url)
}
