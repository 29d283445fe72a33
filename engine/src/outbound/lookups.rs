//! Look-ups through the operating system. They are shared, bounded, and divided so that a slow name server delays only its own
//! names.
//!
//! The engine uses the system's call (`getaddrinfo`) instead of a built-in resolver, so that a name means the same as for every
//! other program on the machine. The call uses `/etc/hosts`, `nsswitch.conf`, search domains and a container's name server, and
//! notices changes to them without a restart. The price is that the call blocks a thread and cannot be cancelled. So the threads
//! are divided:
//!
//! - Sending and checking have separate threads and separate queues: a delivery never waits for a URL that is being saved.
//! - The names of one registered domain get only a share of the threads for sending, and a share of the threads for checking. So
//!   a name server that never answers delays only its own names.
//! - Concurrent look-ups of one name share one call. A look-up without waiters leaves the queue.
//! - Every waiter has a deadline. A failure is remembered for seconds, so that the look-up is not repeated at once.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::watch, time::Instant};

use super::resolver::{LookupError, Purpose, Resolve};

type Found = Result<Vec<IpAddr>, LookupError>;

/// Limits of concurrent look-ups for one [`Purpose`].
#[derive(Clone, Copy)]
struct Share {
    threads: usize,
    /// Maximum number of threads for the names of one registered domain.
    domain_threads: usize,
    /// Maximum number of names that wait for a thread. The look-ups of further names fail at once.
    waiting: usize,
}

#[derive(Clone, Copy)]
struct Limits {
    sending: Share,
    checking: Share,
    /// Maximum wait. Many machines have two name servers, and the system asks the second one after five seconds.
    deadline: Duration,
    /// How long a failure is remembered. This is shorter than the five seconds after which a delivery is retried by default.
    failure_kept: Duration,
    /// Maximum number of remembered failures, so that invented names cannot fill the memory.
    failures: usize,
}

/// The runtime has 512 threads for all blocking work, including files. Look-ups may use a third of these threads.
const LIMITS: Limits = Limits {
    sending: Share { threads: 128, domain_threads: 8, waiting: 4096 },
    checking: Share { threads: 32, domain_threads: 4, waiting: 128 },
    deadline: LookupError::DEADLINE,
    failure_kept: Duration::from_secs(3),
    failures: 1024,
};

impl Limits {
    fn of(&self, purpose: Purpose) -> &Share {
        match purpose {
            Purpose::Sending => &self.sending,
            Purpose::Checking => &self.checking,
        }
    }
}

/// A resolver that asks the operating system.
#[derive(Clone)]
pub struct SystemResolver {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    /// Blocks until the name server has answered or given up.
    ask: Box<dyn Fn(&str) -> Found + Send + Sync>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    lookups: HashMap<Arc<str>, Lookup>,
    sending: Queue,
    checking: Queue,
    failures: HashMap<Arc<str>, (Instant, LookupError)>,
}

/// The names of one purpose.
#[derive(Default)]
struct Queue {
    /// In order of arrival.
    waiting: VecDeque<Arc<str>>,
    threads: usize,
    /// Threads in use, by registered domain.
    domains: HashMap<Arc<str>, usize>,
}

/// The look-up of one name.
struct Lookup {
    purpose: Purpose,
    stage: Stage,
    askers: usize,
    found: watch::Sender<Option<Found>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Running { since: Instant },
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::with(LIMITS, ask_system)
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str, purpose: Purpose) -> Found {
        let (_asking, mut found) = self.shared.join(name, purpose)?;
        match tokio::time::timeout(self.shared.limits.deadline, found.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone().expect("the result was awaited"),
            Ok(Err(_)) => Err(LookupError::stopped(name)),
            Err(_) => Err(LookupError::TimedOut { name: name.to_owned() }),
        }
    }
}

