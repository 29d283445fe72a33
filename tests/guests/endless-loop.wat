;; Its `handle` never returns.
(module
  ;;@memory
  ;;@plugin
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (loop $for_ever (br $for_ever))
    (unreachable)))
