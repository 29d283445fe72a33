//! Commit 1: writes events and their queue rows. As long as this node has room, it creates each queue row with a lease that it
//! holds.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use deadpool_postgres::Transaction;

use super::{
    Local, Postgres,
    db::{clean, execute, get, limit, rows},
    health,
    transactions::read,
};
use crate::{
    clock,
    domain::{
        event::{Event, NewEvent},
        id::EventId,
        time::Timestamp,
    },
    store::{
        Accept, Accepted, Arrivals, Error, IdTaken,
        accept::{minute, own_data},
        columns::{PLAIN, attributes_to_column, request_to_column},
        commit::{After, Queued},
        weight,
    },
};

/// Estimated number of bytes that the rows and index entries of an event take in the store, in addition to its data.
pub const EVENT_BYTES: i64 = 1_024;

#[async_trait]
impl Accept for Postgres {
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, Error> {
        let (pool, local, most) = (self.pool.clone(), Arc::clone(&self.local), self.backlog_max.saturating_add(1));
        self.admission.keep_counted(clock::steady(), async move {
            read(&pool, &local, move |tx, _| Box::pin(health::events_to_run(tx, most))).await
        });
        self.admission.check(self.committer.gauge().queued(), self.committer.gauge().waited()).map_err(Error::Overloaded)?;
        let weight = events.iter().map(weight::event).sum();
        self.committer.accept(weight, events).await
    }
}

// The nodes take ids from the database in the transaction that stores the events.
impl Arrivals for Postgres {}

/// Takes ids for events that are about to be written, in the order of the events. Nodes do not reserve blocks of ids: if an event
/// is submitted after another event was accepted, it must have the larger id, even if the two events are on different nodes.
async fn take_ids(tx: &Transaction<'_>, count: usize) -> Result<Vec<EventId>, Error> {
    let found = rows(tx, "SELECT nextval('event_id') FROM generate_series(1, $1::bigint)", &[&limit(count)]).await?;
    found.iter().map(|row| Ok(EventId::from_i64(get(row, 0)?))).collect()
}

/// Stores the events of several requests. Each request is stored as a whole or not at all. Claims are handed over after the commit.
pub async fn accept(
    tx: &Transaction<'_>,
    local: &Local,
    node: i64,
    calls: &[&[NewEvent]],
    after: &mut After,
) -> Result<Vec<Vec<Accepted>>, Error> {
    let all: Vec<&NewEvent> = calls.iter().flat_map(|call| call.iter()).collect();
    let ids = take_ids(tx, all.len()).await?;
    let repeats = remember(tx, &all, &ids).await?;
    refuse_other_types(tx, &all, &ids, &repeats).await?;
    let accepted_at = clock::wall();
    let mut answers = Vec::with_capacity(all.len());
    let mut new = Vec::with_capacity(all.len());
    for (place, (event, id)) in all.into_iter().zip(ids).enumerate() {
        match repeats.get(&place) {
            Some(earlier) => answers.push(Accepted::Duplicate(*earlier)),
            None => {
                new.push(Arc::new(Event { id, accepted_at, new: own_data(event.clone()) }));
                answers.push(Accepted::New(id));
            }
        }
    }
    insert(tx, local, node, new, after).await?;
    let mut answers = answers.into_iter();
    Ok(calls.iter().map(|call| answers.by_ref().take(call.len()).collect()).collect())
}

/// Stores events that another step produces, in its transaction.
pub async fn insert_all(
    tx: &Transaction<'_>,
    local: &Local,
    node: i64,
    events: Vec<NewEvent>,
    after: &mut After,
) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    let ids = take_ids(tx, events.len()).await?;
    let accepted_at = clock::wall();
    let event = |(new, id)| Arc::new(Event { id, accepted_at, new: own_data(new) });
    insert(tx, local, node, events.into_iter().zip(ids).map(event).collect(), after).await
}

