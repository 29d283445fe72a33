//! The strip of an endpoint's health in a list: one small bar per span of time.

use maud::{Markup, html};

/// One span of time.
pub struct Bar {
    pub good: u64,
    /// Failed tries, hatched on top of the bar.
    pub bad: u64,
}

/// The hatching of failed parts. A page needs it once, before its bars.
pub fn pattern() -> Markup {
    html! {
        svg.hatch aria-hidden="true" width="0" height="0" {
            defs { pattern id="hatch" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" { rect.ground width="4" height="4" {} rect.line width="2" height="4" {} } }
        }
    }
}

/// Writes a small bar per span: full if all tries succeeded, hatched from above if tries failed, a stub if nothing was sent.
pub fn show(bars: &[Bar]) -> Markup {
    const HEIGHT: f64 = 20.0;
    html! {
        svg.strip aria-hidden="true" width=(bars.len() * 5) height=(HEIGHT) {
            @for (place, bar) in bars.iter().enumerate() {
                @let x = place * 5;
                @let all = bar.good + bar.bad;
                @if all == 0 { rect.body x=(x) y=(HEIGHT - 2.0) width="4" height="2" {} }
                @else {
                    @let failed = failed_height(bar, HEIGHT);
                    rect.body x=(x) y=(format!("{failed:.1}")) width="4" height=(format!("{:.1}", HEIGHT - failed)) {}
                    @if failed > 0.0 { rect x=(x) y="0" width="4" height=(format!("{failed:.1}")) fill="url(#hatch)" {} }
                }
            }
        }
    }
}

/// Returns the height of the failed part. A failed part that is not zero is always visible.
fn failed_height(bar: &Bar, height: f64) -> f64 {
    let share = bar.bad as f64 / (bar.good + bar.bad).max(1) as f64;
    if bar.bad == 0 { 0.0 } else { (share * height).max(3.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(good: u64, bad: u64) -> Bar {
        Bar { good, bad }
    }

    #[test]
    fn a_failed_part_is_visible_however_small() {
        assert!(failed_height(&bar(1_000_000, 1), 20.0) >= 3.0);
        assert!(failed_height(&bar(5, 0), 20.0) < 0.1);
        assert!((failed_height(&bar(0, 7), 20.0) - 20.0).abs() < 0.1);
    }
}
