//! Charts, drawn by the server as SVG. Widths are in percent and heights in pixels, so that a chart fits any width. A bar links to
//! the list of its span. A table shows the same figures, for keyboards and screen readers.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::with_query;
use crate::{
    clock,
    domain::{
        stats::{About, Last, first_bucket},
        time::Timestamp,
    },
    ui::{texts::Formats, visit::Visit},
    wire::{CountsView, StatsView},
};

/// Height of the plot of a chart, in pixels.
const HEIGHT: f64 = 96.0;
/// Height of a plot over a list.
pub const LOW: f64 = 56.0;

/// One span of a chart. If a span has no counts, its values are unknown, and the chart shows a gap, not a zero.
pub struct Slot<'a> {
    pub at: Timestamp,
    pub counts: Option<&'a CountsView>,
}

/// Returns every span of the statistics, oldest first. Unknown spans are included, without counts.
pub fn slots(stats: &StatsView, count: usize) -> Vec<Slot<'_>> {
    let length = i64::try_from(stats.bucket_s * 1000).unwrap_or(i64::MAX).max(1);
    let count = i64::try_from(count).unwrap_or(1);
    let first = first_bucket(clock::wall(), length, count);
    let at = |place: i64| Timestamp::from_millis(first.millis() + place * length);
    let of = |at: Timestamp| {
        stats.buckets.iter().find(|bucket| Timestamp::parse_rfc3339(&bucket.at) == Some(at)).map(|bucket| &bucket.counts)
    };
    (0..count).map(at).map(|at| Slot { at, counts: of(at) }).collect()
}

/// Returns the number of spans of the whole engine's statistics.
pub const fn engine_slots(last: Last) -> usize {
    match last {
        Last::Hour => 60,
        Last::Day => 96,
        Last::Week => 84,
    }
}

/// Returns the number of spans of the statistics of one thing.
pub const fn slots_of(last: Last, about: &About) -> usize {
    match (last, about) {
        (Last::Day, About::Endpoint(_) | About::Plugin(_) | About::Source(_)) => 24,
        _ => engine_slots(last),
    }
}

/// Returns a round number that is at least `largest`: 1, 2 or 5 with zeros.
fn round_top(largest: f64) -> f64 {
    let mut top = 1.0;
    loop {
        for step in [1.0, 2.0, 5.0] {
            if top * step >= largest {
                return top * step;
            }
        }
        top *= 10.0;
    }
}

/// Writes the address of the events of one span, with the other filters of a list's address.
pub fn span_address(list: &str, slot: &Slot<'_>, bucket_s: u64) -> String {
    let until = slot.at.plus(std::time::Duration::from_secs(bucket_s)).to_string();
    let list = ["cursor", "time", "open"].iter().fold(list.to_owned(), |path, name| with_query(&path, name, None));
    with_query(&with_query(&list, "since", Some(&slot.at.to_string())), "until", Some(&until))
}

/// What a chart of bars shows.
pub struct Bars<'a> {
    pub slots: &'a [Slot<'a>],
    pub bucket_s: u64,
    /// Unit, shown after the largest number: `events per 15 min`.
    pub unit: &'a str,
    /// Returns the total count of a span, and how much of it failed.
    pub value: fn(&CountsView) -> (u64, u64),
    /// Describes one bar, from its time, its count and its failures.
    pub say: fn(&str, &str, &str) -> String,
    /// Whether a bar leads to the events of its span.
    pub opens_events: bool,
}

