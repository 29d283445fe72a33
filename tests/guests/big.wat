;; Carries three mebibytes of data, as a component does that brings an interpreter along. Good.
(module
  (memory (export "memory") 80)
  ;;@bulk
  ;;@plugin
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (drop (memory.grow (i32.const 1600)))
    (i32.const 256)))
