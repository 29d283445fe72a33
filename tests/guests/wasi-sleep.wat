;; world: wasi
;; Waits for an hour, prints the line "awake", and sends a random number and the time, eight bytes each. Well-behaved if the engine
;; ends the wait at once.
(module
  (import "wasi:clocks/monotonic-clock@0.2.6" "subscribe-duration" (func $subscribe (param i64) (result i32)))
  (import "wasi:clocks/wall-clock@0.2.6" "now" (func $now (param i32)))
  (import "wasi:io/poll@0.2.6" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/streams@0.2.6" "[method]output-stream.blocking-write-and-flush" (func $print (param i32 i32 i32 i32)))
  (import "wasi:cli/stdout@0.2.6" "get-stdout" (func $stdout (result i32)))
  (import "wasi:random/random@0.2.6" "get-random-u64" (func $random (result i64)))
  ;;@memory
  ;;@plugin
  ;;@webhook
  (data (i32.const 5000) "awake\n")
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (call $block (call $subscribe (i64.const 3600000000000)))
    (call $print (call $stdout) (i32.const 5000) (i32.const 6) (i32.const 300))
    (i64.store (i32.const 320) (call $random))
    (call $now (i32.const 328))
    (call $webhook (i32.const 512))
    (i32.store (i32.const 544) (i32.const 320))
    (i32.store (i32.const 548) (i32.const 16))
    (i32.store (i32.const 260) (i32.const 512))
    (i32.store (i32.const 264) (i32.const 1))
    (i32.const 256)))