/// Writes the ticks under a chart, with four times.
fn ticks(formats: &Formats, slots: &[Slot<'_>], height: f64) -> Markup {
    let is_long = slots.first().zip(slots.last()).is_some_and(|(first, last)| last.at.since(first.at).as_secs() > 2 * 86_400);
    html! {
        @for place in 0..4_usize {
            @if let Some(slot) = slots.get(place * slots.len() / 4) {
                @let text = slot.at.to_string();
                @let shown = if is_long { formats.day_short(&text) } else { formats.minute(&text) };
                text x=(percent(place as f64 * 25.0)) y=(height + 34.0) { (shown) }
            }
        }
    }
}

/// Rounds to a tenth of a pixel.
fn tenth(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

fn percent(number: f64) -> String {
    format!("{number:.2}%")
}

/// Writes bars for counts. The failed part is on top, hatched.
pub fn bars(visit: &Visit, bars: &Bars<'_>) -> Markup {
    bars_of(visit, bars, HEIGHT, "/events")
}

/// Like [`bars`], with another height of the plot and another list that bars lead to.
pub fn bars_of(visit: &Visit, bars: &Bars<'_>, height: f64, list: &str) -> Markup {
    let formats = visit.formats();
    let values: Vec<(u64, u64)> = bars.slots.iter().map(|slot| slot.counts.map_or((0, 0), bars.value)).collect();
    let largest = values.iter().map(|(all, failed)| (*all).max(*failed)).max().unwrap_or(0);
    let top = round_top(largest as f64);
    let wide = 100.0 / bars.slots.len().max(1) as f64;
    let y = |value: u64| tenth(20.0 + height - height * value as f64 / top);
    let (mut bodies, mut caps) = (String::new(), String::new());
    for (place, (all, _)) in values.iter().enumerate().filter(|(_, (all, _))| *all > 0) {
        let (x, top) = (10 * place + 1, tenth(y(*all) - 20.0));
        write!(bodies, "M{x} {top}h8V{height}h-8z").expect("writing to a String cannot fail");
        write!(caps, "M{x} {top}h8").expect("writing to a String cannot fail");
    }
    html! {
        svg.chart width="100%" height=(height + 42.0) aria-hidden="true" focusable="false" {
            defs { pattern #hatch width="4" height="4" patternUnits="userSpaceOnUse" { rect.fail width="4" height="4" {} path.fail-line d="M0 4 4 0M-1 1 1-1M3 5 5 3" {} } }
            line.hair x1="0" x2="100%" y1="20" y2="20" {}
            line.hair x1="0" x2="100%" y1=(20.0 + height / 2.0) y2=(20.0 + height / 2.0) {}
            @for (place, (slot, (all, failed))) in bars.slots.iter().zip(&values).enumerate() {
                @if slot.counts.is_some() {
                    @let (x, width) = (percent(place as f64 * wide + wide * 0.1), percent(wide * 0.8));
                    @let at = slot.at.to_string();
                    @let body = html! {
                        rect.hit x=(percent(place as f64 * wide)) width=(percent(wide)) y="20" height=(height) {}
                        @if *failed > 0 { rect x=(x) width=(width) y=(y(*all)) height=(tenth((y(0) - y(*failed)).max(2.0).min(y(0) - y(*all)))) fill="url(#hatch)" {} }
                        text.say x="100%" y="12" { ((bars.say)(&formats.minute(&at), &formats.number(*all), &formats.number(*failed))) }
                    };
                    @if bars.opens_events { a tabindex="-1" href=(span_address(list, slot, bars.bucket_s)) { (body) } } @else { g { (body) } }
                }
            }
            // The bodies of all bars are one path, which keeps a page with many bars small. The path is not a link.
            svg.bodies x="0" y="20" width="100%" height=(height) viewBox=(format!("0 0 {} {height}", 10 * values.len().max(1))) preserveAspectRatio="none" {
                path.body d=(bodies) {}
                path.caps d=(caps) {}
            }
            line.base x1="0" x2="100%" y1=(20.0 + height) y2=(20.0 + height) {}
            text.halo x="0" y="12" { (formats.number(top as u64)) " " (bars.unit) }
            @if top >= 2.0 { text.halo x="0" y=(16.0 + height / 2.0) { (formats.decimal(top / 2.0, 1)) } }
            (ticks(&formats, bars.slots, height))
        }
    }
}

/// Writes lines for the median and the 99th percentile, in milliseconds, with gaps for unknown spans.
pub fn lines(visit: &Visit, slots: &[Slot<'_>]) -> Markup {
    let formats = visit.formats();
    let known = |value: fn(&CountsView) -> Option<f64>| slots.iter().map(move |slot| slot.counts.and_then(value));
    let p50: Vec<Option<f64>> = known(|counts| counts.p50_ms).collect();
    let p99: Vec<Option<f64>> = known(|counts| counts.p99_ms).collect();
    let largest = p99.iter().chain(&p50).flatten().fold(0.0_f64, |one, other| one.max(*other));
    let top = round_top(largest);
    let wide = 100.0 / slots.len().max(1) as f64;
    let path = |values: &[Option<f64>]| {
        let mut path = String::new();
        let mut is_on = false;
        for (place, value) in values.iter().enumerate() {
            match value {
                Some(value) => {
                    let (x, y) = (place as f64 * wide, 100.0 - 100.0 * value / top);
                    // A single value between two gaps is drawn as a short line.
                    let start = if is_on { "L" } else { "M" };
                    write!(path, "{start}{x:.2} {y:.2}L{:.2} {y:.2}", x + wide * 0.6).expect("writing to a String cannot fail");
                    is_on = true;
                }
                None => is_on = false,
            }
        }
        path
    };
    html! {
        svg.chart width="100%" height="138" aria-hidden="true" focusable="false" {
            line.hair x1="0" x2="100%" y1="20" y2="20" {}
            line.hair x1="0" x2="100%" y1=(20.0 + HEIGHT / 2.0) y2=(20.0 + HEIGHT / 2.0) {}
            svg x="0" y="20" width="100%" height=(HEIGHT) viewBox="0 0 100 100" preserveAspectRatio="none" {
                path.p50 d=(path(&p50)) {}
                path.p99 d=(path(&p99)) {}
            }
            line.base x1="0" x2="100%" y1=(20.0 + HEIGHT) y2=(20.0 + HEIGHT) {}
            text.halo x="0" y="12" { (formats.millis(top)) }
            text.halo x="0" y=(16.0 + HEIGHT / 2.0) { (formats.millis(top / 2.0)) }
            (ticks(&formats, slots, HEIGHT))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_of_a_chart_is_round_and_at_least_its_largest_value() {
        for (largest, top) in [(0.0, 1.0), (1.0, 1.0), (3.0, 5.0), (7.0, 10.0), (11.0, 20.0), (51_000.0, 100_000.0)] {
            assert_eq!(round_top(largest), top, "{largest}");
        }
    }

    #[test]
    fn unknown_spans_are_gaps_in_their_places() {
        let length = 60_000;
        let now = clock::wall().millis().div_euclid(length) * length;
        let counts = CountsView {
            accepted: 3,
            refused: 0,
            runs: 0,
            runs_failed: 0,
            delivered: 0,
            first_try: 0,
            attempts_failed: 0,
            p50_ms: None,
            p99_ms: None,
        };
        let bucket = crate::wire::BucketView { at: Timestamp::from_millis(now - length).to_string(), counts: counts.clone() };
        let stats = StatsView { last: "1h".into(), bucket_s: 60, total: counts, buckets: vec![bucket] };
        let slots = slots(&stats, 60);
        let known: Vec<usize> =
            slots.iter().enumerate().filter(|(_, slot)| slot.counts.is_some()).map(|(place, _)| place).collect();
        // The minute may change between the two readings of the clock.
        assert!(slots.len() == 60 && (known == [58] || known == [57]), "{known:?}");
    }
}
