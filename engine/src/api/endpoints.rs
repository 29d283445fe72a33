//! Endpoints: made, changed, rotated, paused, removed. What is saved is valid; its address has been judged.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::{
    Api, body,
    error::Problem,
    view::{EndpointView, HIDDEN, PageView},
};
use crate::{
    clock,
    domain::{
        breaker::BreakerRule,
        certificate::ClientCertificate,
        duration,
        endpoint::{Endpoint, EndpointState, HeldSecret, NewEndpoint, Ordering, Policy, Subscription, header_is_ours},
        envelope::{Envelope, Format},
        name::{Attributes, Slug},
        pattern::Pattern,
        rate::Rate,
        retry::Schedule,
        signature::{Scheme, Secret},
    },
    outbound::check_certificate,
    store::Drive,
};

/// Endpoints that one engine keeps.
const ENDPOINTS_MAX: usize = 10_000;
/// Patterns, conditions and values in one subscription.
const SUBSCRIPTION_MAX: usize = 100;
/// How long an old secret goes on signing unless the caller says otherwise.
const GRACE_DEFAULT: Duration = Duration::from_secs(24 * 3600);
const GRACE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a caller says of an endpoint. Also what a change is merged into.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Input {
    name: String,
    title: Option<String>,
    url: String,
    #[serde(default)]
    events: Vec<String>,
    #[serde(default)]
    r#where: BTreeMap<String, Vec<String>>,
    plugin: Option<String>,
    signature: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    timeout: Option<String>,
    schedule: Option<Vec<String>>,
    concurrency: Option<usize>,
    rate: Option<String>,
    ordered: Option<Ordered>,
    breaker: Option<BreakerInput>,
    envelope: Option<String>,
    format: Option<String>,
    token_header: Option<String>,
    client_certificate: Option<CertificateInput>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// `true` means the whole endpoint.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Ordered {
    Whether(bool),
    By(String),
}

/// What is left out keeps its default.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct BreakerInput {
    failures: Option<u32>,
    wait: Option<String>,
    wait_max: Option<String>,
}

/// Both in PEM. The key as a view shows it stands for the one that is known.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct CertificateInput {
    certificate: String,
    key: String,
}

fn wrong(member: &str, detail: impl std::fmt::Display) -> Problem {
    Problem::bad_endpoint(format!("{member}: {detail}")).at(format!("/{member}"))
}

impl Input {
    fn of(endpoint: &Endpoint, view: EndpointView) -> Self {
        Self {
            name: view.name,
            title: view.title,
            url: view.url,
            events: view.events,
            r#where: view.r#where,
            plugin: view.plugin,
            signature: Some(view.signature.to_owned()),
            headers: endpoint.new.policy.headers.iter().map(|(name, _)| (name.clone(), HIDDEN.to_owned())).collect(),
            timeout: Some(view.timeout),
            schedule: view.schedule,
            concurrency: Some(view.concurrency),
            rate: view.rate,
            ordered: view.ordered.map(|ordered| Ordered::By(ordered.to_owned())),
            breaker: Some(BreakerInput {
                failures: Some(view.breaker.failures),
                wait: Some(view.breaker.wait),
                wait_max: Some(view.breaker.wait_max),
            }),
            envelope: Some(view.envelope.to_owned()),
            format: Some(view.format.to_owned()),
            token_header: endpoint.new.policy.token_header.clone(),
            client_certificate: endpoint
                .new
                .policy
                .client_certificate
                .as_ref()
                .map(|known| CertificateInput { certificate: known.chain.clone(), key: HIDDEN.to_owned() }),
            secret: None,
        }
    }

