//! Lanes: bounded, fair queues in memory, one per key, served in turn.
//!
//! A lane never holds more than its limits, and all lanes together never hold more than theirs, with one exception: every lane
//! may hold a few things beyond the shared limit. So a thousand dead receivers cannot take the last place from a healthy one. All
//! lanes together also have a limit in bytes.
//!
//! The store reserves a place ([`Slot`]) before it commits the thing that will be handed over. The place is given back when the
//! thing is finished. A thing without a place stays in the store, and the lane records that. Until the lane has room again, new
//! things also go to the store, behind the waiting ones.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::Notify;

/// Limits of what may wait and run at once.
#[derive(Clone, Copy, Debug)]
pub struct LaneLimits {
    /// Things in one lane, including those being worked on.
    pub lane_count: usize,
    /// Bytes in one lane.
    pub lane_bytes: usize,
    /// Things in all lanes.
    pub total_count: usize,
    /// Bytes in all lanes.
    pub total_bytes: usize,
    /// Things that each lane may hold even if the shared limits are used up, within [`Self::bytes_max`].
    pub lane_count_min: usize,
    /// Bytes in all lanes, including these first few things of each: the most that memory can hold. A thing larger than this
    /// passes alone.
    pub bytes_max: usize,
    /// Width of a lane that has no width set.
    pub width: Width,
}

/// How much of one lane may be in memory and at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    /// Things that are worked on at once.
    pub concurrency: usize,
    /// Things held in memory, within the lane's limit. With 0, everything of the lane stays in the store.
    pub places: usize,
}

impl Width {
    /// Nothing may start.
    pub const CLOSED: Self = Self { concurrency: 0, places: 0 };
    /// As wide as the limits allow.
    pub const OPEN: Self = Self { concurrency: usize::MAX, places: usize::MAX };
    /// One after the other.
    pub const SINGLE: Self = Self { concurrency: 1, places: usize::MAX };
}

/// Queues of `T`, one per `K`.
pub struct Lanes<K: Eq + Hash, T> {
    limits: LaneLimits,
    inner: Mutex<Inner<K, T>>,
    ready: Notify,
    /// Notified when a lane that left things in the store has room again.
    room: Arc<Notify>,
}

struct Inner<K, T> {
    lanes: HashMap<K, Lane<T>>,
    /// Widths that were set. They stay while a lane is empty.
    widths: HashMap<K, Width>,
    /// Lanes that have a waiting thing and may start it, in the order of their turns.
    turn: VecDeque<K>,
    count: usize,
    bytes: usize,
    /// Whether a thing found no place because the shared limits were used up.
    exhausted: bool,
}

struct Lane<T> {
    waiting: VecDeque<T>,
    count: usize,
    bytes: usize,
    working: usize,
    width: Width,
    in_turn: bool,
    /// Whether a thing found no place since the lane last had room. That thing waits in the store.
    overflowed: bool,
}

impl<K: Eq + Hash + Clone + Debug, T> Lanes<K, T> {
    pub fn new(limits: LaneLimits, room: Arc<Notify>) -> Arc<Self> {
        let inner =
            Inner { lanes: HashMap::new(), widths: HashMap::new(), turn: VecDeque::new(), count: 0, bytes: 0, exhausted: false };
        Arc::new(Self { limits, inner: Mutex::new(inner), ready: Notify::new(), room })
    }

    /// Reserves a place for a new thing of `bytes`. Returns `None` if there is none, or if other things of its lane already wait
    /// in the store for room: then it must wait in the store behind them.
    pub fn reserve(self: &Arc<Self>, key: &K, bytes: usize) -> Option<Slot<K, T>> {
        self.place(key, bytes, false)
    }

    /// Reserves a place for a thing that waits in the store.
    pub fn reserve_for_stored(self: &Arc<Self>, key: &K, bytes: usize) -> Option<Slot<K, T>> {
        self.place(key, bytes, true)
    }

