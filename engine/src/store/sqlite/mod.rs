//! The embedded store: one SQLite file, one writing thread with group commit, and a few reading connections.
//!
//! One process owns the file (it locks the data folder). So a lease is valid only while this process runs, and when a process
//! starts, it ends every lease of an earlier process. [`Local`] holds the values that the process keeps in memory beside the file.
//! The loss of these values does no harm.

mod accept;
mod attempts;
mod audit;
mod backup;
mod check;
mod checkpoints;
mod claims;
mod commands;
mod comparisons;
mod endpoints;
mod export;
mod health;
mod jobs;
mod keys;
mod leases;
mod parked;
mod plugins;
mod readers;
mod registry;
mod retention;
mod rows;
mod scheduled;
mod secrets;
mod settle;
mod sources;
mod state;
mod stats;
mod steady;
mod story;
#[cfg(test)]
pub mod tests;
mod upgrade;
mod writer;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

pub use self::{
    backup::Backup,
    check::{CheckReport, Finding},
    export::Export,
};
use self::{
    leases::Leases,
    readers::Readers,
    writer::{Breaks, Keeps, Writer},
};
use super::{Admission, AdmissionLimits, Error, Handoff, KeyFile, Nodes, READ_TIME_MAX, Store, commit::After, secrets::Seals};
use crate::{
    clock,
    domain::id::{EventId, Tag},
    files, random,
};

/// Connections that read for the API.
const READERS: usize = 4;
/// Connections that read for the engine itself, which must not wait for reads of the API.
const OWN_READERS: usize = 2;
/// Connections that read plugins' state for waiting runs. One is enough: each read is one index look-up.
const STATE_READERS: usize = 1;
/// Cache of the writing connection, in KiB. It holds the pages that one batch changes, and the upper pages of every index. A larger
/// cache would cost time: SQLite searches all of it after each commit that has split a page.
const WRITER_CACHE_KIB: u32 = 16 << 10;
/// Cache of each of the seven reading connections. The pages that they read are also in the operating system's cache.
const READER_CACHE_KIB: u32 = 8 << 10;

/// The embedded store.
pub struct Sqlite {
    file: PathBuf,
    /// Reads for the API.
    readers: Readers,
    own_readers: Readers,
    state_readers: Readers,
    local: Arc<Local>,
    admission: Arc<Admission>,
    /// Dropped after the readers: the last connection that can write copies the log into the file and removes it.
    writer: Writer,
}

/// The values that this process keeps in memory beside the file.
pub type Local = super::Local<Owned>;

/// What this process keeps as the only owner of the file.
pub struct Owned {
    leases: Leases,
    next_event: AtomicI64,
    next_token: AtomicI64,
}

impl Local {
    fn next_event(&self) -> EventId {
        EventId::from_i64(self.own.next_event.fetch_add(1, Ordering::Relaxed))
    }

    fn last_event(&self) -> EventId {
        EventId::from_i64(self.own.next_event.load(Ordering::Relaxed) - 1)
    }

    fn next_token(&self) -> i64 {
        self.own.next_token.fetch_add(1, Ordering::Relaxed)
    }
}

