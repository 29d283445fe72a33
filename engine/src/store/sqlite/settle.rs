//! Commit 2: an event's routing and runs, or one deferred run, take effect as a whole. Everything that could refuse is checked first, then
//! everything is written.
//!
//! The version of a state value is the token of the lease that wrote it. No two claims share a token, so a key that was deleted and
//! created again cannot be mistaken for the old one, nor one node's write for another's.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Local, Sqlite, accept, rows, state,
    writer::{Breaks, Keeps},
};
use crate::{
    clock,
    domain::{
        delivery::{Birth, DeadReason, NewDelivery, Payload},
        event::Event,
        id::{CHILDREN_MAX, DeliveryId, EventId, RunId},
        run::{RunOutcome, RunRecord, RunState},
    },
    store::{DeliveryClaim, Error, LEASE, Lease, Settle, Settled, Settlement, Settles, commit::After, weight},
};

#[async_trait]
impl Settle for Sqlite {
    async fn settle(&self, settlements: Arc<Vec<Settlement>>) -> Result<Vec<Settled>, Error> {
        let weight = settlements.iter().map(weight::settlement).sum();
        // A settlement without effects is computed again after a crash.
        let keeps = if settlements.iter().any(has_effect) { Keeps::Promise } else { Keeps::Progress };
        let work = move |db: &Connection, local: &Local, after: &mut After| {
            after.let_go = true;
            settlements.iter().map(|settlement| settle(db, local, settlement, after)).collect()
        };
        self.write_then(keeps, Breaks::Itself, weight, work).await
    }
}

/// Whether anything outside may come to know of it: deliveries, emitted events, state.
fn has_effect(settlement: &Settlement) -> bool {
    !settlement.direct.is_empty() || settlement.runs.iter().any(RunRecord::has_effect)
}

fn settle(db: &Connection, local: &Local, settlement: &Settlement, after: &mut After) -> Result<Settled, Error> {
    if !holds(db, settlement.settles)? {
        return Ok(Settled::LeaseLost);
    }
    let conflicts = conflicts(db, settlement)?;
    if !conflicts.is_empty() {
        return Ok(Settled::StateConflict(conflicts));
    }
    let mut next = NextChild::of(db, settlement)?;
    let new_runs = settlement.runs.iter().filter(|run| run.identity.id.is_none()).count();
    let new_deliveries = settlement.direct.len() + settlement.runs.iter().map(|run| run.deliveries().len()).sum::<usize>();
    if next.run as usize + new_runs > CHILDREN_MAX as usize || next.delivery as usize + new_deliveries > CHILDREN_MAX as usize {
        return Ok(Settled::TooMany);
    }
    let full = state::over_the_limit(db, &settlement.runs, local.state_limits)?;
    if !full.is_empty() {
        return Ok(Settled::StateFull(full));
    }

    let event = &settlement.event;
    let round = match settlement.settles {
        Settles::Event { id, round, .. } => {
            db.prepare_cached("DELETE FROM event_queue WHERE id = ?1")?.execute([id.as_i64()])?;
            note_routing(db, id, round, settlement.runs.is_empty() && settlement.direct.is_empty())?;
            round
        }
        Settles::Run { round, .. } => round,
    };
    for run in &settlement.runs {
        let id = run.identity.id.unwrap_or_else(|| event.id.run(next.take_run()));
        write_run(db, id, round, run, after)?;
        state::write(db, run, settlement.settles.state_version())?;
        accept::insert_all(db, local, run.new_events().cloned(), after)?;
        for delivery in run.deliveries() {
            write_delivery(db, local, event, event.id.delivery(next.take_delivery()), round, delivery, after)?;
        }
    }
    for delivery in &settlement.direct {
        write_delivery(db, local, event, event.id.delivery(next.take_delivery()), round, delivery, after)?;
    }
    Ok(Settled::Done)
}

/// Whether the settler's claim is still its own.
fn holds(db: &Connection, settles: Settles) -> Result<bool, Error> {
    let (mut select, id, lease) = match settles {
        Settles::Event { id, lease, .. } => {
            (db.prepare_cached("SELECT lease FROM event_queue WHERE id = ?1")?, id.as_i64(), lease)
        }
        Settles::Run { id, lease, .. } => (db.prepare_cached("SELECT lease FROM run_queue WHERE id = ?1")?, id.as_i64(), lease),
    };
    let token: Option<Option<i64>> = select.query_row([id], |row| row.get(0)).optional()?;
    Ok(token == Some(Some(lease.token)))
}

