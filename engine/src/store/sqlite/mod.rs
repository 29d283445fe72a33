//! The embedded store: one SQLite file, one writing thread with group commit, a few reading connections beside it.
//!
//! The process owns the file (the data folder is locked), so a lease is alive only while this process is; at the start every
//! lease of an earlier one ends. What this process keeps in memory beside the file is in [`Local`], and all of it can be lost.

mod accept;
mod admin;
mod attempts;
mod audit;
mod backup;
mod check;
mod checkpoints;
mod claims;
mod export;
mod jobs;
mod load;
mod people;
mod reads;
mod retention;
mod rows;
mod settle;
mod sources;
mod state;
mod steady;
#[cfg(test)]
mod tests;
mod upgrade;
mod writer;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

pub use self::{
    backup::Backup,
    check::{CheckReport, Finding},
    export::Export,
};
use self::{
    settle::Claims,
    writer::{Keeps, Writer},
};
use super::{
    Accepted, Admission, AdmissionLimits, AttemptRecord, AuditEntry, AuditFilter, DeliveryFilter, DeliveryStory, DeliverySummary,
    Error, EventFilter, EventStory, EventSummary, Handoff, Job, JobState, KeyFile, KeyRow, Lease, Load, NewAudit, NewKey, Page,
    PageRequest, PluginRow, READ_TIME_MAX, Relief, Retention, RetryFilter, Seal, Settled, Settlement, StateLimits, StateSize,
    StateValue, Store, StoryPlace, walks::Walks, weight,
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
    files,
    metrics::meters,
};

/// Connections that read for people at once.
const READERS: usize = 4;
/// Connections that read for the engine itself, which must not wait for what people ask.
const OWN_READERS: usize = 2;
/// Connections that read plugins' state, for which runs wait. One: each read is a look into an index.
const STATE_READERS: usize = 1;
/// Steps of SQLite's machine between two looks at the clock: less than a millisecond.
const STEPS_UNTIMED: i32 = 10_000;
/// Deliveries that one step of `bury` finishes.
const BURY_MAX: u32 = 500;

/// The embedded store.
pub struct Sqlite {
    file: PathBuf,
    writer: Writer,
    /// For people.
    readers: Readers,
    own_readers: Readers,
    state_readers: Readers,
    local: Arc<Local>,
    admission: Arc<Admission>,
}

/// The connections that read.
#[derive(Clone)]
struct Readers {
    free: Arc<Mutex<Free>>,
    permits: Arc<Semaphore>,
}

/// Those that nobody reads with at the moment. The handle of their file is closed after them: on Unix, closing any handle of a file
/// takes away every lock that the process has on it.
struct Free {
    connections: Vec<Connection>,
    _file: Arc<File>,
}

/// What this process knows beside the file.
pub struct Local {
    tag: Tag,
    handoff: Handoff,
    next_event: AtomicI64,
    next_token: AtomicI64,
    /// A minute whose first id is noted and committed.
    minute: AtomicI64,
    walks: Mutex<Walks>,
    /// Which order of each endpoint was looked at last: the next claim goes on behind it.
    last_orders: Mutex<HashMap<EndpointId, i64>>,
    state_limits: StateLimits,
    key_file: KeyFile,
    /// The master key in force first. One that was replaced while this process runs still opens what a reader began to read before.
    seals: RwLock<Vec<Arc<Seal>>>,
}

impl Local {
    fn next_event(&self) -> EventId {
        EventId::from_i64(self.next_event.fetch_add(1, Ordering::Relaxed))
    }

    fn last_event(&self) -> EventId {
        EventId::from_i64(self.next_event.load(Ordering::Relaxed) - 1)
    }

    fn next_token(&self) -> i64 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }

    fn walks(&self) -> MutexGuard<'_, Walks> {
        self.walks.lock().expect("no code panics while it holds the walks")
    }

    fn last_order(&self, endpoint: EndpointId) -> i64 {
        let orders = self.last_orders.lock().expect("no code panics while it holds the orders");
        orders.get(&endpoint).copied().unwrap_or(i64::MIN)
    }

    fn note_order(&self, endpoint: EndpointId, ordering: i64) {
        self.last_orders.lock().expect("no code panics while it holds the orders").insert(endpoint, ordering);
    }

    fn seal(&self) -> Arc<Seal> {
        Arc::clone(&self.seals()[0])
    }

    fn seals(&self) -> Vec<Arc<Seal>> {
        self.seals.read().expect("no code panics while it holds the keys").clone()
    }

    fn set_seals(&self, seals: Vec<Arc<Seal>>) {
        *self.seals.write().expect("no code panics while it holds the keys") = seals;
    }

    fn hand_over(&self, claims: Claims) {
        if let Some(last) = claims.events.last() {
            self.minute.store(accept::minute(last.event.accepted_at), Ordering::Relaxed);
        }
        self.handoff.events.push_all(claims.events.into_iter().map(|claim| ((), claim)));
        // In one step: if the first of a train fails, those behind it are all there to be taken back.
        self.handoff.deliveries.push_all(claims.deliveries.into_iter().map(|claim| (claim.endpoint, claim)));
    }
}

