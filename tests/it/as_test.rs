//! A failed run becomes a test of its plugin's crate. The test fails as the run did, and passes once the plugin is repaired.

use std::{fs, path::Path, process::Output};

use serde_json::{Value, json};

use crate::{
    engine::{Engine, KEY},
    outside::{command, innesco, ok},
    receivers::Receiver,
};

/// Source files of the guests that fail. The test puts all of them into one crate.
const SOURCES: [(&str, &str); 7] = [
    ("lib.rs", include_str!("../guests/faults/src/lib.rs")),
    ("plain.rs", include_str!("../guests/faults/src/plain.rs")),
    ("inline.rs", include_str!("../guests/faults/src/inline.rs")),
    ("method.rs", include_str!("../guests/faults/src/method.rs")),
    ("closure.rs", include_str!("../guests/faults/src/closure.rs")),
    ("generic.rs", include_str!("../guests/faults/src/generic.rs")),
    ("mischief.rs", include_str!("../guests/mischief/src/lib.rs")),
];

/// Event types on which the crate fails, each with its outcome. `FAILURES=50` adds 50 more faults.
const FAILURES: [(&str, &str); 8] = [
    ("mischief.loop", "deadline"),
    ("mischief.memory", "out-of-memory"),
    ("mischief.panic", "trapped"),
    ("mischief.header", "bad-output"),
    ("mischief.typo", "bad-output"),
    ("mischief.fail", "failed"),
    ("mischief.count", "failed"),
    ("fault.index_closure", "trapped"),
];

/// Creates a project with the crate in a folder. Returns the built plugin file.
fn failing_crate(folder: &Path) -> Vec<u8> {
    ok(&innesco(folder, &["plugin", "new", "failing"]));
    for (name, text) in SOURCES {
        let text = match name {
            "lib.rs" => text
                .replace("mod closure;", "mod closure;\nmod mischief;")
                .replace("&[\"fault.*\"]", "&[\"fault.*\", \"mischief.*\"]")
                .replace("        Ok(Outcome::none())\n", "        mischief::Mischief.handle(event)\n"),
            "mischief.rs" => {
                text.replace("innesco_sdk::export!(Mischief);", "").replace("struct Mischief;", "pub struct Mischief;")
            }
            _ => text.to_owned(),
        };
        fs::write(folder.join("plugins/failing/src").join(name), text).unwrap();
    }
    ok(&innesco(folder, &["plugin", "build", "failing", "--to", "files"]));
    fs::read(folder.join("files/failing.wasm")).unwrap()
}

/// Sends an event and returns its failed run.
async fn failed(engine: &Engine, event_type: &str, data: Value) -> Value {
    let event = engine.send(event_type, data).await;
    engine.settled(&event).await["runs"][0].clone()
}

fn as_test(folder: &Path, engine: &Engine, run: &Value, more: &[&str]) -> Output {
    let id = run["id"].as_str().unwrap();
    innesco(folder, &[&["run", "show", id, "--as-test", "--url", &engine.url, "--key", KEY], more].concat())
}

