//! The certificates that TLS connections trust, and explanations why a certificate is refused. Webhooks, traces and the database
//! use this module.
//!
//! The system's authorities are trusted, and in addition those of `SSL_CERT_FILE` and `SSL_CERT_DIR`. The variables **add**
//! authorities and replace none. A private authority is needed beside the public authorities: without these, every other receiver
//! would become unreachable.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WantsClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use rustls_native_certs::CertificateResult;

use crate::domain::given;

/// The variable that names a file of further authorities.
pub const FILE_VARIABLE: &str = "SSL_CERT_FILE";
const FOLDER_VARIABLE: &str = "SSL_CERT_DIR";

/// Paths of the system's certificates; the first existing one counts.
const SYSTEM_FILES: [&str; 7] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
];
const SYSTEM_FOLDERS: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// Returns the trusted certificates of system and environment. They are read only once, so a change needs a restart.
pub fn roots() -> Arc<RootCertStore> {
    static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let (file, folders) = (env::var_os(FILE_VARIABLE), env::var_os(FOLDER_VARIABLE));
        // The library uses a variable even if it is empty.
        let system = system(file.is_some() || folders.is_some());
        let (file, folders) = (file.and_then(path).map(PathBuf::from), folders.and_then(path));
        let folders: Vec<PathBuf> = folders.iter().flat_map(env::split_paths).collect();
        let found = Found::gather(system, file.as_deref(), &folders);
        for trouble in &found.troubles {
            tracing::warn!("{trouble}");
        }
        Arc::new(found.roots)
    });
    Arc::clone(&ROOTS)
}

/// Returns only the certificates of one file, such as the file of `sslrootcert`.
///
/// # Errors
/// Returns the rest of a sentence: `names /etc/ca.pem, which …`.
pub fn roots_of(file: &Path) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    add(&mut roots, rustls_native_certs::load_certs_from_paths(Some(file), None), file)?;
    Ok(Arc::new(roots))
}

/// Returns the system's certificates. If one of the variables is set, the library would read only the files that the variables
/// name. So this function then gives the paths of the system's files to the library.
fn system(overridden: bool) -> CertificateResult {
    if !overridden {
        return rustls_native_certs::load_native_certs();
    }
    rustls_native_certs::load_certs_from_paths(existing(&SYSTEM_FILES), existing(&SYSTEM_FOLDERS))
}

/// Returns the value of a variable without blanks and line ends around it; `None` if nothing is left.
fn path(value: OsString) -> Option<OsString> {
    let value = match value.to_str().map(given::value) {
        Some(Ok(text)) => text.into(),
        // The value is not text, or has a line end inside. The warning about the file shows it.
        _ => value,
    };
    (!value.is_empty()).then_some(value)
}

fn existing(places: &'static [&'static str]) -> Option<&'static Path> {
    places.iter().map(Path::new).find(|place| place.exists())
}

struct Found {
    roots: RootCertStore,
    /// Warnings for the operator, as sentences.
    troubles: Vec<String>,
}

impl Found {
    fn gather(system: CertificateResult, file: Option<&Path>, folders: &[PathBuf]) -> Self {
        let (mut roots, mut troubles) = (RootCertStore::empty(), Vec::new());
        for error in &system.errors {
            tracing::debug!(%error, "a trusted certificate of the system cannot be read");
        }
        roots.add_parsable_certificates(system.certs);
        let without = if roots.is_empty() {
            "no other certificates are trusted instead"
        } else {
            "only the system's certificates are trusted"
        };
        let named = file.map(|file| (FILE_VARIABLE, file, rustls_native_certs::load_certs_from_paths(Some(file), None)));
        let folders = folders
            .iter()
            .map(|folder| (FOLDER_VARIABLE, &**folder, rustls_native_certs::load_certs_from_paths(None, Some(folder))));
        for (variable, path, read) in named.into_iter().chain(folders) {
            if let Err(trouble) = add(&mut roots, read, path) {
                troubles.push(format!("{variable} {trouble}; {without}"));
            }
        }
        if roots.is_empty() {
            troubles.push(format!(
                "no trusted certificates on this system, so no https:// endpoint can be reached; install the package ca-certificates, \
                 or name a file of them in {FILE_VARIABLE}"
            ));
        }
        Self { roots, troubles }
    }
}

/// Adds the certificates that were read from `path`, or returns why there are none.
fn add(roots: &mut RootCertStore, read: CertificateResult, path: &Path) -> Result<(), String> {
    let path = path.display();
    let (added, _) = roots.add_parsable_certificates(read.certs);
    match (added, read.errors.first()) {
        (1.., _) => Ok(()),
        (0, Some(error)) => Err(format!("names {path}, which cannot be read ({error})")),
        (0, None) => Err(format!("names {path}, which contains no certificate in PEM (-----BEGIN CERTIFICATE-----)")),
    }
}

/// Whether a certificate must name the dialled host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    Checked,
    /// Any certificate of a trusted authority is accepted (`sslmode=verify-ca`).
    Ignored,
}

