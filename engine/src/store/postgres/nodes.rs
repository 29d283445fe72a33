//! This process among the nodes: its row in the table of nodes, its heartbeat, and the notifications between nodes.
//!
//! A node is alive while its heartbeat counter grows. The other nodes check it once a second. A node that has seen the same counter
//! a number of times in a row removes the silent node and ends its leases, in one transaction. This uses no clock. So no node is
//! removed if the database's clock is set, or if the database is unreachable for a while. A transaction that issues or settles
//! leases locks its node's row ([`enter`]), so a removed node commits nothing after its leases were ended. A node that learns that
//! it was removed registers as a new node, and its old leases are lost.
//!
//! Nodes notify each other through `NOTIFY` if a node has no room for a due row, or if the configuration has changed. These
//! notifications are only hints: the claimer also checks every few seconds, and every heartbeat and every transaction that issues
//! or settles leases reads the config version.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use deadpool_postgres::{Pool, Transaction};
use tokio::{task::AbortHandle, time::MissedTickBehavior};
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::CancellationToken;

use super::{
    Local, Postgres,
    db::{self, Server, execute, get, row, rows, the_row},
    registry::reported_from_column,
};
use crate::{
    clock,
    domain::time::Timestamp,
    store::{Error, LEASE, Node, Nodes},
};

/// Interval at which a node sends a heartbeat and checks the other nodes.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// If rows find no room several times within this time, this node sends only one notification.
const OVERFLOW_PAUSE: Duration = Duration::from_millis(10);
/// Pause before the connection is made again: [`RECONNECT`] is the first pause, [`RECONNECT_MAX`] the longest.
const RECONNECT: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Minimum change, in ms, of the difference between the database's clock and the steady clock. Smaller changes are ignored.
const SKEW_MIN: i64 = 1_000;
/// Maximum time that a heartbeat waits for this node's transactions before it ends orphaned leases. It is shorter than
/// [`HEARTBEAT`].
const ORPHANS_WAIT: Duration = Duration::from_millis(300);
/// Number of low bits of a lease token that hold the number of the lease. The bits above hold the id of the node.
const TOKEN_BITS: u32 = 39;

const DUE: &str = "innesco_due";
const SETTINGS: &str = "innesco_settings";

/// A node's report about itself.
#[derive(Clone, Debug)]
pub struct About {
    pub name: String,
    pub role: String,
    pub address: String,
}

#[async_trait]
impl Nodes for Postgres {
    async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.read(|tx, local| Box::pin(list(tx, local))).await
    }

    async fn leave(&self) -> Result<(), Error> {
        self.stop.cancel();
        self.step(|tx, local| Box::pin(leave(tx, local))).await
    }
}

/// Returns the token of a node's `count`-th lease.
pub fn token(node: i64, count: i64) -> i64 {
    node << TOKEN_BITS | count & ((1 << TOKEN_BITS) - 1)
}

/// Returns the range of tokens that a node can issue.
pub fn tokens(node: i64) -> (i64, i64) {
    (node << TOKEN_BITS, (node + 1) << TOKEN_BITS)
}

/// Locks this node's row, so that the node counts as alive until the transaction ends. Returns the node's id, or `None` if the
/// other nodes have removed this node. This node must then register as a new node. Also reads and announces the config version. So
/// an event that this transaction hands over waits until this node has read the configuration of that version.
pub async fn enter(tx: &Transaction<'_>, local: &Local) -> Result<Option<i64>, Error> {
    let me = local.me();
    let sql = "SELECT (SELECT version FROM settings_version) FROM node WHERE id = $1 FOR KEY SHARE";
    let Some(alive) = row(tx, sql, &[&me]).await? else { return Ok(None) };
    local.handoff.settings.announce(get(&alive, 0)?);
    Ok(Some(me))
}

/// Announces the current config version. If an event is visible to this transaction, the version includes every change that was
/// made before the event was submitted.
pub async fn announce_config_version(tx: &Transaction<'_>, local: &Local) -> Result<(), Error> {
    let row = the_row(tx, "SELECT version FROM settings_version", &[]).await?;
    local.handoff.settings.announce(get(&row, 0)?);
    Ok(())
}

/// Registers this process in the table of nodes. An earlier process of the same name has ended, so the rows that the earlier
/// process held become due.
pub async fn start(tx: &Transaction<'_>, about: &About, now: i64) -> Result<i64, Error> {
    let earlier = rows(tx, "DELETE FROM node WHERE name = $1 RETURNING id", &[&about.name]).await?;
    for row in &earlier {
        end_leases(tx, get(row, 0)?, now).await?;
    }
    register(tx, about, now).await
}

