//! Converts between the contract's records and the types of the SDK. [`export!`](crate::export) calls this module; it is not part
//! of the API.

use std::time::Duration;

use crate::{__bindings::innesco::plugin::types, Emit, Error, Plugin, Webhook, host};

pub use types::{Event, Failure, Manifest, Outcome};

/// The attribute with the delay of an emitted event.
const AFTER: &str = "innesco.after";

/// Describes the plugin. The attribute `sdk` names the SDK that built the file; each attribute `setting` declares one setting.
pub fn describe<P: Plugin>(name: &str, version: &str, description: &str) -> Manifest {
    Manifest {
        name: name.to_owned(),
        version: version.to_owned(),
        description: description.to_owned(),
        on: P::ON.iter().map(|&pattern| pattern.to_owned()).collect(),
        attributes: attributes::<P>(),
    }
}

fn attributes<P: Plugin>() -> Vec<(String, String)> {
    let sdk = ("sdk".to_owned(), concat!("innesco-sdk ", env!("CARGO_PKG_VERSION")).to_owned());
    let settings = P::SETTINGS.iter().map(|setting| ("setting".to_owned(), setting.attribute()));
    std::iter::once(sdk).chain(settings).collect()
}

/// Executes one run.
pub fn handle(plugin: &impl Plugin, event: Event) -> Result<Outcome, Failure> {
    report_panics();
    plugin.handle(&event.into()).map(Outcome::from).map_err(Failure::from)
}

/// Makes each panic write its message and place to the run's log, because the trap that ends the run contains neither.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("(no message)");
        match panic.location() {
            Some(place) => host::log_write("error", &format!("panicked at {place}: {message}")),
            None => host::log_write("error", &format!("panicked: {message}")),
        }
    }));
}

impl From<Event> for crate::Event {
    fn from(event: Event) -> Self {
        Self {
            id: event.id,
            source: event.source,
            event_type: event.type_,
            subject: event.subject,
            time: event.time,
            content_type: event.content_type,
            data: event.data,
            attributes: event.attributes,
        }
    }
}

impl From<crate::Outcome> for Outcome {
    fn from(outcome: crate::Outcome) -> Self {
        Self {
            webhooks: outcome.webhooks.into_iter().map(types::Webhook::from).collect(),
            events: outcome.events.into_iter().map(types::Emitted::from).collect(),
            attributes: outcome.attributes,
        }
    }
}

impl From<Webhook> for types::Webhook {
    fn from(webhook: Webhook) -> Self {
        Self {
            to: webhook.to,
            type_: webhook.event_type,
            content_type: webhook.content_type,
            body: webhook.body,
            headers: webhook.headers,
            attributes: webhook.attributes,
        }
    }
}

impl From<Emit> for types::Emitted {
    fn from(emit: Emit) -> Self {
        let millis = |after: Duration| u64::try_from(after.as_millis()).unwrap_or(u64::MAX).to_string();
        let after = emit.after.map(|after| (AFTER.to_owned(), millis(after)));
        Self {
            type_: emit.event_type,
            subject: emit.subject,
            content_type: emit.content_type,
            data: emit.data,
            attributes: emit.attributes.into_iter().chain(after).collect(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { code: error.code, message: error.message, retryable: error.retryable }
    }
}
