//! An endpoint: a receiver of webhooks, with its URL, subscription, signature, policy and state.

use std::{borrow::Cow, cell::RefCell, collections::HashMap, fmt, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};

use super::{
    breaker::BreakerRule,
    certificate::ClientCertificate,
    envelope::{Envelope, Format},
    event::NewEvent,
    id::{EndpointId, KeyId},
    name::Slug,
    pattern::Pattern,
    rate::Rate,
    retry::Schedule,
    signature::{Proof, Scheme, Secret, hex},
    source::Path,
    time::Timestamp,
};

/// State of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    Active,
    /// Deliveries are stored and wait.
    Paused,
    /// Deliveries are stored as dead, and can be retried.
    Disabled(DisabledReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisabledReason {
    /// A person disabled the endpoint.
    ByHand,
    /// The endpoint answered `410`.
    Gone,
    /// No delivery has succeeded for days.
    Failing,
}

impl DisabledReason {
    pub const ALL: [Self; 3] = [Self::ByHand, Self::Gone, Self::Failing];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ByHand => "by-hand",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }
}

impl EndpointState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled(DisabledReason::ByHand) => "disabled",
            Self::Disabled(DisabledReason::Gone) => "disabled-gone",
            Self::Disabled(DisabledReason::Failing) => "disabled-failing",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        let disabled = DisabledReason::ALL.map(Self::Disabled);
        [Self::Active, Self::Paused].into_iter().chain(disabled).find(|state| state.as_str() == text)
    }
}

/// The events that an endpoint receives directly: those that match at least one pattern and every condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    pub events: Vec<Pattern>,
    /// Attribute name → allowed values. `source` and `subject` count as attributes, `data:/POINTER` is a place in the data.
    pub conditions: Vec<(String, Vec<String>)>,
}

impl Subscription {
    /// Prefix of the name of a condition on the event's data. The rest of the name is a JSON pointer (RFC 6901).
    pub const DATA: &str = "data:";
    /// Maximum length of the name of a condition on the data, in bytes.
    pub const DATA_LEN_MAX: usize = 256;

    /// Returns whether the conditions hold. Does not check the patterns, because an index has already checked them.
    pub fn conditions_hold(&self, facts: &Facts<'_>) -> bool {
        self.conditions.iter().all(|(name, allowed)| facts.is_one_of(name, allowed))
    }
}

/// The input of conditions: an event, and the values of its data that conditions refer to.
pub struct Facts<'e> {
    event: &'e NewEvent,
    /// Each place is looked up at most once, regardless of the number of endpoints, and only when a condition needs it.
    data: RefCell<HashMap<String, Option<String>>>,
}

impl<'e> Facts<'e> {
    pub fn new(event: &'e NewEvent) -> Self {
        Self { event, data: RefCell::default() }
    }

    fn is_one_of(&self, name: &str, allowed: &[String]) -> bool {
        let is_allowed = |value: Option<&str>| value.is_some_and(|value| allowed.iter().any(|one| one == value));
        match name {
            "source" => is_allowed(Some(&self.event.source)),
            "subject" => is_allowed(self.event.subject.as_deref()),
            name => match name.strip_prefix(Subscription::DATA) {
                None => is_allowed(self.event.attributes.get(name)),
                Some(pointer) => {
                    let mut data = self.data.borrow_mut();
                    if !data.contains_key(pointer) {
                        data.insert(pointer.to_owned(), self.find(pointer));
                    }
                    is_allowed(data[pointer].as_deref())
                }
            },
        }
    }

    /// Returns the value of the event to which a condition of this name applies.
    pub fn value(&self, name: &str) -> Option<String> {
        match name {
            "source" => Some(self.event.source.to_string()),
            "subject" => self.event.subject.as_deref().map(str::to_owned),
            name => match name.strip_prefix(Subscription::DATA) {
                None => self.event.attributes.get(name).map(str::to_owned),
                Some(pointer) => self.find(pointer),
            },
        }
    }

    /// Returns the text, number or boolean at a place in the data; `None` if the data is not JSON.
    fn find(&self, pointer: &str) -> Option<String> {
        let json = self.event.content.json()?;
        Some(Path::parse(pointer)?.find(json.as_str())?.into_owned())
    }
}

