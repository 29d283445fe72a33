//! Try a plugin out with plain `cargo test`: no engine, no WebAssembly. Native builds only.
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
//! // With them, and a look at what the run left behind:
//! let mut engine = testing::engine().config("endpoint", "mailer");
//! let outcome = engine.run(&Greeter, &event)?;
//! assert_eq!(outcome.webhooks()[0].to.as_deref(), Some("mailer"));
//! assert_eq!(outcome.webhooks()[0].json_body(), json!({ "text": "Welcome!" }));
//! assert_eq!(engine.log(), ["info: greeting evt-1"]);
//! # Ok(())
//! # }
//! ```

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Emit, Event, Outcome, Plugin, Result, Webhook,
    host::stand_in::{self, World},
};

/// Begins an event of this type; everything else has a default. [`EventBuilder::build`] ends it.
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

/// A fresh engine to run plugins in: no settings, no state. Keep it for several runs, as state is kept.
pub fn engine() -> Engine {
    Engine::default()
}

/// Runs a plugin on an event in a fresh engine.
///
/// # Errors
///
/// What the plugin returned.
pub fn run(plugin: &impl Plugin, event: &Event) -> Result<Outcome> {
    engine().run(plugin, event)
}

/// An event in the making: from [`event`].
#[derive(Clone, Debug)]
pub struct EventBuilder(Event);

impl EventBuilder {
    /// Sets the id; `evt-1` unless told.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.0.id = id.into();
        self
    }

    /// Sets the source; `test` unless told.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.0.source = source.into();
        self
    }

    /// Sets the subject; none unless told.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.0.subject = Some(subject.into());
        self
    }

    /// Sets the time, in RFC 3339; `2026-01-02T03:04:05Z` unless told.
    pub fn time(mut self, time: impl Into<String>) -> Self {
        self.0.time = time.into();
        self
    }

    /// Adds an extension attribute, such as `channel`.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.attributes.push((name.into(), value.into()));
        self
    }

    /// Sets the data to this value as JSON; `{}` unless told.
    ///
    /// # Panics
    ///
    /// For what JSON cannot say, such as a map whose keys are not text.
    pub fn json(self, value: impl Serialize) -> Self {
        self.data("application/json", serde_json::to_vec(&value).expect("the event's data can be written as JSON"))
    }

    /// Sets the data to these bytes.
    pub fn data(mut self, content_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.content_type = content_type.into();
        self.0.data = bytes.into();
        self
    }

    /// The event.
    pub fn build(self) -> Event {
        self.0
    }
}

/// Stands in for the engine: settings, state, and the log. From [`engine`].
#[derive(Clone, Debug, Default)]
pub struct Engine(World);

impl Engine {
    /// Makes a setting.
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.config.insert(key.into(), value.into());
        self
    }

    /// Puts a value into the plugin's state.
    pub fn with_state(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.0.state.insert(key.into(), value.into());
        self
    }

    /// Runs a plugin on an event. As in the engine, its state writes count only if it succeeds; a panic is a panic.
    ///
    /// # Errors
    ///
    /// What the plugin returned.
    pub fn run(&mut self, plugin: &impl Plugin, event: &Event) -> Result<Outcome> {
        let mut world = World { log: Vec::new(), ..self.0.clone() };
        let outcome = stand_in::with(&mut world, || plugin.handle(event));
        self.0.log.append(&mut world.log);
        if outcome.is_ok() {
            self.0.state = world.state;
        }
        outcome
    }

    /// What the state holds under this key.
    pub fn state(&self, key: &str) -> Option<&[u8]> {
        self.0.state.get(key).map(Vec::as_slice)
    }

    /// What the state holds under this key, read as JSON.
    ///
    /// # Panics
    ///
    /// When it is not JSON of that shape.
    pub fn state_json<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.state(key).map(|value| from_json(value, &format!("state {key:?}")))
    }

    /// The keys that the state holds, in order.
    pub fn state_keys(&self) -> Vec<&str> {
        self.0.state.keys().map(String::as_str).collect()
    }

    /// The log lines of all runs so far, comparable with text: `info: order 7 is new`.
    pub fn log(&self) -> &[Line] {
        &self.0.log
    }
}

/// A log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// What was said.
    pub message: String,
}

impl PartialEq<&str> for Line {
    /// Compares with `level: message`.
    fn eq(&self, text: &&str) -> bool {
        text.split_once(": ") == Some((&self.level, &self.message))
    }
}

impl Webhook {
    /// The body, read as JSON. For tests: native builds only.
    ///
    /// # Panics
    ///
    /// When it is not JSON.
    pub fn json_body(&self) -> Value {
        from_json(&self.body, "the webhook's body")
    }
}

impl Emit {
    /// The data, read as JSON. For tests: native builds only.
    ///
    /// # Panics
    ///
    /// When it is not JSON.
    pub fn json_data(&self) -> Value {
        from_json(&self.data, "the emitted event's data")
    }
}

fn from_json<T: DeserializeOwned>(bytes: &[u8], what: &str) -> T {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{what} is not as expected: {error}: {}", String::from_utf8_lossy(bytes)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::prelude::*;

    /// Counts, and does at the end what the event says.
    struct Counter;

    impl Plugin for Counter {
        const ON: &'static [&'static str] = &["count"];

        fn handle(&self, event: &Event) -> Result<Outcome> {
            let count = state::get_json::<u32>("count")?.unwrap_or(0) + 1;
            state::set_json("count", &count)?;
            log::info!("count is {count}");
            match event.text()? {
                "fail" => Err(Error::retryable("asked-to", "fail")),
                "panic" => panic!("asked to"),
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
    fn state_of_another_shape_is_named() {
        let mut engine = engine().with_state("count", "many");
        let error = engine.run(&Counter, &told("go")).unwrap_err();
        assert_eq!(error.code, "bad-state");
        assert!(error.message.contains("\"count\""), "{error}");
    }
}
