//! The pages of plugins in a real browser: upload, compare, promote, roll back, runs, settings, state, and what a reader does not see.

use std::path::PathBuf;

use serde_json::{Value, json};
use support::browser::Browser;
use tempfile::TempDir;

use crate::{
    compare::variant,
    dashboard::{nothing_foreign, open, sign_in, sign_in_with},
    engine::Engine,
    receivers::Receiver,
};

/// Number of recorded runs of the plugin.
const EVENTS: u64 = 10;

/// Writes a variant of the guest `changes` into a file that a browser can upload.
fn file(number: u32) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("changes.wasm");
    std::fs::write(&file, variant(number)).expect("the file can be written");
    (folder, file)
}

async fn endpoints(engine: &Engine) {
    let receiver = Receiver::start().await;
    for name in ["crm", "erp", "slack"] {
        engine.endpoint(name, &receiver.url("/"), &[]).await;
    }
}

async fn order(engine: &Engine, number: u64) -> String {
    engine.send("order.created", json!({ "id": number, "total": number * 10, "country": "IT" })).await
}

/// Starts an engine whose plugin has run on recorded events and stored state.
async fn engine_with_runs() -> Engine {
    let engine = Engine::start(&["changes"]);
    endpoints(&engine).await;
    for number in 0..EVENTS {
        order(&engine, number).await;
    }
    engine.all_run().await;
    engine
}

/// Makes a variant serve.
async fn push(engine: &Engine, number: u32) {
    let answer = engine.request("PUT", "/v1/plugins/changes").body(variant(number)).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
}

async fn serving(engine: &Engine) -> String {
    engine.get("/v1/plugins/changes").await["version"].as_str().expect("a version").to_owned()
}

