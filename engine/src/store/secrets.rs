//! The master key in force, and replacing it.

use std::sync::{Arc, RwLock};

use async_trait::async_trait;

use super::{Error, KeyFile, Seal};

/// Replaces the master key.
#[async_trait]
pub trait Secrets {
    /// Seals every secret under a new master key, and puts that key in the place of the old one.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a secret cannot be opened; [`Error::Seal`] if the key file cannot be written. The old key stays in force.
    async fn reseal(&self) -> Result<(), Error>;
}

/// The master keys of an open store: the one in force first. A replaced key still opens what a reader began to read before.
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

    /// Returns the key in force.
    pub fn current(&self) -> Arc<Seal> {
        Arc::clone(&self.all()[0])
    }

    /// Returns every key that may open a stored secret.
    pub fn all(&self) -> Vec<Arc<Seal>> {
        self.keys.read().expect("no code panics while it holds the keys").clone()
    }

    /// Lets readers open what `next` seals. Called before the commit, so that no reader finds a secret that it cannot open.
    pub fn announce(&self, next: &Arc<Seal>) {
        let mut keys = self.keys.write().expect("no code panics while it holds the keys");
        keys.push(Arc::clone(next));
    }

    /// Puts a key in force, and keeps the others for readers.
    pub fn put_in_force(&self, seal: Arc<Seal>) {
        let mut keys = self.keys.write().expect("no code panics while it holds the keys");
        keys.retain(|key| !Arc::ptr_eq(key, &seal));
        keys.insert(0, seal);
    }

    /// Puts the key in force that the store is now sealed with, and its file in the place of the old one.
    pub fn commit(&self, seal: Arc<Seal>) {
        self.put_in_force(seal);
        if let Err(error) = self.file.finish_change() {
            tracing::error!(%error, "master key file not replaced; the next start replaces it with the new key beside it");
        }
    }
}
