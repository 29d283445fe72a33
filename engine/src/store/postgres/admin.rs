//! What operators set: endpoints, plugins' last versions and configuration, API keys. Every change is told to all nodes in its
//! transaction.

use std::{collections::BTreeMap, sync::Arc};

use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::{
    db::{clean, execute, get, row, rows, the_row},
    node::tell_settings,
    rows::{self as values, ENDPOINT_COLUMNS},
};
use crate::{
    clock,
    domain::{
        endpoint::{Endpoint, EndpointState, NewEndpoint, Policy},
        id::{EndpointId, KeyId},
        name::Slug,
        plugin::Digest,
        time::Timestamp,
    },
    store::{
        Error, KeyRow, NewKey, PluginRow, Role, Seal,
        columns::{EndpointColumns, Place, config_to_column, json_column, patterns_to_column, seal_context},
    },
};

/// Whether only one node at a time may send to an endpoint: its order, its rate, and a concurrency below the usual one would not hold
/// if several did.
pub fn is_single(policy: &Policy) -> bool {
    policy.rate.is_some() || policy.ordering.is_some() || policy.concurrency < Policy::CONCURRENCY_DEFAULT
}

pub async fn create_endpoint(tx: &Transaction<'_>, seal: &Seal, new: NewEndpoint) -> Result<Endpoint, Error> {
    let created_at = clock::wall();
    let columns = EndpointColumns::of(&new, seal)?;
    let sql =
        "INSERT INTO endpoint (name, title, url, events, conditions, plugin, scheme, state, created_at, policy, sealed, single)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
               ON CONFLICT (name) WHERE deleted_at IS NULL DO NOTHING RETURNING id";
    let created = row(
        tx,
        sql,
        &[
            &columns.name,
            &columns.title.as_deref().map(clean),
            &columns.url,
            &columns.events,
            &columns.conditions,
            &columns.plugin,
            &columns.scheme,
            &columns.state,
            &created_at.millis(),
            &columns.policy,
            &columns.sealed,
            &is_single(&new.policy),
        ],
    )
    .await?;
    let Some(created) = created else {
        return Err(Error::Taken { what: "endpoint", name: new.name.to_string() });
    };
    tell_settings(tx).await?;
    Ok(Endpoint { id: EndpointId::from_i64(get(&created, 0)?), created_at, failing_since: None, new })
}

pub async fn update_endpoint(tx: &Transaction<'_>, seal: &Seal, mut endpoint: Endpoint) -> Result<(), Error> {
    let id = endpoint.id.as_i64();
    let known = row(tx, "SELECT name FROM endpoint WHERE id = $1 AND deleted_at IS NULL FOR UPDATE", &[&id]).await?;
    let known = known.ok_or(Error::NotFound { what: "endpoint" })?;
    // Its name is fixed, and its secrets are bound to it.
    endpoint.new.name = Slug::parse(get(&known, 0)?).map_err(|_| Place { table: "endpoint", id }.corrupt("name"))?;
    let columns = EndpointColumns::of(&endpoint.new, seal)?;
    execute(
        tx,
        "UPDATE endpoint SET title = $1, url = $2, events = $3, conditions = $4, plugin = $5, scheme = $6, policy = $7, sealed = $8,
             single = $9
         WHERE id = $10",
        &[
            &columns.title.as_deref().map(clean),
            &columns.url,
            &columns.events,
            &columns.conditions,
            &columns.plugin,
            &columns.scheme,
            &columns.policy,
            &columns.sealed,
            &is_single(&endpoint.new.policy),
            &id,
        ],
    )
    .await?;
    tell_settings(tx).await
}

