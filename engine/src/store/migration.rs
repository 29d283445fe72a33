//! Migration: moves a store from its SQLite file into an empty Postgres database, to go from one node to many.
//!
//! Rows move table by table, in batches along each primary key. A batch and the progress after the batch are written in one
//! transaction. So if a move is interrupted, the same command resumes it and copies nothing twice. No engine opens the database
//! before the move is finished, and none opens the file afterwards. So at every moment at most one of the two stores sends
//! webhooks.
//!
//! Ids, callers' ids and the store's tag do not change, and new ids are larger than all old ones. The move ends all leases that the
//! file's engine held. Due times are translated from the steady clock to the database's clock. Secrets stay sealed: both stores use
//! the same master key.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    Error, KeyFile,
    columns::Place,
    postgres::{Begun, Import},
    sqlite::Export,
};
use crate::clock;

/// Maximum number of rows in one transaction: few enough that no transaction takes long, many enough that commits cost little. In
/// tests it is small, because tests have few rows and need many batches.
pub const BATCH_ROWS: usize = if cfg!(test) { 3 } else { 1_000 };
/// Maximum number of bytes in one transaction. Only the last row of a transaction may exceed this.
pub const BATCH_BYTES: usize = 4 << 20;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Number,
    Text,
    Bytes,
    /// Text in the file, bytes in the database: Postgres text cannot hold every character.
    TextAsBytes,
}

/// A table that both stores have.
#[derive(Debug)]
pub struct Table {
    pub name: &'static str,
    /// Number of leading columns that form the primary key.
    pub key: usize,
    pub columns: &'static [(&'static str, Kind)],
    /// Whether the store numbers the rows.
    pub numbered: bool,
}

