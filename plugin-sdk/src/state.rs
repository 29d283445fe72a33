//! Small values that outlive the run: counters, ids already seen, the last known status.
//!
//! State belongs to the plugin's name, across its versions. Reads see the last commit and the writes of the same run. Writes
//! commit together with the event, or not at all. If two runs conflict on a key, the later one runs again, so reading and then
//! writing is safe. Keep keys and values small: the engine limits both.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result, host};

/// Returns the value of this key.
pub fn get(key: &str) -> Option<Vec<u8>> {
    host::state_get(key)
}

/// Returns the value of this key, read as JSON.
///
/// # Errors
///
/// `bad-state`, not retryable, if the stored value is not JSON of that shape, for example because an older version wrote it.
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

/// Sets the value of this key to JSON.
///
/// # Errors
///
/// `bad-payload` if JSON cannot represent the value, such as a map whose keys are not text.
pub fn set_json(key: &str, value: &(impl Serialize + ?Sized)) -> Result<()> {
    set(key, serde_json::to_vec(value)?);
    Ok(())
}

/// Removes this key and its value, if it exists.
pub fn delete(key: &str) {
    host::state_delete(key);
}
