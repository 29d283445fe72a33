//! The machine's clock steps an hour forward and back, while the engine runs and across a restart of the engine. In another test
//! the machine restarts, so that its uptime begins at zero. In each case, deliveries are retried once, when they are due, and a
//! secret's grace period has its promised length.
//!
//! Only the engine's clock steps: `libfaketime` is between it and the system. The steady clock is unchanged.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use http::HeaderMap;
use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine},
    namespace,
    receivers::{Answer, Received, Receiver},
};

/// Returns the path of `libfaketime` on Debian, which contains the name of the architecture.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    folders
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
        .find(|file| file.exists())
        .expect("this test sets the engine's clock and needs a library for it: apt-get install faketime")
}

/// The wall clock of one engine.
struct Clock {
    folder: tempfile::TempDir,
}

impl Clock {
    fn new() -> Self {
        let clock = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        clock.set(0);
        clock
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// Sets the clock to the system's time plus this many seconds.
    fn set(&self, seconds: i64) {
        let draft = self.folder.path().join("draft");
        std::fs::write(&draft, format!("{seconds:+}\n")).expect("the clock can be written");
        std::fs::rename(draft, self.file()).expect("the clock can be set");
    }

    fn engine(&self) -> Engine {
        let text = |path: &Path| path.display().to_string();
        Engine::start_in(
            &[],
            &["--allow-net", "127.0.0.0/8"],
            &[
                ("LD_PRELOAD", &text(&library())),
                ("FAKETIME_TIMESTAMP_FILE", &text(&self.file())),
                ("FAKETIME_NO_CACHE", "1"),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ],
        )
    }
}

/// Returns whether the engine's clock shows the system's time plus this many seconds, to within a minute.
async fn reads(engine: &Engine, seconds: i64) -> bool {
    let event = engine.send("what.time", json!({})).await;
    let story = engine.get(&format!("/v1/events/{event}")).await;
    let accepted: jiff::Timestamp = story["accepted_at"].as_str().expect("a time").parse().expect("RFC 3339");
    (accepted.as_second() - jiff::Timestamp::now().as_second() - seconds).abs() < 60
}

fn id(received: &Received) -> &str {
    received.header("webhook-id").expect("an id")
}

/// Groups received webhooks by delivery, in order.
fn by_id(all: &[Received]) -> BTreeMap<String, Vec<Received>> {
    let mut found: BTreeMap<String, Vec<Received>> = BTreeMap::new();
    for one in all {
        found.entry(id(one).to_owned()).or_default().push(one.clone());
    }
    found
}

const WAITING: usize = 10;
/// The wait before a retry. Jitter shortens it by at most 10 %, and arrival times vary a little.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_LEAST: Duration = Duration::from_millis(1700);

/// Starts a receiver that refuses the first attempt of every delivery, and accepts the second.
async fn second_time() -> Receiver {
    let seen = std::sync::Mutex::new(BTreeMap::<String, usize>::new());
    Receiver::answering(move |received| {
        let mut seen = seen.lock().unwrap();
        let times = seen.entry(id(received).to_owned()).or_default();
        *times += 1;
        Answer::status(if *times == 1 { 503 } else { 200 })
    })
    .await
}

async fn retrying_endpoint(engine: &Engine, receiver: &Receiver) {
    let endpoint = json!({ "name": "retrying", "url": receiver.url("/"), "events": ["job.*"], "schedule": ["0s", "2s", "24h"] });
    engine.ok("POST", "/v1/endpoints", endpoint).await;
}

/// Checks that every delivery was attempted twice, the second time when it was due.
async fn each_is_tried_when_due_and_once(receiver: &Receiver, deliveries: usize) {
    let twice = |all: &[Received]| by_id(all).values().filter(|tries| tries.len() >= 2).count() == deliveries;
    let all = receiver.wait_for("every delivery is tried again", DEADLINE, twice).await;
    assert_eq!(all.len(), 2 * deliveries, "no delivery is sent a third time");
    for tries in by_id(&all).values() {
        let waited = tries[1].arrived - tries[0].arrived;
        assert!(waited >= RETRY_LEAST, "a retry due after {RETRY:?} came after {waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_step_while_the_engine_runs_changes_no_retry() {
    let clock = Clock::new();
    let engine = clock.engine();
    assert!(reads(&engine, 0).await, "the clock that is set is the one that the engine reads");
    let retrying = second_time().await;
    retrying_endpoint(&engine, &retrying).await;
    // Deliveries in flight, each with a lease.
    let slow = Receiver::answering(|_| Answer::status(200).after(Duration::from_secs(1))).await;
    let created = engine.endpoint("slow", &slow.url("/"), &["job.*"]).await;
    let old = svix::webhooks::Webhook::new(created["secret"].as_str().unwrap()).unwrap();
    engine.ok("POST", "/v1/endpoints/slow/rotate-secret", json!({ "grace": "30m" })).await;

    let mut sent = 0;
    for step in [3600, 0, -3600, 0] {
        for job in 0..WAITING {
            engine.send("job.created", json!({ "job": job })).await;
        }
        sent += WAITING;
        retrying.wait_for("the first attempts", DEADLINE, |all| by_id(all).len() == sent).await;
        slow.wait_for("some are under way", DEADLINE, |all| all.len() > sent - WAITING).await;
        clock.set(step);
        assert!(reads(&engine, step).await, "the clock is set by {step} s");
        each_is_tried_when_due_and_once(&retrying, sent).await;
        slow.wait_for_count(sent, DEADLINE).await;
        let none = |page: &Value| page["items"] == json!([]);
        engine.wait("/v1/deliveries?state=pending", "no delivery waits", none).await;
        engine.wait("/v1/deliveries?state=retrying", "no delivery waits", none).await;
    }
    let taken = slow.received();
    assert_eq!((taken.len(), by_id(&taken).len()), (sent, sent), "each webhook was sent once");
    for one in &taken {
        let headers: HeaderMap =
            one.headers.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect();
        old.verify_ignoring_timestamp(&one.body, &headers)
            .expect("during its grace period of 30 min the old secret signs, regardless of the clock");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_step_across_a_restart_changes_no_retry() {
    let clock = Clock::new();
    let mut engine = clock.engine();
    let retrying = second_time().await;
    retrying_endpoint(&engine, &retrying).await;
    let mut sent = 0;
    for step in [3600, -3600, 0] {
        for job in 0..WAITING {
            engine.send("job.created", json!({ "job": job })).await;
        }
        sent += WAITING;
        engine
            .wait("/v1/deliveries?state=retrying", "all deliveries wait for their retry", |page| {
                page["items"].as_array().unwrap().len() == WAITING
            })
            .await;
        engine.kill();
        clock.set(step);
        engine.launch();
        assert!(reads(&engine, step).await, "the clock is set by {step} s");
        each_is_tried_when_due_and_once(&retrying, sent).await;
        engine.wait("/v1/deliveries?state=retrying", "no delivery waits", |page| page["items"] == json!([])).await;
    }
}

/// The machine restarts: the uptime, from which the steady clock is read, begins at zero, and a clock without a battery shows an old time.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_machine_with_an_old_clock_delays_no_retry() {
    let clock = Clock::new();
    let mut engine = clock.engine();
    engine.kill();
    // At first the engine sees an uptime that is ten days longer than the machine's. After the restart it sees the machine's.
    engine.set_wrapper(&namespace::up_for_longer("864000"));
    engine.launch();
    let retrying = second_time().await;
    retrying_endpoint(&engine, &retrying).await;
    for job in 0..WAITING {
        engine.send("job.created", json!({ "job": job })).await;
    }
    engine
        .wait("/v1/deliveries?state=retrying", "all deliveries wait for their retry", |page| {
            page["items"].as_array().unwrap().len() == WAITING
        })
        .await;
    engine.kill();
    engine.set_wrapper(&[]);
    let years = -20 * 365 * 24 * 3600;
    clock.set(years);
    engine.launch();
    assert!(reads(&engine, years).await, "the clock has fallen back");
    let twice = |all: &[Received]| by_id(all).values().filter(|tries| tries.len() >= 2).count() == WAITING;
    let all = retrying.wait_for("every delivery is tried again", DEADLINE, twice).await;
    assert_eq!(all.len(), 2 * WAITING, "no delivery is sent a third time");

    // The API shows the wall clock, not the steady clock.
    let refusing = Receiver::answering(|_| Answer::status(503)).await;
    let endpoint = json!({ "name": "refusing", "url": refusing.url("/"), "events": ["last.*"], "schedule": ["0s", "1h"] });
    engine.ok("POST", "/v1/endpoints", endpoint).await;
    engine.send("last.one", json!({})).await;
    let page = engine
        .wait("/v1/deliveries?state=retrying", "one delivery waits for its retry", |page| {
            page["items"].as_array().unwrap().len() == 1
        })
        .await;
    let due: jiff::Timestamp = page["items"][0]["due"].as_str().expect("a time").parse().expect("RFC 3339");
    let ahead = due.as_second() - jiff::Timestamp::now().as_second() - years;
    assert!((0..2 * 3600).contains(&ahead), "due in {ahead} s by the wall clock");
}
