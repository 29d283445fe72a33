//! Sources: inbound addresses for third parties. Every change raises the config version in its transaction.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::{
    Postgres,
    db::{clean, execute, found, get, row, rows},
    nodes::raise_config_version,
};
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
impl Sources for Postgres {
    async fn create_source(&self, source: NewSource) -> Result<Source, Error> {
        self.step_sealing(move |tx, seal| {
            let source = source.clone();
            Box::pin(async move { create(tx, &seal, source).await })
        })
        .await
    }

    async fn update_source(&self, source: Source) -> Result<(), Error> {
        self.step_sealing(move |tx, seal| {
            let source = source.clone();
            Box::pin(async move { update(tx, &seal, &source).await })
        })
        .await
    }

    async fn delete_source(&self, id: SourceId) -> Result<(), Error> {
        self.step(move |tx, _| Box::pin(delete(tx, id))).await
    }

    async fn add_source_requests(&self, requests: Vec<(SourceId, Requests)>) -> Result<(), Error> {
        // Updates the rows in the order of their ids, so that two nodes never wait for each other.
        let requests: BTreeMap<i64, Requests> = requests.into_iter().map(|(id, more)| (id.as_i64(), more)).collect();
        self.step(move |tx, _| Box::pin(add_requests(tx, requests))).await
    }

    async fn source_requests(&self) -> Result<HashMap<SourceId, Requests>, Error> {
        self.read_sealed(|tx, _| {
            Box::pin(async move {
                let found = |row: &Row| -> Result<_, Error> {
                    let (id, text): (i64, String) = (get(row, 0)?, get(row, 1)?);
                    Ok((SourceId::from_i64(id), read_requests(id, &text)?))
                };
                rows(tx, "SELECT id, requests FROM source", &[]).await?.iter().map(found).collect()
            })
        })
        .await
    }

    async fn sources(&self) -> Result<Vec<Source>, Error> {
        self.read_sealed(|tx, local| Box::pin(async move { all(tx, &local.seals.all()).await })).await
    }
}

async fn create(tx: &Transaction<'_>, seal: &Seal, new: NewSource) -> Result<Source, Error> {
    let created_at = clock::wall();
    let sql = "INSERT INTO source (name, title, draft, created_at, sealed) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (name) DO NOTHING RETURNING id";
    let title = new.title.as_deref().map(clean);
    let created = row(tx, sql, &[&&*new.name, &title, &draft(&new), &created_at.millis(), &sealed(&new, seal)?]).await?;
    let Some(created) = created else {
        return Err(Error::Taken { what: "source", name: new.name.to_string() });
    };
    raise_config_version(tx).await?;
    Ok(Source { id: SourceId::from_i64(get(&created, 0)?), created_at, new })
}

async fn update(tx: &Transaction<'_>, seal: &Seal, source: &Source) -> Result<(), Error> {
    let new = &source.new;
    // The name of a source never changes, and its secrets are bound to the name.
    let sql = "UPDATE source SET title = $1, draft = $2, sealed = $3 WHERE id = $4 AND name = $5";
    let title = new.title.as_deref().map(clean);
    let changed = execute(tx, sql, &[&title, &draft(new), &sealed(new, seal)?, &source.id.as_i64(), &&*new.name]).await?;
    found(changed, "source")?;
    raise_config_version(tx).await
}

async fn delete(tx: &Transaction<'_>, id: SourceId) -> Result<(), Error> {
    found(execute(tx, "DELETE FROM source WHERE id = $1", &[&id.as_i64()]).await?, "source")?;
    raise_config_version(tx).await
}

/// Adds counts and refusals. Does not raise the config version, because counts are not part of the configuration that nodes read.
async fn add_requests(tx: &Transaction<'_>, requests: BTreeMap<i64, Requests>) -> Result<(), Error> {
    for (id, more) in requests {
        if let Some(stored) = row(tx, "SELECT requests FROM source WHERE id = $1 FOR NO KEY UPDATE", &[&id]).await? {
            let text = more_requests(id, &get::<String>(&stored, 0)?, more)?;
            execute(tx, "UPDATE source SET requests = $2 WHERE id = $1", &[&id, &clean(&text)]).await?;
        }
    }
    Ok(())
}

async fn all(tx: &Transaction<'_>, seals: &[Arc<Seal>]) -> Result<Vec<Source>, Error> {
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
