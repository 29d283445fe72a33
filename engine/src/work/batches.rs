//! A batch contains the items of the store's next transaction. The settler and the recorder write in batches. A batch has at most
//! [`COUNT_MAX`] items and, unless one item is larger, [`BYTES_MAX`] bytes. A failed batch is retried by halves, until the faulty
//! item is alone and all others have passed.
//!
//! [`Batches`] decides what is written next. A [`Writer`] talks to the store. [`write_all`] is the loop around both.

use std::{collections::VecDeque, time::Duration};

use tokio::sync::mpsc::UnboundedReceiver;

use crate::store;

/// How long to wait before the next batch after the store has failed.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// Maximum number of items in one batch.
const COUNT_MAX: usize = 512;
/// Maximum number of bytes in one batch. It equals the limit of one transaction in either store.
const BYTES_MAX: usize = 8 << 20;
/// If an item that is alone in its batch has failed this many times, it is given up. [`Batches::take_back`] decides which failures
/// count.
const TRIES_ALONE: u32 = 3;

/// Writes items to the store, a batch at a time.
pub trait Writer: Send {
    type Item: Send;

    /// Returns the size of an item in memory, in bytes.
    fn bytes(item: &Self::Item) -> usize;

    /// Writes the next batch. Puts back the items that must be written again.
    fn step(&mut self, batches: &mut Batches<Self::Item>) -> impl Future<Output = Step> + Send;
}

/// The result of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The store took the batch.
    Committed {
        /// Items that took effect.
        done: usize,
        /// Items that had no effect and are not tried again: their claim was lost or released.
        dropped: usize,
        /// Items that were amended and will be in the next batch.
        amended: usize,
    },
    /// The store failed. The next batch is tried at once.
    Again,
    /// The store failed. The next batch is tried after [`AFTER_FAILURE`].
    Pause,
    /// One item failed several times while it was alone in its batch, and was given up or amended.
    GaveUp,
}

