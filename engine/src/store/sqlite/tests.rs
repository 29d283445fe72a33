//! The conformance suite on SQLite, and tests of the parts that only SQLite has: its tables and its file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::Connection;

use super::{READERS, Sqlite};
use crate::{
    clock,
    domain::{
        delivery::{DeadReason, Next},
        event::EventState,
        id::EventId,
        job::{RetryFilter, Task},
        key::Role,
        name::Slug,
        retention::Retention,
        run::{Effects, RunOutcome},
    },
    store::{
        Accept as _, AdmissionLimits, Claims as _, DeliveryFilter, Endpoints as _, Error, EventFilter, Handoff, KeyFile,
        NewAudit, NewKey, PageRequest, PluginState as _, Proposal, READ_TIME_MAX, Settled, Settlement, Store, Story as _,
        StoryPlace, VersionLimits,
        conformance::{bench::*, conformance},
        story::LOOK,
    },
};

conformance!(conforms, SqliteBacking);

/// A file in a dedicated temporary folder. A crash is simulated by a copy of the file and its log, because a killed process leaves
/// just these behind.
pub struct SqliteBacking {
    folder: tempfile::TempDir,
    opened: Mutex<Vec<PathBuf>>,
}

impl SqliteBacking {
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        Self { folder, opened: Mutex::new(Vec::new()) }
    }

    /// Returns the file that was opened last.
    fn file(&self) -> PathBuf {
        self.opened.lock().unwrap().last().expect("it was opened").clone()
    }

    fn key_file(&self) -> KeyFile {
        KeyFile::at(self.folder.path().join("master.key"))
    }

    /// Opens a new store.
    fn store(&self) -> Sqlite {
        let file = self.folder.path().join("new.db");
        Sqlite::open(&file, self.key_file(), Handoff::default(), AdmissionLimits::default()).unwrap()
    }

    /// Opens a connection beside the store's connections.
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
        let store = Sqlite::open(&next, self.key_file(), handoff, AdmissionLimits::default()).unwrap();
        opened.push(next);
        Arc::new(store)
    }

    async fn refuse_poison(&self) {
        let trigger = "CREATE TRIGGER poison BEFORE INSERT ON event WHEN new.type = 'poison'
                       BEGIN SELECT raise(ABORT, 'the event is poison'); END";
        self.raw().execute_batch(trigger).unwrap();
    }

    async fn endpoint_rows(&self) -> u64 {
        count(&self.raw(), "endpoint").unsigned_abs()
    }

    async fn spoil(&self, event: EventId) {
        let changed = self.raw().execute("UPDATE event SET codec = 99 WHERE id = ?1", [event.as_i64()]).unwrap();
        assert_eq!(changed, 1, "the event exists");
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

/// Returns a finished event with every kind of stored row.
async fn finished_with_everything(bench: &Bench) -> EventId {
    let crm = bench.endpoint("crm").await;
    let claim = bench.accept(event_with_id("shop", "1")).await;
    let runs = vec![
        ran_with(
            "p",
            Effects {
                deliveries: vec![webhook(crm, "x"), webhook(crm, "y")],
                emitted: vec![emitted(&claim.event, "b")],
                state_use: state_use(&[], &[("k", Some(b"kept"))]),
                ..Effects::default()
            },
        ),
        parked("q", RunOutcome::Trapped),
    ];
    let settled = Settlement { runs, direct: vec![direct(crm)], ..settlement(&claim) };
    assert_eq!(bench.settle(settled).await, Settled::Done);
    for (delivery, next) in
        bench.deliveries().await.iter().zip([Next::Delivered, retry_in(60), Next::Dead(DeadReason::Exhausted)])
    {
        assert!(bench.record(attempt(delivery, next)).await);
    }
    let waits = DeliveryFilter { state: Some("retrying"), ..DeliveryFilter::default() };
    for id in bench.delivery_ids(waits).await {
        bench.store.cancel_delivery(id, clock::wall()).await.unwrap();
    }
    let follower = bench.event().await;
    assert_eq!(bench.settle(settlement(&follower)).await, Settled::Done);
    bench.store.replay_event(claim.event.id, clock::steady()).await.unwrap();
    bench.claim().await;
    let replay = bench.event().await;
    let settled = Settlement { runs: vec![parked("q", RunOutcome::Failed)], ..settlement(&replay) };
    assert_eq!(bench.settle(settled).await, Settled::Done);
    claim.event.id
}

fn count(db: &Connection, table: &str) -> i64 {
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn retention_deletes_an_event_from_every_table() {
    let backing = Arc::new(SqliteBacking::empty());
    let bench = Bench::open(Arc::clone(&backing) as Arc<dyn Backing>).await;
    finished_with_everything(&bench).await;
    let db = backing.raw();
    for table in ["event", "run", "run_queue", "delivery", "payload", "attempt", "unrouted", "replay", "dedup"] {
        assert!(count(&db, table) > 0, "the event has rows in {table}");
    }
    let now = clock::wall().plus(Duration::from_secs(32 * 24 * 3600));
    while bench.store.retire(Retention::default(), now).await.unwrap() > 0 {}
    let mut tables = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    let kept: Vec<&str> = tables.iter().map(String::as_str).filter(|table| count(&db, table) > 0).collect();
    assert_eq!(kept, ["meta", "state", "state_size", "endpoint"], "other tables keep their rows");
}

#[tokio::test]
async fn a_corrupt_value_is_named_by_table_column_and_row() {
    let backing = Arc::new(SqliteBacking::empty());
    let bench = Bench::open(Arc::clone(&backing) as Arc<dyn Backing>).await;
    let id = finished_with_everything(&bench).await;
    let delivery = id.delivery(0);
    let crm = bench.store.endpoints().await.unwrap()[0].id;
    let key = NewKey { name: "ci".into(), role: Role::Read, hash: [1; 32], ending: None, expires_at: None };
    bench.store.create_key(key).await.unwrap();
    let db = backing.raw();
    // Table, column, new value, row, and the read that must fail.
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
            Read::Event => bench.store.event(id, StoryPlace::default()).await.map(drop),
            Read::Endpoints => bench.store.endpoints().await.map(drop),
            Read::Keys => bench.store.keys().await.map(drop),
        };
        assert_eq!(error, Err(Error::Corrupt { table, column, id: row }), "{table}.{column} = {value}");
        db.execute(&format!("UPDATE {table} SET {column} = ?2 WHERE id = ?1"), rusqlite::params![row, before]).unwrap();
        bench.store.event(id, StoryPlace::default()).await.expect("the value is restored");
    }
}

