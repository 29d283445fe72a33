//! A delivery: one webhook on its way to one endpoint. What an attempt can end as, and what follows from it.

use std::{fmt, time::Duration};

use bytes::Bytes;

use super::{name::EventType, retry::Schedule, time::Timestamp};

/// What a plugin made for a receiver. It leaves byte for byte, on every attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The type that the receiver is told; the event's own when `None`.
    pub event_type: Option<EventType>,
    pub content_type: String,
    /// Checked against the list of names that are the endpoint's alone.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// Why a delivery was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadReason {
    /// The last attempt of its schedule failed.
    Exhausted,
    /// The receiver answered `410`: it wants no more.
    Gone,
    /// Its endpoint was disabled when it was stored, or has been since.
    EndpointDisabled,
}

impl DeadReason {
    pub const ALL: [Self; 3] = [Self::Exhausted, Self::Gone, Self::EndpointDisabled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Gone => "gone",
            Self::EndpointDisabled => "endpoint-disabled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// Not tried yet.
    Pending {
        due: Timestamp,
    },
    /// Tried, and to be tried again.
    Retrying {
        due: Timestamp,
    },
    Delivered {
        at: Timestamp,
    },
    Dead {
        at: Timestamp,
        reason: DeadReason,
    },
    /// Called off by a person, or its endpoint was deleted.
    Cancelled {
        at: Timestamp,
    },
}

impl DeliveryState {
    /// What [`Self::as_str`] can say.
    pub const WORDS: [&str; 5] = ["pending", "retrying", "delivered", "dead", "cancelled"];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending { .. } => Self::WORDS[0],
            Self::Retrying { .. } => Self::WORDS[1],
            Self::Delivered { .. } => Self::WORDS[2],
            Self::Dead { .. } => Self::WORDS[3],
            Self::Cancelled { .. } => Self::WORDS[4],
        }
    }
}

/// What the other side did. Every attempt ends as exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// A status came. It counts, whatever is wrong with the rest of the answer.
    Answered {
        status: u16,
    },
    /// No status came within the endpoint's timeout.
    TimedOut,
    /// Nobody listens at the address.
    Refused,
    /// The connection broke off before a status came.
    Reset,
    /// The address cannot be reached.
    Unreachable,
    NameNotFound,
    /// The address guard does not let us go there.
    Blocked,
    TlsFailed,
    /// An answer came, with more body than is read; its status counts.
    BodyTooLarge {
        status: u16,
    },
}

impl AttemptOutcome {
    /// What [`Self::as_str`] can say.
    pub const WORDS: [&str; 9] =
        ["answered", "timed-out", "refused", "reset", "unreachable", "name-not-found", "blocked", "tls-failed", "body-too-large"];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered { .. } => "answered",
            Self::TimedOut => "timed-out",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::NameNotFound => "name-not-found",
            Self::Blocked => "blocked",
            Self::TlsFailed => "tls-failed",
            Self::BodyTooLarge { .. } => "body-too-large",
        }
    }

    /// Reads back what [`Self::as_str`] and [`Self::status`] gave.
    pub fn parse(text: &str, status: Option<u16>) -> Option<Self> {
        Some(match text {
            "answered" => Self::Answered { status: status? },
            "timed-out" => Self::TimedOut,
            "refused" => Self::Refused,
            "reset" => Self::Reset,
            "unreachable" => Self::Unreachable,
            "name-not-found" => Self::NameNotFound,
            "blocked" => Self::Blocked,
            "tls-failed" => Self::TlsFailed,
            "body-too-large" => Self::BodyTooLarge { status: status? },
            _ => return None,
        })
    }

    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Answered { status } | Self::BodyTooLarge { status } => Some(status),
            _ => None,
        }
    }

    /// 2xx and nothing else; a redirect is a failure and is never followed.
    pub fn is_success(self) -> bool {
        self.status().is_some_and(|status| (200..300).contains(&status))
    }
}

impl fmt::Display for AttemptOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { status } => write!(f, "{status}"),
            other => f.write_str(other.as_str()),
        }
    }
}

/// One try of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub at: Timestamp,
    pub outcome: AttemptOutcome,
    pub latency: Duration,
    /// A sentence about the outcome, where its name alone does not explain it.
    pub detail: Option<String>,
    /// The first bytes of the answer, at most [`Self::EXCERPT_MAX`].
    pub excerpt: Bytes,
    /// What the receiver asked for with a `429` or `503`.
    pub retry_after: Option<Duration>,
}

impl Attempt {
    pub const EXCERPT_MAX: usize = 4096;
}

/// What becomes of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Delivered,
    Retry { due: Timestamp },
    Dead(DeadReason),
}

/// Decides what follows the `made`-th attempt (from 1) under `schedule`.
///
/// `now` is the clock that due times are measured by; `jitter` is in 0..1.
pub fn after_attempt(attempt: &Attempt, made: u32, schedule: &Schedule, now: Timestamp, jitter: f64) -> Next {
    if attempt.outcome.is_success() {
        return Next::Delivered;
    }
    // Standard Webhooks 1.0: 410 says that the endpoint wants no more webhooks.
    if attempt.outcome.status() == Some(410) {
        return Next::Dead(DeadReason::Gone);
    }
    let asked = match attempt.outcome.status() {
        Some(429 | 503) => attempt.retry_after,
        _ => None,
    };
    match schedule.next_due(made, now, jitter, asked) {
        Some(due) => Next::Retry { due },
        None => Next::Dead(DeadReason::Exhausted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(outcome: AttemptOutcome, retry_after: Option<u64>) -> Attempt {
        Attempt {
            at: Timestamp::from_millis(0),
            outcome,
            latency: Duration::ZERO,
            detail: None,
            excerpt: Bytes::new(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn what_follows_an_attempt() {
        let now = Timestamp::from_millis(0);
        let after = |outcome, made, asked| after_attempt(&attempt(outcome, asked), made, &Schedule::default(), now, 0.5);
        let status = |status| AttemptOutcome::Answered { status };
        let retry = |seconds: i64| Next::Retry { due: Timestamp::from_millis(seconds * 1000) };

        assert_eq!(after(status(204), 1, None), Next::Delivered);
        assert_eq!(after(AttemptOutcome::BodyTooLarge { status: 200 }, 1, None), Next::Delivered);
        assert_eq!(after(status(302), 1, None), retry(5), "a redirect is a failure");
        assert_eq!(after(status(500), 1, Some(60)), retry(5), "only 429 and 503 may ask");
        assert_eq!(after(status(503), 1, Some(60)), retry(60));
        assert_eq!(after(status(429), 2, Some(60)), retry(300), "it may only lengthen the wait");
        assert_eq!(after(status(410), 1, None), Next::Dead(DeadReason::Gone));
        assert_eq!(after(AttemptOutcome::TimedOut, 10, None), Next::Dead(DeadReason::Exhausted));
    }

    #[test]
    fn outcomes_read_back() {
        for word in AttemptOutcome::WORDS {
            assert_eq!(AttemptOutcome::parse(word, Some(200)).map(AttemptOutcome::as_str), Some(word));
        }
        for outcome in [status(200), AttemptOutcome::Blocked, AttemptOutcome::BodyTooLarge { status: 500 }] {
            assert_eq!(AttemptOutcome::parse(outcome.as_str(), outcome.status()), Some(outcome));
        }
        fn status(status: u16) -> AttemptOutcome {
            AttemptOutcome::Answered { status }
        }
    }
}
