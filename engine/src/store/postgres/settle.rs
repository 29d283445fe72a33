//! The second commit of an event (commit 2): its routing and runs, or one deferred run, take effect as a whole. One transaction
//! contains many such settlements. First the store locks and reads everything that the decisions need, for all settlements. Then
//! [`judge`] decides about each settlement, in memory. Then the store writes everything, with one statement per table.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use sha2::{Digest as _, Sha256};

use super::{
    Local, Postgres, accept,
    db::{clean, execute, get, rows},
    scheduled, state,
};
use crate::{
    clock,
    domain::{
        delivery::{Ending, InitialState, Payload},
        event::NewEvent,
        id::{DeliveryId, EndpointId, EventId, RunId, ScheduledId},
        run::{RunOutcome, RunRecord, Scheduled},
        time::Timestamp,
    },
    store::{
        Error, Settle, Settled, Settlement, Settles,
        columns::{PLAIN, ending_to_columns, headers_to_column, log_to_column, state_read_to_column},
        commit::{After, Queued},
        scheduled::SHARED_FOR,
        settle::{Children, Known, Plan, QueueRow, Routing, Versions, judge},
        state::Ledger,
        weight,
    },
};

/// A plugin and a key of its state.
type StateName = (String, String);

/// Estimated number of bytes that a payload takes in the store, in addition to its body.
pub const PAYLOAD_BYTES: i64 = 512;

