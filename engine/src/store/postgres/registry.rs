//! Versions of plugins. The bytes of the serving version are in the column `file`, the bytes of the other versions in `kept`.

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Postgres, comparisons,
    db::{Value, clean, execute, get, row, rows, the_row},
    nodes::raise_config_version,
    plugins,
};
use crate::{
    domain::{
        name::Slug,
        plugin::{Digest, Halt, VersionState},
        time::Timestamp,
    },
    store::{
        Error, NewVersion, NodePlugin, PluginRegistry, PluginRow, PluginVersion, Proposal, Published, VersionLimits,
        columns::{Place, json, patterns_to_column},
        plugins::RUNS,
        registry::{Known, VERSIONS_MAX, decide, may_discard, surplus},
    },
};

/// Files are the largest values, and the link to the database may be slow. These limits allow 64 MiB at 1 MiB/s. The second limit
/// is needed, too, because the database counts a transaction as idle while it receives a file.
const FILE_TIME: &str = "SET LOCAL statement_timeout = '64s'; SET LOCAL idle_in_transaction_session_timeout = '64s'";

#[async_trait]
impl PluginRegistry for Postgres {
    async fn publish(&self, version: NewVersion, proposal: Proposal, limits: VersionLimits) -> Result<Published, Error> {
        self.step(move |tx, _| Box::pin(async move { publish(tx, &version, proposal, limits).await })).await
    }

    async fn withdraw(&self, plugin: &Slug, version: Digest, at: Timestamp) -> Result<bool, Error> {
        let plugin = plugin.clone();
        self.step(move |tx, _| Box::pin(async move { withdraw(tx, &plugin, version, at).await })).await
    }

    async fn discard(&self, plugin: &Slug, version: Digest, at: Timestamp) -> Result<(), Error> {
        let plugin = plugin.clone();
        self.step(move |tx, _| Box::pin(async move { discard(tx, &plugin, version, at).await })).await
    }

    async fn set_halt(&self, plugin: &Slug, version: Digest, halt: Option<Halt>) -> Result<bool, Error> {
        let plugin = plugin.clone();
        self.step(move |tx, _| Box::pin(async move { set_halt(tx, &plugin, version, halt).await })).await
    }

    async fn serving(&self) -> Result<Vec<PluginRow>, Error> {
        const SERVES: &str = "WHERE name IN (SELECT plugin FROM plugin_version WHERE file IS NOT NULL)";
        self.read(|tx, _| Box::pin(plugins::those(tx, SERVES))).await
    }

    async fn file(&self, version: Digest) -> Result<Option<Vec<u8>>, Error> {
        self.read(move |tx, _| Box::pin(file(tx, version))).await
    }

    async fn plugin_of(&self, version: Digest) -> Result<Option<Slug>, Error> {
        self.read(move |tx, _| Box::pin(plugin_of(tx, version))).await
    }

    async fn versions(&self, plugin: &Slug) -> Result<Vec<PluginVersion>, Error> {
        let plugin = plugin.clone();
        self.read(move |tx, _| Box::pin(async move { versions(tx, &plugin).await })).await
    }

    async fn candidates(&self) -> Result<Vec<PluginVersion>, Error> {
        self.read(|tx, _| Box::pin(those(tx, PluginVersion::CANDIDATES, &[]))).await
    }

