//! Small values that outlive the run: counters, what was already seen, the last known status.
//!
//! State belongs to the plugin's name, across its versions. Reads see the last commit and the run's own writes; writes
//! commit together with the event, or not at all. Two runs that contend for a key are put one after the other (the
//! later one runs again), so read-then-write is safe as it stands. Keys and values are meant to be small: the engine
//! limits both.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result, host};

/// The value of this key.
pub fn get(key: &str) -> Option<Vec<u8>> {
    host::state_get(key)
}

/// The value of this key, read as JSON.
///
/// # Errors
///
/// `bad-state`, not retryable, when what is stored is not JSON of that shape: written by an older version, perhaps.
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>> {
    let Some(value) = get(key) else { return Ok(None) };
    serde_json::from_slice(&value)
        .map(Some)
        .map_err(|error| Error::permanent("bad-state", format!("state {key:?} is not as expected: {error}")))
}

/// Sets the value of this key.
pub fn set(key: &str, value: impl AsRef<[u8]>) {
    host::state_set(key, value.as_ref());
}

/// Sets the value of this key, as JSON.
///
/// # Errors
///
/// `bad-payload` for what JSON cannot say, such as a map whose keys are not text.
pub fn set_json(key: &str, value: &(impl Serialize + ?Sized)) -> Result<()> {
    set(key, serde_json::to_vec(value)?);
    Ok(())
}

/// Removes this key and its value, if there is one.
pub fn delete(key: &str) {
    host::state_delete(key);
}
