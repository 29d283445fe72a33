//! Work whose time grows with the bytes of a request: parsing, verifying, searching. It must not delay other connections.
//!
//! A thread that serves sockets alternates between its connections. Work of more than about 1 ms delays every other connection of
//! the thread, so it runs through [`Heavy::run`] and nowhere else. Small bodies stay on their thread, because moving them costs
//! more than it saves.
//!
//! Reading a large body also needs a permit ([`Heavy::permit`]): without a limit, copying large bodies out of their sockets could
//! occupy every thread that serves sockets. Reading and work share the permits, so large bodies of all callers together occupy at
//! most half of the cores.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{Semaphore, SemaphorePermit},
    task::block_in_place,
};

use super::error::Problem;

/// Up to this size the slowest parser of a body (XML, at about 100 MB/s) needs less than 1 ms.
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// Maximum size of all bodies that wait or run, in bytes. At 50 MB/s the last of them waits less than 3 s.
const WAITING_BYTES_MAX: usize = 128 << 20;
/// Size of the pieces in which memory is reserved, in bytes.
const PIECE: usize = 4 << 10;

/// Permits for heavy work.
pub struct Heavy {
    permits: Semaphore,
    room: Semaphore,
}

impl Default for Heavy {
    /// Creates permits for half of the cores. The other half continues to serve sockets.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { permits: Semaphore::new((cores / 2).max(1)), room: Semaphore::new(WAITING_BYTES_MAX / PIECE) }
    }
}

impl Heavy {
    /// Runs `work`, which reads `bytes` bytes, without delaying other connections.
    ///
    /// The caller drops the result on the thread that serves sockets, so `work` should return little.
    ///
    /// # Errors
    /// [`Problem::come_back`] if [`WAITING_BYTES_MAX`] bytes are already waiting; then `work` does not run.
    pub async fn run<T>(&self, bytes: usize, work: impl FnOnce() -> T) -> Result<T, Problem> {
        if bytes <= INLINE_BYTES_MAX {
            return Ok(work());
        }
        let pieces = bytes.min(WAITING_BYTES_MAX).div_ceil(PIECE);
        let pieces = u32::try_from(pieces).expect("all pieces together fit");
        let _room = self.room.try_acquire_many(pieces).map_err(|_| {
            let all = WAITING_BYTES_MAX >> 20;
            Problem::come_back(format!("bodies of {all} MiB together are waiting to be read; try again in a second"))
        })?;
        let _permit = self.permit().await;
        Ok(match Handle::current().runtime_flavor() {
            // Moves the other connections of this thread to another thread first.
            RuntimeFlavor::MultiThread => block_in_place(work),
            // A runtime with one thread cannot move connections. Only tests have one.
            _ => work(),
        })
    }

    /// Waits for a permit to work on a large body. Callers get permits in the order of their requests.
    pub async fn permit(&self) -> SemaphorePermit<'_> {
        self.permits.acquire().await.expect("the semaphore is never closed")
    }

    #[cfg(test)]
    pub fn free_permits(&self) -> usize {
        self.permits.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        time::Duration,
    };

    use super::*;

    const LARGE: usize = INLINE_BYTES_MAX + 1;
    /// Deadline for results that are due immediately.
    const DEADLINE: Duration = Duration::from_secs(30);

    #[test]
    fn other_tasks_run_while_heavy_work_does() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, receiver) = mpsc::channel();
        let heard = runtime.block_on(async {
            let heavy = tokio::spawn(async move { Heavy::default().run(LARGE, move || receiver.recv_timeout(DEADLINE)).await });
            // This task runs on the only thread, while the work above waits for it.
            tokio::spawn(async move { sender.send("served") }).await.unwrap().unwrap();
            heavy.await.unwrap()
        });
        assert_eq!(heard.expect("there is room"), Ok("served"));
    }

    #[tokio::test]
    async fn permits_bound_concurrent_work() {
        let heavy = Arc::new(Heavy::default());
        let all = u32::try_from(heavy.permits.available_permits()).unwrap();
        let taken = heavy.permits.acquire_many(all).await.unwrap();
        let waits = Arc::clone(&heavy);
        let waits = tokio::spawn(async move { waits.run(LARGE, || ()).await.is_ok() });
        while heavy.room.available_permits() == WAITING_BYTES_MAX / PIECE {
            tokio::task::yield_now().await;
        }
        assert!(!waits.is_finished());
        assert_eq!(heavy.run(INLINE_BYTES_MAX, || 7).await.ok(), Some(7), "small bodies need no permit");
        drop(taken);
        assert!(waits.await.unwrap());
        assert_eq!(heavy.room.available_permits(), WAITING_BYTES_MAX / PIECE, "all memory is free afterwards");
    }

    #[tokio::test]
    async fn waiting_bodies_are_bounded_in_bytes() {
        let heavy = Heavy::default();
        let taken = heavy.room.try_acquire_many(u32::try_from(WAITING_BYTES_MAX / PIECE).unwrap()).unwrap();
        let refused = heavy.run(LARGE, || panic!("must not run")).await.expect_err("there is no room");
        assert!(refused.is_ours() && refused.detail().contains("128 MiB"), "{refused:?}");
        drop(taken);
        assert!(heavy.run(WAITING_BYTES_MAX * 2, || ()).await.is_ok(), "a body larger than the limit is read alone");
    }
}
