//! Claims due rows that no worker holds. Such rows exist after a restart, for retries, if memory had no room for them when they
//! were stored, and if another node gave them back. A claim skips rows that another node is claiming, so no node waits. Some
//! endpoints are ordered, or have a rate limit or a concurrency below the default. Only one node at a time may send to such an
//! endpoint: the node that first claims one of its deliveries holds the endpoint for as long as the node lives. So a single node
//! enforces the order, the rate and the concurrency of the endpoint.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use super::{
    Local, Postgres,
    db::{execute, get, get_u32, limit, row, rows, the_row},
    nodes::announce_config_version,
    rows::{self as values, EVENT_COLUMNS, PAYLOAD_COLUMNS, WHOLE_EVENT_COLUMNS_COUNT, WHOLE_EVENT_REST},
    settle::lock_key,
};
use crate::{
    clock,
    domain::{
        delivery::Payload,
        endpoint::Ordering,
        event::Event,
        id::{DeliveryId, EndpointId, EventId, RunId},
        name::Slug,
        time::Timestamp,
    },
    store::{ClaimId, Claims, DeliveryClaim, Error, EventClaim, LEASE, Lease, RunClaim, columns::Place, commit::After, weight},
};

/// Maximum number of rows of each kind that one claim takes, per endpoint or plugin. Bounds the time of a claim.
const EVENTS_MAX: usize = 256;
const RUNS_MAX: usize = 32;
const DELIVERIES_MAX: usize = 128;
/// Maximum number of ordering keys of one endpoint that one claim checks.
const ORDERS_MAX: usize = 256;
/// Interval after which rows that wait for other rows are checked again.
const HELD_BACK_POLL: Duration = Duration::from_millis(100);
/// One claim ends at most this many expired leases for each kind of row.
const EXPIRED_MAX: i64 = 10_000;

#[async_trait]
impl Claims for Postgres {
    async fn claim_due(&self, now: Timestamp) -> Result<usize, Error> {
        self.step_as_node(move |tx, local, node, after| {
            Box::pin(async move {
                claim_due(tx, local, node, now, after).await?;
                Ok(after.claims())
            })
        })
        .await
    }

    async fn release(&self, claims: Vec<(ClaimId, Lease)>) -> Result<(), Error> {
        let tokens: Vec<i64> = claims.iter().map(|(_, lease)| lease.token).collect();
        let (mut events, mut runs, mut deliveries) = (Vec::new(), Vec::new(), Vec::new());
        for (id, lease) in claims {
            match id {
                ClaimId::Event(id) => events.push((id.as_i64(), lease.token)),
                ClaimId::Run(id) => runs.push((id.as_i64(), lease.token)),
                ClaimId::Delivery(id) => deliveries.push((id.as_i64(), lease.token)),
            }
        }
        let released = self.step(move |tx, local| {
            Box::pin(async move {
                release(tx, local, "event_queue", &events).await?;
                release(tx, local, "run_queue", &runs).await?;
                release(tx, local, "live", &deliveries).await
            })
        });
        match released.await {
            Ok(()) => self.local.due(clock::steady()),
            // No worker holds these claims now. Their rows become due once the database is reachable.
            Err(error) => {
                tracing::debug!(%error, count = tokens.len(), "claims not released yet; retrying with the next heartbeat");
                self.local.add_orphans(tokens.into_iter());
            }
        }
        Ok(())
    }

    async fn next_due(&self, claimed_at: Timestamp) -> Result<Option<Timestamp>, Error> {
        self.read(move |tx, local| Box::pin(next_due(tx, local, local.me(), claimed_at))).await
    }
}

/// A claim in progress.
struct Claiming<'a> {
    tx: &'a Transaction<'a>,
    local: &'a Local,
    node: i64,
    now: Timestamp,
    after: &'a mut After,
}

