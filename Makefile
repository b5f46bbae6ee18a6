# Everything a newcomer needs; CI calls these same targets. `make help` lists them.
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Of tens of thousands of modules a few thousand are ever imported. Those are compiled then, and once: without that, each of a
# cluster's processes takes 10 s to start instead of 4.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt $(PIP_ARGS)

MODEL ?= embedserve/demo
PORT ?= 8000
REPLICAS ?= 1
GATEWAYS ?= 1
SERVE_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help prometheus redis setup setup-dev serve test check format demo-model bench roofline chaos eval fuzz load soak clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The pip that comes with Python 3.11 takes twice as long to choose versions.
$(VENV)/.base:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	@touch $@

# torch goes first and pinned: with it in place nothing else pulls a second build of it.
$(VENV)/.installed: $(VENV)/.base pyproject.toml constraints.txt
	$(PIP) torch==2.13.0
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	@touch $@

# Tests run the real Prometheus. Debian's and Ubuntu's package is only unpacked, so that it starts no service of its own.
$(VENV)/.prometheus: $(VENV)/.base
	@if ! { command -v prometheus && command -v promtool; } >/dev/null; then \
		command -v apt-get >/dev/null || { echo "Install Prometheus first: prometheus and promtool weren't found."; exit 1; }; \
		[ "$$(id -u)" != 0 ] || apt-get update -qq; \
		cd $(VENV) && apt-get download -qq prometheus && dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb; \
	fi
	@for name in prometheus promtool; do \
		ln -sf "$$(command -v $$name || echo $(CURDIR)/$(VENV)/prometheus/usr/bin/$$name)" $(BIN)/$$name; \
	done
	@touch $@

# And the real Redis. Its libraries come with the package, so that is installed; RUNLEVEL=1 keeps it from being started.
redis: ## install redis-server, which tests run, where it's missing
	@command -v redis-server >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "Install Redis first: redis-server wasn't found."; exit 1; }; \
		apt-get update -qq && RUNLEVEL=1 apt-get install -y -qq --no-install-recommends redis-server; \
	}

prometheus: $(VENV)/.prometheus ## put the real prometheus and promtool into .venv, which tests run
setup: $(VENV)/.installed ## install into .venv what serving needs
setup-dev: $(VENV)/.installed-dev ## install also what tests and benchmarks need

serve: setup ## serve MODEL (default: the demo checkpoint) on PORT, with REPLICAS and GATEWAYS; Ctrl-C stops all of it
	@exec $(BIN)/embedserve up --model '$(MODEL)' --port $(PORT) --replicas $(REPLICAS) --gateways $(GATEWAYS) $(SERVE_ARGS)

# With more threads the two processes' torch would wait for each other's cores, ten times as long as it computes.
test: setup-dev prometheus redis ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --durations 15 $(PYTEST_ARGS)

check: setup-dev ## lint, types, format, import law
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: setup-dev ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo-model: setup ## train the demo model again from serve_app/training/data (minutes; rewrites serve_app/engine/demo_model)
	$(BIN)/python -m serve_app.training

bench: setup-dev ## run the benchmarks and write loadtest/results/*.json (tens of minutes; wants an idle machine)
	$(BIN)/python -m loadtest.bench_engine --lengths 16 128 512 --seconds 4 --out loadtest/results/engine_short.json
	$(BIN)/python -m loadtest.bench_engine --case queries --out loadtest/results/engine_queries.json
	$(BIN)/python -m loadtest.bench_metrics --out loadtest/results/metrics.json
	$(BIN)/python -m loadtest.bench_keys --out loadtest/results/keys.json
	$(BIN)/python -m loadtest.bench_http --out loadtest/results/http.json
	$(BIN)/python -m loadtest.bench_scaling --out loadtest/results/scaling.json
	$(BIN)/python -m loadtest.bench_routing --out loadtest/results/routing.json
	$(BIN)/python -m loadtest.bench_routing --replicas 16 --tokens-per-second 10000 --rounds 3 --out loadtest/results/routing_16.json
	$(BIN)/python -m loadtest.bench_overload --out loadtest/results/overload.json
	$(BIN)/python -m loadtest.bench_overload --retries --times 3 --rounds 1 --out loadtest/results/overload_retries.json

ROOFLINE_DTYPES ?= all
roofline: setup-dev ## measure the engine in ROOFLINE_DTYPES (default: all that the device has) against all others and the device's ceilings; rewrites loadtest/ROOFLINE.md
	$(BIN)/python -m loadtest.bench_engine --dtypes $(ROOFLINE_DTYPES) --out loadtest/results/engine.json
	$(BIN)/python -m loadtest.profile_engine --dtypes $(ROOFLINE_DTYPES) --out loadtest/results/engine_profile.json
	$(BIN)/python -m loadtest.engine_roofline --measured loadtest/results/engine.json \
		--profile loadtest/results/engine_profile.json --into loadtest/ROOFLINE.md

chaos: setup-dev ## kill and pause parts of a cluster under load for CHAOS_MINUTES (default 10), every reply checked
	$(BIN)/python -m loadtest.chaos --minutes $(or $(CHAOS_MINUTES),10) --seed $(or $(CHAOS_SEED),1) --out loadtest/results/chaos.json

fuzz: setup-dev ## send FUZZ_INPUTS (default 50,000) bad requests to a service of its own; writes loadtest/results/fuzz.json
	$(BIN)/python -m loadtest.fuzz --inputs $(or $(FUZZ_INPUTS),50000) --seed $(or $(FUZZ_SEED),1) --out loadtest/results/fuzz.json

soak: setup-dev ## serve mixed traffic for SOAK_MINUTES (default 30) and watch for leaks; writes loadtest/results/soak.json
	$(BIN)/python -m loadtest.soak --minutes $(or $(SOAK_MINUTES),30) --out loadtest/results/soak.json

TARGETS ?= ours=http://127.0.0.1:$(PORT)
load: setup-dev ## load what runs on PORT, or TARGETS='NAME=URL ...' in turn, and write bench-report/report.html (LOAD_ARGS)
	$(BIN)/embedserve bench $(foreach target,$(TARGETS),--target '$(target)') $(LOAD_ARGS)

eval: setup-dev ## measure what runs on PORT, or TARGETS='NAME=WHAT ...', in all suites, and write eval-report/report.html (EVAL_ARGS)
	$(BIN)/embedserve eval $(foreach target,$(TARGETS),--target '$(target)') $(EVAL_ARGS)

clean: ## remove what make made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
