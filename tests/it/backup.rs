//! Backups taken under load, restored, and checked; `innesco check` distinguishes an intact folder from a damaged one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine, KEY, client, store_is_a_file},
    receivers::Receiver,
};

const CALLERS: usize = 4;

fn text(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), &output.stderr].concat()).expect("text")
}

fn check(engine: &Engine) -> (bool, Value) {
    let output = engine.command().args(["check", "--json", "--data", "data"]).output().expect("the program runs");
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("a report: {}", text(&output)));
    (output.status.success(), report)
}

/// Restores a backup and its master key, as `docs/operations.md` describes.
fn restore(engine: &Engine, copy: &Path, key: &Path) {
    let data = engine.data_folder();
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    fs::copy(copy, data.join("innesco.db")).unwrap();
    fs::copy(key, data.join("master.key")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_taken_under_load_has_everything_and_issues_no_id_again() {
    if !store_is_a_file() {
        // With Postgres, the database's tools make backups.
        return;
    }
    let mut engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    let endpoint = engine.endpoint("crm", &receiver.url("/"), &["*"]).await;
    let accepted = Arc::new(Mutex::new(BTreeSet::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (url, accepted, stop) = (engine.url.clone(), Arc::clone(&accepted), Arc::clone(&stop));
            tokio::spawn(async move {
                let client = client();
                while !stop.load(Ordering::SeqCst) {
                    let event = client.post(format!("{url}/v1/events")).bearer_auth(KEY).json(&json!({ "type": "a.b" }));
                    let answer: Value = event.send().await.unwrap().json().await.unwrap();
                    accepted.lock().unwrap().insert(answer["event"].as_str().unwrap().to_owned());
                }
            })
        })
        .collect();
    let more_than = async |count: usize| {
        let until = std::time::Instant::now() + DEADLINE;
        while accepted.lock().unwrap().len() < count {
            assert!(std::time::Instant::now() < until, "the callers make no progress");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    more_than(200).await;
    let before = accepted.lock().unwrap().clone();
    let copy = engine.data_folder().parent().unwrap().join("copy.db");
    let mut command = engine.command();
    command.arg("backup").arg(&copy).args(["--data", "data"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success() && text(&output).contains("master.key"), "{}", text(&output));
    more_than(before.len() + 200).await;
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    let issued = accepted.lock().unwrap().clone();
    let again = engine.command().arg("backup").arg(&copy).args(["--data", "data"]).output().unwrap();
    assert!(again.status.code() == Some(1) && text(&again).contains("already exists"), "{}", text(&again));

    let mut restored = Engine::start(&[]);
    assert!(restored.stop());
    restore(&restored, &copy, &engine.data_folder().join("master.key"));
    restored.launch();
    for event in &before {
        restored.get(&format!("/v1/events/{event}")).await;
    }
    let mut ids = BTreeSet::new();
    for _ in 0..50 {
        ids.insert(restored.send("a.b", json!({})).await);
    }
    assert!(ids.is_disjoint(&issued) && ids.first() > issued.last(), "new ids are larger than every issued id");
    // The restored engine sends like the original: the secret is decrypted with the separately stored master key.
    let last = ids.last().unwrap().clone();
    let story = restored
        .wait(&format!("/v1/events/{last}"), "the webhook is delivered", |story| story["deliveries"][0]["state"] == "delivered")
        .await;
    let delivery = story["deliveries"][0]["id"].as_str().unwrap();
    let sent = receiver.received().into_iter().find(|one| one.header("webhook-id") == Some(delivery)).expect("it arrived");
    let headers: http::HeaderMap =
        sent.headers.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect();
    standardwebhooks::Webhook::new(endpoint["secret"].as_str().unwrap()).unwrap().verify(&sent.body, &headers).expect("verified");

    assert!(restored.stop() && engine.stop());
    for one in [&engine, &restored] {
        let (sound, report) = check(one);
        assert!(sound && report["ok"] == true, "{report:#}");
        assert!(report["counts"]["events"].as_u64() >= Some(before.len() as u64), "{report:#}");
    }
    // Without its master key the restored engine does not start, and the check reports why.
    fs::remove_file(restored.data_folder().join("master.key")).unwrap();
    let (sound, report) = check(&restored);
    assert!(!sound && report["findings"][0]["what"].as_str().unwrap().contains("master key"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_events_of_a_backup_take_place_once_in_the_restored_engine() {
    if !store_is_a_file() {
        // A database has its own backup tools.
        return;
    }
    const SOON: u64 = 20;
    const FAR: u64 = 30 * 86_400_000;
    let mut engine = Engine::start(&["ledger"]);
    let receiver = Receiver::start().await;
    engine.endpoint("due", &receiver.url("/"), &["job.due"]).await;
    let later = |job: u64, millis: u64| engine.send("job.later", json!({ "job": job, "millis": millis }));
    let (far, cancelled) = (later(90, FAR).await, later(91, FAR).await);
    let mut soon = Vec::new();
    for job in 0..SOON {
        soon.push(later(job, 8_000 + job * 50).await);
    }
    let mut stories = BTreeMap::new();
    engine.settled(&cancelled).await;
    engine.ok("POST", &format!("/v1/events/{cancelled}/cancel"), Value::Null).await;
    for event in soon.iter().chain([&far, &cancelled]) {
        stories.insert(event.clone(), engine.settled(event).await["scheduled"].clone());
    }
    let copy = engine.data_folder().parent().unwrap().join("copy.db");
    let output = engine.command().arg("backup").arg(&copy).args(["--data", "data"]).output().unwrap();
    engine.kill();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(receiver.received().len(), 0, "the backup was taken before an event was due");

    let mut restored = Engine::start(&[]);
    assert!(restored.stop());
    restore(&restored, &copy, &engine.data_folder().join("master.key"));
    let (sound, report) = check(&restored);
    assert!(sound && report["counts"]["events due later"] == SOON + 1, "{report:#}");
    restored.launch();
    for event in [&far, &cancelled] {
        let waits = restored.get(&format!("/v1/events/{event}")).await["scheduled"].clone();
        assert_eq!(waits, stories[event], "the due time is that of the original");
    }
    receiver.wait_for_count(usize::try_from(SOON).unwrap(), DEADLINE).await;
    // A restart routes no event again.
    restored.kill();
    restored.launch();
    restored.all_run().await;
    let list = restored.get("/v1/events?type=job.due&limit=100").await;
    let mut causes: Vec<&str> = list["items"].as_array().unwrap().iter().map(|event| event["cause"].as_str().unwrap()).collect();
    causes.sort_unstable();
    assert_eq!(causes, soon, "each event took place once");
    let due = |event: &String| stories[event][0]["due_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    for event in &soon {
        let story = restored.get(&format!("/v1/events/{event}")).await;
        assert_eq!((&story["scheduled"], story["emitted"].as_array().unwrap().len()), (&json!([]), 1), "{story:#}");
        let took_place = restored.get(&format!("/v1/events/{}", story["emitted"][0].as_str().unwrap())).await;
        let at: jiff::Timestamp = took_place["accepted_at"].as_str().unwrap().parse().unwrap();
        assert!(at >= due(event), "{at} is before {}", due(event));
    }
    let ids: BTreeSet<_> = receiver.received().iter().map(|one| one.header("webhook-id").unwrap().to_owned()).collect();
    assert_eq!(ids.len() as u64, SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_needs_a_stopped_engine_and_names_damage() {
    if !store_is_a_file() {
        // With Postgres, the database's tools make backups.
        return;
    }
    let mut engine = Engine::start(&[]);
    for _ in 0..50 {
        engine.send("a.b", json!({ "text": "x".repeat(2_000) })).await;
    }
    engine.wait("/v1/events?state=waiting", "everything is run", |page| page["items"] == json!([])).await;
    let busy = engine.command().args(["check", "--data", "data"]).output().unwrap();
    assert!(busy.status.code() == Some(1) && text(&busy).contains("in use by another engine"), "{}", text(&busy));
    assert!(engine.stop());
    let (sound, report) = check(&engine);
    assert!(sound && report["counts"]["events unrouted"] == 50, "{report:#}");
    let words = engine.command().args(["check", "--data", "data"]).output().unwrap();
    assert!(words.status.success() && text(&words).contains("no findings"), "{}", text(&words));

    // A backup is one file. The check must detect damage in it.
    let copy = engine.data_folder().parent().unwrap().join("copy.db");
    let copied = engine.command().args(["backup", "copy.db", "--data", "data"]).output().unwrap();
    assert!(
        copied.status.success() && text(&copied).contains("50 events"),
        "the backup also works while no engine runs: {}",
        text(&copied)
    );
    let key = engine.data_folder().parent().unwrap().join("key");
    fs::rename(engine.data_folder().join("master.key"), &key).unwrap();
    restore(&engine, &copy, &key);
    assert!(check(&engine).0);
    let file = engine.data_folder().join("innesco.db");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 8192].fill(0xa5);
    fs::write(&file, bytes).unwrap();
    let (sound, report) = check(&engine);
    assert!(!sound && report["ok"] == false, "{report:#}");
    let words = engine.command().args(["check", "--data", "data"]).output().unwrap();
    assert!(
        words.status.code() == Some(1) && text(&words).contains("in data; where a finding names no cure, restore a backup"),
        "{}",
        text(&words)
    );
    let nothing = engine.command().args(["check", "--data", "nowhere"]).output().unwrap();
    assert!(nothing.status.code() == Some(1) && text(&nothing).contains("no store in nowhere"), "{}", text(&nothing));
}
