//! What an endpoint shows its receiver in the TLS handshake, where the receiver wants to know who calls.

use std::fmt;

/// A certificate with its chain and its key, both in PEM. Never shown whole, in no way: it holds a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The endpoint's own first, then those that vouch for it.
    pub chain: String,
    /// Not encrypted.
    pub key: String,
}

impl ClientCertificate {
    /// Of the chain and of the key, each: a dozen certificates, or the longest RSA key in use.
    pub const PEM_BYTES_MAX: usize = 32 << 10;
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(not shown)")
    }
}
