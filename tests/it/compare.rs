//! Comparisons: the engine reports what a candidate version would change before that version serves. A comparison has no effect.

use serde_json::{Value, json};

use crate::{
    crates,
    engine::{DEADLINE, Engine},
    receivers::Receiver,
};

/// Number of recorded events. They are so many that every variant differs from the base on at least one of them.
const EVENTS: u64 = 60;

/// Each variant of the guest `changes`, with the change that a report must name.
const VARIANTS: [(u32, &str); 40] = [
    (1, "outcome changed from ok to failed (even)"),
    (2, "outcome changed from ok to trapped (panic)"),
    (3, "outcome changed from ok to failed (later)"),
    (4, "webhook to crm: body /total changed"),
    (5, "webhook to crm: body /id changed"),
    (6, "webhook to crm: body /country changed"),
    (7, "state count changed"),
    (8, "state counted added"),
    (9, "state seen added"),
    (10, "event order.big added"),
    (11, "event order.big removed"),
    (12, "event order.big added"),
    (13, "event order.big removed"),
    (14, "webhook to crm: body /tags removed"),
    (15, "webhook to crm: body /currency added"),
    (16, "webhook to crm: body /id changed from number to text"),
    (17, "webhook to crm: body /tags/* removed"),
    (18, "webhook to crm: body /tags/* added"),
    (19, "webhook to crm: body /tags/* changed"),
    (20, "webhook to crm: body /customer/name changed"),
    (21, "webhook to crm: body /customer/mail added"),
    (22, "webhook to crm: body /customer changed from object to null"),
    (23, "webhook to crm: body /total changed"),
    (24, "webhook to crm: body written differently"),
    (25, "webhook to crm: body changed from object to list"),
    (26, "webhook goes to erp instead of crm"),
    (27, "webhook to crm: header x-priority added"),
    (28, "webhook to crm: header x-kind removed"),
    (29, "webhook to crm: header x-kind changed"),
    (30, "webhook to crm: type changed"),
    (31, "webhook to crm: content type changed"),
    (32, "webhook to crm removed"),
    (33, "webhook to crm added"),
    (34, "event order.huge added"),
    (35, "event order.big: body /count changed"),
    (36, "event order.big: subject changed"),
    (37, "event order.big: attribute channel added"),
    (38, "event order.seen added"),
    (39, "webhook to slack added"),
    (40, "outcome changed from ok to bad-output (unknown_endpoint)"),
];

/// Further differences that a variant causes, besides its planted change.
const ALSO: [(u32, &str); 4] = [
    (4, "event order.big added"),
    (5, "event order.big: body /id changed"),
    (8, "state count removed"),
    (34, "event order.big removed"),
];

/// Returns a variant of the guest: another version of the same plugin.
pub fn variant(number: u32) -> Vec<u8> {
    let mut bytes = crates::wasm("changes");
    let mark = b"variant 00";
    let places: Vec<usize> = bytes.windows(mark.len()).enumerate().filter(|(_, part)| part == mark).map(|(at, _)| at).collect();
    let [place] = places[..] else { panic!("the variant is in the file once: {places:?}") };
    bytes[place..place + mark.len()].copy_from_slice(format!("variant {number:02}").as_bytes());
    bytes
}

/// Returns another file with the same code: a custom section changes the digest, but no instruction.
fn rebuilt() -> Vec<u8> {
    let mut rebuilt = variant(0);
    rebuilt.extend([0, 6, 4]);
    rebuilt.extend(b"notex");
    rebuilt
}

async fn push_candidate(engine: &Engine, bytes: Vec<u8>) -> String {
    let answer = engine.request("PUT", "/v1/plugins/changes?candidate=true").body(bytes).send().await.expect("an answer");
    let status = answer.status().as_u16();
    let stored: Value = answer.json().await.expect("JSON");
    assert!((200..300).contains(&status), "{status} {stored}");
    stored["version"].as_str().expect("a version").to_owned()
}