impl SystemResolver {
    fn with(limits: Limits, ask: impl Fn(&str) -> Found + Send + Sync + 'static) -> Self {
        Self { shared: Arc::new(Shared { limits, ask: Box::new(ask), table: Mutex::default() }) }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the current look-up of `name`, or starts one.
    fn join(self: &Arc<Self>, name: &str, purpose: Purpose) -> Result<(Asking, watch::Receiver<Option<Found>>), LookupError> {
        let mut table = self.table();
        if let Some((at, error)) = table.failures.get(name)
            && at.elapsed() < self.limits.failure_kept
        {
            return Err(error.clone());
        }
        let found = match table.lookups.get_mut(name) {
            Some(Lookup { stage: Stage::Running { since }, .. }) if since.elapsed() >= self.limits.deadline => {
                return Err(LookupError::TimedOut { name: name.to_owned() });
            }
            Some(lookup) => {
                lookup.askers += 1;
                let found = lookup.found.subscribe();
                let promoted =
                    purpose == Purpose::Sending && lookup.purpose == Purpose::Checking && lookup.stage == Stage::Waiting;
                if promoted {
                    lookup.purpose = Purpose::Sending;
                    table.checking.leave(name);
                    table.sending.waiting.push_back(name.into());
                }
                found
            }
            None => {
                if table.queue(purpose).waiting.len() >= self.limits.of(purpose).waiting {
                    return Err(LookupError::Busy { name: name.to_owned() });
                }
                let (name, (sender, found)) = (Arc::<str>::from(name), watch::channel(None));
                let lookup = Lookup { purpose, stage: Stage::Waiting, askers: 1, found: sender };
                table.lookups.insert(Arc::clone(&name), lookup);
                table.queue(purpose).waiting.push_back(name);
                found
            }
        };
        let ready = self.ready(&mut table);
        drop(table);
        Running::launch(ready);
        Ok((Asking { shared: Arc::clone(self), name: name.into() }, found))
    }

    /// Assigns free threads to waiting names, unless the domain of a name has already used up its share.
    fn ready(self: &Arc<Self>, table: &mut Table) -> Vec<Running> {
        let mut ready = Vec::new();
        for purpose in [Purpose::Sending, Purpose::Checking] {
            while let Some(name) = table.queue(purpose).next(self.limits.of(purpose)) {
                if let Some(lookup) = table.lookups.get_mut(&name) {
                    lookup.stage = Stage::Running { since: Instant::now() };
                }
                ready.push(Running { shared: Arc::clone(self), name, purpose, began: false, found: None });
            }
        }
        ready
    }

    fn finish(self: &Arc<Self>, running: &mut Running) {
        let Running { name, purpose, .. } = running;
        let found = running.found.take().unwrap_or_else(|| Err(LookupError::stopped(name)));
        let mut table = self.table();
        if let Err(error) = &found {
            table.remember(name, error, &self.limits);
        }
        table.queue(*purpose).release(name);
        if let Some(lookup) = table.lookups.remove(name) {
            lookup.found.send_replace(Some(found));
        }
        // If the thread never ran, the runtime is ending, and no other look-up starts.
        if running.began {
            let ready = self.ready(&mut table);
            drop(table);
            Running::launch(ready);
        }
    }
}

impl Table {
    fn queue(&mut self, purpose: Purpose) -> &mut Queue {
        match purpose {
            Purpose::Sending => &mut self.sending,
            Purpose::Checking => &mut self.checking,
        }
    }

    fn remember(&mut self, name: &Arc<str>, error: &LookupError, limits: &Limits) {
        if self.failures.len() >= limits.failures {
            self.failures.retain(|_, (at, _)| at.elapsed() < limits.failure_kept);
        }
        if self.failures.len() < limits.failures {
            self.failures.insert(Arc::clone(name), (Instant::now(), error.clone()));
        }
    }
}

impl Queue {
    /// Takes the first name that may have a thread now.
    fn next(&mut self, share: &Share) -> Option<Arc<str>> {
        if self.threads >= share.threads {
            return None;
        }
        let has_room =
            |name: &Arc<str>| self.domains.get(registered_domain(name)).is_none_or(|used| *used < share.domain_threads);
        let at = self.waiting.iter().position(has_room)?;
        let name = self.waiting.remove(at)?;
        self.threads += 1;
        *self.domains.entry(registered_domain(&name).into()).or_default() += 1;
        Some(name)
    }

    fn release(&mut self, name: &str) {
        self.threads -= 1;
        let domain = registered_domain(name);
        if let Some(used) = self.domains.get_mut(domain) {
            *used -= 1;
            if *used == 0 {
                self.domains.remove(domain);
            }
        }
    }

