//! Group commit: one task owns the connection on which events are accepted, settled and recorded. It takes the jobs that queued
//! up during the last commit and runs them in one transaction. It uses one statement for each table, not for each event, and
//! answers the callers after the commit.
//!
//! If a transaction of many jobs fails, its jobs are retried one by one, so only the faulty job fails. If the connection breaks
//! during a commit, the result is unknown and every caller gets an error. The commit may have succeeded anyway, so the next
//! heartbeat ends the leases that it may have written. Otherwise their rows would wait for leases that no worker holds.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::Pool;
use tokio::sync::{
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use super::{Local, accept, attempts, db::execute, nodes, settle};
use crate::{
    domain::event::NewEvent,
    metrics::meters,
    store::{
        Accepted, AttemptRecord, Error, Recorded, Settled, Settlement,
        commit::{After, Gauge, JOBS_MAX, WEIGHT_MAX, warn_of_refused_step},
    },
};

/// Pause after a connection failed. All callers that arrive during the pause get the same error.
const AFTER_FAILURE: Duration = Duration::from_millis(200);
type Answer<T> = oneshot::Sender<Result<T, Error>>;

enum Job {
    Accept(Vec<NewEvent>, Answer<Vec<Accepted>>),
    Settle(Arc<Vec<Settlement>>, Answer<Vec<Settled>>),
    Record(Arc<Vec<AttemptRecord>>, Answer<Vec<Recorded>>),
}

impl Job {
    fn fail(self, error: Error) {
        // The caller may have been cancelled meanwhile.
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

/// Answers to the jobs of one transaction, by kind, in the order of the jobs.
#[derive(Default)]
struct Answers {
    accepted: VecDeque<Vec<Accepted>>,
    settled: VecDeque<Vec<Settled>>,
    recorded: VecDeque<Vec<Recorded>>,
}

/// A handle to the committing task, which ends when the handle is dropped.
pub struct Committer {
    jobs: UnboundedSender<Queued>,
    gauge: Arc<Gauge>,
}

impl Committer {
    /// Starts the task. `hot` is a pool of one connection for the commits; all other steps use `pool`.
    pub fn start(hot: Pool, pool: Pool, local: Arc<Local>) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let gauge = Arc::new(Gauge::new());
        let task = Task { hot, pool, local, gauge: Arc::clone(&gauge) };
        tokio::spawn(task.run(queue));
        Self { jobs, gauge }
    }

    pub fn gauge(&self) -> &Gauge {
        &self.gauge
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
        self.gauge.add(weight);
        self.jobs.send(Queued { at: Instant::now(), weight, job: job(answer) }).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

/// Why a transaction failed.
enum Failure {
    /// The database was not reached, or the connection was lost during the transaction.
    Lost(Error),
    /// The database was reached, but it refused a statement of the transaction.
    Broken(Error),
}

struct Task {
    hot: Pool,
    pool: Pool,
    local: Arc<Local>,
    gauge: Arc<Gauge>,
}

impl Task {
    async fn run(self, mut queue: UnboundedReceiver<Queued>) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                self.gauge.begin(None);
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
                    self.gauge.begin(Some(at));
                }
                weight += one;
                self.gauge.take(one);
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
                self.gauge.succeeded();
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
        // A refusal by a rule concerns only its caller. A step that the database refuses affects no other step.
        match error.passes() {
            _ if error.is_refusal() => {}
            true => self.gauge.failed(error),
            false => warn_of_refused_step(error),
        }
        for job in batch {
            job.fail(error.clone());
        }
        if matches!(failure, Failure::Lost(_)) {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }

    /// Runs all jobs of `batch` in one transaction.
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
                Ok(None) => Err(Error::Unavailable("the other nodes removed this node twice in a row".into())),
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
                // The commit may have succeeded anyway.
                self.local.add_orphans(after.tokens());
                return Err(Failure::Lost(error.into()));
            }
            self.local.act(after);
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
        // All transactions write in this order. Otherwise two transactions could wait for rows that the other one has locked.
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

/// Stores the change in the number of bytes that payloads take.
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
            // The settlements are shared with the caller. They are dropped here before the answer, so that the caller is then their
            // only owner.
            Job::Settle(settlements, answer) => {
                drop(settlements);
                drop(answer.send(Ok(answers.settled.pop_front().expect(EACH))));
            }
            Job::Record(_, answer) => drop(answer.send(Ok(answers.recorded.pop_front().expect(EACH)))),
        }
    }
}
