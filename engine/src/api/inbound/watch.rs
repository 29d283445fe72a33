//! Counts each source's requests (accepted, refused, the last refusals with reasons), and limits their rate. All of it is in
//! memory, bounded, and starts at zero with the process.
//!
//! A caller that is refused too often is limited per source and address, in a table of fixed size with a random seed. A flood
//! affects only its own address, and no caller can choose with which others it shares a table entry.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::Semaphore;

use crate::{
    api::body::Room,
    domain::{id::SourceId, rate::Rate, time::Timestamp},
    metrics::meters,
};

/// Maximum number of stored refusals of one source.
const REFUSALS_MAX: usize = 20;
/// Refusals that one caller may have at once; then this many per second.
const BURST: f64 = 30.0;
const PER_SECOND: f64 = 1.0;
/// Number of table entries; if there are more callers, some share an entry.
const BUCKETS: usize = 4096;

/// A refused request.
#[derive(Clone, Debug)]
pub struct Refused {
    pub at: Timestamp,
    pub address: IpAddr,
    /// One of [`super::REASONS`].
    pub reason: &'static str,
    pub detail: String,
}

/// The state of one source.
pub struct Watch {
    /// Memory for bodies to this source.
    pub room: Room,
    /// Requests of flooding callers are checked one by one.
    pub one_by_one: Semaphore,
    accepted: AtomicU64,
    refused: AtomicU64,
    /// Wall clock, ms; 0: never.
    last_accepted: AtomicI64,
    last_refusals: Mutex<VecDeque<Refused>>,
    limiter: Mutex<Option<(Rate, Arc<DefaultDirectRateLimiter>)>>,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            room: Room::of_source(),
            one_by_one: Semaphore::new(1),
            accepted: AtomicU64::default(),
            refused: AtomicU64::default(),
            last_accepted: AtomicI64::default(),
            last_refusals: Mutex::default(),
            limiter: Mutex::default(),
        }
    }
}

impl Watch {
    pub fn note_accepted(&self, at: Timestamp) {
        self.accepted.fetch_add(1, Relaxed);
        self.last_accepted.fetch_max(at.millis(), Relaxed);
    }