    fn leave(&mut self, name: &str) {
        self.waiting.retain(|waiting| &**waiting != name);
    }
}

/// A waiter of a look-up. When the last waiter leaves, a look-up that has not started is dropped. A running look-up cannot be
/// stopped.
struct Asking {
    shared: Arc<Shared>,
    name: Arc<str>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        let Some(lookup) = table.lookups.get_mut(&self.name) else { return };
        lookup.askers = lookup.askers.saturating_sub(1);
        if lookup.askers == 0 && lookup.stage == Stage::Waiting {
            let purpose = lookup.purpose;
            table.lookups.remove(&self.name);
            table.queue(purpose).leave(&self.name);
        }
    }
}

/// A look-up that has a thread. The thread is released in any case, even if it never ran or if the look-up panicked.
struct Running {
    shared: Arc<Shared>,
    name: Arc<str>,
    purpose: Purpose,
    began: bool,
    found: Option<Found>,
}

impl Running {
    /// Gives each look-up a thread. Call it without the table's lock: a runtime that is ending drops the look-ups at once, which
    /// takes that lock.
    fn launch(ready: Vec<Self>) {
        for running in ready {
            tokio::task::spawn_blocking(move || running.run());
        }
    }

    fn run(mut self) {
        self.began = true;
        self.found = Some((self.shared.ask)(&self.name));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        shared.finish(self);
    }
}

/// Returns the last labels of a name: the part that one owner registers, and whose name servers answer for all names below.
///
/// This is a rule of thumb. Where the rule is wrong, the owners under an unusual suffix use one share together. The public suffix
/// list is not used, because it has suffixes under which anyone can register any number of labels. With it, one owner could get
/// many shares, which must not happen.
fn registered_domain(name: &str) -> &str {
    /// Labels that, with a country code after them, form a suffix such as `co.uk`. Names are registered below such a suffix.
    const SECOND_LEVEL: [&str; 12] = ["ac", "co", "com", "edu", "go", "gob", "gov", "mil", "ne", "net", "or", "org"];
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut labels = name.rsplit('.');
    let (Some(top), Some(second)) = (labels.next(), labels.next()) else { return name };
    let third = if top.len() == 2 && SECOND_LEVEL.contains(&second) { labels.next() } else { None };
    let dots = if third.is_some() { 2 } else { 1 };
    let length = top.len() + second.len() + third.map_or(0, str::len) + dots;
    &name[name.len() - length..]
}

fn ask_system(name: &str) -> Found {
    match (name, 0).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.map(|address| address.ip()).collect()),
        Err(error) => Err(LookupError::NotFound { name: name.to_owned(), reason: in_words(&error) }),
    }
}