impl Sqlite {
    /// Opens the store in `file`, making it if there is none. Blocks.
    ///
    /// The caller owns the file alone: two processes on one file would send everything twice. The secrets in it are sealed under
    /// the key in `key_file`, which is made with the store. Beyond `limits` it takes no further events.
    pub fn open(file: &Path, key_file: KeyFile, handoff: Handoff, limits: AdmissionLimits) -> Result<Self, Error> {
        match files::create(file) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unavailable(file, &error)),
            _ => close_to_others(file)?,
        }
        let db = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // FULL: a commit is on the disk when it returns. Checkpoints have a thread of their own.
        db.execute_batch(
            "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;
             PRAGMA journal_size_limit = 134217728;",
        )?;
        let (tag, seal) = upgrade::upgrade(&db, &key_file)?;
        export::refuse_moved(&db)?;
        // Before anything asks what time it is.
        steady::resume(&db)?;
        steady::keep(&db)?;
        claims::expire_all(&db, clock::steady())?;
        let last = last_event(&db)?;
        let handle = Arc::new(File::open(file).map_err(|error| Error::Unavailable(error.to_string()))?);
        let local = Local {
            tag,
            handoff,
            next_event: AtomicI64::new(last + 1),
            next_token: AtomicI64::new(first_token()?),
            minute: AtomicI64::new(i64::MIN),
            walks: Mutex::default(),
            last_orders: Mutex::default(),
            state_limits: limits.state,
            key_file,
            seals: RwLock::new(vec![Arc::new(seal)]),
        };
        Ok(Self {
            file: file.to_owned(),
            writer: Writer::start(db, connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?, Arc::clone(&handle))
                .map_err(|error| Error::Unavailable(error.to_string()))?,
            readers: Readers::open(file, &handle, READERS)?,
            own_readers: Readers::open(file, &handle, OWN_READERS)?,
            state_readers: Readers::open(file, &handle, STATE_READERS)?,
            local: Arc::new(local),
            admission: Arc::new(Admission::new(limits)),
        })
    }

    async fn write<T: Send + 'static>(
        &self,
        weight: usize,
        work: impl FnOnce(&Connection, &Local) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.write_as(Keeps::Promise, weight, work).await
    }

    async fn write_as<T: Send + 'static>(
        &self,
        keeps: Keeps,
        weight: usize,
        work: impl FnOnce(&Connection, &Local) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let local = Arc::clone(&self.local);
        self.writer.write(keeps, weight, move |db| Ok((work(db, &local)?, || ()))).await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.own_readers.read(None, work).await
    }

    /// As [`Self::read`], for as long as people's reads may take.
    async fn read_for_people<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.readers.read(Some(READ_TIME_MAX), work).await
    }
}

impl Readers {
    /// `handle` is of the same file.
    fn open(file: &Path, handle: &Arc<File>, count: usize) -> Result<Self, Error> {
        let connections = (0..count).map(|_| connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            free: Arc::new(Mutex::new(Free { connections, _file: Arc::clone(handle) })),
            permits: Arc::new(Semaphore::new(count)),
        })
    }

    /// Breaks off with [`Error::TooSlow`] what takes longer than `time_max`.
    async fn read<T: Send + 'static>(
        &self,
        time_max: Option<Duration>,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
        let free = Arc::clone(&self.free);
        let reading = tokio::task::spawn_blocking(move || {
            let lock = || free.lock().expect("no code panics while it holds the readers");
            let db = lock().connections.pop().expect("as many connections as permits");
            if let Some(time_max) = time_max {
                let began = Instant::now();
                db.progress_handler(STEPS_UNTIMED, Some(move || began.elapsed() > time_max))?;
            }
            // One transaction is one moment: a row that moves from table to table meanwhile is seen in exactly one of them.
            let result = db.unchecked_transaction().map_err(Error::from).and_then(|moment| work(&moment));
            db.progress_handler(0, None::<fn() -> bool>)?;
            lock().connections.push(db);
            drop(permit);
            if let Err(error @ (Error::Unavailable(_) | Error::Internal(_))) = &result {
                tracing::error!(%error, "the store could not be read");
            }
            result
        });
        reading.await.map_err(|error| Error::Internal(error.to_string()))?
    }
}