/// Claims as long as the hand-off has room. The caller hands the claims over after the commit.
async fn claim_due(tx: &Transaction<'_>, local: &Local, node: i64, now: Timestamp, after: &mut After) -> Result<(), Error> {
    expire(tx, local.db_at(now)).await?;
    let mut claiming = Claiming { tx, local, node, now, after };
    claiming.events().await?;
    claiming.runs().await?;
    claiming.deliveries().await?;
    claiming.ordered().await?;
    // The version is read last: a claimed event may have been submitted after the transaction began, and it must see every
    // configuration change from before its submission.
    announce_config_version(tx, local).await
}

/// Ends expired leases, so that their rows are due.
async fn expire(tx: &Transaction<'_>, now: i64) -> Result<(), Error> {
    for table in ["event_queue", "run_queue", "live"] {
        let sql = format!(
            "UPDATE {table} SET lease = NULL WHERE id IN (
                 SELECT id FROM {table} WHERE lease IS NOT NULL AND next_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)"
        );
        execute(tx, &sql, &[&now, &EXPIRED_MAX]).await?;
    }
    Ok(())
}

/// Reads the columns of an event and of a payload, which follow the columns of a queue.
fn loaded(row: &Row, first: usize, table: &'static str, id: i64) -> Result<(Arc<Event>, Option<Arc<Payload>>), Error> {
    if get::<Option<i64>>(row, first)?.is_none() {
        return Err(Place { table, id }.corrupt("id"));
    }
    let event = Arc::new(values::whole_event(row, first)?);
    Ok((event, values::payload(row, first + WHOLE_EVENT_COLUMNS_COUNT, id)?.map(Arc::new)))
}

