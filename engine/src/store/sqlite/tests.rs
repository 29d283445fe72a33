//! The conformance suite on SQLite, and what only SQLite has: its tables, looked at by hand.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::Connection;

use super::Sqlite;
use crate::{
    clock,
    domain::{
        delivery::{DeadReason, Next},
        id::EventId,
        run::RunOutcome,
    },
    store::{
        DeliveryFilter, Error, Handoff, KeyFile, Retention, Role, RunRecord, Settled, Settlement, Store,
        conformance::{bench::*, conformance},
    },
};

conformance!(conforms, SqliteBacking);

/// A file in a folder of its own. A crash is a copy of the file and its log as they are at that moment: what a killed process
/// leaves behind.
struct SqliteBacking {
    folder: tempfile::TempDir,
    opened: Mutex<Vec<PathBuf>>,
}

impl SqliteBacking {
    fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        Self { folder, opened: Mutex::new(Vec::new()) }
    }

    /// The file that was opened last.
    fn file(&self) -> PathBuf {
        self.opened.lock().unwrap().last().expect("it was opened").clone()
    }

    fn key_file(&self) -> KeyFile {
        KeyFile::at(self.folder.path().join("master.key"))
    }

    /// A connection beside the store's own.
    fn raw(&self) -> Connection {
        Connection::open(self.file()).unwrap()
    }
}

#[async_trait]
impl Backing for SqliteBacking {
    async fn open(&self, handoff: Handoff) -> Arc<dyn Store> {
        let mut opened = self.opened.lock().unwrap();
        let next = self.folder.path().join(format!("{}.db", opened.len()));
        if let Some(last) = opened.last() {
            copy(last, &next);
        }
        let store = Sqlite::open(&next, self.key_file(), handoff).unwrap();
        opened.push(next);
        Arc::new(store)
    }

    async fn refuse_poison(&self) {
        let trigger = "CREATE TRIGGER poison BEFORE INSERT ON event WHEN new.type = 'poison'
                       BEGIN SELECT raise(ABORT, 'the event is poison'); END";
        self.raw().execute_batch(trigger).unwrap();
    }

    async fn spoil(&self, event: EventId) {
        let changed = self.raw().execute("UPDATE event SET codec = 99 WHERE id = ?1", [event.as_i64()]).unwrap();
        assert_eq!(changed, 1, "the event is there to be spoiled");
    }

    fn another(&self) -> Arc<dyn Backing> {
        Arc::new(Self::empty())
    }
}

fn copy(from: &Path, to: &Path) {
    let log = |file: &Path| file.with_extension("db-wal");
    fs::copy(from, to).unwrap();
    if log(from).exists() {
        fs::copy(log(from), log(to)).unwrap();
    }
}

/// An event with everything that an event can have, finished.
async fn finished_with_everything(bench: &Bench) -> EventId {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event_with_id("shop", "1")).await;
    let runs = vec![
        RunRecord {
            deliveries: vec![webhook(crm, "x"), webhook(crm, "y")],
            emitted: vec![emitted(&claim.event, "b")],
            state_use: state_use(&[], &[("k", Some(b"kept"))]),
            ..ran("p")
        },
        parked("q", RunOutcome::Trapped),
    ];
    let settled = Settlement { runs, direct: vec![direct(crm)], ..settlement(&claim) };
    assert_eq!(bench.settle(settled).await, Settled::Done);
    for (delivery, next) in bench.deliveries().iter().zip([Next::Delivered, retry_in(60), Next::Dead(DeadReason::Exhausted)]) {
        assert!(bench.record(attempt(delivery, next)).await);
    }
    let waits = DeliveryFilter { state: Some("retrying"), ..DeliveryFilter::default() };
    for id in bench.delivery_ids(waits).await {
        bench.store.cancel_delivery(id, clock::wall()).await.unwrap();
    }
    let follower = bench.event();
    assert_eq!(bench.settle(settlement(&follower)).await, Settled::Done);
    bench.store.replay_event(claim.event.id, clock::steady()).await.unwrap();
    bench.claim().await;
    let replay = bench.event();
    let settled = Settlement { runs: vec![parked("q", RunOutcome::Failed)], ..settlement(&replay) };
    assert_eq!(bench.settle(settled).await, Settled::Done);
    claim.event.id
}