    fn place(self: &Arc<Self>, key: &K, bytes: usize, stored: bool) -> Option<Slot<K, T>> {
        let mut inner = self.lock();
        let (count, total_bytes) = (inner.count, inner.bytes);
        let limits = &self.limits;
        let lane = inner.lane(key, limits);
        let places = lane.places(limits);
        let own = lane.count < places && lane.bytes + bytes <= limits.lane_bytes;
        let shared = count < limits.total_count && total_bytes + bytes <= limits.total_bytes;
        // A thing larger than the lane's byte limit passes when the lane is otherwise empty.
        let alone = lane.count == 0 && places > 0;
        let possible = total_bytes == 0 || total_bytes + bytes <= limits.bytes_max;
        let first = lane.count < limits.lane_count_min && (own || alone);
        let fits = possible && (first || own && shared);
        if fits && (stored || !lane.overflowed) {
            lane.count += 1;
            lane.bytes += bytes;
            inner.count += 1;
            inner.bytes += bytes;
            return Some(Slot { lanes: Arc::clone(self), key: key.clone(), bytes });
        }
        lane.overflowed = true;
        inner.exhausted |= first && !possible;
        None
    }

    /// Returns how many things that wait in the store would find a place. If it is 0, the lane notifies `room` later.
    pub fn room_for_stored(&self, key: &K) -> usize {
        let mut inner = self.lock();
        let limits = &self.limits;
        let possible = inner.bytes < limits.bytes_max;
        let shared = if inner.bytes < limits.total_bytes { limits.total_count.saturating_sub(inner.count) } else { 0 };
        let lane = inner.lane(key, limits);
        let places = lane.places(limits);
        let own = if lane.count == 0 || lane.bytes < limits.lane_bytes { places.saturating_sub(lane.count) } else { 0 };
        let first = if possible { limits.lane_count_min.saturating_sub(lane.count) } else { 0 };
        let room = own.min(shared.max(first));
        if room == 0 {
            lane.overflowed = true;
            inner.exhausted |= !possible;
        }
        inner.offer(key);
        room
    }

    #[cfg(test)]
    fn push(&self, key: &K, thing: T) {
        self.push_all([(key.clone(), thing)]);
    }

    /// Queues things for which places were reserved, in one step: the worker that takes the first also sees the others.
    pub fn push_all(&self, things: impl IntoIterator<Item = (K, T)>) {
        let mut inner = self.lock();
        for (key, thing) in things {
            inner.lane(&key, &self.limits).waiting.push_back(thing);
            inner.offer(&key);
        }
        drop(inner);
        self.ready.notify_one();
    }

    /// Waits for the next thing whose lane may start one. It counts as being worked on until the [`Turn`] is dropped.
    pub async fn next(self: &Arc<Self>) -> (T, Turn<K, T>) {
        loop {
            // Registered before looking, so that no push in between is missed.
            let ready = self.ready.notified();
            if let Some(taken) = self.try_next() {
                return taken;
            }
            ready.await;
        }
    }

    fn try_next(self: &Arc<Self>) -> Option<(T, Turn<K, T>)> {
        let mut inner = self.lock();
        let key = loop {
            let key = inner.turn.pop_front()?;
            let lane = inner.lanes.get_mut(&key).expect("a lane in turn exists");
            lane.in_turn = false;
            // The lane may have become narrower since it was offered.
            if lane.working < lane.width.concurrency {
                break key;
            }
        };
        let lane = inner.lanes.get_mut(&key).expect("a lane in turn exists");
        let thing = lane.waiting.pop_front().expect("a lane in turn has something waiting");
        lane.working += 1;
        inner.offer(&key);
        let more = !inner.turn.is_empty();
        drop(inner);
        if more {
            self.ready.notify_one();
        }
        Some((thing, Turn { lanes: Arc::clone(self), key }))
    }

