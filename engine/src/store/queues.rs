//! Bounded, fair queues in memory, one per key. Workers take items from the queues in rotation, one at a time.
//!
//! A queue never holds more than its limits allow. All queues together never hold more than the shared limits allow, with one
//! exception: each queue may hold a few items even when the shared limits are used up. So a thousand dead receivers cannot take the
//! last slot from a healthy receiver. A further limit in bytes bounds all queues together, including these few items.
//!
//! The store reserves a [`Slot`] before it commits the item that will be handed over. The slot becomes free when the item is
//! finished. An item without a slot stays in the store, and its queue records that. Until the queue has room again, new items also
//! go to the store, behind the waiting ones.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::Notify;

/// Limits for the items in the queues. Items that a worker is processing count, too.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Items in one queue, including those in progress.
    pub queue_count: usize,
    /// Bytes in one queue.
    pub queue_bytes: usize,
    /// Items in all queues.
    pub total_count: usize,
    /// Bytes in all queues.
    pub total_bytes: usize,
    /// Items that each queue may hold even if the shared limits are used up. [`Self::bytes_max`] still applies.
    pub queue_count_min: usize,
    /// Bytes in all queues, including the items that are held beyond the shared limits. This bounds the memory. An item that is
    /// larger than this limit is let in if it is alone.
    pub bytes_max: usize,
    /// Width of a queue for which no width was set.
    pub width: Width,
}

/// How many items of one queue may be in memory and in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    /// Maximum number of items in progress.
    pub concurrency: usize,
    /// Maximum number of items in memory, within the queue's limit. With 0, all items of the queue stay in the store.
    pub slots: usize,
}

impl Width {
    /// No item may start.
    pub const CLOSED: Self = Self { concurrency: 0, slots: 0 };
    /// The queue is as wide as the limits allow.
    pub const OPEN: Self = Self { concurrency: usize::MAX, slots: usize::MAX };
    /// One item at a time.
    pub const SINGLE: Self = Self { concurrency: 1, slots: usize::MAX };
}

/// Queues of `T`, one per `K`.
pub struct Queues<K: Eq + Hash, T> {
    limits: QueueLimits,
    inner: Mutex<Inner<K, T>>,
    ready: Notify,
    /// Notified when a queue has room again for items that had to stay in the store.
    room: Arc<Notify>,
}

struct Inner<K, T> {
    queues: HashMap<K, Queue<T>>,
    /// Widths that were set. They stay while a queue is empty.
    widths: HashMap<K, Width>,
    /// Queues with a waiting item that may start, in the order in which workers take from them.
    offered: VecDeque<K>,
    count: usize,
    bytes: usize,
    /// Whether an item got no slot because the shared limits were used up.
    exhausted: bool,
}

struct Queue<T> {
    waiting: VecDeque<T>,
    count: usize,
    bytes: usize,
    working: usize,
    width: Width,
    is_offered: bool,
    /// Whether an item has found no slot since the queue last had room. Such an item waits in the store.
    overflowed: bool,
}

impl<K: Eq + Hash + Clone + Debug, T> Queues<K, T> {
    pub fn new(limits: QueueLimits, room: Arc<Notify>) -> Arc<Self> {
        let inner = Inner {
            queues: HashMap::new(),
            widths: HashMap::new(),
            offered: VecDeque::new(),
            count: 0,
            bytes: 0,
            exhausted: false,
        };
        Arc::new(Self { limits, inner: Mutex::new(inner), ready: Notify::new(), room })
    }

    /// Reserves a slot for a new item of `bytes`. Returns `None` if no slot is free, or if other items of its queue already wait
    /// in the store for room. The new item must then wait in the store behind them.
    pub fn reserve(self: &Arc<Self>, key: &K, bytes: usize) -> Option<Slot<K, T>> {
        self.try_reserve(key, bytes, false)
    }

    /// Reserves a slot for an item that waits in the store.
    pub fn reserve_for_stored(self: &Arc<Self>, key: &K, bytes: usize) -> Option<Slot<K, T>> {
        self.try_reserve(key, bytes, true)
    }

