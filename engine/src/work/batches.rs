//! What waits to be written, and what goes into the next batch: as many as the store takes in one step, no more bytes than one transaction
//! should have. A batch that fails is tried again by halves, until what breaks it stands alone and everything else has passed.
//!
//! Decisions only: whoever owns it talks to the store.

use std::collections::VecDeque;

use crate::store;

/// Things in one batch.
const COUNT_MAX: usize = 512;
/// Bytes in one batch: what a transaction of the stores takes before it closes.
const BYTES_MAX: usize = 8 << 20;
/// How often one thing fails alone, while others pass, before it is given up.
const TRIES_ALONE: u32 = 3;

/// Things on their way into the store, in their order.
pub struct Batches<T> {
    waiting: VecDeque<Waiting<T>>,
    /// Things in the next batch at most: fewer after a failure, all again after a success.
    count_max: usize,
    /// Batches that have passed.
    passed: u64,
}

struct Waiting<T> {
    thing: T,
    bytes: usize,
    /// How often it has failed alone, and how many batches had passed by then.
    alone: Option<(u32, u64)>,
}

/// Things that go to the store together.
pub struct Batch<T> {
    things: Vec<Waiting<T>>,
}

impl<T> Batch<T> {
    pub fn things(&self) -> impl Iterator<Item = &T> {
        self.things.iter().map(|one| &one.thing)
    }

    pub fn into_things(self) -> impl Iterator<Item = T> {
        self.things.into_iter().map(|one| one.thing)
    }

    /// The same batch of something else.
    pub fn map<U>(self, mut into: impl FnMut(T) -> U) -> Batch<U> {
        let things = self.things.into_iter();
        Batch { things: things.map(|one| Waiting { thing: into(one.thing), bytes: one.bytes, alone: one.alone }).collect() }
    }

    pub fn bytes(&self) -> usize {
        self.things.iter().map(|one| one.bytes).sum()
    }
}

/// Why a batch has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The store answers that this cannot be done.
    Batch,
    /// The store is away, or the batch was too much for it: time will tell.
    Unclear,
    /// The disk is full: nobody's fault, however small the rest is.
    Store,
}

impl Blame {
    pub const fn of(error: &store::Error) -> Self {
        match error {
            store::Error::Full => Self::Store,
            error if error.passes() => Self::Unclear,
            _ => Self::Batch,
        }
    }
}

/// What is to be done after a failure.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    /// Try the next batch at once.
    GoOn,
    /// Try the next batch after a pause.
    Pause,
    /// This one alone is what fails.
    GiveUp(T),
}

impl<T> Default for Batches<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), count_max: COUNT_MAX, passed: 0 }
    }
}

impl<T> Batches<T> {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds what waits behind everything else.
    pub fn push(&mut self, thing: T, bytes: usize) {
        self.waiting.push_back(Waiting { thing, bytes, alone: None });
    }

    /// Puts these before everything else, in their order: what was refused and has been mended.
    pub fn push_first(&mut self, things: Vec<(T, usize)>) {
        for (thing, bytes) in things.into_iter().rev() {
            self.waiting.push_front(Waiting { thing, bytes, alone: None });
        }
    }

    /// The next batch: never empty while something waits. What is larger than a batch may be goes alone, and so does what has failed alone.
    pub fn next(&mut self) -> Batch<T> {
        let mut things: Vec<Waiting<T>> = Vec::new();
        let mut bytes = 0;
        while let Some(first) = self.waiting.front() {
            let fits = things.len() < self.count_max && bytes + first.bytes <= BYTES_MAX && first.alone.is_none();
            if !things.is_empty() && !fits {
                break;
            }
            let alone = first.alone.is_some();
            bytes += first.bytes;
            things.extend(self.waiting.pop_front());
            if alone {
                break;
            }
        }
        Batch { things }
    }

    /// Notes that a batch has passed.
    pub fn note_passed(&mut self) {
        self.passed += 1;
        self.count_max = COUNT_MAX;
    }

