//! The host's side of the contract, generated from the one WIT file that both sides compile from.

wasmtime::component::bindgen!({
    path: "../plugin-sdk/wit",
    world: "plugin",
    imports: { default: trappable },
});

/// The package that a plugin imports from and exports to.
pub const PACKAGE: &str = "innesco:plugin/";
/// The version of the contract that this engine speaks.
pub const VERSION: &str = "1.0.0";
