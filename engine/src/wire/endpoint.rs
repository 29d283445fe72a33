//! Endpoints and subscriptions. A secret has no member here, except in the one answer that reveals it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Word;
use crate::domain::{
    endpoint::{DisabledReason, EndpointState, OnGone, Ordering, Reach},
    envelope::{Envelope, Format},
    id::{EndpointId, KeyId},
    name::Slug,
    pattern::Pattern,
    signature::Scheme,
    time::Timestamp,
};

/// The word for an endpoint that is disabled, for any reason.
pub const DISABLED: &str = "disabled";
/// The words for the state of an endpoint.
pub const ENDPOINT_STATES: [&str; 3] = [EndpointState::Active.as_str(), EndpointState::Paused.as_str(), DISABLED];

/// Where webhooks go.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub struct EndpointView {
    #[schema(value_type = EndpointId)]
    pub id: String,
    /// Fixed, since plugins send to it.
    #[schema(value_type = Slug)]
    pub name: String,
    /// Free text for people.
    pub title: Option<String>,
    /// A key of the role `read` sees `***` in the place of its path and query: for many receivers these are the secret.
    #[schema(format = "uri")]
    pub url: String,
    /// The events that it subscribes to.
    #[schema(value_type = Vec<Pattern>)]
    pub events: Vec<String>,
    /// Attribute → the values of which an event must have one (`source` and `subject` count as attributes).
    pub r#where: BTreeMap<String, Vec<String>>,
    /// The plugin through which each event passes on its way here.
    pub plugin: Option<String>,
    #[schema(value_type = Scheme)]
    pub signature: Word,
    /// What receivers verify with, where the signature is `v1a`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub public_key: Option<String>,
    /// Sent on every webhook; a value that may be a credential is not shown.
    pub headers: BTreeMap<String, String>,
    /// For the whole exchange.
    pub timeout: String,
    /// How long to wait before each attempt; `null` is the default schedule.
    pub schedule: Option<Vec<String>>,
    /// Webhooks on their way at once.
    pub concurrency: usize,
    /// No more than so many per second, minute or hour.
    pub rate: Option<String>,
    #[schema(value_type = Option<Ordering>)]
    pub ordered: Option<Word>,
    pub breaker: BreakerView,
    /// What a direct delivery's body holds.
    #[schema(value_type = Envelope)]
    pub envelope: Word,
    /// How it is written.
    #[schema(value_type = Format)]
    pub format: Word,
    /// Where the signature is a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub token_header: Option<String>,
    pub client_certificate: Option<CertificateView>,
    /// What becomes of it when it answers `410`; `remove` where a program has subscribed it.
    #[schema(value_type = OnGone)]
    pub on_gone: Word,
    /// `public` where a key of the role `subscribe` made it.
    #[schema(value_type = Reach)]
    pub reach: Word,
    /// The key that subscribed it; `null` for an endpoint that a person created, and where the key is not known.
    #[schema(value_type = Option<KeyId>)]
    pub subscribed_by: Option<String>,
    #[schema(value_type = EndpointState)]
    pub state: Word,
    /// Why it is disabled.
    #[schema(value_type = Option<DisabledReason>)]
    pub disabled_reason: Option<Word>,
    /// Set once nothing has succeeded for a while.
    #[schema(value_type = Option<Timestamp>)]
    pub failing_since: Option<String>,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    /// Only in the reply that creates or rotates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub secret: Option<String>,
}

/// Which certificate the endpoint presents. Neither it nor its key is shown.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ClientCertificate)]
pub struct CertificateView {
    pub sha256: Option<String>,
    #[schema(value_type = String)]
    pub key: Word,
}

/// When the endpoint is left alone for a while.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Breaker)]
pub struct BreakerView {
    /// Failures in a row that open it; 0: it never opens.
    pub failures: u32,
    /// How long it is open the first time; each failed probe doubles it.
    pub wait: String,
    /// The longest that it is open between two probes.
    pub wait_max: String,
}

/// A subscription of a program: an endpoint that is removed when it answers `410`.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Subscription)]
pub struct SubscriptionView {
    /// Id, also the endpoint's id.
    #[schema(value_type = EndpointId)]
    pub id: String,
    /// A key of the role `read` sees `***` instead of its path and query.
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
    /// Secret that signs its webhooks. Only in the answer that creates the subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub secret: Option<String>,
}
