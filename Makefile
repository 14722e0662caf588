# Everything a person or the CI runs. `make` alone explains itself.
# Needs Python 3.11+ and make; the rest is installed into .venv from uv.lock.

PYTHON ?= python3
BIN    := .venv/bin
STAMP  := .venv/.synced

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-13s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(STAMP) ## Make .venv and install exactly what uv.lock names

$(STAMP): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "SWOOSH needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv sync --quiet --locked
	@touch $@

.PHONY: demo
demo: $(STAMP) ## A real project on three nodes, from a git repository to a submission
	@$(BIN)/python -m chaos.demo

.PHONY: test
test: $(STAMP) ## The fast suite, under five minutes on two cores
	@$(BIN)/python -m pytest -n 2

.PHONY: test-system
test-system: $(STAMP) ## The slow suite: real processes, real disks, killed leaders
	@$(BIN)/python -m pytest -m system tests/system

FROM   ?= 0
SEEDS  ?= 300
NODES  ?= 3
RECORD ?=

.PHONY: sim
sim: $(STAMP) ## Whole nodes under seeded faults on virtual time (FROM= SEEDS= NODES=; RECORD=1 appends to the report)
	@$(BIN)/python -m chaos.simulation seeds --from $(FROM) --seeds $(SEEDS) --nodes $(NODES) $(if $(RECORD),--record)

.PHONY: sim-mutants
sim-mutants: $(STAMP) ## Does the simulation see planted bugs? (RECORD=1 writes the report anew)
	@$(BIN)/python -m chaos.simulation mutants $(if $(RECORD),--record)

TRANSITIONS ?= 100000

.PHONY: growth
growth: $(STAMP) ## Does a node grow with its history? (NODES= TRANSITIONS=; RECORD=1 appends to the report)
	@$(BIN)/python -m chaos.live.growth --nodes $(NODES) --transitions $(TRANSITIONS) $(if $(RECORD),--record)

EACH ?= 10

.PHONY: api-fuzz
api-fuzz: $(STAMP) ## Requests made up from the description of the API, to three nodes (EACH= SEED=; RECORD=1 appends)
	@$(BIN)/python -m chaos.live.fuzz --each $(EACH) $(if $(SEED),--seed $(SEED)) $(if $(RECORD),--record)

BEATS ?= 500

.PHONY: beats
beats: $(STAMP) ## Do real nodes keep the windows of a real broker? (BEATS=; RECORD=1 appends to the report)
	@$(BIN)/python -m chaos.live.beats --beats $(BEATS) $(if $(RECORD),--record)

FAULT ?= kill
TIMES ?= 10

.PHONY: failover
failover: $(STAMP) ## What do callers behind HAProxy notice? (FAULT=kill or restart, TIMES=; RECORD=1 appends to the report)
	@$(BIN)/python -m chaos.live.failover --fault $(FAULT) --times $(TIMES) $(if $(RECORD),--record)

.PHONY: deploy-check
deploy-check: $(STAMP) ## The files of deploy/, each through a checker that knows its language; says what was skipped
	@$(BIN)/python -m pytest -q -rs tests/deploy

.PHONY: check
check: $(STAMP) ## Style, types, import directions, dependencies
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

.PHONY: chaos
chaos: $(STAMP) ## PLAN=name: real nodes, real faults, a verdict; without a name, the plans (SEED=, OPTIONS=--keep)
	@$(BIN)/python -m chaos.live $(PLAN) $(if $(SEED),--seed $(SEED)) $(OPTIONS)

.PHONY: format
format: $(STAMP) ## Put the code into the form that `check` wants
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

.PHONY: scenarios
scenarios: $(STAMP) ## Write what the stories in tests/scenarios print anew; read the diff before you commit it
	@REWRITE=1 $(BIN)/python -m pytest -q tests/core/test_scenarios.py -k test_story

.PHONY: golden
golden: $(STAMP) ## Record the golden log of tests/replay anew; only for a new version of chart or reducer
	@$(BIN)/python -m tests.replay.record

.PHONY: bench-core
bench-core: $(STAMP) ## How many transitions a second the pure core decides, without disk or network
	@$(BIN)/python -m chaos.bench.core

.PHONY: bench
bench: $(STAMP) ## Throughput and latency of three real nodes
	@$(BIN)/python -m chaos.bench

.PHONY: docs
docs: $(STAMP) ## Write the generated pages anew (statechart, guards, facts, codes, settings, limits, openapi.json)
	@$(BIN)/python -m cluster.docs
	@$(BIN)/python -m docs.openapi_json

.PHONY: clean
clean: ## Remove caches and what runs left behind; keeps .venv
	@rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist data out
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
