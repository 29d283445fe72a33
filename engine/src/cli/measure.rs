//! Formats amounts for people: sizes, durations, counts, ages, and text that is safe for a terminal.

use std::{fmt::Write as _, time::Duration};

/// Formats a size: `61 kB`, `1.4 MB`. kB are rounded up.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{} kB", bytes.div_ceil(1_000)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Formats a duration: `0.05 ms`, `1.8 ms`, `12 ms`, `1.1 s`, `2 min`.
pub fn took(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1_000.0;
    match millis {
        ..0.995 => format!("{millis:.2} ms"),
        ..9.95 => format!("{millis:.1} ms"),
        ..999.5 => format!("{millis:.0} ms"),
        ..99_950.0 => format!("{:.1} s", millis / 1_000.0),
        _ => coarse(duration),
    }
}

/// Formats a duration: `5 s`, `5 min`, `2 h`, `3 d`, in the largest unit that is not zero.
pub fn coarse(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// Formats a count: `1 webhook`, `2 webhooks`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Returns untrusted text on one line. Characters that would control a terminal are escaped.
pub fn one_line(text: &str) -> String {
    written_out(text, |_| false)
}

/// Like [`one_line`], but keeps line ends and tabs.
pub fn lines(text: &str) -> String {
    written_out(text, |c| matches!(c, '\n' | '\t')).trim_end().to_owned()
}

fn written_out(text: &str, keep: impl Fn(char) -> bool) -> String {
    // Besides control characters, this escapes characters that change the direction of text, because they can make one line look
    // like another.
    let steers = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) && !keep(c) {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Cuts a text to this length, with an ellipsis for the rest.
pub fn cut(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in
            [(12, "12 bytes"), (1_000, "1 kB"), (60_700, "61 kB"), (1_440_000, "1.4 MB"), (2_000_000_000, "2.0 GB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations() {
        let cases = [
            (0, "0.00 ms"),
            (50, "0.05 ms"),
            (1_800, "1.8 ms"),
            (12_300, "12 ms"),
            (999_400, "999 ms"),
            (1_100_000, "1.1 s"),
            (120_000_000, "2 min"),
        ];
        for (micros, text) in cases {
            assert_eq!(took(Duration::from_micros(micros)), text);
        }
        for (seconds, text) in [(5, "5 s"), (59, "59 s"), (60, "1 min"), (7_200, "2 h"), (86_400, "24 h"), (259_200, "3 d")] {
            assert_eq!(coarse(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn counts() {
        assert_eq!(count(1, "webhook"), "1 webhook");
        assert_eq!(count(0, "webhook"), "0 webhooks");
    }

    #[test]
    fn untrusted_text_cannot_control_the_terminal() {
        assert_eq!(one_line("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(lines("a\tb\n\u{9b}31mc\n\n"), "a\tb\n\\u{9b}31mc");
        assert_eq!(one_line("evil\u{202e}txt"), "evil\\u{202e}txt");
        assert_eq!(one_line("città → 東京"), "città → 東京");
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
    }
}
