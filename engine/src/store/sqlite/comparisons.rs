//! Comparisons of plugin versions.

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::{
    Sqlite,
    writer::{Breaks, Keeps},
};
use crate::{
    domain::{
        comparison::{Comparison, Report, Request},
        id::ComparisonId,
        job::JobState,
        plugin::Digest,
        time::Timestamp,
    },
    store::{
        Comparisons, Error, Page, PageRequest,
        comparisons::{COLUMNS, DISCARDED, has_ended, may_start, read, report_to_column, request_to_column},
    },
};

#[async_trait]
impl Comparisons for Sqlite {
    async fn create_comparison(&self, request: Request, at: Timestamp) -> Result<Comparison, Error> {
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, _, after| {
            after.new_job = true;
            create(db, &request, at)
        })
        .await
    }

    async fn advance_comparison(&self, before: &Comparison, now: Comparison) -> Result<bool, Error> {
        let before = before.cursor;
        self.write(move |db, _| advance(db, before, &now)).await
    }

    async fn cancel_comparison(&self, id: ComparisonId, at: Timestamp) -> Result<Comparison, Error> {
        self.write(move |db, _| cancel(db, id, at)).await
    }

    async fn comparison(&self, id: ComparisonId) -> Result<Comparison, Error> {
        self.read_for_people(move |db| load(db, id)).await
    }

    async fn comparisons(&self, state: Option<JobState>, page: PageRequest) -> Result<Page<Comparison>, Error> {
        self.read_for_people(move |db| list(db, state, page)).await
    }
}

fn load(db: &Connection, id: ComparisonId) -> Result<Comparison, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {COLUMNS} FROM comparison WHERE id = ?1"))?;
    let mut rows = select.query([id.as_i64()])?;
    rows.next()?.map_or(Err(Error::NotFound { what: "comparison" }), read)
}

fn list(db: &Connection, state: Option<JobState>, request: PageRequest) -> Result<Page<Comparison>, Error> {
    let mut select = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM comparison WHERE id < ?1 AND (?2 IS NULL OR state = ?2) ORDER BY id DESC LIMIT ?3"
    ))?;
    let limit = i64::try_from(request.limit + 1).unwrap_or(i64::MAX);
    let mut rows = select.query(params![request.cursor.unwrap_or(i64::MAX), state.map(JobState::as_str), limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(Page::of(found, request, |one| one.id.as_i64()))
}

fn create(db: &Connection, request: &Request, at: Timestamp) -> Result<Comparison, Error> {
    let running: i64 =
        db.prepare_cached("SELECT count(*) FROM comparison WHERE state = 'running'")?.query_row([], |row| row.get(0))?;
    may_start(running.unsigned_abs())?;
    db.prepare_cached(
        "INSERT INTO comparison (plugin, serving, candidate, request, state, report, created_at) VALUES (?1, ?2, ?3, ?4, 'running', ?5, ?6)",
    )?
    .execute(params![
        &*request.plugin,
        request.serving.as_bytes().as_slice(),
        request.candidate.as_bytes().as_slice(),
        request_to_column(request),
        report_to_column(&Report::default()),
        at.millis(),
    ])?;
    load(db, ComparisonId::from_i64(db.last_insert_rowid()))
}

fn advance(db: &Connection, before: Option<i64>, now: &Comparison) -> Result<bool, Error> {
    let changed = db
        .prepare_cached(
            "UPDATE comparison SET cursor = ?1, report = ?2, state = ?3, problem = ?4, finished_at = ?5
             WHERE id = ?6 AND state = 'running' AND cursor IS ?7",
        )?
        .execute(params![
            now.cursor,
            report_to_column(&now.report),
            now.state.as_str(),
            now.problem,
            now.finished_at.map(Timestamp::millis),
            now.id.as_i64(),
            before,
        ])?;
    Ok(changed == 1)
}

fn cancel(db: &Connection, id: ComparisonId, at: Timestamp) -> Result<Comparison, Error> {
    let found = load(db, id)?;
    if found.state != JobState::Running {
        return Err(has_ended(found.state));
    }
    db.prepare_cached("UPDATE comparison SET state = 'cancelled', finished_at = ?1 WHERE id = ?2")?
        .execute(params![at.millis(), id.as_i64()])?;
    load(db, id)
}

/// Cancels the running comparisons in which a version takes part.
pub fn cancel_of(db: &Connection, version: Digest, at: Timestamp) -> Result<(), Error> {
    let sql = "UPDATE comparison SET state = 'cancelled', finished_at = ?1, problem = ?2
               WHERE state = 'running' AND ?3 IN (serving, candidate)";
    db.prepare_cached(sql)?.execute(params![at.millis(), DISCARDED, version.as_bytes().as_slice()])?;
    Ok(())
}

/// Deletes up to `limit` of the oldest comparisons that ended before `before`.
pub fn forget(db: &Connection, before: Timestamp, limit: u32) -> Result<usize, Error> {
    let mut delete = db.prepare_cached(
        "DELETE FROM comparison WHERE id IN
             (SELECT id FROM (SELECT id, finished_at FROM comparison ORDER BY id LIMIT ?1) WHERE finished_at < ?2)",
    )?;
    Ok(delete.execute(params![limit, before.millis()])?)
}
