//! The strip of an endpoint's health in a list: one small bar per span of time.

use std::fmt::Write as _;

use maud::{Markup, html};

/// One span of time.
pub struct Bar {
    pub good: u64,
    /// Number of failed tries, shown hatched on top of the bar.
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

/// Writes the strip. A bar is full where every try succeeded, is hatched from the top where tries failed, and is a stub where
/// nothing was sent. All bars share two paths, because a list has many strips.
pub fn show(bars: &[Bar]) -> Markup {
    const HEIGHT: f64 = 20.0;
    let (mut bodies, mut failures) = (String::new(), String::new());
    for (place, bar) in bars.iter().enumerate() {
        let x = place * 5;
        let is_empty = bar.good + bar.bad == 0;
        let failed = if is_empty { 0.0 } else { failed_height(bar, HEIGHT) };
        let top = if is_empty { HEIGHT - 2.0 } else { failed };
        write!(bodies, "M{x} {}h4V20h-4z", (top * 10.0).round() / 10.0).expect("writing to a String cannot fail");
        if failed > 0.0 {
            write!(failures, "M{x} 0h4v{}h-4z", (failed * 10.0).round() / 10.0).expect("writing to a String cannot fail");
        }
    }
    html! {
        svg.strip aria-hidden="true" width=(bars.len() * 5) height=(HEIGHT) {
            path.body d=(bodies) {}
            @if !failures.is_empty() { path d=(failures) fill="url(#hatch)" {} }
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
