;; world: wasi
;; Creates host resources endlessly, and drops none.
(module
  (import "wasi:clocks/monotonic-clock@0.2.6" "subscribe-duration" (func $subscribe (param i64) (result i32)))
  ;;@memory
  ;;@plugin
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (loop $more
      (drop (call $subscribe (i64.const 1)))
      (br $more))
    (unreachable)))
