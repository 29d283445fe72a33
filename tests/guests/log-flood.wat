;; Logs a hundred thousand lines, and then succeeds.
(module
  (import "innesco:plugin/log@1.0.0" "write" (func $log (param i32 i32 i32 i32)))
  ;;@memory
  ;;@plugin
  (data (i32.const 5000) "info")
  (data (i32.const 5008) "the same line again and again")
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (local $count i32)
    (loop $more
      (call $log (i32.const 5000) (i32.const 4) (i32.const 5008) (i32.const 29))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $count) (i32.const 100000))))
    (i32.const 256)))
