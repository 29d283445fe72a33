//! The second commit of an event (commit 2): its routing and runs, or one deferred run, take effect as a whole. First the store
//! reads everything that a decision needs. Then [`judge`] decides, and the store writes.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Local, Sqlite, accept,
    attempts::finish,
    rows, scheduled, state,
    writer::{Breaks, Keeps},
};
use crate::{
    clock,
    domain::{
        delivery::{NewDelivery, Payload},
        id::{DeliveryId, EventId, RunId, ScheduledId},
        run::{RunOutcome, RunRecord},
    },
    store::{
        Error, Settle, Settled, Settlement, Settles,
        commit::{After, Queued},
        settle::{Children, Known, Plan, QueueRow, Routing, judge},
        weight,
    },
};

#[async_trait]
impl Settle for Sqlite {
    async fn settle(&self, settlements: Arc<Vec<Settlement>>) -> Result<Vec<Settled>, Error> {
        let weight = settlements.iter().map(weight::settlement).sum();
        let keeps = if settlements.iter().any(Settlement::must_be_synced) { Keeps::Promise } else { Keeps::Progress };
        let work = move |db: &Connection, local: &Local, after: &mut After| {
            after.let_go = true;
            let mut known = ask(db, local, &settlements)?;
            ask_leases(db, &settlements, &mut known)?;
            let mut answers = Vec::with_capacity(settlements.len());
            for settlement in &*settlements {
                answers.push(match judge(&mut known, settlement, local.state_limits) {
                    Ok(plan) => {
                        after.ended.push(settlement.settles.row());
                        write_routing(db, plan.routing)?;
                        write(db, local, &known, settlement, &plan, after)?;
                        Settled::Done
                    }
                    Err(refused) => refused,
                });
            }
            local.scheduled.raise(&known.ledger.scheduled);
            Ok(answers)
        };
        self.write_then(keeps, Breaks::Itself, weight, work).await
    }
}

/// Settles an event in the transaction that stores it. If the settlement is refused, nothing is written.
pub fn settle_new(db: &Connection, local: &Local, settlement: &Settlement, after: &mut After) -> Result<Settled, Error> {
    let Settles::Event { id, lease, .. } = settlement.settles else { return Ok(Settled::LeaseLost) };
    let mut known = ask(db, local, std::slice::from_ref(settlement))?;
    // The event has no row in the queue, so no other worker can hold it.
    known.events.insert(id, lease.token);
    let plan = match judge(&mut known, settlement, local.state_limits) {
        Ok(plan) => plan,
        Err(refused) => return Ok(refused),
    };
    if let Routing::Unrouted(id) = plan.routing {
        db.prepare_cached("INSERT INTO unrouted (id) VALUES (?1)")?.execute([id.as_i64()])?;
    }
    write(db, local, &known, settlement, &plan, after)?;
    local.scheduled.raise(&known.ledger.scheduled);
    Ok(Settled::Done)
}

/// Reads the leases of events and runs.
fn ask_leases(db: &Connection, settlements: &[Settlement], known: &mut Known) -> Result<(), Error> {
    for settlement in settlements {
        match settlement.settles {
            Settles::Event { id, .. } => known.events.extend(lease(db, Queue::Events, id.as_i64())?.map(|token| (id, token))),
            Settles::Run { id, .. } => known.runs.extend(lease(db, Queue::Runs, id.as_i64())?.map(|token| (id, token))),
        }
    }
    Ok(())
}

/// Reads everything else that the decisions need. No other write happens until the decisions are written.
fn ask(db: &Connection, local: &Local, settlements: &[Settlement]) -> Result<Known, Error> {
    let mut known = Known { events: HashMap::with_capacity(settlements.len()), ..Known::default() };
    let limit = local.state_limits.scheduled_max;
    let (bounds, unknown) = local.scheduled.known(settlements.iter().flat_map(|settlement| &settlement.runs), limit, None);
    known.ledger.scheduled = bounds;
    for plugin in unknown {
        let count = scheduled::count(db, plugin, limit)?;
        local.scheduled.counted([(plugin, count)]);
        known.ledger.scheduled.insert(plugin.to_owned(), count);
    }
    for settlement in settlements {
        // An event has no children before its first settlement.
        if !matches!(settlement.settles, Settles::Event { round: 0, .. }) {
            known.children.insert(settlement.event.id, children(db, settlement.event.id)?);
        }
        for run in &settlement.runs {
            let plugin = &*run.identity.plugin;
            for read in run.reads() {
                let mut select = db.prepare_cached("SELECT version FROM state WHERE plugin = ?1 AND key = ?2")?;
                if let Some(version) = select.query_row(params![plugin, read.key], |row| row.get(0)).optional()? {
                    known.versions.insert(plugin, &read.key, version);
                }
            }
            state::ask(db, run, &mut known.ledger)?;
        }
    }
    Ok(known)
}

/// A table of leased rows.
enum Queue {
    Events,
    Runs,
}

/// Returns the token of a row's lease, if the row exists and is leased.
fn lease(db: &Connection, queue: Queue, id: i64) -> Result<Option<i64>, Error> {
    let sql = match queue {
        Queue::Events => "SELECT lease FROM event_queue WHERE id = ?1",
        Queue::Runs => "SELECT lease FROM run_queue WHERE id = ?1",
    };
    let token: Option<Option<i64>> = db.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
    Ok(token.flatten())
}