    /// Takes one more thing of the lane of `turn`, to be worked on in the same turn.
    pub fn more(&self, turn: &Turn<K, T>) -> Option<T> {
        let mut inner = self.lock();
        let lane = inner.lanes.get_mut(&turn.key)?;
        // A lane that is offered to workers keeps one thing: the worker that takes the offer relies on it.
        let keep = usize::from(lane.in_turn);
        (lane.waiting.len() > keep).then(|| lane.waiting.pop_front()).flatten()
    }

    /// Takes back the waiting things of a lane that match.
    pub fn withdraw(&self, key: &K, mut matches: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut inner = self.lock();
        let Some(lane) = inner.lanes.get_mut(key) else { return Vec::new() };
        let (taken, kept): (Vec<_>, Vec<_>) = lane.waiting.drain(..).partition(|thing| matches(thing));
        lane.waiting = kept.into();
        if lane.in_turn && lane.waiting.is_empty() {
            lane.in_turn = false;
            inner.turn.retain(|one| one != key);
        }
        inner.offer(key);
        taken
    }

    /// Sets the width of a lane; `None` resets it to the common width.
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
        let room = inner.lanes.get_mut(key).is_some_and(|lane| {
            lane.width = width.unwrap_or(limits.width);
            lane.has_room_again(limits)
        });
        inner.offer(key);
        drop(inner);
        self.ready.notify_one();
        if room {
            self.room.notify_one();
        }
    }

    /// Returns the number of things in the lanes, including those being worked on.
    pub fn len(&self) -> usize {
        self.lock().count
    }

    /// Returns the things and the bytes in the lanes, and the limit in bytes.
    pub fn occupancy(&self) -> (usize, usize, usize) {
        let inner = self.lock();
        (inner.count, inner.bytes, self.limits.total_bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, T>> {
        self.inner.lock().expect("no code panics while it holds the lanes")
    }
}

impl<K: Eq + Hash + Clone, T> Inner<K, T> {
    fn lane(&mut self, key: &K, limits: &LaneLimits) -> &mut Lane<T> {
        let widths = &self.widths;
        self.lanes.entry(key.clone()).or_insert_with(|| Lane::new(widths.get(key).copied().unwrap_or(limits.width)))
    }

    /// Offers a lane to the workers if it may start a thing, and removes it when it is empty.
    fn offer(&mut self, key: &K) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if !lane.in_turn && !lane.waiting.is_empty() && lane.working < lane.width.concurrency {
            lane.in_turn = true;
            self.turn.push_back(key.clone());
        }
        if lane.count == 0 && lane.working == 0 && lane.waiting.is_empty() && !lane.overflowed {
            self.lanes.remove(key);
        }
    }
}

impl<T> Lane<T> {
    fn new(width: Width) -> Self {
        Self { waiting: VecDeque::new(), count: 0, bytes: 0, working: 0, width, in_turn: false, overflowed: false }
    }

    fn places(&self, limits: &LaneLimits) -> usize {
        self.width.places.min(limits.lane_count)
    }

    /// Returns whether the claimer should now ask for the things that wait in the store. True at half empty, not at the first
    /// free place, so that one question to the store fetches many things.
    fn has_room_again(&mut self, limits: &LaneLimits) -> bool {
        let places = self.places(limits);
        let room = self.overflowed && places > 0 && self.count <= places / 2 && self.bytes <= limits.lane_bytes / 2;
        if room {
            self.overflowed = false;
        }
        room
    }
}

/// A reserved place. Dropping it gives the place back.
pub struct Slot<K: Eq + Hash + Clone + Debug, T> {
    lanes: Arc<Lanes<K, T>>,
    key: K,
    bytes: usize,
}

impl<K: Eq + Hash + Clone + Debug, T> Drop for Slot<K, T> {
    fn drop(&mut self) {
        let mut inner = self.lanes.lock();
        inner.count -= 1;
        inner.bytes -= self.bytes;
        let lane = inner.lanes.get_mut(&self.key).expect("a lane lives as long as its places are taken");
        lane.count -= 1;
        lane.bytes -= self.bytes;
        let mut room = lane.has_room_again(&self.lanes.limits);
        // A lane that holds nothing has no place to give back, so it would never notify.
        if inner.exhausted && inner.bytes <= self.lanes.limits.total_bytes {
            inner.exhausted = false;
            room = true;
        }
        inner.offer(&self.key);
        drop(inner);
        if room {
            self.lanes.room.notify_one();
        }
    }
}

