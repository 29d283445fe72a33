;; Looks for a secret of an earlier instance: in its statics, in newly grown memory and in a global. Fails with the code "leak"
;; if it finds one. Otherwise it writes a secret to all of these places and succeeds.
(module
  ;;@memory
  (global $planted (mut i32) (i32.const 0))
  ;;@plugin
  (data (i32.const 5000) "leak")
  (func $look (param $from i32) (param $to i32) (result i32)
    (loop $on
      (if (i64.ne (i64.load (local.get $from)) (i64.const 0)) (then (return (i32.const 1))))
      (local.set $from (i32.add (local.get $from) (i32.const 8)))
      (br_if $on (i32.lt_u (local.get $from) (local.get $to))))
    (i32.const 0))
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (drop (memory.grow (i32.const 30)))
    (if (i32.or (global.get $planted)
          (i32.or (call $look (i32.const 8192) (i32.const 65536)) (call $look (i32.const 131072) (i32.const 2097152))))
      (then
        (i32.store8 (i32.const 256) (i32.const 1))
        (i32.store (i32.const 260) (i32.const 5000))
        (i32.store (i32.const 264) (i32.const 4))
        (return (i32.const 256))))
    (global.set $planted (i32.const 1))
    (memory.fill (i32.const 8192) (i32.const 0xa5) (i32.const 57344))
    (memory.fill (i32.const 131072) (i32.const 0xa5) (i32.const 1966080))
    (i32.const 256)))
