//! The wake-up of the claimer: when to ask the store for due work that has no lease.
//!
//! The claimer waits until the earliest instant that was set, or until a queue of the hand-off has room again. A lost wake-up
//! delays work by one poll interval, but loses no event.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::{clock, domain::time::Timestamp};

/// An alarm clock with one waiter.
pub struct Alarm {
    room: Arc<Notify>,
    /// Steady clock, ms. `i64::MAX` means not set.
    at: AtomicI64,
    /// Whether due work waits because earlier work with the same ordering key is not finished.
    held_back: AtomicBool,
}

impl Alarm {
    /// Creates an alarm that is not set. `room` is notified when a queue of the hand-off has room again.
    pub(super) fn new(room: Arc<Notify>) -> Self {
        Self { room, at: AtomicI64::new(i64::MAX), held_back: AtomicBool::new(false) }
    }

    /// Sets the alarm to `due`, the time at which a row without a lease becomes due. An earlier instant that is already set
    /// stays.
    pub fn set(&self, due: Timestamp) {
        if self.at.fetch_min(due.millis(), Ordering::SeqCst) > due.millis() {
            self.room.notify_one();
        }
    }

    /// Records whether due work waits because earlier work with the same ordering key is not finished.
    pub fn hold_back(&self, held_back: bool) {
        self.held_back.store(held_back, Ordering::SeqCst);
    }

    /// Returns whether due work waits because earlier work with the same ordering key is not finished.
    pub fn holds_back(&self) -> bool {
        self.held_back.load(Ordering::SeqCst)
    }

    /// Reports that a row is finished. Wakes the claimer if due work was held back, because that work may now be claimable.
    pub fn let_go(&self) {
        if self.held_back.swap(false, Ordering::SeqCst) {
            self.set(clock::steady());
        }
    }

    /// Sets the alarm like [`Self::set`], but does not wake the waiter. Only the waiter itself calls this.
    pub fn arm(&self, due: Timestamp) {
        self.at.fetch_min(due.millis(), Ordering::SeqCst);
    }

    /// Clears the alarm. The caller then asks the store for due work.
    pub fn clear(&self) {
        self.at.store(i64::MAX, Ordering::SeqCst);
    }

    /// Waits until the alarm is due, is set to an earlier instant, or `longest` has passed.
    pub async fn wait(&self, longest: Duration) {
        let due = Timestamp::from_millis(self.at.load(Ordering::SeqCst));
        let wait = due.since(clock::steady()).min(longest);
        // The caller asks the store after a notification and after a timeout, so a timeout needs no handling.
        let _ = tokio::time::timeout(wait, self.room.notified()).await;
    }

    /// Waits until a queue has room again, but no longer than `longest`. The claimer calls this when the queues have no room for
    /// due work.
    pub async fn wait_for_room(&self, longest: Duration) {
        let _ = tokio::time::timeout(longest, self.room.notified()).await;
    }
}
