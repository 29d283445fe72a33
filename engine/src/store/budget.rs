//! A budget of bytes in memory. Callers reserve bytes, wait while the budget is full, and give the bytes back by dropping a
//! [`Room`].

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that may be held at once. Callers are served in the order of their requests, so small reservations never starve a large
/// one.
pub struct Budget {
    permits: Arc<Semaphore>,
    limit: usize,
    items: AtomicUsize,
    bytes: AtomicUsize,
}

impl Budget {
    /// # Panics
    ///
    /// If the limit is 4 GiB or more.
    pub fn new(limit: usize) -> Arc<Self> {
        assert!(u32::try_from(limit).is_ok() && limit <= Semaphore::MAX_PERMITS, "a budget is smaller than 4 GiB");
        Arc::new(Self { permits: Arc::new(Semaphore::new(limit)), limit, items: AtomicUsize::new(0), bytes: AtomicUsize::new(0) })
    }

    /// Waits until `bytes` are free, and reserves them. A reservation larger than the whole budget is served when nothing else is
    /// reserved. Returns `None` once the budget is closed.
    pub async fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let bytes = bytes.min(self.limit);
        let permits = u32::try_from(bytes).expect("a budget is smaller than 4 GiB");
        let permit = Arc::clone(&self.permits).acquire_many_owned(permits).await.ok()?;
        self.items.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Room { budget: Arc::clone(self), bytes, _permit: permit })
    }

    /// Ends all present and future waits. Their callers get no reservation.
    pub fn close(&self) {
        self.permits.close();
    }

    /// Returns the number of reservations, their bytes, and the limit in bytes.
    pub fn occupancy(&self) -> (usize, usize, usize) {
        // These numbers are not computed from the semaphore's free permits, because the semaphore already sets some permits aside
        // for the next caller.
        (self.items.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed), self.limit)
    }
}

/// Reserved bytes. Dropping this gives them back.
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

    /// Polls once.
    fn now<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn serves_waiting_callers_in_order() {
        let budget = Budget::new(100);
        let first = now(pin!(budget.reserve(60))).flatten().expect("there is room");
        let mut large = pin!(budget.reserve(80));
        assert!(now(large.as_mut()).is_none(), "the bytes exceed the budget");
        let mut small = pin!(budget.reserve(1));
        assert!(now(small.as_mut()).is_none(), "a small reservation does not overtake a large one");
        assert_eq!(budget.occupancy(), (1, 60, 100));
        drop(first);
        let large = now(large).flatten().expect("there is room again");
        assert!(now(small.as_mut()).is_some());
        drop(large);
    }

    #[test]
    fn serves_a_reservation_larger_than_the_budget_alone() {
        let budget = Budget::new(100);
        let small = now(pin!(budget.reserve(1))).flatten().expect("there is room");
        let mut huge = pin!(budget.reserve(1 << 40));
        assert!(now(huge.as_mut()).is_none(), "it is not served while another reservation exists");
        drop(small);
        let huge = now(huge).flatten().expect("alone it passes");
        assert_eq!(budget.occupancy(), (1, 100, 100));
        assert!(now(pin!(budget.reserve(1))).is_none());
        drop(huge);
        assert_eq!(budget.occupancy(), (0, 0, 100));
    }

    #[test]
    fn ends_waits_when_it_is_closed() {
        let budget = Budget::new(1);
        let _held = now(pin!(budget.reserve(1))).flatten().expect("there is room");
        let mut waits = pin!(budget.reserve(1));
        assert!(now(waits.as_mut()).is_none());
        budget.close();
        assert!(now(waits).expect("it is answered").is_none(), "the wait ends without a reservation");
    }
}
