//! Ids: 64-bit numbers inside the engine, opaque text for users and programs.
//!
//! An event has a sequence number. The ids of its runs and deliveries carry that number in their upper bits, and the id of an
//! attempt carries the id of its delivery. So the children of a parent have one range of row ids and need no foreign-key index.
//! As text, an id is a prefix, the store's tag and the number (`evt_k7q22a9`). Each store has a random tag, and a restore
//! replaces it, so that no id is issued twice. Texts with the same tag sort like their numbers.

use std::fmt;

use super::digits;

/// Bits for the number of a run, or of a delivery, within its event. The SQL of the stores contains this constant and the next
/// one as literals.
pub const CHILD_BITS: u32 = 14;
/// Bits for the number of an attempt within its delivery.
pub const ATTEMPT_BITS: u32 = 8;

/// Maximum number of deliveries of one event over all its rounds, and maximum number of its runs.
pub const CHILDREN_MAX: u32 = 1 << CHILD_BITS;
/// Maximum number of attempts of one delivery, including manual ones.
pub const ATTEMPTS_MAX: u32 = (1 << ATTEMPT_BITS) - 1;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(i64);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// Creates an id from a number that a store issued.
            pub const fn from_i64(number: i64) -> Self {
                Self(number)
            }

            pub const fn as_i64(self) -> i64 {
                self.0
            }

            /// Returns the text for users and programs.
            pub fn text(self, tag: Tag) -> String {
                tag.write(Self::PREFIX, self.0)
            }

            /// Reads the output of [`Self::text`]. Returns `None` for an id of another kind, or of another store.
            pub fn parse(text: &str, tag: Tag) -> Option<Self> {
                tag.read(Self::PREFIX, text).map(Self)
            }
        }
    };
}

id!(
    /// An accepted event.
    EventId, "evt"
);
id!(
    /// A run of one plugin on one event.
    RunId, "run"
);
id!(
    /// A delivery: one webhook to one endpoint. Its text is the `webhook-id` of every attempt.
    DeliveryId, "dlv"
);
id!(
    /// A scheduled event. This id is never shown as text: once the event has become due, another scheduled event may get the same
    /// id.
    ScheduledId, "sch"
);
id!(
    /// An attempt of a delivery.
    AttemptId, "att"
);
id!(
    /// An endpoint.
    EndpointId, "ep"
);
id!(
    /// A source.
    SourceId, "src"
);
id!(
    /// An API key.
    KeyId, "key"
);
id!(
    /// A background job.
    JobId, "job"
);
id!(
    /// A comparison of two versions of a plugin.
    ComparisonId, "cmp"
);
id!(
    /// An entry of the audit trail.
    AuditId, "aud"
);

impl EventId {
    /// Returns the `k`-th delivery of this event.
    pub fn delivery(self, k: u32) -> DeliveryId {
        debug_assert!(k < CHILDREN_MAX);
        DeliveryId(self.0 << CHILD_BITS | i64::from(k))
    }

    /// Returns the `k`-th run of this event.
    pub fn run(self, k: u32) -> RunId {
        debug_assert!(k < CHILDREN_MAX);
        RunId(self.0 << CHILD_BITS | i64::from(k))
    }

    /// Returns the `k`-th event that a run of this event scheduled.
    pub fn scheduled(self, k: u32) -> ScheduledId {
        debug_assert!(k < CHILDREN_MAX);
        ScheduledId(self.0 << CHILD_BITS | i64::from(k))
    }

    /// Returns the range of row ids that the runs of this event have. Its deliveries and the events that it scheduled have ids in
    /// the same range.
    pub const fn children(self) -> (i64, i64) {
        (self.0 << CHILD_BITS, (self.0 + 1) << CHILD_BITS)
    }

    /// Returns the range of row ids that the attempts of all deliveries of this event have.
    pub const fn attempts(self) -> (i64, i64) {
        let (from, until) = self.children();
        (from << ATTEMPT_BITS, until << ATTEMPT_BITS)
    }
}

impl RunId {
    pub const fn event(self) -> EventId {
        EventId(self.0 >> CHILD_BITS)
    }

    /// Returns the number of this run within its event.
    pub const fn k(self) -> u32 {
        (self.0 & (CHILDREN_MAX as i64 - 1)) as u32
    }
}

