//! Plugins in the real engine: their abilities and limits, and changes of their files.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    crates,
    engine::{DEADLINE, Engine, store_is_a_file},
    guests,
    receivers::{Answer, Received, Receiver},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_sends_webhooks_and_emits_events() {
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

/// A plugin names an endpoint that is just being created: in either order, the plugin's webhooks are sent. `maker` creates it and
/// `runner` runs the plugin; they may be two nodes. `execute_in_store` executes a statement in their store.
pub async fn name_an_endpoint_in_the_making(maker: &Engine, runner: &Engine, execute_in_store: impl Fn(&str)) {
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
        // As if it had never existed: a webhook to a deleted endpoint is cancelled. A change makes every node read the endpoints again.
        execute_in_store("DELETE FROM endpoint WHERE deleted_at IS NOT NULL");
        maker.endpoint(&format!("other-{round}"), &url, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_may_name_an_endpoint_that_is_being_created() {
    let engine = Engine::start(&["mischief"]);
    name_an_endpoint_in_the_making(&engine, &engine, |sql| engine.execute_in_store(sql, sql)).await;
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
        assert_eq!(story["state"], "failed");
    }
    let flood = engine.send("mischief.log", json!({})).await;
    let run = engine.settled(&flood).await["runs"][0].clone();
    assert_eq!((&run["outcome"], run["log"].as_array().unwrap().len(), &run["log_dropped"]), (&json!("ok"), 100, &json!(99_900)));

    // An endless chain ends.
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
        // With shared plugins the serving version keeps serving.
        engine.send("job.created", json!({ "job": 2 })).await;
        receiver.wait_for_count(2, DEADLINE).await;
        return;
    }
    // After a restart there is no old version: the plugin still matches, and its runs wait for a file that loads.
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
    // The same code in a file with other bytes: another version.
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
async fn a_removed_file_stops_serving_and_a_quick_return_is_a_replacement() {
    let engine = Engine::start(&["ledger"]);
    std::fs::remove_file(engine.plugin_folder().join("ledger.wasm")).unwrap();
    engine.wait("/v1/plugins", "the plugin no longer serves", |list| list["items"] == json!([])).await;
    engine.drop_in("ledger");
    engine.wait("/v1/plugins/ledger", "the plugin serves again", |plugin| plugin["state"] == "serving").await;
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

/// All hostile guests at once, on the same events as a good plugin: each run ends with its named outcome, and the good plugin
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

/// Broken files arrive, many and single, while events arrive. Each file is explained, and every event arrives.
/// `INNESCO_BROKEN_FILES` sets their number.
#[tokio::test(flavor = "multi_thread")]
async fn broken_files_cost_no_event() {
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
    // A few of them are still plugins. All are loaded one after another, so there is time for as many events again.
    let until = began + DEADLINE + std::time::Duration::from_millis(500) * files as u32;
    while engine.get("/v1/plugins").await["items"].as_array().unwrap().len() <= files / 10 * 10 {
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
    assert_eq!(engine.pid(), pid, "it is the same process");
    let peak = engine.memory_peak_kib() >> 10;
    eprintln!("{files} files, {sent} events in {:?}; all {} arrived; most memory {peak} MiB", began.elapsed(), jobs(&all).len());
}

/// A small file that makes the child fail: nested loops with the same variables, so that the compiler's memory grows with the
/// product of both.
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

    // When touched, it is tried again and recorded again.
    let file = std::fs::File::options().write(true).open(engine.plugin_folder().join("heavy.wasm")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    engine.until("it is tried again", || record().is_some_and(|again| Some(again) != first)).await;
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
async fn of_two_files_with_one_plugin_the_other_takes_over() {
    let engine = Engine::start(&[]);
    let folder = engine.plugin_folder();
    engine.write_plugin("a.wasm", &named("twin"));
    serves_from(&engine, "twin", "a.wasm").await;
    engine.write_plugin("b.wasm", &guests::build("echo", "twin", &["hostile.*"]));
    let list = engine.wait("/v1/plugins", "the second is refused", |list| refused(list).contains_key("b")).await;
    assert_eq!(refused(&list)["b"], "plugin twin is already provided by a.wasm; remove one of the two files");

    // The first is removed, …
    std::fs::remove_file(folder.join("a.wasm")).unwrap();
    serves_from(&engine, "twin", "b.wasm").await;
    assert!(!engine.log().contains("plugin no longer serves"), "{}", engine.log());
    // … broken, …
    engine.write_plugin("a.wasm", &named("twin"));
    engine.wait("/v1/plugins", "the first is second now", |list| refused(list).contains_key("a")).await;
    engine.write_plugin("b.wasm", b"broken");
    serves_from(&engine, "twin", "a.wasm").await;
    // … or another plugin.
    engine.write_plugin("b.wasm", &named("twin"));
    engine
        .wait("/v1/plugins", "the second is back", |list| refused(list).get("b").is_some_and(|reason| reason.contains("already")))
        .await;
    engine.write_plugin("a.wasm", &named("other"));
    serves_from(&engine, "twin", "b.wasm").await;
    serves_from(&engine, "other", "a.wasm").await;
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
    // Another file is removed after the first one would have been.
    engine.write_plugin("last.wasm", &named("last"));
    serves_from(&engine, "last", "last.wasm").await;
    std::fs::remove_file(folder.join("last.wasm")).unwrap();
    engine.wait("/v1/plugins", "the last is gone", |list| list["items"].as_array().unwrap().len() == 1).await;
    let gone: Vec<_> = engine.log().lines().filter(|line| line.contains("plugin no longer serves")).map(str::to_owned).collect();
    assert!(gone.len() == 1 && gone[0].contains("last"), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_same_length_and_time_is_another_version() {
    let engine = Engine::start(&[]);
    let (first, mut second) = (named("one"), named("one"));
    // The description has another word with the same length.
    let place = second.windows(5).position(|window| window == b"guest").unwrap();
    second[place..place + 5].copy_from_slice(b"ghost");
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    for bytes in [&first, &second] {
        let draft = engine.plugin_folder().join(".draft");
        std::fs::write(&draft, bytes).unwrap();
        std::fs::File::options().write(true).open(&draft).unwrap().set_modified(time).unwrap();
        std::fs::rename(&draft, engine.plugin_folder().join("one.wasm")).unwrap();
        let version = innesco::domain::plugin::Digest::of(bytes).to_string();
        engine.wait("/v1/plugins/one", "it serves", |plugin| plugin["version"] == version && plugin["state"] == "serving").await;
    }
}

/// Links as in Kubernetes mounts, and other kinds of files with the name of a plugin file.
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
            .wait("/v1/plugins/mounted", "it serves", |plugin| plugin["version"] == version && plugin["state"] == "serving")
            .await;
    }
}

/// A file that could not be read serves once the cause has ended, although the file itself does not change.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_could_not_be_read_is_tried_again() {
    let engine = Engine::start(&[]);
    let folder = engine.plugin_folder();
    let inner = folder.join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::os::unix::fs::symlink("inner/one.wasm", folder.join("one.wasm")).unwrap();
    engine.wait("/v1/plugins", "it cannot be read", |list| refused(list).contains_key("one")).await;
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
    engine.wait("/v1/plugins/order-router", "it serves", |plugin| plugin["state"] == "serving").await;
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

/// A misspelt folder would serve nothing, and every event would be unrouted.
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
