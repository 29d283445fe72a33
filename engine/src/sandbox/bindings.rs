//! What `bindgen!` makes of the plugin contract. What a guest is given is borrowed, what it returns is owned.

wasmtime::component::bindgen!({
    path: "../plugin-sdk/wit",
    world: "plugin",
    ownership: Borrowing { duplicate_if_necessary: true },
    imports: { default: trappable },
});

/// The version of the contract that this engine speaks: that of the WIT file above.
pub const CONTRACT: &str = "1.0.0";

/// What a plugin may import, interface by interface. A test holds this against the WIT file.
pub const OFFERED: [(&str, &[&str]); 4] =
    [("types", &[]), ("log", &["write"]), ("config", &["get"]), ("state", &["get", "set", "delete"])];

/// The package of the contract, without its version.
pub const PACKAGE: &str = "innesco:plugin/";
