//! What operators set: endpoints, plugins' last versions and configuration, API keys. Every step checks before it changes.

use std::{collections::BTreeMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::rows::{self, ENDPOINT_COLUMNS, EndpointColumns, Place};
use crate::{
    clock,
    domain::{
        endpoint::{Endpoint, EndpointState, NewEndpoint},
        id::{EndpointId, KeyId},
        name::Slug,
        plugin::Digest,
        time::Timestamp,
    },
    store::{Error, KeyRow, NewKey, PluginRow, Role, Seal},
};

pub fn create_endpoint(db: &Connection, seal: &Seal, new: NewEndpoint) -> Result<Endpoint, Error> {
    let taken: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM endpoint WHERE name = ?1 AND deleted_at IS NULL)")?
        .query_row([&*new.name], |row| row.get(0))?;
    if taken {
        return Err(Error::Taken { what: "endpoint", name: new.name.to_string() });
    }
    let created_at = clock::wall();
    let columns = EndpointColumns::of(&new, seal)?;
    db.prepare_cached(
        "INSERT INTO endpoint (name, title, url, events, conditions, plugin, scheme, state, created_at, policy, sealed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        columns.name,
        columns.title,
        columns.url,
        columns.events,
        columns.conditions,
        columns.plugin,
        columns.scheme,
        columns.state,
        created_at.millis(),
        columns.policy,
        columns.sealed,
    ])?;
    Ok(Endpoint { id: EndpointId::from_i64(db.last_insert_rowid()), created_at, failing_since: None, new })
}

pub fn update_endpoint(db: &Connection, seal: &Seal, mut endpoint: Endpoint) -> Result<(), Error> {
    let name: Option<String> = db
        .prepare_cached("SELECT name FROM endpoint WHERE id = ?1 AND deleted_at IS NULL")?
        .query_row([endpoint.id.as_i64()], |row| row.get(0))
        .optional()?;
    let name = name.ok_or(Error::NotFound { what: "endpoint" })?;
    // Its name is fixed, and its secrets are bound to it.
    endpoint.new.name = Slug::parse(&name).map_err(|_| Place { table: "endpoint", id: endpoint.id.as_i64() }.corrupt("name"))?;
    let columns = EndpointColumns::of(&endpoint.new, seal)?;
    let changed = db
        .prepare_cached(
            "UPDATE endpoint SET title = ?1, url = ?2, events = ?3, conditions = ?4, plugin = ?5, scheme = ?6, policy = ?7, sealed = ?8
             WHERE id = ?9 AND deleted_at IS NULL",
        )?
        .execute(params![
            columns.title,
            columns.url,
            columns.events,
            columns.conditions,
            columns.plugin,
            columns.scheme,
            columns.policy,
            columns.sealed,
            endpoint.id.as_i64(),
        ])?;
    found(changed, "endpoint")
}

/// Seals every endpoint's secrets anew.
pub fn reseal(db: &Connection, old: &[Arc<Seal>], new: &Seal) -> Result<(), Error> {
    let mut select = db.prepare("SELECT id, name, sealed FROM endpoint WHERE sealed IS NOT NULL")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for row in rows.collect::<Result<Vec<(i64, String, Vec<u8>)>, _>>()? {
        let (id, name, sealed) = row;
        let context = rows::seal_context(&name);
        let plain = old.iter().find_map(|seal| seal.open(&context, &sealed));
        let plain = plain.ok_or_else(|| Place { table: "endpoint", id }.corrupt("sealed"))?;
        db.execute("UPDATE endpoint SET sealed = ?1 WHERE id = ?2", params![new.seal(&context, &plain)?, id])?;
    }
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('seal', ?1)", [new.mark()?])?;
    Ok(())
}

pub fn note_failing(db: &Connection, id: EndpointId, since: Option<Timestamp>) -> Result<(), Error> {
    db.prepare_cached("UPDATE endpoint SET failing_since = ?1 WHERE id = ?2")?
        .execute(params![since.map(Timestamp::millis), id.as_i64()])?;
    Ok(())
}

pub fn set_endpoint_state(db: &Connection, id: EndpointId, from: &[EndpointState], to: EndpointState) -> Result<bool, Error> {
    let mut changed = 0;
    for state in from {
        changed += db
            .prepare_cached("UPDATE endpoint SET state = ?1 WHERE id = ?2 AND state = ?3 AND deleted_at IS NULL")?
            .execute(params![to.as_str(), id.as_i64(), state.as_str()])?;
    }
    Ok(changed > 0)
}

