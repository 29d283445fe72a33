;; world: none
;; A core module that was built without the SDK.
(module
  ;;@memory
  (func (export "handle") (result i32) (i32.const 0)))