fn tests(folder: &Path) -> (bool, String) {
    let mut cargo = command(env!("CARGO"), folder);
    cargo.args(["test", "--package", "failing", "--test", "recorded"]).env("INNESCO", env!("CARGO_BIN_EXE_innesco"));
    let output = cargo.output().expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_runs_become_tests_that_fail_alike_until_the_plugin_is_repaired() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    // The plugin fails too often to run under quarantine.
    let engine = Engine::start_set(&[("INNESCO_PLUGIN_QUARANTINE", "0")]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    engine.write_plugin("failing.wasm", &failing_crate(folder));
    engine.wait("/v1/plugins", "the plugin serves", |page| page["items"].as_array().unwrap().len() == 1).await;
    engine.ok("PUT", "/v1/plugins/failing/config", json!({ "limit": 2 })).await;
    for _ in 0..2 {
        assert_eq!(failed(&engine, "mischief.count", json!({})).await["outcome"], "ok");
    }
    let mut kinds: Vec<(String, &str)> = FAILURES.iter().map(|(kind, outcome)| ((*kind).to_owned(), *outcome)).collect();
    let wanted = std::env::var("FAILURES").map_or(0, |count| count.parse().expect("FAILURES is a number"));
    let faults = SOURCES[0].1.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split_once('"'));
    kinds.extend(faults.take(wanted).map(|(fault, _)| (format!("fault.{fault}"), "")));
    let mut runs = Vec::new();
    for (kind, outcome) in &kinds {
        let run = failed(&engine, kind, json!({})).await;
        assert!(run["outcome"] == *outcome || outcome.is_empty(), "{kind}: {run:#}");
        let page = ok(&as_test(folder, &engine, &run, &[]));
        assert!(page.contains("It fails as the run did: "), "{kind}: {page}");
        runs.push(run);
    }
    // Writing the same test again changes nothing.
    ok(&as_test(folder, &engine, &runs[0], &[]));

    let (passed, text) = tests(folder);
    assert!(!passed && text.contains(&format!("0 passed; {} failed", runs.len())), "{text}");
    for run in &runs {
        let (outcome, message) = (run["outcome"].as_str().unwrap(), run["message"].as_str().unwrap());
        let code = if outcome == "failed" { format!("{}: ", run["code"].as_str().unwrap()) } else { String::new() };
        let expected = format!("the run ended {outcome}: {code}{message}\n");
        assert!(text.contains(&expected), "{expected}\n{text}");
    }

    let source = folder.join("plugins/failing/src/lib.rs");
    let repaired = fs::read_to_string(&source)
        .unwrap()
        .replace("fail();", "")
        .replace("mischief::Mischief.handle(event)", "Ok(Outcome::none())");
    fs::write(&source, repaired).unwrap();
    let (passed, text) = tests(folder);
    assert!(passed && text.contains(&format!("{} passed", runs.len())), "{text}");
    let again = as_test(folder, &engine, &runs[0], &[]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("the run ends ok, so the test passes"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn masking_keeps_the_failure_or_writes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    let engine = Engine::start(&[]);
    engine.write_plugin("failing.wasm", &failing_crate(folder));
    engine.wait("/v1/plugins", "the plugin serves", |page| page["items"].as_array().unwrap().len() == 1).await;
    let young = failed(&engine, "mischief.data", json!({ "customer": { "name": "Anna", "age": 7 } })).await;
    assert_eq!(young["message"], "customer Anna is too young");
    let runs = folder.join("plugins/failing/tests/runs");
    let file = runs.join(format!("{}.json", young["id"].as_str().unwrap()));

    let output = as_test(folder, &engine, &young, &["--mask", "data.customer.name"]);
    ok(&output);
    let fixture = fs::read_to_string(&file).unwrap();
    let tests = fs::read_to_string(folder.join("plugins/failing/tests/recorded.rs")).unwrap();
    assert!(!fixture.contains("Anna") && !tests.contains("Anna"), "{fixture}\n{tests}");
    assert!(fixture.contains(r#"\"age\":7"#) && fixture.contains("customer masked is too young"), "{fixture}");
    fs::remove_file(&file).unwrap();

    // The mask has the same form as the value: the age becomes 0, which is still a number and still too low, so the run fails in
    // the same way.
    ok(&as_test(folder, &engine, &young, &["--mask", "data.customer.*"]));
    assert!(fs::read_to_string(&file).unwrap().contains(r#"{\"customer\":{\"name\":\"masked\",\"age\":0}}"#));
    fs::remove_file(&file).unwrap();

    let shape = failed(&engine, "mischief.data", json!({ "customer": { "name": ["Anna"], "age": "seven" } })).await;
    assert_eq!(shape["code"], "bad-payload");
    ok(&as_test(folder, &engine, &shape, &["--mask", "data.*"]));

    // Here the failure depends on the masked value.
    engine.ok("PUT", "/v1/plugins/failing/config", json!({ "limit": 0 })).await;
    let limit = failed(&engine, "mischief.count", json!({})).await;
    let output = as_test(folder, &engine, &limit, &["--mask", "settings.limit"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("the failure depends on a masked value: without it the run ends ok"), "{told}");
    assert!(!runs.join(format!("{}.json", limit["id"].as_str().unwrap())).exists());
    let output = as_test(folder, &engine, &young, &["--mask", "data.customer.nmae"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--mask data.customer.nmae names no value of this run"));
}
