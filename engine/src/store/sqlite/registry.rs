//! Versions of plugins. The bytes of the serving version are in the column `file`, the bytes of the other versions in `kept`.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, ToSql, params};

use super::{Sqlite, comparisons, plugins, rows};
use crate::{
    domain::{
        name::Slug,
        plugin::{Digest, Halt, VersionState},
        time::Timestamp,
    },
    store::{
        Error, NewVersion, PluginRegistry, PluginRow, PluginVersion, Proposal, Published, VersionLimits,
        columns::Place,
        plugins::RUNS,
        registry::{Known, VERSIONS_MAX, decide, may_discard, surplus},
    },
};

#[async_trait]
impl PluginRegistry for Sqlite {
    async fn publish(&self, version: NewVersion, proposal: Proposal, limits: VersionLimits) -> Result<Published, Error> {
        self.write(move |db, _| publish(db, &version, proposal, limits)).await
    }

    async fn withdraw(&self, plugin: &Slug, version: Digest, at: Timestamp) -> Result<bool, Error> {
        let plugin = plugin.clone();
        self.write(move |db, _| withdraw(db, &plugin, version, at)).await
    }

    async fn discard(&self, plugin: &Slug, version: Digest, at: Timestamp) -> Result<(), Error> {
        let plugin = plugin.clone();
        self.write(move |db, _| discard(db, &plugin, version, at)).await
    }

    async fn set_halt(&self, plugin: &Slug, version: Digest, halt: Option<Halt>) -> Result<bool, Error> {
        let plugin = plugin.clone();
        self.write(move |db, _| set_halt(db, &plugin, version, halt)).await
    }

    async fn serving(&self) -> Result<Vec<PluginRow>, Error> {
        const SERVES: &str = "WHERE name IN (SELECT plugin FROM plugin_version WHERE file IS NOT NULL)";
        self.read(|db| plugins::those(db, SERVES)).await
    }

    async fn file(&self, version: Digest) -> Result<Option<Vec<u8>>, Error> {
        self.read(move |db| {
            let mut select = db.prepare_cached("SELECT coalesce(file, kept) FROM plugin_version WHERE version = ?1")?;
            Ok(select.query_row([version.as_bytes()], |row| row.get(0)).optional()?.flatten())
        })
        .await
    }

    async fn plugin_of(&self, version: Digest) -> Result<Option<Slug>, Error> {
        let sql = "SELECT plugin FROM plugin_version WHERE version = ?1";
        let name = move |db: &Connection| Ok(db.query_row(sql, [version.as_bytes()], |row| row.get(0)).optional()?);
        let name: Option<String> = self.read(name).await?;
        let corrupt = |_| Place { table: "plugin_version", id: 0 }.corrupt("plugin");
        name.map(|name| Slug::parse(&name).map_err(corrupt)).transpose()
    }

    async fn versions(&self, plugin: &Slug) -> Result<Vec<PluginVersion>, Error> {
        let plugin = plugin.clone();
        self.read(move |db| versions(db, &plugin)).await
    }

    async fn candidates(&self) -> Result<Vec<PluginVersion>, Error> {
        self.read(|db| those(db, PluginVersion::CANDIDATES, &[])).await
    }

    async fn waiting_runs(&self, plugin: &Slug, limit: u32) -> Result<u64, Error> {
        let plugin = plugin.clone();
        self.read(move |db| {
            let sql = "SELECT count(*) FROM (SELECT 1 FROM run_queue WHERE state = 'waiting' AND plugin = ?1 LIMIT ?2)";
            let count: i64 = db.prepare_cached(sql)?.query_row(params![&*plugin, limit], |row| row.get(0))?;
            Ok(count.unsigned_abs())
        })
        .await
    }
}

fn publish(db: &Connection, new: &NewVersion, proposal: Proposal, limits: VersionLimits) -> Result<Published, Error> {
    let NewVersion { plugin: PluginRow { name, version, .. }, .. } = new;
    let sql = "SELECT file IS NOT NULL FROM plugin_version WHERE version = ?1";
    let known = match db.prepare_cached(sql)?.query_row([version.as_bytes()], |row| row.get(0)).optional()? {
        None => Known::Never,
        Some(true) => Known::Serves,
        Some(false) => Known::Before,
    };
    match decide(known, proposal) {
        Published::Serves { .. } => {
            let from = serving_version(db, name)?;
            end(db, name, new.at)?;
            put(db, new, VersionState::Serving)?;
            plugins::remember(db, &new.plugin)?;
            trim(db, name, limits)?;
            Ok(Published::Serves { from })
        }
        Published::Candidate => {
            put(db, new, VersionState::Candidate)?;
            trim(db, name, limits)?;
            Ok(Published::Candidate)
        }
        Published::Unchanged => {
            // The same bytes may come from a file with another name.
            db.prepare_cached("UPDATE plugin SET file = ?1 WHERE name = ?2")?.execute([&new.plugin.file, &**name])?;
            Ok(Published::Unchanged)
        }
        Published::Outdated => Ok(Published::Outdated),
    }
}

fn withdraw(db: &Connection, plugin: &str, version: Digest, at: Timestamp) -> Result<bool, Error> {
    if serving_version(db, plugin)? != Some(version) {
        return Ok(false);
    }
    end(db, plugin, at)?;
    db.prepare_cached("UPDATE plugin SET state = ?1 WHERE name = ?2")?.execute([RUNS, plugin])?;
    Ok(true)
}

