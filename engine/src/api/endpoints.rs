//! Endpoints: made, changed, rotated, paused, removed. What is saved is valid; its address has been judged.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;
use utoipa::{
    PartialSchema as _, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{
    Api, audit, body,
    error::Problem,
    openapi,
    path::Path,
    values::{between, durations, schema, values},
    view::{EndpointView, HIDDEN, PageView},
};
use crate::{
    clock,
    domain::{
        breaker::BreakerRule,
        certificate::ClientCertificate,
        duration,
        endpoint::{
            Endpoint, EndpointState, HeldSecret, NewEndpoint, OUR_HEADER_PREFIXES, OUR_HEADERS, Ordering, Policy, Subscription,
            header_is_ours,
        },
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
/// Attributes in the conditions of one subscription.
const CONDITIONS_MAX: usize = 10;
/// Patterns in one subscription, and values of one condition.
const SUBSCRIPTION_MAX: usize = 100;
/// Parts of an event that a condition can be about although they are no extension attributes.
const CONDITIONS_TOO: [&str; 2] = ["source", "subject"];
/// Length of a header's value in bytes.
const HEADER_LEN_MAX: usize = 4096;
/// Length of a title in characters.
const TITLE_LEN_MAX: usize = 200;
/// How long an old secret goes on signing unless the caller says otherwise.
const GRACE_DEFAULT: Duration = Duration::from_secs(24 * 3600);
const GRACE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a caller says of an endpoint. Also what a change is merged into.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointInput)]
struct Input {
    /// Unique and fixed, since plugins send to it.
    #[schema(value_type = Slug)]
    name: String,
    /// Free text for people.
    #[schema(max_length = 200)]
    title: Option<String>,
    /// `https`, or `http` to where the engine is told that it may. Private and other special addresses are refused.
    #[schema(format = "uri")]
    url: String,
    /// The events that it subscribes to, without a plugin.
    #[serde(default)]
    #[schema(value_type = Vec<Pattern>, max_items = 100)]
    events: Vec<String>,
    #[serde(default)]
    #[schema(schema_with = conditions_schema)]
    r#where: BTreeMap<String, Vec<String>>,
    /// The plugin through which each event passes on its way here.
    #[schema(value_type = Option<Slug>)]
    plugin: Option<String>,
    /// `v1` unless said otherwise.
    #[schema(value_type = Option<Scheme>)]
    signature: Option<String>,
    #[serde(default)]
    #[schema(schema_with = headers_schema)]
    headers: BTreeMap<String, String>,
    /// For the whole exchange: 100ms to 60s; 20s unless said otherwise.
    #[schema(value_type = Option<Timeout>)]
    timeout: Option<String>,
    /// How long to wait before each attempt, at most 7 days each: as many attempts as entries.
    #[schema(value_type = Option<Vec<Wait>>, min_items = 1, max_items = 50)]
    schedule: Option<Vec<String>>,
    /// Webhooks on their way at once.
    #[schema(value_type = Option<Concurrency>)]
    concurrency: Option<usize>,
    /// No more than so many per second, minute or hour.
    #[schema(value_type = Option<RateText>)]
    rate: Option<String>,
    /// Whether webhooks arrive in the order of their events: all of them (`endpoint`, or `true`), those of one `subject`, or none.
    ordered: Option<Ordered>,
    /// When to leave a receiver alone that fails again and again.
    #[serde(default, deserialize_with = "body::object")]
    breaker: Option<BreakerInput>,
    /// What a direct delivery's body holds; `standard` unless said otherwise.
    #[schema(value_type = Option<Envelope>)]
    envelope: Option<String>,
    /// How it is written; `json` unless said otherwise.
    #[schema(value_type = Option<Format>)]
    format: Option<String>,
    /// The header of the signature `token`; `x-webhook-token` unless said otherwise.
    token_header: Option<String>,
    /// Presented to receivers that ask for one.
    #[serde(default, deserialize_with = "body::object")]
    client_certificate: Option<CertificateInput>,
    /// To sign with; made at random unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<GivenSecret>)]
    secret: Option<String>,
}

/// `true` means the whole endpoint.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
enum Ordered {
    Whether(bool),
    #[schema(value_type = Ordering)]
    By(String),
}

/// What is left out keeps its default.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = BreakerInput)]
#[serde(deny_unknown_fields)]
struct BreakerInput {
    /// Failures in a row that open it; 0: it never opens.
    #[schema(value_type = Option<BreakerFailures>)]
    failures: Option<u32>,
    /// How long it is open the first time; each failed probe doubles it.
    #[schema(value_type = Option<BreakerWait>)]
    wait: Option<String>,
    /// The longest that it is open between two probes; not shorter than `wait`.
    #[schema(value_type = Option<BreakerWait>)]
    wait_max: Option<String>,
}

/// Both in PEM. The key as a view shows it stands for the one that is known.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ClientCertificateInput)]
struct CertificateInput {
    certificate: String,
    key: String,
}

/// A timeout.
enum Timeout {}
/// How many at once.
enum Concurrency {}
/// A rate.
enum RateText {}
/// Failures in a row.
enum BreakerFailures {}
/// How long a breaker is open.
enum BreakerWait {}
/// A wait in a schedule.
enum Wait {}
/// How long an old secret goes on signing.
enum Grace {}
/// A secret of the caller's own.
enum GivenSecret {}
/// A change: [`Input`], of which anything may be left out.
enum Patch {}

const DAY: u64 = 24 * 60 * 60;
/// Units of durations of at most a week, with the least and the most of each.
const WITHIN_A_WEEK: [(&str, u64, u64); 5] =
    [("ms", 0, 7 * DAY * 1000), ("s", 0, 7 * DAY), ("(m|min)", 0, 7 * DAY / 60), ("h", 0, 7 * 24), ("d", 0, 7)];

values! {
    Timeout, "Timeout", json!({
        "type": "string", "pattern": durations(&[("ms", 100, 60_000), ("s", 1, 60), ("(m|min)", 1, 1)]), "examples": ["20s"],
        "description": "How long a whole exchange may take: 100ms to 60s.",
    });
    Wait, "Wait", json!({
        "type": "string", "pattern": durations(&WITHIN_A_WEEK), "examples": ["10m"],
        "description": "How long to wait before an attempt: at most 7 days.",
    });
    Concurrency, "Concurrency", json!({
        "type": "integer", "minimum": 1, "maximum": Policy::CONCURRENCY_MAX, "default": Policy::CONCURRENCY_DEFAULT,
        "description": "Webhooks on their way at once.",
    });
    RateText, "Rate", json!({
        "type": "string", "pattern": format!("^({})/(s|m|h)$", between(1, Rate::COUNT_MAX.into())), "examples": ["50/s"],
        "description": "So many per second, minute or hour.",
    });
    BreakerFailures, "BreakerFailures", json!({
        "type": "integer", "minimum": 0, "maximum": BreakerRule::FAILURES_MAX, "default": BreakerRule::default().failures,
        "description": "Failures in a row that open it; 0: it never opens.",
    });
    BreakerWait, "BreakerWait", json!({
        "type": "string", "pattern": durations(&[
            ("ms", 100, 24 * 3_600_000), ("s", 1, 24 * 3600), ("(m|min)", 1, 24 * 60), ("h", 1, 24), ("d", 1, 1),
        ]), "examples": ["10s"],
        "description": "How long a breaker is open: 100ms to 24h.",
    });
    Grace, "Grace", json!({
        "type": "string", "pattern": durations(&WITHIN_A_WEEK), "examples": [duration::write(GRACE_DEFAULT)],
        "description": "How long the old secret goes on signing: at most 7 days.",
    });
    GivenSecret, "GivenSecret", json!({
        "type": "string", "pattern": "^[!-~]{16,256}$",
        "description": "`whsec_` and the base64 of 24 to 64 bytes (`v1`), or `whsk_` and the base64 of an ed25519 seed with its public \
                         key (`v1a`); for the ways of other senders any 16 to 256 visible characters.",
    });
    Patch, "EndpointPatch", patch_schema();
}

fn conditions_schema() -> RefOr<Schema> {
    schema(json!({
        "type": "object", "maxProperties": CONDITIONS_MAX,
        "description": "Attribute → the values of which an event must have one (`source` and `subject` count as attributes). It \
                        narrows `events`, and means nothing without.",
        "propertyNames": {
            "pattern": format!("^[a-z0-9]{{1,{}}}$", Attributes::NAME_LEN_MAX),
            "not": { "enum": Attributes::TAKEN.iter().filter(|name| !CONDITIONS_TOO.contains(name)).collect::<Vec<_>>() },
        },
        "additionalProperties": { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": SUBSCRIPTION_MAX },
        "examples": [{ "channel": ["newsletter"] }],
        "x-beside": { "dependentSchemas": { "where": { "anyOf": [
            { "properties": { "where": { "maxProperties": 0 } } },
            { "required": ["events"], "properties": { "events": { "minItems": 1 } } },
        ] } } },
    }))
}

fn headers_schema() -> RefOr<Schema> {
    schema(json!({
        "type": "object", "maxProperties": Policy::HEADERS_MAX,
        "description": format!("Sent on every webhook. Names that are the engine's or the connection's are refused: {}, and what begins \
            with {}.", OUR_HEADERS.join(", "), OUR_HEADER_PREFIXES.join(", ")),
        "propertyNames": { "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" },
        "additionalProperties": {
            "type": "string", "maxLength": HEADER_LEN_MAX, "pattern": r"^[^\u0000-\u0008\u000a-\u001f\u007f]*$",
        },
        "examples": [{ "authorization": "Bearer their-key" }],
    }))
}

/// A merge patch of [`Input`]: nothing is needed, and `null` goes back to the default.
fn patch_schema() -> Value {
    let mut schema = serde_json::to_value(Input::schema()).expect("utoipa's shapes are JSON");
    openapi::settle(&mut schema);
    for needless in ["required", "dependentSchemas"] {
        schema.as_object_mut().expect("an input is an object").remove(needless);
    }
    schema["description"] = json!("A change of an endpoint: what is named is replaced, `null` goes back to the default.");
    let properties = schema["properties"].as_object_mut().expect("an input has members");
    // Fixed, and changed by rotation.
    properties.remove("name");
    properties.remove("secret");
    for (_, member) in properties.iter_mut().filter(|(name, _)| *name != "url") {
        if member["additionalProperties"].is_object() {
            let value = member["additionalProperties"].take();
            member["additionalProperties"] = json!({ "anyOf": [value, { "type": "null" }] });
        }
        *member = json!({ "anyOf": [member, { "type": "null" }] });
    }
    schema
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
        if self.title.as_ref().is_some_and(|title| title.chars().count() > TITLE_LEN_MAX) {
            return Err(wrong("title", format!("must be at most {TITLE_LEN_MAX} characters")));
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
    if events.len() > SUBSCRIPTION_MAX {
        return Err(wrong("events", format!("at most {SUBSCRIPTION_MAX} patterns")));
    }
    if conditions.len() > CONDITIONS_MAX || conditions.values().any(|values| values.len() > SUBSCRIPTION_MAX) {
        return Err(wrong("where", format!("at most {CONDITIONS_MAX} attributes, with at most {SUBSCRIPTION_MAX} values each")));
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
        if !CONDITIONS_TOO.contains(&name.as_str()) {
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
    let mut headers: Vec<(String, String)> = Vec::with_capacity(given.len());
    for (name, value) in given {
        let name = name.to_ascii_lowercase();
        if HeaderName::try_from(&name).is_err() {
            return Err(wrong("headers", format!("{name:?} is not a header name")));
        }
        if headers.iter().any(|(known, _)| *known == name) {
            return Err(wrong("headers", format!("{name:?} is given twice; names of headers do not differ by case")));
        }
        if header_is_ours(&name) {
            return Err(wrong("headers", format!("{name:?} is set by the engine or the connection and cannot be chosen")));
        }
        let known = before.and_then(|before| before.new.policy.headers.iter().find(|(known, _)| *known == name));
        let value = match known {
            Some((_, known)) if value == HIDDEN => known.clone(),
            _ => value,
        };
        if HeaderValue::try_from(&value).is_err() || value.len() > HEADER_LEN_MAX {
            return Err(wrong("headers", format!("the value of {name:?} must be at most {HEADER_LEN_MAX} visible characters")));
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

/// Create an endpoint.
///
/// The answer alone carries the secret that its webhooks are signed with.
#[utoipa::path(
    post, path = "/v1/endpoints", operation_id = "create_endpoint", tag = "endpoints",
    request_body(content = Input, examples(
        ("full" = (summary = "A subscription", value = json!({
            "name": "crm", "title": "The CRM", "url": "https://crm.example.com/hook", "events": ["order.*"],
            "where": { "channel": ["web", "newsletter"] }, "headers": { "authorization": "Bearer their-key" }, "timeout": "10s",
            "schedule": ["0s", "10s", "5m", "1h"],
        }))),
        ("least" = (summary = "One that only plugins send to", value = json!({
            "name": "sales-slack", "url": "https://hooks.example.com/sales",
        }))),
    )),
    responses((status = 201, description = "The endpoint, with its secret.", body = EndpointView)),
    extensions(("x-problems" = json!(["bad_endpoint", "blocked_address", "conflict", "name_taken"]))),
)]
pub async fn create(
    State(api): State<Arc<Api>>,
    request_headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Extension<audit::Target>, Json<EndpointView>), Problem> {
    let input: Input = body::json(&api, &request_headers, body, Problem::bad_endpoint).await?;
    if api.catalog.endpoints().iter().count() >= ENDPOINTS_MAX {
        return Err(Problem::conflict(format!("there are {ENDPOINTS_MAX} endpoints, the most that one engine keeps")));
    }
    let endpoint = api.store.create_endpoint(input.check(&api, None).await?).await?;
    api.catalog.refresh_endpoints().await?;
    let driven = api.store.drive_parked(Drive::EndpointCreated(endpoint.new.name.clone()), clock::steady()).await?;
    tracing::info!(endpoint = %endpoint.new.name, driven, "endpoint created");
    let view = EndpointView::revealing(&endpoint, api.store.tag());
    Ok((StatusCode::CREATED, Extension(audit::Target(view.id.clone())), Json(view)))
}

/// List all endpoints.
#[utoipa::path(
    get, path = "/v1/endpoints", operation_id = "list_endpoints", tag = "endpoints",
    responses((status = 200, description = "All of them.", body = PageView<EndpointView>)),
)]
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

/// Read one endpoint.
#[utoipa::path(
    get, path = "/v1/endpoints/{endpoint}", operation_id = "show_endpoint", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or its name.", example = "crm")),
    responses((status = 200, description = "The endpoint, without its secret.", body = EndpointView)),
)]
pub async fn show(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<EndpointView>, Problem> {
    Ok(Json(EndpointView::new(&*find(&api, &id)?, api.store.tag())))
}

/// Change an endpoint.
///
/// A JSON merge patch (RFC 7396): what is named is replaced, `null` goes back to the default. Where the signature changes, the answer
/// carries the new secret.
#[utoipa::path(
    patch, path = "/v1/endpoints/{endpoint}", operation_id = "change_endpoint", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or its name.", example = "crm")),
    request_body(content(
        (Patch = "application/merge-patch+json", example = json!({ "events": ["order.*", "customer.created"], "timeout": null })),
        (Patch = "application/json", example = json!({ "title": "The new CRM" })),
    )),
    responses((status = 200, description = "The endpoint as it is now.", body = EndpointView)),
    extensions(("x-problems" = json!(["bad_endpoint", "blocked_address"]))),
)]
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
    body::whole_numbers(&mut merged);
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

/// Delete an endpoint.
///
/// What waits for it is cancelled.
#[utoipa::path(
    delete, path = "/v1/endpoints/{endpoint}", operation_id = "delete_endpoint", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or its name.", example = "crm")),
    responses((status = 204, description = "It is gone.")),
)]
pub async fn remove(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let endpoint = find(&api, &id)?;
    api.store.delete_endpoint(endpoint.id).await?;
    api.catalog.refresh_endpoints().await?;
    tracing::info!(endpoint = %endpoint.new.name, "endpoint deleted; what waited for it is cancelled");
    Ok(StatusCode::NO_CONTENT)
}

