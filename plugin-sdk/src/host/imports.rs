//! The engine's functions, as the contract defines them.

use crate::__bindings::innesco::plugin as engine;

pub(crate) fn log_write(level: &str, message: &str) {
    engine::log::write(level, message);
}

pub(crate) fn log_write_with(level: &str, message: &str, fields: Vec<(String, String)>) {
    engine::log::write_with(level, message, &fields);
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

pub(crate) fn state_set_for(key: &str, value: &[u8], milliseconds: u64) {
    engine::state::set_for(key, value, milliseconds);
}

pub(crate) fn state_delete(key: &str) {
    engine::state::delete(key);
}
