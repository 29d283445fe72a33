;; Calls itself endlessly.
(module
  ;;@memory
  ;;@plugin
  (func $down (param $depth i32) (result i32)
    (i32.add (call $down (i32.add (local.get $depth) (i32.const 1))) (local.get $depth)))
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (call $down (i32.const 0))))
