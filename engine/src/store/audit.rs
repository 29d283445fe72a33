//! The audit trail: who changed what, when, and what came of it. An entry is stored before its change is made, so a change without
//! an entry does not exist; an entry without a status belongs to a change during which the engine ended.

use crate::domain::{id::AuditId, time::Timestamp};

/// A change that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAudit {
    pub at: Timestamp,
    /// The name of the key that asks for it.
    pub key: String,
    /// What is done to what, such as `endpoint.update`.
    pub action: String,
    /// The id or name of the thing, as far as it is known before.
    pub target: Option<String>,
}

/// A change in the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    pub id: AuditId,
    pub new: NewAudit,
    /// The HTTP status that the caller was answered with; `None` while it is being made, or when the engine ended meanwhile.
    pub status: Option<u16>,
}

#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    pub key: Option<String>,
    pub action: Option<String>,
    /// Made at or after.
    pub since: Option<Timestamp>,
    /// Made before.
    pub until: Option<Timestamp>,
}
