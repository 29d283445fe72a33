;; Sends the value of the setting "greeting"; fails if it is not set. Well-behaved.
(module
  (import "innesco:plugin/config@1.0.0" "get" (func $config (param i32 i32 i32)))
  ;;@memory
  ;;@plugin
  ;;@webhook
  (data (i32.const 5000) "greeting")
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (call $config (i32.const 5000) (i32.const 8) (i32.const 300))
    (if (i32.eqz (i32.load8_u (i32.const 300))) (then (unreachable)))
    (call $webhook (i32.const 512))
    (i32.store (i32.const 544) (i32.load (i32.const 304)))
    (i32.store (i32.const 548) (i32.load (i32.const 308)))
    (i32.store (i32.const 260) (i32.const 512))
    (i32.store (i32.const 264) (i32.const 1))
    (i32.const 256)))