/// A thing being worked on. Dropping this lets the lane start another.
pub struct Turn<K: Eq + Hash + Clone + Debug, T> {
    lanes: Arc<Lanes<K, T>>,
    key: K,
}

impl<K: Eq + Hash + Clone + Debug, T> Drop for Turn<K, T> {
    fn drop(&mut self) {
        let mut inner = self.lanes.lock();
        if let Some(lane) = inner.lanes.get_mut(&self.key) {
            lane.working -= 1;
        }
        inner.offer(&self.key);
        let more = !inner.turn.is_empty();
        drop(inner);
        if more {
            self.lanes.ready.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(limits: LaneLimits) -> (Arc<Lanes<&'static str, u32>>, Arc<Notify>) {
        let room = Arc::new(Notify::new());
        (Lanes::new(limits, Arc::clone(&room)), room)
    }

    const LIMITS: LaneLimits = LaneLimits {
        lane_count: 4,
        lane_bytes: 100,
        total_count: 6,
        total_bytes: 1000,
        lane_count_min: 1,
        bytes_max: 6_000,
        width: Width { concurrency: 2, ..Width::OPEN },
    };

    #[test]
    fn a_new_lane_gets_a_place_although_the_shared_limit_is_used_up() {
        let (lanes, _room) = lanes(LIMITS);
        let taken: Vec<_> = ["a", "a", "a", "a", "b", "b"].iter().map(|key| lanes.reserve(key, 1).unwrap()).collect();
        assert!(lanes.reserve(&"a", 1).is_none(), "the lane is full");
        assert!(lanes.reserve(&"b", 1).is_none(), "the shared limit is used up");
        let guaranteed = lanes.reserve(&"c", 1).expect("a lane's first place is its own");
        assert!(lanes.reserve(&"c", 1).is_none());
        assert_eq!(lanes.len(), 7);
        drop((taken, guaranteed));
        assert!(lanes.is_empty());
    }

    #[tokio::test]
    async fn all_lanes_together_have_a_limit_in_bytes() {
        let (lanes, room) = lanes(LaneLimits { lane_bytes: 500, bytes_max: 1_200, ..LIMITS });
        let mut taken: Vec<_> = ["a", "b"].iter().map(|key| lanes.reserve(key, 500).unwrap()).collect();
        taken.push(lanes.reserve(&"c", 200).expect("the first place of a lane is beyond the shared limit"));
        assert!(lanes.reserve(&"d", 1).is_none(), "but bytes have a limit");
        assert_eq!(lanes.room_for_stored(&"d"), 0);
        assert_eq!(lanes.occupancy().1, 1_200);
        let announced = room.notified();
        tokio::pin!(announced);
        assert!(futures_poll(announced.as_mut()).is_pending());
        drop(taken.pop());
        announced.await;
        assert!(lanes.reserve_for_stored(&"d", 1).is_some(), "a lane that held nothing is notified of the room");
        drop(taken);
        let huge = lanes.reserve(&"e", 5_000).expect("larger than the limit: alone");
        assert!(lanes.reserve(&"f", 1).is_none());
        drop(huge);
    }

    #[test]
    fn a_thing_larger_than_the_lane_passes_alone() {
        let (lanes, _room) = lanes(LIMITS);
        let large = lanes.reserve(&"a", 5_000).expect("alone in its lane");
        assert!(lanes.reserve(&"a", 1).is_none());
        drop(large);
        assert!(lanes.reserve(&"a", 1).is_some());
    }

    #[tokio::test]
    async fn lanes_take_turns_and_respect_their_concurrency() {
        let (lanes, _room) = lanes(LIMITS);
        for (key, thing) in [("a", 1), ("a", 2), ("a", 3), ("b", 10)] {
            lanes.push(&key, thing);
        }
        let mut turns = Vec::new();
        let mut taken = Vec::new();
        while let Some((thing, turn)) = lanes.try_next() {
            taken.push(thing);
            turns.push(turn);
        }
        assert_eq!(taken, [1, 10, 2], "b does not wait behind a, and a has two at work");
        turns.clear();
        assert_eq!(lanes.next().await.0, 3);
    }

    #[tokio::test]
    async fn room_is_announced_once_half_of_the_lane_is_free() {
        let (lanes, room) = lanes(LIMITS);
        let mut taken: Vec<_> = (0..4).map(|_| lanes.reserve(&"a", 1).unwrap()).collect();
        assert!(lanes.reserve(&"a", 1).is_none());
        taken.pop();
        let announced = room.notified();
        tokio::pin!(announced);
        assert!(futures_poll(announced.as_mut()).is_pending());
        taken.pop();
        announced.await;
    }

    #[tokio::test]
    async fn a_closed_lane_starts_nothing_and_takes_nothing_until_it_is_opened() {
        let (lanes, room) = lanes(LIMITS);
        for thing in [1, 2, 3] {
            lanes.push(&"a", thing);
        }
        let (first, _turn) = lanes.try_next().unwrap();
        assert_eq!(first, 1);
        lanes.set_width(&"a", Some(Width::CLOSED));
        assert!(lanes.try_next().is_none(), "although it was in turn");
        assert!(lanes.reserve(&"a", 1).is_none());
        assert_eq!(lanes.room_for_stored(&"a"), 0);
        assert_eq!(lanes.withdraw(&"a", |_| true), [2, 3]);
        let announced = room.notified();
        lanes.set_width(&"a", Some(Width { concurrency: 1, places: 1 }));
        announced.await;
        assert_eq!(lanes.room_for_stored(&"a"), 1);
        let probe = lanes.reserve_for_stored(&"a", 1).unwrap();
        assert_eq!(lanes.room_for_stored(&"a"), 0, "one place, one thing");
        drop(probe);
        lanes.set_width(&"a", None);
        assert_eq!(lanes.room_for_stored(&"a"), 4);
    }

    #[test]
    fn withdrawn_things_lose_turn_and_place() {
        let (lanes, _room) = lanes(LIMITS);
        for (key, thing) in [("a", 1), ("a", 2), ("b", 10)] {
            lanes.push(&key, thing);
        }
        assert_eq!(lanes.withdraw(&"a", |thing| *thing == 1), [1]);
        assert_eq!(lanes.withdraw(&"b", |_| true), [10], "the lane leaves the turn with its last thing");
        assert!(lanes.withdraw(&"c", |_| true).is_empty());
        assert_eq!(lanes.try_next().map(|(thing, _)| thing), Some(2));
        assert!(lanes.try_next().is_none());
        assert!(lanes.lock().lanes.is_empty(), "empty lanes are forgotten");
    }

    #[test]
    fn new_things_wait_behind_those_in_the_store() {
        let (lanes, _room) = lanes(LIMITS);
        let mut taken: Vec<_> = (0..4).map(|_| lanes.reserve(&"a", 1).unwrap()).collect();
        assert!(lanes.reserve(&"a", 1).is_none());
        taken.pop();
        assert!(lanes.reserve(&"a", 1).is_none(), "the free place is for the thing in the store");
        taken.push(lanes.reserve_for_stored(&"a", 1).expect("the stored thing takes it"));
        taken.truncate(2);
        assert!(lanes.reserve(&"a", 1).is_some(), "once there is room again, new things take part");
    }

    #[test]
    fn more_leaves_one_thing_for_the_next_turn() {
        let (lanes, _room) = lanes(LIMITS);
        for thing in 0..5 {
            lanes.push(&"a", thing);
        }
        let (first, turn) = lanes.try_next().unwrap();
        assert_eq!((first, lanes.more(&turn), lanes.more(&turn)), (0, Some(1), Some(2)));
        assert_eq!((lanes.more(&turn), lanes.more(&turn)), (Some(3), None), "the lane is in turn for a second worker");
        let (second, other) = lanes.try_next().unwrap();
        assert_eq!((second, lanes.more(&other)), (4, None));
        lanes.push(&"a", 5);
        assert!(lanes.try_next().is_none(), "both permits are in use");
        assert_eq!(lanes.more(&other), Some(5));
        drop((turn, other));
        assert!(lanes.lock().lanes.is_empty());
    }

    /// A thing that holds its own place, as claims do.
    struct Placed {
        _place: Slot<u32, Placed>,
        round: usize,
        /// The worker that takes it stays busy until the round is over, and takes nothing else.
        busy: bool,
    }

    /// Tasks and threads wait; some stop waiting, also at the moment of their wake-up. Each round pushes a few things that must
    /// all be taken although no further push follows: side by side by as many workers, or one after another as turns end, or when
    /// a lane's concurrency rises. Every worker that could find a thing by chance is busy or waits for the end of the round. So
    /// if a wake-up is lost, or is used up by a worker that stopped waiting, a thing stays untaken.
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
        const LIMITS: LaneLimits = LaneLimits {
            lane_count: 8,
            lane_bytes: 100,
            total_count: 16,
            total_bytes: 1000,
            lane_count_min: 1,
            bytes_max: 1000,
            width: Width::SINGLE,
        };

        let lanes = Lanes::<u32, Placed>::new(LIMITS, Arc::new(Notify::new()));
        let taken = Arc::new(AtomicUsize::new(0));
        let (over, rounds_over) = watch::channel(0);
        let stop = CancellationToken::new();
        let worker = |number: usize| {
            let (lanes, taken, stop, mut over) = (Arc::clone(&lanes), Arc::clone(&taken), stop.clone(), rounds_over.clone());
            async move {
                loop {
                    let before = *over.borrow();
                    let stops_waiting = async {
                        match number {
                            0 => tokio::time::sleep(Duration::from_millis(1)).await,
                            // At the last moment, when the thing that may have woken this worker is already queued.
                            1 => {
                                while lanes.is_empty() {
                                    tokio::task::yield_now().await;
                                }
                            }
                            _ => std::future::pending().await,
                        }
                    };
                    let (thing, turn) = tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = stops_waiting => {
                            let _ = over.wait_for(|over| *over > before).await;
                            continue;
                        }
                        next = lanes.next() => next,
                    };
                    taken.fetch_add(1, SeqCst);
                    if thing.busy {
                        let _ = over.wait_for(|over| *over >= thing.round).await;
                    } else {
                        // Like the sender: the turn ends elsewhere while this worker waits for the next thing.
                        tokio::spawn(async move {
                            tokio::task::yield_now().await;
                            drop(turn);
                            drop(thing);
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
            // Earlier things of the same lanes may still be at work.
            let placed = |key: u32, busy: bool| {
                let place = loop {
                    match lanes.reserve_for_stored(&key, 1) {
                        Some(place) => break place,
                        None => thread::yield_now(),
                    }
                };
                Placed { _place: place, round, busy }
            };
            match round % 3 {
                // Side by side.
                0 => {
                    (0..4).for_each(|key| lanes.push(&key, placed(key, true)));
                    pushed += 4;
                }
                // One after another.
                1 => {
                    (0..4).for_each(|place| lanes.push(&(place % 2), placed(place % 2, false)));
                    pushed += 4;
                }
                // One thing, and the others once the lane's concurrency rises.
                _ => {
                    let key = 9;
                    let things = [placed(key, true), placed(key, true), placed(key, true)];
                    lanes.set_width(&key, None);
                    things.into_iter().for_each(|thing| lanes.push(&key, thing));
                    wait_for(pushed + 1, round);
                    lanes.set_width(&key, Some(Width { concurrency: 3, ..Width::OPEN }));
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
        assert!(lanes.is_empty() && lanes.lock().lanes.is_empty(), "no place and no lane is left over");
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }
}