#[derive(Clone, Copy)]
enum Read {
    Event,
    Endpoints,
    Keys,
}

#[tokio::test]
async fn a_page_of_events_that_sent_nothing_looks_at_a_limited_number_of_events() {
    let backing = Arc::new(SqliteBacking::empty());
    let bench = Bench::open(Arc::clone(&backing) as Arc<dyn Backing>).await;
    let [old, new] = [bench.settled_with(ran("p")).await, bench.settled_with(ran("p")).await];
    backing.raw().execute("UPDATE event SET id = id + ?1 WHERE id = ?2", [LOOK, new.as_i64()]).unwrap();
    let page = async |cursor| {
        let filter = EventFilter { state: Some(EventState::NothingSent), ..EventFilter::default() };
        let page = bench.store.events(filter, PageRequest { cursor, limit: 10 }).await.unwrap();
        (page.items.iter().map(|one| one.event.id.as_i64()).collect::<Vec<_>>(), page.next)
    };
    let (found, next) = page(None).await;
    assert_eq!(found, [new.as_i64() + LOOK]);
    assert!(next.is_some(), "older events were not looked at");
    assert_eq!(page(next).await, (vec![old.as_i64()], None));
}

#[tokio::test]
async fn a_newer_layout_is_refused() {
    let backing = SqliteBacking::empty();
    drop(backing.open(Handoff::default()).await);
    backing.raw().execute_batch("PRAGMA user_version = 99").unwrap();
    let refused = Sqlite::open(&backing.file(), backing.key_file(), Handoff::default(), AdmissionLimits::default()).map(drop);
    assert!(matches!(&refused, Err(Error::Unavailable(text)) if text.contains("99")), "{refused:?}");
}