/// The last id that was issued to an event, whether it is still there or not.
fn last_event(db: &Connection) -> Result<i64, Error> {
    Ok(db.query_row(
        "SELECT max(coalesce((SELECT max(id) FROM event), 0), coalesce((SELECT value FROM meta WHERE key = 'last_event'), 0))",
        [],
        |row| row.get(0),
    )?)
}

/// Sees to it that only the owner can read the store's files, before SQLite opens them: it gives its own files the mode of the store.
fn close_to_others(file: &Path) -> Result<(), Error> {
    ["", "-wal", "-shm", "-journal"].iter().try_for_each(|ending| {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        files::close_to_others(Path::new(&name)).map_err(|error| unavailable(file, &error))
    })
}

fn unavailable(file: &Path, error: &io::Error) -> Error {
    Error::Unavailable(format!("{} cannot be opened: {error}", file.display()))
}

fn connect(file: &Path, flags: OpenFlags) -> Result<Connection, Error> {
    let db = Connection::open_with_flags(file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.set_prepared_statement_cache_capacity(128);
    db.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA cache_size = -65536;")?;
    Ok(db)
}

/// Where this opening begins to count its lease tokens: somewhere else than every other, so that what was claimed before a restart
/// is never mistaken for what was claimed after it.
fn first_token() -> Result<i64, Error> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| Error::Unavailable(error.to_string()))?;
    // Two bits are left for counting on.
    Ok(i64::from_le_bytes(random) & (i64::MAX >> 2))
}

#[async_trait]
impl Store for Sqlite {
    fn tag(&self) -> Tag {
        self.local.tag
    }

    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, Error> {
        let readers = self.own_readers.clone();
        self.admission.keep_counted(clock::steady(), async move { readers.read(None, load::events_to_run).await });
        self.admission.check(self.writer.queued(), self.writer.waited()).map_err(Error::Overloaded)?;
        let weight = events.iter().map(accept::weight).sum();
        let local = Arc::clone(&self.local);
        self.writer
            .write(Keeps::Promise, weight, move |db| {
                let mut claims = Claims::default();
                let answers = accept::accept(db, &local, events, &mut claims.events)?;
                let waiting = claims.events.len() < answers.len();
                Ok((answers, move || {
                    if waiting {
                        local.handoff.alarm.set(clock::steady());
                    }
                    local.hand_over(claims);
                }))
            })
            .await
    }

    async fn settle(&self, settlements: Arc<Vec<Settlement>>) -> Result<Vec<Settled>, Error> {
        let weight = settlements.iter().map(weight::settlement).sum();
        // What comes of nothing is found out again.
        let keeps = if settlements.iter().any(settle::has_effect) { Keeps::Promise } else { Keeps::Progress };
        let local = Arc::clone(&self.local);
        self.writer
            .write_apart(keeps, weight, move |db| {
                let mut claims = Claims::default();
                let mut answers = Vec::with_capacity(settlements.len());
                for settlement in &*settlements {
                    answers.push(settle::settle(db, &local, settlement, &mut claims)?);
                }
                Ok((answers, move || {
                    local.hand_over(claims);
                    local.handoff.alarm.let_go();
                }))
            })
            .await
    }

    async fn record_attempts(&self, records: Arc<Vec<AttemptRecord>>) -> Result<Vec<bool>, Error> {
        let weight = records.iter().map(weight::attempt).sum();
        // An attempt that is forgotten is made again, under the same id: that is what at least once means.
        let local = Arc::clone(&self.local);
        self.writer
            .write_apart(Keeps::Progress, weight, move |db| {
                let mut claims = Claims::default();
                let mut recorded = Vec::with_capacity(records.len());
                for record in &*records {
                    recorded.push(attempts::record(db, &local, record, &mut claims.events)?);
                }
                Ok((recorded, move || {
                    local.hand_over(claims);
                    local.handoff.alarm.let_go();
                }))
            })
            .await
    }

