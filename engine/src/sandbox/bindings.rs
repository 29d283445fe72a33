//! The types that `bindgen!` generates from the plugin contract. Arguments that the engine passes to a guest are borrowed. The
//! guest's results are owned.

wasmtime::component::bindgen!({
    path: "../plugin-sdk/wit",
    world: "plugin",
    ownership: Borrowing { duplicate_if_necessary: true },
    imports: { default: trappable },
});

/// The version of the contract that this engine supports: that of the WIT file above.
pub const CONTRACT: &str = "1.1.0";

/// The imports that a plugin may use, by interface. A test compares this with the WIT file.
pub const OFFERED: [(&str, &[&str]); 4] =
    [("types", &[]), ("log", &["write", "write-with"]), ("config", &["get"]), ("state", &["get", "set", "set-for", "delete"])];

/// The package of the contract, without its version.
pub const PACKAGE: &str = "innesco:plugin/";
