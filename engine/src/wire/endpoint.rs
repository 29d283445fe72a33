//! Endpoints and subscriptions. A secret appears only in the one answer that reveals it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Word;
use crate::domain::{
    breaker::Breaker,
    endpoint::{DisabledReason, EndpointState, OnGone, Ordering, Reach},
    envelope::{Envelope, Format},
    id::{EndpointId, KeyId},
    name::Slug,
    pattern::Pattern,
    signature::Scheme,
    time::Timestamp,
};

/// The word for an endpoint that is disabled, regardless of the reason.
pub const DISABLED: &str = "disabled";
/// The words for the state of an endpoint.
pub const ENDPOINT_STATES: [&str; 3] = [EndpointState::Active.as_str(), EndpointState::Paused.as_str(), DISABLED];

/// An endpoint: a receiver of webhooks.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub struct EndpointView {
    #[schema(value_type = EndpointId)]
    pub id: String,
    /// Name. Cannot be changed, because plugins send to it.
    #[schema(value_type = Slug)]
    pub name: String,
    /// Title: free text.
    pub title: Option<String>,
    /// A key of the role `read` sees `***` instead of the URL's path and query, which are the secret of many receivers.
    #[schema(format = "uri")]
    pub url: String,
    /// Event types that it subscribes to.
    #[schema(value_type = Vec<Pattern>)]
    pub events: Vec<String>,
    /// Attribute → allowed values, one of which an event must have (`source` and `subject` count as attributes). `data:/POINTER`
    /// is a place in the event's data.
    pub r#where: BTreeMap<String, Vec<String>>,
    /// Plugin that processes each event on its way to the endpoint.
    pub plugin: Option<String>,
    /// Warnings about settings that cannot work. Not included in lists.
    #[serde(default)]
    pub warning: Option<String>,
    #[schema(value_type = Scheme)]
    pub signature: Word,
    /// Public key that verifies the signature `v1a`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub public_key: Option<String>,
    /// Headers of every webhook. Values that may be credentials are not shown.
    pub headers: BTreeMap<String, String>,
    /// Timeout of one complete attempt.
    pub timeout: String,
    /// Wait before each attempt; `null`: the default schedule.
    pub schedule: Option<Vec<String>>,
    /// Maximum number of concurrent webhooks.
    pub concurrency: usize,
    /// Maximum number of attempts per second, minute or hour.
    pub rate: Option<String>,
    #[schema(value_type = Option<Ordering>)]
    pub ordered: Option<Word>,
    pub breaker: BreakerView,
    /// Body format of a direct delivery.
    #[schema(value_type = Envelope)]
    pub envelope: Word,
    /// Body encoding.
    #[schema(value_type = Format)]
    pub format: Word,
    /// Header of the signature `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub token_header: Option<String>,
    pub client_certificate: Option<CertificateView>,
    /// Effect of the answer `410`; `remove` if a program created the endpoint as a subscription.
    #[schema(value_type = OnGone)]
    pub on_gone: Word,
    /// Addresses that its webhooks may reach; `public` if a key of the role `subscribe` created the endpoint.
    #[schema(value_type = Reach)]
    pub reach: Word,
    /// Key that created the subscription; `null` if a person created the endpoint, or if the key is not known.
    #[schema(value_type = Option<KeyId>)]
    pub subscribed_by: Option<String>,
    #[schema(value_type = EndpointState)]
    pub state: Word,
    /// Why it is disabled.
    #[schema(value_type = Option<DisabledReason>)]
    pub disabled_reason: Option<Word>,
    /// Start of the current failures, if no webhook has succeeded for a while.
    #[schema(value_type = Option<Timestamp>)]
    pub failing_since: Option<String>,
    /// How the engine treats the endpoint at the moment. Only in the answer to a request for a single endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ConditionView)]
    pub condition: Option<ConditionView>,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    /// Only in the answer to a request that creates or rotates the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub secret: Option<String>,
}

/// How the engine treats an endpoint at the moment. With several nodes, each node has a breaker for the endpoint. The answer
/// shows the breaker of the node that answers.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = EndpointCondition)]
pub struct ConditionView {
    #[schema(value_type = Breaker)]
    pub breaker: Word,
    /// Failures in a row, while the breaker is closed.
    pub failures: u32,
    /// Time of the next probe, while the breaker is open.
    #[schema(value_type = Option<Timestamp>)]
    pub probe_at: Option<String>,
    /// Number of the endpoint's webhooks that are not finished; `null`: more than 10,000.
    pub waiting: Option<u64>,
    /// When the event of the oldest of these webhooks was accepted.
    #[schema(value_type = Option<Timestamp>)]
    pub waiting_since: Option<String>,
}

/// Client certificate of an endpoint. Neither the certificate nor its key is shown.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ClientCertificate)]
pub struct CertificateView {
    pub sha256: Option<String>,
    #[schema(value_type = String)]
    pub key: Word,
}

/// Circuit breaker: when to stop sending to a failing receiver.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Breaker)]
pub struct BreakerView {
    /// Number of failures in a row that open the breaker; 0: it never opens.
    pub failures: u32,
    /// First open time; each failed probe doubles it.
    pub wait: String,
    /// Maximum open time between two probes.
    pub wait_max: String,
}

/// A subscription that a program created: an endpoint that is removed when it answers `410`.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Subscription)]
pub struct SubscriptionView {
    /// Id of the subscription, which is also the id of the endpoint.
    #[schema(value_type = EndpointId)]
    pub id: String,
    /// A key of the role `read` sees `***` instead of the URL's path and query.
    #[schema(format = "uri")]
    pub target_url: String,
    #[schema(value_type = Pattern)]
    pub event: String,
    /// Name of the endpoint.
    #[schema(value_type = Slug)]
    pub endpoint: String,
    #[schema(value_type = EndpointState)]
    pub state: Word,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    /// Secret that signs its webhooks. Only in the answer to the request that creates the subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub secret: Option<String>,
}
