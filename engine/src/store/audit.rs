//! The audit trail: who changed what, when, and with which result. An entry is stored before its change is made, so no change
//! lacks an entry. An entry without a status belongs to a change that is still being made, or during which the engine ended.

use async_trait::async_trait;

use super::{
    Error, Page, PageRequest,
    row::{Columns, Row},
};
use crate::domain::{id::AuditId, time::Timestamp};

/// Stores the audit trail.
#[async_trait]
pub trait Audit {
    /// Stores that a change is about to be made. The entry is on disk when this returns.
    ///
    /// # Errors
    /// If the commit failed: the change must not be made.
    async fn begin_audit(&self, entry: NewAudit) -> Result<AuditId, Error>;

    /// Stores the result of a change and the names of the changed members. Also stores the target, if the target became known only
    /// through the change.
    ///
    /// # Errors
    /// If the commit failed.
    async fn finish_audit(
        &self,
        id: AuditId,
        status: u16,
        target: Option<String>,
        members: Option<Vec<String>>,
    ) -> Result<(), Error>;

    /// Removes the entry of a change that was not made. It is not an error if the entry does not exist.
    ///
    /// # Errors
    /// If the commit failed.
    async fn withdraw_audit(&self, id: AuditId) -> Result<(), Error>;

    /// Returns one page of the trail, newest first.
    ///
    /// # Errors
    /// [`Error::TooSlow`] after [`READ_TIME_MAX`](super::READ_TIME_MAX); [`Error::Corrupt`] if an entry cannot be read.
    async fn audit(&self, filter: AuditFilter, page: PageRequest) -> Result<Page<AuditEntry>, Error>;
}

/// A change that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAudit {
    pub at: Timestamp,
    /// Name of the API key that requests the change.
    pub key: String,
    /// Kind of the target and the action on it, such as `endpoint.update`.
    pub action: String,
    /// Id or name of the target, if it is known before the change.
    pub target: Option<String>,
}

/// A change in the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    pub id: AuditId,
    pub new: NewAudit,
    /// HTTP status of the answer to the caller. `None` while the change is being made, or if the engine ended during it.
    pub status: Option<u16>,
    /// The names of the changed members, if the change has any.
    pub members: Vec<String>,
}

impl AuditEntry {
    /// The columns, in the order in which [`Self::read`] reads them.
    pub(super) const COLUMNS: &str = "id, at, key, action, target, status, members";

    pub(super) fn read(row: &impl Row) -> Result<Self, Error> {
        let columns = Columns::numbered("audit", row)?;
        let status = columns.optional_number(5, "status")?.map(u16::try_from).transpose();
        Ok(Self {
            id: AuditId::from_i64(columns.id()),
            new: NewAudit {
                at: columns.time(1, "at")?,
                key: columns.text(2, "key")?.to_owned(),
                action: columns.text(3, "action")?.to_owned(),
                target: columns.optional_text(4, "target")?.map(str::to_owned),
            },
            status: status.map_err(|_| columns.place.corrupt("status"))?,
            members: match columns.optional_text(6, "members")? {
                Some(members) => columns.place.json("members", members)?,
                None => Vec::new(),
            },
        })
    }
}

#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    pub key: Option<String>,
    pub action: Option<String>,
    /// Entries of this instant or later.
    pub since: Option<Timestamp>,
    /// Entries before this instant.
    pub until: Option<Timestamp>,
}
