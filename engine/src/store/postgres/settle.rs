//! Commit 2: an event's routing and runs, or one later run, take effect as a whole, many at once. First everything that could refuse
//! is locked and asked for all of them; then each is judged in its turn, in memory; then everything is written, a statement per table.

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
    state,
};
use crate::{
    clock,
    domain::{
        delivery::{Birth, DeadReason, NewDelivery, Payload},
        event::{Event, NewEvent},
        id::{CHILDREN_MAX, DeliveryId, EndpointId, EventId, RunId},
        run::{RunOutcome, RunRecord, RunState},
    },
    store::{
        DeliveryClaim, Error, LEASE, Lease, Settle, Settled, Settlement, Settles,
        columns::{PLAIN, headers_to_column, log_to_column},
        commit::After,
        state::Ledger,
        weight,
    },
};

/// A plugin and a key of its state.
type StateName = (String, String);

/// What a payload counts for beside its body, of what the store holds.
pub const PAYLOAD_BYTES: i64 = 512;

/// What a delivery holds in memory while it waits.
pub fn delivery_weight(event: &Event, payload: Option<&Payload>) -> usize {
    weight::event(&event.new) + payload.map_or(0, weight::payload)
}

/// A number to lock by, the same on every node.
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
    let mut known = Known::ask(tx, node, &all).await?;
    let mut written = Written::default();
    let mut answers = Vec::with_capacity(all.len());
    for settlement in all {
        answers.push(judge(local, node, settlement, &mut known, &mut written, after));
    }
    written.write(tx, local, node, after).await?;
    after.let_go = true;
    let mut answers = answers.into_iter();
    Ok(calls.iter().map(|call| answers.by_ref().take(call.len()).collect()).collect())
}

/// What the store holds of what is being settled, kept up with by what is settled before in the same transaction.
struct Known {
    /// Leases of the rows in both queues.
    events: HashMap<i64, Option<i64>>,
    runs: HashMap<i64, Option<i64>>,
    /// Versions of state; what is not there has none.
    versions: HashMap<StateName, i64>,
    ledger: Ledger,
    children: HashMap<EventId, Children>,
    /// Endpoints that only another node may send to, or that nobody holds yet.
    elsewhere: HashSet<EndpointId>,
}

/// The numbers that an event's next run and delivery get.
#[derive(Clone, Copy, Default)]
struct Children {
    run: u32,
    delivery: u32,
}

impl Known {
    async fn ask(tx: &Transaction<'_>, node: i64, all: &[&Settlement]) -> Result<Self, Error> {
        let (mut events, mut runs, mut locks) = (Vec::new(), Vec::new(), BTreeSet::new());
        let (mut reads, mut parents, mut endpoints) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut written = BTreeSet::new();
        for settlement in all {
            match settlement.settles {
                Settles::Event { id, .. } => events.push(id.as_i64()),
                Settles::Run { id, .. } => runs.push(id.as_i64()),
            }
            // An event has no children before its first settlement, and nobody else settles it.
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
            endpoints.extend(deliveries.filter(|one| one.birth == Birth::Due).map(|one| one.endpoint.as_i64()));
        }
        // Whoever else settles the same, or claims it, waits or is waited for.
        let events = leases(tx, "event_queue", &events).await?;
        let runs = leases(tx, "run_queue", &runs).await?;
        if !locks.is_empty() {
            let locks: Vec<i64> = locks.into_iter().collect();
            // In the order of their numbers on every node, and before anything is read that they protect.
            execute(tx, "SELECT pg_advisory_xact_lock(key) FROM unnest($1::bigint[]) key", &[&locks]).await?;
        }
        Ok(Self {
            events,
            runs,
            versions: versions(tx, &reads).await?,
            ledger: state::ledger(tx, &written).await?,
            children: children(tx, parents.into_iter().collect()).await?,
            elsewhere: elsewhere(tx, node, endpoints.into_iter().collect()).await?,
        })
    }

    /// Whether the settler's claim is still its own.
    fn holds(&self, settles: Settles) -> bool {
        let (token, lease) = match settles {
            Settles::Event { id, lease, .. } => (self.events.get(&id.as_i64()), lease),
            Settles::Run { id, lease, .. } => (self.runs.get(&id.as_i64()), lease),
        };
        token == Some(&Some(lease.token))
    }

    fn version(&self, plugin: &str, key: &str) -> i64 {
        self.versions.get(&(plugin.to_owned(), key.to_owned())).copied().unwrap_or(0)
    }