/// What a rotation may be told.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// To sign with; made at random unless given.
    #[schema(value_type = Option<GivenSecret>)]
    secret: Option<String>,
    /// How long the old one goes on signing: at most 7 days; a day unless said otherwise.
    #[schema(value_type = Option<Grace>)]
    grace: Option<String>,
}

/// Give an endpoint a new secret.
///
/// The old one goes on signing beside it until its grace is over.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/rotate-secret", operation_id = "rotate_endpoint_secret", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or its name.", example = "crm")),
    request_body(content = Option<Rotation>, example = json!({ "grace": "12h" })),
    responses((status = 200, description = "The endpoint, with its new secret.", body = EndpointView)),
    extensions(("x-problems" = json!(["bad_endpoint", "bad_value"]))),
)]
pub async fn rotate(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    request_headers: HeaderMap,
    body: Body,
) -> Result<Json<EndpointView>, Problem> {
    let rotation = body::optional_json::<Rotation>(&api, &request_headers, body, Problem::bad_value).await?.unwrap_or_default();
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

/// Pause an endpoint.
///
/// What is meant for it is stored and waits.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/pause", operation_id = "pause_endpoint", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or its name.", example = "crm")),
    responses((status = 200, description = "The endpoint as it is now.", body = EndpointView)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn pause(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<EndpointView>, Problem> {
    set_state(&api, &id, EndpointState::Paused).await
}

/// Resume an endpoint.
///
/// Also what enables a disabled one again.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/resume", operation_id = "resume_endpoint", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or its name.", example = "crm")),
    responses((status = 200, description = "The endpoint as it is now.", body = EndpointView)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn resume(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<EndpointView>, Problem> {
    set_state(&api, &id, EndpointState::Active).await
}

async fn set_state(api: &Api, id: &str, to: EndpointState) -> Result<Json<EndpointView>, Problem> {
    let endpoint = find(api, id)?;
    api.store.set_endpoint_state(endpoint.id, &[endpoint.new.state], to, None).await?;
    api.catalog.refresh_endpoints().await?;
    Ok(Json(EndpointView::new(&*find(api, id)?, api.store.tag())))
}
