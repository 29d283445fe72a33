//! Decides when a failed delivery is retried: the schedule, its jitter, and the effect of `Retry-After`.

use std::time::Duration;

use super::time::Timestamp;

/// The wait before each attempt; the first wait is usually zero. The number of entries is the number of attempts.
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

    /// Returns when the next attempt is due after `made` attempts; `None` if no attempt is left.
    ///
    /// `jitter` in 0..1 spreads the wait by ±10 %, so that deliveries that failed together are not retried together.
    /// `retry_after` is the receiver's request. It can only lengthen the wait, and at most to one day.
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

/// Maximum `Retry-After`; a longer one is cut to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads a `Retry-After` header (RFC 9110, section 10.2.3): seconds, or a date in any of the three forms that recipients must
/// read (5.6.7). A date in the past means no wait.
pub fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number with too many digits is a long wait, not a malformed value.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let millis = match httpdate::parse_http_date(value) {
        Ok(date) => i64::try_from(date.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis()).ok()?,
        // The date form of e-mail (RFC 2822): it may have a time zone or a day with one digit, and the weekday may be missing.
        // Some servers send this form in HTTP.
        Err(_) => jiff::fmt::rfc2822::parse(value).ok()?.timestamp().as_millisecond(),
    };
    Some(Timestamp::from_millis(millis).since(now).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn retry_after_is_read_in_every_form() {
        let now = Timestamp::parse_rfc3339("1994-11-06T08:48:37Z").unwrap();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (value, wait) in [
            ("120", seconds(120)),
            ("0", seconds(0)),
            (" 120\t", seconds(120)),
            ("007", seconds(7)),
            ("99999999999999999999999", Some(RETRY_AFTER_MAX)),
            // The three forms of RFC 9110, section 5.6.7, with the example of that section.
            ("Sun, 06 Nov 1994 08:49:37 GMT", seconds(60)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", seconds(60)),
            ("Sun Nov  6 08:49:37 1994", seconds(60)),
            ("Wed Nov 16 08:48:37 1994", seconds(10 * 24 * 3600)),
            // Dates in the past and the far future.
            ("Sun, 06 Nov 1994 08:47:37 GMT", seconds(0)),
            ("Fri, 31 Dec 1999 23:59:59 GMT", Some(RETRY_AFTER_MAX)),
            // The date form of e-mail.
            ("Sun, 06 Nov 1994 09:49:37 +0100", seconds(60)),
            ("Sun, 6 Nov 1994 08:49:37 GMT", seconds(60)),
            ("6 Nov 1994 08:49:37 +0000", seconds(60)),
            // Values without a wait.
            ("", None),
            ("soon", None),
            ("-1", None),
            ("+120", None),
            ("1.5", None),
            ("120s", None),
            ("120, 60", None),
            ("0x10", None),
            ("Sun, 06 Nov 1994", None),
            ("Sun, 36 Nov 1994 08:49:37 GMT", None),
            ("1994-11-06T08:49:37Z", None),
        ] {
            assert_eq!(parse_retry_after(value, now), wait, "{value:?}");
        }
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
