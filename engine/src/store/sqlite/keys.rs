//! API keys.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Sqlite, rows::found, writer::Keeps};
use crate::{
    clock,
    domain::{id::KeyId, time::Timestamp},
    store::{Error, KeyRow, Keys, NewKey},
};

#[async_trait]
impl Keys for Sqlite {
    async fn create_key(&self, key: NewKey) -> Result<KeyRow, Error> {
        self.write(move |db, _| create(db, key)).await
    }

    async fn revoke_key(&self, id: KeyId) -> Result<(), Error> {
        self.write(move |db, _| found(db.prepare_cached("DELETE FROM api_key WHERE id = ?1")?.execute([id.as_i64()])?, "key"))
            .await
    }

    async fn keys(&self) -> Result<Vec<KeyRow>, Error> {
        self.read(all).await
    }

    async fn note_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), Error> {
        self.write_as(Keeps::Progress, move |db, _| note_uses(db, &uses)).await
    }
}

fn create(db: &Connection, new: NewKey) -> Result<KeyRow, Error> {
    let taken: Option<i64> = db
        .prepare_cached("SELECT id FROM api_key WHERE name = ?1 OR hash = ?2")?
        .query_row(params![new.name, new.hash], |row| row.get(0))
        .optional()?;
    if taken.is_some() {
        return Err(Error::Taken { what: "key", name: new.name });
    }
    let created_at = clock::wall();
    db.prepare_cached("INSERT INTO api_key (name, role, hash, created_at, expires_at, ending) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![
            new.name,
            new.role.as_str(),
            new.hash,
            created_at.millis(),
            new.expires_at.map(Timestamp::millis),
            new.ending
        ])?;
    Ok(KeyRow { id: KeyId::from_i64(db.last_insert_rowid()), new, created_at, last_used_at: None })
}

fn all(db: &Connection) -> Result<Vec<KeyRow>, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {} FROM api_key ORDER BY name", KeyRow::COLUMNS))?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(KeyRow::read(row)?);
    }
    Ok(found)
}

fn note_uses(db: &Connection, uses: &[(KeyId, Timestamp)]) -> Result<(), Error> {
    for (id, at) in uses {
        db.prepare_cached("UPDATE api_key SET last_used_at = max(coalesce(last_used_at, ?1), ?1) WHERE id = ?2")?
            .execute(params![at.millis(), id.as_i64()])?;
    }
    Ok(())
}
