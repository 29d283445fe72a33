//! Decides whether a settlement (commit 2) takes effect, and which rows it writes. This file uses no database: a store reads the
//! rows that the decision depends on ([`Known`]), this file decides, and the store writes the [`Plan`].
//!
//! A refused settlement changes nothing, not even [`Known`]. An accepted settlement changes [`Known`], so the next settlement of
//! the same transaction is judged by the rows that are about to be written.
//!
//! The version of a state value is the token of the lease that wrote it. No two claims share a token, so a key that was deleted
//! and created again cannot be mistaken for the old one. Nor can the writes of two nodes be mistaken for each other.

use std::collections::{HashMap, HashSet};

use super::{Settled, Settlement, Settles};
use crate::{
    domain::{
        delivery::{InitialState, NewDelivery},
        id::{CHILDREN_MAX, DeliveryId, EndpointId, EventId, RunId, ScheduledId},
        run::{RunRecord, RunState, Scheduled, StateWrite},
        time::Timestamp,
    },
    store::{
        StateLimits,
        state::{Ledger, StateFull},
    },
};

/// The stored rows that a decision depends on.
#[derive(Default)]
pub struct Known {
    /// Tokens of the leases in the queues of events and runs. Contains only rows that exist and are leased.
    pub events: HashMap<EventId, i64>,
    pub runs: HashMap<RunId, i64>,
    /// Versions of the state that runs have read.
    pub versions: Versions,
    pub ledger: Ledger,
    /// Numbers for the next children of events. An event that is not listed has no children yet.
    pub children: HashMap<EventId, Children>,
    /// Endpoints to which only another node may send.
    pub elsewhere: HashSet<EndpointId>,
}

/// Versions of stored state, by plugin and key. A key that is not stored has version 0.
#[derive(Default)]
pub struct Versions(HashMap<String, HashMap<String, i64>>);

impl Versions {
    pub fn insert(&mut self, plugin: &str, key: &str, version: i64) {
        match self.0.get_mut(plugin) {
            Some(keys) => drop(keys.insert(key.to_owned(), version)),
            None => drop(self.0.insert(plugin.to_owned(), HashMap::from([(key.to_owned(), version)]))),
        }
    }

    fn get(&self, plugin: &str, key: &str) -> i64 {
        self.0.get(plugin).and_then(|keys| keys.get(key)).copied().unwrap_or(0)
    }
}

/// Numbers that the next run, the next delivery and the next scheduled event of an event get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Children {
    pub run: u32,
    pub delivery: u32,
    pub scheduled: u32,
}

impl Children {
    /// Returns the numbers that follow the last children. An event's numbers grow over all its rounds.
    pub fn after(run: Option<RunId>, delivery: Option<DeliveryId>, scheduled: Option<ScheduledId>) -> Self {
        Self {
            run: run.map_or(0, |id| id.k() + 1),
            delivery: delivery.map_or(0, |id| id.k() + 1),
            scheduled: scheduled.map_or(0, |id| id.k() + 1),
        }
    }

    /// Returns the numbers after a settlement; `None` if the event would exceed its maximum number of children.
    fn with(self, settlement: &Settlement) -> Option<Self> {
        let runs = settlement.runs.iter().filter(|run| run.identity.id.is_none()).count();
        let scheduled = settlement.runs.iter().map(|run| run.scheduled().len()).sum::<usize>();
        let deliveries = settlement.direct.len() + settlement.runs.iter().map(|run| run.deliveries().len()).sum::<usize>();
        let add = |number: u32, count: usize| {
            let sum = number.checked_add(u32::try_from(count).ok()?)?;
            (sum <= CHILDREN_MAX).then_some(sum)
        };
        Some(Self {
            run: add(self.run, runs)?,
            delivery: add(self.delivery, deliveries)?,
            scheduled: add(self.scheduled, scheduled)?,
        })
    }
}

/// The rows to write for one settlement.
pub struct Plan<'a> {
    settlement: &'a Settlement,
    pub round: u32,
    pub routing: Routing,
    first: Children,
}