/// Returns the numbers for the event's next children.
fn children(db: &Connection, event: EventId) -> Result<Children, Error> {
    let (from, until) = event.children();
    let last =
        |sql: &str| -> Result<Option<i64>, Error> { Ok(db.prepare_cached(sql)?.query_row([from, until], |row| row.get(0))?) };
    let run = last("SELECT max(id) FROM run WHERE id >= ?1 AND id < ?2")?;
    let live = last("SELECT max(id) FROM live WHERE id >= ?1 AND id < ?2")?;
    let finished = last("SELECT max(id) FROM delivery WHERE id >= ?1 AND id < ?2")?;
    let scheduled = last("SELECT max(id) FROM scheduled WHERE id >= ?1 AND id < ?2")?;
    let (run, delivery) = (run.map(RunId::from_i64), live.max(finished).map(DeliveryId::from_i64));
    Ok(Children::after(run, delivery, scheduled.map(ScheduledId::from_i64)))
}

fn write(
    db: &Connection,
    local: &Local,
    known: &Known,
    settlement: &Settlement,
    plan: &Plan<'_>,
    after: &mut After,
) -> Result<(), Error> {
    for (id, run) in plan.runs() {
        write_run(db, id, plan.round, run, after)?;
        accept::insert_all(db, local, run.new_events().cloned(), after)?;
    }
    for (id, scheduled) in plan.scheduled() {
        scheduled::insert(db, id, scheduled)?;
    }
    for (plugin, write) in plan.writes() {
        state::write(db, plugin, write, plan.state_version())?;
    }
    for (id, run, delivery) in plan.deliveries() {
        if let Some(payload) = &delivery.payload {
            write_payload(db, id, run, payload)?;
        }
        let token = || local.next_token();
        let queued = after.queue_delivery(local, token, &settlement.event, (id, delivery), known.placement(delivery));
        write_delivery(db, id, plan.round, delivery, queued)?;
    }
    Ok(())
}

fn write_routing(db: &Connection, routing: Routing) -> Result<(), Error> {
    let (id, unrouted) = match routing {
        Routing::Before(_) => return Ok(()),
        Routing::Routed(id) => (id, None),
        Routing::RoutedAgain(id) => (id, Some("DELETE FROM unrouted WHERE id = ?1")),
        Routing::Unrouted(id) => (id, Some("INSERT OR IGNORE INTO unrouted (id) VALUES (?1)")),
    };
    for sql in [Some("DELETE FROM event_queue WHERE id = ?1"), unrouted].into_iter().flatten() {
        db.prepare_cached(sql)?.execute([id.as_i64()])?;
    }
    Ok(())
}

fn write_run(db: &Connection, id: RunId, round: u32, run: &RunRecord, after: &mut After) -> Result<(), Error> {
    let (identity, execution, failure) = (&run.identity, run.execution(), run.failure());
    let micros = execution.map_or(0, |execution| i64::try_from(execution.took.as_micros()).unwrap_or(i64::MAX));
    let log = execution.map(|execution| &execution.log);
    db.prepare_cached(
        "INSERT INTO run (id, round, plugin, version, endpoint, outcome, code, message, tries, took_us, memory_peak, webhooks,
             emitted, log, log_dropped, settings_revision, state_read)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
         ON CONFLICT (id) DO UPDATE SET version = excluded.version, outcome = excluded.outcome, code = excluded.code,
             message = excluded.message, tries = excluded.tries, took_us = excluded.took_us, memory_peak = excluded.memory_peak,
             webhooks = excluded.webhooks, emitted = excluded.emitted, log = excluded.log, log_dropped = excluded.log_dropped,
             settings_revision = excluded.settings_revision, state_read = excluded.state_read",
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
        u32::try_from(run.events()).unwrap_or(u32::MAX),
        execution.and_then(rows::log_to_column),
        log.map_or(0, |log| i64::try_from(log.dropped).unwrap_or(i64::MAX)),
        execution.map(|execution| execution.recording.settings),
        execution.and_then(|execution| rows::state_read_to_column(&execution.recording)),
    ])?;
    let next_at = match QueueRow::of(run) {
        QueueRow::None => return Ok(()),
        QueueRow::Delete => {
            db.prepare_cached("DELETE FROM run_queue WHERE id = ?1")?.execute([id.as_i64()])?;
            return Ok(());
        }
        QueueRow::Waiting { due } => {
            after.due_at(due);
            due.millis()
        }
        QueueRow::Parked => 0,
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
        run.state().as_str(),
        run.outcome().map(RunOutcome::as_str),
        run.wants(),
        next_at,
    ])?;
    Ok(())
}

/// Writes a delivery into the queue, or as a finished delivery if it will never be sent.
fn write_delivery(
    db: &Connection,
    id: DeliveryId,
    round: u32,
    delivery: &NewDelivery,
    queued: Option<Queued>,
) -> Result<(), Error> {
    let endpoint = delivery.endpoint.as_i64();
    match queued {
        Some(Queued { next_at, lease }) => {
            db.prepare_cached(
                "INSERT INTO live (id, endpoint, round, attempts, next_at, lease, ordering) VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6)",
            )?
            .execute(params![id.as_i64(), endpoint, round, next_at.millis(), lease, delivery.ordering])?;
            Ok(())
        }
        None => {
            let ending = delivery.initial_state.ending().expect("a delivery that is not queued is never sent");
            finish(db, id, (endpoint, i64::from(round), 0), ending, clock::wall())
        }
    }
}

fn write_payload(db: &Connection, id: DeliveryId, run: Option<RunId>, payload: &Payload) -> Result<(), Error> {
    db.prepare_cached(
        "INSERT INTO payload (id, type, content_type, headers, codec, body, run) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        id.as_i64(),
        payload.event_type.as_deref(),
        payload.content_type,
        rows::headers_to_column(&payload.headers),
        rows::PLAIN,
        &*payload.body,
        run.map(RunId::as_i64),
    ])?;
    Ok(())
}