    async fn waiting_runs(&self, plugin: &Slug, limit: u32) -> Result<u64, Error> {
        let plugin = plugin.clone();
        self.read(move |tx, _| {
            Box::pin(async move {
                let sql = "SELECT count(*) FROM (SELECT FROM run_queue WHERE state = 'waiting' AND plugin = $1 LIMIT $2) w";
                Ok(get::<i64>(&the_row(tx, sql, &[&&*plugin, &i64::from(limit)]).await?, 0)?.unsigned_abs())
            })
        })
        .await
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

async fn publish(tx: &Transaction<'_>, new: &NewVersion, proposal: Proposal, limits: VersionLimits) -> Result<Published, Error> {
    tx.batch_execute(FILE_TIME).await?;
    let NewVersion { plugin: PluginRow { name, version, .. }, .. } = new;
    // Another node that changes this plugin waits here until the commit.
    plugins::lock_config(tx, name).await?;
    let sql = "SELECT file IS NOT NULL FROM plugin_version WHERE version = $1";
    let known = match row(tx, sql, &[&version.as_bytes().as_slice()]).await? {
        None => Known::Never,
        Some(row) if get(&row, 0)? => Known::Serves,
        Some(_) => Known::Before,
    };
    match decide(known, proposal) {
        Published::Serves { .. } => {
            let from = serving_version(tx, name).await?;
            end(tx, name, new.at).await?;
            put(tx, new, VersionState::Serving).await?;
            plugins::remember(tx, &new.plugin).await?;
            trim(tx, name, limits).await?;
            raise_config_version(tx).await?;
            Ok(Published::Serves { from })
        }
        Published::Candidate => {
            put(tx, new, VersionState::Candidate).await?;
            trim(tx, name, limits).await?;
            Ok(Published::Candidate)
        }
        Published::Unchanged => {
            // The same bytes may come from a file with another name.
            let sql = "UPDATE plugin SET file = $1 WHERE name = $2 AND file <> $1";
            execute(tx, sql, &[&clean(&new.plugin.file), &&**name]).await?;
            Ok(Published::Unchanged)
        }
        Published::Outdated => Ok(Published::Outdated),
    }
}

async fn withdraw(tx: &Transaction<'_>, plugin: &Slug, version: Digest, at: Timestamp) -> Result<bool, Error> {
    plugins::lock_config(tx, plugin).await?;
    let served = serving_version(tx, plugin).await? == Some(version);
    if served {
        end(tx, plugin, at).await?;
        execute(tx, "UPDATE plugin SET state = $1 WHERE name = $2", &[&RUNS, &&**plugin]).await?;
        raise_config_version(tx).await?;
    }
    Ok(served)
}

async fn discard(tx: &Transaction<'_>, plugin: &Slug, version: Digest, at: Timestamp) -> Result<(), Error> {
    // A node that promotes the version waits here until the commit.
    plugins::lock_config(tx, plugin).await?;
    may_discard(&versions(tx, plugin).await?, version)?;
    let sql = "UPDATE plugin_version SET kept = NULL, candidate = 0 WHERE version = $1";
    execute(tx, sql, &[&version.as_bytes().as_slice()]).await?;
    comparisons::cancel_of(tx, version, at).await
}

async fn set_halt(tx: &Transaction<'_>, plugin: &Slug, version: Digest, halt: Option<Halt>) -> Result<bool, Error> {
    plugins::lock_config(tx, plugin).await?;
    if halt == Some(Halt::Held) && serving_version(tx, plugin).await? != Some(version) {
        return Ok(false);
    }
    let sql = "UPDATE plugin SET state = $1 WHERE name = $2 AND state <> $1 AND (state = $3 OR $1 <> $4)";
    let state = halt.map_or(RUNS, Halt::as_str);
    let changed = execute(tx, sql, &[&state, &&**plugin, &RUNS, &Halt::Held.as_str()]).await? > 0;
    if changed {
        raise_config_version(tx).await?;
    }
    Ok(changed)
}

async fn serving_version(tx: &Transaction<'_>, plugin: &str) -> Result<Option<Digest>, Error> {
    let sql = "SELECT version FROM plugin_version WHERE plugin = $1 AND file IS NOT NULL";
    let Some(row) = row(tx, sql, &[&plugin]).await? else { return Ok(None) };
    let corrupt = |_| Place { table: "plugin_version", id: 0 }.corrupt("version");
    Ok(Some(Digest::from_bytes(get::<Vec<u8>>(&row, 0)?.try_into().map_err(corrupt)?)))
}

/// Stops the serving version of a plugin. If an older engine made this version the serving one, it has no number in `served`. It
/// then gets 0.
async fn end(tx: &Transaction<'_>, plugin: &str, at: Timestamp) -> Result<(), Error> {
    let sql = "UPDATE plugin_version SET kept = file, file = NULL, ended_at = $2, served = coalesce(served, 0)
               WHERE plugin = $1 AND file IS NOT NULL";
    execute(tx, sql, &[&plugin, &at.millis()]).await?;
    Ok(())
}

/// Stores a version in this state.
async fn put(tx: &Transaction<'_>, new: &NewVersion, state: VersionState) -> Result<(), Error> {
    let row = &new.plugin;
    let (file, kept) = match state {
        VersionState::Serving => (Some(new.file.as_slice()), None),
        VersionState::Candidate | VersionState::Kept => (None, Some(new.file.as_slice())),
    };
    let served: Option<i64> = match file {
        Some(_) => {
            let sql = "SELECT coalesce(max(served), 0) + 1 FROM plugin_version WHERE plugin = $1";
            Some(get(&the_row(tx, sql, &[&&*row.name]).await?, 0)?)
        }
        None => None,
    };
    execute(
        tx,
        "INSERT INTO plugin_version AS v (version, plugin, published_at, candidate, served, author_version, description, patterns,
             file_name, bytes, way, author, file, kept)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         ON CONFLICT (version) DO UPDATE SET published_at = excluded.published_at, candidate = excluded.candidate,
             served = coalesce(excluded.served, v.served), author_version = excluded.author_version,
             description = excluded.description, patterns = excluded.patterns, file_name = excluded.file_name,
             bytes = excluded.bytes, way = excluded.way, author = excluded.author, file = excluded.file, kept = excluded.kept",
        &[
            &row.version.as_bytes().as_slice(),
            &&*row.name,
            &new.at.millis(),
            &i64::from(file.is_none()),
            &served,
            &clean(&row.author_version),
            &clean(&row.description),
            &patterns_to_column(&row.on),
            &clean(&row.file),
            &i64::try_from(row.bytes).unwrap_or(i64::MAX),
            &new.way.as_str(),
            &clean(&new.by),
            &file,
            &kept,
        ],
    )
    .await?;
    Ok(())
}

/// Deletes the bytes of versions beyond the limits, and forgets the oldest of the versions without bytes.
async fn trim(tx: &Transaction<'_>, plugin: &str, limits: VersionLimits) -> Result<(), Error> {
    let oldest = row(tx, "SELECT accepted_at FROM event ORDER BY id LIMIT 1", &[]).await?;
    let oldest = oldest.map(|row| get(&row, 0)).transpose()?.map(Timestamp::from_millis);
    for version in surplus(&versions(tx, plugin).await?, limits, oldest) {
        let sql = "UPDATE plugin_version SET kept = NULL, candidate = 0 WHERE version = $1";
        execute(tx, sql, &[&version.as_bytes().as_slice()]).await?;
    }
    let sql = "DELETE FROM plugin_version WHERE version IN (SELECT version FROM plugin_version
                   WHERE plugin = $1 AND file IS NULL AND kept IS NULL ORDER BY published_at DESC OFFSET $2)";
    execute(tx, sql, &[&plugin, &VERSIONS_MAX]).await?;
    Ok(())
}

