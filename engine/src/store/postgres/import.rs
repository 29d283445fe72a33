//! Imports a store that moves here from a file. The database has no layout until all rows are imported and counted, so that no
//! node of any version opens it.

use deadpool_postgres::{Pool, Transaction};
use tokio_postgres::types::ToSql;

use super::{
    accept::EVENT_BYTES,
    attempts::ATTEMPT_BYTES,
    commit::count_bytes,
    db::{Server, clean, execute, get, meta, rows, the_row},
    endpoints,
    settle::PAYLOAD_BYTES,
    upgrade,
};
use crate::{
    clock,
    store::{
        Error,
        columns::{Place, policy_from_column},
        migration::{Identity, Kind, Progress, Sum, TABLES, Table, Value},
    },
};

/// Keys in `meta`: [`MOVING`] is the key of the progress of an unfinished move, and [`MOVED`] is the key of the store's identity
/// after a finished move.
const MOVING: &str = "moving";
const MOVED: &str = "moved";
/// The node id under which imported bytes are counted. No node has this id.
const NO_NODE: i64 = 0;

/// A database that a store moves into.
pub struct Import {
    pool: Pool,
}

/// State of a move when a command starts.
pub enum Begun {
    At(Progress),
    Finished,
}

/// Refuses a database with an unfinished move.
pub async fn refuse_unfinished(tx: &Transaction<'_>) -> Result<(), Error> {
    match meta(tx, MOVING).await? {
        None => Ok(()),
        Some(_) => Err(Error::Conflict(
            "it holds an unfinished move of a store; let innesco migrate finish, then start the engine".into(),
        )),
    }
}

impl Import {
    pub async fn open(url: &str) -> Result<Self, Error> {
        let pool = Server::parse(url)?.pool(1)?;
        // Connects now, so that an error in the address is reported before anything begins.
        drop(pool.get().await?);
        Ok(Self { pool })
    }

    /// Creates the tables in an empty database, or returns the progress of an earlier command.
    pub async fn begin(&self, identity: &Identity) -> Result<Begun, Error> {
        let mut client = self.pool.get().await?;
        let tx = client.transaction().await?;
        upgrade::alone(&tx).await?;
        let tables =
            rows(&tx, "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1", &[]).await?;
        let tables = tables.iter().map(|row| get(row, 0)).collect::<Result<Vec<String>, Error>>()?;
        if tables.is_empty() {
            let progress = Progress::none(identity, upgrade::LAYOUT);
            upgrade::make_tables(&tx).await?;
            execute(&tx, "INSERT INTO meta (key, value) VALUES ($1, $2)", &[&MOVING, &written(&progress)]).await?;
            tx.commit().await?;
            return Ok(Begun::At(progress));
        }
        let others = || {
            let few = tables.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
            let number = tables.len();
            Error::Conflict(format!(
                "the database is not empty: it has {number} tables ({few}, …), and not of a move of this store; make an empty one \
                 (createdb) and name that"
            ))
        };
        if !["meta", "event_queue"].iter().all(|ours| tables.iter().any(|table| table == ours)) {
            return Err(others());
        }
        let is_ours = |progress: &Progress| progress.tag == identity.tag;
        if let Some(progress) = read(&tx, MOVED).await? {
            return if is_ours(&progress) && progress.opening == identity.opening { Ok(Begun::Finished) } else { Err(others()) };
        }
        match read(&tx, MOVING).await? {
            Some(progress) if progress.layout != upgrade::LAYOUT => Err(Error::Conflict(
                "the move into this database was started by another version of innesco; continue with that version, or start again with a new, \
                 empty database"
                    .into(),
            )),
            Some(progress) if is_ours(&progress) && progress.opening == identity.opening => Ok(Begun::At(progress)),
            Some(progress) if is_ours(&progress) => Err(Error::Conflict(
                "an engine has run on the data folder since this move was started: the database no longer holds the state of the \
                 folder; create a new, empty database and start the move again"
                    .into(),
            )),
            _ => Err(others()),
        }
    }

