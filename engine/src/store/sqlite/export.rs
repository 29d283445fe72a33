//! Reads a file row by row for the move to another kind of store, and marks it as moved. The caller holds the lock of the data
//! folder, so no other process writes.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, ToSql, params_from_iter, types::ValueRef};

use super::{close_to_others, connect, last_event, rows::Place, steady, upgrade::LAYOUT};
use crate::{
    domain::id::Tag,
    store::{
        Error,
        migration::{BATCH_BYTES, BATCH_ROWS, Identity, KeyPart, Kind, Sum, Table, Value},
    },
};

/// Key of the row in `meta` that names where the store was moved to.
const MOVED: &str = "moved";

/// A store to be moved.
pub struct Export {
    db: Connection,
}

impl Export {
    /// Opens the store in `file`. The steady clock continues from its last stored reading.
    pub fn open(file: &Path) -> Result<Self, Error> {
        close_to_others(file)?;
        let db = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.execute_batch("PRAGMA synchronous = FULL")?;
        let layout: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if layout != LAYOUT {
            return Err(Error::Conflict(format!(
                "its layout is version {layout}, but this program moves only version {LAYOUT}; start an engine of this program's version on this store once, and stop the engine again"
            )));
        }
        steady::resume(&db)?;
        Ok(Self { db })
    }

    pub fn identity(&self) -> Result<Identity, Error> {
        let corrupt = || Error::Corrupt { table: "meta", column: "value", id: 0 };
        let tag: Option<String> = meta(&self.db, "tag")?;
        Ok(Identity {
            tag: tag.filter(|tag| Tag::parse(tag).is_some()).ok_or_else(corrupt)?,
            mark: meta(&self.db, "seal")?.ok_or_else(corrupt)?,
            opening: meta(&self.db, steady::KEY)?.ok_or_else(corrupt)?,
            last_event: last_event(&self.db)?,
        })
    }

    /// Returns the next rows in the order of the primary key, as many as fit into a batch. Starts after the row with the key
    /// `after`, or with the first row if `after` is empty.
    pub fn rows(&self, table: &Table, after: &[KeyPart]) -> Result<Vec<Vec<Value>>, Error> {
        let key = names(table, table.key);
        let beyond = match after.len() {
            0 => String::new(),
            _ => format!("WHERE ({key}) > ({})", vec!["?"; after.len()].join(", ")),
        };
        let columns = names(table, table.columns.len());
        let sql = format!("SELECT {columns} FROM {} {beyond} ORDER BY {key} LIMIT {BATCH_ROWS}", table.name);
        let mut select = self.db.prepare_cached(&sql)?;
        let after = after.iter().map(|part| match part {
            KeyPart::Number(number) => number as &dyn ToSql,
            KeyPart::Text(text) => text as &dyn ToSql,
            KeyPart::Bytes(bytes) => bytes as &dyn ToSql,
        });
        let mut found = select.query(params_from_iter(after))?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && let Some(row) = found.next()?
        {
            let id = row.get_ref(0)?.as_i64().unwrap_or(0);
            let value = |(place, (column, kind)): (usize, &(&'static str, Kind))| {
                let stored = row.get_ref(place)?;
                read(stored, *kind).ok_or_else(|| Place { table: table.name, id }.corrupt(column))
            };
            let row = table.columns.iter().enumerate().map(value).collect::<Result<Vec<_>, Error>>()?;
            bytes += row.iter().map(Value::bytes).sum::<usize>();
            rows.push(row);
        }
        Ok(rows)
    }

    pub fn sum(&self, table: &Table) -> Result<Sum, Error> {
        let lengths: Vec<String> = table
            .columns
            .iter()
            .filter(|(_, kind)| *kind == Kind::Bytes)
            .map(|(column, _)| format!("coalesce(sum(length(\"{column}\")), 0)"))
            .collect();
        let bytes = if lengths.is_empty() { "0".to_owned() } else { lengths.join(" + ") };
        let sql = format!("SELECT count(*), {bytes} FROM {}", table.name);
        let (rows, bytes): (i64, i64) = self.db.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Sum { rows: rows.unsigned_abs(), bytes: bytes.unsigned_abs() })
    }

    /// Returns the last number that a table issued, even if its row was deleted.
    pub fn last_number(&self, table: &Table) -> Result<i64, Error> {
        let given = self.db.query_row("SELECT seq FROM sqlite_sequence WHERE name = ?1", [table.name], |row| row.get(0));
        Ok(given.optional()?.unwrap_or(0))
    }

    pub fn moved_to(&self) -> Result<Option<String>, Error> {
        meta(&self.db, MOVED)
    }

    /// Marks the file as moved. From then on, no engine serves from it.
    pub fn mark_moved(&self, to: &str) -> Result<(), Error> {
        self.db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", [MOVED, to])?;
        Ok(())
    }
}

