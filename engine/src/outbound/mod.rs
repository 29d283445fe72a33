//! The only HTTP client: sends one signed webhook and returns one [`Attempt`](crate::domain::delivery::Attempt).
//!
//! [`Guard`] checks addresses. [`Outbound::check_url`] uses it when an endpoint is saved. The resolver uses the guard again for
//! every connection, after the name was looked up and before the connection is opened: a name that had a public address yesterday
//! may have a private address today. A URL with an address instead of a name is checked before the request. Redirects are never
//! followed.
//!
//! Every result is an [`AttemptOutcome`](crate::domain::delivery::AttemptOutcome). The client returns it within the endpoint's
//! timeout, and uses bounded memory. Other modules decide when to retry and how many exchanges may be concurrent. [`Webhook`]
//! builds the request of an attempt from the domain's bodies and signatures.
//!
//! What must stay true: no byte is sent to an address that the guard did not admit, and no text created here contains a path, a
//! query or a header.

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
pub use webhook::{Content, Unsendable, Webhook};

#[cfg(test)]
mod tests;
