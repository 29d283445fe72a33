//! API keys: made, listed, revoked. A key is shown once, in the reply that makes it.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;

use super::{
    Api,
    auth::{hash_key, new_key},
    body,
    error::Problem,
    view::{KeyView, PageView},
};
use crate::{domain::id::KeyId, store::Role};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    name: String,
    role: String,
}

pub async fn create(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Result<(StatusCode, Json<KeyView>), Problem> {
    let input: Input = body::json(&api, &headers, body, Problem::bad_value).await?;
    let role = Role::parse(&input.role).ok_or_else(|| {
        Problem::bad_value(format!("role: {:?} is not a role; write {}", input.role, Role::ALL.map(Role::as_str).join(", ")))
            .at("/role")
    })?;
    if input.name.trim().is_empty() || input.name.len() > 100 {
        return Err(Problem::bad_value("name: must be 1 to 100 bytes").at("/name"));
    }
    let key = new_key().map_err(|_| Problem::internal("the system gives no randomness for a key"))?;
    let row = api.store.create_key(input.name, role, hash_key(&key)).await?;
    api.keys.refresh(&*api.store).await?;
    Ok((StatusCode::CREATED, Json(KeyView { key: Some(key), ..KeyView::new(&row, api.store.tag()) })))
}

pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<PageView<KeyView>>, Problem> {
    let keys = api.store.keys().await?;
    Ok(Json(PageView { items: keys.iter().map(|key| KeyView::new(key, api.store.tag())).collect(), next: None }))
}

/// Encrypts every secret of the store anew, under a fresh master key.
pub async fn rekey(State(api): State<Arc<Api>>) -> Result<StatusCode, Problem> {
    api.store.reseal().await?;
    tracing::info!("the store's secrets are sealed under a new master key");
    Ok(StatusCode::NO_CONTENT)
}

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