/// Refuses a store that was moved. Otherwise two engines would work on the same events and send everything twice.
pub fn refuse_moved(db: &Connection) -> Result<(), Error> {
    match meta::<String>(db, MOVED)? {
        None => Ok(()),
        Some(to) => Err(Error::Conflict(format!(
            "its events were moved to {to}, and are sent from there; start the engine with --store and that address, \
             or choose another folder with --data"
        ))),
    }
}

fn meta<T: rusqlite::types::FromSql>(db: &Connection, key: &str) -> Result<Option<T>, Error> {
    Ok(db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()?)
}

fn names(table: &Table, first: usize) -> String {
    table.columns.iter().take(first).map(|(column, _)| format!("\"{column}\"")).collect::<Vec<_>>().join(", ")
}

/// Returns `None` for a value that the column cannot hold.
fn read(stored: ValueRef<'_>, kind: Kind) -> Option<Value> {
    match (stored, kind) {
        (ValueRef::Null, _) => Some(Value::Null),
        (ValueRef::Integer(number), Kind::Number) => Some(Value::Number(number)),
        (ValueRef::Text(text), Kind::Text | Kind::TextAsBytes) => Some(Value::Text(std::str::from_utf8(text).ok()?.to_owned())),
        (ValueRef::Blob(bytes), Kind::Bytes) => Some(Value::Bytes(bytes.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{
        clock,
        store::{AdmissionLimits, Handoff, KeyFile, Sqlite, migration::TABLES},
    };

    #[test]
    fn every_table_and_column_moves() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(include_str!("schema.sql")).unwrap();
        let mut select = db
            .prepare(
                "SELECT m.name, c.name, c.pk FROM sqlite_master m JOIN pragma_table_info(m.name) c
                 WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%'
                     -- `meta` identifies the store, and the other store counts `state_size` for itself.
                     AND m.name NOT IN ('meta', 'state_size')",
            )
            .unwrap();
        let mut stored: BTreeMap<String, BTreeSet<(String, bool)>> = BTreeMap::new();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            stored.entry(row.get(0).unwrap()).or_default().insert((row.get(1).unwrap(), row.get::<_, i64>(2).unwrap() > 0));
        }
        let moved: BTreeMap<String, BTreeSet<(String, bool)>> = TABLES
            .iter()
            .map(|table| {
                let column = |(place, (name, _)): (usize, &(&str, Kind))| ((*name).to_owned(), place < table.key);
                (table.name.to_owned(), table.columns.iter().enumerate().map(column).collect())
            })
            .collect();
        assert_eq!(moved, stored);
    }

    #[test]
    fn rows_are_returned_once_in_the_order_of_their_keys() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(include_str!("schema.sql")).unwrap();
        let many = BATCH_ROWS * 2 + 7;
        db.execute_batch(&format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many})
             INSERT INTO dedup SELECT 'source ' || i % 3, 'id ' || i, i FROM n;
             INSERT INTO state VALUES ('p', 'a' || char(0), x'00ff', 5, NULL), ('p', 'b', x'', 6, NULL);",
        ))
        .unwrap();
        let export = Export { db };
        let table = |name: &str| TABLES.iter().find(|table| table.name == name).unwrap();
        let (mut seen, mut after) = (BTreeSet::new(), Vec::new());
        loop {
            let rows = export.rows(table("dedup"), &after).unwrap();
            let Some(last) = rows.last() else { break };
            let [Value::Text(source), Value::Text(caller), _] = &last[..] else { panic!("{last:?}") };
            after = vec![KeyPart::Text(source.clone()), KeyPart::Text(caller.clone())];
            for row in rows {
                let Value::Number(event) = row[2] else { panic!("{row:?}") };
                assert!(seen.insert(event), "{event} appears twice");
            }
        }
        assert_eq!(seen.len(), many);
        let state = export.rows(table("state"), &[]).unwrap();
        assert_eq!(state[0][1..3], [Value::Text("a\0".into()), Value::Bytes(vec![0, 255])]);
        assert_eq!(export.sum(table("state")).unwrap(), Sum { rows: 2, bytes: 2 });
    }

    #[test]
    fn no_engine_serves_from_a_moved_file() {
        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (folder.path().join("innesco.db"), KeyFile::at(folder.path().join("master.key")));
        let open = || Sqlite::open(&file, key.clone(), Handoff::default(), AdmissionLimits::default());
        drop(open().unwrap());
        let before = Export::open(&file).unwrap().identity().unwrap();
        // A reading has a precision of milliseconds.
        let read = clock::steady();
        while clock::steady() == read {}
        drop(open().unwrap());
        let export = Export::open(&file).unwrap();
        assert_ne!(export.identity().unwrap().opening, before.opening, "an engine that opened the file in between is noticed");
        assert_eq!(export.moved_to().unwrap(), None);
        export.mark_moved("postgres://db/events").unwrap();
        assert_eq!(export.moved_to().unwrap().as_deref(), Some("postgres://db/events"));
        drop(export);
        let refused = open().map(drop).unwrap_err().to_string();
        assert!(refused.contains("moved to postgres://db/events"), "{refused}");
    }
}
