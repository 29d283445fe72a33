;; world: newer
;; Built against contract 1.2.0, but uses nothing that is new in it. Well-behaved.
(module
  (import "innesco:plugin/state@1.2.0" "get" (func $get (param i32 i32 i32)))
  ;;@memory
  ;;@plugin
  (func (export "innesco:plugin/handler@1.2.0#handle") (param $event i32) (result i32)
    (call $get (i32.const 2048) (i32.const 1) (i32.const 300))
    (i32.const 256)))
