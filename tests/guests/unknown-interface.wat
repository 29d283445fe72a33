;; world: network
;; Imports an interface that the engine does not provide.
(module
  (import "acme:net/http@1.0.0" "get" (func $fetch (param i32 i32 i32)))
  ;;@memory
  ;;@plugin
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (call $fetch (i32.const 0) (i32.const 0) (i32.const 300))
    (i32.const 256)))
