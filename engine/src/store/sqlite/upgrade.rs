//! Brings a file to this engine's layout: creates the tables, or upgrades an older layout step by step, one transaction per step.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows;
use crate::{
    domain::id::Tag,
    random,
    store::{Error, KeyFile, Seal},
};

/// The layout that this engine reads and writes.
pub const LAYOUT: i64 = 8;

/// The upgrade steps from layout 2 on. Each step leads to the next layout.
const STEPS: [&str; 6] = [
    include_str!("upgrade_3.sql"),
    include_str!("upgrade_4.sql"),
    include_str!("upgrade_5.sql"),
    include_str!("upgrade_6.sql"),
    include_str!("upgrade_7.sql"),
    include_str!("upgrade_8.sql"),
];

/// Upgrades the store. Returns its tag and the key under which its secrets are sealed.
pub fn upgrade(db: &Connection, key_file: &KeyFile) -> Result<(Tag, Seal), Error> {
    let layout: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if layout > LAYOUT {
        let text = format!("its layout is version {layout}, this engine knows {LAYOUT}; upgrade the engine");
        return Err(Error::Unavailable(text));
    }
    let mark: Option<Vec<u8>> = match layout {
        0 | 1 => None,
        _ => db.query_row("SELECT value FROM meta WHERE key = 'seal'", [], |row| row.get(0)).optional()?,
    };
    let seal = key_file.open(mark.as_deref())?;
    match layout {
        0 => step(db, || {
            db.execute_batch(include_str!("schema.sql"))?;
            db.execute("INSERT INTO meta (key, value) VALUES ('tag', ?1)", [Tag::from_random(random::bytes()?).as_str()])?;
            Ok(())
        })?,
        1 => {
            // Secrets that were stored unencrypted must not stay behind in free pages.
            db.execute_batch("PRAGMA secure_delete = ON")?;
            step(db, || {
                seal_endpoints(db, &seal)?;
                db.execute_batch(include_str!("upgrade_2.sql"))?;
                take_steps(db, 2)
            })?;
            db.execute_batch("PRAGMA secure_delete = OFF; PRAGMA wal_checkpoint(TRUNCATE)")?;
            tracing::info!(layout = LAYOUT, "store upgraded to a newer layout; its secrets are now encrypted");
        }
        2..LAYOUT => {
            step(db, || take_steps(db, layout))?;
            tracing::info!(layout = LAYOUT, "store upgraded to a newer layout");
        }
        _ => {}
    }
    if mark.is_none() {
        db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('seal', ?1)", [seal.mark()?])?;
    }
    let tag: String = db.query_row("SELECT value FROM meta WHERE key = 'tag'", [], |row| row.get(0))?;
    Ok((Tag::parse(&tag).ok_or(Error::Corrupt { table: "meta", column: "value", id: 0 })?, seal))
}

/// Runs the upgrade steps from this layout to the newest one.
fn take_steps(db: &Connection, layout: i64) -> Result<(), Error> {
    let done = usize::try_from(layout - 2).expect("steps begin at layout 2");
    Ok(STEPS[done..].iter().try_for_each(|sql| db.execute_batch(sql))?)
}

/// Runs one step in a transaction.
fn step(db: &Connection, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    let done = work().and_then(|()| Ok(db.execute_batch(&format!("PRAGMA user_version = {LAYOUT}; COMMIT"))?));
    if done.is_err() {
        // If this fails too, closing the connection ends the transaction.
        let _ = db.execute_batch("ROLLBACK");
    }
    done
}

