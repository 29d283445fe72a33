//! Tests a plugin with `cargo test`, without an engine and without WebAssembly. Native builds only.
//!
//! ```
//! use innesco_sdk::{prelude::*, testing};
//!
//! struct Greeter;
//!
//! impl Plugin for Greeter {
//!     const ON: &'static [&'static str] = &["contact.created"];
//!
//!     fn handle(&self, event: &Event) -> Result<Outcome> {
//!         let Some(endpoint) = config::get("endpoint") else { return Ok(Outcome::none()) };
//!         log::info!("greeting {}", event.id);
//!         Ok(Webhook::to(endpoint).json(&json!({ "text": "Welcome!" }))?.into())
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! let event = testing::event("contact.created").source("shop").json(json!({ "name": "Anna" })).build();
//!
//! // Without settings and state:
//! assert!(testing::run(&Greeter, &event)?.is_none());
//!
//! // With a setting. The engine holds the log and the state of the run:
//! let mut engine = testing::engine().config("endpoint", "mailer");
//! let outcome = engine.run(&Greeter, &event)?;
//! assert_eq!(outcome.webhooks()[0].to.as_deref(), Some("mailer"));
//! assert_eq!(outcome.webhooks()[0].json_body(), json!({ "text": "Welcome!" }));
//! assert_eq!(engine.log(), ["info: greeting evt-1"]);
//! # Ok(())
//! # }
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Emit, Event, Outcome, Plugin, Result, Setting, Webhook,
    host::stand_in::{self, Ended, Kept, World},
    rules,
};

pub use rules::limits;

/// Starts building an event of this type, with defaults for its other members. [`EventBuilder::build`] returns the event.
pub fn event(event_type: impl Into<String>) -> EventBuilder {
    EventBuilder(Event {
        id: "evt-1".to_owned(),
        source: "test".to_owned(),
        event_type: event_type.into(),
        subject: None,
        time: "2026-01-02T03:04:05Z".to_owned(),
        content_type: "application/json".to_owned(),
        data: b"{}".to_vec(),
        attributes: Vec::new(),
    })
}

/// Creates an engine without settings and state. Use one engine for several runs to keep state between them.
pub fn engine() -> Engine {
    Engine::default()
}

/// Runs a plugin on an event in a fresh engine.
///
/// # Errors
///
/// The error of the plugin, or the reason why the engine would refuse the result: see [`Engine::run`].
pub fn run(plugin: &impl Plugin, event: &Event) -> Result<Outcome> {
    engine().run(plugin, event)
}

/// Builds an event; see [`event`].
#[derive(Clone, Debug)]
pub struct EventBuilder(Event);

impl EventBuilder {
    /// Sets the id; default `evt-1`.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.0.id = id.into();
        self
    }

    /// Sets the source; default `test`.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.0.source = source.into();
        self
    }

    /// Sets the subject; default none.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.0.subject = Some(subject.into());
        self
    }

    /// Sets the time, in RFC 3339; default `2026-01-02T03:04:05Z`.
    pub fn time(mut self, time: impl Into<String>) -> Self {
        self.0.time = time.into();
        self
    }

    /// Sets the time at which the engine accepted the event; default: the time of the event.
    pub fn accepted_at(self, time: impl Into<String>) -> Self {
        self.attribute("innesco.accepted-at", time)
    }

    /// Adds an extension attribute, such as `channel`.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.attributes.push((name.into(), value.into()));
        self
    }

    /// Sets the data to this value as JSON; default `{}`.
    ///
    /// # Panics
    ///
    /// If JSON cannot represent the value, such as a map whose keys are not text.
    pub fn json(self, value: impl Serialize) -> Self {
        self.data("application/json", serde_json::to_vec(&value).expect("the event's data can be written as JSON"))
    }

    /// Sets the data to these bytes.
    pub fn data(mut self, content_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.content_type = content_type.into();
        self.0.data = bytes.into();
        self
    }

    /// Returns the event.
    pub fn build(self) -> Event {
        self.0
    }
}