    /// Takes a batch back that has failed, and says what to do.
    pub fn take_back(&mut self, mut batch: Batch<T>, blame: Blame) -> Verdict<T> {
        let pause = if blame == Blame::Batch { Verdict::GoOn } else { Verdict::Pause };
        if batch.things.len() != 1 {
            self.count_max = batch.things.len().div_ceil(2).max(1);
            batch.things.into_iter().rev().for_each(|one| self.waiting.push_front(one));
            return pause;
        }
        let mut one = batch.things.pop().expect("it has one");
        let (tries, passed) = one.alone.unwrap_or((0, self.passed));
        // While nothing else passes either, it may well be the store.
        let counts = match blame {
            Blame::Batch => true,
            Blame::Unclear => one.alone.is_some() && self.passed > passed,
            Blame::Store => false,
        };
        let tries = tries + u32::from(counts);
        if tries >= TRIES_ALONE {
            return Verdict::GiveUp(one.thing);
        }
        one.alone = Some((tries, self.passed));
        // Behind the others, so that it holds up none of them.
        self.waiting.push_back(one);
        if self.waiting.len() == 1 { Verdict::Pause } else { pause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(things: impl IntoIterator<Item = (u32, usize)>) -> Batches<u32> {
        let mut batches = Batches::default();
        things.into_iter().for_each(|(thing, bytes)| batches.push(thing, bytes));
        batches
    }

    fn next(batches: &mut Batches<u32>) -> Vec<u32> {
        batches.next().into_things().collect()
    }

    #[test]
    fn a_batch_is_bounded_in_number_and_in_bytes() {
        let mut batches = of((0..1_000).map(|n| (n, 1)));
        assert_eq!((next(&mut batches).len(), next(&mut batches).len()), (COUNT_MAX, 1_000 - COUNT_MAX));
        let third = BYTES_MAX / 3;
        let mut batches = of([(1, third), (2, third), (3, third), (4, third), (5, 10 * BYTES_MAX), (6, 1)]);
        assert_eq!(next(&mut batches), [1, 2, 3]);
        assert_eq!(next(&mut batches), [4]);
        assert_eq!(next(&mut batches), [5], "larger than a batch: alone");
        assert_eq!(next(&mut batches), [6]);
        assert!(batches.is_empty());
    }

    /// Plays a store that refuses every batch in which a bad one is, until nothing waits. Returns what passed, what was given up, and
    /// how many batches it took.
    fn play(things: u32, bad: &[u32], blame: Blame) -> (Vec<u32>, Vec<u32>, usize) {
        let mut batches = of((0..things).map(|n| (n, 1)));
        let (mut passed, mut given_up, mut count) = (Vec::new(), Vec::new(), 0);
        while !batches.is_empty() {
            count += 1;
            assert!(count < 10_000, "it never ends");
            let batch = batches.next();
            if batch.things().any(|one| bad.contains(one)) {
                if let Verdict::GiveUp(one) = batches.take_back(batch, blame) {
                    given_up.push(one);
                }
            } else {
                passed.extend(batch.into_things());
                batches.note_passed();
            }
        }
        (passed, given_up, count)
    }

    #[test]
    fn what_fails_alone_is_given_up_and_all_others_pass() {
        for (things, bad) in [(1, vec![0]), (512, vec![0]), (512, vec![511]), (700, vec![3, 300, 650]), (4, vec![0, 1, 2, 3])] {
            let (mut passed, mut given_up, count) = play(things, &bad, Blame::Batch);
            passed.sort_unstable();
            given_up.sort_unstable();
            assert_eq!(given_up, bad);
            assert_eq!(passed, (0..things).filter(|n| !bad.contains(n)).collect::<Vec<_>>());
            assert!(count <= 30 * bad.len() + 10, "{count} batches for {} bad ones", bad.len());
        }
    }

    #[test]
    fn while_the_store_is_away_nothing_is_given_up_and_the_order_stays() {
        let mut batches = of((0..8).map(|n| (n, 1)));
        for _ in 0..100 {
            let batch = batches.next();
            let alone = batch.things().count() == 1;
            assert_eq!(batches.take_back(batch, Blame::Unclear), Verdict::Pause);
            if alone {
                break;
            }
            assert_eq!(batches.waiting.front().map(|one| one.thing), Some(0), "halves are tried in their order");
        }
        let mut passed = Vec::new();
        while !batches.is_empty() {
            passed.extend(next(&mut batches));
            batches.note_passed();
        }
        passed.sort_unstable();
        assert_eq!(passed, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn whose_fault_it_is_shows_by_whether_others_pass() {
        let alone = |blame, others_pass: bool| {
            let mut batches = of([(1, 1)]);
            for tries in 1..=20 {
                let batch = batches.next();
                if batches.take_back(batch, blame) == Verdict::GiveUp(1) {
                    return Some(tries);
                }
                if others_pass {
                    batches.note_passed();
                }
            }
            None
        };
        assert_eq!(alone(Blame::Batch, false), Some(3));
        assert_eq!(alone(Blame::Unclear, false), None, "the store is away");
        assert_eq!(alone(Blame::Unclear, true), Some(4), "the store is there, for others");
        assert_eq!(alone(Blame::Store, true), None, "a full disk has room for small things longer than for large ones");
    }

    #[test]
    fn what_was_mended_goes_first() {
        let mut batches = of([(3, 1)]);
        batches.push_first(vec![(1, 1), (2, 1)]);
        assert_eq!(next(&mut batches), [1, 2, 3]);
    }
}
