//! The current master key and its replacement.

use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{Error, KeyFile, Seal};

/// Uses and replaces the master key.
#[async_trait]
pub trait Secrets {
    /// Encrypts a value so that every engine on this store can decrypt it, but only for the same `context`, which names the
    /// purpose of the value.
    ///
    /// # Errors
    /// [`Error::Sealed`] if the system provides no random bytes.
    fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, Error>;

    /// Decrypts a value of [`Self::seal`], on any node. Returns `None` if the value was changed, or was sealed for another context
    /// or by another store. After a change of the master key, values sealed with the old key open until the node restarts.
    fn unseal(&self, context: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>>;

    /// Seals every secret under a new master key, then replaces the file of the old key.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a secret cannot be opened; [`Error::Sealed`] if the key file cannot be written. The old key
    /// then stays current.
    async fn reseal(&self) -> Result<(), Error>;
}

/// The master keys of an open store, the current one first. A replaced key stays, because a reader may still hold rows that were
/// sealed with that key.
pub struct Seals {
    file: KeyFile,
    keys: RwLock<Vec<Arc<Seal>>>,
}

impl Seals {
    pub fn new(file: KeyFile, seal: Seal) -> Self {
        Self { file, keys: RwLock::new(vec![Arc::new(seal)]) }
    }

    pub fn file(&self) -> &KeyFile {
        &self.file
    }

    /// Returns the current key.
    pub fn current(&self) -> Arc<Seal> {
        Arc::clone(&self.all()[0])
    }

    /// Returns every key that may open a stored secret.
    pub fn all(&self) -> Vec<Arc<Seal>> {
        self.keys.read().expect("no code panics while it holds the keys").clone()
    }

    /// Decrypts a value that was sealed with any of the keys.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.all().iter().find_map(|key| key.open(context, sealed))
    }

    /// Lets readers open secrets that `next` seals. Called before the commit, so that no reader finds a secret that it cannot
    /// open.
    pub fn announce(&self, next: &Arc<Seal>) {
        let mut keys = self.keys.write().expect("no code panics while it holds the keys");
        keys.push(Arc::clone(next));
    }

    /// Makes a key current. The others stay for readers.
    pub fn put_in_force(&self, seal: Arc<Seal>) {
        let mut keys = self.keys.write().expect("no code panics while it holds the keys");
        keys.retain(|key| !Arc::ptr_eq(key, &seal));
        keys.insert(0, seal);
    }

    /// Makes the key of the resealed store current, and replaces the file of the old key.
    pub fn commit(&self, seal: Arc<Seal>) {
        self.put_in_force(seal);
        if let Err(error) = self.file.finish_change() {
            tracing::error!(%error, "master key file not replaced; the next start replaces it with the new key beside it");
        }
    }
}
