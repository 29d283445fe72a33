//! Scheduled events, which take place later. A settlement (commit 2) writes them, and a step accepts them when they are due. Each
//! node looks for due events, and skips a row that another node is accepting.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::{
    Postgres, accept,
    accept::EVENT_BYTES,
    db::{Value, clean, execute, get, limit, row, rows},
    rows as values,
    rows::EVENT_COLUMNS_COUNT,
};
use crate::{
    clock,
    domain::{id::ScheduledId, run::Scheduled, time::Timestamp},
    store::{
        Error, Schedule, ScheduledEvent,
        columns::{PLAIN, attributes_to_column},
        commit::After,
    },
};

/// Maximum number of events that one step accepts.
const BATCH: i64 = 200;
/// The event columns of a scheduled event in the row `s`.
const COLUMNS: &str = "s.id, s.due_at, s.source, NULL::text, s.type, s.subject, NULL::text, s.content_type, s.attributes, s.depth, s.id >> 14, s.codec";

#[async_trait]
impl Schedule for Postgres {
    async fn next_scheduled(&self) -> Result<Option<Timestamp>, Error> {
        self.read(|tx, _| {
            Box::pin(async move {
                let sql = "SELECT due_at FROM scheduled WHERE cancelled_at IS NULL ORDER BY due_at LIMIT 1";
                let due = row(tx, sql, &[]).await?.map(|row| get(&row, 0)).transpose()?;
                Ok(due.map(Timestamp::from_millis))
            })
        })
        .await
    }

    async fn accept_scheduled(&self, at: Timestamp) -> Result<usize, Error> {
        self.step_as_node(move |tx, local, node, after| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {COLUMNS}, s.data, NULL::text, NULL::bytea FROM scheduled s WHERE s.cancelled_at IS NULL AND s.due_at <= $1
                     ORDER BY s.due_at, s.id LIMIT $2 FOR UPDATE SKIP LOCKED"
                );
                let (mut events, mut ids) = (Vec::new(), Vec::new());
                for row in rows(tx, &sql, &[&at.millis(), &BATCH]).await? {
                    let id: i64 = get(&row, 0)?;
                    match values::whole_event(&row, 0) {
                        Ok(event) => {
                            after.bytes -= EVENT_BYTES + event.new.content.bytes().len() as i64;
                            events.push(event.new);
                            ids.push(id);
                        }
                        Err(error) => set_aside(tx, id, at, &error).await?,
                    }
                }
                accept::insert_all(tx, local, node, events, after).await?;
                execute(tx, "DELETE FROM scheduled WHERE id = ANY($1)", &[&ids]).await?;
                Ok(ids.len())
            })
        })
        .await
    }
}

/// Cancels a row that cannot be read, so that it does not delay the others.
async fn set_aside(tx: &Transaction<'_>, id: i64, at: Timestamp, error: &Error) -> Result<(), Error> {
    tracing::error!(id, %error, "scheduled event cannot be read; it is cancelled");
    execute(tx, "UPDATE scheduled SET cancelled_at = $1 WHERE id = $2", &[&at.millis(), &id]).await?;
    Ok(())
}

/// Writes scheduled events.
pub async fn insert(tx: &Transaction<'_>, scheduled: &[(ScheduledId, Scheduled)], after: &mut After) -> Result<(), Error> {
    if scheduled.is_empty() {
        return Ok(());
    }
    let now = clock::wall();
    let events = || scheduled.iter().map(|(_, one)| &one.event);
    let ids: Vec<i64> = scheduled.iter().map(|(id, _)| id.as_i64()).collect();
    let due: Vec<i64> = scheduled.iter().map(|(_, one)| now.plus(one.after).millis()).collect();
    let sources: Vec<&str> = events().map(|event| &*event.source).collect();
    let types: Vec<&str> = events().map(|event| &*event.event_type).collect();
    let subjects: Vec<Option<&str>> = events().map(|event| event.subject.as_deref()).collect();
    let contents: Vec<_> = events().map(|event| clean(event.content.content_type())).collect();
    let attributes: Vec<Option<String>> = events().map(|event| attributes_to_column(&event.attributes)).collect();
    let depths: Vec<i64> = events().map(|event| i64::from(event.depth)).collect();
    let data: Vec<&[u8]> = events().map(|event| &**event.content.bytes()).collect();
    let values: [Value<'_>; 10] = [&ids, &due, &sources, &types, &subjects, &contents, &attributes, &depths, &data, &PLAIN];
    execute(
        tx,
        "INSERT INTO scheduled (id, due_at, source, type, subject, content_type, attributes, depth, codec, data)
         SELECT u.id, u.due_at, u.source, u.type, u.subject, u.content_type, u.attributes, u.depth, $10::bigint, u.data
         FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bytea[])
             u (id, due_at, source, type, subject, content_type, attributes, depth, data)",
        &values,
    )
    .await?;
    after.bytes += events().map(|event| EVENT_BYTES + event.content.bytes().len() as i64).sum::<i64>();
    Ok(())
}

/// Counts the waiting scheduled events of each plugin, up to `most`. Events that other nodes add meanwhile are not
/// counted, so a plugin may exceed its limit by as many events as other nodes commit until the next count.
pub async fn counts(tx: &Transaction<'_>, plugins: &[&str], most: u64) -> Result<HashMap<String, u64>, Error> {
    if plugins.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = "SELECT u.plugin, (SELECT count(*) FROM
                   (SELECT 1 FROM scheduled s WHERE s.source = 'plugin/' || u.plugin AND s.cancelled_at IS NULL LIMIT $2) few)
               FROM unnest($1::text[]) u (plugin)";
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let counted = |row: &Row| Ok((get(row, 0)?, get::<i64>(row, 1)?.unsigned_abs()));
    rows(tx, sql, &[&plugins, &most]).await?.iter().map(counted).collect()
}

/// Cancels the waiting events that these events have scheduled. Returns the number of cancelled events.
pub async fn cancel(tx: &Transaction<'_>, causes: &[i64], at: Timestamp) -> Result<u64, Error> {
    let sql = "UPDATE scheduled s SET cancelled_at = $2 FROM unnest($1::bigint[]) e (id)
               WHERE s.id >= e.id << 14 AND s.id < (e.id + 1) << 14 AND s.cancelled_at IS NULL";
    execute(tx, sql, &[&causes, &at.millis()]).await
}

/// Returns the first scheduled events with ids from `from` (inclusive) to `until` (exclusive), ordered by id.
pub async fn first(tx: &Transaction<'_>, from: i64, until: i64, most: usize) -> Result<Vec<ScheduledEvent>, Error> {
    let sql = format!("SELECT {COLUMNS}, s.cancelled_at FROM scheduled s WHERE s.id >= $1 AND s.id < $2 ORDER BY s.id LIMIT $3");
    let read = |row: &Row| {
        let event = values::event(row, 0, Bytes::new())?;
        Ok(ScheduledEvent {
            id: ScheduledId::from_i64(event.id.as_i64()),
            due_at: event.accepted_at,
            cancelled_at: get::<Option<i64>>(row, EVENT_COLUMNS_COUNT)?.map(Timestamp::from_millis),
            event: event.new,
        })
    };
    rows(tx, &sql, &[&from, &until, &limit(most)]).await?.iter().map(read).collect()
}
