# Everything happens in .venv; nothing is installed by hand and the system's Python is not touched.
PYTHON  ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
             $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,13))' 2>/dev/null && echo $$p && break; done)
VENV    := .venv
PY      := $(VENV)/bin/python
SAN     ?= address,undefined
CC      ?= gcc
STRICT  := -std=c11 -D_GNU_SOURCE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes \
           -Wmissing-prototypes -Wswitch-enum -Wvla -Werror
INC     := -Inative/include -Inative/core -Inative/reactor -Inative/launcher
# The one fence (shelf.c) is about memory shared with another process, of which TSan knows nothing.
# Sanitizers' extra branches make gcc see uninitialised values where there are none; native-strict still looks for them.
FLAGS    = $(STRICT) -Wno-maybe-uninitialized $(if $(findstring thread,$(SAN)),-Wno-tsan) -O1 -g -fno-omit-frame-pointer -fsanitize=$(SAN) -fno-sanitize-recover=all $(INC)
ENGINE  := $(wildcard native/core/*.c native/reactor/*.c)
HEADERS := $(wildcard native/*/*.h)
# One set of objects for each set of sanitizers, and a library of them, so that a test links what it uses.
OUT      = build/$(SAN)
OBJECTS  = $(patsubst native/%.c,$(OUT)/%.o,$(ENGINE))
CTESTS   = $(patsubst native/tests/%.c,$(OUT)/%,$(wildcard native/tests/test_*.c))
FUZZ     = $(patsubst native/fuzz/%.c,$(OUT)/%,$(filter-out native/fuzz/fuzz_canary.c,$(wildcard native/fuzz/fuzz_*.c)))
CANARY   = $(OUT)/fuzz_canary
# LIBFUZZER=1 CC=clang: targets for long runs, in a place of their own.
REPLAY   = $(if $(LIBFUZZER),,$(OUT)/fuzz/replay.o)
RUNS    ?= 10000
STATE   ?= state
ISOLATION ?= auto
JOBS    ?= $(shell nproc)
SEED    ?= 1
EVENTS  ?= 20000

.DEFAULT_GOAL := help
.PHONY: help run build test check ctest leaks fuzz fuzz-smoke asan tsan tsan-built sim e2e bench bench-core bench-rpc bench-sigv4 clean native-strict

help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 14

# What the service needs, and what its tests need beside: who only runs it need not wait for those.
DEPS = $(PY) -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print("\n".join(p["dependencies"] if sys.argv[1] == "run" else p["optional-dependencies"]["dev"]))'
install = $(PY) -m pip install -q --disable-pip-version-check -r $(1) 2>$(VENV)/pip.log || { cat $(VENV)/pip.log; exit 1; }

$(VENV)/.deps: pyproject.toml
	@test -n "$(PYTHON)" || { echo "needs Python 3.11, 3.12 or 3.13 (set PYTHON=...)"; exit 1; }
	@echo "installing the packages that the service needs into $(VENV) with $(PYTHON)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -q --disable-pip-version-check "setuptools>=77" "cffi>=2.0" 2>/dev/null || $(PY) -m pip install "setuptools>=77" "cffi>=2.0"
	@$(DEPS) run > $(VENV)/requirements.txt
	@$(call install,$(VENV)/requirements.txt)
	@touch $@

$(VENV)/.deps-dev: $(VENV)/.deps
	@echo "installing the packages that its tests need"
	@$(DEPS) dev > $(VENV)/requirements-dev.txt
	@$(call install,$(VENV)/requirements-dev.txt)
	@touch $@