    async fn claim_due(&self, now: Timestamp) -> Result<usize, Error> {
        let local = Arc::clone(&self.local);
        self.writer
            // Leases end with the process in any case.
            .write(Keeps::Progress, 0, move |db| {
                let mut claims = Claims::default();
                let mut runs = Vec::new();
                claims::claim_due(db, &local, now, &mut claims, &mut runs)?;
                let count = claims.events.len() + claims.deliveries.len() + runs.len();
                Ok((count, move || {
                    local.hand_over(claims);
                    local.handoff.runs.push_all(runs.into_iter().map(|claim| (claim.plugin.clone(), claim)));
                }))
            })
            .await
    }

    async fn release(
        &self,
        events: Vec<(EventId, Lease)>,
        runs: Vec<(RunId, Lease)>,
        deliveries: Vec<(DeliveryId, Lease)>,
    ) -> Result<(), Error> {
        // What was given back is found again in any case.
        self.write_as(Keeps::Progress, 0, move |db, local| {
            for (id, lease) in events {
                claims::release(db, local, "event_queue", id.as_i64(), lease.token)?;
            }
            for (id, lease) in runs {
                claims::release(db, local, "run_queue", id.as_i64(), lease.token)?;
            }
            for (id, lease) in deliveries {
                claims::release(db, local, "live", id.as_i64(), lease.token)?;
            }
            Ok(())
        })
        .await
    }

    async fn next_due(&self, claimed_at: Timestamp) -> Result<Option<Timestamp>, Error> {
        let local = Arc::clone(&self.local);
        self.read(move |db| claims::next_due(db, &local, claimed_at)).await
    }

    async fn read_state(&self, plugin: &Slug, key: &str) -> Result<Option<StateValue>, Error> {
        let (plugin, key) = (plugin.clone(), key.to_owned());
        self.state_readers.read(None, move |db| state::read(db, &plugin, &key)).await
    }

    fn state_limits(&self) -> StateLimits {
        self.local.state_limits
    }

    async fn state_size(&self, plugin: &Slug) -> Result<StateSize, Error> {
        let plugin = plugin.clone();
        self.read(move |db| state::size(db, &plugin)).await
    }

    async fn clear_state(&self, plugin: &Slug) -> Result<usize, Error> {
        let plugin = plugin.clone();
        self.write(0, move |db, _| state::clear(db, &plugin)).await
    }

    async fn retry_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<(), Error> {
        self.write(0, move |db, local| people::retry(db, local, id, now)).await
    }

    async fn cancel_delivery(&self, id: DeliveryId, at: Timestamp) -> Result<(), Error> {
        let local = Arc::clone(&self.local);
        self.writer
            .write(Keeps::Promise, 0, move |db| {
                let endpoint = people::cancel(db, id, at)?;
                Ok(((), move || {
                    drop(local.handoff.deliveries.withdraw(&endpoint, |claim| claim.id == id));
                    local.handoff.alarm.let_go();
                }))
            })
            .await
    }

    async fn replay_event(&self, id: EventId, now: Timestamp) -> Result<u32, Error> {
        self.write(0, move |db, local| people::replay(db, local, id, now)).await
    }

    async fn drive_not_loadable(&self, plugin: &Slug, now: Timestamp) -> Result<usize, Error> {
        let plugin = plugin.clone();
        self.write(0, move |db, local| people::drive_not_loadable(db, local, &plugin, now)).await
    }

    async fn drive_wanting(&self, now: Timestamp) -> Result<usize, Error> {
        // Hardly ever: asked beside the writer.
        if !self.read(people::is_wanting).await? {
            return Ok(0);
        }
        self.write(0, move |db, local| people::drive_wanting(db, local, now)).await
    }

    async fn create_endpoint(&self, endpoint: NewEndpoint) -> Result<Endpoint, Error> {
        self.write(0, move |db, local| admin::create_endpoint(db, &local.seal(), endpoint)).await
    }

    async fn update_endpoint(&self, endpoint: Endpoint) -> Result<(), Error> {
        self.write(0, move |db, local| admin::update_endpoint(db, &local.seal(), endpoint)).await
    }

    async fn set_endpoint_state(
        &self,
        id: EndpointId,
        from: &[EndpointState],
        to: EndpointState,
        news: Option<NewEvent>,
    ) -> Result<bool, Error> {
        let (from, local) = (from.to_vec(), Arc::clone(&self.local));
        self.writer
            .write(Keeps::Promise, 0, move |db| {
                let mut claims = Claims::default();
                let changed = admin::set_endpoint_state(db, id, &from, to)?;
                if changed {
                    accept::insert_all(db, &local, news, &mut claims.events)?;
                }
                Ok((changed, move || {
                    local.hand_over(claims);
                    local.handoff.alarm.set(clock::steady());
                }))
            })
            .await
    }

