;; Reads its state in `describe`.
(module
  (import "innesco:plugin/state@1.0.0" "get" (func $get (param i32 i32 i32)))
  ;;@memory
  ;;@realloc
  (func (export "innesco:plugin/handler@1.0.0#describe") (result i32)
    (call $get (i32.const 256) (i32.const 1) (i32.const 300))
    (i32.const 256))
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (i32.const 256)))
