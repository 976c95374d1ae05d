# Everything a contributor or CI does with the project. Needs python3 >= 3.11 and make; `make help` lists the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
ARGS   ?=
# Tests mostly wait for servers and leases; those that load the machine share one of these
JOBS     ?= 4
SEEDS    ?= 1000
EXAMPLES ?= 500

# Where the code is; folders may be missing in a source distribution
CODE   := $(wildcard src tests benchmarks examples)

# pyright's node comes from a wheel; its wrapper need not ask a registry whether it is the newest
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo setup fmt lint types layers servers test conformance simulate endurance faults bench bench-peers docs check pins clean

help: ## list what can be made
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@printf '\n  ARGS="..." is handed on to pytest and to the benchmarks, as in: make test ARGS="-k retry -x"\n'

demo: $(VENV)/demo.stamp ## see it work: jobs, retries, a dead letter, a crash; under 30 seconds, needs no server
	$(BIN)/penstock demo

setup: $(VENV)/dev.stamp ## create .venv with everything development needs

fmt: setup ## format the code and mend what can be mended
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

lint: setup ## ruff, all rules, and its formatter
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: setup ## mypy --strict and pyright strict, over src and the user's view in tests/typing
	$(BIN)/mypy src $(wildcard tests/typing/*.py)
	$(BIN)/pyright --pythonpath $(BIN)/python

layers: setup ## who may import whom (import-linter)
	$(BIN)/lint-imports

servers: ## install the servers that tests start, where that is possible
	@[ -n "$$PENSTOCK_TEST_REDIS_URL" ] || .ci/ensure-package redis-server command -v redis-server
	@[ -n "$$PENSTOCK_TEST_POSTGRESQL_URL" ] || .ci/ensure-package postgresql sh -c 'ls /usr/lib/postgresql/*/bin/initdb'
	@[ -n "$$PENSTOCK_TEST_MYSQL_URL" ] || .ci/ensure-package mariadb-server sh -c 'command -v mariadbd || ls /usr/sbin/mariadbd'
	@[ -n "$$PENSTOCK_TEST_RABBITMQ_URL" ] || .ci/ensure-package rabbitmq-server test -x /usr/lib/rabbitmq/bin/rabbitmq-server
	@.ci/ensure-package ruby-sidekiq command -v sidekiq
	@[ -n "$$PENSTOCK_TEST_KAFKA_URL" ] || { .ci/ensure-package openjdk-17-jre-headless command -v java && \
	  .ci/ensure-package maven command -v mvn; }
	@[ -n "$$PENSTOCK_TEST_SQS_URL" ] || { .ci/ensure-package openjdk-17-jre-headless command -v java && \
	  .ci/ensure-package maven command -v mvn; }

test: setup servers ## all tests, against real servers, every snippet of the docs included
	$(BIN)/pytest -ra -n $(JOBS) --dist loadgroup $(ARGS)

conformance: setup servers ## only the conformance suite, against every broker
	$(BIN)/pytest -ra -n $(JOBS) --dist loadgroup tests/conformance $(ARGS)

simulate: setup ## live through many worlds from seeds; SEEDS=5000, or SEEDS=5000:6000, says which
	PENSTOCK_SEEDS=$(SEEDS) PENSTOCK_EXAMPLES=$(EXAMPLES) $(BIN)/pytest -ra -s --timeout 3600 \
	  tests/simulation/test_simulation.py tests/simulation/test_state_machine.py $(ARGS)

endurance: setup servers ## at full size: crashes (50 000 jobs), stops, long handlers (a minute), a million messages
	PENSTOCK_E2E_MESSAGES=1000000 PENSTOCK_E2E_JOBS=50000 PENSTOCK_E2E_LONG=60 PENSTOCK_E2E_ROUNDS=40 $(BIN)/pytest -ra -s --timeout 900 \
	  tests/end_to_end/test_crashes.py tests/end_to_end/test_stopping.py tests/end_to_end/test_long_handlers.py \
	  tests/end_to_end/test_volume.py $(ARGS)

faults: setup servers ## kill workers and servers, cut networks, 50 000 jobs each; renews the table in the docs
	PENSTOCK_FAULT_JOBS=$(or $(PENSTOCK_FAULT_JOBS),50000) PENSTOCK_FAULT_BLACKHOLE=$(or $(PENSTOCK_FAULT_BLACKHOLE),60) PENSTOCK_FAULT_SERVERS=all \
	  PENSTOCK_FAULT_RESULTS=docs/reference/faults.json $(BIN)/pytest -ra -s tests/faults $(ARGS)
	$(BIN)/python -m tests.docs.generate

bench: $(VENV)/dev.stamp servers ## measure, each figure beside a bare client's in the same run
	$(BIN)/python -m benchmarks.core $(ARGS)

bench-peers: $(VENV)/dev.stamp servers ## measure penstock beside Celery, RQ, Dramatiq, …: installs them below build/
	$(BIN)/python -m benchmarks.peers $(ARGS)

docs: setup servers ## run every snippet of README, docs and examples; check the generated tables
	$(BIN)/pytest -ra tests/docs $(ARGS)

check: lint types layers test ## all of it: what CI runs

pins: setup ## renew constraints/dev.txt from pyproject.toml
	$(PIP) install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --group dev \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate pyproject.toml -o constraints/dev.txt

clean: ## remove .venv and every cache
	rm -rf $(VENV) build dist .coverage htmlcov .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/base.stamp: constraints/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "penstock needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1)." \
	       "Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@.ci/ensure-package python3-venv $(PYTHON) -c 'import ensurepip, venv'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints/dev.txt pip hatchling editables
	@touch $@

$(VENV)/demo.stamp: $(VENV)/base.stamp pyproject.toml
	$(PIP) install --quiet --no-build-isolation -c constraints/dev.txt -e '.[sqlite]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/base.stamp pyproject.toml
	$(PIP) install --quiet --no-build-isolation -c constraints/dev.txt -e '.[all]' --group dev
	@touch $(VENV)/demo.stamp $@
