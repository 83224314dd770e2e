# make demo    set everything up and watch a model learn live
# make test    run every test
# make help    the rest
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV := .venv
PYTHON := $(VENV)/bin/python
# A machine without uv gets one in a folder of its own; the system's Python stays as it is.
UV := $(shell command -v uv 2>/dev/null || echo .venv-uv/bin/uv)
BASE_PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
STAMP := $(VENV)/.installed
DEMO ?=
BENCH ?=
PYTEST ?=

.PHONY: help setup demo test unit bench check lock schemas compose-config clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP) ## make .venv with exactly what requirements.lock names (seconds when up to date)

demo: setup ## watch a model learn live; DEMO="--rate 100 --report r.json" passes options
	@$(VENV)/bin/ratchet demo $(DEMO)

test: setup ## run every test; RATCHET_TEST_SERVERS=containers|embedded chooses the servers
	$(PYTHON) -m pytest --numprocesses 2 --dist loadfile $(PYTEST)

unit: setup ## run the tests that need no server (seconds)
	$(PYTHON) -m pytest tests/unit $(PYTEST)

bench: setup ## measure Ratchet and its peers side by side, about 15 minutes; BENCH="--docs" writes docs/benchmarks.md
	$(VENV)/bin/ratchet bench all $(BENCH)

check: setup ## lint, types, import rules, lock and schemas in step
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PYTHON) -m pytest -q tests/unit/project tests/unit/schemas

lock: $(UV) ## resolve requirements.lock anew from pyproject.toml (needs the network)
	$(UV) pip compile --universal --python-version 3.11 --all-extras --generate-hashes --no-header --quiet \
		--output-file requirements.lock pyproject.toml

clean: ## remove what was built; the data in .data stays
	rm -rf $(VENV) .venv-uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info

.venv-uv/bin/uv:
	@test -n "$(BASE_PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found"; exit 1; }
	@echo "installing uv into .venv-uv"
	@$(BASE_PYTHON) -m venv .venv-uv
	@.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv

# The stamp is newer than what it was made from; it goes first, so that a half-done set-up is done again.
$(STAMP): requirements.lock pyproject.toml | $(UV)
	@test -n "$(BASE_PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found"; exit 1; }
	@echo "setting up $(VENV): about 3.5 GB of downloads the first time, most of it torch"
	@rm -f $(STAMP)
	@UV_PYTHON_DOWNLOADS=never $(UV) venv --quiet --allow-existing --python "$(BASE_PYTHON)" $(VENV)
	@# Says what it downloads and how long it took; the list of 175 packages stays away.
	@set -o pipefail; VIRTUAL_ENV=$(VENV) $(UV) pip sync --require-hashes requirements.lock 2>&1 \
		| awk '!/^ [-+~] / { print; fflush() }'
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --editable .
	@touch $(STAMP)