$(VENV)/.built: $(VENV)/.deps setup.py native/build_cffi.py $(ENGINE) $(HEADERS) $(wildcard native/launcher/*.c)
	@echo "building the engine and the launcher"
	@$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e . 2>$(VENV)/pip.log || { cat $(VENV)/pip.log; exit 1; }
	@$(PY) setup.py -q build_ext --inplace
	@touch $@

build: $(VENV)/.built $(VENV)/.deps-dev ## build everything into .venv (command: .venv/bin/scheduler)

run: $(VENV)/.built ## build, start the service, deploy the sample function, invoke it, stay in the foreground
	@$(PY) -m scheduler.cli.quickstart --state-dir $(STATE) --isolation $(ISOLATION)

STRICT_OBJECTS := $(patsubst native/%.c,build/strict/%.o,$(ENGINE) \
                  $(filter-out native/launcher/zygote_module.c,$(wildcard native/launcher/*.c)))
native-strict: $(STRICT_OBJECTS) ## compile our C alone with every warning an error
build/strict/%.o: native/%.c
	@mkdir -p $(@D); $(CC) $(STRICT) -O2 -MMD -MP $(INC) -c $< -o $@

check: build native-strict ## linters, types, strict warnings
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

ctest: $(CTESTS) ## C unit tests under sanitizers
	@set -e; for t in $^; do echo "$$t"; $$t; done

leaks: build ## 10,000 sandboxes made and destroyed, then everything counted
	@SCHEDULER_TEST_SANDBOXES=10000 $(VENV)/bin/pytest -q tests/sandboxes/test_leaks.py

fuzz: $(FUZZ) $(CANARY) ## build the fuzz targets (LIBFUZZER=1 CC=clang SAN=fuzzer,address,undefined for long runs)

fuzz-smoke: $(FUZZ:%=%.smoke) $(CANARY).smoke ## fuzz targets over their corpus and a fixed seed; the canary has to be caught
# What a run costs differs: each target has a second or two.
RUNS_fuzz_channel ?= 1000
RUNS_fuzz_rpc     ?= 100000
RUNS_fuzz_api     ?= 1500
RUNS_fuzz_url     ?= 200000
RUNS_fuzz_http    ?= 200000
$(OUT)/fuzz_%.smoke: $(OUT)/fuzz_%
	@echo "$<"; $< -seed 123 -runs $(or $(RUNS_fuzz_$*),$(RUNS)) native/fuzz/corpus/fuzz_$*/*
$(CANARY).smoke: $(CANARY)
	@echo "$<"; rm -f $<.crash; \
	if $< -seed 123 -runs $(RUNS) native/fuzz/corpus/fuzz_canary/* >$<.log 2>&1 || ! test -s $<.crash; then \
		cat $<.log; echo "the planted bug was not found: these fuzz runs prove nothing"; exit 1; fi

# Kept, so that a second run compiles nothing.
.SECONDARY:
$(OUT)/%.o: native/%.c
	@mkdir -p $(@D); $(CC) $(FLAGS) -MMD -MP -c $< -o $@
# Written beside and moved, so that two makes at once do not read half a library.
$(OUT)/libengine.a: $(OBJECTS)
	@rm -f $@.$$$$; $(AR) rcs $@.$$$$ $^ && mv $@.$$$$ $@
$(OUT)/test_filter: LINK_test_filter = $(OUT)/launcher/filter.o $(OUT)/launcher/calls.o
$(OUT)/test_filter: $(OUT)/launcher/filter.o $(OUT)/launcher/calls.o
$(OUT)/test_%: $(OUT)/tests/test_%.o $(OUT)/libengine.a
	@$(CC) $(FLAGS) -o $@ $< $(OUT)/libengine.a -lpthread $(LINK_$(@F))
$(OUT)/fuzz_%: $(OUT)/fuzz/fuzz_%.o $(REPLAY) $(OUT)/libengine.a
	@$(CC) $(FLAGS) -o $@ $< $(REPLAY) $(OUT)/libengine.a -lpthread
# Its allocator calls are counted.
LINK_test_no_alloc = -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free
-include $(wildcard build/strict/*/*.d $(OUT)/*/*.d build/bench/*/*.d)

tsan-built:
	@$(MAKE) -s --no-print-directory SAN=thread build/thread/test_mailbox build/thread/test_threads
tsan: ## the rings, and the engine with all its threads, under ThreadSanitizer
	@$(MAKE) -s --no-print-directory tsan-built
	@build/thread/test_mailbox
	@build/thread/test_threads

bench-core: build/bench/bench_core ## speed of the core alone, on virtual time
	@$<
bench-rpc: build/bench/bench_rpc ## speed of the RPC reader
	@$<
bench-sigv4: build/bench/bench_sigv4 ## speed of the HTTP reader and of the check of a signature
	@$<
build/bench/%.o: native/%.c
	@mkdir -p $(@D); $(CC) $(STRICT) -O2 -MMD -MP $(INC) -c $< -o $@
build/bench/bench_%: build/bench/tests/bench_%.o $(patsubst native/%.c,build/bench/%.o,$(ENGINE))
	@$(CC) -O2 -o $@ $^ -lpthread

asan: build ## the Python tests of the engine against a sanitized engine
	@CFLAGS="-O1 -g -fsanitize=address,undefined -fno-omit-frame-pointer" LDFLAGS="-fsanitize=address,undefined" \
		$(PY) setup.py -q build --build-base build/py-asan
	@LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
		PYTHONPATH="$$(echo build/py-asan/lib*)" $(PY) -m pytest -q -p no:cacheprovider tests/model tests/engine

sim: build ## the simulator: make sim SEED=1 EVENTS=20000
	@$(PY) -m tests.sim --seed $(SEED) --events $(EVENTS)

e2e: build ## whole service, real sandboxes
	@$(PY) -m pytest tests/e2e tests/crash tests/security

bench: build ## every question, a table with verdicts, JSON in bench/results
	@$(PY) -m bench.run $(BENCH_ARGS)

test: build ## all tests: C under sanitizers, fuzz smoke, TSan, linters, Python
	@$(MAKE) --no-print-directory -j$(JOBS) build native-strict $(CTESTS) $(FUZZ) $(CANARY) tsan-built
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory ctest fuzz-smoke tsan
	@$(PY) -m pytest -q

clean: ## remove what was built (not the state)
	@rm -rf build dist $(VENV) *.egg-info scheduler/_native/*.so scheduler/_native/scheduler-launcher scheduler/runtime/*.so scheduler/runtime/_init scheduler/runtime/_shell
