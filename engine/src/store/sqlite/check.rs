//! Checks a store that no engine uses: the file itself, whether every row can be read, and the invariants between rows.

use std::{path::Path, sync::Arc};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row};

use super::{
    Sqlite, connect,
    rows::{self, ATTEMPT_COLUMNS, ENDPOINT_COLUMNS, Place, WHOLE_EVENT_COLUMNS},
    scheduled, sources, story,
    upgrade::LAYOUT,
};
use crate::{
    domain::{id::Tag, name::Slug, run::RunOutcome, stats::Cell, time::Timestamp},
    store::{
        AuditEntry, Error, KeyFile, KeyRow, PluginConfig, PluginRow, PluginVersion, Seal, columns::ended, comparisons,
        jobs::StoredJob, stats,
    },
};

/// Maximum number of places that one finding lists. Further places are only counted.
const EXAMPLES_MAX: usize = 5;
/// Maximum number of SQLite's complaints about the file that are read.
const COMPLAINTS_MAX: u32 = 100;

/// Result of a check.
#[derive(Debug)]
pub struct CheckReport {
    pub layout: i64,
    /// Counts of things, in the order of the report.
    pub counts: Vec<(String, u64)>,
    /// Violations that were found.
    pub findings: Vec<Finding>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    /// Number of places.
    pub count: u64,
    /// The first few places.
    pub examples: Vec<String>,
}

impl Sqlite {
    /// Reads everything in `file` and reports counts and violations. Changes nothing. Blocks the calling thread.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn check(file: &Path, key_file: &KeyFile) -> Result<CheckReport, Error> {
        let db = connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        // One snapshot, in case another process uses the file.
        let moment = db.unchecked_transaction()?;
        let layout: i64 = moment.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let mut check = Check { db: &moment, counts: Vec::new(), findings: Vec::new() };
        check.file();
        if layout == LAYOUT {
            check.tag();
            check.rows();
            check.endpoints(key_file);
            check.between_rows();
            check.counts();
        } else {
            check.note(format!("its layout is version {layout}, but this program checks version {LAYOUT}; an engine of this version upgrades an older store when it starts"));
        }
        Ok(CheckReport { layout, counts: check.counts, findings: check.findings })
    }
}

