//! The store of many nodes: one Postgres database that all nodes work on.
//!
//! The three commits of an event (it is accepted, settled, and its attempts are recorded) are by far the most frequent steps. They
//! go through one task with a dedicated connection ([`commit`]). All other steps are transactions on a connection of the pool
//! ([`transactions`]). A lease is a token that carries the id of its node, and [`nodes`] tracks which nodes are alive. The rows,
//! the locks and the clock of the database decide which node may do what, and when a row is due.

mod accept;
mod attempts;
mod audit;
mod claims;
mod commands;
mod commit;
mod comparisons;
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
mod scheduled;
mod secrets;
mod settle;
#[cfg(test)]
mod simulation;
mod sources;
mod state;
mod stats;
mod story;
#[cfg(test)]
mod tests;
mod transactions;
mod upgrade;

use std::{
    sync::{
        Arc, Mutex,
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
use super::{Admission, AdmissionLimits, Error, Handoff, KeyFile, Store, commit::After, secrets::Seals};
use crate::{
    clock,
    domain::{id::Tag, time::Timestamp},
};

/// Number of connections in the pool. The connections for commits, for notifications and for plugins' state are additional.
const CONNECTIONS: usize = 8;
/// Maximum number of connections of the pool that read for the API. The other connections are for the engine.
const PEOPLE_MAX: usize = 4;

/// Settings of a node.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// `postgres://user:password@host/database`.
    pub url: String,
    pub about: About,
    /// If a node has sent no heartbeat for this long, the other nodes take over its leases.
    pub silence: Duration,
}

/// The store of many nodes.
pub struct Postgres {
    pool: Pool,
    /// One connection, used only by runs that read state.
    state_pool: Pool,
    people: Semaphore,
    committer: Committer,
    local: Arc<Local>,
    admission: Arc<Admission>,
    backlog_max: usize,
    /// Stops the background tasks.
    stop: CancellationToken,
}

/// The values that this process keeps in memory beside the database.
pub type Local = super::Local<OwnNode>;

/// The values of this process as a node.
pub struct OwnNode {
    about: About,
    silence: Duration,
    /// This node's id. It changes after the other nodes have removed this node.
    id: AtomicI64,
    registering: tokio::sync::Mutex<()>,
    /// Number of lease tokens issued so far.
    tokens: AtomicI64,
    /// How far the database's clock is ahead of the steady clock, in milliseconds.
    skew: AtomicI64,
    /// Leases that are stored in the database although no worker holds them.
    orphans: Mutex<Vec<i64>>,
    /// Notified when a row is due and other nodes may have room for it.
    overflowed: Notify,
    /// Notified when another node has changed the configuration.
    settings_changed: Notify,
}

impl Local {
    fn add_orphans(&self, tokens: impl Iterator<Item = i64>) {
        self.own.orphans.lock().expect("no code panics while it holds the orphans").extend(tokens);
    }

    fn orphans(&self) -> Vec<i64> {
        self.own.orphans.lock().expect("no code panics while it holds the orphans").clone()
    }

    fn forget_orphans(&self, ended: &[i64]) {
        if !ended.is_empty() {
            self.own.orphans.lock().expect("no code panics while it holds the orphans").retain(|token| !ended.contains(token));
        }
    }

    fn me(&self) -> i64 {
        self.own.id.load(Ordering::SeqCst)
    }

    /// Wakes the claimers of all nodes, because an unclaimed row becomes due at `at`.
    fn due(&self, at: Timestamp) {
        self.handoff.alarm.set(at);
        self.own.overflowed.notify_one();
    }

    /// Takes the actions that follow a commit.
    fn act(&self, after: After) {
        if after.act(self) {
            self.own.overflowed.notify_one();
        }
    }
}

impl Postgres {
    /// Opens the store at the address in `settings`, and creates it if the database is empty. Secrets are sealed under the key in
    /// `key_file`, which must be the same for all nodes. The store refuses new events beyond `limits`.
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
        let own = OwnNode {
            about: settings.about,
            silence: settings.silence,
            id: AtomicI64::new(0),
            registering: tokio::sync::Mutex::default(),
            tokens: AtomicI64::new(0),
            skew: AtomicI64::new(0),
            orphans: Mutex::default(),
            overflowed: Notify::new(),
            settings_changed: Notify::new(),
        };
        let local = Arc::new(Local::new(tag, handoff, limits.state, Seals::new(key_file, seal), own));
        tx.commit().await?;
        nodes::measure_skew(&client, &local).await?;
        // The time is taken before the registration, because the other nodes count from the moment at which they first see this
        // node.
        let asked = clock::steady();
        let tx = client.transaction().await?;
        let me = nodes::start(&tx, &local.own.about, local.now()).await?;
        tx.commit().await?;
        drop(client);
        local.own.id.store(me, Ordering::SeqCst);
        local.handoff.tenure.begin(nodes::token(me, 0));
        local.handoff.tenure.extend(asked.plus(nodes::tenure(local.own.silence)));

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
