//! Replaces the master key: seals every secret again in one transaction. Another node switches to the new key when it finds a
//! secret that its key does not open.

use std::sync::Arc;

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use zeroize::Zeroizing;

use super::{
    Local, Postgres,
    db::{execute, get, meta, rows, the_row},
    nodes::raise_config_version,
    transactions::Doing,
    upgrade,
};
use crate::store::{
    Error, Seal, Secrets,
    columns::{self, Place},
    source_columns,
};

#[async_trait]
impl Secrets for Postgres {
    fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.local.seals.current().seal(context, plain)?)
    }

    fn unseal(&self, context: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.local.seals.open(context, sealed)
    }

    async fn reseal(&self) -> Result<(), Error> {
        self.follow_key().await?;
        let old = self.local.seals.all();
        let seal = self
            .step(move |tx, local| {
                Box::pin(async move {
                    upgrade::alone(tx).await?;
                    let seal = Arc::new(local.seals.file().begin_change()?);
                    // This row is locked first. So this statement waits for all steps, on any node, that seal with the old key, and
                    // later steps wait for this transaction.
                    execute(tx, "UPDATE meta SET value = $1 WHERE key = 'seal'", &[&seal.mark()?]).await?;
                    reseal(tx, "source", source_columns::seal_context, &old, &seal).await?;
                    reseal(tx, "endpoint", columns::seal_context, &old, &seal).await?;
                    raise_config_version(tx).await?;
                    local.seals.announce(&seal);
                    Ok(seal)
                })
            })
            .await?;
        self.local.seals.commit(seal);
        Ok(())
    }
}

/// The statement that reads the store's mark. Until the transaction ends, no other node can replace the master key.
const KEEP_KEY: &str = "SELECT value FROM meta WHERE key = 'seal' FOR SHARE";

impl Postgres {
    /// Writes like [`Self::step`], with the key that seals the store's secrets. No other node replaces that key before the
    /// transaction ends.
    pub async fn step_sealing<T: Send + 'static>(
        &self,
        work: impl for<'a> Fn(&'a Transaction<'a>, Arc<Seal>) -> Doing<'a, T> + Clone + Send + Sync + 'static,
    ) -> Result<T, Error> {
        loop {
            let work = work.clone();
            let stepping = self.step(move |tx, local| {
                Box::pin(async move {
                    let mark: Vec<u8> = get(&the_row(tx, KEEP_KEY, &[]).await?, 0)?;
                    match local.seals.all().into_iter().find(|seal| seal.made(&mark)) {
                        Some(seal) => work(tx, seal).await.map(Some),
                        None => Ok(None),
                    }
                })
            });
            if let Some(done) = stepping.await? {
                return Ok(done);
            }
            // Another node has replaced the key. This fails if the key file does not contain the new key.
            self.follow_key().await?;
        }
    }

    /// Reads rows with secrets. If a secret does not open, reads the master key and tries again, because another node may have
    /// replaced the key.
    pub async fn read_sealed<T>(
        &self,
        work: impl for<'a> Fn(&'a Transaction<'a>, &'a Local) -> Doing<'a, T> + Send + Sync,
    ) -> Result<T, Error> {
        match self.read(&work).await {
            Err(Error::Corrupt { column: "sealed", .. }) => {
                self.follow_key().await?;
                self.read(&work).await
            }
            answer => answer,
        }
    }

    /// Switches to a master key that another node has made current, if the nodes share the key file.
    async fn follow_key(&self) -> Result<(), Error> {
        let seals = self.local.seals.all();
        let seal = self
            .step(move |tx, local| {
                Box::pin(async move {
                    // If a key change is in progress, this waits for its end. Such a change has already written its new key file,
                    // which would otherwise be mistaken for the file of an abandoned change.
                    upgrade::alone(tx).await?;
                    let mark = meta(tx, "seal").await?.ok_or(Error::Corrupt { table: "meta", column: "value", id: 0 })?;
                    if seals.iter().any(|seal| seal.made(&mark)) {
                        return Ok(None);
                    }
                    Ok(Some(local.seals.file().open(Some(&mark))?))
                })
            })
            .await?;
        if let Some(seal) = seal {
            self.local.seals.put_in_force(Arc::new(seal));
        }
        Ok(())
    }
}

/// Seals the secrets of every row of a table again.
async fn reseal(
    tx: &Transaction<'_>,
    table: &'static str,
    context: fn(&str) -> String,
    old: &[Arc<Seal>],
    new: &Seal,
) -> Result<(), Error> {
    let sql = format!("SELECT id, name, sealed FROM {table} WHERE sealed IS NOT NULL FOR UPDATE");
    for row in rows(tx, &sql, &[]).await? {
        let (id, name, sealed): (i64, &str, &[u8]) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
        let context = context(name);
        let plain = old.iter().find_map(|seal| seal.open(&context, sealed));
        let plain = plain.ok_or_else(|| Place { table, id }.corrupt("sealed"))?;
        execute(tx, &format!("UPDATE {table} SET sealed = $1 WHERE id = $2"), &[&new.seal(&context, &plain)?, &id]).await?;
    }
    Ok(())
}
