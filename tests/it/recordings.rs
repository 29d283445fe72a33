//! Recorded runs are repeated exactly: in another process, after a backup and restore, and after a move to Postgres.

use std::{collections::BTreeMap, path::Path, sync::Mutex};

use serde_json::{Value, json};

use crate::{
    crates,
    engine::{DEADLINE, Engine, store_is_a_file},
    postgres::PostgresServer,
    receivers::{Received, Receiver},
};

/// Number of recorded runs. `INNESCO_RECORDED_RUNS` sets another number.
fn events() -> u64 {
    std::env::var("INNESCO_RECORDED_RUNS").map_or(36, |text| text.parse().expect("a number of runs"))
}

/// Starts an engine whose plugin has run on events of every form: with and without a subject, a time and attributes, after a
/// change of its settings, and with data that it refuses. Each run reads the state that the run before it wrote.
async fn engine_with_recorded_runs(receiver: &Receiver) -> Engine {
    let engine = Engine::start(&["changes"]);
    engine.endpoint("crm", &receiver.url("/"), &[]).await;
    engine.endpoint("big", &receiver.url("/big"), &["order.big"]).await;
    let events = events();
    for id in 0..events {
        if id == events / 2 {
            engine.ok("PUT", "/v1/plugins/changes/config", json!({ "threshold": 100 })).await;
        }
        let mut event = json!({ "type": "order.created", "data": { "id": id, "total": id * 10, "country": "IT" } });
        match id % 6 {
            1 => event["id"] = json!(format!("order-{id}-é")),
            2 => (event["subject"], event["source"]) = (json!("orders/\"7\""), json!("shop")),
            3 => event["time"] = json!("2026-01-31T09:30:00.120+01:00"),
            4 => event["channel"] = json!("web \u{1f600}"),
            5 => event["data"]["total"] = json!("much"),
            _ => {}
        }
        let event = engine.ok("POST", "/v1/events", event).await["event"].as_str().expect("an id").to_owned();
        engine.settled(&event).await;
    }
    engine
}

/// Returns every recorded run of the plugin, oldest first.
async fn runs(engine: &Engine) -> Vec<String> {
    let (mut runs, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = engine.get(&format!("/v1/runs?plugin=changes&limit=100{cursor}")).await;
        runs.extend(page["items"].as_array().expect("runs").iter().map(|run| run["id"].as_str().expect("an id").to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    runs.reverse();
    runs
}

/// Repeats runs with `innesco plugin test --run`, each in a new process. Returns what each printed, without its duration.
fn repeat(engine: &Engine, file: &Path, runs: &[String]) -> BTreeMap<String, Value> {
    let (rest, printed) = (Mutex::new(runs.iter()), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(run) = { rest.lock().unwrap().next() } {
                    let mut command = engine.command();
                    let output = command.args(["plugin", "test", "--json", "--run", run]).arg(file).output().expect("it runs");
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    let mut one: Value =
                        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{run}: {error}: {said}"));
                    assert_eq!(output.status.success(), one["outcome"] == "ok", "{run}: {said}");
                    assert!(!said.contains("recorded run"), "the same version and outcome: {said}");
                    one.as_object_mut().expect("an object").remove("duration_ms");
                    printed.lock().unwrap().insert(run.clone(), one);
                }
            });
        }
    });
    printed.into_inner().unwrap()
}

/// Compares the serving version with itself on every recorded run.
async fn compare_with_itself(engine: &Engine, compared: usize) {
    let version = engine.get("/v1/plugins/changes").await["version"].clone();
    let started = engine.ok("POST", "/v1/plugins/changes/compare", json!({ "candidate": version })).await;
    let path = format!("/v1/comparisons/{}", started["id"].as_str().expect("an id"));
    let one = engine.wait(&path, "the comparison ends", |one| one["state"] != "running").await;
    let report = &one["report"];
    assert_eq!((&report["compared"], &report["same"]), (&json!(compared), &json!(compared)), "{one:#}");
    assert_eq!((&report["not_repeatable"], &report["read_current_state"]), (&json!(0), &json!(0)), "{one:#}");
}

