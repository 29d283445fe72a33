//! Checkpoints: a dedicated thread copies the write-ahead log into the database file, beside the commits. Left to SQLite, the commit
//! that fills the log would copy 64 MB while every caller waits.
//!
//! SQLite can restart the log only when all of it is copied, which never happens under load while another thread writes. Once the log
//! is long, the writing thread therefore copies the small rest that this thread left. SQLite syncs the file only then, in one piece;
//! this thread syncs its part before, through its own file handle, so the writing thread does not wait for it. That handle is closed
//! after everything else: closing any handle of a file drops all of the process's locks on it.

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

/// Pages (of 4 KiB) by which the log grows between two checkpoints. More of them, and a page that changes often is carried over more often.
const CARRIED_AT: i32 = 4_000;
/// Pages from which on it is to begin anew: 64 MB.
const BEGINS_ANEW_AT: i32 = 16_000;

thread_local! {
    /// Pages in the log after the last commit of this thread.
    static LOGGED: Cell<i32> = const { Cell::new(0) };
}

/// The writing thread's side.
pub struct Checkpoints {
    wake: mpsc::SyncSender<()>,
    /// The other thread is at it.
    busy: Arc<AtomicBool>,
    /// Pages that the log had at the last checkpoint.
    last: i32,
    /// What is left when the other thread has ended is to be carried over here.
    finishes: bool,
}

impl Checkpoints {
    /// `writing` is the connection that writes; `own` is the other thread's connection to the same `file`, which is closed after it.
    pub fn start(writing: &Connection, own: Connection, file: Arc<File>) -> std::io::Result<Self> {
        writing.wal_hook(Some(|_, pages| {
            LOGGED.set(pages);
            Ok(())
        }));
        let (wake, woken) = mpsc::sync_channel(1);
        let busy = Arc::new(AtomicBool::new(false));
        let at_it = Arc::clone(&busy);
        thread::Builder::new().name("checkpoints".into()).spawn(move || {
            for () in woken {
                // Twice: while it carries over and syncs what there is, a little more is written.
                for _ in 0..2 {
                    carry_over(&own);
                    // If this fails, the sync at the end of the log says so.
                    let _ = file.sync_data();
                }
                at_it.store(false, Ordering::Release);
            }
            drop(own);
            drop(file);
        })?;
        Ok(Self { wake, busy, last: 0, finishes: false })
    }

    /// To be called after each commit, outside a transaction.
    pub fn committed(&mut self, writing: &Connection) {
        let pages = LOGGED.get();
        if pages < self.last {
            self.last = 0;
        }
        if self.busy.load(Ordering::Acquire) {
            return;
        }
        if std::mem::take(&mut self.finishes) {
            carry_over(writing);
        } else if pages - self.last >= CARRIED_AT {
            self.last = pages;
            self.finishes = pages >= BEGINS_ANEW_AT;
            self.busy.store(true, Ordering::Release);
            // The other thread ends only when this side is gone.
            let _ = self.wake.try_send(());
        }
    }
}

/// Does not wait: pages that a reader still needs stay for the next time.
fn carry_over(db: &Connection) {
    if let Err(error) = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        tracing::warn!(%error, "the store's log could not be carried over into its file and grows; it is tried again");
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_log_begins_anew_however_much_is_written() {
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
            // Always the same 400 pages.
            writing.execute("INSERT OR REPLACE INTO a VALUES (1, zeroblob(1600000))", []).unwrap();
            checkpoints.committed(&writing);
            let pages = LOGGED.get();
            longest = longest.max(pages);
            anew += i32::from(pages < before);
            before = pages;
            assert!(Instant::now() < until, "the log has {pages} pages");
        }
        assert!(longest >= BEGINS_ANEW_AT, "it began anew at {longest} pages");
    }
}