impl ScheduledId {
    /// Returns the event whose run scheduled it.
    pub const fn cause(self) -> EventId {
        EventId(self.0 >> CHILD_BITS)
    }

    /// Returns the number of this event among all events that its cause scheduled.
    pub const fn k(self) -> u32 {
        (self.0 & (CHILDREN_MAX as i64 - 1)) as u32
    }
}

impl DeliveryId {
    pub const fn event(self) -> EventId {
        EventId(self.0 >> CHILD_BITS)
    }

    /// Returns the number of this delivery within its event.
    pub const fn k(self) -> u32 {
        (self.0 & (CHILDREN_MAX as i64 - 1)) as u32
    }

    /// Returns the `n`-th attempt, counted from 1.
    pub fn attempt(self, n: u32) -> AttemptId {
        debug_assert!((1..=ATTEMPTS_MAX).contains(&n));
        AttemptId(self.0 << ATTEMPT_BITS | i64::from(n))
    }

    /// Returns the range of row ids of this delivery's attempts.
    pub const fn attempts(self) -> (i64, i64) {
        (self.0 << ATTEMPT_BITS, (self.0 + 1) << ATTEMPT_BITS)
    }
}

impl AttemptId {
    pub const fn delivery(self) -> DeliveryId {
        DeliveryId(self.0 >> ATTEMPT_BITS)
    }

    /// Returns the number of this attempt within its delivery, counted from 1.
    pub const fn n(self) -> u32 {
        (self.0 & ATTEMPTS_MAX as i64) as u32
    }
}

/// Distinguishes the ids of one store from those of another: four random digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag([u8; Tag::LEN]);

impl Tag {
    const LEN: usize = 4;

    /// Creates a tag from random bytes.
    pub fn from_random(random: [u8; 4]) -> Self {
        Self(random.map(|byte| digits::ALPHABET[usize::from(byte % 32)]))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; Self::LEN] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(|byte| digits::ALPHABET.contains(byte)).then_some(Self(bytes))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the alphabet is ASCII")
    }

    fn write(self, prefix: &str, number: i64) -> String {
        let number = u64::try_from(number).expect("ids are never negative");
        let mut text = String::with_capacity(prefix.len() + 2 + Self::LEN + 13);
        text.push_str(prefix);
        text.push('_');
        text.push_str(self.as_str());
        digits::push_ordered(&mut text, number);
        text
    }

    fn read(self, prefix: &str, text: &str) -> Option<i64> {
        let rest = text.strip_prefix(prefix)?.strip_prefix('_')?.strip_prefix(self.as_str())?;
        i64::try_from(digits::parse_ordered(rest)?).ok()
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag() -> Tag {
        Tag::from_random([1, 77, 200, 9])
    }

    #[test]
    fn children_are_in_their_parents_range() {
        let event = EventId::from_i64(7);
        let delivery = event.delivery(CHILDREN_MAX - 1);
        let (from, until) = event.children();
        assert!((from..until).contains(&delivery.as_i64()));
        assert!(!(from..until).contains(&EventId::from_i64(8).delivery(0).as_i64()));
        assert_eq!((delivery.event(), delivery.k()), (event, CHILDREN_MAX - 1));

        let attempt = delivery.attempt(ATTEMPTS_MAX);
        assert_eq!((attempt.delivery(), attempt.n()), (delivery, ATTEMPTS_MAX));
        let (from, until) = event.attempts();
        assert!((from..until).contains(&attempt.as_i64()));
    }

    #[test]
    fn refuses_ids_of_another_store() {
        let text = EventId::from_i64(41).text(tag());
        assert_eq!(EventId::parse(&text, tag()), Some(EventId::from_i64(41)));
        assert_eq!(EventId::parse(&text, Tag::from_random([2, 77, 200, 9])), None);
        assert_eq!(DeliveryId::parse(&text, tag()), None);
        for broken in ["", "evt_", "evt_!!!!", "41", &format!("{text}0"), &text[..text.len() - 1]] {
            assert_eq!(EventId::parse(broken, tag()), None, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn text_sorts_like_the_numbers(a in 0i64.., b in 0i64..) {
            let (one, two) = (EventId::from_i64(a), EventId::from_i64(b));
            prop_assert_eq!(one.text(tag()).cmp(&two.text(tag())), a.cmp(&b));
            prop_assert_eq!(EventId::parse(&one.text(tag()), tag()), Some(one));
        }
    }
}