async fn register(tx: &Transaction<'_>, about: &About, now: i64) -> Result<i64, Error> {
    let sql = "INSERT INTO node (name, role, version, address, started_at, seen_at) VALUES ($1, $2, $3, $4, $5, $5) RETURNING id";
    let values: [db::Value<'_>; 5] = [&about.name, &about.role, &env!("CARGO_PKG_VERSION"), &about.address, &now];
    get(&the_row(tx, sql, &values).await?, 0)
}

/// Registers this node again after the other nodes have removed its registration `old`. Concurrent callers share one registration.
pub async fn come_back(pool: &Pool, local: &Local, old: i64) -> Result<(), Error> {
    let _alone = local.own.registering.lock().await;
    if local.me() != old {
        return Ok(());
    }
    let mut client = pool.get().await?;
    let tx = client.transaction().await?;
    let new = register(&tx, &local.own.about, local.now()).await?;
    tx.commit().await?;
    tracing::warn!("this node was silent, so the other nodes took over its work; registered again as a new node");
    local.own.id.store(new, Ordering::SeqCst);
    local.handoff.tenure.begin(tokens(new).0);
    local.handoff.alarm.set(clock::steady());
    Ok(())
}

/// Ends all leases of a node, so that their rows are due.
async fn end_leases(tx: &Transaction<'_>, node: i64, now: i64) -> Result<(), Error> {
    let (from, until) = tokens(node);
    for table in ["event_queue", "run_queue", "live"] {
        let sql = format!("UPDATE {table} SET lease = NULL, next_at = least(next_at, $3) WHERE lease >= $1 AND lease < $2");
        execute(tx, &sql, &[&from, &until, &now]).await?;
    }
    Ok(())
}

/// Ends leases that no worker holds: those of a transaction with an unknown result, and those that could not be released. A
/// transaction with an unknown result may still be running. It locks this node's row until it ends, so this function waits a short
/// time for that lock. If this function cannot get the lock, the next heartbeat tries again.
async fn end_orphans(pool: &Pool, local: &Local) -> Result<(), Error> {
    let orphans = local.orphans();
    if orphans.is_empty() {
        return Ok(());
    }
    let mut client = pool.get().await?;
    let tx = client.transaction().await?;
    tx.batch_execute(&format!("SET LOCAL lock_timeout = {}", ORPHANS_WAIT.as_millis())).await?;
    if let Err(error) = execute(&tx, "SELECT 1 FROM node WHERE id = $1 FOR UPDATE", &[&local.me()]).await {
        tracing::debug!(%error, count = orphans.len(), "orphaned leases not ended yet; retrying with the next heartbeat");
        return Ok(());
    }
    for table in ["event_queue", "run_queue", "live"] {
        let sql =
            format!("UPDATE {table} SET lease = NULL, next_at = least(next_at, $2) WHERE lease IS NOT NULL AND lease = ANY($1)");
        execute(&tx, &sql, &[&orphans, &local.now()]).await?;
    }
    tx.commit().await?;
    local.forget_orphans(&orphans);
    local.due(clock::steady());
    Ok(())
}

/// Unregisters this node. The other nodes can claim its rows at once.
async fn leave(tx: &Transaction<'_>, local: &Local) -> Result<(), Error> {
    let me = local.me();
    if execute(tx, "DELETE FROM node WHERE id = $1", &[&me]).await? > 0 {
        end_leases(tx, me, local.now()).await?;
        execute(tx, "SELECT pg_notify($1, $2)", &[&DUE, &me.to_string()]).await?;
    }
    Ok(())
}

/// Raises the config version and notifies every node. Called in the transaction of a configuration change.
pub async fn raise_config_version(tx: &Transaction<'_>) -> Result<(), Error> {
    execute(tx, "UPDATE settings_version SET version = version + 1", &[]).await?;
    execute(tx, "SELECT pg_notify($1, '')", &[&SETTINGS]).await?;
    Ok(())
}

async fn list(tx: &Transaction<'_>, local: &Local) -> Result<Vec<Node>, Error> {
    let found = rows(
        tx,
        "WITH held (node, count, first_end) AS MATERIALIZED (
             SELECT lease >> 39, count(*), min(next_at) FROM (
                 SELECT lease, next_at FROM event_queue WHERE lease IS NOT NULL
                 UNION ALL SELECT lease, next_at FROM run_queue WHERE lease IS NOT NULL
                 UNION ALL SELECT lease, next_at FROM live WHERE lease IS NOT NULL
             ) leases GROUP BY 1)
         SELECT n.id, n.name, n.role, n.version, n.address, n.started_at, n.seen_at, coalesce(held.count, 0), held.first_end, n.plugins
         FROM node n LEFT JOIN held ON held.node = n.id ORDER BY n.name, n.id",
        &[],
    )
    .await?;
    let me = local.me();
    let node = |row: &tokio_postgres::Row| -> Result<Node, Error> {
        let id = get(row, 0)?;
        // Only the end of a lease is stored. Its start is computed from the end.
        let taken = |end: i64| clock::as_wall(local.steady_at(end.saturating_sub(LEASE.as_millis() as i64)));
        Ok(Node {
            id,
            name: get(row, 1)?,
            role: get(row, 2)?,
            version: get(row, 3)?,
            address: get(row, 4)?,
            started_at: clock::as_wall(local.steady_at(get(row, 5)?)),
            seen_at: clock::as_wall(local.steady_at(get(row, 6)?)),
            leases: get::<i64>(row, 7)?.unsigned_abs(),
            holds_since: get::<Option<i64>>(row, 8)?.map(taken),
            plugins: reported_from_column(id, get(row, 9)?)?,
            is_this_one: id == me,
        })
    };
    found.iter().map(node).collect()
}