/// Returns a store with every kind of row, on this file.
async fn full_store(backing: &Arc<SqliteBacking>) -> Bench {
    let bench = Bench::open(Arc::clone(backing) as Arc<dyn Backing>).await;
    finished_with_everything(&bench).await;
    let slack = bench.endpoint("slack").await;
    bench.finished(slack, retry_in(3600)).await;
    bench.finished(slack, Next::Dead(DeadReason::Gone)).await;
    bench.settled_with(waiting("p", soon(3600))).await;
    bench.accept(event("a")).await;
    bench.store.publish(new_version("p", "1"), Proposal::Serve, VersionLimits::default()).await.unwrap();
    let key = NewKey { name: "ci".into(), role: Role::Read, hash: [1; 32], ending: None, expires_at: Some(clock::wall()) };
    bench.store.create_key(key).await.unwrap();
    let entry = NewAudit { at: clock::wall(), key: "ci".into(), action: "key.create".into(), target: None };
    bench.store.begin_audit(entry).await.unwrap();
    bench.store.create_job(Task::RetryDeliveries(RetryFilter::default()), clock::wall()).await.unwrap();
    bench
}

#[tokio::test]
async fn a_check_of_a_sound_store_finds_nothing_and_changes_nothing() {
    let backing = Arc::new(SqliteBacking::empty());
    drop(full_store(&backing).await);
    let before = fs::read(backing.file()).unwrap();
    let report = Sqlite::check(&backing.file(), &backing.key_file()).unwrap();
    assert_eq!(report.findings, []);
    let count = |what: &str| report.counts.iter().find(|(name, _)| name == what).map(|(_, count)| *count);
    let expected = [
        ("events", 6),
        ("events to be run", 1),
        ("deliveries retrying", 1),
        ("deliveries dead", 2),
        ("endpoints", 2),
        ("jobs running", 1),
    ];
    for (what, number) in expected {
        assert_eq!(count(what), Some(number), "{what}: {:?}", report.counts);
    }
    assert_eq!(fs::read(backing.file()).unwrap(), before);
}

