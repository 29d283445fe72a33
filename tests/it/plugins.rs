//! Plugins in the real engine: what they can do, what they cannot, and what happens when their file changes.

use serde_json::{Value, json};

use crate::{
    crates,
    engine::{DEADLINE, Engine, store_is_a_file},
    guests,
    receivers::{Answer, Receiver},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_decides_what_is_sent_and_what_follows() {
    let engine = Engine::start(&["ledger"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/plugin"), &[]).await;
    engine.endpoint("done", &receiver.url("/done"), &["job.done"]).await;
    let event = engine.send("job.created", json!({ "job": 1 })).await;
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

    engine.send("job.audit", json!({})).await;
    receiver.wait_for("the audit", DEADLINE, |all| all.iter().any(|one| one.text() == r#"{"audit":1}"#)).await;
}

/// Has a plugin name an endpoint while it is being made: whichever comes first, what the plugin made is sent. Who makes it and who runs
/// the plugin may be two nodes.
pub async fn name_an_endpoint_in_the_making(maker: &Engine, runner: &Engine) {
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
        maker.ok("DELETE", "/v1/endpoints/receiver", Value::Null).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_may_name_an_endpoint_that_is_just_being_made() {
    let engine = Engine::start(&["mischief"]);
    name_an_endpoint_in_the_making(&engine, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_misbehave_ends_in_its_own_word() {
    let engine = Engine::start(&["mischief", "ledger"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    for (deed, outcome, message) in [
        ("loop", "deadline", "longer than its deadline of 1 s"),
        ("memory", "out-of-memory", "its limit is 64 MiB"),
        ("recursion", "trapped", "its own stack is full"),
        ("panic", "trapped", "unlucky 13"),
        ("output", "bad-output", "4"),
        ("webhooks", "bad-output", "10000 webhooks; the limit is 1000"),
        ("header", "bad-output", "sets the header webhook-id, which is the engine's own"),
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
        assert_eq!(story["state"], "failed");
    }
    let flood = engine.send("mischief.log", json!({})).await;
    let run = engine.settled(&flood).await["runs"][0].clone();
    assert_eq!((&run["outcome"], run["log"].as_array().unwrap().len(), &run["log_dropped"]), (&json!("ok"), 100, &json!(99_900)));

    // A chain that never ends, ends.
    engine.send("mischief.again", json!({})).await;
    let list = engine
        .wait("/v1/events?type=mischief.again&state=failed", "the chain ends", |page| {
            !page["items"].as_array().unwrap().is_empty()
        })
        .await;
    assert_eq!(list["items"][0]["depth"], 8);

    // And all the while the others go on.
    engine.send("job.created", json!({ "job": 1 })).await;
    engine.send("mischief.nothing", json!({})).await;
    receiver.wait_for_count(2, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_missed_its_endpoint_goes_on_once_it_is_there() {
    let engine = Engine::start(&["mischief"]);
    let receiver = Receiver::start().await;
    let event = engine.send("mischief.typo", json!({})).await;
    engine.settled(&event).await;
    engine.endpoint("reciever", &receiver.url("/"), &[]).await;
    receiver.wait_for_count(1, DEADLINE).await;
    engine.wait(&format!("/v1/events/{event}"), "it is done", |story| story["state"] == "done").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_plugins_are_explained_and_harm_nobody() {
    let engine = Engine::start(&["ledger"]);
    let good = crates::wasm("mischief");
    engine.write_plugin("text.wasm", b"hello");
    engine.write_plugin("half.wasm", &good[..good.len() / 2]);
    engine.write_plugin("bare.wasm", &wat::parse_str("(module)").unwrap());
    engine.write_plugin("empty.wasm", b"");
    let list = engine.wait("/v1/plugins", "all are judged", |list| list["items"].as_array().unwrap().len() == 5).await;
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
    engine.wait("/v1/plugins/mischief", "it serves", |plugin| plugin["state"] == "serving").await;
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
    if !store_is_a_file() {
        // Where nodes share their plugins, what served serves on.
        engine.send("job.created", json!({ "job": 2 })).await;
        receiver.wait_for_count(2, DEADLINE).await;
        return;
    }
    // After a restart there is no old version: the plugin still matches, its runs wait for a file that loads.
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
    // The same code in a file of other bytes: another version.
    let mut second = first.clone();
    second.extend_from_slice(&[0, 3, 1, b'v', 2]);
    let mut job = 0;
    for round in 0..8 {
        let bytes = if round % 2 == 0 { &second } else { &first };
        let version = innesco::domain::plugin::Digest::of(bytes).to_string();
        engine.write_plugin("ledger.wasm", bytes);
        // The load goes on until the new version serves, and a little longer.
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
async fn a_removed_file_serves_no_more_and_a_quick_return_is_a_replacement() {
    let engine = Engine::start(&["ledger"]);
    std::fs::remove_file(engine.plugin_folder().join("ledger.wasm")).unwrap();
    engine.wait("/v1/plugins", "it is gone", |list| list["items"] == json!([])).await;
    engine.drop_in("ledger");
    engine.wait("/v1/plugins/ledger", "it is back", |plugin| plugin["state"] == "serving").await;
}

/// A plugin that belongs to an endpoint stands between its events and the receiver.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoints_own_plugin_changes_what_it_gets() {
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

/// Replay goes through today's plugins, under new ids.
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

/// Every hostile guest at once, on the same events as a good plugin: each run ends in its own word, and the good one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn all_hostile_guests_together_hurt_only_themselves() {
    let engine = Engine::start(&["mischief"]);
    for (guest, _) in guests::HOSTILE {
        engine.write_plugin(&format!("{guest}.wasm"), &guests::build(guest, guest, &["mischief.*"]));
    }
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    engine
        .wait("/v1/plugins", "all are judged", |list| list["items"].as_array().unwrap().len() == guests::HOSTILE.len() + 1)
        .await;
    let event = engine.send("mischief.nothing", json!({})).await;
    receiver.wait_for_count(1, DEADLINE).await;
    let story = engine
        .wait(&format!("/v1/events/{event}"), "every guest has come to its end", |story| {
            story["runs"].as_array().unwrap().iter().all(|run| !run["outcome"].is_null())
        })
        .await;
    let runs = story["runs"].as_array().unwrap();
    for (guest, expected) in guests::HOSTILE {
        let run = runs.iter().find(|run| run["plugin"] == guest).unwrap_or_else(|| panic!("{guest} did not run: {story:#}"));
        assert_eq!(run["outcome"], expected, "{guest}: {run:#}");
    }
}