/// Stores the senders' ids. If an event repeats an earlier event, the result maps the place of the repeat in the batch to the
/// earlier event.
///
/// Ids are stored in the same order on every node. Otherwise two batches with the same ids could deadlock.
async fn remember(tx: &Transaction<'_>, events: &[&NewEvent], ids: &[EventId]) -> Result<HashMap<usize, EventId>, Error> {
    let mut known: Vec<(Cow<'_, str>, &str, i64, usize)> = events
        .iter()
        .zip(ids)
        .enumerate()
        .filter_map(|(place, (event, id))| {
            let (source, caller_id) = event.repeat_key()?;
            Some((source, caller_id, id.as_i64(), place))
        })
        .collect();
    if known.is_empty() {
        return Ok(HashMap::new());
    }
    known.sort_unstable();
    let sources: Vec<&str> = known.iter().map(|one| &*one.0).collect();
    let callers: Vec<&str> = known.iter().map(|one| one.1).collect();
    let numbers: Vec<i64> = known.iter().map(|one| one.2).collect();
    let inserted = rows(
        tx,
        "INSERT INTO dedup (source, caller_id, event_id) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])
         ON CONFLICT DO NOTHING RETURNING event_id",
        &[&sources, &callers, &numbers],
    )
    .await?;
    let inserted: HashSet<i64> = inserted.iter().map(|row| get(row, 0)).collect::<Result<_, Error>>()?;
    known.retain(|one| !inserted.contains(&one.2));
    if known.is_empty() {
        return Ok(HashMap::new());
    }
    let sources: Vec<&str> = known.iter().map(|one| &*one.0).collect();
    let callers: Vec<&str> = known.iter().map(|one| one.1).collect();
    let places: Vec<i64> = known.iter().map(|one| limit(one.3)).collect();
    // This is a separate statement, so that it sees rows that were committed in the meantime.
    let earlier = rows(
        tx,
        "SELECT u.place, d.event_id FROM unnest($1::text[], $2::text[], $3::bigint[]) u (source, caller_id, place)
         JOIN dedup d ON d.source = u.source AND d.caller_id = u.caller_id",
        &[&sources, &callers, &places],
    )
    .await?;
    let repeat = |row: &tokio_postgres::Row| -> Result<(usize, EventId), Error> {
        let place: i64 = get(row, 0)?;
        Ok((place.unsigned_abs() as usize, EventId::from_i64(get(row, 1)?)))
    };
    earlier.iter().map(repeat).collect()
}

/// Refuses a batch in which an event has the id of an earlier event but another type. If the earlier event was deleted, there is no
/// type to compare, so the later event counts as a repeat. If a batch with several requests is refused, [`super::commit`] tries
/// each request alone, so that only the request with that event is refused.
async fn refuse_other_types(
    tx: &Transaction<'_>,
    events: &[&NewEvent],
    ids: &[EventId],
    repeats: &HashMap<usize, EventId>,
) -> Result<(), Error> {
    if repeats.is_empty() {
        return Ok(());
    }
    let asked: Vec<i64> = repeats.values().map(|id| id.as_i64()).collect();
    let stored = rows(tx, "SELECT id, type FROM event WHERE id = ANY($1::bigint[])", &[&asked]).await?;
    let stored: HashMap<EventId, String> =
        stored.iter().map(|row| Ok((EventId::from_i64(get(row, 0)?), get(row, 1)?))).collect::<Result<_, Error>>()?;
    // Events of the same batch are not written yet.
    let batch: HashMap<EventId, &str> = ids.iter().zip(events).map(|(id, event)| (*id, &*event.event_type)).collect();
    for (place, event) in events.iter().enumerate() {
        let Some(earlier) = repeats.get(&place) else { continue };
        let (named, earlier_type) = match (stored.get(earlier), batch.get(earlier)) {
            (Some(stored), _) => (Some(*earlier), stored.as_str()),
            (None, Some(batch)) => (None, *batch),
            (None, None) => continue,
        };
        if earlier_type != &*event.event_type {
            return Err(IdTaken::new(place, event, named, earlier_type).into());
        }
    }
    Ok(())
}

/// Writes events and their queue rows. The queue rows for which this node has room are leased to it.
async fn insert(tx: &Transaction<'_>, local: &Local, node: i64, events: Vec<Arc<Event>>, after: &mut After) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = events.iter().map(|event| event.id.as_i64()).collect();
    let accepted: Vec<i64> = events.iter().map(|event| event.accepted_at.millis()).collect();
    let sources: Vec<&str> = events.iter().map(|event| &*event.new.source).collect();
    let callers: Vec<Option<&str>> = events.iter().map(|event| event.new.id.as_deref()).collect();
    let types: Vec<&str> = events.iter().map(|event| &*event.new.event_type).collect();
    let subjects: Vec<Option<&str>> = events.iter().map(|event| event.new.subject.as_deref()).collect();
    let times: Vec<Option<&str>> = events.iter().map(|event| event.new.time.as_deref()).collect();
    let contents: Vec<_> = events.iter().map(|event| clean(event.new.content.content_type())).collect();
    let attributes: Vec<Option<String>> = events.iter().map(|event| attributes_to_column(&event.new.attributes)).collect();
    let depths: Vec<i64> = events.iter().map(|event| i64::from(event.new.depth)).collect();
    let causes: Vec<Option<i64>> = events.iter().map(|event| event.new.cause.map(EventId::as_i64)).collect();
    let requests: Vec<Option<String>> = events.iter().map(|event| event.new.request.as_deref().map(request_to_column)).collect();
    let bodies: Vec<Option<&[u8]>> = events.iter().map(|event| body_of(&event.new)).collect();
    let data: Vec<&[u8]> = events.iter().map(|event| &**event.new.content.bytes()).collect();
    execute(
        tx,
        "INSERT INTO event (id, accepted_at, source, caller_id, type, subject, time, content_type, attributes, depth, cause, codec, data,
             request, body)
         SELECT u.id, u.accepted_at, u.source, u.caller_id, u.type, u.subject, u.time, u.content_type, u.attributes, u.depth, u.cause,
             $13::bigint, u.data, u.request, u.body
         FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
             $10::bigint[], $11::bigint[], $12::bytea[], $14::text[], $15::bytea[])
             u (id, accepted_at, source, caller_id, type, subject, time, content_type, attributes, depth, cause, data, request, body)",
        &[
            &ids, &accepted, &sources, &callers, &types, &subjects, &times, &contents, &attributes, &depths, &causes, &data, &PLAIN, &requests, &bodies,
        ],
    )
    .await?;
    after.bytes += events
        .iter()
        .map(|event| EVENT_BYTES + event.new.content.bytes().len() as i64 + body_of(&event.new).map_or(0, <[u8]>::len) as i64)
        .sum::<i64>();
    let accepted_at = events[0].accepted_at;
    note_minute(tx, local, events[0].id, accepted_at).await?;
    after.accepted_at = Some(accepted_at);

    let (mut next, mut leases) = (Vec::with_capacity(events.len()), Vec::with_capacity(events.len()));
    for event in events {
        let Queued { next_at, lease } = after.queue_event(local, || local.next_token(node), event);
        next.push(local.db_at(next_at));
        leases.push(lease);
    }
    execute(
        tx,
        "INSERT INTO event_queue (id, round, next_at, lease)
         SELECT u.id, 0, u.next_at, u.lease FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) u (id, next_at, lease)",
        &[&ids, &next, &leases],
    )
    .await?;
    Ok(())
}

/// Returns the body of the source's request, if it differs from the data.
fn body_of(event: &NewEvent) -> Option<&[u8]> {
    event.request.as_ref()?.body.as_deref()
}

/// Stores the first event id of this minute, which is approximate. The process remembers the minute only after the commit.
async fn note_minute(tx: &Transaction<'_>, local: &Local, id: EventId, accepted_at: Timestamp) -> Result<(), Error> {
    if !local.knows_minute(accepted_at) {
        let sql = "INSERT INTO minute (minute, first_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        execute(tx, sql, &[&minute(accepted_at), &id.as_i64()]).await?;
    }
    Ok(())
}