impl Table {
    fn place_of(&self, column: &str) -> usize {
        self.columns.iter().position(|(name, _)| *name == column).expect("the table has this column")
    }
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Value {
    pub fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Number(_) => 8,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

macro_rules! tables {
    ($($name:literal $key:literal $numbered:literal [$($column:literal $kind:ident),* $(,)?];)*) => {
        /// Every table that moves, in this order.
        pub const TABLES: &[Table] = &[$(Table {
            name: $name, key: $key, columns: &[$(($column, Kind::$kind)),*], numbered: $numbered,
        }),*];
    };
}

tables! {
    "event" 1 false [
        "id" Number, "accepted_at" Number, "source" Text, "caller_id" Text, "type" Text, "subject" Text, "time" Text,
        "content_type" Text, "attributes" Text, "depth" Number, "cause" Number, "codec" Number, "data" Bytes, "request" Text,
        "body" Bytes,
    ];
    "minute" 1 false ["minute" Number, "first_id" Number];
    "dedup" 2 false ["source" Text, "caller_id" Text, "event_id" Number];
    "event_queue" 1 false ["id" Number, "round" Number, "next_at" Number, "lease" Number];
    "scheduled" 1 false [
        "id" Number, "due_at" Number, "cancelled_at" Number, "source" Text, "type" Text, "subject" Text, "content_type" Text,
        "attributes" Text, "depth" Number, "codec" Number, "data" Bytes,
    ];
    "unrouted" 1 false ["id" Number];
    "replay" 1 false ["id" Number, "rounds" Number];
    "run" 1 false [
        "id" Number, "round" Number, "plugin" Text, "version" Bytes, "endpoint" Number, "outcome" Text, "code" Text, "message" Text,
        "tries" Number, "took_us" Number, "memory_peak" Number, "webhooks" Number, "emitted" Number, "log" Text,
        "log_dropped" Number, "settings_revision" Number, "state_read" Text,
    ];
    "run_queue" 1 false [
        "id" Number, "plugin" Text, "endpoint" Number, "round" Number, "tries" Number, "state" Text, "outcome" Text, "wants" Text,
        "next_at" Number, "lease" Number,
    ];
    "live" 1 false [
        "id" Number, "endpoint" Number, "round" Number, "attempts" Number, "next_at" Number, "lease" Number, "ordering" Number,
    ];
    "delivery" 1 false [
        "id" Number, "endpoint" Number, "round" Number, "state" Text, "reason" Text, "attempts" Number, "at" Number,
        "cancel_reason" Text,
    ];
    "payload" 1 false ["id" Number, "type" Text, "content_type" Text, "headers" Text, "codec" Number, "body" Bytes, "run" Number];
    "attempt" 1 false [
        "id" Number, "at" Number, "outcome" Text, "status" Number, "latency_us" Number, "detail" Text, "excerpt" Bytes,
        "retry_after_ms" Number, "sent" Text,
    ];
    "state" 2 false ["plugin" Text, "key" TextAsBytes, "value" Bytes, "version" Number, "expires_at" Number];
    "endpoint" 1 true [
        "id" Number, "name" Text, "title" Text, "url" Text, "events" Text, "conditions" Text, "plugin" Text, "scheme" Text,
        "state" Text, "created_at" Number, "deleted_at" Number, "policy" Text, "sealed" Bytes, "failing_since" Number,
    ];
    "source" 1 true ["id" Number, "name" Text, "title" Text, "draft" Text, "created_at" Number, "sealed" Bytes, "requests" Text];
    "plugin" 1 false [
        "name" Text, "version" Bytes, "author_version" Text, "description" Text, "patterns" Text, "file" Text, "bytes" Number,
        "config" Text, "state" Text,
    ];
    "plugin_version" 1 false [
        "version" Bytes, "plugin" Text, "published_at" Number, "candidate" Number, "served" Number, "ended_at" Number,
        "author_version" Text, "description" Text, "patterns" Text, "file_name" Text, "bytes" Number, "way" Text, "author" Text,
        "file" Bytes, "kept" Bytes,
    ];
    "api_key" 1 true [
        "id" Number, "name" Text, "role" Text, "hash" Bytes, "created_at" Number, "expires_at" Number, "last_used_at" Number,
        "ending" Text,
    ];
    "plugin_config" 2 false ["plugin" Text, "revision" Number, "at" Number, "author" Text, "config" Text];
    "audit" 1 true [
        "id" Number, "at" Number, "key" Text, "action" Text, "target" Text, "status" Number, "members" Text,
    ];
    "comparison" 1 true [
        "id" Number, "plugin" Text, "serving" Bytes, "candidate" Bytes, "request" Text, "state" Text, "cursor" Number, "report" Text,
        "problem" Text, "created_at" Number, "finished_at" Number,
    ];
    "stats" 3 false ["about" Text, "cell" Number, "sheet" Number, "cells" Text];
    "job" 1 true [
        "id" Number, "kind" Text, "filter" Text, "cursor" Number, "done" Number, "failed" Number, "total" Number, "state" Text,
        "created_at" Number, "finished_at" Number,
    ];
}

/// The identity of a store. It moves unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub tag: String,
    /// Sealed with the master key: identifies the key of the store.
    pub mark: Vec<u8>,
    /// Changes each time an engine opens the store.
    pub opening: String,
    /// The largest number ever given to an event.
    pub last_event: i64,
}

/// A part of a primary key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KeyPart {
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// Progress of a move. The database keeps it until the move is finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The tag and the last opening of the store when the move began. They must be the same when the move is resumed.
    pub tag: String,
    pub opening: String,
    /// Layout of the database when the move began.
    pub layout: u8,
    /// The table that is being moved.
    pub table: String,
    pub cursor: Vec<KeyPart>,
    pub rows: BTreeMap<String, u64>,
}

impl Progress {
    pub fn none(identity: &Identity, layout: u8) -> Self {
        Self {
            layout,
            tag: identity.tag.clone(),
            opening: identity.opening.clone(),
            table: TABLES[0].name.to_owned(),
            cursor: Vec::new(),
            rows: BTreeMap::new(),
        }
    }

    fn moved(&self) -> u64 {
        self.rows.values().sum()
    }

    /// Returns the progress after `rows` more rows of `table`, the last of which has the key `last`.
    fn after(&self, table: &Table, last: Vec<KeyPart>, rows: usize) -> Self {
        let mut next = self.clone();
        table.name.clone_into(&mut next.table);
        next.cursor = last;
        *next.rows.entry(table.name.to_owned()).or_default() += rows as u64;
        next
    }
}