/// Writes everything that comes from `queue`. Ends when all senders of the queue are gone and nothing waits.
pub async fn write_all<W: Writer>(mut writer: W, mut queue: UnboundedReceiver<W::Item>) {
    let mut batches = Batches::default();
    let push = |batches: &mut Batches<W::Item>, item: W::Item| {
        let bytes = W::bytes(&item);
        batches.push(item, bytes);
    };
    loop {
        if batches.is_empty() {
            let Some(first) = queue.recv().await else { return };
            push(&mut batches, first);
        }
        while let Ok(item) = queue.try_recv() {
            push(&mut batches, item);
        }
        if writer.step(&mut batches).await == Step::Pause {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

/// Items that wait to be written, in order.
pub struct Batches<T> {
    waiting: VecDeque<Waiting<T>>,
    /// Maximum number of items in the next batch: lower after a failure, [`COUNT_MAX`] again after a success.
    count_max: usize,
    /// Batches that have passed.
    passed: u64,
}

struct Waiting<T> {
    item: T,
    bytes: usize,
    /// If this item has failed while it was alone in its batch: how many of these failures count, and how many batches had passed
    /// before the last failure.
    alone: Option<(u32, u64)>,
}

/// Items that are written together.
pub struct Batch<T> {
    items: Vec<Waiting<T>>,
}

impl<T> Batch<T> {
    pub fn items(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|one| &one.item)
    }

    pub fn into_items(self) -> impl Iterator<Item = T> {
        self.items.into_iter().map(|one| one.item)
    }

    /// Converts each item. Its size and its count of failures stay the same.
    pub fn map<U>(self, mut into: impl FnMut(T) -> U) -> Batch<U> {
        let items = self.items.into_iter();
        Batch { items: items.map(|one| Waiting { item: into(one.item), bytes: one.bytes, alone: one.alone }).collect() }
    }

    pub fn bytes(&self) -> usize {
        self.items.iter().map(|one| one.bytes).sum()
    }
}

/// Why a batch has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The store refuses the batch.
    Batch,
    /// The store cannot be reached, or the batch was too much for it.
    Unclear,
    /// The disk is full, so no item is at fault.
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

/// The reaction to a failure.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    /// Try the next batch at once.
    GoOn,
    /// Try the next batch after a pause.
    Pause,
    /// This item alone is at fault.
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

    /// Adds an item behind all others.
    pub fn push(&mut self, item: T, bytes: usize) {
        self.waiting.push_back(Waiting { item, bytes, alone: None });
    }

    /// Adds amended items before all others. The amended items stay in their order.
    pub fn push_first(&mut self, items: Vec<(T, usize)>) {
        for (item, bytes) in items.into_iter().rev() {
            self.waiting.push_front(Waiting { item, bytes, alone: None });
        }
    }

    /// Returns the next batch. It is never empty as long as an item waits. An item is alone in its batch if it is larger than a
    /// batch, or if it has already failed while it was alone.
    pub fn next(&mut self) -> Batch<T> {
        let mut items: Vec<Waiting<T>> = Vec::new();
        let mut bytes = 0;
        while let Some(first) = self.waiting.front() {
            let fits = items.len() < self.count_max && bytes + first.bytes <= BYTES_MAX && first.alone.is_none();
            if !items.is_empty() && !fits {
                break;
            }
            let alone = first.alone.is_some();
            bytes += first.bytes;
            items.extend(self.waiting.pop_front());
            if alone {
                break;
            }
        }
        Batch { items }
    }

    /// Records that a batch has passed.
    pub fn note_passed(&mut self) {
        self.passed += 1;
        self.count_max = COUNT_MAX;
    }

    /// Puts a failed batch back, and decides what to do next.
    pub fn take_back(&mut self, mut batch: Batch<T>, blame: Blame) -> Verdict<T> {
        let pause = if blame == Blame::Batch { Verdict::GoOn } else { Verdict::Pause };
        if batch.items.len() != 1 {
            self.count_max = batch.items.len().div_ceil(2).max(1);
            batch.items.into_iter().rev().for_each(|one| self.waiting.push_front(one));
            return pause;
        }
        let mut one = batch.items.pop().expect("it has one item");
        let (tries, passed) = one.alone.unwrap_or((0, self.passed));
        // If the cause is unclear and no other batch has passed since the item's last failure, the store may be at fault.
        let counts = match blame {
            Blame::Batch => true,
            Blame::Unclear => one.alone.is_some() && self.passed > passed,
            Blame::Store => false,
        };
        let tries = tries + u32::from(counts);
        if tries >= TRIES_ALONE {
            return Verdict::GiveUp(one.item);
        }
        one.alone = Some((tries, self.passed));
        // The item goes behind the others, so that it does not delay them.
        self.waiting.push_back(one);
        if self.waiting.len() == 1 { Verdict::Pause } else { pause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(items: impl IntoIterator<Item = (u32, usize)>) -> Batches<u32> {
        let mut batches = Batches::default();
        items.into_iter().for_each(|(item, bytes)| batches.push(item, bytes));
        batches
    }

    fn next(batches: &mut Batches<u32>) -> Vec<u32> {
        batches.next().into_items().collect()
    }

    #[test]
    fn a_batch_is_bounded_in_number_and_in_bytes() {
        let mut batches = of((0..1_000).map(|n| (n, 1)));
        assert_eq!((next(&mut batches).len(), next(&mut batches).len()), (COUNT_MAX, 1_000 - COUNT_MAX));
        let third = BYTES_MAX / 3;
        let mut batches = of([(1, third), (2, third), (3, third), (4, third), (5, 10 * BYTES_MAX), (6, 1)]);
        assert_eq!(next(&mut batches), [1, 2, 3]);
        assert_eq!(next(&mut batches), [4]);
        assert_eq!(next(&mut batches), [5], "an item larger than a batch is alone");
        assert_eq!(next(&mut batches), [6]);
        assert!(batches.is_empty());
    }

    /// Simulates a store that refuses every batch that contains a bad item. Ends when no item waits. Returns the items that passed,
    /// the items that were given up, and the number of batches.
    fn play(items: u32, bad: &[u32], blame: Blame) -> (Vec<u32>, Vec<u32>, usize) {
        let mut batches = of((0..items).map(|n| (n, 1)));
        let (mut passed, mut given_up, mut count) = (Vec::new(), Vec::new(), 0);
        while !batches.is_empty() {
            count += 1;
            assert!(count < 10_000, "it never ends");
            let batch = batches.next();
            if batch.items().any(|one| bad.contains(one)) {
                if let Verdict::GiveUp(one) = batches.take_back(batch, blame) {
                    given_up.push(one);
                }
            } else {
                passed.extend(batch.into_items());
                batches.note_passed();
            }
        }
        (passed, given_up, count)
    }

    #[test]
    fn an_item_that_fails_alone_is_given_up_and_all_others_pass() {
        for (items, bad) in [(1, vec![0]), (512, vec![0]), (512, vec![511]), (700, vec![3, 300, 650]), (4, vec![0, 1, 2, 3])] {
            let (mut passed, mut given_up, count) = play(items, &bad, Blame::Batch);
            passed.sort_unstable();
            given_up.sort_unstable();
            assert_eq!(given_up, bad);
            assert_eq!(passed, (0..items).filter(|n| !bad.contains(n)).collect::<Vec<_>>());
            assert!(count <= 30 * bad.len() + 10, "{count} batches for {} bad ones", bad.len());
        }
    }

    #[test]
    fn nothing_is_given_up_and_the_order_stays_while_the_store_is_unavailable() {
        let mut batches = of((0..8).map(|n| (n, 1)));
        for _ in 0..100 {
            let batch = batches.next();
            let alone = batch.items().count() == 1;
            assert_eq!(batches.take_back(batch, Blame::Unclear), Verdict::Pause);
            if alone {
                break;
            }
            assert_eq!(batches.waiting.front().map(|one| one.item), Some(0), "halves are tried in their order");
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
    fn an_item_is_blamed_only_if_others_pass() {
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
        assert_eq!(alone(Blame::Unclear, false), None, "the store cannot be reached");
        assert_eq!(alone(Blame::Unclear, true), Some(4), "the store works for other items");
        assert_eq!(alone(Blame::Store, true), None, "a full disk has room for small items longer than for large ones");
    }

    #[test]
    fn amended_items_go_first() {
        let mut batches = of([(3, 1)]);
        batches.push_first(vec![(1, 1), (2, 1)]);
        assert_eq!(next(&mut batches), [1, 2, 3]);
    }
}
