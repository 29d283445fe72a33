//! The store of many nodes: one Postgres database that all of them work on.
//!
//! Commits 1 to 3 are hot: they go through one task with a dedicated connection ([`commit`]); everything else is a transaction on a
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

/// What this process knows beside the database.
pub type Local = super::Local<OwnNode>;

/// What this process knows of itself as a node.
pub struct OwnNode {
    about: About,
    silence: Duration,
    /// This node's id. It changes once the others have removed this node.
    id: AtomicI64,
    registering: tokio::sync::Mutex<()>,
    /// Lease tokens given so far.
    tokens: AtomicI64,
    /// How far the database's clock is ahead of the steady clock, in milliseconds.
    skew: AtomicI64,
    /// Leases that no worker holds and that the database still has.
    orphans: Mutex<Vec<i64>>,
    /// A row is due that other nodes may have room for.
    overflowed: Notify,
    /// Another node has changed the configuration.
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

    /// Wakes the claimers of all nodes: a row that no worker holds becomes due at `at`.
    fn due(&self, at: Timestamp) {
        self.handoff.alarm.set(at);
        self.own.overflowed.notify_one();
    }

    /// Acts on what follows a commit.
    fn act(&self, after: After) {
        if after.act(self) {
            self.own.overflowed.notify_one();
        }
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
        // Counted from before it is there: the others count from when they see it first.
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