/// The runs whose reads are no longer what is stored.
///
/// Two runs of one settlement belong to different plugins or read independently, so each is compared with the last commit.
fn conflicts(db: &Connection, settlement: &Settlement) -> Result<Vec<usize>, Error> {
    let mut found = Vec::new();
    let mut written: Vec<(&str, &str)> = Vec::new();
    for (place, run) in settlement.runs.iter().enumerate() {
        let plugin = &*run.identity.plugin;
        let mut stale = false;
        for read in run.reads() {
            let version: Option<i64> = db
                .prepare_cached("SELECT version FROM state WHERE plugin = ?1 AND key = ?2")?
                .query_row(params![plugin, read.key], |row| row.get(0))
                .optional()?;
            stale |= version.unwrap_or(0) != read.version;
            // The same plugin twice in one settlement (once for each of its endpoints): the second must see the first's writes.
            stale |= written.contains(&(plugin, read.key.as_str()));
        }
        if stale {
            found.push(place);
        } else {
            written.extend(run.writes().iter().map(|write| (plugin, write.key.as_str())));
        }
    }
    Ok(found)
}

/// The numbers that the event's next run and delivery get.
struct NextChild {
    run: u32,
    delivery: u32,
}

impl NextChild {
    fn of(db: &Connection, settlement: &Settlement) -> Result<Self, Error> {
        // An event has no children before its first settlement.
        if matches!(settlement.settles, Settles::Event { round: 0, .. }) {
            return Ok(Self { run: 0, delivery: 0 });
        }
        let (from, until) = settlement.event.id.children();
        let last =
            |sql: &str| -> Result<Option<i64>, Error> { Ok(db.prepare_cached(sql)?.query_row([from, until], |row| row.get(0))?) };
        let run = last("SELECT max(id) FROM run WHERE id >= ?1 AND id < ?2")?;
        let live = last("SELECT max(id) FROM live WHERE id >= ?1 AND id < ?2")?;
        let finished = last("SELECT max(id) FROM delivery WHERE id >= ?1 AND id < ?2")?;
        Ok(Self {
            run: run.map_or(0, |id| RunId::from_i64(id).k() + 1),
            delivery: live.max(finished).map_or(0, |id| DeliveryId::from_i64(id).k() + 1),
        })
    }

    fn take_run(&mut self) -> u32 {
        self.run += 1;
        self.run - 1
    }

    fn take_delivery(&mut self) -> u32 {
        self.delivery += 1;
        self.delivery - 1
    }
}

fn note_routing(db: &Connection, id: EventId, round: u32, unrouted: bool) -> Result<(), Error> {
    if unrouted {
        db.prepare_cached("INSERT OR IGNORE INTO unrouted (id) VALUES (?1)")?.execute([id.as_i64()])?;
    } else if round > 0 {
        db.prepare_cached("DELETE FROM unrouted WHERE id = ?1")?.execute([id.as_i64()])?;
    }
    Ok(())
}