    /// Checks everything. `before` is the endpoint that is being changed.
    async fn check(self, api: &Api, before: Option<&Endpoint>) -> Result<NewEndpoint, Problem> {
        let name = Slug::parse(&self.name).map_err(|bad| wrong("name", bad))?;
        if self.title.as_ref().is_some_and(|title| title.chars().count() > 200) {
            return Err(wrong("title", "must be at most 200 characters"));
        }
        let subscription = subscription(self.events, self.r#where)?;
        let plugin = self.plugin.map(|name| Slug::parse(&name)).transpose().map_err(|bad| wrong("plugin", bad))?;
        let scheme = match &self.signature {
            None => Scheme::default(),
            Some(text) => Scheme::parse(text).ok_or_else(|| {
                let all = alternatives(&Scheme::ALL.map(Scheme::as_str));
                wrong("signature", format!("{text:?} is not a signature; write {all}"))
            })?,
        };
        let envelope = word("envelope", self.envelope.as_deref(), &Envelope::ALL, Envelope::as_str)?;
        let format = word("format", self.format.as_deref(), &Format::ALL, Format::as_str)?;
        let token_header = token_header(self.token_header, scheme, before)?;
        let headers = headers(self.headers, before)?;
        let proof = scheme.header(token_header.as_deref().unwrap_or(Scheme::TOKEN_HEADER_DEFAULT));
        if let Some((name, _)) = headers.iter().find(|(name, _)| Some(name.as_str()) == proof) {
            let detail = format!("{name:?} carries the endpoint's signature ({}); leave it out here", scheme.as_str());
            return Err(wrong("headers", detail));
        }
        let timeout = self.timeout.map_or(Ok(Policy::TIMEOUT_DEFAULT), |text| timeout(&text))?;
        let schedule = self.schedule.map(|waits| schedule(&waits)).transpose()?;
        let concurrency = concurrency(self.concurrency)?;
        let rate = self.rate.map(|text| Rate::parse(&text)).transpose().map_err(|bad| wrong("rate", bad))?;
        let ordering = self.ordered.map_or(Ok(None), ordering)?;
        let breaker = self.breaker.map_or(Ok(BreakerRule::default()), breaker)?;
        let url = api.outbound.check_url(&self.url).await.map_err(|bad| bad_url(&bad))?;
        let client_certificate = client_certificate(self.client_certificate, &url, before)?;
        let secrets = match (before, self.secret.as_deref()) {
            (Some(before), None) if before.new.scheme == scheme => before.new.secrets.clone(),
            (Some(before), Some(_)) if before.new.scheme == scheme => {
                return Err(wrong("secret", "is changed with rotate-secret, so that the old one goes on signing for a while"));
            }
            (_, None) if scheme == Scheme::None => Vec::new(),
            (_, given) => vec![HeldSecret { secret: secret(given, scheme)?, until: None }],
        };
        Ok(NewEndpoint {
            name,
            title: self.title,
            url: url.to_string(),
            subscription,
            plugin,
            scheme,
            secrets,
            policy: Policy {
                timeout,
                headers,
                schedule: schedule.map(Arc::new),
                concurrency,
                rate,
                ordering,
                breaker,
                envelope,
                format,
                token_header,
                client_certificate,
            },
            state: before.map_or(EndpointState::Active, |before| before.new.state),
        })
    }
}

/// `v1, v1a or none`.
fn alternatives(words: &[&str]) -> String {
    match words {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        words => words.concat(),
    }
}

/// One of a few words; none is the default.
fn word<T: Copy + Default>(member: &str, given: Option<&str>, all: &[T], as_str: fn(T) -> &'static str) -> Result<T, Problem> {
    let Some(text) = given else { return Ok(T::default()) };
    all.iter().copied().find(|one| as_str(*one) == text).ok_or_else(|| {
        let all: Vec<_> = all.iter().copied().map(as_str).collect();
        wrong(member, format!("{text:?} is not known; write {}", alternatives(&all)))
    })
}

fn token_header(given: Option<String>, scheme: Scheme, before: Option<&Endpoint>) -> Result<Option<String>, Problem> {
    let Some(name) = given else { return Ok(None) };
    if scheme != Scheme::Token {
        // It goes with the signature that it belonged to.
        let left = before.is_some_and(|before| before.new.policy.token_header.as_ref() == Some(&name));
        return if left {
            Ok(None)
        } else {
            Err(wrong("token_header", "belongs to signature \"token\"; choose that, or leave it out"))
        };
    }
    let name = name.to_ascii_lowercase();
    if HeaderName::try_from(&name).is_err() || header_is_ours(&name) {
        return Err(wrong("token_header", format!("{name:?} is not a header that can be chosen; write one such as x-api-key")));
    }
    Ok(Some(name))
}

fn client_certificate(
    given: Option<CertificateInput>,
    url: &Url,
    before: Option<&Endpoint>,
) -> Result<Option<Arc<ClientCertificate>>, Problem> {
    let Some(CertificateInput { certificate: chain, key }) = given else { return Ok(None) };
    if url.scheme() != "https" {
        return Err(wrong("client_certificate", "is presented in a TLS handshake, so the URL has to begin with https://"));
    }
    if chain.len().max(key.len()) > ClientCertificate::PEM_BYTES_MAX {
        let max = ClientCertificate::PEM_BYTES_MAX >> 10;
        return Err(wrong("client_certificate", format!("neither the certificates nor the key can be longer than {max} KiB")));
    }
    let known = before.and_then(|before| before.new.policy.client_certificate.as_ref());
    let key = match known {
        Some(known) if key == HIDDEN => known.key.clone(),
        _ => key,
    };
    let certificate = ClientCertificate { chain, key };
    check_certificate(&certificate)
        .map_err(|bad| Problem::bad_endpoint(format!("client_certificate.{bad}")).at("/client_certificate"))?;
    Ok(Some(Arc::new(certificate)))
}

fn bad_url(bad: &crate::outbound::BadUrl) -> Problem {
    let detail = format!("url: {bad}");
    let problem = if bad.is_blocked() { Problem::blocked_address(detail) } else { Problem::bad_endpoint(detail) };
    problem.at("/url")
}

fn subscription(events: Vec<String>, conditions: BTreeMap<String, Vec<String>>) -> Result<Subscription, Problem> {
    let values: usize = conditions.values().map(Vec::len).sum();
    if events.len() > SUBSCRIPTION_MAX || values > SUBSCRIPTION_MAX {
        return Err(wrong("events", format!("at most {SUBSCRIPTION_MAX} patterns, and as many values in where")));
    }
    let mut patterns = Vec::with_capacity(events.len());
    for (place, text) in events.iter().enumerate() {
        let pattern = Pattern::parse(text)
            .map_err(|bad| Problem::bad_endpoint(format!("events[{place}]: {bad}")).at(format!("/events/{place}")))?;
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    for (name, values) in &conditions {
        if !["source", "subject"].contains(&name.as_str()) {
            Attributes::default().push(name, String::new()).map_err(|bad| wrong("where", bad))?;
        }
        if values.is_empty() {
            return Err(wrong("where", format!("{name:?} has no value that it may have; name at least one, or leave it out")));
        }
    }
    if patterns.is_empty() && !conditions.is_empty() {
        return Err(wrong("where", "narrows a subscription; name the events that it subscribes to, such as \"events\": [\"*\"]"));
    }
    Ok(Subscription { events: patterns, conditions: conditions.into_iter().collect() })
}

fn headers(given: BTreeMap<String, String>, before: Option<&Endpoint>) -> Result<Vec<(String, String)>, Problem> {
    if given.len() > Policy::HEADERS_MAX {
        return Err(wrong("headers", format!("at most {} headers", Policy::HEADERS_MAX)));
    }
    let mut headers = Vec::with_capacity(given.len());
    for (name, value) in given {
        let name = name.to_ascii_lowercase();
        if HeaderName::try_from(&name).is_err() {
            return Err(wrong("headers", format!("{name:?} is not a header name")));
        }
        if header_is_ours(&name) {
            return Err(wrong("headers", format!("{name:?} is set by the engine or the connection and cannot be chosen")));
        }
        let known = before.and_then(|before| before.new.policy.headers.iter().find(|(known, _)| *known == name));
        let value = match known {
            Some((_, known)) if value == HIDDEN => known.clone(),
            _ => value,
        };
        if HeaderValue::try_from(&value).is_err() || value.len() > 4096 {
            return Err(wrong("headers", format!("the value of {name:?} must be at most 4096 visible characters")));
        }
        headers.push((name, value));
    }
    Ok(headers)
}

fn timeout(text: &str) -> Result<Duration, Problem> {
    let range = Duration::from_millis(100)..=Policy::TIMEOUT_MAX;
    duration::parse(text).filter(|timeout| range.contains(timeout)).ok_or_else(|| {
        let max = Policy::TIMEOUT_MAX.as_secs();
        wrong("timeout", format!("{text:?} is not a timeout; write 100ms to {max}s, such as 20s"))
    })
}

fn concurrency(given: Option<usize>) -> Result<usize, Problem> {
    let concurrency = given.unwrap_or(Policy::CONCURRENCY_DEFAULT);
    if (1..=Policy::CONCURRENCY_MAX).contains(&concurrency) {
        return Ok(concurrency);
    }
    let max = Policy::CONCURRENCY_MAX;
    Err(wrong("concurrency", format!("{concurrency} webhooks at once are not possible; write 1 to {max}")))
}

fn ordering(given: Ordered) -> Result<Option<Ordering>, Problem> {
    match given {
        Ordered::Whether(false) => Ok(None),
        Ordered::Whether(true) => Ok(Some(Ordering::Endpoint)),
        Ordered::By(text) => Ordering::parse(&text).map(Some).ok_or_else(|| {
            wrong("ordered", format!("{text:?} is not an order; write \"endpoint\" (or true) or \"subject\", or leave it out"))
        }),
    }
}

fn breaker(given: BreakerInput) -> Result<BreakerRule, Problem> {
    let default = BreakerRule::default();
    let wait = |name: &str, text: Option<String>, default: Duration| {
        let Some(text) = text else { return Ok(default) };
        let range = BreakerRule::WAIT_LEAST..=BreakerRule::WAIT_MOST;
        duration::parse(&text).filter(|wait| range.contains(wait)).ok_or_else(|| {
            Problem::bad_endpoint(format!("breaker.{name}: {text:?} is not a wait; write 100ms to 24h, such as 10s"))
                .at(format!("/breaker/{name}"))
        })
    };
    let failures = given.failures.unwrap_or(default.failures);
    if failures > BreakerRule::FAILURES_MAX {
        let detail = format!("breaker.failures: write 0 (never) to {}", BreakerRule::FAILURES_MAX);
        return Err(Problem::bad_endpoint(detail).at("/breaker/failures"));
    }
    let first = wait("wait", given.wait, default.wait)?;
    let wait_max = wait("wait_max", given.wait_max, default.wait_max.max(first))?;
    if wait_max < first {
        return Err(Problem::bad_endpoint("breaker.wait_max: must not be shorter than breaker.wait").at("/breaker/wait_max"));
    }
    Ok(BreakerRule { failures, wait: first, wait_max })
}

fn schedule(waits: &[String]) -> Result<Schedule, Problem> {
    let mut parsed = Vec::with_capacity(waits.len());
    for (place, text) in waits.iter().enumerate() {
        parsed.push(duration::parse(text).ok_or_else(|| {
            Problem::bad_endpoint(format!("schedule[{place}]: {text:?} is not a duration; write 5s, 10m or 2h"))
                .at(format!("/schedule/{place}"))
        })?);
    }
    Schedule::new(parsed).map_err(|bad| wrong("schedule", bad))
}

fn secret(given: Option<&str>, scheme: Scheme) -> Result<Secret, Problem> {
    match given {
        Some(text) => {
            let secret = Secret::read(scheme, text).map_err(|bad| wrong("secret", bad))?;
            if !secret.is_for(scheme) {
                return Err(wrong("secret", format!("is not one for signature {}; leave it out for a new one", scheme.as_str())));
            }
            Ok(secret)
        }
        None => {
            let mut seed = [0; Secret::SEED_LEN];
            getrandom::fill(&mut seed).map_err(|error| {
                tracing::error!(%error, "the system gives no randomness");
                Problem::internal("the system gives no randomness for a secret")
            })?;
            Ok(Secret::from_seed(scheme, seed))
        }
    }
}

pub async fn create(
    State(api): State<Arc<Api>>,
    request_headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<EndpointView>), Problem> {
    let input: Input = body::json(&api, &request_headers, body, Problem::bad_endpoint).await?;
    if api.catalog.endpoints().iter().count() >= ENDPOINTS_MAX {
        return Err(Problem::conflict(format!("there are {ENDPOINTS_MAX} endpoints, the most that one engine keeps")));
    }
    let endpoint = api.store.create_endpoint(input.check(&api, None).await?).await?;
    api.catalog.refresh_endpoints().await?;
    let driven = api.store.drive_parked(Drive::EndpointCreated(endpoint.new.name.clone()), clock::steady()).await?;
    tracing::info!(endpoint = %endpoint.new.name, driven, "endpoint created");
    Ok((StatusCode::CREATED, Json(EndpointView::revealing(&endpoint, api.store.tag()))))
}

pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<PageView<EndpointView>>, Problem> {
    let endpoints = api.store.endpoints().await?;
    let items = endpoints.iter().map(|endpoint| EndpointView::new(endpoint, api.store.tag())).collect();
    Ok(Json(PageView { items, next: None }))
}

/// Finds an endpoint by its id or its name.
pub fn find(api: &Api, text: &str) -> Result<Arc<Endpoint>, Problem> {
    let endpoints = api.catalog.endpoints();
    let by_id = crate::domain::id::EndpointId::parse(text, api.store.tag()).and_then(|id| endpoints.get(id));
    by_id.or_else(|| endpoints.named(text)).cloned().ok_or_else(|| {
        let near = endpoints.nearest(text).map(|near| format!("; the nearest name is {near:?}")).unwrap_or_default();
        Problem::not_found(format!("there is no endpoint {text:?}{near}"))
    })
}

pub async fn show(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<EndpointView>, Problem> {
    Ok(Json(EndpointView::new(&*find(&api, &id)?, api.store.tag())))
}

/// A JSON merge patch (RFC 7396): what is named is replaced, `null` goes back to the default.
pub async fn change(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    request_headers: HeaderMap,
    body: Body,
) -> Result<Json<EndpointView>, Problem> {
    let patch: serde_json::Map<String, Value> = body::json(&api, &request_headers, body, Problem::bad_endpoint).await?;
    let before = find(&api, &id)?;
    let tag = api.store.tag();
    if patch.get("name").is_some_and(|name| name.as_str() != Some(&before.new.name)) {
        return Err(wrong("name", "is fixed, since plugins send to it; change the title instead"));
    }
    let current = Input::of(&before, EndpointView::new(&before, tag));
    let mut merged = serde_json::to_value(current).map_err(|error| Problem::internal(error.to_string()))?;
    merge(&mut merged, Value::Object(patch));
    let input: Input = serde_json::from_value(merged).map_err(|error| Problem::bad_endpoint(error.to_string()))?;
    let changed = Endpoint { new: input.check(&api, Some(&before)).await?, ..Endpoint::clone(&before) };
    api.store.update_endpoint(changed.clone()).await?;
    api.catalog.refresh_endpoints().await?;
    let new_secret = changed.new.scheme != before.new.scheme;
    // As it is now: its state may have changed meanwhile.
    let changed = find(&api, &id)?;
    Ok(Json(if new_secret { EndpointView::revealing(&changed, tag) } else { EndpointView::new(&changed, tag) }))
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    target.remove(&name);
                } else {
                    merge(target.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (target, patch) => *target = patch,
    }
}

pub async fn remove(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let endpoint = find(&api, &id)?;
    api.store.delete_endpoint(endpoint.id).await?;
    api.catalog.refresh_endpoints().await?;
    tracing::info!(endpoint = %endpoint.new.name, "endpoint deleted; what waited for it is cancelled");
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Rotation {
    secret: Option<String>,
    grace: Option<String>,
}

pub async fn rotate(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    request_headers: HeaderMap,
    body: Body,
) -> Result<Json<EndpointView>, Problem> {
    let bytes = body::read(&api, &request_headers, body).await?;
    let rotation: Rotation = if bytes.is_empty() {
        Rotation::default()
    } else {
        serde_json::from_slice(&bytes).map_err(|error| Problem::bad_json(error.to_string()))?
    };
    let mut endpoint = Endpoint::clone(&*find(&api, &id)?);
    let scheme = endpoint.new.scheme;
    if scheme == Scheme::None {
        return Err(Problem::conflict("signature \"none\" has no secret; choose another signature, which makes one"));
    }
    let grace = match rotation.grace.as_deref() {
        None if scheme.carries_several() => GRACE_DEFAULT,
        None => Duration::ZERO,
        Some(text) => duration::parse(text).filter(|grace| *grace <= GRACE_MAX).ok_or_else(|| {
            Problem::bad_value(format!("grace: {text:?} is not a duration of at most 7 days; write 0s, 1h or 24h")).at("/grace")
        })?,
    };
    if !grace.is_zero() && !scheme.carries_several() {
        let detail = format!(
            "grace: a webhook has room for one {} signature, so the old secret ends at once; leave it out",
            scheme.as_str()
        );
        return Err(Problem::bad_value(detail).at("/grace"));
    }
    endpoint.rotate(secret(rotation.secret.as_deref(), scheme)?, clock::steady(), grace);
    api.store.update_endpoint(endpoint.clone()).await?;
    api.catalog.refresh_endpoints().await?;
    Ok(Json(EndpointView::revealing(&endpoint, api.store.tag())))
}

pub async fn pause(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<EndpointView>, Problem> {
    set_state(&api, &id, EndpointState::Paused).await
}

/// Also what enables a disabled endpoint again.
pub async fn resume(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<EndpointView>, Problem> {
    set_state(&api, &id, EndpointState::Active).await
}

async fn set_state(api: &Api, id: &str, to: EndpointState) -> Result<Json<EndpointView>, Problem> {
    let endpoint = find(api, id)?;
    api.store.set_endpoint_state(endpoint.id, &[endpoint.new.state], to, None).await?;
    api.catalog.refresh_endpoints().await?;
    Ok(Json(EndpointView::new(&*find(api, id)?, api.store.tag())))
}
