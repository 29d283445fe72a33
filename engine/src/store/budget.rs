//! A bound in bytes on what may wait at once. Callers reserve before they hand on, wait while it is full, and give back with the drop.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that may be held at once. Served in the order of asking, so that many small things never keep a large one out.
pub struct Budget {
    permits: Arc<Semaphore>,
    limit: usize,
    items: AtomicUsize,
    bytes: AtomicUsize,
}

impl Budget {
    /// # Panics
    /// A limit of 4 GiB or more is a mistake.
    pub fn new(limit: usize) -> Arc<Self> {
        assert!(u32::try_from(limit).is_ok() && limit <= Semaphore::MAX_PERMITS, "a budget is smaller than 4 GiB");
        Arc::new(Self { permits: Arc::new(Semaphore::new(limit)), limit, items: AtomicUsize::new(0), bytes: AtomicUsize::new(0) })
    }

    /// Waits for room for one thing of `bytes`. One that is larger than the whole budget passes alone. `None` once the budget is closed.
    pub async fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let bytes = bytes.min(self.limit);
        let permits = u32::try_from(bytes).expect("a budget is smaller than 4 GiB");
        let permit = Arc::clone(&self.permits).acquire_many_owned(permits).await.ok()?;
        self.items.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Room { budget: Arc::clone(self), bytes, _permit: permit })
    }

    /// Lets everybody who waits go away without room, now and later.
    pub fn close(&self) {
        self.permits.close();
    }

    /// Things and bytes that are held, and the bytes that may be held.
    pub fn occupancy(&self) -> (usize, usize, usize) {
        // Not by what the semaphore has left: it reserves what it has for the caller that is next.
        (self.items.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed), self.limit)
    }
}

/// Reserved bytes. Dropping it gives them back.
pub struct Room {
    budget: Arc<Budget>,
    bytes: usize,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.items.fetch_sub(1, Ordering::Relaxed);
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    /// Asks once, as a runtime would.
    fn now<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn waits_while_it_is_full_and_is_served_in_order() {
        let budget = Budget::new(100);
        let first = now(pin!(budget.reserve(60))).flatten().expect("there is room");
        let mut large = pin!(budget.reserve(80));
        assert!(now(large.as_mut()).is_none(), "it would be too much");
        let mut small = pin!(budget.reserve(1));
        assert!(now(small.as_mut()).is_none(), "a small one does not overtake a large one");
        assert_eq!(budget.occupancy(), (1, 60, 100));
        drop(first);
        let large = now(large).flatten().expect("there is room again");
        assert!(now(small.as_mut()).is_some());
        drop(large);
    }

    #[test]
    fn what_is_larger_than_all_of_it_passes_alone() {
        let budget = Budget::new(100);
        let small = now(pin!(budget.reserve(1))).flatten().expect("there is room");
        let mut huge = pin!(budget.reserve(1 << 40));
        assert!(now(huge.as_mut()).is_none(), "not beside another");
        drop(small);
        let huge = now(huge).flatten().expect("alone it passes");
        assert_eq!(budget.occupancy(), (1, 100, 100));
        assert!(now(pin!(budget.reserve(1))).is_none());
        drop(huge);
        assert_eq!(budget.occupancy(), (0, 0, 100));
    }

    #[test]
    fn nobody_waits_for_a_closed_one() {
        let budget = Budget::new(1);
        let _held = now(pin!(budget.reserve(1))).flatten().expect("there is room");
        let mut waits = pin!(budget.reserve(1));
        assert!(now(waits.as_mut()).is_none());
        budget.close();
        assert!(now(waits).expect("it is answered").is_none(), "without room");
    }
}
