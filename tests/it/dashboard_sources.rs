//! The pages of sources in a real browser: connecting a source, its first request, refused requests, and what the role `read` does
//! not see.

use serde_json::{Value, json};
use support::browser::Browser;

use crate::{
    dashboard::{live, nothing_foreign, open, sign_in, sign_in_with},
    engine::{Engine, client},
};

/// Sends a request to a source, as a third party does. Returns the status of the answer.
async fn hit(address: &str, token: &str) -> u16 {
    let request = client().post(address).header("x-webhook-token", token).header("content-type", "application/json");
    request.body("{\"id\":7}").send().await.expect("an answer").status().as_u16()
}

/// Creates sources in every state, for the screenshots.
pub async fn fill(engine: &Engine) {
    let sources = [("shop", "header-token"), ("newsletter", "none"), ("support", "github"), ("sms", "bearer")];
    for (name, preset) in sources {
        let made = engine
            .ok("POST", "/v1/sources", json!({ "name": name, "preset": preset, "title": format!("{name}.bottega.example") }))
            .await;
        let address = format!("{}{}", engine.url, made["path"].as_str().expect("a path"));
        let token = made["secret"].as_str().unwrap_or_default();
        if name != "support" {
            hit(&address, token).await;
            hit(&address, "wrong").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_connected_and_its_requests_appear_live() {
    let engine = Engine::start(&[]);
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/sources").await;
    browser.wait_for("main", "No sources yet").await;
    browser.click("a[href='/sources/new']").await;
    browser.click("a.tile[href*='preset=header-token']").await;
    browser.wait_for(".tile[aria-current]", "Token in a header").await;
    // A fault is shown beside its field, and the typed text stays.
    browser.fill("#f-name", "Shop!").await;
    browser.fill("#f-title", "<b>our</b> shop").await;
    browser.click("main form.form button[type=submit]").await;
    browser.wait_for(".error", "name").await;
    browser.fill("#f-name", "shop").await;
    browser.click("main form.form button[type=submit]").await;
    browser.wait_for("#once-secret", "will not be shown again").await;
    let secret = browser.text("#secret code").await;
    let address = browser.text("#address code").await;
    browser.click("main a[href='/sources/shop']").await;
    browser.wait_for("#requests", "Waiting for the first request").await;
    assert!(!browser.source().await.contains(&secret), "the secret is shown once");
    live(&browser).await;
    assert_eq!(hit(&address, &secret).await, 200);
    browser.wait_for("#requests", "accepted").await;
    browser.wait_for(".chip", "verified").await;
    assert_eq!(hit(&address, "wrong").await, 401);
    browser.wait_for("#requests", "Its signature or token does not match").await;
    browser.click("#requests .seg a[href*='only=refused']").await;
    browser.wait_for("#requests .seg [aria-current]", "refused 1").await;
    browser.wait_for(".facts", "<b>our</b> shop").await;

    // A fault is shown beside its field. The other rules stay as the preset has them.
    browser.click("a[href='/sources/shop/edit']").await;
    browser.fill("#f-rate", "often").await;
    browser.click("main form.form button[type=submit]").await;
    browser.wait(".field[data-bad] #f-rate").await;
    browser.fill("#f-rate", "100/m").await;
    browser.fill("#f-type_prefix", "till").await;
    browser.click("main form.form button[type=submit]").await;
    browser.wait_for(".said", "saved").await;
    let changed: Value = engine.get("/v1/sources/shop").await;
    assert_eq!((&changed["rate"], &changed["type_prefix"]), (&json!("100/m"), &json!("till")), "{changed}");

    // The new address and the new secret replace the old ones. The list of sources does not contain the new secret.
    browser.click("form[action$='/rotate-address'] button").await;
    browser.wait_for(".said", "new address").await;
    assert_ne!(browser.text("#address code").await, address);
    browser.click("form[action$='/rotate-secret'] button").await;
    browser.wait_for("#once-secret", "will not be shown again").await;
    let rotated = browser.text("#secret code").await;
    assert_ne!(rotated, secret);
    open(&browser, &engine, "/sources").await;
    browser.wait_for("#rows", "verified").await;
    assert!(!browser.source().await.contains(&rotated));
    nothing_foreign(&browser, &engine).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_role_read_sees_no_address_and_no_button() {
    let engine = Engine::start(&[]);
    let made = engine.ok("POST", "/v1/sources", json!({ "name": "open", "preset": "none" })).await;
    let path = made["path"].as_str().expect("a path").to_owned();
    assert_eq!(hit(&format!("{}{path}", engine.url), "").await, 200);
    let read = engine.ok("POST", "/v1/keys", json!({ "name": "looker", "role": "read" })).await;
    let browser = Browser::start().await;
    sign_in_with(&browser, &engine, read["key"].as_str().expect("a key")).await;
    open(&browser, &engine, "/sources/open").await;
    browser.wait_for("#address-section", "does not see the address").await;
    assert!(!browser.source().await.contains(&path) && !browser.has("main form[method=post]").await);
    open(&browser, &engine, "/sources").await;
    browser.wait_for("#rows", "anyone may send").await;
    assert!(!browser.has("a[href='/sources/new']").await);
    open(&browser, &engine, "/sources/new").await;
    browser.wait_for("main", "Your key may not do this").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_work_without_script() {
    let engine = Engine::start(&[]);
    let browser = Browser::start_without_script().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/sources/new?preset=bearer").await;
    browser.fill("#f-name", "crm").await;
    browser.click("main form.form button[type=submit]").await;
    browser.wait_for("#once-secret", "will not be shown again").await;
    open(&browser, &engine, "/sources/crm").await;
    browser.click("a[href*='ask=delete']").await;
    browser.wait_for("#ask", "The events of this source stay").await;
    browser.click("#ask form button").await;
    browser.wait_for("main", "No sources yet").await;
    let sources: Value = engine.get("/v1/sources").await;
    assert_eq!(sources["items"], json!([]));
    browser.close().await;
}
