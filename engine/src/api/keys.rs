//! API keys: create, list, revoke. Only the answer to the request that creates a key contains the key.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{Api, audit, body, error::Problem, path::Path};
use crate::{
    catalog::{hash_key, key_ending, new_key},
    clock,
    domain::{
        duration,
        id::{KeyId, Tag},
        key::Role,
        time::Timestamp,
    },
    store::{KeyRow, NewKey},
    wire::{
        KeyView, PageView,
        values::{durations, values},
    },
};

/// Maximum length of a key's name, in bytes.
const NAME_LEN_MAX: usize = 100;

/// Request to create a key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyInput)]
struct Input {
    /// Name: the program or person that uses the key.
    #[schema(min_length = 1, max_length = 100, pattern = r"\S")]
    name: String,
    #[schema(value_type = Role)]
    role: String,
    /// When the key expires: a duration from now (`90d`), or a time (RFC 3339). Without it, the key is valid until it is revoked.
    #[schema(value_type = Option<Expiry>)]
    expires: Option<String>,
}

/// The OpenAPI schema of a key's expiry.
enum Expiry {}

const DAYS_MAX: u64 = EXPIRY_MAX.as_secs() / (24 * 3600);

values! {
    Expiry, "Expiry", json!({
        "anyOf": [
            { "type": "string", "pattern": durations(&[
                ("ms", 1, DAYS_MAX * 86_400_000), ("s", 1, DAYS_MAX * 86_400), ("(m|min)", 1, DAYS_MAX * 1440), ("h", 1, DAYS_MAX * 24),
                ("d", 1, DAYS_MAX),
            ]) },
            { "type": "string", "format": "date-time" },
        ],
        "description": "A duration from now, or a time in the future: at most a hundred years away.", "examples": ["90d"],
    });
}

/// Create a key.
///
/// Only this answer contains the key.
#[utoipa::path(
    post, path = "/v1/keys", operation_id = "create_key", tag = "keys",
    request_body(content = Input, example = json!({ "name": "shop", "role": "publish", "expires": "90d" })),
    responses((status = 201, description = "The key and its properties.", body = KeyView)),
    extensions(("x-problems" = json!(["bad_value", "name_taken"]))),
)]
pub async fn create(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Extension<audit::Target>, Json<KeyView>), Problem> {
    let input: Input = body::json(&api, &headers, body, Problem::bad_value).await?;
    let role = Role::parse(&input.role).ok_or_else(|| {
        Problem::bad_value(format!("role: {:?} is not a role; write {}", input.role, Role::ALL.map(Role::as_str).join(", ")))
            .at("/role")
    })?;
    if input.name.trim().is_empty() || input.name.len() > NAME_LEN_MAX {
        return Err(Problem::bad_value(format!("name: must be 1 to {NAME_LEN_MAX} bytes")).at("/name"));
    }
    let now = clock::wall();
    let expires_at = input.expires.map(|text| expiry(&text, now)).transpose()?;
    let key = new_key().map_err(|_| Problem::internal("the system provides no random bytes for a key"))?;
    let new = NewKey { name: input.name, role, hash: hash_key(&key), ending: key_ending(&key), expires_at };
    let row = api.store.create_key(new).await?;
    api.keys.refresh().await?;
    let view = KeyView { key: Some(key), ..KeyView::new(&row, None, now, api.store.tag()) };
    Ok((StatusCode::CREATED, Extension(audit::Target(view.id.clone())), Json(view)))
}

/// Maximum lifetime of a key that expires.
const EXPIRY_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Reads a time in the future: RFC 3339, or a duration from now.
fn expiry(text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    let at = duration::parse(text).map(|after| now.plus(after)).or_else(|| Timestamp::parse_rfc3339(text));
    let wrong = |detail: &str| Err(Problem::bad_value(format!("expires: {text:?} {detail}")).at("/expires"));
    match at {
        None => wrong("is not a time; write 90d (from now), or 2027-01-31T09:30:00Z"),
        Some(at) if at <= now => wrong("is in the past; give a time in the future"),
        Some(at) if at > now.plus(EXPIRY_MAX) => {
            wrong("is more than a hundred years away; leave it out for a key that does not expire")
        }
        Some(at) => Ok(at),
    }
}

/// List all keys.
#[utoipa::path(
    get, path = "/v1/keys", operation_id = "list_keys", tag = "keys",
    responses((status = 200, description = "All keys, without their secrets.", body = PageView<KeyView>)),
)]
pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<PageView<KeyView>>, Problem> {
    let now = clock::wall();
    let keys = api.store.keys().await?;
    let view = |key| KeyView::new(key, api.keys.last_used(key.id), now, api.store.tag());
    Ok(Json(PageView { items: keys.iter().map(view).collect(), next: None }))
}

/// Encrypt every secret of the store with a new master key.
#[utoipa::path(
    post, path = "/v1/keys/rekey", operation_id = "rekey", tag = "keys",
    responses((status = 204, description = "All secrets are encrypted with the new key.")),
)]
pub async fn rekey(State(api): State<Arc<Api>>) -> Result<StatusCode, Problem> {
    api.store.reseal().await?;
    tracing::info!("master key replaced; all secrets are encrypted with the new one");
    Ok(StatusCode::NO_CONTENT)
}

/// Revoke a key.
///
/// Requests with this key are refused from now on.
#[utoipa::path(
    delete, path = "/v1/keys/{key_id}", operation_id = "revoke_key", tag = "keys",
    params(("key_id" = KeyId, Path, description = "Id of the key.")),
    responses((status = 204, description = "The key is revoked.")),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn revoke(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let key = KeyId::parse(&id, api.store.tag()).ok_or_else(|| Problem::not_found(format!("no key {id:?}")))?;
    let keys = api.store.keys().await?;
    let now = clock::wall();
    let is_good_admin = |key: &KeyRow| key.new.role == Role::Admin && !key.has_expired(now);
    let others = keys.iter().any(|other| other.id != key && is_good_admin(other));
    if !others && keys.iter().any(|one| one.id == key) {
        return Err(Problem::conflict("this is the last admin key; create another one first"));
    }
    api.store.revoke_key(key).await?;
    api.keys.refresh().await?;
    Ok(StatusCode::NO_CONTENT)
}

impl KeyView {
    /// `last_used_at` is the last use that is not stored in the row yet, if any; `now` is the wall clock.
    pub fn new(key: &KeyRow, last_used_at: Option<Timestamp>, now: Timestamp, tag: Tag) -> Self {
        let text = |at: Timestamp| at.to_string();
        Self {
            id: key.id.text(tag),
            name: key.new.name.clone(),
            role: key.new.role.as_str().into(),
            ending: key.new.ending.clone(),
            created_at: text(key.created_at),
            expires_at: key.new.expires_at.map(text),
            expired: key.has_expired(now),
            last_used_at: key.last_used_at.max(last_used_at).map(text),
            key: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_expiry_times() {
        let now = Timestamp::parse_rfc3339("2026-11-24T09:00:00Z").unwrap();
        let at = |text: &str| expiry(text, now).map(|at| at.to_string()).ok();
        assert_eq!(at("90d").as_deref(), Some("2027-02-22T09:00:00.000Z"));
        assert_eq!(at("2027-01-01T01:00:00+01:00").as_deref(), Some("2027-01-01T00:00:00.000Z"));
        for bad in ["0s", "2026-11-24T09:00:00Z", "2020-01-01T00:00:00Z", "never", "", "90", "99999d"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }
}