fn json_of(one: &Received) -> Value {
    serde_json::from_slice(&one.body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_runs_repeat_exactly_in_another_process_and_another_store() {
    let receiver = Receiver::start().await;
    let mut engine = engine_with_recorded_runs(&receiver).await;
    let file = engine.data_folder().with_file_name("changes.wasm");
    std::fs::write(&file, crates::wasm("changes")).unwrap();
    let runs = runs(&engine).await;
    assert_eq!(runs.len() as u64, events());
    let repeated = repeat(&engine, &file, &runs);

    // Compares the results with those that the engine sent, emitted, stored and logged.
    let fine = repeated.values().filter(|one| one["outcome"] == "ok").count();
    let big = repeated.values().map(|one| one["events"].as_array().unwrap().len()).sum::<usize>();
    assert!(fine < runs.len() && (1..fine).contains(&big), "{fine} ok, {big} big");
    let received = receiver.wait_for("every webhook", DEADLINE, |all| all.len() == fine + big).await;
    let (mut sent, mut emitted) = (BTreeMap::new(), BTreeMap::new());
    for one in &received {
        match one.path.as_str() {
            "/big" => drop(emitted.insert(json_of(one)["data"]["id"].as_u64().unwrap(), json_of(one)["data"].clone())),
            _ => drop(sent.insert(json_of(one)["id"].as_u64().unwrap(), one)),
        }
    }
    let mut count = None::<String>;
    for (id, run) in (0..).zip(&runs) {
        let (one, story) = (&repeated[run], engine.get(&format!("/v1/runs/{run}")).await);
        for member in ["outcome", "version", "code", "message", "webhooks", "events", "memory_bytes"] {
            let repeated = one[member].as_array().map_or(one[member].clone(), |list| json!(list.len()));
            assert_eq!(repeated, story[member], "{run} {member}: {story:#}");
        }
        assert_eq!((&one["log"], &one["backtrace"]), (&story["log"], &story["backtrace"]), "{run}");
        let record = engine.get(&format!("/v1/runs/{run}/record")).await;
        if one["outcome"] != "ok" {
            assert_eq!((&one["webhooks"], &one["state"]["writes"]), (&json!([]), &json!([])), "{run}");
            continue;
        }
        let (webhook, sent) = (&one["webhooks"][0], sent[&id]);
        assert_eq!(webhook["body"].as_str().map(str::as_bytes), Some(&sent.body[..]), "{run}: byte for byte");
        assert_eq!(
            (webhook["content_type"].as_str(), webhook["headers"][0][1].as_str()),
            (sent.header("content-type"), sent.header("x-kind"))
        );
        let repeated = one["events"].get(0).map(|event| event["data"].as_str().unwrap().parse::<Value>().unwrap());
        assert_eq!(repeated.as_ref(), emitted.get(&id), "{run}");
        // The next run read the state that this run wrote.
        let read = record["state"][0]["value_base64"].as_str().map(str::to_owned);
        assert_eq!(read, count, "{run} read what the run before it wrote: {record:#}");
        count = one["state"]["writes"][0]["value"].as_str().map(base64);
    }
    compare_with_itself(&engine, runs.len()).await;

    // The runs are repeated after a restart and in another engine.
    assert!(engine.stop());
    engine.launch();
    compare_with_itself(&engine, runs.len()).await;
    if !store_is_a_file() {
        return;
    }
    let copy = engine.data_folder().with_file_name("copy.db");
    let output = engine.command().arg("backup").arg(&copy).args(["--data", "data"]).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut restored = Engine::start(&[]);
    assert!(restored.stop());
    let key = engine.data_folder().join("master.key");
    std::fs::copy(key, restored.data_folder().join("master.key")).unwrap();
    for file in ["innesco.db", "innesco.db-wal", "innesco.db-shm"] {
        let _ = std::fs::remove_file(restored.data_folder().join(file));
    }
    std::fs::copy(&copy, restored.data_folder().join("innesco.db")).unwrap();
    assert!(engine.stop());
    restored.launch();
    assert_eq!(repeat(&restored, &file, &runs), repeated, "after a backup and restore");
    compare_with_itself(&restored, runs.len()).await;

    assert!(restored.stop());
    let server = PostgresServer::start(false);
    let url = server.url(&server.database());
    let output = restored.command().args(["migrate", "--from", "data", "--to", &url]).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    restored.set_environment(&[("INNESCO_STORE", &url)]);
    restored.launch();
    assert_eq!(repeat(&restored, &file, &runs), repeated, "after the move to Postgres");
    compare_with_itself(&restored, runs.len()).await;
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(text)
}
