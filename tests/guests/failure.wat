;; Returns a retryable failure.
(module
  ;;@memory
  ;;@plugin
  (data (i32.const 5000) "crm-down")
  (data (i32.const 5008) "the CRM has no such customer yet")
  (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32)
    (i32.store8 (i32.const 256) (i32.const 1))
    (i32.store (i32.const 260) (i32.const 5000))
    (i32.store (i32.const 264) (i32.const 8))
    (i32.store (i32.const 268) (i32.const 5008))
    (i32.store (i32.const 272) (i32.const 32))
    (i32.store8 (i32.const 276) (i32.const 1))
    (i32.const 256)))