    async fn delete_endpoint(&self, id: EndpointId, news: Option<NewEvent>) -> Result<(), Error> {
        let local = Arc::clone(&self.local);
        self.writer
            .write(Keeps::Promise, 0, move |db| {
                let mut claims = Claims::default();
                admin::delete_endpoint(db, id)?;
                accept::insert_all(db, &local, news, &mut claims.events)?;
                Ok(((), move || local.hand_over(claims)))
            })
            .await
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        let local = Arc::clone(&self.local);
        // The keys are asked for after the transaction has begun: a change of them in between would leave it with neither.
        self.read(move |db| admin::endpoints(db, &local.seals())).await
    }

    async fn create_source(&self, source: NewSource) -> Result<Source, Error> {
        self.write(0, move |db, local| sources::create(db, &local.seal(), source)).await
    }

    async fn update_source(&self, source: Source) -> Result<(), Error> {
        self.write(0, move |db, local| sources::update(db, &local.seal(), &source)).await
    }

    async fn delete_source(&self, id: SourceId) -> Result<(), Error> {
        self.write(0, move |db, _| sources::delete(db, id)).await
    }

    async fn sources(&self) -> Result<Vec<Source>, Error> {
        let local = Arc::clone(&self.local);
        // The keys are asked for after the transaction has begun, as for endpoints.
        self.read(move |db| sources::all(db, &local.seals())).await
    }

    async fn note_failing(&self, id: EndpointId, since: Option<Timestamp>) -> Result<(), Error> {
        self.write_as(Keeps::Progress, 0, move |db, _| admin::note_failing(db, id, since)).await
    }

    async fn reseal(&self) -> Result<(), Error> {
        let local = Arc::clone(&self.local);
        self.writer
            .write(Keeps::Promise, 0, move |db| {
                let seals = local.seals();
                let seal = Arc::new(local.key_file.begin_change()?);
                sources::reseal(db, &seals, &seal)?;
                admin::reseal(db, &seals, &seal)?;
                // Known before the commit, so that no reader meets what it cannot open; in force after it.
                local.set_seals([seals.as_slice(), &[Arc::clone(&seal)]].concat());
                Ok(((), move || {
                    local.set_seals([&[seal], seals.as_slice()].concat());
                    if let Err(error) = local.key_file.finish_change() {
                        tracing::error!(%error, "the new master key lies beside the old one; the next start puts it in its place");
                    }
                }))
            })
            .await
    }

    async fn remember_plugin(&self, plugin: PluginRow) -> Result<(), Error> {
        self.write(0, move |db, _| admin::remember_plugin(db, &plugin)).await
    }

    async fn set_plugin_config(&self, name: &Slug, config: BTreeMap<String, String>) -> Result<(), Error> {
        let name = name.clone();
        self.write(0, move |db, _| admin::set_plugin_config(db, &name, &config)).await
    }

    async fn plugins(&self) -> Result<Vec<PluginRow>, Error> {
        self.read(admin::plugins).await
    }

    async fn create_key(&self, key: NewKey) -> Result<KeyRow, Error> {
        self.write(0, move |db, _| admin::create_key(db, key)).await
    }

    async fn revoke_key(&self, id: KeyId) -> Result<(), Error> {
        self.write(0, move |db, _| admin::revoke_key(db, id)).await
    }

    async fn keys(&self) -> Result<Vec<KeyRow>, Error> {
        self.read(admin::keys).await
    }

