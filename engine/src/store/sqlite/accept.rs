//! Commit 1: writes events and their queue rows. As long as the hand-off has room, each queue row is created with a lease of this
//! process. An event that was run already gets no queue row. Its results are written with it (commit 2).

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Local, Sqlite, health, rows, settle,
    writer::{Breaks, Keeps},
};
use crate::{
    clock,
    domain::{
        event::{Event, NewEvent},
        id::EventId,
        time::Timestamp,
    },
    store::{
        Accept, Accepted, Arrival, Arrivals, Arrived, EarlyRun, Error, IdTaken, Issued, LEASE, Lease, Overload, RunAnswer,
        RunStored, Settled,
        accept::{minute, own_data},
        commit::{After, Queued},
        weight,
    },
};

#[async_trait]
impl Accept for Sqlite {
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, Error> {
        let arrived = self.accept_arrivals(events.into_iter().map(Arrival::New).collect()).await?;
        Ok(arrived.into_iter().map(|one| one.accepted).collect())
    }
}

#[async_trait]
impl Arrivals for Sqlite {
    fn issue(&self, event: &NewEvent) -> Option<Issued> {
        self.admit().ok()?;
        let (id, accepted_at) = (self.local.next_event(), clock::wall());
        let lease = Lease { token: self.local.next_token(), until: clock::steady().plus(LEASE) };
        Some(Issued { event: Arc::new(Event { id, accepted_at, new: own_data(event.clone()) }), lease })
    }

    async fn accept_arrivals(&self, arrivals: Vec<Arrival>) -> Result<Vec<Arrived>, Error> {
        self.admit().map_err(Error::Overloaded)?;
        let weight = arrivals.iter().map(weight::arrival).sum();
        self.write_then(Keeps::Promise, Breaks::All, weight, move |db, local, after| accept(db, local, arrivals, after)).await
    }

    fn accept_run(&self, run: EarlyRun, answer: RunAnswer) {
        let EarlyRun { settlement, slot, room } = run;
        let arrivals = vec![Arrival::Settled(settlement)];
        let weight = arrivals.iter().map(weight::arrival).sum();
        self.queue_then(Keeps::Promise, Breaks::All, weight, answer, move |db, local, after| {
            Ok(RunStored { arrived: accept(db, local, arrivals, after)?, held: (slot, room) })
        });
    }
}

impl Sqlite {
    /// Decides whether new events are accepted now.
    fn admit(&self) -> Result<(), Overload> {
        let readers = self.own_readers.clone();
        self.admission.keep_counted(clock::steady(), async move { readers.read(None, health::events_to_run).await });
        self.admission.check(self.writer.gauge().queued(), self.writer.gauge().waited())
    }
}

/// Stores events that another step produces, in its transaction.
pub fn insert_all(
    db: &Connection,
    local: &Local,
    events: impl IntoIterator<Item = NewEvent>,
    after: &mut After,
) -> Result<(), Error> {
    for new in events {
        let event = Event { id: local.next_event(), accepted_at: clock::wall(), new: own_data(new) };
        write(db, local, &event, after)?;
        queue(db, local, Arc::new(event), after)?;
    }
    Ok(())
}

/// Stores the events of one request.
fn accept(db: &Connection, local: &Local, arrivals: Vec<Arrival>, after: &mut After) -> Result<Vec<Arrived>, Error> {
    refuse_other_types(db, &arrivals)?;
    let accepted_at = clock::wall();
    let mut answers = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        let id = match &arrival {
            Arrival::New(_) => local.next_event(),
            Arrival::Settled(settlement) => settlement.event.id,
        };
        if let Some(earlier) = remember(db, arrival.event(), id)? {
            answers.push(Arrived { accepted: Accepted::Duplicate(earlier), settled: None });
            continue;
        }
        let settled = match arrival {
            Arrival::New(new) => {
                let event = Event { id, accepted_at, new: own_data(new) };
                write(db, local, &event, after)?;
                queue(db, local, Arc::new(event), after)?;
                None
            }
            Arrival::Settled(settlement) => {
                write(db, local, &settlement.event, after)?;
                let settled = settle::settle_new(db, local, &settlement, after)?;
                if settled != Settled::Done {
                    queue(db, local, Arc::clone(&settlement.event), after)?;
                }
                Some((settlement, settled))
            }
        };
        answers.push(Arrived { accepted: Accepted::New(id), settled });
    }
    Ok(answers)
}