pub fn delete_endpoint(db: &Connection, id: EndpointId) -> Result<(), Error> {
    let changed = db
        .prepare_cached("UPDATE endpoint SET deleted_at = ?1, sealed = NULL WHERE id = ?2 AND deleted_at IS NULL")?
        .execute(params![clock::wall().millis(), id.as_i64()])?;
    found(changed, "endpoint")
}

pub fn endpoints(db: &Connection, seals: &[Arc<Seal>]) -> Result<Vec<Endpoint>, Error> {
    let sql = format!("SELECT {ENDPOINT_COLUMNS} FROM endpoint WHERE deleted_at IS NULL ORDER BY name");
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(rows::endpoint(row, seals)?);
    }
    Ok(found)
}

pub fn remember_plugin(db: &Connection, plugin: &PluginRow) -> Result<(), Error> {
    db.prepare_cached(
        "INSERT INTO plugin (name, version, author_version, description, patterns, file, bytes, config)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, '{}')
         ON CONFLICT (name) DO UPDATE SET version = excluded.version, author_version = excluded.author_version,
             description = excluded.description, patterns = excluded.patterns, file = excluded.file, bytes = excluded.bytes",
    )?
    .execute(params![
        &*plugin.name,
        plugin.version.as_bytes().as_slice(),
        plugin.author_version,
        plugin.description,
        rows::patterns_to_column(&plugin.on),
        plugin.file,
        i64::try_from(plugin.bytes).unwrap_or(i64::MAX),
    ])?;
    Ok(())
}

pub fn set_plugin_config(db: &Connection, name: &Slug, config: &BTreeMap<String, String>) -> Result<(), Error> {
    let changed = db
        .prepare_cached("UPDATE plugin SET config = ?1 WHERE name = ?2")?
        .execute(params![rows::config_to_column(config), &**name])?;
    found(changed, "plugin")
}

/// The columns of [`plugin`], in its order.
pub const PLUGIN_COLUMNS: &str = "name, version, author_version, description, patterns, file, bytes, config";

/// Reads [`PLUGIN_COLUMNS`].
pub fn plugin(row: &Row<'_>) -> Result<PluginRow, Error> {
    let place = Place { table: "plugin", id: 0 };
    let version: [u8; 32] = row.get(1).map_err(|_| place.corrupt("version"))?;
    Ok(PluginRow {
        name: Slug::parse(&row.get::<_, String>(0)?).map_err(|_| place.corrupt("name"))?,
        version: Digest::from_bytes(version),
        author_version: row.get(2)?,
        description: row.get(3)?,
        on: rows::json_column(&place, "patterns", &row.get::<_, String>(4)?)?,
        file: row.get(5)?,
        bytes: row.get::<_, i64>(6)?.unsigned_abs(),
        config: rows::json_column(&place, "config", &row.get::<_, String>(7)?)?,
    })
}

pub fn plugins(db: &Connection) -> Result<Vec<PluginRow>, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {PLUGIN_COLUMNS} FROM plugin ORDER BY name"))?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(plugin(row)?);
    }
    Ok(found)
}

pub fn create_key(db: &Connection, new: NewKey) -> Result<KeyRow, Error> {
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

pub fn revoke_key(db: &Connection, id: KeyId) -> Result<(), Error> {
    found(db.prepare_cached("DELETE FROM api_key WHERE id = ?1")?.execute([id.as_i64()])?, "key")
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

pub fn keys(db: &Connection) -> Result<Vec<KeyRow>, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {KEY_COLUMNS} FROM api_key ORDER BY name"))?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(key(row)?);
    }
    Ok(found)
}

pub fn note_key_uses(db: &Connection, uses: &[(KeyId, Timestamp)]) -> Result<(), Error> {
    for (id, at) in uses {
        db.prepare_cached("UPDATE api_key SET last_used_at = max(coalesce(last_used_at, ?1), ?1) WHERE id = ?2")?
            .execute(params![at.millis(), id.as_i64()])?;
    }
    Ok(())
}

fn found(changed: usize, what: &'static str) -> Result<(), Error> {
    if changed == 0 { Err(Error::NotFound { what }) } else { Ok(()) }
}
