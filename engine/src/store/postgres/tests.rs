//! The conformance suite on Postgres, and tests of the parts that only a store of many nodes has. Each test has a separate
//! database on a server that the first test starts.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;

use super::{About, CONNECTIONS, PEOPLE_MAX, Postgres, PostgresSettings};
use crate::{
    clock,
    domain::{
        delivery::{NewDelivery, Next},
        endpoint::{NewEndpoint, Ordering, Policy},
        event::NewEvent,
        id::EventId,
        plugin::Digest,
        rate::Rate,
    },
    store::{
        Accept as _, Accepted, AdmissionLimits, ClaimId, Claims as _, Deletion, Endpoints as _, Error, EventClaim, Handoff,
        KeyFile, Migration, Moved, NewVersion, NodePlugin, Nodes as _, PluginRegistry as _, PluginState as _, Proposal,
        Published, Settled, Settlement, Sqlite, StateSize, Store, VersionLimits,
        conformance::{bench::*, conformance},
        migrate,
    },
};
use support::{postgres::PostgresServer, receivers::Identity};

conformance!(conforms, PostgresBacking);

// During an upgrade of the nodes, the first new engine extends the database. Old engines must then keep working on it, even after a
// restart.
conformance!(conforms_to_what_a_newer_engine_extended, ExtendedBacking);

static SERVER: LazyLock<PostgresServer> = LazyLock::new(|| PostgresServer::start(false));

/// A database. A crash is simulated by a new process of the same name: the rows that the earlier process held become due.
struct PostgresBacking {
    database: String,
    folder: tempfile::TempDir,
}

impl PostgresBacking {
    fn empty() -> Self {
        Self { database: SERVER.database(), folder: tempfile::tempdir().expect("a folder for temporary files") }
    }

    fn settings(&self, node: &str, silence: Duration) -> PostgresSettings {
        let about = About { name: node.into(), role: "all".into(), address: "127.0.0.1:1".into() };
        PostgresSettings { url: SERVER.url(&self.database), about, silence }
    }

    async fn node(&self, name: &str, silence: Duration, handoff: Handoff) -> Result<Postgres, Error> {
        let key_file = KeyFile::at(self.folder.path().join("master.key"));
        Postgres::open(self.settings(name, silence), key_file, handoff, AdmissionLimits::default()).await
    }

    /// Runs a statement on a connection beside the store.
    fn raw(&self, sql: &str) -> String {
        SERVER.ask(&self.database, sql).unwrap_or_else(|| panic!("{sql}"))
    }
}

impl Drop for PostgresBacking {
    fn drop(&mut self) {
        SERVER.drop_database(&self.database);
    }
}

/// Longer than any test takes.
const FOR_EVER: Duration = Duration::from_secs(3600);

#[async_trait]
impl Backing for PostgresBacking {
    async fn open(&self, handoff: Handoff) -> Arc<dyn Store> {
        Arc::new(self.node("node", FOR_EVER, handoff).await.unwrap())
    }

    async fn refuse_poison(&self) {
        self.raw(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the event is poison'; END $$;
             CREATE TRIGGER poison BEFORE INSERT ON event FOR EACH ROW WHEN (new.type = 'poison') EXECUTE FUNCTION refuse()",
        );
    }

    async fn endpoint_rows(&self) -> u64 {
        self.raw("SELECT count(*) FROM endpoint").parse().unwrap()
    }

    async fn spoil(&self, event: EventId) {
        let changed = self.raw(&format!("UPDATE event SET codec = 99 WHERE id = {} RETURNING id", event.as_i64()));
        assert_eq!(changed, event.as_i64().to_string(), "the event exists");
    }

    fn another(&self) -> Arc<dyn Backing> {
        Arc::new(Self::empty())
    }
}

/// A database that a newer engine has extended as far as the upgrade rules allow: more columns in every table, and more tables.
struct ExtendedBacking(PostgresBacking);

impl ExtendedBacking {
    fn empty() -> Self {
        Self(PostgresBacking::empty())
    }
}

const EXTEND: &str = r"DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
            EXECUTE format('ALTER TABLE %I ADD COLUMN later text NOT NULL DEFAULT ''x''', name);
        END LOOP;
        CREATE TABLE later (id bigint PRIMARY KEY);
        UPDATE meta SET value = '\x0602' WHERE key = 'layout';
    END $$";

#[async_trait]
impl Backing for ExtendedBacking {
    async fn open(&self, handoff: Handoff) -> Arc<dyn Store> {
        let store = self.0.open(handoff).await;
        if self.0.raw("SELECT to_regclass('later') IS NULL") == "t" {
            self.0.raw(EXTEND);
        }
        store
    }

    async fn refuse_poison(&self) {
        self.0.refuse_poison().await;
    }

    async fn endpoint_rows(&self) -> u64 {
        self.0.endpoint_rows().await
    }

    async fn spoil(&self, event: EventId) {
        self.0.spoil(event).await;
    }