/// A secret. If a newer secret has replaced it, `until` is the end of its grace period (steady clock).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSecret {
    pub secret: Secret,
    pub until: Option<Timestamp>,
}

/// The order of an endpoint's webhooks. A webhook that is being retried holds back later webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// One after the other, in the order in which their events were accepted.
    Endpoint,
    /// One after the other for each subject, in the order in which the events of the subject were accepted.
    Subject,
}

impl Ordering {
    /// The key of [`Self::Endpoint`]: all webhooks of the endpoint share it.
    pub const WHOLE: i64 = 0;

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Subject => "subject",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Endpoint, Self::Subject].into_iter().find(|ordering| ordering.as_str() == text)
    }

    /// Returns the ordering key: webhooks with the same key are sent in order. This function must never change, because keys are
    /// stored.
    pub fn key(self, subject: Option<&str>) -> i64 {
        match self {
            Self::Endpoint => Self::WHOLE,
            Self::Subject => {
                let digest: [u8; 32] = Sha256::digest(subject.unwrap_or_default()).into();
                let key = i64::from_le_bytes(*digest.first_chunk().expect("a digest has more than eight bytes"));
                if key == Self::WHOLE { 1 } else { key }
            }
        }
    }
}

/// Reaction to an endpoint that answers `410`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGone {
    /// The endpoint is disabled until a person resumes it.
    #[default]
    Disable,
    /// The endpoint is removed: a program created this subscription, and subscribes again if it wants more webhooks.
    Remove,
}

impl OnGone {
    pub const ALL: [Self; 2] = [Self::Disable, Self::Remove];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Remove => "remove",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|on_gone| on_gone.as_str() == text)
    }
}

/// The addresses that webhooks to an endpoint may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Public addresses, and networks that the operator opened (`allow_net`). For endpoints that an operator created.
    #[default]
    Opened,
    /// Public addresses only. For endpoints that a program created with a key that is not an operator's.
    Public,
}

impl Reach {
    pub const ALL: [Self; 2] = [Self::Opened, Self::Public];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Public => "public",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reach| reach.as_str() == text)
    }

    /// Returns the reach of an endpoint whose row does not state its reach. Any key may have created a subscription, so a
    /// subscription gets the smallest reach.
    pub const fn unsaid(on_gone: OnGone) -> Self {
        match on_gone {
            OnGone::Disable => Self::Opened,
            OnGone::Remove => Self::Public,
        }
    }
}

/// How webhooks to an endpoint are sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Policy {
    /// Timeout of one complete attempt.
    pub timeout: Duration,
    /// Headers of every webhook. No header has a name that the engine reserves.
    pub headers: Vec<(String, String)>,
    /// `None` means the default schedule.
    pub schedule: Option<Arc<Schedule>>,
    /// Maximum number of concurrent webhooks.
    pub concurrency: usize,
    /// `None` means no limit.
    pub rate: Option<Rate>,
    /// `None` means no order.
    pub ordering: Option<Ordering>,
    pub breaker: BreakerRule,
    /// Body format of events that are sent directly.
    pub envelope: Envelope,
    pub format: Format,
    /// Header for the secret of [`Scheme::Token`], in lower case; `None` means [`Scheme::TOKEN_HEADER_DEFAULT`].
    pub token_header: Option<String>,
    /// Client certificate, for receivers that require one.
    pub client_certificate: Option<Arc<ClientCertificate>>,
    pub on_gone: OnGone,
    pub reach: Reach,
    /// The key that created the subscription; `None` if the endpoint is not a subscription or the key is not known.
    pub maker: Option<KeyId>,
}

/// Shows the names of headers, but not their values, which are often credentials.
impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            timeout,
            headers,
            schedule,
            concurrency,
            rate,
            ordering,
            breaker,
            envelope,
            format,
            token_header,
            client_certificate,
            on_gone,
            reach,
            maker,
        } = self;
        f.debug_struct("Policy")
            .field("timeout", timeout)
            .field("headers", &headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("schedule", schedule)
            .field("concurrency", concurrency)
            .field("rate", rate)
            .field("ordering", ordering)
            .field("breaker", breaker)
            .field("envelope", envelope)
            .field("format", format)
            .field("token_header", token_header)
            .field("client_certificate", client_certificate)
            .field("on_gone", on_gone)
            .field("reach", reach)
            .field("maker", maker)
            .finish()
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            timeout: Self::TIMEOUT_DEFAULT,
            headers: Vec::new(),
            schedule: None,
            concurrency: Self::CONCURRENCY_DEFAULT,
            rate: None,
            ordering: None,
            breaker: BreakerRule::default(),
            envelope: Envelope::default(),
            format: Format::default(),
            token_header: None,
            client_certificate: None,
            on_gone: OnGone::default(),
            reach: Reach::default(),
            maker: None,
        }
    }
}

