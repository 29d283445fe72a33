//! From names to addresses, and the judge between a look-up and the connector.
//!
//! What [`admitted_addresses`] returns is what is dialled; the connector never looks a name up itself.

use std::{error::Error, net::IpAddr, time::Duration};

use async_trait::async_trait;

use super::guard::{Guard, Transport};

/// Finds the addresses of a name. The system does it in the engine; a table does it in tests.
#[async_trait]
pub trait Resolve: Send + Sync {
    async fn resolve(&self, name: &str, purpose: Purpose) -> Result<Vec<IpAddr>, LookupError>;
}

/// What the addresses of a name are wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A webhook is on its way.
    Sending,
    /// A URL is being saved.
    Checking,
}

/// A name without an address to go to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// It has no address, or its name server said that it cannot say.
    #[error("the name {name} has no address ({reason})")]
    NotFound {
        name: String,
        /// What the system said about it.
        reason: String,
    },
    #[error("the name {name} was not looked up within {} s; its name server does not answer", Self::DEADLINE.as_secs())]
    TimedOut { name: String },
    #[error("the name {name} was not looked up; too many other names are waiting for their name servers")]
    Busy { name: String },
}

impl LookupError {
    /// How long a look-up may take. The system turns to a second name server after five seconds.
    pub(super) const DEADLINE: Duration = Duration::from_secs(8);

    pub(super) fn stopped(name: &str) -> Self {
        Self::NotFound { name: name.to_owned(), reason: "the look-up was stopped".to_owned() }
    }
}

/// Looks a name up and lets through only addresses that the guard admits.
pub(super) async fn admitted_addresses(
    names: &dyn Resolve,
    guard: &Guard,
    transport: Transport,
    name: &str,
) -> Result<Vec<IpAddr>, Box<dyn Error + Send + Sync>> {
    let found = names.resolve(name, Purpose::Sending).await?;
    admitted(guard, transport, name, &found)
}

/// Those of `found` that may be dialled; a [`BlockedAddress`](super::BlockedAddress) or [`LookupError`] when there is none.
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
        None => Err(LookupError::NotFound { name: name.to_owned(), reason: "no address".to_owned() }.into()),
    }
}