/// Sums over a table. They must be equal in the file and in the database before a move counts as finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub rows: u64,
    /// Sum over all columns that hold bytes.
    pub bytes: u64,
}

/// Progress of a move: number of rows moved so far, and of all rows.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    pub table: &'static str,
    pub table_done: bool,
    pub rows: u64,
    pub rows_in_all: u64,
}

/// A finished move.
#[derive(Debug)]
pub struct Migration {
    /// The sums of each table, equal in the file and in the database.
    pub tables: Vec<(&'static str, Sum)>,
    /// Rows that an earlier command had moved.
    pub rows_before: u64,
    /// Whether an earlier command had already finished the move.
    pub was_done: bool,
}

/// Moves the store in `file` into the database at `url`. The caller holds the lock of the file's folder. `shown` is the form of the
/// URL that may be printed and stored in the file.
///
/// # Errors
/// [`Error::Conflict`] if the file cannot be moved or the database cannot receive a store. After any other error, the same call
/// resumes the move.
pub async fn migrate(
    file: &Path,
    key_file: &KeyFile,
    url: &str,
    shown: &str,
    tell: &mut (dyn FnMut(Moved) + Send),
) -> Result<Migration, Error> {
    let from = Export::open(file)?;
    let identity = from.identity()?;
    // Without this key file no engine could open the database.
    key_file.open(Some(&identity.mark))?;
    if let Some(before) = from.moved_to()?
        && before != shown
    {
        return Err(Error::Conflict(format!("this store was already moved to {before}; a store can be moved only once")));
    }
    let sums = TABLES.iter().map(|table| Ok((table.name, from.sum(table)?))).collect::<Result<Vec<_>, Error>>()?;
    let rows_in_all = sums.iter().map(|(_, sum)| sum.rows).sum();

    let to = Import::open(url).await?;
    let mut progress = match to.begin(&identity).await? {
        Begun::Finished => {
            // The earlier command finished the database, but was interrupted before it marked the file.
            from.mark_moved(shown)?;
            return Ok(Migration { tables: sums, rows_before: rows_in_all, was_done: true });
        }
        Begun::At(progress) => progress,
    };
    let rows_before = progress.moved();
    let first = TABLES.iter().position(|table| table.name == progress.table);
    let first = first.ok_or(Error::Corrupt { table: "meta", column: "value", id: 0 })?;
    let ahead = to.ahead().await?;
    for table in &TABLES[first..] {
        let mut cursor = if progress.table == table.name { progress.cursor.clone() } else { Vec::new() };
        loop {
            let mut rows = from.rows(table, &cursor)?;
            let Some(last) = rows.last() else { break };
            cursor = key_of(table, last)?;
            for row in &mut rows {
                translate(table, row, ahead)?;
            }
            let next = progress.after(table, cursor.clone(), rows.len());
            to.write(table, &rows, &progress, &next).await?;
            progress = next;
            tell(Moved { table: table.name, table_done: false, rows: progress.moved(), rows_in_all });
        }
        tell(Moved { table: table.name, table_done: true, rows: progress.moved(), rows_in_all });
    }
    let numbered: Vec<(&'static str, i64)> = TABLES
        .iter()
        .filter(|table| table.numbered)
        .map(|table| Ok((table.name, from.last_number(table)?)))
        .collect::<Result<_, Error>>()?;
    to.finish(&identity, &progress, &sums, &numbered, || from.mark_moved(shown)).await?;
    Ok(Migration { tables: sums, rows_before, was_done: false })
}

fn key_of(table: &Table, row: &[Value]) -> Result<Vec<KeyPart>, Error> {
    let part = |(value, (column, _)): (&Value, &(&'static str, Kind))| match value {
        Value::Number(number) => Ok(KeyPart::Number(*number)),
        Value::Text(text) => Ok(KeyPart::Text(text.clone())),
        Value::Bytes(bytes) => Ok(KeyPart::Bytes(bytes.clone())),
        Value::Null => Err(Place { table: table.name, id: 0 }.corrupt(column)),
    };
    row.iter().zip(table.columns).take(table.key).map(part).collect()
}

/// Translates the values that have another meaning in the database. `ahead` says by how many milliseconds the database's clock is
/// ahead of the steady clock.
fn translate(table: &Table, row: &mut [Value], ahead: i64) -> Result<(), Error> {
    let id = match row[0] {
        Value::Number(id) => id,
        _ => 0,
    };
    let corrupt = |column| Place { table: table.name, id }.corrupt(column);
    match table.name {
        "event_queue" | "run_queue" | "live" => {
            let (due, lease) = (table.place_of("next_at"), table.place_of("lease"));
            let Value::Number(at) = row[due] else { return Err(corrupt("next_at")) };
            // The process that held the lease has ended.
            let at = match row[lease] {
                Value::Null => at,
                _ => at.min(clock::steady().millis()),
            };
            row[lease] = Value::Null;
            row[due] = Value::Number(at.saturating_add(ahead));
        }
        "state" => {
            // In the file, a version is a lease token: a random number that is not negative. A node's tokens begin with its id and
            // are never negative either. So the versions of the file become negative numbers in the database: no node issues such a
            // number, and 0 still stands for a missing value.
            let version = table.place_of("version");
            match row[version] {
                Value::Number(token) if token >= 0 => row[version] = Value::Number(!token),
                _ => return Err(corrupt("version")),
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> &'static Table {
        TABLES.iter().find(|table| table.name == name).unwrap()
    }

    #[test]
    fn leases_end_and_due_times_follow_the_other_clock() {
        let now = clock::steady().millis();
        let (later, ahead) = (now + 3_600_000, -7_000);
        for (lease, due, expected) in [
            (Value::Null, later, later + ahead),
            (Value::Null, now - 5, now - 5 + ahead),
            (Value::Number(7), now - 5, now - 5 + ahead),
        ] {
            let mut row = vec![Value::Number(1), Value::Number(0), Value::Number(due), lease];
            translate(table("event_queue"), &mut row, ahead).unwrap();
            assert_eq!(row, [Value::Number(1), Value::Number(0), Value::Number(expected), Value::Null]);
        }
        let mut held = vec![Value::Number(1), Value::Number(0), Value::Number(later), Value::Number(7)];
        translate(table("event_queue"), &mut held, ahead).unwrap();
        let Value::Number(due) = held[2] else { panic!("{held:?}") };
        assert!((now + ahead..later + ahead - 3_000_000).contains(&due), "free at once, not when its lease would have ended");
    }

    #[test]
    fn no_node_can_issue_a_moved_version_of_state() {
        for token in [0, 1, 1 << 39, i64::MAX >> 2, i64::MAX] {
            let mut row = vec![Value::Text("p".into()), Value::Text("k".into()), Value::Bytes(vec![]), Value::Number(token)];
            translate(table("state"), &mut row, 0).unwrap();
            let Value::Number(version) = row[3] else { panic!("{row:?}") };
            assert!(version < 0, "neither a node's token nor the 0 of a missing value");
        }
        let mut row = vec![Value::Text("p".into()), Value::Text("k".into()), Value::Bytes(vec![]), Value::Number(-1)];
        assert!(translate(table("state"), &mut row, 0).is_err());
    }

    #[test]
    fn progress_is_read_as_it_was_written() {
        let identity = Identity { tag: "4hjq".into(), mark: vec![1], opening: "5 6 a".into(), last_event: 9 };
        let progress = Progress::none(&identity, 1);
        let last = vec![Value::Text("shop".into()), Value::Text("a\u{0}b".into()), Value::Number(3)];
        let next = progress.after(table("dedup"), key_of(table("dedup"), &last).unwrap(), 2);
        assert_eq!(next.cursor, [KeyPart::Text("shop".into()), KeyPart::Text("a\u{0}b".into())]);
        assert_eq!((next.table.as_str(), next.moved()), ("dedup", 2));
        let text = serde_json::to_vec(&next).unwrap();
        assert_eq!(serde_json::from_slice::<Progress>(&text).unwrap(), next);
    }
}
