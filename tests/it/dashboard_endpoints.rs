//! Endpoints and deliveries in the dashboard, in a real browser: create, watch, repair, change, delete. Also roles, untrusted text,
//! and pages without script.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use support::browser::Browser;

use crate::{
    dashboard::{breakable, live, nothing_foreign, open, sign_in, sign_in_with},
    engine::Engine,
    receivers::{Answer, Receiver},
};

/// Presses the button with this text in a form.
async fn press(browser: &Browser, form: &str, label: &str) {
    let script = format!(
        "const button = [...document.querySelectorAll('{form} button, {form} a.btn')].find(b => b.textContent.trim() === '{label}' && b.offsetParent);
         if (!button) throw new Error('no button {label}'); button.click();"
    );
    browser.run(&script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_created_fails_and_is_repaired() {
    let engine = Engine::start(&[]);
    let (receiver, works) = breakable().await;
    works.store(true, Ordering::Relaxed);
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    // The first page leads to the first event. A fault is shown beside its field.
    browser.wait_for("h1", "Your first webhook").await;
    browser.wait("#first a[href='/endpoints/new']").await;
    browser.fill("#f-data", "{").await;
    browser.click("#send button").await;
    browser.wait_for(".field[data-bad] .error", "not JSON").await;
    browser.fill("#f-data", "{ \"total\": 7, \"country\": \"IT\" }").await;
    browser.click("#send button").await;
    browser.wait_for("h1", "order.created").await;
    browser.wait_for("#story", "No plugin and no endpoint subscribes").await;
    open(&browser, &engine, "/endpoints").await;
    browser.wait_for("main", "No endpoints yet").await;
    open(&browser, &engine, "/endpoints/new").await;
    browser.fill("#f-title", "CRM contacts").await;
    let name = browser.run("return document.getElementById('f-name').value").await;
    assert_eq!(name, "crm-contacts", "the name follows the title");
    // The preview follows the form.
    browser.wait_for("#preview", "None of the last events").await;
    browser.fill("#f-events", "order.*").await;
    browser.fill("#f-url", "not a url").await;
    browser.wait_for("#preview", "1 of the last 1 events").await;
    browser.wait_for("#preview pre", "\"country\": \"IT\"").await;
    press(&browser, "#webhook", "Create").await;
    browser.wait(".field[data-bad] #f-url").await;
    assert_eq!(browser.run("return document.getElementById('f-title').value").await, "CRM contacts", "what was typed stays");
    browser.fill("#f-url", &receiver.url("/hook")).await;
    press(&browser, "#webhook", "Create and send a test").await;
    let secret = browser.wait_for("#secret", "whsec_").await;
    browser.wait_for("h1", "CRM contacts").await;
    browser.wait_for(".tested", "200").await;
    assert!(!browser.address().await.contains("whsec_"));
    // The page shows the secret only once.
    open(&browser, &engine, "/endpoints/crm-contacts/secret").await;
    browser.wait_for("main", "shown already").await;
    assert!(!browser.source().await.contains(&secret));
    // A delivered event appears live on the endpoint's page.
    open(&browser, &engine, "/endpoints/crm-contacts").await;
    browser.wait_for(".chip", "delivering").await;
    live(&browser).await;
    engine.send("order.created", json!({ "total": 7 })).await;
    browser.wait_for("#rows", "delivered").await;
    browser.wait_for("#rows", "1st try").await;
    // The receiver fails, then works again.
    works.store(false, Ordering::Relaxed);
    let failed = engine.send("order.paid", json!({})).await;
    // The list does not move: its new row waits.
    browser.wait_for("#rows .held-row:not([hidden])", "1 new delivery").await;
    browser.click("#rows .held-row").await;
    browser.wait_for("#rows", "retrying").await;
    browser.wait_for("#rows", "500").await;
    // The pointer stays on the row whose button was pressed. The row is updated all the same.
    browser.click("#rows form[action$='/retry'] button").await;
    let tries = "/v1/deliveries?state=retrying";
    engine.wait(tries, "it was tried again", |page| page["items"][0]["attempt_count"] == 2).await;
    let delivery = engine.get(tries).await["items"][0]["id"].as_str().unwrap().to_owned();
    browser.wait("#rows tbody:has([data-s=wait])").await;
    works.store(true, Ordering::Relaxed);
    engine.ok("POST", &format!("/v1/deliveries/{delivery}/retry"), json!({})).await;
    engine.wait(&format!("/v1/events/{failed}"), "it is delivered", |story| story["state"] == "delivered").await;
    browser.wait("#rows tbody:not(:has([data-s=wait]))").await;
    nothing_foreign(&browser, &engine).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_tested_paused_changed_and_deleted() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::answering(|_| Answer::status(418).body("I am a teapot")).await;
    engine.endpoint("crm", &receiver.url("/"), &["order.*"]).await;
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/endpoints/crm").await;
    press(&browser, "#test", "Send test").await;
    browser.wait_for("#test-answer", "I am a teapot").await;
    assert!(browser.address().await.ends_with("/endpoints/crm"), "the page was not left");
    press(&browser, "#endpoint-head", "Pause").await;
    browser.wait_for(".chip", "paused").await;
    browser.wait_for("#endpoint-head .said", "paused").await;
    press(&browser, "#endpoint-head", "Resume").await;
    browser.wait_for(".chip", "delivering").await;
    // The secret is replaced and shown once.
    browser.click(".more-menu summary").await;
    press(&browser, ".more-menu", "Rotate secret").await;
    browser.wait_for("h1", "Rotate secret").await;
    press(&browser, "main form", "Rotate secret").await;
    browser.wait_for("#secret", "whsec_").await;
    // Settings that the form does not show are unchanged after saving.
    engine
        .ok(
            "PATCH",
            "/v1/endpoints/crm",
            json!({ "where": { "data:/country": ["IT"], "channel": ["web"] }, "headers": { "x-key": "s3cret" } }),
        )
        .await;
    open(&browser, &engine, "/endpoints/crm/edit").await;
    assert_eq!(browser.run("return document.getElementById('f-channel').value").await, "web");
    browser.fill("#f-title", "The CRM").await;
    press(&browser, "#webhook", "Save").await;
    browser.wait_for("h1", "The CRM").await;
    browser.wait_for("#endpoint-head .said", "saved").await;
    let changed = engine.get("/v1/endpoints/crm").await;
    assert_eq!(changed["where"], json!({ "data:/country": ["IT"], "channel": ["web"] }));
    assert_eq!((&changed["title"], changed["schedule"].is_null()), (&json!("The CRM"), true), "{changed}");
    assert!(changed["headers"]["x-key"].is_string(), "a header that is not shown stays: {changed}");
    engine.ok("POST", "/v1/events", json!({ "type": "order.created", "channel": "web", "data": { "country": "IT" } })).await;
    engine.wait("/v1/deliveries", "it was tried", |page| page["items"][0]["attempt_count"] == 1).await;
    // Typing a wrong name deletes nothing.
    open(&browser, &engine, "/endpoints/crm/delete").await;
    browser.fill("#f-name", "cmr").await;
    press(&browser, "main form", "Delete").await;
    browser.wait_for(".error", "not the name").await;
    browser.fill("#f-name", "crm").await;
    press(&browser, "main form", "Delete").await;
    browser.wait_for("main", "in use").await;
    browser.fill("#f-name", "crm").await;
    browser.click("input[name=force]").await;
    press(&browser, "main form", "Delete").await;
    browser.wait_for("main", "No endpoints yet").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_deliveries_are_retried_together() {
    let engine = Engine::start(&[]);
    let (receiver, works) = breakable().await;
    let new = json!({ "name": "crm", "url": receiver.url("/"), "events": ["order.*"], "schedule": ["0s"] });
    engine.ok("POST", "/v1/endpoints", new).await;
    for number in 0..5 {
        engine.send("order.created", json!({ "number": number })).await;
    }
    let dead = "/v1/deliveries?state=dead";
    let has = |number: usize| move |page: &Value| page["items"].as_array().is_some_and(|items| items.len() == number);
    engine.wait(dead, "all are dead", has(5)).await;
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/deliveries?state=dead").await;
    browser.wait_for("#rows", "dead").await;
    works.store(true, Ordering::Relaxed);
    // One row is selected by the pointer, the next one by keys.
    browser.click("#rows tbody tr:nth-child(1) input[form=bulk]").await;
    browser.wait_for("#bulk button", "Retry 1").await;
    browser.press("jx").await;
    browser.wait_for("#bulk button", "Retry 2").await;
    browser.click("#bulk button").await;
    browser.wait_for("h1", "Retry 2 ").await;
    browser.click("#ask form button").await;
    browser.wait_for("#ask .said", "2 done").await;
    engine.wait("/v1/deliveries?state=delivered", "the selected ones arrived", has(2)).await;
    assert_eq!(engine.get("/v1/deliveries/retry?endpoint=crm").await, json!({ "count": 3 }));
    open(&browser, &engine, "/endpoints/crm").await;
    press(&browser, "main", "Retry dead deliveries…").await;
    browser.wait_for("h1", "Retry 3 webhooks").await;
    press(&browser, "main form", "Retry 3 webhooks").await;
    browser.wait_for("h1", "Retry done").await;
    browser.wait_for("#job", "3 of 3").await;
    engine.wait("/v1/deliveries?state=delivered", "all arrived", has(5)).await;
    open(&browser, &engine, "/deliveries?state=dead").await;
    browser.wait_for("main", "Nothing needs you").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_endpoints_without_buttons_and_secrets() {
    let engine = Engine::start(&[]);
    let (receiver, _works) = breakable().await;
    let new = json!({ "name": "crm", "url": receiver.url("/secret-path"), "events": ["order.*"], "headers": { "authorization": "Bearer t0p" } });
    engine.ok("POST", "/v1/endpoints", new).await;
    engine.send("order.created", json!({})).await;
    let read = engine.ok("POST", "/v1/keys", json!({ "name": "looker", "role": "read" })).await;
    let browser = Browser::start().await;
    sign_in_with(&browser, &engine, read["key"].as_str().expect("a key")).await;
    for path in ["/endpoints", "/endpoints/crm", "/deliveries"] {
        open(&browser, &engine, path).await;
        browser.wait_for("main", "order.").await;
        assert!(!browser.has("main form[method=post]").await, "{path}");
        let source = browser.source().await;
        assert!(!source.contains("secret-path") && !source.contains("t0p"), "{path}");
    }
    for path in ["/endpoints/new", "/endpoints/crm/edit", "/endpoints/crm/delete", "/endpoints/crm/rotate", "/deliveries/retry"] {
        open(&browser, &engine, path).await;
        browser.wait_for("h1", "Your key may not do this").await;
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn untrusted_titles_are_shown_as_text() {
    let engine = Engine::start(&[]);
    let (receiver, _works) = breakable().await;
    let title = "<script>document.title='owned'</script>\u{202e}gnp.exe";
    let url = format!("{}?q=%3Cb%3E'\"&x={}", receiver.url("/"), "a".repeat(1500));
    let new = json!({ "name": "bad", "title": title, "url": url, "events": ["order.*"], "where": { "channel": ["<b>web</b>"] } });
    engine.ok("POST", "/v1/endpoints", new).await;
    engine.send("order.created", json!({})).await;
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    for path in [
        "/endpoints",
        "/endpoints/bad",
        "/endpoints/bad/edit",
        "/endpoints/bad/delete",
        "/endpoints/bad/rotate",
        "/deliveries",
        "/deliveries/retry?endpoint=bad",
    ] {
        open(&browser, &engine, path).await;
        browser.wait("#rail").await;
        assert!(!browser.run("return document.title").await.as_str().expect("a title").contains("owned\u{202e}"), "{path}");
        assert!(!browser.has("main script").await && !browser.has("main b b").await, "{path}");
        let width = browser.run("return document.documentElement.scrollWidth - innerWidth").await;
        assert!(width.as_i64().is_some_and(|more| more <= 0), "{path} is wider than the window by {width}");
    }
    open(&browser, &engine, "/endpoints").await;
    browser.wait_for("#rows", "<script>").await;
    assert!(browser.source().await.contains("<span class=\"esc\">U+202E</span>"));
    nothing_foreign(&browser, &engine).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_managed_without_script_and_in_italian() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    engine.send("invoice.paid", json!({})).await;
    let browser = Browser::start_without_script().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/endpoints/new").await;
    browser.fill("#f-title", "Magazzino Verona").await;
    browser.fill("#f-url", &receiver.url("/")).await;
    // Pressing a suggested type adds it, and the typed text stays.
    browser.click(".suggest button").await;
    browser.wait("#webhook").await;
    browser.click("#webhook button.primary").await;
    browser.wait_for("#secret", "whsec_").await;
    let made = engine.get("/v1/endpoints/magazzino-verona").await;
    assert_eq!((&made["events"], &made["title"]), (&json!(["invoice.paid"]), &json!("Magazzino Verona")));
    open(&browser, &engine, "/endpoints/magazzino-verona").await;
    browser.click("#test form button").await;
    browser.wait_for("#test-answer", "200").await;
    browser.click("button[name=lang]").await;
    open(&browser, &engine, "/endpoints/magazzino-verona").await;
    browser.wait_for(".chip", "attiva").await;
    browser.click("form[action$='/pause'] button").await;
    browser.wait_for(".chip", "in pausa").await;
    let state = engine.get("/v1/endpoints/magazzino-verona").await;
    assert_eq!(state["state"], Value::from("paused"));
    open(&browser, &engine, "/deliveries").await;
    browser.wait_for("h1", "Consegne").await;
    browser.close().await;
}
