;; Sends the event's data to the endpoint "receiver". Well-behaved.
(module
  ;;@memory
  ;;@plugin
  ;;@webhook
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (call $webhook (i32.const 512))
    (i32.store (i32.const 544) (i32.load offset=52 (local.get $event)))
    (i32.store (i32.const 548) (i32.load offset=56 (local.get $event)))
    (i32.store (i32.const 260) (i32.const 512))
    (i32.store (i32.const 264) (i32.const 1))
    (i32.const 256)))
