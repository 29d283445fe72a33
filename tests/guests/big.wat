;; Has three mebibytes of data, like a component that contains an interpreter. Well-behaved.
(module
  (memory (export "memory") 80)
  ;;@bulk
  ;;@plugin
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (drop (memory.grow (i32.const 1600)))
    (i32.const 256)))
