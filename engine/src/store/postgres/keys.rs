//! API keys. Every change raises the config version in its transaction.

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Postgres,
    db::{clean, execute, found, get, row, rows},
    nodes::raise_config_version,
};
use crate::{
    clock,
    domain::{id::KeyId, time::Timestamp},
    store::{Error, KeyRow, Keys, NewKey},
};

#[async_trait]
impl Keys for Postgres {
    async fn create_key(&self, key: NewKey) -> Result<KeyRow, Error> {
        self.step(move |tx, _| Box::pin(create(tx, key))).await
    }

    async fn revoke_key(&self, id: KeyId) -> Result<(), Error> {
        self.step(move |tx, _| {
            Box::pin(async move {
                found(execute(tx, "DELETE FROM api_key WHERE id = $1", &[&id.as_i64()]).await?, "key")?;
                raise_config_version(tx).await
            })
        })
        .await
    }

    async fn keys(&self) -> Result<Vec<KeyRow>, Error> {
        self.read(|tx, _| Box::pin(all(tx))).await
    }

    async fn note_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), Error> {
        self.step(move |tx, _| Box::pin(async move { note_uses(tx, &uses).await })).await
    }
}

async fn create(tx: &Transaction<'_>, new: NewKey) -> Result<KeyRow, Error> {
    let created_at = clock::wall();
    let sql = "INSERT INTO api_key (name, role, hash, created_at, expires_at, ending) VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT DO NOTHING RETURNING id";
    let expires_at = new.expires_at.map(Timestamp::millis);
    let created = row(
        tx,
        sql,
        &[&clean(&new.name), &new.role.as_str(), &new.hash.as_slice(), &created_at.millis(), &expires_at, &new.ending],
    )
    .await?;
    let Some(created) = created else {
        return Err(Error::Taken { what: "key", name: new.name });
    };
    raise_config_version(tx).await?;
    Ok(KeyRow { id: KeyId::from_i64(get(&created, 0)?), new, created_at, last_used_at: None })
}

async fn all(tx: &Transaction<'_>) -> Result<Vec<KeyRow>, Error> {
    let sql = format!("SELECT {} FROM api_key ORDER BY name COLLATE \"C\"", KeyRow::COLUMNS);
    rows(tx, &sql, &[]).await?.iter().map(KeyRow::read).collect()
}

async fn note_uses(tx: &Transaction<'_>, uses: &[(KeyId, Timestamp)]) -> Result<(), Error> {
    let mut uses: Vec<(i64, i64)> = uses.iter().map(|(id, at)| (id.as_i64(), at.millis())).collect();
    uses.sort_unstable();
    for (id, at) in uses {
        let sql = "UPDATE api_key SET last_used_at = greatest(coalesce(last_used_at, $1), $1) WHERE id = $2";
        execute(tx, sql, &[&at, &id]).await?;
    }
    Ok(())
}
