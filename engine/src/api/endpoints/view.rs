//! An endpoint as the API shows it. Only [`EndpointView::revealing`] fills in a secret.

use std::borrow::Cow;

use url::{Host, Url};

use crate::{
    api::{Api, access::Sight, error::Problem},
    domain::{
        breaker::Breaker,
        duration,
        endpoint::{Endpoint, EndpointState, shown_url},
        id::{EndpointId, Tag},
        name::nearest,
        sent::header_may_be_shown,
        signature::Scheme,
    },
    outbound::fingerprint,
    wire::{BreakerView, CertificateView, ConditionView, DISABLED, EndpointView},
};

/// Returns the URL of an endpoint as a caller may see it.
pub fn visible_url(endpoint: &Endpoint, sight: Sight) -> Cow<'_, str> {
    match sight {
        Sight::Whole | Sight::Own => (&*endpoint.new.url).into(),
        Sight::WithoutSecrets => shown_url(&endpoint.new.url),
    }
}

impl EndpointView {
    pub fn new(endpoint: &Endpoint, tag: Tag, sight: Sight) -> Self {
        let new = &endpoint.new;
        let (state, disabled_reason) = match new.state {
            EndpointState::Active | EndpointState::Paused => (new.state.as_str(), None),
            EndpointState::Disabled(reason) => (DISABLED, Some(reason.as_str().into())),
        };
        let secret = new.secrets.first().map(|held| &held.secret);
        Self {
            id: endpoint.id.text(tag),
            name: new.name.to_string(),
            title: new.title.clone(),
            url: visible_url(endpoint, sight).into_owned(),
            events: new.subscription.events.iter().map(ToString::to_string).collect(),
            r#where: new.subscription.conditions.iter().cloned().collect(),
            plugin: new.plugin.as_ref().map(ToString::to_string),
            warning: None,
            signature: new.scheme.as_str().into(),
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
            ordered: new.policy.ordering.map(|ordering| ordering.as_str().into()),
            breaker: BreakerView {
                failures: new.policy.breaker.failures,
                wait: duration::write(new.policy.breaker.wait),
                wait_max: duration::write(new.policy.breaker.wait_max),
            },
            envelope: new.policy.envelope.as_str().into(),
            format: new.policy.format.as_str().into(),
            token_header: (new.scheme == Scheme::Token).then(|| endpoint.proof().token_header.to_owned()),
            client_certificate: new.policy.client_certificate.as_ref().map(|certificate| CertificateView {
                sha256: fingerprint(certificate).map(|digest| digest.to_string()),
                key: HIDDEN.into(),
            }),
            on_gone: new.policy.on_gone.as_str().into(),
            reach: new.policy.reach.as_str().into(),
            subscribed_by: new.policy.maker.map(|key| key.text(tag)),
            state: state.into(),
            disabled_reason,
            failing_since: endpoint.failing_since.map(|since| since.to_string()),
            condition: None,
            created_at: endpoint.created_at.to_string(),
            secret: None,
        }
    }

    /// Adds the current condition of the endpoint: its circuit breaker and its waiting deliveries.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn in_condition(self, api: &Api, id: EndpointId) -> Result<Self, Problem> {
        let backlog = api.store.backlogs(&[id]).await?.pop().unwrap_or_default();
        let breaker = api.catalog.standing(id).map(|standing| standing.breaker).unwrap_or_default();
        let (failures, until) = match breaker {
            Breaker::Closed { failures } => (failures, None),
            Breaker::Open { until, .. } => (0, Some(until)),
            Breaker::Probing { .. } => (0, None),
        };
        let condition = ConditionView {
            breaker: breaker.as_str().into(),
            failures,
            probe_at: until.map(|until| until.to_string()),
            waiting: backlog.waiting,
            waiting_since: backlog.oldest.map(|oldest| oldest.to_string()),
        };
        Ok(Self { condition: Some(condition), ..self })
    }

    /// Adds warnings about settings that cannot work.
    pub fn warned(self, api: &Api) -> Self {
        let plugins = api.catalog.plugins();
        let missing = self.plugin.as_deref().filter(|name| plugins.get(name).is_none()).map(|name| {
            let near = nearest(name, plugins.iter().map(|entry| &*entry.row.name));
            let near = near.map(|near| format!("; the nearest name is {near:?}")).unwrap_or_default();
            format!("no plugin {name:?} exists{near}. Until it does, each event for this endpoint is a failed run")
        });
        let unencrypted = is_unencrypted_name(&self.url).then(|| {
            "http:// is not encrypted. Webhooks go only to addresses in networks that the engine opens with --allow-net"
                .to_owned()
        });
        let all: Vec<String> = missing.into_iter().chain(unencrypted).collect();
        Self { warning: (!all.is_empty()).then(|| all.join(". ")), ..self }
    }

    /// Returns the view with the secret, for the one answer that may contain it.
    pub fn revealing(endpoint: &Endpoint, tag: Tag) -> Self {
        let secret = endpoint.new.secrets.first().map(|held| held.secret.reveal());
        Self { secret, ..Self::new(endpoint, tag, Sight::Whole) }
    }
}

/// Returns whether webhooks go unencrypted to a host name, whose address may change. An IP address in the URL cannot change, and
/// was checked when the endpoint was saved.
fn is_unencrypted_name(url: &str) -> bool {
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "http");
    url.is_some_and(|url| matches!(url.host(), Some(Host::Domain(name)) if name != "localhost"))
}

/// Replaces a header value that may be a credential. If a caller sends the replacement back, the value stays unchanged.
pub const HIDDEN: &str = "(not shown)";

fn shown(name: &str, value: &str) -> String {
    if header_may_be_shown(name) { value.to_owned() } else { HIDDEN.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_of_unencrypted_webhooks_to_a_host_name() {
        for (url, warns) in [
            ("http://books.example/hook", true),
            ("https://books.example/hook", false),
            ("http://127.0.0.1:9/", false),
            ("http://[::1]/", false),
            ("http://localhost:9555/", false),
        ] {
            assert_eq!(is_unencrypted_name(url), warns, "{url}");
        }
    }
}
