//! The audit trail.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{id::AuditId, time::Timestamp};

/// A change.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditView {
    #[schema(value_type = AuditId)]
    pub id: String,
    #[schema(value_type = Timestamp)]
    pub at: String,
    /// The name of the key.
    pub key: String,
    /// What was done to what, such as `endpoint.update`.
    pub action: String,
    /// The id or the name of the thing.
    pub target: Option<String>,
    /// What the caller was answered; null while it is being made, or when the engine ended meanwhile.
    pub status: Option<u16>,
}
