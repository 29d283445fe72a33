//! Plugins in a real browser: versions, disabling, enabling, parked runs.

use serde_json::json;
use support::browser::Browser;

use crate::{
    dashboard::{nothing_foreign, open, sign_in},
    engine::Engine,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_disabled_after_confirmation_and_enabled() {
    let engine = Engine::start(&["order-router"]);
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/plugins").await;
    browser.wait_for("#plugins", "order-router").await;
    browser.click("#plugins .go").await;
    browser.wait_for("#versions", "serving").await;
    browser.wait_for("#runs", "It has not run yet").await;
    browser.click("a[href*='ask=disable']").await;
    browser.click(".note form button").await;
    browser.wait_for(".chip", "disabled").await;
    browser.click("form[action$='/enable'] button").await;
    browser.wait_for(".chip", "serving").await;
    nothing_foreign(&browser, &engine).await;
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
