;; world: no-handler
;; Built with the SDK, but never calls `export!`.
(module
  ;;@memory
  ;;@realloc
)