async fn compare(engine: &Engine, body: Value) -> Value {
    let started = engine.ok("POST", "/v1/plugins/changes/compare", body).await;
    let path = format!("/v1/comparisons/{}", started["id"].as_str().expect("an id"));
    engine.wait(&path, "the comparison ends", |one| one["state"] != "running").await
}

fn changes(comparison: &Value) -> Vec<String> {
    let changes = comparison["report"]["changes"].as_array().expect("changes");
    changes.iter().map(|one| one["change"].as_str().expect("a name").to_owned()).collect()
}

/// Starts an engine whose plugin has run on recorded events, with two revisions of its settings and a growing state.
async fn engine_with_recorded_runs() -> (Engine, Receiver) {
    let engine = Engine::start(&["changes"]);
    let receiver = Receiver::start().await;
    for name in ["crm", "erp", "slack"] {
        engine.endpoint(name, &receiver.url("/"), &[]).await;
    }
    for number in 0..EVENTS {
        if number == EVENTS / 2 {
            engine.ok("PUT", "/v1/plugins/changes/config", json!({ "threshold": 300 })).await;
        }
        let data = json!({ "id": number, "total": number * 10, "country": "IT" });
        engine.send("order.created", data).await;
    }
    engine.all_run().await;
    receiver.wait_for_count(EVENTS as usize, DEADLINE).await;
    (engine, receiver)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_change_is_found_under_its_name_and_nothing_else() {
    let (engine, receiver) = engine_with_recorded_runs().await;
    let state = engine.get("/v1/plugins/changes/state").await;
    let serving = engine.get("/v1/plugins/changes").await["version"].clone();
    for (number, expected) in VARIANTS {
        let candidate = push_candidate(&engine, variant(number)).await;
        let one = compare(&engine, json!({ "candidate": candidate })).await;
        let report = &one["report"];
        assert_eq!((&one["state"], &one["problem"]), (&json!("done"), &Value::Null), "{one:#}");
        assert_eq!(report["compared"], EVENTS, "variant {number}: {report:#}");
        let mut wanted = vec![expected.to_owned()];
        wanted.extend(ALSO.iter().filter(|(of, _)| *of == number).map(|(_, also)| (*also).to_owned()));
        let mut found = changes(&one);
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "variant {number}: {report:#}");
        let sample = &report["changes"][0]["samples"][0];
        let run = engine.get(&format!("/v1/runs/{}", sample["run"].as_str().expect("a run"))).await;
        assert_eq!(run["event"], sample["event"], "a sample can be opened");
        let targets_differ = report["targets_differ"].as_u64() > Some(0);
        assert_eq!(targets_differ, [26, 32, 33, 39].contains(&number), "variant {number}: {report:#}");
        assert_eq!(report["new_failures"].as_u64() > Some(0), [1, 2, 3, 40].contains(&number), "variant {number}");
    }
    assert_eq!(engine.get("/v1/plugins/changes/state").await, state, "nothing took effect");
    assert_eq!(engine.get("/v1/plugins/changes").await["version"], serving);
    assert_eq!(receiver.received().len(), EVENTS as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_of_the_same_source_differs_in_nothing() {
    let (engine, _receiver) = engine_with_recorded_runs().await;
    let candidate = push_candidate(&engine, rebuilt()).await;
    for body in [json!({ "candidate": candidate }), json!({ "candidate": candidate[..8], "last": 7, "event_type": "order.*" })] {
        let one = compare(&engine, body.clone()).await;
        let report = &one["report"];
        assert_eq!(report["compared"], body["last"].as_u64().unwrap_or(EVENTS));
        assert_eq!((&report["same"], &report["changes"]), (&report["compared"], &json!([])), "{report:#}");
    }
    let none = compare(&engine, json!({ "candidate": candidate, "event_type": "contact.*" })).await;
    assert_eq!(none["report"]["compared"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_everything_that_a_run_depended_on() {
    let (engine, _receiver) = engine_with_recorded_runs().await;
    let runs = engine.get("/v1/runs?plugin=changes&limit=1").await;
    let record = engine.get(&format!("/v1/runs/{}/record", runs["items"][0]["id"].as_str().expect("an id"))).await;
    assert_eq!((&record["outcome"], &record["not_repeatable"], &record["bound"]), (&json!("ok"), &Value::Null, &json!(false)));
    assert_eq!((&record["settings_revision"], &record["settings"]), (&json!(1), &json!({ "threshold": "300" })));
    assert_eq!((&record["state"][0]["key"], record["state"].as_array().map(Vec::len)), (&json!("count"), Some(1)));
    assert_eq!((&record["event"]["type"], &record["version"]), (&json!("order.created"), &runs["items"][0]["version"]));
    let first = engine.get("/v1/runs?plugin=changes&limit=100").await;
    let first = first["items"].as_array().and_then(|items| items.last()).expect("runs")["id"].as_str().expect("an id").to_owned();
    let record = engine.get(&format!("/v1/runs/{first}/record")).await;
    assert_eq!((&record["settings_revision"], &record["settings"]), (&json!(0), &json!({})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_follows_new_runs_until_the_candidate_serves() {
    const NEW: u64 = 30;
    let mut engine = Engine::start(&["changes"]);
    let receiver = Receiver::start().await;
    engine.endpoint("crm", &receiver.url("/"), &[]).await;
    let send = async |engine: &Engine, ids: std::ops::Range<u64>| {
        for id in ids {
            engine.send("order.created", json!({ "id": id, "total": id * 10, "country": "IT" })).await;
        }
        engine.all_run().await;
    };
    send(&engine, 0..10).await;
    let (same, other) = (push_candidate(&engine, rebuilt()).await, push_candidate(&engine, variant(6)).await);
    let follow = async |body: Value| {
        let started = engine.ok("POST", "/v1/plugins/changes/compare", body).await;
        assert_eq!((&started["state"], &started["follow"]), (&json!("running"), &json!(true)), "{started:#}");
        format!("/v1/comparisons/{}", started["id"].as_str().expect("an id"))
    };
    let all = follow(json!({ "candidate": other, "follow": true })).await;
    let half = follow(json!({ "candidate": same, "follow": true, "share": 50 })).await;
    let few = follow(json!({ "candidate": same, "follow": true, "last": 5 })).await;

    // Runs that ended before the comparison began are not counted. The comparison continues after a restart.
    send(&engine, 10..10 + NEW / 2).await;
    engine
        .wait(&few, "the comparison ends after its last run", |one| one["state"] == "done" && one["report"]["compared"] == 5)
        .await;
    assert!(engine.stop());
    engine.launch();
    send(&engine, 10 + NEW / 2..10 + NEW).await;
    let counted = |one: &Value| one["report"]["compared"].as_u64().unwrap() + one["report"]["skipped"].as_u64().unwrap();
    let one = engine.wait(&all, "every new run is counted", |one| counted(one) == NEW).await;
    assert_eq!(
        (&one["state"], &one["share"], changes(&one)),
        (&json!("running"), &json!(100), vec!["webhook to crm: body /country changed".to_owned()])
    );
    assert_eq!(one["report"]["differ"], one["report"]["compared"], "{one:#}");
    let one = engine.wait(&half, "its share is counted", |one| counted(one) > 0).await;
    assert!(counted(&one) < NEW && one["report"]["changes"] == json!([]), "{one:#}");
    assert_eq!(receiver.received().len() as u64, 10 + NEW, "nothing took effect");

    // The comparison of the version that now serves is done. The other comparison ends early, because its serving version was replaced.
    engine.ok("POST", "/v1/plugins/changes/promote", json!({ "version": other })).await;
    let ended = |one: &Value| one["state"] != "running";
    let one = engine.wait(&all, "the comparison ends", ended).await;
    assert_eq!((&one["state"], &one["problem"]), (&json!("done"), &Value::Null), "{one:#}");
    let one = engine.wait(&half, "the comparison ends", ended).await;
    assert!(one["problem"].as_str().is_some_and(|text| text.contains("another version serves now")), "{one:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_of_new_runs_is_watched_listed_and_cancelled() {
    let engine = Engine::start(&["changes"]);
    let receiver = Receiver::start().await;
    engine.endpoint("crm", &receiver.url("/"), &[]).await;
    push_candidate(&engine, rebuilt()).await;
    let run = |arguments: &[&str]| {
        let output = engine.command().args(arguments).output().expect("the program runs");
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).expect("text"))
    };
    let follow = ["plugin", "compare", "changes", "--follow", "--share", "100%", "--last", "3", "--gate", "differ=0"];
    let watched = std::thread::scope(|scope| {
        let watched = scope.spawn(|| run(&follow));
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                engine.wait("/v1/comparisons", "the comparison is listed", |page| page["items"][0]["state"] == "running").await;
                for id in 0..3 {
                    engine.send("order.created", json!({ "id": id, "total": 1, "country": "IT" })).await;
                }
            });
        });
        watched.join().expect("the command ends")
    });
    assert_eq!(watched.0, Some(0), "{}", watched.1);
    assert!(watched.1.contains("3 runs: 3 same, 0 differ") && watched.1.contains("follows new runs"), "{}", watched.1);

    engine.ok("POST", "/v1/plugins/changes/compare", json!({ "follow": true })).await;
    let (_, list) = run(&["comparison", "list", "--state", "running"]);
    let id = list.split_whitespace().find(|word| word.starts_with("cmp_")).unwrap_or_else(|| panic!("{list}")).to_owned();
    let (_, shown) = run(&["comparison", "show", &id]);
    assert!(shown.contains("No run has ended since the comparison started."), "{shown}");
    let (code, cancelled) = run(&["comparison", "cancel", &id, "--yes"]);
    assert!(code == Some(0) && cancelled.contains("cancelled"), "{cancelled}");
    assert_eq!(engine.get(&format!("/v1/comparisons/{id}")).await["state"], "cancelled");

    for (arguments, expected) in [
        (&["plugin", "compare", "changes", "--share", "10%"][..], "--follow"),
        (&["plugin", "compare", "changes", "--follow", "--share", "0%"], "write a percentage from 1% to 100%"),
    ] {
        let (code, said) = run(arguments);
        assert!(code == Some(2) && said.contains(expected), "{said}");
    }
    let refused = engine.call("POST", "/v1/plugins/changes/compare", json!({ "share": 10 })).await;
    assert_eq!(refused.0, 422, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_the_report_and_a_gate_fails() {
    let (engine, _receiver) = engine_with_recorded_runs().await;
    let file = engine.plugin_folder().parent().expect("a folder").join("candidate.wasm");
    std::fs::write(&file, variant(26)).expect("the file of the candidate is written");
    let run = |arguments: &[&str]| {
        let all = [&["plugin", "compare", "changes", "--candidate", file.to_str().expect("text")], arguments].concat();
        let output = engine.command().args(all).output().expect("the program runs");
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).expect("text"))
    };
    let (code, said) = run(&["--gate", "failures=0"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("60 runs: 0 same, 60 differ") && said.contains("webhook goes to erp instead of crm"), "{said}");
    let (code, said) = run(&["--gate", "failures=0,targets=same"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("gate failed: targets differ in 60 runs"), "{said}");
    let (code, said) = run(&["--gate", "nonsense"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("is not a rule of --gate"), "{said}");
    let (_, said) = run(&["--mask", "--json"]);
    assert!(!said.contains("\"country\""), "{said}");
}
