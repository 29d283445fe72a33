//! Group commit: one thread owns the writing connection. It takes all jobs that queued up during the last sync, runs them in one
//! transaction, and answers their callers after the commit.
//!
//! A job that ends with a refusal ([`Error::is_refusal`]) must not have changed anything, and does not affect the other jobs. Any
//! other failure of a job rolls back the whole transaction, and every caller gets its error. Only a job in a savepoint
//! ([`Breaks::Itself`]) can fail alone.
//!
//! Callers are answered before workers are woken: with few cores, the woken workers would run instead of the callers. In a
//! measurement, answering the callers first made a single caller 10 % faster, and many callers 33 % faster.
//!
//! Not every commit has to reach the disk before its callers are answered ([`Keeps`]). If no job of a transaction promises
//! durability ([`Keeps::Promise`]), the transaction is written but not synced. So jobs that promise it and are queued behind need
//! not wait for that transaction's sync (`docs/decisions/02-durability.md`). A job on which nothing depends ([`Keeps::Later`]) waits a
//! few milliseconds for another job, because a commit costs more than the job. Until then the thread is not even woken.

use std::{
    collections::VecDeque,
    fs::File,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::checkpoints::Checkpoints;
use crate::{
    metrics::meters,
    store::{
        Error, READ_TIME_MAX,
        commit::{Gauge, JOBS_MAX, WEIGHT_MAX, warn_of_refused_step},
    },
    threads,
};

/// Answers a job's caller once the result of the commit is known. After a successful commit, returns the actions to take once all
/// callers are answered.
type Answer = Box<dyn FnOnce(Result<(), Error>) -> Option<Box<dyn FnOnce() + Send>> + Send>;

/// The durability that the answer to a job promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// The change is on disk.
    Promise,
    /// The change is in the file and outlives the process. It reaches the disk with the next transaction that is synced. If the
    /// machine fails before that, the change is lost, so this is only for work that is then repeated with the same result.
    Progress,
    /// Like [`Self::Progress`]. The change may wait up to [`LATER`] for another job, and then shares its commit.
    Later,
}

/// How long a job that is [`Keeps::Later`] waits for others.
const LATER: Duration = Duration::from_millis(10);

/// The part of the transaction that fails if the database refuses a statement of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaks {
    /// The whole transaction fails.
    All,
    /// Only the job fails. This costs a savepoint, so it is only for jobs that are large and contain data from outside.
    Itself,
}

/// The work of a job. It receives the open transaction, or the reason why none could be opened. It returns the failure that must
/// roll back the transaction, if any, and the function that answers the caller.
type Work = Box<dyn FnOnce(Result<&Connection, Error>) -> (Result<(), Error>, Answer) + Send>;

struct Job {
    queued_at: Instant,
    keeps: Keeps,
    breaks: Breaks,
    weight: usize,
    work: Work,
}

/// The jobs that wait for others.
#[derive(Clone, Default)]
struct Delayed(Arc<Mutex<Vec<Job>>>);

impl Delayed {
    fn push(&self, job: Job) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(job);
    }

    fn take(&self) -> Vec<Job> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the jobs to run once `job` has been taken from the queue: first those that wait, because they may have come earlier.
    fn before(&self, job: Job) -> impl Iterator<Item = Job> {
        self.take().into_iter().chain([job])
    }
}

