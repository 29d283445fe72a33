;; Imports a function that the engine does not provide, as a plugin that contains C code does.
(module
  (import "env" "launch_missiles" (func $launch))
  ;;@memory
  ;;@plugin
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (call $launch)
    (i32.const 256)))