/// How a settlement changes the routing of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// A deferred run is settled. Its event was routed earlier.
    Before(RunId),
    /// The event has runs or deliveries.
    Routed(EventId),
    /// The event has runs or deliveries after a replay. It may have been unrouted in an earlier round.
    RoutedAgain(EventId),
    /// No plugin and no endpoint subscribes to the event.
    Unrouted(EventId),
}

impl<'a> Plan<'a> {
    /// Returns the runs with their ids.
    pub fn runs(&self) -> impl Iterator<Item = (RunId, &'a RunRecord)> {
        let (event, mut next) = (self.settlement.event.id, self.first.run);
        self.settlement.runs.iter().map(move |run| {
            let id = run.identity.id.unwrap_or_else(|| {
                next += 1;
                event.run(next - 1)
            });
            (id, run)
        })
    }

    /// Returns the new deliveries with their ids and the runs that made them. The deliveries of the runs come first, in the order
    /// of the runs.
    pub fn deliveries(&self) -> impl Iterator<Item = (DeliveryId, Option<RunId>, &'a NewDelivery)> {
        let (event, first) = (self.settlement.event.id, self.first.delivery);
        let of_runs = self.runs().flat_map(|(id, run)| run.deliveries().iter().map(move |delivery| (Some(id), delivery)));
        let direct = self.settlement.direct.iter().map(|delivery| (None, delivery));
        of_runs.chain(direct).zip(first..).map(move |((run, delivery), number)| (event.delivery(number), run, delivery))
    }

    /// Returns the events that runs schedule, with their ids.
    pub fn scheduled(&self) -> impl Iterator<Item = (ScheduledId, &'a Scheduled)> {
        let (event, first) = (self.settlement.event.id, self.first.scheduled);
        let all = self.settlement.runs.iter().flat_map(|run| run.scheduled());
        all.zip(first..).map(move |(scheduled, number)| (event.scheduled(number), scheduled))
    }

    /// Returns the values of state that the runs write, each with the name of the plugin.
    pub fn writes(&self) -> impl Iterator<Item = (&'a str, &'a StateWrite)> {
        self.settlement.runs.iter().flat_map(|run| run.writes().iter().map(|write| (&*run.identity.plugin, write)))
    }

    /// Returns the version of the state that is written.
    pub const fn state_version(&self) -> i64 {
        self.settlement.settles.state_version()
    }
}

/// Decides whether one settlement takes effect.
///
/// # Errors
/// The answer to its caller if the settlement is refused.
pub fn judge<'a>(known: &mut Known, settlement: &'a Settlement, limits: StateLimits) -> Result<Plan<'a>, Settled> {
    let Settlement { settles, event, runs, direct } = settlement;
    if !known.holds(*settles) {
        return Err(Settled::LeaseLost);
    }
    let conflicts = known.conflicts(runs);
    if !conflicts.is_empty() {
        return Err(Settled::StateConflict(conflicts));
    }
    let first = known.children.get(&event.id).copied().unwrap_or_default();
    let next = first.with(settlement).ok_or(Settled::TooMany)?;
    // Checked last, because it changes `known`.
    let full: Vec<(usize, StateFull)> = known.ledger.admit(runs, limits);
    if !full.is_empty() {
        return Err(Settled::StateFull(full));
    }
    let (round, routing) = match *settles {
        Settles::Event { id, round, .. } => {
            known.events.remove(&id);
            let routing = match runs.is_empty() && direct.is_empty() {
                true => Routing::Unrouted(id),
                false if round > 0 => Routing::RoutedAgain(id),
                false => Routing::Routed(id),
            };
            (round, routing)
        }
        Settles::Run { id, round, .. } => {
            known.runs.remove(&id);
            (round, Routing::Before(id))
        }
    };
    if next != first {
        known.children.insert(event.id, next);
    }
    let plan = Plan { settlement, round, routing, first };
    for (plugin, StateWrite { key, value, .. }) in plan.writes() {
        known.versions.insert(plugin, key, value.as_ref().map_or(0, |_| plan.state_version()));
    }
    Ok(plan)
}