    fn try_reserve(self: &Arc<Self>, key: &K, bytes: usize, stored: bool) -> Option<Slot<K, T>> {
        let mut inner = self.lock();
        let (count, total_bytes) = (inner.count, inner.bytes);
        let limits = &self.limits;
        let queue = inner.queue(key, limits);
        let slots = queue.slots(limits);
        let own = queue.count < slots && queue.bytes + bytes <= limits.queue_bytes;
        let shared = count < limits.total_count && total_bytes + bytes <= limits.total_bytes;
        // An item that is larger than the queue's byte limit is let in when the queue is otherwise empty.
        let alone = queue.count == 0 && slots > 0;
        let possible = total_bytes == 0 || total_bytes + bytes <= limits.bytes_max;
        let first = queue.count < limits.queue_count_min && (own || alone);
        let fits = possible && (first || own && shared);
        if fits && (stored || !queue.overflowed) {
            queue.count += 1;
            queue.bytes += bytes;
            inner.count += 1;
            inner.bytes += bytes;
            return Some(Slot { queues: Arc::clone(self), key: key.clone(), bytes });
        }
        queue.overflowed = true;
        inner.exhausted |= first && !possible;
        None
    }

    /// Returns how many of the items that wait in the store would find a slot. If the result is 0, `room` is notified once the
    /// queue has room.
    pub fn room_for_stored(&self, key: &K) -> usize {
        let mut inner = self.lock();
        let limits = &self.limits;
        let possible = inner.bytes < limits.bytes_max;
        let shared = if inner.bytes < limits.total_bytes { limits.total_count.saturating_sub(inner.count) } else { 0 };
        let queue = inner.queue(key, limits);
        let slots = queue.slots(limits);
        let own = if queue.count == 0 || queue.bytes < limits.queue_bytes { slots.saturating_sub(queue.count) } else { 0 };
        let first = if possible { limits.queue_count_min.saturating_sub(queue.count) } else { 0 };
        let room = own.min(shared.max(first));
        if room == 0 {
            queue.overflowed = true;
            inner.exhausted |= !possible;
        }
        inner.offer(key);
        room
    }

    #[cfg(test)]
    fn push(&self, key: &K, item: T) {
        self.push_all([(key.clone(), item)]);
    }

    /// Queues items for which slots were reserved, in one step: the worker that takes the first item also sees the others.
    pub fn push_all(&self, items: impl IntoIterator<Item = (K, T)>) {
        let mut inner = self.lock();
        for (key, item) in items {
            inner.queue(&key, &self.limits).waiting.push_back(item);
            inner.offer(&key);
        }
        drop(inner);
        self.ready.notify_last();
    }

    /// Waits for the next item of a queue that may start an item. The item counts as in progress until the [`Permit`] is dropped.
    pub async fn next(self: &Arc<Self>) -> (T, Permit<K, T>) {
        loop {
            // The waiter is registered before it looks for an item, so that it misses no push in between.
            let ready = self.ready.notified();
            if let Some(taken) = self.try_next() {
                return taken;
            }
            ready.await;
        }
    }

    fn try_next(self: &Arc<Self>) -> Option<(T, Permit<K, T>)> {
        let mut inner = self.lock();
        let key = loop {
            let key = inner.offered.pop_front()?;
            let queue = inner.queues.get_mut(&key).expect("an offered queue exists");
            queue.is_offered = false;
            // The queue may have become narrower since it was offered.
            if queue.working < queue.width.concurrency {
                break key;
            }
        };
        let queue = inner.queues.get_mut(&key).expect("an offered queue exists");
        let item = queue.waiting.pop_front().expect("an offered queue has a waiting item");
        queue.working += 1;
        inner.offer(&key);
        let more = !inner.offered.is_empty();
        drop(inner);
        if more {
            self.ready.notify_last();
        }
        Some((item, Permit { queues: Arc::clone(self), key }))
    }

    /// Takes one more item of the queue of `permit`, under the same permit.
    pub fn more(&self, permit: &Permit<K, T>) -> Option<T> {
        let mut inner = self.lock();
        let queue = inner.queues.get_mut(&permit.key)?;
        // A queue that is offered to workers keeps one item, because the worker that takes the offer relies on that item.
        let keep = usize::from(queue.is_offered);
        (queue.waiting.len() > keep).then(|| queue.waiting.pop_front()).flatten()
    }

