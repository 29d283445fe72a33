;; Returns a content type that is not UTF-8.
(module
  ;;@memory
  ;;@plugin
  ;;@webhook
  (data (i32.const 5000) "\ff\fe")
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (call $webhook (i32.const 512))
    (i32.store (i32.const 536) (i32.const 5000))
    (i32.store (i32.const 540) (i32.const 2))
    (i32.store (i32.const 260) (i32.const 512))
    (i32.store (i32.const 264) (i32.const 1))
    (i32.const 256)))