/// Seals the secrets and headers that layout 1 stored unencrypted.
fn seal_endpoints(db: &Connection, seal: &Seal) -> Result<(), Error> {
    db.execute_batch(
        "ALTER TABLE endpoint ADD COLUMN policy TEXT NOT NULL DEFAULT '{}';
         ALTER TABLE endpoint ADD COLUMN sealed BLOB;
         ALTER TABLE endpoint ADD COLUMN failing_since INTEGER;",
    )?;
    let mut select =
        db.prepare("SELECT id, name, secrets, headers, timeout_ms, schedule FROM endpoint WHERE deleted_at IS NULL")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)))?;
    for row in rows.collect::<Result<Vec<(i64, String, String, String, i64, Option<String>)>, _>>()? {
        let (id, name, secrets, headers, timeout, schedule) = row;
        let timeout = Duration::from_millis(timeout.unsigned_abs());
        let (policy, sealed) = rows::endpoint_of_layout_1(id, &name, &secrets, &headers, timeout, schedule.as_deref(), seal)?;
        db.execute("UPDATE endpoint SET policy = ?1, sealed = ?2 WHERE id = ?3", params![policy, sealed, id])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        domain::signature::Scheme,
        store::{AdmissionLimits, Endpoints as _, Handoff, PluginState as _, Sources as _, Sqlite, Story as _},
    };

    /// Returns every table's columns, and every index and trigger, as SQLite reports them.
    fn layout(db: &Connection) -> Vec<String> {
        let mut select = db
            .prepare(
                "SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || coalesce(c.dflt_value, '') || ' ' || c.pk
                 FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%'
                 UNION ALL SELECT sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY 1",
            )
            .unwrap();
        select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[tokio::test]
    async fn upgrades_layout_1_and_removes_clear_secrets_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (folder.path().join("old.db"), KeyFile::at(folder.path().join("master.key")));
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let old = Connection::open(&file).unwrap();
        old.execute_batch(include_str!("testdata/layout_1.sql")).unwrap();
        old.execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             INSERT INTO meta VALUES ('tag', '4hjq');
             INSERT INTO endpoint VALUES (1, 'crm', NULL, 'https://crm.example/', '[\"order.*\"]', '[]', NULL, 'v1',
                 '[[\"{secret}\",null]]', 5000, '[[\"authorization\",\"Bearer clear-text\"]]', '[0,5000]', 'active', 1, NULL);
             INSERT INTO live VALUES (4194304, 1, 0, 0, 0, NULL);
             PRAGMA user_version = 1;",
        ))
        .unwrap();
        drop(old);

        let store = Sqlite::open(&file, key.clone(), Handoff::default(), AdmissionLimits::default()).unwrap();
        let endpoints = store.endpoints().await.unwrap();
        let crm = &endpoints[0].new;
        assert_eq!((crm.secrets[0].secret.reveal().as_str(), crm.scheme), (secret, Scheme::V1));
        assert_eq!(crm.policy.headers, [("authorization".to_owned(), "Bearer clear-text".to_owned())]);
        assert_eq!((crm.policy.timeout, crm.policy.schedule.as_ref().unwrap().waits().len()), (Duration::from_secs(5), 2));
        drop(store);
        for path in fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()) {
            // The log is deleted with the last connection to the file.
            let Ok(bytes) = fs::read(&path) else { continue };
            let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!has(&secret[6..]) && !has("clear-text"), "{} still holds a secret", path.display());
        }

        let fresh = folder.path().join("new.db");
        drop(Sqlite::open(&fresh, key, Handoff::default(), AdmissionLimits::default()).unwrap());
        assert_eq!(layout(&Connection::open(&file).unwrap()), layout(&Connection::open(&fresh).unwrap()));
    }

    #[tokio::test]
    async fn upgrades_layout_2_with_its_events() {
        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (folder.path().join("old.db"), KeyFile::at(folder.path().join("master.key")));
        let mark = key.open(None).unwrap().mark().unwrap();
        let old = Connection::open(&file).unwrap();
        old.execute_batch(include_str!("testdata/layout_2.sql")).unwrap();
        old.execute_batch(
            "INSERT INTO meta VALUES ('tag', '4hjq');
             INSERT INTO event (id, accepted_at, source, type, content_type, depth, codec, data)
                 VALUES (1, 970000, 'shop', 'order.created', 'application/json', 0, 0, x'7b7d');
             INSERT INTO event_queue (id, round, next_at, lease) VALUES (1, 0, 0, NULL);
             PRAGMA user_version = 2;",
        )
        .unwrap();
        old.execute("INSERT INTO meta VALUES ('seal', ?1)", [mark]).unwrap();
        drop(old);

        let store = Sqlite::open(&file, key.clone(), Handoff::default(), AdmissionLimits::default()).unwrap();
        let story = store.event(crate::domain::id::EventId::from_i64(1), crate::store::StoryPlace::default()).await.unwrap();
        assert_eq!((&story.event.new.content.bytes()[..], &story.event.new.request), (&b"{}"[..], &None));
        assert!(store.sources().await.unwrap().is_empty());
        drop(store);
        let fresh = folder.path().join("new.db");
        drop(Sqlite::open(&fresh, key, Handoff::default(), AdmissionLimits::default()).unwrap());
        assert_eq!(layout(&Connection::open(&file).unwrap()), layout(&Connection::open(&fresh).unwrap()));
    }

    #[tokio::test]
    async fn upgrades_layout_4_without_what_it_did_not_record() {
        use crate::domain::{delivery::DeliveryState, id::DeliveryId};

        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (folder.path().join("old.db"), KeyFile::at(folder.path().join("master.key")));
        let mark = key.open(None).unwrap().mark().unwrap();
        let old = Connection::open(&file).unwrap();
        for sql in [include_str!("testdata/layout_2.sql"), include_str!("upgrade_3.sql"), include_str!("upgrade_4.sql")] {
            old.execute_batch(sql).unwrap();
        }
        old.execute_batch(
            "INSERT INTO meta VALUES ('tag', '4hjq');
             INSERT INTO event (id, accepted_at, source, type, content_type, depth, codec, data)
                 VALUES (1, 5, 's', 'a.b', 'text/plain', 0, 0, x'61');
             INSERT INTO delivery (id, endpoint, round, state, reason, attempts, at) VALUES (16384, 1, 0, 'cancelled', NULL, 1, 7);
             INSERT INTO payload (id, type, content_type, headers, codec, body) VALUES (16384, NULL, 'text/plain', NULL, 0, x'62');
             INSERT INTO attempt (id, at, outcome, status, latency_us, detail, excerpt, retry_after_ms)
                 VALUES (4194305, 6, 'answered', 500, 1, NULL, x'', NULL);
             PRAGMA user_version = 4;",
        )
        .unwrap();
        old.execute("INSERT INTO meta VALUES ('seal', ?1)", [mark]).unwrap();
        drop(old);

        let store = Sqlite::open(&file, key.clone(), Handoff::default(), AdmissionLimits::default()).unwrap();
        let whole = store.whole_delivery(DeliveryId::from_i64(16384)).await.unwrap();
        assert_eq!(
            whole.story.summary.state,
            DeliveryState::Cancelled { at: crate::domain::time::Timestamp::from_millis(7), reason: None }
        );
        assert_eq!((whole.story.summary.run, whole.payload.map(|payload| payload.body)), (None, Some("b".into())));
        assert_eq!(whole.story.attempts.iter().map(|one| one.sent.clone()).collect::<Vec<_>>(), [None]);
        drop(store);
        let fresh = folder.path().join("new.db");
        drop(Sqlite::open(&fresh, key, Handoff::default(), AdmissionLimits::default()).unwrap());
        assert_eq!(layout(&Connection::open(&file).unwrap()), layout(&Connection::open(&fresh).unwrap()));
    }

    #[tokio::test]
    async fn upgrades_layout_3_and_counts_its_state() {
        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (folder.path().join("old.db"), KeyFile::at(folder.path().join("master.key")));
        let mark = key.open(None).unwrap().mark().unwrap();
        let old = Connection::open(&file).unwrap();
        old.execute_batch(include_str!("testdata/layout_2.sql")).unwrap();
        old.execute_batch(include_str!("upgrade_3.sql")).unwrap();
        old.execute_batch(
            "INSERT INTO meta VALUES ('tag', '4hjq');
             INSERT INTO state VALUES ('p', 'é', x'0102', 5), ('p', 'b', x'', 6), ('q', 'a', x'01', 7);
             PRAGMA user_version = 3;",
        )
        .unwrap();
        old.execute("INSERT INTO meta VALUES ('seal', ?1)", [mark]).unwrap();
        drop(old);

        let store = Sqlite::open(&file, key.clone(), Handoff::default(), AdmissionLimits::default()).unwrap();
        let slug = |name| crate::domain::name::Slug::parse(name).unwrap();
        for (plugin, keys, bytes) in [("p", 2, 5), ("q", 1, 2), ("r", 0, 0)] {
            let size = store.state_size(&slug(plugin)).await.unwrap();
            assert_eq!(size, crate::store::StateSize { keys, bytes }, "{plugin}");
        }
        assert_eq!(store.clear_state(&slug("p")).await.unwrap(), 2);
        assert_eq!(store.state_size(&slug("p")).await.unwrap(), crate::store::StateSize::default());
        drop(store);
        let fresh = folder.path().join("new.db");
        drop(Sqlite::open(&fresh, key, Handoff::default(), AdmissionLimits::default()).unwrap());
        assert_eq!(layout(&Connection::open(&file).unwrap()), layout(&Connection::open(&fresh).unwrap()));
    }

    #[tokio::test]
    async fn upgrades_layout_5_and_keeps_settings_and_the_audit_trail() {
        use crate::store::{Audit as _, Plugins as _};

        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (folder.path().join("old.db"), KeyFile::at(folder.path().join("master.key")));
        let mark = key.open(None).unwrap().mark().unwrap();
        let old = Connection::open(&file).unwrap();
        for sql in [include_str!("testdata/layout_2.sql")].iter().chain(&STEPS[..3]) {
            old.execute_batch(sql).unwrap();
        }
        old.execute_batch(
            "INSERT INTO meta VALUES ('tag', '4hjq');
             INSERT INTO plugin VALUES ('p', zeroblob(32), '1', '', '[]', 'p.wasm', 1, '{\"limit\":\"7\"}');
             INSERT INTO audit (at, key, action, target, status) VALUES (5, 'ops', 'plugin.config.update', 'p', 200);
             PRAGMA user_version = 5;",
        )
        .unwrap();
        old.execute("INSERT INTO meta VALUES ('seal', ?1)", [mark]).unwrap();
        drop(old);

        let store = Sqlite::open(&file, key.clone(), Handoff::default(), AdmissionLimits::default()).unwrap();
        let found = store.plugin_config(&crate::domain::name::Slug::parse("p").unwrap()).await.unwrap();
        assert_eq!((found.config["limit"].as_str(), found.revisions.len()), ("7", 1), "they become revision 1");
        assert_eq!(found.revisions[0].author, "upgrade");
        let request = crate::store::PageRequest { cursor: None, limit: 9 };
        let trail = store.audit(crate::store::AuditFilter::default(), request).await.unwrap();
        assert_eq!(trail.items.iter().map(|entry| entry.members.clone()).collect::<Vec<_>>(), [Vec::<String>::new()]);
        drop(store);
        let fresh = folder.path().join("new.db");
        drop(Sqlite::open(&fresh, key, Handoff::default(), AdmissionLimits::default()).unwrap());
        assert_eq!(layout(&Connection::open(&file).unwrap()), layout(&Connection::open(&fresh).unwrap()));
    }
}
