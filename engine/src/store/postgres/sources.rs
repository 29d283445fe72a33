//! Sources: what operators set of the addresses for third parties.

use std::sync::Arc;

use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::{
    db::{clean, execute, get, row, rows},
    node::tell_settings,
};
use crate::{
    clock,
    domain::{
        id::SourceId,
        source::{NewSource, Source},
    },
    store::{
        Error, Seal,
        columns::Place,
        source_columns::{StoredSource, draft, seal_context, sealed},
    },
};

pub async fn create(tx: &Transaction<'_>, seal: &Seal, new: NewSource) -> Result<Source, Error> {
    let created_at = clock::wall();
    let sql = "INSERT INTO source (name, title, draft, created_at, sealed) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (name) DO NOTHING RETURNING id";
    let title = new.title.as_deref().map(clean);
    let created = row(tx, sql, &[&&*new.name, &title, &draft(&new), &created_at.millis(), &sealed(&new, seal)?]).await?;
    let Some(created) = created else {
        return Err(Error::Taken { what: "source", name: new.name.to_string() });
    };
    tell_settings(tx).await?;
    Ok(Source { id: SourceId::from_i64(get(&created, 0)?), created_at, new })
}

pub async fn update(tx: &Transaction<'_>, seal: &Seal, source: &Source) -> Result<(), Error> {
    let new = &source.new;
    // Its name is fixed, and its secrets are bound to it.
    let sql = "UPDATE source SET title = $1, draft = $2, sealed = $3 WHERE id = $4 AND name = $5";
    let title = new.title.as_deref().map(clean);
    let changed = execute(tx, sql, &[&title, &draft(new), &sealed(new, seal)?, &source.id.as_i64(), &&*new.name]).await?;
    found(changed)?;
    tell_settings(tx).await
}

pub async fn delete(tx: &Transaction<'_>, id: SourceId) -> Result<(), Error> {
    found(execute(tx, "DELETE FROM source WHERE id = $1", &[&id.as_i64()]).await?)?;
    tell_settings(tx).await
}

fn found(changed: u64) -> Result<(), Error> {
    if changed == 0 { Err(Error::NotFound { what: "source" }) } else { Ok(()) }
}

/// Seals every source's secrets anew.
pub async fn reseal(tx: &Transaction<'_>, old: &[Arc<Seal>], new: &Seal) -> Result<(), Error> {
    for row in rows(tx, "SELECT id, name, sealed FROM source FOR UPDATE", &[]).await? {
        let (id, name, sealed): (i64, &str, &[u8]) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
        let context = seal_context(name);
        let plain = old.iter().find_map(|seal| seal.open(&context, sealed));
        let plain = plain.ok_or_else(|| Place { table: "source", id }.corrupt("sealed"))?;
        execute(tx, "UPDATE source SET sealed = $1 WHERE id = $2", &[&new.seal(&context, &plain)?, &id]).await?;
    }
    Ok(())
}

pub async fn all(tx: &Transaction<'_>, seals: &[Arc<Seal>]) -> Result<Vec<Source>, Error> {
    let sql = "SELECT id, name, title, draft, created_at, sealed FROM source ORDER BY name COLLATE \"C\"";
    let source = |row: &Row| -> Result<Source, Error> {
        let stored = StoredSource {
            id: get(row, 0)?,
            name: get(row, 1)?,
            title: get(row, 2)?,
            draft: get(row, 3)?,
            created_at: get(row, 4)?,
            sealed: get(row, 5)?,
        };
        stored.read(seals)
    };
    rows(tx, sql, &[]).await?.iter().map(source).collect()
}
