//! Group commit: one thread owns the writing connection. It takes all jobs that queued up during the last sync, runs them in one
//! transaction, and answers their callers after the commit.
//!
//! A job that refuses ([`Error::is_refusal`]) must not have changed anything and does not disturb the others. Any other failure rolls
//! back the whole transaction and is the answer to every caller.
//!
//! Callers are answered before the workers are woken: with few cores the woken workers would run in place of the callers. A single
//! caller gains a tenth, many callers a third.
//!
//! Not every commit has to reach the disk before it is answered ([`Keeps`]): one that makes no promise is written and not synced, so
//! promises queued behind it do not wait for a sync they do not need (`docs/decisions/02-durability.md`).

use std::{
    collections::VecDeque,
    fs::File,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::checkpoints::Checkpoints;
use crate::{
    metrics::meters,
    store::{Error, READ_TIME_MAX},
};

/// Jobs in one transaction at most: bounds how long the first one waits for its answer.
const JOBS_MAX: usize = 1_000;
/// Weight (bytes, roughly) in one transaction at most.
const WEIGHT_MAX: usize = 8 << 20;

/// What a job's work left to be done once the commit is known: answer. It returns what comes after all have been answered, if the
/// commit stands: hand over, wake.
pub type After = Box<dyn FnOnce(Result<(), Error>) -> Option<Box<dyn FnOnce() + Send>> + Send>;

/// What a job's answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// It is on the disk.
    Promise,
    /// It is in the file, outlives the process, and is on the disk with the next promise. Only for what is simply done again, to
    /// the same end, should the machine itself fail before.
    Progress,
}

/// What a job that the database refuses in its middle takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaks {
    /// Everything in its transaction.
    All,
    /// Itself alone. It costs a savepoint, so only for what is large already and holds what strangers made.
    Itself,
}

/// What a job does, given the open transaction or why there is none: the failure, if any, that breaks it; and what is left to do.
type Work = Box<dyn FnOnce(Result<&Connection, Error>) -> (Result<(), Error>, After) + Send>;

struct Job {
    queued_at: Instant,
    keeps: Keeps,
    breaks: Breaks,
    weight: usize,
    work: Work,
}

/// The last commit that failed.
#[derive(Default)]
struct Trouble(Mutex<Option<(Instant, Error)>>);

impl Trouble {
    /// Says once that commits fail, however many do.
    fn note(&self, error: &Error) {
        let mut last = self.0.lock().expect("no code panics while it notes a failure");
        if last.replace((Instant::now(), error.clone())).is_none() {
            tracing::error!(%error, "the store takes no writes; what is sent is refused, and what is in hand waits");
        }
    }

    /// A commit has succeeded: the trouble is over once none has failed for a while.
    fn may_be_over(&self) {
        let mut last = self.0.lock().expect("no code panics while it notes a failure");
        if last.as_ref().is_some_and(|(at, _)| at.elapsed() >= TROUBLED_FOR) {
            *last = None;
            tracing::info!("the store takes writes again");
        }
    }
}

/// How long after a failed commit the store counts as troubled: a small write may succeed where a larger one has just failed.
const TROUBLED_FOR: Duration = Duration::from_secs(5);

