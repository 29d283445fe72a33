//! Plugins: the version that served last, and the configuration.

use std::collections::BTreeMap;

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Postgres,
    db::{clean, execute, found, rows},
    nodes::raise_config_version,
};
use crate::{
    domain::name::Slug,
    store::{
        Error, PluginRow, Plugins,
        columns::{config_to_column, patterns_to_column},
    },
};

#[async_trait]
impl Plugins for Postgres {
    async fn remember_plugin(&self, plugin: PluginRow) -> Result<(), Error> {
        self.step(move |tx, _| Box::pin(async move { remember(tx, &plugin).await })).await
    }

    async fn set_plugin_config(&self, name: &Slug, config: BTreeMap<String, String>) -> Result<(), Error> {
        let name = name.clone();
        self.step(move |tx, _| {
            Box::pin(async move {
                let sql = "UPDATE plugin SET config = $1 WHERE name = $2";
                found(execute(tx, sql, &[&config_to_column(&config), &&*name]).await?, "plugin")?;
                raise_config_version(tx).await
            })
        })
        .await
    }

    async fn plugins(&self) -> Result<Vec<PluginRow>, Error> {
        self.read(|tx, _| Box::pin(all(tx))).await
    }
}

pub async fn remember(tx: &Transaction<'_>, plugin: &PluginRow) -> Result<(), Error> {
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

pub async fn all(tx: &Transaction<'_>) -> Result<Vec<PluginRow>, Error> {
    let sql = format!("SELECT {} FROM plugin ORDER BY name COLLATE \"C\"", PluginRow::COLUMNS);
    rows(tx, &sql, &[]).await?.iter().map(PluginRow::read).collect()
}
