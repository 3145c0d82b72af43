# What people and CI run. Every target installs by apt what it lacks (as root) and says so.
#
#   make demo    two gateways in two network namespaces, ping and TCP through the tunnel, figures, clean-up
#   make quick   no root, minutes: units, vectors, properties and simulations in a reduced share, the style of the tree
#   make test    every test: units, vectors, models, loom, end to end in namespaces, a part of what costs much
#   make test-full  the same with all seeds, cases and interoperability tests
#   make soak    SECONDS=3600 everything at once: floods, an insider, rekeys, reloads, both planes killed, paths that change; what each cost
#   make test-soak  RUNS=10 times all tests beside a second load; can be interrupted and goes on where it was
#   make interop all interoperability tests: strongSwan of two releases, the ESP of a Linux kernel; writes docs/interop.md
#   make check   formatting, lints with warnings denied, licences and advisories
#   make build   the release binaries in target/release
#   make bench   the AEADs, the tunnel against plain veth and the peers that deploy/bench-peers.sh brings, then the parts (criterion)
#   make fuzz    every fuzz target for FUZZ_SECONDS each (default 60): the decoders, the engine, the configuration, packets
#   make mutants COUNT=300 small changes of what decides who gets what, drawn by SEED=1: does a test notice each? An hour; goes on where it was
#   make loom    only the rings of the channel under loom

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
# How much runs of what costs much: quick, part or full. This is the one place that says what each of them means.
ADIT_TEST ?= $(if $(filter quick,$(MAKECMDGOALS)),quick,$(if $(filter test-full,$(MAKECMDGOALS)),full,part))
export ADIT_TEST
ifeq ($(ADIT_TEST),quick)
export SIM_RUNS ?= 100
export PROPTEST_CASES ?= 32
else ifeq ($(ADIT_TEST),full)
export SIM_RUNS ?= 10000
export PROPTEST_CASES ?= 4096
export FUZZ_SECONDS ?= 20
endif
# Tests end to end wait more than they work; those that measure take turns all the same.
export RUST_TEST_THREADS ?= $(shell cores=$$(nproc); echo $$((cores > 4 ? cores : 4)))
# What went wrong is said in words; where in the code an error was made would come between them and the end of the log.
export RUST_LIB_BACKTRACE ?= 0
# What is built once, from nothing, is built sooner without what only a second build would use.
ifdef CI
export CARGO_INCREMENTAL ?= 0
endif
RUNS ?= 10
.PHONY: build demo quick test test-full soak test-soak interop check bench fuzz loom deny mutants

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
LOOM := $(CARGO) test --locked --release -p adit-channel --features loom --test loom
# What `make test` has beside all the rest: what waits more than it works, which is everything at once and then the machine with systemd,
# and after them what only works, for the rest waits as well: the random runs of the simulator.
SOAK := $(CARGO) test --locked --workspace --test soak -- --nocapture
MACHINE := services::
SIMULATOR := simulation::
# One test, because what it measures must not run beside others.
MATRIX := full::every_case_is_tried_and_the_page_tells_what_came_of_it
# The programs that the tests drive. By name, because the bench's own would cost half a minute, and no test runs it.
DRIVEN := --bin adit --bin adit-dataplane
# What failed in a log, each with the first lines of what it said.
WHY := awk 'function tell(n) { lines = n > lines ? n : lines } /^test .* FAILED$$/ { print } /^error(\[|: )/ { tell(10) } \
    /^---- .* stdout ----$$/ { tell(20) } /^(Error: |Caused by:)/ { tell(8) } lines-- > 0 { print substr($$0, 1, 400) }'
# Several commands of one recipe: each is told, and run whatever became of the one before.
RUN = run() { echo "+ $$*"; "$$@" || touch $(TARGET)/$@.failed; }
# How many tests a log tells of, and how long it has taken since the recipe began: tests=WHICH LOG.
TALLY := awk -v seconds=$$((SECONDS - started)) '/^test result:/ { passed += $$4; failed += $$6; ignored += $$8; binaries++ } \
    END { printf "%s: %d passed, %d failed, %d ignored in %d executables, %d min %d s\n", \
        tests, passed, failed, ignored, binaries, seconds / 60, seconds % 60 }'
# A copy of AWS-LC that happens to be installed must not change what is built.
export AWS_LC_SYS_USE_SYSTEM ?= 0

build:
	@deploy/install-deps.sh build
	$(CARGO) build --locked --release --workspace --bins

demo:
	@deploy/install-deps.sh demo
	echo "building the programs; from nothing that takes some minutes"
	$(CARGO) build --locked --release --workspace --bins
	deploy/demo.sh $(TARGET)/release

