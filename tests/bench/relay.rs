//! The null relays: minimal programs that accept an event, transform it and send it signed. The engine is compared with them.
//!
//! `memory` answers at once and loses everything when it stops. `durable` answers once the event is on disk: one thread writes
//! all events that queued up during the last sync in one transaction, and deletes delivered ones in the same transaction. Neither relay
//! retries, checks, routes or explains anything, and neither continues unfinished work after a restart.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rusqlite::{Connection, params};
use serde::Deserialize;
use sha2::Sha256;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::order::{DispatchNote, Order};

/// Maximum number of connections to the receiver, the same as the engine's to one endpoint.
const SENDS_AT_ONCE: usize = 64;
/// Maximum number of accepted, undelivered events. Beyond that, callers wait. Without a limit, latencies would only show the length of the backlog.
const IN_HAND_MAX: usize = 8_192;
/// Maximum number of events in one transaction.
const BATCH_MAX: usize = 1_000;
/// Maximum time that delivered events wait to be deleted, if no new event starts a transaction.
const TIDY_AFTER: Duration = Duration::from_millis(50);
const SECRET: &[u8] = b"the same secret for every webhook";

/// Runs a relay until it is killed. With a `folder`, the relay is durable.
pub fn serve(target: String, folder: Option<&Path>) -> anyhow::Result<()> {
    super::install_cryptography();
    let journal = folder.map(Journal::open).transpose()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let client = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never().max_retries_per_request(0))
            .pool_max_idle_per_host(SENDS_AT_ONCE)
            .timeout(Duration::from_secs(20))
            .tcp_nodelay(true)
            .build()?;
        let relay = Relay {
            client,
            target,
            journal,
            next: AtomicI64::new(1),
            in_hand: Arc::new(Semaphore::new(IN_HAND_MAX)),
            sending: Semaphore::new(SENDS_AT_ONCE),
        };
        let router = Router::new().route("/v1/events", post(accept)).with_state(Arc::new(relay));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("relay http://{}", listener.local_addr()?);
        use axum::serve::ListenerExt as _;
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        Ok(axum::serve(listener, router).await?)
    })
}

struct Relay {
    client: reqwest::Client,
    target: String,
    journal: Option<Journal>,
    next: AtomicI64,
    in_hand: Arc<Semaphore>,
    sending: Semaphore,
}

async fn accept(State(relay): State<Arc<Relay>>, body: Bytes) -> StatusCode {
    let place = Arc::clone(&relay.in_hand).acquire_owned().await.expect("never closed");
    let id = relay.next.fetch_add(1, Ordering::Relaxed);
    if let Some(journal) = &relay.journal
        && !journal.keep(id, body.clone()).await
    {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    tokio::spawn(async move { relay.send(id, &body, place).await });
    StatusCode::ACCEPTED
}

#[derive(Deserialize)]
struct Posted {
    data: Order,
}

impl Relay {
    async fn send(&self, id: i64, body: &[u8], _place: OwnedSemaphorePermit) {
        let _turn = self.sending.acquire().await.expect("never closed");
        let posted: Posted = serde_json::from_slice(body).expect("the load sends orders");
        let note = serde_json::to_vec(&DispatchNote::of(&posted.data)).expect("a note is JSON");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970").as_secs();
        let name = format!("msg_{id}");
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).expect("a key may have any length");
        mac.update(format!("{name}.{now}.").as_bytes());
        mac.update(&note);
        let signature = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
        let sent = self
            .client
            .post(&self.target)
            .header("content-type", "application/json")
            .header("webhook-id", name)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signature)
            .body(note)
            .send()
            .await;
        match sent {
            Ok(answer) => drop(answer.bytes().await),
            Err(error) => eprintln!("null relay: {error}"),
        }
        if let Some(journal) = &self.journal {
            journal.forget(id);
        }
    }
}

enum Line {
    Keep { id: i64, body: Bytes, kept: oneshot::Sender<()> },
    Forget { id: i64 },
}

/// The channel to the thread that writes.
struct Journal(mpsc::Sender<Line>);

impl Journal {
    fn open(folder: &Path) -> anyhow::Result<Self> {
        let db = Connection::open(folder.join("relay.db")).context("the relay's file")?;
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 16000;
             CREATE TABLE event (id INTEGER PRIMARY KEY, body BLOB NOT NULL);",
        )?;
        let (lines, queue) = mpsc::channel();
        thread::spawn(move || write_all(&db, &queue).expect("the disk takes it"));
        Ok(Self(lines))
    }

    async fn keep(&self, id: i64, body: Bytes) -> bool {
        let (kept, answer) = oneshot::channel();
        self.0.send(Line::Keep { id, body, kept }).is_ok() && answer.await.is_ok()
    }

    fn forget(&self, id: i64) {
        // The writer ends only with the process.
        let _ = self.0.send(Line::Forget { id });
    }
}

fn write_all(db: &Connection, queue: &mpsc::Receiver<Line>) -> rusqlite::Result<()> {
    let mut insert = db.prepare("INSERT INTO event (id, body) VALUES (?1, ?2)")?;
    let mut delete = db.prepare("DELETE FROM event WHERE id = ?1")?;
    let mut forgotten: Vec<i64> = Vec::new();
    let mut tidied = Instant::now();
    loop {
        let first = match queue.recv_timeout(TIDY_AFTER) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let mut kept = Vec::new();
        for line in first.into_iter().chain(queue.try_iter()).take(BATCH_MAX) {
            match line {
                Line::Keep { id, body, kept: answer } => kept.push((id, body, answer)),
                Line::Forget { id } => forgotten.push(id),
            }
        }
        // Deleting late is harmless: at worst a crash sends a delivered event again.
        let tidy = tidied.elapsed() > TIDY_AFTER || forgotten.len() >= BATCH_MAX;
        if kept.is_empty() && (forgotten.is_empty() || !tidy) {
            continue;
        }
        db.execute_batch("BEGIN IMMEDIATE")?;
        for (id, body, _) in &kept {
            insert.execute(params![id, &body[..]])?;
        }
        for id in forgotten.drain(..) {
            delete.execute([id])?;
        }
        db.execute_batch("COMMIT")?;
        tidied = Instant::now();
        for (.., answer) in kept {
            // A caller that hung up does not need the answer.
            let _ = answer.send(());
        }
    }
}
