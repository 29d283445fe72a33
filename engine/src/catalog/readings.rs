//! Readings of the configuration that requests share.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// Readings of one part of the configuration, one at a time, so that an older reading never replaces a newer one.
#[derive(Default)]
pub struct Readings {
    /// Number of the last request for a reading.
    requested: AtomicU64,
    /// Number of the last request that a reading covers.
    covered: Mutex<u64>,
}

impl Readings {
    /// Returns once a reading has ended that began after this call. Requests that wait together share one reading, because each of
    /// them has committed its change before.
    ///
    /// # Errors
    /// If this request's own reading fails. The requests that wait then read again.
    pub async fn share<E>(&self, read: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let number = self.requested.fetch_add(1, Ordering::SeqCst) + 1;
        let mut covered = self.covered.lock().await;
        if *covered < number {
            let last = self.requested.load(Ordering::SeqCst);
            read.await?;
            *covered = last;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{sync::Notify, task::JoinSet};

    use super::*;

    #[tokio::test]
    async fn requests_that_wait_together_share_a_reading_that_begins_after_them() {
        let (readings, begun, release) = (Arc::new(Readings::default()), Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let request = |fails: bool| {
            let (readings, begun, release) = (Arc::clone(&readings), Arc::clone(&begun), Arc::clone(&release));
            async move {
                let reading = async {
                    begun.fetch_add(1, Ordering::SeqCst);
                    release.notified().await;
                    if fails { Err("away") } else { Ok(()) }
                };
                readings.share(reading).await
            }
        };
        let mut requests = JoinSet::new();
        requests.spawn(request(true));
        while begun.load(Ordering::SeqCst) < 1 {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            requests.spawn(request(false));
        }
        while readings.requested.load(Ordering::SeqCst) < 11 {
            tokio::task::yield_now().await;
        }
        release.notify_one();
        assert_eq!(requests.join_next().await.unwrap().unwrap(), Err("away"));
        release.notify_one();
        assert!(requests.join_all().await.iter().all(Result::is_ok));
        assert_eq!(begun.load(Ordering::SeqCst), 2, "the first reading began before the ten requests");
    }
}
