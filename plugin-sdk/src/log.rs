//! Log lines, stored and shown with the run: `log::info!("order {id} is new")`.
//!
//! The macros take the arguments of `format!`. Fields of the line can come before them, as names with values that implement
//! `Display`: `log::info!(order = id, total = 12.5, "order is new")`. The engine stores a limited number of bytes for each run and
//! drops the rest. The message and place of a panic are logged automatically.

#[doc(inline)]
pub use crate::{__debug as debug, __error as error, __info as info, __warn as warn};

/// Logs details for the plugin's author.
#[doc(hidden)]
#[macro_export]
macro_rules! __debug {
    ($($name:ident = $value:expr),+, $format:literal $($message:tt)*) => {
        $crate::log::__write_with("debug", ::core::format_args!($format $($message)*), &[$((::core::stringify!($name), &$value)),+])
    };
    ($($message:tt)+) => { $crate::log::__write("debug", ::core::format_args!($($message)+)) };
}

/// Logs what an ordinary run does.
#[doc(hidden)]
#[macro_export]
macro_rules! __info {
    ($($name:ident = $value:expr),+, $format:literal $($message:tt)*) => {
        $crate::log::__write_with("info", ::core::format_args!($format $($message)*), &[$((::core::stringify!($name), &$value)),+])
    };
    ($($message:tt)+) => { $crate::log::__write("info", ::core::format_args!($($message)+)) };
}

/// Logs something unusual that the plugin handled.
#[doc(hidden)]
#[macro_export]
macro_rules! __warn {
    ($($name:ident = $value:expr),+, $format:literal $($message:tt)*) => {
        $crate::log::__write_with("warn", ::core::format_args!($format $($message)*), &[$((::core::stringify!($name), &$value)),+])
    };
    ($($message:tt)+) => { $crate::log::__write("warn", ::core::format_args!($($message)+)) };
}

/// Logs something that needs a person's attention.
#[doc(hidden)]
#[macro_export]
macro_rules! __error {
    ($($name:ident = $value:expr),+, $format:literal $($message:tt)*) => {
        $crate::log::__write_with("error", ::core::format_args!($format $($message)*), &[$((::core::stringify!($name), &$value)),+])
    };
    ($($message:tt)+) => { $crate::log::__write("error", ::core::format_args!($($message)+)) };
}

#[doc(hidden)]
pub fn __write(level: &str, message: std::fmt::Arguments<'_>) {
    match message.as_str() {
        Some(text) => crate::host::log_write(level, text),
        None => crate::host::log_write(level, &message.to_string()),
    }
}

#[doc(hidden)]
pub fn __write_with(level: &str, message: std::fmt::Arguments<'_>, fields: &[(&str, &dyn std::fmt::Display)]) {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
    crate::host::log_write_with(level, &message.to_string(), fields);
}

#[cfg(test)]
mod tests {
    use crate::{prelude::*, testing};

    struct Logs;

    impl Plugin for Logs {
        const ON: &'static [&'static str] = &["*"];

        fn handle(&self, event: &Event) -> Result<Outcome> {
            let total = 12.5;
            log::info!("order {} is new", 7);
            log::warn!(order = 7, of = event.source, "order of {total} is late");
            log::debug!(total = total, "seen",);
            Ok(Outcome::none())
        }
    }

    #[test]
    fn lines_have_facts() {
        let mut engine = testing::engine();
        engine.run(&Logs, &testing::event("a").build()).unwrap();
        assert_eq!(engine.log(), ["info: order 7 is new", "warn: order of 12.5 is late", "debug: seen"]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(engine.log()[1].fields, [pair("order", "7"), pair("of", "test")]);
        assert_eq!((engine.log()[0].fields.len(), engine.log()[2].field("total")), (0, Some("12.5")));
    }
}
