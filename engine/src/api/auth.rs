//! Who may do what: bearer keys with a role. Only a hash of a key is kept, in the store and here.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Method, header, request::Parts},
    middleware::Next,
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::{Api, error::Problem};
use crate::store::{self, KeyRow, Role, Store};

/// What every key begins with, so that a leaked one is recognised.
pub const KEY_PREFIX: &str = "innk_";

/// Makes a key of random bytes.
pub fn new_key() -> Result<String, getrandom::Error> {
    let mut random = [0; 24];
    getrandom::fill(&mut random)?;
    Ok(format!("{KEY_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random)))
}

/// What is kept of a key. A key is random, so a plain hash is enough.
pub fn hash_key(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// The keys as last committed. A look-up is by the key's hash, so its time tells nothing about a key.
#[derive(Default)]
pub struct Keys(RwLock<HashMap<[u8; 32], KeyRow>>);

impl Keys {
    pub async fn refresh(&self, store: &dyn Store) -> Result<(), store::Error> {
        let keys = store.keys().await?.into_iter().map(|key| (key.hash, key)).collect();
        *self.0.write().expect("no code panics while it swaps the keys") = keys;
        Ok(())
    }

    fn role(&self, key: &str) -> Option<Role> {
        self.0.read().expect("no code panics while it swaps the keys").get(&hash_key(key)).map(|key| key.role)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

pub fn require(api: &Api, headers: &HeaderMap, needed: Role) -> Result<(), Problem> {
    let key = bearer(headers).ok_or_else(|| {
        Problem::unauthorized(
            "send a key of this engine as: Authorization: Bearer innk_…; make one with: innesco keys create NAME",
        )
    })?;
    let role = api.keys.role(key).ok_or_else(|| Problem::unauthorized("the key is not known here; it may have been revoked"))?;
    if role == Role::Admin || role == needed {
        return Ok(());
    }
    let admin = if needed == Role::Admin { "" } else { " or admin" };
    Err(Problem::forbidden(format!("the key's role is {}; this needs {}{admin}", role.as_str(), needed.as_str())))
}

/// The least role that may: reading needs `read`, everything else `admin`. (Publishing has its own rule: [`Publisher`].)
pub fn needed(method: &Method) -> Role {
    if method.is_safe() { Role::Read } else { Role::Admin }
}

/// Lets through who has the role that is [`needed`].
pub async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Result<Response, Problem> {
    require(&api, request.headers(), needed(request.method()))?;
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