/// Starts a TLS configuration. The provider is given explicitly, so that other linked libraries cannot change it.
///
/// # Errors
/// The provider knows none of the protocol versions, which does not happen.
pub fn client_config(roots: Arc<RootCertStore>, names: Names) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(roots, names, &provider);
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

/// Verifies like rustls, and explains refusals in more detail.
#[derive(Debug)]
struct Verifier {
    /// `None` if no authority is trusted. Then every certificate has an unknown issuer.
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    names: Names,
}

/// A self-signed certificate that is not among the trusted ones.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is self-signed and not trusted")]
struct SelfSigned;

impl Verifier {
    fn new(roots: Arc<RootCertStore>, names: Names, provider: &Arc<CryptoProvider>) -> Self {
        let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build().ok();
        Self { inner, provider: Arc::clone(provider), names }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = match &self.inner {
            Some(inner) => inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        match judged {
            // The name is checked last, so authority and time are valid here.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.names == Names::Ignored => Ok(ServerCertVerified::assertion()),
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) if is_self_issued(end_entity) => {
                Err(CertificateError::Other(OtherError(Arc::new(SelfSigned))).into())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate).is_ok_and(|certificate| certificate.subject() == certificate.issuer())
}

/// Explains what went wrong in a TLS handshake with `place`, for people who can repair it. `list` is the setting that names a
/// file of trusted authorities for such connections.
pub fn in_words(error: &Error, place: &dyn fmt::Display, list: &str) -> String {
    use CertificateError as Bad;
    match error {
        Error::InvalidCertificate(bad) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => format!("the certificate of {place} has expired"),
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => format!("the certificate of {place} is not valid yet"),
            Bad::UnknownIssuer => format!(
                "the certificate of {place} has an unknown issuer; name the file of that authority in {list}, or have the \
                 server send its intermediate certificates"
            ),
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                format!("the certificate of {place} is for another name")
            }
            Bad::Revoked => format!("the certificate of {place} was revoked"),
            Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => format!("the certificate of {place} is not for servers"),
            Bad::BadEncoding => format!("the certificate of {place} cannot be read"),
            // A new authority has the name of an old authority. Scripts create such authorities.
            Bad::BadSignature => format!(
                "the certificate of {place} was issued by another authority than the trusted one of the same name; name the \
                 current file of that authority in {list}"
            ),
            Bad::UnsupportedSignatureAlgorithmContext { .. } | Bad::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                format!("the certificate of {place} is signed in a way that is not accepted, such as with SHA-1")
            }
            Bad::Other(OtherError(other)) if other.is::<SelfSigned>() => {
                format!("the certificate of {place} is self-signed and not among the trusted ones; name its file in {list}")
            }
            Bad::Other(OtherError(other)) => match other.downcast_ref::<webpki::Error>() {
                Some(webpki::Error::CaUsedAsEndEntity) => format!(
                    "the certificate of {place} is that of an authority (CA:TRUE), which is not accepted as a server's; use one that \
                     the authority issued, or make it with basicConstraints=CA:FALSE"
                ),
                Some(webpki::Error::UnsupportedCertVersion) => {
                    format!("the certificate of {place} is of an old version of X.509; version 3 is needed")
                }
                _ => format!("the certificate of {place} is not valid ({other})"),
            },
            bad => format!("the certificate of {place} is not valid ({bad})"),
        },
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => format!("{place} supports no safe version of TLS"),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => format!("{place} does not speak TLS"),
        Error::AlertReceived(alert) => format!("{place} ended the TLS handshake ({alert:?})"),
        _ => format!("no TLS connection to {place}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    fn authority(name: &str) -> (CertificateParams, KeyPair, CertificateDer<'static>) {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        (params, key, certificate)
    }

