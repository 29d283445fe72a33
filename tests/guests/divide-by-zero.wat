;; Divides by a zero that it reads from its memory.
(module
  ;;@memory
  ;;@plugin
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (i32.div_u (i32.const 1) (i32.load (i32.const 512)))))