    /// Removes and returns those waiting items of a queue for which `matches` returns true.
    pub fn withdraw(&self, key: &K, mut matches: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut inner = self.lock();
        let Some(queue) = inner.queues.get_mut(key) else { return Vec::new() };
        let (taken, kept): (Vec<_>, Vec<_>) = queue.waiting.drain(..).partition(|item| matches(item));
        queue.waiting = kept.into();
        if queue.is_offered && queue.waiting.is_empty() {
            queue.is_offered = false;
            inner.offered.retain(|one| one != key);
        }
        inner.offer(key);
        taken
    }

    /// Sets the width of a queue; `None` resets it to the common width.
    pub fn set_width(&self, key: &K, width: Option<Width>) {
        let mut inner = self.lock();
        let before = match width {
            Some(width) => inner.widths.insert(key.clone(), width),
            None => inner.widths.remove(key),
        };
        if before == width {
            return;
        }
        let limits = &self.limits;
        let room = inner.queues.get_mut(key).is_some_and(|queue| {
            queue.width = width.unwrap_or(limits.width);
            queue.has_room_again(limits)
        });
        inner.offer(key);
        drop(inner);
        self.ready.notify_last();
        if room {
            self.room.notify_one();
        }
    }

    /// Returns the number of items in the queues, including those in progress.
    pub fn len(&self) -> usize {
        self.lock().count
    }

    /// Returns the items and the bytes in the queues, and the limit in bytes.
    pub fn occupancy(&self) -> (usize, usize, usize) {
        let inner = self.lock();
        (inner.count, inner.bytes, self.limits.total_bytes)
    }

    /// Returns how many items of one queue are in progress, and how many wait for their turn.
    pub fn load_of(&self, key: &K) -> (usize, usize) {
        self.lock().queues.get(key).map_or((0, 0), |queue| (queue.working, queue.waiting.len()))
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, T>> {
        self.inner.lock().expect("no code panics while it holds the queues")
    }
}

impl<K: Eq + Hash + Clone, T> Inner<K, T> {
    fn queue(&mut self, key: &K, limits: &QueueLimits) -> &mut Queue<T> {
        let widths = &self.widths;
        self.queues.entry(key.clone()).or_insert_with(|| Queue::new(widths.get(key).copied().unwrap_or(limits.width)))
    }

    /// Offers a queue to the workers if it may start an item, and removes it when it is empty.
    fn offer(&mut self, key: &K) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        if !queue.is_offered && !queue.waiting.is_empty() && queue.working < queue.width.concurrency {
            queue.is_offered = true;
            self.offered.push_back(key.clone());
        }
        if queue.count == 0 && queue.working == 0 && queue.waiting.is_empty() && !queue.overflowed {
            self.queues.remove(key);
        }
    }
}

impl<T> Queue<T> {
    fn new(width: Width) -> Self {
        Self { waiting: VecDeque::new(), count: 0, bytes: 0, working: 0, width, is_offered: false, overflowed: false }
    }

    fn slots(&self, limits: &QueueLimits) -> usize {
        self.width.slots.min(limits.queue_count)
    }

    /// Returns whether the claimer should now claim the items that wait in the store. It should do so once the queue is half empty,
    /// not at the first free slot, so that one claim fetches many items.
    fn has_room_again(&mut self, limits: &QueueLimits) -> bool {
        let slots = self.slots(limits);
        let room = self.overflowed && slots > 0 && self.count <= slots / 2 && self.bytes <= limits.queue_bytes / 2;
        if room {
            self.overflowed = false;
        }
        room
    }
}

/// A reserved slot. Dropping it gives the slot back.
pub struct Slot<K: Eq + Hash + Clone + Debug, T> {
    queues: Arc<Queues<K, T>>,
    key: K,
    bytes: usize,
}

impl<K: Eq + Hash + Clone + Debug, T> Drop for Slot<K, T> {
    fn drop(&mut self) {
        let mut inner = self.queues.lock();
        inner.count -= 1;
        inner.bytes -= self.bytes;
        let queue = inner.queues.get_mut(&self.key).expect("a queue lives as long as its slots are taken");
        queue.count -= 1;
        queue.bytes -= self.bytes;
        let mut room = queue.has_room_again(&self.queues.limits);
        // A queue whose items are all in the store has no slot to give back, so it could never send a notification. Therefore the
        // next slot that any queue gives back sends the notification for it.
        if inner.exhausted && inner.bytes <= self.queues.limits.total_bytes {
            inner.exhausted = false;
            room = true;
        }
        inner.offer(&self.key);
        drop(inner);
        if room {
            self.queues.room.notify_one();
        }
    }
}

