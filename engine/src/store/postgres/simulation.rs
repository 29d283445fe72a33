//! Simulates many nodes on virtual time. The engine's own code decides which node is alive, which node holds a lease, and whether a
//! lease is still valid ([`Checks`], [`tokens`], [`Tenure`](crate::store::Tenure)). Instead of a database, a model holds the rows.
//! In the model each transaction happens in a single instant. Nodes are killed, stopped and started. Their clocks run at different
//! rates. Connections to the database break, and the clock of the database is set.
//!
//! Invariant at every instant: no node begins to send a delivery that the database does not lease to it. At the end, every
//! delivery must have been delivered.
//!
//! `make simulate` runs more simulations. `SEED` repeats one simulation, and `RUNS` sets the number of simulations.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::nodes::{Checks, HEARTBEAT, looks_most, tenure, token, tokens};
use crate::{
    domain::time::Timestamp,
    store::{Handoff, LEASE, Lease},
};

const NODES: usize = 4;
const ROWS: usize = 80;
const SILENCE: Duration = Duration::from_secs(30);
/// Number of faults of nodes and the database, and the time until which they happen, ms.
const FAULTS: usize = 40;
const FAULTS_UNTIL: i64 = 400_000;
/// Time by which everything must have been delivered, ms.
const END: i64 = FAULTS_UNTIL + 3_600_000;
/// How long a simulation continues after everything was delivered, ms.
const SETTLED: i64 = 60_000;
/// Maximum number of thousandths by which a node's clock runs too fast or too slow.
const DRIFT_MAX: i64 = 50;
/// Maximum change of the database's clock, ms. All changes together are shorter than the duration of a lease.
const SET_MAX: i64 = 60_000;
/// Maximum time of an attempt. A claim whose lease could end during an attempt is released.
const EXCHANGE_MAX: Duration = Duration::from_secs(20);
/// Pause before a failed request is repeated, ms.
const AGAIN: i64 = 500;
const CLAIM_EVERY: i64 = 300;
const CLAIM_MAX: usize = 8;

/// The rules under test. The test that checks the simulation itself breaks these rules.
#[derive(Clone, Copy)]
struct Rules {
    tenure: Duration,
    looks_most: u32,
}

impl Rules {
    fn of_the_engine() -> Self {
        Self { tenure: tenure(SILENCE), looks_most: looks_most(SILENCE) }
    }
}

/// One delivery.
#[derive(Default)]
struct Row {
    next_at: i64,
    lease: Option<i64>,
    done: bool,
}

#[derive(Default)]
struct Database {
    /// Name and heartbeat counter of each node, by the node's id.
    nodes: BTreeMap<i64, (usize, i64)>,
    last_node: i64,
    rows: Vec<Row>,
    /// How far the database's clock is ahead of true time, ms.
    ahead: i64,
    down_until: i64,
    last_down: i64,
}

impl Database {
    fn register(&mut self, name: usize) -> i64 {
        self.last_node += 1;
        self.nodes.insert(self.last_node, (name, 0));
        self.last_node
    }

    fn end_leases(&mut self, node: i64, now: i64) {
        let (from, until) = tokens(node);
        for row in self.rows.iter_mut().filter(|row| row.lease.is_some_and(|lease| (from..until).contains(&lease))) {
            row.lease = None;
            row.next_at = row.next_at.min(now);
        }
    }

    fn remove(&mut self, node: i64, now: i64) {
        if self.nodes.remove(&node).is_some() {
            self.end_leases(node, now);
        }
    }
}

/// A claim that a node holds.
#[derive(Clone, Copy, Debug)]
struct Claim {
    row: usize,
    lease: Lease,
}

/// A transaction that a node requests.
#[derive(Clone, Debug)]
enum Ask {
    Start { asked: Timestamp },
    ComeBack,
    Beat { asked: Timestamp },
    Check,
    Remove { silent: i64 },
    Claim,
    Record { claim: Claim, delivered: bool },
    Release { claim: Claim },
    EndOrphans { tokens: Vec<i64> },
}

