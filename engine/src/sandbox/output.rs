//! Checks a plugin's result before anything uses it. The first violation ends the run as `bad-output`. The message names the
//! webhook or event (counted from 1), what is wrong, and the rule.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::{
    bindings::innesco::plugin::types::{self, Outcome},
    limits::Limits,
    log::printable,
};
use crate::domain::{
    content::Content,
    delivery::Payload,
    endpoint::{Policy, header_is_ours, header_is_the_endpoints},
    name::{Attributes, EventType, Slug},
    run::{AFTER_MAX, Emitted, Requests, RunFailure, RunOutcome, Webhook},
};

/// Maximum length of a content type, in bytes.
const CONTENT_TYPE_BYTES: usize = 255;
/// Maximum length of one header's value, in bytes: receivers commonly refuse more.
const HEADER_VALUE_BYTES: usize = 4 << 10;
/// Attribute by which a plugin schedules an emitted event: its delay after the run, in milliseconds. This name contains a dot, so
/// it can never be the name of an attribute of the event.
const AFTER: &str = "innesco.after";

/// A violated rule: a stable word, and a sentence.
pub struct Breach {
    code: &'static str,
    message: String,
}

impl Breach {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Adds the number of the webhook or event, counted from 1.
    fn of(self, thing: &str, place: usize) -> Self {
        Self { message: format!("{thing} {}: {}", place + 1, self.message), ..self }
    }
}

impl From<Breach> for RunFailure {
    fn from(breach: Breach) -> Self {
        Self { outcome: RunOutcome::BadOutput, code: breach.code.to_owned(), message: breach.message, retryable: false }
    }
}

/// Whether a plugin's webhooks name their endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// Each webhook names its endpoint.
    Named,
    /// All webhooks go to the endpoint to which the plugin belongs.
    Bound,
}

/// Converts a plugin's result into requests to the engine.
pub fn requests(outcome: Outcome, addressing: Addressing, limits: &Limits) -> Result<Requests, Breach> {
    let (webhooks, events) = (outcome.webhooks.len(), outcome.events.len());
    if webhooks > limits.webhooks {
        return Err(Breach::new("too_many_webhooks", format!("returned {webhooks} webhooks; the limit is {}", limits.webhooks)));
    }
    if events > limits.events {
        return Err(Breach::new("too_many_events", format!("emitted {events} events; the limit is {}", limits.events)));
    }
    let webhooks = outcome.webhooks.into_iter().enumerate();
    let emitted = outcome.events.into_iter().enumerate();
    Ok(Requests {
        webhooks: webhooks
            .map(|(place, one)| webhook(one, addressing).map_err(|breach| breach.of("webhook", place)))
            .collect::<Result<_, _>>()?,
        emitted: emitted.map(|(place, one)| event(one).map_err(|breach| breach.of("event", place))).collect::<Result<_, _>>()?,
    })
}

/// Converts a failure that a plugin returned, cut to a readable length.
pub fn failure(failure: types::Failure) -> RunFailure {
    let or = |text: String, otherwise: &str| if text.trim().is_empty() { otherwise.to_owned() } else { text };
    let code = printable(&failure.code, Limits::CODE_BYTES).replace(['\n', '\t'], " ");
    RunFailure {
        outcome: RunOutcome::Failed,
        code: or(code, "failed"),
        message: or(printable(&failure.message, Limits::MESSAGE_BYTES), "the plugin gave no reason"),
        retryable: failure.retryable,
    }
}

fn webhook(asked: types::Webhook, addressing: Addressing) -> Result<Webhook, Breach> {
    match (&asked.to, addressing) {
        (None, Addressing::Named) => {
            return Err(Breach::new("no_endpoint", "names no endpoint; set `to`"));
        }
        (Some(to), Addressing::Bound) => {
            let message = format!(
                "goes to {:?}, but the plugin of an endpoint can send only to that endpoint; leave `to` out",
                printable(to, Slug::LEN_MAX)
            );
            return Err(Breach::new("endpoint_not_allowed", message));
        }
        // Whether the endpoint exists is checked where endpoints are known, so that the error can name the most similar endpoint.
        (Some(to), Addressing::Named) if to.is_empty() || to.len() > Slug::LEN_MAX => {
            let message = format!("goes to {:?}, which cannot be an endpoint's name", printable(to, Slug::LEN_MAX));
            return Err(Breach::new("bad_endpoint", message));
        }
        _ => {}
    }
    if asked.headers.len() > Policy::HEADERS_MAX {
        let message = format!("has {} headers; the limit is {}", asked.headers.len(), Policy::HEADERS_MAX);
        return Err(Breach::new("bad_header", message));
    }
    Ok(Webhook {
        to: asked.to,
        payload: Payload {
            event_type: asked.type_.as_deref().map(event_type).transpose()?,
            content_type: content_type(asked.content_type)?,
            headers: asked.headers.into_iter().map(|(name, value)| header(&name, value)).collect::<Result<_, _>>()?,
            body: Bytes::from(asked.body),
        },
    })
}

