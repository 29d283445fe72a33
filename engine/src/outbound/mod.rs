//! The only HTTP client: one signed webhook goes out, one [`Attempt`](crate::domain::delivery::Attempt) comes back.
//!
//! [`Guard`] judges addresses. [`Outbound::check_url`] asks it when an endpoint is saved; the resolver asks it again for every
//! connection, between the look-up and the dialling, so that a name that pointed to a public address yesterday leads nowhere
//! private today. A URL that holds an address instead of a name is judged before the request. Redirects are never followed.
//!
//! Whatever the other side does is an [`AttemptOutcome`](crate::domain::delivery::AttemptOutcome), reached in the endpoint's
//! timeout and in bounded memory; when to try again and how many exchanges may run at once is decided elsewhere.
//! [`Webhook`] makes the request of an attempt out of what the domain says about bodies and signatures.
//! What stays true: no byte is sent to an address that the guard did not admit, and no text made here holds a path, a query or
//! a header.

mod client;
mod connections;
mod guard;
mod identity;
mod lookups;
mod outcome;
mod resolver;
mod webhook;
mod wire;

pub use client::{Outbound, Request, StartError};
pub use guard::{BadUrl, BlockedAddress, Guard, Special, Transport, Verdict};
pub use identity::{BadCertificate, Identity, check_certificate, fingerprint};
pub use lookups::SystemResolver;
pub use resolver::{LookupError, Purpose, Resolve};
pub use webhook::{Unsendable, Webhook};

#[cfg(test)]
mod tests;