/// A handle to the writing thread. The thread ends when the last handle is gone and everything queued is written.
pub struct Writer {
    jobs: mpsc::Sender<Job>,
    queued: Arc<AtomicUsize>,
    first: Arc<First>,
    trouble: Arc<Trouble>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    /// `checkpoints` is another connection to the same `file`.
    pub fn start(connection: Connection, checkpoints: Connection, file: Arc<File>) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let first = Arc::new(First::new());
        let trouble = Arc::new(Trouble::default());
        let (counter, firsts, troubles) = (Arc::clone(&queued), Arc::clone(&first), Arc::clone(&trouble));
        let mut checkpoints = Checkpoints::start(&connection, checkpoints, file)?;
        let work = move || write_all(&connection, &mut checkpoints, &queue, &counter, &firsts, &troubles);
        let thread = thread::Builder::new().name("store-writer".into()).spawn(work)?;
        Ok(Self { jobs, queued, first, trouble, thread: Some(thread) })
    }

    /// Why a commit failed a moment ago, if one did.
    pub fn trouble(&self) -> Option<Error> {
        let trouble = self.trouble.0.lock().expect("no code panics while it notes a failure");
        trouble.as_ref().filter(|(at, _)| at.elapsed() < TROUBLED_FOR).map(|(_, error)| error.clone())
    }

    /// Bytes that wait to be written.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// For how long the job that is being committed has waited; nothing if none is.
    pub fn waited(&self) -> Duration {
        self.first.waited()
    }

    /// Runs `work` in the next transaction and answers after its commit.
    ///
    /// `work` returns its answer and what to do once the commit has succeeded and was answered (hand-over, wake-up), before the next
    /// one begins; it is dropped when the commit has not.
    pub async fn write<T, W, D>(&self, keeps: Keeps, weight: usize, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<(T, D), Error> + Send + 'static,
        D: FnOnce() + Send + 'static,
    {
        self.queue(keeps, Breaks::All, weight, work).await
    }

    /// As [`Self::write`]; should the database refuse something in the middle of `work`, the other jobs of its transaction go on.
    pub async fn write_apart<T, W, D>(&self, keeps: Keeps, weight: usize, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<(T, D), Error> + Send + 'static,
        D: FnOnce() + Send + 'static,
    {
        self.queue(keeps, Breaks::Itself, weight, work).await
    }

    async fn queue<T, W, D>(&self, keeps: Keeps, breaks: Breaks, weight: usize, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<(T, D), Error> + Send + 'static,
        D: FnOnce() + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let work = move |connection: Result<&Connection, Error>| -> (Result<(), Error>, After) {
            match connection.and_then(work) {
                Ok((value, done)) => {
                    let after = move |committed: Result<(), Error>| {
                        let done = committed.is_ok().then(|| Box::new(done) as Box<dyn FnOnce() + Send>);
                        // Nobody waits any more when the caller was cancelled; the commit stands all the same.
                        let _ = answer.send(committed.map(|()| value));
                        done
                    };
                    (Ok(()), Box::new(after))
                }
                Err(error) => {
                    let broken = if error.is_refusal() { Ok(()) } else { Err(error.clone()) };
                    let after = move |_| {
                        let _ = answer.send(Err(error));
                        None
                    };
                    (broken, Box::new(after))
                }
            }
        };
        self.queued.fetch_add(weight, Ordering::Relaxed);
        let job = Job { queued_at: Instant::now(), keeps, breaks, weight, work: Box::new(work) };
        self.jobs.send(job).map_err(|_| Error::Unavailable("the store is closed".into()))?;
        answered.await.map_err(|_| Error::Unavailable("the store is closed".into()))?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Closing the channel ends the thread once it has written what is queued.
        self.jobs = mpsc::channel().0;
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

/// Since when the first job that is being committed has waited.
struct First {
    origin: Instant,
    /// Microseconds after the origin, or `NOBODY`.
    since: AtomicU64,
}

impl First {
    const NOBODY: u64 = u64::MAX;

    fn new() -> Self {
        Self { origin: Instant::now(), since: AtomicU64::new(Self::NOBODY) }
    }

    fn set(&self, queued_at: Option<Instant>) {
        let since = queued_at.map_or(Self::NOBODY, |at| at.duration_since(self.origin).as_micros() as u64);
        self.since.store(since, Ordering::Relaxed);
    }

    fn waited(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            Self::NOBODY => Duration::ZERO,
            since => self.origin.elapsed().saturating_sub(Duration::from_micros(since)),
        }
    }
}

fn write_all(
    connection: &Connection,
    checkpoints: &mut Checkpoints,
    queue: &mpsc::Receiver<Job>,
    queued: &AtomicUsize,
    first: &First,
    trouble: &Trouble,
) {
    let meters = meters();
    let mut waiting = VecDeque::new();
    let mut mode = Keeps::Promise;
    loop {
        if waiting.is_empty() {
            first.set(None);
            let Ok(job) = queue.recv() else { return };
            waiting.push_back(job);
        }
        first.set(waiting.front().map(|job| job.queued_at));
        // Whether to sync has to be known before the transaction begins.
        waiting.extend(queue.try_iter().take(JOBS_MAX));
        let promise = waiting.iter().take(JOBS_MAX).any(|job: &Job| job.keeps == Keeps::Promise);
        let keeps = if promise { Keeps::Promise } else { Keeps::Progress };
        let mut afters = Vec::new();
        let mut weight = 0;
        let began = Instant::now();
        let mut begun = set_mode(connection, &mut mode, keeps).and_then(|()| begin(connection));
        while afters.len() < JOBS_MAX && weight < WEIGHT_MAX {
            let Some(job) = waiting.pop_front().or_else(|| queue.try_recv().ok()) else { break };
            if keeps == Keeps::Progress && job.keeps == Keeps::Promise {
                waiting.push_front(job);
                break;
            }
            weight += job.weight;
            queued.fetch_sub(job.weight, Ordering::Relaxed);
            // Never outside a transaction: there each statement would be a commit of its own, and a failure half a step.
            let (result, after) = match job.breaks {
                Breaks::All => (job.work)(begun.map(|()| connection)),
                Breaks::Itself => work_apart(connection, begun, job.work),
            };
            afters.push(after);
            begun = result;
            if begun.is_err() {
                break;
            }
        }
        let committed = begun.and_then(|()| commit(connection));
        meters.commit_jobs.observe(afters.len() as f64);
        match keeps {
            Keeps::Promise => meters.commit_promise_seconds.observe(began.elapsed().as_secs_f64()),
            Keeps::Progress => meters.commit_progress_seconds.observe(began.elapsed().as_secs_f64()),
        }
        if committed.is_err() && !connection.is_autocommit() {
            // If even this fails the next BEGIN says so.
            let _ = connection.execute_batch("ROLLBACK");
        }
        match &committed {
            Ok(()) => trouble.may_be_over(),
            Err(error) => {
                meters.commit_failures.inc();
                trouble.note(error);
            }
        }
        // Whoever waits for an answer need not wait for what wakes others.
        let done: Vec<_> = afters.into_iter().filter_map(|after| after(committed.clone())).collect();
        done.into_iter().for_each(|done| done());
        checkpoints.committed(connection);
    }
}

/// Does a job of which nothing stays if the database refuses a part of it, while the transaction goes on.
fn work_apart(connection: &Connection, begun: Result<(), Error>, work: Work) -> (Result<(), Error>, After) {
    let run = |sql: &str| -> Result<(), Error> { Ok(connection.prepare_cached(sql)?.execute([]).map(drop)?) };
    let (result, after) = work(begun.and_then(|()| run("SAVEPOINT job")).map(|()| connection));
    let result = match result {
        Ok(()) => run("RELEASE job"),
        // The transaction itself may be at its end.
        Err(error) if error.passes() || connection.is_autocommit() => Err(error),
        Err(error) => {
            meters().commit_failures.inc();
            tracing::warn!(%error, "the store refuses one step; it is undone, and the others go on");
            run("ROLLBACK TO job").and_then(|()| run("RELEASE job"))
        }
    };
    (result, after)
}

fn set_mode(connection: &Connection, mode: &mut Keeps, keeps: Keeps) -> Result<(), Error> {
    if *mode != keeps {
        connection.execute_batch(match keeps {
            Keeps::Promise => "PRAGMA synchronous = FULL",
            Keeps::Progress => "PRAGMA synchronous = NORMAL",
        })?;
        *mode = keeps;
    }
    Ok(())
}

fn begin(connection: &Connection) -> Result<(), Error> {
    Ok(connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)?)
}

fn commit(connection: &Connection) -> Result<(), Error> {
    Ok(connection.prepare_cached("COMMIT")?.execute([]).map(drop)?)
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            // Nothing else is ever broken off.
            Some(ErrorCode::OperationInterrupted) => Self::TooSlow(READ_TIME_MAX),
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied,
            ) => Self::Unavailable(error.to_string()),
            _ => Self::Internal(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn without_a_transaction_nothing_is_done() {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let connect = || {
            let db = Connection::open(folder.path().join("a.db")).unwrap();
            db.busy_timeout(Duration::from_millis(20)).unwrap();
            db
        };
        let other = connect();
        other.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE a (id INTEGER PRIMARY KEY); BEGIN IMMEDIATE").unwrap();
        let file = Arc::new(File::open(folder.path().join("a.db")).unwrap());
        let writer = Writer::start(connect(), connect(), file).unwrap();
        let free = Arc::new(std::sync::Mutex::new(Some(other)));
        let insert = |free: Arc<std::sync::Mutex<Option<Connection>>>| {
            move |db: &Connection| {
                // By now whatever held the file may have let go of it.
                drop(free.lock().unwrap().take());
                db.execute("INSERT INTO a DEFAULT VALUES", [])?;
                Ok(((), || ()))
            }
        };
        let refused = writer.write(Keeps::Promise, 0, insert(Arc::clone(&free))).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
        drop(free.lock().unwrap().take());
        let count = || -> i64 { connect().query_row("SELECT count(*) FROM a", [], |row| row.get(0)).unwrap() };
        assert_eq!(count(), 0, "what was answered with an error has not happened");
        writer.write(Keeps::Promise, 0, insert(free)).await.unwrap();
        assert_eq!((count(), writer.queued()), (1, 0));
    }
}
