//! The messages of the event stream, which report what happens now.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{LogView, Word};
use crate::domain::{
    delivery::{AttemptOutcome, DeadReason, DeliveryState},
    id::{DeliveryId, EventId, RunId},
    name::EventType,
    pattern::Pattern,
    run::{RunOutcome, RunState},
};

/// One message of the event stream.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[schema(as = StreamMessage)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StreamView {
    /// An event was accepted from a caller or a source, or an event of a plugin was routed.
    Event {
        #[schema(value_type = EventId)]
        event: String,
        #[schema(value_type = EventType)]
        r#type: String,
        source: String,
    },
    /// No plugin and no endpoint subscribes to an event.
    Unrouted {
        #[schema(value_type = EventId)]
        event: String,
        #[schema(value_type = EventType)]
        r#type: String,
        /// The pattern of a plugin or endpoint that is most similar to the type.
        #[schema(value_type = Option<Pattern>)]
        nearest: Option<String>,
    },
    /// A source refused a request. Refusals of a caller that floods the source are left out.
    Refused {
        source: String,
        /// Address of the caller.
        address: String,
        /// A short stable word.
        #[schema(value_type = String)]
        reason: Word,
        /// Why it was refused, for people.
        message: String,
    },
    /// A plugin ran.
    Run {
        #[schema(value_type = RunId)]
        run: String,
        #[schema(value_type = EventId)]
        event: String,
        #[schema(value_type = EventType)]
        r#type: String,
        plugin: String,
        /// SHA-256 of the plugin that ran.
        version: Option<String>,
        #[schema(value_type = RunOutcome)]
        outcome: Word,
        #[schema(value_type = RunState)]
        state: Word,
        /// Why the run failed, for people.
        message: Option<String>,
        /// Lines of the plugin's source at which the run was stopped, innermost first.
        #[serde(default)]
        backtrace: Vec<String>,
        /// Name of the missing endpoint that the run waits for.
        wants: Option<String>,
        duration_ms: f64,
        /// Number of webhooks that it requested.
        webhooks: u64,
        /// Number of events that it emitted.
        events: u64,
        /// The first lines of its log.
        #[serde(default)]
        log: Vec<LogView>,
        /// Number of further log lines. `GET /v1/runs/{run}` has those that are stored.
        #[serde(default)]
        log_more: u64,
    },
    /// A webhook was sent, or could not be sent.
    Attempt {
        #[schema(value_type = DeliveryId)]
        delivery: String,
        #[schema(value_type = EventId)]
        event: String,
        /// Event type in the webhook.
        r#type: String,
        /// Name of the endpoint.
        endpoint: String,
        /// Number of the attempt, from 1.
        n: u32,
        attempts_max: u64,
        #[schema(value_type = AttemptOutcome)]
        outcome: Word,
        /// Status of the answer.
        status: Option<u16>,
        /// The outcome in words.
        detail: Option<String>,
        latency_ms: f64,
        /// State of the delivery after the attempt.
        #[schema(value_type = DeliveryState)]
        state: Word,
        /// Why it is dead.
        #[schema(value_type = Option<DeadReason>)]
        reason: Option<Word>,
        /// Time until the next attempt.
        next_in_ms: Option<u64>,
    },
    /// A version of a plugin serves from now on.
    PluginServing {
        plugin: String,
        /// SHA-256 of the version.
        version: String,
        /// SHA-256 of the version that served before.
        was: Option<String>,
        bytes: u64,
    },
    /// A file in the plugin folder was not loaded.
    PluginFailed {
        file: String,
        /// SHA-256 of the version that keeps serving.
        keeps: Option<String>,
        /// Why it was not loaded, for people.
        message: String,
    },
    /// A plugin no longer serves, because its file was removed.
    PluginRemoved { plugin: String },
    /// Messages were dropped, because the caller reads too slowly.
    Missed { count: u64 },
    /// A message of a kind that only a newer engine sends.
    #[serde(other)]
    Unknown,
}