# The end-to-end tests drive the release binaries; the tests themselves are built with the dev profile, which is
# optimised enough and shares nothing that link-time optimisation would have to do twice.
# The summary comes last, and the log of all of it is in target/test.log.
test:
	@deploy/install-deps.sh test
	started=$$SECONDS
	mkdir -p $(TARGET)
	$(CARGO) build --locked --release --workspace $(DRIVEN)
	rm -f $(TARGET)/test.failed
	$(RUN)
	{
	    run $(CARGO) test --locked --workspace --doc
	    run $(LOOM)
	    export ADIT_BIN_DIR="$$(realpath $(TARGET)/release)"
	    {
	        run env ADIT_SOAK_SECONDS=300 $(SOAK)
	        run $(CARGO) test --locked --workspace --test e2e -- $(MACHINE)
	        run $(CARGO) test --locked --workspace --test ike -- $(SIMULATOR)
	    } >$(TARGET)/beside.log 2>&1 &
	    run env ADIT_TEST=part $(CARGO) test --locked --workspace --lib --bins --tests --no-fail-fast -- --skip $(MACHINE) --skip $(SIMULATOR)
	    wait
	    cat $(TARGET)/beside.log
	    if [ $(ADIT_TEST) = full ]; then run $(CARGO) test --locked -p adit-bench --test interop -- --exact --nocapture $(MATRIX); fi
	} 2>&1 | tee $(TARGET)/test.log
	$(TALLY) tests="all tests" $(TARGET)/test.log
	[ ! -e $(TARGET)/test.failed ] || { $(WHY) $(TARGET)/test.log; exit 1; }

test-full: test

# What needs neither namespaces nor another user. The executables by name: bench/tests/tidy/main.rs says why the others are not here.
QUICK := ring_model hostile both_sides aead_backends_agree aead_no_allocation offload_coalesce offload_split oversize policy log \
    vectors_esp vectors_wycheproof ike discovery nat links config config_any config_meaning numbers openapi cli explain survey ipsec \
    server client turn corpora tidy imports
quick:
	@deploy/install-deps.sh quick
	started=$$SECONDS
	mkdir -p $(TARGET)
	rm -f $(TARGET)/quick.failed
	$(RUN)
	{
	    run $(CARGO) test --locked --workspace --exclude adit-bench --lib --no-fail-fast -- --skip whoever_asks_for_short_slices --skip of_another_user
	    run $(CARGO) test --locked --workspace --no-fail-fast $(addprefix --test ,$(QUICK))
	} 2>&1 | tee $(TARGET)/quick.log
	$(TALLY) tests="quick tests" $(TARGET)/quick.log
	[ ! -e $(TARGET)/quick.failed ] || { $(WHY) $(TARGET)/quick.log; exit 1; }

# Five minutes of it are in `make test`.
soak:
	@deploy/install-deps.sh test
	$(CARGO) build --locked --release --workspace $(DRIVEN)
	export ADIT_BIN_DIR="$$(realpath $(TARGET)/release)" ADIT_SOAK_SECONDS=$(or $(SECONDS),3600)
	$(SOAK)

test-soak:
	@deploy/install-deps.sh test
	$(CARGO) build --locked --release --workspace $(DRIVEN)
	ADIT_BIN_DIR="$$(realpath $(TARGET)/release)" deploy/soak.sh $(RUNS)

interop:
	@deploy/install-deps.sh interop
	$(CARGO) build --locked --release --workspace $(DRIVEN)
	export ADIT_BIN_DIR="$$(realpath $(TARGET)/release)"
	failed=0
	$(CARGO) test --locked -p adit-bench --test interop || failed=1
	ADIT_TEST=full $(CARGO) test --locked -p adit-bench --test interop -- --exact --nocapture $(MATRIX) || failed=1
	exit $$failed

loom:
	@deploy/install-deps.sh build
	$(LOOM)

# With cargo-fuzz and a nightly toolchain, which it installs where it can; without them, random changes of the corpora on stable.
fuzz:
	@deploy/install-deps.sh fuzz
	deploy/fuzz.sh run

mutants:
	@deploy/install-deps.sh mutants
	deploy/mutants.py $(or $(COUNT),300) $(or $(SEED),1)

check: deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# Licences, sources and bans are decided by .deny.toml alone; advisories need RustSec's database from the network.
deny:
	@deploy/install-deps.sh build
	if ! $(CARGO) deny --version >/dev/null 2>&1; then
	    echo "installing cargo-deny, because it is missing (a few minutes on two cores, once)"
	    $(CARGO) install --quiet cargo-deny --locked
	fi
	if $(CARGO) deny fetch db >/dev/null 2>&1; then
	    $(CARGO) deny --locked check advisories licenses bans sources
	else
	    $(CARGO) deny --locked check licenses bans sources
	    echo "WARNING: advisories were NOT checked: RustSec's database could not be fetched (no network?)" >&2
	fi

bench:
	@deploy/install-deps.sh bench
	$(CARGO) build --locked --release --workspace --bins
	$(TARGET)/release/adit-bench crypto
	deploy/bench-peers.sh || echo "the peers are not complete; what is missing is said below" >&2
	$(TARGET)/release/adit-bench tunnel
	$(CARGO) bench --locked --workspace --benches
