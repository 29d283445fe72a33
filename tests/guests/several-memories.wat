;; Grows two memories in turn. Neither of them alone exceeds the limit.
(module
  ;;@memory
  (memory $other 1)
  ;;@plugin
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (loop $more
      (drop (memory.grow (i32.const 16)))
      (drop (memory.grow $other (i32.const 16)))
      (br_if $more (i32.lt_u (memory.size) (i32.const 640))))
    (i32.const 256)))