fn count(db: &Connection, table: &str) -> i64 {
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn an_event_leaves_every_table() {
    let backing = Arc::new(SqliteBacking::empty());
    let bench = Bench::open(Arc::clone(&backing) as Arc<dyn Backing>).await;
    finished_with_everything(&bench).await;
    let db = backing.raw();
    for table in ["event", "run", "run_queue", "delivery", "payload", "attempt", "unrouted", "replay", "dedup"] {
        assert!(count(&db, table) > 0, "the story has something in {table}");
    }
    let now = clock::wall().plus(Duration::from_secs(32 * 24 * 3600));
    while bench.store.retire(Retention::default(), now).await.unwrap() > 0 {}
    let mut tables = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    let kept: Vec<&str> = tables.iter().map(String::as_str).filter(|table| count(&db, table) > 0).collect();
    assert_eq!(kept, ["meta", "minute", "state", "endpoint"], "what is no part of an event's story stays");
}

#[tokio::test]
async fn a_corrupt_value_is_named_by_table_column_and_row() {
    let backing = Arc::new(SqliteBacking::empty());
    let bench = Bench::open(Arc::clone(&backing) as Arc<dyn Backing>).await;
    let id = finished_with_everything(&bench).await;
    let delivery = id.delivery(0);
    let crm = bench.store.endpoints().await.unwrap()[0].id;
    bench.store.create_key("ci".into(), Role::Read, [1; 32]).await.unwrap();
    let db = backing.raw();
    // Table, column, what it is set to, which row, and who reads it.
    let cases: [(&'static str, &'static str, &str, i64, Read); 13] = [
        ("event", "codec", "9", id.as_i64(), Read::Event),
        ("event", "source", "CAST(x'ff' AS TEXT)", id.as_i64(), Read::Event),
        ("event", "type", "'no type'", id.as_i64(), Read::Event),
        ("event", "type", "CAST(x'ff' AS TEXT)", id.as_i64(), Read::Event),
        ("event", "attributes", "'{'", id.as_i64(), Read::Event),
        ("event", "depth", "-1", id.as_i64(), Read::Event),
        ("run", "outcome", "'odd'", id.run(0).as_i64(), Read::Event),
        ("run", "log", "'{'", id.run(0).as_i64(), Read::Event),
        ("attempt", "outcome", "'odd'", delivery.attempt(1).as_i64(), Read::Event),
        ("endpoint", "policy", "'{'", crm.as_i64(), Read::Endpoints),
        ("endpoint", "sealed", "x'00'", crm.as_i64(), Read::Endpoints),
        ("endpoint", "state", "'odd'", crm.as_i64(), Read::Endpoints),
        ("api_key", "role", "'odd'", 1, Read::Keys),
    ];
    for (table, column, value, row, read) in cases {
        let before: rusqlite::types::Value =
            db.query_row(&format!("SELECT {column} FROM {table} WHERE id = ?1"), [row], |found| found.get(0)).unwrap();
        assert_eq!(db.execute(&format!("UPDATE {table} SET {column} = {value} WHERE id = ?1"), [row]).unwrap(), 1);
        let error = match read {
            Read::Event => bench.store.event(id).await.map(drop),
            Read::Endpoints => bench.store.endpoints().await.map(drop),
            Read::Keys => bench.store.keys().await.map(drop),
        };
        assert_eq!(error, Err(Error::Corrupt { table, column, id: row }), "{table}.{column} = {value}");
        db.execute(&format!("UPDATE {table} SET {column} = ?2 WHERE id = ?1"), rusqlite::params![row, before]).unwrap();
        bench.store.event(id).await.expect("it is as it was");
    }
}

#[derive(Clone, Copy)]
enum Read {
    Event,
    Endpoints,
    Keys,
}

#[tokio::test]
async fn a_newer_layout_is_refused() {
    let backing = SqliteBacking::empty();
    drop(backing.open(Handoff::default()).await);
    backing.raw().execute_batch("PRAGMA user_version = 99").unwrap();
    let refused = Sqlite::open(&backing.file(), backing.key_file(), Handoff::default()).map(drop);
    assert!(matches!(&refused, Err(Error::Unavailable(text)) if text.contains("99")), "{refused:?}");
}