    /// The runs whose reads are no longer what is stored.
    fn conflicts(&self, settlement: &Settlement) -> Vec<usize> {
        let mut found = Vec::new();
        let mut written: Vec<(&str, &str)> = Vec::new();
        for (place, run) in settlement.runs.iter().enumerate() {
            let plugin = &*run.identity.plugin;
            let stale = run.reads().iter().any(|read| {
                // The same plugin twice in one settlement (once for each of its endpoints): the second must see the first's writes.
                self.version(plugin, &read.key) != read.version || written.contains(&(plugin, read.key.as_str()))
            });
            if stale {
                found.push(place);
            } else {
                written.extend(run.writes().iter().map(|write| (plugin, write.key.as_str())));
            }
        }
        found
    }
}

async fn leases(tx: &Transaction<'_>, table: &str, ids: &[i64]) -> Result<HashMap<i64, Option<i64>>, Error> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = format!("SELECT id, lease FROM {table} WHERE id = ANY($1) ORDER BY id FOR UPDATE");
    rows(tx, &sql, &[&ids]).await?.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect()
}

async fn versions(tx: &Transaction<'_>, reads: &BTreeSet<(&str, &str)>) -> Result<HashMap<StateName, i64>, Error> {
    if reads.is_empty() {
        return Ok(HashMap::new());
    }
    let plugins: Vec<&str> = reads.iter().map(|read| read.0).collect();
    let keys: Vec<&[u8]> = reads.iter().map(|read| read.1.as_bytes()).collect();
    let found = rows(
        tx,
        "SELECT s.plugin, s.key, s.version FROM unnest($1::text[], $2::bytea[]) u (plugin, key)
         JOIN state s ON s.plugin = u.plugin AND s.key = u.key",
        &[&plugins, &keys],
    )
    .await?;
    let version = |row: &tokio_postgres::Row| -> Result<(StateName, i64), Error> {
        Ok(((get(row, 0)?, String::from_utf8_lossy(get(row, 1)?).into_owned()), get(row, 2)?))
    };
    found.iter().map(version).collect()
}

async fn children(tx: &Transaction<'_>, parents: Vec<i64>) -> Result<HashMap<EventId, Children>, Error> {
    if parents.is_empty() {
        return Ok(HashMap::new());
    }
    let found = rows(
        tx,
        "SELECT u.id, (SELECT max(r.id) FROM run r WHERE r.id >= u.id << 14 AND r.id < (u.id + 1) << 14),
             greatest((SELECT max(l.id) FROM live l WHERE l.id >= u.id << 14 AND l.id < (u.id + 1) << 14),
                      (SELECT max(d.id) FROM delivery d WHERE d.id >= u.id << 14 AND d.id < (u.id + 1) << 14))
         FROM unnest($1::bigint[]) u (id)",
        &[&parents],
    )
    .await?;
    let next = |row: &tokio_postgres::Row| -> Result<(EventId, Children), Error> {
        let (run, delivery): (Option<i64>, Option<i64>) = (get(row, 1)?, get(row, 2)?);
        let children = Children {
            run: run.map_or(0, |id| RunId::from_i64(id).k() + 1),
            delivery: delivery.map_or(0, |id| DeliveryId::from_i64(id).k() + 1),
        };
        Ok((EventId::from_i64(get(row, 0)?), children))
    };
    found.iter().map(next).collect()
}

/// Of these endpoints, those that one node at a time may send to and this is not the one.
async fn elsewhere(tx: &Transaction<'_>, node: i64, endpoints: Vec<i64>) -> Result<HashSet<EndpointId>, Error> {
    if endpoints.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = "SELECT id FROM endpoint WHERE id = ANY($1) AND single AND holder IS DISTINCT FROM $2";
    rows(tx, sql, &[&endpoints, &node]).await?.iter().map(|row| Ok(EndpointId::from_i64(get(row, 0)?))).collect()
}

