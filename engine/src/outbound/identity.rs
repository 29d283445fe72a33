//! Client certificates for endpoints whose receivers require one in the TLS handshake.
//!
//! A connection belongs to the certificate with which it was opened, so each endpoint with a certificate has separate
//! connections. Everything else, such as the guard, is shared.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    InconsistentKeys,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use super::{
    client::{Clients, StartError},
    connections::Connections,
};
use crate::domain::{certificate::ClientCertificate, endpoint::Reach, id::EndpointId, plugin::Digest};

/// Maximum number of endpoints with a certificate whose connections are kept. Each of them costs a few kilobytes of memory and
/// its open connections. If an endpoint is evicted, its next webhook needs a new handshake.
const CLIENTS_MAX: usize = 256;

/// The client certificate of an endpoint.
#[derive(Clone, Debug)]
pub struct Identity {
    pub endpoint: EndpointId,
    pub certificate: Arc<ClientCertificate>,
}

/// A certificate or key that cannot be used. The text begins with the name of the wrong member, so that callers can put
/// `client_certificate.` before it.
#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    #[error("certificate: is not PEM with a certificate (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    #[error(
        "key: is not PEM with a private key (-----BEGIN PRIVATE KEY-----); decrypt an encrypted one first, \
         such as with: openssl pkey -in key.pem"
    )]
    NoKey,
    #[error("key: does not belong to the first certificate")]
    Mismatch,
    #[error("key: cannot be used: {0}")]
    Key(rustls::Error),
    #[error("certificate: cannot be used: {0}")]
    Certificate(rustls::Error),
}

type Parts = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn parts(certificate: &ClientCertificate) -> Result<Parts, BadCertificate> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| BadCertificate::NoCertificate)?;
    if chain.is_empty() {
        return Err(BadCertificate::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(|_| BadCertificate::NoKey)?;
    Ok((chain, key))
}

/// Checks whether a certificate that is to be saved can be used.
pub fn check_certificate(certificate: &ClientCertificate) -> Result<(), BadCertificate> {
    let (chain, key) = parts(certificate)?;
    let key = rustls::crypto::ring::default_provider().key_provider.load_private_key(key).map_err(BadCertificate::Key)?;
    match CertifiedKey::new(chain, key).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(BadCertificate::Mismatch),
        Err(error) => Err(BadCertificate::Certificate(error)),
    }
}

/// Returns the SHA-256 of the certificate, like `openssl x509 -fingerprint -sha256`. Answers of the API identify the certificate
/// by it.
pub fn fingerprint(certificate: &ClientCertificate) -> Option<Digest> {
    CertificateDer::from_pem_slice(certificate.chain.as_bytes()).ok().map(|first| Digest::of(&first))
}

/// The connections of endpoints with a certificate.
#[derive(Default)]
pub(super) struct Identities {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// One client per endpoint. When the endpoint's certificate is replaced, the old certificate and key are dropped.
    clients: HashMap<EndpointId, Client>,
    uses: u64,
}

struct Client {
    certificate: Arc<ClientCertificate>,
    reach: Reach,
    connections: Arc<Connections>,
    /// When it was last used, as counted by [`Kept::uses`].
    used: u64,
}

impl Identities {
    /// Returns the endpoint's connections. They are those of earlier webhooks if the endpoint's certificate and reach are
    /// unchanged, otherwise new ones. `clients` is the configuration for `reach`.
    pub(super) fn connections(
        &self,
        identity: &Identity,
        reach: Reach,
        clients: &Clients,
    ) -> Result<Arc<Connections>, BadClient> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let used = kept.uses;
        let same = |found: &&mut Client| found.certificate == identity.certificate && found.reach == reach;
        if let Some(found) = kept.clients.get_mut(&identity.endpoint).filter(same) {
            found.used = used;
            return Ok(Arc::clone(&found.connections));
        }
        let (chain, key) = parts(&identity.certificate)?;
        let connections = clients.presenting(chain, key)?;
        if kept.clients.len() >= CLIENTS_MAX && !kept.clients.contains_key(&identity.endpoint) {
            let oldest = kept.clients.iter().min_by_key(|(_, client)| client.used).map(|(endpoint, _)| *endpoint);
            oldest.and_then(|oldest| kept.clients.remove(&oldest));
        }
        let certificate = Arc::clone(&identity.certificate);
        let client = Client { certificate, reach, connections: Arc::clone(&connections), used };
        kept.clients.insert(identity.endpoint, client);
        Ok(connections)
    }
}

/// No client could be created for an endpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadClient {
    #[error("the endpoint's client_certificate.{0}")]
    Certificate(#[from] BadCertificate),
    #[error("the endpoint's client_certificate cannot be used")]
    Client(#[from] StartError),
}
