//! The audit trail: an entry is written before its change and completed after it. Entries are listed newest first and deleted in
//! batches.

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Postgres,
    db::{Value, clean, execute, get, limit, rows, the_row},
};
use crate::{
    domain::{id::AuditId, time::Timestamp},
    store::{Audit, AuditEntry, AuditFilter, Error, NewAudit, Page, PageRequest, columns::members_to_column},
};

#[async_trait]
impl Audit for Postgres {
    async fn begin_audit(&self, entry: NewAudit) -> Result<AuditId, Error> {
        self.step(move |tx, _| {
            Box::pin(async move {
                let sql = "INSERT INTO audit (at, key, action, target) VALUES ($1, $2, $3, $4) RETURNING id";
                let target = entry.target.as_deref().map(clean);
                let row = the_row(tx, sql, &[&entry.at.millis(), &clean(&entry.key), &clean(&entry.action), &target]).await?;
                Ok(AuditId::from_i64(get(&row, 0)?))
            })
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
        self.step(move |tx, _| {
            Box::pin(async move {
                let sql = "UPDATE audit SET status = $1, target = coalesce(target, $2), members = $3 WHERE id = $4";
                let (target, members) = (target.as_deref().map(clean), members.as_deref().map(members_to_column));
                execute(tx, sql, &[&i64::from(status), &target, &members, &id.as_i64()]).await?;
                Ok(())
            })
        })
        .await
    }

    async fn withdraw_audit(&self, id: AuditId) -> Result<(), Error> {
        self.step(move |tx, _| {
            Box::pin(async move {
                execute(tx, "DELETE FROM audit WHERE id = $1", &[&id.as_i64()]).await?;
                Ok(())
            })
        })
        .await
    }

    async fn audit(&self, filter: AuditFilter, page: PageRequest) -> Result<Page<AuditEntry>, Error> {
        self.read_for_people(move |tx, _| Box::pin(async move { list(tx, &filter, page).await })).await
    }
}

async fn list(tx: &Transaction<'_>, filter: &AuditFilter, request: PageRequest) -> Result<Page<AuditEntry>, Error> {
    let (cursor, most) = (request.cursor.unwrap_or(i64::MAX), limit(request.limit + 1));
    let (since, until) = (filter.since.map(Timestamp::millis), filter.until.map(Timestamp::millis));
    let mut conditions = vec!["id < $1".to_owned()];
    let mut values: Vec<Value<'_>> = vec![&cursor];
    let mut also = |condition: &str, value| {
        values.push(value);
        conditions.push(format!("{condition} ${}", values.len()));
    };
    if let Some(key) = &filter.key {
        also("key =", key);
    }
    if let Some(action) = &filter.action {
        also("action =", action);
    }
    if let Some(since) = &since {
        also("at >=", since);
    }
    if let Some(until) = &until {
        also("at <", until);
    }
    values.push(&most);
    let sql = format!(
        "SELECT {} FROM audit WHERE {} ORDER BY id DESC LIMIT ${}",
        AuditEntry::COLUMNS,
        conditions.join(" AND "),
        values.len()
    );
    let found = rows(tx, &sql, &values).await?.iter().map(AuditEntry::read).collect::<Result<_, _>>()?;
    Ok(Page::of(found, request, |entry: &AuditEntry| entry.id.as_i64()))
}

/// Deletes up to `most` of the oldest entries that were made before `before`.
pub async fn forget(tx: &Transaction<'_>, before: Timestamp, most: i64) -> Result<usize, Error> {
    let sql = "DELETE FROM audit WHERE id IN (SELECT id FROM (SELECT id, at FROM audit ORDER BY id LIMIT $1) old WHERE at < $2)";
    Ok(execute(tx, sql, &[&most, &before.millis()]).await? as usize)
}