impl Known {
    /// Returns whether the settler still holds its claim.
    fn holds(&self, settles: Settles) -> bool {
        match settles {
            Settles::Event { id, lease, .. } => self.events.get(&id) == Some(&lease.token),
            Settles::Run { id, lease, .. } => self.runs.get(&id) == Some(&lease.token),
        }
    }

    /// Returns the indexes of the runs whose state has changed since they read it.
    fn conflicts(&self, runs: &[RunRecord]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut written: Vec<(&str, &str)> = Vec::new();
        for (place, run) in runs.iter().enumerate() {
            let plugin = &*run.identity.plugin;
            // A plugin may run twice in one settlement (once for each of its endpoints): the second run must see the writes of
            // the first.
            let stale = run.reads().iter().any(|read| {
                self.versions.get(plugin, &read.key) != read.version || written.contains(&(plugin, read.key.as_str()))
            });
            if stale {
                found.push(place);
            } else {
                written.extend(run.writes().iter().map(|write| (plugin, write.key.as_str())));
            }
        }
        found
    }

    /// Decides where a new delivery is placed.
    pub fn placement(&self, delivery: &NewDelivery) -> Placement {
        match delivery.initial_state {
            InitialState::Dead | InitialState::Cancelled => Placement::Ended,
            InitialState::Held => Placement::Held,
            // Only the store knows which ordered delivery is next, and which node may send to an endpoint.
            InitialState::Due if delivery.ordering.is_some() || self.elsewhere.contains(&delivery.endpoint) => Placement::Stored,
            InitialState::Due => Placement::HandOver,
        }
    }
}

/// The place of a new delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The delivery is in no queue. It is stored as finished ([`InitialState::ending`]).
    Ended,
    /// The delivery is in the store until its endpoint is resumed.
    Held,
    /// The delivery is in the store. It is due, and a claim takes it.
    Stored,
    /// The delivery is in memory if there is room, otherwise in the store.
    HandOver,
}

/// The change of a settled run's row in the run queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueRow {
    /// The run has no row and needs none.
    None,
    Delete,
    Waiting {
        due: Timestamp,
    },
    Parked,
}

