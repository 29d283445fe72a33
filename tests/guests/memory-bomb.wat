;; Grows its memory by a mebibyte at a time, until it gets no more.
(module
  ;;@memory
  ;;@plugin
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (loop $more
      (drop (memory.grow (i32.const 16)))
      (br $more))
    (unreachable)))