/// Returns a number for an advisory lock. Every node computes the same number.
pub fn lock_key(kind: &str, name: &[&[u8]]) -> i64 {
    let mut hash = Sha256::new_with_prefix(kind);
    for part in name {
        hash.update([0]);
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    i64::from_le_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
}

#[async_trait]
impl Settle for Postgres {
    async fn settle(&self, settlements: Arc<Vec<Settlement>>) -> Result<Vec<Settled>, Error> {
        let weight = settlements.iter().map(weight::settlement).sum();
        self.committer.settle(weight, settlements).await
    }
}

pub async fn settle(
    tx: &Transaction<'_>,
    local: &Local,
    node: i64,
    calls: &[&[Settlement]],
    after: &mut After,
) -> Result<Vec<Vec<Settled>>, Error> {
    let all: Vec<&Settlement> = calls.iter().flat_map(|call| call.iter()).collect();
    let mut known = ask(tx, local, node, &all).await?;
    let mut written = Written::default();
    let mut answers = Vec::with_capacity(all.len());
    for settlement in all {
        answers.push(match judge(&mut known, settlement, local.state_limits) {
            Ok(plan) => {
                written.add(local, node, &known, settlement, &plan, after);
                Settled::Done
            }
            Err(refused) => refused,
        });
    }
    local.scheduled.raise(&known.ledger.scheduled);
    written.write(tx, local, node, after).await?;
    after.let_go = true;
    let mut answers = answers.into_iter();
    Ok(calls.iter().map(|call| answers.by_ref().take(call.len()).collect()).collect())
}

/// Locks and reads everything that the decisions need.
async fn ask(tx: &Transaction<'_>, local: &Local, node: i64, all: &[&Settlement]) -> Result<Known, Error> {
    let (mut events, mut runs, mut locks) = (Vec::new(), Vec::new(), BTreeSet::new());
    let (mut reads, mut parents, mut endpoints) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut written = BTreeSet::new();
    for settlement in all {
        match settlement.settles {
            Settles::Event { id, .. } => events.push(id.as_i64()),
            Settles::Run { id, .. } => runs.push(id.as_i64()),
        }
        // An event has no children before its first settlement, and no other node settles it.
        if !matches!(settlement.settles, Settles::Event { round: 0, .. }) {
            parents.insert(settlement.event.id.as_i64());
            locks.insert(lock_key("event", &[&settlement.event.id.as_i64().to_le_bytes()]));
        }
        for run in &settlement.runs {
            let (plugin, read, writes) = (&*run.identity.plugin, run.reads(), run.writes());
            for key in read.iter().map(|read| &read.key).chain(writes.iter().map(|write| &write.key)) {
                locks.insert(lock_key("state", &[plugin.as_bytes(), key.as_bytes()]));
            }
            reads.extend(read.iter().map(|read| (plugin, read.key.as_str())));
            written.extend(writes.iter().map(|write| (plugin, write.key.as_str())));
        }
        let deliveries = settlement.direct.iter().chain(settlement.runs.iter().flat_map(|run| run.deliveries()));
        endpoints.extend(deliveries.filter(|one| one.initial_state == InitialState::Due).map(|one| one.endpoint.as_i64()));
    }
    // While these rows are locked, no other node can settle or claim them.
    let events = leases(tx, "event_queue", &events).await?;
    let runs = leases(tx, "run_queue", &runs).await?;
    if !locks.is_empty() {
        let locks: Vec<i64> = locks.into_iter().collect();
        // Every node takes these locks in the order of their numbers, so that no two nodes wait for each other. The store reads
        // what the locks protect only after it holds them.
        execute(tx, "SELECT pg_advisory_xact_lock(key) FROM unnest($1::bigint[]) key", &[&locks]).await?;
    }
    let ledger = state::ledger(tx, &written).await?;
    let limit = local.state_limits.scheduled_max;
    let (mut bounds, unknown) =
        local.scheduled.known(all.iter().flat_map(|settlement| &settlement.runs), limit, Some(SHARED_FOR));
    let counts = scheduled::counts(tx, &unknown, limit).await?;
    local.scheduled.counted(counts.iter().map(|(plugin, count)| (plugin.as_str(), *count)));
    bounds.extend(counts);
    let ledger = Ledger { scheduled: bounds, ..ledger };
    Ok(Known {
        events: events.into_iter().map(|(id, token)| (EventId::from_i64(id), token)).collect(),
        runs: runs.into_iter().map(|(id, token)| (RunId::from_i64(id), token)).collect(),
        versions: versions(tx, &reads).await?,
        ledger,
        children: children(tx, parents.into_iter().collect()).await?,
        elsewhere: elsewhere(tx, node, endpoints.into_iter().collect()).await?,
    })
}

/// Locks rows of a queue, and returns the tokens of the leased ones.
async fn leases(tx: &Transaction<'_>, table: &str, ids: &[i64]) -> Result<Vec<(i64, i64)>, Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT id, lease FROM {table} WHERE id = ANY($1) ORDER BY id FOR UPDATE");
    let mut held = Vec::with_capacity(ids.len());
    for row in rows(tx, &sql, &[&ids]).await? {
        if let Some(token) = get::<Option<i64>>(&row, 1)? {
            held.push((get(&row, 0)?, token));
        }
    }
    Ok(held)
}

async fn versions(tx: &Transaction<'_>, reads: &BTreeSet<(&str, &str)>) -> Result<Versions, Error> {
    let mut versions = Versions::default();
    if reads.is_empty() {
        return Ok(versions);
    }
    let plugins: Vec<&str> = reads.iter().map(|read| read.0).collect();
    let keys: Vec<&[u8]> = reads.iter().map(|read| read.1.as_bytes()).collect();
    let sql = "SELECT s.plugin, s.key, s.version FROM unnest($1::text[], $2::bytea[]) u (plugin, key)
               JOIN state s ON s.plugin = u.plugin AND s.key = u.key";
    for row in rows(tx, sql, &[&plugins, &keys]).await? {
        versions.insert(get(&row, 0)?, &String::from_utf8_lossy(get(&row, 1)?), get(&row, 2)?);
    }
    Ok(versions)
}

async fn children(tx: &Transaction<'_>, parents: Vec<i64>) -> Result<HashMap<EventId, Children>, Error> {
    if parents.is_empty() {
        return Ok(HashMap::new());
    }
    let found = rows(
        tx,
        "SELECT u.id, (SELECT max(r.id) FROM run r WHERE r.id >= u.id << 14 AND r.id < (u.id + 1) << 14),
             greatest((SELECT max(l.id) FROM live l WHERE l.id >= u.id << 14 AND l.id < (u.id + 1) << 14),
                      (SELECT max(d.id) FROM delivery d WHERE d.id >= u.id << 14 AND d.id < (u.id + 1) << 14)),
             (SELECT max(s.id) FROM scheduled s WHERE s.id >= u.id << 14 AND s.id < (u.id + 1) << 14)
         FROM unnest($1::bigint[]) u (id)",
        &[&parents],
    )
    .await?;
    let next = |row: &tokio_postgres::Row| -> Result<(EventId, Children), Error> {
        let (run, delivery, scheduled): (Option<i64>, Option<i64>, Option<i64>) = (get(row, 1)?, get(row, 2)?, get(row, 3)?);
        let (run, delivery) = (run.map(RunId::from_i64), delivery.map(DeliveryId::from_i64));
        let children = Children::after(run, delivery, scheduled.map(ScheduledId::from_i64));
        Ok((EventId::from_i64(get(row, 0)?), children))
    };
    found.iter().map(next).collect()
}

/// Returns those of the endpoints that another node holds. Only one node at a time may send to such an endpoint.
async fn elsewhere(tx: &Transaction<'_>, node: i64, endpoints: Vec<i64>) -> Result<HashSet<EndpointId>, Error> {
    if endpoints.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = "SELECT id FROM endpoint WHERE id = ANY($1) AND single AND holder IS DISTINCT FROM $2";
    rows(tx, sql, &[&endpoints, &node]).await?.iter().map(|row| Ok(EndpointId::from_i64(get(row, 0)?))).collect()
}

/// A value or its deletion, its version, and when it expires.
type StateRow = (Option<Vec<u8>>, i64, Option<i64>);

/// The rows to write, by table.
#[derive(Default)]
struct Written {
    settled: Vec<i64>,
    unrouted: Vec<i64>,
    routed: Vec<i64>,
    runs: Runs,
    /// Finished runs that have a row in the queue.
    done: Vec<i64>,
    queue: RunQueue,
    /// Value (`None` deletes it), version, and when it expires.
    state: BTreeMap<StateName, StateRow>,
    events: Vec<NewEvent>,
    scheduled: Vec<(ScheduledId, Scheduled)>,
    payloads: Vec<(i64, Option<RunId>, Arc<Payload>)>,
    ended: Rows,
    endings: Vec<Ending>,
    live: Rows,
    next_at: Vec<i64>,
    leases: Vec<Option<i64>>,
    orderings: Vec<Option<i64>>,
}

/// Deliveries: id, endpoint, round.
#[derive(Default)]
struct Rows {
    ids: Vec<i64>,
    endpoints: Vec<i64>,
    rounds: Vec<i64>,
}

impl Rows {
    fn push(&mut self, id: DeliveryId, endpoint: EndpointId, round: u32) {
        self.ids.push(id.as_i64());
        self.endpoints.push(endpoint.as_i64());
        self.rounds.push(i64::from(round));
    }
}

#[derive(Default)]
struct Runs {
    ids: Vec<i64>,
    rounds: Vec<i64>,
    plugins: Vec<String>,
    versions: Vec<Option<Vec<u8>>>,
    endpoints: Vec<Option<i64>>,
    outcomes: Vec<Option<&'static str>>,
    codes: Vec<Option<String>>,
    messages: Vec<Option<String>>,
    tries: Vec<i64>,
    took: Vec<i64>,
    memory: Vec<i64>,
    webhooks: Vec<i64>,
    emitted: Vec<i64>,
    logs: Vec<Option<String>>,
    dropped: Vec<i64>,
    settings: Vec<Option<i64>>,
    state_read: Vec<Option<String>>,
}

#[derive(Default)]
struct RunQueue {
    ids: Vec<i64>,
    plugins: Vec<String>,
    endpoints: Vec<Option<i64>>,
    rounds: Vec<i64>,
    tries: Vec<i64>,
    states: Vec<&'static str>,
    outcomes: Vec<Option<&'static str>>,
    wants: Vec<Option<String>>,
    next_at: Vec<i64>,
}

impl Written {
    /// Adds the rows of one settlement.
    fn add(&mut self, local: &Local, node: i64, known: &Known, settlement: &Settlement, plan: &Plan<'_>, after: &mut After) {
        match plan.routing {
            Routing::Before(_) => {}
            Routing::Routed(id) => self.settled.push(id.as_i64()),
            Routing::RoutedAgain(id) => {
                self.settled.push(id.as_i64());
                self.routed.push(id.as_i64());
            }
            Routing::Unrouted(id) => {
                self.settled.push(id.as_i64());
                self.unrouted.push(id.as_i64());
            }
        }
        for (id, run) in plan.runs() {
            self.events.extend(run.new_events().cloned());
            self.run(local, id, plan.round, run, after);
        }
        self.scheduled.extend(plan.scheduled().map(|(id, scheduled)| (id, scheduled.clone())));
        for (plugin, write) in plan.writes() {
            let name = (plugin.to_owned(), write.key.clone());
            let expires_at = write.expires_at.map(Timestamp::millis);
            self.state.insert(name, (write.value.clone(), plan.state_version(), expires_at));
        }
        for (id, run, delivery) in plan.deliveries() {
            if let Some(payload) = &delivery.payload {
                self.payloads.push((id.as_i64(), run, Arc::clone(payload)));
            }
            let token = || local.next_token(node);
            let queued = after.queue_delivery(local, token, &settlement.event, (id, delivery), known.placement(delivery));
            match queued {
                None => {
                    self.ended.push(id, delivery.endpoint, plan.round);
                    self.endings.push(delivery.initial_state.ending().expect("a delivery that is not queued is never sent"));
                }
                Some(Queued { next_at, lease }) => {
                    self.live.push(id, delivery.endpoint, plan.round);
                    self.orderings.push(delivery.ordering);
                    self.next_at.push(local.db_at(next_at));
                    self.leases.push(lease);
                }
            }
        }
    }

    fn run(&mut self, local: &Local, id: RunId, round: u32, run: &RunRecord, after: &mut After) {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (identity, execution, failure) = (&run.identity, run.execution(), run.failure());
        let endpoint = identity.endpoint.map(EndpointId::as_i64);
        let outcome = run.outcome().map(RunOutcome::as_str);
        let rows = &mut self.runs;
        rows.ids.push(id.as_i64());
        rows.rounds.push(i64::from(round));
        rows.plugins.push(identity.plugin.to_string());
        rows.versions.push(execution.map(|execution| execution.version.as_bytes().to_vec()));
        rows.endpoints.push(endpoint);
        rows.outcomes.push(outcome);
        rows.codes.push(failure.map(|failure| clean(&failure.code).into_owned()));
        rows.messages.push(failure.map(|failure| clean(&failure.message).into_owned()));
        rows.tries.push(i64::from(run.tries()));
        rows.took.push(execution.map_or(0, |execution| i64::try_from(execution.took.as_micros()).unwrap_or(i64::MAX)));
        rows.memory.push(execution.map_or(0, |execution| count(execution.memory_peak)));
        rows.webhooks.push(count(run.deliveries().len() as u64));
        rows.emitted.push(count(run.events() as u64));
        rows.logs.push(execution.and_then(log_to_column));
        rows.dropped.push(execution.map_or(0, |execution| count(execution.log.dropped)));
        rows.settings.push(execution.map(|execution| execution.recording.settings));
        rows.state_read.push(execution.and_then(|execution| state_read_to_column(&execution.recording)));
        let next_at = match QueueRow::of(run) {
            QueueRow::None => return,
            QueueRow::Delete => return self.done.push(id.as_i64()),
            QueueRow::Waiting { due } => {
                after.due_at(due);
                local.db_at(due)
            }
            QueueRow::Parked => 0,
        };
        let queue = &mut self.queue;
        queue.ids.push(id.as_i64());
        queue.plugins.push(identity.plugin.to_string());
        queue.endpoints.push(endpoint);
        queue.rounds.push(i64::from(round));
        queue.tries.push(i64::from(run.tries()));
        queue.states.push(run.state().as_str());
        queue.outcomes.push(outcome);
        queue.wants.push(run.wants().map(|wants| clean(wants).into_owned()));
        queue.next_at.push(next_at);
    }

    async fn write(self, tx: &Transaction<'_>, local: &Local, node: i64, after: &mut After) -> Result<(), Error> {
        if !self.settled.is_empty() {
            execute(tx, "DELETE FROM event_queue WHERE id = ANY($1)", &[&self.settled]).await?;
        }
        if !self.unrouted.is_empty() {
            let sql = "INSERT INTO unrouted (id) SELECT * FROM unnest($1::bigint[]) ON CONFLICT DO NOTHING";
            execute(tx, sql, &[&self.unrouted]).await?;
        }
        if !self.routed.is_empty() {
            execute(tx, "DELETE FROM unrouted WHERE id = ANY($1)", &[&self.routed]).await?;
        }
        self.write_runs(tx).await?;
        self.write_state(tx).await?;
        self.write_deliveries(tx, after).await?;
        scheduled::insert(tx, &self.scheduled, after).await?;
        accept::insert_all(tx, local, node, self.events, after).await
    }

    async fn write_runs(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let Runs {
            ids,
            rounds,
            plugins,
            versions,
            endpoints,
            outcomes,
            codes,
            messages,
            tries,
            took,
            memory,
            webhooks,
            emitted,
            logs,
            dropped,
            settings,
            state_read,
        } = &self.runs;
        if ids.is_empty() {
            return Ok(());
        }
        execute(
            tx,
            "INSERT INTO run (id, round, plugin, version, endpoint, outcome, code, message, tries, took_us, memory_peak, webhooks,
                 emitted, log, log_dropped, settings_revision, state_read)
             SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bytea[], $5::bigint[], $6::text[], $7::text[], $8::text[],
                 $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[], $15::bigint[],
                 $16::bigint[], $17::text[])
             ON CONFLICT (id) DO UPDATE SET version = excluded.version, outcome = excluded.outcome, code = excluded.code,
                 message = excluded.message, tries = excluded.tries, took_us = excluded.took_us, memory_peak = excluded.memory_peak,
                 webhooks = excluded.webhooks, emitted = excluded.emitted, log = excluded.log, log_dropped = excluded.log_dropped,
                 settings_revision = excluded.settings_revision, state_read = excluded.state_read",
            &[
                ids, rounds, plugins, versions, endpoints, outcomes, codes, messages, tries, took, memory, webhooks, emitted, logs,
                dropped, settings, state_read,
            ],
        )
        .await?;
        if !self.done.is_empty() {
            execute(tx, "DELETE FROM run_queue WHERE id = ANY($1)", &[&self.done]).await?;
        }
        let RunQueue { ids, plugins, endpoints, rounds, tries, states, outcomes, wants, next_at } = &self.queue;
        if ids.is_empty() {
            return Ok(());
        }
        execute(
            tx,
            "INSERT INTO run_queue (id, plugin, endpoint, round, tries, state, outcome, wants, next_at)
             SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[],
                 $9::bigint[])
             ON CONFLICT (id) DO UPDATE SET tries = excluded.tries, state = excluded.state, outcome = excluded.outcome,
                 wants = excluded.wants, next_at = excluded.next_at, lease = NULL",
            &[ids, plugins, endpoints, rounds, tries, states, outcomes, wants, next_at],
        )
        .await?;
        Ok(())
    }

    async fn write_state(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let (mut plugins, mut keys, mut values, mut versions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut expiries, mut gone_plugins, mut gone_keys) = (Vec::new(), Vec::new(), Vec::new());
        for ((plugin, key), (value, version, expires_at)) in &self.state {
            match value {
                Some(value) => {
                    plugins.push(plugin);
                    keys.push(key.as_bytes());
                    values.push(value.as_slice());
                    versions.push(*version);
                    expiries.push(*expires_at);
                }
                None => {
                    gone_plugins.push(plugin);
                    gone_keys.push(key.as_bytes());
                }
            }
        }
        if !plugins.is_empty() {
            execute(
                tx,
                "INSERT INTO state (plugin, key, value, version, expires_at)
                 SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[])
                 ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value, version = excluded.version,
                     expires_at = excluded.expires_at",
                &[&plugins, &keys, &values, &versions, &expiries],
            )
            .await?;
        }
        if !gone_plugins.is_empty() {
            execute(
                tx,
                "DELETE FROM state s USING unnest($1::text[], $2::bytea[]) u (plugin, key) WHERE s.plugin = u.plugin AND s.key = u.key",
                &[&gone_plugins, &gone_keys],
            )
            .await?;
        }
        Ok(())
    }

    async fn write_deliveries(&self, tx: &Transaction<'_>, after: &mut After) -> Result<(), Error> {
        if !self.payloads.is_empty() {
            let payload = || self.payloads.iter().map(|(.., payload)| payload);
            let ids: Vec<i64> = self.payloads.iter().map(|(id, ..)| *id).collect();
            let runs: Vec<Option<i64>> = self.payloads.iter().map(|(_, run, _)| run.map(RunId::as_i64)).collect();
            let types: Vec<Option<&str>> = payload().map(|one| one.event_type.as_deref()).collect();
            let contents: Vec<_> = payload().map(|one| clean(&one.content_type)).collect();
            let headers: Vec<Option<String>> = payload().map(|one| headers_to_column(&one.headers)).collect();
            let bodies: Vec<&[u8]> = payload().map(|one| &*one.body).collect();
            execute(
                tx,
                "INSERT INTO payload (id, type, content_type, headers, codec, body, run)
                 SELECT u.id, u.type, u.content_type, u.headers, $6::bigint, u.body, u.run
                 FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bytea[], $7::bigint[])
                     u (id, type, content_type, headers, body, run)",
                &[&ids, &types, &contents, &headers, &bodies, &PLAIN, &runs],
            )
            .await?;
            after.bytes += payload().map(|one| PAYLOAD_BYTES + one.body.len() as i64).sum::<i64>();
        }
        if !self.ended.ids.is_empty() {
            let Rows { ids, endpoints, rounds } = &self.ended;
            let (mut states, mut reasons, mut cancelled) = (Vec::new(), Vec::new(), Vec::new());
            for (state, reason, cancel_reason) in self.endings.iter().copied().map(ending_to_columns) {
                states.push(state);
                reasons.push(reason);
                cancelled.push(cancel_reason);
            }
            execute(
                tx,
                "INSERT INTO delivery (id, endpoint, round, state, reason, cancel_reason, attempts, at)
                 SELECT u.id, u.endpoint, u.round, u.state, u.reason, u.cancel_reason, 0, $7
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[])
                     u (id, endpoint, round, state, reason, cancel_reason)",
                &[ids, endpoints, rounds, &states, &reasons, &cancelled, &clock::wall().millis()],
            )
            .await?;
        }
        if !self.live.ids.is_empty() {
            let Rows { ids, endpoints, rounds } = &self.live;
            execute(
                tx,
                "INSERT INTO live (id, endpoint, round, attempts, next_at, lease, ordering)
                 SELECT u.id, u.endpoint, u.round, 0, u.next_at, u.lease, u.ordering
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
                     u (id, endpoint, round, next_at, lease, ordering)",
                &[ids, endpoints, rounds, &self.next_at, &self.leases, &self.orderings],
            )
            .await?;
        }
        Ok(())
    }
}
