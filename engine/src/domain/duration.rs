//! Durations as people write them: `500ms`, `20s`, `5m`, `2h`.

use std::time::Duration;

pub fn parse(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// Writes a duration in the largest fitting unit, so that [`parse`] can read it.
pub fn write(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if millis > 0 && millis.is_multiple_of(unit) {
            return format!("{}{name}", millis / unit);
        }
    }
    if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back() {
        for text in ["0s", "500ms", "20s", "5m", "2h", "7d", "90s"] {
            assert_eq!(write(parse(text).unwrap()), text);
        }
        for bad in ["", "5", "s", "5 parsecs", "-1s", "99999999999999999999s", "1.5h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