/// Refuses a batch in which an event has the id of an earlier event but another type. Runs before anything is written, like every
/// check that may refuse a step. If the earlier event was deleted, there is no type to compare, so the later event counts as a
/// repeat.
fn refuse_other_types(db: &Connection, arrivals: &[Arrival]) -> Result<(), Error> {
    let mut select = db.prepare_cached(
        "SELECT e.id, e.type FROM dedup d JOIN event e ON e.id = d.event_id WHERE d.source = ?1 AND d.caller_id = ?2",
    )?;
    let mut batch = HashMap::new();
    for (place, event) in arrivals.iter().map(Arrival::event).enumerate() {
        let Some((source, caller_id)) = event.repeat_key() else { continue };
        let stored = select.query_row(params![source, caller_id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let (earlier, earlier_type): (Option<i64>, String) = match stored {
            Some(stored) => stored,
            None => (None, batch.entry((source, caller_id)).or_insert(&event.event_type).to_string()),
        };
        if earlier_type != *event.event_type {
            return Err(IdTaken::new(place, event, earlier.map(EventId::from_i64), &earlier_type).into());
        }
    }
    Ok(())
}

/// Stores the sender's id. If an earlier event has the same id, returns that event.
fn remember(db: &Connection, event: &NewEvent, id: EventId) -> Result<Option<EventId>, Error> {
    let Some((source, caller_id)) = event.repeat_key() else { return Ok(None) };
    let mut insert = db.prepare_cached("INSERT OR IGNORE INTO dedup (source, caller_id, event_id) VALUES (?1, ?2, ?3)")?;
    if insert.execute(params![source, caller_id, id.as_i64()])? == 1 {
        return Ok(None);
    }
    let mut select = db.prepare_cached("SELECT event_id FROM dedup WHERE source = ?1 AND caller_id = ?2")?;
    let earlier = select.query_row(params![source, caller_id], |row| row.get(0)).optional()?;
    Ok(earlier.map(EventId::from_i64))
}

/// Writes an event.
fn write(db: &Connection, local: &Local, event: &Event, after: &mut After) -> Result<(), Error> {
    let Event { id, accepted_at, new } = event;
    let mut statement = db.prepare_cached(
        "INSERT INTO event (id, accepted_at, source, caller_id, type, subject, time, content_type, attributes, depth, cause, codec, data,
             request, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    )?;
    statement.execute(params![
        id.as_i64(),
        accepted_at.millis(),
        &*new.source,
        new.id.as_deref(),
        &*new.event_type,
        new.subject.as_deref(),
        new.time.as_deref(),
        &**new.content.content_type(),
        rows::attributes_to_column(&new.attributes),
        new.depth,
        new.cause.map(EventId::as_i64),
        rows::PLAIN,
        &**new.content.bytes(),
        new.request.as_ref().map(|request| rows::request_to_column(request)),
        new.request.as_ref().and_then(|request| request.body.as_deref()),
    ])?;
    note_minute(db, local, *id, *accepted_at)?;
    after.accepted_at = Some(*accepted_at);
    Ok(())
}

/// Writes the queue row of an event.
fn queue(db: &Connection, local: &Local, event: Arc<Event>, after: &mut After) -> Result<(), Error> {
    let id = event.id;
    let Queued { next_at, lease } = after.queue_event(local, || local.next_token(), event);
    db.prepare_cached("INSERT INTO event_queue (id, round, next_at, lease) VALUES (?1, 0, ?2, ?3)")?.execute(params![
        id.as_i64(),
        next_at.millis(),
        lease
    ])?;
    Ok(())
}

/// Stores the first id of each minute. The process remembers the minute only after the commit.
fn note_minute(db: &Connection, local: &Local, id: EventId, accepted_at: Timestamp) -> Result<(), Error> {
    if !local.knows_minute(accepted_at) {
        db.prepare_cached("INSERT OR IGNORE INTO minute (minute, first_id) VALUES (?1, ?2)")?
            .execute(params![minute(accepted_at), id.as_i64()])?;
    }
    Ok(())
}