#[tokio::test]
async fn a_check_names_each_damage() {
    let backing = Arc::new(SqliteBacking::empty());
    drop(full_store(&backing).await);
    let sound = backing.file();
    let cases: [(&str, &str); 18] = [
        ("UPDATE event SET type = 'no type' WHERE id = 1", "table event, column type: a value that cannot be read"),
        ("UPDATE run SET outcome = 'odd'", "table run, column outcome: a value that cannot be read"),
        ("UPDATE run_queue SET outcome = 'odd'", "table run_queue, column outcome: a value that cannot be read"),
        ("UPDATE delivery SET reason = 'odd' WHERE state = 'dead'", "table delivery, column reason: a value that cannot be read"),
        (
            "UPDATE delivery SET state = 'cancelled', reason = NULL, cancel_reason = 'odd'",
            "table delivery, column cancel_reason: a value that cannot be read",
        ),
        ("UPDATE attempt SET sent = '{}'", "table attempt, column sent: a value that cannot be read"),
        ("UPDATE payload SET codec = 9", "table payload, column codec: a value that cannot be read"),
        ("UPDATE attempt SET outcome = 'odd'", "table attempt, column outcome: a value that cannot be read"),
        ("UPDATE plugin SET patterns = '{'", "table plugin, column patterns: a value that cannot be read"),
        ("UPDATE state SET plugin = 'No Slug'", "table state, column plugin: a value that cannot be read"),
        ("UPDATE api_key SET role = 'odd'", "table api_key, column role: a value that cannot be read"),
        ("UPDATE job SET filter = '{}'", "table job, column filter: a value that cannot be read"),
        (
            "UPDATE endpoint SET sealed = zeroblob(99) WHERE name = 'crm'",
            "table endpoint, column sealed: a value that cannot be read",
        ),
        ("UPDATE meta SET value = 'x' WHERE key = 'tag'", "the store's tag, the prefix of all its ids, cannot be read"),
        ("UPDATE live SET endpoint = 99", "a delivery waits but its endpoint does not exist"),
        (
            "INSERT INTO delivery SELECT id, endpoint, round, 'delivered', NULL, attempts, 0, NULL FROM live",
            "a delivery is both waiting and finished",
        ),
        ("DELETE FROM event WHERE id IN (SELECT id FROM event_queue)", "an event waits to be run but does not exist"),
        (
            "INSERT INTO live (id, endpoint, round, attempts, next_at) VALUES (999 << 14, 1, 0, 0, 0)",
            "a delivery waits but its event does not exist",
        ),
    ];
    for (damage, finding) in cases {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("damaged.db");
        copy(&sound, &file);
        assert!(Connection::open(&file).unwrap().execute(damage, []).unwrap() > 0, "{damage} changes something");
        let report = Sqlite::check(&file, &backing.key_file()).unwrap();
        assert_eq!(report.kinds(), [finding].into(), "{damage}: {:?}", report.findings);
        assert!(report.findings[0].count > 0);
    }
}

#[tokio::test]
async fn a_check_sees_a_damaged_file_a_wrong_key_and_another_layout() {
    let backing = Arc::new(SqliteBacking::empty());
    drop(full_store(&backing).await);
    // No process has the file open. After the checkpoint, all data is in this one file.
    backing.raw().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let folder = tempfile::tempdir().unwrap();

    let mut bytes = fs::read(backing.file()).unwrap();
    let db = backing.raw();
    let page: u32 = db.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'event'", [], |row| row.get(0)).unwrap();
    drop(db);
    bytes[(page as usize - 1) * 4096..page as usize * 4096].fill(0xa5);
    let file = folder.path().join("damaged.db");
    fs::write(&file, bytes).unwrap();
    let report = Sqlite::check(&file, &backing.key_file()).unwrap();
    assert!(report.kinds().iter().any(|what| what.contains("damaged")), "{:?}", report.findings);

    let key_file = KeyFile::at(folder.path().join("master.key"));
    let report = Sqlite::check(&backing.file(), &key_file).unwrap();
    assert!(report.kinds().iter().any(|what| what.contains("master key")), "{:?}", report.findings);
    assert!(!key_file.path().exists(), "a check makes no key");

    backing.raw().execute_batch("PRAGMA user_version = 1").unwrap();
    let report = Sqlite::check(&backing.file(), &backing.key_file()).unwrap();
    assert!(report.kinds().iter().any(|what| what.contains("version 1")), "{:?}", report.findings);
}

