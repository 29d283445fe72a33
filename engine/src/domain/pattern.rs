//! Patterns of event types: `order.created`, `order.*`, `*`.

use std::{collections::HashMap, fmt, hash::Hash};

use super::name::{BadName, EventType, Slug};

/// One pattern of event types.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `*`
    All,
    /// `order.*`: everything below `order.`, at any depth. Contains the prefix with its dot.
    Below(String),
    /// `order.created`
    Exactly(String),
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, BadName> {
        if text == "*" {
            return Ok(Self::All);
        }
        let (stem, below) = match text.strip_suffix(".*") {
            Some(stem) => (stem, true),
            None => (text, false),
        };
        if EventType::parse(stem).is_err() {
            return Err(BadName(format!("{text:?} is not an event pattern: write order.created, order.* or *")));
        }
        Ok(if below { Self::Below(format!("{stem}.")) } else { Self::Exactly(stem.to_owned()) })
    }

    pub fn matches(&self, event_type: &str) -> bool {
        match self {
            Self::All => true,
            Self::Below(prefix) => event_type.starts_with(prefix.as_str()),
            Self::Exactly(name) => event_type == name,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Below(prefix) => write!(f, "{prefix}*"),
            Self::Exactly(name) => f.write_str(name),
        }
    }
}

/// Returns the pattern that is most similar to an event type, as a hint in messages when no pattern matches it.
///
/// The work is bounded: it compares at most [`COMPARED_MAX`] patterns, none with a long text.
pub fn nearest<'a>(event_type: &str, patterns: impl IntoIterator<Item = &'a Pattern>) -> Option<&'a Pattern> {
    /// A comparison takes about half a microsecond, so a search ends within about 1 ms.
    const COMPARED_MAX: usize = 2_000;
    if event_type.len() > Slug::LEN_MAX {
        return None;
    }
    let likeness = |pattern: &Pattern| match pattern {
        Pattern::All => 0.0,
        Pattern::Exactly(name) if name.len() <= Slug::LEN_MAX => strsim::jaro_winkler(event_type, name),
        // Only the part before the `*` can be mistyped.
        Pattern::Below(prefix) if prefix.len() <= Slug::LEN_MAX => {
            let head = event_type.match_indices('.').nth(prefix.matches('.').count() - 1);
            let head = head.map_or(event_type, |(dot, _)| &event_type[..dot]);
            strsim::jaro_winkler(head, prefix.trim_end_matches('.'))
        }
        Pattern::Exactly(_) | Pattern::Below(_) => 0.0,
    };
    patterns
        .into_iter()
        .take(COMPARED_MAX)
        .map(|pattern| (likeness(pattern), pattern))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|(one, _), (two, _)| one.total_cmp(two))
        .map(|(_, pattern)| pattern)
}

/// Subscribers by pattern. The cost of a look-up depends on the number of dots in the event type, not on the number of patterns.
#[derive(Clone, Debug)]
pub struct PatternIndex<T> {
    all: Vec<T>,
    below: HashMap<String, Vec<T>>,
    exactly: HashMap<String, Vec<T>>,
}

impl<T> Default for PatternIndex<T> {
    fn default() -> Self {
        Self { all: Vec::new(), below: HashMap::new(), exactly: HashMap::new() }
    }
}

impl<T: Copy + Ord> PatternIndex<T> {
    pub fn insert(&mut self, pattern: &Pattern, who: T) {
        match pattern {
            Pattern::All => self.all.push(who),
            Pattern::Below(prefix) => self.below.entry(prefix.clone()).or_default().push(who),
            Pattern::Exactly(name) => self.exactly.entry(name.clone()).or_default().push(who),
        }
    }

    /// Returns every subscriber of this type once, sorted.
    pub fn matching(&self, event_type: &str) -> Vec<T> {
        let mut found = self.all.clone();
        if !self.below.is_empty() {
            for (dot, _) in event_type.match_indices('.') {
                found.extend(self.below.get(&event_type[..=dot]).into_iter().flatten());
            }
        }
        found.extend(self.exactly.get(event_type).into_iter().flatten());
        found.sort_unstable();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_their_types() {
        let cases = [
            ("*", "anything.at.all", true),
            ("order.*", "order.created", true),
            ("order.*", "order.line.added", true),
            ("order.*", "order", false),
            ("order.*", "orders.created", false),
            ("order.created", "order.created", true),
            ("order.created", "order.created.late", false),
        ];
        for (pattern, event_type, expected) in cases {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(event_type), expected, "{pattern} on {event_type}");
        }
        for bad in ["", "order.*.x", "*.created", "or der", "order*"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mistyped_type_has_a_nearest_pattern() {
        let patterns: Vec<Pattern> =
            ["*", "order.created", "order.line.*", "invoice.*"].map(|text| Pattern::parse(text).unwrap()).into();
        for (event_type, expected) in [
            ("ordr.created", Some("order.created")),
            ("order.crated", Some("order.created")),
            ("order.lines.added", Some("order.line.*")),
            ("invoce.paid.late", Some("invoice.*")),
            ("invoice", Some("invoice.*")),
            ("weather", None),
            (&"order.created".repeat(5), None),
        ] {
            assert_eq!(nearest(event_type, &patterns).map(ToString::to_string).as_deref(), expected, "{event_type}");
        }
        assert_eq!(nearest("order.created", &[Pattern::Exactly("order.created".repeat(20))]), None);
    }

    proptest! {
        /// The index gives the same result as checking every pattern.
        #[test]
        fn the_index_finds_exactly_the_matching_subscribers(
            patterns in prop::collection::vec("(\\*|[ab](\\.[ab]){0,2}(\\.\\*)?)", 0..20),
            event_type in "[ab](\\.[ab]){0,3}",
        ) {
            let patterns: Vec<Pattern> = patterns.iter().map(|text| Pattern::parse(text).unwrap()).collect();
            let mut index = PatternIndex::default();
            for (place, pattern) in patterns.iter().enumerate() {
                index.insert(pattern, place);
            }
            let expected: Vec<usize> = (0..patterns.len()).filter(|place| patterns[*place].matches(&event_type)).collect();
            prop_assert_eq!(index.matching(&event_type), expected);
        }
    }
}
