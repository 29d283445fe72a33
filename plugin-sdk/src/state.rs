//! Small values that outlive the run: counters, known ids, the last status.
//!
//! State belongs to the plugin's name, across its versions. A read sees committed values, and values that its run has written.
//! Writes commit together with the run's outcome, or not at all. If two runs conflict on a key, the later one runs again, so
//! reading and then writing is safe. Keep keys and values small: the engine limits both.

use std::time::Duration;

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

/// Sets the value of this key for a limited time. Runs that begin after that time find no value, and the engine deletes it.
///
/// The time counts from the start of this run. That start is recorded, so a repeated run reads the same values.
pub fn set_for(key: &str, value: impl AsRef<[u8]>, lifetime: Duration) {
    host::state_set_for(key, value.as_ref(), u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX));
}

/// Sets the value of this key to JSON, for a limited time: see [`set_for`].
///
/// # Errors
///
/// `bad-payload` if JSON cannot represent the value, such as a map whose keys are not text.
pub fn set_json_for(key: &str, value: &(impl Serialize + ?Sized), lifetime: Duration) -> Result<()> {
    set_for(key, serde_json::to_vec(value)?, lifetime);
    Ok(())
}

/// Returns `true` for the first call with this key, and `false` for further calls within `lifetime` after it. Records the call in
/// the state. If two runs call this at the same time, only one gets `true`: the other one runs again and gets `false`.
///
/// ```
/// use innesco_sdk::{prelude::*, testing};
/// use std::time::Duration;
///
/// struct Welcome;
///
/// impl Plugin for Welcome {
///     const ON: &'static [&'static str] = &["customer.seen"];
///
///     fn handle(&self, event: &Event) -> Result<Outcome> {
///         let customer = event.subject.as_deref().unwrap_or_default();
///         if !state::once(&format!("welcomed/{customer}"), Duration::from_secs(30 * 86_400)) {
///             return Ok(Outcome::none());
///         }
///         Ok(Webhook::to("mailer").json(&json!({ "welcome": customer }))?.into())
///     }
/// }
///
/// let mut engine = testing::engine();
/// let event = testing::event("customer.seen").subject("anna").build();
/// assert_eq!(engine.run(&Welcome, &event).unwrap().webhooks().len(), 1);
/// assert!(engine.run(&Welcome, &event).unwrap().is_none());
/// engine.advance(Duration::from_secs(30 * 86_400));
/// assert_eq!(engine.run(&Welcome, &event).unwrap().webhooks().len(), 1);
/// ```
pub fn once(key: &str, lifetime: Duration) -> bool {
    let is_first = get(key).is_none();
    if is_first {
        set_for(key, "", lifetime);
    }
    is_first
}

/// Removes this key and its value, if it exists.
pub fn delete(key: &str) {
    host::state_delete(key);
}
