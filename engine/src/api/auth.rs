//! Authorizes a request: compares the role of its bearer key with the row of its route in [`access`]. The catalog holds the keys.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};

use super::{
    Api,
    access::{self, Callers, Sight},
    audit,
    error::Problem,
    metrics::{Access, may_be_rebound},
};
use crate::{
    clock,
    domain::{id::KeyId, key::Role, rate::Rate},
    store::KeyRow,
};

/// The key of an authorized request, and how much of an answer it may see.
#[derive(Clone)]
pub struct Caller {
    pub key: Arc<KeyRow>,
    pub sight: Sight,
}

/// Passes on the requests that the table allows. It refuses every method of a route without a row, so such a route cannot be
/// reached.
pub async fn guard(
    State(api): State<Arc<Api>>,
    route: MatchedPath,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Some(row) = access::of(request.method(), route.as_str()) else {
        return Err(super::does_not_take(request.method(), request.uri()));
    };
    let roles = match row.callers {
        Callers::Keys(roles) => roles,
        Callers::Figures(roles) if api.last_load.access() == Access::Key => roles,
        Callers::Figures(roles) if may_be_rebound(&request, api.inbound.external_url.as_ref()) => roles,
        Callers::Anyone | Callers::Senders | Callers::Figures(_) => return Ok(next.run(request).await),
    };
    let caller = admit(&api, &request, roles)?;
    if caller.key.new.role == Role::Subscribe && !request.method().is_safe() {
        api.subscribers.check(&caller.key)?;
    }
    let is_noted = row.is_audited && !request.method().is_safe();
    request.extensions_mut().insert(caller.clone());
    match is_noted {
        true => audit::record(api, &caller.key, route.as_str(), request, next).await,
        false => Ok(next.run(request).await),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Returns the command that creates a suitable key.
fn cure(roles: &[(Role, Sight)]) -> String {
    let role = roles.first().map_or(Role::Admin, |(role, _)| *role);
    format!("innesco keys create NAME --role {}", role.as_str())
}

/// The key of a person who is signed in to the dashboard. Only code of this process can set this extension of a request.
#[derive(Clone)]
pub struct SignedIn(pub Arc<KeyRow>);

fn admit(api: &Api, request: &Request, roles: &[(Role, Sight)]) -> Result<Caller, Problem> {
    let key = match request.extensions().get::<SignedIn>() {
        Some(SignedIn(key)) => Arc::clone(key),
        None => named_key(api, request.headers(), roles)?,
    };
    let name = &key.new.name;
    if let Some(expired_at) = key.new.expires_at.filter(|_| key.has_expired(clock::wall())) {
        let cure = cure(roles);
        return Err(Problem::key_expired(format!(
            "the key {name:?} expired at {expired_at}; an admin creates another one with: {cure}"
        )));
    }
    let role = key.new.role;
    match roles.iter().find(|(able, _)| *able == role) {
        Some((_, sight)) => Ok(Caller { key, sight: *sight }),
        None => {
            let (able, cure, role) = (in_words(roles), cure(roles), role.as_str());
            Err(Problem::forbidden(format!(
                "the key {name:?} has the role {role}; this needs {able}; an admin creates such a key with: {cure}"
            )))
        }
    }
}

/// Returns the bearer key of a request.
fn named_key(api: &Api, headers: &HeaderMap, roles: &[(Role, Sight)]) -> Result<Arc<KeyRow>, Problem> {
    let needed = || (in_words(roles), cure(roles));
    let key = bearer(headers).ok_or_else(|| {
        let (able, cure) = needed();
        Problem::unauthorized(format!(
            "this needs a key of the role {able}; send it as: Authorization: Bearer innk_…; an admin creates one with: {cure}"
        ))
    })?;
    api.keys.find(key, clock::wall()).ok_or_else(|| {
        let (able, cure) = needed();
        Problem::unauthorized(format!(
            "the key is unknown to this engine; it may have been revoked. This needs the role {able}; an admin creates a key with: {cure}"
        ))
    })
}

/// Lists roles: `read, operate or admin`.
fn in_words(roles: &[(Role, Sight)]) -> String {
    let words: Vec<_> = roles.iter().map(|(role, _)| role.as_str()).collect();
    match words.as_slice() {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        words => words.concat(),
    }
}

/// Limits how often each key of the role `subscribe` may change its subscriptions (`limits.subscribe_rate`). Third-party tools
/// store such keys, and each change writes rows that stay.
pub struct Subscribers {
    rate: Rate,
    clock: DefaultClock,
    limiter: DefaultKeyedRateLimiter<KeyId>,
}

impl Subscribers {
    pub fn new(rate: Rate) -> Self {
        let quota = Quota::with_period(rate.interval()).expect("an interval is never zero");
        Self { rate, clock: DefaultClock::default(), limiter: RateLimiter::keyed(quota.allow_burst(rate.count())) }
    }

    fn check(&self, key: &KeyRow) -> Result<(), Problem> {
        let Err(early) = self.limiter.check_key(&key.id) else { return Ok(()) };
        let wait = early.wait_time_from(self.clock.now()).max(Duration::from_secs(1));
        let seconds = u16::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u16::MAX);
        let (name, rate) = (&key.new.name, self.rate);
        Err(Problem::rate_limited(format!(
            "the key {name:?} reached the limit of subscription changes, {rate} (limits.subscribe_rate); try again in {seconds} s"
        ))
        .after(seconds))
    }
}