impl QueueRow {
    pub const fn of(run: &RunRecord) -> Self {
        match run.state() {
            // A try itself never ends as cancelled.
            RunState::Done | RunState::Cancelled if run.identity.id.is_some() => Self::Delete,
            RunState::Done | RunState::Cancelled => Self::None,
            RunState::Waiting { due } => Self::Waiting { due },
            RunState::Parked => Self::Parked,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        domain::{
            event::Event,
            run::{Effects, RunIdentity, RunOutcome},
        },
        store::{
            Lease, StateSize,
            conformance::bench::{direct, event as an_event, parked, ran, ran_with, state_effects, waiting, webhook},
        },
    };

    const EVENT: EventId = EventId::from_i64(7);
    const CRM: EndpointId = EndpointId::from_i64(3);
    const LIMITS: StateLimits = StateLimits { bytes_max: 20, keys_max: 3, scheduled_max: 5 };

    fn lease(token: i64) -> Lease {
        Lease { token, until: Timestamp::from_millis(0) }
    }

    fn settles(round: u32, token: i64) -> Settles {
        Settles::Event { id: EVENT, round, lease: lease(token) }
    }

    fn settlement(settles: Settles, runs: Vec<RunRecord>, direct: Vec<NewDelivery>) -> Settlement {
        let event = Event { id: EVENT, accepted_at: Timestamp::from_millis(0), new: an_event("a") };
        Settlement { settles, event: Arc::new(event), runs, direct }
    }

    /// The event is leased with token 5. The plugin `p` has read `k` at version 1.
    fn known() -> Known {
        let mut known = Known { events: HashMap::from([(EVENT, 5)]), ..Known::default() };
        known.versions.insert("p", "k", 1);
        known
    }

    fn judged(known: &mut Known, settlement: &Settlement) -> Settled {
        judge(known, settlement, LIMITS).err().unwrap_or(Settled::Done)
    }

    #[test]
    fn a_settlement_needs_the_lease_that_it_was_made_under() {
        let run = RunId::from_i64(9);
        let of_run = |token| Settles::Run { id: run, round: 0, lease: lease(token) };
        for (what, events, runs, settles, expected) in [
            ("the lease of its claim", Some(5), None, settles(0, 5), Settled::Done),
            ("another lease of the event", Some(6), None, settles(0, 5), Settled::LeaseLost),
            ("no row or no lease", None, None, settles(0, 5), Settled::LeaseLost),
            ("a run's lease", None, Some(5), of_run(5), Settled::Done),
            ("another lease of the run", None, Some(6), of_run(5), Settled::LeaseLost),
            ("the lease of the event", Some(5), None, of_run(5), Settled::LeaseLost),
        ] {
            let mut known = Known {
                events: events.map(|token| (EVENT, token)).into_iter().collect(),
                runs: runs.map(|token| (run, token)).into_iter().collect(),
                ..Known::default()
            };
            let settlement = settlement(settles, vec![], vec![direct(CRM)]);
            assert_eq!(judged(&mut known, &settlement), expected, "{what}");
            assert_eq!(judged(&mut known, &settlement), Settled::LeaseLost, "{what}, a second time");
        }
    }

    #[test]
    fn only_a_settlement_that_is_made_again_with_the_same_ids_need_not_be_synced() {
        let sends = || ran_with("p", Effects { deliveries: vec![webhook(CRM, "")], ..Default::default() });
        let reads = || {
            let effects = state_effects(&[("k", 1)], &[]);
            ran_with("p", Effects { deliveries: vec![webhook(CRM, "")], ..effects })
        };
        let writes = || ran_with("p", state_effects(&[], &[("k", None)]));
        let of_event = || settles(0, 5);
        let of_run = || Settles::Run { id: RunId::from_i64(9), round: 0, lease: lease(5) };
        for (what, settles, runs, direct, expected) in [
            ("nothing", of_event(), vec![], vec![], false),
            ("direct webhooks", of_event(), vec![], vec![direct(CRM), direct(CRM)], false),
            ("one run that sends", of_event(), vec![sends()], vec![], false),
            ("one run that does nothing", of_event(), vec![ran("p")], vec![], false),
            ("a run whose webhook depends on state", of_event(), vec![reads()], vec![], true),
            ("a run that writes state", of_event(), vec![writes()], vec![], true),
            ("two runs", of_event(), vec![sends(), ran("q")], vec![], true),
            ("two runs that do nothing", of_event(), vec![ran("p"), ran("q")], vec![], false),
            ("a run and direct webhooks", of_event(), vec![ran("p")], vec![direct(CRM)], true),
            ("a deferred run", of_run(), vec![sends()], vec![], true),
            ("a deferred run that does nothing", of_run(), vec![ran("p")], vec![], false),
        ] {
            assert_eq!(settlement(settles, runs, direct).must_be_synced(), expected, "{what}");
        }
    }

    #[test]
    fn a_run_that_read_changed_state_conflicts() {
        let reads = |version| ran_with("p", state_effects(&[("k", version)], &[]));
        let writes = || ran_with("p", state_effects(&[("k", 1)], &[("k", Some(b"x"))]));
        let other = || ran_with("q", state_effects(&[("k", 0)], &[("k", Some(b"x"))]));
        for (what, runs, expected) in [
            ("a run that reads the stored version", vec![reads(1)], vec![]),
            ("a run that reads an older version", vec![reads(1), reads(0)], vec![1]),
            ("a key that another run of the plugin writes", vec![writes(), reads(1)], vec![1]),
            (
                "a key that a refused run would have written",
                vec![
                    ran_with("p", state_effects(&[("k", 2)], &[("j", Some(b""))])),
                    ran_with("p", state_effects(&[("j", 0)], &[])),
                ],
                vec![0],
            ),
            ("a key of another plugin", vec![writes(), other()], vec![]),
        ] {
            let settled = judged(&mut known(), &settlement(settles(0, 5), runs, vec![]));
            assert_eq!(settled, if expected.is_empty() { Settled::Done } else { Settled::StateConflict(expected) }, "{what}");
        }
    }

    #[test]
    fn the_next_settlement_sees_the_writes_of_the_last_one() {
        let other = EventId::from_i64(8);
        let mut known = known();
        known.events.insert(other, 6);
        let write = ran_with("p", state_effects(&[("k", 1)], &[("k", Some(b"x")), ("j", Some(b"y"))]));
        assert_eq!(judged(&mut known, &settlement(settles(0, 5), vec![write], vec![])), Settled::Done);
        let next = |reads: &[(&str, i64)]| {
            let settles = Settles::Event { id: other, round: 0, lease: lease(6) };
            settlement(settles, vec![ran_with("p", state_effects(reads, &[("j", None)]))], vec![])
        };
        assert_eq!(judged(&mut known, &next(&[("k", 1)])), Settled::StateConflict(vec![0]));
        assert_eq!(
            judged(&mut known, &next(&[("k", 5), ("j", 5)])),
            Settled::Done,
            "the version is the token of the lease that wrote it"
        );
        known.events.insert(other, 6);
        assert_eq!(judged(&mut known, &next(&[("j", 5)])), Settled::StateConflict(vec![0]), "the key was deleted");
        assert_eq!(judged(&mut known, &next(&[("j", 0)])), Settled::Done);
    }

    #[test]
    fn children_of_an_event_are_limited_over_all_its_rounds() {
        let most = CHILDREN_MAX;
        let many = |count: u32| (0..count).map(|_| direct(CRM)).collect::<Vec<_>>();
        for (what, first, runs, direct, expected) in [
            (
                "the maximum number of deliveries",
                Children { delivery: most - 2, ..Children::default() },
                vec![],
                many(2),
                Settled::Done,
            ),
            ("one delivery too many", Children { delivery: most - 2, ..Children::default() }, vec![], many(3), Settled::TooMany),
            (
                "one delivery of a run too many",
                Children { delivery: most, ..Children::default() },
                vec![ran_with("p", Effects { deliveries: vec![webhook(CRM, "")], ..Default::default() })],
                vec![],
                Settled::TooMany,
            ),
            (
                "the maximum number of runs",
                Children { run: most - 1, ..Children::default() },
                vec![ran("p")],
                vec![],
                Settled::Done,
            ),
            (
                "one scheduled event too many",
                Children { scheduled: most, ..Children::default() },
                vec![ran_with(
                    "p",
                    Effects {
                        scheduled: vec![Scheduled { after: Duration::from_secs(60), event: an_event("later") }],
                        ..Default::default()
                    },
                )],
                vec![],
                Settled::TooMany,
            ),
            ("one run too many", Children { run: most, ..Children::default() }, vec![ran("p")], vec![], Settled::TooMany),
        ] {
            let mut known = Known { children: HashMap::from([(EVENT, first)]), ..known() };
            assert_eq!(judged(&mut known, &settlement(settles(1, 5), runs, direct)), expected, "{what}");
            let unchanged = known.children[&EVENT] == first && known.events.contains_key(&EVENT);
            assert_eq!(unchanged, expected == Settled::TooMany, "{what}");
        }
    }

    #[test]
    fn children_are_numbered_behind_those_of_earlier_rounds() {
        let mut known = Known { children: HashMap::from([(EVENT, Children { run: 4, delivery: 9, scheduled: 2 })]), ..known() };
        let later = || Scheduled { after: Duration::from_secs(60), event: an_event("later") };
        let two = Effects {
            deliveries: vec![webhook(CRM, "1"), webhook(CRM, "2")],
            scheduled: vec![later(), later()],
            ..Default::default()
        };
        let of_run = RunId::from_i64(99);
        let stored = ran("q");
        let stored = RunRecord { identity: RunIdentity { id: Some(of_run), ..stored.identity }, ..stored };
        let settlement = settlement(settles(1, 5), vec![ran_with("p", two), stored, ran("r")], vec![direct(CRM)]);
        let plan = judge(&mut known, &settlement, LIMITS).unwrap();
        assert_eq!(plan.runs().map(|(id, _)| id).collect::<Vec<_>>(), [EVENT.run(4), of_run, EVENT.run(5)]);
        let deliveries: Vec<_> = plan.deliveries().map(|(id, run, one)| (id, run, one.payload.is_some())).collect();
        let scheduled: Vec<_> = plan.scheduled().map(|(id, _)| id).collect();
        assert_eq!(scheduled, [EVENT.scheduled(2), EVENT.scheduled(3)]);
        let of_run = |k| (EVENT.delivery(k), Some(EVENT.run(4)), true);
        assert_eq!(deliveries, [of_run(9), of_run(10), (EVENT.delivery(11), None, false)]);
        assert_eq!(known.children[&EVENT], Children { run: 6, delivery: 12, scheduled: 4 });
        assert_eq!(Children::after(Some(EVENT.run(5)), None, None), Children { run: 6, ..Children::default() });
    }

    #[test]
    fn one_run_with_too_much_state_refuses_the_settlement_and_changes_nothing() {
        let big = ran_with("p", state_effects(&[], &[("b", Some(&[0; 30]))]));
        let mut known = known();
        let full = settlement(settles(0, 5), vec![ran("p"), big], vec![direct(CRM)]);
        assert_eq!(judged(&mut known, &full), Settled::StateFull(vec![(1, StateFull::Bytes { limit: 20 })]));
        assert!(known.events.contains_key(&EVENT) && known.children.is_empty());
        assert_eq!(known.ledger.sizes.get("p").copied().unwrap_or_default(), StateSize::default());
    }

    #[test]
    fn an_event_without_runs_and_deliveries_is_unrouted() {
        for (what, round, runs, direct, expected) in [
            ("no run and no delivery", 0, vec![], vec![], Routing::Unrouted(EVENT)),
            ("no run and no delivery, after a replay", 1, vec![], vec![], Routing::Unrouted(EVENT)),
            ("one run", 0, vec![ran("p")], vec![], Routing::Routed(EVENT)),
            ("one delivery", 0, vec![], vec![direct(CRM)], Routing::Routed(EVENT)),
            ("a delivery after a replay", 1, vec![], vec![direct(CRM)], Routing::RoutedAgain(EVENT)),
        ] {
            let settlement = settlement(settles(round, 5), runs, direct);
            let plan = judge(&mut known(), &settlement, LIMITS).map(|plan| (plan.round, plan.routing));
            assert_eq!(plan, Ok((round, expected)), "{what}");
        }
    }

    #[test]
    fn only_deliveries_that_this_node_may_send_wait_in_memory() {
        let known = Known { elsewhere: HashSet::from([EndpointId::from_i64(4)]), ..Known::default() };
        let one = |initial_state, endpoint: i64, ordering| NewDelivery {
            initial_state,
            ordering,
            ..direct(EndpointId::from_i64(endpoint))
        };
        for (what, delivery, expected) in [
            ("a due delivery", one(InitialState::Due, 3, None), Placement::HandOver),
            ("an ordered delivery", one(InitialState::Due, 3, Some(1)), Placement::Stored),
            ("a delivery to an endpoint that another node holds", one(InitialState::Due, 4, None), Placement::Stored),
            ("a held delivery", one(InitialState::Held, 4, Some(1)), Placement::Held),
            ("a dead delivery", one(InitialState::Dead, 4, Some(1)), Placement::Ended),
            ("a cancelled delivery", one(InitialState::Cancelled, 4, None), Placement::Ended),
        ] {
            assert_eq!(known.placement(&delivery), expected, "{what}");
        }
    }

    #[test]
    fn a_run_stays_in_the_queue_until_it_is_done() {
        let due = Timestamp::from_millis(9);
        let stored =
            |run: RunRecord| RunRecord { identity: RunIdentity { id: Some(RunId::from_i64(1)), ..run.identity.clone() }, ..run };
        for (run, expected) in [
            (ran("p"), QueueRow::None),
            (stored(ran("p")), QueueRow::Delete),
            (waiting("p", due), QueueRow::Waiting { due }),
            (stored(waiting("p", due)), QueueRow::Waiting { due }),
            (parked("p", RunOutcome::Trapped), QueueRow::Parked),
        ] {
            assert_eq!(QueueRow::of(&run), expected);
        }
    }
}
