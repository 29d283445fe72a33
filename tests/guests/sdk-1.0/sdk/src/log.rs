//! Log lines, kept with the run and shown with it: `log::info!("order {id} is new")`.
//!
//! Macros that take what `format!` takes. The engine keeps a limited number of bytes for each run and drops the rest. A
//! panic needs no line of its own: its message and place arrive here by themselves.

#[doc(inline)]
pub use crate::{__debug as debug, __error as error, __info as info, __warn as warn};

/// A line for the plugin's author.
#[doc(hidden)]
#[macro_export]
macro_rules! __debug {
    ($($message:tt)+) => { $crate::log::__write("debug", ::core::format_args!($($message)+)) };
}

/// A line worth having in an ordinary run.
#[doc(hidden)]
#[macro_export]
macro_rules! __info {
    ($($message:tt)+) => { $crate::log::__write("info", ::core::format_args!($($message)+)) };
}

/// Something odd that the plugin coped with.
#[doc(hidden)]
#[macro_export]
macro_rules! __warn {
    ($($message:tt)+) => { $crate::log::__write("warn", ::core::format_args!($($message)+)) };
}

/// Something that a person should look at.
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