/// Says what becomes of one settlement, and notes what is to be written for it.
fn judge(
    local: &Local,
    node: i64,
    settlement: &Settlement,
    known: &mut Known,
    written: &mut Written,
    after: &mut After,
) -> Settled {
    if !known.holds(settlement.settles) {
        return Settled::LeaseLost;
    }
    let conflicts = known.conflicts(settlement);
    if !conflicts.is_empty() {
        return Settled::StateConflict(conflicts);
    }
    let event = &settlement.event;
    let mut next = known.children.get(&event.id).copied().unwrap_or_default();
    let new_runs = settlement.runs.iter().filter(|run| run.identity.id.is_none()).count();
    let new_deliveries = settlement.direct.len() + settlement.runs.iter().map(|run| run.deliveries().len()).sum::<usize>();
    if next.run as usize + new_runs > CHILDREN_MAX as usize || next.delivery as usize + new_deliveries > CHILDREN_MAX as usize {
        return Settled::TooMany;
    }
    let full = known.ledger.admit(&settlement.runs, local.state_limits);
    if !full.is_empty() {
        return Settled::StateFull(full);
    }
    let round = match settlement.settles {
        Settles::Event { id, round, .. } => {
            known.events.remove(&id.as_i64());
            written.settled.push(id.as_i64());
            match settlement.runs.is_empty() && settlement.direct.is_empty() {
                true => written.unrouted.push(id.as_i64()),
                false if round > 0 => written.routed.push(id.as_i64()),
                false => {}
            }
            round
        }
        Settles::Run { id, round, .. } => {
            known.runs.remove(&id.as_i64());
            round
        }
    };
    let mut deliver = |next: &mut Children, delivery: &NewDelivery| {
        let id = event.id.delivery(next.delivery);
        next.delivery += 1;
        let elsewhere = known.elsewhere.contains(&delivery.endpoint);
        written.deliver(local, node, event, id, round, delivery, elsewhere, after);
    };
    let mut runs = Vec::with_capacity(settlement.runs.len());
    for run in &settlement.runs {
        let id = run.identity.id.unwrap_or_else(|| {
            next.run += 1;
            event.id.run(next.run - 1)
        });
        run.deliveries().iter().for_each(|delivery| deliver(&mut next, delivery));
        runs.push((id, run));
    }
    settlement.direct.iter().for_each(|delivery| deliver(&mut next, delivery));
    let version = settlement.settles.state_version();
    for (id, run) in runs {
        for write in run.writes() {
            let name = (run.identity.plugin.to_string(), write.key.clone());
            match write.value {
                Some(_) => known.versions.insert(name.clone(), version),
                None => known.versions.remove(&name),
            };
            written.state.insert(name, (write.value.clone(), version));
        }
        written.events.extend(run.new_events().cloned());
        written.run(id, round, run, after);
    }
    known.children.insert(event.id, next);
    Settled::Done
}

/// What is to be written, table by table.
#[derive(Default)]
struct Written {
    settled: Vec<i64>,
    unrouted: Vec<i64>,
    routed: Vec<i64>,
    runs: Runs,
    /// Runs that are done and have a place in the queue.
    done: Vec<i64>,
    queue: RunQueue,
    /// Value, or none where it is deleted, and version.
    state: BTreeMap<StateName, (Option<Vec<u8>>, i64)>,
    events: Vec<NewEvent>,
    payloads: Vec<(i64, Arc<Payload>)>,
    dead: Rows,
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
    /// `None` for what waits for somebody and not for a time.
    next_at: Vec<i64>,
}

impl Written {
    fn run(&mut self, id: RunId, round: u32, run: &RunRecord, after: &mut After) {
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
        rows.emitted.push(count(run.emitted().len() as u64));
        rows.logs.push(execution.and_then(|execution| log_to_column(&execution.log)));
        rows.dropped.push(execution.map_or(0, |execution| count(execution.log.dropped)));
        let (state, next_at) = match run.state() {
            RunState::Done => {
                if run.identity.id.is_some() {
                    self.done.push(id.as_i64());
                }
                return;
            }
            RunState::Waiting { due } => {
                after.due_at(due);
                ("waiting", due.millis())
            }
            RunState::Parked => ("parked", 0),
        };
        let queue = &mut self.queue;
        queue.ids.push(id.as_i64());
        queue.plugins.push(identity.plugin.to_string());
        queue.endpoints.push(endpoint);
        queue.rounds.push(i64::from(round));
        queue.tries.push(i64::from(run.tries()));
        queue.states.push(state);
        queue.outcomes.push(outcome);
        queue.wants.push(run.wants().map(|wants| clean(wants).into_owned()));
        queue.next_at.push(next_at);
    }

    #[expect(clippy::too_many_arguments, reason = "what a delivery is made of, and where it goes")]
    fn deliver(
        &mut self,
        local: &Local,
        node: i64,
        event: &Arc<Event>,
        id: DeliveryId,
        round: u32,
        delivery: &NewDelivery,
        elsewhere: bool,
        after: &mut After,
    ) {
        if let Some(payload) = &delivery.payload {
            self.payloads.push((id.as_i64(), Arc::clone(payload)));
        }
        let endpoint = delivery.endpoint;
        let now = clock::steady();
        let slot = match delivery.birth {
            Birth::Dead => return self.dead.push(id, endpoint, round),
            // Whose turn it is, only the store can tell.
            Birth::Due if delivery.ordering.is_some() || elsewhere => {
                after.due_now();
                None
            }
            Birth::Due => {
                let weight = delivery_weight(event, delivery.payload.as_deref());
                let slot = local.handoff.deliveries.reserve(&endpoint, weight);
                // Another node may have room; this one is rung when it has.
                if slot.is_none() {
                    after.overflow();
                }
                slot
            }
            Birth::Held => None,
        };
        self.live.push(id, endpoint, round);
        self.orderings.push(delivery.ordering);
        match slot {
            Some(slot) => {
                let lease = Lease { token: local.next_token(node), until: now.plus(LEASE) };
                self.next_at.push(local.db_at(lease.until));
                self.leases.push(Some(lease.token));
                let (event, payload) = (Arc::clone(event), delivery.payload.clone());
                after.deliveries.push(DeliveryClaim { id, endpoint, event, payload, attempts: 0, lease, slot });
            }
            None => {
                self.next_at.push(local.db_at(now));
                self.leases.push(None);
            }
        }
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
        self.write_runs(tx, local).await?;
        self.write_state(tx).await?;
        self.write_deliveries(tx, after).await?;
        accept::insert_all(tx, local, node, self.events, after).await
    }

