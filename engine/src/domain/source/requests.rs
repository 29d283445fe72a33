//! The requests to a source: counts, and the last refused ones.

use std::{borrow::Cow, net::IpAddr};

use crate::domain::time::Timestamp;

/// Maximum number of refused requests that are stored for one source.
pub const REFUSALS_MAX: usize = 20;

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Wall clock.
    pub at: Timestamp,
    pub address: IpAddr,
    /// A stable word for programs.
    pub reason: Cow<'static, str>,
    /// A sentence for the operator.
    pub detail: String,
}

/// What happened to the requests of one source in a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Includes duplicates.
    pub accepted: u64,
    /// Accepted requests whose event was already known.
    pub duplicates: u64,
    pub refused: u64,
    /// Wall clock.
    pub last_accepted: Option<Timestamp>,
    /// The last refused requests, newest first; at most [`REFUSALS_MAX`].
    pub refusals: Vec<Refused>,
}

impl Requests {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the requests of another period or another node.
    pub fn add(&mut self, other: Self) {
        self.accepted = self.accepted.saturating_add(other.accepted);
        self.duplicates = self.duplicates.saturating_add(other.duplicates);
        self.refused = self.refused.saturating_add(other.refused);
        self.last_accepted = self.last_accepted.max(other.last_accepted);
        self.refusals.splice(0..0, other.refusals);
        // The sort is stable: of two refusals in one millisecond, the one added later stays first.
        self.refusals.sort_by_key(|refused| std::cmp::Reverse(refused.at));
        self.refusals.truncate(REFUSALS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(at: i64, detail: &str) -> Refused {
        let (at, address) = (Timestamp::from_millis(at), IpAddr::from([192, 0, 2, 1]));
        Refused { at, address, reason: "mismatch".into(), detail: detail.to_owned() }
    }

    #[test]
    fn adds_counts_and_keeps_the_newest_refusals() {
        let mut all = Requests { accepted: 2, refused: 1, refusals: vec![refused(5, "a")], ..Requests::default() };
        assert!(!all.is_empty() && Requests::default().is_empty());
        let later = Requests {
            accepted: 1,
            duplicates: 1,
            refused: u64::MAX,
            last_accepted: Some(Timestamp::from_millis(7)),
            refusals: vec![refused(9, "c"), refused(5, "b"), refused(3, "old")],
        };
        all.add(later);
        let details: Vec<_> = all.refusals.iter().map(|one| &*one.detail).collect();
        assert_eq!(details, ["c", "b", "a", "old"]);
        assert_eq!((all.accepted, all.duplicates, all.refused), (3, 1, u64::MAX), "no overflow");
        assert_eq!(all.last_accepted, Some(Timestamp::from_millis(7)));
        for at in 10..40 {
            all.add(Requests { refusals: vec![refused(at, "")], ..Requests::default() });
        }
        assert_eq!((all.refusals.len(), all.refusals[0].at.millis()), (REFUSALS_MAX, 39));
    }
}