/// A replacement of the engine for tests: settings, state and log. Create one with [`engine`].
#[derive(Clone, Debug, Default)]
pub struct Engine(World, Option<BTreeSet<String>>);

impl Engine {
    /// Adds a setting.
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.config.insert(key.into(), value.into());
        self
    }

    /// Adds a value to the plugin's state.
    pub fn with_state(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.0.state.insert(key.into(), Kept { value: value.into(), until: None });
        self
    }

    /// Advances the clock that decides whether values of state have expired. The clock starts at zero and moves only by this call.
    pub fn advance(&mut self, time: Duration) {
        self.0.now = self.0.now.saturating_add(time);
    }

    /// Sets the names of the endpoints that exist. A webhook to another name is then refused, and the error suggests the most
    /// similar name. Without this call, every endpoint exists.
    pub fn endpoints<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.1.get_or_insert_default().extend(names.into_iter().map(str::to_owned));
        self
    }

    /// Runs a plugin on an event. As in the engine, its state writes take effect only if it succeeds. A panic of the plugin
    /// reaches the caller.
    ///
    /// # Errors
    /// The error of the plugin. Or, if the engine would end the run as `bad-output`, the error with which it would do so, with the
    /// same code and text. Examples are a header that a plugin cannot set (`header_not_allowed`), too many webhooks, a bad event
    /// type, and a state value that is too large. See [`limits`].
    ///
    /// # Panics
    ///
    /// If a setting is not declared or has a value that the engine refuses.
    pub fn run<P: Plugin>(&mut self, plugin: &P, event: &Event) -> Result<Outcome> {
        let mut world = World { log: Vec::new(), ..self.0.clone() };
        world.config = with_defaults(P::SETTINGS, &self.0.config);
        world.used = Some(BTreeSet::new());
        let ended = catch_unwind(AssertUnwindSafe(|| stand_in::with(&mut world, || plugin.handle(event))));
        let outcome = match ended {
            Ok(outcome) => outcome.and_then(|outcome| rules::check(&outcome, self.1.as_ref()).map(|()| outcome)),
            Err(panic) => match panic.downcast::<Ended>() {
                Ok(ended) => Err(ended.0),
                Err(panic) => resume_unwind(panic),
            },
        };
        self.0.log.append(&mut world.log);
        if outcome.is_ok() {
            self.0.state = world.state;
        }
        outcome
    }

    /// Returns the state of this key.
    pub fn state(&self, key: &str) -> Option<&[u8]> {
        self.0.state(key)
    }

    /// Returns the state of this key, read as JSON.
    ///
    /// # Panics
    ///
    /// If the value is not JSON of that shape.
    pub fn state_json<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.state(key).map(|value| from_json(value, &format!("state {key:?}")))
    }

    /// Returns the keys of the state that have not expired, in order.
    pub fn state_keys(&self) -> Vec<&str> {
        self.0.state.keys().map(String::as_str).filter(|key| self.0.state(key).is_some()).collect()
    }

    /// Returns the log lines of all runs. A line can be compared with a text such as `info: order 7 is new`.
    pub fn log(&self) -> &[Line] {
        &self.0.log
    }
}

/// A log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The text.
    pub message: String,
    /// Names and values of the line's fields.
    pub fields: Vec<(String, String)>,
}

impl Line {
    /// Returns the value of the field with this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl PartialEq<&str> for Line {
    /// Compares the line with a text of the form `level: message`.
    fn eq(&self, text: &&str) -> bool {
        text.split_once(": ") == Some((&self.level, &self.message))
    }
}

impl Webhook {
    /// Returns the body, read as JSON. For tests: native builds only.
    ///
    /// # Panics
    ///
    /// If it is not JSON.
    pub fn json_body(&self) -> Value {
        from_json(&self.body, "the webhook's body")
    }
}

impl Webhook {
    /// Returns the type that the receiver gets in the header `innesco-type`. For tests: native builds only.
    pub fn type_for<'a>(&'a self, event: &'a Event) -> &'a str {
        self.event_type.as_deref().unwrap_or(&event.event_type)
    }
}

