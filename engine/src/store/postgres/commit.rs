//! Group commit: one task owns the connection on which events are accepted, settled and recorded. It takes whatever has queued up
//! while the last commit was under way, does all of it in one transaction, a statement per table rather than per event, and answers
//! everyone after the commit.
//!
//! In a transaction of many, what breaks one breaks all: it is rolled back and each is done again by itself, so that whoever asked for
//! the impossible is the only one to hear of it. When the end of a commit is not heard, because the connection broke, everyone is told
//! that it failed; if it succeeded all the same, its leases are ended with the next beat, so that nothing waits for a claim that nobody
//! holds.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_postgres::Pool;
use tokio::sync::{
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use super::{Local, accept, attempts, db::execute, nodes, settle};
use crate::{
    clock,
    domain::{event::NewEvent, time::Timestamp},
    metrics::meters,
    store::{Accepted, AttemptRecord, DeliveryClaim, Error, EventClaim, Recorded, RunClaim, Settled, Settlement, accept::minute},
};

/// Jobs in one transaction at most: bounds how long the first one waits for its answer.
const JOBS_MAX: usize = 1_000;
/// Weight (bytes, roughly) in one transaction at most.
const WEIGHT_MAX: usize = 8 << 20;
/// How long to wait after a failure to connect: those who ask meanwhile hear of it together.
const AFTER_FAILURE: Duration = Duration::from_millis(200);
/// How long after a failed commit the store counts as troubled.
const TROUBLED_FOR: Duration = Duration::from_secs(5);

/// What follows from a transaction once it is committed.
#[derive(Default)]
pub struct After {
    pub events: Vec<EventClaim>,
    pub runs: Vec<RunClaim>,
    pub deliveries: Vec<DeliveryClaim>,
    /// When something becomes due that nobody holds.
    pub due: Option<Timestamp>,
    /// Something is due now that found no room here.
    pub overflowed: bool,
    /// Something is done with that others may wait for.
    pub let_go: bool,
    /// Change of what payloads take.
    pub bytes: i64,
}

impl After {
    pub fn due_at(&mut self, at: Timestamp) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    pub fn due_now(&mut self) {
        self.due_at(clock::steady());
        self.overflowed = true;
    }

    /// The leases of all that is claimed.
    pub fn tokens(&self) -> impl Iterator<Item = i64> {
        let events = self.events.iter().map(|claim| claim.lease.token);
        let runs = self.runs.iter().map(|claim| claim.lease.token);
        events.chain(runs).chain(self.deliveries.iter().map(|claim| claim.lease.token))
    }

    /// Hands over and rings, once all of it is committed.
    pub fn act(self, local: &Local) {
        if let Some(last) = self.events.last() {
            local.minute.store(minute(last.event.accepted_at), Ordering::Relaxed);
        }
        // What has been told by now is no older than what was told to this transaction.
        let settings = local.handoff.settings.told();
        local.handoff.events.push_all(self.events.into_iter().map(|claim| ((), EventClaim { settings, ..claim })));
        let runs = self.runs.into_iter().map(|claim| (claim.plugin.clone(), RunClaim { settings, ..claim }));
        local.handoff.runs.push_all(runs);
        // In one step: if the first of a train fails, those behind it are all there to be taken back.
        local.handoff.deliveries.push_all(self.deliveries.into_iter().map(|claim| (claim.endpoint, claim)));
        if self.let_go {
            local.handoff.alarm.let_go();
        }
        if let Some(due) = self.due {
            local.handoff.alarm.set(due);
        }
        if self.overflowed {
            local.bell.notify_one();
        }
    }
}

type Answer<T> = oneshot::Sender<Result<T, Error>>;

enum Job {
    Accept(Vec<NewEvent>, Answer<Vec<Accepted>>),
    Settle(Arc<Vec<Settlement>>, Answer<Vec<Settled>>),
    Record(Arc<Vec<AttemptRecord>>, Answer<Vec<Recorded>>),
}

impl Job {
    fn fail(self, error: Error) {
        // Nobody waits any more when the caller was cancelled.
        match self {
            Self::Accept(_, answer) => drop(answer.send(Err(error))),
            Self::Settle(settlements, answer) => {
                drop(settlements);
                drop(answer.send(Err(error)));
            }
            Self::Record(_, answer) => drop(answer.send(Err(error))),
        }
    }
}

struct Queued {
    at: Instant,
    weight: usize,
    job: Job,
}

/// What became of the jobs of one transaction, each kind in the order of its jobs.
#[derive(Default)]
struct Answers {
    accepted: VecDeque<Vec<Accepted>>,
    settled: VecDeque<Vec<Settled>>,
    recorded: VecDeque<Vec<Recorded>>,
}

/// What others look at while the task works.
#[derive(Debug)]
struct Gauges {
    queued: AtomicUsize,
    origin: Instant,
    /// Since when the first job that is being committed has waited: microseconds after the origin, or `NOBODY`.
    first: AtomicU64,
    trouble: Mutex<Option<(Instant, Error)>>,
}

const NOBODY: u64 = u64::MAX;

/// A handle to the committing task, which ends when it is gone.
pub struct Committer {
    jobs: UnboundedSender<Queued>,
    gauges: Arc<Gauges>,
}

impl Committer {
    /// `hot` is a pool of one connection, `pool` has those of everyone else.
    pub fn start(hot: Pool, pool: Pool, local: Arc<Local>) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let gauges = Arc::new(Gauges {
            queued: AtomicUsize::new(0),
            origin: Instant::now(),
            first: AtomicU64::new(NOBODY),
            trouble: Mutex::default(),
        });
        let task = Task { hot, pool, local, gauges: Arc::clone(&gauges) };
        tokio::spawn(task.run(queue));
        Self { jobs, gauges }
    }

    /// Bytes that wait to be written.
    pub fn queued(&self) -> usize {
        self.gauges.queued.load(Ordering::Relaxed)
    }

    /// For how long the job that is being committed has waited; nothing if none is.
    pub fn waited(&self) -> Duration {
        match self.gauges.first.load(Ordering::Relaxed) {
            NOBODY => Duration::ZERO,
            since => self.gauges.origin.elapsed().saturating_sub(Duration::from_micros(since)),
        }
    }

    /// Why a commit failed a moment ago, if one did.
    pub fn trouble(&self) -> Option<Error> {
        let trouble = self.gauges.trouble.lock().expect("no code panics while it notes a failure");
        trouble.as_ref().filter(|(at, _)| at.elapsed() < TROUBLED_FOR).map(|(_, error)| error.clone())
    }

    pub async fn accept(&self, weight: usize, events: Vec<NewEvent>) -> Result<Vec<Accepted>, Error> {
        self.ask(weight, |answer| Job::Accept(events, answer)).await
    }

    pub async fn settle(&self, weight: usize, settlements: Arc<Vec<Settlement>>) -> Result<Vec<Settled>, Error> {
        self.ask(weight, |answer| Job::Settle(settlements, answer)).await
    }

    pub async fn record(&self, weight: usize, records: Arc<Vec<AttemptRecord>>) -> Result<Vec<Recorded>, Error> {
        self.ask(weight, |answer| Job::Record(records, answer)).await
    }

    async fn ask<T>(&self, weight: usize, job: impl FnOnce(Answer<T>) -> Job) -> Result<T, Error> {
        let closed = || Error::Unavailable("the store is closed".into());
        let (answer, answered) = oneshot::channel();
        self.gauges.queued.fetch_add(weight, Ordering::Relaxed);
        self.jobs.send(Queued { at: Instant::now(), weight, job: job(answer) }).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

/// Why a transaction did not succeed.
enum Failure {
    /// The database was not reached, or was lost on the way.
    Lost(Error),
    /// It answers; something in the transaction could not be done.
    Broken(Error),
}

struct Task {
    hot: Pool,
    pool: Pool,
    local: Arc<Local>,
    gauges: Arc<Gauges>,
}

impl Task {
    async fn run(self, mut queue: UnboundedReceiver<Queued>) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                self.gauges.first.store(NOBODY, Ordering::Relaxed);
                let Some(job) = queue.recv().await else { return };
                waiting.push_back(job);
            }
            while let Ok(job) = queue.try_recv() {
                waiting.push_back(job);
            }
            let mut batch = Vec::new();
            let mut weight = 0;
            while batch.len() < JOBS_MAX && weight < WEIGHT_MAX {
                let Some(Queued { at, weight: one, job }) = waiting.pop_front() else { break };
                if batch.is_empty() {
                    let since = at.duration_since(self.gauges.origin).as_micros() as u64;
                    self.gauges.first.store(since, Ordering::Relaxed);
                }
                weight += one;
                self.gauges.queued.fetch_sub(one, Ordering::Relaxed);
                batch.push(job);
            }
            self.commit(batch).await;
        }
    }

    async fn commit(&self, batch: Vec<Job>) {
        let began = Instant::now();
        let ended = self.attempt(&batch).await;
        meters().commit_jobs.observe(batch.len() as f64);
        meters().commit_promise_seconds.observe(began.elapsed().as_secs_f64());
        match ended {
            Ok(answers) => {
                self.may_be_over();
                answer(batch, answers);
            }
            Err(Failure::Broken(_)) if batch.len() > 1 => {
                for job in batch {
                    let alone = vec![job];
                    match self.attempt(&alone).await {
                        Ok(answers) => answer(alone, answers),
                        Err(failure) => self.fail(alone, failure).await,
                    }
                }
            }
            Err(failure) => self.fail(batch, failure).await,
        }
    }

    async fn fail(&self, batch: Vec<Job>, failure: Failure) {
        let (Failure::Lost(error) | Failure::Broken(error)) = &failure;
        // A refusal says something about the caller, and a step that the database refuses nothing about the others.
        if !error.is_refusal() {
            meters().commit_failures.inc();
        }
        match error.passes() {
            _ if error.is_refusal() => {}
            true => self.note(error),
            false => tracing::warn!(%error, "the store refuses one step; it is undone, and the others go on"),
        }
        for job in batch {
            job.fail(error.clone());
        }
        if matches!(failure, Failure::Lost(_)) {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }

    /// Says once that commits fail, however many do.
    fn note(&self, error: &Error) {
        let mut last = self.gauges.trouble.lock().expect("no code panics while it notes a failure");
        if last.replace((Instant::now(), error.clone())).is_none() {
            tracing::error!(%error, "the store takes no writes; what is sent is refused, and what is in hand waits");
        }
    }

    fn may_be_over(&self) {
        let mut last = self.gauges.trouble.lock().expect("no code panics while it notes a failure");
        if last.as_ref().is_some_and(|(at, _)| at.elapsed() >= TROUBLED_FOR) {
            *last = None;
            tracing::info!("the store takes writes again");
        }
    }

    /// All of `batch` in one transaction.
    async fn attempt(&self, batch: &[Job]) -> Result<Answers, Failure> {
        let mut client = self.hot.get().await.map_err(|error| Failure::Lost(error.into()))?;
        let mut again = true;
        loop {
            let mut after = After::default();
            let tx = client.transaction().await.map_err(|error| Failure::Lost(error.into()))?;
            let me = self.local.me();
            let done = match nodes::enter(&tx, &self.local).await {
                Ok(Some(node)) => self.work(&tx, node, batch, &mut after).await,
                Ok(None) if again => {
                    drop(tx);
                    again = false;
                    nodes::come_back(&self.pool, &self.local, me).await.map_err(Failure::Lost)?;
                    continue;
                }
                Ok(None) => Err(Error::Unavailable("this node was removed by the others twice in a row".into())),
                Err(error) => Err(error),
            };
            let answers = match done {
                Ok(answers) => answers,
                Err(error) => {
                    drop(tx);
                    return Err(if client.is_closed() { Failure::Lost(error) } else { Failure::Broken(error) });
                }
            };
            if let Err(error) = tx.commit().await {
                // It may have succeeded all the same.
                self.local.add_orphans(after.tokens());
                return Err(Failure::Lost(error.into()));
            }
            after.act(&self.local);
            return Ok(answers);
        }
    }

    async fn work(
        &self,
        tx: &deadpool_postgres::Transaction<'_>,
        node: i64,
        batch: &[Job],
        after: &mut After,
    ) -> Result<Answers, Error> {
        let local = &*self.local;
        let (mut events, mut settlements, mut records) = (Vec::new(), Vec::new(), Vec::new());
        for job in batch {
            match job {
                Job::Accept(all, _) => events.push(all.as_slice()),
                Job::Settle(all, _) => settlements.push(all.as_slice()),
                Job::Record(all, _) => records.push(all.as_slice()),
            }
        }
        let mut answers = Answers::default();
        // Always in this order, so that no two transactions wait for each other's rows.
        if !events.is_empty() {
            answers.accepted = accept::accept(tx, local, node, &events, after).await?.into();
        }
        if !settlements.is_empty() {
            answers.settled = settle::settle(tx, local, node, &settlements, after).await?.into();
        }
        if !records.is_empty() {
            answers.recorded = attempts::record(tx, local, node, &records, after).await?.into();
        }
        count_bytes(tx, node, after.bytes).await?;
        Ok(answers)
    }
}

/// Notes what payloads take more or less than before.
pub async fn count_bytes(tx: &deadpool_postgres::Transaction<'_>, node: i64, bytes: i64) -> Result<(), Error> {
    if bytes != 0 {
        execute(tx, "UPDATE usage SET bytes = bytes + $1 WHERE slot = $2", &[&bytes, &node.rem_euclid(64)]).await?;
    }
    Ok(())
}

fn answer(batch: Vec<Job>, mut answers: Answers) {
    const EACH: &str = "each job has its answer";
    for job in batch {
        match job {
            Job::Accept(_, answer) => drop(answer.send(Ok(answers.accepted.pop_front().expect(EACH)))),
            // What is shared with the caller is let go of before the answer, so that it has it to itself.
            Job::Settle(settlements, answer) => {
                drop(settlements);
                drop(answer.send(Ok(answers.settled.pop_front().expect(EACH))));
            }
            Job::Record(_, answer) => drop(answer.send(Ok(answers.recorded.pop_front().expect(EACH)))),
        }
    }
}
