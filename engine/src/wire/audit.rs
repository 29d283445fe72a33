//! The audit trail.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{id::AuditId, time::Timestamp};

/// One recorded change.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditView {
    #[schema(value_type = AuditId)]
    pub id: String,
    #[schema(value_type = Timestamp)]
    pub at: String,
    /// Name of the key that made the change.
    pub key: String,
    /// Action, such as `endpoint.update`.
    pub action: String,
    /// Id or name of the changed thing.
    pub target: Option<String>,
    /// Status of the answer; `null` while the change is in progress, or if the engine stopped before it answered.
    pub status: Option<u16>,
    /// Names of the changed members, such as the settings of a plugin.
    #[serde(default)]
    pub members: Vec<String>,
}
