//! When a failed delivery is tried again: the schedule, its jitter, and what `Retry-After` may do to it.

use std::time::Duration;

use super::time::Timestamp;

/// How long to wait before each attempt; the first is usually zero. As many attempts as entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(Vec<Duration>);

/// A schedule that breaks its rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a schedule has 1 to {} waits of at most 7 days each", Schedule::LEN_MAX)]
pub struct BadSchedule;

impl Schedule {
    pub const LEN_MAX: usize = 50;
    const WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

    pub fn new(waits: Vec<Duration>) -> Result<Self, BadSchedule> {
        let fits = (1..=Self::LEN_MAX).contains(&waits.len()) && waits.iter().all(|wait| *wait <= Self::WAIT_MAX);
        if fits { Ok(Self(waits)) } else { Err(BadSchedule) }
    }

    pub fn waits(&self) -> &[Duration] {
        &self.0
    }

    /// When the attempt after the `made`-th (from 1) is due; `None` when there is none left.
    ///
    /// `jitter` in 0..1 spreads the wait by ±10 %, so that what failed together does not come back together.
    /// `retry_after`, what the receiver asked for, may only lengthen it, and by no more than a day.
    pub fn next_due(&self, made: u32, now: Timestamp, jitter: f64, retry_after: Option<Duration>) -> Option<Timestamp> {
        let wait = *self.0.get(made as usize)?;
        let spread = wait.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0));
        let asked = retry_after.unwrap_or_default().min(Duration::from_secs(24 * 3600));
        Some(now.plus(spread.max(asked)))
    }
}

/// The schedule that Standard Webhooks 1.0 suggests ("Deliverability and reliability").
impl Default for Schedule {
    fn default() -> Self {
        const HOUR: u64 = 3600;
        let seconds = [0, 5, 300, 1800, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];
        Self(seconds.map(Duration::from_secs).to_vec())
    }
}

/// Reads a `Retry-After` header (RFC 9110, section 10.2.3): seconds, or a date.
pub fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?;
    Some(Timestamp::from_millis(date.timestamp().as_millisecond()).since(now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn retry_after_reads_seconds_and_dates() {
        let now = Timestamp::parse_rfc3339("2015-10-21T07:27:00Z").unwrap();
        assert_eq!(parse_retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:26:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("soon", now), None);
    }

    proptest! {
        #[test]
        fn a_retry_is_never_in_the_past_and_never_sooner_than_asked(
            made in 1u32..12, now in 0i64..4_000_000_000_000, jitter in 0.0f64..1.0, asked in prop::option::of(0u64..200_000),
        ) {
            let now = Timestamp::from_millis(now);
            let schedule = Schedule::default();
            let due = schedule.next_due(made, now, jitter, asked.map(Duration::from_secs));
            prop_assert_eq!(due.is_some(), (made as usize) < schedule.waits().len());
            if let Some(due) = due {
                prop_assert!(due >= now);
                prop_assert!(due.since(now) >= Duration::from_secs(asked.unwrap_or(0).min(24 * 3600)));
                prop_assert!(due.since(now) >= schedule.waits()[made as usize].mul_f64(0.89));
            }
        }
    }
}
