//! The engine's functions, as the contract gives them.

use crate::__bindings::innesco::plugin as engine;

pub(crate) fn log_write(level: &str, message: &str) {
    engine::log::write(level, message);
}

pub(crate) fn config_get(key: &str) -> Option<String> {
    engine::config::get(key)
}

pub(crate) fn state_get(key: &str) -> Option<Vec<u8>> {
    engine::state::get(key)
}

pub(crate) fn state_set(key: &str, value: &[u8]) {
    engine::state::set(key, value);
}

pub(crate) fn state_delete(key: &str) {
    engine::state::delete(key);
}