async fn versions(tx: &Transaction<'_>, plugin: &str) -> Result<Vec<PluginVersion>, Error> {
    let condition = "WHERE plugin = $1 AND (file IS NOT NULL OR kept IS NOT NULL) ORDER BY published_at DESC, version";
    those(tx, condition, &[&plugin]).await
}

async fn those(tx: &Transaction<'_>, condition: &str, values: &[Value<'_>]) -> Result<Vec<PluginVersion>, Error> {
    let sql = format!("SELECT {} FROM plugin_version {condition}", PluginVersion::COLUMNS);
    rows(tx, &sql, values).await?.iter().map(PluginVersion::read).collect()
}

async fn plugin_of(tx: &Transaction<'_>, version: Digest) -> Result<Option<Slug>, Error> {
    let sql = "SELECT plugin FROM plugin_version WHERE version = $1";
    let Some(row) = row(tx, sql, &[&version.as_bytes().as_slice()]).await? else { return Ok(None) };
    let corrupt = |_| Place { table: "plugin_version", id: 0 }.corrupt("plugin");
    Ok(Some(Slug::parse(&get::<String>(&row, 0)?).map_err(corrupt)?))
}

async fn file(tx: &Transaction<'_>, version: Digest) -> Result<Option<Vec<u8>>, Error> {
    tx.batch_execute(FILE_TIME).await?;
    let sql = "SELECT coalesce(file, kept) FROM plugin_version WHERE version = $1";
    let found = row(tx, sql, &[&version.as_bytes().as_slice()]).await?;
    Ok(found.map(|row| get(&row, 0)).transpose()?.flatten())
}

/// The column `plugins` of a node: name, digest and error of each plugin.
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
