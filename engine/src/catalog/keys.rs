//! The API keys, and when each was last used. Only a hash of a key is kept, here as in the store.
//!
//! A use is noted in memory and written by the keeper now and then ([`Keys::write_uses`]): a request must not cost a commit.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, RwLock, RwLockReadGuard,
        atomic::{AtomicI64, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::{
    domain::{id::KeyId, time::Timestamp},
    store::{self, KeyRow, Store},
};

/// What every key begins with, so that a leaked one is recognised.
pub const KEY_PREFIX: &str = "innk_";

/// Never used, as far as this process knows.
const NEVER: i64 = i64::MIN;

/// Makes a key of random bytes.
pub fn new_key() -> Result<String, getrandom::Error> {
    let mut random = [0; 24];
    getrandom::fill(&mut random)?;
    Ok(format!("{KEY_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random)))
}

/// Characters of a key that an operator brings, and how many of them must differ. 32 hexadecimal digits are 128 bits when they are
/// random; sixteen random ones of base64 would be enough too, but a person's sixteen are a few words.
const GIVEN_KEY_LEN_MIN: usize = 32;
const GIVEN_KEY_DIFFERENT_MIN: usize = 8;

/// A key that can be guessed from its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "has {length} characters, {different} of them different; it must have at least {GIVEN_KEY_LEN_MIN}, at least \
     {GIVEN_KEY_DIFFERENT_MIN} of them different, since whoever reads a copy of the store can try keys at leisure. Make a random one with: \
     openssl rand -hex 32"
)]
pub struct GuessableKey {
    length: usize,
    different: usize,
}

/// Checks a key that an operator brings. No rule can tell chance from choice: this one refuses what people type and takes what
/// `openssl rand -hex 16` and longer make.
///
/// # Errors
/// It is too short, or too much of it is the same character.
pub fn check_given_key(key: &str) -> Result<(), GuessableKey> {
    let (length, different) = (key.chars().count(), key.chars().collect::<HashSet<_>>().len());
    match length >= GIVEN_KEY_LEN_MIN && different >= GIVEN_KEY_DIFFERENT_MIN {
        true => Ok(()),
        false => Err(GuessableKey { length, different }),
    }
}

/// Returns what is stored of a key. One that the engine made has 192 random bits and one that an operator brought has been checked
/// ([`check_given_key`]), so a plain hash is enough, and a request does not pay for a slow one.
pub fn hash_key(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// The keys as last committed. A look-up is by the key's hash, so its time tells nothing about a key.
pub struct Keys {
    store: Arc<dyn Store>,
    known: RwLock<HashMap<[u8; 32], Known>>,
    /// Whoever read last swaps last: a key that was revoked must not come back with what someone else read before.
    refreshing: tokio::sync::Mutex<()>,
}

struct Known {
    row: Arc<KeyRow>,
    /// Wall clock, ms.
    used: AtomicI64,
    /// The use that is in the store.
    written: AtomicI64,
}

impl Keys {
    pub async fn new(store: Arc<dyn Store>) -> Result<Self, store::Error> {
        let keys = Self { store, known: RwLock::default(), refreshing: tokio::sync::Mutex::default() };
        keys.refresh().await?;
        Ok(keys)
    }

    /// Makes the keys as last committed the ones that are known. Whoever changes one calls this before it answers.
    pub async fn refresh(&self) -> Result<(), store::Error> {
        let _alone = self.refreshing.lock().await;
        let rows = self.store.keys().await?;
        let mut known = self.known.write().expect("no code panics while it swaps the keys");
        let before = std::mem::take(&mut *known);
        for row in rows {
            let stored = row.last_used_at.map_or(NEVER, Timestamp::millis);
            // What is not written yet must not be forgotten.
            let used = before.get(&row.new.hash).map_or(NEVER, |known| known.used.load(Ordering::Relaxed)).max(stored);
            let one = Known { row: Arc::new(row), used: AtomicI64::new(used), written: AtomicI64::new(stored) };
            known.insert(one.row.new.hash, one);
        }
        Ok(())
    }

    /// The key that a caller shows, if it is known. One that has not expired counts as used now.
    pub fn find(&self, key: &str, now: Timestamp) -> Option<Arc<KeyRow>> {
        let known = self.read();
        let found = known.get(&hash_key(key))?;
        if !found.row.has_expired(now) {
            found.used.fetch_max(now.millis(), Ordering::Relaxed);
        }
        Some(Arc::clone(&found.row))
    }

    /// When a key was last used, to the last request.
    pub fn last_used(&self, id: KeyId) -> Option<Timestamp> {
        let known = self.read();
        let found = known.values().find(|known| known.row.id == id)?;
        Some(found.used.load(Ordering::Relaxed)).filter(|used| *used != NEVER).map(Timestamp::from_millis)
    }

    /// Writes the uses that are not in the store yet.
    pub async fn write_uses(&self) -> Result<(), store::Error> {
        let uses: Vec<(KeyId, Timestamp)> = self
            .read()
            .values()
            .map(|known| (known.row.id, known.used.load(Ordering::Relaxed), known.written.load(Ordering::Relaxed)))
            .filter(|(_, used, written)| used > written)
            .map(|(id, used, _)| (id, Timestamp::from_millis(used)))
            .collect();
        if uses.is_empty() {
            return Ok(());
        }
        self.store.note_key_uses(uses.clone()).await?;
        for known in self.read().values() {
            if let Some((_, at)) = uses.iter().find(|(id, _)| *id == known.row.id) {
                known.written.fetch_max(at.millis(), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<[u8; 32], Known>> {
        self.known.read().expect("no code panics while it swaps the keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_key_that_can_be_guessed_is_refused() {
        for bad in
            ["", "admin", "sixteen-characters", "a-key-for-tests-only", "CHANGE-THIS-TO-SOMETHING-LONG", &"ab12".repeat(16)]
        {
            assert!(check_given_key(bad).is_err(), "{bad}");
        }
        for good in
            ["6f1d5e0c9b7a48322c41d0e8a95b7f63", "F3k0Qm1rX9sV7tYw2bZc4dNe6gHj8Lp5", &new_key().unwrap(), &"ab12cdef".repeat(4)]
        {
            assert_eq!(check_given_key(good), Ok(()), "{good}");
        }
        let said = check_given_key("a-key-for-tests-only").unwrap_err().to_string();
        assert!(said.starts_with("has 20 characters, 12 of them different; it must have at least 32"), "{said}");
        assert!(said.ends_with("Make a random one with: openssl rand -hex 32"), "{said}");
    }
}
