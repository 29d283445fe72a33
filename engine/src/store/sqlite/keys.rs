//! API keys.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    Sqlite,
    rows::{Place, found},
    writer::Keeps,
};
use crate::{
    clock,
    domain::{id::KeyId, key::Role, time::Timestamp},
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
    db.prepare_cached("INSERT INTO api_key (name, role, hash, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![new.name, new.role.as_str(), new.hash, created_at.millis(), new.expires_at.map(Timestamp::millis)])?;
    Ok(KeyRow { id: KeyId::from_i64(db.last_insert_rowid()), new, created_at, last_used_at: None })
}

/// The columns of [`key`], in its order.
pub const KEY_COLUMNS: &str = "id, name, role, hash, created_at, expires_at, last_used_at";

/// Reads [`KEY_COLUMNS`].
pub fn key(row: &Row<'_>) -> Result<KeyRow, Error> {
    let place = Place { table: "api_key", id: row.get(0)? };
    Ok(KeyRow {
        id: KeyId::from_i64(place.id),
        new: NewKey {
            name: row.get(1)?,
            role: Role::parse(&row.get::<_, String>(2)?).ok_or_else(|| place.corrupt("role"))?,
            hash: row.get(3).map_err(|_| place.corrupt("hash"))?,
            expires_at: row.get::<_, Option<i64>>(5)?.map(Timestamp::from_millis),
        },
        created_at: Timestamp::from_millis(row.get(4)?),
        last_used_at: row.get::<_, Option<i64>>(6)?.map(Timestamp::from_millis),
    })
}

fn all(db: &Connection) -> Result<Vec<KeyRow>, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {KEY_COLUMNS} FROM api_key ORDER BY name"))?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(key(row)?);
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