/// Seals every endpoint's secrets anew.
pub async fn reseal(tx: &Transaction<'_>, old: &[Arc<Seal>], new: &Seal) -> Result<(), Error> {
    for row in rows(tx, "SELECT id, name, sealed FROM endpoint WHERE sealed IS NOT NULL FOR UPDATE", &[]).await? {
        let (id, name, sealed): (i64, &str, &[u8]) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
        let context = seal_context(name);
        let plain = old.iter().find_map(|seal| seal.open(&context, sealed));
        let plain = plain.ok_or_else(|| Place { table: "endpoint", id }.corrupt("sealed"))?;
        execute(tx, "UPDATE endpoint SET sealed = $1 WHERE id = $2", &[&new.seal(&context, &plain)?, &id]).await?;
    }
    execute(tx, "UPDATE meta SET value = $1 WHERE key = 'seal'", &[&new.mark()?]).await?;
    tell_settings(tx).await
}

pub async fn note_failing(tx: &Transaction<'_>, id: EndpointId, since: Option<Timestamp>) -> Result<(), Error> {
    let sql = "UPDATE endpoint SET failing_since = $1 WHERE id = $2";
    execute(tx, sql, &[&since.map(Timestamp::millis), &id.as_i64()]).await?;
    Ok(())
}

pub async fn set_endpoint_state(
    tx: &Transaction<'_>,
    id: EndpointId,
    from: &[EndpointState],
    to: EndpointState,
) -> Result<bool, Error> {
    let from: Vec<&str> = from.iter().map(|state| state.as_str()).collect();
    let sql = "UPDATE endpoint SET state = $1 WHERE id = $2 AND state = ANY($3) AND deleted_at IS NULL";
    let changed = execute(tx, sql, &[&to.as_str(), &id.as_i64(), &from]).await? > 0;
    if changed {
        tell_settings(tx).await?;
    }
    Ok(changed)
}

pub async fn delete_endpoint(tx: &Transaction<'_>, id: EndpointId) -> Result<(), Error> {
    let sql = "UPDATE endpoint SET deleted_at = $1, sealed = NULL WHERE id = $2 AND deleted_at IS NULL";
    found(execute(tx, sql, &[&clock::wall().millis(), &id.as_i64()]).await?, "endpoint")?;
    tell_settings(tx).await
}

pub async fn endpoints(tx: &Transaction<'_>, seals: &[Arc<Seal>]) -> Result<Vec<Endpoint>, Error> {
    // By the bytes of the name, whatever the database sorts by.
    let sql = format!("SELECT {ENDPOINT_COLUMNS} FROM endpoint WHERE deleted_at IS NULL ORDER BY name COLLATE \"C\"");
    rows(tx, &sql, &[]).await?.iter().map(|row| values::endpoint(row, seals)).collect()
}

pub async fn remember_plugin(tx: &Transaction<'_>, plugin: &PluginRow) -> Result<(), Error> {
    execute(
        tx,
        "INSERT INTO plugin (name, version, author_version, description, patterns, file, bytes, config)
         VALUES ($1, $2, $3, $4, $5, $6, $7, '{}')
         ON CONFLICT (name) DO UPDATE SET version = excluded.version, author_version = excluded.author_version,
             description = excluded.description, patterns = excluded.patterns, file = excluded.file, bytes = excluded.bytes",
        &[
            &&*plugin.name,
            &plugin.version.as_bytes().as_slice(),
            &clean(&plugin.author_version),
            &clean(&plugin.description),
            &patterns_to_column(&plugin.on),
            &clean(&plugin.file),
            &i64::try_from(plugin.bytes).unwrap_or(i64::MAX),
        ],
    )
    .await?;
    Ok(())
}

pub async fn set_plugin_config(tx: &Transaction<'_>, name: &Slug, config: &BTreeMap<String, String>) -> Result<(), Error> {
    let sql = "UPDATE plugin SET config = $1 WHERE name = $2";
    found(execute(tx, sql, &[&config_to_column(config), &&**name]).await?, "plugin")?;
    tell_settings(tx).await
}

pub async fn plugins(tx: &Transaction<'_>) -> Result<Vec<PluginRow>, Error> {
    let sql = "SELECT name, version, author_version, description, patterns, file, bytes, config FROM plugin ORDER BY name COLLATE \"C\"";
    rows(tx, sql, &[]).await?.iter().map(plugin).collect()
}