    /// Returns how far the database's clock is ahead of this process's steady clock, in milliseconds.
    pub async fn ahead(&self) -> Result<i64, Error> {
        let client = self.pool.get().await?;
        let asked = clock::steady();
        let answer = client.query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint", &[]).await?;
        let took = clock::steady().since(asked).as_millis() as i64;
        Ok(get::<i64>(&answer, 0)? - asked.millis() - took / 2)
    }

    /// Stores a batch together with the new progress of the move.
    pub async fn write(&self, table: &Table, batch: &[Vec<Value>], before: &Progress, after: &Progress) -> Result<(), Error> {
        let mut client = self.pool.get().await?;
        let tx = client.transaction().await?;
        advance(&tx, before, after).await?;
        insert(&tx, table, batch).await?;
        count_bytes(&tx, NO_NODE, batch.iter().map(|row| weight(table, row)).sum()).await?;
        Ok(tx.commit().await?)
    }

    /// Finishes the move: compares the file with the database, makes the database continue the numbering of the file, and sets the
    /// layout of the database. Calls `mark` right before the commit. From then on, no engine serves from the file.
    pub async fn finish(
        &self,
        identity: &Identity,
        progress: &Progress,
        sums: &[(&'static str, Sum)],
        numbered: &[(&'static str, i64)],
        mark: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut client = self.pool.get().await?;
        let tx = client.transaction().await?;
        // Counts whole tables, which may take long.
        tx.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = on").await?;
        upgrade::alone(&tx).await?;
        advance(&tx, progress, progress).await?;
        for (name, expected) in sums {
            let found = sum(&tx, name).await?;
            if found != *expected {
                return Err(Error::Conflict(format!(
                    "table {name} has {} rows with {} bytes in the data folder, and {} with {} in the database; the move is not finished. \
                     Make a new, empty database and begin again; if it happens twice, report it",
                    expected.rows, expected.bytes, found.rows, found.bytes
                )));
            }
        }
        let sql = "SELECT setval('event_id', greatest($1::bigint, 1), $1 > 0)";
        execute(&tx, sql, &[&identity.last_event]).await?;
        for (table, last) in numbered {
            let sql = "SELECT setval(pg_get_serial_sequence($1, 'id'), greatest($2::bigint, 1), $2 > 0)";
            execute(&tx, sql, &[table, last]).await?;
        }
        execute(&tx, "DELETE FROM meta WHERE key = $1", &[&MOVING]).await?;
        let sql = "INSERT INTO meta (key, value) VALUES ('layout', $1), ('tag', $2), ('seal', $3), ($4, $5)";
        let tag = identity.tag.as_bytes();
        execute(&tx, sql, &[&upgrade::MARK.as_slice(), &tag, &identity.mark, &MOVED, &written(progress)]).await?;
        mark()?;
        Ok(tx.commit().await?)
    }
}

fn written(progress: &Progress) -> Vec<u8> {
    serde_json::to_vec(progress).expect("texts and numbers are always JSON")
}

async fn read(tx: &Transaction<'_>, key: &str) -> Result<Option<Progress>, Error> {
    let corrupt = |_| Error::Corrupt { table: "meta", column: "value", id: 0 };
    meta(tx, key).await?.map(|text| serde_json::from_slice(&text).map_err(corrupt)).transpose()
}

/// Replaces the stored progress `before` by `after`. Fails if another command moves a store into the database at the same time.
async fn advance(tx: &Transaction<'_>, before: &Progress, after: &Progress) -> Result<(), Error> {
    let sql = "UPDATE meta SET value = $1 WHERE key = $2 AND value = $3";
    match execute(tx, sql, &[&written(after), &MOVING, &written(before)]).await? {
        1 => Ok(()),
        _ => Err(Error::Conflict(
            "another command moves a store into this database at the same time; let one of them finish".into(),
        )),
    }
}

/// Returns the number of bytes that a row adds to the size of the store.
fn weight(table: &Table, row: &[Value]) -> i64 {
    let each = match table.name {
        "event" | "scheduled" => EVENT_BYTES,
        "payload" => PAYLOAD_BYTES,
        "attempt" => ATTEMPT_BYTES,
        _ => return 0,
    };
    let bytes = |(value, (_, kind)): (&Value, &(&'static str, Kind))| match (value, kind) {
        (Value::Bytes(bytes), Kind::Bytes) => bytes.len() as i64,
        _ => 0,
    };
    each + row.iter().zip(table.columns).map(bytes).sum::<i64>()
}

async fn insert(tx: &Transaction<'_>, table: &Table, batch: &[Vec<Value>]) -> Result<(), Error> {
    let mut names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
    let mut kinds: Vec<&str> = table.columns.iter().map(|(_, kind)| array_of(*kind)).collect();
    let mut values: Vec<Box<dyn ToSql + Sync + Send + '_>> =
        table.columns.iter().enumerate().map(|(place, (_, kind))| column(batch, place, *kind)).collect();
    if table.name == "endpoint" {
        names.push("single");
        kinds.push("boolean[]");
        values.push(Box::new(batch.iter().map(|row| is_single(table, row)).collect::<Result<Vec<bool>, Error>>()?));
    }
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let arrays: Vec<String> = kinds.iter().enumerate().map(|(place, kind)| format!("${}::{kind}", place + 1)).collect();
    let sql = format!(
        "INSERT INTO {} ({names}) {} SELECT * FROM unnest({}) u ({names})",
        table.name,
        if table.numbered { "OVERRIDING SYSTEM VALUE" } else { "" },
        arrays.join(", "),
        names = quoted.join(", "),
    );
    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
    execute(tx, &sql, &values).await?;
    Ok(())
}

const fn array_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Number => "bigint[]",
        Kind::Text => "text[]",
        Kind::Bytes | Kind::TextAsBytes => "bytea[]",
    }
}

/// Returns the values of one column, one for each row. The rows of the file contain only values of the column's type.
fn column(batch: &[Vec<Value>], place: usize, kind: Kind) -> Box<dyn ToSql + Sync + Send + '_> {
    let values = batch.iter().map(move |row| &row[place]);
    match kind {
        Kind::Number => Box::new(
            values
                .map(|value| match value {
                    Value::Number(number) => Some(*number),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        ),
        Kind::Text => Box::new(
            values
                .map(|value| match value {
                    Value::Text(text) => Some(clean(text)),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        ),
        Kind::Bytes | Kind::TextAsBytes => Box::new(
            values
                .map(|value| match value {
                    Value::Bytes(bytes) => Some(bytes.as_slice()),
                    Value::Text(text) => Some(text.as_bytes()),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        ),
    }
}

fn is_single(table: &Table, row: &[Value]) -> Result<bool, Error> {
    let id = match row[0] {
        Value::Number(id) => id,
        _ => 0,
    };
    let place = Place { table: "endpoint", id };
    let policy = table.columns.iter().position(|(name, _)| *name == "policy").map(|column| &row[column]);
    let Some(Value::Text(policy)) = policy else { return Err(place.corrupt("policy")) };
    Ok(endpoints::is_single(&policy_from_column(&place, policy)?))
}

async fn sum(tx: &Transaction<'_>, name: &str) -> Result<Sum, Error> {
    let table = TABLES.iter().find(|table| table.name == name).expect("only tables that move are counted");
    let lengths: Vec<String> = table
        .columns
        .iter()
        .filter(|(_, kind)| *kind == Kind::Bytes)
        .map(|(column, _)| format!("coalesce(sum(octet_length(\"{column}\")), 0)"))
        .collect();
    let bytes = if lengths.is_empty() { "0".to_owned() } else { lengths.join(" + ") };
    let row = the_row(tx, &format!("SELECT count(*), ({bytes})::bigint FROM {name}"), &[]).await?;
    Ok(Sum { rows: get::<i64>(&row, 0)?.unsigned_abs(), bytes: get::<i64>(&row, 1)?.unsigned_abs() })
}
