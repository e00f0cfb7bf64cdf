# Everything is built with --release, so that llama.cpp is compiled once (see Cargo.toml).

# Asked when a recipe runs, since setup may just have installed what it tells of.
CARGO  = env $$(scripts/setup.sh --env) cargo
TARGET = $(or $(CARGO_TARGET_DIR),target)
# Where tests tell what they could not look at.
SKIPPED = $(abspath $(TARGET))/skipped.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test python wheel lint dist doc book clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' Makefile

setup: ## install what the build needs, through the system's package manager
	@scripts/setup.sh

demo: setup ## build candor and let it do its whole job on the built-in model
	$(CARGO) build --release --locked --features program
	$(TARGET)/release/candor demo

test: setup ## build candor and run all tests, and name those that were skipped
	@mkdir -p $(TARGET) && rm -f $(SKIPPED)
	CANDOR_SKIPPED=$(SKIPPED) $(CARGO) test --release --locked
	@scripts/skipped.sh $(SKIPPED)

python: setup ## build the Python package, and run its tests and type checks
	scripts/test-python.sh

lint: setup ## check format and lints, as CI does
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets --locked -- -D warnings
	$(CARGO) clippy --release --features sight --locked -- -D warnings

dist: setup ## build a portable program, packed with completions and man pages, into target/dist
	scripts/dist.sh

wheel: setup ## build a portable wheel of the Python package into target/dist
	scripts/dist.sh --wheel

doc: setup ## build the documentation, warnings refused
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --no-deps --locked --features program

book: ## build the book into target/book (installs mdbook below target/tools if it is missing)
	scripts/book.sh $(TARGET)

clean: ## remove what was built, llama.cpp included
	cargo clean
