//! An endpoint as the API shows it. A secret has no field here, except in the one reply that reveals it.

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
/// The states that an endpoint is shown in.
pub const ENDPOINT_STATES: [&str; 3] = [EndpointState::Active.as_str(), EndpointState::Paused.as_str(), DISABLED];

/// Where webhooks go.
#[derive(Serialize, ToSchema)]
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
    pub signature: &'static str,
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
    pub ordered: Option<&'static str>,
    pub breaker: BreakerView,
    /// What a direct delivery's body holds.
    #[schema(value_type = Envelope)]
    pub envelope: &'static str,
    /// How it is written.
    #[schema(value_type = Format)]
    pub format: &'static str,
    /// Where the signature is a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub token_header: Option<String>,
    pub client_certificate: Option<CertificateView>,
    /// What becomes of it when it answers `410`; `remove` where a program has subscribed it.
    #[schema(value_type = OnGone)]
    pub on_gone: &'static str,
    /// `public` where a key of the role `subscribe` made it.
    #[schema(value_type = Reach)]
    pub reach: &'static str,
    /// The key that subscribed it; `null` for an endpoint that a person created, and where the key is not known.
    #[schema(value_type = Option<KeyId>)]
    pub subscribed_by: Option<String>,
    #[schema(value_type = EndpointState)]
    pub state: &'static str,
    /// Why it is disabled.
    #[schema(value_type = Option<DisabledReason>)]
    pub disabled_reason: Option<&'static str>,
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
#[derive(Serialize, ToSchema)]
#[schema(as = ClientCertificate)]
pub struct CertificateView {
    pub sha256: Option<String>,
    pub key: &'static str,
}

/// When the endpoint is left alone for a while.
#[derive(Serialize, ToSchema)]
#[schema(as = Breaker)]
pub struct BreakerView {
    /// Failures in a row that open it; 0: it never opens.
    pub failures: u32,
    /// How long it is open the first time; each failed probe doubles it.
    pub wait: String,
    /// The longest that it is open between two probes.
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

    /// With the secret: for the one reply that may carry it.
    pub fn revealing(endpoint: &Endpoint, tag: Tag) -> Self {
        let secret = endpoint.new.secrets.first().map(|held| held.secret.reveal());
        Self { secret, ..Self::new(endpoint, tag, Sight::Whole) }
    }
}

/// What stands for a header value that may be a credential. Sending it back leaves the value as it is.
pub const HIDDEN: &str = "(not shown)";

fn shown(name: &str, value: &str) -> String {
    let plain = ["accept", "accept-language", "x-source", "x-environment"].contains(&name);
    if plain { value.to_owned() } else { HIDDEN.to_owned() }
}
