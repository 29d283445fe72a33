//! The store of many nodes: one Postgres database that all of them work on.
//!
//! What is hot (commits 1 to 3) goes through one task with a connection of its own ([`commit`]); everything else is a transaction on a
//! connection of the pool. A row is leased to a node by a token that carries the node's id; whether a node lives is the business of
//! [`node`]. The database decides who may do what and when it is due: by its rows, its locks and its clock.

mod accept;
mod admin;
mod attempts;
mod audit;
mod claims;
mod commit;
mod db;
mod import;
mod jobs;
mod load;
mod node;
mod people;
mod plugins;
mod reads;
mod retention;
mod rows;
mod settle;
#[cfg(test)]
mod simulation;
mod sources;
mod state;
#[cfg(test)]
mod tests;
mod upgrade;

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use deadpool_postgres::{Pool, Transaction};
use tokio::sync::{Notify, Semaphore};
use tokio_postgres::IsolationLevel;
use tokio_util::sync::CancellationToken;

use self::{
    commit::{After, Committer},
    db::Server,
};
pub use self::{
    import::{Begun, Import},
    node::About,
};
use super::{
    Accepted, Admission, AdmissionLimits, AttemptRecord, AuditEntry, AuditFilter, DeliveryFilter, DeliveryStory, DeliverySummary,
    Depot, Error, EventFilter, EventStory, EventSummary, Handoff, Job, JobState, KeyFile, KeyRow, Lease, Load, NewAudit, NewKey,
    Node, Page, PageRequest, PluginRow, READ_TIME_MAX, Relief, Retention, RetryFilter, Seal, Settled, Settlement, StateLimits,
    StateSize, StateValue, Store, StoryPlace, walks::Walks, weight,
};
use crate::{
    clock,
    domain::{
        delivery::DeadReason,
        endpoint::{Endpoint, EndpointState, NewEndpoint},
        event::NewEvent,
        id::{AuditId, DeliveryId, EndpointId, EventId, JobId, KeyId, RunId, SourceId, Tag},
        name::Slug,
        source::{NewSource, Source},
        time::Timestamp,
    },
    metrics::meters,
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
    key_file: KeyFile,
    /// The master key in force first.
    seals: RwLock<Vec<Arc<Seal>>>,
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

    fn seals(&self) -> Vec<Arc<Seal>> {
        self.seals.read().expect("no code panics while it holds the keys").clone()
    }

    fn seal(&self) -> Arc<Seal> {
        Arc::clone(&self.seals()[0])
    }

    fn set_seals(&self, seals: Vec<Arc<Seal>>) {
        *self.seals.write().expect("no code panics while it holds the keys") = seals;
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

/// What a step or a read is doing.
type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

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
            key_file,
            seals: RwLock::new(vec![Arc::new(seal)]),
            bell: Notify::new(),
            settings_told: Notify::new(),
        });
        tx.commit().await?;
        node::measure_skew(&client, &local).await?;
        // Counted from before it is there: the others count from when they see it first.
        let asked = clock::steady();
        let tx = client.transaction().await?;
        let me = node::start(&tx, &local.about, local.now()).await?;
        tx.commit().await?;
        drop(client);
        local.node.store(me, Ordering::SeqCst);
        local.handoff.tenure.begin(node::token(me, 0));
        local.handoff.tenure.extend(asked.plus(node::tenure(local.silence)));

        let stop = CancellationToken::new();
        tokio::spawn(node::run(server.clone(), pool.clone(), Arc::clone(&local), stop.clone()));
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

    /// A transaction of its own. It goes on although its caller may not: nobody knows half of what was done.
    async fn step<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a Transaction<'a>, &'a Local) -> Doing<'a, T> + Send + 'static,
    ) -> Result<T, Error> {
        let (pool, local) = (self.pool.clone(), Arc::clone(&self.local));
        let stepping = tokio::spawn(async move {
            let mut client = pool.get().await?;
            let tx = client.transaction().await?;
            let value = work(&tx, &local).await?;
            tx.commit().await?;
            Ok(value)
        });
        stepping.await.map_err(|error| Error::Internal(error.to_string()))?
    }

    /// As [`Self::step`], by a node that counts as alive until the end of it; what follows is done after the commit.
    async fn step_as_node<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a Transaction<'a>, &'a Local, i64, &'a mut After) -> Doing<'a, T> + Send + 'static,
    ) -> Result<T, Error> {
        let (pool, local) = (self.pool.clone(), Arc::clone(&self.local));
        let stepping = tokio::spawn(async move {
            let mut client = pool.get().await?;
            let known = local.me();
            let mut tx = client.transaction().await?;
            let mut node = node::enter(&tx, &local).await?;
            if node.is_none() {
                tx.rollback().await?;
                node::come_back(&pool, &local, known).await?;
                tx = client.transaction().await?;
                node = node::enter(&tx, &local).await?;
            }
            let node = node.ok_or_else(|| Error::Unavailable("this node was removed by the others twice in a row".into()))?;
            let mut after = After::default();
            let value = work(&tx, &local, node, &mut after).await?;
            commit::count_bytes(&tx, node, after.bytes).await?;
            if let Err(error) = tx.commit().await {
                local.add_orphans(after.tokens());
                return Err(error.into());
            }
            after.act(&local);
            Ok(value)
        });
        stepping.await.map_err(|error| Error::Internal(error.to_string()))?
    }

    /// As [`read`], on this store.
    async fn read<T>(
        &self,
        work: impl for<'a> FnOnce(&'a Transaction<'a>, &'a Local) -> Doing<'a, T> + Send,
    ) -> Result<T, Error> {
        read(&self.pool, &self.local, work).await
    }

    /// As [`Self::read`], for as long as people's reads may take, and never with all connections.
    async fn read_for_people<T>(
        &self,
        work: impl for<'a> FnOnce(&'a Transaction<'a>, &'a Local) -> Doing<'a, T> + Send + 'static,
    ) -> Result<T, Error> {
        let _permit = self.people.acquire().await.expect("the semaphore is never closed");
        self.read_within(READ_TIME_MAX, work).await
    }

    async fn read_within<T>(
        &self,
        time_max: Duration,
        work: impl for<'a> FnOnce(&'a Transaction<'a>, &'a Local) -> Doing<'a, T> + Send + 'static,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let limited = self.read(move |tx, local| {
            Box::pin(async move {
                tx.batch_execute(&format!("SET LOCAL statement_timeout = {}", time_max.as_millis())).await?;
                work(tx, local).await
            })
        });
        match limited.await {
            Err(Error::Unavailable(_)) if began.elapsed() >= time_max => Err(Error::TooSlow(time_max)),
            other => other,
        }
    }

    /// Takes up a master key that another node has put in force, where the file is shared.
    async fn follow_key(&self) -> Result<(), Error> {
        let seals = self.local.seals();
        let seal = self
            .step(move |tx, local| {
                Box::pin(async move {
                    // A change that is under way has written its key, and must not be taken for one that came to nothing.
                    upgrade::alone(tx).await?;
                    let mark = admin::meta(tx, "seal").await?.ok_or(Error::Corrupt { table: "meta", column: "value", id: 0 })?;
                    if seals.iter().any(|seal| seal.made(&mark)) {
                        return Ok(None);
                    }
                    Ok(Some(local.key_file.open(Some(&mark))?))
                })
            })
            .await?;
        if let Some(seal) = seal {
            self.local.set_seals([&[Arc::new(seal)], self.local.seals().as_slice()].concat());
        }
        Ok(())
    }
}

