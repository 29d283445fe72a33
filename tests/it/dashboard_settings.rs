//! The settings in a real browser: keys, the audit trail, nodes.

use serde_json::json;
use support::browser::Browser;

use crate::{
    dashboard::{nothing_foreign, open, sign_in},
    engine::Engine,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_and_revoked_after_confirmation() {
    let engine = Engine::start(&[]);
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/settings").await;
    browser.wait_address("/settings/keys").await;
    browser.click(".form button[type=submit]").await;
    browser.wait_for(".form", "name").await;
    browser.fill("#f-name", "shop <b>").await;
    browser.click(".form button[type=submit]").await;
    let note = browser.wait_for(".note", "innk_").await;
    let key = note.lines().find(|line| line.contains("innk_")).expect("a key").trim().to_owned();
    open(&browser, &engine, "/settings/keys").await;
    let list = browser.wait_for("#keys-list", "shop <b>").await;
    assert!(!browser.source().await.contains(&key), "{list}");
    let keys = engine.get("/v1/keys").await;
    let made = keys["items"].as_array().expect("keys").iter().find(|one| one["name"] == "shop <b>").expect("the key");
    let id = made["id"].as_str().expect("an id");
    browser.click(&format!("#{id} a.btn")).await;
    browser.click(&format!("#{id} form button")).await;
    engine
        .wait("/v1/keys", "the key is revoked", |keys| !keys["items"].as_array().expect("keys").iter().any(|one| one["id"] == id))
        .await;
    open(&browser, &engine, "/settings/audit").await;
    browser.wait_for("table", "key.delete").await;
    nothing_foreign(&browser, &engine).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_role_read_sees_neither_keys_nor_the_audit_trail() {
    let engine = Engine::start(&[]);
    let read = engine.ok("POST", "/v1/keys", json!({ "name": "looker", "role": "read" })).await;
    let browser = Browser::start().await;
    crate::dashboard::sign_in_with(&browser, &engine, read["key"].as_str().expect("a key")).await;
    open(&browser, &engine, "/settings").await;
    browser.wait_address("/settings/limits").await;
    assert!(!browser.text(".tabs").await.contains("Keys"));
    open(&browser, &engine, "/settings/keys").await;
    browser.wait_for(".wrong", "Your key may not do this").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_many_events_needs_a_filter_and_becomes_a_job() {
    let engine = Engine::start(&[]);
    for _ in 0..3 {
        engine.send("order.created", json!({})).await;
    }
    engine.all_run().await;
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/settings/jobs").await;
    browser.wait_for("main", "No jobs").await;
    browser.click("#replay-form button[type=submit]").await;
    browser.wait_for("#replay-form .error", "needs a filter").await;
    browser.fill("#replay-form #f-event_type", "order.*").await;
    browser.click("#replay-form button[type=submit]").await;
    browser.wait_address("/jobs/").await;
    engine.wait("/v1/jobs", "the job is done", |jobs| jobs["items"][0]["state"] == "done").await;
    open(&browser, &engine, "/settings/jobs").await;
    browser.wait_for("#jobs", "replay events").await;
    browser.wait_for("#jobs", "done").await;
    nothing_foreign(&browser, &engine).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_in_force_and_health_are_shown_and_the_master_key_is_replaced() {
    let engine = Engine::start_set(&[("INNESCO_RETENTION_DEAD", "40d")]);
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/settings/limits").await;
    browser.wait_for("[id='retention.dead']", "40d").await;
    browser.wait_for("[id='retention.dead']", "INNESCO_RETENTION_DEAD").await;
    browser.wait_for("[id='retention.delivered']", "default").await;
    browser.wait_for("#limits-in-force", "plugin.deadline").await;
    open(&browser, &engine, "/settings/nodes").await;
    browser.wait_for("#health", "Takes events").await;
    open(&browser, &engine, "/settings/keys?ask=rekey").await;
    browser.click("#master-key form button").await;
    browser.wait_for(".note", "The master key is replaced").await;
    nothing_foreign(&browser, &engine).await;
    browser.close().await;
}
