//! The types that wit-bindgen generates from the contract. [`export!`](crate::export) and this crate use them; they are not part of the API.

wit_bindgen::generate!({
    world: "plugin",
    path: "wit",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "innesco_sdk::__bindings",
});
