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
FLAGS    = $(STRICT) -O1 -g -fno-omit-frame-pointer -fsanitize=$(SAN) -fno-sanitize-recover=all $(INC)
ENGINE  := $(wildcard native/core/*.c native/reactor/*.c)
HEADERS := $(wildcard native/*/*.h)
CTESTS  := $(patsubst native/tests/%.c,build/$(SAN)/%,$(wildcard native/tests/test_*.c))
FUZZ    := $(patsubst native/fuzz/%.c,build/$(SAN)/%,$(wildcard native/fuzz/fuzz_*.c))
STATE   ?= state
SEED    ?= 1
EVENTS  ?= 20000

.DEFAULT_GOAL := help
.PHONY: help run build test check ctest fuzz-smoke asan tsan sim e2e bench clean native-strict

help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.deps: pyproject.toml
	@test -n "$(PYTHON)" || { echo "needs Python 3.11, 3.12 or 3.13 (set PYTHON=...)"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -q --disable-pip-version-check "setuptools>=77" "cffi>=2.0" 2>/dev/null || $(PY) -m pip install "setuptools>=77" "cffi>=2.0"
	@$(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print("\n".join(p["dependencies"] + p["optional-dependencies"]["dev"]))' > $(VENV)/requirements.txt
	@$(PY) -m pip install -q --disable-pip-version-check -r $(VENV)/requirements.txt 2>$(VENV)/pip.log || { cat $(VENV)/pip.log; exit 1; }
	@touch $@

$(VENV)/.built: $(VENV)/.deps setup.py native/build_cffi.py $(ENGINE) $(HEADERS) $(wildcard native/launcher/*.c)
	@echo "building the engine and the launcher"
	@$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e . 2>$(VENV)/pip.log || { cat $(VENV)/pip.log; exit 1; }
	@$(PY) setup.py -q build_ext --inplace
	@touch $@

build: $(VENV)/.built ## build everything into .venv (command: .venv/bin/scheduler)

run: build ## build, start the service, deploy the sample function, invoke it, stay in the foreground
	@$(PY) -m scheduler.cli.quickstart --state-dir $(STATE)

native-strict: ## compile our C alone with every warning an error
	@mkdir -p build/strict
	@set -e; for f in $(ENGINE) $(filter-out native/launcher/zygote_module.c,$(wildcard native/launcher/*.c)); do \
		$(CC) $(STRICT) -O2 $(INC) -c $$f -o build/strict/$$(echo $$f | tr / _).o; done

check: build native-strict ## linters, types, strict warnings
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

ctest: $(CTESTS) ## C unit tests under sanitizers
	@set -e; for t in $^; do echo "$$t"; $$t; done

fuzz-smoke: $(FUZZ) ## fuzz targets over their corpus and a fixed seed
	@set -e; for t in $^; do echo "$$t"; $$t -seed 123; done

build/$(SAN)/test_%: native/tests/test_%.c $(ENGINE) $(HEADERS)
	@mkdir -p $(@D); $(CC) $(FLAGS) -o $@ $< $(ENGINE) -lpthread
build/$(SAN)/fuzz_%: native/fuzz/fuzz_%.c native/fuzz/replay.c $(ENGINE) $(HEADERS)
	@mkdir -p $(@D); $(CC) $(FLAGS) -o $@ $< native/fuzz/replay.c $(ENGINE) -lpthread

tsan: ## the rings under ThreadSanitizer
	@$(MAKE) --no-print-directory SAN=thread build/thread/test_mailbox
	@build/thread/test_mailbox

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
	@$(PY) -m bench.run

test: build ## all tests: C under sanitizers, fuzz smoke, TSan, linters, Python
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory ctest fuzz-smoke tsan
	@$(PY) -m pytest -q

clean: ## remove what was built (not the state)
	@rm -rf build dist $(VENV) *.egg-info scheduler/_native/*.so scheduler/_native/scheduler-launcher scheduler/runtime/*.so
