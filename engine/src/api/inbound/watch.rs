//! What is remembered of each source's requests: how many were taken and refused, who was refused last and why; and how fast more
//! may come. All of it is in memory, bounded, and begins anew with the process.

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

use crate::{
    domain::{id::SourceId, rate::Rate, time::Timestamp},
    metrics::meters,
};

/// Refusals of one source that are remembered.
const REFUSALS_MAX: usize = 20;
/// Refusals that one caller may have at once; then so many each second.
const BURST: f64 = 30.0;
const PER_SECOND: f64 = 1.0;
/// Callers that are told apart; more share a place.
const BUCKETS: usize = 4096;

/// A request that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    pub at: Timestamp,
    pub address: IpAddr,
    /// One of [`crate::metrics::REFUSALS`].
    pub reason: &'static str,
    pub detail: String,
}

/// What is remembered of one source.
#[derive(Default)]
pub struct Watch {
    accepted: AtomicU64,
    refused: AtomicU64,
    /// Wall clock, ms; 0: never.
    last_accepted: AtomicI64,
    last_refusals: Mutex<VecDeque<Refused>>,
    limiter: Mutex<Option<(Rate, Arc<DefaultDirectRateLimiter>)>>,
}

impl Watch {
    pub fn note_accepted(&self, at: Timestamp) {
        self.accepted.fetch_add(1, Relaxed);
        self.last_accepted.fetch_max(at.millis(), Relaxed);
    }

    fn note_refused(&self, source: &str, refused: Refused) {
        self.refused.fetch_add(1, Relaxed);
        meters().source_refused(source, refused.reason);
        // They would only drive out what led to them.
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

    /// Newest first.
    pub fn last_refusals(&self) -> Vec<Refused> {
        lock(&self.last_refusals).iter().cloned().collect()
    }

    /// Whether the source's rate has room for one more.
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

/// Lets through a second's worth at once.
fn limiter(rate: Rate) -> DefaultDirectRateLimiter {
    let quota = Quota::with_period(rate.interval()).expect("an interval is never zero");
    let burst = u32::try_from(rate.within(std::time::Duration::from_secs(1))).ok().and_then(std::num::NonZeroU32::new);
    RateLimiter::direct(quota.allow_burst(burst.unwrap_or(std::num::NonZeroU32::MIN)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds what is remembered of a source")
}

/// What is remembered of all sources.
pub struct Watches {
    by_source: Mutex<HashMap<SourceId, Arc<Watch>>>,
    floods: Mutex<Vec<Bucket>>,
    /// Makes it unpredictable who shares a bucket.
    seed: RandomState,
}

/// How many more refusals a caller may have, and as of when.
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
        // A whole network of that kind is usually one person's.
        let caller = match caller {
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
            v4 => v4,
        };
        let hash = self.seed.hash_one((source, caller));
        usize::try_from(hash % BUCKETS as u64).expect("there are few buckets")
    }

    /// Whether a caller has been refused so often that it is not even listened to. `now` is the steady clock.
    pub fn is_flooding(&self, source: SourceId, caller: IpAddr, now: Timestamp) -> bool {
        let place = self.place(source, caller);
        lock(&self.floods)[place].filled(now).left < 1.0
    }

    /// Notes a refusal. `now` is the steady clock.
    pub fn refuse(&self, source: (SourceId, &str), refused: Refused, now: Timestamp) {
        let place = self.place(source.0, refused.address);
        // Whoever is only too fast has proved itself.
        if !["rate", "flood", "depth"].contains(&refused.reason) {
            let mut floods = lock(&self.floods);
            let bucket = floods[place].filled(now);
            floods[place] = Bucket { left: (bucket.left - 1.0).max(0.0), ..bucket };
        }
        self.of(source.0).note_refused(source.1, refused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: IpAddr, detail: &str) -> Refused {
        Refused { at: Timestamp::from_millis(1), address, reason: "mismatch", detail: detail.to_owned() }
    }

    #[test]
    fn whoever_is_refused_again_and_again_is_not_listened_to_for_a_while() {
        let watches = Watches::default();
        let (source, other) = (SourceId::from_i64(1), SourceId::from_i64(2));
        let at = |seconds: u64| Timestamp::from_millis(1_000_000).plus(std::time::Duration::from_secs(seconds));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (bad, near) = (address("2001:db8::1"), address("2001:db8::ffff"));
        for n in 0..30 {
            assert!(!watches.is_flooding(source, bad, at(0)), "{n}");
            watches.refuse((source, "shop"), refused(bad, &n.to_string()), at(0));
        }
        assert!(watches.is_flooding(source, bad, at(0)) && watches.is_flooding(source, near, at(0)));
        // Another place, unless chance has it that they share one.
        if watches.place(source, bad) != watches.place(other, bad) {
            assert!(!watches.is_flooding(other, bad, at(0)));
        }
        assert!(!watches.is_flooding(source, bad, at(1)), "one more each second");
        let watch = watches.of(source);
        let last: Vec<_> = watch.last_refusals().into_iter().map(|one| one.detail).collect();
        assert_eq!((last.len(), last[0].as_str(), watch.refused()), (REFUSALS_MAX, "29", 30));
        watches.forget(source);
        assert_eq!(watches.of(source).refused(), 0);
    }

    #[test]
    fn a_rate_has_room_for_its_second() {
        let watch = Watch::default();
        let rate = Rate::parse("2/s").ok();
        assert!(watch.has_room(rate) && watch.has_room(rate) && !watch.has_room(rate));
        assert!(watch.has_room(None));
        assert!(watch.has_room(Rate::parse("1/h").ok()), "a new rate begins anew");
    }
}
