//! Stored API keys: the store keeps a hash, never the key.

use async_trait::async_trait;

use super::{
    Error,
    row::{Columns, Row},
};
use crate::domain::{id::KeyId, key::Role, time::Timestamp};

/// Stores API keys.
#[async_trait]
pub trait Keys {
    /// # Errors
    /// [`Error::Taken`] if a key has this name.
    async fn create_key(&self, key: NewKey) -> Result<KeyRow, Error>;

    /// # Errors
    /// [`Error::NotFound`].
    async fn revoke_key(&self, id: KeyId) -> Result<(), Error>;

    /// Returns all keys, including expired ones, sorted by name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn keys(&self) -> Result<Vec<KeyRow>, Error>;

    /// Stores when keys were last used. An instant that is before the stored instant changes nothing. Neither does a key that does
    /// not exist.
    ///
    /// # Errors
    /// If the commit failed.
    async fn note_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), Error>;
}

/// An API key to create. Only its hash is stored.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub name: String,
    pub role: Role,
    pub hash: [u8; 32],
    /// The last characters of the key, by which its owner recognizes it. `None` if the key was created by an older engine, which
    /// did not store these characters.
    pub ending: Option<String>,
    /// Expiry; `None` for a key that is valid until it is revoked.
    pub expires_at: Option<Timestamp>,
}

/// An API key as it is stored.
#[derive(Clone, Debug)]
pub struct KeyRow {
    pub id: KeyId,
    pub new: NewKey,
    pub created_at: Timestamp,
    /// Rounded down to the minute.
    pub last_used_at: Option<Timestamp>,
}

impl KeyRow {
    /// The columns, in the order in which [`Self::read`] reads them.
    pub(super) const COLUMNS: &str = "id, name, role, hash, created_at, expires_at, last_used_at, ending";

    pub(super) fn read(row: &impl Row) -> Result<Self, Error> {
        let columns = Columns::numbered("api_key", row)?;
        Ok(Self {
            id: KeyId::from_i64(columns.id()),
            new: NewKey {
                name: columns.text(1, "name")?.to_owned(),
                role: columns.word(2, "role", Role::parse)?,
                hash: columns.bytes(3, "hash")?.try_into().map_err(|_| columns.place.corrupt("hash"))?,
                ending: columns.optional_text(7, "ending")?.map(str::to_owned),
                expires_at: columns.optional_time(5, "expires_at")?,
            },
            created_at: columns.time(4, "created_at")?,
            last_used_at: columns.optional_time(6, "last_used_at")?,
        })
    }

    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.new.expires_at.is_some_and(|expires_at| now >= expires_at)
    }
}
