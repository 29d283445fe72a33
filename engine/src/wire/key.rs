//! API keys.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Word;
use crate::domain::{id::KeyId, key::Role, time::Timestamp};

/// An API key.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Key)]
pub struct KeyView {
    #[schema(value_type = KeyId)]
    pub id: String,
    pub name: String,
    #[schema(value_type = Role)]
    pub role: Word,
    /// The last four characters of the key; `null` for a key that an earlier engine created.
    #[serde(default)]
    pub ending: Option<String>,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    /// Expiry; `null` if the key is valid until it is revoked.
    #[schema(value_type = Option<Timestamp>)]
    pub expires_at: Option<String>,
    pub expired: bool,
    #[schema(value_type = Option<Timestamp>)]
    pub last_used_at: Option<String>,
    /// The key itself. Only in the answer to the request that creates the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub key: Option<String>,
}
