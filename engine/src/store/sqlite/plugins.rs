//! Plugins: the version that served last, and the configuration.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::{Sqlite, rows};
use crate::{
    domain::{name::Slug, time::Timestamp},
    store::{Error, PluginConfig, PluginRow, Plugins, REVISIONS_MAX},
};

#[async_trait]
impl Plugins for Sqlite {
    async fn set_plugin_config(
        &self,
        name: &Slug,
        config: BTreeMap<String, String>,
        author: String,
        at: Timestamp,
    ) -> Result<i64, Error> {
        let name = name.clone();
        self.write(move |db, _| set_config(db, &name, &rows::config_to_column(&config), &author, at)).await
    }

    async fn plugin_config(&self, name: &Slug) -> Result<PluginConfig, Error> {
        let name = name.clone();
        self.read(move |db| config(db, &name)).await
    }

    async fn plugin_config_at(&self, name: &Slug, revision: i64) -> Result<Option<BTreeMap<String, String>>, Error> {
        let name = name.clone();
        self.read(move |db| {
            let sql = format!("SELECT {} FROM plugin_config WHERE plugin = ?1 AND revision = ?2", PluginConfig::COLUMNS);
            let mut select = db.prepare_cached(&sql)?;
            let mut rows = select.query(params![&*name, revision])?;
            PluginConfig::read_at(revision, rows.next()?)
        })
        .await
    }

    async fn plugins(&self) -> Result<Vec<PluginRow>, Error> {
        self.read(all).await
    }
}

/// Stores which version of a plugin serves. Does not change the settings of a known plugin. A new plugin gets the settings that are
/// already stored for its name. If the plugin was held, it runs again.
pub fn remember(db: &Connection, plugin: &PluginRow) -> Result<(), Error> {
    db.prepare_cached(
        "INSERT INTO plugin (name, version, author_version, description, patterns, file, bytes, config)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, coalesce(
             (SELECT config FROM plugin_config WHERE plugin = ?1 ORDER BY revision DESC LIMIT 1), '{}'))
         ON CONFLICT (name) DO UPDATE SET version = excluded.version, author_version = excluded.author_version,
             description = excluded.description, patterns = excluded.patterns, file = excluded.file, bytes = excluded.bytes,
             state = CASE state WHEN 'held' THEN 'serving' ELSE state END",
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

fn set_config(db: &Connection, name: &Slug, config: &str, author: &str, at: Timestamp) -> Result<i64, Error> {
    let revision: i64 = db
        .prepare_cached("SELECT coalesce(max(revision), 0) + 1 FROM plugin_config WHERE plugin = ?1")?
        .query_row([&**name], |row| row.get(0))?;
    db.prepare_cached("INSERT INTO plugin_config (plugin, revision, at, author, config) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![&**name, revision, at.millis(), author, config])?;
    db.prepare_cached("DELETE FROM plugin_config WHERE plugin = ?1 AND revision <= ?2")?
        .execute(params![&**name, revision - REVISIONS_MAX])?;
    db.prepare_cached("UPDATE plugin SET config = ?1 WHERE name = ?2")?.execute(params![config, &**name])?;
    Ok(revision)
}

fn config(db: &Connection, name: &Slug) -> Result<PluginConfig, Error> {
    let sql = format!("SELECT {} FROM plugin_config WHERE plugin = ?1 ORDER BY revision DESC", PluginConfig::COLUMNS);
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query([&**name])?;
    let mut found = PluginConfig::default();
    while let Some(row) = rows.next()? {
        found.add(PluginConfig::read_revision(row)?);
    }
    if found.revisions.is_empty() {
        found.config = all(db)?.into_iter().find(|row| row.name == *name).map(|row| row.config).unwrap_or_default();
    }
    Ok(found)
}

fn all(db: &Connection) -> Result<Vec<PluginRow>, Error> {
    those(db, "")
}

/// Returns the plugins that a condition selects, sorted by name.
pub fn those(db: &Connection, condition: &str) -> Result<Vec<PluginRow>, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {} FROM plugin {condition} ORDER BY name", PluginRow::COLUMNS))?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(PluginRow::read(row)?);
    }
    Ok(found)
}