/// The right to process an item. Dropping this lets the queue start another item.
pub struct Permit<K: Eq + Hash + Clone + Debug, T> {
    queues: Arc<Queues<K, T>>,
    key: K,
}

impl<K: Eq + Hash + Clone + Debug, T> Drop for Permit<K, T> {
    fn drop(&mut self) {
        let mut inner = self.queues.lock();
        if let Some(queue) = inner.queues.get_mut(&self.key) {
            queue.working -= 1;
        }
        inner.offer(&self.key);
        let more = !inner.offered.is_empty();
        drop(inner);
        if more {
            self.queues.ready.notify_last();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(limits: QueueLimits) -> (Arc<Queues<&'static str, u32>>, Arc<Notify>) {
        let room = Arc::new(Notify::new());
        (Queues::new(limits, Arc::clone(&room)), room)
    }

    const LIMITS: QueueLimits = QueueLimits {
        queue_count: 4,
        queue_bytes: 100,
        total_count: 6,
        total_bytes: 1000,
        queue_count_min: 1,
        bytes_max: 6_000,
        width: Width { concurrency: 2, ..Width::OPEN },
    };

    #[test]
    fn a_new_queue_gets_a_slot_although_the_shared_limit_is_used_up() {
        let (queues, _room) = queues(LIMITS);
        let taken: Vec<_> = ["a", "a", "a", "a", "b", "b"].iter().map(|key| queues.reserve(key, 1).unwrap()).collect();
        assert!(queues.reserve(&"a", 1).is_none(), "the queue is full");
        assert!(queues.reserve(&"b", 1).is_none(), "the shared limit is used up");
        let guaranteed = queues.reserve(&"c", 1).expect("the first slot of a queue is guaranteed");
        assert!(queues.reserve(&"c", 1).is_none());
        assert_eq!(queues.len(), 7);
        drop((taken, guaranteed));
        assert!(queues.is_empty());
    }

    #[tokio::test]
    async fn all_queues_together_have_a_limit_in_bytes() {
        let (queues, room) = queues(QueueLimits { queue_bytes: 500, bytes_max: 1_200, ..LIMITS });
        let mut taken: Vec<_> = ["a", "b"].iter().map(|key| queues.reserve(key, 500).unwrap()).collect();
        taken.push(queues.reserve(&"c", 200).expect("the first slot of a queue is beyond the shared limit"));
        assert!(queues.reserve(&"d", 1).is_none(), "but bytes have a limit");
        assert_eq!(queues.room_for_stored(&"d"), 0);
        assert_eq!(queues.occupancy().1, 1_200);
        let announced = room.notified();
        tokio::pin!(announced);
        assert!(futures_poll(announced.as_mut()).is_pending());
        drop(taken.pop());
        announced.await;
        assert!(queues.reserve_for_stored(&"d", 1).is_some(), "a queue that held nothing is notified of the room");
        drop(taken);
        let huge = queues.reserve(&"e", 5_000).expect("larger than the limit: alone");
        assert!(queues.reserve(&"f", 1).is_none());
        drop(huge);
    }

    #[test]
    fn an_item_larger_than_the_queue_passes_alone() {
        let (queues, _room) = queues(LIMITS);
        let large = queues.reserve(&"a", 5_000).expect("alone in its queue");
        assert!(queues.reserve(&"a", 1).is_none());
        drop(large);
        assert!(queues.reserve(&"a", 1).is_some());
    }

    #[tokio::test]
    async fn queues_alternate_and_respect_their_concurrency() {
        let (queues, _room) = queues(LIMITS);
        for (key, item) in [("a", 1), ("a", 2), ("a", 3), ("b", 10)] {
            queues.push(&key, item);
        }
        let mut permits = Vec::new();
        let mut taken = Vec::new();
        while let Some((item, permit)) = queues.try_next() {
            taken.push(item);
            permits.push(permit);
        }
        assert_eq!(taken, [1, 10, 2], "b does not wait behind a, and two items of a are in progress");
        permits.clear();
        assert_eq!(queues.next().await.0, 3);
    }

    #[tokio::test]
    async fn room_is_announced_once_half_of_the_queue_is_free() {
        let (queues, room) = queues(LIMITS);
        let mut taken: Vec<_> = (0..4).map(|_| queues.reserve(&"a", 1).unwrap()).collect();
        assert!(queues.reserve(&"a", 1).is_none());
        taken.pop();
        let announced = room.notified();
        tokio::pin!(announced);
        assert!(futures_poll(announced.as_mut()).is_pending());
        taken.pop();
        announced.await;
    }

    #[tokio::test]
    async fn a_closed_queue_starts_nothing_and_accepts_nothing_until_it_is_opened() {
        let (queues, room) = queues(LIMITS);
        for item in [1, 2, 3] {
            queues.push(&"a", item);
        }
        let (first, _permit) = queues.try_next().unwrap();
        assert_eq!(first, 1);
        queues.set_width(&"a", Some(Width::CLOSED));
        assert!(queues.try_next().is_none(), "a closed queue starts nothing, although it was offered before");
        assert!(queues.reserve(&"a", 1).is_none());
        assert_eq!(queues.room_for_stored(&"a"), 0);
        assert_eq!(queues.withdraw(&"a", |_| true), [2, 3]);
        let announced = room.notified();
        queues.set_width(&"a", Some(Width { concurrency: 1, slots: 1 }));
        announced.await;
        assert_eq!(queues.room_for_stored(&"a"), 1);
        let probe = queues.reserve_for_stored(&"a", 1).unwrap();
        assert_eq!(queues.room_for_stored(&"a"), 0, "the item takes the only slot");
        drop(probe);
        queues.set_width(&"a", None);
        assert_eq!(queues.room_for_stored(&"a"), 4);
    }

    #[test]
    fn withdrawn_items_lose_their_slots() {
        let (queues, _room) = queues(LIMITS);
        for (key, item) in [("a", 1), ("a", 2), ("b", 10)] {
            queues.push(&key, item);
        }
        assert_eq!(queues.withdraw(&"a", |item| *item == 1), [1]);
        assert_eq!(queues.withdraw(&"b", |_| true), [10], "a queue without a waiting item is no longer offered");
        assert!(queues.withdraw(&"c", |_| true).is_empty());
        assert_eq!(queues.try_next().map(|(item, _)| item), Some(2));
        assert!(queues.try_next().is_none());
        assert!(queues.lock().queues.is_empty(), "empty queues are forgotten");
    }

    #[test]
    fn new_items_wait_behind_those_in_the_store() {
        let (queues, _room) = queues(LIMITS);
        let mut taken: Vec<_> = (0..4).map(|_| queues.reserve(&"a", 1).unwrap()).collect();
        assert!(queues.reserve(&"a", 1).is_none());
        taken.pop();
        assert!(queues.reserve(&"a", 1).is_none(), "the free slot is for the item in the store");
        taken.push(queues.reserve_for_stored(&"a", 1).expect("the stored item takes it"));
        taken.truncate(2);
        assert!(queues.reserve(&"a", 1).is_some(), "once there is room again, new items take part");
    }

    #[test]
    fn more_leaves_one_item_for_a_second_worker() {
        let (queues, _room) = queues(LIMITS);
        for item in 0..5 {
            queues.push(&"a", item);
        }
        let (first, permit) = queues.try_next().unwrap();
        assert_eq!((first, queues.more(&permit), queues.more(&permit)), (0, Some(1), Some(2)));
        assert_eq!((queues.more(&permit), queues.more(&permit)), (Some(3), None), "the queue is offered to a second worker");
        let (second, other) = queues.try_next().unwrap();
        assert_eq!((second, queues.more(&other)), (4, None));
        queues.push(&"a", 5);
        assert!(queues.try_next().is_none(), "both permits are in use");
        assert_eq!(queues.more(&other), Some(5));
        drop((permit, other));
        assert!(queues.lock().queues.is_empty());
    }

    /// An item that holds its slot, as claims do.
    struct Placed {
        _place: Slot<u32, Placed>,
        round: usize,
        /// If true, the worker that takes this item stays busy until the round is over, and takes no other item.
        busy: bool,
    }

    /// Tasks and threads wait for items. Some stop waiting, even at the moment of their wake-up. Each round pushes a few items, and
    /// all of them must be taken without a further push. In some rounds one worker per item takes them side by side. In other
    /// rounds workers take them one after another, when a permit ends or when a queue's concurrency rises. Every worker that could
    /// find an item without a wake-up is busy or waits for the end of the round. So if a wake-up is lost, or is used up by a worker
    /// that stopped waiting, an item stays untaken.
    #[test]
    fn no_wake_up_is_lost() {
        use std::{
            sync::atomic::{AtomicUsize, Ordering::SeqCst},
            thread,
            time::{Duration, Instant},
        };

        use tokio::sync::watch;
        use tokio_util::sync::CancellationToken;

        const ROUNDS: usize = 3_000;
        const LIMITS: QueueLimits = QueueLimits {
            queue_count: 8,
            queue_bytes: 100,
            total_count: 16,
            total_bytes: 1000,
            queue_count_min: 1,
            bytes_max: 1000,
            width: Width::SINGLE,
        };

        let queues = Queues::<u32, Placed>::new(LIMITS, Arc::new(Notify::new()));
        let taken = Arc::new(AtomicUsize::new(0));
        let (over, rounds_over) = watch::channel(0);
        let stop = CancellationToken::new();
        let worker = |number: usize| {
            let (queues, taken, stop, mut over) = (Arc::clone(&queues), Arc::clone(&taken), stop.clone(), rounds_over.clone());
            async move {
                loop {
                    let before = *over.borrow();
                    let stops_waiting = async {
                        match number {
                            0 => tokio::time::sleep(Duration::from_millis(1)).await,
                            // The worker stops waiting at the last moment, when the item that may have woken it is already
                            // queued.
                            1 => {
                                while queues.is_empty() {
                                    tokio::task::yield_now().await;
                                }
                            }
                            _ => std::future::pending().await,
                        }
                    };
                    let (item, permit) = tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = stops_waiting => {
                            let _ = over.wait_for(|over| *over > before).await;
                            continue;
                        }
                        next = queues.next() => next,
                    };
                    taken.fetch_add(1, SeqCst);
                    if item.busy {
                        let _ = over.wait_for(|over| *over >= item.round).await;
                    } else {
                        // As in the sender, the permit ends in another task while this worker waits for the next item.
                        tokio::spawn(async move {
                            tokio::task::yield_now().await;
                            drop(permit);
                            drop(item);
                        });
                    }
                }
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        let tasks: Vec<_> = (0..4).map(|number| runtime.spawn(worker(number))).collect();
        let threads: Vec<_> = (4..7)
            .map(|number| {
                let (handle, work) = (runtime.handle().clone(), worker(number));
                thread::spawn(move || handle.block_on(work))
            })
            .collect();

        let mut pushed = 0;
        let wait_for = |count: usize, round: usize| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while taken.load(SeqCst) < count {
                assert!(Instant::now() < deadline, "round {round}: {} of {count} were taken", taken.load(SeqCst));
                thread::yield_now();
            }
        };
        for round in 1..=ROUNDS {
            // Workers may still be processing earlier items of the same queues.
            let placed = |key: u32, busy: bool| {
                let slot = loop {
                    match queues.reserve_for_stored(&key, 1) {
                        Some(slot) => break slot,
                        None => thread::yield_now(),
                    }
                };
                Placed { _place: slot, round, busy }
            };
            match round % 3 {
                // Several workers take the items side by side.
                0 => {
                    (0..4).for_each(|key| queues.push(&key, placed(key, true)));
                    pushed += 4;
                }
                // Workers take the items one after another.
                1 => {
                    (0..4).for_each(|slot| queues.push(&(slot % 2), placed(slot % 2, false)));
                    pushed += 4;
                }
                // A worker takes one item. The others follow once the queue's concurrency rises.
                _ => {
                    let key = 9;
                    let items = [placed(key, true), placed(key, true), placed(key, true)];
                    queues.set_width(&key, None);
                    items.into_iter().for_each(|item| queues.push(&key, item));
                    wait_for(pushed + 1, round);
                    queues.set_width(&key, Some(Width { concurrency: 3, ..Width::OPEN }));
                    pushed += 3;
                }
            }
            wait_for(pushed, round);
            over.send_replace(round);
        }
        stop.cancel();
        // Releases the workers that wait for the end of the round.
        drop(over);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
        runtime.shutdown_timeout(Duration::from_secs(10));
        assert!(queues.is_empty() && queues.lock().queues.is_empty(), "no slot and no queue is left over");
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }
}