#[derive(Clone, Debug)]
enum Answer {
    Started {
        id: i64,
        asked: Option<Timestamp>,
    },
    Beaten {
        asked: Timestamp,
    },
    Seen {
        nodes: Vec<(i64, i64)>,
        ahead: i64,
    },
    Claimed {
        claims: Vec<Claim>,
    },
    /// The other nodes have removed this node; nothing was done.
    Gone {
        ask: Ask,
        me: i64,
    },
    /// The request or the answer was lost.
    Failed {
        ask: Ask,
        tokens: Vec<i64>,
    },
    Done,
}

#[derive(Clone, Debug)]
enum Happening {
    Tick,
    ClaimTime,
    /// A transaction, and the node id in the database under which it was requested.
    Apply {
        ask: Ask,
        me: i64,
    },
    Again(Ask),
    Reply {
        answer: Answer,
        applied: i64,
    },
    Send(Claim),
    Sent {
        claim: Claim,
        delivered: bool,
    },
    Fault,
}

struct Node {
    /// Number of the process. Each start of the node increases this number. Answers to earlier processes are ignored.
    process: u64,
    alive: bool,
    stopped_until: i64,
    /// Id in the database; 0 before the registration.
    id: i64,
    /// Whether a registration is in progress: only one at a time, even if many requests learn that the node was removed.
    coming_back: bool,
    looks: Checks,
    handoff: Handoff,
    orphans: Vec<i64>,
    /// How far the database's clock is ahead of this node's clock, by the last measurement.
    skew: i64,
    counter: i64,
    /// The node's clock: its reading at the start of the simulation, and by how many thousandths it is fast.
    offset: i64,
    drift: i64,
}

impl Node {
    fn steady(&self, now: i64) -> Timestamp {
        Timestamp::from_millis(self.offset + now + now * self.drift / 1_000)
    }

    fn db_at(&self, at: Timestamp) -> i64 {
        at.millis() + self.skew
    }
}

struct World {
    now: i64,
    random: StdRng,
    rules: Rules,
    database: Database,
    nodes: Vec<Node>,
    /// Future events: for each time and unique number, the node, its process, and what happens.
    agenda: BTreeMap<(i64, u64), (usize, u64, Happening)>,
    number: u64,
    sends: Vec<usize>,
    faults: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
}

