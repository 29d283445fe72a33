//! Replaces the master key: seals every secret again in one transaction.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, params};
use zeroize::Zeroizing;

use super::{
    Sqlite,
    rows::Place,
    writer::{Breaks, Keeps},
};
use crate::store::{Error, Seal, Secrets, columns, source_columns};

#[async_trait]
impl Secrets for Sqlite {
    fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.local.seals.current().seal(context, plain)?)
    }

    fn unseal(&self, context: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.local.seals.open(context, sealed)
    }

    async fn reseal(&self) -> Result<(), Error> {
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, local, after| {
            let seals = &local.seals;
            let (old, new) = (seals.all(), Arc::new(seals.file().begin_change()?));
            reseal(db, "source", source_columns::seal_context, &old, &new)?;
            reseal(db, "endpoint", columns::seal_context, &old, &new)?;
            db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('seal', ?1)", [new.mark()?])?;
            seals.announce(&new);
            // The key is replaced before the next transaction begins, because that transaction must not seal with the old key.
            after.resealed = Some(new);
            Ok(())
        })
        .await
    }
}

/// Seals the secrets of every row of a table again.
fn reseal(db: &Connection, table: &'static str, context: fn(&str) -> String, old: &[Arc<Seal>], new: &Seal) -> Result<(), Error> {
    let mut select = db.prepare(&format!("SELECT id, name, sealed FROM {table} WHERE sealed IS NOT NULL"))?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for row in rows.collect::<Result<Vec<(i64, String, Vec<u8>)>, _>>()? {
        let (id, name, sealed) = row;
        let context = context(&name);
        let plain = old.iter().find_map(|seal| seal.open(&context, &sealed));
        let plain = plain.ok_or_else(|| Place { table, id }.corrupt("sealed"))?;
        db.execute(&format!("UPDATE {table} SET sealed = ?1 WHERE id = ?2"), params![new.seal(&context, &plain)?, id])?;
    }
    Ok(())
}
