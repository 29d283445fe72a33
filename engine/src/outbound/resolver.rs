//! From names to addresses: the system's look-up, shared and bounded, and the judge between it and the connector.
//!
//! What [`GuardedResolver`] returns is what is dialled; the connector never looks a name up itself. A name server that hangs
//! costs the endpoints of its own names a thread and nobody else anything: a name is looked up once at a time, whoever asks.

use std::{
    collections::HashMap,
    error::Error,
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolving};
use tokio::sync::{Semaphore, watch};

use super::{
    guard::{Guard, Transport},
    progress::{Phase, note_phase},
};

/// Finds the addresses of a name. The system does it in the engine; a table does it in tests.
#[async_trait]
pub trait Resolve: Send + Sync {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NameNotFound>;
}

/// A name that has no address, or whose name server did not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameNotFound {
    pub name: String,
    /// What the system said about it.
    pub reason: String,
}

impl Error for NameNotFound {}

impl fmt::Display for NameNotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name {} has no address ({})", self.name, self.reason)
    }
}

type Found = Result<Vec<IpAddr>, NameNotFound>;

/// Asks the operating system, so that `/etc/hosts` and the machine's name servers count.
pub struct SystemResolver {
    underway: Arc<Mutex<HashMap<String, watch::Receiver<Option<Found>>>>>,
    threads: Arc<Semaphore>,
}

impl SystemResolver {
    /// Names that are looked up at the same time. The system's call blocks a thread, and the runtime has 512 of them for all
    /// that blocks.
    const LOOKUPS_MAX: usize = 128;

    /// The look-up of `name` that is under way, or a new one. It goes on when the asker leaves: the next one gets its result.
    fn lookup(&self, name: &str) -> watch::Receiver<Option<Found>> {
        let mut underway = self.underway.lock().unwrap_or_else(PoisonError::into_inner);
        // A channel that is closed belonged to a runtime that is gone.
        if let Some(found) = underway.get(name).filter(|found| found.has_changed().is_ok()) {
            return found.clone();
        }
        let (tell, found) = watch::channel(None);
        underway.insert(name.to_owned(), found.clone());
        let (name, threads, table) = (name.to_owned(), Arc::clone(&self.threads), Arc::clone(&self.underway));
        tokio::spawn(async move {
            let _thread = threads.acquire().await.expect("the semaphore is never closed");
            let asked = name.clone();
            let result = match tokio::task::spawn_blocking(move || ask_system(&asked)).await {
                Ok(result) => result,
                Err(stopped) => Err(NameNotFound { name: name.clone(), reason: stopped.to_string() }),
            };
            table.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            tell.send_replace(Some(result));
        });
        found
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { underway: Arc::default(), threads: Arc::new(Semaphore::new(Self::LOOKUPS_MAX)) }
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> Found {
        let mut found = self.lookup(name);
        let answer = match found.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            Err(_) => None,
        };
        answer.unwrap_or_else(|| Err(NameNotFound { name: name.to_owned(), reason: "the look-up was stopped".to_owned() }))
    }
}

fn ask_system(name: &str) -> Found {
    match (name, 0).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.map(|address| address.ip()).collect()),
        Err(error) => Err(NameNotFound { name: name.to_owned(), reason: in_words(&error) }),
    }
}

/// The system's own words, without what the standard library puts before them.
fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_lowercase()
}

/// The resolver of one client: looks names up, and hands the connector only addresses that the guard admits.
pub(super) struct GuardedResolver {
    pub(super) names: Arc<dyn Resolve>,
    pub(super) guard: Arc<Guard>,
    pub(super) transport: Transport,
}

impl reqwest::dns::Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (names, guard, transport) = (Arc::clone(&self.names), Arc::clone(&self.guard), self.transport);
        Box::pin(async move {
            note_phase(Phase::LookingUp);
            let found = names.resolve(name.as_str()).await?;
            note_phase(Phase::Connecting);
            let admitted = admitted(&guard, transport, name.as_str(), &found)?;
            // Port 0 stands for the URL's own.
            Ok(Box::new(admitted.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

/// Those of `found` that may be dialled; a [`BlockedAddress`] or [`NameNotFound`] when there is none.
fn admitted(
    guard: &Guard,
    transport: Transport,
    name: &str,
    found: &[IpAddr],
) -> Result<Vec<IpAddr>, Box<dyn Error + Send + Sync>> {
    let mut blocked = None;
    let mut admitted = Vec::with_capacity(found.len());
    for ip in found {
        match guard.admit(*ip, transport) {
            Ok(()) => admitted.push(*ip),
            Err(refusal) => blocked = blocked.or(Some(refusal)),
        }
    }
    match blocked {
        _ if !admitted.is_empty() => Ok(admitted),
        Some(refusal) => Err(refusal.behind_name(name).into()),
        None => Err(NameNotFound { name: name.to_owned(), reason: "no address".to_owned() }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_is_asked_once_for_many_askers_of_one_name() {
        let resolver = SystemResolver::default();
        let (first, second) = (resolver.lookup("localhost"), resolver.lookup("localhost"));
        assert!(first.same_channel(&second));
        let found = resolver.resolve("localhost").await.unwrap();
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
        assert!(resolver.underway.lock().unwrap().is_empty(), "a look-up that ended is forgotten");
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_says_so() {
        let missing = SystemResolver::default().resolve("no-such-name.invalid").await.unwrap_err();
        assert_eq!(missing.name, "no-such-name.invalid");
        assert!(missing.to_string().starts_with("the name no-such-name.invalid has no address ("), "{missing}");
    }
}
