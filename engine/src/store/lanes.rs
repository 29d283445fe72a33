//! Bounded, fair queues in memory: one lane per key, taken in turn.
//!
//! A lane never holds more than its limits, and all lanes together never hold more than theirs, except that every lane may hold a few
//! beyond that: a thousand dead receivers cannot take the last place from a healthy one. All of it together has an end in bytes. Places are reserved before a
//! thing is committed to be handed over ([`Slot`]) and given back when the thing is done with. What finds no place stays in
//! the store, and the lane remembers that it did: until it has room again, what is new goes behind what waits there.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::Notify;

/// How much may wait and run at once.
#[derive(Clone, Copy, Debug)]
pub struct LaneLimits {
    /// Things in one lane, those being worked on included.
    pub lane_count: usize,
    /// Bytes in one lane.
    pub lane_bytes: usize,
    /// Things in all lanes.
    pub total_count: usize,
    /// Bytes in all lanes.
    pub total_bytes: usize,
    /// Things that a lane may hold whatever the others hold, up to [`Self::bytes_max`].
    pub lane_count_min: usize,
    /// Bytes in all lanes with these first few of each: the most that there can be in memory. Only one thing that is larger passes, alone.
    pub bytes_max: usize,
    /// How wide a lane is until it is told otherwise.
    pub width: Width,
}

/// How much of one lane may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    /// Things that are worked on at once.
    pub concurrency: usize,
    /// Things that are held in memory at all, within the lane's limit. None: everything of it stays in the store.
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
    /// Rung when a lane that had to leave things in the store has room again.
    room: Arc<Notify>,
}

struct Inner<K, T> {
    lanes: HashMap<K, Lane<T>>,
    /// Widths that are not the usual one. They stay while a lane is empty.
    widths: HashMap<K, Width>,
    /// Lanes that have something waiting and may start it, in turn.
    turn: VecDeque<K>,
    count: usize,
    bytes: usize,
    /// Something found no place because all lanes together were at their end.
    exhausted: bool,
}

struct Lane<T> {
    waiting: VecDeque<T>,
    count: usize,
    bytes: usize,
    working: usize,
    width: Width,
    in_turn: bool,
    /// Something found no place since the lane last had room; it waits in the store.
    overflowed: bool,
}

impl<K: Eq + Hash + Clone + Debug, T> Lanes<K, T> {
    pub fn new(limits: LaneLimits, room: Arc<Notify>) -> Arc<Self> {
        let inner =
            Inner { lanes: HashMap::new(), widths: HashMap::new(), turn: VecDeque::new(), count: 0, bytes: 0, exhausted: false };
        Arc::new(Self { limits, inner: Mutex::new(inner), ready: Notify::new(), room })
    }

    /// A place for one new thing of `bytes`, or `None`: then it stays in the store. While others of its lane wait there for room,
    /// it waits behind them.
    pub fn reserve(self: &Arc<Self>, key: &K, bytes: usize) -> Option<Slot<K, T>> {
        self.place(key, bytes, false)
    }

    /// A place for one thing that waits in the store.
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
        // A thing larger than a lane's bytes must still get through: alone.
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

    /// How many things that wait in the store would find a place. If none would, the lane announces when it has room.
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

    /// Queues things for which places were reserved, all in one step: whoever takes the first of them sees the others.
    pub fn push_all(&self, things: impl IntoIterator<Item = (K, T)>) {
        let mut inner = self.lock();
        for (key, thing) in things {
            inner.lane(&key, &self.limits).waiting.push_back(thing);
            inner.offer(&key);
        }
        drop(inner);
        self.ready.notify_one();
    }

