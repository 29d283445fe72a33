//! The trait of a plugin, and the macro that exports one.

use crate::{Event, Outcome, Result, Setting};

/// A plugin. The trait declares the event types that it runs on, and its reaction to an event.
pub trait Plugin {
    /// The event types that the plugin runs on: a single type (`order.created`), all types below a prefix (`order.*`), or all types
    /// (`*`).
    ///
    /// Leave the list empty for a plugin that runs only for the endpoints that name it. Every event to such an endpoint reaches the
    /// plugin, regardless of its type.
    const ON: &'static [&'static str];

    /// The settings to which the operator can give values. If none is declared, the engine accepts every setting, as text.
    const SETTINGS: &'static [Setting] = &[];

    /// Reacts to an event.
    ///
    /// Each call gets a fresh instance with limits on time, memory and output. The outcome takes effect as a whole, together with
    /// the state writes, or not at all.
    ///
    /// # Errors
    ///
    /// An [`Error`](crate::Error) ends the run as `failed`, without any effect. The engine retries a retryable error on a short
    /// schedule. After a permanent error the run is parked until an operator retries it.
    fn handle(&self, event: &Event) -> Result<Outcome>;
}

/// Exports a unit struct that implements [`Plugin`] as the plugin of this crate: `innesco_sdk::export!(BigOrders);`
///
/// Use it once per crate, at its top level. Name, version and description come from the crate's `Cargo.toml`. In a native build,
/// such as that of `cargo test`, the macro only checks the types.
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

        // In a native build nothing else uses the type, and the compiler would report it as unused.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(&$crate::Event) -> $crate::Result<$crate::Outcome> = |event| $crate::Plugin::handle(&$plugin, event);
    };
}
