;; Writes to a thousand keys of its state.
(module
  (import "innesco:plugin/state@1.0.0" "set" (func $set (param i32 i32 i32 i32)))
  ;;@memory
  ;;@plugin
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (local $count i32)
    (loop $more
      (i32.store8 (i32.const 5000) (i32.add (i32.const 65) (i32.and (local.get $count) (i32.const 31))))
      (i32.store8 (i32.const 5001) (i32.add (i32.const 65) (i32.shr_u (local.get $count) (i32.const 5))))
      (call $set (i32.const 5000) (i32.const 2) (i32.const 5000) (i32.const 2))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $count) (i32.const 1000))))
    (i32.const 256)))