    fn pem(certificate: &CertificateDer<'_>) -> String {
        let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, certificate);
        format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
    }

    fn of(certificates: Vec<CertificateDer<'static>>) -> CertificateResult {
        let mut result = CertificateResult::default();
        result.certs = certificates;
        result
    }

    fn verifier(trusted: &[CertificateDer<'static>], names: Names) -> Verifier {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.to_vec());
        Verifier::new(Arc::new(roots), names, &Arc::new(ring::default_provider()))
    }

    fn judge(verifier: &Verifier, certificate: &CertificateDer<'_>, name: &str, at: u64) -> Result<(), String> {
        let (name, at) = (ServerName::try_from(name).unwrap(), UnixTime::since_unix_epoch(Duration::from_secs(at)));
        let judged = verifier.verify_server_cert(certificate, &[], &name, &[], at);
        judged.map(drop).map_err(|error| in_words(&error, &"https://crm.example", FILE_VARIABLE))
    }

    #[test]
    fn a_named_file_adds_certificates_and_an_unusable_one_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let (own, theirs) = (authority("own").2, authority("theirs").2);
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let system = || of(vec![theirs.clone()]);
        let (good, empty, missing) = (write("own.pem", &pem(&own)), write("empty.pem", ""), folder.path().join("no-such.pem"));
        let garbage = write("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");

        let found = Found::gather(system(), Some(&good), &[]);
        assert_eq!((found.roots.len(), found.troubles), (2, vec![]));
        let only = Found::gather(of(vec![]), Some(&good), &[]);
        assert_eq!((only.roots.len(), only.troubles), (1, vec![]));
        for (file, said) in
            [(&missing, "cannot be read"), (&empty, "contains no certificate"), (&garbage, "contains no certificate")]
        {
            let found = Found::gather(system(), Some(file), &[]);
            let [trouble] = &found.troubles[..] else { panic!("{:?}", found.troubles) };
            let begin = format!("SSL_CERT_FILE names {}, which {said}", file.display());
            assert!(
                trouble.starts_with(&begin) && trouble.ends_with("; only the system's certificates are trusted"),
                "{trouble}"
            );
            assert_eq!(found.roots.len(), 1);
            let trouble = roots_of(file).unwrap_err();
            assert!(trouble.starts_with(&format!("names {}, which {said}", file.display())), "{trouble}");
        }
        // A folder, and a missing one.
        let certificates = folder.path().join("certificates");
        fs::create_dir(&certificates).unwrap();
        fs::copy(&good, certificates.join("own.pem")).unwrap();
        let found = Found::gather(system(), None, &[certificates, missing]);
        assert_eq!(found.roots.len(), 2);
        assert!(found.troubles.len() == 1 && found.troubles[0].starts_with("SSL_CERT_DIR names "), "{:?}", found.troubles);
        // Without any certificate, both problems are reported.
        let found = Found::gather(of(vec![]), Some(&empty), &[]);
        assert!(
            found.troubles[0].ends_with("no other certificates are trusted instead")
                && found.troubles[1].contains("ca-certificates")
        );
    }

    #[test]
    fn paths_of_the_environment_lose_blanks_and_line_ends() {
        for (value, expected) in [
            ("/etc/ca.pem", Some("/etc/ca.pem")),
            ("/etc/ca.pem\n", Some("/etc/ca.pem")),
            ("/etc/ca.pem\r\n", Some("/etc/ca.pem")),
            (" /etc/my ca.pem\t", Some("/etc/my ca.pem")),
            ("\u{feff}/etc/ca.pem", Some("/etc/ca.pem")),
            ("/etc/ca\n.pem", Some("/etc/ca\n.pem")),
            ("", None),
            ("\n", None),
        ] {
            assert_eq!(path(value.into()), expected.map(OsString::from), "{value:?}");
        }
    }

    #[test]
    fn explains_why_a_certificate_is_refused() {
        let (authority_params, authority_key, trusted) = authority("authority");
        let issue = |issuer: &str, from: i32, until: i32| {
            let (params, key, _) = match issuer {
                "authority" => (authority_params.clone(), KeyPair::from_pem(&authority_key.serialize_pem()).unwrap(), ()),
                stranger => {
                    let (params, key, _) = authority(stranger);
                    (params, key, ())
                }
            };
            let mut leaf = CertificateParams::new(["crm.example".to_owned()]).unwrap();
            leaf.distinguished_name.push(rcgen::DnType::CommonName, "a server");
            (leaf.not_before, leaf.not_after) = (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
            leaf.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(params, key)).unwrap().der().clone()
        };
        let itself = rcgen::generate_simple_self_signed(["crm.example".to_owned()]).unwrap().cert.der().clone();
        let mut ca = CertificateParams::new(["crm.example".to_owned()]).unwrap();
        ca.distinguished_name.push(rcgen::DnType::CommonName, "an authority and a server");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = ca.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();

        const NOW: u64 = 1_750_000_000;
        let checking = verifier(&[trusted.clone(), ca.clone()], Names::Checked);
        let good = issue("authority", 2020, 2040);
        assert_eq!(judge(&checking, &good, "crm.example", NOW), Ok(()));
        for (certificate, name, said) in [
            (&issue("authority", 2020, 2021), "crm.example", "has expired"),
            (&issue("authority", 2040, 2041), "crm.example", "is not valid yet"),
            (
                &issue("stranger", 2020, 2040),
                "crm.example",
                "has an unknown issuer; name the file of that authority in SSL_CERT_FILE",
            ),
            (&itself, "crm.example", "is self-signed and not among the trusted ones; name its file in SSL_CERT_FILE"),
            (&good, "other.example", "is for another name"),
            (&ca, "crm.example", "is that of an authority (CA:TRUE), which is not accepted as a server's"),
            (&CertificateDer::from(vec![1, 2, 3]), "crm.example", "cannot be read"),
        ] {
            let refused = judge(&checking, certificate, name, NOW).unwrap_err();
            assert!(refused.starts_with(&format!("the certificate of https://crm.example {said}")), "{refused}");
        }
        // An empty list of authorities gives the same explanation.
        let nothing = verifier(&[], Names::Checked);
        assert!(judge(&nothing, &good, "crm.example", NOW).unwrap_err().contains("has an unknown issuer"));

        let ignoring = verifier(&[trusted], Names::Ignored);
        assert_eq!(judge(&ignoring, &good, "other.example", NOW), Ok(()));
        for refused in [&issue("authority", 2020, 2021), &issue("stranger", 2020, 2040), &itself] {
            assert!(judge(&ignoring, refused, "other.example", NOW).is_err());
        }
    }
}
