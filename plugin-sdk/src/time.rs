//! Times of events.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset, format_description::well_known::Rfc3339};

use crate::{Error, Result};

/// A time, such as that of an event. Its parts (year, month, hour) are those at its own offset: `2026-01-02T23:30:00+02:00` has the hour 23
/// and the day 2.
///
/// ```
/// use innesco_sdk::Time;
/// use std::time::Duration;
///
/// let time: Time = "2026-01-02T23:30:00+02:00".parse().unwrap();
/// assert_eq!((time.year(), time.month(), time.day(), time.hour(), time.weekday()), (2026, 1, 2, 23, 5));
/// assert_eq!(time.utc().to_string(), "2026-01-02T21:30:00Z");
/// assert_eq!(time.unix_seconds(), 1_767_389_400);
/// assert_eq!((time + Duration::from_secs(3600)).date(), "2026-01-03");
/// ```
///
/// Two times are equal if they are the same instant; offsets do not count. This type knows no time zones. If you need local times
/// in a zone with summer time, the sender must include the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(OffsetDateTime);

impl Time {
    /// Reads RFC 3339.
    ///
    /// # Errors
    ///
    /// `bad-time`, not retryable, if the text is something else.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |_| Error::permanent("bad-time", format!("{text:?} is not a time in RFC 3339, such as 2026-01-02T03:04:05Z"));
        OffsetDateTime::parse(text, &Rfc3339).map(Self).map_err(bad)
    }

    /// Returns the time that is this many seconds after 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    ///
    /// `bad-time` beyond the year 9999.
    pub fn from_unix_seconds(seconds: i64) -> Result<Self> {
        Self::from_unix_millis(seconds.saturating_mul(1_000))
    }

    /// Returns the time that is this many milliseconds after 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    ///
    /// `bad-time` beyond the year 9999.
    pub fn from_unix_millis(millis: i64) -> Result<Self> {
        let bad = |_| Error::permanent("bad-time", format!("{millis} milliseconds since 1970 are beyond the year 9999"));
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).map(Self).map_err(bad)
    }

    /// Returns the whole seconds since 1970-01-01T00:00:00Z.
    pub const fn unix_seconds(self) -> i64 {
        self.0.unix_timestamp()
    }

    /// Returns the milliseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_millis(self) -> i64 {
        self.0.unix_timestamp() * 1_000 + self.0.millisecond() as i64
    }

    /// Returns the same time with the offset 0.
    pub fn utc(self) -> Self {
        self.at_offset(0)
    }

    /// Returns the same time with another offset, in minutes east of UTC: 120 for `+02:00`. An offset of more than a day counts as
    /// a day.
    pub fn at_offset(self, minutes: i32) -> Self {
        let offset = UtcOffset::from_whole_seconds(minutes.clamp(-1_439, 1_439) * 60).unwrap_or(UtcOffset::UTC);
        // If the year at the new offset would be beyond 9999, the old offset stays.
        Self(self.0.checked_to_offset(offset).unwrap_or(self.0))
    }

    /// Returns the year.
    pub const fn year(self) -> i32 {
        self.0.year()
    }

    /// Returns the month, from 1.
    pub const fn month(self) -> u8 {
        self.0.month() as u8
    }

    /// Returns the day of the month, from 1.
    pub const fn day(self) -> u8 {
        self.0.day()
    }

    /// Returns the hour, 0 to 23.
    pub const fn hour(self) -> u8 {
        self.0.hour()
    }

    /// Returns the minute.
    pub const fn minute(self) -> u8 {
        self.0.minute()
    }

    /// Returns the second.
    pub const fn second(self) -> u8 {
        self.0.second()
    }

    /// Returns the day of the week: 1 is Monday, 7 is Sunday.
    pub const fn weekday(self) -> u8 {
        self.0.weekday().number_from_monday()
    }

    /// Returns the day of the year, from 1.
    pub const fn day_of_year(self) -> u16 {
        self.0.ordinal()
    }

    /// Returns the date: `2026-01-02`.
    pub fn date(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year(), self.month(), self.day())
    }

    /// Returns the time from `earlier` to this one; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        (self.0 - earlier.0).try_into().unwrap_or_default()
    }
}

