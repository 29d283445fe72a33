//! What a caller may say of an endpoint: its members, their limits, and the document's words for them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;
use utoipa::{
    PartialSchema as _, ToSchema,
    openapi::{RefOr, Schema},
};

use super::view::{EndpointView, HIDDEN};
use crate::{
    api::{
        Api, body,
        error::Problem,
        openapi,
        values::{between, durations, schema, values},
    },
    domain::{
        breaker::BreakerRule,
        certificate::ClientCertificate,
        duration,
        endpoint::{
            Endpoint, EndpointState, HeldSecret, NewEndpoint, OUR_HEADER_PREFIXES, OUR_HEADERS, OnGone, Ordering, Policy, Reach,
            Subscription, header_is_ours,
        },
        envelope::{Envelope, Format},
        name::{Attributes, Slug},
        pattern::Pattern,
        rate::Rate,
        retry::Schedule,
        signature::{Scheme, Secret},
    },
    outbound::check_certificate,
};

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
pub const GRACE_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// What a caller says of an endpoint. Also what a change is merged into.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointInput)]
pub struct Input {
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
pub enum RateText {}
/// Failures in a row.
enum BreakerFailures {}
/// How long a breaker is open.
enum BreakerWait {}
/// A wait in a schedule.
enum Wait {}
/// How long an old secret goes on signing.
pub enum Grace {}
/// A secret of the caller's own.
pub enum GivenSecret {}
/// A change: [`Input`], of which anything may be left out.
pub enum Patch {}

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

pub fn wrong(member: &str, detail: impl std::fmt::Display) -> Problem {
    Problem::bad_endpoint(format!("{member}: {detail}")).at(format!("/{member}"))
}

impl Input {
    pub fn of(endpoint: &Endpoint, view: EndpointView) -> Self {
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
    pub async fn check(self, api: &Api, before: Option<&Endpoint>) -> Result<NewEndpoint, Problem> {
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
        // What a program subscribed keeps its reach, whoever changes it.
        let (reach, maker) = before.map_or((Reach::Opened, None), |before| (before.new.policy.reach, before.new.policy.maker));
        let url = api.outbound.check_url(&self.url, reach).await.map_err(|bad| bad_url("url", &bad))?;
        if let Some(before) = before.filter(|before| before.new.is_subscription()) {
            still_subscribed(before, &url, &subscription)?;
        }
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
                on_gone: before.map_or(OnGone::default(), |before| before.new.policy.on_gone),
                reach,
                maker,
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

/// A program knows its subscription by what it subscribed to, and where.
fn still_subscribed(before: &Endpoint, url: &Url, subscription: &Subscription) -> Result<(), Problem> {
    let fixed = |member: &str| {
        Err(wrong(member, "is what a program has subscribed to, and fixed; have it unsubscribe, or add an endpoint of your own"))
    };
    if url.as_str() != before.new.url {
        return fixed("url");
    }
    if subscription.events != before.new.subscription.events {
        return fixed("events");
    }
    Ok(())
}

pub fn bad_url(member: &str, bad: &crate::outbound::BadUrl) -> Problem {
    let detail = format!("{member}: {bad}");
    let problem = if bad.is_blocked() { Problem::blocked_address(detail) } else { Problem::bad_endpoint(detail) };
    problem.at(format!("/{member}"))
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

/// To sign with: the caller's, or one made at random.
pub fn secret(given: Option<&str>, scheme: Scheme) -> Result<Secret, Problem> {
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
