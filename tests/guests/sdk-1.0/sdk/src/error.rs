//! What a plugin says when it cannot handle an event.

use std::fmt;

/// Why a plugin could not handle an event, and whether trying again may help.
///
/// Either way the event is kept, the failure is seen in the run's history, and the event can be run again after a fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// A short stable word for machines: `bad-payload`.
    pub code: String,
    /// A sentence for people: what happened, to what, what to do.
    pub message: String,
    /// Whether the same event may succeed later.
    pub retryable: bool,
}

/// A result whose error is, unless another is named, a plugin's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure that trying again will not cure: the run waits until a person drives it again.
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retryable: false }
    }

    /// A failure that may pass, such as state that another event must write first: the event is tried again on a short
    /// schedule, and then waits for a person.
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
    /// `bad-payload`, not retryable: the same bytes will be as wrong the next time.
    fn from(error: serde_json::Error) -> Self {
        Self::permanent("bad-payload", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_errors_are_bad_payloads_that_no_retry_cures() {
        let error = Error::from(serde_json::from_str::<u8>("x").unwrap_err());
        assert_eq!((error.code.as_str(), error.retryable), ("bad-payload", false));
        assert_eq!(error.to_string(), "bad-payload: expected value at line 1 column 1");
        assert!(Error::retryable("too-early", "the order is not known yet").retryable);
    }
}
