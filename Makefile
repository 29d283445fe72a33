# Everything a newcomer or a machine needs: `make run` to see it work, `make test` to prove it.
.PHONY: run test verify verify-openapi check bench bench-soak setup tools simulate

# What cargo does not bring: the target that plugins are compiled to.
setup:
	@rustup target list --installed | grep -q wasm32-unknown-unknown || rustup target add wasm32-unknown-unknown

# What some tests set a clock and break a disk with, and the database server that others start for themselves; where this cannot
# install them, those tests say what is missing.
tools:
	@if ! ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || ! command -v strace >/dev/null || ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get install -qq --yes faketime strace postgresql; fi; fi

# The engine with the example plugins, a receiver, and everything rebuilt when it changes.
run: setup
	@cargo run --package innesco -- dev

# All tests: rules, store, plugin host, the SDK, the example plugins, and the real binary from outside, on either store.
# One of them mounts a small disk to fill it; that takes root, or a namespace in which one is.
test: setup tools
	@if [ "$$(id -u)" = 0 ]; then as=; else as="unshare --map-root-user --mount"; fi; \
		$$as cargo test --workspace && STORE=postgres $$as cargo test --package innesco --test it

# Webhooks signed by their senders' own libraries into sources; real GitHub payloads through the engine, verified by other people's
# libraries; then schemathesis sends what the OpenAPI document allows
# and what it forbids (`make verify-openapi SEED=… MAX_EXAMPLES=…` for that alone). Needs node, npm and python3.
verify: setup
	cargo build --package innesco
	cargo build --release --target wasm32-unknown-unknown --package slack-notify
	cd tests/verify && npm install --silent --no-audit --no-fund --no-package-lock
	target="$${CARGO_TARGET_DIR:-target}"; node tests/verify/sources.mjs "$$target/debug/innesco"
	target="$${CARGO_TARGET_DIR:-target}"; node tests/verify/verify.mjs "$$target/debug/innesco" "$$target/wasm32-unknown-unknown/release/slack_notify.wasm"
	$(MAKE) verify-openapi

verify-openapi: setup
	cargo build --package innesco
	cargo build --release --target wasm32-unknown-unknown --package slack-notify
	cd tests/verify && python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check --requirement schemathesis.txt
	target="$${CARGO_TARGET_DIR:-target}"; tests/verify/venv/bin/python tests/verify/openapi.py "$$target/debug/innesco" "$$target/wasm32-unknown-unknown/release/slack_notify.wasm"

# What a reviewer would say first.
check: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings

# The engine beside the least that anyone must do, in one run: docs/bench.md. `make bench ONLY="relay accept"` for a part of it;
# BENCH_DIR chooses the disk.
bench: setup
	cargo bench --quiet --package innesco --bench relay -- $(ONLY)

# Half of the peak for as long as asked, with a dead receiver among healthy ones: does anything grow?
bench-soak: setup
	cargo bench --quiet --package innesco --bench relay -- soak $(or $(MINUTES),10)

# Nodes, leases, crashes and clocks on virtual time, against the rules by which the engine decides: `make simulate RUNS=5000`, or
# `make simulate SEED=…` for one run again.
simulate: setup
	RUNS=$(or $(RUNS),2000) $(if $(SEED),SEED=$(SEED)) cargo test --quiet --package innesco --lib -- store::postgres::simulation --nocapture
