//! Settings of the plugin, by key. The operator sets them outside of the plugin's code.

use crate::host;

/// Returns the setting of this key, if the operator set it.
///
/// ```
/// # use innesco_sdk::config;
/// let endpoint = config::get("endpoint").unwrap_or("slack".to_owned());
/// ```
pub fn get(key: &str) -> Option<String> {
    host::config_get(key)
}
