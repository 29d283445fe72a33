//! Plugins: the version that served last, and the configuration.

use std::collections::BTreeMap;

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Postgres,
    db::{clean, execute, get, row, rows, the_row},
    nodes::raise_config_version,
    settle::lock_key,
};
use crate::{
    domain::{name::Slug, time::Timestamp},
    store::{
        Error, PluginConfig, PluginRow, Plugins, REVISIONS_MAX,
        columns::{config_to_column, patterns_to_column},
    },
};

#[async_trait]
impl Plugins for Postgres {
    async fn set_plugin_config(
        &self,
        name: &Slug,
        config: BTreeMap<String, String>,
        author: String,
        at: Timestamp,
    ) -> Result<i64, Error> {
        let (name, config) = (name.clone(), config_to_column(&config));
        self.step(move |tx, _| {
            Box::pin(async move {
                let revision = set_config(tx, &name, &config, &author, at).await?;
                raise_config_version(tx).await?;
                Ok(revision)
            })
        })
        .await
    }

    async fn plugin_config(&self, name: &Slug) -> Result<PluginConfig, Error> {
        let name = name.clone();
        self.read(move |tx, _| Box::pin(async move { config(tx, &name).await })).await
    }

    async fn plugin_config_at(&self, name: &Slug, revision: i64) -> Result<Option<BTreeMap<String, String>>, Error> {
        let name = name.clone();
        self.read(move |tx, _| {
            Box::pin(async move {
                let sql = format!("SELECT {} FROM plugin_config WHERE plugin = $1 AND revision = $2", PluginConfig::COLUMNS);
                PluginConfig::read_at(revision, row(tx, &sql, &[&&*name, &revision]).await?.as_ref())
            })
        })
        .await
    }

    async fn plugins(&self) -> Result<Vec<PluginRow>, Error> {
        self.read(|tx, _| Box::pin(all(tx))).await
    }
}

/// Makes other changes of this plugin's settings and versions wait until the end of the transaction.
pub async fn lock_config(tx: &Transaction<'_>, name: &Slug) -> Result<(), Error> {
    execute(tx, "SELECT pg_advisory_xact_lock($1)", &[&lock_key("plugin config", &[name.as_bytes()])]).await?;
    Ok(())
}

async fn set_config(tx: &Transaction<'_>, name: &Slug, config: &str, author: &str, at: Timestamp) -> Result<i64, Error> {
    lock_config(tx, name).await?;
    let sql = "SELECT coalesce(max(revision), 0) + 1 FROM plugin_config WHERE plugin = $1";
    let revision: i64 = get(&the_row(tx, sql, &[&&**name]).await?, 0)?;
    let sql = "INSERT INTO plugin_config (plugin, revision, at, author, config) VALUES ($1, $2, $3, $4, $5)";
    execute(tx, sql, &[&&**name, &revision, &at.millis(), &clean(author), &config]).await?;
    let sql = "DELETE FROM plugin_config WHERE plugin = $1 AND revision <= $2";
    execute(tx, sql, &[&&**name, &(revision - REVISIONS_MAX)]).await?;
    execute(tx, "UPDATE plugin SET config = $1 WHERE name = $2", &[&config, &&**name]).await?;
    Ok(revision)
}

async fn config(tx: &Transaction<'_>, name: &Slug) -> Result<PluginConfig, Error> {
    let sql = format!("SELECT {} FROM plugin_config WHERE plugin = $1 ORDER BY revision DESC", PluginConfig::COLUMNS);
    let mut found = PluginConfig::default();
    for row in &rows(tx, &sql, &[&&**name]).await? {
        found.add(PluginConfig::read_revision(row)?);
    }
    if found.revisions.is_empty() {
        found.config = all(tx).await?.into_iter().find(|row| row.name == *name).map(|row| row.config).unwrap_or_default();
    }
    Ok(found)
}

/// Stores which version of a plugin serves. Does not change the settings of a known plugin. A new plugin gets the settings that are
/// already stored for its name. If the plugin was held, it runs again.
pub async fn remember(tx: &Transaction<'_>, plugin: &PluginRow) -> Result<(), Error> {
    lock_config(tx, &plugin.name).await?;
    execute(
        tx,
        "INSERT INTO plugin AS p (name, version, author_version, description, patterns, file, bytes, config)
         VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce(
             (SELECT config FROM plugin_config WHERE plugin = $1 ORDER BY revision DESC LIMIT 1), '{}'))
         ON CONFLICT (name) DO UPDATE SET version = excluded.version, author_version = excluded.author_version,
             description = excluded.description, patterns = excluded.patterns, file = excluded.file, bytes = excluded.bytes,
             state = CASE p.state WHEN 'held' THEN 'serving' ELSE p.state END",
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

async fn all(tx: &Transaction<'_>) -> Result<Vec<PluginRow>, Error> {
    those(tx, "").await
}

/// Returns the plugins that a condition selects, sorted by name.
pub async fn those(tx: &Transaction<'_>, condition: &str) -> Result<Vec<PluginRow>, Error> {
    let sql = format!("SELECT {} FROM plugin {condition} ORDER BY name COLLATE \"C\"", PluginRow::COLUMNS);
    rows(tx, &sql, &[]).await?.iter().map(PluginRow::read).collect()
}