struct Check<'a> {
    db: &'a Connection,
    counts: Vec<(String, u64)>,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn note(&mut self, what: impl Into<String>) {
        self.note_at(what, None);
    }

    /// Adds a finding at this place. Findings with the same text share one entry.
    fn note_at(&mut self, what: impl Into<String>, place: Option<String>) {
        let what = what.into();
        let found = match self.findings.iter_mut().position(|finding| finding.what == what) {
            Some(known) => &mut self.findings[known],
            None => {
                self.findings.push(Finding { what, count: 0, examples: Vec::new() });
                self.findings.last_mut().expect("one was just added")
            }
        };
        found.count += 1;
        if found.examples.len() < EXAMPLES_MAX {
            found.examples.extend(place);
        }
    }

    /// Records the error of a step, if it failed.
    fn noted<T>(&mut self, looking_at: &str, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Error::Corrupt { table, column, id }) => {
                self.note_at(format!("table {table}, column {column}: a value that cannot be read"), Some(format!("row {id}")));
                None
            }
            Err(error) => {
                self.note(format!("{looking_at} cannot be read: {error}"));
                None
            }
        }
    }

    fn file(&mut self) {
        let complaints = || -> Result<Vec<String>, Error> {
            let mut select = self.db.prepare(&format!("PRAGMA integrity_check({COMPLAINTS_MAX})"))?;
            let rows = select.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        match complaints() {
            Ok(lines) => lines.into_iter().filter(|line| line != "ok").for_each(|line| {
                self.note_at("the file is damaged", Some(line));
            }),
            Err(error) => self.note(format!("the file is damaged: {error}")),
        }
    }

    fn tag(&mut self) {
        let tag = self.db.query_row("SELECT value FROM meta WHERE key = 'tag'", [], |row| row.get::<_, String>(0));
        if tag.ok().is_none_or(|tag| Tag::parse(&tag).is_none()) {
            self.note("the store's tag, the prefix of all its ids, cannot be read");
        }
    }

    /// Reads every row as the engine would.
    fn rows(&mut self) {
        self.each("event", &format!("SELECT {WHOLE_EVENT_COLUMNS} FROM event e"), |row| rows::whole_event(row).map(drop));
        self.each("scheduled", &scheduled::all(), |row| scheduled::read(row).map(drop));
        self.each("run", &story::whole_runs(), |row| story::read_run(row).map(drop));
        self.each("run_queue", "SELECT id, plugin, outcome FROM run_queue", |row| {
            let place = Place { table: "run_queue", id: row.get(0)? };
            Slug::parse(&row.get::<_, String>(1)?).map_err(|_| place.corrupt("plugin"))?;
            match row.get::<_, Option<String>>(2)?.map(|text| RunOutcome::parse(&text)) {
                Some(None) => Err(place.corrupt("outcome")),
                _ => Ok(()),
            }
        });
        self.each("delivery", "SELECT id, state, reason, cancel_reason FROM delivery", |row| {
            let place = Place { table: "delivery", id: row.get(0)? };
            let text = |column: usize| row.get::<_, Option<String>>(column);
            let (state, reason, cancelled) = (text(1)?.unwrap_or_default(), text(2)?, text(3)?);
            ended(&place, Timestamp::from_millis(0), &state, reason.as_deref(), cancelled.as_deref()).map(drop)
        });
        let db = self.db;
        self.each("payload", "SELECT id FROM payload", |row| rows::load_payload(db, row.get(0)?).map(drop));
        self.each("attempt", &format!("SELECT {ATTEMPT_COLUMNS} FROM attempt"), |row| rows::attempt(row, 0).map(drop));
        self.each("plugin", &format!("SELECT {} FROM plugin", PluginRow::COLUMNS), |row| PluginRow::read(row).map(drop));
        let revisions = format!("SELECT {} FROM plugin_config", PluginConfig::COLUMNS);
        let versions = format!("SELECT {} FROM plugin_version", PluginVersion::COLUMNS);
        self.each("plugin_version", &versions, |row| PluginVersion::read(row).map(drop));
        self.each("plugin_config", &revisions, |row| PluginConfig::read_revision(row).map(drop));
        self.each("state", "SELECT plugin FROM state", |row| {
            let parsed = Slug::parse(&row.get::<_, String>(0)?);
            parsed.map(drop).map_err(|_| Place { table: "state", id: 0 }.corrupt("plugin"))
        });
        self.each("api_key", &format!("SELECT {} FROM api_key", KeyRow::COLUMNS), |row| KeyRow::read(row).map(drop));
        self.each("audit", &format!("SELECT {} FROM audit", AuditEntry::COLUMNS), |row| AuditEntry::read(row).map(drop));
        self.each("comparison", &format!("SELECT {} FROM comparison", comparisons::COLUMNS), |row| {
            comparisons::read(row).map(drop)
        });
        self.each("stats", "SELECT about, sheet, cells, cell FROM stats", |row| {
            let cell = if row.get::<_, i64>(3)? == Cell::Minute.millis() { Cell::Minute } else { Cell::Hour };
            stats::read(&row.get::<_, String>(0)?, cell, row.get(1)?, &row.get::<_, String>(2)?).map(drop)
        });
        self.each("job", &format!("SELECT {} FROM job", StoredJob::COLUMNS), |row| StoredJob::read(row).map(drop));
    }

    fn each(&mut self, table: &str, sql: &str, read: impl Fn(&Row<'_>) -> Result<(), Error>) {
        let db = self.db;
        let mut walk = || -> Result<(), Error> {
            let mut select = db.prepare(sql)?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                self.noted(&format!("a row of table {table}"), read(row));
            }
            Ok(())
        };
        let walked = walk();
        self.noted(&format!("table {table}"), walked);
    }

    /// Reads endpoints and sources. This needs the master key. If the key is missing, that is reported as a finding.
    fn endpoints(&mut self, key_file: &KeyFile) {
        let mark = self.db.query_row("SELECT value FROM meta WHERE key = 'seal'", [], |row| row.get::<_, Vec<u8>>(0));
        let seal: Result<Option<Seal>, Error> =
            mark.optional().map_err(Error::from).and_then(|mark| Ok(mark.map(|mark| key_file.open(Some(&mark))).transpose()?));
        let seal = match seal {
            Ok(Some(seal)) => seal,
            Ok(None) => return self.note("the mark that identifies the store's master key is missing"),
            Err(error) => return self.note(error.to_string()),
        };
        let seals = [Arc::new(seal)];
        self.each("endpoint", &format!("SELECT {ENDPOINT_COLUMNS} FROM endpoint WHERE deleted_at IS NULL"), |row| {
            rows::endpoint(row, &seals).map(drop)
        });
        self.each("source", &format!("SELECT {} FROM source", sources::SOURCE_COLUMNS), |row| {
            sources::source(row, &seals).map(drop)
        });
    }

    fn between_rows(&mut self) {
        const RULES: &[(&str, &str)] = &[
            (
                "an event waits to be run but does not exist",
                "SELECT id FROM event_queue q WHERE NOT EXISTS (SELECT 1 FROM event e WHERE e.id = q.id)",
            ),
            (
                "a scheduled event waits but the event that caused it does not exist",
                "SELECT id FROM scheduled s WHERE NOT EXISTS (SELECT 1 FROM event e WHERE e.id = s.id >> 14)",
            ),
            (
                "a run waits but its event does not exist",
                "SELECT id FROM run_queue q WHERE NOT EXISTS (SELECT 1 FROM event e WHERE e.id = q.id >> 14)",
            ),
            (
                "a run waits but has no row in its table",
                "SELECT id FROM run_queue q WHERE NOT EXISTS (SELECT 1 FROM run r WHERE r.id = q.id)",
            ),
            (
                "a delivery waits but its event does not exist",
                "SELECT id FROM live l WHERE NOT EXISTS (SELECT 1 FROM event e WHERE e.id = l.id >> 14)",
            ),
            (
                "a delivery waits but its endpoint does not exist",
                "SELECT id FROM live l WHERE NOT EXISTS (SELECT 1 FROM endpoint e WHERE e.id = l.endpoint)",
            ),
            (
                "a delivery is both waiting and finished",
                "SELECT id FROM live l WHERE EXISTS (SELECT 1 FROM delivery d WHERE d.id = l.id)",
            ),
            (
                "a delivery is finished but its event does not exist",
                "SELECT id FROM delivery d WHERE NOT EXISTS (SELECT 1 FROM event e WHERE e.id = d.id >> 14)",
            ),
            (
                "a run is stored but its event does not exist",
                "SELECT id FROM run r WHERE NOT EXISTS (SELECT 1 FROM event e WHERE e.id = r.id >> 14)",
            ),
            (
                "a webhook's content belongs to no delivery",
                "SELECT id FROM payload p WHERE NOT EXISTS (SELECT 1 FROM live l WHERE l.id = p.id)
                     AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.id = p.id)",
            ),
            (
                "an attempt belongs to no delivery",
                "SELECT id FROM attempt a WHERE NOT EXISTS (SELECT 1 FROM live l WHERE l.id = a.id >> 8)
                     AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.id = a.id >> 8)",
            ),
            (
                "an event is listed as unrouted but does not exist",
                "SELECT id FROM unrouted u WHERE NOT EXISTS (SELECT 1 FROM event e WHERE e.id = u.id)",
            ),
        ];
        for (what, sql) in RULES {
            let db = self.db;
            let mut walk = || -> Result<(), Error> {
                let mut select = db.prepare(sql)?;
                let mut rows = select.query([])?;
                while let Some(row) = rows.next()? {
                    self.note_at(*what, Some(format!("row {}", row.get::<_, i64>(0)?)));
                }
                Ok(())
            };
            let walked = walk();
            self.noted(&format!("whether {what}"), walked);
        }
    }

    fn counts(&mut self) {
        const COUNTS: &[(&str, &str)] = &[
            ("events", "SELECT count(*) FROM event"),
            ("events to be run", "SELECT count(*) FROM event_queue"),
            ("events with a parked run", "SELECT count(DISTINCT id >> 14) FROM run_queue WHERE state = 'parked'"),
            ("events due later", "SELECT count(*) FROM scheduled WHERE cancelled_at IS NULL"),
            ("events unrouted", "SELECT count(*) FROM unrouted"),
            ("runs", "SELECT count(*) FROM run"),
            ("runs waiting", "SELECT count(*) FROM run_queue WHERE state = 'waiting'"),
            ("runs parked", "SELECT count(*) FROM run_queue WHERE state = 'parked'"),
            ("deliveries pending", "SELECT count(*) FROM live WHERE attempts = 0"),
            ("deliveries retrying", "SELECT count(*) FROM live WHERE attempts > 0"),
            ("deliveries delivered", "SELECT count(*) FROM delivery WHERE state = 'delivered'"),
            ("deliveries dead", "SELECT count(*) FROM delivery WHERE state = 'dead'"),
            ("deliveries cancelled", "SELECT count(*) FROM delivery WHERE state = 'cancelled'"),
            ("attempts", "SELECT count(*) FROM attempt"),
            ("endpoints", "SELECT count(*) FROM endpoint WHERE deleted_at IS NULL"),
            ("sources", "SELECT count(*) FROM source"),
            ("plugins", "SELECT count(*) FROM plugin"),
            ("keys", "SELECT count(*) FROM api_key"),
            ("changes in the audit trail", "SELECT count(*) FROM audit"),
            ("jobs running", "SELECT count(*) FROM job WHERE state = 'running'"),
        ];
        for (what, sql) in COUNTS {
            let count = self.db.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(Error::from);
            if let Some(count) = self.noted(what, count) {
                self.counts.push(((*what).to_owned(), count.unsigned_abs()));
            }
        }
    }
}

/// Returns the kinds of findings, for tests that expect exactly these.
#[cfg(test)]
impl CheckReport {
    pub fn kinds(&self) -> std::collections::BTreeSet<&str> {
        self.findings.iter().map(|finding| finding.what.as_str()).collect()
    }
}