/// Returns the system's message, without the prefix of the standard library.
fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;

    use tokio::task::JoinSet;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// A name server. Until it is dropped, it gives no answer for names that contain `slow`. All other names are on loopback.
    pub struct Swallowing {
        shared: Arc<Shared>,
        asked: watch::Sender<Vec<String>>,
        open: watch::Sender<bool>,
    }

    impl Swallowing {
        pub fn start() -> (Self, SystemResolver) {
            Self::with(LIMITS)
        }

        fn with(limits: Limits) -> (Self, SystemResolver) {
            let (asked, open) = (watch::Sender::new(Vec::new()), watch::Sender::new(false));
            let (note, mut opened) = (asked.clone(), open.subscribe());
            opened.mark_unchanged();
            let resolver = SystemResolver::with(limits, move |name| {
                note.send_modify(|asked| asked.push(name.to_owned()));
                if name.contains("slow") {
                    let mut opened = opened.clone();
                    let _ = futures_wait(opened.wait_for(|open| *open));
                    return Err(LookupError::NotFound {
                        name: name.to_owned(),
                        reason: "the name server did not answer".to_owned(),
                    });
                }
                Ok(vec![LOOPBACK])
            });
            (Self { shared: Arc::clone(&resolver.shared), asked, open }, resolver)
        }

        /// Waits until this many queries for slow names have arrived; returns the names.
        pub async fn swallowed(&self, count: usize) -> Vec<String> {
            let slow = |asked: &[String]| asked.iter().filter(|name| name.contains("slow")).cloned().collect::<Vec<_>>();
            let mut asked = self.asked.subscribe();
            let waiting = asked.wait_for(|asked| slow(asked).len() >= count);
            let reached = tokio::time::timeout(Duration::from_secs(10), waiting).await.is_ok();
            let now = slow(&self.asked.borrow());
            assert!(reached, "{} of {count} queries: {now:?}", now.len());
            now
        }

        fn answer(&self) {
            self.open.send_replace(true);
        }

        fn waiting(&self) -> (usize, usize) {
            let table = self.shared.table();
            (table.sending.waiting.len(), table.checking.waiting.len())
        }
    }

    impl Drop for Swallowing {
        fn drop(&mut self) {
            self.answer();
        }
    }

    fn futures_wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Handle::current().block_on(future)
    }

    /// Waits until `state` holds.
    async fn until(what: &str, mut state: impl FnMut() -> bool) {
        let reached = tokio::time::timeout(Duration::from_secs(10), async {
            while !state() {
                tokio::task::yield_now().await;
            }
        });
        assert!(reached.await.is_ok(), "waited for {what}");
    }

    /// Resolves each of `names`.
    fn ask(resolver: &SystemResolver, names: impl IntoIterator<Item = String>, purpose: Purpose) -> JoinSet<Found> {
        let mut asking = JoinSet::new();
        for name in names {
            let resolver = resolver.clone();
            asking.spawn(async move { resolver.resolve(&name, purpose).await });
        }
        asking
    }

    #[test]
    fn a_share_belongs_to_the_registered_domain() {
        for (name, domain) in [
            ("hooks.crm.example", "crm.example"),
            ("crm.example", "crm.example"),
            ("localhost", "localhost"),
            ("a.b.crm.example.", "crm.example"),
            ("hooks.shop.co.uk", "shop.co.uk"),
            ("co.uk", "co.uk"),
            ("a.shop.com.au", "shop.com.au"),
            // An owner whose domain has two letters before the country code has one share, regardless of its number of names.
            ("n1.ab.de", "ab.de"),
            ("n2.ab.de", "ab.de"),
            ("a.co.example", "co.example"),
            ("", ""),
            (".", ""),
        ] {
            assert_eq!(registered_domain(name), domain, "{name}");
        }
    }

    #[tokio::test]
    async fn checks_without_an_answer_use_no_threads_of_sending() {
        let (server, resolver) = Swallowing::start();
        // Each name is in a separate domain, so that no share limits them.
        let checks = ask(&resolver, (0..500).map(|n| format!("slow{n}.example")), Purpose::Checking);
        server.swallowed(LIMITS.checking.threads).await;
        assert_eq!(resolver.resolve("crm.example", Purpose::Sending).await, Ok(vec![LOOPBACK]));
        until("the queue to be full", || server.waiting().1 == LIMITS.checking.waiting).await;
        assert_eq!(server.swallowed(0).await.len(), LIMITS.checking.threads, "no more threads than the share");
        // Abandoned names leave the queue.
        drop(checks);
        until("the queue to be empty", || server.waiting() == (0, 0)).await;
        assert_eq!(server.shared.table().lookups.len(), LIMITS.checking.threads, "running look-ups cannot be stopped");
    }

    #[tokio::test]
    async fn the_names_of_one_domain_delay_no_other_domain() {
        let (server, resolver) = Swallowing::start();
        let _sending = ask(&resolver, (0..500).map(|n| format!("n{n}.slow.example")), Purpose::Sending);
        let _checks = ask(&resolver, (0..100).map(|n| format!("c{n}.slow.example")), Purpose::Checking);
        let share = LIMITS.sending.domain_threads + LIMITS.checking.domain_threads;
        server.swallowed(share).await;
        until("all names to wait for a thread", || {
            server.waiting() == (500 - LIMITS.sending.domain_threads, 100 - LIMITS.checking.domain_threads)
        })
        .await;
        for purpose in [Purpose::Sending, Purpose::Checking] {
            assert_eq!(resolver.resolve("crm.example", purpose).await, Ok(vec![LOOPBACK]));
        }
        assert_eq!(server.swallowed(0).await.len(), share);
    }

    #[tokio::test]
    async fn a_delivery_speeds_up_a_waiting_check_of_the_same_name() {
        let (server, resolver) = Swallowing::start();
        let _checks = ask(&resolver, (0..100).map(|n| format!("slow{n}.example")), Purpose::Checking);
        server.swallowed(LIMITS.checking.threads).await;
        let mut check = ask(&resolver, ["crm.example".to_owned()], Purpose::Checking);
        until("the check of crm.example to wait", || server.shared.table().lookups.contains_key("crm.example")).await;
        assert_eq!(resolver.resolve("crm.example", Purpose::Sending).await, Ok(vec![LOOPBACK]));
        assert_eq!(check.join_next().await.unwrap().unwrap(), Ok(vec![LOOPBACK]));
        assert_eq!(server.asked.borrow().iter().filter(|name| *name == "crm.example").count(), 1);
    }

    #[tokio::test]
    async fn a_waiter_waits_until_its_deadline_and_later_ones_fail_at_once() {
        let deadline = Duration::from_millis(20);
        let (server, resolver) = Swallowing::with(Limits { deadline, failure_kept: Duration::from_secs(600), ..LIMITS });
        let late = Err(LookupError::TimedOut { name: "slow.example".to_owned() });
        assert_eq!(resolver.resolve("slow.example", Purpose::Sending).await, late);
        // The thread of the lookup is still busy: later callers fail at once, for either purpose.
        let (resolver, server) = (&resolver, &server);
        for purpose in [Purpose::Sending, Purpose::Checking] {
            assert!(resolver.shared.join("slow.example", purpose).is_err());
        }
        server.answer();
        until("the thread to be free", || server.shared.table().lookups.is_empty()).await;
        // The failure is remembered, and the name server is not asked again.
        let missing = resolver.resolve("slow.example", Purpose::Sending).await.unwrap_err();
        assert_eq!(missing.to_string(), "the name slow.example has no address (the name server did not answer)");
        assert_eq!(server.swallowed(0).await.len(), 1);
    }

    #[tokio::test]
    async fn failures_expire_and_take_bounded_memory() {
        let (server, resolver) = Swallowing::with(Limits { failure_kept: Duration::ZERO, failures: 2, ..LIMITS });
        server.answer();
        for _ in 0..2 {
            assert!(resolver.resolve("slow.example", Purpose::Sending).await.is_err());
        }
        assert_eq!(server.swallowed(0).await.len(), 2, "asked again");
        let (server, resolver) = Swallowing::with(Limits { failure_kept: Duration::from_secs(600), failures: 2, ..LIMITS });
        server.answer();
        for n in 0..5 {
            assert!(resolver.resolve(&format!("slow{n}.example"), Purpose::Sending).await.is_err());
        }
        let kept: HashSet<String> = server.shared.table().failures.keys().map(|name| name.to_string()).collect();
        assert_eq!(kept, HashSet::from(["slow0.example".to_owned(), "slow1.example".to_owned()]));
    }

    #[tokio::test]
    async fn a_look_up_that_panics_returns_its_thread() {
        let resolver = SystemResolver::with(LIMITS, |name| panic!("asked for {name}"));
        let stopped = resolver.resolve("crm.example", Purpose::Sending).await.unwrap_err();
        assert_eq!(stopped.to_string(), "the name crm.example has no address (the look-up was stopped)");
        let table = resolver.shared.table();
        assert_eq!((table.sending.threads, table.sending.domains.len(), table.lookups.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn concurrent_look_ups_of_a_name_share_one_call() {
        let (server, resolver) = Swallowing::start();
        let mut asking = ask(&resolver, (0..50).map(|_| "slow.example".to_owned()), Purpose::Sending);
        server.swallowed(1).await;
        until("50 callers to wait for the same name", || server.shared.table().lookups["slow.example"].askers == 50).await;
        server.answer();
        while let Some(found) = asking.join_next().await {
            assert!(found.unwrap().is_err());
        }
        assert_eq!(server.swallowed(0).await.len(), 1);
    }

    #[tokio::test]
    async fn resolves_localhost_and_reports_unknown_names() {
        let resolver = SystemResolver::default();
        let found = resolver.resolve("localhost", Purpose::Sending).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
        assert!(resolver.shared.table().lookups.is_empty(), "a finished look-up is removed");
        let missing = resolver.resolve("no-such-name.invalid", Purpose::Sending).await.unwrap_err();
        assert!(missing.to_string().starts_with("the name no-such-name.invalid has no address ("), "{missing}");
    }
}