impl Policy {
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);
    pub const HEADERS_MAX: usize = 32;
    pub const CONCURRENCY_DEFAULT: usize = 64;
    pub const CONCURRENCY_MAX: usize = 256;
}

/// Returns the parts of a URL that are not secret: scheme and host, without user, path and query. Many services use hook URLs
/// whose path is the only credential.
pub fn shown_url(url: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = url.split_once("://") else { return Cow::Borrowed("***") };
    let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match behind {
        "" | "/" if host == authority => Cow::Borrowed(url),
        _ => Cow::Owned(format!("{scheme}://{host}/***")),
    }
}

/// An endpoint without an id.
#[derive(Clone)]
pub struct NewEndpoint {
    /// Unique name. Never changes, because plugins send to it.
    pub name: Slug,
    /// Title: free text.
    pub title: Option<String>,
    /// The address guard checks the URL when it is saved, and again at every connection.
    pub url: String,
    pub subscription: Subscription,
    /// The plugin that processes each event on its way to the endpoint.
    pub plugin: Option<Slug>,
    pub scheme: Scheme,
    /// Newest first. Every valid secret signs. If a webhook can carry only one signature, only the newest secret signs.
    pub secrets: Vec<HeldSecret>,
    pub policy: Policy,
    pub state: EndpointState,
}

/// Shows neither the secret part of its URL nor a secret.
impl fmt::Debug for NewEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, title, url, subscription, plugin, scheme, secrets, policy, state } = self;
        f.debug_struct("NewEndpoint")
            .field("name", name)
            .field("title", title)
            .field("url", &shown_url(url))
            .field("subscription", subscription)
            .field("plugin", plugin)
            .field("scheme", scheme)
            .field("secrets", secrets)
            .field("policy", policy)
            .field("state", state)
            .finish()
    }
}

impl NewEndpoint {
    /// Number of hex digits in a subscription's name. With this many digits, two names are never equal by chance.
    const SUBSCRIPTION_DIGITS: usize = 16;

    /// Returns the endpoint of a program's subscription. Its name is derived from event pattern and URL, so concurrent and
    /// repeated requests create only one endpoint. Keys that see only their own subscriptions get separate endpoints, because a
    /// shared endpoint would show one key the subscriptions of another.
    pub fn subscription(url: String, events: Pattern, title: String, secret: Secret, maker: KeyId, reach: Reach) -> Self {
        let whose = match reach {
            Reach::Opened => String::new(),
            Reach::Public => format!(" {}", maker.as_i64()),
        };
        let digest = hex(&Sha256::digest(format!("{events} {url}{whose}")));
        let name = format!("sub-{}", &digest[..Self::SUBSCRIPTION_DIGITS]);
        Self {
            name: Slug::parse(&name).expect("a word and digits are a name"),
            title: Some(title),
            url,
            subscription: Subscription { events: vec![events], conditions: Vec::new() },
            plugin: None,
            scheme: Scheme::default(),
            secrets: vec![HeldSecret { secret, until: None }],
            policy: Policy { on_gone: OnGone::Remove, reach, maker: Some(maker), ..Policy::default() },
            state: EndpointState::Active,
        }
    }

    /// Returns whether an event may go to this endpoint, regardless of its subscription. An operational event about an endpoint
    /// never goes to that endpoint, because delivering the event could cause the next event about the endpoint. Operational
    /// events name other endpoints and contain text of plugins, so they go only to operators' endpoints.
    pub fn may_hear(&self, event: &NewEvent) -> bool {
        let is_for_operators = event.event_type.is_ours();
        !is_for_operators || self.policy.reach == Reach::Opened && event.subject.as_deref() != Some(&self.name)
    }

    /// Returns whether the endpoint is a program's subscription.
    pub fn is_subscription(&self) -> bool {
        self.policy.on_gone == OnGone::Remove
    }

