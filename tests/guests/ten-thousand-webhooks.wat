;; Returns ten thousand small webhooks.
(module
  (memory (export "memory") 32)
  ;;@plugin
  ;;@webhook
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (local $count i32) (local $at i32)
    (local.set $at (i32.const 1048576))
    (loop $more
      (call $webhook (local.get $at))
      (local.set $at (i32.add (local.get $at) (i32.const 56)))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $count) (i32.const 10000))))
    (i32.store (i32.const 260) (i32.const 1048576))
    (i32.store (i32.const 264) (i32.const 10000))
    (i32.const 256)))
