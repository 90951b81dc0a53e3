# The front door. Each target installs what it needs, quickly when it is there already.
#
# RocksDB takes longer to build than everything else together. It is built once, as a static library in
# the cache folder, and every cargo command here links that one, whatever it builds and with which
# features. A cargo command typed by hand builds RocksDB anew unless it is told of the library in the
# same way: `make env` prints how.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules
.SUFFIXES:

# Outside the clone, so that every clone and every branch shares what was built once.
export CARGO_TARGET_DIR := $(abspath $(or $(HANDFAST_TARGET),$(HOME)/.cache/handfast/target))
CACHE := $(abspath $(CARGO_TARGET_DIR)/..)
DEBUG := $(CARGO_TARGET_DIR)/debug
PYTHON := $(CACHE)/handfast-python
# The librocksdb-sys that Cargo.lock names decides which RocksDB it is, so that a new one gets a folder of its own.
ROCKSDB_VERSION := $(shell awk '/^name = "librocksdb-sys"$$/ { getline; gsub(/"/, ""); print $$3 }' Cargo.lock)
export ROCKSDB_LIB_DIR := $(CACHE)/rocksdb-$(or $(ROCKSDB_VERSION),$(error Cargo.lock names no librocksdb-sys))
export ROCKSDB_STATIC := 1
ROCKSDB := $(ROCKSDB_LIB_DIR)/librocksdb.a
ROCKSDB_BUILD := $(CACHE)/rocksdb-build
REQUIREMENTS := tests/chaos/python/requirements.txt

# The skeleton is no product: the benchmark measures the others against it, and looks for it beside itself.
PRODUCT := handfast-coordinator handfast-participant handfast-cli handfast-bench
BINARIES := handfast-coordinator handfast-participant handfast handfast-skeleton

.PHONY: help run build test verify fix doc simulate fuzz mutants model bench env tools checkers

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "ARGS='…' is passed on: by run and bench to 'handfast', by test to 'cargo test', by mutants to its program."
	@echo "  make run ARGS=--help                      what the demo can be told"
	@echo "  make test ARGS='-- part_of_a_name'        the tests whose names have that part"
	@echo "  make test ARGS=--no-fail-fast             all of them, also after a failure"
	@echo "HANDFAST_TARGET=… moves the build folder ($(CARGO_TARGET_DIR)) and the cache around it."

run: build ## build, then show a whole system at work (handfast demo)
	bin/handfast demo $(ARGS)

# Replaced by renaming: a running server keeps the file that it was started from.
build: tools $(ROCKSDB) ## the programs, in bin/
	cargo build $(addprefix -p ,$(PRODUCT))
	@mkdir -p bin
	@for name in $(BINARIES); do \
		install -m 755 "$(DEBUG)/$$name" "bin/.$$name.new"; \
		mv -f "bin/.$$name.new" "bin/$$name"; \
	done

# The whole workspace at once: it turns on the crash points that the tests on real processes kill at.
# Those tests start the programs from HANDFAST_BIN_DIR, so the programs must be as new as the tests.
# One test counts instructions, with valgrind.
test: tools $(ROCKSDB) $(PYTHON)/ready ## every test
	@.ci/ensure valgrind
	cargo build --workspace --bins
	HANDFAST_BIN_DIR="$(DEBUG)" HANDFAST_PYTHON="$(PYTHON)/bin/python" cargo test --workspace $(ARGS)

# From the quickest to the slowest. Nothing is linked with RocksDB, so that it need not be there.
verify: tools checkers ## everything that only reads: format, lints, docs, tidiness, licences
	cargo fmt --all --check
	@cargo metadata --locked --format-version 1 >/dev/null || \
		{ echo "verify: Cargo.lock does not fit the Cargo.toml files: run 'cargo check' and commit it" >&2; exit 1; }
	cargo test --locked --quiet -p handfast-tidy
	@if command -v cargo-deny >/dev/null; then \
		echo "cargo deny check licenses bans sources"; \
		cargo deny --offline --all-features check --config .deny.toml licenses bans sources; \
	else \
		echo "verify: licences and sources not checked: cargo-deny is not installed (cargo install --locked cargo-deny)" >&2; \
	fi
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

fix: tools checkers ## put right what a tool can: format, simple lints
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

doc: tools ## the documentation of every crate
	cargo doc --workspace --no-deps
	@echo "open $(CARGO_TARGET_DIR)/doc/handfast_commit_core/index.html"

# One seed decides a world; worlds run side by side, one on each processor.
simulate: tools $(ROCKSDB) ## the production code in simulated worlds: SECONDS=60, or SEEDS=1000
	cargo run -p handfast-simulator -- $(if $(SEEDS),--seeds $(SEEDS),--seconds $(or $(SECONDS),60)) $(ARGS)

# libFuzzer comes with its crate and the coverage with the compiler, the stable one: no other toolchain is
# needed. The build is one of its own, as every crate in it is instrumented. What is found beyond the corpus
# in the tree is kept in the cache folder, and is where the next run goes on.
fuzz: tools $(ROCKSDB) ## coverage-guided fuzzing: SECONDS=60 for each target, TARGET=wire for one
	@tests/fuzz/guided.sh "$(CACHE)/fuzz" "$(or $(SECONDS),60)" $(TARGET)

# The tests are built once more, with every bug in them and none switched on.
mutants: tools $(ROCKSDB) ## every deliberate bug, and the test that catches it
	cargo run -p handfast-mutants -- $(ARGS)

# Nothing of it touches RocksDB, the network or the clock: the same states on every machine.
model: tools ## every schedule of small worlds, all configurations: a few minutes
	cargo run -p handfast-model -- $(or $(ARGS),full)

# The disk is that of the temporary folder: TMPDIR=… chooses another. What else runs meanwhile is measured, too.
bench: build ## throughput and latency beside the floors: a few minutes; ARGS=--quick for one, ARGS=--full for an hour
	bin/handfast bench --spawn $(ARGS)

env: ## what a shell needs for cargo by hand: eval "$(make env)"
	@printf "export %s='%s'\n" CARGO_TARGET_DIR '$(CARGO_TARGET_DIR)' ROCKSDB_LIB_DIR '$(ROCKSDB_LIB_DIR)' ROCKSDB_STATIC 1

tools:
	@.ci/ensure cargo compiler libclang

checkers:
	@.ci/ensure cargo-fmt cargo-clippy

# Beside the build cache, and made anew when the requirements change.
$(PYTHON)/ready: $(REQUIREMENTS)
	@.ci/ensure python
	python3 -m venv --clear "$(PYTHON)"
	"$(PYTHON)/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r $(REQUIREMENTS) || \
		{ echo "test: the Python packages of $(REQUIREMENTS) could not be installed; see pip's message above" >&2; exit 1; }
	@touch "$@"

# ROCKSDB_COMPILE goes over the two variables that say where the library is. It is moved into place whole:
# an interrupted build leaves none behind.
$(ROCKSDB):
	@.ci/ensure cargo compiler libclang
	@echo "building RocksDB $(ROCKSDB_VERSION) into $(@D): 10 to 20 minutes, once" >&2
	ROCKSDB_COMPILE=1 CARGO_TARGET_DIR="$(ROCKSDB_BUILD)" cargo build --locked -p librocksdb-sys
	@mkdir -p "$(@D)"
	cp "$$(ls -t "$(ROCKSDB_BUILD)"/debug/build/librocksdb-sys-*/out/librocksdb.a | head -n 1)" "$@.new"
	@mv -f "$@.new" "$@"
	@rm -rf "$(ROCKSDB_BUILD)"
