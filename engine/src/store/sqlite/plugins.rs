//! Plugins: the version that served last, and the configuration.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::{
    Sqlite,
    rows::{self, found},
};
use crate::{
    domain::name::Slug,
    store::{Error, PluginRow, Plugins},
};

#[async_trait]
impl Plugins for Sqlite {
    async fn remember_plugin(&self, plugin: PluginRow) -> Result<(), Error> {
        self.write(move |db, _| remember(db, &plugin)).await
    }

    async fn set_plugin_config(&self, name: &Slug, config: BTreeMap<String, String>) -> Result<(), Error> {
        let name = name.clone();
        self.write(move |db, _| set_config(db, &name, &config)).await
    }

    async fn plugins(&self) -> Result<Vec<PluginRow>, Error> {
        self.read(all).await
    }
}

fn remember(db: &Connection, plugin: &PluginRow) -> Result<(), Error> {
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

fn set_config(db: &Connection, name: &Slug, config: &BTreeMap<String, String>) -> Result<(), Error> {
    let changed = db
        .prepare_cached("UPDATE plugin SET config = ?1 WHERE name = ?2")?
        .execute(params![rows::config_to_column(config), &**name])?;
    found(changed, "plugin")
}

fn all(db: &Connection) -> Result<Vec<PluginRow>, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {} FROM plugin ORDER BY name", PluginRow::COLUMNS))?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(PluginRow::read(row)?);
    }
    Ok(found)
}
