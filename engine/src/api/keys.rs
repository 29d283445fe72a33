//! API keys: made, listed, revoked. A key is shown once, in the reply that makes it.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    Api,
    auth::{hash_key, new_key},
    body,
    error::Problem,
    path::Path,
    view::{KeyView, PageView},
};
use crate::{domain::id::KeyId, store::Role};

/// Length of a key's name in bytes.
const NAME_LEN_MAX: usize = 100;

/// What a caller says of a key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyInput)]
struct Input {
    /// Whose it is, or what for.
    #[schema(min_length = 1, max_length = 100, pattern = r"\S")]
    name: String,
    #[schema(value_type = Role)]
    role: String,
}

/// Make a key.
///
/// The answer alone carries it.
#[utoipa::path(
    post, path = "/v1/keys", operation_id = "create_key", tag = "keys",
    request_body(content = Input, example = json!({ "name": "shop", "role": "publish" })),
    responses((status = 201, description = "What is known of the key, and the key itself.", body = KeyView)),
    extensions(("x-problems" = json!(["bad_value"]))),
)]
pub async fn create(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Result<(StatusCode, Json<KeyView>), Problem> {
    let input: Input = body::json(&api, &headers, body, Problem::bad_value).await?;
    let role = Role::parse(&input.role).ok_or_else(|| {
        Problem::bad_value(format!("role: {:?} is not a role; write {}", input.role, Role::ALL.map(Role::as_str).join(", ")))
            .at("/role")
    })?;
    if input.name.trim().is_empty() || input.name.len() > NAME_LEN_MAX {
        return Err(Problem::bad_value(format!("name: must be 1 to {NAME_LEN_MAX} bytes")).at("/name"));
    }
    let key = new_key().map_err(|_| Problem::internal("the system gives no randomness for a key"))?;
    let row = api.store.create_key(input.name, role, hash_key(&key)).await?;
    api.keys.refresh(&*api.store).await?;
    Ok((StatusCode::CREATED, Json(KeyView { key: Some(key), ..KeyView::new(&row, api.store.tag()) })))
}

/// List all keys.
#[utoipa::path(
    get, path = "/v1/keys", operation_id = "list_keys", tag = "keys",
    responses((status = 200, description = "All of them, without the keys themselves.", body = PageView<KeyView>)),
)]
pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<PageView<KeyView>>, Problem> {
    let keys = api.store.keys().await?;
    Ok(Json(PageView { items: keys.iter().map(|key| KeyView::new(key, api.store.tag())).collect(), next: None }))
}

/// Encrypt every secret of the store anew, under a fresh master key.
#[utoipa::path(
    post, path = "/v1/keys/rekey", operation_id = "rekey", tag = "keys",
    responses((status = 204, description = "It is done.")),
)]
pub async fn rekey(State(api): State<Arc<Api>>) -> Result<StatusCode, Problem> {
    api.store.reseal().await?;
    tracing::info!("the store's secrets are sealed under a new master key");
    Ok(StatusCode::NO_CONTENT)
}

/// Take a key back.
///
/// Whoever uses it is refused from now on.
#[utoipa::path(
    delete, path = "/v1/keys/{key}", operation_id = "revoke_key", tag = "keys",
    params(("key" = KeyId, Path, description = "Its id.")),
    responses((status = 204, description = "It is gone.")),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn revoke(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let key = KeyId::parse(&id, api.store.tag()).ok_or_else(|| Problem::not_found(format!("there is no key {id:?}")))?;
    let keys = api.store.keys().await?;
    let admins = keys.iter().filter(|other| other.role == Role::Admin && other.id != key).count();
    if admins == 0 && keys.iter().any(|one| one.id == key) {
        return Err(Problem::conflict("it is the last admin key; make another one first"));
    }
    api.store.revoke_key(key).await?;
    api.keys.refresh(&*api.store).await?;
    Ok(StatusCode::NO_CONTENT)
}