#[tokio::test]
async fn a_copy_is_whole_and_private_and_issues_other_ids() {
    use std::os::unix::fs::PermissionsExt as _;

    let backing = Arc::new(SqliteBacking::empty());
    let bench = full_store(&backing).await;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    let backup = Sqlite::backup(&backing.file(), &copy).unwrap();
    assert_eq!((backup.events, backup.bytes), (6, fs::metadata(&copy).unwrap().len()));
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["copy.db"], "the copy is one file, and no draft is left");
    assert_eq!(Sqlite::check(&copy, &backing.key_file()).unwrap().findings, []);

    let before = fs::read(&copy).unwrap();
    let refused = Sqlite::backup(&backing.file(), &copy).map(drop);
    assert!(matches!(&refused, Err(Error::Taken { name, .. }) if name.ends_with("copy.db")), "{refused:?}");
    assert_eq!(fs::read(&copy).unwrap(), before, "an existing file is not overwritten");
    let missing = folder.path().join("nowhere").join("copy.db");
    assert!(Sqlite::backup(&backing.file(), &missing).is_err());
    assert!(Sqlite::backup(&folder.path().join("nothing.db"), &folder.path().join("b.db")).is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a backup that fails leaves nothing");

    let original = bench.accept(event("a")).await.event.id;
    let events = bench.event_ids(EventFilter::default()).await;
    let restored = Sqlite::open(&copy, backing.key_file(), Handoff::default(), AdmissionLimits::default()).unwrap();
    assert_eq!(restored.tag(), bench.store.tag(), "ids issued before the copy stay valid");
    let page = restored.events(EventFilter::default(), PageRequest { cursor: None, limit: 50 }).await.unwrap();
    let kept: Vec<_> = page.items.iter().map(|summary| summary.event.id).collect();
    assert_eq!(kept, events[1..], "all but the event accepted after the copy");
    let new = restored.accept(vec![event("a")]).await.unwrap()[0].id();
    assert!(new.as_i64() >= original.as_i64() + 999_999_000, "{new:?} after {original:?}");
}

#[tokio::test]
async fn a_copy_is_taken_of_a_store_that_was_killed() {
    let backing = Arc::new(SqliteBacking::empty());
    let bench = full_store(&backing).await;
    // The copy has what a killed process leaves behind: the file and its log, without the index of the log.
    let crashed = bench.after_a_crash().await;
    let (folder, killed) = (tempfile::tempdir().unwrap(), backing.file());
    drop(crashed);
    let file = folder.path().join("killed.db");
    copy(&backing.opened.lock().unwrap()[0], &file);
    assert!(file.with_extension("db-wal").metadata().unwrap().len() > 0 && killed.exists());
    let backup = Sqlite::backup(&file, &folder.path().join("copy.db")).unwrap();
    assert_eq!(backup.events, 6);
    assert!(file.with_extension("db-wal").metadata().unwrap().len() > 0, "the copy leaves the log as it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_for_the_api_ends_after_its_time_limit() {
    let backing = SqliteBacking::empty();
    let store = backing.store();
    let endless = |db: &Connection| -> Result<i64, Error> {
        let sql = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT max(n) FROM n";
        Ok(db.query_row(sql, [], |row| row.get(0))?)
    };
    // Makes one read more than there are connections, so that a connection that timed out is used again.
    for _ in 0..READERS + 1 {
        let broken_off = store.readers.read(Some(Duration::from_millis(1)), endless).await;
        assert_eq!(broken_off, Err(Error::TooSlow(READ_TIME_MAX)));
    }
    let long = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 300000) SELECT max(n) FROM n";
    let counted: i64 = store.readers.read(None, move |db| Ok(db.query_row(long, [], |row| row.get(0))?)).await.unwrap();
    assert_eq!(counted, 300_000, "the read that timed out has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_for_the_api_delay_neither_plugins_state_nor_the_engine() {
    let backing = SqliteBacking::empty();
    let store = Arc::new(backing.store());
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let (ends, mut held) = (Arc::new(Mutex::new(ends)), tokio::task::JoinSet::new());
    for _ in 0..3 * READERS {
        let (store, ends) = (Arc::clone(&store), Arc::clone(&ends));
        // These reads end only when the senders are dropped.
        let reads = move |_: &Connection| Ok(ends.lock().unwrap().recv().is_err());
        held.spawn(async move { assert!(store.read_for_people(reads).await.unwrap()) });
    }
    let plugin = Slug::parse("p").unwrap();
    assert_eq!(store.read_state(&plugin, "k").await.unwrap(), None);
    assert_eq!(store.next_due(clock::steady()).await.unwrap(), None);
    assert!(store.endpoints().await.unwrap().is_empty());
    assert!(held.try_join_next().is_none(), "all connections for the API are still reading");
    drop(end);
    while let Some(read) = held.join_next().await {
        read.unwrap();
    }
}