impl Emit {
    /// Returns the data, read as JSON. For tests: native builds only.
    ///
    /// # Panics
    ///
    /// If it is not JSON.
    pub fn json_data(&self) -> Value {
        from_json(&self.data, "the emitted event's data")
    }
}

/// Returns the settings as a run in the engine reads them.
fn with_defaults(declared: &[Setting], set: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    for (name, value) in set {
        assert!(declared.is_empty() || declared.iter().any(|one| one.covers(name)), "the plugin declares no setting {name:?}");
        assert!(!declared.iter().any(|one| one.refuses(name, value)), "the engine refuses setting {name:?} = {value:?}");
    }
    let defaults = declared.iter().filter_map(Setting::default_value);
    let mut all: BTreeMap<_, _> = defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    all.extend(set.clone());
    all
}

fn from_json<T: DeserializeOwned>(bytes: &[u8], what: &str) -> T {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("{what} is not as expected: {error}: {}", String::from_utf8_lossy(bytes)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::prelude::*;

    /// A plugin that counts its runs in the state, and then ends in the way that the event requests.
    struct Counter;

    impl Plugin for Counter {
        const ON: &'static [&'static str] = &["count"];

        fn handle(&self, event: &Event) -> Result<Outcome> {
            let count = state::get_json::<u32>("count")?.unwrap_or(0) + 1;
            state::set_json("count", &count)?;
            log::info!("count is {count}");
            match event.text()? {
                "fail" => Err(Error::retryable("asked-to", "fail")),
                "panic" => panic!("requested"),
                "forget" => {
                    state::delete("count");
                    Ok(Outcome::none())
                }
                _ => Ok(Emit::new("counted").json(&count)?.into()),
            }
        }
    }

    fn told(what: &str) -> Event {
        event("count").data("text/plain", what).build()
    }

    #[test]
    fn state_outlives_a_run_and_logs_add_up() {
        let mut engine = engine().with_state("count", "40");
        engine.run(&Counter, &told("go")).unwrap();
        let outcome = engine.run(&Counter, &told("go")).unwrap();
        assert_eq!(outcome.events()[0].json_data(), json!(42));
        assert_eq!(engine.state_json::<u32>("count"), Some(42));
        assert_eq!(engine.log(), ["info: count is 41", "info: count is 42"]);
        engine.run(&Counter, &told("forget")).unwrap();
        assert!(engine.state_keys().is_empty());
    }

    #[test]
    fn a_failed_run_writes_no_state_but_keeps_its_log() {
        let mut engine = engine();
        assert!(engine.run(&Counter, &told("fail")).unwrap_err().retryable);
        assert_eq!(engine.state("count"), None);
        assert_eq!(engine.log().len(), 1);
    }

    #[test]
    fn a_panic_leaves_the_engine_and_the_thread_as_they_were() {
        let mut engine = engine().with_state("count", "1");
        let panicking = std::panic::AssertUnwindSafe(|| engine.run(&Counter, &told("panic")));
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert_eq!(engine.state_json::<u32>("count"), Some(1));
        assert_eq!(state::get("count"), None, "the thread's own world is back");
    }

    #[test]
    fn a_webhook_has_the_type_of_its_event_unless_the_plugin_sets_another() {
        let event = event("order.created").build();
        assert_eq!(Webhook::to("crm").type_for(&event), "order.created");
        assert_eq!(Webhook::to("crm").event_type("order.big").type_for(&event), "order.big");
    }

    #[test]
    fn state_of_another_shape_is_named() {
        let mut engine = engine().with_state("count", "many");
        let error = engine.run(&Counter, &told("go")).unwrap_err();
        assert_eq!(error.code, "bad-state");
        assert!(error.message.contains("\"count\""), "{error}");
    }

    /// A plugin that returns the result of its function.
    struct Asks(fn() -> Result<Outcome>);

    impl Plugin for Asks {
        const ON: &'static [&'static str] = &["ask"];

        fn handle(&self, _: &Event) -> Result<Outcome> {
            (self.0)()
        }
    }

    /// A handler, and the text of its refusal.
    type Case = (fn() -> Result<Outcome>, &'static str);

    #[test]
    fn a_refusal_of_the_engine_is_an_error_with_the_same_text() {
        assert!(run(&Asks(|| Ok(Webhook::onward().into())), &told("go")).is_ok(), "the plugin of an endpoint");
        let cases: [Case; 10] = [
            (
                || Ok(Webhook::to("crm").header("Authorization", "Bearer x").into()),
                "header_not_allowed: webhook 1: sets the header authorization, which only the endpoint may set; set it there",
            ),
            (|| Ok(Webhook::to("crm").header("x", "a\nb").into()), "bad_header: webhook 1: the value of header x must be"),
            (|| Ok(vec![Webhook::to("crm"); 1001].into()), "too_many_webhooks: returned 1001 webhooks; the limit is 1000"),
            (|| Ok(vec![Webhook::to("crm"), Webhook::onward()].into()), "no_endpoint: webhook 2: names no endpoint; set `to`"),
            (|| Ok(Emit::new("or der").into()), "bad_event_type: event 1: \"or der\" is not an event type: use letters"),
            (|| Ok(Emit::new("innesco.x").into()), "reserved_type: event 1: types that begin with innesco."),
            (|| Ok(Emit::new("a").data("application/json", "{").into()), "bad_data: event 1: declares its data as"),
            (
                || Ok(Emit::new("a").after(std::time::Duration::from_secs(31 * 86_400)).into()),
                "bad_delay: event 1: is due after 2678400000 ms; the limit is 30 days",
            ),
            (|| Ok(Emit::new("a").attribute("Channel", "x").into()), "bad_attribute: event 1: \"Channel\" is not"),
            (
                || Ok(Webhook::to("crm").body("text/plain", vec![0; 21 << 20]).into()),
                "output_too_large: returned more than 20 MiB",
            ),
        ];
        for (asks, expected) in cases {
            let error = run(&Asks(asks), &told("go")).unwrap_err();
            assert!(error.to_string().starts_with(expected) && !error.retryable, "{error}");
        }
    }

    #[test]
    fn a_run_ends_where_it_exceeds_a_limit_of_its_state() {
        let cases: [Case; 3] = [
            (
                || {
                    state::set("a", vec![0; (64 << 10) + 1]);
                    unreachable!("the run has ended")
                },
                "state_limit: sets a state value of 64.0 KiB; the limit is 64 KiB",
            ),
            (
                || {
                    state::get(&"k".repeat(300));
                    unreachable!("the run has ended")
                },
                "state_limit: uses a state key of 300 B; the limit is 256 B",
            ),
            (
                || {
                    (0..65).for_each(|number| state::set(&number.to_string(), "x"));
                    unreachable!("the run has ended")
                },
                "state_limit: uses more than 64 state keys in one run",
            ),
        ];
        for (asks, expected) in cases {
            let mut engine = engine();
            assert_eq!(engine.run(&Asks(asks), &told("go")).unwrap_err().to_string(), expected);
            assert!(engine.state_keys().is_empty(), "nothing is stored");
        }
        state::set("outside", vec![0; 1 << 20]);
    }

    #[test]
    fn only_the_named_endpoints_exist() {
        let asks = Asks(|| Ok(Webhook::to("slak").into()));
        assert!(engine().run(&asks, &told("go")).is_ok());
        let error = engine().endpoints(["slack", "crm"]).run(&asks, &told("go")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown_endpoint: webhook 1 goes to endpoint \"slak\", which does not exist; the nearest name is \"slack\""
        );
        let error = engine().endpoints(["mailer"]).run(&asks, &told("go")).unwrap_err();
        assert!(error.message.ends_with("create it, and the run is tried again"), "{error}");
        assert!(engine().endpoints(["slak"]).run(&asks, &told("go")).is_ok());
    }
}
