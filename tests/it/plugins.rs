//! Plugins in the real engine: their abilities and limits, and changes of their files.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::{
    crates,
    engine::{DEADLINE, Engine, KEY, client},
    guests,
    receivers::{Answer, Received, Receiver},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_sends_webhooks_and_emits_events() {
    let engine = Engine::start(&["ledger"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/plugin"), &[]).await;
    engine.endpoint("done", &receiver.url("/done"), &["job.done"]).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let new = json!({ "type": "job.created", "data": { "job": 1 }, "traceparent": parent });
    let event = engine.ok("POST", "/v1/events", new).await["event"].as_str().unwrap().to_owned();
    let received = receiver.wait_for_count(2, DEADLINE).await;
    assert!(received.iter().any(|one| one.path == "/plugin" && one.text() == r#"{"job":1}"#));
    assert!(received.iter().any(|one| one.path == "/done" && one.header("innesco-depth") == Some("2")));
    let story = engine.settled(&event).await;
    let run = &story["runs"][0];
    assert_eq!(
        (&run["plugin"], &run["outcome"], &run["webhooks"], &run["events"]),
        (&json!("ledger"), &json!("ok"), &json!(1), &json!(1))
    );
    let emitted = engine.get(&format!("/v1/events/{}", story["emitted"][0].as_str().unwrap())).await;
    assert_eq!((&emitted["cause"], &emitted["source"]), (&json!(event), &json!("plugin/ledger")));
    // Both histories show the whole chain and its trace.
    for story in [&story, &emitted] {
        let chain: Vec<&Value> = story["chain"].as_array().unwrap().iter().map(|link| &link["type"]).collect();
        assert_eq!(chain, ["job.created", "job.done"]);
        assert_eq!(story["trace"], trace);
    }

    engine.send("job.audit", json!({})).await;
    receiver.wait_for("the audit", DEADLINE, |all| all.iter().any(|one| one.text() == r#"{"audit":1}"#)).await;
}

/// A plugin sends to an endpoint that is being created at the same moment: in either order, the plugin's webhooks are sent. `maker`
/// creates the endpoint and `runner` runs the plugin; these may be two nodes. `execute_in_store` executes a statement in their store.
pub async fn send_to_an_endpoint_that_is_being_created(maker: &Engine, runner: &Engine, execute_in_store: impl Fn(&str)) {
    const EVENTS: usize = 5;
    let receiver = Receiver::start().await;
    let url = receiver.url("/");
    for round in 1..=20 {
        let send = async {
            for _ in 0..EVENTS {
                runner.send("mischief.not", json!({})).await;
            }
        };
        tokio::join!(maker.endpoint("receiver", &url, &[]), send);
        receiver.wait_for_count(round * EVENTS, DEADLINE).await;
        maker.ok("DELETE", "/v1/endpoints/receiver?force=true", Value::Null).await;
        // Deletes the row, as if the endpoint had never existed, because a webhook to a deleted endpoint is cancelled. The new
        // endpoint makes every node read the endpoints again.
        execute_in_store("DELETE FROM endpoint WHERE deleted_at IS NOT NULL");
        maker.endpoint(&format!("other-{round}"), &url, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_may_name_an_endpoint_that_is_being_created() {
    let engine = Engine::start(&["mischief"]);
    send_to_an_endpoint_that_is_being_created(&engine, &engine, |sql| engine.execute_in_store(sql, sql)).await;
}

/// Returns the line of the guest at which a misbehaviour is stopped.
fn line_of(deed: &str) -> Option<usize> {
    let code = match deed {
        "loop" => "black_box(());",
        "memory" => "hoard.push(",
        "recursion" => "let room = black_box(",
        "panic" => "panic!(",
        _ => return None,
    };
    let source = include_str!("../guests/mischief/src/lib.rs");
    Some(1 + source.lines().position(|line| line.contains(code)).expect("the guest has this line"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_misbehaviour_has_a_named_outcome() {
    let engine = Engine::start(&["mischief", "ledger"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    for (deed, outcome, message) in [
        ("loop", "deadline", "longer than its deadline of 1 s"),
        ("memory", "out-of-memory", "its limit is 64 MiB"),
        ("recursion", "trapped", "its stack is full"),
        ("panic", "trapped", "unlucky 13"),
        ("output", "bad-output", "returned more than "),
        ("webhooks", "bad-output", "10000 webhooks; the limit is 1000"),
        ("header", "bad-output", "sets the header webhook-id, which is reserved for the engine"),
        ("typo", "bad-output", "webhook 1 goes to endpoint \"reciever\", which does not exist; the nearest name is \"receiver\""),
        ("state", "bad-output", "sets a state value of 1 MiB; the limit is 64 KiB"),
        ("fail", "failed", "it is not to be"),
    ] {
        let event = engine.send(&format!("mischief.{deed}"), json!({})).await;
        let story = engine.settled(&event).await;
        let run = &story["runs"][0];
        assert_eq!(run["outcome"], outcome, "{deed}: {run:#}");
        assert_eq!(run["state"], "parked", "{deed}");
        assert!(run["message"].as_str().unwrap().contains(message), "{deed}: {run:#}");
        let backtrace: Vec<&str> = run["backtrace"].as_array().unwrap().iter().filter_map(|line| line.as_str()).collect();
        match line_of(deed) {
            Some(line) => assert!(backtrace[0].ends_with(&format!("(src/lib.rs:{line})")), "{deed}: {backtrace:?}"),
            None => assert!(!["loop", "memory", "recursion", "panic"].contains(&deed), "{deed}"),
        }
        assert_eq!(story["state"], "failed");
    }
    let flood = engine.send("mischief.log", json!({})).await;
    let run = engine.settled(&flood).await["runs"][0].clone();
    assert_eq!((&run["outcome"], run["log"].as_array().unwrap().len(), &run["log_dropped"]), (&json!("ok"), 100, &json!(99_900)));

    // The engine ends an endless chain.
    engine.send("mischief.again", json!({})).await;
    let list = engine
        .wait("/v1/events?type=mischief.again&state=failed", "the chain ends", |page| {
            !page["items"].as_array().unwrap().is_empty()
        })
        .await;
    assert_eq!(list["items"][0]["depth"], 8);

    // Other plugins continue meanwhile.
    engine.send("job.created", json!({ "job": 1 })).await;
    engine.send("mischief.nothing", json!({})).await;
    receiver.wait_for_count(2, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_plugins_are_explained_and_harmless() {
    let engine = Engine::start(&["ledger"]);
    let good = crates::wasm("mischief");
    engine.write_plugin("text.wasm", b"hello");
    engine.write_plugin("half.wasm", &good[..good.len() / 2]);
    engine.write_plugin("bare.wasm", &wat::parse_str("(module)").unwrap());
    engine.write_plugin("empty.wasm", b"");
    let list = engine.wait("/v1/plugins", "all files were checked", |list| list["items"].as_array().unwrap().len() == 5).await;
    let error = |name: &str| {
        let item = list["items"].as_array().unwrap().iter().find(|item| item["name"] == name).expect(name);
        assert_eq!(item["state"], "not-loadable");
        item["error"].as_str().unwrap().to_owned()
    };
    assert!(error("text").contains("not WebAssembly"));
    assert!(error("half").contains("it ends in the middle"));
    assert!(error("bare").contains("built without the SDK"));
    assert!(error("empty").contains("it is empty"));

    // The rest of the half-copied file arrives.
    std::fs::write(engine.plugin_folder().join("half.wasm"), &good).unwrap();
    engine.wait("/v1/plugins/mischief", "the plugin serves", |plugin| plugin["state"] == "serving").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_replacement_leaves_the_old_version_serving() {
    let mut engine = Engine::start(&["ledger"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    engine.write_plugin("ledger.wasm", b"\0asm broken");
    engine.wait("/v1/plugins/ledger", "the reason is shown", |plugin| !plugin["error"].is_null()).await;
    engine.send("job.created", json!({ "job": 1 })).await;
    receiver.wait_for_count(1, DEADLINE).await;

    engine.kill();
    engine.launch();
    assert!(engine.get("/v1/plugins/ledger").await["error"].as_str().is_some_and(|error| error.contains("WebAssembly")));
    engine.send("job.created", json!({ "job": 2 })).await;
    receiver.wait_for_count(2, DEADLINE).await;
}

/// A store of an old release, which stored no versions, takes the files of the folder. A plugin whose file does not load still matches
/// events.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_versions_takes_the_files_of_the_folder() {
    const FORGET: &str = "DELETE FROM plugin_version";
    let mut engine = Engine::start(&["ledger"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    engine.kill();
    engine.execute_in_store(FORGET, FORGET);
    engine.launch();
    engine.send("job.created", json!({ "job": 1 })).await;
    receiver.wait_for_count(1, DEADLINE).await;

    engine.kill();
    engine.execute_in_store(FORGET, FORGET);
    engine.write_plugin("ledger.wasm", b"\0asm broken");
    engine.launch();
    let event = engine.send("job.created", json!({ "job": 2 })).await;
    let story = engine.settled(&event).await;
    assert_eq!((&story["runs"][0]["outcome"], &story["runs"][0]["state"]), (&json!("not-loadable"), &json!("parked")));
    engine.drop_in("ledger");
    receiver.wait_for_count(2, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaced_under_load_loses_nothing() {
    let engine = Engine::start(&["ledger"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    let first = crates::wasm("ledger");
    // The same code in a file with other bytes is another version.
    let mut second = first.clone();
    second.extend_from_slice(&[0, 3, 1, b'v', 2]);
    let mut job = 0;
    for round in 0..8 {
        let bytes = if round % 2 == 0 { &second } else { &first };
        let version = innesco::domain::plugin::Digest::of(bytes).to_string();
        engine.write_plugin("ledger.wasm", bytes);
        // The load continues until the new version serves, and a little longer.
        let mut after = 0;
        let until = std::time::Instant::now() + DEADLINE;
        while after < 10 {
            engine.send("job.created", json!({ "job": job * 7 })).await;
            job += 1;
            after += usize::from(engine.get("/v1/plugins/ledger").await["version"] == version);
            assert!(std::time::Instant::now() < until, "version {version} does not serve");
        }
    }
    let sent = usize::try_from(job).unwrap();
    receiver.wait_for("every job arrives", DEADLINE, |all| all.len() >= sent).await;
    let mut versions = std::collections::BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let page = engine.get(&format!("/v1/events?type=job.created&limit=200{cursor}")).await;
        for item in page["items"].as_array().unwrap() {
            let story = engine.settled(item["event"].as_str().unwrap()).await;
            let runs = story["runs"].as_array().unwrap();
            assert_eq!(runs.len(), 1);
            assert_eq!(runs[0]["outcome"], "ok", "{:#}", runs[0]);
            versions.insert(runs[0]["version"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(versions.len(), 2, "both versions ran, and each run says which: {versions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_folder_removes_nothing_and_a_removed_plugin_stays_removed() {
    let mut engine = Engine::start(&["ledger"]);
    std::fs::remove_file(engine.plugin_folder().join("ledger.wasm")).unwrap();
    let said = "to stop it, run innesco plugin remove ledger";
    engine.until("the log says how to remove it", || engine.log().contains(said)).await;
    engine.kill();
    engine.launch();
    assert_eq!(engine.get("/v1/plugins/ledger").await["state"], "serving", "a restart serves what served");
    assert_eq!(engine.log().matches(said).count(), 1);

    let removed = engine.command().args(["plugin", "remove", "ledger", "--yes"]).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&removed.stdout), "removed ledger\n", "{}", String::from_utf8_lossy(&removed.stderr));
    assert_eq!(engine.get("/v1/plugins").await["items"], json!([]));
    engine.kill();
    engine.drop_in("ledger");
    engine.launch();
    assert_eq!(engine.get("/v1/plugins").await["items"], json!([]), "a known file that is found at start changes nothing");
    assert!(engine.log().contains("plugin file is not used"), "{}", engine.log());
    engine.drop_in("ledger");
    engine.wait("/v1/plugins/ledger", "the removed plugin serves again", |plugin| plugin["state"] == "serving").await;
    let trail = engine.get("/v1/audit?action=plugin.version").await;
    let version = innesco::domain::plugin::Digest::of(&crates::wasm("ledger")).to_string();
    let members: Vec<_> = trail["items"].as_array().unwrap().iter().map(|entry| entry["members"][0].clone()).collect();
    assert_eq!(members, [format!("none → {version}"), format!("none → {version}")]);
}

/// Sends a file to the engine and returns status and answer.
async fn push(engine: &Engine, path: &str, bytes: Vec<u8>) -> (u16, Value) {
    let response = engine.request("PUT", &format!("/v1/plugins/{path}")).body(bytes).send().await.expect("the engine answers");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

/// Returns a version of the plugin `router` that sends to the endpoint of this name.
fn router(guest: &str) -> Vec<u8> {
    guests::build(guest, "router", &["job.*"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_pushed_promoted_and_rolled_back() {
    let mut engine = Engine::start(&[]);
    let (first, second) = (router("no-op"), router("echo"));
    let [one, two] = [&first, &second].map(|bytes| innesco::domain::plugin::Digest::of(bytes).to_string());
    let (status, pushed) = push(&engine, "router?candidate=true", first.clone()).await;
    assert_eq!(
        (status, &pushed["state"], &pushed["by"], &pushed["way"]),
        (200, &json!("candidate"), &json!("admin"), &json!("upload"))
    );
    assert_eq!(engine.get("/v1/plugins").await["items"][0]["state"], "candidate");
    assert_eq!(engine.get("/v1/plugins/router").await["state"], "candidate");
    let event = engine.send("job.created", json!({})).await;
    engine
        .wait(&format!("/v1/events/{event}"), "the disabled plugin matches no event", |story| story["state"] == "unrouted")
        .await;
    let serving = engine.ok("POST", "/v1/plugins/router/promote", Value::Null).await;
    assert_eq!((&serving["version"], &serving["state"]), (&json!(one), &json!("serving")));
    assert_eq!(push(&engine, "router", second.clone()).await.1["state"], "serving");
    let event = engine.send("job.created", json!({})).await;
    assert_eq!(engine.settled(&event).await["runs"][0]["version"], two);

    let cli = |arguments: &[&str]| {
        let output = engine.command().args(["plugin"]).args(arguments).output().expect("it runs");
        let text = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr }).into_owned();
        (output.status.success(), text)
    };
    assert_eq!(cli(&["rollback", "router"]), (true, format!("rolled back to router@{}, serving\n", &one[..6])));
    let (_, listed) = cli(&["versions", "router"]);
    assert!(listed.contains(&one[..6]) && listed.contains("kept") && listed.contains("upload"), "{listed}");
    let (_, shown) = cli(&["show", "router"]);
    assert!(shown.starts_with(&format!("router@{}, serving", &one[..6])), "{shown}");
    let (worked, error) = cli(&["promote", "router"]);
    assert!(!worked && error.contains("plugin router has no candidate"), "{error}");
    let (worked, error) = cli(&["promote", "router", "zz"]);
    assert!(!worked && error.contains("no stored version that begins with \"zz\""), "{error}");
    std::fs::write(engine.data_folder().join("my_router.wasm"), &second).unwrap();
    let (worked, error) = cli(&["push", "data/my_router.wasm"]);
    assert!(!worked && error.contains("the file is plugin router, not my-router; push it under the name router"), "{error}");

    engine.kill();
    engine.launch();
    let event = engine.send("job.created", json!({})).await;
    assert_eq!(engine.settled(&event).await["runs"][0]["version"], one, "a restart serves what served");
    engine.ok("POST", "/v1/plugins/router/promote", json!({ "version": &two[..8] })).await;
    engine.ok("DELETE", "/v1/plugins/router", Value::Null).await;
    assert_eq!(engine.call("GET", "/v1/plugins/router", Value::Null).await.0, 404);
    engine.ok("POST", "/v1/plugins/router/rollback", Value::Null).await;
    assert_eq!(engine.get("/v1/plugins/router").await["version"], two, "a removed plugin comes back");

    let trail = engine.get("/v1/audit").await;
    let entries: Vec<(String, String)> = trail["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["status"] == 200 || entry["status"] == 204)
        .map(|entry| (entry["action"].as_str().unwrap().to_owned(), entry["members"][0].as_str().unwrap_or_default().to_owned()))
        .collect();
    let expected = [
        ("plugin.rollback", format!("none → {two}")),
        ("plugin.delete", format!("{two} → none")),
        ("plugin.promote", format!("{one} → {two}")),
        ("plugin.rollback", format!("{two} → {one}")),
        ("plugin.update", format!("{one} → {two}")),
        ("plugin.promote", format!("none → {one}")),
        ("plugin.update", format!("candidate {one}")),
    ];
    assert_eq!(entries, expected.map(|(action, member)| (action.to_owned(), member)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_candidate_frees_its_bytes_and_a_version_in_use_stays() {
    let mut engine = Engine::start(&[]);
    let files = ["no-op", "echo", "config"].map(router);
    let [before, serving, candidate] = [0, 1, 2].map(|one| innesco::domain::plugin::Digest::of(&files[one]).to_string());
    let [first, second, third] = files;
    assert_eq!(push(&engine, "router", first).await.0, 200);
    assert_eq!(push(&engine, "router", second).await.0, 200);
    assert_eq!(push(&engine, "router?candidate=true", third.clone()).await.0, 200);
    let stored = async |engine: &Engine| -> Vec<String> {
        let page = engine.get("/v1/plugins/router/versions").await;
        page["items"].as_array().unwrap().iter().map(|one| one["version"].as_str().unwrap().to_owned()).collect()
    };
    let stored_bytes = |engine: &Engine| {
        engine.number_in_store(
            "SELECT CAST(coalesce(sum(length(kept)), 0) + coalesce(sum(length(file)), 0) AS bigint) FROM plugin_version",
        )
    };
    assert_eq!(stored(&engine).await.len(), 3);
    let bytes = stored_bytes(&engine);
    let cli = |engine: &Engine, arguments: &[&str]| {
        let output = engine.command().args(["plugin", "discard"]).args(arguments).output().expect("it runs");
        let text = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr }).into_owned();
        (output.status.success(), text)
    };

    // A version that is needed is refused, and the error names the cure.
    for (version, reason) in
        [(&serving, "serves; roll back, promote another version, or remove the plugin first"), (&before, "served last")]
    {
        let (worked, error) = cli(&engine, &["router", &version[..8]]);
        assert!(!worked && error.contains(reason) && error.contains(&version[..6]), "{error}");
        let (status, problem) = engine.call("DELETE", &format!("/v1/plugins/router/versions/{version}"), Value::Null).await;
        assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{problem}");
    }
    let (worked, error) = cli(&engine, &["router", "zz"]);
    assert!(!worked && error.contains("innesco plugin versions router"), "{error}");
    assert_eq!((stored(&engine).await.len(), stored_bytes(&engine)), (3, bytes), "refusals change nothing");

    // Without a version, the command discards the newest candidate.
    assert_eq!(cli(&engine, &["router"]), (true, format!("discarded router@{}\n", &candidate[..6])));
    assert_eq!(stored_bytes(&engine), bytes - i64::try_from(third.len()).unwrap(), "exactly its bytes are freed");
    let (worked, error) = cli(&engine, &["router"]);
    assert!(!worked && error.contains("plugin router has no candidate"), "{error}");
    let (worked, error) = cli(&engine, &["router", &candidate]);
    assert!(!worked && error.contains("has no stored version"), "{error}");
    for (method, body) in [("promote", json!({ "version": candidate })), ("compare", json!({ "candidate": candidate }))] {
        let (status, problem) = engine.call("POST", &format!("/v1/plugins/router/{method}"), body).await;
        assert!(matches!(status, 404 | 422), "{method}: {status} {problem}");
    }
    engine.kill();
    engine.launch();
    let left = stored(&engine).await;
    assert!(left.len() == 2 && !left.contains(&candidate), "{left:?}");
    let event = engine.send("job.created", json!({})).await;
    assert_eq!(engine.settled(&event).await["runs"][0]["version"], serving);

    let trail = engine.get("/v1/audit?action=plugin.versions.delete").await;
    let done: Vec<_> = trail["items"].as_array().unwrap().iter().filter(|entry| entry["status"] == 204).collect();
    let [done] = done[..] else { panic!("not exactly one discarded version: {trail:#}") };
    assert_eq!((&done["key"], &done["members"]), (&json!("admin"), &json!([format!("discarded {candidate}")])), "{done:#}");
    assert_eq!(done["target"], format!("router/{candidate}"));
    let refused = trail["items"].as_array().unwrap().iter().filter(|entry| entry["status"] == 409).count();
    assert_eq!(refused, 4, "refused attempts are in the trail too: {trail:#}");
    // The same bytes can become a candidate again.
    assert_eq!(push(&engine, "router?candidate=true", third).await.1["state"], "candidate");
    assert_eq!(stored_bytes(&engine), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_refused_changes_nothing_and_says_why() {
    let engine = Engine::start_set(&[("INNESCO_LIMITS_PLUGIN_BYTES_MAX", "1MiB")]);
    for (path, bytes, status, text) in [
        ("router", b"hello".to_vec(), 422, "not WebAssembly"),
        ("router", Vec::new(), 422, "it is empty"),
        ("other", router("echo"), 422, "the file is plugin router, not other"),
        ("Not A Name", router("echo"), 422, "name"),
        ("router", vec![0; (1 << 20) + 1], 413, "1 MiB"),
    ] {
        let (answered, problem) = push(&engine, path, bytes).await;
        assert_eq!(answered, status, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(text), "{problem}");
    }
    assert_eq!(engine.get("/v1/plugins").await["items"], json!([]));
    for (method, path) in [("GET", "versions"), ("POST", "promote"), ("POST", "rollback")] {
        let (status, problem) = engine.call(method, &format!("/v1/plugins/router/{path}"), Value::Null).await;
        assert_eq!(status, 404, "{problem}");
    }
    assert_eq!(engine.call("DELETE", "/v1/plugins/router", Value::Null).await.0, 404);

    // A plugin in use stays, unless the removal is forced.
    push(&engine, "router", router("echo")).await;
    let endpoint = json!({ "name": "crm", "url": "http://127.0.0.1:9/", "events": ["a"], "plugin": "router" });
    engine.ok("POST", "/v1/endpoints", endpoint).await;
    let (status, problem) = engine.call("DELETE", "/v1/plugins/router", Value::Null).await;
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("0 runs wait for it and 1 endpoints name it"), "{problem}");
    engine.ok("DELETE", "/v1/plugins/router?force=true", Value::Null).await;
    let event = engine.send("a", json!({})).await;
    assert_eq!(engine.settled(&event).await["runs"][0]["outcome"], "not-loadable");
    engine.ok("POST", "/v1/plugins/router/rollback", Value::Null).await;
    engine
        .wait(&format!("/v1/events/{event}"), "its parked run ran", |story| story["runs"][0]["outcome"] != "not-loadable")
        .await;
}

/// The plugin of an endpoint processes its events before the receiver gets them.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoints_plugin_transforms_its_webhooks() {
    let engine = Engine::start(&["pii-redact"]);
    let receiver = Receiver::start().await;
    let endpoint = json!({ "name": "partner", "url": receiver.url("/"), "events": ["contact.*"], "plugin": "pii-redact" });
    engine.ok("POST", "/v1/endpoints", endpoint).await;
    let event = engine.send("contact.added", json!({ "email": "ann@example.com", "plan": "pro" })).await;
    let received = receiver.wait_for_count(1, DEADLINE).await;
    assert!(!received[0].text().contains("ann@example.com"), "{}", received[0].text());
    assert!(received[0].text().contains("pro"));
    let story = engine.settled(&event).await;
    assert_eq!(story["runs"][0]["endpoint"], "partner");
}

/// A replay uses the current plugins and new ids.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_runs_again_under_new_ids() {
    let engine = Engine::start(&["ledger"]);
    let receiver = Receiver::answering(|_| Answer::status(200)).await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    let event = engine.send("job.created", json!({ "job": 1 })).await;
    receiver.wait_for_count(1, DEADLINE).await;
    engine.settled(&event).await;
    let answer = engine.ok("POST", &format!("/v1/events/{event}/replay"), Value::Null).await;
    assert_eq!(answer["round"], 1);
    let received = receiver.wait_for_count(2, DEADLINE).await;
    assert_ne!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    let story = engine.settled(&event).await;
    let rounds: Vec<_> = story["runs"].as_array().unwrap().iter().map(|run| run["round"].as_u64().unwrap()).collect();
    assert_eq!(rounds, [0, 1]);
}

/// All hostile guests run at once, on the same events as a good plugin. Each run ends with its named outcome, and the good plugin
/// continues.
#[tokio::test(flavor = "multi_thread")]
async fn all_hostile_guests_together_hurt_only_themselves() {
    let engine = Engine::start(&["mischief"]);
    for (guest, _) in guests::HOSTILE {
        engine.write_plugin(&format!("{guest}.wasm"), &guests::build(guest, guest, &["mischief.*"]));
    }
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    engine
        .wait("/v1/plugins", "all files were checked", |list| {
            list["items"].as_array().unwrap().len() == guests::HOSTILE.len() + 1
        })
        .await;
    let event = engine.send("mischief.nothing", json!({})).await;
    receiver.wait_for_count(1, DEADLINE).await;
    let story = engine
        .wait(&format!("/v1/events/{event}"), "every guest has ended", |story| {
            story["runs"].as_array().unwrap().iter().all(|run| !run["outcome"].is_null())
        })
        .await;
    let runs = story["runs"].as_array().unwrap();
    for (guest, expected) in guests::HOSTILE {
        let run = runs.iter().find(|run| run["plugin"] == guest).unwrap_or_else(|| panic!("{guest} did not run: {story:#}"));
        assert_eq!(run["outcome"], expected, "{guest}: {run:#}");
    }
}

/// Returns the names of files that are not plugins, with the reason.
fn refused(list: &Value) -> std::collections::BTreeMap<String, String> {
    let items = list["items"].as_array().unwrap().iter();
    let reason = |item: &Value| Some((item["name"].as_str()?.to_owned(), item["error"].as_str()?.to_owned()));
    items.filter_map(reason).collect()
}

/// Broken files arrive, many at once and one by one, while events arrive. Each file is explained, and every event arrives.
/// `INNESCO_BROKEN_FILES` sets their number.
#[tokio::test(flavor = "multi_thread")]
async fn broken_files_lose_no_event() {
    let files: usize = std::env::var("INNESCO_BROKEN_FILES").map_or(200, |text| text.parse().expect("a number of files"));
    let engine = Engine::start(&["ledger"]);
    let pid = engine.pid();
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    let corpus = ["echo", "config", "state", "wasi-sleep", "trap"].map(guests::wasm).to_vec();
    let mut mutator = guests::mutate::Mutator::new(corpus, 1);
    let (began, mut sent) = (std::time::Instant::now(), 0);
    for batch in 0..10 {
        for file in 0..files / 10 {
            engine.write_plugin(&format!("broken-{batch}-{file}.wasm"), &mutator.file());
            if file % 10 == 0 {
                engine.send("job.created", json!({ "job": sent * 7 })).await;
                sent += 1;
            }
        }
    }
    // A few of these files are still plugins. The engine loads all files one after another, by name, so the test sends events
    // until it has loaded the last one.
    engine.write_plugin("last.wasm", &named("last"));
    let until = began + DEADLINE + std::time::Duration::from_millis(500) * files as u32;
    while engine.call("GET", "/v1/plugins/last", Value::Null).await.0 != 200 {
        assert!(
            std::time::Instant::now() < until,
            "not every file was checked; the log:
{}",
            engine.log()
        );
        engine.send("job.created", json!({ "job": sent * 7 })).await;
        sent += 1;
    }
    let jobs = |all: &[Received]| {
        all.iter().map(|one| serde_json::from_slice::<Value>(&one.body).expect("JSON")["job"].as_u64()).collect::<BTreeSet<_>>()
    };
    let all = receiver.wait_for("every job arrives", DEADLINE, |all| jobs(all).len() >= sent).await;
    assert_eq!(jobs(&all), (0..sent as u64).map(|number| Some(number * 7)).collect(), "no event is lost or invented");
    assert_eq!(engine.pid(), pid, "the engine was not restarted");
    let peak = engine.memory_peak_kib() >> 10;
    eprintln!("{files} files, {sent} events in {:?}; all {} arrived; most memory {peak} MiB", began.elapsed(), jobs(&all).len());
}

/// Returns a small file that makes the child fail: nested loops that share many variables. The compiler's memory grows with the
/// number of loops times the number of variables.
fn too_complex() -> Vec<u8> {
    const VARIABLES: usize = 2000;
    const LOOPS: usize = 400;
    let locals = "(local i32)".repeat(VARIABLES);
    let uses: String = (0..VARIABLES)
        .map(|n| format!("(local.set {n} (i32.add (local.get {n}) (local.get {})))", (n + 1) % VARIABLES))
        .collect();
    let ends = "(br_if 0 (local.get 0)) end ".repeat(LOOPS);
    wat::parse_str(format!("(component (core module (func {locals} {} {uses} {ends})))", "loop ".repeat(LOOPS))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_complex_is_refused_and_tried_again_only_on_request() {
    let mut engine = Engine::start(&["ledger"]);
    engine.write_plugin("heavy.wasm", &too_complex());
    let list = engine.wait("/v1/plugins", "the file was checked", |list| refused(list).contains_key("heavy")).await;
    let reason = refused(&list)["heavy"].clone();
    assert!(reason.starts_with("the file is damaged or too complex: loading it took more than "), "{reason}");

    let cache = engine.data_folder().join("cache");
    let record = || {
        let cache = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        let records: Vec<_> = cache.filter(|path| path.extension().is_some_and(|kind| kind == "too-complex")).collect();
        assert!(records.len() <= 1, "{records:?}");
        records.first().map(|record| std::fs::metadata(record).unwrap().modified().unwrap())
    };
    let first = record();
    assert!(first.is_some());
    engine.kill();
    engine.launch();
    let list = engine.get("/v1/plugins").await;
    assert_eq!(refused(&list)["heavy"], reason);
    assert_eq!(record(), first, "the start did not try it");

    // When the file is touched, it is tried again and recorded again.
    let file = std::fs::File::options().write(true).open(engine.plugin_folder().join("heavy.wasm")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    engine.until("the touched file is tried again", || record().is_some_and(|again| Some(again) != first)).await;
}

/// Waits until a plugin is served from this file.
async fn serves_from(engine: &Engine, plugin: &str, file: &str) {
    let is_so = |shown: &Value| shown["state"] == "serving" && shown["file"] == file && shown["error"].is_null();
    engine.wait(&format!("/v1/plugins/{plugin}"), &format!("it serves from {file}"), is_so).await;
}

fn named(plugin: &str) -> Vec<u8> {
    guests::build("no-op", plugin, &["hostile.*"])
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_files_with_one_plugin_the_one_written_last_serves() {
    let engine = Engine::start(&[]);
    let folder = engine.plugin_folder();
    engine.write_plugin("a.wasm", &named("twin"));
    serves_from(&engine, "twin", "a.wasm").await;
    engine.write_plugin("b.wasm", &guests::build("echo", "twin", &["hostile.*"]));
    serves_from(&engine, "twin", "b.wasm").await;
    assert!(engine.log().contains("two files have the same plugin"), "{}", engine.log());

    // a.wasm gets another plugin. Then b.wasm breaks and is removed: the plugin `twin` keeps serving.
    engine.write_plugin("a.wasm", &named("other"));
    serves_from(&engine, "other", "a.wasm").await;
    serves_from(&engine, "twin", "b.wasm").await;
    engine.write_plugin("b.wasm", b"broken");
    engine.wait("/v1/plugins/twin", "the reason is shown", |plugin| !plugin["error"].is_null()).await;
    std::fs::remove_file(folder.join("b.wasm")).unwrap();
    serves_from(&engine, "twin", "b.wasm").await;
    assert!(!engine.log().contains("plugin no longer serves"), "{}", engine.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_files_may_exchange_their_plugins() {
    let engine = Engine::start(&[]);
    let folder = engine.plugin_folder();
    engine.write_plugin("a.wasm", &named("one"));
    engine.write_plugin("b.wasm", &named("two"));
    serves_from(&engine, "one", "a.wasm").await;
    serves_from(&engine, "two", "b.wasm").await;
    std::fs::rename(folder.join("a.wasm"), folder.join("c")).unwrap();
    std::fs::rename(folder.join("b.wasm"), folder.join("a.wasm")).unwrap();
    std::fs::rename(folder.join("c"), folder.join("b.wasm")).unwrap();
    serves_from(&engine, "one", "b.wasm").await;
    serves_from(&engine, "two", "a.wasm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_file_keeps_serving() {
    let engine = Engine::start(&[]);
    let folder = engine.plugin_folder();
    engine.write_plugin("a.wasm", &named("one"));
    serves_from(&engine, "one", "a.wasm").await;
    std::fs::rename(folder.join("a.wasm"), folder.join("b.wasm")).unwrap();
    serves_from(&engine, "one", "b.wasm").await;
    // A second file is removed. If the engine wrongly reported a removal of a.wasm, it would do so before it reports this one.
    engine.write_plugin("last.wasm", &named("last"));
    serves_from(&engine, "last", "last.wasm").await;
    std::fs::remove_file(folder.join("last.wasm")).unwrap();
    let gone =
        || engine.log().lines().filter(|line| line.contains("its file was removed")).map(str::to_owned).collect::<Vec<_>>();
    engine.until("the log names the last one", || !gone().is_empty()).await;
    assert!(gone().len() == 1 && gone()[0].contains("last.wasm"), "{:?}", gone());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_same_length_and_time_is_another_version() {
    let engine = Engine::start(&[]);
    let (first, mut second) = (named("one"), named("one"));
    // In the second file, a word of the description is replaced by a word of the same length.
    let place = second.windows(5).position(|window| window == b"guest").unwrap();
    second[place..place + 5].copy_from_slice(b"ghost");
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    for bytes in [&first, &second] {
        let draft = engine.plugin_folder().join(".draft");
        std::fs::write(&draft, bytes).unwrap();
        std::fs::File::options().write(true).open(&draft).unwrap().set_modified(time).unwrap();
        std::fs::rename(&draft, engine.plugin_folder().join("one.wasm")).unwrap();
        let version = innesco::domain::plugin::Digest::of(bytes).to_string();
        engine
            .wait("/v1/plugins/one", "the plugin serves", |plugin| plugin["version"] == version && plugin["state"] == "serving")
            .await;
    }
}

/// The plugin folder has links as in Kubernetes mounts, and other kinds of files with the name of a plugin file.
#[tokio::test(flavor = "multi_thread")]
async fn follows_links_only_inside_the_folder_and_a_pipe_blocks_nothing() {
    use std::os::unix::fs::symlink;
    let engine = Engine::start(&[]);
    let folder = engine.plugin_folder();
    std::fs::write(folder.join("../outside.wasm"), named("outside")).unwrap();
    let pipe = folder.join("pipe.wasm");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    symlink("../outside.wasm", folder.join("link.wasm")).unwrap();
    symlink(engine.data_folder().join("cache/key"), folder.join("key.wasm")).unwrap();
    let list = engine.wait("/v1/plugins", "three are refused", |list| refused(list).len() == 3).await;
    let reasons = refused(&list);
    assert_eq!(reasons["pipe"], "it is a named pipe, not a file");
    for link in ["link", "key"] {
        assert_eq!(reasons[link], "it is a link that leaves the plugin folder; copy the file into the folder instead");
    }

    for (round, guest) in ["no-op", "echo"].into_iter().enumerate() {
        let bytes = guests::build(guest, "mounted", &["hostile.*"]);
        let version = format!("..v{round}");
        std::fs::create_dir(folder.join(&version)).unwrap();
        std::fs::write(folder.join(&version).join("mounted.wasm"), &bytes).unwrap();
        symlink(&version, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        if round == 0 {
            symlink("..data/mounted.wasm", folder.join("mounted.wasm")).unwrap();
        }
        let version = innesco::domain::plugin::Digest::of(&bytes).to_string();
        engine
            .wait("/v1/plugins/mounted", "the plugin serves", |plugin| {
                plugin["version"] == version && plugin["state"] == "serving"
            })
            .await;
    }
}

/// A file that could not be read serves once it can be read, although the file itself does not change.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_could_not_be_read_is_tried_again() {
    let engine = Engine::start(&[]);
    let folder = engine.plugin_folder();
    let inner = folder.join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::os::unix::fs::symlink("inner/one.wasm", folder.join("one.wasm")).unwrap();
    engine.wait("/v1/plugins", "the file cannot be read", |list| refused(list).contains_key("one")).await;
    // The watched folder itself shows no change.
    std::fs::write(inner.join("one.wasm"), named("one")).unwrap();
    serves_from(&engine, "one", "one.wasm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_checked_numbered_and_wait_for_their_plugin() {
    const CONFIG: &str = "/v1/plugins/order-router/config";
    let mut engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    for name in ["receiver", "milano"] {
        engine.endpoint(name, &receiver.url(&format!("/{name}")), &[]).await;
    }
    assert_eq!(engine.call("GET", CONFIG, Value::Null).await.0, 404);

    // Before the plugin exists, its settings are unknown.
    engine.ok("PUT", CONFIG, json!({ "threshold": 500, "treshold": "1" })).await;
    engine.drop_in("order-router");
    engine.wait("/v1/plugins/order-router", "the plugin serves", |plugin| plugin["state"] == "serving").await;
    let view = engine.get(CONFIG).await;
    assert_eq!((&view["revision"], &view["config"]["threshold"]), (&json!(1), &json!("500")));
    assert_eq!(view["problems"][0]["pointer"], "/treshold");
    let threshold = json!({
        "name": "threshold", "type": "number", "default": "1000", "required": false,
        "description": "An order over this total is big",
    });
    assert_eq!(view["settings"][0], threshold);
    engine.send("order.created", json!({ "id": 7, "total": 600 })).await;
    receiver
        .wait_for("the stored threshold applies", DEADLINE, |all| all.iter().any(|one| one.text().contains("over 500")))
        .await;

    // A value that the plugin cannot use is refused with its pointer, and changes nothing.
    for (body, pointer, text) in [
        (json!({ "threshold": "abc" }), "/threshold", "takes a number"),
        (json!({ "big-orders": 5 }), "/big-orders", "takes a text"),
        (json!({ "threshold": null }), "/threshold", "leave it out to unset it"),
        (json!({ "tres/hold": "5" }), "/tres~1hold", "the plugin declares no setting"),
    ] {
        let (status, problem) = engine.call("PUT", CONFIG, body).await;
        assert_eq!((status, &problem["pointer"]), (422, &json!(pointer)), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(text), "{problem}");
    }

    // The command changes some settings and keeps the others. The audit trail names the changed settings; the plugin's revisions
    // name the key.
    let command = |arguments: &[&str]| {
        let output = engine.command().args(["plugin", "config", "order-router"]).args(arguments).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, shown) = command(&["country.IT=milano", "--unset", "treshold"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.starts_with("threshold   500                 number"), "{shown}");
    assert!(shown.contains("big-orders  receiver (default)  text") && shown.contains("revision 2 by admin"), "{shown}");
    assert_eq!(command(&["threshold=much"]).0, Some(1));
    let trail = engine.get("/v1/audit?action=plugin.config.update").await;
    let entry = trail["items"].as_array().unwrap().iter().find(|entry| entry["status"] == 200).unwrap();
    assert_eq!((&entry["target"], &entry["members"]), (&json!("order-router"), &json!(["country.IT", "treshold"])));
    let revisions = engine.get(CONFIG).await["revisions"].clone();
    assert_eq!(revisions.as_array().unwrap().iter().map(|one| &one["by"]).collect::<Vec<_>>(), ["admin", "admin"]);

    engine.kill();
    engine.launch();
    engine.send("order.created", json!({ "id": 8, "total": 5, "country": "IT" })).await;
    receiver.wait_for("settings outlive a restart", DEADLINE, |all| all.iter().any(|one| one.path == "/milano")).await;
}

/// From a misspelt folder the engine would serve nothing, and every event would be unrouted.
#[test]
fn a_missing_plugin_folder_is_refused_at_start() {
    let home = tempfile::tempdir().unwrap();
    let mut serve = std::process::Command::new(env!("CARGO_BIN_EXE_innesco"));
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data", "data", "--plugins", "pluggins"]).current_dir(home.path());
    let output = serve.output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("plugin folder pluggins does not exist; create it, or choose another with --plugins"), "{error}");
    assert!(!home.path().join("pluggins").exists());
}

/// Sends jobs until `stopped`, and records those that the engine accepted. The engine's address changes with each start.
async fn send_jobs(
    url: Arc<Mutex<String>>,
    next: Arc<AtomicU64>,
    accepted: Arc<Mutex<BTreeSet<u64>>>,
    stopped: tokio::sync::watch::Receiver<bool>,
) {
    let client = client();
    while !*stopped.borrow() {
        // Multiples of 7 never fail: until a repair, the plugin fails jobs whose number modulo 7 is 3.
        let job = next.fetch_add(1, Ordering::Relaxed) * 7;
        let event = json!({ "type": "job.created", "id": format!("job-{job}"), "data": { "job": job } });
        let address = format!("{}/v1/events", url.lock().unwrap());
        let asked = client.post(address).bearer_auth(KEY).json(&event).timeout(Duration::from_secs(2));
        if asked.send().await.is_ok_and(|answer| answer.status() == 202) {
            accepted.lock().unwrap().insert(job);
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_change_under_load_and_kills_and_no_event_is_lost() {
    const ROUNDS: usize = 12;
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed} (set SEED to repeat the moments)");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    let first = crates::wasm("ledger");
    // The same plugin with another digit in its webhooks is another version.
    let mut second = first.clone();
    let mark = b"version 0";
    let places: Vec<usize> = first.windows(mark.len()).enumerate().filter(|(_, part)| part == mark).map(|(at, _)| at).collect();
    let [place] = places[..] else { panic!("the version is in the file once: {places:?}") };
    second[place + mark.len() - 1] = b'1';
    let versions = [&first, &second].map(|bytes| innesco::domain::plugin::Digest::of(bytes).to_string());
    assert_eq!(push(&engine, "ledger", first).await.0, 200);
    assert_eq!(push(&engine, "ledger?candidate=true", second).await.0, 200);

    let (url, accepted) = (Arc::new(Mutex::new(engine.url.clone())), Arc::<Mutex<BTreeSet<u64>>>::default());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let next = Arc::<AtomicU64>::default();
    let callers: Vec<_> = (0..3)
        .map(|_| tokio::spawn(send_jobs(Arc::clone(&url), Arc::clone(&next), Arc::clone(&accepted), stopped.clone())))
        .collect();
    engine.ok("POST", "/v1/plugins/ledger/promote", Value::Null).await;
    let (mut changes, mut kills) = (0, 0);
    for round in 0..ROUNDS {
        let before = accepted.lock().unwrap().len();
        let change = match round % 3 {
            0 => engine.request("POST", "/v1/plugins/ledger/promote").json(&json!({ "version": versions[round % 2] })),
            _ => engine.request("POST", "/v1/plugins/ledger/rollback"),
        };
        if round % 2 == 0 {
            // The engine is killed at some moment of the change, before or after its commit.
            let change = tokio::spawn(change.send());
            tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await;
            engine.kill();
            engine.launch();
            url.lock().unwrap().clone_from(&engine.url);
            changes += usize::from(change.await.unwrap().is_ok());
            kills += 1;
        } else {
            let answer = change.send().await.expect("the engine answers");
            assert_eq!(answer.status(), 200);
            changes += 1;
        }
        engine.until("events are accepted", || accepted.lock().unwrap().len() >= before + 10).await;
    }
    stop.send(true).unwrap();
    for caller in callers {
        caller.await.unwrap();
    }

    let accepted = accepted.lock().unwrap().clone();
    let arrived = |all: &[Received]| -> BTreeSet<u64> {
        all.iter().filter_map(|one| serde_json::from_slice::<Value>(&one.body).ok()?["job"].as_u64()).collect()
    };
    receiver.wait_for("every accepted job arrives", DEADLINE, |all| accepted.is_subset(&arrived(all))).await;
    let all = receiver.received();
    let sent: std::collections::BTreeMap<_, _> =
        all.iter().map(|one| (one.header("webhook-id").expect("an id"), one.header("x-version"))).collect();
    let (mut ran, mut cursor) = (std::collections::BTreeMap::<String, usize>::new(), String::new());
    loop {
        let page = engine.get(&format!("/v1/events?type=job.created&limit=200{cursor}")).await;
        for item in page["items"].as_array().unwrap() {
            let story = engine.settled(item["event"].as_str().unwrap()).await;
            let [run] = &story["runs"].as_array().unwrap()[..] else { panic!("not exactly one run: {story:#}") };
            assert_eq!(run["outcome"], "ok", "{run:#}");
            let delivery = story["deliveries"][0]["id"].as_str().expect("a webhook");
            let digit = versions
                .iter()
                .position(|version| run["version"] == *version.as_str())
                .expect("one of the two versions")
                .to_string();
            assert_eq!(sent[delivery], Some(digit.as_str()), "the effect is that of the version that the run names: {story:#}");
            *ran.entry(run["version"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    println!("{} accepted, {changes} changes, {kills} kills, runs by version: {ran:?}", accepted.len());
    assert!(ran.keys().all(|version| versions.contains(version)) && ran.len() == 2, "each run names its version: {ran:?}");
    let stored = engine.get("/v1/plugins/ledger/versions").await;
    let serving: Vec<_> = stored["items"].as_array().unwrap().iter().filter(|one| one["state"] == "serving").collect();
    assert_eq!(serving.len(), 1, "{stored:#}");
    assert_eq!(engine.get("/v1/plugins/ledger").await["version"], serving[0]["version"]);
    // Each stored job is counted once, whichever version ran it.
    engine.send("job.audit", json!({})).await;
    let audit = |all: &[Received]| all.iter().find_map(|one| serde_json::from_slice::<Value>(&one.body).ok()?["audit"].as_u64());
    let all = receiver.wait_for("the audit", DEADLINE, |all| audit(all).is_some()).await;
    assert_eq!(audit(&all), Some(ran.values().sum::<usize>() as u64), "state belongs to the plugin, across versions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_plugin_matches_nothing_and_its_runs_wait() {
    let engine = Engine::start(&["ledger"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    let bound = json!({ "name": "bound", "url": receiver.url("/bound"), "events": ["job.created"], "plugin": "ledger" });
    engine.ok("POST", "/v1/endpoints", bound).await;
    let disabled = engine.command().args(["plugin", "disable", "ledger"]).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&disabled.stdout), "disabled ledger\n");
    assert_eq!(engine.get("/v1/plugins/ledger").await["state"], "disabled");
    let event = engine.send("job.created", json!({ "job": 1 })).await;
    let waits = |story: &Value| story["parts"]["to_run"] == false && story["runs"][0]["state"] == "waiting";
    let story = engine.wait(&format!("/v1/events/{event}"), "its run waits", waits).await;
    assert_eq!(story["runs"].as_array().unwrap().len(), 1, "only the run of the endpoint that names it: {story:#}");
    let (status, problem) = engine.call("DELETE", "/v1/plugins/ledger", Value::Null).await;
    assert_eq!(status, 409);
    assert!(problem["detail"].as_str().unwrap().contains("1 runs wait for it and 1 endpoints name it"), "{problem}");

    engine.ok("POST", "/v1/plugins/ledger/enable", Value::Null).await;
    engine.wait(&format!("/v1/events/{event}"), "its run continues", |story| !story["runs"][0]["outcome"].is_null()).await;
    engine.send("job.created", json!({ "job": 2 })).await;
    receiver.wait_for("the enabled plugin runs again", DEADLINE, |all| all.iter().any(|one| one.text() == r#"{"job":2}"#)).await;
}

/// How a held plugin is released.
#[derive(Clone, Copy)]
enum Release {
    Enable,
    Promote,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_keeps_failing_is_held_and_its_events_wait() {
    hold_and_release(Release::Enable).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_version_releases_the_events_of_a_held_one() {
    hold_and_release(Release::Promote).await;
}

/// A version that keeps failing is held. Its events wait, and none is lost. `INNESCO_HELD_EVENTS` sets the number of events.
async fn hold_and_release(release: Release) {
    let held: usize = std::env::var("INNESCO_HELD_EVENTS").map_or(300, |text| text.parse().expect("a number of events"));
    let mut engine = Engine::start(&["mischief", "ledger"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    engine.endpoint("ops", &receiver.url("/ops"), &["innesco.plugin.quarantined"]).await;
    engine.endpoint("direct", &receiver.url("/direct"), &["mischief.nothing"]).await;
    for _ in 0..11 {
        let event = engine.send("mischief.panic", json!({})).await;
        engine.settled(&event).await;
    }
    engine.wait("/v1/plugins/mischief", "the plugin is held", |plugin| plugin["state"] == "held").await;
    let notices = receiver.wait_for("the report", DEADLINE, |all| all.iter().any(|one| one.path == "/ops")).await;
    let data = |one: &Received| serde_json::from_slice::<Value>(&one.body).expect("JSON")["data"].clone();
    let notice = data(notices.iter().find(|one| one.path == "/ops").unwrap());
    assert_eq!((&notice["plugin"], &notice["last_outcome"]), (&json!("mischief"), &json!("trapped")));

    let one = |number: usize| json!({ "type": "mischief.nothing", "data": {}, "subject": number.to_string() });
    for start in (0..held).step_by(500) {
        engine.ok("POST", "/v1/events", (start..held.min(start + 500)).map(one).collect()).await;
    }
    // An endpoint that subscribes to the same events gets them meanwhile.
    let direct = |all: &[Received]| all.iter().filter(|one| one.path == "/direct").count();
    receiver.wait_for("the same events at another endpoint", DEADLINE * 4, |all| direct(all) == held).await;
    // Other plugins continue, also after a restart.
    engine.send("job.created", json!({ "job": 1 })).await;
    engine.all_run().await;
    assert!(engine.stop());
    engine.launch();
    assert_eq!(engine.get("/v1/plugins/mischief").await["state"], "held");
    engine.send("job.created", json!({ "job": 2 })).await;
    let sent = |all: &[Received], text: &str| all.iter().filter(|one| one.text() == text).count();
    let all = receiver
        .wait_for("the other plugin's webhooks", DEADLINE, |all| sent(all, r#"{"job":1}"#) == 1 && sent(all, r#"{"job":2}"#) == 1)
        .await;
    assert_eq!(all.iter().filter(|one| one.path == "/").count(), 2, "nothing of the held plugin was sent");

    match release {
        Release::Enable => {
            let enabled = engine.command().args(["plugin", "enable", "mischief"]).output().expect("it runs");
            assert_eq!(String::from_utf8_lossy(&enabled.stdout), "enabled mischief\n");
        }
        Release::Promote => {
            let repaired = [&crates::wasm("mischief")[..], &[0, 3, 1, b'v', 2]].concat();
            assert_eq!(push(&engine, "mischief?candidate=true", repaired).await.0, 200);
            engine.ok("POST", "/v1/plugins/mischief/promote", Value::Null).await;
        }
    }
    receiver.wait_for("every held event", DEADLINE * 4, |all| all.iter().filter(|one| one.path == "/").count() == held + 2).await;
    engine.all_run().await;
    let all = receiver.received();
    let ids: BTreeSet<_> = all.iter().map(|one| one.header("webhook-id").unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2 * held + 3, "every event was sent once to each of its endpoints");
    // The runs were executed nearly in the order of their events: at first two threads ran the events, and a run whose state has
    // changed meanwhile is repeated. `x-place` is the number of runs before a run.
    let (mut places, mut late) = (Vec::<usize>::new(), 0);
    for one in all.iter().filter(|one| one.path == "/" && one.header("x-place").is_some()) {
        let place: usize = one.header("x-place").unwrap().parse().expect("a number");
        let subject: usize = one.header("x-subject").unwrap().parse().expect("a number");
        late += usize::from(place.abs_diff(subject) > 64.max(held / 10));
        places.push(place);
    }
    places.sort_unstable();
    assert_eq!(places, (0..held).collect::<Vec<_>>(), "each held event ran once");
    assert!(late <= held / 50, "oldest first: {late} of {held} were out of order");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_with_a_time_to_live_and_facts_in_the_log_work_beside_a_plugin_of_the_first_contract() {
    let engine = Engine::start(&["mischief"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    // This plugin is built with the first contract.
    engine.write_plugin("state.wasm", &guests::build("state", "first", &["mischief.once"]));
    engine.wait("/v1/plugins", "both serve", |page| page["items"].as_array().unwrap().len() == 2).await;
    let once = |subject: &'static str| engine.ok("POST", "/v1/events", json!({ "type": "mischief.once", "subject": subject }));
    let mut stories = Vec::new();
    for subject in ["anna", "anna", "ben"] {
        let event = once(subject).await["event"].as_str().unwrap().to_owned();
        stories.push(engine.settled(&event).await);
    }
    let run_of = |story: &Value, plugin: &str| {
        story["runs"].as_array().unwrap().iter().find(|run| run["plugin"] == plugin).expect("it ran").clone()
    };
    let runs: Vec<Value> = stories.iter().map(|story| run_of(story, "mischief")).collect();
    let webhooks: Vec<&Value> = runs.iter().map(|run| &run["webhooks"]).collect();
    assert_eq!(webhooks, [&json!(1), &json!(0), &json!(1)], "{runs:#?}");
    assert_eq!(runs[1]["log"][0]["message"], "not the first one");
    assert_eq!(runs[1]["log"][0]["fields"], json!({ "seen": "anna" }));
    // The plugin of the first contract sends what it reads: nothing, then what it has set.
    assert!(stories.iter().all(|story| run_of(story, "first")["outcome"] == "ok"), "{stories:#?}");
    receiver.wait_for_count(5, DEADLINE).await;

    let keys = engine.get("/v1/plugins/mischief/state/keys").await;
    assert_eq!(keys["items"].as_array().unwrap().iter().filter(|key| key["expires_at"].is_string()).count(), 2, "{keys:#}");
    // The record has the time at which the run began, so that the run can be repeated after the value has expired.
    let record = engine.get(&format!("/v1/runs/{}/record", runs[0]["id"].as_str().unwrap())).await;
    assert!(record["at"].is_string() && record["state"][0]["value_base64"].is_null(), "{record:#}");

    // The next run does not find an expired value, even before the engine deletes it. Then the engine deletes it.
    engine.execute_in_store(
        "UPDATE state SET expires_at = 5 WHERE plugin = 'mischief'",
        "UPDATE state SET expires_at = 5 WHERE plugin = 'mischief'",
    );
    let event = once("anna").await["event"].as_str().unwrap().to_owned();
    assert_eq!(run_of(&engine.settled(&event).await, "mischief")["webhooks"], 1, "it is the first one again");
    engine
        .wait("/v1/plugins/mischief/state/keys", "ben's value is deleted", |page| page["items"].as_array().unwrap().len() == 1)
        .await;
}