impl Claiming<'_> {
    fn lease(&self) -> Lease {
        Lease { token: self.local.next_token(self.node), until: self.now.plus(LEASE) }
    }

    /// Writes leases into locked rows.
    async fn take(&self, table: &str, ids: &[i64], leases: &[Lease]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let tokens: Vec<i64> = leases.iter().map(|lease| lease.token).collect();
        let sql = format!(
            "UPDATE {table} SET lease = u.lease, next_at = $3 FROM unnest($1::bigint[], $2::bigint[]) u (id, lease) WHERE {table}.id = u.id"
        );
        execute(self.tx, &sql, &[&ids, &tokens, &self.local.db_at(self.now.plus(LEASE))]).await?;
        Ok(())
    }

    /// Returns the loaded values of a due row. A row that cannot be read is skipped for the duration of a lease, so that it does
    /// not delay the others.
    async fn readable<T>(&self, table: &'static str, id: i64, loaded: Result<T, Error>) -> Result<Option<T>, Error> {
        match loaded {
            Ok(value) => Ok(Some(value)),
            Err(error @ Error::Corrupt { .. }) => {
                tracing::error!(queue = table, id, %error, "skipping an unreadable row until its lease expires");
                self.take(table, &[id], &[self.lease()]).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn events(&mut self) -> Result<(), Error> {
        let room = self.local.handoff.events.room_for_stored(&()).min(EVENTS_MAX);
        if room == 0 {
            return Ok(());
        }
        let sql = format!(
            "SELECT q.id, q.round, {EVENT_COLUMNS}, {WHOLE_EVENT_REST} FROM event_queue q LEFT JOIN event e ON e.id = q.id
             WHERE q.lease IS NULL AND q.next_at <= $1 ORDER BY q.id LIMIT $2 FOR UPDATE OF q SKIP LOCKED"
        );
        let due = rows(self.tx, &sql, &[&self.local.db_at(self.now), &limit(room)]).await?;
        let (mut ids, mut leases) = (Vec::new(), Vec::new());
        for row in &due {
            let id: i64 = get(row, 0)?;
            let event = match get::<Option<i64>>(row, 2)? {
                Some(_) => values::whole_event(row, 2),
                None => Err(Place { table: "event_queue", id }.corrupt("id")),
            };
            let Some(event) = self.readable("event_queue", id, event).await? else { continue };
            let Some(slot) = self.local.handoff.events.reserve_for_stored(&(), weight::event(&event.new)) else { break };
            let lease = self.lease();
            ids.push(id);
            leases.push(lease);
            self.after.events.push(EventClaim {
                event: Arc::new(event),
                round: get_u32(row, 1)?,
                lease,
                settings: 0,
                slot,
                caller: None,
            });
        }
        self.take("event_queue", &ids, &leases).await
    }

    async fn runs(&mut self) -> Result<(), Error> {
        let now = self.local.db_at(self.now);
        for (name, due) in waiting_plugins(self.tx).await? {
            let room = self.local.room_for_runs(&name).min(RUNS_MAX);
            if due > now || room == 0 {
                continue;
            }
            let plugin = Slug::parse(&name);
            let sql = format!(
                "SELECT q.id, q.endpoint, q.round, q.tries, {EVENT_COLUMNS}, {WHOLE_EVENT_REST}
                 FROM run_queue q LEFT JOIN event e ON e.id = q.id >> 14
                 WHERE q.plugin = $1 AND q.state = 'waiting' AND q.lease IS NULL AND q.next_at <= $2
                 ORDER BY q.next_at, q.id LIMIT $3 FOR UPDATE OF q SKIP LOCKED"
            );
            let due = rows(self.tx, &sql, &[&name, &now, &limit(room)]).await?;
            let (mut ids, mut leases) = (Vec::new(), Vec::new());
            for row in &due {
                let id: i64 = get(row, 0)?;
                let found = match (&plugin, get::<Option<i64>>(row, 4)?) {
                    (Err(_), _) => Err(Place { table: "run_queue", id }.corrupt("plugin")),
                    (_, None) => Err(Place { table: "run_queue", id }.corrupt("id")),
                    (Ok(plugin), Some(_)) => values::whole_event(row, 4).map(|event| (plugin.clone(), event)),
                };
                let Some((plugin, event)) = self.readable("run_queue", id, found).await? else { continue };
                let Some(slot) = self.local.handoff.runs.reserve_for_stored(&plugin, weight::event(&event.new)) else { break };
                let lease = self.lease();
                ids.push(id);
                leases.push(lease);
                self.after.runs.push(RunClaim {
                    id: RunId::from_i64(id),
                    event: Arc::new(event),
                    round: get_u32(row, 2)?,
                    plugin,
                    endpoint: get::<Option<i64>>(row, 1)?.map(EndpointId::from_i64),
                    tries: get_u32(row, 3)?,
                    lease,
                    settings: 0,
                    slot,
                });
            }
            self.take("run_queue", &ids, &leases).await?;
        }
        Ok(())
    }

    async fn deliveries(&mut self) -> Result<(), Error> {
        for waiting in waiting_endpoints(self.tx, self.local, self.node).await? {
            let is_due = |due: Option<Timestamp>| due.is_some_and(|due| due <= self.now);
            let (first, retry) = (is_due(waiting.first), is_due(waiting.retry));
            let room = self.local.handoff.deliveries.room_for_stored(&waiting.endpoint).min(DELIVERIES_MAX);
            if room == 0 || !first && !retry || !self.hold(waiting.endpoint, waiting.single).await? {
                continue;
            }
            // If first attempts and retries both wait, each kind gets half of the slots. An odd slot goes to the first attempts.
            let retries = match (first, retry) {
                (true, true) => room / 2,
                (_, true) => room,
                (_, false) => 0,
            };
            let mut due = self.due_rows(waiting.endpoint, true, retries).await?;
            let mut firsts = self.due_rows(waiting.endpoint, false, if first { room - due.len() } else { 0 }).await?;
            if retry && due.len() == retries && firsts.len() + due.len() < room {
                due = self.due_rows(waiting.endpoint, true, room - firsts.len()).await?;
            }
            firsts.append(&mut due);
            self.claim_rows(waiting.endpoint, &firsts).await?;
        }
        Ok(())
    }

    /// Returns the due first attempts or retries of an endpoint, longest due first, without rows that another node is claiming.
    async fn due_rows(&self, endpoint: EndpointId, retries: bool, most: usize) -> Result<Vec<Row>, Error> {
        if most == 0 {
            return Ok(Vec::new());
        }
        // The condition is part of the statement instead of a parameter, so that Postgres uses the index.
        let kind = if retries { "(l.attempts > 0)" } else { "NOT (l.attempts > 0)" };
        let sql = format!(
            "SELECT l.id, l.attempts, {EVENT_COLUMNS}, {WHOLE_EVENT_REST}, {PAYLOAD_COLUMNS}
             FROM live l LEFT JOIN event e ON e.id = l.id >> 14 LEFT JOIN payload p ON p.id = l.id
             WHERE l.endpoint = $1 AND l.lease IS NULL AND l.ordering IS NULL AND {kind} AND l.next_at <= $2
             ORDER BY l.next_at, l.id LIMIT $3 FOR UPDATE OF l SKIP LOCKED"
        );
        rows(self.tx, &sql, &[&endpoint.as_i64(), &self.local.db_at(self.now), &limit(most)]).await
    }

    /// Claims locked rows of one endpoint while there is room. Returns their number.
    async fn claim_rows(&mut self, endpoint: EndpointId, due: &[Row]) -> Result<usize, Error> {
        let (mut ids, mut leases) = (Vec::new(), Vec::new());
        for row in due {
            let id: i64 = get(row, 0)?;
            let Some((event, payload)) = self.readable("live", id, loaded(row, 2, "live", id)).await? else { continue };
            let weight = weight::waiting(&event, payload.as_deref());
            let Some(slot) = self.local.handoff.deliveries.reserve_for_stored(&endpoint, weight) else { break };
            let lease = self.lease();
            ids.push(id);
            leases.push(lease);
            let (id, attempts) = (DeliveryId::from_i64(id), get_u32(row, 1)?);
            self.after.deliveries.push(DeliveryClaim { id, endpoint, event, payload, attempts, lease, slot });
        }
        self.take("live", &ids, &leases).await?;
        Ok(ids.len())
    }

    /// Returns whether this node may send to the endpoint. This is so if every node may send to it, if this node holds it, or if no
    /// live node holds it.
    async fn hold(&self, endpoint: EndpointId, single: bool) -> Result<bool, Error> {
        if !single {
            return Ok(true);
        }
        let sql = "UPDATE endpoint e SET holder = $2 WHERE e.id = $1
                       AND (e.holder IS NULL OR NOT EXISTS (SELECT 1 FROM node n WHERE n.id = e.holder))";
        if execute(self.tx, sql, &[&endpoint.as_i64(), &self.node]).await? > 0 {
            return Ok(true);
        }
        let sql = "SELECT holder FROM endpoint WHERE id = $1 FOR SHARE";
        let held = row(self.tx, sql, &[&endpoint.as_i64()]).await?;
        Ok(held.map(|row| get::<Option<i64>>(&row, 0)).transpose()?.flatten() == Some(self.node))
    }

    /// Claims ordered deliveries. The deliveries of one endpoint with the same ordering key are sent one after the other. If an
    /// endpoint has one ordering key, this claims several of its deliveries. If it has several ordering keys, which are sent side
    /// by side, this claims only the first delivery of each key.
    async fn ordered(&mut self) -> Result<(), Error> {
        // The barrier, which is the first event that still waits to be run, is read before the deliveries. So if an event is
        // settled in between, its deliveries are read, too.
        let barrier = first_to_run(self.tx).await?;
        let mut held_back = false;
        for endpoint in ordered_endpoints(self.tx, self.node).await? {
            let mut room = self.local.handoff.deliveries.room_for_stored(&endpoint).min(DELIVERIES_MAX);
            if room == 0 {
                continue;
            }
            // The endpoint is locked before its deliveries are read: skipping rows that another node is about to claim would
            // break the order.
            let key = lock_key("order", &[&endpoint.as_i64().to_le_bytes()]);
            let locked: bool = get(&the_row(self.tx, "SELECT pg_try_advisory_xact_lock($1)", &[&key]).await?, 0)?;
            if !locked || !self.hold(endpoint, true).await? {
                held_back = true;
                continue;
            }
            for ordering in orders(self.tx, endpoint, self.local.last_order(endpoint)).await? {
                if room == 0 {
                    break;
                }
                self.local.note_order(endpoint, ordering);
                let train = if ordering == Ordering::WHOLE { room } else { 1 };
                let (free, waits) = self.head(endpoint, ordering, train, barrier).await?;
                held_back |= waits;
                room -= self.claim_rows(endpoint, &free).await?;
            }
            // If no room is left, deliveries with further ordering keys may wait. The next claim continues with these keys.
            held_back |= room == 0;
        }
        self.local.handoff.alarm.hold_back(held_back);
        if held_back {
            // Another node may hold the row for which these rows wait, and that node wakes only its own claimer.
            self.after.due_at(clock::steady().plus(HELD_BACK_POLL));
        }
        Ok(())
    }

    /// Returns the first deliveries of an ordering key that can be claimed, and whether the row after them waits for another row
    /// instead of a due time.
    async fn head(
        &self,
        endpoint: EndpointId,
        ordering: i64,
        most: usize,
        barrier: Option<EventId>,
    ) -> Result<(Vec<Row>, bool), Error> {
        let sql = "SELECT id, next_at, lease IS NOT NULL FROM live
                   WHERE ordering IS NOT NULL AND endpoint = $1 AND ordering = $2 ORDER BY id LIMIT $3";
        let (mut ids, mut waits) = (Vec::new(), false);
        for row in rows(self.tx, sql, &[&endpoint.as_i64(), &ordering, &limit(most)]).await? {
            let id: i64 = get(&row, 0)?;
            let (next_at, leased) = (self.local.steady_at(get(&row, 1)?), get::<bool>(&row, 2)?);
            let behind = barrier.is_some_and(|first| DeliveryId::from_i64(id).event() >= first);
            if leased || behind || next_at > self.now {
                waits = leased || behind;
                break;
            }
            ids.push(id);
        }
        if ids.is_empty() {
            return Ok((Vec::new(), waits));
        }
        // No worker holds these rows. The statement waits at most for a command that is cancelling one of them.
        let sql = format!(
            "SELECT l.id, l.attempts, {EVENT_COLUMNS}, {WHOLE_EVENT_REST}, {PAYLOAD_COLUMNS}
             FROM live l LEFT JOIN event e ON e.id = l.id >> 14 LEFT JOIN payload p ON p.id = l.id
             WHERE l.id = ANY($1) AND l.lease IS NULL ORDER BY l.id FOR UPDATE OF l"
        );
        Ok((rows(self.tx, &sql, &[&ids]).await?, waits))
    }
}

/// This statement steps from one plugin with a waiting run to the next. So its cost does not depend on the number of rows, although
/// a plugin that is held may have many rows.
const WAITING_PLUGINS: &str = "WITH RECURSIVE waiting (plugin) AS (
        SELECT min(plugin) FROM run_queue WHERE state = 'waiting' AND lease IS NULL
        UNION ALL
        SELECT (SELECT min(q.plugin) FROM run_queue q WHERE q.state = 'waiting' AND q.lease IS NULL AND q.plugin > waiting.plugin)
        FROM waiting WHERE waiting.plugin IS NOT NULL
    )
    SELECT plugin, (SELECT min(q.next_at) FROM run_queue q WHERE q.state = 'waiting' AND q.lease IS NULL AND q.plugin = waiting.plugin)
    FROM waiting WHERE plugin IS NOT NULL";

/// Returns the plugins with waiting runs, and when the earliest run of each is due, on the database's clock.
async fn waiting_plugins(tx: &Transaction<'_>) -> Result<Vec<(String, i64)>, Error> {
    rows(tx, WAITING_PLUGINS, &[]).await?.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect()
}

/// This statement steps from one endpoint with a waiting delivery to the next, so its cost does not depend on the number of rows.
/// It leaves out endpoints that another node holds.
const WAITING_ENDPOINTS: &str = "WITH RECURSIVE waiting (endpoint) AS (
        SELECT min(endpoint) FROM live WHERE lease IS NULL AND ordering IS NULL
        UNION ALL
        SELECT (SELECT min(l.endpoint) FROM live l WHERE l.lease IS NULL AND l.ordering IS NULL AND l.endpoint > waiting.endpoint)
        FROM waiting WHERE waiting.endpoint IS NOT NULL
    )
    SELECT e.id, e.single,
        (SELECT min(l.next_at) FROM live l
         WHERE l.lease IS NULL AND l.ordering IS NULL AND l.endpoint = e.id AND NOT (l.attempts > 0)),
        (SELECT min(l.next_at) FROM live l
         WHERE l.lease IS NULL AND l.ordering IS NULL AND l.endpoint = e.id AND (l.attempts > 0))
    FROM waiting JOIN endpoint e ON e.id = waiting.endpoint
    WHERE e.state = 'active' AND e.deleted_at IS NULL
        AND ($1::bigint IS NULL OR NOT e.single OR e.holder IS NULL OR e.holder = $1
            OR NOT EXISTS (SELECT 1 FROM node n WHERE n.id = e.holder))";