/// Measures how far the database's clock is ahead of this process's steady clock. Uses the new measurement only if the difference
/// from the previous one is too large to come from clock drift and the duration of a query.
pub async fn measure_skew(client: &Client, local: &Local) -> Result<(), Error> {
    let asked = clock::steady();
    let answer = client.query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint", &[]).await?;
    let (answered, theirs) = (clock::steady(), get::<i64>(&answer, 0)?);
    let took = answered.since(asked).as_millis() as i64;
    let skew = theirs - asked.millis() - took / 2;
    let known = local.own.skew.load(Ordering::SeqCst);
    if (skew - known).abs() > SKEW_MIN + took {
        if known != 0 {
            tracing::warn!(skew_ms = skew, before_ms = known, "the database's clock was set; due times follow it");
        }
        local.own.skew.store(skew, Ordering::SeqCst);
        local.handoff.alarm.set(clock::steady());
    }
    Ok(())
}

/// Returns how long a node may rely on its leases after its last heartbeat. This is less than the time that the other nodes wait
/// before they remove the node.
pub fn tenure(silence: Duration) -> Duration {
    silence * 2 / 3
}

/// Returns after how many checks with an unchanged counter a node counts as silent.
pub fn looks_most(silence: Duration) -> u32 {
    u32::try_from(silence.as_millis() / HEARTBEAT.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// For each other node, its counter and the number of checks in a row that saw this same counter.
#[derive(Default)]
pub struct Checks(HashMap<i64, (i64, u32)>);

impl Checks {
    /// Records a check. Returns the nodes that were silent for `most` checks.
    pub fn note(&mut self, seen: &[(i64, i64)], most: u32) -> Vec<i64> {
        self.0.retain(|id, _| seen.iter().any(|(one, _)| one == id));
        let mut silent = Vec::new();
        for (id, beat) in seen {
            let looks = match self.0.get(id) {
                Some((before, looks)) if before == beat => looks + 1,
                _ => 0,
            };
            self.0.insert(*id, (*beat, looks));
            if looks > most {
                silent.push(*id);
            }
        }
        silent
    }
}

/// Until `stop`, sends heartbeats, watches the other nodes, listens for notifications and sends notifications.
pub async fn run(server: Server, pool: Pool, local: Arc<Local>, stop: CancellationToken) {
    let mut wait = RECONNECT;
    let mut looks = Checks::default();
    let mut again = false;
    loop {
        let began = clock::steady();
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ended = session(&server, &pool, &local, &mut looks, again) => ended,
        };
        let Err(error) = ended;
        again = true;
        tracing::debug!(%error, "heartbeat failed; retrying");
        wait = if clock::steady().since(began) > RECONNECT_MAX { RECONNECT } else { (wait * 2).min(RECONNECT_MAX) };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// A task that reads from a connection. Dropping this at the end of the session ends the task.
struct Reading(AbortHandle);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn session(
    server: &Server,
    pool: &Pool,
    local: &Arc<Local>,
    looks: &mut Checks,
    again: bool,
) -> Result<std::convert::Infallible, Error> {
    let (client, mut connection) = server.config.connect(server.tls.clone()).await?;
    let heard = Arc::clone(local);
    let reading = tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                hear(&heard, notification.channel(), notification.payload());
            }
        }
    });
    let _reading = Reading(reading.abort_handle());
    client.batch_execute(&format!("LISTEN {DUE}; LISTEN {SETTINGS}")).await?;
    if again {
        // Notifications may have been missed while the connection was down.
        local.handoff.alarm.set(clock::steady());
    }
    let mut tick = tokio::time::interval(HEARTBEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = tick.tick() => {
                beat(&client, pool, local).await?;
                end_orphans(pool, local).await?;
                look(&client, pool, local, looks).await?;
                read_config_version(&client, local).await?;
                measure_skew(&client, local).await?;
            }
            () = local.own.settings_changed.notified() => read_config_version(&client, local).await?,
            () = local.own.overflowed.notified() => {
                let me = local.me().to_string();
                client.execute("SELECT pg_notify($1, $2)", &[&DUE, &me]).await?;
                tokio::time::sleep(OVERFLOW_PAUSE).await;
            }
        }
    }
}

