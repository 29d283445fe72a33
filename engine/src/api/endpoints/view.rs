//! An endpoint in the API's answers. A secret has a field only in the answer that reveals it.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::access::Sight,
    domain::{
        duration,
        endpoint::{DisabledReason, Endpoint, EndpointState, OnGone, Ordering, Reach, shown_url},
        envelope::{Envelope, Format},
        id::{EndpointId, KeyId, Tag},
        name::Slug,
        pattern::Pattern,
        signature::Scheme,
        time::Timestamp,
    },
    outbound::fingerprint,
};

const DISABLED: &str = "disabled";
/// The states of an endpoint.
pub const ENDPOINT_STATES: [&str; 3] = [EndpointState::Active.as_str(), EndpointState::Paused.as_str(), DISABLED];

/// An endpoint: a receiver of webhooks.
#[derive(Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub struct EndpointView {
    #[schema(value_type = EndpointId)]
    pub id: String,
    /// Name. Cannot be changed, because plugins send to it.
    #[schema(value_type = Slug)]
    pub name: String,
    /// Title: free text.
    pub title: Option<String>,
    /// URL. A key of the role `read` sees `***` instead of its path and query, which are secret for many receivers.
    #[schema(format = "uri")]
    pub url: String,
    /// Event types that it subscribes to.
    #[schema(value_type = Vec<Pattern>)]
    pub events: Vec<String>,
    /// Attribute → allowed values, one of which an event must have (`source` and `subject` count as attributes).
    pub r#where: BTreeMap<String, Vec<String>>,
    /// Plugin that processes each event on its way to the endpoint.
    pub plugin: Option<String>,
    #[schema(value_type = Scheme)]
    pub signature: &'static str,
    /// Public key for receivers, if the signature is `v1a`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub public_key: Option<String>,
    /// Headers of every webhook. A value that may be a credential is not shown.
    pub headers: BTreeMap<String, String>,
    /// Timeout of one complete attempt.
    pub timeout: String,
    /// Waits before each attempt; `null` is the default schedule.
    pub schedule: Option<Vec<String>>,
    /// Maximum number of concurrent webhooks.
    pub concurrency: usize,
    /// Maximum number of attempts per second, minute or hour.
    pub rate: Option<String>,
    #[schema(value_type = Option<Ordering>)]
    pub ordered: Option<&'static str>,
    pub breaker: BreakerView,
    /// Body format of a direct delivery.
    #[schema(value_type = Envelope)]
    pub envelope: &'static str,
    /// Body encoding.
    #[schema(value_type = Format)]
    pub format: &'static str,
    /// Header of the token, if the signature is `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub token_header: Option<String>,
    pub client_certificate: Option<CertificateView>,
    /// Reaction to the answer `410`; `remove` for subscriptions of programs.
    #[schema(value_type = OnGone)]
    pub on_gone: &'static str,
    /// `public` if a key of the role `subscribe` created it.
    #[schema(value_type = Reach)]
    pub reach: &'static str,
    /// Key that created the subscription; `null` for an endpoint of a person, and if the key is not known.
    #[schema(value_type = Option<KeyId>)]
    pub subscribed_by: Option<String>,
    #[schema(value_type = EndpointState)]
    pub state: &'static str,
    /// Why it is disabled.
    #[schema(value_type = Option<DisabledReason>)]
    pub disabled_reason: Option<&'static str>,
    /// Set after a time without a success.
    #[schema(value_type = Option<Timestamp>)]
    pub failing_since: Option<String>,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    /// Only in the answer that creates or rotates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub secret: Option<String>,
}

/// The client certificate of the endpoint. Certificate and key are not shown.
#[derive(Serialize, ToSchema)]
#[schema(as = ClientCertificate)]
pub struct CertificateView {
    pub sha256: Option<String>,
    pub key: &'static str,
}

/// The circuit breaker of an endpoint.
#[derive(Serialize, ToSchema)]
#[schema(as = Breaker)]
pub struct BreakerView {
    /// Number of failures in a row that open it; 0: it never opens.
    pub failures: u32,
    /// First open time; each failed probe doubles it.
    pub wait: String,
    /// Maximum open time between two probes.
    pub wait_max: String,
}

impl EndpointView {
    pub fn new(endpoint: &Endpoint, tag: Tag, sight: Sight) -> Self {
        let new = &endpoint.new;
        let (state, disabled_reason) = match new.state {
            EndpointState::Active | EndpointState::Paused => (new.state.as_str(), None),
            EndpointState::Disabled(reason) => (DISABLED, Some(reason.as_str())),
        };
        let secret = new.secrets.first().map(|held| &held.secret);
        Self {
            id: endpoint.id.text(tag),
            name: new.name.to_string(),
            title: new.title.clone(),
            url: match sight {
                Sight::Whole | Sight::Own => new.url.clone(),
                Sight::WithoutSecrets => shown_url(&new.url).into_owned(),
            },
            events: new.subscription.events.iter().map(ToString::to_string).collect(),
            r#where: new.subscription.conditions.iter().cloned().collect(),
            plugin: new.plugin.as_ref().map(ToString::to_string),
            signature: new.scheme.as_str(),
            public_key: secret.and_then(|secret| secret.public()),
            headers: new.policy.headers.iter().map(|(name, value)| (name.clone(), shown(name, value))).collect(),
            timeout: duration::write(new.policy.timeout),
            schedule: new
                .policy
                .schedule
                .as_ref()
                .map(|schedule| schedule.waits().iter().map(|wait| duration::write(*wait)).collect()),
            concurrency: new.policy.concurrency,
            rate: new.policy.rate.map(|rate| rate.to_string()),
            ordered: new.policy.ordering.map(Ordering::as_str),
            breaker: BreakerView {
                failures: new.policy.breaker.failures,
                wait: duration::write(new.policy.breaker.wait),
                wait_max: duration::write(new.policy.breaker.wait_max),
            },
            envelope: new.policy.envelope.as_str(),
            format: new.policy.format.as_str(),
            token_header: (new.scheme == Scheme::Token).then(|| endpoint.proof().token_header.to_owned()),
            client_certificate: new.policy.client_certificate.as_ref().map(|certificate| CertificateView {
                sha256: fingerprint(certificate).map(|digest| digest.to_string()),
                key: HIDDEN,
            }),
            on_gone: new.policy.on_gone.as_str(),
            reach: new.policy.reach.as_str(),
            subscribed_by: new.policy.maker.map(|key| key.text(tag)),
            state,
            disabled_reason,
            failing_since: endpoint.failing_since.map(|since| since.to_string()),
            created_at: endpoint.created_at.to_string(),
            secret: None,
        }
    }

    /// Creates the view with the secret, for the one answer that may contain it.
    pub fn revealing(endpoint: &Endpoint, tag: Tag) -> Self {
        let secret = endpoint.new.secrets.first().map(|held| held.secret.reveal());
        Self { secret, ..Self::new(endpoint, tag, Sight::Whole) }
    }
}

/// Replaces a header value that may be a credential. A change with this text keeps the value.
pub const HIDDEN: &str = "(not shown)";

fn shown(name: &str, value: &str) -> String {
    let plain = ["accept", "accept-language", "x-source", "x-environment"].contains(&name);
    if plain { value.to_owned() } else { HIDDEN.to_owned() }
}