/// An endpoint with waiting deliveries: when its earliest first attempt is due, and when its earliest retry is due.
pub struct Waiting {
    endpoint: EndpointId,
    single: bool,
    pub first: Option<Timestamp>,
    pub retry: Option<Timestamp>,
}

pub async fn waiting_endpoints(tx: &Transaction<'_>, local: &Local, node: i64) -> Result<Vec<Waiting>, Error> {
    waiting(tx, local, Some(node)).await
}

/// Returns the same as [`waiting_endpoints`], for the endpoints of all nodes.
pub async fn waiting_anywhere(tx: &Transaction<'_>, local: &Local) -> Result<Vec<Waiting>, Error> {
    waiting(tx, local, None).await
}

async fn waiting(tx: &Transaction<'_>, local: &Local, node: Option<i64>) -> Result<Vec<Waiting>, Error> {
    let waiting = |row: &Row| -> Result<Waiting, Error> {
        let due = |column| Ok::<_, Error>(get::<Option<i64>>(row, column)?.map(|at| local.steady_at(at)));
        Ok(Waiting { endpoint: EndpointId::from_i64(get(row, 0)?), single: get(row, 1)?, first: due(2)?, retry: due(3)? })
    };
    rows(tx, WAITING_ENDPOINTS, &[&node]).await?.iter().map(waiting).collect()
}

