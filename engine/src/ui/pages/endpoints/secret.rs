//! The page that shows an endpoint's secret once, after the endpoint was created or its secret rotated.
//!
//! The API's answer goes into a cookie, sealed with the store's master key, and the browser is redirected to this page. The page
//! deletes the cookie. So the secret is in no address, any node can show it, and a second visit only says that the secret was
//! already shown.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse as _, Redirect, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{actions::page_of, one::answer};
use crate::{
    api::{Api, Problem},
    clock,
    ui::{
        Ui, foreign,
        layout::{self, Head, Page, Place},
        parts::{self, Look, action, icon, state::State as Shown},
        session,
        view::cookie,
        visit::Visit,
    },
    wire::TestSend,
};

/// Purpose of the sealed value. A value that was sealed for another purpose is refused.
const CONTEXT: &str = "secret shown once";
/// Number of seconds that the browser has to open the page.
const SECONDS: u64 = 120;
/// Maximum length of a test's answer, in characters. A longer answer would not fit into the cookie together with the secret.
const EXCERPT_MAX: usize = 300;

/// Why a new secret exists.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Why {
    Created,
    Rotated,
}

/// The content of the cookie.
#[derive(Deserialize, Serialize)]
struct Once {
    name: String,
    title: String,
    secret: String,
    signature: String,
    why: Why,
    test: Option<TestSend>,
    /// Id of the key whose holder may see the secret.
    key: i64,
    /// Wall clock, ms.
    ends: i64,
}

fn cookie_name(api: &Api) -> String {
    format!("innesco_once_{}", api.store.tag().as_str())
}

/// Redirects the browser to the page that shows the secret of this answer. An answer without a secret leads to the endpoint's page.
///
/// # Errors
/// If the answer is not an endpoint, or it cannot be sealed.
pub fn show_once(ui: &Ui, headers: &HeaderMap, endpoint: &Value, test: Option<TestSend>, why: Why) -> Result<Response, Problem> {
    let text = |member: &str| endpoint[member].as_str().unwrap_or_default().to_owned();
    let name = text("name");
    let page = page_of(&name);
    let Some(secret) = endpoint["secret"].as_str() else { return Ok(Redirect::to(&page).into_response()) };
    let key = session::of(ui, headers).map_or(0, |session| session.key.as_i64());
    let title = endpoint["title"].as_str().filter(|title| !title.trim().is_empty()).unwrap_or(&name).to_owned();
    let test = test.map(|mut test| {
        test.result.excerpt = test.result.excerpt.chars().take(EXCERPT_MAX).collect();
        test.result.detail = test.result.detail.map(|detail| detail.chars().take(EXCERPT_MAX).collect());
        test
    });
    let ends = clock::wall().millis() + i64::try_from(SECONDS * 1000).unwrap_or(0);
    let once = Once { name, title, secret: secret.to_owned(), signature: text("signature"), why, test, key, ends };
    let plain = serde_json::to_vec(&once).map_err(|error| Problem::internal(error.to_string()))?;
    let sealed = BASE64_URL_SAFE_NO_PAD.encode(ui.api.store.seal(CONTEXT, &plain)?);
    let to = format!("{page}/secret");
    let cookie = one_cookie(ui, headers, &to, &sealed, SECONDS);
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(&to)).into_response())
}

fn one_cookie(ui: &Ui, headers: &HeaderMap, path: &str, value: &str, seconds: u64) -> HeaderValue {
    let secure = session::secure(&ui.api, headers);
    let text = format!("{}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}", cookie_name(&ui.api));
    HeaderValue::from_str(&text).expect("base64 and an encoded path are ASCII")
}

fn read(ui: &Ui, headers: &HeaderMap, visit: &Visit, name: &str) -> Option<Once> {
    let sealed = BASE64_URL_SAFE_NO_PAD.decode(cookie(headers, &cookie_name(&ui.api))?).ok()?;
    let once: Once = serde_json::from_slice(&ui.api.store.unseal(CONTEXT, &sealed)?).ok()?;
    let is_meant = once.name == name && once.key == visit.key.id.as_i64() && clock::wall().millis() < once.ends;
    is_meant.then_some(once)
}

pub async fn show(
    State(ui): State<Arc<Ui>>,
    visit: Visit,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    visit.sight("POST /v1/endpoints/{endpoint}/rotate-secret")?;
    let t = &visit.texts().once;
    let page = page_of(&name);
    let (title, body) = match read(&ui, &headers, &visit, &name) {
        None => (t.already.to_owned(), already(&visit, &page)),
        Some(once) => {
            let title = match once.why {
                Why::Created => (t.is_ready)(&foreign::isolated(&once.title)),
                Why::Rotated => (t.is_rotated)(&foreign::isolated(&once.title)),
            };
            (title.clone(), shown(&visit, &once, &title))
        }
    };
    let mut answer = layout::page(&ui, &visit, &Page::new(Place::Endpoints, &title, body)).await;
    let gone = one_cookie(&ui, &headers, &format!("{page}/secret"), "", 0);
    answer.headers_mut().insert(header::SET_COOKIE, gone);
    Ok(answer)
}

