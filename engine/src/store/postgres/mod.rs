//! The store of many nodes: one Postgres database that all of them work on.
//!
//! What is hot (commits 1 to 3) goes through one task with a connection of its own ([`commit`]); everything else is a transaction on a
//! connection of the pool ([`transactions`]). A row is leased to a node by a token that carries the node's id; [`nodes`] knows which nodes
//! live. The database decides who may do what and when it is due: by its rows, its locks and its clock.

mod accept;
mod attempts;
mod audit;
mod claims;
mod commands;
mod commit;
mod db;
mod endpoints;
mod health;
mod import;
mod jobs;
mod keys;
mod nodes;
mod parked;
mod plugins;
mod registry;
mod retention;
mod rows;
mod secrets;
mod settle;
#[cfg(test)]
mod simulation;
mod sources;
mod state;
mod story;
#[cfg(test)]
mod tests;
mod transactions;
mod upgrade;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::Pool;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use self::{commit::Committer, db::Server};
pub use self::{
    import::{Begun, Import},
    nodes::About,
};
use super::{Admission, AdmissionLimits, Error, Handoff, KeyFile, StateLimits, Store, retention::Walks, secrets::Seals};
use crate::{
    clock,
    domain::{
        id::{EndpointId, Tag},
        time::Timestamp,
    },
};

/// Connections beside the one that commits and the one that listens, and the one for plugins' state.
const CONNECTIONS: usize = 8;
/// How many of them read for people at once: the rest is for what the engine needs.
const PEOPLE_MAX: usize = 4;

/// What a node needs to take part.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// `postgres://user:password@host/database`.
    pub url: String,
    pub about: About,
    /// For how long a node may not be heard of before the others take what it held.
    pub silence: Duration,
}

/// The store of many nodes.
pub struct Postgres {
    pool: Pool,
    /// One connection, for which only runs wait.
    state_pool: Pool,
    people: Semaphore,
    committer: Committer,
    local: Arc<Local>,
    admission: Arc<Admission>,
    backlog_max: usize,
    /// Ends what works beside the callers.
    stop: CancellationToken,
}

/// What this process knows beside the database. All of it can be lost.
pub struct Local {
    tag: Tag,
    handoff: Handoff,
    about: About,
    silence: Duration,
    /// This node's id. Another one once the others have given it up.
    node: AtomicI64,
    registering: tokio::sync::Mutex<()>,
    /// Lease tokens given so far.
    counter: AtomicI64,
    /// How far the database's clock is ahead of the steady clock, in milliseconds.
    skew: AtomicI64,
    /// A minute whose first id is noted and committed.
    minute: AtomicI64,
    /// Leases that nobody holds and the database does not know of yet.
    orphans: Mutex<Vec<i64>>,
    walks: Mutex<Walks>,
    /// Which order of each endpoint was looked at last: the next claim goes on behind it.
    last_orders: Mutex<HashMap<EndpointId, i64>>,
    state_limits: StateLimits,
    seals: Seals,
    /// Something is due that other nodes may have room for.
    bell: Notify,
    /// Another node has changed a setting.
    settings_told: Notify,
}

impl Local {
    fn last_order(&self, endpoint: EndpointId) -> i64 {
        let orders = self.last_orders.lock().expect("no code panics while it holds the orders");
        orders.get(&endpoint).copied().unwrap_or(i64::MIN)
    }

    fn note_order(&self, endpoint: EndpointId, ordering: i64) {
        self.last_orders.lock().expect("no code panics while it holds the orders").insert(endpoint, ordering);
    }

    fn add_orphans(&self, tokens: impl Iterator<Item = i64>) {
        self.orphans.lock().expect("no code panics while it holds the orphans").extend(tokens);
    }

    fn orphans(&self) -> Vec<i64> {
        self.orphans.lock().expect("no code panics while it holds the orphans").clone()
    }

    fn forget_orphans(&self, ended: &[i64]) {
        if !ended.is_empty() {
            self.orphans.lock().expect("no code panics while it holds the orphans").retain(|token| !ended.contains(token));
        }
    }

    fn walks(&self) -> MutexGuard<'_, Walks> {
        self.walks.lock().expect("no code panics while it holds the walks")
    }

    fn me(&self) -> i64 {
        self.node.load(Ordering::SeqCst)
    }

    /// Something that nobody holds is due at `at`: now for other nodes as well.
    fn due(&self, at: Timestamp) {
        self.handoff.alarm.set(at);
        self.bell.notify_one();
    }
}

impl Postgres {
    /// Takes part in the store at the address in `settings`, making it if there is none. The secrets in it are sealed under
    /// the key in `key_file`, which is the same for all nodes. Beyond `limits` it takes no further events.
    pub async fn open(
        settings: PostgresSettings,
        key_file: KeyFile,
        handoff: Handoff,
        limits: AdmissionLimits,
    ) -> Result<Self, Error> {
        let server = Server::parse(&settings.url)?;
        let pool = server.pool(CONNECTIONS)?;
        let mut client = pool.get().await?;
        let tx = client.transaction().await?;
        let (tag, seal) = upgrade::upgrade(&tx, &key_file).await?;
        let local = Arc::new(Local {
            tag,
            handoff,
            about: settings.about,
            silence: settings.silence,
            node: AtomicI64::new(0),
            registering: tokio::sync::Mutex::default(),
            counter: AtomicI64::new(0),
            skew: AtomicI64::new(0),
            minute: AtomicI64::new(i64::MIN),
            orphans: Mutex::default(),
            walks: Mutex::default(),
            last_orders: Mutex::default(),
            state_limits: limits.state,
            seals: Seals::new(key_file, seal),
            bell: Notify::new(),
            settings_told: Notify::new(),
        });
        tx.commit().await?;
        nodes::measure_skew(&client, &local).await?;
        // Counted from before it is there: the others count from when they see it first.
        let asked = clock::steady();
        let tx = client.transaction().await?;
        let me = nodes::start(&tx, &local.about, local.now()).await?;
        tx.commit().await?;
        drop(client);
        local.node.store(me, Ordering::SeqCst);
        local.handoff.tenure.begin(nodes::token(me, 0));
        local.handoff.tenure.extend(asked.plus(nodes::tenure(local.silence)));

        let stop = CancellationToken::new();
        tokio::spawn(nodes::run(server.clone(), pool.clone(), Arc::clone(&local), stop.clone()));
        Ok(Self {
            committer: Committer::start(server.pool(1)?, pool.clone(), Arc::clone(&local)),
            pool,
            state_pool: server.pool(1)?,
            people: Semaphore::new(PEOPLE_MAX),
            local,
            backlog_max: limits.backlog_max,
            admission: Arc::new(Admission::new(limits)),
            stop,
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Store for Postgres {
    fn tag(&self) -> Tag {
        self.local.tag
    }
}