impl World {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let rows = (0..ROWS).map(|_| Row { next_at: random.random_range(0..FAULTS_UNTIL), ..Row::default() }).collect();
        let node = |random: &mut StdRng| Node {
            process: 0,
            alive: false,
            stopped_until: 0,
            id: 0,
            coming_back: false,
            looks: Checks::default(),
            handoff: Handoff::default(),
            orphans: Vec::new(),
            skew: 0,
            counter: 0,
            offset: random.random_range(-1_000_000_000..1_000_000_000),
            drift: random.random_range(-DRIFT_MAX..=DRIFT_MAX),
        };
        let nodes = (0..NODES).map(|_| node(&mut random)).collect();
        let database = Database { rows, ..Database::default() };
        let mut world = Self {
            now: 0,
            random,
            rules,
            database,
            nodes,
            agenda: BTreeMap::new(),
            number: 0,
            sends: vec![0; ROWS],
            faults: BTreeMap::new(),
            wrong: Vec::new(),
        };
        for node in 0..NODES {
            world.launch(node);
        }
        for _ in 0..FAULTS {
            let at = world.random.random_range(0..FAULTS_UNTIL);
            let node = world.random.random_range(0..NODES);
            world.plan(at, node, Happening::Fault);
        }
        world
    }

    fn plan(&mut self, at: i64, node: usize, happening: Happening) {
        self.number += 1;
        self.agenda.insert((at, self.number), (node, self.nodes[node].process, happening));
    }

    /// Returns the delay of one message to or from the database. Most delays are short.
    fn latency(&mut self) -> i64 {
        if self.random.random_range(0..50) == 0 { self.random.random_range(5..2_000) } else { self.random.random_range(0..5) }
    }

    fn ask(&mut self, node: usize, ask: Ask) {
        let (at, me) = (self.now + self.latency(), self.nodes[node].id);
        self.plan(at, node, Happening::Apply { ask, me });
    }

    fn launch(&mut self, node: usize) {
        let fresh = &mut self.nodes[node];
        fresh.process += 1;
        fresh.alive = true;
        fresh.stopped_until = 0;
        fresh.id = 0;
        fresh.coming_back = false;
        fresh.looks = Checks::default();
        fresh.handoff = Handoff::default();
        fresh.orphans = Vec::new();
        fresh.counter = 0;
        let asked = fresh.steady(self.now);
        self.ask(node, Ask::Start { asked });
    }

    fn run(&mut self) {
        while let Some(((at, _), (node, process, happening))) = self.agenda.pop_first() {
            let over = at > FAULTS_UNTIL + SETTLED && self.database.rows.iter().all(|row| row.done);
            if over || at > END || !self.wrong.is_empty() {
                return;
            }
            self.now = at;
            let here = &self.nodes[node];
            match &happening {
                Happening::Fault => self.fault(node),
                // A request on its way to the database arrives even if its sender has ended.
                Happening::Apply { ask, me } => self.apply(node, process, *me, ask.clone()),
                _ if here.process != process || !here.alive => {}
                // A stopped process does nothing. When it continues, everything that it has missed happens at once.
                _ if here.stopped_until > at => {
                    let until = here.stopped_until + self.random.random_range(0..3);
                    self.plan(until, node, happening);
                }
                _ => self.act(node, happening),
            }
        }
    }

    fn fault(&mut self, node: usize) {
        let what = match self.random.random_range(0..10) {
            0..3 if self.nodes[node].alive => {
                self.nodes[node].alive = false;
                let back = self.now + self.random.random_range(0..60_000);
                // A fault that hits a dead process starts the process again. This plans such a fault.
                self.plan(back, node, Happening::Fault);
                "killed"
            }
            _ if !self.nodes[node].alive => {
                self.launch(node);
                "started"
            }
            3..7 => {
                self.nodes[node].stopped_until = self.now + self.random.random_range(0..2 * SILENCE.as_millis() as i64);
                "stopped"
            }
            7..9 => {
                self.database.last_down = self.now;
                self.database.down_until = self.now + self.random.random_range(0..40_000);
                "database away"
            }
            _ => {
                let room = SET_MAX - self.database.ahead.abs();
                let by = self.random.random_range(-room..=room);
                self.database.ahead += by;
                "database's clock set"
            }
        };
        *self.faults.entry(what).or_default() += 1;
    }

    /// Executes one transaction. The process that requested it may have ended by now.
    fn apply(&mut self, node: usize, process: u64, me: i64, ask: Ask) {
        let answer = match self.now < self.database.down_until {
            true => Answer::Failed { ask, tokens: Vec::new() },
            false => self.transact(node, me, ask),
        };
        let (at, applied) = (self.now + self.latency(), self.now);
        self.number += 1;
        self.agenda.insert((at, self.number), (node, process, Happening::Reply { answer, applied }));
    }

    fn transact(&mut self, node: usize, me: i64, ask: Ask) -> Answer {
        let (here, database) = (&mut self.nodes[node], &mut self.database);
        let now = self.now + database.ahead;
        match ask {
            Ask::Start { asked } => {
                let earlier: Vec<i64> = database.nodes.iter().filter(|(_, (name, _))| *name == node).map(|(id, _)| *id).collect();
                earlier.into_iter().for_each(|id| database.remove(id, now));
                Answer::Started { id: database.register(node), asked: Some(asked) }
            }
            Ask::ComeBack => Answer::Started { id: database.register(node), asked: None },
            Ask::Beat { asked } => match database.nodes.get_mut(&me) {
                Some((_, beat)) => {
                    *beat += 1;
                    Answer::Beaten { asked }
                }
                None => Answer::Gone { ask, me },
            },
            Ask::Check => {
                let nodes = database.nodes.iter().filter(|(id, _)| **id != me).map(|(id, (_, beat))| (*id, *beat)).collect();
                Answer::Seen { nodes, ahead: now }
            }
            Ask::Remove { silent } => {
                database.remove(silent, now);
                Answer::Done
            }
            Ask::Claim if !database.nodes.contains_key(&me) => Answer::Gone { ask, me },
            Ask::Claim => {
                let steady = here.steady(self.now);
                let (due, until) = (here.db_at(steady), steady.plus(LEASE));
                let mut claims = Vec::new();
                for (place, row) in database.rows.iter_mut().enumerate().filter(|(_, row)| !row.done && row.next_at <= due) {
                    // The lease has expired.
                    row.lease = None;
                    if claims.len() < CLAIM_MAX {
                        let lease = Lease { token: token(me, here.counter), until };
                        here.counter += 1;
                        (row.lease, row.next_at) = (Some(lease.token), here.db_at(until));
                        claims.push(Claim { row: place, lease });
                    }
                }
                Answer::Claimed { claims }
            }
            Ask::Record { .. } if !database.nodes.contains_key(&me) => Answer::Gone { ask, me },
            Ask::Record { claim, delivered } => {
                let row = &mut database.rows[claim.row];
                // The row decides which node holds the delivery.
                if row.lease == Some(claim.lease.token) {
                    (row.lease, row.done, row.next_at) = (None, delivered, now + 5_000);
                }
                Answer::Done
            }
            Ask::Release { claim } => {
                let row = &mut database.rows[claim.row];
                if row.lease == Some(claim.lease.token) {
                    (row.lease, row.next_at) = (None, now);
                }
                Answer::Done
            }
            Ask::EndOrphans { tokens } => {
                for row in database.rows.iter_mut().filter(|row| row.lease.is_some_and(|lease| tokens.contains(&lease))) {
                    row.lease = None;
                    row.next_at = row.next_at.min(now);
                }
                here.orphans.retain(|token| !tokens.contains(token));
                Answer::Done
            }
        }
    }

    /// Handles an event at a living process.
    fn act(&mut self, node: usize, happening: Happening) {
        let steady = self.nodes[node].steady(self.now);
        match happening {
            Happening::Tick => {
                let next = self.now + HEARTBEAT.as_millis() as i64;
                self.plan(next, node, Happening::Tick);
                self.ask(node, Ask::Beat { asked: steady });
            }
            Happening::ClaimTime => {
                self.plan(self.now + CLAIM_EVERY, node, Happening::ClaimTime);
                self.ask(node, Ask::Claim);
            }
            // The connection broke before the answer: the node does not learn the result.
            Happening::Reply { answer, applied } if (applied..self.now).contains(&self.database.last_down) => {
                let (ask, tokens) = match answer {
                    Answer::Claimed { claims } => (Ask::Claim, claims.iter().map(|claim| claim.lease.token).collect()),
                    Answer::Started { asked: Some(asked), .. } => (Ask::Start { asked }, Vec::new()),
                    Answer::Started { asked: None, .. } => (Ask::ComeBack, Vec::new()),
                    Answer::Failed { ask, tokens } => (ask, tokens),
                    Answer::Beaten { .. } | Answer::Seen { .. } | Answer::Gone { .. } | Answer::Done => (Ask::Check, Vec::new()),
                };
                self.answered(node, Answer::Failed { ask, tokens }, steady);
            }
            Happening::Reply { answer, .. } => self.answered(node, answer, steady),
            Happening::Send(claim) => self.send(node, claim, steady),
            Happening::Sent { claim, delivered } => self.ask(node, Ask::Record { claim, delivered }),
            Happening::Again(ask) => self.ask(node, ask),
            Happening::Apply { .. } | Happening::Fault => unreachable!("these belong to no process"),
        }
    }

    fn answered(&mut self, node: usize, answer: Answer, steady: Timestamp) {
        let here = &mut self.nodes[node];
        match answer {
            Answer::Started { id, asked } => {
                here.id = id;
                here.coming_back = false;
                here.handoff.tenure.begin(tokens(id).0);
                if let Some(asked) = asked {
                    here.handoff.tenure.extend(asked.plus(self.rules.tenure));
                    here.skew = self.now + self.database.ahead - steady.millis();
                    self.plan(self.now, node, Happening::Tick);
                    self.plan(self.now, node, Happening::ClaimTime);
                }
            }
            Answer::Beaten { asked } => {
                here.handoff.tenure.extend(asked.plus(self.rules.tenure));
                let orphans = here.orphans.clone();
                if !orphans.is_empty() {
                    self.ask(node, Ask::EndOrphans { tokens: orphans });
                }
                self.ask(node, Ask::Check);
            }
            Answer::Seen { nodes, ahead } => {
                here.skew = ahead - steady.millis();
                for silent in here.looks.note(&nodes, self.rules.looks_most) {
                    self.ask(node, Ask::Remove { silent });
                }
            }
            Answer::Claimed { claims } => {
                for claim in claims {
                    let wait = match self.random.random_range(0..4) {
                        0 => self.random.random_range(0..20_000),
                        _ => self.random.random_range(0..50),
                    };
                    self.plan(self.now + wait, node, Happening::Send(claim));
                }
            }
            Answer::Gone { ask, me } => {
                if here.id == me && !here.coming_back {
                    here.coming_back = true;
                    self.ask(node, Ask::ComeBack);
                }
                if matches!(ask, Ask::Record { .. }) {
                    self.plan(self.now + AGAIN, node, Happening::Again(ask));
                }
            }
            Answer::Failed { ask, tokens } => {
                here.orphans.extend(tokens);
                match ask {
                    Ask::Start { .. } => {
                        let asked = steady;
                        self.plan(self.now + AGAIN, node, Happening::Again(Ask::Start { asked }));
                    }
                    Ask::ComeBack | Ask::Record { .. } => self.plan(self.now + AGAIN, node, Happening::Again(ask)),
                    Ask::Release { claim } => here.orphans.push(claim.lease.token),
                    // The node repeats these requests at regular intervals anyway.
                    Ask::Beat { .. } | Ask::Check | Ask::Remove { .. } | Ask::Claim | Ask::EndOrphans { .. } => {}
                }
            }
            Answer::Done => {}
        }
    }

    /// Works like the sender: checks whether the claim is still valid, then sends.
    fn send(&mut self, node: usize, claim: Claim, steady: Timestamp) {
        let here = &self.nodes[node];
        if claim.lease.until < steady.plus(EXCHANGE_MAX) || !here.handoff.tenure.covers(claim.lease, steady) {
            return self.ask(node, Ask::Release { claim });
        }
        let stored = &self.database.rows[claim.row];
        if stored.lease != Some(claim.lease.token) {
            self.wrong.push(format!(
                "at {} ms node {node} begins to send {claim:?}, and the database has {:?}",
                self.now, stored.lease
            ));
        }
        self.sends[claim.row] += 1;
        let took = self.random.random_range(1..3_000);
        let delivered = self.random.random_range(0..4) > 0;
        self.plan(self.now + took, node, Happening::Sent { claim, delivered });
    }
}

