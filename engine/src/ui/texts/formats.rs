//! Formats numbers, sizes, durations and times by the rules of a language. Only this module writes them.

use std::time::Duration;

use jiff::{Timestamp as Instant, ZonedDateTime, tz::TimeZone};
use maud::{Markup, html};

use super::Lang;

/// Formats figures for one reader.
#[derive(Clone)]
pub struct Formats {
    pub lang: Lang,
    pub zone: TimeZone,
}

const DAYS: [[&str; 7]; 2] =
    [["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], ["lun", "mar", "mer", "gio", "ven", "sab", "dom"]];
const MONTHS: [[&str; 12]; 2] = [
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"],
    ["gen", "feb", "mar", "apr", "mag", "giu", "lug", "ago", "set", "ott", "nov", "dic"],
];

impl Formats {
    const fn at(&self) -> usize {
        match self.lang {
            Lang::En => 0,
            Lang::It => 1,
        }
    }

    const fn marks(&self) -> (char, char) {
        match self.lang {
            Lang::En => (',', '.'),
            Lang::It => ('.', ','),
        }
    }

    /// Writes a whole number with groups of three: `1,418`.
    pub fn number(&self, number: u64) -> String {
        let digits = number.to_string();
        let mut text = String::with_capacity(digits.len() + digits.len() / 3);
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                text.push(self.marks().0);
            }
            text.push(digit);
        }
        text
    }

    /// Writes a number with at most this many decimals. A whole number has none.
    pub fn decimal(&self, number: f64, decimals: usize) -> String {
        let text = format!("{number:.decimals$}");
        let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
        let rest = rest.trim_end_matches('0');
        let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
        let whole = self.number(digits.parse().unwrap_or(0));
        if rest.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}{}{rest}", self.marks().1) }
    }

    /// Writes a share between 0 and 1 as a percentage: `99.97 %`. A share below 1 is never rounded up to `100 %`.
    pub fn percent(&self, share: f64) -> String {
        let shown = if share < 1.0 { (share * 10_000.0).floor() / 100.0 } else { 100.0 };
        format!("{} %", self.decimal(shown, 2))
    }

    /// Writes a size in bytes: `388 B`, `1.2 kB`, `1.0 MB`.
    pub fn bytes(&self, bytes: u64) -> String {
        const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
        if bytes < 1000 {
            return format!("{bytes} B");
        }
        let mut value = bytes as f64;
        let mut unit = "";
        for one in UNITS {
            (value, unit) = (value / 1000.0, one);
            if value < 999.5 {
                break;
            }
        }
        let text =
            if value < 10.0 { format!("{value:.1}").replace('.', &self.marks().1.to_string()) } else { self.decimal(value, 0) };
        format!("{text} {unit}")
    }

    /// Writes how long something took: `0.05 ms`, `12 ms`, `20.0 s`.
    pub fn millis(&self, millis: f64) -> String {
        match millis {
            ms if ms < 1.0 => format!("{} ms", self.decimal(ms, 2)),
            ms if ms < 10.0 => format!("{} ms", self.decimal(ms, 1)),
            ms if ms < 1000.0 => format!("{} ms", self.decimal(ms, 0)),
            ms if ms < 60_000.0 => format!("{:.1} s", ms / 1000.0).replace('.', &self.marks().1.to_string()),
            ms => self.span(Duration::from_secs_f64(ms / 1000.0)),
        }
    }

    /// Writes a length of time in its two largest units: `4 min 50 s`, `75 h 35 min`, `12 d`.
    pub fn span(&self, span: Duration) -> String {
        let seconds = span.as_secs();
        let day = if self.lang == Lang::It { "g" } else { "d" };
        let (large, large_unit, small, small_unit) = match seconds {
            0..60 => return format!("{seconds} s"),
            60..3600 => (seconds / 60, "min", if seconds < 600 { seconds % 60 } else { 0 }, "s"),
            3600..360_000 => (seconds / 3600, "h", seconds % 3600 / 60, "min"),
            _ => (seconds / 86_400, day, 0, ""),
        };
        if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
    }

    fn zoned(&self, text: &str) -> Option<ZonedDateTime> {
        text.parse::<Instant>().ok().map(|instant| instant.to_zoned_datetime(self.zone.clone()))
    }

    fn day(&self, zoned: &ZonedDateTime) -> String {
        let at = self.at();
        let weekday = DAYS[at][usize::try_from(zoned.weekday().to_monday_zero_offset()).unwrap_or(0)];
        let month = MONTHS[at][usize::try_from(zoned.month() - 1).unwrap_or(0)];
        format!("{weekday} {} {month}", zoned.day())
    }

    /// Writes a time for a `title`, with its zone: `Tue 24 Nov 2026, 14:02:11.204 (Europe/Rome)`.
    pub fn exact(&self, text: &str) -> String {
        let Some(zoned) = self.zoned(text) else { return text.to_owned() };
        let zone = self.zone.iana_name().unwrap_or("UTC");
        let second = format!("{}{}{:03}", zoned.strftime("%H:%M:%S"), self.marks().1, zoned.millisecond());
        format!("{} {}, {second} ({zone})", self.day(&zoned), zoned.year())
    }

    /// Writes a time of day to the millisecond: `14:02:11.204`.
    pub fn clock_millis(&self, text: &str) -> String {
        self.zoned(text).map_or_else(
            || text.to_owned(),
            |zoned| format!("{}{}{:03}", zoned.strftime("%H:%M:%S"), self.marks().1, zoned.millisecond()),
        )
    }

    /// Writes a time of day: `14:02:11`.
    pub fn clock(&self, text: &str) -> String {
        self.zoned(text).map_or_else(|| text.to_owned(), |zoned| zoned.strftime("%H:%M:%S").to_string())
    }

    /// Writes hour and minute: `14:02`.
    pub fn minute(&self, text: &str) -> String {
        self.zoned(text).map_or_else(|| text.to_owned(), |zoned| zoned.strftime("%H:%M").to_string())
    }

    /// Writes a day for an axis: `Tue 24`.
    pub fn day_short(&self, text: &str) -> String {
        let day = |zoned: &ZonedDateTime| self.day(zoned).rsplit_once(' ').map(|(day, _)| day.to_owned()).unwrap_or_default();
        self.zoned(text).map_or_else(|| text.to_owned(), |zoned| day(&zoned))
    }

    /// Writes day and time of day: `Tue 24 Nov, 14:02:11.204`.
    pub fn day_and_clock(&self, text: &str) -> String {
        self.zoned(text).map_or_else(|| text.to_owned(), |zoned| format!("{}, {}", self.day(&zoned), self.clock_millis(text)))
    }

    /// Writes a time in a list: the time of day, with its day if that is not today.
    pub fn in_list(&self, text: &str, now: crate::domain::time::Timestamp, millis: bool) -> String {
        let Some(zoned) = self.zoned(text) else { return text.to_owned() };
        let today = Instant::from_millisecond(now.millis()).map(|now| now.to_zoned_datetime(self.zone.clone()).date());
        let is_today = today.is_ok_and(|today| today == zoned.date());
        match (is_today, millis) {
            (true, true) => self.clock_millis(text),
            (true, false) => self.clock(text),
            (false, _) => {
                let month = MONTHS[self.at()][usize::try_from(zoned.month() - 1).unwrap_or(0)];
                format!("{} {month} {}", zoned.day(), zoned.strftime("%H:%M"))
            }
        }
    }

    /// Writes a `<time>` element: the short text, and the exact time with its zone on hover.
    pub fn time(&self, text: &str, shown: &str) -> Markup {
        html! { time datetime=(text) title=(self.exact(text)) { (shown) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formats(lang: Lang) -> Formats {
        Formats { lang, zone: TimeZone::get("Europe/Rome").unwrap() }
    }

    #[test]
    fn numbers_follow_the_language() {
        let (en, it) = (formats(Lang::En), formats(Lang::It));
        for (number, english, italian) in [(7, "7", "7"), (1_418, "1,418", "1.418"), (2_914_077, "2,914,077", "2.914.077")] {
            assert_eq!((en.number(number), it.number(number)), (english.to_owned(), italian.to_owned()));
        }
        assert_eq!((en.decimal(1234.5, 2), it.decimal(1234.5, 2)), ("1,234.5".to_owned(), "1.234,5".to_owned()));
        assert_eq!(
            (en.percent(0.99999), it.percent(0.9997), en.percent(1.0)),
            ("99.99 %".into(), "99,97 %".into(), "100 %".into())
        );
    }

    #[test]
    fn sizes_and_durations_have_two_or_three_digits() {
        let (en, it) = (formats(Lang::En), formats(Lang::It));
        for (bytes, expected) in
            [(388, "388 B"), (1_200, "1.2 kB"), (9_100, "9.1 kB"), (64_000, "64 kB"), (999_900, "1.0 MB"), (1_048_576, "1.0 MB")]
        {
            assert_eq!(en.bytes(bytes), expected);
        }
        for (millis, expected) in
            [(0.05, "0,05 ms"), (2.1, "2,1 ms"), (12.4, "12 ms"), (20_000.0, "20,0 s"), (90_000.0, "1 min 30 s")]
        {
            assert_eq!(it.millis(millis), expected);
        }
        for (seconds, expected) in
            [(0, "0 s"), (290, "4 min 50 s"), (720, "12 min"), (272_100, "75 h 35 min"), (2_592_000, "30 d")]
        {
            assert_eq!(en.span(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn times_are_in_the_readers_zone_and_hovering_shows_the_exact_time() {
        let (en, it) = (formats(Lang::En), formats(Lang::It));
        let at = "2026-11-24T13:02:11.204Z";
        assert_eq!(en.exact(at), "Tue 24 Nov 2026, 14:02:11.204 (Europe/Rome)");
        assert_eq!(it.day_and_clock(at), "mar 24 nov, 14:02:11,204");
        let now = crate::domain::time::Timestamp::parse_rfc3339("2026-11-24T20:00:00Z").unwrap();
        assert_eq!(en.in_list(at, now, true), "14:02:11.204");
        assert_eq!(en.in_list("2026-11-02T13:02:11.204Z", now, true), "2 Nov 14:02");
        assert_eq!(en.time(at, "x").into_string(), format!("<time datetime=\"{at}\" title=\"{}\">x</time>", en.exact(at)));
        assert_eq!(en.exact("yesterday"), "yesterday");
    }
}
