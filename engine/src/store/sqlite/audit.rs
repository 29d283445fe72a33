//! The audit trail: an entry is written before its change and completed after it. Entries are listed newest first and deleted in
//! batches.

use async_trait::async_trait;
use rusqlite::{Connection, ToSql, params, params_from_iter};

use super::{Sqlite, writer::Keeps};
use crate::{
    domain::{id::AuditId, time::Timestamp},
    store::{Audit, AuditEntry, AuditFilter, Error, NewAudit, Page, PageRequest, columns::members_to_column},
};

#[async_trait]
impl Audit for Sqlite {
    async fn begin_audit(&self, entry: NewAudit) -> Result<AuditId, Error> {
        self.write(move |db, _| {
            db.prepare_cached("INSERT INTO audit (at, key, action, target) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                entry.at.millis(),
                entry.key,
                entry.action,
                entry.target
            ])?;
            Ok(AuditId::from_i64(db.last_insert_rowid()))
        })
        .await
    }

    async fn finish_audit(
        &self,
        id: AuditId,
        status: u16,
        target: Option<String>,
        members: Option<Vec<String>>,
    ) -> Result<(), Error> {
        // This write need not be synced, because the entry is already on disk. The change is on disk, too, if its caller was told
        // that it succeeded.
        self.write_as(Keeps::Progress, move |db, _| {
            let sql = "UPDATE audit SET status = ?1, target = coalesce(target, ?2), members = ?3 WHERE id = ?4";
            let members = members.as_deref().map(members_to_column);
            db.prepare_cached(sql)?.execute(params![status, target, members, id.as_i64()])?;
            Ok(())
        })
        .await
    }

    async fn withdraw_audit(&self, id: AuditId) -> Result<(), Error> {
        // This write need not be synced. A crash may undo it, and so restore the entry of a change that was not made. That is
        // allowed: the trail may list too many changes, but never too few.
        self.write_as(Keeps::Progress, move |db, _| {
            db.prepare_cached("DELETE FROM audit WHERE id = ?1")?.execute([id.as_i64()])?;
            Ok(())
        })
        .await
    }

    async fn audit(&self, filter: AuditFilter, page: PageRequest) -> Result<Page<AuditEntry>, Error> {
        self.read_for_people(move |db| list(db, &filter, page)).await
    }
}

fn list(db: &Connection, filter: &AuditFilter, request: PageRequest) -> Result<Page<AuditEntry>, Error> {
    let mut conditions = vec!["id < ?"];
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(request.cursor.unwrap_or(i64::MAX))];
    let mut also = |condition, value: Box<dyn ToSql>| {
        conditions.push(condition);
        values.push(value);
    };
    if let Some(key) = &filter.key {
        also("key = ?", Box::new(key.clone()));
    }
    if let Some(action) = &filter.action {
        also("action = ?", Box::new(action.clone()));
    }
    if let Some(since) = filter.since {
        also("at >= ?", Box::new(since.millis()));
    }
    if let Some(until) = filter.until {
        also("at < ?", Box::new(until.millis()));
    }
    values.push(Box::new(i64::try_from(request.limit + 1).unwrap_or(i64::MAX)));
    let sql = format!("SELECT {} FROM audit WHERE {} ORDER BY id DESC LIMIT ?", AuditEntry::COLUMNS, conditions.join(" AND "));
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(AuditEntry::read(row)?);
    }
    Ok(Page::of(found, request, |entry| entry.id.as_i64()))
}

/// Deletes up to `limit` of the oldest entries that were made before `before`.
pub fn forget(db: &Connection, before: Timestamp, limit: u32) -> Result<usize, Error> {
    let mut delete = db.prepare_cached(
        "DELETE FROM audit WHERE id IN (SELECT id FROM (SELECT id, at FROM audit ORDER BY id LIMIT ?1) WHERE at < ?2)",
    )?;
    Ok(delete.execute(params![limit, before.millis()])?)
}
