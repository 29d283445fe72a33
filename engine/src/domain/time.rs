//! Times and their text. `clock.rs` reads the clocks; this module only computes with times that it is given.

use std::{fmt, time::Duration};

/// A time: milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Returns whole seconds, as in signatures.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    pub fn plus(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }

    pub fn minus(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// Returns the time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads RFC 3339, the format of CloudEvents' `time`.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let instant: jiff::Timestamp = text.parse().ok()?;
        Some(Self(instant.as_millisecond()))
    }
}

/// Writes RFC 3339 in UTC, with milliseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => write!(f, "{instant:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

/// Reads a time in RFC 3339 and writes it in the form that every receiver can read: upper-case `T` and `Z`, at most nine digits
/// after the decimal point, no leap second. The function reads the text without jiff, because jiff accepts more than RFC 3339.
/// The standard also allows forms that SDKs refuse (lower case, a space for `T`).
pub fn rfc3339(text: &str) -> Option<String> {
    /// Maximum number of digits of a fraction: nanoseconds, the finest that SDKs read.
    const FRACTION_MAX: usize = 9;
    // Many calendars have no year 0.
    if text.starts_with("0000") {
        return None;
    }
    let digits = |range: std::ops::Range<usize>, most: u8| -> Option<u8> {
        let part = text.get(range)?;
        part.bytes().all(|c| c.is_ascii_digit()).then(|| part.parse().ok())?.filter(|number: &u8| *number <= most)
    };
    let mark = |place: usize, marks: &[u8]| text.as_bytes().get(place).filter(|c| marks.contains(c));
    for (range, most) in [(0..2, 99), (2..4, 99), (5..7, 12), (8..10, 31), (11..13, 23), (14..16, 59)] {
        digits(range, most)?;
    }
    for (place, marks) in [(4, &b"-"[..]), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")] {
        mark(place, marks)?;
    }
    // Second 60 is a leap second. It becomes 59, because most clocks have no leap seconds.
    let second = digits(17..19, 60)?.min(59);
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(after) => {
            let end = after.bytes().take_while(u8::is_ascii_digit).count();
            if end == 0 {
                return None;
            }
            (&after[..end.min(FRACTION_MAX)], &after[end..])
        }
    };
    let at = text.len() - zone.len();
    let zone = match zone.as_bytes() {
        b"Z" | b"z" => "Z",
        [b'+' | b'-', _, _, b':', _, _] => (digits(at + 1..at + 3, 23)?, digits(at + 4..at + 6, 59)?, zone).2,
        _ => return None,
    };
    let dot = if fraction.is_empty() { "" } else { "." };
    let written = format!("{}T{}:{second:02}{dot}{fraction}{zone}", &text[..10], &text[11..16]);
    // Checks that the day exists.
    Timestamp::parse_rfc3339(&written).map(|_| written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_agree() {
        let instant = Timestamp::from_millis(1_614_265_330_042);
        assert_eq!(instant.to_string(), "2021-02-25T15:02:10.042Z");
        assert_eq!(Timestamp::parse_rfc3339(&instant.to_string()), Some(instant));
        assert_eq!(Timestamp::parse_rfc3339("2021-02-25T16:02:10.042+01:00"), Some(instant));
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn normalizes_times_for_every_receiver() {
        for (text, expected) in [
            ("2026-01-31T09:30:00Z", Some("2026-01-31T09:30:00Z")),
            ("2026-01-31T09:30:00.123456789+01:00", Some("2026-01-31T09:30:00.123456789+01:00")),
            ("2026-01-31t09:30:00z", Some("2026-01-31T09:30:00Z")),
            ("2026-01-31 09:30:00.5z", Some("2026-01-31T09:30:00.5Z")),
            ("2016-12-31T23:59:60Z", Some("2016-12-31T23:59:59Z")),
            ("2026-01-31T09:30:00.1234567890123Z", Some("2026-01-31T09:30:00.123456789Z")),
            ("2024-02-29T00:00:00-00:00", Some("2024-02-29T00:00:00-00:00")),
            ("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z")),
            ("2026-01-31T10:30:00+01:00[Europe/Rome]", None),
            ("2026-01-31 09Z", None),
            ("20260131T093000Z", None),
            ("2026-01-31T09:30Z", None),
            ("2026-01-31T09:30:00,5Z", None),
            ("2026-01-31T09:30:00+01", None),
            ("2026-01-31T09:30:00+0100", None),
            ("+002026-01-31T09:30:00Z", None),
            ("2026-01-31T09:30:00", None),
            ("2026-01-31", None),
            ("2026-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("0000-01-01T00:00:00Z", None),
            ("2026-01-31T24:00:00Z", None),
            ("2026-01-31T09:30:00.Z", None),
            ("2026-01-31T09:30:00+24:00", None),
            ("2026-01-31T09:30:00Z ", None),
            ("2026-01-31_09:30:00Z", None),
            ("２026-01-31T09:30:00Z", None),
            ("1769851800", None),
            ("", None),
        ] {
            assert_eq!(rfc3339(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn arithmetic_saturates() {
        let instant = Timestamp::from_millis(5);
        assert_eq!(instant.plus(Duration::MAX).millis(), i64::MAX);
        assert_eq!(instant.since(Timestamp::from_millis(9)), Duration::ZERO);
    }
}
