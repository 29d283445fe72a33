//! Reads, measures and clears the state of plugins. A settlement (commit 2) writes it (`settle.rs`).

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::{
    Postgres,
    db::{Value, execute, get, limit, row, rows, the_row},
    settle::lock_key,
    transactions::read,
};
use crate::{
    domain::{name::Slug, run::StoredState, time::Timestamp},
    store::{Error, PluginState, StateKey, StateLimits, StateSize, state::Ledger},
};

/// Maximum number of keys that one step of [`clear`] deletes.
const CLEAR_MAX: i64 = 500;

#[async_trait]
impl PluginState for Postgres {
    async fn stored_state(&self, plugin: &Slug, key: &str) -> Result<Option<StoredState>, Error> {
        let (plugin, key) = (plugin.clone(), key.to_owned());
        let sql = "SELECT value, version, expires_at FROM state WHERE plugin = $1 AND key = $2";
        read(&self.state_pool, &self.local, move |tx, _| {
            Box::pin(async move {
                let found = row(tx, sql, &[&&*plugin, &key.as_bytes()]).await?;
                let stored = |row: Row| {
                    let expires_at = get::<Option<i64>>(&row, 2)?.map(Timestamp::from_millis);
                    Ok(StoredState { value: get(&row, 0)?, version: get(&row, 1)?, expires_at })
                };
                found.map(stored).transpose()
            })
        })
        .await
    }

    async fn expire_state(&self, at: Timestamp) -> Result<usize, Error> {
        let sql = "SELECT plugin, key FROM state WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2";
        self.step(move |tx, _| {
            Box::pin(async move {
                let mut by_plugin: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
                for row in rows(tx, sql, &[&at.millis(), &CLEAR_MAX]).await? {
                    by_plugin.entry(get(&row, 0)?).or_default().push(get(&row, 1)?);
                }
                let names =
                    |(plugin, keys): (&String, &Vec<Vec<u8>>)| keys.iter().map(|key| lock_of(plugin, key)).collect::<Vec<_>>();
                lock(tx, by_plugin.iter().flat_map(names).collect()).await?;
                let mut gone = 0;
                for (plugin, keys) in &by_plugin {
                    // If a value was set again in the meantime, it stays.
                    let sql = "DELETE FROM state WHERE plugin = $1 AND key = ANY($2) AND expires_at <= $3";
                    gone += execute(tx, sql, &[plugin, keys, &at.millis()]).await? as usize;
                }
                Ok(gone)
            })
        })
        .await
    }

    fn state_limits(&self) -> StateLimits {
        self.local.state_limits
    }

    async fn state_size(&self, plugin: &Slug) -> Result<StateSize, Error> {
        let plugin = plugin.clone();
        self.read(move |tx, _| Box::pin(async move { size(tx, &plugin).await })).await
    }

    async fn state_keys(&self, plugin: &Slug, prefix: &str, after: Option<&str>, most: usize) -> Result<Vec<StateKey>, Error> {
        let (plugin, prefix, after) = (plugin.clone(), prefix.to_owned(), after.map(str::to_owned));
        self.read_for_people(move |tx, _| Box::pin(async move { keys(tx, &plugin, &prefix, after.as_deref(), most).await })).await
    }

    async fn delete_state(&self, plugin: &Slug, key: &str) -> Result<bool, Error> {
        let (plugin, key) = (plugin.clone(), key.to_owned());
        self.step(move |tx, _| Box::pin(async move { Ok(delete(tx, &plugin, &[key.as_bytes()]).await? > 0) })).await
    }

    async fn clear_state(&self, plugin: &Slug) -> Result<usize, Error> {
        let plugin = plugin.clone();
        self.step(move |tx, _| Box::pin(async move { clear(tx, &plugin).await })).await
    }
}

