//! The test receiver of `innesco dev`. It creates a missing endpoint when a plugin sends to it, and verifies the signatures of
//! webhooks. It uses the secrets of the engine in this process, so webhooks of endpoints that the user adds are verified too.

use std::{net::SocketAddr, sync::Arc};

use axum::http::HeaderMap;
use url::Url;

use super::listen::{Judge, Verdict};
use crate::{
    catalog::Catalog,
    clock,
    domain::{
        endpoint::{Endpoint, EndpointState, HeldSecret, NewEndpoint, Policy, Subscription},
        name::Slug,
        pattern::Pattern,
        routing::EndpointTable,
        signature::{Rejection, Scheme, Secret, Verifier, verify},
        time::Timestamp,
    },
    random,
    store::{self, Store},
};

/// Endpoints of the example plugins, created at the start.
const EXAMPLES: [(&str, &[&str]); 4] = [("receiver", &["contact.unreachable"]), ("slack", &[]), ("crm", &[]), ("mailer", &[])];

/// The test receiver, with the parts of the engine that it uses.
pub struct TestReceiver {
    pub address: SocketAddr,
    pub store: Arc<dyn Store>,
    pub catalog: Arc<Catalog>,
}

impl TestReceiver {
    /// Creates the endpoints of the examples, and gives endpoints that have the receiver's earlier address its current address. If
    /// the earlier address is not known, it does so for endpoints that look as if a test receiver had created them.
    pub async fn prepare(&self, earlier: Option<SocketAddr>) -> anyhow::Result<()> {
        let existing = self.store.endpoints().await?;
        for endpoint in &existing {
            if let Some(path) = earlier.map_or_else(|| path_if_created(endpoint), |earlier| path_at(endpoint, earlier)) {
                let mut moved = endpoint.clone();
                moved.new.url = format!("http://{}{path}", self.address);
                if moved.new.url != endpoint.new.url {
                    self.store.update_endpoint(moved).await?;
                }
            }
        }
        for (name, events) in EXAMPLES {
            if existing.iter().all(|endpoint| &*endpoint.new.name != name) {
                let events = events.iter().map(|pattern| Pattern::parse(pattern)).collect::<Result<_, _>>()?;
                self.store.create_endpoint(self.endpoint(Slug::parse(name)?, events)?).await?;
            }
        }
        Ok(self.catalog.refresh_endpoints().await?)
    }