/// Returns active endpoints with ordered deliveries, except those that another node holds.
async fn ordered_endpoints(tx: &Transaction<'_>, node: i64) -> Result<Vec<EndpointId>, Error> {
    let sql = "WITH RECURSIVE waiting (endpoint) AS (
             SELECT min(endpoint) FROM live WHERE ordering IS NOT NULL
             UNION ALL
             SELECT (SELECT min(l.endpoint) FROM live l WHERE l.ordering IS NOT NULL AND l.endpoint > waiting.endpoint)
             FROM waiting WHERE waiting.endpoint IS NOT NULL
         )
         SELECT e.id FROM waiting JOIN endpoint e ON e.id = waiting.endpoint WHERE e.state = 'active' AND e.deleted_at IS NULL
             AND (e.holder IS NULL OR e.holder = $1 OR NOT EXISTS (SELECT 1 FROM node n WHERE n.id = e.holder))";
    rows(tx, sql, &[&node]).await?.iter().map(|row| Ok(EndpointId::from_i64(get(row, 0)?))).collect()
}

/// Returns up to [`ORDERS_MAX`] ordering keys of an endpoint. Starts after the key `after`, and continues with the smallest key
/// after the largest.
async fn orders(tx: &Transaction<'_>, endpoint: EndpointId, after: i64) -> Result<Vec<i64>, Error> {
    let sql = "WITH RECURSIVE step (ordering) AS (
             SELECT min(ordering) FROM live WHERE ordering IS NOT NULL AND endpoint = $1 AND ordering > $2 AND ordering <= $3
             UNION ALL
             SELECT (SELECT min(l.ordering) FROM live l
                     WHERE l.ordering IS NOT NULL AND l.endpoint = $1 AND l.ordering > step.ordering AND l.ordering <= $3)
             FROM step WHERE step.ordering IS NOT NULL
         )
         SELECT ordering FROM step WHERE ordering IS NOT NULL LIMIT $4";
    let mut found = Vec::new();
    for (from, until) in [(after, i64::MAX), (i64::MIN, after)] {
        let most = limit(ORDERS_MAX - found.len());
        for row in rows(tx, sql, &[&endpoint.as_i64(), &from, &until, &most]).await? {
            found.push(get(&row, 0)?);
        }
    }
    Ok(found)
}