    /// Returns whether the two endpoints are the same subscription.
    pub fn is_same_subscription(&self, other: &Self) -> bool {
        let what = |one: &Self| (one.is_subscription(), one.url.clone(), one.subscription.events.clone());
        what(self) == what(other)
    }
}

/// A stored endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub id: EndpointId,
    pub created_at: Timestamp,
    /// Time since which no delivery has succeeded (wall clock). `None` unless the failures have lasted for a while.
    pub failing_since: Option<Timestamp>,
    pub new: NewEndpoint,
}

impl Endpoint {
    /// Returns the secrets that sign at `now`.
    pub fn signing_secrets(&self, now: Timestamp) -> impl Iterator<Item = &Secret> {
        let holds = move |held: &&HeldSecret| held.until.is_none_or(|until| now < until);
        self.new.secrets.iter().filter(holds).map(|held| &held.secret)
    }

    /// Returns how its webhooks are signed.
    pub fn proof(&self) -> Proof<'_> {
        let token_header = self.new.policy.token_header.as_deref().unwrap_or(Scheme::TOKEN_HEADER_DEFAULT);
        Proof { scheme: self.new.scheme, token_header }
    }

    /// Puts a new secret before the others. The previous secrets sign until `grace` is over at most.
    pub fn rotate(&mut self, secret: Secret, now: Timestamp, grace: Duration) {
        let end = now.plus(grace);
        self.new.secrets.retain(|held| held.until.is_none_or(|until| now < until));
        for held in &mut self.new.secrets {
            held.until = Some(held.until.map_or(end, |until| until.min(end)));
        }
        self.new.secrets.insert(0, HeldSecret { secret, until: None });
    }
}

/// Header names that are reserved for the engine or the connection.
pub const OUR_HEADERS: [&str; 15] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "user-agent",
    "content-length",
    "content-encoding",
    "content-type",
    "forwarded",
    "via",
];
/// Prefixes of further reserved header names.
pub const OUR_HEADER_PREFIXES: [&str; 7] = ["innesco-", "webhook-", "svix-", "content-", "proxy-", "x-forwarded-", "ce-"];

