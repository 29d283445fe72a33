;; world: newer
;; Built against contract 1.2.0, and uses the function that is new in it.
(module
  (import "innesco:plugin/state@1.2.0" "keys" (func $keys (param i32)))
  ;;@memory
  ;;@plugin
  (func (export "innesco:plugin/handler@1.2.0#handle") (param $event i32) (result i32)
    (call $keys (i32.const 300))
    (i32.const 256)))