/// A handle to the writing thread. The thread ends when the last handle is dropped and every queued job is written.
pub struct Writer {
    jobs: mpsc::Sender<Job>,
    delayed: Delayed,
    gauge: Arc<Gauge>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `checkpoints` is another connection to the same `file`.
    pub fn start(connection: Connection, checkpoints: Connection, file: Arc<File>) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let gauge = Arc::new(Gauge::new());
        let delayed = Delayed::default();
        let mut checkpoints = Checkpoints::start(&connection, checkpoints, file)?;
        let (writers, waits) = (Arc::clone(&gauge), delayed.clone());
        let work = move || write_all(&connection, &mut checkpoints, &queue, &waits, &writers);
        let thread = threads::spawn("store-writer", work)?;
        Ok(Self { jobs, delayed, gauge, thread: Some(thread) })
    }

    pub fn gauge(&self) -> &Gauge {
        &self.gauge
    }

    /// Queues `work` for the next transaction and returns at once. `answer` gets its result after the commit. It is dropped without a
    /// result if the store is closed.
    ///
    /// `work` returns its answer and the action that follows the commit, before the answer. That action returns another one, which
    /// runs after all callers are answered and before the next transaction begins. Both are dropped if the commit failed.
    pub fn queue<T, W, C, D>(
        &self,
        keeps: Keeps,
        breaks: Breaks,
        weight: usize,
        answer: oneshot::Sender<Result<T, Error>>,
        work: W,
    ) where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<(T, C), Error> + Send + 'static,
        C: FnOnce() -> D + Send + 'static,
        D: FnOnce() + Send + 'static,
    {
        let work = move |connection: Result<&Connection, Error>| -> (Result<(), Error>, Answer) {
            match connection.and_then(work) {
                Ok((value, follow)) => {
                    let after = move |committed: Result<(), Error>| {
                        let done = committed.is_ok().then(|| Box::new(follow()) as Box<dyn FnOnce() + Send>);
                        // The caller may have been cancelled meanwhile. The commit is valid anyway.
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
        self.gauge.add(weight);
        let job = Job { queued_at: Instant::now(), keeps, breaks, weight, work: Box::new(work) };
        if keeps == Keeps::Later {
            self.delayed.push(job);
        } else {
            // If the thread has ended, the job is dropped, and its caller learns that the store is closed.
            let _ = self.jobs.send(job);
        }
    }

    /// Waits for the answer to a job that was queued with `keeps`.
    pub async fn answer<T>(&self, keeps: Keeps, mut answered: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        let closed = |_| Error::Unavailable("the store is closed".into());
        if keeps == Keeps::Later {
            let hurry = Hurry(self);
            if let Ok(answer) = tokio::time::timeout(LATER, &mut answered).await {
                std::mem::forget(hurry);
                return answer.map_err(closed)?;
            }
        }
        answered.await.map_err(closed)?
    }

    /// Queues the jobs that wait for others.
    fn hurry(&self) {
        for job in self.delayed.take() {
            // If the thread has ended, the job is dropped, and its caller learns that the store is closed.
            let _ = self.jobs.send(job);
        }
    }
}

/// Queues the jobs that wait for others, also if the caller of one of them waits no longer.
struct Hurry<'a>(&'a Writer);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.hurry();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.hurry();
        // Closing the channel ends the thread once it has written the queued jobs.
        self.jobs = mpsc::channel().0;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread would have ended the process.
            let _ = thread.join();
        }
    }
}

fn write_all(
    connection: &Connection,
    checkpoints: &mut Checkpoints,
    queue: &mpsc::Receiver<Job>,
    delayed: &Delayed,
    gauge: &Gauge,
) {
    let meters = meters();
    let mut waiting = VecDeque::new();
    let mut mode = Keeps::Promise;
    loop {
        if waiting.is_empty() {
            gauge.begin(None);
            let Ok(job) = queue.recv() else { return };
            waiting.extend(delayed.before(job));
        }
        gauge.begin(waiting.front().map(|job| job.queued_at));
        // All jobs are taken from the queue here, because the decision to sync must be made before the transaction begins.
        waiting.extend(queue.try_iter().take(JOBS_MAX).flat_map(|job| delayed.before(job)));
        let promise = waiting.iter().take(JOBS_MAX).any(|job: &Job| job.keeps == Keeps::Promise);
        let keeps = if promise { Keeps::Promise } else { Keeps::Progress };
        let mut afters = Vec::new();
        let mut weight = 0;
        let began = Instant::now();
        let mut begun = set_mode(connection, &mut mode, keeps).and_then(|()| begin(connection));
        while afters.len() < JOBS_MAX && weight < WEIGHT_MAX {
            if waiting.is_empty() {
                let Ok(job) = queue.try_recv() else { break };
                waiting.extend(delayed.before(job));
            }
            let Some(job) = waiting.pop_front() else { break };
            if keeps == Keeps::Progress && job.keeps == Keeps::Promise {
                waiting.push_front(job);
                break;
            }
            weight += job.weight;
            gauge.take(job.weight);
            // Work never runs outside a transaction. Otherwise each statement would commit alone, and a failure would leave a step
            // half done.
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
            Keeps::Progress | Keeps::Later => meters.commit_progress_seconds.observe(began.elapsed().as_secs_f64()),
        }
        if committed.is_err() && !connection.is_autocommit() {
            // If this fails too, the next BEGIN reports it.
            let _ = connection.execute_batch("ROLLBACK");
        }
        match &committed {
            Ok(()) => gauge.succeeded(),
            Err(error) => gauge.failed(error),
        }
        // Callers are answered before workers are woken.
        let done: Vec<_> = afters.into_iter().filter_map(|after| after(committed.clone())).collect();
        done.into_iter().for_each(|done| done());
        checkpoints.committed(connection);
    }
}

