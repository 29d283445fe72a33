;; Contains wasm-bindgen, like a plugin that uses chrono with default features.
(module
  (import "__wbindgen_externref_xform__" "__wbindgen_externref_table_grow" (func (param i32) (result i32)))
  ;;@memory
  ;;@plugin
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (i32.const 256)))
