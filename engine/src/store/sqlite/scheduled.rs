//! Scheduled events, which take place later. A settlement (commit 2) writes them, and a step accepts them when they are due.

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Sqlite, accept, rows,
    writer::{Breaks, Keeps},
};
use crate::{
    clock,
    domain::{
        id::{EventId, ScheduledId},
        run::Scheduled,
        time::Timestamp,
    },
    store::{Error, Schedule, ScheduledEvent},
};

/// Maximum number of events that one step accepts. It is small, because every caller of the writer waits while a step runs.
const BATCH: u32 = 200;
/// The [`rows::EVENT_COLUMNS`] of a scheduled event in the row `s`.
const COLUMNS: &str =
    "s.id, s.due_at, s.source, NULL, s.type, s.subject, NULL, s.content_type, s.attributes, s.depth, s.id >> 14, s.codec";

#[async_trait]
impl Schedule for Sqlite {
    async fn next_scheduled(&self) -> Result<Option<Timestamp>, Error> {
        self.read(|db| {
            let sql = "SELECT due_at FROM scheduled WHERE cancelled_at IS NULL ORDER BY due_at LIMIT 1";
            let due: Option<i64> = db.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
            Ok(due.map(Timestamp::from_millis))
        })
        .await
    }

    async fn accept_scheduled(&self, at: Timestamp) -> Result<usize, Error> {
        self.write_then(Keeps::Promise, Breaks::All, 0, move |db, local, after| {
            let sql = format!(
                "SELECT {COLUMNS}, s.data, NULL, NULL FROM scheduled s WHERE s.cancelled_at IS NULL AND s.due_at <= ?1
                 ORDER BY s.due_at, s.id LIMIT {BATCH}"
            );
            let (mut events, mut ids) = (Vec::new(), Vec::new());
            let mut select = db.prepare_cached(&sql)?;
            let mut found = select.query([at.millis()])?;
            while let Some(row) = found.next()? {
                let id: i64 = row.get(0)?;
                match rows::whole_event(row) {
                    Ok(event) => {
                        events.push(event.new);
                        ids.push(id);
                    }
                    Err(error) => set_aside(db, id, at, &error)?,
                }
            }
            drop(found);
            accept::insert_all(db, local, events, after)?;
            for id in &ids {
                db.prepare_cached("DELETE FROM scheduled WHERE id = ?1")?.execute([id])?;
            }
            Ok(ids.len())
        })
        .await
    }
}

/// Cancels a row that cannot be read, so that it does not delay the others.
fn set_aside(db: &Connection, id: i64, at: Timestamp, error: &Error) -> Result<(), Error> {
    tracing::error!(id, %error, "scheduled event cannot be read; it is cancelled");
    db.prepare_cached("UPDATE scheduled SET cancelled_at = ?1 WHERE id = ?2")?.execute(params![at.millis(), id])?;
    Ok(())
}

/// Writes a scheduled event.
pub fn insert(db: &Connection, id: ScheduledId, Scheduled { after, event }: &Scheduled) -> Result<(), Error> {
    db.prepare_cached(
        "INSERT INTO scheduled (id, due_at, source, type, subject, content_type, attributes, depth, codec, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        id.as_i64(),
        clock::wall().plus(*after).millis(),
        &*event.source,
        &*event.event_type,
        event.subject.as_deref(),
        &**event.content.content_type(),
        rows::attributes_to_column(&event.attributes),
        event.depth,
        rows::PLAIN,
        &**event.content.bytes(),
    ])?;
    Ok(())
}

/// Counts the waiting scheduled events of a plugin, up to `most`.
pub fn count(db: &Connection, plugin: &str, most: u64) -> Result<u64, Error> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM scheduled WHERE source = ?1 AND cancelled_at IS NULL LIMIT ?2)";
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let count: i64 = db.prepare_cached(sql)?.query_row(params![format!("plugin/{plugin}"), most], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// Cancels the waiting events that an event has scheduled. Returns the number of cancelled events.
pub fn cancel(db: &Connection, cause: EventId, at: Timestamp) -> Result<u64, Error> {
    let (from, until) = cause.children();
    let sql = "UPDATE scheduled SET cancelled_at = ?1 WHERE id >= ?2 AND id < ?3 AND cancelled_at IS NULL";
    Ok(db.prepare_cached(sql)?.execute(params![at.millis(), from, until])? as u64)
}

/// Returns the first scheduled events with ids from `from` (inclusive) to `until` (exclusive), ordered by id.
pub fn first(db: &Connection, from: i64, until: i64, most: i64) -> Result<Vec<ScheduledEvent>, Error> {
    let sql = format!("{} WHERE s.id >= ?1 AND s.id < ?2 ORDER BY s.id LIMIT ?3", all());
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query([from, until, most])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// Reads every column of a scheduled event except its data.
pub fn all() -> String {
    format!("SELECT {COLUMNS}, s.cancelled_at FROM scheduled s")
}

/// Reads a row of [`all`].
pub fn read(row: &rusqlite::Row<'_>) -> Result<ScheduledEvent, Error> {
    let event = rows::event(row, Bytes::new())?;
    Ok(ScheduledEvent {
        id: ScheduledId::from_i64(event.id.as_i64()),
        due_at: event.accepted_at,
        cancelled_at: row.get::<_, Option<i64>>(12)?.map(Timestamp::from_millis),
        event: event.new,
    })
}
