//! Resolves names, and checks their addresses before the connector gets them.
//!
//! Only the results of [`admitted_addresses`] are dialled; the connector never looks up a name.

use std::{error::Error, net::IpAddr, time::Duration};

use async_trait::async_trait;

use super::guard::{Guard, Transport};

/// Finds the addresses of a name. The engine asks the operating system, and tests use a table.
#[async_trait]
pub trait Resolve: Send + Sync {
    async fn resolve(&self, name: &str, purpose: Purpose) -> Result<Vec<IpAddr>, LookupError>;
}

/// The purpose of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To send a webhook.
    Sending,
    /// To save a URL.
    Checking,
}

/// A name without a usable address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name has no address, or its name server cannot answer.
    #[error("the name {name} has no address ({reason})")]
    NotFound {
        name: String,
        /// The system's message.
        reason: String,
    },
    #[error("the name {name} was not looked up within {} s; its name server does not answer", Self::DEADLINE.as_secs())]
    TimedOut { name: String },
    #[error("the name {name} was not looked up; too many other names are waiting for their name servers")]
    Busy { name: String },
}

impl LookupError {
    /// Timeout of a look-up. The system asks a second name server after five seconds.
    pub(super) const DEADLINE: Duration = Duration::from_secs(8);

    pub(super) fn stopped(name: &str) -> Self {
        Self::NotFound { name: name.to_owned(), reason: "the look-up was stopped".to_owned() }
    }
}

/// Looks up a name and returns only addresses that the guard admits.
pub(super) async fn admitted_addresses(
    names: &dyn Resolve,
    guard: &Guard,
    transport: Transport,
    name: &str,
) -> Result<Vec<IpAddr>, Box<dyn Error + Send + Sync>> {
    let found = names.resolve(name, Purpose::Sending).await?;
    admitted(guard, transport, name, &found)
}

/// Returns those of `found` that may be dialled. If none may be dialled, returns a [`BlockedAddress`](super::BlockedAddress) or a
/// [`LookupError`].
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