/// Runs a job in a savepoint. If the database refuses a part of the job, the savepoint is undone and the transaction continues.
fn work_apart(connection: &Connection, begun: Result<(), Error>, work: Work) -> (Result<(), Error>, Answer) {
    let run = |sql: &str| -> Result<(), Error> { Ok(connection.prepare_cached(sql)?.execute([]).map(drop)?) };
    let (result, after) = work(begun.and_then(|()| run("SAVEPOINT job")).map(|()| connection));
    let result = match result {
        Ok(()) => run("RELEASE job"),
        // The error may have ended the transaction itself.
        Err(error) if error.passes() || connection.is_autocommit() => Err(error),
        Err(error) => {
            warn_of_refused_step(&error);
            run("ROLLBACK TO job").and_then(|()| run("RELEASE job"))
        }
    };
    (result, after)
}

fn set_mode(connection: &Connection, mode: &mut Keeps, keeps: Keeps) -> Result<(), Error> {
    if *mode != keeps {
        connection.execute_batch(match keeps {
            Keeps::Promise => "PRAGMA synchronous = FULL",
            Keeps::Progress | Keeps::Later => "PRAGMA synchronous = NORMAL",
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
            // Only reads with a time limit are ever interrupted.
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

    async fn write<T, C, D>(
        writer: &Writer,
        keeps: Keeps,
        work: impl FnOnce(&Connection) -> Result<(T, C), Error> + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        C: FnOnce() -> D + Send + 'static,
        D: FnOnce() + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        writer.queue(keeps, Breaks::All, 0, answer, work);
        writer.answer(keeps, answered).await
    }

    #[tokio::test]
    async fn no_job_runs_without_a_transaction() {
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
                // Releases the file, so that the insertion would succeed if this job ran without a transaction.
                drop(free.lock().unwrap().take());
                db.execute("INSERT INTO a DEFAULT VALUES", [])?;
                Ok(((), || || ()))
            }
        };
        let refused = write(&writer, Keeps::Promise, insert(Arc::clone(&free))).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
        drop(free.lock().unwrap().take());
        let count = || -> i64 { connect().query_row("SELECT count(*) FROM a", [], |row| row.get(0)).unwrap() };
        assert_eq!(count(), 0, "a job that failed has changed nothing");
        write(&writer, Keeps::Promise, insert(free)).await.unwrap();
        assert_eq!((count(), writer.gauge().queued()), (1, 0));
    }

    #[tokio::test]
    async fn a_job_on_which_nothing_depends_shares_the_commit_of_the_next_job() {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let path = folder.path().join("a.db");
        let connect = || Connection::open(&path).unwrap();
        connect().execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE a (id INTEGER PRIMARY KEY)").unwrap();
        let writer = Writer::start(connect(), connect(), Arc::new(File::open(&path).unwrap())).unwrap();
        let insert = |db: &Connection| {
            db.execute("INSERT INTO a DEFAULT VALUES", [])?;
            Ok(((), || || ()))
        };
        let reader = connect();
        let count = |db: &Connection| -> i64 { db.query_row("SELECT count(*) FROM a", [], |row| row.get(0)).unwrap() };
        let looks = move |db: &Connection| Ok(((count(db), count(&reader)), || || ()));
        let later = write(&writer, Keeps::Later, insert);
        let next = write(&writer, Keeps::Progress, looks);
        let (later, next) = tokio::join!(later, next);
        later.unwrap();
        assert_eq!(next.unwrap(), (1, 0), "the first job is written but not committed");
        write(&writer, Keeps::Later, insert).await.expect("without a next job, it is committed soon");
        assert_eq!(count(&connect()), 2);
    }
}
