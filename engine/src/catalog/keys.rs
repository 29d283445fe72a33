//! The API keys and their last use. Memory and store contain only a hash of each key.
//!
//! A use is recorded in memory, and the maintenance task writes it regularly ([`Keys::write_uses`]): otherwise every request
//! would cost a commit.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, RwLock, RwLockReadGuard,
        atomic::{AtomicI64, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::readings::Readings;
use crate::{
    clock,
    domain::{id::KeyId, key::Role, time::Timestamp},
    random::{self, NoRandomness},
    store::{self, KeyRow, NewKey, Store},
};

/// Prefix of every key, so that scanners recognize a leaked key.
pub const KEY_PREFIX: &str = "innk_";

/// Marks a key that was not used since the process started.
const NEVER: i64 = i64::MIN;

/// Creates a key from random bytes.
pub fn new_key() -> Result<String, NoRandomness> {
    Ok(format!("{KEY_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random::bytes::<24>()?)))
}

/// Minimum length of an operator's key in characters, and how many different characters it must have. 32 random hexadecimal
/// digits are 128 bits. Sixteen random characters of base64 would be enough too, but sixteen characters that a person made up are
/// just a few words.
const GIVEN_KEY_LEN_MIN: usize = 32;
const GIVEN_KEY_DIFFERENT_MIN: usize = 8;

/// A key that can be guessed from its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "has {length} characters, {different} of them different; it must have at least {GIVEN_KEY_LEN_MIN}, at least \
     {GIVEN_KEY_DIFFERENT_MIN} of them different, because an attacker with a copy of the store can try keys offline. Create a random one with: \
     openssl rand -hex 32"
)]
pub struct GuessableKey {
    length: usize,
    different: usize,
}

/// Checks an operator's key. No rule can distinguish a random key from a chosen one. This rule refuses typical typed text, and
/// accepts the output of `openssl rand -hex 16` and longer.
///
/// # Errors
/// The key is too short, or has too few different characters.
pub fn check_given_key(key: &str) -> Result<(), GuessableKey> {
    let (length, different) = (key.chars().count(), key.chars().collect::<HashSet<_>>().len());
    match length >= GIVEN_KEY_LEN_MIN && different >= GIVEN_KEY_DIFFERENT_MIN {
        true => Ok(()),
        false => Err(GuessableKey { length, different }),
    }
}

/// Returns the stored hash of a key. A generated key has 192 random bits, and an operator's key was checked
/// ([`check_given_key`]). So a plain hash is enough, and a request need not pay for a slow one.
pub fn hash_key(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// The last committed keys. The look-up is by hash, so its time reveals nothing about a key.
pub struct Keys {
    store: Arc<dyn Store>,
    known: RwLock<HashMap<[u8; 32], Known>>,
    /// An older reading must not replace a newer one: it would revive a revoked key.
    readings: Readings,
}

struct Known {
    row: Arc<KeyRow>,
    /// Wall clock, ms.
    used: AtomicI64,
    /// The last use that is stored; wall clock, ms.
    written: AtomicI64,
}

impl Keys {
    pub async fn new(store: Arc<dyn Store>) -> Result<Self, store::Error> {
        let keys = Self { store, known: RwLock::default(), readings: Readings::default() };
        keys.refresh().await?;
        Ok(keys)
    }

    /// Reads the last committed keys. A request that changes a key calls this before it answers.
    pub async fn refresh(&self) -> Result<(), store::Error> {
        let read = async {
            let rows = self.store.keys().await?;
            let mut known = self.known.write().expect("no code panics while it swaps the keys");
            let before = std::mem::take(&mut *known);
            for row in rows {
                let stored = row.last_used_at.map_or(NEVER, Timestamp::millis);
                // Uses that are not yet written must not be lost.
                let used = before.get(&row.new.hash).map_or(NEVER, |known| known.used.load(Ordering::Relaxed)).max(stored);
                let one = Known { row: Arc::new(row), used: AtomicI64::new(used), written: AtomicI64::new(stored) };
                known.insert(one.row.new.hash, one);
            }
            Ok(())
        };
        self.readings.share(read).await
    }

    /// Returns the caller's key, if it is known. A key that has not expired counts as used now.
    pub fn find(&self, key: &str, now: Timestamp) -> Option<Arc<KeyRow>> {
        let known = self.read();
        let found = known.get(&hash_key(key))?;
        if !found.row.has_expired(now) {
            found.used.fetch_max(now.millis(), Ordering::Relaxed);
        }
        Some(Arc::clone(&found.row))
    }

    /// Returns the key of a session, if it still exists and has not expired. The key counts as used now.
    pub fn of_session(&self, id: KeyId, now: Timestamp) -> Option<Arc<KeyRow>> {
        let known = self.read();
        let found = known.values().find(|known| known.row.id == id && !known.row.has_expired(now))?;
        found.used.fetch_max(now.millis(), Ordering::Relaxed);
        Some(Arc::clone(&found.row))
    }

    /// Returns whether a key that [`Self::find`] returned earlier is still valid.
    pub fn holds(&self, row: &KeyRow, now: Timestamp) -> bool {
        self.read().get(&row.new.hash).is_some_and(|known| known.row.id == row.id && !known.row.has_expired(now))
    }

    /// Returns when a key was last used, including uses that are not yet written.
    pub fn last_used(&self, id: KeyId) -> Option<Timestamp> {
        let known = self.read();
        let found = known.values().find(|known| known.row.id == id)?;
        Some(found.used.load(Ordering::Relaxed)).filter(|used| *used != NEVER).map(Timestamp::from_millis)
    }

    /// Makes sure that `key` is an admin key.
    pub async fn admit(&self, key: &str) -> Result<(), store::Error> {
        let hash = hash_key(key);
        if !self.store.keys().await?.iter().any(|known| known.new.hash == hash) {
            self.store.create_key(admin_key(hashed_name(&hash), key)).await?;
            self.refresh().await?;
        }
        Ok(())
    }

    /// Writes uses that the store does not have yet.
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

fn admin_key(name: String, key: &str) -> NewKey {
    NewKey { name, role: Role::Admin, hash: hash_key(key), ending: key_ending(key), expires_at: None }
}

/// Characters of a key that a list shows: enough to recognize the key among a few. At least 20 other characters of the key remain
/// secret.
const ENDING_CHARS: usize = 4;

/// Returns the last characters of a key; `None` for a key so short that they would reveal much of it.
pub fn key_ending(key: &str) -> Option<String> {
    let start = key.char_indices().nth_back(ENDING_CHARS - 1)?.0;
    (key.len() >= 6 * ENDING_CHARS).then(|| key[start..].to_owned())
}

/// Returns a name for an admin key, for use when the name `admin` may be taken. Two keys rarely get the same name.
fn hashed_name(hash: &[u8; 32]) -> String {
    format!("admin {:02x}{:02x}", hash[0], hash[1])
}

/// Why no admin key could be created for an engine without one.
#[derive(Debug, thiserror::Error)]
pub enum FirstKeyError {
    #[error("INNESCO_ADMIN_KEY {0}")]
    Guessable(GuessableKey),
    #[error(
        "INNESCO_ADMIN_KEY is a key that has expired or lacks the role admin, and no valid admin key exists; set it to a new key"
    )]
    Useless,
    #[error("the first admin key cannot be created")]
    NoRandomness(#[from] NoRandomness),
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Revokes a key of [`first_key`] that could not be shown, so that the next start creates another.
///
/// # Errors
/// If the store does not answer.
pub async fn withdraw_first_key(store: &dyn Store, key: &str) -> Result<(), store::Error> {
    let hash = hash_key(key);
    match store.keys().await?.iter().find(|known| known.new.hash == hash) {
        Some(known) => store.revoke_key(known.id).await,
        None => Ok(()),
    }
}

/// Makes sure that a valid admin key exists. If none exists, creates one: from `given` if the operator provides it, otherwise from
/// random bytes. Returns the key if it is random, so that the engine can show it once.
///
/// # Errors
/// `given` can be guessed, or is a known key that is no longer valid.
pub async fn first_key(store: &dyn Store, given: Option<String>) -> Result<Option<String>, FirstKeyError> {
    let keys = store.keys().await?;
    let now = clock::wall();
    let known = given.as_ref().and_then(|given| keys.iter().find(|key| key.new.hash == hash_key(given)));
    if keys.iter().any(|key| key.new.role == Role::Admin && !key.has_expired(now)) {
        match (&given, known) {
            (Some(_), None) => {
                tracing::warn!("INNESCO_ADMIN_KEY is not used: this data folder already has other keys");
            }
            // This key was created when the rule was weaker. It stays valid, because refusing it would lock out its operator.
            (Some(key), Some(known)) => {
                if let Err(guessable) = check_given_key(key) {
                    let name = &known.new.name;
                    tracing::warn!(
                        name,
                        "the admin key in INNESCO_ADMIN_KEY {guessable}. Replace it: innesco keys create NAME --role admin, then \
                         innesco keys revoke {name:?}"
                    );
                }
            }
            (None, _) => {}
        }
        return Ok(None);
    }
    if known.is_some() {
        return Err(FirstKeyError::Useless);
    }
    let key = match &given {
        Some(key) => {
            check_given_key(key).map_err(FirstKeyError::Guessable)?;
            key.clone()
        }
        None => new_key()?,
    };
    let hash = hash_key(&key);
    let name = match keys.iter().any(|key| key.new.name == "admin") {
        false => "admin".to_owned(),
        true => hashed_name(&hash),
    };
    match store.create_key(admin_key(name, &key)).await {
        // Another node, which started at the same moment, created the key first.
        Err(store::Error::Taken { .. }) => Ok(None),
        created => created.map(|_| given.is_none().then_some(key)).map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_given_key_that_can_be_guessed() {
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
        assert_eq!(key_ending(&new_key().unwrap()).map(|ending| ending.len()), Some(4));
        assert_eq!(key_ending("6f1d5e0c9b7a48322c41d0e8a95b7f63").as_deref(), Some("7f63"));
        assert_eq!(key_ending("short"), None, "four characters would be most of a short key");
        let said = check_given_key("a-key-for-tests-only").unwrap_err().to_string();
        assert!(said.starts_with("has 20 characters, 12 of them different; it must have at least 32"), "{said}");
        assert!(said.ends_with("Create a random one with: openssl rand -hex 32"), "{said}");
    }
}