    fn another(&self) -> Arc<dyn Backing> {
        Arc::new(Self::empty())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_this_engine_cannot_work_with_is_refused() {
    let backing = PostgresBacking::empty();
    drop(backing.node("node", FOR_EVER, Handoff::default()).await.unwrap());
    for (layout, wanted) in [("0706", "upgrade the engine"), ("00", "cannot be read"), ("0001", "cannot be read")] {
        backing.raw(&format!(r"UPDATE meta SET value = '\x{layout}' WHERE key = 'layout'"));
        let refused = backing.node("node", FOR_EVER, Handoff::default()).await.map(drop);
        let Err(error) = refused else { panic!("layout {layout} is taken") };
        assert!(error.to_string().contains(wanted), "{layout}: {error}");
    }
}

/// Several nodes on one database.
struct Cluster {
    nodes: Vec<Bench>,
    backing: Arc<PostgresBacking>,
}

impl Cluster {
    async fn of(count: usize, silence: Duration) -> Self {
        let mut cluster = Self { nodes: Vec::new(), backing: Arc::new(PostgresBacking::empty()) };
        for number in 0..count {
            cluster.join(&format!("node {number}"), silence).await;
        }
        cluster
    }

    async fn join(&mut self, name: &str, silence: Duration) {
        let handoff = Handoff::default();
        let store = Arc::new(self.backing.node(name, silence, handoff.clone()).await.unwrap());
        self.nodes.push(Bench { store, handoff, backing: Arc::clone(&self.backing) as Arc<dyn Backing> });
    }
}

/// Waits until `happened` returns true.
async fn until(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    let deadline = clock::steady().plus(Duration::from_secs(60));
    while !happened().await {
        assert!(clock::steady() < deadline, "did not happen in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ordered(claim: &EventClaim, endpoint: crate::domain::id::EndpointId) -> Settlement {
    let direct = vec![NewDelivery { ordering: Some(Ordering::WHOLE), ..direct(endpoint) }];
    Settlement { direct, ..settlement(claim) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_at_once_make_one_store() {
    let backing = Arc::new(PostgresBacking::empty());
    let mut starting = tokio::task::JoinSet::new();
    for number in 0..6 {
        let backing = Arc::clone(&backing);
        starting.spawn(async move { backing.node(&format!("node {number}"), FOR_EVER, Handoff::default()).await.unwrap() });
    }
    let nodes = starting.join_all().await;
    assert!(nodes.iter().all(|node| node.tag() == nodes[0].tag()), "one tag");
    nodes[0].create_endpoint(endpoint("crm")).await.unwrap();
    for node in &nodes {
        assert_eq!(node.endpoints().await.unwrap().len(), 1, "all nodes have the same master key");
    }
    let known = nodes[3].nodes().await.unwrap();
    assert_eq!(
        known.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(),
        (0..6).map(|n| format!("node {n}")).collect::<Vec<_>>()
    );
    assert_eq!(known.iter().filter(|node| node.is_this_one).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_due_row_is_claimed_by_one_node() {
    let cluster = Cluster::of(3, FOR_EVER).await;
    let first = &cluster.nodes[0];
    let crm = first.endpoint("crm").await;
    let full = first.handoff.events.reserve(&(), 64 << 20).expect("everything");
    first.store.accept((0..500).map(|_| event("a")).collect()).await.unwrap();
    for _ in 0..100 {
        let other = &cluster.nodes[1];
        other.finished(crm, Next::Retry { due: clock::steady() }).await;
    }
    drop(full);
    let mut claiming = tokio::task::JoinSet::new();
    for node in &cluster.nodes {
        let store = Arc::clone(&node.store);
        claiming.spawn(async move {
            loop {
                if store.claim_due(clock::steady()).await.unwrap() == 0 {
                    break;
                }
            }
        });
    }
    claiming.join_all().await;
    let (mut events, mut deliveries) = (Vec::new(), Vec::new());
    for node in &cluster.nodes {
        events.extend(node.events().await.iter().map(|claim| claim.event.id));
        deliveries.extend(node.deliveries().await.iter().map(|claim| claim.id));
    }
    events.sort();
    deliveries.sort();
    assert_eq!((events.len(), deliveries.len()), (500, 100), "everything");
    events.dedup();
    deliveries.dedup();
    assert_eq!((events.len(), deliveries.len()), (500, 100), "each row is claimed by one node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_taken_over_and_settles_nothing_more() {
    let mut cluster = Cluster::of(1, Duration::from_secs(2)).await;
    let crm = cluster.nodes[0].endpoint("crm").await;
    let lost = cluster.nodes[0].accept(event("a")).await;
    let sent = cluster.nodes[0].delivery_to(crm).await;
    // The node seems to hang. Its heartbeat task keeps running, so a trigger keeps its counter from growing.
    cluster.backing.raw("ALTER TABLE node ADD COLUMN stopped bigint");
    cluster.backing.raw(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.beat := old.beat; RETURN new; END $$;
         CREATE TRIGGER hold BEFORE UPDATE ON node FOR EACH ROW WHEN (old.name = 'node 0') EXECUTE FUNCTION hold()",
    );
    cluster.join("node 1", Duration::from_secs(2)).await;
    let other = &cluster.nodes[1];
    until("its work is taken over", async || {
        other.store.claim_due(clock::steady()).await.unwrap();
        other.handoff.events.len() == 1 && other.handoff.deliveries.len() == 1
    })
    .await;
    let slow = &cluster.nodes[0];
    assert_eq!(slow.settle(Settlement { direct: vec![direct(crm)], ..settlement(&lost) }).await, Settled::LeaseLost);
    assert!(!slow.record(attempt(&sent, Next::Delivered)).await);
    assert!(!slow.handoff.tenure.covers(sent.lease, clock::steady()), "the tenure of the slow node covers no old lease");
    assert_eq!(other.settle(settlement(&other.event().await)).await, Settled::Done);
    assert!(other.record(attempt(&other.delivery().await, Next::Delivered)).await);
    let back = slow.accept(event("b")).await;
    assert_eq!(slow.settle(settlement(&back)).await, Settled::Done, "it has registered as a new node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_gives_everything_back() {
    let cluster = Cluster::of(2, FOR_EVER).await;
    let [leaving, staying] = &cluster.nodes[..] else { unreachable!("two nodes") };
    let claim = leaving.accept(event("a")).await;
    assert_eq!(staying.claim().await, 0);
    leaving.store.leave().await.unwrap();
    assert_eq!(staying.claim().await, 1);
    assert_eq!(staying.event().await.event.id, claim.event.id);
    assert_eq!(staying.store.nodes().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_across_nodes() {
    let cluster = Cluster::of(2, FOR_EVER).await;
    let [one, two] = &cluster.nodes[..] else { unreachable!("two nodes") };
    let crm = one.endpoint("crm").await;
    let (a, b) = (one.accept(event("a")).await, two.accept(event("b")).await);
    assert!(b.event.id > a.event.id, "a later event has a larger id on any node");
    assert_eq!(two.settle(ordered(&b, crm)).await, Settled::Done);
    assert_eq!((two.claim().await, one.claim().await), (0, 0), "an earlier event still waits to be run by another node");
    assert_eq!(one.settle(ordered(&a, crm)).await, Settled::Done);
    assert_eq!((one.claim().await, two.claim().await), (0, 2), "the node that claimed first holds the endpoint");
    let train = two.deliveries().await;
    assert_eq!(train.iter().map(|claim| claim.event.id).collect::<Vec<_>>(), [a.event.id, b.event.id]);
    let c = one.accept(event("c")).await;
    assert_eq!(one.settle(ordered(&c, crm)).await, Settled::Done);
    assert!(two.record(attempt(&train[0], Next::Delivered)).await);
    assert_eq!((one.claim().await, two.claim().await), (0, 0), "the earlier delivery is being sent");
    let (first, last) = (train[1].id, c.event.id.delivery(0));
    two.store.leave().await.unwrap();
    assert_eq!(one.claim().await, 2, "once its node has ended, another continues its order");
    assert_eq!(one.deliveries().await.iter().map(|claim| claim.id).collect::<Vec<_>>(), [first, last]);
    assert!(!two.record(attempt(&train[1], retry_in(60))).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_with_a_rate_belongs_to_one_node_while_that_node_lives() {
    let cluster = Cluster::of(2, FOR_EVER).await;
    let [one, two] = &cluster.nodes[..] else { unreachable!("two nodes") };
    let policy = Policy { rate: Some(Rate::parse("5/s").unwrap()), ..Policy::default() };
    let crm = one.store.create_endpoint(NewEndpoint { policy, ..endpoint("crm") }).await.unwrap().id;
    for node in [one, two] {
        let claim = node.accept(event("a")).await;
        assert_eq!(node.settle(Settlement { direct: vec![direct(crm)], ..settlement(&claim) }).await, Settled::Done);
        node.nothing("no node holds the endpoint yet").await;
    }
    assert_eq!((two.claim().await, one.claim().await), (2, 0));
    assert_eq!(one.store.next_due(clock::steady()).await.unwrap(), None);
    let claim = two.accept(event("a")).await;
    assert_eq!(two.settle(Settlement { direct: vec![direct(crm)], ..settlement(&claim) }).await, Settled::Done);
    assert_eq!(two.deliveries().await.len(), 3, "its holder claims without asking again");
    two.store.leave().await.unwrap();
    assert_eq!(one.claim().await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_the_other_nodes_within_a_second() {
    let cluster = Cluster::of(2, FOR_EVER).await;
    let [one, two] = &cluster.nodes[..] else { unreachable!("two nodes") };
    let began = clock::steady();
    let crm = one.endpoint("crm").await;
    let heard =
        tokio::time::timeout(Duration::from_secs(10), two.handoff.settings.changed()).await.expect("the other node is notified");
    assert!(clock::steady().since(began) < Duration::from_secs(5), "by a notification, or at the next heartbeat");
    two.handoff.settings.set_known(heard);
    two.find_endpoint(crm).await;
    one.store.reseal().await.unwrap();
    two.find_endpoint(crm).await;
    let shop = two.endpoint("shop").await;
    one.find_endpoint(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_that_a_node_seals_while_another_replaces_the_key_open_with_the_new_key() {
    let cluster = Cluster::of(2, FOR_EVER).await;
    let [one, two] = &cluster.nodes[..] else { unreachable!("two nodes") };
    let sealing = async {
        for number in 0..40 {
            two.endpoint(&format!("crm-{number}")).await;
        }
    };
    let replacing = async {
        for _ in 0..5 {
            one.store.reseal().await.unwrap();
        }
    };
    tokio::join!(sealing, replacing);
    // This node has only the last key.
    let late = cluster.backing.node("late", FOR_EVER, Handoff::default()).await.unwrap();
    assert_eq!(late.endpoints().await.unwrap().len(), 40);
    assert_eq!(one.store.endpoints().await.unwrap().len(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_wait_until_the_node_has_read_every_earlier_change() {
    let cluster = Cluster::of(2, FOR_EVER).await;
    let [one, two] = &cluster.nodes[..] else { unreachable!("two nodes") };
    let known = async |version: i64| {
        let waited = tokio::time::timeout(Duration::from_millis(1), two.handoff.settings.known(version));
        waited.await.is_ok()
    };
    // This change sends no notification, so either the node's next transaction or its next heartbeat announces the change.
    let change =
        || cluster.backing.raw("UPDATE settings_version SET version = version + 1 RETURNING version").parse::<i64>().unwrap();
    for _ in 0..10 {
        let version = change();
        let claim = two.accept(event("a")).await;
        assert_eq!(claim.settings, version, "an accepted event carries the version");
        assert!(!known(version).await);
        // Another node has accepted this event, but has no room for it.
        let full = one.handoff.events.reserve(&(), 64 << 20).expect("everything");
        let version = change();
        one.store.accept(vec![event("b")]).await.unwrap();
        drop(full);
        assert_eq!(two.claim().await, 1);
        assert_eq!(two.event().await.settings, version, "a claimed event carries the version");
        two.handoff.settings.set_known(version - 1);
        assert!(!known(version).await);
        two.handoff.settings.set_known(version);
        assert!(known(version).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_a_temporary_error_and_leaves_no_claim_behind() {
    let cluster = Cluster::of(1, FOR_EVER).await;
    let node = &cluster.nodes[0];
    let crm = node.endpoint("crm").await;
    let claim = node.accept(event("a")).await;
    for _ in 0..5 {
        SERVER.disconnect(&cluster.backing.database);
        match node.store.accept(vec![event("b")]).await {
            Ok(_) => {}
            Err(error) => assert!(error.passes(), "{error}"),
        }
    }
    until("the store is used again", async || node.store.probe().await.is_ok()).await;
    let settled = Settlement { direct: vec![direct(crm)], ..settlement(&claim) };
    assert_eq!(node.settle(settled).await, Settled::Done, "the claim still holds");
    let delivery = node.delivery().await;
    node.store.release(vec![(ClaimId::Delivery(delivery.id), delivery.lease)]).await.unwrap();
    until("the released rows are claimed again", async || {
        node.store.claim_due(clock::steady()).await.unwrap();
        node.deliveries().await.iter().any(|again| again.id == delivery.id)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_claim_with_unknown_result_are_claimed_again() {
    let cluster = Cluster::of(1, FOR_EVER).await;
    let node = &cluster.nodes[0];
    let crm = node.endpoint("crm").await;
    let retried = node.finished(crm, Next::Retry { due: clock::steady() }).await;
    node.settled_with(waiting("p", clock::steady())).await;
    let full = node.handoff.events.reserve(&(), 64 << 20).expect("everything");
    node.store.accept(vec![event("a")]).await.unwrap();
    drop(full);
    let database = cluster.backing.database.clone();
    let breaking = tokio::task::spawn_blocking(move || {
        SERVER.hold_back_commits(&database);
        SERVER.break_off_commit(&database);
    });
    let mut errors = 0;
    while !breaking.is_finished() {
        errors += usize::from(node.store.claim_due(clock::steady()).await.is_err());
    }
    breaking.await.unwrap();
    assert!(errors > 0, "the connection never broke");
    until("all of it is claimed again", async || {
        let _ = node.store.claim_due(clock::steady()).await;
        (node.handoff.events.len(), node.handoff.runs.len(), node.handoff.deliveries.len()) == (1, 1, 1)
    })
    .await;
    assert_eq!(node.delivery().await.id, retried);
}

async fn publish(node: &Bench, new: NewVersion, proposal: Proposal) -> Published {
    node.store.publish(new, proposal, VersionLimits::default()).await.unwrap()
}

async fn serving(node: &Bench) -> Vec<Digest> {
    node.store.serving().await.unwrap().iter().map(|plugin| plugin.version).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_nodes_are_notified_of_published_and_withdrawn_plugins() {
    let cluster = Cluster::of(2, FOR_EVER).await;
    let [one, two] = &cluster.nodes[..] else { unreachable!("two nodes") };
    let heard = async |what: &str| {
        let changed = tokio::time::timeout(Duration::from_secs(10), two.handoff.settings.changed()).await;
        two.handoff.settings.set_known(changed.unwrap_or_else(|_| panic!("no notification: {what}")));
    };
    let new = new_version("p", "1");
    publish(one, new.clone(), Proposal::Serve).await;
    heard("a new plugin").await;
    assert_eq!(serving(two).await, [new.plugin.version]);
    one.store.withdraw(&new.plugin.name, new.plugin.version, clock::wall()).await.unwrap();
    heard("its end").await;
    assert!(serving(two).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_versions_published_at_once_serves() {
    let cluster = Cluster::of(3, FOR_EVER).await;
    for round in 0..5 {
        let mut publishing = tokio::task::JoinSet::new();
        for (number, node) in cluster.nodes.iter().enumerate() {
            let store = Arc::clone(&node.store);
            let new = new_version("p", &(round * 10 + number % 2).to_string());
            publishing.spawn(async move { store.publish(new, Proposal::Serve, VersionLimits::default()).await });
        }
        for published in publishing.join_all().await {
            assert!(matches!(published, Ok(Published::Serves { .. } | Published::Unchanged)), "{published:?}");
        }
        let [last] = serving(&cluster.nodes[0]).await[..] else { panic!("exactly one version serves") };
        assert!(cluster.nodes[1].store.file(last).await.unwrap().is_some());
    }
    assert_eq!(cluster.backing.raw("SELECT count(*) FROM plugin_version WHERE file IS NOT NULL"), "1");
}

/// An engine of layout 4 knows only the columns `version`, `plugin`, `published_at` and `file`. This test changes the table in the
/// way in which such an engine does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_of_an_older_engine_serves_and_may_be_replaced() {
    let cluster = Cluster::of(1, FOR_EVER).await;
    let node = &cluster.nodes[0];
    let (first, second, third) = (new_version("p", "1"), new_version("p", "2"), new_version("p", "3"));
    publish(node, first.clone(), Proposal::Serve).await;
    let bytes = |new: &NewVersion| format!("convert_to('{}', 'UTF8')", String::from_utf8(new.file.clone()).unwrap());
    let digest = |new: &NewVersion| format!("decode('{}', 'hex')", new.plugin.version);
    let (version, file) = (digest(&second), bytes(&second));
    cluster.backing.raw(&format!(
        "UPDATE plugin SET version = {version};
         UPDATE plugin_version SET file = NULL WHERE file IS NOT NULL;
         INSERT INTO plugin_version (version, plugin, published_at, file) VALUES ({version}, 'p', 1, {file})"
    ));
    assert_eq!(serving(node).await, [second.plugin.version]);
    assert_eq!(
        node.store.file(first.plugin.version).await.unwrap(),
        None,
        "it deletes the bytes of the version that it replaces"
    );
    assert_eq!(publish(node, third.clone(), Proposal::Serve).await, Published::Serves { from: Some(second.plugin.version) });
    assert_eq!(node.store.file(second.plugin.version).await.unwrap(), Some(second.file));
    let numbers: Vec<_> = node.store.versions(&slug("p")).await.unwrap().iter().map(|one| one.served).collect();
    assert_eq!(numbers, [Some(2), Some(0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_report_their_plugins_and_the_age_of_their_oldest_lease() {
    let cluster = Cluster::of(2, FOR_EVER).await;
    let [one, two] = &cluster.nodes[..] else { unreachable!("two nodes") };
    let ready = vec![
        NodePlugin { name: "p".into(), version: Some(new_version("p", "1").plugin.version), error: None },
        NodePlugin { name: "q.wasm".into(), version: None, error: Some("it is \"empty\"\0".into()) },
    ];
    one.store.report(ready.clone()).await.unwrap();
    let before = clock::wall();
    let claim = one.accept(event("a")).await;
    let nodes = two.store.nodes().await.unwrap();
    assert_eq!((&nodes[0].plugins, &nodes[1].plugins), (&ready, &vec![]));
    assert_eq!((nodes[0].leases, nodes[1].leases), (1, 0));
    let since = nodes[0].holds_since.expect("it holds an event");
    let age = if since > before { since.since(before) } else { before.since(since) };
    assert!(age < Duration::from_secs(60), "held for {age:?}");
    assert_eq!(nodes[1].holds_since, None);
    assert_eq!(one.settle(settlement(&claim)).await, Settled::Done);
    assert_eq!(two.store.nodes().await.unwrap()[0].holds_since, None);
}

/// A store in a file that will move into an empty database.
struct Moving {
    backing: PostgresBacking,
    file: std::path::PathBuf,
}

impl Moving {
    fn new() -> Self {
        let backing = PostgresBacking::empty();
        let file = backing.folder.path().join("innesco.db");
        Self { backing, file }
    }

    fn key_file(&self) -> KeyFile {
        KeyFile::at(self.backing.folder.path().join("master.key"))
    }

    /// Opens the file as an engine does.
    fn open(&self) -> Result<Sqlite, Error> {
        Sqlite::open(&self.file, self.key_file(), Handoff::default(), AdmissionLimits::default())
    }

    async fn go(&self, shown: &str) -> Result<Migration, Error> {
        migrate(&self.file, &self.key_file(), &SERVER.url(&self.backing.database), shown, &mut |_| {}).await
    }

    /// Continues the move and interrupts it in the middle of the batch after the next one. Returns `None` if the move was
    /// interrupted, and its result if it finished earlier.
    async fn continue_and_interrupt(&self) -> Option<Migration> {
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let mut tell = |moved: Moved| {
            if !moved.table_done {
                // Once the move is interrupted, the channel has no receiver.
                let _ = told.send(());
            }
        };
        let url = SERVER.url(&self.backing.database);
        let key_file = self.key_file();
        let moving = migrate(&self.file, &key_file, &url, "there", &mut tell);
        tokio::select! {
            biased;
            _ = heard.recv() => None,
            moved = moving => Some(moved.unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_move_is_resumed_until_it_is_complete() {
    const EVENTS: usize = 20;
    let moving = Moving::new();
    let (tag, crm, accepted) = {
        let store = moving.open().unwrap();
        let policy = Policy { rate: Some(Rate::parse("5/s").unwrap()), ..Policy::default() };
        let crm = store.create_endpoint(NewEndpoint { policy, ..endpoint("crm") }).await.unwrap();
        let shop = store.create_endpoint(endpoint("shop")).await.unwrap();
        store.delete_endpoint(shop.id, Deletion::Forced, None).await.unwrap();
        let one = |number| NewEvent { id: Some(format!("id {number}").into()), ..event("a") };
        (store.tag(), crm, store.accept((0..EVENTS).map(one).collect()).await.unwrap())
    };
    let mut cuts = 0;
    let moved = loop {
        if let Some(moved) = moving.continue_and_interrupt().await {
            break moved;
        }
        cuts += 1;
        let refused = moving.backing.node("early", FOR_EVER, Handoff::default()).await.map(drop).unwrap_err().to_string();
        assert!(refused.contains("let innesco migrate finish"), "{refused}");
    };
    assert!(cuts > 10, "{cuts}");
    let rows = |name: &str| moved.tables.iter().find(|(table, _)| *table == name).unwrap().1.rows;
    assert_eq!((rows("event"), rows("dedup"), rows("event_queue"), rows("endpoint")), (20, 20, 20, 2));
    assert!(moved.rows_before > 60 && !moved.was_done, "{moved:?}");

    let refused = moving.open().map(drop).unwrap_err().to_string();
    assert!(refused.contains("moved to there"), "{refused}");
    let refused = moving.go("elsewhere").await.unwrap_err().to_string();
    assert!(refused.contains("already moved to there"), "{refused}");
    assert!(moving.go("there").await.unwrap().was_done, "repeating the command changes nothing");

    let handoff = Handoff::default();
    let node = moving.backing.node("node", FOR_EVER, handoff.clone()).await.unwrap();
    assert_eq!(node.tag(), tag);
    assert!(moving.go("there").await.unwrap().was_done, "repeating it changes nothing while nodes use the database");
    assert_eq!(node.endpoints().await.unwrap()[0].id, crm.id, "the secrets of the moved store open");
    assert_eq!(moving.backing.raw("SELECT string_agg(single::text, ' ' ORDER BY id) FROM endpoint"), "true false");
    assert_eq!(
        moving.backing.raw("SELECT sum(bytes) - (SELECT sum(1024 + octet_length(data)) FROM event) FROM usage"),
        "0",
        "the size of the store is counted"
    );
    let again = NewEvent { id: Some("id 7".into()), ..event("a") };
    assert_eq!(node.accept(vec![again]).await.unwrap(), [Accepted::Duplicate(accepted[7].id())]);
    assert_eq!(node.claim_due(clock::steady()).await.unwrap(), EVENTS, "rows leased to the file's engine are free");
    let new = node.accept(vec![event("b")]).await.unwrap()[0].id();
    assert!(accepted.iter().all(|one| one.id() < new), "new ids are larger than all issued ids");
    let hook = node.create_endpoint(endpoint("hook")).await.unwrap();
    assert_eq!(hook.id.as_i64(), 3, "new endpoint ids are larger than all issued ids, including that of a deleted endpoint");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_moves_only_unchanged_and_only_into_an_empty_database() {
    let moving = Moving::new();
    let store = moving.open().unwrap();
    store.accept((0..10).map(|_| event("a")).collect()).await.unwrap();
    drop(store);
    assert!(moving.continue_and_interrupt().await.is_none());
    let read = clock::steady();
    while clock::steady() == read {}
    drop(moving.open().unwrap());
    let refused = moving.go("there").await.unwrap_err().to_string();
    assert!(refused.contains("an engine has run on the data folder"), "{refused}");

    let taken = Moving::new();
    drop(taken.open().unwrap());
    let node = taken.backing.node("node", FOR_EVER, Handoff::default()).await.unwrap();
    let refused = taken.go("there").await.unwrap_err().to_string();
    assert!(refused.contains("the database is not empty"), "a database with another store: {refused}");
    drop(node);

    let foreign = Moving::new();
    drop(foreign.open().unwrap());
    foreign.backing.raw("CREATE TABLE meta (id bigint)");
    let refused = foreign.go("there").await.unwrap_err().to_string();
    assert!(refused.contains("the database is not empty"), "{refused}");
    drop(foreign.open().expect("a store that was not moved still opens"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_for_the_api_ends_after_its_time_limit() {
    let backing = PostgresBacking::empty();
    let store = backing.node("node", FOR_EVER, Handoff::default()).await.unwrap();
    let sleeps = |seconds: f64| {
        store.read_within(Duration::from_millis(50), move |tx, _| {
            Box::pin(async move { Ok(tx.batch_execute(&format!("SELECT pg_sleep({seconds})")).await?) })
        })
    };
    for _ in 0..CONNECTIONS + 1 {
        assert_eq!(sleeps(60.0).await, Err(Error::TooSlow(Duration::from_millis(50))));
    }
    assert_eq!(sleeps(0.0).await, Ok(()), "the read that timed out has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_for_the_api_delay_neither_plugins_state_nor_the_engine() {
    let backing = PostgresBacking::empty();
    let store = backing.node("node", FOR_EVER, Handoff::default()).await.unwrap();
    let people = store.people.acquire_many(PEOPLE_MAX as u32).await.unwrap();
    assert!(store.endpoints().await.unwrap().is_empty(), "some connections are left for the engine");
    drop(people);
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        all.push(store.pool.get().await.unwrap());
    }
    assert_eq!(store.read_state(&slug("p"), "k").await.unwrap(), None, "one connection is always left for state");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_layout_1_while_an_older_engine_still_writes() {
    let backing = PostgresBacking::empty();
    drop(backing.node("node", FOR_EVER, Handoff::default()).await.unwrap());
    let write = "INSERT INTO state (plugin, key, value, version) SELECT u.* FROM unnest('{p,p,q}'::text[], '{a,bb,c}'::bytea[],
             '{1,22,333}'::bytea[], '{1,2,3}'::bigint[]) u
         ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value, version = excluded.version";
    backing.raw(&format!(
        r"DROP INDEX endpoint_deleted, event_by_caller_id, event_by_subject, delivery_unhappy_by_endpoint; DROP TABLE state_size; DROP FUNCTION count_state CASCADE;
          ALTER TABLE payload DROP COLUMN run; ALTER TABLE delivery DROP COLUMN cancel_reason;
          ALTER TABLE attempt DROP COLUMN sent; ALTER TABLE api_key DROP COLUMN ending;
          DROP TABLE plugin_config; DROP TABLE comparison; DROP TABLE stats; DROP TABLE scheduled; ALTER TABLE audit DROP COLUMN members;
          ALTER TABLE run DROP COLUMN settings_revision; ALTER TABLE run DROP COLUMN state_read;
          ALTER TABLE plugin DROP COLUMN state; ALTER TABLE source DROP COLUMN requests; ALTER TABLE state DROP COLUMN expires_at;
          ALTER TABLE plugin_version DROP COLUMN candidate, DROP COLUMN served, DROP COLUMN ended_at, DROP COLUMN author_version,
              DROP COLUMN description, DROP COLUMN patterns, DROP COLUMN file_name, DROP COLUMN bytes, DROP COLUMN way,
              DROP COLUMN author, DROP COLUMN kept;
          INSERT INTO plugin (name, version, author_version, description, patterns, file, bytes, config)
              VALUES ('p', sha256('1'), '7', '', '[]', 'p.wasm', 1, '{{}}');
          INSERT INTO plugin_version (version, plugin, published_at, file) VALUES (sha256('1'), 'p', 1, '1'), (sha256('2'), 'p', 1, NULL);
          UPDATE meta SET value = '\x0101' WHERE key = 'layout'; {write}"
    ));
    let store = backing.node("node", FOR_EVER, Handoff::default()).await.unwrap();
    let versions = store.versions(&slug("p")).await.unwrap();
    assert_eq!(versions.iter().map(|one| (&*one.author_version, one.served)).collect::<Vec<_>>(), [("7", Some(1))]);
    let sizes = async || (store.state_size(&slug("p")).await.unwrap(), store.state_size(&slug("q")).await.unwrap());
    let expected = (StateSize { keys: 2, bytes: 6 }, StateSize { keys: 1, bytes: 4 });
    assert_eq!(sizes().await, expected);
    backing.raw(write);
    assert_eq!(sizes().await, expected, "writes of an older engine update the sizes too");
    backing.raw("DELETE FROM state WHERE key = 'bb'");
    assert_eq!(sizes().await.0, StateSize { keys: 1, bytes: 2 });
    assert_eq!(backing.raw(r"SELECT value = '\x0501' FROM meta WHERE key = 'layout'"), "t");
}

/// A database on a server that is reached over TCP, and the folder for the engine's files.
struct TlsBench {
    server: PostgresServer,
    folder: tempfile::TempDir,
}

impl TlsBench {
    /// Opens the store at this host with these parameters, and returns whether its connections are encrypted.
    async fn open(&self, host: &str, parameters: &str) -> Result<bool, String> {
        let about = About { name: "node".into(), role: "all".into(), address: "127.0.0.1:1".into() };
        let url = format!("postgres://innesco@{host}:{}/postgres?{parameters}", self.server.port());
        let settings = PostgresSettings { url, about, silence: FOR_EVER };
        let key_file = KeyFile::at(self.folder.path().join("master.key"));
        let opened = Postgres::open(settings, key_file, Handoff::default(), AdmissionLimits::default()).await;
        let store = opened.map_err(|error| error.to_string())?;
        let client = store.pool.get().await.map_err(|error| error.to_string())?;
        let row = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await;
        Ok(row.map_err(|error| error.to_string())?.get(0))
    }

    async fn check(&self, cases: &[(&str, String, Result<bool, &str>)]) {
        for (host, parameters, expected) in cases {
            let opened = self.open(host, parameters).await;
            match expected {
                Ok(encrypted) => assert_eq!(opened, Ok(*encrypted), "{host} {parameters}"),
                Err(said) => {
                    let refused = opened.expect_err(&format!("{host} {parameters}"));
                    assert!(refused.contains(said), "{host} {parameters}: {refused}");
                    let names_wrong_file = refused.contains("SSL_CERT_FILE");
                    assert!(!names_wrong_file, "sslrootcert replaces the list of that variable: {refused}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_decides_about_tls_and_verification() {
    let bench = TlsBench { server: PostgresServer::start_on_tcp(), folder: tempfile::tempdir().unwrap() };
    let file = |name: &str, pem: &str| {
        let path = bench.folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (right_pem, identity) = Identity::issued("db.example");
    let (right, wrong) = (file("right.pem", &right_pem), file("wrong.pem", &Identity::issued("other.example").0));
    let renewed = file("renewed.pem", &Identity::issued("db.example").0);
    // The host names do not resolve, so `hostaddr` gives the server's address. 0.0.0.0 reaches this machine, and does not count
    // as local.
    let remote = |rest: &str| format!("hostaddr=0.0.0.0{rest}");
    let with = |mode: &str, file: &str| remote(&format!("&sslmode={mode}&sslrootcert={file}"));

    bench
        .check(&[
            ("127.0.0.1", String::new(), Ok(false)),
            ("127.0.0.1", "sslmode=prefer".to_owned(), Ok(false)),
            ("127.0.0.1", "sslmode=require".to_owned(), Err("the database does not offer TLS; set ssl = on")),
            ("db.example", remote(""), Err("the database does not offer TLS; set ssl = on")),
            ("db.example", remote("&sslmode=disable"), Ok(false)),
            ("db.example", with("verify-full", &right), Err("or add sslmode=disable to the store's address")),
        ])
        .await;

    bench.server.offer_tls(&identity);
    let unknown = "has an unknown issuer; name the file of that authority in sslrootcert of the store's address";
    let name = "is for another name; write the host in the store's address as the certificate names it";
    bench
        .check(&[
            ("db.example", with("verify-full", &right), Ok(true)),
            ("db.example", with("require", &right), Ok(true)),
            ("db.example", with("prefer", &right), Ok(true)),
            ("db.example", remote(&format!("&sslrootcert={right}")), Ok(true)),
            ("db.example", remote(""), Err(unknown)),
            ("db.example", with("verify-full", &wrong), Err(unknown)),
            ("db.example", with("verify-ca", &wrong), Err(unknown)),
            ("db.example", with("verify-full", &renewed), Err("by another authority than the trusted one of the same name")),
            ("db.example", with("prefer", &wrong), Err(unknown)),
            ("other.example", with("verify-full", &right), Err(name)),
            ("other.example", with("require", &right), Err(name)),
            ("other.example", with("verify-ca", &right), Ok(true)),
            ("db.example", with("disable", &right), Ok(false)),
            ("127.0.0.1", String::new(), Ok(false)),
            ("127.0.0.1", format!("sslrootcert={right}"), Err(name)),
        ])
        .await;

    // A certificate like that of the Debian package.
    bench.server.offer_tls(&Identity::self_signed("db.example"));
    let itself = "is self-signed and not among the trusted ones; name its file in sslrootcert of the store's address";
    bench.check(&[("127.0.0.1", String::new(), Ok(false)), ("db.example", remote(""), Err(itself))]).await;
    bench.server.offer_tls(&Identity::expired("db.example"));
    bench.check(&[("db.example", with("verify-full", &right), Err("the certificate of the database"))]).await;
}
