//! Checkpoints: a dedicated thread copies the write-ahead log into the database file, beside the commits. Otherwise SQLite would
//! copy 64 MB in the commit that fills the log, while every caller waits.
//!
//! SQLite can restart the log only when all of it is copied. Under load, the dedicated thread never gets that far, because the
//! writing thread keeps adding pages. So once the log is long, the writing thread itself copies the small rest. Only then does
//! SQLite sync the database file as a whole. By then the dedicated thread has synced the pages that it copied, through a separate
//! file handle, so the writing thread need not wait for them. That handle is closed last: closing any handle of a file drops all
//! locks that the process has on it.

use std::{
    cell::Cell,
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use rusqlite::Connection;

use crate::threads;

/// Number of pages (of 4 KiB) by which the log grows between two checkpoints. If this is larger, each checkpoint takes longer. If
/// this is smaller, pages that change often are copied more often.
const CHECKPOINT_AT: i32 = 4_000;
/// Length of the log, in pages, at which it must restart: 64 MB.
const RESTART_AT: i32 = 16_000;

thread_local! {
    /// Pages in the log after this thread's last commit.
    static LOGGED: Cell<i32> = const { Cell::new(0) };
}

/// The writing thread's handle to the checkpoints.
pub struct Checkpoints {
    wake: mpsc::SyncSender<()>,
    /// Whether the dedicated thread is copying.
    busy: Arc<AtomicBool>,
    /// Pages that the log had at the last checkpoint.
    last: i32,
    /// Whether the writing thread must copy the rest after the dedicated thread has finished.
    finishes: bool,
    thread: Option<thread::JoinHandle<()>>,
}

impl Checkpoints {
    /// Starts the thread. `writing` is the connection that writes. `own` is the new thread's connection to the same file. The
    /// handle `file` is closed after this connection.
    pub fn start(writing: &Connection, own: Connection, file: Arc<File>) -> std::io::Result<Self> {
        writing.wal_hook(Some(|_, pages| {
            LOGGED.set(pages);
            Ok(())
        }));
        let (wake, woken) = mpsc::sync_channel(1);
        let busy = Arc::new(AtomicBool::new(false));
        let at_it = Arc::clone(&busy);
        let thread = threads::spawn("checkpoints", move || {
            for () in woken {
                // Copies and syncs twice, because the writer adds a few pages during the first copy.
                for _ in 0..2 {
                    checkpoint(&own);
                    // If this fails, the sync at the end of the log reports the error.
                    let _ = file.sync_data();
                }
                at_it.store(false, Ordering::Release);
            }
            drop(own);
            drop(file);
        })?;
        Ok(Self { wake, busy, last: 0, finishes: false, thread: Some(thread) })
    }

    /// Must be called after each commit, outside a transaction.
    pub fn committed(&mut self, writing: &Connection) {
        let pages = LOGGED.get();
        if pages < self.last {
            self.last = 0;
        }
        if self.busy.load(Ordering::Acquire) {
            return;
        }
        if std::mem::take(&mut self.finishes) {
            checkpoint(writing);
        } else if pages - self.last >= CHECKPOINT_AT {
            self.last = pages;
            self.finishes = pages >= RESTART_AT;
            self.busy.store(true, Ordering::Release);
            // The result is ignored, because the dedicated thread ends only when this value is dropped.
            let _ = self.wake.try_send(());
        }
    }
}

impl Drop for Checkpoints {
    /// Waits for the thread: closing its connection may write to the file, and a closed store must not change any more.
    fn drop(&mut self) {
        // Closing the channel ends the thread.
        self.wake = mpsc::sync_channel(1).0;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread would have ended the process.
            let _ = thread.join();
        }
    }
}

/// Copies pages without waiting. Pages that cannot be copied yet, because a reader still needs older ones, stay for the next
/// checkpoint.
fn checkpoint(db: &Connection) {
    if let Err(error) = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        tracing::warn!(%error, "checkpoint failed: the store's log grows until a later checkpoint succeeds");
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_log_restarts_under_constant_writes() {
        let folder = tempfile::tempdir().unwrap();
        let connect = || Connection::open(folder.path().join("a.db")).unwrap();
        let writing = connect();
        writing
            .execute_batch(
                "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0;
                 CREATE TABLE a (id INTEGER PRIMARY KEY, b BLOB)",
            )
            .unwrap();
        let file = Arc::new(File::open(folder.path().join("a.db")).unwrap());
        let mut checkpoints = Checkpoints::start(&writing, connect(), file).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let (mut longest, mut anew, mut before) = (0, 0, 0);
        while anew < 2 {
            // Changes the same 400 pages each time.
            writing.execute("INSERT OR REPLACE INTO a VALUES (1, zeroblob(1600000))", []).unwrap();
            checkpoints.committed(&writing);
            let pages = LOGGED.get();
            longest = longest.max(pages);
            anew += i32::from(pages < before);
            before = pages;
            assert!(Instant::now() < until, "the log has {pages} pages");
        }
        assert!(longest >= RESTART_AT, "it restarted at {longest} pages");
    }
}
