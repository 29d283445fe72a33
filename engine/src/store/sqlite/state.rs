//! Reads, writes, measures and clears the state of plugins. A settlement (commit 2) uses this file to write state.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Sqlite;
use crate::{
    domain::{
        name::Slug,
        run::{RunRecord, StateWrite, StoredState},
        time::Timestamp,
    },
    store::{Error, PluginState, StateKey, StateLimits, StateSize, state::Ledger},
};

/// Maximum number of keys that one step of [`clear`] deletes. It is small, because every caller of the writer waits while a step
/// runs.
const CLEAR_MAX: u32 = 500;

#[async_trait]
impl PluginState for Sqlite {
    async fn stored_state(&self, plugin: &Slug, key: &str) -> Result<Option<StoredState>, Error> {
        let (plugin, key) = (plugin.clone(), key.to_owned());
        let read = move |db: &Connection| {
            let mut select = db.prepare_cached("SELECT value, version, expires_at FROM state WHERE plugin = ?1 AND key = ?2")?;
            let stored = |row: &rusqlite::Row<'_>| {
                let expires_at = row.get::<_, Option<i64>>(2)?.map(Timestamp::from_millis);
                Ok(StoredState { value: row.get(0)?, version: row.get(1)?, expires_at })
            };
            Ok(select.query_row(params![&*plugin, key], stored).optional()?)
        };
        self.state_readers.read(None, read).await
    }

    async fn expire_state(&self, at: Timestamp) -> Result<usize, Error> {
        self.write(move |db, _| {
            let mut delete = db.prepare_cached(
                "DELETE FROM state WHERE (plugin, key) IN (
                     SELECT plugin, key FROM state WHERE expires_at IS NOT NULL AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
            )?;
            Ok(delete.execute(params![at.millis(), CLEAR_MAX])?)
        })
        .await
    }

    fn state_limits(&self) -> StateLimits {
        self.local.state_limits
    }

    async fn state_size(&self, plugin: &Slug) -> Result<StateSize, Error> {
        let plugin = plugin.clone();
        self.read(move |db| size(db, &plugin)).await
    }

    async fn state_keys(&self, plugin: &Slug, prefix: &str, after: Option<&str>, most: usize) -> Result<Vec<StateKey>, Error> {
        let (plugin, prefix, after) = (plugin.clone(), prefix.to_owned(), after.map(str::to_owned));
        self.read_for_people(move |db| keys(db, &plugin, &prefix, after.as_deref(), most)).await
    }

    async fn delete_state(&self, plugin: &Slug, key: &str) -> Result<bool, Error> {
        let (plugin, key) = (plugin.clone(), key.to_owned());
        self.write(move |db, _| {
            let mut delete = db.prepare_cached("DELETE FROM state WHERE plugin = ?1 AND key = ?2")?;
            Ok(delete.execute(params![&*plugin, key])? > 0)
        })
        .await
    }

    async fn clear_state(&self, plugin: &Slug) -> Result<usize, Error> {
        let plugin = plugin.clone();
        self.write(move |db, _| clear(db, &plugin)).await
    }
}

/// Writes one value of a plugin's state.
pub fn write(
    db: &Connection,
    plugin: &str,
    StateWrite { key, value, expires_at }: &StateWrite,
    version: i64,
) -> Result<(), Error> {
    match value {
        // This is an upsert and not a replacement of the row, because the trigger would count a replacement as another key.
        Some(value) => db
            .prepare_cached(
                "INSERT INTO state (plugin, key, value, version, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value, version = excluded.version,
                     expires_at = excluded.expires_at",
            )?
            .execute(params![plugin, key, value, version, expires_at.map(Timestamp::millis)])?,
        None => db.prepare_cached("DELETE FROM state WHERE plugin = ?1 AND key = ?2")?.execute(params![plugin, key])?,
    };
    Ok(())
}

/// Reads the sizes of the state that a run is about to change.
pub fn ask(db: &Connection, run: &RunRecord, ledger: &mut Ledger) -> Result<(), Error> {
    if run.writes().is_empty() {
        return Ok(());
    }
    let plugin = &run.identity.plugin;
    ledger.sizes.insert(plugin.to_string(), size(db, plugin)?);
    for StateWrite { key, .. } in run.writes() {
        let mut select = db.prepare_cached("SELECT length(value) FROM state WHERE plugin = ?1 AND key = ?2")?;
        let stored: Option<i64> = select.query_row(params![&**plugin, key], |row| row.get(0)).optional()?;
        if let Some(bytes) = stored {
            ledger.values.insert((plugin.to_string(), key.clone()), bytes.unsigned_abs());
        }
    }
    Ok(())
}

fn size(db: &Connection, plugin: &Slug) -> Result<StateSize, Error> {
    let mut select = db.prepare_cached("SELECT keys, bytes FROM state_size WHERE plugin = ?1")?;
    let size = |row: &rusqlite::Row<'_>| {
        Ok(StateSize { keys: row.get::<_, i64>(0)?.unsigned_abs(), bytes: row.get::<_, i64>(1)?.unsigned_abs() })
    };
    Ok(select.query_row([&**plugin], size).optional()?.unwrap_or_default())
}

/// Reads keys from the index of the table, in the order of their bytes. In this order, keys with the same prefix are neighbours.
fn keys(db: &Connection, plugin: &Slug, prefix: &str, after: Option<&str>, most: usize) -> Result<Vec<StateKey>, Error> {
    let mut select = db.prepare_cached(
        "SELECT key, length(value), expires_at FROM state WHERE plugin = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3) ORDER BY key LIMIT ?4",
    )?;
    let mut rows = select.query(params![&**plugin, prefix, after, i64::try_from(most).unwrap_or(i64::MAX)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        if !key.starts_with(prefix) {
            break;
        }
        let expires_at = row.get::<_, Option<i64>>(2)?.map(Timestamp::from_millis);
        found.push(StateKey { key, bytes: row.get::<_, i64>(1)?.unsigned_abs(), expires_at });
    }
    Ok(found)
}

/// Returns the bytes of all plugins' state.
pub fn bytes_of_all(db: &Connection) -> Result<u64, Error> {
    let bytes: i64 = db.prepare_cached("SELECT coalesce(sum(bytes), 0) FROM state_size")?.query_row([], |row| row.get(0))?;
    Ok(bytes.unsigned_abs())
}

/// Deletes up to [`CLEAR_MAX`] keys of a plugin's state. Returns the number of deleted keys.
fn clear(db: &Connection, plugin: &Slug) -> Result<usize, Error> {
    let gone = db
        .prepare_cached(
            "DELETE FROM state WHERE plugin = ?1 AND key IN (SELECT key FROM state WHERE plugin = ?1 ORDER BY key LIMIT ?2)",
        )?
        .execute(params![&**plugin, CLEAR_MAX])?;
    if gone == 0 {
        db.prepare_cached("DELETE FROM state_size WHERE plugin = ?1 AND keys = 0")?.execute([&**plugin])?;
    }
    Ok(gone)
}
