# Each target's help stands behind its name; `make` alone prints it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PARITY := .venv-parity
ARGS ?=
# A third of a run is waiting for agents and sockets: two workers for each processor.
WORKERS ?= $(shell expr 2 '*' $$(getconf _NPROCESSORS_ONLN))

.DEFAULT_GOAL := help
.PHONY: help run test check house format deep lab bench parity soak docs clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "steadytok needs Python 3.11 or newer; this is: $$($(PYTHON) --version 2>&1)."; \
	  echo "On Debian and Ubuntu:  sudo apt install python3.11 python3.11-venv && make $(MAKECMDGOALS) PYTHON=python3.11"; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "venv failed; on Debian and Ubuntu:  sudo apt install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.run: $(VENV)/.python pyproject.toml
	@echo "Installing into $(VENV): half a minute the first time."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[tui]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run pyproject.toml
	@echo "Installing what the checks need."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[tui,models,int8,dev,docs]'
	@touch $@

run: $(VENV)/.run ## Watch this host: canary, live table, page and /metrics on 127.0.0.1:9817
	@$(BIN)/steadytok run $(ARGS)

test: $(VENV)/.dev ## Run the tests that need no root and no other program (under 3 minutes on two cores)
	$(BIN)/python -m pytest -m 'not deep and not lab' --ignore tests/deep --ignore tests/lab -p no:schemathesis -q -n $(WORKERS) --dist loadfile $(ARGS)

check: $(VENV)/.dev ## Format, lint, types: what CI asks of every change
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py tests/test_doors.py tests/test_names.py

house: $(VENV)/.dev ## Print how the code is cut: rooms, floors, arrows, arrows up, circles
	@$(BIN)/python tests/structure.py

format: $(VENV)/.dev ## Put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

deep: $(VENV)/.dev ## Run the tests against real Prometheus, Alertmanager and promtool (under 12 minutes on two cores)
	$(BIN)/python -m pytest -m deep --hypothesis-profile=deep -q -n $(WORKERS) --dist loadfile $(ARGS)

# Both machines run at the same time, each in a process of its own (tests/lab/conftest.py).
lab: $(VENV)/.dev ## Run the tests in virtual machines of two NUMA nodes: a real kernel, and a systemd of their own (under 15 minutes)
	$(BIN)/python -m pytest -m 'lab and not eight' -q -n 2 tests/lab $(ARGS)

bench: $(VENV)/.dev ## Measure against peers in one run, as ratios
	$(BIN)/python -m bench $(ARGS)

# PyPI's torch for Linux is a CUDA build of gigabytes: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu and
# TORCH=torch==2.13.0+cpu give the small one where the index at hand does not.
TORCH ?= torch==2.13.0
$(PARITY)/.made: pyproject.toml
	@$(PYTHON) -m venv $(PARITY)
	@echo "Installing PyTorch and transformers into $(PARITY): minutes, once."
	@$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' 'transformers==5.24.0' -e '.[models]'
	@touch $@

parity: $(PARITY)/.made ## Compare the engine's models with transformers; ARGS=--write makes the golden files again
	$(PARITY)/bin/python -m tests.engine.parity $(ARGS)

soak: $(VENV)/.dev ## Run the agent for an hour on a moving host, and print what grows
	$(BIN)/python -m bench.soak $(ARGS)

docs: $(VENV)/.dev ## Write what is generated (dashboards, references) and build the pages into build/site
	$(BIN)/python -m grafana
	$(BIN)/python -m docs
	$(BIN)/mkdocs build --strict --quiet

clean: ## Remove what make has made
	rm -rf $(VENV) $(PARITY) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