/// Adds a duration. A sum beyond the year 9999 becomes the end of that year.
impl std::ops::Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let sum = time::Duration::try_from(duration).ok().and_then(|duration| self.0.checked_add(duration));
        Self(sum.unwrap_or(PrimitiveDateTime::MAX.assume_offset(self.0.offset())))
    }
}

impl std::ops::Sub<Duration> for Time {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        let difference = time::Duration::try_from(duration).ok().and_then(|duration| self.0.checked_sub(duration));
        Self(difference.unwrap_or(PrimitiveDateTime::MIN.assume_offset(self.0.offset())))
    }
}

/// Writes RFC 3339 with the time's offset. The second has a fraction only if the fraction is not zero.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}T{:02}:{:02}:{:02}", self.date(), self.hour(), self.minute(), self.second())?;
        if self.0.nanosecond() > 0 {
            let digits = format!("{:09}", self.0.nanosecond());
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        match self.0.offset().whole_minutes() {
            0 => f.write_str("Z"),
            minutes => {
                let sign = if minutes < 0 { '-' } else { '+' };
                write!(f, "{sign}{:02}:{:02}", minutes.unsigned_abs() / 60, minutes.unsigned_abs() % 60)
            }
        }
    }
}

impl FromStr for Time {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads RFC 3339 from a string.
impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|error| de::Error::custom(error.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Time {
        Time::parse(text).unwrap()
    }

    #[test]
    fn the_parts_of_a_time_are_in_its_offset() {
        for (text, parts, weekday, utc) in [
            ("2026-01-02T23:30:00+02:00", (2026, 1, 2, 23, 30), 5, "2026-01-02T21:30:00Z"),
            ("2026-01-01T00:00:00.25-08:00", (2026, 1, 1, 0, 0), 4, "2026-01-01T08:00:00.25Z"),
            ("2024-02-29T12:00:00Z", (2024, 2, 29, 12, 0), 4, "2024-02-29T12:00:00Z"),
            ("1969-12-31T23:59:59+05:45", (1969, 12, 31, 23, 59), 3, "1969-12-31T18:14:59Z"),
        ] {
            let time = time(text);
            assert_eq!((time.year(), time.month(), time.day(), time.hour(), time.minute()), parts, "{text}");
            assert_eq!((time.weekday(), time.utc().to_string().as_str()), (weekday, utc), "{text}");
            assert_eq!(time.to_string(), text);
        }
        assert_eq!((time("2024-12-31T00:00:00Z").day_of_year(), time("2026-01-02T23:30:59+02:00").second()), (366, 59));
        assert_eq!(time("2026-01-02T21:30:00Z").at_offset(120).to_string(), "2026-01-02T23:30:00+02:00");
    }

    #[test]
    fn times_count_and_compare() {
        let noon = time("2026-01-02T12:00:00Z");
        assert_eq!(noon, time("2026-01-02T13:00:00+01:00"));
        assert!(noon < noon + Duration::from_millis(1) && noon > noon - Duration::from_millis(1));
        assert_eq!((noon + Duration::from_secs(90)).since(noon), Duration::from_secs(90));
        assert_eq!(noon.since(noon + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(Time::from_unix_seconds(noon.unix_seconds()).unwrap(), noon);
        assert_eq!(Time::from_unix_millis(noon.unix_millis() + 5).unwrap().to_string(), "2026-01-02T12:00:00.005Z");
        assert_eq!((noon + Duration::MAX).year(), 9999);
    }

    #[test]
    fn refuses_text_that_is_not_a_time() {
        for text in ["", "yesterday", "2026-01-02", "2026-01-02T12:00:00", "2026-13-02T12:00:00Z", "2026-01-02T12:00:00+1"] {
            let error = Time::parse(text).unwrap_err();
            assert_eq!((error.code.as_str(), error.retryable), ("bad-time", false), "{text}");
        }
        assert!(Time::from_unix_seconds(i64::MAX).is_err());
    }

    #[test]
    fn json_has_times_as_text() {
        let read: Vec<Time> = serde_json::from_str(r#"["2026-01-02T13:00:00+01:00"]"#).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), r#"["2026-01-02T13:00:00+01:00"]"#);
        let error = serde_json::from_str::<Time>("\"soon\"").unwrap_err().to_string();
        assert!(error.contains("\"soon\" is not a time in RFC 3339"), "{error}");
    }
}