/// Reads one moment: a row that moves from table to table meanwhile is seen in exactly one of them.
async fn read<T>(
    pool: &Pool,
    local: &Local,
    work: impl for<'a> FnOnce(&'a Transaction<'a>, &'a Local) -> Doing<'a, T> + Send,
) -> Result<T, Error> {
    let mut client = pool.get().await?;
    let moment = client.build_transaction().read_only(true).isolation_level(IsolationLevel::RepeatableRead);
    let tx = moment.start().await?;
    let value = work(&tx, local).await;
    if let Err(error @ (Error::Unavailable(_) | Error::Internal(_))) = &value {
        tracing::error!(%error, "the store could not be read");
    }
    let value = value?;
    tx.rollback().await?;
    Ok(value)
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Store for Postgres {
    fn tag(&self) -> Tag {
        self.local.tag
    }

    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, Error> {
        let (pool, local, most) = (self.pool.clone(), Arc::clone(&self.local), self.backlog_max.saturating_add(1));
        self.admission.keep_counted(clock::steady(), async move {
            read(&pool, &local, move |tx, _| Box::pin(load::events_to_run(tx, most))).await
        });
        self.admission.check(self.committer.queued(), self.committer.waited()).map_err(Error::Overloaded)?;
        let weight = events.iter().map(accept::weight).sum();
        self.committer.accept(weight, events).await
    }

    async fn settle(&self, settlements: Arc<Vec<Settlement>>) -> Result<Vec<Settled>, Error> {
        let weight = settlements.iter().map(weight::settlement).sum();
        self.committer.settle(weight, settlements).await
    }

    async fn record_attempts(&self, records: Arc<Vec<AttemptRecord>>) -> Result<Vec<bool>, Error> {
        let weight = records.iter().map(weight::attempt).sum();
        self.committer.record(weight, records).await
    }

    async fn claim_due(&self, now: Timestamp) -> Result<usize, Error> {
        self.step_as_node(move |tx, local, node, after| {
            Box::pin(async move {
                claims::claim_due(tx, local, node, now, after).await?;
                Ok(after.events.len() + after.runs.len() + after.deliveries.len())
            })
        })
        .await
    }

    async fn release(
        &self,
        events: Vec<(EventId, Lease)>,
        runs: Vec<(RunId, Lease)>,
        deliveries: Vec<(DeliveryId, Lease)>,
    ) -> Result<(), Error> {
        let events: Vec<_> = events.into_iter().map(|(id, lease)| (id.as_i64(), lease.token)).collect();
        let runs: Vec<_> = runs.into_iter().map(|(id, lease)| (id.as_i64(), lease.token)).collect();
        let deliveries: Vec<_> = deliveries.into_iter().map(|(id, lease)| (id.as_i64(), lease.token)).collect();
        let tokens: Vec<i64> = [&events, &runs, &deliveries].into_iter().flatten().map(|(_, token)| *token).collect();
        let released = self.step(move |tx, local| {
            Box::pin(async move {
                claims::release(tx, local, "event_queue", &events).await?;
                claims::release(tx, local, "run_queue", &runs).await?;
                claims::release(tx, local, "live", &deliveries).await
            })
        });
        match released.await {
            Ok(()) => self.local.due(clock::steady()),
            // Nobody holds them any more: they are free as soon as the database can be told.
            Err(error) => {
                tracing::debug!(%error, count = tokens.len(), "claims could not be given back yet");
                self.local.add_orphans(tokens.into_iter());
            }
        }
        Ok(())
    }

    async fn next_due(&self, claimed_at: Timestamp) -> Result<Option<Timestamp>, Error> {
        self.read(move |tx, local| Box::pin(claims::next_due(tx, local, local.me(), claimed_at))).await
    }

    async fn read_state(&self, plugin: &Slug, key: &str) -> Result<Option<StateValue>, Error> {
        let (plugin, key) = (plugin.clone(), key.to_owned());
        read(&self.state_pool, &self.local, move |tx, _| Box::pin(async move { state::read(tx, &plugin, &key).await })).await
    }

    fn state_limits(&self) -> StateLimits {
        self.local.state_limits
    }

    async fn state_size(&self, plugin: &Slug) -> Result<StateSize, Error> {
        let plugin = plugin.clone();
        self.read(move |tx, _| Box::pin(async move { state::size(tx, &plugin).await })).await
    }

    async fn clear_state(&self, plugin: &Slug) -> Result<usize, Error> {
        let plugin = plugin.clone();
        self.step(move |tx, _| Box::pin(async move { state::clear(tx, &plugin).await })).await
    }

    async fn retry_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<(), Error> {
        self.step(move |tx, local| Box::pin(people::retry(tx, local, id, now))).await?;
        self.local.due(now);
        Ok(())
    }

    async fn cancel_delivery(&self, id: DeliveryId, at: Timestamp) -> Result<(), Error> {
        let endpoint = self.step(move |tx, _| Box::pin(people::cancel(tx, id, at))).await?;
        drop(self.local.handoff.deliveries.withdraw(&endpoint, |claim| claim.id == id));
        self.local.handoff.alarm.let_go();
        Ok(())
    }

    async fn replay_event(&self, id: EventId, now: Timestamp) -> Result<u32, Error> {
        let round = self.step(move |tx, local| Box::pin(people::replay(tx, local, id, now))).await?;
        self.local.due(now);
        Ok(round)
    }

    async fn drive_not_loadable(&self, plugin: &Slug, now: Timestamp) -> Result<usize, Error> {
        let plugin = plugin.clone();
        let drive =
            self.step(move |tx, local| Box::pin(async move { people::drive_not_loadable(tx, local, &plugin, now).await }));
        let driven = drive.await?;
        if driven > 0 {
            self.local.due(now);
        }
        Ok(driven)
    }

    async fn drive_wanting(&self, now: Timestamp) -> Result<usize, Error> {
        let driven = self.step(move |tx, local| Box::pin(people::drive_wanting(tx, local, now))).await?;
        if driven > 0 {
            self.local.due(now);
        }
        Ok(driven)
    }

    async fn create_endpoint(&self, endpoint: NewEndpoint) -> Result<Endpoint, Error> {
        let seal = self.local.seal();
        self.step(move |tx, _| Box::pin(async move { admin::create_endpoint(tx, &seal, endpoint).await })).await
    }

    async fn update_endpoint(&self, endpoint: Endpoint) -> Result<(), Error> {
        let seal = self.local.seal();
        self.step(move |tx, _| Box::pin(async move { admin::update_endpoint(tx, &seal, endpoint).await })).await
    }

    async fn set_endpoint_state(
        &self,
        id: EndpointId,
        from: &[EndpointState],
        to: EndpointState,
        news: Option<NewEvent>,
    ) -> Result<bool, Error> {
        let from = from.to_vec();
        let changed = self
            .step_as_node(move |tx, local, node, after| {
                Box::pin(async move {
                    let changed = admin::set_endpoint_state(tx, id, &from, to).await?;
                    if changed {
                        accept::insert_all(tx, local, node, news.into_iter().collect(), after).await?;
                    }
                    Ok(changed)
                })
            })
            .await?;
        self.local.due(clock::steady());
        Ok(changed)
    }

    async fn delete_endpoint(&self, id: EndpointId, news: Option<NewEvent>) -> Result<(), Error> {
        self.step_as_node(move |tx, local, node, after| {
            Box::pin(async move {
                admin::delete_endpoint(tx, id).await?;
                accept::insert_all(tx, local, node, news.into_iter().collect(), after).await
            })
        })
        .await
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        let read = || self.read(|tx, local| Box::pin(async move { admin::endpoints(tx, &local.seals()).await }));
        match read().await {
            Err(Error::Corrupt { column: "sealed", .. }) => {
                self.follow_key().await?;
                read().await
            }
            answer => answer,
        }
    }

    async fn note_failing(&self, id: EndpointId, since: Option<Timestamp>) -> Result<(), Error> {
        self.step(move |tx, _| Box::pin(admin::note_failing(tx, id, since))).await
    }

    async fn reseal(&self) -> Result<(), Error> {
        self.follow_key().await?;
        let seals = self.local.seals();
        let old = seals.clone();
        let seal = self
            .step(move |tx, local| {
                Box::pin(async move {
                    upgrade::alone(tx).await?;
                    let seal = Arc::new(local.key_file.begin_change()?);
                    sources::reseal(tx, &old, &seal).await?;
                    admin::reseal(tx, &old, &seal).await?;
                    // Known before the commit, so that no reader meets what it cannot open; in force after it.
                    local.set_seals([old.as_slice(), &[Arc::clone(&seal)]].concat());
                    Ok(seal)
                })
            })
            .await?;
        self.local.set_seals([&[seal], seals.as_slice()].concat());
        if let Err(error) = self.local.key_file.finish_change() {
            tracing::error!(%error, "the new master key lies beside the old one; the next start puts it in its place");
        }
        Ok(())
    }

    async fn create_source(&self, source: NewSource) -> Result<Source, Error> {
        let seal = self.local.seal();
        self.step(move |tx, _| Box::pin(async move { sources::create(tx, &seal, source).await })).await
    }

    async fn update_source(&self, source: Source) -> Result<(), Error> {
        let seal = self.local.seal();
        self.step(move |tx, _| Box::pin(async move { sources::update(tx, &seal, &source).await })).await
    }

    async fn delete_source(&self, id: SourceId) -> Result<(), Error> {
        self.step(move |tx, _| Box::pin(sources::delete(tx, id))).await
    }

    async fn sources(&self) -> Result<Vec<Source>, Error> {
        let read = || self.read(|tx, local| Box::pin(async move { sources::all(tx, &local.seals()).await }));
        match read().await {
            Err(Error::Corrupt { column: "sealed", .. }) => {
                self.follow_key().await?;
                read().await
            }
            answer => answer,
        }
    }

    async fn remember_plugin(&self, plugin: PluginRow) -> Result<(), Error> {
        self.step(move |tx, _| Box::pin(async move { admin::remember_plugin(tx, &plugin).await })).await
    }

    async fn set_plugin_config(&self, name: &Slug, config: BTreeMap<String, String>) -> Result<(), Error> {
        let name = name.clone();
        self.step(move |tx, _| Box::pin(async move { admin::set_plugin_config(tx, &name, &config).await })).await
    }

    async fn plugins(&self) -> Result<Vec<PluginRow>, Error> {
        self.read(|tx, _| Box::pin(admin::plugins(tx))).await
    }

    async fn create_key(&self, key: NewKey) -> Result<KeyRow, Error> {
        self.step(move |tx, _| Box::pin(admin::create_key(tx, key))).await
    }

    async fn revoke_key(&self, id: KeyId) -> Result<(), Error> {
        self.step(move |tx, _| Box::pin(admin::revoke_key(tx, id))).await
    }

    async fn keys(&self) -> Result<Vec<KeyRow>, Error> {
        self.read(|tx, _| Box::pin(admin::keys(tx))).await
    }

    async fn note_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), Error> {
        self.step(move |tx, _| Box::pin(async move { admin::note_key_uses(tx, &uses).await })).await
    }

    async fn begin_audit(&self, entry: NewAudit) -> Result<AuditId, Error> {
        self.step(move |tx, _| Box::pin(async move { audit::begin(tx, &entry).await })).await
    }

    async fn finish_audit(&self, id: AuditId, status: u16, target: Option<String>) -> Result<(), Error> {
        self.step(move |tx, _| Box::pin(async move { audit::finish(tx, id, status, target.as_deref()).await })).await
    }

    async fn withdraw_audit(&self, id: AuditId) -> Result<(), Error> {
        self.step(move |tx, _| Box::pin(async move { audit::withdraw(tx, id).await })).await
    }

    async fn audit(&self, filter: AuditFilter, page: PageRequest) -> Result<Page<AuditEntry>, Error> {
        self.read_for_people(move |tx, _| Box::pin(async move { audit::list(tx, &filter, page).await })).await
    }

    async fn create_job(&self, filter: RetryFilter, at: Timestamp) -> Result<Job, Error> {
        let job = self
            .step(move |tx, _| {
                Box::pin(async move {
                    let total = jobs::count(tx, &filter).await?;
                    jobs::create(tx, &filter, total, at).await
                })
            })
            .await?;
        self.local.handoff.jobs.notify_one();
        Ok(job)
    }

    async fn advance_job(&self, id: JobId, now: Timestamp, at: Timestamp) -> Result<Job, Error> {
        let job = self.step(move |tx, local| Box::pin(jobs::advance(tx, local, id, now, at))).await?;
        self.local.due(now);
        Ok(job)
    }

    async fn cancel_job(&self, id: JobId, at: Timestamp) -> Result<Job, Error> {
        self.step(move |tx, _| Box::pin(jobs::cancel(tx, id, at))).await
    }

    async fn job(&self, id: JobId) -> Result<Job, Error> {
        self.read_for_people(move |tx, _| Box::pin(jobs::show(tx, id))).await
    }

    async fn jobs(&self, state: Option<JobState>, page: PageRequest) -> Result<Page<Job>, Error> {
        self.read_for_people(move |tx, _| Box::pin(jobs::list(tx, state, page))).await
    }

    async fn events(&self, filter: EventFilter, page: PageRequest) -> Result<Page<EventSummary>, Error> {
        self.read_for_people(move |tx, _| Box::pin(async move { reads::events(tx, &filter, page).await })).await
    }

    async fn event(&self, id: EventId, from: StoryPlace) -> Result<EventStory, Error> {
        self.read_for_people(move |tx, local| Box::pin(reads::event(tx, local, id, from))).await
    }

    async fn deliveries(&self, filter: DeliveryFilter, page: PageRequest) -> Result<Page<DeliverySummary>, Error> {
        self.read_for_people(move |tx, local| Box::pin(async move { reads::deliveries(tx, local, &filter, page).await })).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<DeliveryStory, Error> {
        self.read_for_people(move |tx, local| Box::pin(reads::delivery(tx, local, id))).await
    }

    async fn load(&self) -> Result<Load, Error> {
        let (stages, bytes) = self
            .read(|tx, local| Box::pin(async move { Ok((load::stages(tx, local).await?, load::database_bytes(tx).await?)) }))
            .await?;
        Ok(Load {
            stages,
            lanes: self.local.handoff.lanes(),
            queued_bytes: self.committer.queued() as u64,
            file_bytes: vec![("database", bytes)],
            // Not ours to know.
            disk_bytes: 0,
            disk_free_bytes: 0,
        })
    }

    async fn bury(&self, at: Timestamp) -> Result<usize, Error> {
        let (buried, dead) = self.step(move |tx, _| Box::pin(attempts::bury(tx, at))).await?;
        meters().dead(DeadReason::EndpointDisabled.as_str(), dead);
        Ok(buried)
    }

    async fn retire(&self, retention: Retention, now: Timestamp) -> Result<usize, Error> {
        let walks = *self.local.walks.lock().expect("no code panics while it holds the walks");
        let step = self.step(move |tx, local| Box::pin(retention::retire(tx, local.me(), walks, retention, now)));
        let (looked_at, walks) = step.await?;
        *self.local.walks.lock().expect("no code panics while it holds the walks") = walks;
        Ok(looked_at)
    }

    async fn relieve(&self, bytes_max: u64) -> Result<Relief, Error> {
        let walks = *self.local.walks.lock().expect("no code panics while it holds the walks");
        let step = self.step(move |tx, local| Box::pin(retention::relieve(tx, local.me(), walks, bytes_max)));
        let (relief, walks) = step.await?;
        *self.local.walks.lock().expect("no code panics while it holds the walks") = walks;
        Ok(relief)
    }

    async fn size(&self) -> Result<u64, Error> {
        self.read(|tx, _| Box::pin(retention::size(tx))).await
    }

    async fn probe(&self) -> Result<(), Error> {
        if let Some(trouble) = self.committer.trouble() {
            return Err(trouble);
        }
        self.step(|tx, local| {
            Box::pin(async move {
                let sql =
                    "INSERT INTO meta (key, value) VALUES ('probe', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
                db::execute(tx, sql, &[&local.me().to_le_bytes().as_slice()]).await?;
                Ok(())
            })
        })
        .await
    }

    async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.read(|tx, local| Box::pin(node::list(tx, local))).await
    }

    fn depot(&self) -> Option<&dyn Depot> {
        Some(self)
    }

    async fn leave(&self) -> Result<(), Error> {
        self.stop.cancel();
        self.step(|tx, local| Box::pin(node::leave(tx, local))).await
    }
}
