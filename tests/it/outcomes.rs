//! Outcomes of runs are limited in memory and in the store, and are shown in parts. A run that the store refuses delays no other
//! run.

use std::time::Instant;

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine, store_is_a_file},
    guests,
    receivers::Receiver,
    syscalls::Tampered,
};

/// Additional memory allowed, in KiB: the budget of outcomes, a batch and its copies, and the store's caches.
const GROWTH_MAX: u64 = 150 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_wait_for_a_slow_store_take_bounded_memory() {
    if !store_is_a_file() {
        // The test slows down the syncs of the engine. With Postgres, the database server syncs instead.
        return;
    }
    const EVENTS: usize = 300;
    const PLUGINS: usize = 4;
    let engine = Engine::start(&[]);
    // There are several plugins, because a plugin that is not fast on this machine has few runs in memory.
    for number in 0..PLUGINS {
        let name = format!("large-{number}");
        engine.write_plugin(&format!("{name}.wasm"), &guests::build("large", &name, &["a.*"]));
    }
    for number in 0..PLUGINS {
        let path = format!("/v1/plugins/large-{number}");
        engine.wait(&path, "the plugin serves", |plugin| plugin["state"] == "serving").await;
    }
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    engine.ok("POST", "/v1/endpoints/receiver/pause", Value::Null).await;
    // After these events the plugins have proved fast, and the store has filled its caches.
    for _ in 0..20 {
        let event = engine.send("a.b", json!({})).await;
        engine.settled(&event).await;
    }
    let before = engine.memory_kib();
    let slow = Tampered::with(&engine, "fsync,fdatasync", "delay_enter=100000");
    engine.ok("POST", "/v1/events", json!(vec![json!({ "type": "a.b" }); EVENTS])).await;
    let created = format!("innesco_deliveries_created_total {}", (EVENTS + 20) * PLUGINS);
    // On a busy machine the plugins count as slow, and each of their batches waits for the slow store.
    let (until, mut peak) = (Instant::now() + 3 * DEADLINE, before);
    loop {
        peak = peak.max(engine.memory_kib());
        let figures = engine.request("GET", "/metrics").send().await.expect("figures").text().await.expect("text");
        if figures.contains(&created) {
            break;
        }
        assert!(Instant::now() < until, "not all have run:\n{figures}");
    }
    slow.end();
    let growth = peak.saturating_sub(before);
    eprintln!("{} webhooks of 250 kB: memory grew from {before} KiB by {growth} KiB", EVENTS * PLUGINS);
    assert!(growth < GROWTH_MAX, "{growth} KiB more than the {before} KiB before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_the_store_refuses_is_parked_and_others_continue() {
    let engine = Engine::start(&["mischief", "ledger"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    engine.endpoint("direct", &receiver.url("/direct"), &["mischief.poison"]).await;
    engine.execute_in_store(
        "CREATE TRIGGER poison BEFORE INSERT ON payload WHEN new.content_type = 'text/poison'
         BEGIN SELECT raise(ABORT, 'this is poison'); END",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'this is poison'; END $$;
         CREATE TRIGGER poison BEFORE INSERT ON payload FOR EACH ROW WHEN (new.content_type = 'text/poison')
         EXECUTE FUNCTION refuse()",
    );
    let events: Vec<_> =
        (0..60).map(|number| json!({ "type": if number == 30 { "mischief.poison" } else { "mischief.good" } })).collect();
    let answer = engine.ok("POST", "/v1/events", json!(events)).await;
    let poisoned = answer["items"][30]["event"].as_str().expect("an event id").to_owned();
    let story =
        engine.wait(&format!("/v1/events/{poisoned}"), "its run is parked", |story| story["runs"][0]["state"] == "parked").await;
    let run = &story["runs"][0];
    assert_eq!((&run["outcome"], &run["code"], &run["webhooks"]), (&json!("bad-output"), &json!("not_stored"), &json!(0)));
    assert!(run["message"].as_str().is_some_and(|message| message.contains("this is poison")), "{run:#}");
    let received = receiver.wait_for_count(60, DEADLINE).await;
    assert_eq!(received.iter().filter(|one| one.path == "/direct").count(), 1, "the event's own subscriber has it");
    assert_eq!(engine.get("/readyz").await["ready"], true, "the store works");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_with_too_much_state_is_stopped_and_can_recover() {
    let set = [("INNESCO_PLUGIN_STATE_KEYS_MAX", "3")];
    let engine = Engine::start_in(&["mischief"], &["--allow-net", "127.0.0.0/8"], &set);
    let hoard = async || {
        let event = engine.send("mischief.hoard", json!({})).await;
        engine.settled(&event).await["runs"][0].clone()
    };
    for _ in 0..3 {
        assert_eq!(hoard().await["outcome"], "ok");
    }
    let run = hoard().await;
    assert_eq!((&run["state"], &run["outcome"], &run["code"]), (&json!("parked"), &json!("bad-output"), &json!("state_limit")));
    let message = run["message"].as_str().expect("a message");
    for part in ["plugin mischief", "more than 3 keys of state (plugin.state_keys_max)", "innesco plugin state mischief --clear"]
    {
        assert!(message.contains(part), "{message}");
    }
    let size = engine.get("/v1/plugins/mischief/state").await;
    assert_eq!((&size["keys"], &size["keys_max"], &size["bytes_max"]), (&json!(3), &json!(3), &json!(64 << 20)));

    let listed = engine.command().args(["plugin", "state"]).output().expect("the command runs");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("mischief"), "{listed:?}");
    let cleared = engine.command().args(["plugin", "state", "mischief", "--clear", "--yes"]).output().expect("the command runs");
    assert!(String::from_utf8_lossy(&cleared.stdout).contains("3 keys"), "{cleared:?}");
    assert_eq!(engine.get("/v1/plugins/mischief/state").await["keys"], 0);
    assert_eq!(hoard().await["outcome"], "ok");
    let audit = engine.get("/v1/audit?action=plugin.state.delete").await;
    assert_eq!((&audit["items"][0]["target"], &audit["items"][0]["status"]), (&json!("mischief"), &json!(200)));
    assert_eq!(engine.call("DELETE", "/v1/plugins/no-such/state", Value::Null).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_values_of_a_plugin_are_listed_shown_and_deleted() {
    let engine = Engine::start(&["bounce-guard"]);
    for email in ["anna@example.com", "anna@example.com", "bea@example.com", "carla@example.com"] {
        let event = engine.send("mail.bounced", json!({ "email": email })).await;
        engine.settled(&event).await;
    }
    let path = "/v1/plugins/bounce-guard/state";
    let page = engine.get(&format!("{path}/keys?limit=2")).await;
    let keys = |page: &Value| page["items"].as_array().unwrap().iter().map(|item| item["key"].clone()).collect::<Vec<_>>();
    assert_eq!(keys(&page), ["bounces/anna@example.com", "bounces/bea@example.com"]);
    let rest = engine.get(&format!("{path}/keys?cursor={}", page["next"].as_str().unwrap())).await;
    assert_eq!((keys(&rest), &rest["next"]), (vec![json!("bounces/carla@example.com")], &Value::Null));
    let value = engine.get(&format!("{path}/value?key=bounces/anna@example.com")).await;
    assert_eq!((&value["value"], &value["is_json"], &value["bytes"]), (&json!(2), &json!(true), &json!(1)));

    let cli = |arguments: &[&str]| {
        let output =
            engine.command().args(["plugin", "state", "bounce-guard"]).args(arguments).output().expect("the command runs");
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).expect("text"))
    };
    assert_eq!(cli(&["--prefix", "bounces/b"]), (true, "bounces/bea@example.com\t1 bytes\t-\n".into()));
    assert_eq!(cli(&["bounces/bea@example.com"]), (true, "1\n".into()));
    let (done, said) = cli(&["bounces/bea@example.com", "--delete"]);
    assert!(!done && said.contains("add --yes"), "{said}");
    let (done, said) = cli(&["bounces/bea@example.com", "--delete", "--yes"]);
    assert!(done && said.contains("deleted"), "{said}");
    let (done, said) = cli(&["bounces/bea@example.com"]);
    assert!(!done && said.contains("stores no value under the key"), "{said}");
    assert_eq!(engine.get(path).await["keys"], 2);
    let trail = engine.get("/v1/audit?action=plugin.state.value.delete").await;
    assert_eq!((&trail["items"][0]["target"], &trail["items"][0]["status"]), (&json!("bounce-guard"), &json!(200)));
    assert!(!trail.to_string().contains("bea@"), "a key may be personal data");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_keeps_too_many_bytes_is_stopped() {
    // Each run stores the event's id and eight bytes in its state.
    let engine = Engine::start_in(&["mischief"], &["--allow-net", "127.0.0.0/8"], &[("INNESCO_PLUGIN_STATE_MAX", "40")]);
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        let event = engine.send("mischief.hoard", json!({})).await;
        outcomes.push(engine.settled(&event).await["runs"][0].clone());
    }
    let ok = outcomes.iter().take_while(|run| run["outcome"] == "ok").count();
    let refused = &outcomes[ok..];
    assert!(ok > 0 && !refused.is_empty(), "{outcomes:?}");
    for run in refused {
        assert_eq!((&run["state"], &run["code"]), (&json!("parked"), &json!("state_limit")), "{run}");
        assert!(run["message"].as_str().expect("a message").contains("(plugin.state_max)"), "{run}");
    }
    let size = engine.get("/v1/plugins/mischief/state").await;
    assert_eq!((size["keys"].as_u64(), &size["bytes_max"]), (Some(ok as u64), &json!(40)));
    assert!(size["bytes"].as_u64().expect("a size") <= 40, "{size}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_is_paged_and_the_command_line_shows_all_of_it() {
    let engine = Engine::start(&["mischief"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    let event = engine.send("mischief.several", json!({ "a": 1 })).await;
    engine.settled(&event).await;
    let (mut ids, mut cursor, mut parts) = (std::collections::BTreeSet::new(), String::new(), 0);
    loop {
        let part = engine.get(&format!("/v1/events/{event}{cursor}")).await;
        assert_eq!(part["data"].is_null(), parts > 0, "the data comes once");
        let deliveries = part["deliveries"].as_array().expect("deliveries");
        assert!(deliveries.len() <= 100);
        ids.extend(deliveries.iter().map(|one| one["id"].as_str().expect("an id").to_owned()));
        parts += 1;
        match part["next"].as_str() {
            Some(next) => cursor = format!("?cursor={next}"),
            None => break,
        }
    }
    assert_eq!((parts, ids.len()), (3, 250));
    let shown = engine.command().args(["event", "show", &event, "--json"]).output().expect("the command runs");
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!((shown["deliveries"].as_array().map(Vec::len), &shown["data"]), (Some(250), &json!({ "a": 1 })));
    let (status, problem) = engine.call("GET", &format!("/v1/events/{event}?cursor=1.99999.0"), Value::Null).await;
    assert_eq!((status, &problem["code"]), (400, &json!("bad_request")));
}