    async fn write_runs(&self, tx: &Transaction<'_>, local: &Local) -> Result<(), Error> {
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
        } = &self.runs;
        if ids.is_empty() {
            return Ok(());
        }
        execute(
            tx,
            "INSERT INTO run (id, round, plugin, version, endpoint, outcome, code, message, tries, took_us, memory_peak, webhooks,
                 emitted, log, log_dropped)
             SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bytea[], $5::bigint[], $6::text[], $7::text[], $8::text[],
                 $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[], $15::bigint[])
             ON CONFLICT (id) DO UPDATE SET version = excluded.version, outcome = excluded.outcome, code = excluded.code,
                 message = excluded.message, tries = excluded.tries, took_us = excluded.took_us, memory_peak = excluded.memory_peak,
                 webhooks = excluded.webhooks, emitted = excluded.emitted, log = excluded.log, log_dropped = excluded.log_dropped",
            &[
                ids, rounds, plugins, versions, endpoints, outcomes, codes, messages, tries, took, memory, webhooks, emitted, logs,
                dropped,
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
        let at = |(state, due): (&&str, &i64)| match *state {
            "waiting" => local.db_at(crate::domain::time::Timestamp::from_millis(*due)),
            _ => *due,
        };
        let next_at: Vec<i64> = states.iter().zip(next_at).map(at).collect();
        execute(
            tx,
            "INSERT INTO run_queue (id, plugin, endpoint, round, tries, state, outcome, wants, next_at)
             SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[],
                 $9::bigint[])
             ON CONFLICT (id) DO UPDATE SET tries = excluded.tries, state = excluded.state, outcome = excluded.outcome,
                 wants = excluded.wants, next_at = excluded.next_at, lease = NULL",
            &[ids, plugins, endpoints, rounds, tries, states, outcomes, wants, &next_at],
        )
        .await?;
        Ok(())
    }

    async fn write_state(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let (mut plugins, mut keys, mut values, mut versions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut gone_plugins, mut gone_keys) = (Vec::new(), Vec::new());
        for ((plugin, key), (value, version)) in &self.state {
            match value {
                Some(value) => {
                    plugins.push(plugin);
                    keys.push(key.as_bytes());
                    values.push(value.as_slice());
                    versions.push(*version);
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
                "INSERT INTO state (plugin, key, value, version)
                 SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bigint[])
                 ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value, version = excluded.version",
                &[&plugins, &keys, &values, &versions],
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
            let payload = || self.payloads.iter().map(|(_, payload)| payload);
            let ids: Vec<i64> = self.payloads.iter().map(|(id, _)| *id).collect();
            let types: Vec<Option<&str>> = payload().map(|one| one.event_type.as_deref()).collect();
            let contents: Vec<_> = payload().map(|one| clean(&one.content_type)).collect();
            let headers: Vec<Option<String>> = payload().map(|one| headers_to_column(&one.headers)).collect();
            let bodies: Vec<&[u8]> = payload().map(|one| &*one.body).collect();
            execute(
                tx,
                "INSERT INTO payload (id, type, content_type, headers, codec, body)
                 SELECT u.id, u.type, u.content_type, u.headers, $6::bigint, u.body
                 FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bytea[]) u (id, type, content_type, headers, body)",
                &[&ids, &types, &contents, &headers, &bodies, &PLAIN],
            )
            .await?;
            after.bytes += payload().map(|one| PAYLOAD_BYTES + one.body.len() as i64).sum::<i64>();
        }
        if !self.dead.ids.is_empty() {
            let Rows { ids, endpoints, rounds } = &self.dead;
            execute(
                tx,
                "INSERT INTO delivery (id, endpoint, round, state, reason, attempts, at)
                 SELECT u.id, u.endpoint, u.round, 'dead', $4, 0, $5
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) u (id, endpoint, round)",
                &[ids, endpoints, rounds, &DeadReason::EndpointDisabled.as_str(), &clock::wall().millis()],
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
