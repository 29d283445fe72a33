//! Counts each source's requests (accepted, refused, the last refusals with reasons), and limits their rate.
//!
//! New counts stay in bounded memory and are added to the store every second. A crash loses at most the counts of the last
//! second. The store holds the sum over all nodes.
//!
//! A caller that is refused too often is limited per source and address, in a table of fixed size with a random seed. A flood
//! affects only its own address, and no caller can choose the other callers with which it shares a table entry.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    api::body::Room,
    domain::{
        id::SourceId,
        rate::Rate,
        source::{Refused, Requests},
        time::Timestamp,
    },
    metrics::meters,
    store::{Error, Store},
};

/// How often new counts are added to the store.
const EVERY: Duration = Duration::from_secs(1);
/// Maximum length of a refusal's detail, in bytes.
const DETAIL_BYTES_MAX: usize = 1_000;
/// Maximum number of refusals that one caller may have at once. Then `PER_SECOND` more are allowed per second.
const BURST: f64 = 30.0;
const PER_SECOND: f64 = 1.0;
/// Number of table entries; if there are more callers, some share an entry.
const BUCKETS: usize = 4096;

/// The state of one source.
pub struct Watch {
    /// Memory for bodies to this source.
    pub room: Room,
    /// Requests of flooding callers are checked one by one.
    pub one_by_one: Semaphore,
    /// Requests that are not in the store yet.
    new: Mutex<Requests>,
    limiter: Mutex<Option<(Rate, Arc<DefaultDirectRateLimiter>)>>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { room: Room::of_source(), one_by_one: Semaphore::new(1), new: Mutex::default(), limiter: Mutex::default() }
    }
}

impl Watch {
    /// Counts an accepted request. `at` is the wall clock.
    pub fn note_accepted(&self, at: Timestamp, duplicate: bool) {
        let mut new = lock(&self.new);
        new.accepted += 1;
        new.duplicates += u64::from(duplicate);
        new.last_accepted = new.last_accepted.max(Some(at));
    }

    fn note_refused(&self, source: &str, reason: &'static str, refused: Refused) {
        meters().source_refused(source, reason);
        // The refusals of a flood are not listed, because they would displace the refusals before it.
        let refusals = if reason == "flood" { Vec::new() } else { vec![refused] };
        lock(&self.new).add(Requests { refused: 1, refusals, ..Requests::default() });
    }

    /// Takes back counts that could not be stored.
    fn give_back(&self, mut before: Requests) {
        let mut new = lock(&self.new);
        before.add(std::mem::take(&mut *new));
        *new = before;
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

/// Creates a limiter that allows as many requests at once as the rate allows in one second.
fn limiter(rate: Rate) -> DefaultDirectRateLimiter {
    let quota = Quota::with_period(rate.interval()).expect("an interval is never zero");
    let burst = u32::try_from(rate.within(Duration::from_secs(1))).ok().and_then(std::num::NonZeroU32::new);
    RateLimiter::direct(quota.allow_burst(burst.unwrap_or(std::num::NonZeroU32::MIN)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}

/// The state of all sources.
pub struct Watches {
    by_source: Mutex<HashMap<SourceId, Arc<Watch>>>,
    /// Held while counts move to the store, so that no reader misses them or sees them twice.
    moving: tokio::sync::Mutex<()>,
    floods: Mutex<Vec<Bucket>>,
    /// Makes it unpredictable which callers share an entry.
    seed: RandomState,
}

/// Number of refusals that a caller may still have, and when this number was computed.
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
            moving: tokio::sync::Mutex::default(),
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
        // A /64 network usually belongs to one person.
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

    /// Takes a charge back, because the request was not refused or its refusal does not count.
    pub fn refund(&self, charge: Charge) {
        let mut floods = lock(&self.floods);
        let bucket = &mut floods[charge.place];
        bucket.left = (bucket.left + charge.paid).min(BURST);
    }

    /// Records a refusal. `reason` is one of [`super::REASONS`].
    pub fn refuse(&self, source: (SourceId, &str), (caller, at): (IpAddr, Timestamp), reason: &'static str, detail: &str) {
        let detail = detail[..detail.floor_char_boundary(DETAIL_BYTES_MAX)].to_owned();
        let refused = Refused { at, address: caller, reason: reason.into(), detail };
        meters().tally.source_refused(source.0);
        self.of(source.0).note_refused(source.1, reason, refused);
    }

    /// Returns the requests of each source since it was created: those in the store and the new ones of this node.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn requests(&self, store: &dyn Store) -> Result<HashMap<SourceId, Requests>, Error> {
        let _still = self.moving.lock().await;
        let mut all = store.source_requests().await?;
        for (source, watch) in lock(&self.by_source).iter() {
            let new = lock(&watch.new).clone();
            if !new.is_empty() {
                all.entry(*source).or_default().add(new);
            }
        }
        Ok(all)
    }

    /// Adds the new counts to the store, every second and once more when the engine stops.
    pub async fn write(&self, store: &dyn Store, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            if let Err(error) = self.write_new(store).await {
                tracing::debug!(%error, "counts of requests to sources not stored; retrying");
            }
        }
        if let Err(error) = self.write_new(store).await {
            tracing::warn!(%error, "last counts of requests to sources not stored");
        }
    }

    async fn write_new(&self, store: &dyn Store) -> Result<(), Error> {
        let _still = self.moving.lock().await;
        let take = |(source, watch): (&SourceId, &Arc<Watch>)| (*source, std::mem::take(&mut *lock(&watch.new)));
        let new: Vec<_> = lock(&self.by_source).iter().map(take).filter(|(_, new)| !new.is_empty()).collect();
        if new.is_empty() {
            return Ok(());
        }
        let stored = store.add_source_requests(new.clone()).await;
        if stored.is_err() {
            new.into_iter().for_each(|(source, new)| self.of(source).give_back(new));
        }
        stored
    }
}

/// A caller's charge for one request. A charge that is not refunded counts as a refusal, even if the caller hung up.
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
    use crate::domain::source::REFUSALS_MAX;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000).plus(Duration::from_secs(seconds))
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
            watches.refuse((source, "shop"), (bad, at(n)), "mismatch", &n.to_string());
        }
        assert!(floods(source, bad, at(0)) && floods(source, near, at(0)));
        // The caller has another table entry for the other source, unless both hash to the same place by chance.
        if watches.place(source, bad) != watches.place(other, bad) {
            assert!(!floods(other, bad, at(0)));
        }
        assert!(!floods(source, bad, at(1)), "a limited caller has one more refusal per second");
        let watch = watches.of(source);
        let new = lock(&watch.new).clone();
        assert_eq!((new.refusals.len(), new.refusals[0].detail.as_str(), new.refused), (REFUSALS_MAX, "29", 30));
        watches.forget(source);
        assert!(lock(&watches.of(source).new).is_empty());
    }

    #[test]
    fn requests_under_way_count_until_they_are_accepted() {
        let (watches, source, caller) = (Watches::default(), SourceId::from_i64(1), address("192.0.2.1"));
        let mut under_way: Vec<Charge> = (0..30).map(|_| watches.charge(source, caller, at(0))).collect();
        assert!(under_way.iter().all(|charge| !charge.is_flooding));
        let one_more = watches.charge(source, caller, at(0));
        assert!(one_more.is_flooding);
        watches.refund(one_more);
        assert!(watches.charge(source, caller, at(0)).is_flooding, "no more is taken back than was charged");
        under_way.drain(..).for_each(|charge| watches.refund(charge));
        assert!((0..30).all(|_| !watches.charge(source, caller, at(0)).is_flooding), "every charge is taken back");
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
