# `make run` starts a demonstration, `make test` runs all tests.
.PHONY: run test quick screenshots verify verify-plugins verify-openapi verify-dashboard verify-engine check deny bench bench-soak charts setup tools simulate

# The compilation target of plugins, which cargo does not install.
setup:
	@rustup target list --installed | grep -q wasm32-unknown-unknown || rustup target add wasm32-unknown-unknown

# Programs that some tests need to set a clock, to break a disk, to count instructions, to start a database server, and to open the dashboard in a browser.
# If make cannot install one, its tests fail and name it. Old lists of packages may name versions that no longer exist.
INSTALL := apt-get install -qq --yes faketime strace valgrind postgresql chromium chromium-driver
tools:
	@if ! ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || ! command -v strace >/dev/null || ! command -v valgrind >/dev/null || ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || ! command -v chromedriver >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then $(INSTALL) || { apt-get update -qq; $(INSTALL); }; fi; fi

# Runs the engine with the example plugins and a test receiver, and rebuilds plugins when they change.
run: setup
	@test -e "$${CARGO_TARGET_DIR:-target}/debug/innesco" || echo "The first build compiles the engine and the WebAssembly compiler in it: 5 to 15 minutes."
	@cargo run --package innesco -- dev

# Runs all tests: of rules, store, plugin host, SDK and example plugins, and of the real binary from outside, on both stores.
# A few tests mount a small disk or trace an engine. For an ordinary user, such a test uses a separate namespace (tests/it/namespace.rs).
test: setup tools
	@cargo test --workspace && STORE=postgres cargo test --package innesco --test it

# Runs quick tests for development: of the engine's rules and the real binary, only on SQLite.
quick: setup tools
	@cargo test --package innesco --lib --test it

# Takes pictures of every page of the dashboard, light, dark and as a phone shows it: `make screenshots SCREENSHOTS=/tmp/pictures`.
PICTURES := $(abspath $(or $(SCREENSHOTS),target/screenshots))
screenshots: setup tools
	SCREENSHOTS=$(PICTURES) cargo test --quiet --package innesco --test it -- --ignored dashboard::screenshots
	cp $(PICTURES)/event-readme-light.png docs/dashboard-event.png
	cp $(PICTURES)/now-readme-dark.png docs/dashboard-now.png

# Verifies the engine with other libraries: sources receive webhooks that their senders' libraries sign, and the receivers' libraries
# verify real GitHub payloads that the engine delivers. Then schemathesis sends requests that the OpenAPI document
# allows and forbids (`make verify-openapi SEED=… MAX_EXAMPLES=…` for that alone), and axe-core looks at every page of the
# dashboard. Needs node, npm and python3. Builds the engine with the targets of `make test`: other targets would select other features
# of the dependencies, and compile all dependencies again.
verify: verify-engine
	cd tests/verify && npm ci --silent --no-audit --no-fund
	cd tests/verify && python3 -m venv .venv && .venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	target="$${CARGO_TARGET_DIR:-target}"; node tests/verify/sources.mjs "$$target/debug/innesco"
	target="$${CARGO_TARGET_DIR:-target}"; node tests/verify/verify.mjs "$$target/debug/innesco" "$$target/wasm32-unknown-unknown/release/slack_notify.wasm"
	$(MAKE) verify-openapi
	$(MAKE) verify-dashboard

# Builds the plugins in JavaScript and Python from source, and runs them in the engine. This takes minutes with a debug build on a
# busy machine, so it is not part of `make verify`.
verify-plugins: verify-engine
	cd plugins/js-orders && npm ci --silent --no-audit --no-fund
	cd tests/verify && python3 -m venv .venv && .venv/bin/pip install --quiet --disable-pip-version-check --requirement ../../plugins/py-orders/requirements.txt
	target="$${CARGO_TARGET_DIR:-target}"; node tests/verify/plugins.mjs "$$target/debug/innesco" "$$target/wasm32-unknown-unknown/release/order_router.wasm"

verify-openapi: verify-engine
	cd tests/verify && python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check --requirement schemathesis.txt
	target="$${CARGO_TARGET_DIR:-target}"; tests/verify/venv/bin/python tests/verify/openapi.py "$$target/debug/innesco" "$$target/wasm32-unknown-unknown/release/slack_notify.wasm"

# Checks every page in a browser: axe-core finds what is unusable for people with low vision, a keyboard or a screen reader.
verify-dashboard: verify-engine tools
	cd tests/verify && npm ci --silent --no-audit --no-fund
	AXE=$(CURDIR)/tests/verify/node_modules/axe-core/axe.min.js cargo test --quiet --workspace --test it -- --ignored dashboard_axe

verify-engine: setup
	cargo test --workspace --test it --no-run
	cargo build --release --target wasm32-unknown-unknown --package slack-notify --package order-router

# Checks to pass before a review. Licences, banned crates and the origin of crates are checked without a network, advisories only
# if their database can be fetched.
check: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	$(MAKE) deny

CARGO_DENY := 0.20.2
deny:
	@cargo deny --version 2>/dev/null | grep -qx "cargo-deny $(CARGO_DENY)" || cargo install --quiet --locked cargo-deny@$(CARGO_DENY)
	cargo deny --log-level error check --hide-inclusion-graph licenses bans sources
	@if cargo deny --log-level off fetch db >/dev/null 2>&1; then cargo deny --log-level error check --hide-inclusion-graph advisories; \
		else echo "the advisory database cannot be fetched from here: advisories are not checked" >&2; fi

# Compares the engine with minimal programs, in one run: docs/bench.md. `make bench ONLY="relay accept"` runs only these scenarios;
# BENCH_DIR chooses the disk.
bench: setup
	cargo bench --package innesco --bench relay -- $(ONLY)

# Draws charts (SVG) from the JSON file that a run of `make bench` wrote: `make charts RESULTS=bench.json CHARTS=pictures`.
charts: setup
	cargo bench --quiet --package innesco --bench relay -- charts $(abspath $(RESULTS)) $(abspath $(or $(CHARTS),.))

# Runs half of the peak rate for a given time, with a dead receiver among healthy ones: shows whether memory or latency grows.
bench-soak: setup
	cargo bench --package innesco --bench relay -- soak $(or $(MINUTES),10)

# Simulates nodes, leases, crashes and clocks on virtual time, with the engine's rules: `make simulate RUNS=5000`.
# `make simulate SEED=…` repeats one run.
simulate: setup
	RUNS=$(or $(RUNS),2000) $(if $(SEED),SEED=$(SEED)) cargo test --quiet --package innesco --lib -- store::postgres::simulation --nocapture