/// Fills an engine with a candidate, runs, and a comparison of both. Returns the comparison's id.
pub async fn fill(engine: &Engine) -> String {
    endpoints(engine).await;
    for number in 0..EVENTS {
        order(engine, number).await;
    }
    engine.all_run().await;
    let candidate = engine.request("PUT", "/v1/plugins/changes?candidate=true").body(variant(16));
    assert_eq!(candidate.send().await.expect("an answer").status(), 200);
    let started = engine.ok("POST", "/v1/plugins/changes/compare", json!({})).await;
    let id = started["id"].as_str().expect("an id").to_owned();
    engine.wait(&format!("/v1/comparisons/{id}"), "the comparison ends", |one| one["state"] != "running").await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_uploaded_compared_promoted_and_rolled_back() {
    let engine = engine_with_runs().await;
    let before = serving(&engine).await;
    let (_folder, file) = file(4);
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/plugins").await;
    browser.wait_for("#rows", "serving").await;
    browser.click("#plugin-changes .go").await;
    browser.wait_for(".chip", &before[..6]).await;
    browser.attach("#upload #f-file", &file).await;
    browser.click("#upload button[type=submit]").await;
    browser.wait_for("#uploaded", "It is a candidate").await;
    assert_eq!(serving(&engine).await, before, "the candidate does not serve");

    browser.click("#candidate a[href*='/compare']").await;
    browser.click("#start button[type=submit]").await;
    browser.wait_for("#figures", "of 10 runs").await;
    browser.wait_for("#compare-head .chip", "differ, 10").await;
    browser.wait_for("#found", "webhook to crm: body /total changed").await;
    browser.click("#change-0 .peek").await;
    browser.wait("#change-0 ins").await;
    browser.wait_for("#found", "same endpoints").await;

    // On a busy machine the candidate may take longer. Then the page asks before it promotes.
    let compared = browser.address().await;
    browser.open(&format!("{compared}&ask=promote")).await;
    browser.click("#promotion form[action$='/promote'] button").await;
    browser.wait_for("#versions", "kept").await;
    let after = serving(&engine).await;
    assert_ne!(after, before);
    browser.click(&format!("[id='version-{before}'] a[href*='ask=promote']")).await;
    browser.wait_for("#asked", &before[..6]).await;
    browser.click("#asked form[action$='/promote'] button").await;
    browser.wait_for(".chip", &before[..6]).await;
    assert_eq!(serving(&engine).await, before);
    open(&browser, &engine, "/plugins/changes?ask=rollback").await;
    browser.click("#asked form[action$='/rollback'] button").await;
    browser.wait_for(".chip", &after[..6]).await;
    assert_eq!(serving(&engine).await, after);

    browser.click("#plugin-head a[href*='ask=disable']").await;
    browser.click("#asked form[action$='/disable'] button").await;
    browser.wait_for(".chip", "disabled").await;
    browser.click("#plugin-head form[action$='/enable'] button").await;
    browser.wait_for(".chip", "serving").await;
    // A candidate is discarded. The version to which a rollback returns cannot be.
    let candidate = engine.request("PUT", "/v1/plugins/changes?candidate=true").body(variant(5)).send().await.expect("an answer");
    let candidate: Value = candidate.json().await.expect("JSON");
    let candidate = candidate["version"].as_str().expect("a version").to_owned();
    open(&browser, &engine, &format!("/plugins/changes?ask=discard~{before}")).await;
    browser.click("#asked form[action$='/discard'] button").await;
    browser.wait_for("#asked", "Nothing was changed").await;
    open(&browser, &engine, "/plugins/changes").await;
    browser.click("#candidate a[href*='ask=discard']").await;
    browser.wait_for("#asked", &candidate[..6]).await;
    browser.click("#asked form[action$='/discard'] button").await;
    browser.wait_for("#discarded", &candidate[..6]).await;
    assert!(!browser.has("#candidate").await);
    let versions: Value = engine.get("/v1/plugins/changes/versions").await;
    assert!(!versions.to_string().contains(&candidate), "{versions}");

    open(&browser, &engine, "/plugins/changes?ask=remove").await;
    browser.click("#asked form[action$='/remove'] button").await;
    browser.wait_for("main", "No plugins yet").await;
    nothing_foreign(&browser, &engine).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_file_is_explained_and_a_first_version_serves_at_once() {
    let engine = Engine::start(&[]);
    let (folder, good) = file(0);
    let bad = folder.path().join("wrong.wasm");
    std::fs::write(&bad, b"no plugin").expect("the file can be written");
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/plugins").await;
    browser.attach("#f-file", &bad).await;
    browser.click("#upload-form button[type=submit]").await;
    browser.wait_for("#f-file-note", "the plugin does not load").await;
    browser.attach("#f-file", &good).await;
    browser.fill("#f-name", "orders").await;
    browser.click("#upload-form button[type=submit]").await;
    browser.wait_for("#f-file-note", "push it under the name changes").await;
    browser.attach("#f-file", &good).await;
    browser.fill("#f-name", "changes").await;
    browser.click("#upload-form input[name=serve]").await;
    browser.click("#upload-form button[type=submit]").await;
    browser.wait_for("#uploaded", "It serves now").await;
    browser.wait_for(".chip", "serving").await;
    nothing_foreign(&browser, &engine).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed_with_their_faults_beside_them_and_state_is_read_and_deleted() {
    let engine = engine_with_runs().await;
    let browser = Browser::start_without_script().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/plugins/changes/settings").await;
    browser.wait_for("#settings", "Orders over this total are big").await;
    browser.fill("#f-set-threshold", "<b>much").await;
    browser.click("#settings form button[type=submit]").await;
    browser.wait_for(".field[data-bad] .error", "a whole number").await;
    browser.fill("#f-set-threshold", "800").await;
    browser.click("#settings form button[type=submit]").await;
    browser.wait("[id=revision-1]").await;
    let config: Value = engine.get("/v1/plugins/changes/config").await;
    assert_eq!(config["config"]["threshold"], "800", "{config}");

    open(&browser, &engine, "/plugins/changes/state").await;
    browser.click("#key-0 .go").await;
    browser.wait_for("#value pre", &EVENTS.to_string()).await;
    browser.click("#value form button").await;
    browser.wait_for("#keys-list", "No keys").await;
    let keys: Value = engine.get("/v1/plugins/changes/state/keys").await;
    assert_eq!(keys["items"], json!([]), "{keys}");
    order(&engine, 1).await;
    engine.all_run().await;
    open(&browser, &engine, "/plugins/changes/state?ask=clear").await;
    browser.wait_for("#asked", "Delete all keys (1)").await;
    browser.click("#asked form button").await;
    browser.wait_for("#keys-list", "No keys").await;

    // The page of an event shows how a plugin's webhook differs from the event's data.
    let event = order(&engine, 9).await;
    engine.all_run().await;
    open(&browser, &engine, &format!("/events/{event}")).await;
    browser.click("a.peek[href*='open=diff-']").await;
    browser.wait_for("#story .diff", "\"name\": \"Ann\"").await;
    assert!(browser.has("#story .diff ins").await);

    open(&browser, &engine, "/plugins/changes/log").await;
    browser.wait_for("#log", "order 9 of").await;
    open(&browser, &engine, "/plugins/changes/log?level=error").await;
    browser.wait_for("#log", "No lines").await;
    open(&browser, &engine, "/plugins/changes/limits").await;
    browser.wait_for("#limits", "Time of one run").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_runs_are_retried_and_cancelled() {
    let engine = Engine::start(&[]);
    endpoints(&engine).await;
    // This variant refuses even orders.
    push(&engine, 1).await;
    let events = [order(&engine, 2).await, order(&engine, 4).await];
    let run = |event: &str| format!("/v1/runs?event={event}");
    for event in &events {
        engine.wait(&run(event), "the run is parked", |runs| runs["items"][0]["state"] == "parked").await;
    }
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/plugins/changes").await;
    browser.wait_for("#parked", "Parked runs: 2").await;
    browser.click("#parked a").await;
    browser.wait_for("#runs", "even orders are refused").await;
    push(&engine, 0).await;
    let id = |runs: &Value| runs["items"][0]["id"].as_str().expect("an id").to_owned();
    let (first, second) = (id(&engine.get(&run(&events[0])).await), id(&engine.get(&run(&events[1])).await));
    browser.click(&format!("#{first} form[action$='/retry'] button")).await;
    engine.wait(&run(&events[0]), "the run is done", |runs| runs["items"][0]["state"] == "done").await;
    browser.click(&format!("#{second} form[action$='/cancel'] button")).await;
    engine.wait(&run(&events[1]), "the run is cancelled", |runs| runs["items"][0]["state"] == "cancelled").await;
    open(&browser, &engine, "/plugins/changes/runs?state=cancelled").await;
    browser.wait_for("#runs", "cancelled").await;
    nothing_foreign(&browser, &engine).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_plugins_sees_no_settings_no_state_and_no_button() {
    let engine = Engine::start(&["changes"]);
    engine.write_plugin("legacy.wasm", b"no plugin");
    let has_file = |all: &Value| all["items"].as_array().is_some_and(|all| all.len() == 2);
    engine.wait("/v1/plugins", "the file is refused", has_file).await;
    let read = engine.ok("POST", "/v1/keys", json!({ "name": "looker", "role": "read" })).await;
    let browser = Browser::start().await;
    sign_in_with(&browser, &engine, read["key"].as_str().expect("a key")).await;
    open(&browser, &engine, "/plugins").await;
    browser.wait_for("#rows", "not loadable").await;
    assert!(!browser.has("main form[method=post]").await);
    open(&browser, &engine, "/plugins/changes?ask=remove").await;
    browser.wait_for("#tabs", "Runs").await;
    assert!(!browser.has("main form[method=post]").await && !browser.has("#tabs a[href$='/settings']").await);
    for path in ["settings", "state", "compare"] {
        open(&browser, &engine, &format!("/plugins/changes/{path}")).await;
        browser.wait_for("main", "Your key may not do this").await;
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_runs_are_retried_from_the_first_page() {
    let engine = Engine::start(&["order-router"]);
    let event = engine.send("order.created", json!("broken")).await;
    engine.wait(&format!("/v1/events/{event}"), "the run is parked", |story| story["parts"]["runs"]["parked"] == 1).await;
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/").await;
    browser.wait_for("#needs", "order-router").await;
    browser.click("#needs form button").await;
    engine.wait("/v1/jobs", "a job retries them", |jobs| jobs["items"][0]["filter"]["plugin"] == "order-router").await;
    // The data is still broken, so the run is parked again.
    browser.wait_for("#needs", "order-router").await;
    browser.close().await;
}