    async fn note_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), Error> {
        self.write_as(Keeps::Progress, 0, move |db, _| admin::note_key_uses(db, &uses)).await
    }

    async fn begin_audit(&self, entry: NewAudit) -> Result<AuditId, Error> {
        self.write(0, move |db, _| audit::begin(db, &entry)).await
    }

    async fn finish_audit(&self, id: AuditId, status: u16, target: Option<String>) -> Result<(), Error> {
        // That it was asked for is on the disk, and so is what was answered as done.
        self.write_as(Keeps::Progress, 0, move |db, _| audit::finish(db, id, status, target.as_deref())).await
    }

    async fn withdraw_audit(&self, id: AuditId) -> Result<(), Error> {
        // After a crash the entry of a change that was never made is there again: too much is noted, never too little.
        self.write_as(Keeps::Progress, 0, move |db, _| audit::withdraw(db, id)).await
    }

    async fn audit(&self, filter: AuditFilter, page: PageRequest) -> Result<Page<AuditEntry>, Error> {
        self.read_for_people(move |db| audit::list(db, &filter, page)).await
    }

    async fn create_job(&self, filter: RetryFilter, at: Timestamp) -> Result<Job, Error> {
        let counted = filter.clone();
        // Counted beside the writer, which has others to serve.
        let total = self.read(move |db| jobs::count(db, &counted)).await?;
        let local = Arc::clone(&self.local);
        self.writer
            .write(Keeps::Promise, 0, move |db| {
                let job = jobs::create(db, &local, &filter, total, at)?;
                Ok((job, move || local.handoff.jobs.notify_one()))
            })
            .await
    }

    async fn advance_job(&self, id: JobId, now: Timestamp, at: Timestamp) -> Result<Job, Error> {
        // A batch that is lost with the machine is lost whole, and done again.
        self.write_as(Keeps::Progress, 0, move |db, local| jobs::advance(db, local, id, now, at)).await
    }

    async fn cancel_job(&self, id: JobId, at: Timestamp) -> Result<Job, Error> {
        self.write(0, move |db, _| jobs::cancel(db, id, at)).await
    }

    async fn job(&self, id: JobId) -> Result<Job, Error> {
        self.read_for_people(move |db| jobs::show(db, id)).await
    }

    async fn jobs(&self, state: Option<JobState>, page: PageRequest) -> Result<Page<Job>, Error> {
        self.read_for_people(move |db| jobs::list(db, state, page)).await
    }

    async fn events(&self, filter: EventFilter, page: PageRequest) -> Result<Page<EventSummary>, Error> {
        self.read_for_people(move |db| reads::events(db, &filter, page)).await
    }

    async fn event(&self, id: EventId, from: StoryPlace) -> Result<EventStory, Error> {
        self.read_for_people(move |db| reads::event(db, id, from)).await
    }

    async fn deliveries(&self, filter: DeliveryFilter, page: PageRequest) -> Result<Page<DeliverySummary>, Error> {
        self.read_for_people(move |db| reads::deliveries(db, &filter, page)).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<DeliveryStory, Error> {
        self.read_for_people(move |db| reads::delivery(db, id)).await
    }

    async fn load(&self) -> Result<Load, Error> {
        let stages = self.read(|db| load::stages(db, clock::wall(), clock::steady())).await?;
        let (disk_bytes, disk_free_bytes) = load::disk(&self.file)?;
        Ok(Load {
            stages,
            lanes: self.local.handoff.lanes(),
            queued_bytes: self.writer.queued() as u64,
            file_bytes: load::file_bytes(&self.file),
            disk_bytes,
            disk_free_bytes,
        })
    }

    async fn bury(&self, at: Timestamp) -> Result<usize, Error> {
        let (buried, dead) = self.write(0, move |db, _| attempts::bury(db, at, BURY_MAX)).await?;
        meters().dead(DeadReason::EndpointDisabled.as_str(), dead);
        Ok(buried)
    }

    async fn retire(&self, retention: Retention, now: Timestamp) -> Result<usize, Error> {
        let local = Arc::clone(&self.local);
        self.writer
            .write(Keeps::Promise, 0, move |db| {
                let walks = *local.walks();
                let (looked_at, walks) = retention::retire(db, &local, walks, retention, now)?;
                Ok((looked_at, move || *local.walks() = walks))
            })
            .await
    }

    async fn relieve(&self, bytes_max: u64) -> Result<Relief, Error> {
        let local = Arc::clone(&self.local);
        self.writer
            .write(Keeps::Promise, 0, move |db| {
                let walks = *local.walks();
                let (relief, walks) = retention::relieve(db, &local, walks, bytes_max)?;
                Ok((relief, move || *local.walks() = walks))
            })
            .await
    }

    async fn size(&self) -> Result<u64, Error> {
        self.read(retention::size).await
    }

    async fn probe(&self) -> Result<(), Error> {
        if let Some(trouble) = self.writer.trouble() {
            return Err(trouble);
        }
        self.write(0, |db, _| {
            // Large enough to need pages of its own, so that a full disk shows.
            db.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('probe', zeroblob(16384))")?.execute([])?;
            Ok(())
        })
        .await
    }
}