fn write_run(db: &Connection, id: RunId, round: u32, run: &RunRecord, after: &mut After) -> Result<(), Error> {
    let (identity, execution, failure) = (&run.identity, run.execution(), run.failure());
    let micros = execution.map_or(0, |execution| i64::try_from(execution.took.as_micros()).unwrap_or(i64::MAX));
    let log = execution.map(|execution| &execution.log);
    db.prepare_cached(
        "INSERT INTO run (id, round, plugin, version, endpoint, outcome, code, message, tries, took_us, memory_peak, webhooks,
             emitted, log, log_dropped)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT (id) DO UPDATE SET version = excluded.version, outcome = excluded.outcome, code = excluded.code,
             message = excluded.message, tries = excluded.tries, took_us = excluded.took_us, memory_peak = excluded.memory_peak,
             webhooks = excluded.webhooks, emitted = excluded.emitted, log = excluded.log, log_dropped = excluded.log_dropped",
    )?
    .execute(params![
        id.as_i64(),
        round,
        &*identity.plugin,
        execution.map(|execution| execution.version.as_bytes().as_slice()),
        identity.endpoint.map(|endpoint| endpoint.as_i64()),
        run.outcome().map(RunOutcome::as_str),
        failure.map(|failure| failure.code.as_str()),
        failure.map(|failure| failure.message.as_str()),
        run.tries(),
        micros,
        execution.map_or(0, |execution| i64::try_from(execution.memory_peak).unwrap_or(i64::MAX)),
        u32::try_from(run.deliveries().len()).unwrap_or(u32::MAX),
        u32::try_from(run.emitted().len()).unwrap_or(u32::MAX),
        log.and_then(rows::log_to_column),
        log.map_or(0, |log| i64::try_from(log.dropped).unwrap_or(i64::MAX)),
    ])?;

    let (state, next_at) = match run.state() {
        RunState::Done => {
            if run.identity.id.is_some() {
                db.prepare_cached("DELETE FROM run_queue WHERE id = ?1")?.execute([id.as_i64()])?;
            }
            return Ok(());
        }
        RunState::Waiting { due } => {
            after.due_at(due);
            ("waiting", due.millis())
        }
        RunState::Parked => ("parked", 0),
    };
    db.prepare_cached(
        "INSERT OR REPLACE INTO run_queue (id, plugin, endpoint, round, tries, state, outcome, wants, next_at, lease)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, NULL)",
    )?
    .execute(params![
        id.as_i64(),
        &*identity.plugin,
        identity.endpoint.map(|endpoint| endpoint.as_i64()),
        round,
        run.tries(),
        state,
        run.outcome().map(RunOutcome::as_str),
        run.wants(),
        next_at,
    ])?;
    Ok(())
}

fn write_delivery(
    db: &Connection,
    local: &Local,
    event: &Arc<Event>,
    id: DeliveryId,
    round: u32,
    delivery: &NewDelivery,
    after: &mut After,
) -> Result<(), Error> {
    if let Some(payload) = &delivery.payload {
        write_payload(db, id, payload)?;
    }
    let endpoint = delivery.endpoint;
    if delivery.birth == Birth::Dead {
        db.prepare_cached(
            "INSERT INTO delivery (id, endpoint, round, state, reason, attempts, at) VALUES (?1, ?2, ?3, 'dead', ?4, 0, ?5)",
        )?
        .execute(params![
            id.as_i64(),
            endpoint.as_i64(),
            round,
            DeadReason::EndpointDisabled.as_str(),
            clock::wall().millis()
        ])?;
        return Ok(());
    }
    let now = clock::steady();
    let slot = match delivery.birth {
        // Whose turn it is, only the store can tell.
        Birth::Due if delivery.ordering.is_some() => {
            after.due_now();
            None
        }
        Birth::Due => local.handoff.deliveries.reserve(&endpoint, delivery_weight(event, delivery.payload.as_deref())),
        Birth::Held | Birth::Dead => None,
    };
    let lease = Lease { token: local.next_token(), until: now.plus(LEASE) };
    let (next_at, token) = if slot.is_some() { (lease.until, Some(lease.token)) } else { (now, None) };
    db.prepare_cached(
        "INSERT INTO live (id, endpoint, round, attempts, next_at, lease, ordering) VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6)",
    )?
    .execute(params![id.as_i64(), endpoint.as_i64(), round, next_at.millis(), token, delivery.ordering])?;
    if let Some(slot) = slot {
        let (event, payload) = (Arc::clone(event), delivery.payload.clone());
        after.deliveries.push(DeliveryClaim { id, endpoint, event, payload, attempts: 0, lease, slot });
    }
    Ok(())
}

/// What a delivery holds in memory while it waits.
pub fn delivery_weight(event: &Event, payload: Option<&Payload>) -> usize {
    weight::event(&event.new) + payload.map_or(0, weight::payload)
}

fn write_payload(db: &Connection, id: DeliveryId, payload: &Payload) -> Result<(), Error> {
    db.prepare_cached("INSERT INTO payload (id, type, content_type, headers, codec, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![
            id.as_i64(),
            payload.event_type.as_deref(),
            payload.content_type,
            rows::headers_to_column(&payload.headers),
            rows::PLAIN,
            &*payload.body,
        ])?;
    Ok(())
}
