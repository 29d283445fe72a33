;; Its `describe` never returns.
(module
  ;;@memory
  ;;@realloc
  (func (export "innesco:plugin/handler@1.0.0#describe") (result i32)
    (loop $for_ever (br $for_ever))
    (unreachable))
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (i32.const 256)))
