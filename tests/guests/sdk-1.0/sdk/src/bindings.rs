//! What wit-bindgen makes of the contract. For [`export!`](crate::export) and this crate's own use; no part of the API.

wit_bindgen::generate!({
    world: "plugin",
    path: "wit",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "innesco_sdk::__bindings",
});
