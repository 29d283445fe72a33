//! The dashboard for people who see little, or who use a keyboard or a screen reader: axe-core looks at every page.

use serde_json::Value;
use support::browser::Browser;

use crate::{
    dashboard::{all_pages, open, sign_in},
    engine::Engine,
};

/// How a page is shown: width of the window, whether colours are dark, and the rules to check. Dark pages differ only in colours.
const LOOKS: [(u32, bool, &str); 3] = [(1280, false, ""), (1280, true, "runOnly: ['color-contrast'],"), (390, false, "")];

/// Runs axe-core and returns each serious or critical violation: the rule, what to do, and the first elements.
const LOOK: &str = "return axe.run(document, { RULES resultTypes: ['violations'], elementRef: false }).then((found) => found.violations
    .filter((rule) => rule.impact === 'serious' || rule.impact === 'critical')
    .map((rule) => `${rule.impact} ${rule.id}: ${rule.help}: ` +
        rule.nodes.slice(0, 4).map((node) => `${node.html.slice(0, 240)} (${node.failureSummary.split('\\n')[1]})`).join(' | ')));";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs axe-core, which is no part of the repository; run with `make verify-dashboard`"]
async fn no_page_has_a_serious_or_critical_violation() {
    let file = std::env::var("AXE").expect("AXE names axe.min.js");
    let axe = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file} cannot be read: {error}"));
    let engine = Engine::start(&["order-router", "changes"]);
    let browser = Browser::start().await;
    let mut found = Vec::new();
    open(&browser, &engine, "/sign-in?back=/events").await;
    inspect(&browser, &axe, "/sign-in", &mut found).await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/").await;
    inspect(&browser, &axe, "the first run", &mut found).await;
    let pages = all_pages(&engine).await;
    for (_, path) in &pages {
        open(&browser, &engine, path).await;
        inspect(&browser, &axe, path, &mut found).await;
    }
    open(&browser, &engine, "/events#keys").await;
    inspect(&browser, &axe, "/events#keys", &mut found).await;
    // The next pages are the form with faults, and the secret that is shown once.
    open(&browser, &engine, "/endpoints/new").await;
    browser.fill("#f-url", "not a url").await;
    browser.click("#webhook .acts button.primary").await;
    browser.wait(".field[data-bad]").await;
    inspect(&browser, &axe, "/endpoints/new with faults", &mut found).await;
    browser.fill("#f-title", "Warehouse").await;
    browser.fill("#f-name", "warehouse").await;
    browser.fill("#f-url", "https://warehouse.example.com/hook").await;
    browser.click("#webhook .acts button.primary").await;
    browser.wait("#secret").await;
    inspect(&browser, &axe, "/endpoints/warehouse/secret", &mut found).await;
    browser.close().await;
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

/// Checks the open page in each way of [`LOOKS`].
async fn inspect(browser: &Browser, axe: &str, page: &str, found: &mut Vec<String>) {
    browser.wait("main").await;
    browser.run(axe).await;
    for (width, dark, rules) in LOOKS {
        browser.show_as(width, dark).await;
        let violations = browser.run(&LOOK.replace("RULES", rules)).await;
        let violations = violations.as_array().unwrap_or_else(|| panic!("{page}: axe-core answered {violations}"));
        let look = if dark { "dark" } else { "light" };
        for one in violations.iter().filter_map(Value::as_str) {
            let one = format!("{page}, {width} px, {look}: {one}");
            eprintln!("{one}");
            found.push(one);
        }
    }
    browser.show_as(1280, false).await;
}