    /// Waits for the next thing whose lane may start one. The lane counts it as worked on until the [`Turn`] is dropped.
    pub async fn next(self: &Arc<Self>) -> (T, Turn<K, T>) {
        loop {
            // Registered before looking, so that a push in between is not missed.
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
            // It may have become narrower since.
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

    /// One more thing of the lane that `turn` belongs to, to be worked on in the same turn.
    pub fn more(&self, turn: &Turn<K, T>) -> Option<T> {
        let mut inner = self.lock();
        let lane = inner.lanes.get_mut(&turn.key)?;
        // A lane in turn keeps one: whoever takes the turn relies on it.
        let keep = usize::from(lane.in_turn);
        (lane.waiting.len() > keep).then(|| lane.waiting.pop_front()).flatten()
    }

    /// Takes back the things of a lane that wait for their turn and match.
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

    /// Sets how wide a lane is; `None` makes it as wide as the others.
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

    /// How many things the lanes hold, those being worked on included.
    pub fn len(&self) -> usize {
        self.lock().count
    }

    /// Things and bytes that the lanes hold, and the bytes that they may hold.
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

    /// Puts a lane into the turn if it may start something, and forgets it when it is empty.
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

    /// Whether what found no place is to be asked for now. Half empty, not just one free: the store is then asked for many at
    /// once instead of for each.
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
        // A lane that holds nothing has no place to give back, so it would not be heard of.
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

/// One thing of a lane is being worked on. Dropping it lets the lane start another.
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
    fn a_full_house_still_has_a_place_for_a_new_lane() {
        let (lanes, _room) = lanes(LIMITS);
        let taken: Vec<_> = ["a", "a", "a", "a", "b", "b"].iter().map(|key| lanes.reserve(key, 1).unwrap()).collect();
        assert!(lanes.reserve(&"a", 1).is_none(), "the lane is full");
        assert!(lanes.reserve(&"b", 1).is_none(), "the house is full");
        let guaranteed = lanes.reserve(&"c", 1).expect("a lane's first place is its own");
        assert!(lanes.reserve(&"c", 1).is_none());
        assert_eq!(lanes.len(), 7);
        drop((taken, guaranteed));
        assert!(lanes.is_empty());
    }

    #[tokio::test]
    async fn all_lanes_together_have_an_end_in_bytes() {
        let (lanes, room) = lanes(LaneLimits { lane_bytes: 500, bytes_max: 1_200, ..LIMITS });
        let mut taken: Vec<_> = ["a", "b"].iter().map(|key| lanes.reserve(key, 500).unwrap()).collect();
        taken.push(lanes.reserve(&"c", 200).expect("beyond what all share, a lane's first"));
        assert!(lanes.reserve(&"d", 1).is_none(), "but not for ever more");
        assert_eq!(lanes.room_for_stored(&"d"), 0);
        assert_eq!(lanes.occupancy().1, 1_200);
        let announced = room.notified();
        tokio::pin!(announced);
        assert!(futures_poll(announced.as_mut()).is_pending());
        drop(taken.pop());
        announced.await;
        assert!(lanes.reserve_for_stored(&"d", 1).is_some(), "a lane that held nothing hears of the room");
        drop(taken);
        let huge = lanes.reserve(&"e", 5_000).expect("larger than all of it: alone");
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
    fn what_is_withdrawn_loses_its_turn_and_its_place() {
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
    fn new_things_wait_behind_what_waits_in_the_store() {
        let (lanes, _room) = lanes(LIMITS);
        let mut taken: Vec<_> = (0..4).map(|_| lanes.reserve(&"a", 1).unwrap()).collect();
        assert!(lanes.reserve(&"a", 1).is_none());
        taken.pop();
        assert!(lanes.reserve(&"a", 1).is_none(), "the free place is for what waits");
        taken.push(lanes.reserve_for_stored(&"a", 1).expect("which takes it"));
        taken.truncate(2);
        assert!(lanes.reserve(&"a", 1).is_some(), "once there is room again, new things take part");
    }

    #[test]
    fn things_of_one_turn_leave_one_for_whoever_has_the_next() {
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
        assert!(lanes.try_next().is_none(), "two are at work");
        assert_eq!(lanes.more(&other), Some(5));
        drop((turn, other));
        assert!(lanes.lock().lanes.is_empty());
    }

    /// A thing that holds its own place, as claims do.
    struct Placed {
        _place: Slot<u32, Placed>,
        round: usize,
        /// Whoever takes it is busy until the round is over, and looks for nothing else.
        busy: bool,
    }

    /// Tasks and threads wait; some stop waiting, also at the moment in which they are woken. In each round a few things are pushed
    /// that must all be taken although nobody pushes any more: side by side by as many workers, or one after another as turns end,
    /// or when a lane's concurrency goes up. Whoever could notice by chance is busy or waits for the round's end, so that a
    /// wake-up that was lost, or taken along by one that stopped waiting, leaves a thing untaken.
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
                            // At the last moment: when the thing that it may have been woken for is there.
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
                        // As the sender does: the turn ends elsewhere, while this one waits for the next.
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
            // Others of the same lanes may still be on their way out.
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
                // One, and when the lane may have more at work, the others.
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
        // Whoever waits for another round is let go.
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
