//! The client certificate of an endpoint, for receivers that require one in the TLS handshake.

use std::fmt;

/// A certificate with its chain and its key, both in PEM. Never shown completely: it contains a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The endpoint's certificate first, then those of its issuers.
    pub chain: String,
    /// The private key, not encrypted.
    pub key: String,
}

impl ClientCertificate {
    /// Maximum size of the chain in bytes, and also of the key. This is enough for a dozen certificates, or for the longest RSA
    /// key in use.
    pub const PEM_BYTES_MAX: usize = 32 << 10;
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(not shown)")
    }
}
