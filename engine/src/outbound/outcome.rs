//! Converts an error into the attempt's outcome and a sentence.
//!
//! The client's errors have nested causes. The outcome and the sentence come from the outermost cause that explains the failure.
//! Sentences name the receiver by scheme, host and port, because paths and queries may contain tokens.

use std::{error::Error, fmt, io, time::Duration};

use url::Url;

use super::{
    connections::CONNECT_TIMEOUT,
    guard::{BadUrl, BlockedAddress},
    identity::BadClient,
    resolver::LookupError,
};
use crate::{domain::delivery::AttemptOutcome, trust};

/// How an exchange without a complete answer ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) outcome: AttemptOutcome,
    pub(super) detail: String,
}

/// What an exchange was waiting for when its time was over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    Name,
    Connection,
    Head,
    Answer { status: u16 },
}

impl Failure {
    fn new(outcome: AttemptOutcome, detail: impl Into<String>) -> Self {
        Self { outcome, detail: detail.into() }
    }

    /// The guard refused the URL.
    pub(super) fn refused(bad: BadUrl) -> Self {
        Self::new(AttemptOutcome::Blocked, bad.to_string())
    }

    /// The endpoint's certificate cannot be used.
    pub(super) fn no_client(bad: BadClient) -> Self {
        Self::new(AttemptOutcome::TlsFailed, bad.to_string())
    }

    pub(super) fn timed_out(wait: Wait, timeout: Duration, url: &Url) -> Self {
        let seconds = Seconds(timeout);
        let detail = match wait {
            Wait::Name => format!("the name {} was not looked up within {seconds}", url.host_str().unwrap_or_default()),
            Wait::Connection => format!("no connection to {} within {seconds}", Place(url)),
            Wait::Head => format!("no answer within {seconds}"),
            Wait::Answer { status } => {
                let detail =
                    format!("{} answered {status}, and the rest of its answer did not arrive within {seconds}", Place(url));
                return Self::new(AttemptOutcome::Answered { status }, detail);
            }
        };
        Self::new(AttemptOutcome::TimedOut, detail)
    }

    /// Explains a failure that happened before the connection was open.
    pub(super) fn of_dial(error: &(dyn Error + 'static), url: &Url) -> Self {
        let place = Place(url);
        match causes(error).find_map(|cause| known(cause, &place)) {
            Some(Self { outcome: AttemptOutcome::TimedOut, .. }) if !causes(error).any(|cause| cause.is::<LookupError>()) => {
                Self::timed_out(Wait::Connection, CONNECT_TIMEOUT, url)
            }
            Some(failure) => failure,
            None => Self::new(AttemptOutcome::Unreachable, format!("no connection to {place}")),
        }
    }

    /// Explains a failure that happened after the connection was open. `status` is that of the answer, if it arrived.
    pub(super) fn of_exchange(error: &hyper::Error, status: Option<u16>, url: &Url) -> Self {
        let place = Place(url);
        let Some(status) = status else {
            let failure = causes(error).find_map(|cause| known(cause, &place));
            return failure.unwrap_or_else(|| {
                Self::new(AttemptOutcome::Reset, format!("the connection to {place} broke during the exchange"))
            });
        };
        let detail = if error.is_parse_too_large() {
            format!("{place} answered {status} with too many headers; the rest was not read")
        } else if error.is_parse() {
            format!("{place} answered {status}; the data after that is not HTTP")
        } else {
            format!("{place} answered {status} and closed the connection in the middle of its answer")
        };
        Self::new(AttemptOutcome::Answered { status }, detail)
    }
}

/// Returns `error` and its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| beneath(*error))
}

