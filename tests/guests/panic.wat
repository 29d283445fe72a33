;; Panics as a plugin of the SDK does: a line in the log, then a trap.
(module
  (import "innesco:plugin/log@1.0.0" "write" (func $log (param i32 i32 i32 i32)))
  ;;@memory
  ;;@plugin
  (data (i32.const 5000) "error")
  (data (i32.const 5008) "panicked at src/lib.rs:13:29: unlucky 13")
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (call $log (i32.const 5000) (i32.const 5) (i32.const 5008) (i32.const 40))
    (unreachable)))