fn event(asked: types::Emitted) -> Result<Emitted, Breach> {
    let event_type = event_type(&asked.type_)?;
    let content_type = content_type(asked.content_type)?;
    let content = Content::new(content_type.as_str(), Bytes::from(asked.data)).map_err(|error| {
        Breach::new("bad_data", format!("declares its data as {content_type}, but the data does not parse: {error}"))
    })?;
    let mut attributes = Attributes::default();
    let mut after = None;
    for (name, value) in asked.attributes {
        if name == AFTER {
            if after.replace(delay(&value)?).is_some() {
                return Err(Breach::new("bad_delay", format!("sets {AFTER} twice")));
            }
            continue;
        }
        attributes.push(&name, value).map_err(|bad| Breach::new("bad_attribute", printable(&bad.0, Limits::MESSAGE_BYTES)))?;
    }
    if let Some(subject) = &asked.subject
        && (subject.len() > Attributes::VALUE_LEN_MAX || subject.chars().any(char::is_control))
    {
        let message =
            format!("its subject must be text of at most {} bytes without control characters", Attributes::VALUE_LEN_MAX);
        return Err(Breach::new("bad_subject", message));
    }
    Ok(Emitted { after: after.unwrap_or_default(), event_type, subject: asked.subject, content, attributes })
}

/// Reads the value of [`AFTER`].
fn delay(text: &str) -> Result<Duration, Breach> {
    let Ok(millis) = text.parse() else {
        let shown = printable(text, 64);
        return Err(Breach::new("bad_delay", format!("sets {AFTER} to {shown:?}, which is not a number of milliseconds")));
    };
    let after = Duration::from_millis(millis);
    if after > AFTER_MAX {
        let (millis, days) = (after.as_millis(), AFTER_MAX.as_secs() / 86_400);
        return Err(Breach::new("bad_delay", format!("is due after {millis} ms; the limit is {days} days")));
    }
    Ok(after)
}

fn event_type(text: &str) -> Result<EventType, Breach> {
    EventType::parse(text).map_err(|bad| Breach::new("bad_event_type", printable(&bad.0, Limits::MESSAGE_BYTES)))
}

fn content_type(text: String) -> Result<String, Breach> {
    let valid = text.contains('/') && text.len() <= CONTENT_TYPE_BYTES && HeaderValue::from_str(&text).is_ok();
    if valid {
        return Ok(text);
    }
    let shown = printable(&text, CONTENT_TYPE_BYTES);
    Err(Breach::new("bad_content_type", format!("{shown:?} is not a content type; write one such as application/json")))
}

