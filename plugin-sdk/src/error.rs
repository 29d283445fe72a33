//! The error of a plugin that cannot handle an event.

use std::fmt;

/// Why a plugin could not handle an event, and whether a retry may help.
///
/// The event stays in the store in either case. The failure is in the run's history, and you can run the event again after a fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// A short stable word for machines: `bad-payload`.
    pub code: String,
    /// A sentence for people: what happened, to which thing, what to do.
    pub message: String,
    /// Whether the same event may succeed later.
    pub retryable: bool,
}

/// A result whose error is a plugin's [`Error`] by default.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Creates a failure that a retry cannot repair. The run is parked until an operator retries it.
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retryable: false }
    }

    /// Creates a failure that a retry may repair, for example because another event must write state first. The engine retries on
    /// a short schedule, and then parks the run.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retryable: true }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}

impl From<serde_json::Error> for Error {
    /// `bad-payload`, not retryable, because the same bytes stay wrong.
    fn from(error: serde_json::Error) -> Self {
        Self::permanent("bad-payload", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_errors_are_permanent_bad_payloads() {
        let error = Error::from(serde_json::from_str::<u8>("x").unwrap_err());
        assert_eq!((error.code.as_str(), error.retryable), ("bad-payload", false));
        assert_eq!(error.to_string(), "bad-payload: expected value at line 1 column 1");
        assert!(Error::retryable("too-early", "the order is not known yet").retryable);
    }
}