fn hear(local: &Local, channel: &str, payload: &str) {
    match channel {
        DUE if payload != local.me().to_string() => local.handoff.alarm.set(clock::steady()),
        SETTINGS => local.own.settings_changed.notify_one(),
        _ => {}
    }
}

async fn beat(client: &Client, pool: &Pool, local: &Local) -> Result<(), Error> {
    let me = local.me();
    // The time is taken before the query, because the other nodes count from the moment at which they see the result of this
    // heartbeat.
    let asked = clock::steady();
    let sql = "UPDATE node SET beat = beat + 1, seen_at = $2 WHERE id = $1";
    if client.execute(sql, &[&me, &local.now()]).await? == 0 {
        come_back(pool, local, me).await?;
    }
    local.handoff.tenure.extend(asked.plus(tenure(local.own.silence)));
    Ok(())
}

async fn look(client: &Client, pool: &Pool, local: &Local, looks: &mut Checks) -> Result<(), Error> {
    let me = local.me();
    let found = client.query("SELECT id, beat FROM node WHERE id <> $1", &[&me]).await?;
    let seen = found.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect::<Result<Vec<(i64, i64)>, Error>>()?;
    for id in looks.note(&seen, looks_most(local.own.silence)) {
        remove(pool, local, id).await?;
    }
    Ok(())
}

/// Removes a silent node. If the node is inside a transaction, it is not removed, and the next check tries again.
async fn remove(pool: &Pool, local: &Local, id: i64) -> Result<(), Error> {
    let mut client = pool.get().await?;
    let tx = client.transaction().await?;
    let Some(row) = row(&tx, "SELECT name FROM node WHERE id = $1 FOR UPDATE SKIP LOCKED", &[&id]).await? else {
        return Ok(());
    };
    let name: String = get(&row, 0)?;
    execute(&tx, "DELETE FROM node WHERE id = $1", &[&id]).await?;
    end_leases(&tx, id, local.now()).await?;
    tx.commit().await?;
    tracing::warn!(node = name, silent = ?local.own.silence, "node silent; its leases are ended");
    local.handoff.alarm.set(clock::steady());
    local.own.overflowed.notify_one();
    Ok(())
}

async fn read_config_version(client: &Client, local: &Local) -> Result<(), Error> {
    let row = client.query_one("SELECT version FROM settings_version", &[]).await?;
    local.handoff.settings.announce(get(&row, 0)?);
    Ok(())
}

impl Local {
    /// Converts an instant of the steady clock to the database's clock.
    pub fn db_at(&self, at: Timestamp) -> i64 {
        at.millis().saturating_add(self.own.skew.load(Ordering::SeqCst))
    }

    /// Converts an instant of the database's clock to the steady clock.
    pub fn steady_at(&self, at: i64) -> Timestamp {
        Timestamp::from_millis(at.saturating_sub(self.own.skew.load(Ordering::SeqCst)))
    }

    /// Returns the current time of the database's clock.
    pub fn now(&self) -> i64 {
        self.db_at(clock::steady())
    }

    pub fn next_token(&self, node: i64) -> i64 {
        token(node, self.own.tokens.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_silent_after_several_checks_with_the_same_counter() {
        let mut looks = Checks::default();
        for beat in 0..10 {
            assert_eq!(looks.note(&[(1, beat), (2, 0)], 20), Vec::<i64>::new());
        }
        for _ in 0..11 {
            assert_eq!(looks.note(&[(1, 9), (2, 0)], 20), Vec::<i64>::new(), "20 times since the first check");
        }
        assert_eq!(looks.note(&[(1, 9), (2, 0)], 20), [2]);
        assert_eq!(looks.note(&[(1, 10), (2, 1)], 20), Vec::<i64>::new(), "the counters of both have grown");
    }

    #[test]
    fn the_token_ranges_of_nodes_do_not_overlap() {
        let (from, until) = tokens(7);
        for count in [0, 1, i64::from(u32::MAX), i64::MAX] {
            assert!((from..until).contains(&token(7, count)));
        }
    }
}
