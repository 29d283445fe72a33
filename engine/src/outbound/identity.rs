//! Endpoints whose receivers want to know who calls: a client certificate, presented in the TLS handshake.
//!
//! A connection belongs to the certificate that it was opened with, so each such endpoint has connections of its own. The guard and everything else is as for all others.

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

/// Endpoints whose connections are kept. Each holds a few kilobytes and the connections of its last seconds; what is made anew costs a
/// handshake.
const CLIENTS_MAX: usize = 256;

/// Who calls: the certificate, and whose it is.
#[derive(Clone, Debug)]
pub struct Identity {
    pub endpoint: EndpointId,
    pub certificate: Arc<ClientCertificate>,
}

/// A certificate or a key that cannot be used: what is wrong with it, ready to follow the member's name in a sentence.
#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    #[error("certificate: is not PEM with a certificate in it (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    #[error(
        "key: is not PEM with a private key in it (-----BEGIN PRIVATE KEY-----); one that is encrypted has to be decrypted first, \
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

/// Whether a certificate that someone wants to save can be presented.
pub fn check_certificate(certificate: &ClientCertificate) -> Result<(), BadCertificate> {
    let (chain, key) = parts(certificate)?;
    let key = rustls::crypto::ring::default_provider().key_provider.load_private_key(key).map_err(BadCertificate::Key)?;
    match CertifiedKey::new(chain, key).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(BadCertificate::Mismatch),
        Err(error) => Err(BadCertificate::Certificate(error)),
    }
}

/// The SHA-256 of the certificate itself, as `openssl x509 -fingerprint -sha256` has it. It names the certificate in views.
pub fn fingerprint(certificate: &ClientCertificate) -> Option<Digest> {
    CertificateDer::from_pem_slice(certificate.chain.as_bytes()).ok().map(|first| Digest::of(&first))
}

/// The connections of those endpoints.
#[derive(Default)]
pub(super) struct Identities {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// One an endpoint: a certificate that was replaced is forgotten with its key.
    clients: HashMap<EndpointId, Client>,
    uses: u64,
}

struct Client {
    certificate: Arc<ClientCertificate>,
    reach: Reach,
    connections: Arc<Connections>,
    /// When it was used last, as [`Kept::uses`] counts.
    used: u64,
}

impl Identities {
    /// The endpoint's connections: those that are kept if its certificate and its reach are still the same, else new ones. `clients` are
    /// those of `reach`.
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

/// No client could be made for an endpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadClient {
    #[error("the endpoint's client_certificate.{0}")]
    Certificate(#[from] BadCertificate),
    #[error("the endpoint's client_certificate cannot be used")]
    Client(#[from] StartError),
}
