# Everything a newcomer or a machine needs: `make run` to see it work, `make test` to prove it.
.PHONY: run test check bench setup

# What cargo does not bring: the target that plugins are compiled to.
setup:
	@rustup target list --installed | grep -q wasm32-unknown-unknown || rustup target add wasm32-unknown-unknown

# The engine with the example plugins, a receiver, and everything rebuilt when it changes.
run: setup
	@cargo run --quiet --package innesco -- dev

# All tests: rules, store, plugin host, the SDK, the example plugins, and the real binary from outside.
test: setup
	cargo test --workspace

# What a reviewer would say first.
check: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