    /// Creates an endpoint to which a plugin sent, and requeues the runs that wait for it. Returns whether it is new.
    pub async fn create(&self, name: &str) -> anyhow::Result<bool> {
        let created = match self.store.create_endpoint(self.endpoint(Slug::parse(name)?, Vec::new())?).await {
            Ok(_) => true,
            // Another run has already created the endpoint.
            Err(store::Error::Taken { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        self.catalog.refresh_endpoints().await?;
        self.store.requeue_wanting(clock::steady()).await?;
        Ok(created)
    }

    fn endpoint(&self, name: Slug, events: Vec<Pattern>) -> anyhow::Result<NewEndpoint> {
        let secret = Secret::from_seed(Scheme::V1, random::bytes()?);
        Ok(NewEndpoint {
            url: format!("http://{}/{name}", self.address),
            name,
            title: None,
            subscription: Subscription { events, conditions: Vec::new() },
            plugin: None,
            scheme: Scheme::V1,
            secrets: vec![HeldSecret { secret, until: None }],
            policy: Policy::default(),
            state: EndpointState::Active,
        })
    }

    /// Returns the callback that verifies webhooks to this receiver.
    pub fn judge(&self) -> Judge {
        let (address, catalog) = (self.address, Arc::clone(&self.catalog));
        Arc::new(move |path, headers, body| judge(&catalog.endpoints(), address, path, headers, body))
    }
}

/// Returns the path and query of an endpoint whose URL leads to this address.
fn path_at(endpoint: &Endpoint, address: SocketAddr) -> Option<String> {
    let url = Url::parse(&endpoint.new.url).ok().filter(|url| url.scheme() == "http")?;
    let is_here = url.port_or_known_default() == Some(address.port())
        && match url.host()? {
            url::Host::Domain(name) => name == "localhost",
            url::Host::Ipv4(ip) => ip == address.ip() || ip.is_loopback(),
            url::Host::Ipv6(ip) => ip == address.ip() || ip.is_loopback(),
        };
    is_here.then(|| url[url::Position::BeforePath..].to_owned())
}

/// Returns the path of an endpoint that looks as if a test receiver had created it: on this machine, with its name as the path.
fn path_if_created(endpoint: &Endpoint) -> Option<String> {
    let port = Url::parse(&endpoint.new.url).ok()?.port()?;
    path_at(endpoint, SocketAddr::from(([127, 0, 0, 1], port))).filter(|path| path[1..] == *endpoint.new.name)
}

/// Verifies a webhook with the secrets of the endpoints that lead to this path.
fn judge(endpoints: &EndpointTable, address: SocketAddr, path: &str, headers: &HeaderMap, body: &[u8]) -> Verdict {
    let leads_here =
        |endpoint: &&Arc<Endpoint>| path_at(endpoint, address).is_some_and(|found| found.split('?').next() == Some(path));
    let mut verdict = Verdict::Unchecked("no endpoint has this URL");
    for endpoint in endpoints.iter().filter(leads_here) {
        verdict = judge_for(endpoint, headers, body);
        if matches!(verdict, Verdict::Verified) {
            break;
        }
    }
    verdict
}

fn judge_for(endpoint: &Endpoint, headers: &HeaderMap, body: &[u8]) -> Verdict {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let now = clock::wall();
    // Uses the secrets that are valid now, like the engine.
    let secrets = || endpoint.signing_secrets(now);
    match endpoint.new.scheme {
        Scheme::None => Verdict::Unchecked("the endpoint has no signature"),
        Scheme::V1 | Scheme::V1a => {
            let verifiers: Vec<Verifier> = secrets().filter_map(|secret| Verifier::parse(&secret.reveal()).ok()).collect();
            verify(&verifiers, header, body, now).into()
        }
        // Computes the signature as the sender does, from the id and the time in the other headers.
        Scheme::Github | Scheme::Stripe | Scheme::WooCommerce | Scheme::Shopify | Scheme::Token => {
            let id = header("webhook-id").unwrap_or_default();
            let seconds: Option<i64> = header("webhook-timestamp").and_then(|seconds| seconds.parse().ok());
            let at = Timestamp::from_millis(seconds.unwrap_or_default().saturating_mul(1_000));
            let expected = endpoint.proof().headers(secrets(), id, at, body);
            let is_right = expected.iter().all(|(name, value)| header(name) == Some(value));
            if is_right { Verdict::Verified } else { Verdict::Refused(Rejection::NoMatch) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{id::EndpointId, signature::Proof};

    const HERE: &str = "127.0.0.1:9099";

    fn endpoint(number: i64, url: &str, scheme: Scheme) -> Endpoint {
        let secret = match scheme {
            Scheme::V1 | Scheme::V1a => Secret::from_seed(scheme, [7; 32]),
            _ => Secret::Text("a-secret-of-theirs".to_owned()),
        };
        let new = NewEndpoint {
            name: Slug::parse(&format!("e{number}")).unwrap(),
            title: None,
            url: url.to_owned(),
            subscription: Subscription { events: Vec::new(), conditions: Vec::new() },
            plugin: None,
            scheme,
            secrets: vec![HeldSecret { secret, until: None }],
            policy: Policy::default(),
            state: EndpointState::Active,
        };
        Endpoint { id: EndpointId::from_i64(number), created_at: Timestamp::from_millis(0), failing_since: None, new }
    }

    #[test]
    fn endpoints_of_the_receiver_have_its_address() {
        for (url, path) in [
            ("http://127.0.0.1:9099/crm?a=1", Some("/crm?a=1")),
            ("http://localhost:9099", Some("/")),
            ("http://[::1]:9099/x", Some("/x")),
            ("http://127.0.0.1:9098/crm", None),
            ("https://127.0.0.1:9099/crm", None),
            ("http://example.com:9099/crm", None),
        ] {
            let found = path_at(&endpoint(1, url, Scheme::V1), HERE.parse().unwrap());
            assert_eq!(found.as_deref(), path, "{url}");
        }
        for (url, is_created) in [
            ("http://127.0.0.1:40000/e1", true),
            ("http://127.0.0.1:40000/e1/x", false),
            ("http://127.0.0.1:40000", false),
            ("http://10.0.0.1:40000/e1", false),
        ] {
            assert_eq!(path_if_created(&endpoint(1, url, Scheme::V1)).is_some(), is_created, "{url}");
        }
    }

    /// For each scheme, a body that the engine signed is verified, and a changed body is refused.
    #[test]
    fn every_signature_of_an_endpoint_is_verified() {
        for scheme in Scheme::ALL {
            let endpoint = endpoint(1, "http://127.0.0.1:9099/hook", scheme);
            let secrets: Vec<_> = endpoint.new.secrets.iter().map(|held| &held.secret).collect();
            let proof = Proof { scheme, token_header: Scheme::TOKEN_HEADER_DEFAULT };
            let mut headers = HeaderMap::new();
            for (name, value) in proof.headers(secrets, "dlv_1", clock::wall(), b"{}") {
                headers.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
            }
            let table = EndpointTable::new([endpoint]);
            let judged = |path: &str, body: &[u8]| judge(&table, HERE.parse().unwrap(), path, &headers, body);
            let (right, changed) = (judged("/hook", b"{}"), judged("/hook", b"{ }"));
            match scheme {
                Scheme::None => assert_eq!(right, Verdict::Unchecked("the endpoint has no signature")),
                // A token does not depend on the body.
                Scheme::Token => assert_eq!((right, changed), (Verdict::Verified, Verdict::Verified)),
                _ => assert_eq!((right, changed), (Verdict::Verified, Verdict::Refused(Rejection::NoMatch)), "{scheme:?}"),
            }
            assert_eq!(judged("/other", b"{}"), Verdict::Unchecked("no endpoint has this URL"));
        }
    }
}