    fn note_refused(&self, source: &str, refused: Refused) {
        self.refused.fetch_add(1, Relaxed);
        meters().source_refused(source, refused.reason);
        // Refusals of floods would displace those before the flood.
        if refused.reason == "flood" {
            return;
        }
        let mut last = lock(&self.last_refusals);
        if last.len() == REFUSALS_MAX {
            last.pop_back();
        }
        last.push_front(refused);
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    pub fn last_accepted(&self) -> Option<Timestamp> {
        Some(self.last_accepted.load(Relaxed)).filter(|at| *at > 0).map(Timestamp::from_millis)
    }

    /// Returns the last refusals, newest first.
    pub fn last_refusals(&self) -> Vec<Refused> {
        lock(&self.last_refusals).iter().cloned().collect()
    }

    /// Returns whether the source's rate allows one more request.
    pub fn has_room(&self, rate: Option<Rate>) -> bool {
        let Some(rate) = rate else { return true };
        let limiter = {
            let mut current = lock(&self.limiter);
            match &*current {
                Some((known, limiter)) if *known == rate => Arc::clone(limiter),
                _ => {
                    let limiter = Arc::new(limiter(rate));
                    *current = Some((rate, Arc::clone(&limiter)));
                    limiter
                }
            }
        };
        limiter.check().is_ok()
    }
}

/// Creates a limiter that allows one second's requests at once.
fn limiter(rate: Rate) -> DefaultDirectRateLimiter {
    let quota = Quota::with_period(rate.interval()).expect("an interval is never zero");
    let burst = u32::try_from(rate.within(std::time::Duration::from_secs(1))).ok().and_then(std::num::NonZeroU32::new);
    RateLimiter::direct(quota.allow_burst(burst.unwrap_or(std::num::NonZeroU32::MIN)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}

/// The state of all sources.
pub struct Watches {
    by_source: Mutex<HashMap<SourceId, Arc<Watch>>>,
    floods: Mutex<Vec<Bucket>>,
    /// Makes the sharing of entries unpredictable.
    seed: RandomState,
}

/// Number of refusals that a caller may still have, and since when.
#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Timestamp,
}

impl Bucket {
    fn filled(self, now: Timestamp) -> Self {
        Self { left: (self.left + now.since(self.at).as_secs_f64() * PER_SECOND).min(BURST), at: now.max(self.at) }
    }
}

impl Default for Watches {
    fn default() -> Self {
        Self {
            by_source: Mutex::default(),
            floods: Mutex::new(vec![Bucket { left: BURST, at: Timestamp::from_millis(0) }; BUCKETS]),
            seed: RandomState::new(),
        }
    }
}

impl Watches {
    pub fn of(&self, source: SourceId) -> Arc<Watch> {
        Arc::clone(lock(&self.by_source).entry(source).or_default())
    }

    pub fn forget(&self, source: SourceId) {
        lock(&self.by_source).remove(&source);
    }

    fn place(&self, source: SourceId, caller: IpAddr) -> usize {
        // A network of this size usually belongs to one person.
        let caller = match caller {
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
            v4 => v4,
        };
        let hash = self.seed.hash_one((source, caller));
        usize::try_from(hash % BUCKETS as u64).expect("there are few buckets")
    }

    /// Charges a caller for one refusal before any work for its request, so that concurrent requests count too. `now` is the
    /// steady clock.
    pub fn charge(&self, source: SourceId, caller: IpAddr, now: Timestamp) -> Charge {
        let place = self.place(source, caller);
        let mut floods = lock(&self.floods);
        let bucket = floods[place].filled(now);
        let paid = bucket.left.min(1.0);
        floods[place] = Bucket { left: bucket.left - paid, ..bucket };
        Charge { place, paid, is_flooding: paid < 1.0 }
    }

    /// Returns a charge: the request was not refused, or the refusal does not count.
    pub fn refund(&self, charge: Charge) {
        let mut floods = lock(&self.floods);
        let bucket = &mut floods[charge.place];
        bucket.left = (bucket.left + charge.paid).min(BURST);
    }

    /// Records a refusal.
    pub fn refuse(&self, source: (SourceId, &str), refused: Refused) {
        self.of(source.0).note_refused(source.1, refused);
    }
}

/// A caller's charge for one request. A charge that is not returned counts as a refusal, also if the caller hung up.
#[derive(Debug)]
pub struct Charge {
    place: usize,
    paid: f64,
    /// Whether the caller was refused so often that its requests are checked one by one and its refusals are not explained.
    pub is_flooding: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: IpAddr, detail: &str) -> Refused {
        Refused { at: Timestamp::from_millis(1), address, reason: "mismatch", detail: detail.to_owned() }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000).plus(std::time::Duration::from_secs(seconds))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_caller_refused_repeatedly_counts_as_flooding_for_a_while() {
        let watches = Watches::default();
        let (source, other) = (SourceId::from_i64(1), SourceId::from_i64(2));
        let (bad, near) = (address("2001:db8::1"), address("2001:db8::ffff"));
        let floods = |source, caller, now| {
            let charge = watches.charge(source, caller, now);
            let floods = charge.is_flooding;
            watches.refund(charge);
            floods
        };
        for n in 0..30 {
            assert!(!watches.charge(source, bad, at(0)).is_flooding, "{n}");
            watches.refuse((source, "shop"), refused(bad, &n.to_string()));
        }
        assert!(floods(source, bad, at(0)) && floods(source, near, at(0)));
        // Another entry, unless the two share one by chance.
        if watches.place(source, bad) != watches.place(other, bad) {
            assert!(!floods(other, bad, at(0)));
        }
        assert!(!floods(source, bad, at(1)), "one more per second");
        let watch = watches.of(source);
        let last: Vec<_> = watch.last_refusals().into_iter().map(|one| one.detail).collect();
        assert_eq!((last.len(), last[0].as_str(), watch.refused()), (REFUSALS_MAX, "29", 30));
        watches.forget(source);
        assert_eq!(watches.of(source).refused(), 0);
    }

    #[test]
    fn requests_under_way_count_until_they_are_accepted() {
        let (watches, source, caller) = (Watches::default(), SourceId::from_i64(1), address("192.0.2.1"));
        let mut under_way: Vec<Charge> = (0..30).map(|_| watches.charge(source, caller, at(0))).collect();
        assert!(under_way.iter().all(|charge| !charge.is_flooding));
        let one_more = watches.charge(source, caller, at(0));
        assert!(one_more.is_flooding);
        watches.refund(one_more);
        assert!(watches.charge(source, caller, at(0)).is_flooding, "nothing is returned beyond the charges");
        under_way.drain(..).for_each(|charge| watches.refund(charge));
        assert!((0..30).all(|_| !watches.charge(source, caller, at(0)).is_flooding), "all of it is returned");
        assert!(watches.charge(source, caller, at(0)).is_flooding);
    }

    #[test]
    fn a_rate_allows_one_seconds_requests_at_once() {
        let watch = Watch::default();
        let rate = Rate::parse("2/s").ok();
        assert!(watch.has_room(rate) && watch.has_room(rate) && !watch.has_room(rate));
        assert!(watch.has_room(None));
        assert!(watch.has_room(Rate::parse("1/h").ok()), "a new rate starts full");
    }
}
