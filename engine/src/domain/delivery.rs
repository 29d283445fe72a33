//! A delivery: one webhook to one endpoint. This module defines the outcomes of an attempt, and the state of the delivery after
//! each outcome.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    endpoint::{Endpoint, EndpointState},
    event::NewEvent,
    id::EndpointId,
    name::EventType,
    retry::Schedule,
    time::Timestamp,
};

/// The content of a plugin's webhook. Every attempt sends it byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Event type for the receiver; `None` means the event's own type.
    pub event_type: Option<EventType>,
    pub content_type: String,
    /// The headers that the plugin set. They are already checked: none is reserved for the engine or the endpoint.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// The state in which a new delivery is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialState {
    /// The delivery is due at once. If a worker of this process has room, that worker sends it.
    Due,
    /// Its endpoint is paused. The delivery is claimed once the endpoint is resumed.
    Held,
    /// Its endpoint is disabled. The delivery is stored as dead, and can be retried.
    Dead,
    /// Its endpoint was deleted. The delivery is stored as cancelled.
    Cancelled,
}

impl InitialState {
    /// Returns the end of a delivery that is never sent; `None` if the delivery is sent now or later.
    pub const fn ending(self) -> Option<Ending> {
        match self {
            Self::Due | Self::Held => None,
            Self::Dead => Some(Ending::Dead(DeadReason::EndpointDisabled)),
            Self::Cancelled => Some(Ending::Cancelled(CancelReason::EndpointDeleted)),
        }
    }
}

/// A delivery that is stored together with the runs of its event.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    pub endpoint: EndpointId,
    /// The plugin's webhook; `None` sends the event's data in the endpoint's envelope.
    pub payload: Option<Arc<Payload>>,
    pub initial_state: InitialState,
    /// Ordering key. An ordered endpoint gets deliveries with the same key in the order of their events. `None` if the endpoint
    /// is not ordered.
    pub ordering: Option<i64>,
}

impl NewDelivery {
    /// Returns the delivery of an event, or of a plugin's webhook, to an endpoint.
    pub fn new(endpoint: &Endpoint, event: &NewEvent, payload: Option<Arc<Payload>>) -> Self {
        let initial_state = match endpoint.new.state {
            EndpointState::Active => InitialState::Due,
            EndpointState::Paused => InitialState::Held,
            EndpointState::Disabled(_) => InitialState::Dead,
        };
        let ordering = endpoint.new.policy.ordering.map(|ordering| ordering.key(event.subject.as_deref()));
        Self { endpoint: endpoint.id, payload, initial_state, ordering }
    }

    /// Returns the delivery of a plugin's webhook to an endpoint that was deleted.
    pub const fn to_deleted(endpoint: EndpointId, payload: Arc<Payload>) -> Self {
        Self { endpoint, payload: Some(payload), initial_state: InitialState::Cancelled, ordering: None }
    }
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Delivered,
    Dead(DeadReason),
    Cancelled(CancelReason),
}

/// Why a delivery is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// A person cancelled the delivery.
    ByHand,
    /// Its endpoint was deleted.
    EndpointDeleted,
}

impl CancelReason {
    pub const ALL: [Self; 2] = [Self::ByHand, Self::EndpointDeleted];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ByHand => "by-hand",
            Self::EndpointDeleted => "endpoint-deleted",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// Why a delivery is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadReason {
    /// The last attempt of its schedule failed.
    Exhausted,
    /// The receiver answered `410` (gone).
    Gone,
    /// Its endpoint was disabled, either when the delivery was stored or later.
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

/// State of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// The delivery has no attempt yet.
    Pending {
        due: Timestamp,
    },
    /// An attempt has failed, and the delivery waits for the next one.
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
    /// The reason is `None` if an early engine, which stored no reason, cancelled the delivery.
    Cancelled {
        at: Timestamp,
        reason: Option<CancelReason>,
    },
}

impl DeliveryState {
    /// The words of [`Self::as_str`].
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

/// The result of an attempt. Every attempt ends as exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// A status arrived. It counts, even if the rest of the answer is faulty.
    Answered {
        status: u16,
    },
    /// No status arrived within the endpoint's timeout.
    TimedOut,
    /// No program listens at the address.
    Refused,
    /// The connection broke before a status arrived.
    Reset,
    /// The address is unreachable.
    Unreachable,
    NameNotFound,
    /// The address guard refused the address.
    Blocked,
    TlsFailed,
    /// The body of the answer exceeds the limit. The status of the answer counts.
    BodyTooLarge {
        status: u16,
    },
}

impl AttemptOutcome {
    /// The words of [`Self::as_str`].
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

    /// Reads what [`Self::as_str`] and [`Self::status`] wrote.
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

    /// Returns whether the status is 2xx. A redirect is a failure and is never followed.
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

/// One attempt of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub at: Timestamp,
    pub outcome: AttemptOutcome,
    pub latency: Duration,
    /// A sentence about the outcome, if the name of the outcome does not explain enough.
    pub detail: Option<String>,
    /// The first bytes of the answer, at most [`Self::EXCERPT_MAX`].
    pub excerpt: Bytes,
    /// The wait that the receiver requested with a `429` or `503`.
    pub retry_after: Option<Duration>,
}

impl Attempt {
    pub const EXCERPT_MAX: usize = 4096;
}

/// The state of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Delivered,
    Retry { due: Timestamp },
    Dead(DeadReason),
}

/// Decides the next state after the `made`-th attempt (counted from 1) under `schedule`.
///
/// `now` is a reading of the steady clock, which due times use. `jitter` is in 0..1.
pub fn after_attempt(attempt: &Attempt, made: u32, schedule: &Schedule, now: Timestamp, jitter: f64) -> Next {
    if attempt.outcome.is_success() {
        return Next::Delivered;
    }
    // Standard Webhooks 1.0: with 410 an endpoint declines further webhooks.
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
    fn decides_the_next_state_after_an_attempt() {
        let now = Timestamp::from_millis(0);
        let after = |outcome, made, asked| after_attempt(&attempt(outcome, asked), made, &Schedule::default(), now, 0.5);
        let status = |status| AttemptOutcome::Answered { status };
        let retry = |seconds: i64| Next::Retry { due: Timestamp::from_millis(seconds * 1000) };

        assert_eq!(after(status(204), 1, None), Next::Delivered);
        assert_eq!(after(AttemptOutcome::BodyTooLarge { status: 200 }, 1, None), Next::Delivered);
        assert_eq!(after(status(302), 1, None), retry(5), "a redirect is a failure");
        assert_eq!(after(status(500), 1, Some(60)), retry(5), "Retry-After counts only with 429 and 503");
        assert_eq!(after(status(503), 1, Some(60)), retry(60));
        assert_eq!(after(status(429), 2, Some(60)), retry(300), "Retry-After can only lengthen the wait");
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