/// Runs one simulation. Returns violations, the number of faults by kind, and the number of attempts.
fn simulate(seed: u64, rules: Rules) -> (Vec<String>, BTreeMap<&'static str, usize>, usize) {
    let mut world = World::new(seed, rules);
    world.run();
    let waiting: BTreeSet<usize> =
        world.database.rows.iter().enumerate().filter(|(_, row)| !row.done).map(|(place, _)| place).collect();
    if world.wrong.is_empty() && !waiting.is_empty() {
        world.wrong.push(format!("not delivered in the end: {waiting:?}"));
    }
    (world.wrong, world.faults, world.sends.iter().sum())
}

#[test]
fn no_node_sends_without_a_lease_and_everything_is_sent() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, runs) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (rand::random::<u32>().into(), number("RUNS").unwrap_or(60)),
    };
    let (mut faults, mut sends) = (BTreeMap::<&str, usize>::new(), 0);
    for seed in first..first + runs {
        let (wrong, met, sent) = simulate(seed, Rules::of_the_engine());
        assert!(wrong.is_empty(), "SEED={seed} make simulate: {wrong:#?}");
        met.into_iter().for_each(|(what, count)| *faults.entry(what).or_default() += count);
        sends += sent;
    }
    println!("{runs} runs from seed {first}: {sends} sends of {} deliveries, {faults:?}", runs as usize * ROWS);
    assert!(runs == 1 || faults.len() == 5, "each kind of fault has happened: {faults:?}");
}

/// Proves that the simulation finds violations.
#[test]
fn the_simulation_finds_rules_that_are_too_generous() {
    let right = Rules::of_the_engine();
    for (what, rules) in [
        ("a node relies on its leases for longer than the others wait", Rules { tenure: SILENCE * 2, ..right }),
        ("the others do not wait", Rules { looks_most: 10, ..right }),
    ] {
        assert!((0..200).any(|seed| !simulate(seed, rules).0.is_empty()), "{what}, and the simulation does not notice");
    }
}