/// Returns the first event that still waits to be run, in whole or in part. The deliveries of this event may have to precede those
/// of later events. One statement reads both queues, because a settlement may move an event from one queue to the other.
pub async fn first_to_run(tx: &Transaction<'_>) -> Result<Option<EventId>, Error> {
    let sql = "SELECT least((SELECT min(id) FROM event_queue), (SELECT min(id) >> 14 FROM run_queue WHERE state = 'waiting'))";
    Ok(get::<Option<i64>>(&the_row(tx, sql, &[]).await?, 0)?.map(EventId::from_i64))
}

/// Returns when the next unclaimed row is due. Considers only rows whose queue has room: if a queue is full, the claimer is
/// notified once the queue has room.
async fn next_due(tx: &Transaction<'_>, local: &Local, node: i64, claimed_at: Timestamp) -> Result<Option<Timestamp>, Error> {
    let sql = "SELECT q.next_at FROM event_queue q WHERE q.lease IS NULL ORDER BY q.id LIMIT 1";
    let mut least: Option<Timestamp> = match row(tx, sql, &[]).await? {
        Some(row) => Some(local.steady_at(get(&row, 0)?)),
        None => None,
    };
    let mut note = |due: Option<Timestamp>| least = [least, due].into_iter().flatten().min();
    for (_, due) in waiting_plugins(tx).await?.iter().filter(|(plugin, _)| local.room_for_runs(plugin) > 0) {
        note(Some(local.steady_at(*due)));
    }
    let has_room = |endpoint: &EndpointId| local.handoff.deliveries.room_for_stored(endpoint) > 0;
    for waiting in waiting_endpoints(tx, local, node).await?.into_iter().filter(|waiting| has_room(&waiting.endpoint)) {
        note(waiting.first);
        note(waiting.retry);
    }
    for endpoint in ordered_endpoints(tx, node).await?.into_iter().filter(has_room) {
        for ordering in orders(tx, endpoint, local.last_order(endpoint)).await? {
            let sql = "SELECT next_at, lease IS NOT NULL FROM live
                       WHERE ordering IS NOT NULL AND endpoint = $1 AND ordering = $2 ORDER BY id LIMIT 1";
            let Some(head) = row(tx, sql, &[&endpoint.as_i64(), &ordering]).await? else { continue };
            let (next_at, leased) = (local.steady_at(get(&head, 0)?), get::<bool>(&head, 1)?);
            // A row that was already due waits for the row before it. When that earlier row is finished, the claimer is woken.
            note((!leased && next_at > claimed_at).then_some(next_at));
        }
    }
    Ok(least)
}

/// Releases claimed rows, which are then due at once.
async fn release(tx: &Transaction<'_>, local: &Local, table: &str, claims: &[(i64, i64)]) -> Result<(), Error> {
    if claims.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = claims.iter().map(|claim| claim.0).collect();
    let tokens: Vec<i64> = claims.iter().map(|claim| claim.1).collect();
    let sql = format!(
        "UPDATE {table} q SET next_at = $3, lease = NULL FROM unnest($1::bigint[], $2::bigint[]) u (id, lease)
         WHERE q.id = u.id AND q.lease = u.lease"
    );
    execute(tx, &sql, &[&ids, &tokens, &local.now()]).await?;
    Ok(())
}
