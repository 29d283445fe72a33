//! A rate: a number per second, minute or hour.

use std::{fmt, num::NonZeroU32, time::Duration};

/// At most `count` requests in each `unit`, spread evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU32,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Unit {
    const ALL: [Self; 3] = [Self::Second, Self::Minute, Self::Hour];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "m",
            Self::Hour => "h",
        }
    }

    const fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        })
    }
}

/// A text that is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a rate; write a number from 1 to {max} per second, minute or hour, such as 50/s, 100/m or 1000/h", max = Rate::COUNT_MAX)]
pub struct BadRate(String);

impl Rate {
    pub const COUNT_MAX: u32 = 100_000;

    pub fn parse(text: &str) -> Result<Self, BadRate> {
        let bad = || BadRate(text.chars().take(40).collect());
        let (count, unit) = text.split_once('/').ok_or_else(bad)?;
        let unit = Unit::ALL.into_iter().find(|one| one.as_str() == unit.trim()).ok_or_else(bad)?;
        let count: NonZeroU32 = count.trim().parse().map_err(|_| bad())?;
        if count.get() <= Self::COUNT_MAX { Ok(Self { count, unit }) } else { Err(bad()) }
    }

    /// Returns the number of requests per unit.
    pub const fn count(self) -> NonZeroU32 {
        self.count
    }

    /// Returns the time between two requests.
    pub fn interval(self) -> Duration {
        self.unit.length() / self.count.get()
    }

    /// Returns how many requests fit into `span`.
    pub fn within(self, span: Duration) -> usize {
        let fits = span.as_nanos() / self.interval().as_nanos().max(1);
        usize::try_from(fits).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_back_and_know_their_interval() {
        for (text, interval) in [("50/s", 20), ("120/m", 500), ("1/h", 3_600_000)] {
            let rate = Rate::parse(text).unwrap();
            assert_eq!(rate.interval(), Duration::from_millis(interval));
            assert_eq!(rate.to_string(), text);
        }
        assert_eq!(Rate::parse("50/s").unwrap().within(Duration::from_secs(2)), 100);
        for bad in ["", "50", "0/s", "-1/s", "50/d", "1.5/s", "100001/s", "5000000000/s"] {
            assert!(Rate::parse(bad).is_err(), "{bad}");
        }
    }
}