/// Returns the sizes of state before these keys are written. Keys that other nodes add at this moment are not counted, so a plugin
/// may exceed its limit by as much state as other nodes commit at the same time.
pub async fn ledger(tx: &Transaction<'_>, written: &BTreeSet<(&str, &str)>) -> Result<Ledger, Error> {
    let mut ledger = Ledger::default();
    if written.is_empty() {
        return Ok(ledger);
    }
    let plugins: Vec<&str> = written.iter().map(|one| one.0).collect();
    let keys: Vec<&[u8]> = written.iter().map(|one| one.1.as_bytes()).collect();
    let sql = "SELECT s.plugin, s.key, octet_length(s.value)::bigint FROM unnest($1::text[], $2::bytea[]) u (plugin, key)
               JOIN state s ON s.plugin = u.plugin AND s.key = u.key";
    for row in rows(tx, sql, &[&plugins, &keys]).await? {
        let key = String::from_utf8_lossy(get(&row, 1)?).into_owned();
        ledger.values.insert((get(&row, 0)?, key), get::<i64>(&row, 2)?.unsigned_abs());
    }
    let sql = "SELECT plugin, sum(keys)::bigint, sum(bytes)::bigint FROM state_size WHERE plugin = ANY($1) GROUP BY plugin";
    for row in rows(tx, sql, &[&plugins]).await? {
        let size = StateSize { keys: counted(get(&row, 1)?), bytes: counted(get(&row, 2)?) };
        ledger.sizes.insert(get(&row, 0)?, size);
    }
    Ok(ledger)
}

fn counted(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

async fn size(tx: &Transaction<'_>, plugin: &Slug) -> Result<StateSize, Error> {
    let sql = "SELECT coalesce(sum(keys), 0)::bigint, coalesce(sum(bytes), 0)::bigint FROM state_size WHERE plugin = $1";
    let row = the_row(tx, sql, &[&&**plugin]).await?;
    Ok(StateSize { keys: counted(get(&row, 0)?), bytes: counted(get(&row, 1)?) })
}

/// Reads keys in the order of their bytes. In this order, keys with the same prefix are neighbours.
async fn keys(
    tx: &Transaction<'_>,
    plugin: &Slug,
    prefix: &str,
    after: Option<&str>,
    most: usize,
) -> Result<Vec<StateKey>, Error> {
    let sql = "SELECT key, octet_length(value)::bigint, expires_at FROM state
               WHERE plugin = $1 AND key >= $2 AND ($3::bytea IS NULL OR key > $3) ORDER BY key LIMIT $4";
    let values: [Value<'_>; 4] = [&&**plugin, &prefix.as_bytes(), &after.map(str::as_bytes), &limit(most)];
    let mut found = Vec::new();
    for row in rows(tx, sql, &values).await? {
        let key = String::from_utf8_lossy(get(&row, 0)?).into_owned();
        if !key.starts_with(prefix) {
            break;
        }
        let expires_at = get::<Option<i64>>(&row, 2)?.map(Timestamp::from_millis);
        found.push(StateKey { key, bytes: counted(get(&row, 1)?), expires_at });
    }
    Ok(found)
}

/// Deletes up to [`CLEAR_MAX`] keys of a plugin's state. Returns the number of deleted keys.
async fn clear(tx: &Transaction<'_>, plugin: &Slug) -> Result<usize, Error> {
    let keys = rows(tx, "SELECT key FROM state WHERE plugin = $1 ORDER BY key LIMIT $2", &[&&**plugin, &CLEAR_MAX]).await?;
    let keys = keys.iter().map(|row| get(row, 0)).collect::<Result<Vec<&[u8]>, _>>()?;
    if keys.is_empty() {
        return Ok(0);
    }
    delete(tx, plugin, &keys).await
}

/// Deletes these keys. Returns the number of those that existed.
async fn delete(tx: &Transaction<'_>, plugin: &Slug, keys: &[&[u8]]) -> Result<usize, Error> {
    // Settlements take the same locks. So if a settlement has read one of these keys, it sees the deletion before it commits.
    lock(tx, keys.iter().map(|key| lock_of(plugin, key)).collect()).await?;
    Ok(execute(tx, "DELETE FROM state WHERE plugin = $1 AND key = ANY($2)", &[&&**plugin, &keys]).await? as usize)
}

/// Returns the lock of a key. A settlement (commit 2) holds the locks of all keys that its runs have read or written.
fn lock_of(plugin: &str, key: &[u8]) -> i64 {
    lock_key("state", &[plugin.as_bytes(), key])
}

/// Takes locks in the order of their numbers, as a settlement does.
async fn lock(tx: &Transaction<'_>, mut locks: Vec<i64>) -> Result<(), Error> {
    locks.sort_unstable();
    execute(tx, "SELECT pg_advisory_xact_lock(key) FROM unnest($1::bigint[]) key", &[&locks]).await?;
    Ok(())
}
