;; Returns a webhook that names no endpoint, like a plugin that belongs to an endpoint.
(module
  ;;@memory
  ;;@plugin
  ;;@webhook
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (call $webhook (i32.const 512))
    (i32.store8 (i32.const 512) (i32.const 0))
    (i32.store (i32.const 260) (i32.const 512))
    (i32.store (i32.const 264) (i32.const 1))
    (i32.const 256)))