impl Sqlite {
    /// Opens the store in `file`, and creates it if the file is missing. Blocks the calling thread.
    ///
    /// The caller must be the only user of the file: two processes on one file would send everything twice. Secrets are sealed
    /// under the key in `key_file`, which is created with the store. The store refuses new events beyond `limits`.
    pub fn open(file: &Path, key_file: KeyFile, handoff: Handoff, limits: AdmissionLimits) -> Result<Self, Error> {
        match files::create(file) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unavailable(file, &error)),
            _ => close_to_others(file)?,
        }
        let db = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // With `synchronous = FULL`, a commit is on disk when it returns. SQLite makes no checkpoints automatically, because a
        // dedicated thread makes them.
        db.execute_batch(
            "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;
             PRAGMA journal_size_limit = 134217728;",
        )?;
        let (tag, seal) = upgrade::upgrade(&db, &key_file)?;
        export::refuse_moved(&db)?;
        // The steady clock must be resumed before it is read for the first time.
        steady::resume(&db)?;
        steady::keep(&db)?;
        claims::expire_all(&db, clock::steady())?;
        let last = last_event(&db)?;
        let handle = Arc::new(File::open(file).map_err(|error| Error::Unavailable(error.to_string()))?);
        let owned =
            Owned { leases: Leases::default(), next_event: AtomicI64::new(last + 1), next_token: AtomicI64::new(first_token()?) };
        let local = Local::new(tag, handoff, limits.state, Seals::new(key_file, seal), owned);
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

    /// Writes in the next transaction. The commit is on disk when this returns.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &Local) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.write_as(Keeps::Promise, work).await
    }

    async fn write_as<T: Send + 'static>(
        &self,
        keeps: Keeps,
        work: impl FnOnce(&Connection, &Local) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.write_then(keeps, Breaks::All, 0, move |db, local, _| work(db, local)).await
    }

    /// Writes in the next transaction. Takes the actions of [`After`] once the transaction is committed and the caller is answered.
    async fn write_then<T: Send + 'static>(
        &self,
        keeps: Keeps,
        breaks: Breaks,
        weight: usize,
        work: impl FnOnce(&Connection, &Local, &mut After) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        self.queue_then(keeps, breaks, weight, answer, work);
        self.writer.answer(keeps, answered).await
    }

    /// Like [`Self::write_then`], but returns at once. `answer` gets the result.
    fn queue_then<T: Send + 'static>(
        &self,
        keeps: Keeps,
        breaks: Breaks,
        weight: usize,
        answer: oneshot::Sender<Result<T, Error>>,
        work: impl FnOnce(&Connection, &Local, &mut After) -> Result<T, Error> + Send + 'static,
    ) {
        let local = Arc::clone(&self.local);
        let work = move |db: &Connection| {
            let mut after = After::default();
            let value = work(db, &local, &mut after)?;
            let follow = move || {
                local.own.leases.note(&after);
                // The result is ignored, because this store has no other node that could have room for a row.
                move || {
                    after.act(&local);
                }
            };
            Ok((value, follow))
        };
        self.writer.queue(keeps, breaks, weight, answer, work);
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.own_readers.read(None, work).await
    }

    /// Reads like [`Self::read`], with the time limit of reads for the API.
    async fn read_for_people<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.readers.read(Some(READ_TIME_MAX), work).await
    }
}

/// Returns the last id that was issued to an event, even if the event was deleted.
fn last_event(db: &Connection) -> Result<i64, Error> {
    Ok(db.query_row(
        "SELECT max(coalesce((SELECT max(id) FROM event), 0), coalesce((SELECT value FROM meta WHERE key = 'last_event'), 0))",
        [],
        |row| row.get(0),
    )?)
}

/// Removes other users' access to the store's files before SQLite opens them. SQLite gives its additional files the mode of the
/// store.
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
    let cache = if flags.contains(OpenFlags::SQLITE_OPEN_READ_ONLY) { READER_CACHE_KIB } else { WRITER_CACHE_KIB };
    db.execute_batch(&format!("PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{cache};"))?;
    Ok(db)
}

/// Returns the first lease token of this opening. No earlier opening used the same tokens, so a claim from before a restart is
/// never mistaken for a claim from after it.
fn first_token() -> Result<i64, Error> {
    // The two highest bits below the sign stay 0, so that counting up from this number cannot overflow.
    Ok(i64::from_le_bytes(random::bytes()?) & (i64::MAX >> 2))
}

impl Store for Sqlite {
    fn tag(&self) -> Tag {
        self.local.tag
    }
}

// The process owns the file, so it is the only node.
impl Nodes for Sqlite {}
