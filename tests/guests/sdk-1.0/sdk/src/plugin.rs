//! What a plugin is, and the one macro that turns a type into one.

use crate::{Event, Outcome, Result};

/// A plugin: which events it runs on, and what it does with one.
pub trait Plugin {
    /// The event types that it runs on: exactly (`order.created`), everything below (`order.*`), or all (`*`).
    ///
    /// Empty for a plugin that only serves endpoints which name it: those events reach it whatever their type.
    const ON: &'static [&'static str];

    /// Decides what shall happen because of this event.
    ///
    /// Runs in an instance of its own, with limits on time, memory and output. What it returns takes effect as a whole,
    /// together with its state writes, or not at all.
    ///
    /// # Errors
    ///
    /// An [`Error`] ends the run as `failed`, and nothing of it takes effect. [`Error::retryable`] is tried again on a
    /// short schedule; [`Error::permanent`] waits, visibly, until a person runs the event again.
    fn handle(&self, event: &Event) -> Result<Outcome>;
}

/// Makes a unit struct that implements [`Plugin`] the plugin of this crate: `innesco_sdk::export!(BigOrders);`
///
/// Once per crate, at its top level. Name, version and description are those of the crate's `Cargo.toml`. In a native
/// build, where `cargo test` runs, it only checks the types.
#[macro_export]
macro_rules! export {
    ($plugin:ident) => {
        #[cfg(target_arch = "wasm32")]
        mod __innesco_plugin {
            struct Component;

            impl $crate::__bindings::exports::innesco::plugin::handler::Guest for Component {
                fn describe() -> $crate::__guest::Manifest {
                    $crate::__guest::describe::<super::$plugin>(
                        env!("CARGO_PKG_NAME"),
                        env!("CARGO_PKG_VERSION"),
                        env!("CARGO_PKG_DESCRIPTION"),
                    )
                }

                fn handle(event: $crate::__guest::Event) -> ::core::result::Result<$crate::__guest::Outcome, $crate::__guest::Failure> {
                    $crate::__guest::handle(&super::$plugin, event)
                }
            }

            $crate::__bindings::export_component!(Component with_types_in $crate::__bindings);
        }

        // Natively nothing else mentions the type, and the compiler would call it unused.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(&$crate::Event) -> $crate::Result<$crate::Outcome> = |event| $crate::Plugin::handle(&$plugin, event);
    };
}
