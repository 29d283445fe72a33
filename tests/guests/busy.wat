;; Takes a fraction of a millisecond of the processor: far from slow enough to be set apart.
(module
  ;;@memory
  ;;@plugin
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (local $round i32)
    (loop $on
      (local.set $round (i32.add (local.get $round) (i32.const 1)))
      (br_if $on (i32.lt_u (local.get $round) (i32.const 500000))))
    ;; Nothing is asked for: all of the outcome at 65536 is zero.
    (i32.const 65536)))