fn discard(db: &Connection, plugin: &str, version: Digest, at: Timestamp) -> Result<(), Error> {
    may_discard(&versions(db, plugin)?, version)?;
    let sql = "UPDATE plugin_version SET kept = NULL, candidate = 0 WHERE version = ?1";
    db.prepare_cached(sql)?.execute([version.as_bytes()])?;
    comparisons::cancel_of(db, version, at)
}

fn set_halt(db: &Connection, plugin: &str, version: Digest, halt: Option<Halt>) -> Result<bool, Error> {
    if halt == Some(Halt::Held) && serving_version(db, plugin)? != Some(version) {
        return Ok(false);
    }
    let sql = "UPDATE plugin SET state = ?1 WHERE name = ?2 AND state <> ?1 AND (state = ?3 OR ?1 <> ?4)";
    let state = halt.map_or(RUNS, Halt::as_str);
    Ok(db.prepare_cached(sql)?.execute([state, plugin, RUNS, Halt::Held.as_str()])? > 0)
}

fn serving_version(db: &Connection, plugin: &str) -> Result<Option<Digest>, Error> {
    let sql = "SELECT version FROM plugin_version WHERE plugin = ?1 AND file IS NOT NULL";
    let found: Option<[u8; 32]> = db.prepare_cached(sql)?.query_row([plugin], |row| row.get(0)).optional()?;
    Ok(found.map(Digest::from_bytes))
}

/// Stops the serving version of a plugin.
fn end(db: &Connection, plugin: &str, at: Timestamp) -> Result<(), Error> {
    let sql = "UPDATE plugin_version SET kept = file, file = NULL, ended_at = ?2 WHERE plugin = ?1 AND file IS NOT NULL";
    db.prepare_cached(sql)?.execute(params![plugin, at.millis()])?;
    Ok(())
}

/// Stores a version in this state.
fn put(db: &Connection, new: &NewVersion, state: VersionState) -> Result<(), Error> {
    let row = &new.plugin;
    let serves = state == VersionState::Serving;
    db.prepare_cached(
        "INSERT INTO plugin_version (version, plugin, published_at, candidate, served, author_version, description, patterns, file_name,
             bytes, way, author, file, kept)
         VALUES (?1, ?2, ?3, NOT ?4, CASE WHEN ?4 THEN (SELECT coalesce(max(served), 0) + 1 FROM plugin_version WHERE plugin = ?2) END,
             ?5, ?6, ?7, ?8, ?9, ?10, ?11, CASE WHEN ?4 THEN ?12 END, CASE WHEN NOT ?4 THEN ?12 END)
         ON CONFLICT (version) DO UPDATE SET published_at = excluded.published_at, candidate = excluded.candidate,
             served = coalesce(excluded.served, served), author_version = excluded.author_version, description = excluded.description,
             patterns = excluded.patterns, file_name = excluded.file_name, bytes = excluded.bytes, way = excluded.way,
             author = excluded.author, file = excluded.file, kept = excluded.kept",
    )?
    .execute(params![
        row.version.as_bytes(),
        &*row.name,
        new.at.millis(),
        serves,
        row.author_version,
        row.description,
        rows::patterns_to_column(&row.on),
        row.file,
        i64::try_from(row.bytes).unwrap_or(i64::MAX),
        new.way.as_str(),
        new.by,
        new.file,
    ])?;
    Ok(())
}

/// Deletes the bytes of versions beyond the limits, and forgets the oldest of the versions without bytes.
fn trim(db: &Connection, plugin: &str, limits: VersionLimits) -> Result<(), Error> {
    let sql = "SELECT accepted_at FROM event ORDER BY id LIMIT 1";
    let oldest = db.query_row(sql, [], |row| row.get(0)).optional()?.map(Timestamp::from_millis);
    for version in surplus(&versions(db, plugin)?, limits, oldest) {
        let sql = "UPDATE plugin_version SET kept = NULL, candidate = 0 WHERE version = ?1";
        db.prepare_cached(sql)?.execute([version.as_bytes()])?;
    }
    db.prepare_cached(
        "DELETE FROM plugin_version WHERE version IN (SELECT version FROM plugin_version
             WHERE plugin = ?1 AND file IS NULL AND kept IS NULL ORDER BY published_at DESC LIMIT -1 OFFSET ?2)",
    )?
    .execute(params![plugin, VERSIONS_MAX])?;
    Ok(())
}

/// Returns the size of all stored versions.
pub fn bytes_of_all(db: &Connection) -> Result<u64, Error> {
    let sql = "SELECT coalesce(sum(bytes), 0) FROM plugin_version WHERE file IS NOT NULL OR kept IS NOT NULL";
    let bytes: i64 = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    Ok(bytes.unsigned_abs())
}

fn versions(db: &Connection, plugin: &str) -> Result<Vec<PluginVersion>, Error> {
    let condition = "WHERE plugin = ?1 AND (file IS NOT NULL OR kept IS NOT NULL) ORDER BY published_at DESC, version";
    those(db, condition, &[&plugin])
}

fn those(db: &Connection, condition: &str, values: &[&dyn ToSql]) -> Result<Vec<PluginVersion>, Error> {
    let sql = format!("SELECT {} FROM plugin_version {condition}", PluginVersion::COLUMNS);
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(PluginVersion::read(row)?);
    }
    Ok(found)
}
