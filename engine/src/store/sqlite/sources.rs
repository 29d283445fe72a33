//! Sources: inbound addresses for third parties.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Sqlite, rows::found};
use crate::{
    clock,
    domain::{
        id::SourceId,
        source::{NewSource, Requests, Source},
    },
    store::{
        Error, Seal, Sources,
        source_columns::{StoredSource, draft, more_requests, read_requests, sealed},
    },
};

#[async_trait]
impl Sources for Sqlite {
    async fn create_source(&self, source: NewSource) -> Result<Source, Error> {
        self.write(move |db, local| create(db, &local.seals.current(), source)).await
    }

    async fn update_source(&self, source: Source) -> Result<(), Error> {
        self.write(move |db, local| update(db, &local.seals.current(), &source)).await
    }

    async fn delete_source(&self, id: SourceId) -> Result<(), Error> {
        self.write(move |db, _| delete(db, id)).await
    }

    async fn add_source_requests(&self, requests: Vec<(SourceId, Requests)>) -> Result<(), Error> {
        self.write(move |db, _| requests.into_iter().try_for_each(|(id, more)| add_requests(db, id.as_i64(), more))).await
    }

    async fn source_requests(&self) -> Result<HashMap<SourceId, Requests>, Error> {
        self.read(|db| {
            let mut select = db.prepare_cached("SELECT id, requests FROM source")?;
            let mut rows = select.query([])?;
            let mut found = HashMap::new();
            while let Some(row) = rows.next()? {
                let (id, text): (i64, String) = (row.get(0)?, row.get(1)?);
                found.insert(SourceId::from_i64(id), read_requests(id, &text)?);
            }
            Ok(found)
        })
        .await
    }

    async fn sources(&self) -> Result<Vec<Source>, Error> {
        let local = Arc::clone(&self.local);
        // The keys are read after the transaction has begun, for the same reason as for endpoints.
        self.read(move |db| all(db, &local.seals.all())).await
    }
}

fn create(db: &Connection, seal: &Seal, new: NewSource) -> Result<Source, Error> {
    let taken: bool =
        db.prepare_cached("SELECT EXISTS (SELECT 1 FROM source WHERE name = ?1)")?.query_row([&*new.name], |row| row.get(0))?;
    if taken {
        return Err(Error::Taken { what: "source", name: new.name.to_string() });
    }
    let created_at = clock::wall();
    db.prepare_cached("INSERT INTO source (name, title, draft, created_at, sealed) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![&*new.name, new.title, draft(&new), created_at.millis(), sealed(&new, seal)?])?;
    Ok(Source { id: SourceId::from_i64(db.last_insert_rowid()), created_at, new })
}

fn update(db: &Connection, seal: &Seal, source: &Source) -> Result<(), Error> {
    let new = &source.new;
    // The name of a source never changes, and its secrets are bound to the name.
    let changed = db
        .prepare_cached("UPDATE source SET title = ?1, draft = ?2, sealed = ?3 WHERE id = ?4 AND name = ?5")?
        .execute(params![new.title, draft(new), sealed(new, seal)?, source.id.as_i64(), &*new.name])?;
    found(changed, "source")
}

fn delete(db: &Connection, id: SourceId) -> Result<(), Error> {
    found(db.prepare_cached("DELETE FROM source WHERE id = ?1")?.execute([id.as_i64()])?, "source")
}

fn add_requests(db: &Connection, id: i64, more: Requests) -> Result<(), Error> {
    let mut select = db.prepare_cached("SELECT requests FROM source WHERE id = ?1")?;
    if let Some(stored) = select.query_row([id], |row| row.get::<_, String>(0)).optional()? {
        let text = more_requests(id, &stored, more)?;
        db.prepare_cached("UPDATE source SET requests = ?2 WHERE id = ?1")?.execute(params![id, text])?;
    }
    Ok(())
}

/// The columns that [`source`] reads, in the same order.
pub const SOURCE_COLUMNS: &str = "id, name, title, draft, created_at, sealed, requests";

/// Reads [`SOURCE_COLUMNS`]. One of `seals` must open the secrets.
pub fn source(row: &Row<'_>, seals: &[Arc<Seal>]) -> Result<Source, Error> {
    let stored = StoredSource {
        id: row.get(0)?,
        name: row.get(1)?,
        title: row.get(2)?,
        draft: row.get(3)?,
        created_at: row.get(4)?,
        sealed: row.get(5)?,
    };
    read_requests(stored.id, &row.get::<_, String>(6)?)?;
    stored.read(seals)
}

fn all(db: &Connection, seals: &[Arc<Seal>]) -> Result<Vec<Source>, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {SOURCE_COLUMNS} FROM source ORDER BY name"))?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(source(row, seals)?);
    }
    Ok(found)
}
