//! Log lines, stored and shown with the run: `log::info!("order {id} is new")`.
//!
//! The macros take the arguments of `format!`. The engine stores a limited number of bytes for each run and drops the rest. The
//! message and place of a panic are logged automatically.

#[doc(inline)]
pub use crate::{__debug as debug, __error as error, __info as info, __warn as warn};

/// Logs details for the plugin's author.
#[doc(hidden)]
#[macro_export]
macro_rules! __debug {
    ($($message:tt)+) => { $crate::log::__write("debug", ::core::format_args!($($message)+)) };
}

/// Logs a fact of an ordinary run.
#[doc(hidden)]
#[macro_export]
macro_rules! __info {
    ($($message:tt)+) => { $crate::log::__write("info", ::core::format_args!($($message)+)) };
}

/// Logs something unusual that the plugin handled.
#[doc(hidden)]
#[macro_export]
macro_rules! __warn {
    ($($message:tt)+) => { $crate::log::__write("warn", ::core::format_args!($($message)+)) };
}

/// Logs something that needs a person's attention.
#[doc(hidden)]
#[macro_export]
macro_rules! __error {
    ($($message:tt)+) => { $crate::log::__write("error", ::core::format_args!($($message)+)) };
}

#[doc(hidden)]
pub fn __write(level: &str, message: std::fmt::Arguments<'_>) {
    match message.as_str() {
        Some(text) => crate::host::log_write(level, text),
        None => crate::host::log_write(level, &message.to_string()),
    }
}