fn header(name: &str, value: String) -> Result<(String, String), Breach> {
    let shown = printable(name, 64);
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(Breach::new("bad_header", format!("{shown:?} is not the name of a header")));
    };
    let name = name.as_str();
    if header_is_ours(name) {
        return Err(Breach::new("header_not_allowed", format!("sets the header {name}, which is reserved for the engine")));
    }
    if header_is_the_endpoints(name) {
        let message = format!("sets the header {name}, which only the endpoint may set; set it there");
        return Err(Breach::new("header_not_allowed", message));
    }
    if value.len() > HEADER_VALUE_BYTES || !value.is_ascii() || HeaderValue::from_str(&value).is_err() {
        let message =
            format!("the value of header {name} must be printable ASCII without line breaks, {HEADER_VALUE_BYTES} bytes at most");
        return Err(Breach::new("bad_header", message));
    }
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook() -> types::Webhook {
        types::Webhook {
            to: Some("crm".into()),
            type_: None,
            content_type: "text/plain".into(),
            body: b"hi".to_vec(),
            headers: vec![("X-Shop".into(), "1".into())],
            attributes: vec![],
        }
    }

    fn emitted() -> types::Emitted {
        types::Emitted {
            type_: "order.big".into(),
            subject: None,
            content_type: "application/json".into(),
            data: b"{}".to_vec(),
            attributes: vec![],
        }
    }

    fn look(webhooks: Vec<types::Webhook>, events: Vec<types::Emitted>, addressing: Addressing) -> Result<Requests, String> {
        let outcome = Outcome { webhooks, events, attributes: vec![] };
        requests(outcome, addressing, &Limits::default()).map_err(|breach| format!("{}: {}", breach.code, breach.message))
    }

    #[test]
    fn accepts_good_output() {
        let requests = look(vec![webhook()], vec![emitted()], Addressing::Named).unwrap();
        assert_eq!(requests.webhooks[0].to.as_deref(), Some("crm"));
        assert_eq!(requests.webhooks[0].payload.headers, [("x-shop".to_owned(), "1".to_owned())]);
        assert_eq!(&*requests.emitted[0].event_type, "order.big");
    }

    #[test]
    fn names_the_violation_of_a_webhook() {
        type Change = fn(&mut types::Webhook);
        let cases: [(Change, &str); 9] = [
            (|it| it.to = None, "no_endpoint: webhook 2: names no endpoint"),
            (|it| it.to = Some("x".repeat(65)), "bad_endpoint: webhook 2: goes to"),
            (|it| it.type_ = Some("or der".into()), "bad_event_type: webhook 2: \"or der\" is not an event type"),
            (|it| it.content_type = "a/b\r\nx: y".into(), "bad_content_type: webhook 2: \"a/b\\nx: y\" is not"),
            (|it| it.headers[0].0 = "a b".into(), "bad_header: webhook 2: \"a b\" is not the name of a header"),
            (|it| it.headers[0].1 = "a\nb".into(), "bad_header: webhook 2: the value of header x-shop"),
            (
                |it| it.headers[0].0 = "Webhook-Signature".into(),
                "header_not_allowed: webhook 2: sets the header webhook-signature",
            ),
            (|it| it.headers[0].0 = "Authorization".into(), "header_not_allowed: webhook 2: sets the header authorization"),
            (|it| it.headers = vec![("a".into(), "b".into()); 33], "bad_header: webhook 2: has 33 headers"),
        ];
        for (change, expected) in cases {
            let mut bad = webhook();
            change(&mut bad);
            let found = look(vec![webhook(), bad], vec![], Addressing::Named).unwrap_err();
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn refuses_an_endpoint_from_a_bound_plugin() {
        let found = look(vec![webhook()], vec![], Addressing::Bound).unwrap_err();
        assert!(found.starts_with("endpoint_not_allowed: webhook 1: goes to \"crm\""), "{found}");
        let nameless = types::Webhook { to: None, ..webhook() };
        assert!(look(vec![nameless], vec![], Addressing::Bound).is_ok());
    }

    #[test]
    fn names_the_violation_of_an_event() {
        type Change = fn(&mut types::Emitted);
        let cases: [(Change, &str); 8] = [
            (|it| it.type_ = "é".into(), "bad_event_type: event 1: \"é\""),
            (|it| it.data = b"{".to_vec(), "bad_data: event 1: declares its data as application/json"),
            (|it| it.attributes = vec![("Channel".into(), "x".into())], "bad_attribute: event 1: \"Channel\""),
            (|it| it.attributes = vec![("type".into(), "x".into())], "bad_attribute: event 1: \"type\""),
            (|it| it.subject = Some("a\nb".into()), "bad_subject: event 1: its subject"),
            (
                |it| it.attributes = vec![(AFTER.into(), "-1".into())],
                "bad_delay: event 1: sets innesco.after to \"-1\", which is",
            ),
            (
                |it| it.attributes = vec![(AFTER.into(), "2592000001".into())],
                "bad_delay: event 1: is due after 2592000001 ms; the",
            ),
            (|it| it.attributes = vec![(AFTER.into(), "1".into()), (AFTER.into(), "1".into())], "bad_delay: event 1: sets"),
        ];
        for (change, expected) in cases {
            let mut bad = emitted();
            change(&mut bad);
            let found = look(vec![], vec![bad], Addressing::Named).unwrap_err();
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn cuts_a_long_failure_of_a_plugin() {
        let given = types::Failure { code: "x".repeat(100), message: "é\x1b[1m".repeat(2000), retryable: true };
        let failure = failure(given);
        assert_eq!((failure.code.len(), failure.message.len(), failure.retryable), (64, 2048, true));
        assert!(!failure.message.contains('\x1b'));
        let given = types::Failure { code: " ".into(), message: String::new(), retryable: false };
        assert_eq!(super::failure(given).message, "the plugin gave no reason");
    }

    /// A plugin for the SDK's test engine that returns this outcome.
    struct Returns(innesco_sdk::Outcome);

    impl innesco_sdk::Plugin for Returns {
        const ON: &'static [&'static str] = &["*"];

        fn handle(&self, _: &innesco_sdk::Event) -> innesco_sdk::Result<innesco_sdk::Outcome> {
            Ok(self.0.clone())
        }
    }

    /// Returns the attributes that the SDK sends with an event.
    fn attributes(one: &innesco_sdk::Emit) -> Vec<(String, String)> {
        let after = one.after.map(|after| (AFTER.to_owned(), after.as_millis().to_string()));
        one.attributes.iter().cloned().chain(after).collect()
    }

    /// Asserts that the SDK's tests and this module give the same answer.
    fn same(outcome: innesco_sdk::Outcome, addressing: Addressing) {
        let webhooks = outcome.webhooks().iter().map(|one| types::Webhook {
            to: one.to.clone(),
            type_: one.event_type.clone(),
            content_type: one.content_type.clone(),
            body: one.body.clone(),
            headers: one.headers.clone(),
            attributes: vec![],
        });
        let events = outcome.events().iter().map(|one| types::Emitted {
            type_: one.event_type.clone(),
            subject: one.subject.clone(),
            content_type: one.content_type.clone(),
            data: one.data.clone(),
            attributes: attributes(one),
        });
        let here = look(webhooks.collect(), events.collect(), addressing).map(drop);
        let event = innesco_sdk::testing::event("order.created").build();
        let there = innesco_sdk::testing::run(&Returns(outcome), &event).map(drop).map_err(|error| error.to_string());
        assert_eq!(there, here, "left: the SDK's tests, right: the engine");
    }

    #[test]
    fn plugin_tests_refuse_the_same_results_with_the_same_text() {
        use innesco_sdk::{Emit, Webhook, testing::limits};
        let ours = Limits::default();
        let here = [ours.webhooks, ours.events, ours.output_bytes, ours.state_keys, ours.state_key_bytes, ours.state_value_bytes];
        let there = [
            limits::WEBHOOKS,
            limits::EVENTS,
            limits::OUTPUT_BYTES,
            limits::STATE_KEYS,
            limits::STATE_KEY_BYTES,
            limits::STATE_VALUE_BYTES,
        ];
        assert_eq!(there, here);

        let crm = || Webhook::to("crm").body("text/plain", "hi");
        let named = |webhook: Webhook| same(webhook.into(), Addressing::Named);
        use crate::domain::endpoint::{OUR_HEADER_PREFIXES, OUR_HEADERS};
        let headers = OUR_HEADERS.iter().map(|name| (*name).to_owned()).chain(OUR_HEADER_PREFIXES.map(|one| format!("{one}x")));
        let proofs = [
            "authorization",
            "Cookie",
            "x-hub-signature-256",
            "stripe-signature",
            "x-wc-webhook-signature",
            "X-Shopify-Hmac-Sha256",
        ];
        for name in headers.chain(proofs.map(str::to_owned)).chain(["x-shop", "", "a b", "é", "x:y"].map(str::to_owned)) {
            named(crm().header(name, "1"));
        }
        for value in ["", "a\tb", "a\nb", "é", "\u{7f}", &"x".repeat(4096), &"x".repeat(4097)] {
            named(crm().header("x-shop", value));
        }
        for kind in [
            "text/plain; charset=utf-8",
            "text",
            "a/b\r\nx: y",
            &format!("a/{}", "b".repeat(253)),
            &format!("a/{}", "b".repeat(254)),
        ] {
            named(crm().body(kind, "hi"));
        }
        for event_type in ["order.big", "or der", "", "a*", "a,b", &"x".repeat(255), &"x".repeat(256)] {
            named(crm().event_type(event_type));
            same(Emit::new(event_type).into(), Addressing::Named);
        }
        for name in ["", &"x".repeat(64), &"x".repeat(65)] {
            named(Webhook::to(name).body("text/plain", "hi"));
        }
        for count in [32, 33] {
            named((0..count).fold(crm(), |webhook, number| webhook.header(format!("x-{number}"), "1")));
            let emit = (0..count).fold(Emit::new("a"), |emit, number| emit.attribute(format!("a{number}"), "1"));
            same(emit.into(), Addressing::Named);
        }
        for (name, value) in
            [("channel", "x"), ("Channel", "x"), ("type", "x"), ("", "x"), ("a", "b\nc"), ("a", &"x".repeat(1025))]
        {
            same(Emit::new("a").attribute(name, value).into(), Addressing::Named);
        }
        same(Emit::new("a").attribute("b", "1").attribute("b", "2").into(), Addressing::Named);
        for subject in ["7", "a\nb", &"x".repeat(1024), &"x".repeat(1025)] {
            same(Emit::new("a").subject(subject).into(), Addressing::Named);
        }
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        for data in ["{}", "", "{", "{} x", "\u{feff}{}", "[1e999999]", r#""\ud83d""#, &deep(120), &deep(121)] {
            for kind in ["application/json", "application/vnd.shop+json; v=1", "text/json", "text/plain"] {
                same(Emit::new("a").data(kind, data).into(), Addressing::Named);
            }
        }
        same(Emit::new("a").data("application/json", [b'"', 0xff, b'"']).into(), Addressing::Named);
        for count in [1000, 1001] {
            same(vec![crm(); count].into(), Addressing::Named);
            same(std::iter::repeat_n(Emit::new("a"), count).collect(), Addressing::Named);
        }
        same(vec![crm(), Webhook::onward()].into(), Addressing::Named);
        same(vec![Webhook::onward(), crm()].into(), Addressing::Bound);
        same(vec![Webhook::onward(), Webhook::onward()].into(), Addressing::Bound);
    }
}