fn plugin(row: &Row) -> Result<PluginRow, Error> {
    let place = Place { table: "plugin", id: 0 };
    let version: [u8; 32] = get::<&[u8]>(row, 1)?.try_into().map_err(|_| place.corrupt("version"))?;
    Ok(PluginRow {
        name: Slug::parse(get(row, 0)?).map_err(|_| place.corrupt("name"))?,
        version: Digest::from_bytes(version),
        author_version: get(row, 2)?,
        description: get(row, 3)?,
        on: json_column(&place, "patterns", get(row, 4)?)?,
        file: get(row, 5)?,
        bytes: get::<i64>(row, 6)?.unsigned_abs(),
        config: json_column(&place, "config", get(row, 7)?)?,
    })
}

pub async fn create_key(tx: &Transaction<'_>, new: NewKey) -> Result<KeyRow, Error> {
    let created_at = clock::wall();
    let sql = "INSERT INTO api_key (name, role, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT DO NOTHING RETURNING id";
    let expires_at = new.expires_at.map(Timestamp::millis);
    let created =
        row(tx, sql, &[&clean(&new.name), &new.role.as_str(), &new.hash.as_slice(), &created_at.millis(), &expires_at]).await?;
    let Some(created) = created else {
        return Err(Error::Taken { what: "key", name: new.name });
    };
    tell_settings(tx).await?;
    Ok(KeyRow { id: KeyId::from_i64(get(&created, 0)?), new, created_at, last_used_at: None })
}

pub async fn revoke_key(tx: &Transaction<'_>, id: KeyId) -> Result<(), Error> {
    found(execute(tx, "DELETE FROM api_key WHERE id = $1", &[&id.as_i64()]).await?, "key")?;
    tell_settings(tx).await
}

pub async fn keys(tx: &Transaction<'_>) -> Result<Vec<KeyRow>, Error> {
    let sql = "SELECT id, name, role, hash, created_at, expires_at, last_used_at FROM api_key ORDER BY name COLLATE \"C\"";
    rows(tx, sql, &[]).await?.iter().map(key).collect()
}

fn key(row: &Row) -> Result<KeyRow, Error> {
    let place = Place { table: "api_key", id: get(row, 0)? };
    Ok(KeyRow {
        id: KeyId::from_i64(place.id),
        new: NewKey {
            name: get(row, 1)?,
            role: Role::parse(get(row, 2)?).ok_or_else(|| place.corrupt("role"))?,
            hash: get::<&[u8]>(row, 3)?.try_into().map_err(|_| place.corrupt("hash"))?,
            expires_at: get::<Option<i64>>(row, 5)?.map(Timestamp::from_millis),
        },
        created_at: Timestamp::from_millis(get(row, 4)?),
        last_used_at: get::<Option<i64>>(row, 6)?.map(Timestamp::from_millis),
    })
}

pub async fn note_key_uses(tx: &Transaction<'_>, uses: &[(KeyId, Timestamp)]) -> Result<(), Error> {
    let mut uses: Vec<(i64, i64)> = uses.iter().map(|(id, at)| (id.as_i64(), at.millis())).collect();
    uses.sort_unstable();
    for (id, at) in uses {
        let sql = "UPDATE api_key SET last_used_at = greatest(coalesce(last_used_at, $1), $1) WHERE id = $2";
        execute(tx, sql, &[&at, &id]).await?;
    }
    Ok(())
}

/// Says what one of the store's own settings holds.
pub async fn meta(tx: &Transaction<'_>, key: &str) -> Result<Option<Vec<u8>>, Error> {
    row(tx, "SELECT value FROM meta WHERE key = $1", &[&key]).await?.map(|row| get(&row, 0)).transpose()
}

/// The last number that was issued to an event.
pub async fn last_event(tx: &Transaction<'_>) -> Result<i64, Error> {
    get(&the_row(tx, "SELECT last_value FROM event_id", &[]).await?, 0)
}

fn found(changed: u64, what: &'static str) -> Result<(), Error> {
    if changed == 0 { Err(Error::NotFound { what }) } else { Ok(()) }
}
