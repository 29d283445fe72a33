//! Settings that the operator gives the plugin, by key, outside of its code.

use crate::host;

/// The setting of this key, if the operator made it.
///
/// ```
/// # use innesco_sdk::config;
/// let endpoint = config::get("endpoint").unwrap_or("slack".to_owned());
/// ```
pub fn get(key: &str) -> Option<String> {
    host::config_get(key)
}
