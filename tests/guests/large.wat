;; Returns one webhook of 250,000 bytes. Well-behaved, and as fast as a plugin can be.
(module
  (memory (export "memory") 8)
  ;;@plugin
  ;;@webhook
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (call $webhook (i32.const 512))
    (i32.store (i32.const 544) (i32.const 65536))
    (i32.store (i32.const 548) (i32.const 250000))
    (i32.store (i32.const 260) (i32.const 512))
    (i32.store (i32.const 264) (i32.const 1))
    (i32.const 256)))