fn already(visit: &Visit, page: &str) -> Markup {
    let t = &visit.texts().once;
    let actions = html! {
        (parts::link_button(page, None, t.open_endpoint, Look::Plain))
        (parts::link_button(&format!("{page}/rotate"), Some("key"), visit.texts().endpoint.rotate, Look::Plain))
    };
    html! {
        (layout::title(t.already).show())
        (parts::empty("key", t.already_title, &html! { p { (t.already_why) } }, &actions))
    }
}

fn shown(visit: &Visit, once: &Once, title: &str) -> Markup {
    let texts = visit.texts();
    let (t, page) = (&texts.once, page_of(&once.name));
    let word = match once.why {
        Why::Created => t.created,
        Why::Rotated => t.rotated,
    };
    let head = Head {
        above: Some(("/endpoints", texts.endpoints.title, html! { span.mono { (foreign::name(&once.name)) } })),
        title: html! { (title) },
        state: Some(Shown::ok(word).chip(&html! {})),
        facts: None,
        actions: None,
    };
    html! {
        (head.show())
        div.once data-once {
            section.section {
                h2 { (t.its_secret) }
                div.secret {
                    code #secret { (foreign::code(&once.secret)) }
                    button.btn.primary.js type="button" data-copy=(once.secret) { (icon("copy")) (texts.frame.copy) }
                }
                p.muted { b { (t.copy_now) } " " (t.kept_encrypted) }
            }
            section.section {
                h2 { (t.verify) }
                @if once.signature == "v1" { (snippets(visit)) }
                @else { p.muted { ((t.verify_other)(&once.signature)) } }
            }
            section.section {
                h2 { (t.see_it_work) }
                @if let Some(test) = &once.test { (steps(visit, test)) (answer(visit, test)) }
                @else { p.muted { (t.not_tested) } }
                p.acts.below {
                    (action(visit, &format!("{page}/test"), Some("arrow"), texts.endpoint.send_test, Look::Plain))
                    (parts::link_button(&page, None, t.open_endpoint, Look::Plain))
                }
            }
        }
    }
}

/// Writes the test as four steps.
fn steps(visit: &Visit, test: &TestSend) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.once;
    let answered = if test.delivered { Shown::ok("") } else { Shown::failed("") };
    let outcome = parts::state::outcome(&test.result.outcome, test.result.status, texts);
    let step = |state: Shown, word: &str, more: &str| {
        html! { div.figure { span.s data-s=(state.tone.as_str()) { (parts::shape(state.shape)) span { (word) } } div.say { (more) } } }
    };
    html! {
        div.figures.tested {
            (step(Shown::ok(""), t.step_signed, t.step_signed_how))
            (step(Shown::ok(""), t.step_sent, &formats.clock(&test.result.at)))
            (step(answered, &outcome, &formats.millis(test.result.latency_ms)))
            (step(Shown::calm(""), t.step_nowhere, t.step_nowhere_why))
        }
    }
}

/// Code that verifies a webhook with a `v1` signature: language, code.
const SNIPPETS: [(&str, &str); 4] = [
    (
        "Python",
        "from standardwebhooks import Webhook          # pip install standardwebhooks\n\n\
         payload = Webhook(os.environ[\"INNESCO_SECRET\"]).verify(body, headers)",
    ),
    (
        "JavaScript",
        "import { Webhook } from \"standardwebhooks\";    // npm install standardwebhooks\n\n\
         const payload = new Webhook(process.env.INNESCO_SECRET).verify(body, headers);",
    ),
    (
        "Rust",
        "use standardwebhooks::Webhook;                // cargo add standardwebhooks\n\n\
         Webhook::new(&secret)?.verify(&body, &headers)?;   // secret: from INNESCO_SECRET",
    ),
    (
        "PHP",
        "use StandardWebhooks\\Webhook;                 // composer require standard-webhooks/standard-webhooks\n\n\
         $payload = (new Webhook(getenv('INNESCO_SECRET')))->verify($body, $headers);",
    ),
];

/// The same verification without a library, in pseudocode.
const BY_HAND: &str = "key       = base64_decode(secret without \"whsec_\")\n\
    signed    = webhook-id + \".\" + webhook-timestamp + \".\" + body\n\
    expected  = \"v1,\" + base64(hmac_sha256(key, signed))\n\n\
    accept if expected is one of the words of webhook-signature (compared in constant time)\n\
    and webhook-timestamp is at most 5 minutes from now";

fn snippets(visit: &Visit) -> Markup {
    let t = &visit.texts().once;
    html! {
        // All languages are in one page, because loading a page for another language would not show the secret again.
        @for (place, (language, code)) in SNIPPETS.iter().chain([&(t.by_hand, BY_HAND)]).enumerate() {
            details.snippet name="language" open[place == 0] {
                summary { (language) }
                div.panel { div.cap { span.grow {} div.end { (parts::copy(code, visit)) } } pre.code tabindex="0" { (code) } }
            }
        }
        p.muted { (t.verify_says) }
    }
}
