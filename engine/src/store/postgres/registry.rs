//! Plugin files that nodes share. The serving version of a plugin is the one whose file is stored. Of earlier versions only the
//! digest is stored, so that an old file in a node's folder is recognized.

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Postgres,
    db::{execute, get, row, rows},
    nodes::raise_config_version,
    plugins,
};
use crate::{
    clock,
    domain::{name::Slug, plugin::Digest},
    store::{
        Error, FileSeen, NodePlugin, PluginRegistry, PluginRow, Published,
        columns::{Place, json},
    },
};

/// Maximum number of known versions of one plugin. Older ones are deleted.
const VERSIONS_MAX: i64 = 1_000;
/// Files are the largest values, and the link to the database may be slow: this allows 64 MiB at 1 MiB/s. While the database
/// receives a file, it counts the transaction as idle.
const FILE_TIME: &str = "SET LOCAL statement_timeout = '64s'; SET LOCAL idle_in_transaction_session_timeout = '64s'";

#[async_trait]
impl PluginRegistry for Postgres {
    async fn publish(&self, plugin: PluginRow, file: Vec<u8>, seen: FileSeen) -> Result<Published, Error> {
        self.step(move |tx, _| Box::pin(async move { publish(tx, &plugin, &file, seen).await })).await
    }

    async fn withdraw(&self, plugin: &Slug, version: Digest) -> Result<bool, Error> {
        let plugin = plugin.clone();
        self.step(move |tx, _| Box::pin(async move { withdraw(tx, &plugin, version).await })).await
    }

    async fn serving(&self) -> Result<Vec<PluginRow>, Error> {
        self.read(|tx, _| Box::pin(serving(tx))).await
    }

    async fn file(&self, version: Digest) -> Result<Option<Vec<u8>>, Error> {
        self.read(move |tx, _| Box::pin(file(tx, version))).await
    }

    async fn report(&self, plugins: Vec<NodePlugin>) -> Result<(), Error> {
        self.step(move |tx, local| {
            Box::pin(async move {
                let said = reported_to_column(&plugins);
                // A node that was removed in the meantime reports again once it is registered.
                execute(tx, "UPDATE node SET plugins = $2 WHERE id = $1 AND plugins <> $2", &[&local.me(), &said]).await?;
                Ok(())
            })
        })
        .await
    }
}

async fn publish(tx: &Transaction<'_>, plugin: &PluginRow, file: &[u8], seen: FileSeen) -> Result<Published, Error> {
    tx.batch_execute(FILE_TIME).await?;
    let (name, version) = (&*plugin.name, plugin.version.as_bytes().as_slice());
    let sql = "INSERT INTO plugin_version (version, plugin, published_at) VALUES ($1, $2, $3) ON CONFLICT (version) DO NOTHING";
    let is_new = execute(tx, sql, &[&version, &name, &clock::wall().millis()]).await? > 0;
    let known = row(tx, "SELECT file IS NOT NULL FROM plugin_version WHERE version = $1", &[&version]).await?;
    if known.map(|row| get(&row, 0)).transpose()? == Some(true) {
        return Ok(Published::Serves);
    }
    if !is_new && seen == FileSeen::AtStart {
        return Ok(Published::Outdated);
    }
    // Another node that publishes under the same name waits here until the commit.
    plugins::remember(tx, plugin).await?;
    let sql = "UPDATE plugin_version SET file = NULL WHERE plugin = $1 AND version <> $2 AND file IS NOT NULL";
    execute(tx, sql, &[&name, &version]).await?;
    let sql = "UPDATE plugin_version SET file = $1, published_at = $2 WHERE version = $3";
    execute(tx, sql, &[&file, &clock::wall().millis(), &version]).await?;
    let sql = "DELETE FROM plugin_version WHERE version IN (
                   SELECT version FROM plugin_version WHERE plugin = $1 AND file IS NULL ORDER BY published_at DESC OFFSET $2)";
    execute(tx, sql, &[&name, &VERSIONS_MAX]).await?;
    raise_config_version(tx).await?;
    Ok(Published::Serves)
}

async fn withdraw(tx: &Transaction<'_>, plugin: &str, version: Digest) -> Result<bool, Error> {
    let sql = "UPDATE plugin_version SET file = NULL WHERE plugin = $1 AND version = $2 AND file IS NOT NULL";
    let served = execute(tx, sql, &[&plugin, &version.as_bytes().as_slice()]).await? > 0;
    if served {
        raise_config_version(tx).await?;
    }
    Ok(served)
}

async fn serving(tx: &Transaction<'_>) -> Result<Vec<PluginRow>, Error> {
    let sql = "SELECT plugin FROM plugin_version WHERE file IS NOT NULL";
    let names = rows(tx, sql, &[]).await?.iter().map(|row| get(row, 0)).collect::<Result<Vec<String>, Error>>()?;
    let known = plugins::all(tx).await?;
    Ok(known.into_iter().filter(|plugin| names.iter().any(|name| **name == *plugin.name)).collect())
}

async fn file(tx: &Transaction<'_>, version: Digest) -> Result<Option<Vec<u8>>, Error> {
    tx.batch_execute(FILE_TIME).await?;
    let sql = "SELECT file FROM plugin_version WHERE version = $1";
    let found = row(tx, sql, &[&version.as_bytes().as_slice()]).await?;
    Ok(found.map(|row| get(&row, 0)).transpose()?.flatten())
}

/// The column `plugins` of a node: name, digest and error of each.
type Reported = Vec<(String, Option<String>, Option<String>)>;

fn reported_to_column(plugins: &[NodePlugin]) -> String {
    let reported = plugins
        .iter()
        .map(|plugin| (plugin.name.clone(), plugin.version.map(|version| version.to_string()), plugin.error.clone()));
    json::<Reported>(&reported.collect())
}

/// Reads a node's report.
pub fn reported_from_column(node: i64, text: &str) -> Result<Vec<NodePlugin>, Error> {
    let place = Place { table: "node", id: node };
    let read = |(name, version, error): (String, Option<String>, Option<String>)| {
        let version = match version {
            Some(version) => Some(Digest::parse(&version).ok_or_else(|| place.corrupt("plugins"))?),
            None => None,
        };
        Ok(NodePlugin { name, version, error })
    };
    place.json::<Reported>("plugins", text)?.into_iter().map(read).collect()
}
