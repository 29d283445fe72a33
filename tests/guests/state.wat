;; Reads the key "n", sets it to "new", reads it again and sends what it read. Well-behaved.
(module
  (import "innesco:plugin/state@1.0.0" "get" (func $get (param i32 i32 i32)))
  (import "innesco:plugin/state@1.0.0" "set" (func $set (param i32 i32 i32 i32)))
  ;;@memory
  ;;@plugin
  ;;@webhook
  (data (i32.const 5000) "n")
  (data (i32.const 5008) "new")
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (call $get (i32.const 5000) (i32.const 1) (i32.const 300))
    (call $set (i32.const 5000) (i32.const 1) (i32.const 5008) (i32.const 3))
    (call $get (i32.const 5000) (i32.const 1) (i32.const 300))
    (call $webhook (i32.const 512))
    (i32.store (i32.const 544) (i32.load (i32.const 304)))
    (i32.store (i32.const 548) (i32.load (i32.const 308)))
    (i32.store (i32.const 260) (i32.const 512))
    (i32.store (i32.const 264) (i32.const 1))
    (i32.const 256)))
