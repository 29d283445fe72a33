//! The grace period after a rotation. Until it ends, the replaced secret of an endpoint or source, or the replaced address of a
//! source, stays valid.

use std::time::Duration;

use super::duration;

/// Grace period if the request for a rotation does not set one.
pub const DEFAULT: &str = "24h";
/// What a grace period must be, for error messages.
pub const RULE: &str = "a duration of at most 7 days; write 0s, 1h or 24h";
const MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reads a grace period; `None` if it is not a duration or too long.
pub fn parse(text: &str) -> Option<Duration> {
    duration::parse(text).filter(|grace| *grace <= MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_period_lasts_at_most_a_week() {
        assert_eq!(parse(DEFAULT), Some(Duration::from_secs(86_400)));
        assert_eq!(parse("0s"), Some(Duration::ZERO));
        assert_eq!(parse("7d"), Some(MAX));
        for refused in ["8d", "169h", "soon", ""] {
            assert_eq!(parse(refused), None, "{refused:?}");
        }
    }
}
