//! Connections that read beside the writer. Each read runs in a transaction that sees one snapshot.

use std::{
    fs::File,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::connect;
use crate::store::Error;

/// Number of steps of SQLite's virtual machine between two checks of the time. They take less than a millisecond.
const STEPS_UNTIMED: i32 = 10_000;

/// A pool of reading connections.
#[derive(Clone)]
pub struct Readers {
    free: Arc<Mutex<Free>>,
    permits: Arc<Semaphore>,
}

/// Connections that are not in use. The file handle is closed after the connections, because on Unix, closing any handle of a file
/// releases every lock that the process has on this file.
struct Free {
    connections: Vec<Connection>,
    _file: Arc<File>,
}

impl Readers {
    /// Opens `count` connections. `handle` must be a handle of the same file.
    pub fn open(file: &Path, handle: &Arc<File>, count: usize) -> Result<Self, Error> {
        let connections = (0..count).map(|_| connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            free: Arc::new(Mutex::new(Free { connections, _file: Arc::clone(handle) })),
            permits: Arc::new(Semaphore::new(count)),
        })
    }

    /// Reads with the next free connection. Ends with [`Error::TooSlow`] after `time_max`.
    pub async fn read<T: Send + 'static>(
        &self,
        time_max: Option<Duration>,
        work: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
        let free = Arc::clone(&self.free);
        let reading = tokio::task::spawn_blocking(move || {
            let lock = || free.lock().expect("no code panics while it holds the readers");
            let db = lock().connections.pop().expect("as many connections as permits");
            if let Some(time_max) = time_max {
                let began = Instant::now();
                db.progress_handler(STEPS_UNTIMED, Some(move || began.elapsed() > time_max))?;
            }
            // A transaction sees one snapshot: if a row moves between tables at the same time, it is seen in exactly one of them.
            let result = db.unchecked_transaction().map_err(Error::from).and_then(|moment| work(&moment));
            db.progress_handler(0, None::<fn() -> bool>)?;
            lock().connections.push(db);
            drop(permit);
            if let Err(error @ (Error::Unavailable(_) | Error::Internal(_))) = &result {
                tracing::error!(%error, "store could not be read");
            }
            result
        });
        reading.await.map_err(|error| Error::Internal(error.to_string()))?
    }
}