/// Returns whether a header is reserved for the engine.
pub fn header_is_ours(name: &str) -> bool {
    OUR_HEADERS.contains(&name) || OUR_HEADER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns whether only an endpoint may set a header, because the header carries the owner's credentials.
pub fn header_is_the_endpoints(name: &str) -> bool {
    const PROOFS: [&str; 4] = ["x-hub-signature-256", "stripe-signature", "x-wc-webhook-signature", "x-shopify-hmac-sha256"];
    ["authorization", "cookie"].contains(&name) || PROOFS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        content::Content,
        name::{Attributes, EventType},
    };

    fn event(attributes: &[(&str, &str)]) -> NewEvent {
        let mut all = Attributes::default();
        for (name, value) in attributes {
            all.push(name, (*value).to_owned()).unwrap();
        }
        NewEvent {
            id: None,
            source: "shop".into(),
            event_type: EventType::parse("order.created").unwrap(),
            subject: None,
            time: None,
            content: Content::none(),
            attributes: all.into(),
            depth: 0,
            cause: None,
            request: None,
        }
    }

    #[test]
    fn every_condition_must_hold() {
        let subscription = Subscription {
            events: vec![],
            conditions: vec![
                ("channel".into(), vec!["newsletter".into()]),
                ("initiator".into(), vec!["admin".into(), "api".into()]),
            ],
        };
        assert!(subscription.conditions_hold(&Facts::new(&event(&[("channel", "newsletter"), ("initiator", "api")]))));
        assert!(!subscription.conditions_hold(&Facts::new(&event(&[("channel", "newsletter"), ("initiator", "public")]))));
        assert!(
            !subscription.conditions_hold(&Facts::new(&event(&[("channel", "newsletter")]))),
            "a missing attribute matches nothing"
        );
        let from_shop = Subscription { events: vec![], conditions: vec![("source".into(), vec!["shop".into()])] };
        assert!(from_shop.conditions_hold(&Facts::new(&event(&[]))));
    }

    #[test]
    fn a_condition_on_data_compares_the_scalar_at_its_place() {
        let json = r#"{"country": "IT", "total": 12.50, "vip": true, "none": null, "a/b": {"c": ["x", "y"]}, "o": {}}"#;
        let of = |content: Content| NewEvent { content, ..event(&[]) };
        let json = of(Content::new("application/json", json.into()).unwrap());
        let text = of(Content::new("text/plain", r#"{"country": "IT"}"#.into()).unwrap());
        for (what, event, pointer, allowed, holds) in [
            ("the text at the place", &json, "/country", vec!["DE", "IT"], true),
            ("another text", &json, "/country", vec!["DE"], false),
            ("a number as written", &json, "/total", vec!["12.50"], true),
            ("a number written with other digits", &json, "/total", vec!["12.5"], false),
            ("a boolean", &json, "/vip", vec!["true"], true),
            ("a list item below a name with a slash", &json, "/a~1b/c/1", vec!["y"], true),
            ("null", &json, "/none", vec!["null", ""], false),
            ("an object is no scalar", &json, "/o", vec!["{}", ""], false),
            ("a missing member", &json, "/city", vec![""], false),
            ("data that is not JSON", &text, "/country", vec!["IT"], false),
            ("no data", &of(Content::none()), "/country", vec!["IT"], false),
        ] {
            let allowed = allowed.into_iter().map(str::to_owned).collect();
            let subscription = Subscription { events: vec![], conditions: vec![(format!("data:{pointer}"), allowed)] };
            let facts = Facts::new(event);
            assert_eq!(subscription.conditions_hold(&facts), holds, "{what}");
            assert_eq!(subscription.conditions_hold(&facts), holds, "{what}, a second time");
        }
    }

    #[test]
    fn data_is_parsed_only_for_a_condition() {
        let event = event(&[("channel", "web")]);
        let facts = Facts::new(&event);
        let by = |name: &str, value: &str| Subscription {
            events: vec![],
            conditions: vec![(name.to_owned(), vec![value.to_owned()])],
        };
        assert!(by("channel", "web").conditions_hold(&facts) && facts.data.borrow().is_empty());
        assert!(!by("data:/a", "1").conditions_hold(&facts) && facts.data.borrow().len() == 1);
    }

    #[test]
    fn a_subscription_has_one_name() {
        let of = |url: &str, events: &str| {
            let secret = Secret::from_seed(Scheme::V1, [1; 32]);
            let events = Pattern::parse(events).unwrap();
            NewEndpoint::subscription(url.to_owned(), events, "by a test".to_owned(), secret, KeyId::from_i64(7), Reach::Opened)
        };
        let one = of("https://hooks.example/1", "order.*");
        assert_eq!(of("https://hooks.example/1", "order.*").name, one.name);
        assert!(one.is_subscription() && one.is_same_subscription(&of("https://hooks.example/1", "order.*")));
        for other in [of("https://hooks.example/1", "order.created"), of("https://hooks.example/2", "order.*")] {
            assert!(other.name != one.name && !other.is_same_subscription(&one), "{}", other.name);
        }
        assert_eq!((one.name.len(), one.policy.on_gone), (20, OnGone::Remove));
        for on_gone in OnGone::ALL {
            assert_eq!(OnGone::parse(on_gone.as_str()), Some(on_gone));
        }
        for reach in Reach::ALL {
            assert_eq!(Reach::parse(reach.as_str()), Some(reach));
        }
    }

    #[test]
    fn keys_that_see_only_their_subscriptions_never_share_one() {
        let by = |key: i64, reach: Reach| {
            let (secret, events) = (Secret::from_seed(Scheme::V1, [1; 32]), Pattern::parse("order.*").unwrap());
            let url = "https://hooks.example/1".to_owned();
            NewEndpoint::subscription(url, events, "by a test".to_owned(), secret, KeyId::from_i64(key), reach).name
        };
        assert_eq!(by(1, Reach::Public), by(1, Reach::Public));
        assert_ne!(by(1, Reach::Public), by(2, Reach::Public));
        assert_eq!(by(1, Reach::Opened), by(2, Reach::Opened), "operators see all subscriptions, so they share them");
        assert_ne!(by(1, Reach::Opened), by(1, Reach::Public));
    }

    #[test]
    fn operational_events_go_to_operators_and_never_to_their_own_endpoint() {
        let endpoint = |reach: Reach| {
            let (secret, events) = (Secret::from_seed(Scheme::V1, [1; 32]), Pattern::parse("*").unwrap());
            let url = "https://hooks.example/1".to_owned();
            NewEndpoint::subscription(url, events, "by a test".to_owned(), secret, KeyId::from_i64(1), reach)
        };
        let about = |event_type: &str, subject: Option<&str>| NewEvent {
            event_type: EventType::parse(event_type).unwrap(),
            subject: subject.map(Into::into),
            ..event(&[])
        };
        for (reach, event_type, subject, hears) in [
            (Reach::Opened, "order.created", None, true),
            (Reach::Public, "order.created", None, true),
            (Reach::Opened, "innesco.plugin.failed", Some("other"), true),
            (Reach::Public, "innesco.plugin.failed", Some("other"), false),
        ] {
            assert_eq!(endpoint(reach).may_hear(&about(event_type, subject)), hears, "{reach:?} {event_type}");
        }
        let own = endpoint(Reach::Opened);
        assert!(!own.may_hear(&about("innesco.endpoint.failing", Some(&own.name))));
        assert!(own.may_hear(&about("order.created", Some(&own.name))));
    }

    #[test]
    fn shows_a_url_without_its_secret_parts() {
        for (url, shown) in [
            ("https://hooks.example", "https://hooks.example"),
            ("https://hooks.example/", "https://hooks.example/"),
            ("https://hooks.example:8443/services/T0/B1/token", "https://hooks.example:8443/***"),
            ("https://hooks.example/?key=token", "https://hooks.example/***"),
            ("https://hooks.example?key=token", "https://hooks.example/***"),
            ("https://hooks.example/#token", "https://hooks.example/***"),
            ("http://[::1]:9/token", "http://[::1]:9/***"),
            ("https://user:token@hooks.example/", "https://hooks.example/***"),
            ("https://us@er:token@hooks.example", "https://hooks.example/***"),
            ("token", "***"),
        ] {
            assert_eq!(shown_url(url), shown, "{url}");
        }
    }

    #[test]
    fn debug_output_of_an_endpoint_contains_no_credential() {
        let planted = "planted-credential";
        let new = NewEndpoint {
            name: Slug::parse("crm").unwrap(),
            title: None,
            url: format!("https://crm.example/{planted}?key={planted}"),
            subscription: Subscription::default(),
            plugin: None,
            scheme: Scheme::Token,
            secrets: vec![HeldSecret { secret: Secret::Text(planted.into()), until: None }],
            policy: Policy {
                headers: vec![("authorization".into(), format!("Bearer {planted}"))],
                client_certificate: Some(Arc::new(ClientCertificate { chain: planted.into(), key: planted.into() })),
                ..Policy::default()
            },
            state: EndpointState::Active,
        };
        let endpoint = Endpoint { id: EndpointId::from_i64(1), created_at: Timestamp::from_millis(0), failing_since: None, new };
        for text in [format!("{endpoint:?}"), format!("{endpoint:#?}")] {
            assert!(text.contains("authorization") && text.contains("crm.example"), "{text}");
            assert!(!text.contains(planted), "{text}");
        }
    }

    #[test]
    fn a_rotated_secret_signs_until_its_grace_is_over() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let secret = |byte| Secret::from_seed(Scheme::V1, [byte; 32]);
        let mut endpoint = Endpoint {
            id: EndpointId::from_i64(1),
            created_at: at(0),
            failing_since: None,
            new: NewEndpoint {
                name: Slug::parse("crm").unwrap(),
                title: None,
                url: "https://crm.example/".into(),
                subscription: Subscription::default(),
                plugin: None,
                scheme: Scheme::V1,
                secrets: vec![HeldSecret { secret: secret(1), until: None }],
                policy: Policy::default(),
                state: EndpointState::Active,
            },
        };
        endpoint.rotate(secret(2), at(10), Duration::from_secs(5));
        assert_eq!(endpoint.signing_secrets(at(14)).collect::<Vec<_>>(), [&secret(2), &secret(1)]);
        assert_eq!(endpoint.signing_secrets(at(15)).collect::<Vec<_>>(), [&secret(2)]);
        endpoint.rotate(secret(3), at(12), Duration::from_secs(60));
        assert_eq!(endpoint.signing_secrets(at(16)).collect::<Vec<_>>(), [&secret(3), &secret(2)]);
    }
}
