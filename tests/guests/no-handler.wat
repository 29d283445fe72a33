;; world: no-handler
;; Built with the SDK, without a call of export!.
(module
  ;;@memory
  ;;@realloc
)