/// Returns the next cause. `source()` of an I/O error skips the error that it wraps, so this function returns that error.
fn beneath<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// Explains this cause. Returns `None` if only a deeper cause can explain the failure.
fn known(cause: &(dyn Error + 'static), place: &Place<'_>) -> Option<Failure> {
    if let Some(blocked) = cause.downcast_ref::<BlockedAddress>() {
        return Some(Failure::new(AttemptOutcome::Blocked, blocked.to_string()));
    }
    if let Some(missing) = cause.downcast_ref::<LookupError>() {
        let outcome = match missing {
            LookupError::NotFound { .. } => AttemptOutcome::NameNotFound,
            LookupError::TimedOut { .. } => AttemptOutcome::TimedOut,
            LookupError::Busy { .. } => AttemptOutcome::Unreachable,
        };
        return Some(Failure::new(outcome, missing.to_string()));
    }
    if let Some(error) = cause.downcast_ref::<rustls::Error>() {
        return Some(Failure::new(AttemptOutcome::TlsFailed, tls_in_words(error, place)));
    }
    if let Some(error) = cause.downcast_ref::<hyper::Error>() {
        return of_http(error, place);
    }
    cause.downcast_ref::<io::Error>().and_then(|error| of_io(error, place))
}

fn of_http(error: &hyper::Error, place: &Place<'_>) -> Option<Failure> {
    let detail = if error.is_parse_too_large() {
        format!("{place} answered with too many headers")
    } else if error.is_parse() {
        format!("the answer of {place} is not HTTP")
    } else if error.is_incomplete_message() {
        format!("{place} closed the connection without an answer")
    } else {
        return None;
    };
    Some(Failure::new(AttemptOutcome::Reset, detail))
}

fn of_io(error: &io::Error, place: &Place<'_>) -> Option<Failure> {
    use io::ErrorKind as Kind;
    // The wrapped error is more precise than the kind of its wrapper.
    if error.get_ref().is_some_and(|wrapped| wrapped.is::<io::Error>() || wrapped.is::<rustls::Error>()) {
        return None;
    }
    Some(match error.kind() {
        Kind::ConnectionRefused => Failure::new(AttemptOutcome::Refused, format!("nothing listens at {place}")),
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => {
            Failure::new(AttemptOutcome::Reset, format!("{place} closed the connection without an answer"))
        }
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
            Failure::new(AttemptOutcome::Unreachable, format!("no route to {place}"))
        }
        Kind::TimedOut => Failure::new(AttemptOutcome::TimedOut, format!("{place} went silent")),
        _ => return None,
    })
}

/// Explains what an endpoint's owner can do about its client certificate. [`trust::in_words`] explains other errors.
fn tls_in_words(error: &rustls::Error, place: &Place<'_>) -> String {
    use rustls::AlertDescription as Alert;
    match error {
        rustls::Error::AlertReceived(Alert::CertificateRequired) => {
            format!("{place} requires a client certificate; set client_certificate of the endpoint")
        }
        rustls::Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied),
        ) => format!("{place} does not accept the endpoint's client certificate, or requires one ({alert:?})"),
        error => trust::in_words(error, place, trust::FILE_VARIABLE),
    }
}

/// Writes a receiver's URL for a sentence, without path, query and user.
pub(super) struct Place<'a>(pub(super) &'a Url);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        match self.0.port_or_known_default() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Formats a duration: `20 s`, `300 ms`.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_millis() {
            0 => write!(f, "{} s", self.0.as_secs()),
            _ if self.0.as_secs() == 0 => write!(f, "{} ms", self.0.as_millis()),
            _ => write!(f, "{:.1} s", self.0.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_an_io_error_is_found() {
        let place = Url::parse("https://crm.example/hook?token=secret").unwrap();
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, expired));
        let failure = causes(&wrapped).find_map(|cause| known(cause, &Place(&place))).unwrap();
        assert_eq!(failure.outcome, AttemptOutcome::TlsFailed);
        assert_eq!(failure.detail, "the certificate of https://crm.example:443 has expired");
    }

    #[test]
    fn names_errors_of_the_system() {
        let place = Url::parse("http://10.0.0.7:8080/").unwrap();
        let table = [
            (io::ErrorKind::ConnectionRefused, AttemptOutcome::Refused, "nothing listens at http://10.0.0.7:8080"),
            (io::ErrorKind::BrokenPipe, AttemptOutcome::Reset, "http://10.0.0.7:8080 closed the connection without an answer"),
            (io::ErrorKind::HostUnreachable, AttemptOutcome::Unreachable, "no route to http://10.0.0.7:8080"),
            (io::ErrorKind::TimedOut, AttemptOutcome::TimedOut, "http://10.0.0.7:8080 went silent"),
        ];
        for (kind, outcome, detail) in table {
            let failure = known(&io::Error::from(kind), &Place(&place)).unwrap();
            assert_eq!((failure.outcome, failure.detail.as_str()), (outcome, detail));
        }
    }

    #[test]
    fn a_timeout_names_its_length_and_stage() {
        let url = Url::parse("https://crm.example/hook?token=secret").unwrap();
        let said = |wait, millis| Failure::timed_out(wait, Duration::from_millis(millis), &url).detail;
        assert_eq!(said(Wait::Name, 20_000), "the name crm.example was not looked up within 20 s");
        assert_eq!(said(Wait::Connection, 300), "no connection to https://crm.example:443 within 300 ms");
        assert_eq!(said(Wait::Head, 1500), "no answer within 1.5 s");
        assert_eq!(
            said(Wait::Answer { status: 200 }, 20_000),
            "https://crm.example:443 answered 200, and the rest of its answer did not arrive within 20 s"
        );
    }
}
