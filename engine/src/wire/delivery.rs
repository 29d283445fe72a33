//! Deliveries and their attempts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Word;
use crate::domain::{
    delivery::{AttemptOutcome, DeliveryState},
    id::{AttemptId, DeliveryId, EndpointId, EventId, RunId},
    time::Timestamp,
};

/// A webhook on its way to one endpoint.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub struct DeliveryView {
    #[schema(value_type = DeliveryId)]
    pub id: String,
    #[schema(value_type = EventId)]
    pub event: String,
    #[schema(value_type = EndpointId)]
    pub endpoint: String,
    pub endpoint_name: String,
    /// Event type in the webhook.
    pub r#type: String,
    /// 0 for the first run, then one more for each replay of the event.
    pub round: u32,
    #[schema(value_type = DeliveryState)]
    pub state: Word,
    /// The run that requested it; `null` if the endpoint receives the event directly.
    #[serde(default)]
    #[schema(value_type = Option<RunId>)]
    pub run: Option<String>,
    /// Why it is dead or cancelled.
    #[schema(value_type = Option<EndReason>)]
    pub reason: Option<Word>,
    pub attempt_count: u32,
    /// When the next attempt is due.
    #[schema(value_type = Option<Timestamp>)]
    pub due: Option<String>,
    /// Time at which it was delivered, was marked dead, or was cancelled.
    #[schema(value_type = Option<Timestamp>)]
    pub at: Option<String>,
    pub last: Option<LastView>,
}

/// Why a delivery is dead or cancelled. This type exists only for the OpenAPI document.
pub enum EndReason {}

/// Result of the last attempt.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[schema(as = LastAttempt)]
pub struct LastView {
    #[schema(value_type = AttemptOutcome)]
    pub outcome: Word,
    /// Status of the answer.
    pub status: Option<u16>,
    #[serde(default)]
    #[schema(value_type = Timestamp)]
    pub at: String,
    #[serde(default)]
    pub latency_ms: f64,
    /// Details of the outcome, such as a name that does not resolve.
    #[serde(default)]
    pub detail: Option<String>,
}

/// A delivery with its attempts: all of them, or the last 10 in an event's history.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = DeliveryStory)]
pub struct DeliveryStoryView {
    #[serde(flatten)]
    pub delivery: DeliveryView,
    pub attempts: Vec<AttemptView>,
    /// Request of the last attempt. If there was no attempt, the first request as it would be sent now. Only in answers about one
    /// delivery, and only if the engine recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = SentRequestView)]
    pub request: Option<SentRequestView>,
}

/// A request as it was sent. Secrets are `***`.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = SentRequest)]
pub struct SentRequestView {
    #[serde(flatten)]
    pub head: RequestHeadView,
    pub body: BodyView,
}

/// Method, URL and headers of a request. Secrets are `***`, and headers of the connection are missing.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[schema(as = RequestHead)]
pub struct RequestHeadView {
    pub method: String,
    /// A key of the role `read` sees `***` instead of the URL's path and query.
    #[schema(format = "uri")]
    pub url: String,
    pub headers: BTreeMap<String, String>,
    /// Length of the body.
    pub body_bytes: u64,
}

/// The first 64 KiB of a body.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Body)]
pub struct BodyView {
    pub content_type: String,
    /// The body, if it is text.
    pub text: Option<String>,
    /// The body, if it is not text.
    pub base64: Option<String>,
    /// Whether this is the whole body.
    pub is_whole: bool,
}

/// One attempt to send a delivery.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub struct AttemptView {
    #[schema(value_type = AttemptId)]
    pub id: String,
    /// Number of the attempt, from 1.
    pub n: u32,
    #[serde(flatten)]
    pub result: AttemptResultView,
    /// The request of this attempt, without the body. Only in answers about one delivery, and only if the engine recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = RequestHeadView)]
    pub request: Option<RequestHeadView>,
}

/// Result of sending a webhook once.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[schema(as = AttemptResult)]
pub struct AttemptResultView {
    #[schema(value_type = Timestamp)]
    pub at: String,
    #[schema(value_type = AttemptOutcome)]
    pub outcome: Word,
    /// Status of the answer.
    pub status: Option<u16>,
    pub latency_ms: f64,
    /// The outcome in words.
    pub detail: Option<String>,
    /// Start of the answer's body, as text.
    pub excerpt: String,
}

/// The result of a test send.
#[derive(Deserialize, Serialize, ToSchema)]
pub struct TestSend {
    /// Its `webhook-id`; no other webhook has it.
    pub webhook_id: String,
    /// Type of the test event.
    pub event_type: String,
    /// Whether a delivery with this outcome would count as delivered.
    pub delivered: bool,
    #[serde(flatten)]
    pub result: AttemptResultView,
}
