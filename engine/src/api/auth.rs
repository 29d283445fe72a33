//! Who may do what: bearer keys with a role. Which keys there are is the catalog's business.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Method, header, request::Parts},
    middleware::Next,
    response::Response,
};

use super::{Api, error::Problem};
use crate::{
    clock,
    store::{KeyRow, Role},
};

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

pub fn require(api: &Api, headers: &HeaderMap, needed: Role) -> Result<Arc<KeyRow>, Problem> {
    let key = bearer(headers).ok_or_else(|| {
        Problem::unauthorized(
            "send a key of this engine as: Authorization: Bearer innk_…; make one with: innesco keys create NAME",
        )
    })?;
    let now = clock::wall();
    let key =
        api.keys.find(key, now).ok_or_else(|| Problem::unauthorized("the key is not known here; it may have been revoked"))?;
    if let Some(expired_at) = key.new.expires_at.filter(|_| key.has_expired(now)) {
        let name = &key.new.name;
        let text = format!("the key {name:?} expired at {expired_at}; make another one with: innesco keys create NAME");
        return Err(Problem::key_expired(text));
    }
    let role = key.new.role;
    if role.may(needed) {
        return Ok(key);
    }
    let able: Vec<_> = Role::ALL.into_iter().filter(|role| role.may(needed)).map(Role::as_str).collect();
    Err(Problem::forbidden(format!("the key's role is {}; this needs {}", role.as_str(), able.join(" or "))))
}

/// The key that a request was let in with.
#[derive(Clone)]
pub struct Caller(pub Arc<KeyRow>);

/// The least role that may: reading needs `read`, everything else what a `change` needs. (Publishing has its own rule: [`Publisher`].)
pub fn needed(method: &Method, change: Role) -> Role {
    if method.is_safe() { Role::Read } else { change }
}

/// Lets through who has the role that is [`needed`].
pub async fn guard(State((api, change)): State<(Arc<Api>, Role)>, mut request: Request, next: Next) -> Result<Response, Problem> {
    let caller = Caller(require(&api, request.headers(), needed(request.method(), change))?);
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Lets through who may do everything, also to read.
pub async fn admin_only(State(api): State<Arc<Api>>, request: Request, next: Next) -> Result<Response, Problem> {
    require(&api, request.headers(), Role::Admin)?;
    Ok(next.run(request).await)
}

/// A caller that may send events.
pub struct Publisher;

impl FromRequestParts<Arc<Api>> for Publisher {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        require(api, &parts.headers, Role::Publish)?;
        Ok(Self)
    }
}
